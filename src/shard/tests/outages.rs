//! The log fails for a while: what follows from that is made up for.
#![forbid(unsafe_code)]

use super::{
    limits::{far_client, near_client},
    message::Item,
    *,
};
use crate::{
    limits::STORE_RETRY_MS,
    store::{CursorKey, CursorKind, Failure, Log as _},
};

const TEAM: CursorKey<'static> =
    CursorKey { channel: "group/team", client: "alice", kind: CursorKind::Received { device: "phone" } };

impl Bench {
    fn store_fails(&mut self) {
        self.store.log().failure = Some(Failure::Unavailable("it was told to fail".to_owned()));
    }

    fn store_works(&mut self) {
        self.store.log().failure = None;
    }

    fn leave(&mut self, conn: ConnId, group: &str) -> Vec<Seen> {
        self.ask(conn, &Frame::Leave(body::Leave { group: group.to_owned() }))
    }
}

/// alice's phone in a group with two messages, as the store knows.
fn member() -> (Bench, ConnId, ConnId) {
    let mut bench = Bench::new(|_| {});
    let sender = bench.login("sender");
    bench.fill(sender, "group/team", 1..=2);
    let (alice, _) = bench.enroll("alice", "phone", 100, None);
    assert_eq!(bench.join(alice, "team", None).first(), Some(&Seen::Frame("JOIN_OK")));
    assert_eq!(bench.store.log().cursor(TEAM), Ok(Some(2)));
    (bench, sender, alice)
}

#[test]
fn a_cursor_is_forgotten_once_the_store_can() {
    let (mut bench, _, alice) = member();
    bench.store_fails();
    assert_eq!(bench.leave(alice, "team"), [Seen::Frame("LEAVE_OK")]);
    bench.input(Input::Eof { conn: alice });
    bench.advance(2 * STORE_RETRY_MS);
    bench.store_works();
    assert_eq!(bench.store.log().cursor(TEAM), Ok(Some(2)));
    bench.advance(STORE_RETRY_MS + 2);
    assert_eq!(bench.store.log().cursor(TEAM), Ok(None));
    assert_eq!(bench.shard.residue().catching_up, 0);
    assert!(bench.shard.handle_tick(bench.now).is_none_or(|at| at > bench.now.plus_ms(STORE_RETRY_MS)), "nobody is asked again");
}

#[test]
fn who_joins_again_is_a_stranger_though_the_store_forgets_late() {
    let (mut bench, sender, alice) = member();
    bench.store_fails();
    assert_eq!(bench.leave(alice, "team"), [Seen::Frame("LEAVE_OK")]);
    assert_eq!(bench.join(alice, "team", None), []);
    bench.advance(STORE_RETRY_MS + 2);
    // A member it is, without the store.
    assert_eq!(bench.take(alice), [Seen::Frame("JOIN_OK")]);
    bench.store_works();
    bench.fill(sender, "group/team", 3..=3);
    bench.advance(STORE_RETRY_MS + 2);
    let seen = bench.take(alice);
    assert_eq!(seen, [Seen::Cursors { received: 3, last: 3, unread: 3 }], "it begins with the messages from now on");
    assert_eq!(bench.store.log().cursor(TEAM), Ok(Some(3)), "and is remembered there");
    bench.fill(sender, "group/team", 4..=4);
    assert_eq!(bench.take(alice), [Seen::Durable(4)]);
}

#[test]
fn one_that_leaves_twice_is_forgotten_once() {
    let (mut bench, _, alice) = member();
    bench.store_stalls = true;
    assert_eq!(bench.leave(alice, "team"), [Seen::Frame("LEAVE_OK")]);
    for _ in 0..3 {
        assert_eq!(bench.join(alice, "team", None), []);
        assert_eq!(bench.leave(alice, "team"), [Seen::Frame("JOIN_OK"), Seen::Frame("LEAVE_OK")]);
    }
    bench.store_stalls = false;
    bench.turn();
    assert_eq!(bench.store.log().cursor(TEAM), Ok(None));
    assert_eq!((bench.take(alice), bench.shard.residue().catching_up), (vec![], 0));
}

#[test]
fn what_a_log_that_is_behind_refuses_may_be_sent_again_later() {
    let (mut bench, sender, alice) = member();
    bench.store.log().failure = Some(Failure::Behind);
    assert_eq!(bench.send_durable(sender, "group/team", 3, b"x"), [Seen::Refused(ErrorCode::Overloaded)]);
    let read = Frame::Read(body::Read { channel: "group/team".to_owned(), seq: 2 });
    assert_eq!(bench.ask(alice, &read), [Seen::Refused(ErrorCode::Overloaded)]);
    bench.store_works();
    bench.fill(sender, "group/team", 3..=3);
    assert_eq!(bench.take(alice), [Seen::Durable(3)]);
}

