//! Durable messages: the log, the devices that follow it, and what happens when they cannot.
#![forbid(unsafe_code)]

use super::*;
use crate::limits::{CURSOR_SAVE_MS, STORE_RETRY_MS};
use crate::store::{CursorKey, CursorKind, Log as _};

const DURABLE: i32 = body::DeliveryClass::Durable as i32;

impl Bench {
    /// A session of a device that takes part. Gives what it saw.
    pub(super) fn enroll(&mut self, client: &str, device: &str, window: u32, cursor: Option<u64>) -> (ConnId, Vec<Seen>) {
        let conn = self.connect();
        let login =
            body::Login { client_id: client.to_owned(), device_id: device.to_owned(), window, cursor, ..body::Login::default() };
        let seen = self.ask(conn, &Frame::Login(login));
        (conn, seen)
    }

    pub(super) fn send_durable(&mut self, conn: ConnId, channel: &str, client_msg_id: u64, payload: &[u8]) -> Vec<Seen> {
        let send = SendRef { channel, client_msg_id, payload, class: DURABLE, ..SendRef::default() };
        self.ask(conn, &Frame::Send(send))
    }

    fn received(&mut self, conn: ConnId, channel: &str, seq: u64) -> Vec<Seen> {
        self.ask(conn, &Frame::Received(body::Received { channel: channel.to_owned(), seq }))
    }

    pub(super) fn join(&mut self, conn: ConnId, group: &str, cursor: Option<u64>) -> Vec<Seen> {
        self.ask(conn, &Frame::Join(body::Join { group: group.to_owned(), cursor }))
    }

    /// So many messages to a channel; all are accepted.
    pub(super) fn fill(&mut self, conn: ConnId, channel: &str, ids: std::ops::RangeInclusive<u64>) {
        for id in ids {
            let seen = self.send_durable(conn, channel, id, b"x");
            assert!(matches!(seen[..], [Seen::Accepted { duplicate: false, .. }, ..]), "{seen:?}");
        }
    }
}

fn durable(seqs: std::ops::RangeInclusive<u64>) -> Vec<Seen> {
    seqs.map(Seen::Durable).collect()
}

fn cursors(received: u64, last: u64, unread: u64) -> Seen {
    Seen::Cursors { received, last, unread }
}

#[test]
fn an_inbox_waits_for_its_client_and_goes_on_live() {
    let mut bench = Bench::new(|_| {});
    let sender = bench.login("sender");
    bench.fill(sender, "user/alice", 1..=5);
    let (alice, seen) = bench.enroll("alice", "phone", 100, None);
    assert_eq!(seen[..2], [Seen::Frame("LOGIN_OK"), cursors(0, 5, 5)]);
    assert_eq!(seen[2..], durable(1..=5));
    assert_eq!(bench.send_durable(sender, "user/alice", 6, b"x"), [Seen::Accepted { id: 6, seq: 6, duplicate: false }]);
    assert_eq!(bench.take(alice), durable(6..=6));
    // A retry gets the first answer and is delivered to nobody.
    assert_eq!(bench.send_durable(sender, "user/alice", 6, b"x"), [Seen::Accepted { id: 6, seq: 6, duplicate: true }]);
    assert_eq!(bench.send_durable(sender, "user/alice", 6, b"other"), [Seen::Refused(ErrorCode::MessageIdReused)]);
    assert_eq!(bench.send_durable(sender, "user/alice", 0, b"x"), [Seen::Refused(ErrorCode::MessageIdMissing)]);
    assert_eq!(bench.take(alice), []);
}

