//! Whole runs in memory: an honest gateway gives a clean result, and every fault of a faulty one is counted as what it is.
#![forbid(unsafe_code)]

use std::sync::Arc;

use weir::wire::ErrorCode;

use super::{
    Ledger, Message, Outcome, Tally,
    model::{Fault, Script, World},
    net::BACKLOG_BYTES_MAX,
};
use crate::{
    plan::{self, Plan},
    scenario::{
        Books, Settled,
        connect::Connect,
        fanout::{Fanout, FanoutConfig},
        route::{Peers, Route, RouteConfig},
    },
};

fn script(faults: &[(u64, Fault)]) -> Script {
    Script { faults: faults.iter().copied().collect(), heartbeat_interval_ms: 30_000, ..Script::default() }
}

/// A run's counts, and how many messages were expected and lost.
struct Counts {
    outcome: Outcome,
    tally: Tally,
    expected: u64,
    lost: u64,
    contradicted: u64,
}

fn counts(plan: &Plan, books: &dyn Books, (outcome, ledgers): (Outcome, Vec<Ledger>)) -> Counts {
    let Settled { expected, lost, contradicted, .. } = books.settle(plan, &ledgers);
    Counts { tally: outcome.tally, outcome, expected, lost, contradicted }
}

fn route(plan: &Plan, config: RouteConfig, script: Script) -> Counts {
    let config = Arc::new(config);
    let world = World::new(plan, script, |plan, worker| Route::new(Arc::clone(&config), plan, worker));
    counts(plan, &*config, world.whole(300))
}

fn fanout(plan: &Plan, config: FanoutConfig, script: Script) -> Counts {
    let config = Arc::new(config);
    let world = World::new(plan, script, |plan, worker| Fanout::new(Arc::clone(&config), plan, worker));
    counts(plan, &*config, world.whole(300))
}

fn closed(depth: u32) -> RouteConfig {
    RouteConfig { peers: Peers::Pairs, depth, rate: None, is_durable: false }
}

fn group(window: u32) -> FanoutConfig {
    FanoutConfig { groups: 1, publishers: 1, window, rate: None, is_durable: false }
}

fn assert_exact(counts: &Counts) {
    assert_eq!((counts.lost, counts.tally.faults(), counts.tally.refused, counts.tally.dropped), (0, 0, 0, 0));
    assert_eq!(counts.tally.received, counts.expected);
    assert!(counts.expected > 100, "{}", counts.expected);
}

#[test]
fn routing_by_an_honest_gateway_is_exact() {
    for (connections, workers) in [(2, 1), (10, 1), (10, 3), (11, 4)] {
        for piece_bytes in [0, 1, 37] {
            let plan = plan::example(connections, workers);
            let counts = route(&plan, closed(2), Script { piece_bytes, ..script(&[]) });
            assert_exact(&counts);
            assert_eq!(counts.tally.ready, u64::from(connections));
            assert_eq!(counts.expected, counts.tally.sent);
        }
    }
}

#[test]
fn random_peers_are_exact_and_idle_clients_stay_idle() {
    let plan = Plan { active: 7, ..plan::example(20, 3) };
    let config = RouteConfig { peers: Peers::random(4, 7, 9), ..closed(3) };
    let world = World::new(&plan, script(&[]), |plan, worker| Route::new(Arc::new(config.clone()), plan, worker));
    let (outcome, ledgers) = world.whole(300);
    assert!(ledgers.iter().map(|ledger| ledger.sent.len()).sum::<usize>() == 7 * 4);
    assert_exact(&counts(&plan, &config, (outcome, ledgers)));
}

#[test]
fn the_closed_loop_keeps_its_depth_in_flight() {
    // The model answers in the next turn, so that each of 10 clients sends 3 messages in each of 300 turns, give or take one.
    let counts = route(&plan::example(10, 1), closed(3), script(&[]));
    assert!((290 * 30..=310 * 30).contains(&counts.tally.sent), "{}", counts.tally.sent);
    let latency = &counts.outcome.latency_us;
    assert_eq!(latency.len(), counts.tally.received);
    assert!((900..=2_100).contains(&latency.value_at_quantile(0.5)), "{}", latency.value_at_quantile(0.5));
}

#[test]
fn the_open_loop_follows_its_schedule() {
    let config = RouteConfig { rate: Some(5_000.0), ..closed(1) };
    let counts = route(&plan::example(10, 3), config, script(&[]));
    assert_exact(&counts);
    assert!((1_490..=1_500).contains(&counts.tally.sent), "{}", counts.tally.sent);
    // Turns are a millisecond apart, and so nothing is later than that.
    assert!(counts.outcome.lag_us.max() <= 1_000 && !counts.outcome.lag_us.is_empty());
}

