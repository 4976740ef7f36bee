//! Each limit: what is refused or dropped, what is counted, and that it ends when the cause does.
#![forbid(unsafe_code)]

use super::*;

const PONG: Seen = Seen::Frame("PONG");

#[test]
fn too_many_frames_are_refused_and_who_goes_on_is_closed() {
    let mut bench = Bench::new(|settings| settings.rules = Arc::new(rules(5, 0)));
    let conn = bench.login("alice");
    for _ in 0..10 {
        assert_eq!(bench.ping(conn), [PONG], "two seconds' worth pass at once");
    }
    for _ in 0..10 {
        assert_eq!(bench.ping(conn), [Seen::Refused(ErrorCode::RateExceeded)]);
    }
    assert_eq!(bench.stats.refused.of(ErrorCode::RateExceeded).get(), 10);
    assert_eq!(bench.ping(conn), [Seen::Closing(ErrorCode::RateExceeded), Seen::Finished]);
    assert_eq!(bench.closed_with(ErrorCode::RateExceeded), 1);
}

#[test]
fn who_heeds_the_refusal_is_served_again() {
    let mut bench = Bench::new(|settings| settings.rules = Arc::new(rules(5, 0)));
    let conn = bench.login("alice");
    while bench.ping(conn) == [PONG] {}
    bench.advance(1_000);
    assert_eq!(bench.ping(conn), [PONG]);
}

#[test]
fn too_many_bytes_are_refused() {
    let mut bench = Bench::new(|settings| settings.rules = Arc::new(rules(0, 1_000)));
    let conn = bench.login("alice");
    assert_eq!(bench.send(conn, "user/bob", 1, &[0; 1_900]), [Seen::SendOk { reached: 0, dropped: 0 }]);
    assert_eq!(bench.send(conn, "user/bob", 2, &[0; 1_900]), [Seen::Refused(ErrorCode::RateExceeded)]);
    assert_eq!(bench.send(conn, "user/bob", 3, &[0; 1_900]), [Seen::Closing(ErrorCode::RateExceeded), Seen::Finished]);
}

#[test]
fn messages_beyond_a_connections_budget_are_dropped_and_told() {
    let mut bench = Bench::new(|settings| settings.limits.outbound_bytes_per_connection = 1_000);
    let (alice, bob) = (bench.login("alice"), bench.login("bob"));
    bench.deafen(bob);
    let answers: Vec<Seen> = (0..6).flat_map(|id| bench.send(alice, "user/bob", id, &[0; 200])).collect();
    let (reached, dropped) = (Seen::SendOk { reached: 1, dropped: 0 }, Seen::SendOk { reached: 0, dropped: 1 });
    assert_eq!(answers, [vec![reached.clone(); 4], vec![dropped; 2]].concat());
    assert_eq!(bench.stats.dropped_connection_full.get(), 2);
    bench.undeafen(bob);
    assert_eq!(bench.take(bob), [0, 1, 2, 3].map(Seen::Push));
    assert_eq!(bench.send(alice, "user/bob", 7, &[0; 200]), [reached]);
}

#[test]
fn messages_beyond_the_shards_budget_are_dropped_for_all() {
    let mut bench = Bench::new(|settings| settings.limits.outbound_bytes_per_shard = 1_000);
    let (alice, bob, carol) = (bench.login("alice"), bench.login("bob"), bench.login("carol"));
    bench.deafen(bob);
    for id in 0..4 {
        assert_eq!(bench.send(alice, "user/bob", id, &[0; 180]), [Seen::SendOk { reached: 1, dropped: 0 }]);
    }
    assert_eq!(bench.send(alice, "user/carol", 4, &[0; 180]), [Seen::SendOk { reached: 0, dropped: 1 }]);
    assert_eq!(bench.stats.dropped_shard_full.get(), 1);
    bench.undeafen(bob);
    assert_eq!(bench.send(alice, "user/carol", 5, &[0; 180]), [Seen::SendOk { reached: 1, dropped: 0 }]);
    assert_eq!(bench.take(carol), [Seen::Push(5)]);
}

