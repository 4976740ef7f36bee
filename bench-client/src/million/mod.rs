//! `million`: one gateway, one machine, very many connections. It says first what that takes, and refuses what cannot be had.
#![forbid(unsafe_code)]

mod plan;

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Parser;
use nix::{
    sys::resource::{Resource, getrlimit},
    unistd::Uid,
};
use weir::{host::Kernel, reactor::Kind};

use self::plan::{Machine, Outline, Wanted};
use crate::{
    args::{Cli, Command as Subcommand, Common, ConnectArgs, MillionArgs},
    child::Server,
    gateway,
    launch::{self, Failure},
    plan::Plan,
    report::{self, MillionReport, Report, write_json},
    run::{self, Leg, RunConfig},
    scenario::{
        fanout::FanoutConfig,
        million::{Million, MillionConfig},
        route::{Peers, Route, RouteConfig},
    },
    signals::Signals,
    stall::Owed,
    table::{self, grouped},
};

/// All clients are back after this long beyond the jitter, at so many a millisecond, or it is given up.
const STORM_SPARE: Duration = Duration::from_secs(30);
const RETURNS_PER_MS: u64 = 4;
/// The gateway's time to stop: its own deadline, and for each connection as long as the kernel may take to free it.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// Clients on their way to being logged in at once, in the ramp as in the storm.
const CONNECTING: u32 = 4_096;
/// Clients in the run that shows what a message costs without very many idle ones.
const ALONE: u32 = 1_000;

/// Runs it. Gives the exit code.
///
/// # Errors
/// There is no result.
pub(crate) fn million(args: &MillionArgs) -> Result<u8, Failure> {
    let kind = launch::pick(args.reactor)?;
    let wanted =
        Wanted { connections: args.connections, kind, phases: args.hold + 2 * args.route + args.broadcast + jitter(args) };
    let machine = machine()?;
    let outline = Outline::new(&wanted, &machine);
    print_outline(&wanted, &outline);
    let refusals = outline.refusals(&wanted, &machine);
    if !refusals.is_empty() {
        refusals.iter().for_each(|words| say!("cannot be done here: {words}"));
        return Ok(2);
    }
    if args.plan {
        return Ok(0);
    }
    let program = gateway::program(args.weir.as_deref())?;
    let (mut server, mut empty) = (start(&program, &outline, kind)?, start(&program, &outline, kind)?);
    let signals = launch::block_signals()?;
    let target = empty.announced(gateway::ANNOUNCEMENT, &signals)?;
    let alone = alone(&Load { args, outline: &outline, server: &empty, target, signals: &signals })?;
    gateway::stop(&mut empty, STOP_DEADLINE)?;
    if alone.exit_code() != 0 {
        table::print(&alone);
        return Ok(alone.exit_code());
    }
    let target = server.announced(gateway::ANNOUNCEMENT, &signals)?;
    let report = measure(&Load { args, outline: &outline, server: &server, target, signals: &signals }, alone)?;
    let stopped = gateway::stop(&mut server, STOP_DEADLINE);
    report.print();
    if let Err(cause) = &stopped {
        say!("The gateway did not stop as it should: {cause:#}.");
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
    say!("{clients} clients on one gateway, {kind:?} at both ends:");
    say!("  gateway    {} shards", outline.shards);
    say!("  load       {} workers, from {} addresses (127.0.0.2 and on)", outline.workers, outline.addresses);
    say!("  memory     {} MB at most, both ends and the kernel's part", grouped(outline.memory_bytes >> 20));
    say!("  time       about {} s", outline.time.as_secs());
    for (setting, least, has) in &outline.kernel {
        let has = has.map_or_else(|| "not readable".to_owned(), grouped);
        say!("  kernel     {setting}: {} at least, is {has}", grouped(*least));
    }
}

fn start(program: &Path, outline: &Outline, kind: Kind) -> anyhow::Result<Server> {
    let shards = outline.shards.to_string();
    let mut command = gateway::serve(program)?;
    command.args(["--dev", "--shards", &shards, "--reactor", kind.name()]);
    command.args(["--limits-frames-per-second", "0", "--limits-bytes-per-second", "0"]);
    gateway::start(&mut command)
}

/// Who is loaded with what.
struct Load<'a> {
    args: &'a MillionArgs,
    outline: &'a Outline,
    server: &'a Server,
    target: String,
    signals: &'a Signals,
}

impl Load<'_> {
    /// What all scenarios share.
    fn common(&self) -> anyhow::Result<Common> {
        let words = ["bench-client", "connect", "--target", &self.target, "--drain", "10s"];
        let Subcommand::Connect(ConnectArgs { common, .. }) =
            Cli::try_parse_from(words).context("the arguments are constants")?.command
        else {
            unreachable!("the command is a constant")
        };
        Ok(Common {
            duration: self.args.route,
            workers: Some(self.outline.workers),
            connecting: Some(CONNECTING),
            server_pid: Some(self.server.id()),
            seed: self.args.seed,
            reactor: self.args.reactor,
            ..common
        })
    }

    /// Those that send to each other.
    fn active(&self) -> u32 {
        self.args.active.min(self.args.connections)
    }

    fn wanted(&self, connections: u32, returns: bool) -> launch::Wanted {
        launch::Wanted {
            connections,
            active: self.active(),
            payload_bytes: self.args.payload.bytes,
            connect_rate: None,
            connecting: CONNECTING,
            receiving: None,
            returns,
        }
    }

    fn route(&self) -> Arc<RouteConfig> {
        let peers = Peers::random(1, self.active(), self.args.seed);
        RouteConfig { peers, depth: self.args.depth, rate: None, is_durable: false }.into()
    }
}

/// The same messages on an equal gateway with few idle neighbours: what each costs then.
fn alone(load: &Load<'_>) -> Result<Report, Failure> {
    let common = load.common()?;
    let connections = load.active().max(ALONE).min(load.args.connections);
    let (plan, kind) = launch::plan_for(&common, load.wanted(connections, false))?;
    let (route, config) = (load.route(), launch::run_config("route", kind, &common));
    let route_of = |plan: &Plan, worker: u32| Route::new(Arc::clone(&route), plan, worker);
    launch::measure(plan, &config, report::Load::default(), &*route, load.signals, route_of)
}

fn measure(load: &Load<'_>, alone: Report) -> Result<MillionReport, Failure> {
    let (args, common) = (load.args, load.common()?);
    let (plan, kind) = launch::plan_for(&common, load.wanted(args.connections, true))?;
    let broadcast = FanoutConfig { groups: 1, publishers: 1, window: 1, rate: None, is_durable: false };
    let million = MillionConfig { route: load.route(), broadcast: broadcast.into(), jitter_ms: args.jitter_ms };
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
        ..launch::run_config("million", kind, &common)
    };
    let mut finished = run::run(plan.clone(), &config, load.signals, |plan, worker| Million::new(&million, plan, worker))?;
    let settled = million.settle(&plan, std::mem::take(&mut finished.ledgers));
    Ok(MillionReport::new((&plan, &config), (load.outline.shards, args.jitter_ms), &alone, &finished, &settled))
}