#[test]
fn an_acknowledged_message_does_not_come_again() {
    let mut bench = Bench::new(|_| {});
    let sender = bench.login("sender");
    bench.fill(sender, "user/alice", 1..=5);
    let (alice, _) = bench.enroll("alice", "phone", 100, None);
    assert_eq!(bench.received(alice, "user/alice", 3), []);
    bench.advance(CURSOR_SAVE_MS + 1);
    assert_eq!(bench.received(alice, "user/alice", 4), []);
    // The second acknowledgement is saved as the connection ends.
    bench.input(Input::Eof { conn: alice });
    let (_, seen) = bench.enroll("alice", "phone", 100, None);
    assert_eq!(seen, [Seen::Frame("LOGIN_OK"), cursors(4, 5, 5), Seen::Durable(5)]);
    // Another device has a cursor of its own, and one that a client brings counts.
    let (_, seen) = bench.enroll("alice", "laptop", 100, None);
    assert_eq!(seen[2..], durable(1..=5));
    let (_, seen) = bench.enroll("alice", "tablet", 100, Some(2));
    assert_eq!(seen[2..], durable(3..=5));
    let (_, seen) = bench.enroll("alice", "watch", 100, Some(9));
    assert_eq!(seen, [Seen::Frame("LOGIN_OK"), Seen::Refused(ErrorCode::CursorAhead), cursors(5, 5, 5)]);
}

#[test]
fn a_window_bounds_what_is_on_its_way() {
    let mut bench = Bench::new(|_| {});
    let sender = bench.login("sender");
    let (alice, _) = bench.enroll("alice", "phone", 3, None);
    bench.fill(sender, "user/alice", 1..=10);
    assert_eq!(bench.take(alice), durable(1..=3));
    assert_eq!(bench.received(alice, "user/alice", 4), [Seen::Refused(ErrorCode::NotSent)]);
    assert_eq!(bench.received(alice, "user/alice", 2), durable(4..=5));
    assert_eq!(bench.received(alice, "user/alice", 2), []);
    assert_eq!(bench.received(alice, "user/alice", 5), durable(6..=8));
    assert_eq!(bench.received(alice, "user/alice", 8), durable(9..=10));
    assert_eq!(bench.received(alice, "user/bob", 1), [Seen::Refused(ErrorCode::UnknownChannel)]);
    assert_eq!(bench.received(alice, "group/none", 1), [Seen::Refused(ErrorCode::UnknownChannel)]);
    assert_eq!(bench.received(sender, "user/sender", 1), [Seen::Refused(ErrorCode::UnknownChannel)]);
    bench.fill(sender, "user/alice", 11..=11);
    assert_eq!(bench.take(alice), durable(11..=11));
}

#[test]
fn who_does_not_read_costs_its_budget_and_loses_nothing() {
    let mut bench = Bench::new(|settings| settings.limits.outbound_bytes_per_connection = 4_000);
    let sender = bench.login("sender");
    let (alice, _) = bench.enroll("alice", "phone", 10_000, None);
    bench.deafen(alice);
    for id in 1..=200 {
        bench.send_durable(sender, "user/alice", id, &[0; 100]);
    }
    assert!(bench.shard.residue().outbound_bytes <= 4_000);
    assert_eq!(bench.stats.fell_behind.get(), 1);
    bench.undeafen(alice);
    // Bytes that leave in a turn make room for the next one.
    for _ in 0..20 {
        bench.turn();
    }
    assert_eq!(bench.take(alice), durable(1..=200));
    bench.send_durable(sender, "user/alice", 201, &[0; 100]);
    assert_eq!(bench.take(alice), durable(201..=201), "live again");
}

#[test]
fn a_group_has_one_log_and_each_device_its_place_in_it() {
    let mut bench = Bench::new(|_| {});
    let (alice, _) = bench.enroll("alice", "phone", 100, None);
    let (bob, _) = bench.enroll("bob", "phone", 100, None);
    let plain = bench.login("plain");
    bench.fill(alice, "group/team", 1..=2);
    // Whoever joins for the first time begins now; a cursor reaches back.
    assert_eq!(bench.join(alice, "team", None), [Seen::Frame("JOIN_OK"), cursors(2, 2, 2)]);
    assert_eq!(bench.join(bob, "team", Some(0)), [Seen::Frame("JOIN_OK"), cursors(0, 2, 2), Seen::Durable(1), Seen::Durable(2)]);
    assert_eq!(bench.join(plain, "team", None), [Seen::Frame("JOIN_OK")]);
    bench.fill(bob, "group/team", 3..=3);
    // The sender sees its own message in its place.
    assert_eq!(bench.take(alice), durable(3..=3));
    bench.received(alice, "group/team", 3);
    bench.input(Input::Eof { conn: alice });
    bench.fill(bob, "group/team", 4..=5);
    let (alice, _) = bench.enroll("alice", "phone", 100, None);
    assert_eq!(bench.join(alice, "team", None), [Seen::Frame("JOIN_OK"), cursors(3, 5, 5), Seen::Durable(4), Seen::Durable(5)]);
    // Leaving forgets the place.
    assert_eq!(bench.ask(alice, &Frame::Leave(body::Leave { group: "team".to_owned() })), [Seen::Frame("LEAVE_OK")]);
    bench.fill(bob, "group/team", 6..=6);
    assert_eq!(bench.join(alice, "team", None), [Seen::Frame("JOIN_OK"), cursors(6, 6, 6)]);
    assert_eq!(bench.take(plain), [], "who takes no part gets no durable messages");
}

