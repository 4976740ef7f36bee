//! `offline` and `storm` in memory: an honest gateway gives a clean result, and its faults are found in the phase that they happen in.
#![forbid(unsafe_code)]

use std::{cell::RefCell, sync::Arc};

use super::{
    Ledger, Message, Outcome, Tally,
    durable_tests::RECEIVING,
    model::{Fault, Log, Script, SendFault, World},
};
use crate::{
    durable::Lines,
    plan::{self, Plan},
    scenario::{
        Books, Scenario, Settled,
        mail::{Mail, Sending},
        offline::{Errand, Inbox, Posting},
        storm::{Storm, StormConfig},
    },
};

fn script() -> Script {
    Script { heartbeat_interval_ms: 30_000, ..Script::default() }
}

fn pushes(faults: &[(u64, Fault)]) -> Script {
    Script { faults: faults.iter().copied().collect(), ..script() }
}

fn sends(faults: &[(u64, SendFault)]) -> Script {
    Script { send_faults: faults.iter().copied().collect(), ..script() }
}

/// One phase of a run of four: what came of it, and the log.
fn phase<S: Scenario>(
    plan: &Plan,
    script: Script,
    log: Log,
    ms: u64,
    scenario: impl Fn(&Plan, u32) -> S,
) -> (Outcome, Vec<Ledger>, Log) {
    let mut world = World::new(plan, script, scenario).with_log(log);
    world.run_ms(500);
    let (start, end) = (world.now, world.now.plus_ms(ms));
    world.tell(|| Message::Go { start, end });
    world.run_ms(ms + 200);
    world.finish_phase()
}

/// What the gateway is told to do in each phase.
#[derive(Default)]
struct Scripts {
    join: Script,
    post: Script,
    fetch: Script,
    look: Script,
}

fn scripts() -> Scripts {
    Scripts { join: script(), post: script(), fetch: script(), look: script() }
}

struct Counts {
    joined: Tally,
    posted: Tally,
    fetched: Tally,
    looked: Tally,
    settled: Settled,
}

impl Counts {
    fn exactness(&self) -> [u64; 6] {
        let (tally, settled) = (&self.fetched, &self.settled);
        let (duplicated, reordered) = (tally.durable.duplicated, tally.durable.reordered);
        [settled.lost, tally.duplicated, tally.reordered + settled.reordered, settled.lost_sequences, duplicated, reordered]
    }

    fn assert_exact(&self, mail: &Mail) {
        assert_eq!((self.exactness(), self.settled.renumbered, self.settled.faulty_channels), ([0; 6], 0, 0));
        let phases = [&self.joined, &self.posted, &self.fetched, &self.looked];
        assert_eq!(phases.map(Tally::faults), [0; 4], "{:?} {:?}", self.fetched, self.looked);
        assert_eq!(self.settled.channels, u64::from(mail.receivers * mail.channels().lines()));
        assert_eq!((self.fetched.received, self.looked.received), (self.settled.expected, 0));
    }
}

/// A whole run: join, post, fetch, look.
fn offline(mail: Mail, messages: u32, workers: u32, scripts: Scripts) -> Counts {
    let all = plan::example(mail.clients(), workers);
    let receivers = Plan {
        first_client: mail.senders,
        connections: mail.receivers,
        workers: workers.min(mail.receivers),
        receiving: Some(RECEIVING),
        ..all.clone()
    };
    let senders = Plan { connections: mail.senders, workers: workers.min(mail.senders), ..all };
    let lines = RefCell::new(Vec::<Option<Lines>>::new());
    let visit = |errand: &Errand, script, log| {
        let (outcome, mut ledgers, log) = phase(&receivers, script, log, 300, |plan, worker| {
            let lines = lines.borrow_mut().get_mut(worker as usize).and_then(Option::take);
            Inbox::new(mail, errand, plan, worker, lines)
        });
        let taken = |ledger: &mut Ledger| ledger.durable.as_mut().map(|durable| std::mem::take(&mut durable.lines));
        let keep = |ledgers: &mut [Ledger]| *lines.borrow_mut() = ledgers.iter_mut().map(taken).collect();
        if !matches!(errand, Errand::Fetch { .. }) {
            keep(&mut ledgers);
        }
        (outcome.tally, ledgers, log)
    };
    let (joined, _, log) = visit(&Errand::Join, scripts.join, Log::default());
    let sending = Sending { each: Some(messages), depth: 5, rate: None };
    let (posted, sent, log) = phase(&senders, scripts.post, log, 600, |plan, worker| Posting::new(mail, sending, plan, worker));
    assert!(posted.tally.is_done, "{:?}", posted.tally);
    let expected = (mail.senders..mail.clients()).map(|client| mail.expected(client, &senders, &sent)).collect();
    let (fetched, mut came, log) = visit(&Errand::Fetch { expected: Arc::new(expected) }, scripts.fetch, log);
    let settled = mail.settle((&senders, &sent), (&receivers, &came));
    *lines.borrow_mut() =
        came.iter_mut().map(|ledger| ledger.durable.as_mut().map(|durable| std::mem::take(&mut durable.lines))).collect();
    let (looked, _, _) = visit(&Errand::Look, scripts.look, log);
    Counts { joined, posted: posted.tally, fetched, looked, settled }
}

const MAIL: Mail = Mail { senders: 3, receivers: 7, groups: 2 };

