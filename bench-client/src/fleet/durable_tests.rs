//! Whole durable runs in memory: an honest gateway gives a clean result, and every fault of a faulty one is found.
#![forbid(unsafe_code)]

use std::sync::Arc;

use weir::wire::ErrorCode;

use super::{
    Message, Outcome,
    model::{Fault, Script, SendFault, World},
};
use crate::{
    durable::{DurableTally, Receiving},
    plan::{self, Plan},
    scenario::{
        Books, Settled,
        fanout::{Fanout, FanoutConfig},
        route::{Peers, Route, RouteConfig},
    },
};

pub(super) const RECEIVING: Receiving = Receiving { window: 16, ack_every: 4, ack_after_us: 5_000 };

fn script() -> Script {
    Script { heartbeat_interval_ms: 30_000, ..Script::default() }
}

fn pushes(faults: &[(u64, Fault)]) -> Script {
    Script { faults: faults.iter().copied().collect(), ..script() }
}

fn sends(faults: &[(u64, SendFault)]) -> Script {
    Script { send_faults: faults.iter().copied().collect(), ..script() }
}

fn plan(connections: u32, workers: u32) -> Plan {
    Plan { receiving: Some(RECEIVING), ..plan::example(connections, workers) }
}

fn closed(depth: u32) -> RouteConfig {
    RouteConfig { peers: Peers::Pairs, depth, rate: None, is_durable: true }
}

fn group(window: u32) -> FanoutConfig {
    FanoutConfig { groups: 1, publishers: 1, window, rate: None, is_durable: true }
}

struct Counts {
    outcome: Outcome,
    settled: Settled,
}

impl Counts {
    fn durable(&self) -> DurableTally {
        self.outcome.tally.durable
    }

    /// Everything that is a fault, in the order lost, duplicated, reordered: by stream, then by sequence.
    fn exactness(&self) -> [u64; 6] {
        let (tally, durable, settled) = (&self.outcome.tally, self.durable(), &self.settled);
        let reordered = tally.reordered + settled.reordered;
        [settled.lost, tally.duplicated, reordered, settled.lost_sequences, durable.duplicated, durable.reordered]
    }

    fn faults(&self) -> u64 {
        let settled = &self.settled;
        let at_the_end = settled.lost + settled.lost_sequences + settled.contradicted + settled.reordered + settled.renumbered;
        self.outcome.tally.faults() + at_the_end
    }

    fn assert_exact(&self) {
        let tally = &self.outcome.tally;
        assert_eq!((self.faults(), &self.outcome.examples), (0, &Vec::new()), "{:?}", self.settled);
        assert_eq!((self.settled.faulty_channels, tally.refused), (0, 0));
        assert_eq!((tally.received, tally.durable.accepted), (self.settled.expected, tally.sent));
        assert!(self.settled.expected > 100, "{}", self.settled.expected);
    }
}

fn world(plan: &Plan, config: &RouteConfig, script: Script) -> World<Route> {
    let config = Arc::new(config.clone());
    World::new(plan, script, |plan, worker| Route::new(Arc::clone(&config), plan, worker))
}

fn route(plan: &Plan, config: &RouteConfig, script: Script) -> Counts {
    let (outcome, ledgers) = world(plan, config, script).whole(300);
    Counts { settled: config.settle(plan, &ledgers), outcome }
}

fn fanout(plan: &Plan, config: &FanoutConfig, script: Script) -> Counts {
    let shared = Arc::new(config.clone());
    let world = World::new(plan, script, |plan, worker| Fanout::new(Arc::clone(&shared), plan, worker));
    let (outcome, ledgers) = world.whole(300);
    Counts { settled: config.settle(plan, &ledgers), outcome }
}

#[test]
fn an_honest_gateway_is_exact() {
    for (connections, workers, piece_bytes) in [(2, 1, 0), (10, 3, 37), (11, 4, 1)] {
        let counts = route(&plan(connections, workers), &closed(3), Script { piece_bytes, ..script() });
        counts.assert_exact();
        let durable = counts.durable();
        assert_eq!(counts.outcome.accepted_us.len(), durable.accepted);
        assert_eq!(u64::from(connections & !1), counts.settled.channels);
        assert_eq!((durable.resent, durable.repeated, durable.accepted_before, counts.outcome.durability), (0, 0, 0, Some(1)));
    }
    let random = RouteConfig { peers: Peers::random(4, 7, 9), ..closed(3) };
    route(&Plan { active: 7, ..plan(20, 3) }, &random, script()).assert_exact();
    let open = RouteConfig { rate: Some(5_000.0), ..closed(1) };
    let counts = route(&plan(10, 3), &open, script());
    counts.assert_exact();
    assert!((1_490..=1_500).contains(&counts.outcome.tally.sent));
}