#[test]
fn a_member_that_joined_is_remembered_before_the_first_message() {
    let mut bench = Bench::new(|_| {});
    let sender = bench.login("sender");
    let (alice, _) = bench.enroll("alice", "phone", 100, None);
    bench.join(alice, "team", None);
    bench.input(Input::Eof { conn: alice });
    bench.fill(sender, "group/team", 1..=2);
    let (alice, _) = bench.enroll("alice", "phone", 100, None);
    assert_eq!(bench.join(alice, "team", None), [Seen::Frame("JOIN_OK"), cursors(0, 2, 2), Seen::Durable(1), Seen::Durable(2)]);
}

/// A crash behind CURSORS must not make it a stranger again, who would begin with the messages from then on.
#[test]
fn who_is_told_where_it_stands_is_remembered_already() {
    let mut bench = Bench::new(|_| {});
    let sender = bench.login("sender");
    bench.fill(sender, "group/team", 1..=2);
    let (alice, _) = bench.enroll("alice", "phone", 100, None);
    bench.store_stalls = true;
    assert_eq!(bench.join(alice, "team", None), []);
    let kind = CursorKind::Received { device: "phone" };
    let key = CursorKey { channel: "group/team", client: "alice", kind };
    let mut told = Vec::new();
    while told.last() != Some(&cursors(2, 2, 2)) {
        assert!(told.len() < 2, "{told:?}");
        bench.serve();
        told.extend(bench.take(alice));
        let is_told = told.contains(&cursors(2, 2, 2));
        assert!(!is_told || bench.store.log().cursor(key) == Ok(Some(2)), "it is told what the log does not hold");
    }
    assert_eq!(told, [Seen::Frame("JOIN_OK"), cursors(2, 2, 2)]);
}

#[test]
fn reading_is_told_to_all_devices_of_the_client() {
    let mut bench = Bench::new(|_| {});
    let sender = bench.login("sender");
    bench.fill(sender, "user/alice", 1..=4);
    let (phone, _) = bench.enroll("alice", "phone", 100, None);
    let (laptop, _) = bench.enroll("alice", "laptop", 100, None);
    let read = |seq| Frame::Read(body::Read { channel: "user/alice".to_owned(), seq });
    assert_eq!(bench.ask(phone, &read(3)), [cursors(0, 4, 1)]);
    assert_eq!(bench.take(laptop), [cursors(0, 4, 1)]);
    // Only forward, and never ahead of the messages.
    assert_eq!(bench.ask(phone, &read(2)), [cursors(0, 4, 1)]);
    assert_eq!(bench.take(laptop), []);
    assert_eq!(bench.ask(phone, &read(5)), [Seen::Refused(ErrorCode::CursorAhead)]);
    bench.input(Input::Eof { conn: phone });
    let (_, seen) = bench.enroll("alice", "phone", 100, Some(4));
    assert_eq!(seen, [Seen::Frame("LOGIN_OK"), cursors(4, 4, 1)]);
}

