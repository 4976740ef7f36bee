//! From the command line to a run, and from its result to a report.
#![forbid(unsafe_code)]

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit};
use weir::{
    limits::{GLOMMIO_DESCRIPTORS_PER_SHARD, LISTEN_BACKLOG_MIN, NAME_BYTES_MAX},
    reactor::{
        Kind,
        probe::{Choice, detect},
    },
};

use crate::{
    args::{
        Common, ConnectArgs, DurableArgs, FanoutArgs, OfflineArgs, Pattern, Payload, ReactorArg, ReceivingArgs, RouteArgs,
        StormArgs, TimelineArgs,
    },
    durable::Receiving,
    fleet::dialect::Dialect,
    homes::{self, Names},
    offline,
    plan::{self, Plan},
    report::{Load, Report, StormReport, write_json},
    run::{self, Leg, RunConfig},
    scenario::{
        Books, Scenario,
        connect::{Connect, ConnectBooks},
        fanout::{Fanout, FanoutConfig},
        mail::{Mail, Sending},
        route::{Peers, Route, RouteConfig},
        storm::{Storm, StormConfig},
    },
    signals::Signals,
    stall::Owed,
    table,
    target::Target,
    timeline::STEPS_MAX,
    token::Credentials,
};

/// Members of a group when nothing is said.
pub(crate) const MEMBERS_DEFAULT: u32 = 1_000;
/// Clients on their way to being logged in at once, when nothing is said.
pub(crate) const CONNECTING_DEFAULT: u32 = 512;
/// The same in `storm`, where everybody comes at once: the shortest listen backlog that a gateway should have.
const CONNECTING_IN_STORM: u32 = LISTEN_BACKLOG_MIN;
/// The longest client prefix: what follows it are the digits of a number, or "-g" and those.
const PREFIX_BYTES_MAX: usize = NAME_BYTES_MAX - 12;

/// Why there is no result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was asked for makes no sense.
    Usage(String),
    /// It could not be done.
    Run(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(cause: E) -> Failure {
        Failure::Run(cause.into())
    }
}

/// What a scenario asks of [`plan_for`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) connections: u32,
    pub(crate) active: u32,
    pub(crate) payload_bytes: usize,
    pub(crate) connect_rate: Option<f64>,
    pub(crate) connecting: u32,
    pub(crate) receiving: Option<Receiving>,
    pub(crate) returns: bool,
}

/// Runs `connect`. Gives the exit code.
///
/// # Errors
/// There is no result.
pub(crate) fn connect(args: &ConnectArgs) -> Result<u8, Failure> {
    let wanted = Wanted {
        connections: args.connections,
        active: 0,
        payload_bytes: args.unused.payload.bytes,
        connect_rate: args.max_rate,
        connecting: CONNECTING_DEFAULT,
        receiving: window(args.receive_window),
        returns: false,
    };
    let (plan, kind) = plan_for(&args.common, wanted)?;
    let mut config = RunConfig { goes_on_without_all: true, ..run_config("connect", kind, &args.common) };
    config.leg.owed = Owed::default();
    let load = Load { max_connects_per_s: args.max_rate, ..Load::default() };
    finish(&args.common, measure(plan, &config, load, &ConnectBooks, &block_signals()?, |_, _| Connect)?)
}

/// Runs `route`. Gives the exit code.
///
/// # Errors
/// There is no result.
pub(crate) fn route(args: &RouteArgs) -> Result<u8, Failure> {
    finish(&args.common, route_report(args, &block_signals()?)?)
}

/// Runs `fanout`. Gives the exit code.
///
/// # Errors
/// There is no result.
pub(crate) fn fanout(args: &FanoutArgs) -> Result<u8, Failure> {
    finish(&args.common, fanout_report(args, &block_signals()?)?)
}

/// Runs `offline`. Gives the exit code.
///
/// # Errors
/// There is no result.
pub(crate) fn offline(args: &OfflineArgs) -> Result<u8, Failure> {
    finish(&args.common, offline::report(args, &block_signals()?)?)
}

