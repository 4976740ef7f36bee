//! `make demo`: a gateway, 2,000 clients, about 20 seconds, one table.
#![forbid(unsafe_code)]

use std::{path::Path, time::Duration};

use clap::Parser;

use crate::{
    args::{Cli, Command as Subcommand, DemoArgs, ReactorArg},
    child::Server,
    gateway,
    launch::{self, Failure},
    offline,
    report::Report,
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

/// Runs the demo. Gives the exit code.
///
/// # Errors
/// There is no result.
pub(crate) fn demo(args: &DemoArgs) -> Result<u8, Failure> {
    let mut server = start(&gateway::program(args.weir.as_deref())?, args.reactor)?;
    let signals = launch::block_signals()?;
    let target = server.announced(gateway::ANNOUNCEMENT, &signals)?;
    say!("A gateway with {SHARDS} shards listens on {}; {CLIENTS} clients connect to it.", target);
    let mut parts = Vec::new();
    for (label, words) in PARTS {
        let report = match parse(&target, args.reactor, words)? {
            Subcommand::Route(route) => launch::route_report(&route, &signals),
            Subcommand::Fanout(fanout) => launch::fanout_report(&fanout, &signals),
            Subcommand::Offline(offline) => offline::report(&offline, &signals),
            Subcommand::Connect(_)
            | Subcommand::Storm(_)
            | Subcommand::Limit(_)
            | Subcommand::Bench(_)
            | Subcommand::Diff(_)
            | Subcommand::Exec(_)
            | Subcommand::Million(_)
            | Subcommand::Soak(_)
            | Subcommand::Demo(_) => {
                unreachable!("the commands are constants")
            }
        }?;
        let code = report.exit_code();
        parts.push((label, report));
        if code != 0 {
            break;
        }
    }
    let stopped = gateway::stop(&mut server, gateway::STOP_DEADLINE);
    print(&parts, &stopped);
    let worst = parts.iter().map(|(_, report)| report.exit_code()).find(|code| *code != 0);
    Ok(worst.unwrap_or(if stopped.is_ok() { 0 } else { 2 }))
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
        Some(ReactorArg::Glommio) => &["--reactor", "glommio"],
    }
}

fn start(program: &Path, reactor: Option<ReactorArg>) -> anyhow::Result<Server> {
    let mut command = gateway::serve(program)?;
    command.args(["--dev", "--shards", SHARDS]).args(reactor_words(reactor));
    gateway::start(&mut command)
}

/// One table for all parts.
fn print(parts: &[(&str, Report)], stopped: &anyhow::Result<Duration>) {
    say!("\n{:<34}{:>14}{:>14}{:>14}{:>12}{:>12}", "", "sent", "received", "per second", "p50", "p99");
    for (label, report) in parts {
        let (p50, p99) = report.latency_us.map_or_else(|| ("–".into(), "–".into()), |p| (micros(p.p50), micros(p.p99)));
        let counts = [report.sent, report.received, report.rate_per_s as u64].map(grouped);
        say!("{label:<34}{:>14}{:>14}{:>14}{p50:>12}{p99:>12}", counts[0], counts[1], counts[2]);
    }
    let sum = |count: fn(&Report) -> u64| grouped(parts.iter().map(|(_, report)| count(report)).sum());
    say!(
        "\nlost {}, duplicated {}, reordered {}, misdelivered {}, corrupted {}, refused {}",
        sum(|report| report.lost),
        sum(|report| report.duplicated),
        sum(|report| report.reordered),
        sum(|report| report.misdelivered),
        sum(|report| report.corrupted),
        sum(|report| report.refused)
    );
    if parts.iter().any(|(_, report)| report.contradicted > 0) {
        say!("refused and yet delivered {}", sum(|report| report.contradicted));
    }
    parts.iter().for_each(|(_, report)| table::print_problems(report));
    match stopped {
        Ok(time) => say!("The gateway stopped cleanly, {:.1} s after it was asked to.", time.as_secs_f64()),
        Err(cause) => say!("The gateway did not stop as it should: {cause:#}."),
    }
    if parts.len() == PARTS.len() && parts.iter().all(|(_, report)| report.exit_code() == 0) {
        say!("Every message sent was received once, by the right client, in order, unaltered;");
        say!("those kept for clients that were away came in the very places that their senders had been told.");
    } else {
        say!("NOT every message can be vouched for; see above.");
    }
}
