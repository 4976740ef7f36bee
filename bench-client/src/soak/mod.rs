//! `soak`: one gateway for a long time, under mixed traffic that comes and goes in cycles.
//!
//! Each part of the traffic is a process of its own, this very program, so that one can be slow (stopped and continued) without the others.
//! Between the cycles nobody is connected: what the gateway's memory does not give back then, it keeps.
#![forbid(unsafe_code)]

mod verdict;

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use serde_json::Value;

use self::verdict::{Cycle, SoakReport};
use crate::{
    args::SoakArgs,
    child::Server,
    gateway,
    launch::{self, Failure},
    measure,
    report::write_json,
    signals::Signals,
};

/// What a cycle is made of. `DURATION` stands for its length, and `THIRD` for a third of it. All but the slow part have a schedule, which two
/// cores can hold: a machine that is always busy shows no drift.
const PARTS: [(&str, &str); 5] = [
    ("talk", "route --connections 200 --rate 1000 --duration DURATION"),
    ("groups", "fanout --members 100 --groups 4 --durable --rate 100 --duration DURATION"),
    ("kept", "route --connections 100 --durable --rate 1000 --duration DURATION"),
    ("waves", "storm --connections 200 --senders 8 --rate 200 --drop-after THIRD --jitter-ms 500 --duration DURATION"),
    (SLOW, "fanout --members 50 --window 1 --durable --reconnect --duration DURATION"),
];
/// The part whose latency is judged: it has a schedule, and shares the gateway with all the others.
const JUDGED: &str = "talk";
/// The part that is stopped and continued, and for how long each.
const SLOW: &str = "slow";
const STOPPED: Duration = Duration::from_millis(1_500);
const RUNNING: Duration = Duration::from_millis(1_000);
/// A part that is not through so long after its cycle hangs.
const PATIENCE: Duration = Duration::from_secs(120);
/// After a cycle, before memory is read.
const REST: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(20);

/// Runs it. Gives the exit code.
///
/// # Errors
/// There is no result.
pub(crate) fn soak(args: &SoakArgs) -> Result<u8, Failure> {
    let cycles = (args.duration.as_secs_f64() / args.cycle.as_secs_f64()).floor() as u32;
    if cycles < verdict::CYCLES_MIN {
        return Err(Failure::Usage(format!(
            "{:?} in cycles of {:?} are {cycles}, and it takes {} to tell growth from a beginning: raise --duration, or lower --cycle",
            args.duration,
            args.cycle,
            verdict::CYCLES_MIN
        )));
    }
    let folder = tempfile::Builder::new().prefix("weir-soak-").tempdir().context("no directory for the store can be made")?;
    let mut server = start(&gateway::program(args.weir.as_deref())?, folder.path())?;
    let signals = launch::block_signals()?;
    let target = server.announced(gateway::ANNOUNCEMENT, &signals)?;
    let begun = Instant::now();
    let mut report = SoakReport::new(args, launch::pick(None)?, measure::anonymous_bytes(server.id())?);
    for number in 0..cycles {
        let soak = Soak { folder: folder.path(), target: &target, length: args.cycle, signals: &signals };
        let mut cycle = soak.run()?;
        thread::sleep(REST);
        cycle.server_bytes = measure::anonymous_bytes(server.id()).context("the gateway is gone")?;
        cycle.ended_s = begun.elapsed().as_secs_f64();
        eprintln!("soak  cycle {} of {cycles}: {}", number + 1, cycle.words());
        let is_last = cycle.is_faulty() || signals.interrupted();
        report.cycles.push(cycle);
        if is_last {
            break;
        }
    }
    if signals.interrupted() {
        report.invalid_reasons.push("interrupted".into());
    }
    if let Err(cause) = gateway::stop(&mut server, gateway::STOP_DEADLINE) {
        report.invalid_reasons.push(format!("the gateway did not stop as it should: {cause:#}"));
    }
    report.judge();
    report.print();
    if let Some(path) = &args.json {
        write_json(path, &report)?;
    }
    Ok(report.exit_code())
}

/// A gateway on a real disk, with retention and windows that are full within the first cycles, so that nothing grows for good reasons.
fn start(program: &Path, folder: &Path) -> anyhow::Result<Server> {
    let mut command = gateway::serve(Command::new(program));
    command.args(["--dev", "--shards", "2", "--data"]).arg(folder.join("data"));
    command.args(["--limits-frames-per-second", "0", "--limits-bytes-per-second", "0", "--store-dedup-messages", "10000"]);
    command.args([
        "--store-channel-messages-max",
        "1000",
        "--store-memtable-bytes",
        "16777216",
        "--store-cache-bytes",
        "8388608",
    ]);
    let log = File::create(folder.join("gateway.log")).context("the gateway's log cannot be written")?;
    gateway::start(command.stderr(log))
}

/// One cycle.
struct Soak<'a> {
    folder: &'a Path,
    target: &'a str,
    length: Duration,
    signals: &'a Signals,
}

/// A part that runs, and is ended with this value.
struct Running {
    name: &'static str,
    child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Soak<'_> {
    fn run(&self) -> anyhow::Result<Cycle> {
        let mut running = PARTS.into_iter().map(|(name, words)| self.spawn(name, words)).collect::<anyhow::Result<Vec<_>>>()?;
        let mut cycle = Cycle::default();
        let begun = Instant::now();
        let mut is_stopped = false;
        while !running.is_empty() {
            thread::sleep(LOOK);
            let turn = begun.elapsed().as_millis() % (STOPPED + RUNNING).as_millis();
            let stop = turn >= RUNNING.as_millis() && begun.elapsed() < self.length && !self.signals.interrupted();
            if let Some(slow) = running.iter().find(|part| part.name == SLOW)
                && stop != is_stopped
            {
                signal::kill(Pid::from_raw(slow.child.id() as i32), if stop { Signal::SIGSTOP } else { Signal::SIGCONT })?;
                is_stopped = stop;
            }
            let mut at = 0;
            while at < running.len() {
                if let Some(status) = running[at].child.try_wait()? {
                    let part = running.swap_remove(at);
                    let code = status.code().with_context(|| format!("part {:?} was killed: {status}", part.name))?;
                    cycle.add(part.name, code, &self.result(part.name)?, part.name == JUDGED);
                } else {
                    at += 1;
                }
            }
            if begun.elapsed() > self.length + PATIENCE {
                bail!("part {:?} did not end within {PATIENCE:?}", running[0].name);
            }
            if self.signals.interrupted() {
                return Ok(cycle);
            }
        }
        Ok(cycle)
    }

    fn spawn(&self, name: &'static str, words: &str) -> anyhow::Result<Running> {
        let millis = |time: Duration| format!("{}ms", time.as_millis());
        let words = words.replace("DURATION", &millis(self.length)).replace("THIRD", &millis(self.length / 3));
        let json = self.json(name);
        let _ = fs::remove_file(&json);
        let mut command = Command::new(std::env::current_exe().context("this program's own place is not known")?);
        command
            .args(words.split(' '))
            .args(["--target", self.target, "--client-prefix", name, "--workers", "1", "--json"])
            .arg(json);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(Running { name, child })
    }

    fn json(&self, name: &str) -> std::path::PathBuf {
        self.folder.join(format!("{name}.json"))
    }

    fn result(&self, name: &str) -> anyhow::Result<Value> {
        let text = fs::read_to_string(self.json(name)).with_context(|| format!("part {name:?} left no result"))?;
        serde_json::from_str(&text).with_context(|| format!("the result of part {name:?} cannot be read"))
    }
}