/// Runs `storm`. Gives the exit code.
///
/// # Errors
/// There is no result.
pub(crate) fn storm(args: &StormArgs) -> Result<u8, Failure> {
    let connections = args.connections.saturating_add(args.senders);
    let jitter = Duration::from_millis(args.jitter_ms.into());
    if args.drop_after + jitter >= args.common.duration {
        return Err(Failure::Usage(format!(
            "clients drop after {:?} and come back up to {jitter:?} later, and the run of {:?} is over by then: raise --duration, or \
             lower --drop-after and --jitter-ms",
            args.drop_after, args.common.duration
        )));
    }
    let wanted = Wanted {
        connections,
        active: args.senders,
        payload_bytes: args.payload.bytes,
        connect_rate: None,
        connecting: CONNECTING_IN_STORM,
        receiving: Some(receiving(&args.receiving)),
        returns: true,
    };
    let (plan, kind) = plan_for(&args.common, wanted)?;
    let storm = StormConfig {
        mail: Mail { senders: args.senders, receivers: args.connections, groups: 0 },
        sending: Sending { each: None, depth: args.depth, rate: args.rate },
        drop_after_us: args.drop_after.as_micros() as u64,
        jitter_ms: args.jitter_ms,
    };
    let mut config = run_config("storm", kind, &args.common);
    config.leg.owed.answers = true;
    let signals = block_signals()?;
    let finished = run::run(plan.clone(), &config, &signals, |plan, worker| Storm::new(storm, plan, worker))?;
    let settled = storm.settle(&plan, &finished.ledgers);
    let load = Load {
        depth: args.rate.is_none().then_some(args.depth),
        planned_rate_per_s: args.rate,
        storm: Some(StormReport::new(&storm, &finished.outcome)),
        ..Load::default()
    };
    finish(&args.common, Report::new(&plan, &config, load, &finished, &settled))
}

/// Runs `route`.
pub(crate) fn route_report(args: &RouteArgs, signals: &Signals) -> Result<Report, Failure> {
    let active = args.active.unwrap_or(args.connections);
    if active > args.connections {
        return Err(Failure::Usage(format!("--active {active} is more than --connections {}", args.connections)));
    }
    if args.metrics.is_some() && args.pattern != Pattern::Across {
        return Err(Failure::Usage("--metrics is looked at with --pattern across only: add that, or leave --metrics out".into()));
    }
    let wanted = wanted(args.connections, active, &args.payload, &args.durable);
    let (plan, kind) = plan_for(&args.common, wanted)?;
    let plan = with_timeline(plan, &args.timeline, args.common.duration)?;
    let (names, peers, pattern) = match args.pattern {
        Pattern::Pairs => (None, Peers::Pairs, "pairs"),
        Pattern::Random => (None, Peers::random(args.peers, active, args.common.seed), "random"),
        Pattern::Across => (Some(Arc::new(names_across(args, &plan, signals)?)), Peers::Pairs, "across"),
    };
    let plan = Plan { names, ..plan };
    let route = Arc::new(RouteConfig { peers, depth: args.depth, rate: args.rate, is_durable: args.durable.durable });
    let load = Load {
        reconnects: args.durable.reconnect,
        pattern: Some(pattern),
        depth: args.rate.is_none().then_some(args.depth),
        planned_rate_per_s: args.rate,
        ..Load::default()
    };
    let config = with_answers(run_config("route", kind, &args.common), &args.durable);
    measure(plan, &config, load, &*route, signals, |plan, worker| Route::new(Arc::clone(&route), plan, worker))
}

/// Asks the gateway which clients make pairs whose messages cross its shards.
fn names_across(args: &RouteArgs, plan: &Plan, signals: &Signals) -> Result<Names, Failure> {
    let metrics = args.metrics.expect("the pattern requires it");
    if plan.dialect != Dialect::Weir {
        let name = plan.dialect.name();
        return Err(Failure::Usage(format!("--pattern across: only weir:// has shards that messages cross, not {name}://")));
    }
    Ok(homes::across(plan, metrics, signals).context("which clients are at home on different shards cannot be found out")?)
}

