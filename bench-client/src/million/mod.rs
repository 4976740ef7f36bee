//! `million`: one gateway, one machine, very many connections. It says first what that takes, and refuses what cannot be had.
#![forbid(unsafe_code)]

mod plan;

use std::{path::Path, process::Command, time::Duration};

use anyhow::Context;
use clap::Parser;
use nix::{
    sys::resource::{Resource, getrlimit},
    unistd::Uid,
};
use weir::{host::Kernel, reactor::Kind};

use self::plan::{Machine, Outline, Wanted};
use crate::{
    args::{Cli, Command as Subcommand, MillionArgs},
    child::Server,
    gateway,
    launch::{self, Failure},
    report::{MillionReport, write_json},
    run::{self, Leg, RunConfig},
    scenario::{
        fanout::FanoutConfig,
        million::{Million, MillionConfig},
        route::{Peers, RouteConfig},
    },
    signals::Signals,
    stall::Owed,
    table::grouped,
};

/// All clients are back after this long beyond the jitter, at so many a millisecond, or it is given up.
const STORM_SPARE: Duration = Duration::from_secs(30);
const RETURNS_PER_MS: u64 = 4;
/// The gateway's time to stop: its own deadline, and for each connection as long as the kernel may take to free it.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// Clients on their way to being logged in at once, in the ramp as in the storm.
const CONNECTING: u32 = 4_096;

/// Runs it. Gives the exit code.
///
/// # Errors
/// There is no result.
pub(crate) fn million(args: &MillionArgs) -> Result<u8, Failure> {
    let kind = launch::pick(args.reactor)?;
    let wanted = Wanted { connections: args.connections, kind, phases: args.hold + args.route + args.broadcast + jitter(args) };
    let machine = machine()?;
    let outline = Outline::new(&wanted, &machine);
    print_outline(&wanted, &outline);
    let refusals = outline.refusals(&wanted, &machine);
    if !refusals.is_empty() {
        refusals.iter().for_each(|words| println!("cannot be done here: {words}"));
        return Ok(2);
    }
    if args.plan {
        return Ok(0);
    }
    let mut server = start(&gateway::program(args.weir.as_deref())?, &outline, kind)?;
    let signals = launch::block_signals()?;
    let target = server.announced(gateway::ANNOUNCEMENT, &signals)?;
    let report = measure(args, &outline, (&server, &target), &signals)?;
    let stopped = gateway::stop(&mut server, STOP_DEADLINE);
    report.print();
    if let Err(cause) = &stopped {
        println!("The gateway did not stop as it should: {cause:#}.");
    }
    if let Some(path) = &args.json {
        write_json(path, &report)?;
    }
    Ok(report.exit_code().max(if stopped.is_ok() { 0 } else { 2 }))
}

fn jitter(args: &MillionArgs) -> Duration {
    Duration::from_millis(args.jitter_ms.into())
}

/// What this machine has.
fn machine() -> anyhow::Result<Machine> {
    let kernel = Kernel::at(Path::new("/proc"));
    let number = |key: &str, place: usize| -> Option<u64> {
        kernel.read(key).ok().flatten().and_then(|value| value.split_ascii_whitespace().nth(place)?.parse().ok())
    };
    let ports = number("net.ipv4.ip_local_port_range", 0).zip(number("net.ipv4.ip_local_port_range", 1));
    // A table that counts nothing although this very machine has connections does not have those of loopback in it.
    let tracks = number("net.netfilter.nf_conntrack_count", 0).is_some_and(|count| count > 0);
    let (file_limit, _) = getrlimit(Resource::RLIMIT_NOFILE).context("the file limit cannot be read")?;
    Ok(Machine {
        cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
        file_limit,
        available_bytes: crate::measure::available_bytes().context("/proc/meminfo cannot be read")?,
        is_root: Uid::effective().is_root(),
        somaxconn: number("net.core.somaxconn", 0),
        file_max: number("fs.file-max", 0),
        tcp_pages: number("net.ipv4.tcp_mem", 1),
        ports: ports.map(|(first, last)| (last + 1).saturating_sub(first)),
        tracked_max: number("net.netfilter.nf_conntrack_max", 0).filter(|_| tracks),
    })
}

fn print_outline(wanted: &Wanted, outline: &Outline) {
    let (clients, kind) = (grouped(wanted.connections.into()), wanted.kind);
    println!("{clients} clients on one gateway, {kind:?} at both ends:");
    println!("  gateway    {} shards", outline.shards);
    println!("  load       {} workers, from {} addresses (127.0.0.2 and on)", outline.workers, outline.addresses);
    println!("  memory     {} MB at most, both ends and the kernel's part", grouped(outline.memory_bytes >> 20));
    println!("  time       about {} s", outline.time.as_secs());
    for (setting, least, has) in &outline.kernel {
        let has = has.map_or_else(|| "not readable".to_owned(), grouped);
        println!("  kernel     {setting}: {} at least, is {has}", grouped(*least));
    }
}

fn start(program: &Path, outline: &Outline, kind: Kind) -> anyhow::Result<Server> {
    let shards = outline.shards.to_string();
    let mut command = gateway::serve(Command::new(program));
    command.args(["--dev", "--shards", &shards, "--reactor", kind.name()]);
    command.args(["--limits-frames-per-second", "0", "--limits-bytes-per-second", "0"]);
    gateway::start(&mut command)
}

fn measure(
    args: &MillionArgs,
    outline: &Outline,
    (server, target): (&Server, &str),
    signals: &Signals,
) -> Result<MillionReport, Failure> {
    let words = ["bench-client", "connect", "--target", target, "--drain", "10s"];
    let Subcommand::Connect(mut connect) = Cli::try_parse_from(words).context("the arguments are constants")?.command else {
        unreachable!("the command is a constant")
    };
    connect.common.workers = Some(outline.workers);
    connect.common.connecting = Some(CONNECTING);
    connect.common.server_pid = Some(server.id());
    connect.common.seed = args.seed;
    connect.common.reactor = args.reactor;
    let active = args.active.min(args.connections);
    let wanted = launch::Wanted {
        connections: args.connections,
        active,
        payload_bytes: args.payload.bytes,
        connect_rate: None,
        connecting: CONNECTING,
        receiving: None,
        returns: true,
    };
    let (plan, kind) = launch::plan_for(&connect.common, wanted)?;
    let route = RouteConfig { peers: Peers::random(1, active, args.seed), depth: args.depth, rate: None, is_durable: false };
    let broadcast = FanoutConfig { groups: 1, publishers: 1, window: 1, rate: None, is_durable: false };
    let million = MillionConfig { route: route.into(), broadcast: broadcast.into(), jitter_ms: args.jitter_ms };
    let nothing = Owed::default();
    let leg = |duration, deliveries_per_message| Leg {
        duration,
        owed: Owed { deliveries_per_message, ..nothing },
        ends_when_done: false,
    };
    let back = Duration::from_millis(u64::from(args.connections) / RETURNS_PER_MS);
    let storm = Leg { duration: jitter(args) + STORM_SPARE + back, owed: nothing, ends_when_done: true };
    let config = RunConfig {
        leg: leg(args.hold, 0),
        later: vec![leg(args.route, 1), storm, leg(args.broadcast, args.connections.into())],
        ..launch::run_config("million", kind, &connect.common)
    };
    let mut finished = run::run(plan.clone(), &config, signals, |plan, worker| Million::new(&million, plan, worker))?;
    let settled = million.settle(&plan, std::mem::take(&mut finished.ledgers));
    Ok(MillionReport::new((&plan, &config), outline.shards, args.jitter_ms, &finished, &settled))
}
