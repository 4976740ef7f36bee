//! Messages of one group that come one after the other are given to its members together, and nobody can tell.
#![forbid(unsafe_code)]

use super::*;
use crate::limits::{CHUNK_BYTES_MAX, SHARE_BYTES_MIN};

fn join(bench: &mut Bench, conn: ConnId, group: &str) {
    bench.ask(conn, &Frame::Join(body::Join { group: group.to_owned(), cursor: None }));
}

/// A SEND without a receipt.
fn put(channel: &str, id: u64, payload: &[u8], include_sender: bool, out: &mut Vec<u8>) {
    let send = SendRef { channel, client_msg_id: id, payload, include_sender, ..SendRef::default() };
    encode(&Frame::Send(send), out);
}

fn pushes(ids: impl IntoIterator<Item = u64>) -> Vec<Seen> {
    ids.into_iter().map(Seen::Push).collect()
}

#[test]
fn each_connection_sees_what_it_would_have_seen_one_by_one() {
    let mut bench = Bench::new(|_| {});
    let (alice, bob, carol) = (bench.login("alice"), bench.login("bob"), bench.login("carol"));
    for (conn, group) in [(alice, "one"), (bob, "one"), (bob, "two"), (carol, "two")] {
        join(&mut bench, conn, group);
    }
    let mut bytes = Vec::new();
    let channels = [
        ("group/one", false),
        ("group/one", false),
        ("group/one", true),
        ("group/two", false),
        ("user/bob", false),
        ("group/two", false),
        ("group/none", false),
        ("group/two", true),
        ("group/one", true),
    ];
    for (id, (channel, include_sender)) in (1..).zip(channels) {
        put(channel, id, b"x", include_sender, &mut bytes);
    }
    encode(&Frame::Ping(body::Ping { sent_us: 1, rtt_us: 0 }), &mut bytes);
    put("group/one", 10, b"x", true, &mut bytes);
    bench.input(Input::Received { conn: alice, bytes: &bytes });
    assert_eq!(bench.take(bob), pushes([1, 2, 3, 4, 5, 6, 8, 9, 10]));
    assert_eq!(bench.take(carol), pushes([4, 6, 8]));
    assert_eq!(bench.take(alice), [pushes([3, 9]), vec![Seen::Frame("PONG")], pushes([10])].concat());
    assert_eq!(bench.stats.pushes.get(), 9 + 3 + 3);
}

#[test]
fn a_member_gets_what_came_before_it_left_and_nothing_from_before_it_joined() {
    let mut bench = Bench::new(|_| {});
    let (alice, bob) = (bench.login("alice"), bench.login("bob"));
    join(&mut bench, bob, "room");
    let mut bytes = Vec::new();
    put("group/room", 1, b"x", true, &mut bytes);
    encode(&Frame::Join(body::Join { group: "room".to_owned(), cursor: None }), &mut bytes);
    put("group/room", 2, b"x", true, &mut bytes);
    put("group/room", 3, b"x", true, &mut bytes);
    encode(&Frame::Leave(body::Leave { group: "room".to_owned() }), &mut bytes);
    put("group/room", 4, b"x", true, &mut bytes);
    bench.input(Input::Received { conn: alice, bytes: &bytes });
    assert_eq!(bench.take(alice), [vec![Seen::Frame("JOIN_OK")], pushes([2, 3]), vec![Seen::Frame("LEAVE_OK")]].concat());
    assert_eq!(bench.take(bob), pushes(1..=4));
}

#[test]
fn who_ends_its_connection_takes_its_last_words_along() {
    let mut bench = Bench::new(|_| {});
    let (alice, bob) = (bench.login("alice"), bench.login("bob"));
    join(&mut bench, alice, "room");
    join(&mut bench, bob, "room");
    let mut bytes = Vec::new();
    put("group/room", 1, b"x", true, &mut bytes);
    put("group/room", 2, b"x", true, &mut bytes);
    bytes.extend_from_slice(b"no frame at all");
    bench.input(Input::Received { conn: alice, bytes: &bytes });
    assert_eq!(bench.take(bob), pushes([1, 2]));
    let seen = bench.take(alice);
    assert!(seen.starts_with(&pushes([1, 2])) && seen[2..].contains(&Seen::Closing(ErrorCode::BadMagic)), "{seen:?}");
}

#[test]
fn large_runs_are_shared_and_larger_ones_are_several() {
    let mut bench = Bench::new(|settings| settings.limits.connections = 10);
    let (alice, bob, carol) = (bench.login("alice"), bench.login("bob"), bench.login("carol"));
    for conn in [bob, carol] {
        join(&mut bench, conn, "room");
    }
    // Together some chunks, one alone more than what is shared, and again small ones.
    let sizes = [vec![500; 3 * CHUNK_BYTES_MAX / 500], vec![SHARE_BYTES_MIN], vec![20; 10]].concat();
    let mut bytes = Vec::new();
    for (id, size) in (1..).zip(&sizes) {
        put("group/room", id, &vec![7; *size], true, &mut bytes);
    }
    bench.input(Input::Received { conn: alice, bytes: &bytes });
    for conn in [bob, carol] {
        assert_eq!(bench.take(conn), pushes(1..=sizes.len() as u64));
    }
    assert_eq!(bench.shard.residue().outbound_bytes, 0);
}

#[test]
fn of_a_run_that_does_not_fit_the_first_ones_do() {
    let mut bench = Bench::new(|settings| settings.limits.outbound_bytes_per_connection = 1_000);
    let (alice, bob, carol) = (bench.login("alice"), bench.login("bob"), bench.login("carol"));
    for conn in [bob, carol] {
        join(&mut bench, conn, "room");
    }
    bench.deafen(bob);
    let mut bytes = Vec::new();
    (1..=12).for_each(|id| put("group/room", id, &[0; 100], true, &mut bytes));
    bench.input(Input::Received { conn: alice, bytes: &bytes });
    let carols = bench.take(carol);
    bench.undeafen(bob);
    let bobs = bench.take(bob);
    let fit = bobs.len() as u64;
    assert!((5..12).contains(&fit), "{fit} of 12 PUSHes of 100 bytes and a little more in 1,000");
    assert_eq!((&bobs, &carols), (&pushes(1..=fit), &pushes(1..=fit)));
    assert_eq!(bench.stats.dropped_connection_full.get(), 2 * (12 - fit));
    assert_eq!(bench.stats.pushes.get(), 2 * fit);
}

#[test]
fn for_who_takes_batches_it_is_a_batch() {
    let mut bench = Bench::new(|_| {});
    let alice = bench.login("alice");
    let bob = bench.connect();
    let login = body::Login { client_id: "bob".to_owned(), batches: true, ..body::Login::default() };
    bench.ask(bob, &Frame::Login(login));
    join(&mut bench, bob, "room");
    let mut bytes = Vec::new();
    let count = (2 * SHARE_BYTES_MIN / 100) as u64;
    (1..=count).for_each(|id| put("group/room", id, &[0; 100], true, &mut bytes));
    bench.input(Input::Received { conn: alice, bytes: &bytes });
    assert_eq!(bench.take(bob), [vec![Seen::Frame("BATCH")], pushes(1..=count)].concat());
}
