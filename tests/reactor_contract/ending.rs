//! How connections end, and what becomes of their slots.

use std::{
    io::Write,
    net::{Shutdown, TcpStream},
    thread,
    time::Duration,
};

use socket2::SockRef;
use weir::{
    ids::ConnId,
    io::{Chunk, Output},
};

use crate::{
    probe::{Note, Seen},
    rig::{Driver, Options, Rig, connect, pattern, read, read_to_end},
    transfer::{ECHO, LARGE, STAY},
};

/// Ends a connection with a reset.
fn reset(client: TcpStream) {
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("an option can be set");
}

pub(crate) fn reports_a_reset_once_behind_the_last_bytes(driver: Driver) {
    let mut rig = Rig::single(driver, STAY);
    let (mut client, conn) = rig.client(0);
    client.write_all(b"last words").expect("sends");
    reset(client);
    assert_eq!(rig.reactors[0].received(conn, 10), b"last words");
    rig.reactors[0].expect(Seen::Broken { conn, errno: libc::ECONNRESET });
    rig.send(0, conn, b"too late");
    rig.reactors[0].expect_silence();
    rig.ask(0, Output::Close { conn });
    rig.reactors[0].expect(Seen::Closed { conn });
    rig.reactors[0].expect_silence();
}

pub(crate) fn reports_a_reset_that_a_send_finds(driver: Driver) {
    let mut rig = Rig::single(driver, STAY);
    let (client, conn) = rig.client(0);
    client.shutdown(Shutdown::Write).expect("ends its direction");
    rig.reactors[0].expect(Seen::Eof { conn });
    reset(client);
    // A driver may tell already; one that does not must when it sends.
    let reports = rig.reactors[0].everything(Duration::from_millis(30));
    if reports.is_empty() {
        rig.send(0, conn, b"anybody there?");
        rig.reactors[0].wait_for("Broken", |report| matches!(report.seen, Seen::Broken { .. }).then_some(()));
    } else {
        assert!(matches!(reports[..], [crate::probe::Report { seen: Seen::Broken { .. }, .. }]), "not only broken: {reports:?}");
    }
    rig.reactors[0].expect_silence();
}

pub(crate) fn closes_with_a_send_in_flight(driver: Driver) {
    let mut rig = Rig::single(driver, STAY);
    let (mut client, conn) = rig.client(0);
    rig.send(0, conn, &pattern(LARGE));
    client.write_all(b"not read any more").expect("sends");
    rig.reactors[0].received(conn, 17);
    rig.ask(0, Output::Close { conn });
    rig.reactors[0].expect(Seen::Closed { conn });
    rig.reactors[0].expect_silence();
    // The socket takes this one whole at once; the machine has closed before it can be told.
    let (_client, conn) = rig.client(0);
    let chunk = Chunk::Owned(b"short".to_vec());
    rig.tell(0, Note::DoAll(vec![Output::Send { conn, chunk }, Output::Close { conn }]));
    rig.reactors[0].expect(Seen::Closed { conn });
    rig.reactors[0].expect_silence();
}

pub(crate) fn finishes_and_still_receives(driver: Driver) {
    let mut rig = Rig::single(driver, STAY);
    let (mut client, conn) = rig.client(0);
    rig.send(0, conn, b"goodbye");
    rig.reactors[0].expect(Seen::Sent { conn, bytes: 7 });
    rig.ask(0, Output::Finish { conn });
    assert_eq!(read_to_end(&mut client), b"goodbye");
    client.write_all(b"and thanks").expect("sends");
    assert_eq!(rig.reactors[0].received(conn, 10), b"and thanks");
    drop(client);
    rig.reactors[0].expect(Seen::Eof { conn });
    rig.ask(0, Output::Close { conn });
    rig.reactors[0].expect(Seen::Closed { conn });
}

