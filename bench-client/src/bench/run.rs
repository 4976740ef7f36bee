//! One run: the server, the load as a process of its own, and what it found.
#![forbid(unsafe_code)]

use std::{
    cell::RefCell,
    fs::{self, File},
    os::unix::process::CommandExt as _,
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use serde_json::Value;

use super::{
    cases::{KNEE_PART, Load, Place, with_json, words},
    knee,
    servers::{SECRET, Servers, last_words},
    summary::Run,
};
use crate::{
    args::{CaseName, Size, TargetName},
    child,
};

/// What a run may take beyond its sending phase: for the ramp, the last messages and the end.
const SPARE: Duration = Duration::from_secs(120);
/// How often the load is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// What single runs would take from the environment, and what is none of the bench's.
const VARIABLES: [&str; 2] = ["BENCH_TOKEN", "BENCH_HS256_SECRET"];

/// Beyond the knee latency is more than this, or the schedule cannot be held.
const KNEE_P99_US_MAX: f64 = 5_000.0;

/// What all runs share.
pub(super) struct Runner<'a> {
    pub(super) servers: Servers<'a>,
    pub(super) size: Size,
    pub(super) duration: Duration,
    /// The knees that are known.
    pub(super) knees: RefCell<Vec<(TargetName, f64)>>,
}

/// That we are to stop.
#[derive(Debug)]
pub(super) struct Interrupted;

impl Runner<'_> {
    /// Runs a scenario with a target once. What goes wrong is part of the result.
    ///
    /// # Errors
    /// We are to stop.
    pub(super) fn run(&self, round: u32, place: u32, case: CaseName, target: TargetName) -> Result<Run, Interrupted> {
        let mut run = Run { round, place, ..Run::default() };
        if let Err(cause) = self.measure(&mut run, case, target) {
            run.failure = Some(format!("{cause:#}"));
        }
        if self.servers.signals.interrupted() { Err(Interrupted) } else { Ok(run) }
    }

    fn measure(&self, run: &mut Run, case: CaseName, target: TargetName) -> anyhow::Result<()> {
        if let Some(reactor) = target.reactor_of_limit() {
            let core = self.servers.cores.of_server(1)[0];
            let place = Place::Bare { reactor, core };
            return self.load(run, words((case.load(), None), target, &self.size, self.duration, &place), false);
        }
        let server = self.servers.start(target, case)?;
        let place = Place::There { target: &server.target, pid: server.id(), metrics: server.metrics.as_deref() };
        let has_tokens = case == CaseName::Connect && target.reactor_of_weir().is_some();
        let rate = match case.load() {
            Load::Paced { depth } => self.knee(depth, target, &place).map(Some),
            Load::Route { .. } | Load::Fanout { .. } | Load::Connect => Ok(None),
        };
        let loaded = rate.and_then(|knee| {
            run.knee_per_s = knee;
            let load = (case.load(), knee.map(|knee| knee * KNEE_PART));
            self.load(run, words(load, target, &self.size, self.duration, &place), has_tokens)
        });
        // It is asked to end whatever the load found; the first thing that went wrong is told.
        loaded.and(server.stop())
    }

    /// The highest rate that the server keeps up with, and its load does, too: searched once, below what the closed loop reaches.
    fn knee(&self, depth: u32, target: TargetName, place: &Place<'_>) -> anyhow::Result<f64> {
        if let Some((_, knee)) = self.knees.borrow().iter().find(|(known, _)| *known == target) {
            return Ok(*knee);
        }
        let try_out = |load| {
            let mut run = Run::default();
            self.load(&mut run, words(load, target, &self.size, self.duration, place), false)?;
            anyhow::Ok(run)
        };
        let closed = try_out((Load::Route { depth, crosses: false }, None))?;
        let reached = closed.number("/rate_per_s").filter(|rate| closed.is_valid() && *rate > 0.0);
        let reached =
            reached.with_context(|| format!("the closed loop before was not valid: {}", closed.problems().join("; ")))?;
        let knee = knee::search(reached, |rate| {
            let run = try_out((Load::Paced { depth }, Some(rate)))?;
            if self.servers.signals.interrupted() {
                bail!("interrupted");
            }
            Ok(run.is_valid() && run.number("/latency_us/p99").is_some_and(|p99| p99 <= KNEE_P99_US_MAX))
        })?;
        self.knees.borrow_mut().push((target, knee));
        Ok(knee)
    }

    /// Runs this program once more, with these words.
    fn load(&self, run: &mut Run, words: Vec<String>, has_tokens: bool) -> anyhow::Result<()> {
        let (json, log) = (self.servers.folder.join("result.json"), self.servers.folder.join("load.log"));
        let _ = fs::remove_file(&json);
        let file = File::create(&log).with_context(|| format!("{} cannot be written", log.display()))?;
        let mut command = child::ourselves()?;
        // Ctrl-C of a terminal is for us: the load is told by us, once, because it takes a second time for an order to end at once.
        command.process_group(0);
        command.args(with_json(words, &json)).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        VARIABLES.iter().for_each(|name| {
            command.env_remove(name);
        });
        if has_tokens {
            command.env("BENCH_HS256_SECRET", SECRET);
        }
        let status = self.wait(&mut command)?;
        run.exit_status = status.code();
        let text = fs::read_to_string(&json);
        run.report = text.ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
        if run.report.is_none() {
            let words = last_words(&log).unwrap_or_else(|| "it said nothing".into());
            bail!("the load has no result, it ended with {status}: {words}");
        }
        Ok(())
    }

    /// Waits until the load ends. If we are to stop, so is it.
    fn wait(&self, command: &mut Command) -> anyhow::Result<ExitStatus> {
        let cores = self.servers.cores;
        let spawn = || command.spawn();
        let mut child = cores.on(cores.of_load(), spawn)?.context("the load cannot be started")?;
        let pid = Pid::from_raw(child.id() as i32);
        let deadline = Instant::now() + self.duration + SPARE;
        let mut was_told = false;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if self.servers.signals.interrupted() && !was_told {
                was_told = true;
                signal::kill(pid, Signal::SIGTERM)?;
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!("the load did not end within {:?} and was killed", self.duration + SPARE);
            }
            thread::sleep(LOOK);
        }
    }
}
