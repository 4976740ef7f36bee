//! `bench`: the gateway, the bare loops that bound it and other servers under the same loads, by turns, in one result.
//!
//! Each run has a server of its own and is this program again, so that every number can be had by hand with the command that the result
//! names. Machines get faster and slower while one measures; so targets take turns in each round, and are compared within it.
#![forbid(unsafe_code)]

mod cases;
mod cores;
mod diff;
mod host;
mod knee;
mod page;
mod pauses;
mod run;
mod servers;
mod summary;
mod table;

use std::cell::RefCell;

use anyhow::{Context, anyhow};
use clap::ValueEnum;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use weir::reactor::Kind;

pub(crate) use self::diff::diff;
use self::{
    cases::Load,
    cores::Cores,
    host::BenchHost,
    run::{Interrupted, Runner},
    servers::Servers,
    summary::{FORMAT, Loops, Outcome, Run},
};
use crate::{
    args::{BenchArgs, CaseName, ReactorArg, Size, TargetName},
    gateway,
    launch::{self, Failure},
    plan::DESCRIPTORS_SPARE,
    report::{write_json, write_lines},
};

/// Seconds that a run takes beside its sending phase, about.
const SECONDS_BESIDE: f64 = 1.5;

/// All of it. Field meanings: `schema-bench.md`.
#[derive(Debug, Serialize)]
struct Bench {
    format: u32,
    host: BenchHost,
    rounds: u32,
    duration_s: f64,
    not_measured: Vec<Missing>,
    results: Vec<Outcome>,
}

/// A server that was not there.
#[derive(Clone, Debug, Serialize)]
struct Missing {
    target: String,
    reason: String,
}

/// Runs `bench`. Gives the exit code.
///
/// # Errors
/// There is no result.
pub(crate) fn bench(args: &BenchArgs) -> Result<u8, Failure> {
    let kind = launch::pick(None)?;
    check(&args.size)?;
    let cores = Cores::here()?;
    let host = BenchHost::here(kind, &cores)?;
    let folder = tempfile::tempdir().context("a directory for files of the runs cannot be made")?;
    let wanted = if args.targets.is_empty() { TargetName::value_variants() } else { &args.targets };
    let measures_weir = wanted.iter().any(|target| target.reactor_of_weir().is_some());
    let weir = measures_weir.then(|| gateway::program(args.weir.as_deref())).transpose()?;
    let signals = launch::block_signals()?;
    let servers = Servers { weir, cores: &cores, signals: &signals, folder: folder.path() };
    let (targets, not_measured) = available(&servers, wanted, !args.targets.is_empty(), kind)?;
    let cases = if args.only.is_empty() { CaseName::value_variants() } else { &args.only };
    announce(args, &host, cases, &targets, &not_measured);
    let runner = Runner { servers, size: args.size, duration: args.duration, knees: RefCell::default() };
    let runs = all_runs(&runner, args.rounds, cases, &targets)?;
    let bench = Bench {
        format: FORMAT,
        host,
        rounds: args.rounds,
        duration_s: args.duration.as_secs_f64(),
        not_measured,
        results: outcomes(&runs, &args.size, &cores),
    };
    write_json(&args.json, &bench)?;
    write_lines(&args.html, page::page(&serde_json::to_string(&bench).context("the result cannot be put into the page")?))?;
    table::print(&bench.results);
    say!("\nThe whole result is in {}, with plots in {}.", args.json.display(), args.html.display());
    Ok(summary::exit_code(&bench.results))
}

/// The sizes must fit each other, and this machine: servers may need a file for each connection.
fn check(size: &Size) -> Result<(), Failure> {
    if size.active > size.connections {
        return Err(Failure::Usage(format!("--active {} is more than --connections {}", size.active, size.connections)));
    }
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("the file limit cannot be read")?;
    if soft < hard {
        // Servers inherit it; not all of them raise it themselves.
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("the file limit cannot be raised")?;
    }
    let (most, held) = (size.connections.max(size.members).max(size.logins), hard.saturating_sub(DESCRIPTORS_SPARE));
    if u64::from(most) > held {
        return Err(Failure::Usage(format!(
            "{most} connections are more than the {held} that a server can hold with a file for each: `ulimit -Hn` is {hard}. Raise it, \
             or lower --connections, --members and --logins"
        )));
    }
    Ok(())
}