#[test]
fn every_member_has_the_whole_channel_in_its_order() {
    for (connections, workers, groups, publishers) in [(10, 1, 1, 1), (10, 3, 1, 2), (12, 5, 4, 3)] {
        let counts = fanout(&plan(connections, workers), &FanoutConfig { groups, publishers, ..group(5) }, script());
        counts.assert_exact();
        assert_eq!(counts.settled.channels, u64::from(connections));
        assert_eq!(counts.settled.expected, counts.outcome.tally.sent * u64::from(connections / groups));
    }
}

#[test]
fn the_closed_loop_bounds_what_is_not_accepted() {
    // The model answers in the next turn: 10 clients with 3 open messages in each of 300 turns, give or take one.
    let counts = route(&plan(10, 1), &closed(3), script());
    assert!((290 * 30..=310 * 30).contains(&counts.outcome.tally.sent), "{}", counts.outcome.tally.sent);
}

#[test]
fn received_is_sent_after_so_many_messages_or_soon() {
    let counts = route(&plan(10, 2), &closed(2), script());
    let every = counts.durable().accepted / u64::from(RECEIVING.ack_every);
    assert!((every..every + every / 4 + 20).contains(&counts.durable().acknowledgements), "{every}, {:?}", counts.durable());
    // With a window that lets no four messages through, time alone moves it on.
    let slow = Receiving { window: 2, ack_every: 4, ack_after_us: 10_000 };
    let counts = route(&Plan { receiving: Some(slow), ..plan(10, 2) }, &RouteConfig { rate: Some(500.0), ..closed(1) }, script());
    counts.assert_exact();
}

#[test]
fn a_run_may_end_while_acknowledgements_are_planned() {
    let slow = Receiving { window: 64, ack_every: 60, ack_after_us: 50_000 };
    let (plan, config) = (Plan { receiving: Some(slow), ..plan(10, 3) }, closed(2));
    let mut world = world(&plan, &config, script());
    world.run_ms(500);
    let (start, end) = (world.now, world.now.plus_ms(20));
    world.tell(|| Message::Go { start, end });
    world.run_ms(30);
    let (outcome, ledgers) = world.finish();
    let counts = Counts { settled: config.settle(&plan, &ledgers), outcome };
    counts.assert_exact();
    // What had come was acknowledged all the same.
    assert_eq!(counts.durable().acknowledgements, 10);
}

#[test]
fn each_fault_of_a_push_is_found_by_stream_and_by_sequence() {
    let cases = [
        // Lost, duplicated, reordered by stream; the same by sequence.
        (Fault::Drop, [1, 0, 0, 1, 0, 0]),
        (Fault::Duplicate, [0, 1, 0, 0, 1, 0]),
        (Fault::Swap, [0, 0, 1, 0, 0, 1]),
        (Fault::Flip, [1, 0, 0, 0, 0, 0]),
        (Fault::Rename, [1, 0, 0, 0, 0, 0]),
        (Fault::Skip, [0, 0, 0, 1, 1, 0]),
        (Fault::Gap(ErrorCode::Lost), [1, 0, 0, 1, 0, 0]),
    ];
    for (fault, want) in cases {
        for counts in
            [route(&plan(10, 3), &closed(2), pushes(&[(57, fault)])), fanout(&plan(10, 3), &group(4), pushes(&[(57, fault)]))]
        {
            assert_eq!(counts.exactness(), want, "{fault:?}");
            assert!(!counts.outcome.examples.is_empty(), "{fault:?}");
            assert_eq!(counts.settled.faulty_channels, u64::from(want[3..] != [0, 0, 0]), "{fault:?}");
        }
    }
    let counts = route(&plan(10, 3), &closed(2), pushes(&[(57, Fault::Misdeliver)]));
    assert_eq!((counts.exactness(), counts.outcome.tally.misdelivered), ([1, 0, 0, 1, 0, 0], 1));
}

#[test]
fn what_retention_removed_is_told_apart_from_what_is_lost() {
    let counts = route(&plan(10, 3), &closed(2), pushes(&[(57, Fault::Gap(ErrorCode::Expired)), (90, Fault::Drop)]));
    assert_eq!((counts.exactness(), counts.settled.gone, counts.durable().gaps), ([1, 0, 0, 1, 0, 0], 1, 1));
}

/// With a window of one message the next one comes only if the GAP was acknowledged.
#[test]
fn a_gap_is_acknowledged() {
    let narrow = Receiving { window: 1, ack_every: 1, ack_after_us: 1_000 };
    let plan = Plan { receiving: Some(narrow), ..plan(10, 3) };
    let slow = RouteConfig { rate: Some(500.0), ..closed(1) };
    let counts = route(&plan, &slow, pushes(&[(57, Fault::Gap(ErrorCode::Expired))]));
    assert_eq!((counts.exactness(), counts.settled.gone, counts.durable().gaps), ([0; 6], 1, 1));
    assert!(counts.settled.expected > 100, "{}", counts.settled.expected);
}