#[test]
fn who_asks_and_never_reads_is_closed_at_twice_the_budget() {
    let mut bench = Bench::new(|settings| settings.limits.outbound_bytes_per_connection = 1_000);
    let conn = bench.login("alice");
    bench.deafen(conn);
    for _ in 0..200 {
        bench.ping(conn);
        assert!(bench.shard.residue().outbound_bytes < 2_500);
    }
    assert_eq!(bench.closed_with(ErrorCode::SlowConsumer), 1);
    bench.undeafen(conn);
    assert_eq!(bench.take(conn), [PONG, Seen::Closing(ErrorCode::SlowConsumer), Seen::Finished]);
}

#[test]
fn a_connection_joins_so_many_groups_and_no_more() {
    let mut bench = Bench::new(|settings| settings.limits.groups_per_connection = 2);
    let conn = bench.login("alice");
    let join = |group: &str| Frame::Join(body::Join { group: group.to_owned(), cursor: None });
    for group in ["a", "b", "a"] {
        assert_eq!(bench.ask(conn, &join(group)), [Seen::Frame("JOIN_OK")]);
    }
    assert_eq!(bench.ask(conn, &join("c")), [Seen::Refused(ErrorCode::TooManyGroups)]);
    assert_eq!(bench.stats.refused.of(ErrorCode::TooManyGroups).get(), 1);
    let leave = Frame::Leave(body::Leave { group: "a".to_owned() });
    assert_eq!(bench.ask(conn, &leave), [Seen::Frame("LEAVE_OK")]);
    assert_eq!(bench.ask(conn, &join("c")), [Seen::Frame("JOIN_OK")]);
}

#[test]
fn logins_beyond_the_rate_are_refused_until_time_has_passed() {
    let mut bench = Bench::new(|settings| settings.limits.logins_per_second = 3);
    for client in 0..6 {
        bench.login(&format!("c{client}"));
    }
    let conn = bench.connect();
    assert_eq!(bench.try_login(conn, "late"), [Seen::Closing(ErrorCode::LoginRateExceeded), Seen::Finished]);
    assert_eq!(bench.closed_with(ErrorCode::LoginRateExceeded), 1);
    // Attempts every 20 ms: small steps must not round the refill away.
    let mut admitted = 0;
    for attempt in 0..100 {
        bench.advance(20);
        let conn = bench.connect();
        admitted += u32::from(bench.try_login(conn, &format!("again{attempt}")) == [Seen::Frame("LOGIN_OK")]);
        bench.input(Input::Eof { conn });
    }
    assert_eq!(admitted, 6, "three a second for two seconds");
}

#[test]
fn connections_beyond_the_shards_limit_are_told_and_closed() {
    let mut bench = Bench::new(|settings| settings.limits.connections = 2);
    let (first, _) = (bench.login("a"), bench.login("b"));
    let third = bench.connect();
    assert_eq!(bench.take(third), [Seen::Closing(ErrorCode::TooManyConnections), Seen::Finished]);
    assert_eq!(bench.closed_with(ErrorCode::TooManyConnections), 1);
    for conn in [third, first] {
        bench.input(Input::Eof { conn });
    }
    bench.login("c");
}

#[test]
fn an_address_holds_so_many_connections_and_others_do_not_suffer() {
    let mut bench = Bench::new(|settings| settings.limits.connections_per_address = 2);
    let (first, _) = (bench.connect_from(1), bench.connect_from(1));
    let third = bench.connect_from(1);
    assert_eq!(bench.take(third), [Seen::Closing(ErrorCode::TooManyFromAddress), Seen::Finished]);
    assert_eq!(bench.closed_with(ErrorCode::TooManyFromAddress), 1);
    let other = bench.connect_from(2);
    assert_eq!(bench.try_login(other, "other"), [Seen::Frame("LOGIN_OK")]);
    bench.input(Input::Broken { conn: first, errno: 104 });
    let fourth = bench.connect_from(1);
    assert_eq!(bench.try_login(fourth, "fourth"), [Seen::Frame("LOGIN_OK")]);
}