/// Runs `fanout`.
pub(crate) fn fanout_report(args: &FanoutArgs, signals: &Signals) -> Result<Report, Failure> {
    let by_members = args.members.unwrap_or(MEMBERS_DEFAULT).saturating_mul(args.groups);
    let connections = args.connections.unwrap_or(by_members);
    let members = connections / args.groups;
    if members * args.groups != connections || members < args.publishers {
        return Err(Failure::Usage(format!(
            "{connections} clients in {} groups with {} publishers each: every group needs the same number of members, and its \
             publishers are among them",
            args.groups, args.publishers
        )));
    }
    let wanted = wanted(connections, args.groups * args.publishers, &args.payload, &args.durable);
    let (plan, kind) = plan_for(&args.common, wanted)?;
    let plan = with_timeline(plan, &args.timeline, args.common.duration)?;
    let fanout = Arc::new(FanoutConfig {
        groups: args.groups,
        publishers: args.publishers,
        window: args.window,
        rate: args.rate,
        is_durable: args.durable.durable,
    });
    let load = Load {
        window: args.rate.is_none().then_some(args.window),
        planned_rate_per_s: args.rate,
        reconnects: args.durable.reconnect,
        groups: Some(args.groups),
        publishers: Some(args.publishers),
        ..Load::default()
    };
    let mut config = with_answers(run_config("fanout", kind, &args.common), &args.durable);
    config.leg.owed.deliveries_per_message = members.into();
    measure(plan, &config, load, &*fanout, signals, |plan, worker| Fanout::new(Arc::clone(&fanout), plan, worker))
}

/// Blocks the signals that end a run early.
pub(crate) fn block_signals() -> Result<Signals, Failure> {
    Ok(Signals::block().context("signals cannot be waited for")?)
}

pub(crate) fn run_config(scenario: &'static str, kind: Kind, common: &Common) -> RunConfig {
    RunConfig {
        scenario,
        kind,
        drain: common.drain,
        server_pid: common.server_pid,
        goes_on_without_all: false,
        leg: Leg {
            duration: common.duration,
            owed: Owed { deliveries_per_message: 1, ..Owed::default() },
            ends_when_done: false,
        },
        later: Vec::new(),
    }
}

/// A run that sends messages, durable or not.
fn wanted(connections: u32, active: u32, payload: &Payload, durable: &DurableArgs) -> Wanted {
    Wanted {
        connections,
        active,
        payload_bytes: payload.bytes,
        connect_rate: None,
        connecting: CONNECTING_DEFAULT,
        receiving: durable.durable.then(|| receiving(&durable.receiving)),
        returns: durable.reconnect,
    }
}

fn with_answers(mut config: RunConfig, durable: &DurableArgs) -> RunConfig {
    config.leg.owed.answers = durable.durable;
    config
}

pub(crate) fn receiving(args: &ReceivingArgs) -> Receiving {
    Receiving {
        window: args.receive_window,
        // More than the window never come without a RECEIVED.
        ack_every: args.ack_every.min(args.receive_window),
        ack_after_us: args.ack_after.as_micros() as u64,
    }
}

/// A window for clients that acknowledge nothing but what earlier runs left.
fn window(window: u32) -> Option<Receiving> {
    (window > 0).then_some(Receiving { window, ack_every: 1, ack_after_us: 0 })
}

pub(crate) fn measure<S: Scenario + 'static>(
    plan: Plan,
    config: &RunConfig,
    load: Load,
    books: &dyn Books,
    signals: &Signals,
    scenario: impl Fn(&Plan, u32) -> S,
) -> Result<Report, Failure> {
    let finished = run::run(plan.clone(), config, signals, scenario)?;
    let settled = books.settle(&plan, &finished.ledgers);
    Ok(Report::new(&plan, config, load, &finished, &settled))
}

/// Prints and writes a result. Gives the exit code.
pub(crate) fn finish(common: &Common, report: Report) -> Result<u8, Failure> {
    table::print(&report);
    if let Some(path) = &common.json {
        write_json(path, &report)?;
    }
    Ok(report.exit_code())
}

