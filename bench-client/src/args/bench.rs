//! The command line of `bench` and `diff`.
#![forbid(unsafe_code)]

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::parse_duration;

#[derive(Args, Clone, Debug)]
pub(crate) struct BenchArgs {
    /// How often each scenario is run with each target: in every round once, in the order of the targets and in the opposite
    /// one by turns.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) rounds: u32,
    /// How long each run sends, or holds.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    pub(crate) duration: Duration,
    /// Only these scenarios.
    #[arg(long, value_name = "SCENARIO", value_delimiter = ',')]
    pub(crate) only: Vec<CaseName>,
    /// Only these servers. By default all that are there.
    #[arg(long, value_name = "TARGET", value_delimiter = ',')]
    pub(crate) targets: Vec<TargetName>,
    #[command(flatten)]
    pub(crate) size: Size,
    /// The gateway's program. By default `weir` beside this one.
    #[arg(long, value_name = "PATH")]
    pub(crate) weir: Option<PathBuf>,
    /// Write the result there, as JSON (bench-client/schema-bench.md).
    #[arg(long, value_name = "FILE", default_value = "bench.json")]
    pub(crate) json: PathBuf,
    /// Write the same with plots there, for a browser.
    #[arg(long, value_name = "FILE", default_value = "bench.html")]
    pub(crate) html: PathBuf,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ExecArgs {
    /// The process that it is to end with.
    #[arg(long)]
    pub(crate) parent: i32,
    pub(crate) program: PathBuf,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) words: Vec<OsString>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct DiffArgs {
    /// The earlier result of `bench`.
    #[arg(value_name = "BEFORE.json")]
    pub(crate) before: PathBuf,
    /// The later one.
    #[arg(value_name = "AFTER.json")]
    pub(crate) after: PathBuf,
    /// Compare results of different hosts: only the ratios to each host's own limit, and memory.
    #[arg(long)]
    pub(crate) across_hosts: bool,
}

/// How many clients there are. Results of different sizes are not compared.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Clients where each message goes to one …
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    pub(crate) connections: u32,
    /// … and how many of them send and receive.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    pub(crate) active: u32,
    /// Members of the group.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) members: u32,
    /// Clients that log in and stay, idle, in `connect`.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) logins: u32,
}

/// A scenario of `bench`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CaseName {
    /// Each message to one client, one on its way for each pair.
    #[value(name = "route-1")]
    Route1,
    /// The same with 16 on their way.
    #[value(name = "route-16")]
    Route16,
    /// The same by a schedule, at 70 % of the knee, which is looked for once for each server: latency where there is room left.
    #[value(name = "route-70")]
    Route70,
    /// One on its way, and a gateway with two shards, which every message crosses.
    #[value(name = "route-1-across")]
    Route1Across,
    /// Each message to a whole group, 16 on their way.
    #[value(name = "fanout-16")]
    Fanout16,
    /// The same with 64 on their way.
    #[value(name = "fanout-64")]
    Fanout64,
    /// Clients log in, with tokens where the server is Weir, and stay.
    Connect,
}

/// A server that `bench` starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TargetName {
    /// The bare loop on io_uring that does what the scenario asks of a server: the bound.
    LimitUring,
    /// The same on epoll.
    LimitEpoll,
    /// The bare echo on io_uring: the plain reference where each message goes to one client.
    EchoUring,
    WeirUring,
    WeirEpoll,
    /// Where `weir` was built with it.
    WeirGlommio,
    /// nats-server.
    Nats,
    /// mosquitto.
    Mqtt,
}