#[test]
fn unfinished_frames_beyond_the_shards_limit_end_the_connection_that_adds_to_them() {
    let mut bench = Bench::new(|settings| settings.limits.inbound_bytes_per_shard = 10_000);
    let (alice, bob) = (bench.login("alice"), bench.login("bob"));
    let mut bytes = Vec::new();
    encode(&Frame::Send(SendRef { channel: "user/bob", payload: &[0; 20_000], ..SendRef::default() }), &mut bytes);
    bench.input(Input::Received { conn: alice, bytes: &bytes[..6_000] });
    assert_eq!(bench.take(alice), []);
    bench.input(Input::Received { conn: bob, bytes: &bytes[..6_000] });
    assert_eq!(bench.take(bob), [Seen::Closing(ErrorCode::Overloaded), Seen::Finished]);
    assert_eq!(bench.closed_with(ErrorCode::Overloaded), 1);
    assert_eq!(bench.shard.residue().inbound_bytes, 6_000);
}

/// A client whose home is the other one of two shards.
pub(super) fn far_client(bench: &Bench) -> String {
    let is_far = |name: &String| bench.shard.home(bench.shard.keyed.name(name)) == ShardId(1);
    (0..).map(|number| format!("far{number}")).find(is_far).expect("half of all names")
}

pub(super) fn near_client(bench: &Bench) -> String {
    let is_near = |name: &String| bench.shard.home(bench.shard.keyed.name(name)) == ShardId(0);
    (0..).map(|number| format!("near{number}")).find(is_near).expect("half of all names")
}

#[test]
fn a_full_mesh_stops_reading_then_drops_and_tells() {
    let mut bench = Bench::new(|settings| settings.shards = 2);
    bench.refuse_posts = true;
    let alice = near_client(&bench);
    let (alice, far) = (bench.login(&alice), format!("user/{}", far_client(&bench)));
    let payload = [0; 60_000];
    let mut sent = 0;
    while bench.send(alice, &far, sent, &payload).is_empty() {
        sent += 1;
        assert!(sent < 1_000, "the backlog grows without end");
        let backlog = bench.shard.residue().backlog_bytes;
        assert_eq!(bench.shard.is_congested(), backlog > crate::limits::RING_BACKLOG_BYTES_HIGH);
    }
    assert_eq!(bench.stats.dropped_mesh_full.get(), 1);
    assert!(bench.shard.residue().backlog_bytes < crate::limits::RING_BACKLOG_BYTES_MAX + 100_000);
    bench.refuse_posts = false;
    bench.turn();
    assert!(!bench.shard.is_congested());
    assert_eq!((bench.shard.residue().backlog_bytes, bench.stats.mesh_backlog_bytes.get()), (0, 0));
}

#[test]
fn refused_batches_leave_in_the_order_in_which_they_were_filled() {
    let mut bench = Bench::new(|settings| settings.shards = 2);
    bench.refuse_posts = true;
    let alice = near_client(&bench);
    let (alice, far) = (bench.login(&alice), format!("user/{}", far_client(&bench)));
    for id in 0..9 {
        bench.send(alice, &far, id, &[0; 40_000]);
    }
    bench.turn();
    bench.refuse_posts = false;
    bench.turn();
    let ids: Vec<u64> = bench.posted.iter().flat_map(|batch| batch.items.iter().map(|item| message_id(batch, item))).collect();
    assert_eq!(ids, (0..9).collect::<Vec<_>>());
    assert!(bench.posted.len() > 2, "it takes several batches");
}