#[test]
fn each_fault_is_counted_as_what_it_is() {
    let clean = Tally::default();
    let cases = [
        (Fault::Drop, 1, clean),
        (Fault::Duplicate, 0, Tally { duplicated: 1, ..clean }),
        (Fault::Swap, 0, Tally { reordered: 1, ..clean }),
        (Fault::Flip, 1, Tally { corrupted: 1, ..clean }),
        (Fault::Misdeliver, 1, Tally { misdelivered: 1, ..clean }),
        (Fault::Rename, 1, Tally { misdelivered: 1, ..clean }),
        (Fault::Refuse, 0, Tally { refused: 1, ..clean }),
    ];
    for (fault, lost, want) in cases {
        for (is_group, counts) in [
            (false, route(&plan::example(10, 3), closed(2), script(&[(57, fault)]))),
            (true, fanout(&plan::example(10, 3), group(4), script(&[(57, fault)]))),
        ] {
            let tally = counts.tally;
            if is_group && matches!(fault, Fault::Misdeliver | Fault::Refuse) {
                // In a group the wrong member's copy is one too many, and a refusal concerns all members.
                continue;
            }
            assert_eq!(counts.lost, lost, "{fault:?}, group: {is_group}");
            let seen = (tally.duplicated, tally.reordered, tally.misdelivered, tally.corrupted, tally.refused);
            assert_eq!(seen, (want.duplicated, want.reordered, want.misdelivered, want.corrupted, want.refused), "{fault:?}");
            assert_eq!(tally.received + lost, counts.expected, "{fault:?}");
            assert_eq!(counts.outcome.examples.len() as u64, tally.faults(), "{fault:?}");
        }
    }
}

#[test]
fn a_message_refused_and_yet_delivered_is_a_fault() {
    // The model refuses the publisher and still serves the nine other members.
    let counts = fanout(&plan::example(10, 3), group(4), script(&[(57, Fault::Refuse)]));
    assert_eq!((counts.tally.refused, counts.lost, counts.contradicted), (1, 0, 9));
    // A loss in the same stream does not make up for it.
    let counts = fanout(&plan::example(10, 3), group(4), script(&[(57, Fault::Refuse), (75, Fault::Drop)]));
    assert_eq!((counts.lost, counts.contradicted), (1, 9));
    // An honest refusal is none.
    let counts = route(&plan::example(10, 3), closed(2), script(&[(57, Fault::Refuse)]));
    assert_eq!((counts.tally.refused, counts.lost, counts.contradicted), (1, 0, 0));
}

#[test]
fn a_starved_receiver_shows_in_the_turn_lag() {
    let config = Arc::new(FanoutConfig { rate: Some(1_000.0), ..group(1) });
    let mut world = World::new(&plan::example(10, 2), script(&[]), |plan, worker| Fanout::new(Arc::clone(&config), plan, worker));
    world.run_ms(500);
    let (start, end) = (world.now, world.now.plus_ms(300));
    world.tell(|| Message::Go { start, end });
    world.run_ms(100);
    // The publisher is on the other worker, and is never late.
    world.asleep = Some(1);
    world.run_ms(60);
    world.asleep = None;
    world.run_ms(300);
    let (outcome, _) = world.finish();
    assert!(outcome.lag_us.max() <= 1_000, "{}", outcome.lag_us.max());
    assert!((580..=610).contains(&outcome.turn_lag_us.len()), "{}", outcome.turn_lag_us.len());
    assert!((55_000..=65_000).contains(&outcome.turn_lag_us.max()), "{}", outcome.turn_lag_us.max());
    assert!(outcome.turn_lag_us.value_at_quantile(0.99) > 40_000);
}

#[test]
fn an_open_loop_stops_before_its_queue_takes_all_memory() {
    let plan = Plan { payload_bytes: 4_096, ..plan::example(10, 2) };
    let config = RouteConfig { rate: Some(1e6), ..closed(1) };
    let stopped = Script { takes_no_more_after: Some(100), ..script(&[]) };
    let counts = route(&plan, config, stopped);
    let sent_bytes = counts.tally.sent * 4_096;
    let most = 2 * BACKLOG_BYTES_MAX as u64;
    assert!(counts.tally.is_backlogged);
    assert!((most / 2..most + most / 4).contains(&sent_bytes), "{sent_bytes}");
    // What was never sent for want of room is not this client's lateness.
    assert!(counts.outcome.lag_us.max() <= 1_000, "{}", counts.outcome.lag_us.max());
}

