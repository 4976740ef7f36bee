//! One run: starts the workers, leads them through its phases, collects what they found.
#![forbid(unsafe_code)]

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use weir::{io::Tick, reactor::Kind};

use crate::{
    crew::Crew,
    fleet::{Ledger, Message, Outcome, PROGRESS_QUIET_US, Tally},
    measure::{self, CpuReading, MemoryGrowth, MemoryProbe},
    plan::Plan,
    progress::{Progress, Stage},
    reach::reach,
    scenario::Scenario,
    signals::Signals,
    stall::{Owed, SEND_STALL, StallClock},
};

/// How often the main thread looks at the workers.
const POLL: Duration = Duration::from_millis(5);
/// The ramp is given up when nobody became ready for this long.
const RAMP_STALL: Duration = Duration::from_secs(15);
/// The time for an orderly end of all connections, and how many may end in each further millisecond.
const LEAVES_PER_MS: u64 = 20;
const LEAVE_DEADLINE: Duration = Duration::from_secs(10);
/// After this the workers themselves are given up.
const EXIT_DEADLINE: Duration = Duration::from_secs(20);

/// How a run is measured.
#[derive(Clone, Debug)]
pub(crate) struct RunConfig {
    pub(crate) scenario: &'static str,
    pub(crate) kind: Kind,
    /// How long to wait for messages under way when the sending phase is over.
    pub(crate) drain: Duration,
    pub(crate) server_pid: Option<u32>,
    /// Go on when some clients could not log in.
    pub(crate) goes_on_without_all: bool,
    /// What the clients do once all of them are ready.
    pub(crate) leg: Leg,
    /// What they do after that, with the same connections.
    pub(crate) later: Vec<Leg>,
}

/// A sending (or holding) phase of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leg {
    pub(crate) duration: Duration,
    /// What the gateway owes for what is sent to it.
    pub(crate) owed: Owed,
    /// End it as soon as the scenario is through, before its duration is over.
    pub(crate) ends_when_done: bool,
}

/// What was measured of the gateway's process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerUse {
    pub(crate) cpu: Duration,
    /// From before the first connect until everybody was ready, or had failed.
    pub(crate) cpu_of_ramp: Duration,
    /// The same from before the first connect.
    pub(crate) cpu_since_start: Duration,
    pub(crate) cpu_cores: f64,
    /// Growth during the ramp; negative if it gave memory back.
    pub(crate) grown_bytes: i64,
}

impl ServerUse {
    /// As if the phase had begun with the first connect.
    pub(crate) fn since_start(self) -> ServerUse {
        ServerUse { cpu: self.cpu_since_start, ..self }
    }
}

/// What was measured of one phase.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LegUse {
    pub(crate) from: Tick,
    pub(crate) lasted: Duration,
    /// The counts before it and after the last message had arrived.
    pub(crate) before: Tally,
    pub(crate) after: Tally,
    /// Our own readings, at its beginning and its end.
    ours: (CpuReading, CpuReading),
    /// The gateway's: at the beginning, at the end, and after the last message had arrived.
    theirs: Option<[CpuReading; 3]>,
}

impl LegUse {
    /// Cores that this process kept busy.
    pub(crate) fn client_cpu_cores(&self) -> f64 {
        self.ours.1.cores_since(&self.ours.0)
    }

    /// Cores that the gateway kept busy.
    pub(crate) fn cpu_cores(&self) -> Option<f64> {
        self.theirs.map(|[start, end, _]| end.cores_since(&start))
    }

    /// The gateway's CPU time until the last message had arrived.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        self.theirs.map(|[start, _, after]| after.used_since(&start))
    }
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) outcome: Outcome,
    /// By worker.
    pub(crate) ledgers: Vec<Ledger>,
    /// When the workers began, and when they were told to send, by the clock of the run.
    pub(crate) started: Tick,
    pub(crate) sending_from: Option<Tick>,
    pub(crate) ramp: Duration,
    /// How long the (first) sending or holding phase really lasted.
    pub(crate) phase: Duration,
    /// All of them.
    pub(crate) legs: Vec<LegUse>,
    /// What it took to have everybody connected.
    pub(crate) memory: MemoryGrowth,
    pub(crate) client_cpu_cores: f64,
    pub(crate) server: Option<ServerUse>,
    /// What the server says that it is, if it does.
    pub(crate) server_version: Option<String>,
    /// Why the numbers are not what was asked for, beyond what the counts say.
    pub(crate) reasons: Vec<String>,
}

