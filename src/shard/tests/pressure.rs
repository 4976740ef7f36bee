//! The classes of transient messages: which one is dropped when a device does not keep up.
#![forbid(unsafe_code)]

use super::*;
use crate::{limits::HELD_PUSHES_MAX, wire::body::DeliveryClass};

const REACHED: Seen = Seen::SendOk { reached: 1, dropped: 0 };

/// A sender, and a device that has something in flight and reads nothing.
fn deaf_device(bench: &mut Bench) -> (ConnId, ConnId) {
    let (alice, bob) = (bench.login("alice"), bench.login("bob"));
    bench.deafen(bob);
    assert_eq!(bench.send(alice, "user/bob", 0, b""), [REACHED]);
    (alice, bob)
}

fn send_class(bench: &mut Bench, conn: ConnId, class: DeliveryClass, id: u64, key: &str, payload: &[u8]) -> Vec<Seen> {
    let class = class as i32;
    let send = SendRef { channel: "user/bob", client_msg_id: id, class, payload, receipt: true, key, ..SendRef::default() };
    bench.ask(conn, &Frame::Send(send))
}

fn pushes(ids: impl IntoIterator<Item = u64>) -> Vec<Seen> {
    ids.into_iter().map(Seen::Push).collect()
}

#[test]
fn the_oldest_of_the_newest_class_gives_way() {
    let mut bench = Bench::new(|_| {});
    let (alice, bob) = deaf_device(&mut bench);
    let most = HELD_PUSHES_MAX as u64;
    for id in 1..=most + 3 {
        assert_eq!(send_class(&mut bench, alice, DeliveryClass::TransientNewest, id, "", b""), [REACHED]);
    }
    assert_eq!(bench.stats.dropped_oldest.get(), 3);
    bench.undeafen(bob);
    assert_eq!(bench.take(bob), pushes(std::iter::once(0).chain(4..=most + 3)));
    assert_eq!(bench.shard.residue().outbound_bytes, 0);
}

#[test]
fn a_later_message_of_the_same_key_replaces_the_one_that_waits() {
    let mut bench = Bench::new(|_| {});
    let (alice, bob) = deaf_device(&mut bench);
    for (id, key) in [(1, "a"), (2, "b"), (3, "a"), (4, ""), (5, "b"), (6, ""), (7, "c")] {
        assert_eq!(send_class(&mut bench, alice, DeliveryClass::TransientLatest, id, key, b""), [REACHED]);
    }
    assert_eq!(bench.stats.dropped_replaced.get(), 3);
    bench.undeafen(bob);
    assert_eq!(bench.take(bob), pushes([0, 3, 5, 6, 7]));
}

#[test]
fn the_same_key_of_another_channel_is_another_one() {
    let mut bench = Bench::new(|_| {});
    let (alice, bob) = deaf_device(&mut bench);
    bench.deaf.remove(&bob);
    for group in ["one", "two"] {
        let join = Frame::Join(body::Join { group: group.to_owned(), cursor: None });
        bench.ask(bob, &join);
    }
    bench.deafen(bob);
    for (id, channel) in [(1, "group/one"), (2, "group/two"), (3, "group/one"), (4, "user/bob")] {
        let class = DeliveryClass::TransientLatest as i32;
        bench.ask(alice, &Frame::Send(SendRef { channel, client_msg_id: id, class, key: "k", ..SendRef::default() }));
    }
    bench.undeafen(bob);
    let seen = bench.take(bob);
    assert!(seen.ends_with(&pushes([2, 3, 4])), "{seen:?}");
}

#[test]
fn who_keeps_up_gets_every_message_of_every_class() {
    let mut bench = Bench::new(|_| {});
    let (alice, bob) = (bench.login("alice"), bench.login("bob"));
    for id in 0..1_000 {
        let class = if id % 2 == 0 { DeliveryClass::TransientLatest } else { DeliveryClass::TransientNewest };
        assert_eq!(send_class(&mut bench, alice, class, id, "k", b""), [REACHED]);
    }
    assert_eq!(bench.take(bob), pushes(0..1_000));
    assert_eq!((bench.stats.dropped_oldest.get(), bench.stats.dropped_replaced.get()), (0, 0));
}