/// Works out who runs where.
pub(crate) fn plan_for(common: &Common, wanted: Wanted) -> Result<(Plan, Kind), Failure> {
    let target = Target::parse(&common.target)?;
    check_prefix(&common.client_prefix)?;
    target.check(common, &wanted)?;
    let kind = pick(common.reactor)?;
    let (file_limit, _) = getrlimit(Resource::RLIMIT_NOFILE).context("the file limit cannot be read")?;
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    let workers = common.workers.unwrap_or_else(|| plan::workers_for(wanted.connections, cores, file_limit));
    check_descriptors(kind, wanted.connections, workers, file_limit)?;
    let credentials = match (&common.token, &common.hs256_secret) {
        (Some(token), _) => Credentials::Same(token.clone()),
        (None, Some(secret)) => Credentials::signed(secret.as_bytes(), &common.client_prefix, common.audience.clone())?,
        (None, None) => Credentials::None,
    };
    let first_source = common.source.or(match target.address.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => Some(Ipv4Addr::new(127, 0, 0, 2)),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    });
    let plan = Plan {
        target: target.address,
        dialect: target.dialect,
        first_client: 0,
        connections: wanted.connections,
        clients: wanted.connections,
        active: wanted.active,
        workers: workers.min(wanted.connections),
        prefix: common.client_prefix.clone(),
        names: None,
        credentials,
        seed: common.seed,
        run: run_number(),
        payload_bytes: wanted.payload_bytes,
        connect_rate: wanted.connect_rate,
        connecting: common.connecting.unwrap_or(wanted.connecting),
        first_source,
        batches: common.batches,
        compress: common.compress,
        receiving: wanted.receiving,
        returns: wanted.returns,
        timeline_us: None,
    };
    Ok((plan, kind))
}

/// The same plan, and latency by steps if that was asked for.
pub(crate) fn with_timeline(plan: Plan, args: &TimelineArgs, duration: Duration) -> Result<Plan, Failure> {
    let steps = args.timeline.map_or(0, |step| duration.as_micros().div_ceil(step.as_micros()));
    if steps > u128::from(STEPS_MAX) {
        return Err(Failure::Usage(format!(
            "--timeline {:?} makes {steps} steps of {duration:?}, and {STEPS_MAX} are the most, for each takes memory: use longer ones",
            args.timeline.unwrap_or_default()
        )));
    }
    Ok(Plan { timeline_us: args.timeline.map(|step| step.as_micros() as u64), ..plan })
}

/// A number that no other run has: messages of an earlier run must not count in this one.
fn run_number() -> u32 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    (nanos >> 10) as u32 ^ std::process::id().rotate_left(16)
}

/// The driver: the one asked for if it works here, else the best that does.
pub(crate) fn pick(reactor: Option<ReactorArg>) -> Result<Kind, Failure> {
    let choice = match reactor {
        None => Choice::Auto,
        Some(ReactorArg::Uring) => Choice::Uring,
        Some(ReactorArg::Epoll) => Choice::Epoll,
        Some(ReactorArg::Glommio) => Choice::Glommio,
    };
    let (kind, reason) = detect(choice).map_err(|words| Failure::Run(anyhow::anyhow!(words)))?;
    if let Some(reason) = reason {
        eprintln!("bench-client: using epoll: {reason}");
    }
    Ok(kind)
}

fn check_prefix(prefix: &str) -> Result<(), Failure> {
    let fits = prefix.len() <= PREFIX_BYTES_MAX && prefix.chars().all(|c| !c.is_control());
    if fits {
        return Ok(());
    }
    let bytes = prefix.len();
    Err(Failure::Usage(format!(
        "--client-prefix of {bytes} bytes: with a number behind it, it must be a name of at most {NAME_BYTES_MAX} bytes without control \
         characters, so {PREFIX_BYTES_MAX} bytes are the most"
    )))
}

/// With epoll and glommio every connection is a file; with io_uring only each worker's table is bounded.
fn check_descriptors(kind: Kind, connections: u32, workers: u32, file_limit: u64) -> Result<(), Failure> {
    let (held, what) = match kind {
        Kind::Epoll => (file_limit.saturating_sub(plan::DESCRIPTORS_SPARE), "epoll, where every connection is an open file"),
        Kind::Glommio => {
            let spare = plan::DESCRIPTORS_SPARE + u64::from(workers * GLOMMIO_DESCRIPTORS_PER_SHARD);
            (file_limit.saturating_sub(spare), "glommio, where every connection is an open file")
        }
        Kind::Uring => (u64::from(workers) * u64::from(plan::connections_per_worker(file_limit)), "so many --workers"),
    };
    if u64::from(connections) <= held {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "{connections} connections are more than the {held} that this process can hold with {what}: `ulimit -n` is {file_limit}. Raise it, \
         or use io_uring and more --workers"
    )))
}
