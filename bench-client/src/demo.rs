//! `make demo`: a gateway, 2,000 clients, about 20 seconds, one table.
#![forbid(unsafe_code)]

use std::{
    env,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Parser;
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};

use crate::{
    args::{Cli, Command as Subcommand, DemoArgs, ReactorArg},
    launch::{self, Failure},
    offline,
    report::Report,
    signals::Signals,
    table::{self, grouped, micros},
};

/// Clients, and the gateway's shards.
const CLIENTS: &str = "2000";
const SHARDS: &str = "4";
/// What is shown, one after another.
const PARTS: [(&str, &[&str]); 3] = [
    ("each client with one other", &["route", "--connections", CLIENTS, "--depth", "4", "--duration", "8s"]),
    ("one client to a group of all", &["fanout", "--members", CLIENTS, "--window", "4", "--duration", "8s"]),
    ("to clients that were away", &["offline", "--connections", CLIENTS, "--messages", "50", "--duration", "15s"]),
];
/// The gateway is up after this long, or not at all.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// The gateway's own deadline is 10 s.
const STOP_DEADLINE: Duration = Duration::from_secs(12);
/// The first line of the gateway's standard output, before its address.
const ANNOUNCEMENT: &str = "weir: listening on ";

/// Runs the demo. Gives the exit code.
///
/// # Errors
/// There is no result.
pub(crate) fn demo(args: &DemoArgs) -> Result<u8, Failure> {
    let mut gateway = Gateway::start(&program(args)?, args.reactor)?;
    // After the start, because a child inherits what is blocked; before any thread, because one that blocks nothing would die of the
    // signal, and the whole process with it.
    let signals = launch::block_signals()?;
    gateway.target = gateway.announced(&signals)?;
    println!("A gateway with {SHARDS} shards listens on {}; {CLIENTS} clients connect to it.", gateway.target);
    let mut parts = Vec::new();
    for (label, words) in PARTS {
        let report = match parse(&gateway.target, args.reactor, words)? {
            Subcommand::Route(route) => launch::route_report(&route, &signals),
            Subcommand::Fanout(fanout) => launch::fanout_report(&fanout, &signals),
            Subcommand::Offline(offline) => offline::report(&offline, &signals),
            Subcommand::Connect(_) | Subcommand::Storm(_) | Subcommand::Demo(_) => unreachable!("the commands are constants"),
        }?;
        let code = report.exit_code();
        parts.push((label, report));
        if code != 0 {
            break;
        }
    }
    let stopped = gateway.stop();
    print(&parts, &stopped);
    let worst = parts.iter().map(|(_, report)| report.exit_code()).find(|code| *code != 0);
    Ok(worst.unwrap_or(if stopped.is_ok() { 0 } else { 2 }))
}

/// The gateway's program.
fn program(args: &DemoArgs) -> anyhow::Result<PathBuf> {
    if let Some(path) = &args.weir {
        return Ok(path.clone());
    }
    let beside = env::current_exe().context("this program's own place is not known")?.with_file_name("weir");
    if !beside.exists() {
        bail!("there is no gateway at {}: build it with `cargo build --release`, or name it with --weir PATH", beside.display());
    }
    Ok(beside)
}

/// The arguments of one part.
fn parse(target: &str, reactor: Option<ReactorArg>, part: &[&str]) -> anyhow::Result<Subcommand> {
    let mut words = vec!["bench-client"];
    words.extend(part);
    words.extend(["--target", target]);
    words.extend(reactor_words(reactor));
    Ok(Cli::try_parse_from(words)?.command)
}

fn reactor_words(reactor: Option<ReactorArg>) -> &'static [&'static str] {
    match reactor {
        None => &[],
        Some(ReactorArg::Uring) => &["--reactor", "uring"],
        Some(ReactorArg::Epoll) => &["--reactor", "epoll"],
    }
}

/// The gateway's process, which does not outlive this value.
struct Gateway {
    child: Child,
    target: String,
}