#[test]
fn what_gives_way_counts_in_both_budgets_and_is_told_when_there_is_no_room() {
    for shard_is_short in [false, true] {
        let mut bench = Bench::new(|settings| {
            if shard_is_short {
                settings.limits.outbound_bytes_per_shard = 1_000;
            } else {
                settings.limits.outbound_bytes_per_connection = 1_000;
            }
        });
        let (alice, bob) = deaf_device(&mut bench);
        for id in 1..4 {
            assert_eq!(bench.send(alice, "user/bob", id, &[0; 160]), [REACHED]);
        }
        let firm = bench.shard.residue().outbound_bytes;
        for id in 4..9 {
            assert_eq!(send_class(&mut bench, alice, DeliveryClass::TransientNewest, id, "", &[0; 100]), [REACHED]);
            assert!(bench.shard.residue().outbound_bytes <= 1_000);
        }
        let dropped = Seen::SendOk { reached: 0, dropped: 1 };
        let room = 1_000 - firm;
        assert_eq!(
            send_class(&mut bench, alice, DeliveryClass::TransientLatest, 9, "", &vec![0; room]),
            std::slice::from_ref(&dropped)
        );
        assert_eq!(bench.send(alice, "user/bob", 10, &vec![0; room]), [dropped]);
        let full = [bench.stats.dropped_connection_full.get(), bench.stats.dropped_shard_full.get()];
        assert_eq!(full, if shard_is_short { [0, 2] } else { [2, 0] });
        bench.undeafen(bob);
        let seen = bench.take(bob);
        assert!(seen.starts_with(&pushes([0, 1, 2, 3])) && seen.ends_with(&pushes([8])), "{seen:?}");
        assert_eq!(bench.shard.residue().outbound_bytes, 0);
    }
}

#[test]
fn no_push_of_a_group_comes_behind_its_leave_ok() {
    let mut bench = Bench::new(|_| {});
    let (alice, bob) = (bench.login("alice"), bench.login("bob"));
    bench.ask(bob, &Frame::Join(body::Join { group: "room".to_owned(), cursor: None }));
    bench.deafen(bob);
    for id in 0..300 {
        let class = DeliveryClass::TransientNewest as i32;
        let send = SendRef { channel: "group/room", client_msg_id: id, class, payload: &[0; 100], ..SendRef::default() };
        bench.ask(alice, &Frame::Send(send));
    }
    let seen = bench.ask(bob, &Frame::Leave(body::Leave { group: "room".to_owned() }));
    assert_eq!(seen, []);
    bench.undeafen(bob);
    let seen = bench.take(bob);
    assert_eq!(seen.last(), Some(&Seen::Frame("LEAVE_OK")));
    assert_eq!(seen.len(), HELD_PUSHES_MAX + 2);
}

#[test]
fn the_last_frame_comes_behind_what_was_held() {
    let mut bench = Bench::new(|_| {});
    let (alice, bob) = deaf_device(&mut bench);
    for id in 1..4 {
        send_class(&mut bench, alice, DeliveryClass::TransientNewest, id, "", b"");
    }
    bench.ask(bob, &Frame::SendOk(body::SendOk::default()));
    bench.undeafen(bob);
    let end = [Seen::Closing(ErrorCode::UnexpectedFrame), Seen::Finished];
    assert_eq!(bench.take(bob), [pushes(0..4), end.to_vec()].concat());
}

#[test]
fn a_device_that_never_reads_holds_little_and_is_ended_in_time() {
    let mut bench = Bench::new(|settings| settings.limits.outbound_bytes_per_connection = 100_000);
    let (alice, bob) = deaf_device(&mut bench);
    for id in 1..10_000 {
        let key = (id % 50).to_string();
        let class = if id % 3 == 0 { DeliveryClass::TransientNewest } else { DeliveryClass::TransientLatest };
        send_class(&mut bench, alice, class, id, &key, &[0; 1_000]);
        assert!(bench.shard.residue().outbound_bytes <= 100_000 / 4 + 100);
    }
    bench.advance(10_500);
    assert_eq!(bench.closed_with(ErrorCode::SlowConsumer), 1);
    bench.advance(3_000);
    assert_eq!(bench.shard.residue().outbound_bytes, 0);
    assert_eq!(bench.take(bob), [Seen::Closed]);
}
