//! `offline`, phase by phase: each is a run of its own, and all of them make one report.
#![forbid(unsafe_code)]

use std::{cell::RefCell, sync::Arc, time::Duration};

use weir::{io::Tick, reactor::Kind};

use crate::{
    args::OfflineArgs,
    durable::Lines,
    fleet::Outcome,
    launch::{CONNECTING_DEFAULT, Failure, Wanted, plan_for, receiving, run_config},
    measure::MemoryGrowth,
    plan::Plan,
    report::{Load, OfflineReport, Report, per},
    run::{self, Finished},
    scenario::{
        Settled,
        mail::{Mail, Sending},
        offline::{Errand, Inbox, Posting},
    },
    signals::Signals,
    stall::Owed,
};

/// How long clients that have everything stay, to see that nothing comes.
const LOOK: Duration = Duration::from_millis(500);

/// Runs `offline`.
///
/// # Errors
/// There is no result.
pub(crate) fn report(args: &OfflineArgs, signals: &Signals) -> Result<Report, Failure> {
    if args.groups > args.connections {
        return Err(Failure::Usage(format!("{} groups are more than {} clients", args.groups, args.connections)));
    }
    let mail = Mail { senders: args.senders, receivers: args.connections, groups: args.groups };
    let wanted = Wanted {
        connections: args.connections,
        active: args.senders,
        payload_bytes: args.payload.bytes,
        connect_rate: args.max_rate,
        connecting: CONNECTING_DEFAULT,
        receiving: Some(receiving(&args.receiving)),
        returns: false,
    };
    let (plan, kind) = plan_for(&args.common, wanted)?;
    let receivers = Plan { first_client: mail.senders, clients: mail.clients(), ..plan };
    let senders = Plan {
        first_client: 0,
        connections: mail.senders,
        workers: receivers.workers.min(mail.senders),
        connect_rate: None,
        receiving: None,
        ..receivers.clone()
    };
    Ok(Phases { args, mail, receivers, senders, kind, signals }.run()?)
}

/// What all phases share.
struct Phases<'a> {
    args: &'a OfflineArgs,
    mail: Mail,
    receivers: Plan,
    senders: Plan,
    kind: Kind,
    signals: &'a Signals,
}

/// What came of those phases that there were.
#[derive(Default)]
struct Results {
    joined: Option<Finished>,
    posted: Option<Finished>,
    fetched: Option<Finished>,
    looked: Option<Finished>,
    settled: Settled,
}

