//! Durable messages when there is no room: budgets, deaf peers, and answers that end a connection.
#![forbid(unsafe_code)]

use super::*;

/// Turns until nothing is left to do: bytes that leave in one make room for the next.
fn settle(bench: &mut Bench) {
    for _ in 0..50 {
        bench.turn();
    }
}

#[test]
fn answers_to_joins_may_end_a_connection_and_its_groups() {
    let mut bench = Bench::new(|settings| {
        settings.limits.outbound_bytes_per_connection = 2_000;
        settings.limits.groups_per_connection = 1_000;
    });
    let (alice, _) = bench.enroll("alice", "phone", 100, None);
    bench.deafen(alice);
    // Each group is joined twice before the log says where the device stands: two answers in one step.
    bench.store_stalls = true;
    for group in 0..300 {
        for _ in 0..2 {
            bench.join(alice, &format!("a-group-with-a-long-name-{group}"), None);
        }
    }
    assert_eq!(bench.shard.residue().memberships, 300);
    bench.store_stalls = false;
    bench.turn();
    settle(&mut bench);
    assert_eq!(bench.closed_with(ErrorCode::SlowConsumer), 1);
    assert_eq!(bench.shard.residue().memberships, 0);
}

#[test]
fn a_connection_asks_for_one_page_of_history_at_a_time() {
    let mut bench = Bench::new(|_| {});
    let sender = bench.login("sender");
    bench.fill(sender, "group/team", 1..=3);
    let sync = Frame::Sync(body::Sync { channel: "group/team".to_owned(), from: 1, limit: 10 });
    let others: Vec<ConnId> = (0..crate::limits::SYNCS_IN_FLIGHT_MAX).map(|id| bench.login(&format!("other-{id}"))).collect();
    bench.store_stalls = true;
    assert_eq!(bench.ask(sender, &sync), []);
    assert_eq!(bench.ask(sender, &sync), [Seen::Refused(ErrorCode::Overloaded)]);
    // And a core reads so many at a time.
    let refused = others.iter().filter(|conn| bench.ask(**conn, &sync) == [Seen::Refused(ErrorCode::Overloaded)]).count();
    assert_eq!(refused, 1);
    bench.store_stalls = false;
    bench.turn();
    assert_eq!(bench.take(sender), [Seen::Page(vec![1, 2, 3], 4)]);
    assert_eq!(bench.ask(sender, &sync), [Seen::Page(vec![1, 2, 3], 4)]);
}

#[test]
fn a_message_that_is_larger_than_the_budget_passes_alone() {
    let mut bench = Bench::new(|settings| settings.limits.outbound_bytes_per_connection = 2_000);
    let sender = bench.login("sender");
    for id in 1..=3 {
        bench.send_durable(sender, "user/alice", id, &[0; 5_000]);
    }
    let (alice, _) = bench.enroll("alice", "phone", 100, None);
    settle(&mut bench);
    assert_eq!(bench.take(alice), [Seen::Durable(2), Seen::Durable(3)], "the first came with LOGIN_OK");
}

#[test]
fn many_slow_devices_keep_nobody_else_from_its_page() {
    let mut bench = Bench::new(|settings| {
        settings.limits.outbound_bytes_per_connection = 64 * 1024;
        settings.limits.outbound_bytes_per_shard = 256 * 1024;
    });
    let sender = bench.login("sender");
    for id in 0..50 {
        let slow = format!("slow-{id}");
        for message in 1..=40 {
            bench.send_durable(sender, &format!("user/{slow}"), id * 100 + message, &[0; 1_000]);
        }
    }
    for id in 0..50 {
        let conn = bench.connect();
        bench.deafen(conn);
        let login = body::Login { client_id: format!("slow-{id}"), window: 1_000, ..body::Login::default() };
        bench.ask(conn, &Frame::Login(login));
    }
    settle(&mut bench);
    assert!(bench.shard.residue().outbound_bytes <= 256 * 1024);
    bench.fill(sender, "user/alice", 9_001..=9_020);
    let (alice, seen) = bench.enroll("alice", "phone", 100, None);
    settle(&mut bench);
    let came = seen.into_iter().chain(bench.take(alice)).filter(|seen| matches!(seen, Seen::Durable(_))).count();
    assert_eq!(came, 20);
}