/// A device knows from its last connection what it has and what was read of it, and need not wait to say so.
#[test]
fn what_is_said_before_the_store_has_answered_counts() {
    let mut bench = Bench::new(|_| {});
    let sender = bench.login("sender");
    bench.fill(sender, "user/alice", 1..=5);
    bench.fill(sender, "group/team", 6..=8);
    let read = |channel: &str, seq| Frame::Read(body::Read { channel: channel.to_owned(), seq });
    bench.store_stalls = true;
    let (alice, seen) = bench.enroll("alice", "phone", 100, Some(3));
    assert_eq!(seen, [Seen::Frame("LOGIN_OK")]);
    for seq in [3, 2] {
        assert_eq!(bench.received(alice, "user/alice", seq), []);
        assert_eq!(bench.ask(alice, &read("user/alice", seq)), []);
    }
    assert_eq!(bench.join(alice, "team", Some(3)), []);
    assert_eq!(bench.received(alice, "group/team", 2), []);
    bench.store_stalls = false;
    bench.turn();
    let mut seen = bench.take(alice);
    let at = seen.iter().position(|seen| *seen == cursors(3, 5, 2)).expect("READ is answered");
    seen.remove(at);
    let team = [Seen::Frame("JOIN_OK"), cursors(3, 3, 3)];
    let (of_team, own): (Vec<Seen>, Vec<Seen>) = seen.into_iter().partition(|seen| team.contains(seen));
    assert_eq!((of_team, own), (team.to_vec(), [&[cursors(3, 5, 5)][..], &durable(4..=5)].concat()));
    assert_eq!(bench.received(alice, "user/alice", 5), []);
    bench.input(Input::Eof { conn: alice });
    let key = CursorKey { channel: "user/alice", client: "alice", kind: CursorKind::Received { device: "phone" } };
    assert_eq!(bench.store.log().cursor(key), Ok(Some(5)));
    // What cannot be true is refused, as it would be later.
    bench.store_stalls = true;
    let (alice, _) = bench.enroll("alice", "phone", 100, Some(4));
    assert_eq!(bench.received(alice, "user/alice", 5), []);
    assert_eq!(bench.ask(alice, &read("user/alice", u64::MAX)), []);
    bench.store_stalls = false;
    bench.turn();
    let refused = |code| Seen::Refused(code);
    assert_eq!(
        bench.take(alice),
        [cursors(4, 5, 2), refused(ErrorCode::NotSent), refused(ErrorCode::CursorAhead), Seen::Durable(5)]
    );
    // One that ends before the store has answered leaves nothing behind.
    bench.input(Input::Eof { conn: alice });
    bench.store_stalls = true;
    let (alice, _) = bench.enroll("alice", "phone", 100, None);
    assert_eq!(bench.received(alice, "user/alice", 1 << 40), []);
    bench.input(Input::Eof { conn: alice });
    bench.store_stalls = false;
    bench.turn();
    assert_eq!(bench.store.log().cursor(key), Ok(Some(5)));
}

#[test]
fn history_comes_in_pages() {
    let mut bench = Bench::new(|_| {});
    let sender = bench.login("sender");
    bench.fill(sender, "group/team", 1..=5);
    bench.fill(sender, "user/alice", 6..=6);
    let sync = |channel: &str, from, limit| Frame::Sync(body::Sync { channel: channel.to_owned(), from, limit });
    assert_eq!(bench.ask(sender, &sync("group/team", 2, 3)), [Seen::Page(vec![2, 3, 4], 5)]);
    assert_eq!(bench.ask(sender, &sync("group/team", 5, 200)), [Seen::Page(vec![5], 6)]);
    assert_eq!(bench.ask(sender, &sync("group/team", 99, 200)), [Seen::Page(vec![], 99)]);
    assert_eq!(bench.ask(sender, &sync("group/never", 1, 1)), [Seen::Page(vec![], 1)]);
    assert_eq!(bench.ask(sender, &sync("user/alice", 1, 1)), [Seen::Refused(ErrorCode::ReadForbidden)]);
    for (from, limit) in [(0, 1), (1, 0), (1, 201), (1, u32::MAX)] {
        assert_eq!(bench.ask(sender, &sync("group/team", from, limit)), [Seen::Refused(ErrorCode::BadRange)]);
    }
    assert_eq!(bench.ask(sender, &sync("nowhere", 1, 1)), [Seen::Refused(ErrorCode::BadChannel)]);
}