pub(crate) fn finishes_once_however_often_it_is_told(driver: Driver) {
    let mut rig = Rig::single(driver, STAY);
    for _ in 0..20 {
        let (mut client, conn) = rig.client(0);
        // One descriptor is shut and closed, and not the next one's that has its index.
        rig.tell(0, Note::DoAll(vec![Output::Finish { conn }, Output::Finish { conn }, Output::Close { conn }]));
        rig.reactors[0].expect(Seen::Closed { conn });
        assert_eq!(read_to_end(&mut client), b"");
    }
    rig.reactors[0].expect_silence();
}

pub(crate) fn gives_a_reused_slot_a_new_generation(driver: Driver) {
    let mut rig = Rig::new(driver, Options { slots: [1, 1], behaviour: STAY, ..Options::default() });
    let mut last = None;
    for _ in 0..100 {
        let (mut client, conn) = rig.client(0);
        if let Some(last) = last.replace(conn) {
            assert!(conn != last && conn.slot == last.slot, "{conn} follows {last} in a table of one");
        }
        // Bytes and an end that may arrive while the connection is closed: the checker fails on late events.
        client.write_all(&pattern(1_000)).expect("sends");
        drop(client);
        rig.ask(0, Output::Close { conn });
        rig.reactors[0].expect(Seen::Closed { conn });
    }
}

pub(crate) fn has_as_many_slots_as_connections_at_once(driver: Driver) {
    const AT_ONCE: usize = 8;
    let mut rig = Rig::new(driver, Options { slots: [1_024, 1_024], behaviour: STAY, ..Options::default() });
    let mut clients: Vec<(TcpStream, ConnId)> = Vec::new();
    for round in 0..60_u8 {
        while clients.len() < AT_ONCE {
            let (client, conn) = rig.client(0);
            let index = conn.slot as usize;
            assert!(index < AT_ONCE, "{conn} is one of {AT_ONCE} in round {round}: tables grow with each slot that is used");
            clients.push((client, conn));
        }
        // What is done to each is done to that one, whatever the driver's own numbers for it are by now.
        for (index, (client, conn)) in clients.iter_mut().enumerate() {
            let words = [round, index as u8, 1, 2, 3];
            client.write_all(&words).expect("sends");
            assert_eq!(rig.reactors[0].received(*conn, words.len()), words);
            rig.send(0, *conn, &words);
            assert_eq!(read(client, words.len()), words);
            rig.reactors[0].expect(Seen::Sent { conn: *conn, bytes: words.len() });
        }
        // Several in a row, and not those that came last.
        for (index, finishes) in [(5, false), (1, true), (3, false)] {
            let (mut client, conn) = clients.remove(index);
            if finishes {
                rig.ask(0, Output::Finish { conn });
                assert_eq!(read_to_end(&mut client), b"");
            }
            rig.ask(0, Output::Close { conn });
            rig.reactors[0].expect(Seen::Closed { conn });
        }
    }
}

pub(crate) fn survives_churn(driver: Driver) {
    const THREADS: usize = 4;
    const EACH: usize = 500;
    let mut rig = Rig::new(driver, Options { slots: [32, 32], behaviour: ECHO, ..Options::default() });
    let addr = rig.reactors[0].addr;
    let clients: Vec<_> = (0..THREADS)
        .map(|_| {
            thread::spawn(move || {
                for round in 0..EACH {
                    let mut client = connect(addr);
                    let message = pattern(1 + round % 100);
                    client.write_all(&message).expect("sends");
                    assert_eq!(read(&mut client, message.len()), message);
                }
            })
        })
        .collect();
    let mut closed = 0;
    rig.reactors[0].wait_for("2,000 Closed", |report| {
        closed += usize::from(matches!(report.seen, Seen::Closed { .. }));
        (closed == THREADS * EACH).then_some(())
    });
    clients.into_iter().for_each(|client| client.join().expect("every echo is right"));
    rig.reactors[0].expect_silence();
}