/// Those of the wanted targets that can be measured here, and why the others cannot.
fn available(
    servers: &Servers<'_>,
    wanted: &[TargetName],
    is_by_name: bool,
    kind: Kind,
) -> Result<(Vec<TargetName>, Vec<Missing>), Failure> {
    let (mut targets, mut missing) = (Vec::new(), Vec::new());
    for target in wanted {
        let needs_ring = target.reactor_of_limit() == Some("uring");
        let no_ring = needs_ring && kind != Kind::Uring && launch::pick(Some(ReactorArg::Uring)).is_err();
        let reason = if no_ring { Some("io_uring is refused here".to_owned()) } else { servers.why_not(*target) };
        match reason {
            None if targets.contains(target) => {}
            None => targets.push(*target),
            Some(reason) if is_by_name => return Err(anyhow!("{} cannot be measured: {reason}", target.name()).into()),
            Some(reason) => missing.push(Missing { target: target.name(), reason }),
        }
    }
    Ok((targets, missing))
}

fn announce(args: &BenchArgs, host: &BenchHost, cases: &[CaseName], targets: &[TargetName], missing: &[Missing]) {
    let pairs = cases.iter().flat_map(|case| targets.iter().filter(|target| case.takes(**target)).map(move |_| case));
    let (all, knees) = (pairs.clone().count(), pairs.filter(|case| matches!(case.load(), Load::Paced { .. })).count());
    let runs = args.rounds as usize * all + knees * knee::RUNS_ABOUT as usize;
    let minutes = runs as f64 * (args.duration.as_secs_f64() + SECONDS_BESIDE) / 60.0;
    eprintln!("{}", host.words());
    eprintln!("{} rounds of {all} runs: about {:.0} minutes", args.rounds, minutes.ceil());
    missing.iter().for_each(|missing| eprintln!("without {}: {}", missing.target, missing.reason));
    eprintln!("{}", host.pauses().words());
    if host.load_average() > 0.5 {
        eprintln!("other work is running here (load average {:.1}): take the ratios, not the numbers", host.load_average());
    }
}

/// All runs of a scenario with a target.
struct Series {
    case: CaseName,
    target: TargetName,
    runs: Vec<Run>,
}

fn all_runs(runner: &Runner<'_>, rounds: u32, cases: &[CaseName], targets: &[TargetName]) -> anyhow::Result<Vec<Series>> {
    let pairs = cases.iter().flat_map(|case| targets.iter().map(|target| (*case, *target)));
    let pairs = pairs.filter(|(case, target)| case.takes(*target));
    let mut all: Vec<Series> = pairs.map(|(case, target)| Series { case, target, runs: Vec::new() }).collect();
    let mut place = 0;
    for round in 1..=rounds {
        for case in cases {
            let mut turn: Vec<&mut Series> = all.iter_mut().filter(|series| series.case == *case).collect();
            if round % 2 == 0 {
                turn.reverse();
            }
            for series in turn {
                place += 1;
                let run = runner.run(round, place, *case, series.target);
                let run = run.map_err(|Interrupted| anyhow!("interrupted in round {round} of {rounds}; nothing was written"))?;
                table::tell(round, rounds, *case, series.target, &run);
                series.runs.push(run);
            }
        }
    }
    Ok(all)
}

fn outcomes(all: &[Series], size: &Size, cores: &Cores) -> Vec<Outcome> {
    let outcome = |series: &Series| {
        let runs_of = |target| {
            let found = all.iter().find(|other| other.case == series.case && other.target == target);
            found.map_or(&[][..], |found| &found.runs)
        };
        let loops = Loops { limit: runs_of(TargetName::LimitUring), echo: runs_of(TargetName::EchoUring) };
        let shards = if series.target.reactor_of_weir().is_some() { series.case.shards() } else { 1 };
        Outcome {
            server_cores: cores.of_server(shards).to_vec(),
            load_cores: cores.of_load().to_vec(),
            ..Outcome::new(series.case, series.target, size, series.runs.clone(), loops)
        }
    };
    all.iter().map(outcome).collect()
}
