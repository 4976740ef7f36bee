//! Connections that move between two reactors.

use std::{io::Write, net::Shutdown, thread, time::Duration};

use weir::{ids::ShardId, io::Output};

use crate::{
    probe::{Behaviour, Note, Seen},
    rig::{Driver, Options, Rig, connect, pattern, read, read_to_end},
    transfer::ECHO,
};

/// Reactor 0 moves what it accepts to reactor 1, which echoes.
fn two(driver: Driver) -> Rig {
    let first = Some(Behaviour { moves_to: Some(ShardId(1)), ..Behaviour::default() });
    Rig::new(driver, Options { reactors: 2, behaviour: ECHO, first, ..Options::default() })
}

pub(crate) fn moves_with_the_bytes_that_came_behind(driver: Driver) {
    let mut rig = two(driver);
    let addr = rig.reactors[0].addr;
    // The clients write all the time while they move, in pieces of all sizes.
    let clients: Vec<_> = (0..20usize)
        .map(|index| {
            thread::spawn(move || {
                let mut client = connect(addr);
                let all = pattern(30_000);
                let mut rest = &all[..];
                let mut size = 1 + index * 7;
                while !rest.is_empty() {
                    let (piece, behind) = rest.split_at(size.min(rest.len()));
                    client.write_all(piece).expect("sends");
                    (rest, size) = (behind, 1 + size * 31 % 977);
                    if size % 5 == 0 {
                        thread::sleep(Duration::from_micros(100));
                    }
                }
                assert!(read(&mut client, all.len()) == all, "client {index}: the echo differs");
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().expect("every byte came back, in order"));
    let mut adopted = 0;
    rig.reactors[1].wait_for("20 Adopted", |report| {
        if let Seen::Adopted { from, bytes, .. } = &report.seen {
            assert_eq!(*from, ShardId(0));
            assert!(!bytes.is_empty(), "what was delivered before the move travels with it");
            adopted += 1;
        }
        (adopted == 20).then_some(())
    });
}

pub(crate) fn moves_among_connections_that_come_and_go(driver: Driver) {
    let rig = two(driver);
    let mut clients = Vec::new();
    for round in 0..60_u8 {
        while clients.len() < 8 {
            clients.push(connect(rig.reactors[0].addr));
        }
        for (index, client) in clients.iter_mut().enumerate() {
            let words = [round, index as u8, 1, 2, 3];
            client.write_all(&words).expect("sends");
            assert_eq!(read(client, words.len()), words);
        }
        // Several in a row, and not those that came last.
        [5, 1, 3].into_iter().for_each(|index| drop(clients.remove(index)));
    }
}

pub(crate) fn moves_a_connection_whose_peer_has_finished(driver: Driver) {
    let rig = two(driver);
    for round in 1..20 {
        let mut client = connect(rig.reactors[0].addr);
        let message = pattern(round * 500);
        client.write_all(&message).expect("sends");
        client.shutdown(Shutdown::Write).expect("ends its direction");
        assert!(read_to_end(&mut client) == message, "the echo differs");
    }
}

pub(crate) fn refuses_a_move_to_a_full_table(driver: Driver) {
    let mut rig = Rig::new(driver, Options { reactors: 2, slots: [64, 1], ..Options::default() });
    let (_resident, resident) = rig.client(1);
    let (mut client, conn) = rig.client(0);
    client.write_all(b"moves?").expect("sends");
    assert_eq!(rig.reactors[0].received(conn, 6), b"moves?");
    let to = ShardId(1);
    rig.ask(0, Output::Move { conn, to, message: Note::Bytes(b"moves?".to_vec()) });
    rig.reactors[0].expect(Seen::MoveRefused { conn, bytes: b"moves?".to_vec() });
    // It lives on where it is.
    client.write_all(b"still here").expect("sends");
    assert_eq!(rig.reactors[0].received(conn, 10), b"still here");
    // And it can try again.
    rig.ask(1, Output::Close { conn: resident });
    rig.reactors[1].expect(Seen::Closed { conn: resident });
    rig.ask(0, Output::Move { conn, to, message: Note::Bytes(b"now".to_vec()) });
    let adopted = rig.reactors[1].wait_for("Adopted", |report| match &report.seen {
        Seen::Adopted { conn, bytes, .. } if bytes == b"now" => Some(*conn),
        _ => None,
    });
    client.write_all(b"arrived").expect("sends");
    assert_eq!(rig.reactors[1].received(adopted, 7), b"arrived");
    rig.send(1, adopted, b"welcome");
    assert_eq!(read(&mut client, 7), b"welcome");
}