#[test]
fn what_retention_removed_is_announced() {
    let mut bench = Bench::new(|_| {});
    bench.store = Service::new(Frail::new(Retention { messages: 3, ..RETENTION }));
    let sender = bench.login("sender");
    let (alice, _) = bench.enroll("alice", "phone", 1, None);
    bench.fill(sender, "user/alice", 1..=10);
    assert_eq!(bench.take(alice), durable(1..=1));
    let gap = Seen::Gap { from: 2, to: 7, code: ErrorCode::Expired };
    assert_eq!(bench.received(alice, "user/alice", 1), [gap, Seen::Durable(8)]);
    assert_eq!(bench.received(alice, "user/alice", 8), durable(9..=9));
    // Who was never here is told like everybody else.
    let (_, seen) = bench.enroll("alice", "laptop", 100, None);
    let gap = Seen::Gap { from: 1, to: 7, code: ErrorCode::Expired };
    assert_eq!(seen[1..], [cursors(0, 10, 10), gap, Seen::Durable(8), Seen::Durable(9), Seen::Durable(10)]);
    let (_, seen) = bench.enroll("alice", "tablet", 100, Some(1));
    assert_eq!(seen[2], Seen::Gap { from: 2, to: 7, code: ErrorCode::Expired });
    assert_eq!(seen[3..], durable(8..=10));
}

#[test]
fn a_store_that_stalls_stops_nobody_and_its_backlog_is_bounded() {
    let mut bench = Bench::new(|_| {});
    let sender = bench.login("sender");
    let (bob, _) = bench.enroll("bob", "phone", 100, None);
    bench.store_stalls = true;
    let (alice, seen) = bench.enroll("alice", "phone", 100, None);
    assert_eq!(seen, [Seen::Frame("LOGIN_OK")], "LOGIN does not wait for the disk");
    assert_eq!(bench.send(sender, "user/alice", 1, b"x"), [Seen::SendOk { reached: 1, dropped: 0 }]);
    assert_eq!(bench.take(alice), [Seen::Push(1)]);
    let mut asked = 0;
    let refused = loop {
        asked += 1;
        let seen = bench.send_durable(sender, "user/alice", asked, &[0; 60_000]);
        if !seen.is_empty() {
            break seen;
        }
        assert!(asked < 1_000, "no bound");
    };
    assert_eq!(refused, [Seen::Refused(ErrorCode::Overloaded)]);
    // Nor can anything else make it grow: who asks is refused, who must be asked for waits.
    let backlog = bench.shard.residue().store_bytes;
    let read = Frame::Read(body::Read { channel: "user/bob".to_owned(), seq: 0 });
    let sync = Frame::Sync(body::Sync { channel: "group/team".to_owned(), from: 1, limit: 1 });
    for seen in [bench.join(alice, "team", None), bench.ask(bob, &read), bench.ask(alice, &sync)] {
        assert_eq!(seen, [Seen::Refused(ErrorCode::Overloaded)]);
    }
    let (late, seen) = bench.enroll("late", "phone", 100, None);
    assert_eq!(seen, [Seen::Frame("LOGIN_OK")]);
    bench.advance(2 * STORE_RETRY_MS);
    assert_eq!(bench.shard.residue().store_bytes, backlog);
    bench.store_stalls = false;
    bench.turn();
    bench.advance(2);
    assert_eq!(bench.take(late), [cursors(0, 0, 0)]);
    let accepted = bench.take(sender);
    assert_eq!(accepted.len() as u64, asked - 1, "what was not refused is accepted");
    let seen = bench.take(alice);
    assert_eq!(seen[1..], durable(1..=asked - 1)[..seen.len() - 1]);
}

#[test]
fn everything_is_given_back() {
    let mut bench = Bench::new(|_| {});
    let sender = bench.login("sender");
    let (alice, _) = bench.enroll("alice", "phone", 2, None);
    bench.join(alice, "team", None);
    bench.fill(sender, "user/alice", 1..=5);
    bench.fill(sender, "group/team", 6..=9);
    bench.received(alice, "user/alice", 1);
    bench.input(Input::Eof { conn: alice });
    bench.input(Input::Eof { conn: sender });
    bench.advance(STORE_RETRY_MS + 5_000);
    let residue = bench.shard.residue();
    assert_eq!((residue.devices, residue.catching_up, residue.store_bytes), (0, 0, 0), "{residue:?}");
}
