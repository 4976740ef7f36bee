//! Whole runs in memory with servers other than Weir: the same counts, and the same faults found.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::{
    Ledger, Message, Outcome, Tally,
    dialect::Dialect,
    model::{Fault, Script, World},
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

const PEERS: [Dialect; 2] = [Dialect::Nats, Dialect::Mqtt];

fn plan(dialect: Dialect, connections: u32, workers: u32) -> Plan {
    Plan { dialect, ..plan::example(connections, workers) }
}

fn script(faults: &[(u64, Fault)]) -> Script {
    Script { faults: faults.iter().copied().collect(), ..Script::default() }
}

/// A run's counts, and how many messages were expected and lost.
type Counts = (Tally, Settled, Outcome);

fn counts(plan: &Plan, books: &dyn Books, (outcome, ledgers): (Outcome, Vec<Ledger>)) -> Counts {
    (outcome.tally, books.settle(plan, &ledgers), outcome)
}

fn route(plan: &Plan, script: Script) -> Counts {
    let config = Arc::new(RouteConfig { peers: Peers::Pairs, depth: 2, rate: None, is_durable: false });
    let world = World::new(plan, script, |plan, worker| Route::new(Arc::clone(&config), plan, worker));
    counts(plan, &*config, world.whole(300))
}

fn fanout(plan: &Plan, groups: u32, publishers: u32, script: Script) -> Counts {
    let config = Arc::new(FanoutConfig { groups, publishers, window: 4, rate: None, is_durable: false });
    let world = World::new(plan, script, |plan, worker| Fanout::new(Arc::clone(&config), plan, worker));
    counts(plan, &*config, world.whole(300))
}

fn assert_exact((tally, settled, _): &Counts) {
    assert_eq!((settled.lost, tally.faults(), tally.dropped, tally.failed), (0, 0, 0, 0));
    assert_eq!(tally.received, settled.expected);
    assert!(settled.expected > 100, "{}", settled.expected);
}

#[test]
fn an_honest_server_is_exact_in_whatever_pieces_its_bytes_come() {
    for dialect in PEERS {
        for (connections, workers) in [(2, 1), (10, 3)] {
            for piece_bytes in [0, 1, 37] {
                let counts = route(&plan(dialect, connections, workers), Script { piece_bytes, ..script(&[]) });
                assert_exact(&counts);
                assert_eq!(counts.1.expected, counts.0.sent);
            }
        }
        for (connections, workers, groups, publishers) in [(10, 1, 1, 1), (12, 3, 2, 2), (12, 5, 4, 3)] {
            let counts = fanout(&plan(dialect, connections, workers), groups, publishers, script(&[]));
            assert_exact(&counts);
            // Who sends to a group has the message from it, too.
            assert_eq!(counts.1.expected, counts.0.sent * u64::from(connections / groups));
        }
    }
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
    ];
    for (dialect, (fault, lost, want)) in PEERS.into_iter().flat_map(|dialect| cases.map(|case| (dialect, case))) {
        let plan = plan(dialect, 10, 3);
        let mut runs = vec![route(&plan, script(&[(57, fault)]))];
        // In a group the wrong member's copy is one too many.
        if fault != Fault::Misdeliver {
            runs.push(fanout(&plan, 1, 1, script(&[(57, fault)])));
        }
        for (tally, settled, outcome) in runs {
            let seen = (tally.duplicated, tally.reordered, tally.misdelivered, tally.corrupted);
            assert_eq!(seen, (want.duplicated, want.reordered, want.misdelivered, want.corrupted), "{dialect:?} {fault:?}");
            assert_eq!((settled.lost, tally.received + lost), (lost, settled.expected), "{dialect:?} {fault:?}");
            assert_eq!(outcome.examples.len() as u64, tally.faults(), "{dialect:?} {fault:?}");
        }
    }
}

#[test]
fn a_connection_that_the_server_ends_is_a_dropped_one() {
    for dialect in PEERS {
        let (tally, settled, outcome) = route(&plan(dialect, 10, 2), script(&[(57, Fault::Cut)]));
        assert_eq!(tally.dropped, 1, "{dialect:?}");
        assert!(settled.lost > 0, "{dialect:?}: what was on its way is gone");
        assert_eq!(outcome.endings.get("closed by the gateway").map(|(count, _)| *count), Some(1));
    }
}

#[test]
fn signs_of_life_are_asked_for_and_given() {
    for dialect in PEERS {
        let mut world = World::new(&plan(dialect, 4, 1), script(&[]), |_, _| Connect);
        world.run_ms(500);
        assert_eq!(world.pongs, if dialect == Dialect::Nats { 4 } else { 0 }, "{dialect:?}");
        let (start, end) = (world.now, world.now.plus_ms(65_000));
        world.tell(|| Message::Go { start, end });
        world.run_ms(65_000);
        let (outcome, _) = world.finish();
        // Each after 15 to 30 s, and then every 30 s.
        assert!((8..=12).contains(&outcome.tally.pings), "{dialect:?}: {}", outcome.tally.pings);
        assert_eq!((outcome.tally.pongs, outcome.tally.dropped), (outcome.tally.pings, 0), "{dialect:?}");
        // The model answers in the next turn.
        assert_eq!((outcome.rtt_us.len(), outcome.rtt_us.max()), (outcome.tally.pongs, 1_000), "{dialect:?}");
    }
}

#[test]
fn a_server_that_gives_no_sign_of_life_is_given_up() {
    for dialect in PEERS {
        let script = Script { ignores_pings: true, ..script(&[]) };
        let mut world = World::new(&plan(dialect, 2, 1), script, |_, _| Connect);
        world.run_ms(125_000);
        let (outcome, _) = world.finish();
        assert_eq!((outcome.tally.dropped, outcome.tally.pongs), (2, 0), "{dialect:?}");
        assert!(outcome.endings.contains_key("unanswered pings"), "{dialect:?}");
    }
}