#[test]
fn each_fault_of_an_answer_is_found() {
    let clean = DurableTally::default();
    let cases = [
        (SendFault::Silence, [0; 6], DurableTally { unanswered: 1, ..clean }),
        (SendFault::Forget, [1, 0, 0, 0, 0, 0], clean),
        (SendFault::AcceptTwice, [0; 6], DurableTally { misanswered: 1, ..clean }),
        (SendFault::OtherChannel, [0; 6], DurableTally { misanswered: 1, ..clean }),
        (SendFault::StoreTwice, [0, 1, 0, 0, 0, 0], clean),
    ];
    for (fault, exactness, want) in cases {
        for counts in
            [route(&plan(10, 3), &closed(2), sends(&[(57, fault)])), fanout(&plan(3, 3), &group(4), sends(&[(57, fault)]))]
        {
            let durable = counts.durable();
            assert_eq!((durable.unanswered, durable.misanswered), (want.unanswered, want.misanswered), "{fault:?}");
            // Each of three members sees what is wrong with a group's message.
            let copies = if counts.settled.channels == 3 { 3 } else { 1 };
            assert_eq!(counts.exactness(), exactness.map(|count| count * copies), "{fault:?}");
            assert!(counts.faults() > 0, "{fault:?}");
        }
    }
    let counts = route(&plan(10, 3), &closed(2), sends(&[(57, SendFault::Renumber)]));
    assert_eq!((counts.exactness(), counts.settled.renumbered), ([0; 6], 1));
}

#[test]
fn a_refused_message_is_sent_again_with_the_same_id() {
    let refusals: Vec<_> = (50..60).chain([75]).map(|send| (send, SendFault::Overload)).collect();
    let counts = route(&plan(10, 3), &closed(4), sends(&refusals));
    counts.assert_exact();
    assert_eq!((counts.durable().resent, counts.outcome.refusals["OVERLOADED"].0), (11, 11));
    assert!(counts.outcome.accepted_us.max() >= 20_000, "the delay counts");
    // The last one is refused until the end: it was never accepted, so nothing is owed for it.
    let always: Vec<_> = (57..100_000).map(|send| (send, SendFault::Overload)).collect();
    let counts = route(&plan(2, 1), &closed(1), sends(&always));
    assert_eq!((counts.faults(), counts.settled.expected, counts.outcome.tally.refused), (0, 57, 2));
}

#[test]
fn a_refusal_for_good_holds() {
    let counts = route(&plan(10, 3), &closed(4), sends(&[(57, SendFault::Forbid)]));
    assert_eq!((counts.faults(), counts.outcome.tally.refused, counts.durable().resent), (0, 1, 0));
    let counts = route(&plan(10, 3), &closed(4), sends(&[(57, SendFault::ForbidAndStore)]));
    assert_eq!((counts.settled.contradicted, counts.outcome.tally.refused), (1, 1));
}

#[test]
fn clients_that_come_back_get_what_they_have_not_acknowledged_again() {
    let plan = Plan { returns: true, ..plan(10, 3) };
    let counts = route(&plan, &closed(3), pushes(&[(57, Fault::Cut), (300, Fault::Cut)]));
    assert_eq!((counts.faults(), counts.outcome.tally.dropped, counts.outcome.tally.returned), (0, 2, 2));
    let tally = &counts.outcome.tally;
    assert_eq!((tally.received, counts.settled.expected, tally.durable.accepted), (tally.sent, tally.sent, tally.sent));
    assert!(tally.durable.repeated > 0, "{:?}", tally.durable);
    // Without, what is in the log is not lost, but it does not come either.
    let counts = route(&Plan { returns: false, ..plan }, &closed(3), pushes(&[(57, Fault::Cut)]));
    assert_eq!((counts.outcome.tally.dropped, counts.outcome.tally.returned), (1, 0));
    assert!(counts.settled.lost > 0);
}

#[test]
fn a_gateway_that_cuts_everybody_off_loses_nothing() {
    let plan = Plan { returns: true, ..plan(10, 3) };
    let config = closed(3);
    let mut world = world(&plan, &config, script());
    world.run_ms(2_000);
    let (start, end) = (world.now, world.now.plus_ms(600));
    world.tell(|| Message::Go { start, end });
    for _ in 0..3 {
        world.run_ms(150);
        world.cut_all();
    }
    world.run_ms(900);
    let (outcome, ledgers) = world.finish();
    let counts = Counts { settled: config.settle(&plan, &ledgers), outcome };
    assert_eq!((counts.faults(), &counts.outcome.examples), (0, &Vec::new()));
    let tally = &counts.outcome.tally;
    assert_eq!((tally.dropped, tally.returned, tally.durable.accepted), (30, 30, tally.sent));
    assert!(tally.durable.accepted_before > 0 && tally.durable.resent >= 60, "{:?}", tally.durable);
    assert_eq!(counts.settled.expected, tally.received);
}

#[test]
fn what_was_acknowledged_must_not_come_again() {
    let plan = Plan { returns: true, ..plan(10, 3) };
    let forgetful = Script { forgets_received: 1, ..pushes(&[(500, Fault::Cut)]) };
    let counts = route(&plan, &closed(3), forgetful);
    assert_eq!(counts.exactness(), [0, 1, 0, 0, 1, 0]);
}