/// Runs a scenario.
///
/// # Errors
/// There is nothing to measure: the target cannot be reached, or a reactor cannot be built.
pub(crate) fn run<S: Scenario + 'static>(
    plan: Plan,
    config: &RunConfig,
    signals: &Signals,
    scenario: impl Fn(&Plan, u32) -> S,
) -> anyhow::Result<Finished> {
    let version = reach(&plan, config.server_pid)?;
    let server = config.server_pid.map(ServerProbe::new).transpose()?;
    let plan = Arc::new(plan);
    let crew = Crew::start(&plan, config.kind, |worker| scenario(&plan, worker))?;
    let progress = Progress::new(config.scenario, plan.connections);
    let mut lead = Lead { plan: Arc::clone(&plan), config, signals, crew, progress, reasons: Vec::new() };
    let finished = lead.run(server);
    lead.progress.end();
    finished.map(|finished| Finished { server_version: version, ..finished })
}

/// What the gateway's process had used when the run began.
struct ServerProbe {
    pid: u32,
    idle_bytes: u64,
    cpu: CpuReading,
}

impl ServerProbe {
    fn new(pid: u32) -> anyhow::Result<ServerProbe> {
        let looked_at = || format!("process {pid} of --server-pid cannot be looked at");
        let idle_bytes = measure::anonymous_bytes(pid).with_context(looked_at)?;
        Ok(ServerProbe { pid, idle_bytes, cpu: CpuReading::of(pid).with_context(looked_at)? })
    }
}

/// The main thread's part.
struct Lead<'a> {
    plan: Arc<Plan>,
    config: &'a RunConfig,
    signals: &'a Signals,
    crew: Crew,
    progress: Progress,
    reasons: Vec<String>,
}