#[test]
fn absent_clients_find_everything_in_order_and_once() {
    for (senders, receivers, groups, workers) in [(1, 1, 0, 1), (3, 7, 0, 2), (3, 7, 2, 3), (5, 2, 1, 4)] {
        let mail = Mail { senders, receivers, groups };
        let counts = offline(mail, 21, workers, scripts());
        counts.assert_exact(&mail);
        let each = u64::from(receivers) * if groups > 0 { 42 } else { 21 };
        assert_eq!((counts.settled.expected, counts.posted.sent), (each, u64::from(receivers + groups) * 21));
        assert!(counts.fetched.is_done && counts.looked.is_done);
    }
}

#[test]
fn faults_of_the_replay_are_found() {
    for (fault, want) in [
        (Fault::Drop, [1, 0, 0, 1, 0, 0]),
        (Fault::Duplicate, [0, 1, 0, 0, 1, 0]),
        (Fault::Swap, [0, 0, 1, 0, 0, 1]),
        (Fault::Flip, [1, 0, 0, 0, 0, 0]),
    ] {
        let counts = offline(MAIL, 21, 3, Scripts { fetch: pushes(&[(33, fault)]), ..scripts() });
        // A swapped pair may be of two senders: then only the channel has an order.
        let mut got = counts.exactness();
        got[2] = if fault == Fault::Swap { 1 } else { got[2] };
        assert_eq!(got, want, "{fault:?}");
    }
}

#[test]
fn what_is_replayed_though_it_was_acknowledged_is_found() {
    let counts = offline(MAIL, 21, 3, Scripts { look: Script { forgets_received: 2, ..script() }, ..scripts() });
    assert_eq!(counts.exactness(), [0; 6]);
    // Two messages in each of two channels of seven clients.
    assert_eq!((counts.looked.durable.duplicated, counts.looked.received), (28, 28));
}

#[test]
fn wrong_cursors_are_found() {
    let counts = offline(MAIL, 21, 3, Scripts { look: Script { forgets_read: 1, ..script() }, ..scripts() });
    assert_eq!((counts.exactness(), counts.looked.durable.wrong_cursors), ([0; 6], 14));
}

#[test]
fn a_message_that_the_gateway_forgets_is_lost_though_nobody_was_there() {
    let counts = offline(MAIL, 21, 3, Scripts { post: sends(&[(40, SendFault::Forget)]), ..scripts() });
    assert!(counts.settled.lost > 0 && !counts.fetched.is_done);
}

fn storm(script: Script, workers: u32) -> (Outcome, Settled) {
    let mail = Mail { senders: 3, receivers: 20, groups: 0 };
    let plan = Plan { receiving: Some(RECEIVING), returns: true, ..plan::example(mail.clients(), workers) };
    let config =
        StormConfig { mail, sending: Sending { each: None, depth: 2, rate: None }, drop_after_us: 200_000, jitter_ms: 300 };
    let mut world = World::new(&plan, script, |plan, worker| Storm::new(config, plan, worker));
    world.run_ms(500);
    let (start, end) = (world.now, world.now.plus_ms(1_000));
    world.tell(|| Message::Go { start, end });
    world.run_ms(1_800);
    let (outcome, ledgers) = world.finish();
    (outcome, config.settle(&plan, &ledgers))
}

#[test]
fn everybody_comes_back_from_a_storm_and_misses_nothing() {
    let (outcome, settled) = storm(script(), 3);
    let tally = outcome.tally;
    assert_eq!((tally.faults(), settled.lost, settled.lost_sequences, settled.renumbered, settled.reordered), (0, 0, 0, 0, 0));
    assert_eq!((tally.ready, tally.returned, tally.dropped, outcome.return_us.len()), (23, 20, 0, 20));
    assert_eq!((tally.received, tally.sent, tally.durable.accepted), (settled.expected, settled.expected, settled.expected));
    assert!(tally.durable.repeated > 0, "some were not acknowledged: {:?}", tally.durable);
    // With jitter, nobody is back at once, and all are soon after.
    let (p50, max) = (outcome.return_us.value_at_quantile(0.5), outcome.return_us.max());
    assert!((50_000..=250_000).contains(&p50) && (200_000..=310_000).contains(&max), "{p50}, {max}");
}

#[test]
fn refused_logins_are_repeated_until_everybody_is_back() {
    let logins = (25..40).map(|login| (login, weir::wire::ErrorCode::LoginRateExceeded)).collect();
    let (outcome, settled) = storm(Script { refused_logins: logins, ..script() }, 2);
    assert_eq!((outcome.tally.faults(), settled.lost, outcome.return_us.len()), (0, 0, 20));
    assert_eq!((outcome.tally.retried_returns, outcome.endings["LOGIN_RATE_EXCEEDED"].0), (15, 15));
    // A login that is refused for good is another matter.
    let denied = [(30, weir::wire::ErrorCode::TokenInvalid)].into();
    let (outcome, settled) = storm(Script { refused_logins: denied, ..script() }, 2);
    assert_eq!((outcome.tally.failed, outcome.return_us.len()), (1, 19));
    assert!(settled.lost > 0);
}

#[test]
fn a_message_lost_in_a_storm_is_found() {
    let (outcome, settled) = storm(pushes(&[(900, Fault::Drop)]), 3);
    // It may be lost with the connection as well, and then it comes again.
    assert_eq!((settled.lost, settled.lost_sequences, outcome.tally.faults()), (1, 1, 0));
}