#[test]
fn faults_add_up() {
    let faults = [(10, Fault::Drop), (20, Fault::Drop), (33, Fault::Duplicate), (41, Fault::Flip), (60, Fault::Drop)];
    let counts = route(&plan::example(10, 2), closed(2), script(&faults));
    assert_eq!((counts.lost, counts.tally.duplicated, counts.tally.corrupted), (4, 1, 1));
}

#[test]
fn every_member_gets_every_message_once() {
    for (connections, workers, groups, publishers) in [(10, 1, 1, 1), (10, 3, 1, 2), (12, 3, 2, 2), (12, 5, 4, 3), (2, 2, 2, 1)] {
        let plan = plan::example(connections, workers);
        let config = FanoutConfig { groups, publishers, ..group(5) };
        let counts = fanout(&plan, config, script(&[]));
        assert_exact(&counts);
        assert_eq!(counts.expected, counts.tally.sent * u64::from(connections / groups));
    }
}

#[test]
fn the_window_bounds_what_is_on_its_way() {
    // Two turns from a publication to the next: the push, and the news of other workers' members.
    let counts = fanout(&plan::example(10, 2), group(4), script(&[]));
    let windows = counts.tally.sent / 4;
    assert!((90..=310).contains(&windows), "{windows}");
}

#[test]
fn a_lost_group_message_does_not_stop_the_others() {
    let counts = fanout(&plan::example(10, 2), group(4), script(&[(57, Fault::Drop)]));
    assert_eq!(counts.lost, 1);
    assert!(counts.tally.sent > 200, "{}", counts.tally.sent);
}

#[test]
fn a_kicked_client_is_a_dropped_connection() {
    let counts = route(&plan::example(10, 2), closed(1), script(&[(57, Fault::Kick)]));
    assert_eq!(counts.tally.dropped, 1);
    // The push that the gateway gave up, and what the partner may have sent before it was answered.
    assert!((1..=2).contains(&counts.lost), "{}", counts.lost);
    assert_eq!(counts.outcome.endings.get("SUPERSEDED"), Some(&(1, "scripted".into())));
}

#[test]
fn logins_are_repeated_where_that_makes_sense() {
    let refused = |code| Script { refused_logins: [(3, code)].into(), ..script(&[]) };
    let counts = route(&plan::example(10, 2), closed(1), refused(ErrorCode::LoginRateExceeded));
    assert_exact(&counts);
    assert_eq!((counts.tally.ready, counts.tally.retried, counts.tally.failed), (10, 1, 0));

    let mut world = World::new(&plan::example(10, 2), refused(ErrorCode::TokenInvalid), |_, _| Connect);
    world.run_ms(2_000);
    let (outcome, _) = world.finish();
    assert_eq!((outcome.tally.ready, outcome.tally.retried, outcome.tally.failed), (9, 0, 1));
    assert_eq!(outcome.endings.get("TOKEN_INVALID"), Some(&(1, "scripted".into())));
}

#[test]
fn idle_clients_send_heartbeats_in_time() {
    let plan = plan::example(10, 2);
    let interval = |ignores_pings| Script { heartbeat_interval_ms: 2_000, ignores_pings, ..script(&[]) };
    let mut world = World::new(&plan, interval(false), |_, _| Connect);
    world.run_ms(1_000);
    let (start, end) = (world.now, world.now.plus_ms(20_000));
    world.tell(|| Message::Go { start, end });
    world.run_ms(20_000);
    let (outcome, _) = world.finish();
    let tally = outcome.tally;
    assert!((95..=130).contains(&tally.pings), "{}", tally.pings);
    assert_eq!((tally.pings, tally.dropped), (tally.pongs, 0));
    assert_eq!(outcome.rtt_us.len(), tally.pongs);

    let mut world = World::new(&plan, interval(true), |_, _| Connect);
    world.run_ms(12_000);
    let (outcome, _) = world.finish();
    assert_eq!(outcome.tally.dropped, 10);
}

#[test]
fn the_ramp_is_bounded_and_keeps_its_schedule() {
    let plan = Plan { connect_rate: Some(100.0), ..plan::example(50, 2) };
    let mut world = World::new(&plan, script(&[]), |_, _| Connect);
    world.run_ms(250);
    assert!((24..=27).contains(&world.peak), "{}", world.peak);
    world.run_ms(1_000);
    assert_eq!(world.tallies.iter().map(|tally| tally.ready).sum::<u64>(), 50);
    world.finish();
}

#[test]
fn a_run_that_is_ended_while_connecting_ends_cleanly() {
    let plan = Plan { connect_rate: Some(10.0), ..plan::example(50, 3) };
    let mut world = World::new(&plan, script(&[]), |_, _| Connect);
    world.run_ms(1_000);
    let (outcome, _) = world.finish();
    assert!((9..=12).contains(&outcome.tally.ready), "{}", outcome.tally.ready);
}