impl Lead<'_> {
    fn run(&mut self, server: Option<ServerProbe>) -> anyhow::Result<Finished> {
        let memory = MemoryProbe::now(self.config.server_pid);
        let (ready, ramp) = self.ramp()?;
        let memory = memory.growth();
        let (cpu_of_ramp, grown_bytes) = match &server {
            Some(probe) => {
                let cpu = CpuReading::of(probe.pid).map(|now| now.used_since(&probe.cpu));
                let bytes = measure::anonymous_bytes(probe.pid).map(|now| now as i64 - probe.idle_bytes as i64);
                // If it is gone already, the first phase says so.
                (cpu.unwrap_or_default(), bytes.unwrap_or_default())
            }
            None => (Duration::ZERO, 0),
        };
        let (pid, before) = (server.as_ref().map(|probe| probe.pid), server.as_ref().map(|probe| probe.cpu));
        let mut legs = Vec::new();
        if ready {
            for leg in std::iter::once(self.config.leg).chain(self.config.later.clone()) {
                legs.push(self.leg(&leg, pid)?);
                if !self.reasons.is_empty() {
                    break;
                }
            }
        }
        let (outcome, ledgers) = self.leave()?;
        let first = legs.first();
        let server = first.and_then(|leg| leg.theirs).map(|[start, end, after]| ServerUse {
            cpu: after.used_since(&start),
            cpu_of_ramp,
            cpu_since_start: before.map_or(Duration::ZERO, |before| after.used_since(&before)),
            cpu_cores: end.cores_since(&start),
            grown_bytes,
        });
        Ok(Finished {
            outcome,
            ledgers,
            started: self.crew.started,
            sending_from: first.map(|leg| leg.from),
            ramp,
            phase: first.map_or(Duration::ZERO, |leg| leg.lasted),
            client_cpu_cores: first.map_or(0.0, LegUse::client_cpu_cores),
            legs,
            memory,
            server,
            server_version: None,
            reasons: std::mem::take(&mut self.reasons),
        })
    }

    /// Waits until everybody is ready. Returns whether the run can go on, and how long it took.
    fn ramp(&mut self) -> anyhow::Result<(bool, Duration)> {
        let all = u64::from(self.plan.connections);
        let start = Instant::now();
        let start_tick = self.crew.started;
        let (mut arrived, mut last) = (0, start);
        loop {
            let tally = self.crew.poll()?;
            self.progress.show(Stage::Ramp { elapsed: start.elapsed() }, &tally);
            if tally.ready + tally.failed > arrived {
                (arrived, last) = (tally.ready + tally.failed, Instant::now());
            }
            if tally.ready + tally.failed >= all {
                let goes_on = tally.ready == all || self.config.goes_on_without_all && tally.ready > 0;
                return Ok((goes_on, Duration::from_micros(tally.last_arrival.micros_since(start_tick))));
            }
            if last.elapsed() > RAMP_STALL {
                let missing = all - tally.ready - tally.failed;
                self.reasons.push(format!(
                    "{missing} of {all} clients neither logged in nor failed, and nothing changed for {} s",
                    RAMP_STALL.as_secs()
                ));
                return Ok((false, last - start));
            }
            if self.signals.interrupted() {
                self.reasons.push("interrupted while clients were connecting".into());
                return Ok((false, last - start));
            }
            thread::sleep(POLL);
        }
    }

    /// Lets the workers send (or hold) for the duration, then waits for what is under way.
    fn leg(&mut self, leg: &Leg, pid: Option<u32>) -> anyhow::Result<LegUse> {
        let server = || pid.and_then(|pid| CpuReading::of(pid).ok());
        let us = || CpuReading::of(std::process::id()).context("our own process cannot be looked at");
        let before = self.crew.poll()?;
        let (our_start, their_start) = (us()?, server());
        let begun = Instant::now();
        let start = self.crew.after(Duration::ZERO);
        let end = Tick(start.0 + leg.duration.as_micros() as u64);
        self.crew.tell(|| Message::Go { start, end });
        self.watch(leg, &before, begun)?;
        let lasted = begun.elapsed().min(leg.duration);
        let (our_end, their_end) = (us()?, server());
        let after = self.drain(leg, &before)?;
        let theirs = match (their_start, their_end, server()) {
            (Some(start), Some(end), Some(after)) => Some([start, end, after]),
            (_, _, _) => None,
        };
        if let (Some(pid), None) = (pid, theirs) {
            self.reasons.push(format!("process {pid} of --server-pid ended before the run did"));
        }
        Ok(LegUse { from: start, lasted, before, after, ours: (our_start, our_end), theirs })
    }

    /// The phase itself.
    fn watch(&mut self, leg: &Leg, before: &Tally, begun: Instant) -> anyhow::Result<()> {
        let mut clock = StallClock::start(begun);
        while begun.elapsed() < leg.duration {
            thread::sleep(POLL.min(leg.duration.saturating_sub(begun.elapsed())));
            let tally = self.crew.poll()?;
            self.progress.show(Stage::Phase { elapsed: begun.elapsed(), of: leg.duration }, &tally);
            if leg.ends_when_done && tally.is_done {
                break;
            }
            if clock.is_stalled(&tally, leg.owed.outstanding(&tally, before), Instant::now()) {
                self.reasons.push(format!("nothing arrived any more for {} s, so the run was ended early", SEND_STALL.as_secs()));
                break;
            }
            if tally.is_backlogged {
                // The result says why: see `Report`.
                break;
            }
            if self.signals.interrupted() {
                self.reasons.push(format!("interrupted after {:.1} s", begun.elapsed().as_secs_f64()));
                break;
            }
        }
        self.crew.tell(|| Message::Halt);
        if leg.ends_when_done && self.reasons.is_empty() && begun.elapsed() >= leg.duration {
            self.reasons.push(format!("{:?} were not enough for this phase; raise --duration", leg.duration));
        }
        Ok(())
    }

    /// Waits until everything that was sent has arrived, or that takes too long.
    fn drain(&mut self, leg: &Leg, before: &Tally) -> anyhow::Result<Tally> {
        let begun = Instant::now();
        let (mut moved, mut last, mut reports) = (None, begun, 0);
        // Silence counts only while the workers are there to hear it: on a busy machine they may get no turn for seconds.
        let reports_min = self.config.drain.as_micros() as u64 / PROGRESS_QUIET_US * u64::from(self.plan.workers) / 4;
        loop {
            thread::sleep(POLL);
            let tally = self.crew.poll()?;
            self.progress.show(Stage::Drain { elapsed: begun.elapsed() }, &tally);
            if moved != Some(tally) {
                (moved, last, reports) = (Some(tally), Instant::now(), self.crew.reports);
            }
            let is_settled = tally.is_quiet && leg.owed.outstanding(&tally, before) == 0;
            let is_silent = last.elapsed() > self.config.drain && self.crew.reports - reports >= reports_min;
            if is_settled || is_silent {
                return Ok(tally);
            }
            if begun.elapsed() > self.config.drain * 10 {
                self.reasons
                    .push(format!("messages were still arriving {} s after the last was sent", begun.elapsed().as_secs()));
                return Ok(tally);
            }
        }
    }

    /// Ends all connections and collects the results.
    fn leave(&mut self) -> anyhow::Result<(Outcome, Vec<Ledger>)> {
        // Connections end at the rate at which they come.
        let more = Duration::from_millis(u64::from(self.plan.connections) / LEAVES_PER_MS);
        let deadline = self.crew.after(LEAVE_DEADLINE + more);
        self.crew.tell(|| Message::Leave { deadline });
        let begun = Instant::now();
        while self.crew.outcomes.iter().any(Option::is_none) {
            thread::sleep(POLL);
            let tally = self.crew.poll()?;
            self.progress.show(Stage::Leave { elapsed: begun.elapsed() }, &tally);
            if begun.elapsed() > EXIT_DEADLINE + more {
                bail!("the workers did not end their connections within {} s", begun.elapsed().as_secs());
            }
        }
        self.crew.tell(|| Message::Exit);
        for thread in self.crew.threads.drain(..) {
            match thread.join() {
                Ok(result) => result.context("a worker failed at its end")?,
                Err(_) => bail!("a worker panicked at its end"),
            }
        }
        let mut sum = Outcome::new();
        let mut ledgers = Vec::new();
        for outcome in self.crew.outcomes.drain(..).flatten() {
            sum.merge(&outcome);
            ledgers.push(outcome.ledger);
        }
        Ok((sum, ledgers))
    }
}
