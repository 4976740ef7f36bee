//! A move home that is refused, which takes a coincidence of microseconds on real sockets.
#![forbid(unsafe_code)]

use std::{net::Ipv4Addr, sync::Arc};

use super::*;
use crate::{
    ids::ShardId,
    io::{Input, Machine, Tick},
    stats::ShardStats,
    wire::{Decoded, decode, encode},
};

const CONN: ConnId = ConnId { slot: 3, generation: 7 };

/// The first of two shards, with an anonymous connection.
fn shard() -> Shard {
    let mut settings = crate::shard::tests::settings();
    settings.shards = 2;
    settings.timeouts.linger_ms = 1_000;
    settings.timeouts.write_ms = 1_000;
    let mut shard = Shard::new(settings, Arc::new(ShardStats::default()));
    shard.handle(Tick(0), Input::Accepted { conn: CONN, peer: Ipv4Addr::LOCALHOST.into() });
    shard
}

/// The LOGIN of a client whose home is the other shard.
fn login_elsewhere(shard: &Shard) -> Vec<u8> {
    let mut names = (0..).map(|number| format!("client-{number}"));
    let client_id = names.find(|name| !shard.is_me(shard.home(shard.keyed.name(name)))).expect("half of them");
    let mut bytes = Vec::new();
    encode(&Frame::Login(body::Login { client_id, ..body::Login::default() }), &mut bytes);
    bytes
}

/// The shard must ask for a move now, and for nothing else.
fn expect_move(shard: &mut Shard) -> Box<Arrival> {
    let output = shard.poll_output();
    let Some(Output::Move { conn: CONN, to: ShardId(1), message: Message::Arrival(arrival) }) = output else {
        panic!("expected a move, got {output:?}")
    };
    assert!(shard.poll_output().is_none() && shard.connections.count() == 0 && shard.inbound_bytes == 0);
    arrival
}

fn refuse_move(shard: &mut Shard, at: Tick, arrival: Box<Arrival>) {
    shard.handle(at, Input::MoveRefused { conn: CONN, message: Message::Arrival(arrival) });
}

#[test]
fn bytes_that_come_in_between_go_along() {
    let mut shard = shard();
    let login = login_elsewhere(&shard);
    shard.handle(Tick(1), Input::Received { conn: CONN, bytes: &[&login[..], b"behind"].concat() });
    let arrival = expect_move(&mut shard);
    let epoch = arrival.epoch;
    refuse_move(&mut shard, Tick(2), arrival);
    assert!(shard.poll_output().is_none(), "the bytes come first");
    shard.handle(Tick(3), Input::Received { conn: CONN, bytes: b" and more" });
    let arrival = expect_move(&mut shard);
    assert_eq!((&arrival.trailing[..], arrival.epoch), (&b"behind and more"[..], epoch));
    assert_eq!((shard.stats.moved_out.get(), shard.stats.moves_refused.get()), (1, 0));
}

#[test]
fn the_end_of_the_peers_direction_does_not_stop_it() {
    let mut shard = shard();
    let login = login_elsewhere(&shard);
    shard.handle(Tick(1), Input::Received { conn: CONN, bytes: &login });
    let arrival = expect_move(&mut shard);
    refuse_move(&mut shard, Tick(2), arrival);
    shard.handle(Tick(3), Input::Eof { conn: CONN });
    expect_move(&mut shard);
}

#[test]
fn a_home_without_room_is_asked_some_more_times_and_then_the_client_is_told() {
    let mut shard = shard();
    let login = login_elsewhere(&shard);
    shard.handle(Tick(1), Input::Received { conn: CONN, bytes: &[&login[..], b"behind"].concat() });
    let mut now = Tick(1);
    for _ in 0..MOVES_AGAIN_MAX {
        let arrival = expect_move(&mut shard);
        refuse_move(&mut shard, now, arrival);
        let next = shard.handle_tick(now).expect("it wants to try again");
        assert!(next > now && next <= now.plus_ms(200));
        now = next;
        shard.handle_tick(now);
    }
    let arrival = expect_move(&mut shard);
    refuse_move(&mut shard, now, arrival);
    let Some(Output::Send { conn: CONN, chunk }) = shard.poll_output() else { panic!("the client is told") };
    let Ok(Decoded::Frame { frame: Frame::Error(error), .. }) = decode(chunk.as_slice(), 65_536) else { panic!("by an ERROR") };
    assert_eq!((error.code, error.closing), (ErrorCode::TooManyConnections.number(), true));
    assert_eq!((shard.stats.moves_refused.get(), shard.inbound_bytes), (1, 0));
}
