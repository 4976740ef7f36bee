//! Bytes in, bytes out.
#![forbid(unsafe_code)]

use std::{
    io::{ErrorKind, Read, Write},
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

use weir::io::{Chunk, Output};

use crate::{
    probe::{Behaviour, Note, Seen},
    rig::{A_WHILE, Driver, Options, Rig, connect, pattern, read},
};

pub(crate) const ECHO: Behaviour = Behaviour { stays: true, echoes: true, closes: true, congested: false, moves_to: None };
pub(crate) const STAY: Behaviour = Behaviour { stays: true, echoes: false, closes: false, congested: false, moves_to: None };
/// More than the kernel buffers on the way between two sockets.
pub(crate) const LARGE: usize = 12 * 1024 * 1024;

pub(crate) fn echoes_whole(driver: Driver) {
    let mut rig = Rig::single(driver, ECHO);
    let (mut client, _) = rig.client(0);
    for round in 1..50 {
        let message = pattern(round * 37);
        client.write_all(&message).expect("sends");
        assert_eq!(read(&mut client, message.len()), message);
    }
}

pub(crate) fn echoes_byte_by_byte(driver: Driver) {
    let mut rig = Rig::single(driver, ECHO);
    let (mut client, _) = rig.client(0);
    for byte in pattern(300) {
        client.write_all(&[byte]).expect("sends");
        assert_eq!(read(&mut client, 1), [byte]);
    }
}

pub(crate) fn echoes_many_small_writes_in_order(driver: Driver) {
    let mut rig = Rig::single(driver, ECHO);
    let (mut client, conn) = rig.client(0);
    let all = pattern(20_000);
    for piece in all.chunks(10) {
        client.write_all(piece).expect("sends");
    }
    assert!(read(&mut client, all.len()) == all, "the echo differs");
    let reports = rig.reactors[0].everything(A_WHILE);
    let sent = |seen: &Seen| matches!(seen, Seen::Sent { conn: to, .. } if *to == conn);
    let received = |seen: &Seen| matches!(seen, Seen::Received { conn: from, .. } if *from == conn);
    let sends = reports.iter().filter(|report| sent(&report.seen)).count();
    let receives = reports.iter().filter(|report| received(&report.seen)).count();
    assert!(sends <= receives, "{receives} pieces came and were sent in {sends} chunks: what waits must go as one");
}

pub(crate) fn sends_a_large_chunk_to_a_slow_reader(driver: Driver) {
    let mut rig = Rig::single(driver, STAY);
    let (mut client, conn) = rig.client(0);
    let all = pattern(LARGE);
    rig.send(0, conn, &all);
    rig.reactors[0].expect_silence();
    let mut got = Vec::new();
    for _ in 0..50 {
        got.extend(read(&mut client, 10_007));
        thread::sleep(Duration::from_millis(1));
    }
    got.extend(read(&mut client, LARGE - 50 * 10_007));
    assert!(got == all, "the bytes differ");
    rig.reactors[0].expect(Seen::Sent { conn, bytes: LARGE });
    rig.reactors[0].expect_silence();
    rig.send(0, conn, b"next");
    assert_eq!(read(&mut client, 4), b"next");
}

pub(crate) fn sends_one_shared_chunk_to_many(driver: Driver) {
    let mut rig = Rig::single(driver, STAY);
    let clients: Vec<_> = (0..20).map(|_| rig.client(0)).collect();
    let bytes = bytes::Bytes::from(pattern(100_000));
    let sends = clients.iter().map(|(_, conn)| Output::Send { conn: *conn, chunk: Chunk::Shared(bytes.clone()) });
    rig.tell(0, Note::DoAll(sends.collect()));
    for (mut client, _) in clients {
        assert!(read(&mut client, bytes.len()) == bytes, "the bytes differ");
    }
}

pub(crate) fn receives_and_sends_behind_a_half_close(driver: Driver) {
    let mut rig = Rig::single(driver, STAY);
    let (mut client, conn) = rig.client(0);
    let request = pattern(50_000);
    client.write_all(&request).expect("sends");
    client.shutdown(Shutdown::Write).expect("ends its direction");
    assert!(rig.reactors[0].received(conn, request.len()) == request, "the bytes differ");
    rig.reactors[0].expect(Seen::Eof { conn });
    rig.reactors[0].expect_silence();
    rig.send(0, conn, b"an answer");
    assert_eq!(read(&mut client, 9), b"an answer");
    rig.reactors[0].expect(Seen::Sent { conn, bytes: 9 });
}

pub(crate) fn holds_bytes_back_while_congested(driver: Driver) {
    let mut rig = Rig::single(driver, STAY);
    let (mut client, conn) = rig.client(0);
    rig.behave(0, Behaviour { congested: true, ..STAY });
    let all = pattern(4_000_000);
    let mut writer = client.try_clone().expect("a descriptor is free");
    let copy = all.clone();
    let writer = thread::spawn(move || writer.write_all(&copy).expect("sends, in the end"));
    rig.reactors[0].expect_silence();
    // Everything else goes on.
    rig.send(0, conn, b"out");
    rig.reactors[0].expect(Seen::Sent { conn, bytes: 3 });
    assert_eq!(read(&mut client, 3), b"out");
    let _other = rig.client(0);
    rig.reactors[0].expect_silence();
    rig.tell(0, Note::Behave(STAY));
    assert!(rig.reactors[0].received(conn, all.len()) == all, "the bytes differ");
    writer.join().expect("the writer ends");
}

pub(crate) fn delivers_held_bytes_when_a_tick_ends_the_congestion(driver: Driver) {
    let mut rig = Rig::single(driver, STAY);
    let (mut client, conn) = rig.client(0);
    rig.behave(0, Behaviour { congested: true, ..STAY });
    rig.tell(0, Note::TickIn(100_000));
    client.write_all(b"held").expect("sends");
    // The last input of this reactor is the tick: nothing but the end of the congestion can bring the bytes.
    rig.reactors[0].wait_for("the tick", |report| matches!(report.seen, Seen::Ticked { .. }).then_some(()));
    assert_eq!(rig.reactors[0].received(conn, 4), b"held");
}

pub(crate) fn serves_others_beside_a_flood(driver: Driver) {
    let mut rig = Rig::new(driver, Options { behaviour: ECHO, ..Options::default() });
    let addr = rig.reactors[0].addr;
    let (mut modest, _) = rig.client(0);
    let flood = thread::spawn(move || {
        let mut client = connect(addr);
        client.set_nonblocking(true).expect("may be set");
        let (bytes, mut buffer) = (pattern(256 * 1024), vec![0; 256 * 1024]);
        let end = Instant::now() + Duration::from_millis(300);
        let mut echoed = 0;
        while Instant::now() < end {
            for result in [client.write(&bytes), client.read(&mut buffer).inspect(|count| echoed += count)] {
                assert!(result.is_ok() || result.is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "the flood broke");
            }
        }
        echoed
    });
    let mut slowest = Duration::ZERO;
    while !flood.is_finished() {
        let start = Instant::now();
        modest.write_all(b"ping").expect("sends");
        assert_eq!(read(&mut modest, 4), b"ping");
        slowest = slowest.max(start.elapsed());
    }
    assert!(flood.join().expect("the flood ends") > 1_000_000, "the flood was none");
    assert!(slowest < Duration::from_millis(250), "an echo beside a flood took {slowest:?}");
}
