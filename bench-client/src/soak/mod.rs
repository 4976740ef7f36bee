//! `soak`: one gateway for a long time, under mixed traffic that comes and goes in cycles.
//!
//! Each part of the traffic is a process of its own, this very program, so that one can be slow (stopped and continued) without the others.
//! Between the cycles nobody is connected: what the gateway's memory does not give back then, it keeps.
#![forbid(unsafe_code)]

mod growth;
mod verdict;

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Stdio},
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
    child::{self, Server},
    gateway,
    launch::{self, Failure},
    measure,
    report::write_json,
    signals::Signals,
};

/// What a cycle is made of. `DURATION` stands for its length, and `THIRD` for a third of it. All but the slow part have a schedule, which two
/// cores can hold: a machine that is always busy shows no drift.
const PARTS: [(&str, &str); 6] = [
    ("talk", "route --connections 200 --rate 1000 --duration DURATION"),
    (SELDOM, "route --connections 1000 --rate 50 --duration DURATION"),
    ("groups", "fanout --members 100 --groups 4 --durable --rate 100 --duration DURATION"),
    ("kept", "route --connections 100 --durable --rate 1000 --duration DURATION"),
    ("waves", "storm --connections 200 --senders 8 --rate 200 --drop-after THIRD --jitter-ms 500 --duration DURATION"),
    (SLOW, "fanout --members 50 --window 1 --durable --reconnect --duration DURATION"),
];
/// The part whose latency is judged: it has a schedule, and shares the gateway with all the others.
const JUDGED: &str = "talk";
/// The part whose clients send so seldom that the gateway waits for each by a poll, and takes the receive up again: every 20 s. They are many,
/// so that one late send is no thousandth of all.
const SELDOM: &str = "seldom";
/// The part that is stopped and continued, and for how long each.
const SLOW: &str = "slow";
const STOPPED: Duration = Duration::from_millis(1_500);
const RUNNING: Duration = Duration::from_millis(1_000);
/// The shortest in which all parts come to their point, and the longest that is chosen without a word.
const CYCLE_MIN: Duration = Duration::from_millis(2_500);
const CYCLE_MAX_DEFAULT: Duration = Duration::from_secs(30);
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
    let (length, cycles) = cycles(args).map_err(Failure::Usage)?;
    let folder = tempfile::Builder::new().prefix("weir-soak-").tempdir().context("no directory for the store can be made")?;
    let mut server = start(&gateway::program(args.weir.as_deref())?, folder.path())?;
    let signals = launch::block_signals()?;
    let target = server.announced(gateway::ANNOUNCEMENT, &signals)?;
    let begun = Instant::now();
    let mut report = SoakReport::new(length, launch::pick(None)?, measure::anonymous_bytes(server.id())?);
    for number in 0..cycles {
        let soak = Soak { folder: folder.path(), target: &target, length, signals: &signals };
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

/// How long each cycle is, and how many there are.
fn cycles(args: &SoakArgs) -> Result<(Duration, u128), String> {
    let least = verdict::CYCLES_MIN;
    let length = args.cycle.unwrap_or((args.duration / least).clamp(CYCLE_MIN, CYCLE_MAX_DEFAULT));
    if length < CYCLE_MIN {
        return Err(format!(
            "--cycle {length:?} is too short for clients to come, talk, drop, return and leave: {CYCLE_MIN:?} is the least"
        ));
    }
    let cycles = args.duration.as_nanos() / length.as_nanos();
    if cycles < least.into() {
        return Err(format!(
            "{:?} in cycles of {length:?} are {cycles}, and it takes {least} to tell growth from a beginning: raise --duration, to {:?} at \
             least, or lower --cycle",
            args.duration,
            CYCLE_MIN * least
        ));
    }
    Ok((length, cycles))
}

/// A gateway on a real disk, with retention and windows that are full within the first cycles, so that nothing grows for good reasons.
fn start(program: &Path, folder: &Path) -> anyhow::Result<Server> {
    let mut command = gateway::serve(program)?;
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
        let mut command = child::ourselves()?;
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

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use weir::limits::RECEIVE_IDLE_MS_DEFAULT;

    use super::*;
    use crate::args::{Cli, Command};

    fn args(words: &str) -> SoakArgs {
        match Cli::try_parse_from(format!("bench-client soak {words}").split_whitespace()).expect("it is understood").command {
            Command::Soak(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn cycles_fit_the_time_there_is() {
        for (words, millis, count) in [
            ("", 30_000, 60),
            ("--duration 8h", 30_000, 960),
            ("--duration 4m", 30_000, 8),
            ("--duration 1m", 7_500, 8),
            ("--duration 20s", 2_500, 8),
            ("--duration 20003ms", 2_500, 8),
            ("--duration 1m --cycle 5s", 5_000, 12),
        ] {
            let (length, cycles) = cycles(&args(words)).expect(words);
            assert_eq!((length.as_millis(), cycles), (millis, count), "{words}");
        }
        for (words, told) in [
            ("--duration 19s", "raise --duration, to 20s at least"),
            ("--duration 1m --cycle 10s", "are 6, and it takes 8"),
            ("--duration 1m --cycle 2s", "--cycle 2s is too short"),
        ] {
            let refused = cycles(&args(words)).expect_err(words);
            assert!(refused.contains(told), "{words}: {refused}");
        }
    }

    #[test]
    fn clients_that_send_seldom_are_idle_for_the_gateway_between_their_messages() {
        let (_, words) = PARTS.into_iter().find(|(name, _)| *name == SELDOM).expect("it is a part");
        let words = format!("bench-client {}", words.replace("DURATION", "30s"));
        let Command::Route(route) = Cli::try_parse_from(words.split(' ')).expect("it is understood").command else {
            panic!("{words}");
        };
        let between_s = f64::from(route.connections) / route.rate.expect("a schedule");
        // It may take twice as long until the gateway finds a connection idle.
        assert!(between_s * 1_000.0 >= 2.0 * f64::from(RECEIVE_IDLE_MS_DEFAULT), "{between_s}");
        assert!(between_s < CYCLE_MAX_DEFAULT.as_secs_f64(), "everybody sends in each cycle");
    }
}