impl Gateway {
    fn start(program: &Path, reactor: Option<ReactorArg>) -> anyhow::Result<Gateway> {
        let child = Command::new(program)
            .args(["serve", "--dev", "--shards", SHARDS, "--listen", "127.0.0.1:0"])
            .args(reactor_words(reactor))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Ctrl-C is for us: we stop the gateway in good order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("the gateway {} cannot be started", program.display()))?;
        Ok(Gateway { child, target: String::new() })
    }

    /// The address that the gateway says it listens on.
    fn announced(&mut self, signals: &Signals) -> anyhow::Result<String> {
        let output = self.child.stdout.take().expect("standard output is a pipe");
        let (sender, receiver) = mpsc::channel();
        // Reads on to the end, so that the gateway never waits for us to take its output.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if signals.interrupted() {
                bail!("interrupted while the gateway was starting");
            }
            match receiver.recv_timeout(Duration::from_millis(20)) {
                Ok(line) => {
                    if let Some(address) = line.strip_prefix(ANNOUNCEMENT) {
                        return Ok(address.trim().to_owned());
                    }
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    bail!("the gateway did not start; its own words are above");
                }
            }
        }
    }

    /// Asks the gateway to stop, as a service manager would, and waits for it.
    fn stop(&mut self) -> anyhow::Result<Duration> {
        let asked = Instant::now();
        signal::kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).context("the gateway cannot be stopped")?;
        match self.wait(STOP_DEADLINE)? {
            Some(status) if status.success() => Ok(asked.elapsed()),
            Some(status) => bail!("the gateway ended with {status}, not with 0"),
            None => bail!("the gateway did not end within {} s of SIGTERM", STOP_DEADLINE.as_secs()),
        }
    }

    fn wait(&mut self, time: Duration) -> std::io::Result<Option<ExitStatus>> {
        let begun = Instant::now();
        loop {
            let status = self.child.try_wait()?;
            if status.is_some() || begun.elapsed() > time {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// One table for all parts.
fn print(parts: &[(&str, Report)], stopped: &anyhow::Result<Duration>) {
    println!("\n{:<34}{:>14}{:>14}{:>14}{:>12}{:>12}", "", "sent", "received", "per second", "p50", "p99");
    for (label, report) in parts {
        let (p50, p99) = report.latency_us.map_or_else(|| ("–".into(), "–".into()), |p| (micros(p.p50), micros(p.p99)));
        let counts = [report.sent, report.received, report.rate_per_s as u64].map(grouped);
        println!("{label:<34}{:>14}{:>14}{:>14}{p50:>12}{p99:>12}", counts[0], counts[1], counts[2]);
    }
    let sum = |count: fn(&Report) -> u64| grouped(parts.iter().map(|(_, report)| count(report)).sum());
    println!(
        "\nlost {}, duplicated {}, reordered {}, misdelivered {}, corrupted {}, refused {}",
        sum(|report| report.lost),
        sum(|report| report.duplicated),
        sum(|report| report.reordered),
        sum(|report| report.misdelivered),
        sum(|report| report.corrupted),
        sum(|report| report.refused)
    );
    if parts.iter().any(|(_, report)| report.contradicted > 0) {
        println!("refused and yet delivered {}", sum(|report| report.contradicted));
    }
    parts.iter().for_each(|(_, report)| table::print_problems(report));
    match stopped {
        Ok(time) => println!("The gateway stopped cleanly, {:.1} s after it was asked to.", time.as_secs_f64()),
        Err(cause) => println!("The gateway did not stop as it should: {cause:#}."),
    }
    if parts.len() == PARTS.len() && parts.iter().all(|(_, report)| report.exit_code() == 0) {
        println!("Every message sent was received once, by the right client, in order, unaltered;");
        println!("those kept for clients that were away came in the very places that their senders had been told.");
    } else {
        println!("NOT every message can be vouched for; see above.");
    }
}
