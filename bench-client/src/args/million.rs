//! The command line of `million`.
#![forbid(unsafe_code)]

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{Payload, ReactorArg, parse_duration};

#[derive(Args, Clone, Debug)]
pub(crate) struct MillionArgs {
    /// Clients.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(2..=4_000_000))]
    pub(crate) connections: u32,
    /// Only say what it takes, and whether this machine can do it.
    #[arg(long)]
    pub(crate) plan: bool,
    /// How long all of them stay, with heartbeats and nothing else.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = parse_duration)]
    pub(crate) hold: Duration,
    /// How long some of them send to each other.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub(crate) route: Duration,
    /// How many those are.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) active: u32,
    /// Messages on their way at once for each of them, on average.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) depth: u32,
    /// Each client drops, and comes back after a random time of so many milliseconds at most.
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(0..=3_600_000))]
    pub(crate) jitter_ms: u32,
    /// How long one of them sends to all: the next message when the last one has the one before.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub(crate) broadcast: Duration,
    #[command(flatten)]
    pub(crate) payload: Payload,
    /// Every random choice of a run follows from this.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// The gateway's program. By default `weir` beside this one.
    #[arg(long, value_name = "PATH")]
    pub(crate) weir: Option<PathBuf>,
    /// How both ends do their I/O. By default io_uring, or epoll where that is refused.
    #[arg(long, value_name = "DRIVER")]
    pub(crate) reactor: Option<ReactorArg>,
    /// Write the result there, as JSON (bench-client/schema-million.md).
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}