impl Phases<'_> {
    fn run(&self) -> anyhow::Result<Report> {
        let mut results = Results::default();
        self.go(&mut results)?;
        Ok(self.report(results))
    }

    /// Runs one phase after another, until one is not as it should be.
    fn go(&self, results: &mut Results) -> anyhow::Result<()> {
        let mut lines = None;
        if self.mail.groups > 0 {
            let joined = results.joined.insert(self.visit("offline, joining", &Errand::Join, Vec::new())?);
            if !is_sound(joined) {
                return Ok(());
            }
            lines = Some(take_lines(joined));
        }
        let posted = results.posted.insert(self.post()?);
        if !is_sound(posted) {
            return Ok(());
        }
        let expected = |client| self.mail.expected(client, &self.senders, &posted.ledgers);
        let expected: Vec<u32> = (self.mail.senders..self.mail.clients()).map(expected).collect();
        let errand = Errand::Fetch { expected: Arc::new(expected) };
        let fetched = results.fetched.insert(self.visit("offline, fetching", &errand, lines.unwrap_or_default())?);
        results.settled = self.mail.settle((&self.senders, &posted.ledgers), (&self.receivers, &fetched.ledgers));
        if is_sound(fetched) {
            let lines = take_lines(fetched);
            results.looked = Some(self.visit("offline, looking", &Errand::Look, lines)?);
        }
        Ok(())
    }

    /// The senders come, and send to everybody.
    fn post(&self) -> anyhow::Result<Finished> {
        let sending = Sending { each: Some(self.args.messages), depth: self.args.depth, rate: None };
        let mut config = run_config("offline, sending", self.kind, &self.args.common);
        config.leg.owed = Owed { answers: true, ..Owed::default() };
        config.leg.ends_when_done = true;
        run::run(self.senders.clone(), &config, self.signals, |plan, worker| Posting::new(self.mail, sending, plan, worker))
    }

    /// The receivers come. `lines`: where they were, by worker, if they were there before.
    fn visit(&self, name: &'static str, errand: &Errand, lines: Vec<Lines>) -> anyhow::Result<Finished> {
        let deliveries = match errand {
            Errand::Fetch { expected } => expected.iter().map(|count| u64::from(*count)).sum(),
            Errand::Join | Errand::Look => 0,
        };
        let mut config = run_config(name, self.kind, &self.args.common);
        config.leg.owed = Owed { deliveries, ..Owed::default() };
        config.leg.ends_when_done = !matches!(errand, Errand::Look);
        if !config.leg.ends_when_done {
            config.leg.duration = LOOK;
        }
        let lines: RefCell<Vec<_>> = RefCell::new(lines.into_iter().map(Some).collect());
        run::run(self.receivers.clone(), &config, self.signals, |plan, worker| {
            let lines = lines.borrow_mut().get_mut(worker as usize).and_then(Option::take);
            Inbox::new(self.mail, errand, plan, worker, lines)
        })
    }

    fn report(&self, mut results: Results) -> Report {
        // The senders' clock was another one.
        for finished in results.fetched.iter_mut().chain(&mut results.looked) {
            finished.outcome.latency_us.reset();
        }
        let mut outcome = Outcome::new();
        let mut reasons = Vec::new();
        let phases = [&results.joined, &results.posted, &results.fetched, &results.looked];
        for finished in phases.into_iter().flatten() {
            outcome.merge(&finished.outcome);
            reasons.extend(finished.reasons.iter().cloned());
        }
        let (posted, fetched) = (results.posted.as_ref(), results.fetched.as_ref());
        // Of the phases in which receivers come, this is the one that is measured.
        outcome.tally.ready = fetched.map_or(0, |finished| finished.outcome.tally.ready);
        outcome.tally.received = fetched.map_or(0, |finished| finished.outcome.tally.received);
        let sending = posted.map_or(Duration::ZERO, sending_time);
        let replay = fetched.map_or(Duration::ZERO, |fetched| {
            Duration::from_micros(fetched.outcome.tally.last_received.micros_since(fetched.started))
        });
        let again = results.looked.as_ref().map(|finished| finished.outcome.tally);
        let offline = OfflineReport {
            senders: self.mail.senders,
            messages: self.args.messages,
            groups: self.mail.groups,
            replay_s: replay.as_secs_f64(),
            looked: again.map_or(0, |tally| tally.ready),
            came_again: again.map_or(0, |tally| tally.received + tally.durable.repeated),
        };
        let finished = Finished {
            outcome,
            ledgers: Vec::new(),
            started: Tick(0),
            sending_from: None,
            ramp: fetched.map_or(Duration::ZERO, |finished| finished.ramp),
            phase: sending,
            legs: Vec::new(),
            memory: MemoryGrowth::default(),
            client_cpu_cores: posted.map_or(0.0, |finished| finished.client_cpu_cores),
            server: fetched.and_then(|finished| finished.server).map(|server| server.since_start()),
            server_version: phases.into_iter().flatten().find_map(|finished| finished.server_version.clone()),
            reasons,
        };
        let mut config = run_config("offline", self.kind, &self.args.common);
        config.leg.owed.answers = true;
        let load = Load { depth: Some(self.args.depth), offline: Some(offline), ..Load::default() };
        let mut report = Report::new(&self.receivers, &config, load, &finished, &results.settled);
        report.rate_per_s = if replay.is_zero() { 0.0 } else { report.received as f64 / replay.as_secs_f64() };
        if let (Some(server), Some(used)) = (&mut report.server, posted.and_then(|posted| posted.server)) {
            server.cpu_ns_per_accepted = Some(per(used.cpu, finished.outcome.tally.durable.accepted));
        }
        report
    }
}

/// Whether the next phase makes sense.
fn is_sound(finished: &Finished) -> bool {
    let tally = &finished.outcome.tally;
    finished.reasons.is_empty() && tally.failed == 0 && tally.dropped == 0
}

/// From the first SEND to the last ACCEPTED.
fn sending_time(posted: &Finished) -> Duration {
    let from = posted.sending_from.unwrap_or(posted.started);
    Duration::from_micros(posted.outcome.tally.last_accepted.micros_since(from))
}

/// Where the channels of a phase are at its end, by worker.
fn take_lines(finished: &mut Finished) -> Vec<Lines> {
    let durable = finished.ledgers.iter_mut().map(|ledger| ledger.durable.take().expect("receivers keep lines"));
    durable.map(|durable| durable.lines).collect()
}