fn message_id(batch: &Batch, item: &message::Item) -> u64 {
    let message::Item::Deliver { frame, .. } = item else { panic!("{item:?}") };
    match decode(batch.bytes(*frame), u32::MAX) {
        Ok(Decoded::Frame { frame: Frame::Push(push), .. }) => push.client_msg_id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn many_who_ask_and_never_read_do_not_exceed_the_shards_budget() {
    let budget = 100_000;
    let mut bench = Bench::new(|settings| {
        settings.limits.outbound_bytes_per_connection = 50_000;
        settings.limits.outbound_bytes_per_shard = budget;
    });
    let askers: Vec<ConnId> = (0..50).map(|client| bench.login(&format!("c{client}"))).collect();
    for &conn in &askers {
        bench.deafen(conn);
    }
    for _ in 0..1_000 {
        for &conn in &askers {
            bench.ping(conn);
        }
    }
    // 4 KiB each beyond it; unlimited, it would be 20 kB each.
    assert!(bench.shard.outbound_bytes < budget + 50 * 4_096 + 50 * 400, "{}", bench.shard.outbound_bytes);
    assert!(bench.closed_with(ErrorCode::SlowConsumer) > 0);
    let honest = bench.login("honest");
    assert_eq!(bench.ping(honest), [PONG], "who reads is served all the same");
}

#[test]
fn who_holds_little_is_not_closed_for_what_others_hold() {
    let mut bench = Bench::new(|settings| settings.limits.inbound_bytes_per_shard = 10_000);
    let mut half = Vec::new();
    encode(&Frame::Send(SendRef { channel: "user/bob", payload: &[0; 6_000], ..SendRef::default() }), &mut half);
    let hoarders: Vec<ConnId> = (0..2).map(|client| bench.login(&format!("c{client}"))).collect();
    for &conn in &hoarders {
        bench.input(Input::Received { conn, bytes: &half[..4_990] });
    }
    let honest = bench.login("honest");
    bench.input(Input::Received { conn: honest, bytes: &half[..1_000] });
    assert_eq!(bench.take(honest), []);
    bench.input(Input::Received { conn: hoarders[0], bytes: &half[4_990..5_500] });
    assert_eq!(bench.take(hoarders[0]), [Seen::Closing(ErrorCode::Overloaded), Seen::Finished]);
    bench.input(Input::Received { conn: honest, bytes: &half[1_000..] });
    assert_eq!(bench.ping(honest), [PONG]);
}

#[test]
fn a_client_has_so_many_devices_and_no_more() {
    let mut bench = Bench::new(|settings| settings.limits.devices_per_client = 2);
    let first = bench.login("alice");
    bench.login("alice");
    let third = bench.connect();
    assert_eq!(bench.try_login(third, "alice"), [Seen::Closing(ErrorCode::TooManyDevices), Seen::Finished]);
    assert_eq!(bench.closed_with(ErrorCode::TooManyDevices), 1);
    bench.login("bob");
    bench.input(Input::Eof { conn: first });
    bench.login("alice");
}

#[test]
fn memberships_beyond_the_shards_limit_are_refused() {
    let mut bench = Bench::new(|settings| settings.limits.memberships_per_shard = 2);
    let join = |bench: &mut Bench, conn, group: &str| {
        bench.ask(conn, &Frame::Join(body::Join { group: group.to_owned(), cursor: None }))
    };
    let (alice, bob) = (bench.login("alice"), bench.login("bob"));
    for conn in [alice, bob] {
        assert_eq!(join(&mut bench, conn, "room"), [Seen::Frame("JOIN_OK")]);
    }
    assert_eq!(join(&mut bench, bob, "another"), [Seen::Refused(ErrorCode::Overloaded)]);
    bench.input(Input::Eof { conn: alice });
    assert_eq!(join(&mut bench, bob, "another"), [Seen::Frame("JOIN_OK")]);
}