#[test]
fn one_channel_too_many_is_refused_and_the_others_go_on() {
    let mut bench = Bench::new(|_| {});
    bench.store = Service::new(Frail::new(Retention { channels: 1, ..RETENTION }));
    let sender = bench.login("sender");
    bench.fill(sender, "user/alice", 1..=1);
    assert_eq!(bench.send_durable(sender, "user/bob", 2, b"x"), [Seen::Refused(ErrorCode::StoreFull)]);
    let (alice, _) = bench.enroll("alice", "phone", 100, None);
    // A member it becomes, but the group's log cannot remember it.
    assert_eq!(bench.join(alice, "team", None), [Seen::Frame("JOIN_OK")]);
    bench.advance(3 * STORE_RETRY_MS);
    bench.fill(sender, "user/alice", 3..=3);
    assert_eq!(bench.take(alice), [Seen::Durable(2)]);
}

#[test]
fn as_many_joins_of_a_group_wait_for_the_store_as_are_counted() {
    let (mut bench, _, alice) = member();
    bench.store_stalls = true;
    for _ in 0..u8::MAX {
        assert_eq!(bench.join(alice, "other", None), []);
    }
    assert_eq!(bench.join(alice, "other", None), [Seen::Refused(ErrorCode::Overloaded)]);
    bench.store_stalls = false;
    bench.turn();
    let joined = bench.take(alice).into_iter().filter(|seen| *seen == Seen::Frame("JOIN_OK")).count();
    assert_eq!(joined, usize::from(u8::MAX), "each has its answer");
}

#[test]
fn a_cursor_that_finds_no_room_at_the_end_is_given_up_and_its_messages_come_again() {
    let (mut bench, sender, alice) = member();
    bench.fill(sender, "group/team", 3..=4);
    assert_eq!(bench.take(alice), [Seen::Durable(3), Seen::Durable(4)]);
    let received = Frame::Received(body::Received { channel: "group/team".to_owned(), seq: 4 });
    assert_eq!(bench.ask(alice, &received), []);
    bench.store_stalls = true;
    let mut id = 100;
    while bench.send_durable(sender, "user/bob", id, &[0; 60_000]).is_empty() {
        id += 1;
        assert!(id < 1_000, "no bound");
    }
    bench.input(Input::Eof { conn: alice });
    assert_eq!(bench.stats.cursors_given_up.get(), 1);
    bench.store_stalls = false;
    bench.turn();
    assert_eq!(bench.store.log().cursor(TEAM), Ok(Some(2)));
    let (alice, _) = bench.enroll("alice", "phone", 100, None);
    let seen = bench.join(alice, "team", None);
    assert_eq!(seen[1..], [Seen::Cursors { received: 2, last: 4, unread: 4 }, Seen::Durable(3), Seen::Durable(4)]);
}

#[test]
fn a_shard_that_cannot_be_sent_a_message_of_a_group_is_told_of_it_later() {
    let mut bench = Bench::new(|settings| settings.shards = 2);
    let (near, far) = (near_client(&bench), format!("user/{}", far_client(&bench)));
    let sender = bench.login(&near);
    let channel = format!("group/{near}");
    let mut batch = Batch::default();
    let group = batch.put(near.as_bytes());
    batch.items.push(Item::Subscribe { group, ticket: 0 });
    bench.input(Input::Posted { from: ShardId(1), message: Message::Batch(Box::new(batch)) });
    bench.refuse_posts = true;
    let mut id = 100;
    while bench.send(sender, &far, id, &[0; 60_000]).is_empty() {
        id += 1;
        assert!(id < 1_000, "the backlog grows without end");
    }
    bench.fill(sender, &channel, 1..=3);
    assert_eq!(bench.stats.tails_owed.get(), 3);
    bench.posted.clear();
    bench.refuse_posts = false;
    bench.turn();
    bench.advance(10);
    let tails = bench.posted.iter().flat_map(|batch| {
        let tail = |item: &Item| {
            if let Item::Tail { group, seq } = item { Some((batch.name(*group).to_owned(), *seq)) } else { None }
        };
        batch.items.iter().filter_map(tail).collect::<Vec<_>>()
    });
    assert_eq!(tails.collect::<Vec<_>>(), [(near.clone(), 3)], "of the newest, once");
    assert_eq!(bench.shard.residue().catching_up, 0);
}
