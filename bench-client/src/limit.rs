//! `limit`: what the kernel takes to carry the messages of a gateway, with no gateway there.
//!
//! The loops are the library's ([`weir::reactor::limit`]). Each runs in a process of its own, which is this program again, so that its CPU
//! is read as that of a gateway is; and the clients are the fleet that loads gateways, with the frames that it sends to Weir.
#![forbid(unsafe_code)]

use std::{
    io::{self, Write as _},
    os::fd::AsFd as _,
    process::{ChildStdin, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use weir::{
    limits::LIMIT_LOG_BYTES,
    reactor::{
        Kind,
        limit::{Setup, serve},
        socket::{ListenOptions, listen, listen_backlog, local_addr},
    },
};

use crate::{
    args::{
        Common, LimitAcceptArgs, LimitCommand, LimitEchoArgs, LimitFanoutArgs, LimitServeArgs, LimitServer, ReactorArg, What,
    },
    child::{self, Server},
    fleet::dialect::Dialect,
    launch::{self, CONNECTING_DEFAULT, Failure, Wanted, block_signals, finish, measure, plan_for, run_config},
    plan::Plan,
    report::{LimitCounts, LimitReport, Load, Report},
    run::RunConfig,
    scenario::{
        connect::{Connect, ConnectBooks},
        fanout::{Fanout, FanoutConfig},
        route::{Peers, Route, RouteConfig},
    },
    signals::Signals,
    stall::Owed,
};

/// The first line of a loop's standard output, before its address.
const ANNOUNCEMENT: &str = "limit: listening on ";
/// A loop has nothing to do at its end.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// Places beyond the clients': for the first look at the loop, and for connections that are tried again.
const SLOTS_SPARE: u32 = 64;
/// What a frame adds to its payload, at most.
const FRAME_BYTES: usize = 128;

/// Runs `limit`. Gives the exit code.
///
/// # Errors
/// There is no result.
pub(crate) fn limit(command: &LimitCommand) -> Result<u8, Failure> {
    match command {
        LimitCommand::Echo(args) => echo(What::Echo, args),
        LimitCommand::Relay(args) => echo(What::Relay, args),
        LimitCommand::Fanout(args) => fanout(args),
        LimitCommand::Accept(args) => accept(args),
        LimitCommand::Serve(args) => serve_until_told(args),
    }
}

fn echo(what: What, args: &LimitEchoArgs) -> Result<u8, Failure> {
    let active = args.active.unwrap_or(args.connections);
    if active > args.connections {
        return Err(Failure::Usage(format!("--active {active} is more than --connections {}", args.connections)));
    }
    let mut bare = BareLoop::start(what, &args.common, &args.server, args.connections)?;
    let signals = block_signals()?;
    let (plan, config) = bare.plan(&signals, wanted(args.connections, active, args.payload.bytes))?;
    let plan = launch::with_timeline(plan, &args.timeline, args.common.duration)?;
    let peers = if what == What::Relay { Peers::Pairs } else { Peers::Own };
    let route = Arc::new(RouteConfig { peers, depth: args.depth, rate: args.rate, is_durable: false });
    let load = Load { depth: args.rate.is_none().then_some(args.depth), planned_rate_per_s: args.rate, ..Load::default() };
    let report = measure(plan, &config, load, &*route, &signals, |plan, worker| Route::new(Arc::clone(&route), plan, worker))?;
    bare.finish(report)
}

fn fanout(args: &LimitFanoutArgs) -> Result<u8, Failure> {
    let (window, frame_bytes) = (args.window as usize, args.payload.bytes + FRAME_BYTES);
    if args.rate.is_none() && window.saturating_mul(frame_bytes) > LIMIT_LOG_BYTES {
        return Err(Failure::Usage(format!(
            "--window {window} messages of up to {frame_bytes} bytes are more than the {LIMIT_LOG_BYTES} bytes that a member may be \
             behind: lower --window or --payload"
        )));
    }
    let mut bare = BareLoop::start(What::Fanout, &args.common, &args.server, args.members)?;
    let signals = block_signals()?;
    let (plan, mut config) = bare.plan(&signals, wanted(args.members, 1, args.payload.bytes))?;
    let plan = launch::with_timeline(plan, &args.timeline, args.common.duration)?;
    config.leg.owed.deliveries_per_message = args.members.into();
    let fanout = Arc::new(FanoutConfig { groups: 1, publishers: 1, window: args.window, rate: args.rate, is_durable: false });
    let load = Load { window: args.rate.is_none().then_some(args.window), planned_rate_per_s: args.rate, ..Load::default() };
    let report = measure(plan, &config, load, &*fanout, &signals, |plan, worker| Fanout::new(Arc::clone(&fanout), plan, worker))?;
    bare.finish(report)
}

fn accept(args: &LimitAcceptArgs) -> Result<u8, Failure> {
    let mut bare = BareLoop::start(What::Accept, &args.common, &args.server, args.connections)?;
    let signals = block_signals()?;
    let wanted = Wanted { connect_rate: args.max_rate, ..wanted(args.connections, 0, crate::verify::PAYLOAD_BYTES_MIN) };
    let (plan, mut config) = bare.plan(&signals, wanted)?;
    (config.goes_on_without_all, config.leg.owed) = (true, Owed::default());
    let load = Load { max_connects_per_s: args.max_rate, ..Load::default() };
    let report = measure(plan, &config, load, &ConnectBooks, &signals, |_, _| Connect)?;
    bare.finish(report)
}

fn wanted(connections: u32, active: u32, payload_bytes: usize) -> Wanted {
    Wanted {
        connections,
        active,
        payload_bytes,
        connect_rate: None,
        connecting: CONNECTING_DEFAULT,
        receiving: None,
        returns: false,
    }
}

/// The process of a loop, and how it is loaded.
struct BareLoop {
    what: What,
    common: Common,
    kind: Kind,
    core: usize,
    server: Server,
    /// Closed to end the loop.
    stop: ChildStdin,
}

impl BareLoop {
    fn start(what: What, common: &Common, server: &LimitServer, connections: u32) -> Result<BareLoop, Failure> {
        refuse_unknown(common)?;
        let kind = launch::pick(server.server_reactor)?;
        if kind == Kind::Glommio {
            let why = "what bounds a gateway on it is the one on io_uring; write --server-reactor uring";
            return Err(Failure::Usage(format!("--server-reactor glommio: there is no bare loop on glommio: {why}")));
        }
        let mut command = child::ourselves()?;
        command.args(["limit", "serve", "--what", name(what), "--server-reactor", kind.name()]);
        command.args(["--server-core", &server.server_core.to_string()]);
        command.args(["--slots", &connections.saturating_add(SLOTS_SPARE).to_string()]);
        let mut process = Server::start(command.stdin(Stdio::piped())).context("the loop's process cannot be started")?;
        let stop = process.take_input().expect("standard input is a pipe");
        Ok(BareLoop { what, common: common.clone(), kind, core: server.server_core, server: process, stop })
    }

    /// How the loop is loaded, once it listens.
    fn plan(&mut self, signals: &Signals, wanted: Wanted) -> Result<(Plan, RunConfig), Failure> {
        self.common.target = self.server.announced(ANNOUNCEMENT, signals)?;
        self.common.server_pid = Some(self.server.id());
        let (plan, kind) = plan_for(&self.common, wanted)?;
        let config = run_config(self.what.scenario(), kind, &self.common);
        Ok((Plan { dialect: Dialect::Bare, ..plan }, config))
    }

    /// Ends the loop, and tells the result.
    fn finish(self, mut report: Report) -> Result<u8, Failure> {
        let (common, reactor, core) = (self.common.clone(), self.kind.name(), self.core);
        let counts = self.stop()?;
        report.add_limit(LimitReport { reactor, core, counts });
        finish(&common, report)
    }

    fn stop(mut self) -> anyhow::Result<LimitCounts> {
        drop(self.stop);
        match self.server.wait(STOP_DEADLINE)? {
            Some(status) if status.success() => {}
            Some(status) => bail!("the loop ended with {status}, not with 0; its own words are above"),
            None => bail!("the loop did not end within {} s", STOP_DEADLINE.as_secs()),
        }
        let words = self.server.last_words();
        let last = words.last().ok_or_else(|| anyhow!("the loop did not say what it did"))?;
        serde_json::from_str(last).with_context(|| format!("the loop said {last:?}, which are no counts"))
    }
}

/// What is known of gateways and not of loops.
fn refuse_unknown(common: &Common) -> Result<(), Failure> {
    let unknown = [
        (!common.target.is_empty(), "--target", "it starts the loop itself"),
        (common.server_pid.is_some(), "--server-pid", "it starts the loop itself"),
        (common.token.is_some(), "--token (BENCH_TOKEN)", "a loop knows no protocol"),
        (common.hs256_secret.is_some(), "--hs256-secret (BENCH_HS256_SECRET)", "a loop knows no protocol"),
        (common.batches, "--batches", "a loop knows no protocol"),
        (common.compress, "--compress", "a loop knows no protocol"),
    ];
    match unknown.into_iter().find(|(is_asked_for, _, _)| *is_asked_for) {
        None => Ok(()),
        Some((_, what, why)) => Err(Failure::Usage(format!("{what} makes no sense with limit: {why}"))),
    }
}

fn name(what: What) -> &'static str {
    match what {
        What::Echo => "echo",
        What::Relay => "relay",
        What::Fanout => "fanout",
        What::Accept => "accept",
    }
}

/// The loop's own process: says where it listens, serves until its standard input ends, and says what it did.
fn serve_until_told(args: &LimitServeArgs) -> Result<u8, Failure> {
    let mut cores = CpuSet::new();
    let pinned = cores.set(args.server_core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &cores));
    // Threads are started later, and inherit it.
    pinned.with_context(|| format!("the loop cannot run on core {}; choose another with --server-core", args.server_core))?;
    let options = ListenOptions { backlog: listen_backlog(), user_timeout_ms: 0 };
    let listener = listen("127.0.0.1:0".parse().expect("an address"), options)?;
    let stop = io::stdin().as_fd().try_clone_to_owned()?;
    let kind = match args.server_reactor {
        ReactorArg::Uring => Kind::Uring,
        ReactorArg::Epoll => Kind::Epoll,
        ReactorArg::Glommio => Kind::Glommio,
    };
    let address = local_addr(&listener)?;
    let announce = || {
        writeln!(io::stdout(), "{ANNOUNCEMENT}{address}")?;
        io::stdout().flush()
    };
    let setup = Setup { kind, what: args.what.into(), listener, connections: args.slots, stop };
    let counts = LimitCounts::from(serve(setup, announce).context("the loop failed")?);
    writeln!(io::stdout(), "{}", serde_json::to_string(&counts)?).context("nobody takes the loop's counts")?;
    Ok(0)
}
