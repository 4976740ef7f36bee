//! The command line of `limit`.
#![forbid(unsafe_code)]

use clap::{Arg, Args, Subcommand, ValueEnum};
use weir::reactor::limit::Loop;

use super::{Common, Payload, ReactorArg, TimelineArgs, parse_rate};

/// Options that all scenarios share, and that say nothing to a loop: it is started here, and knows no protocol.
const NOT_OF_LOOPS: [&str; 7] = ["target", "server_pid", "token", "hs256_secret", "audience", "batches", "compress"];

#[derive(Args, Clone, Debug)]
pub(crate) struct LimitArgs {
    #[command(subcommand)]
    pub(crate) command: LimitCommand,
}

/// Each starts the loop as a process of its own, loads it as the scenario of a gateway loads that, and ends it.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum LimitCommand {
    /// The plain reference: clients get back what they send.
    #[command(mut_args(without_target))]
    Echo(LimitEchoArgs),
    /// The bound of `route`: clients get what another one sends, in pairs.
    #[command(mut_args(without_target))]
    Relay(LimitEchoArgs),
    /// The bound of `fanout`: all clients get what one sends.
    #[command(mut_args(without_target))]
    Fanout(LimitFanoutArgs),
    /// The bound of `connect`: connections are accepted, greet, move to another thread's ring, and are answered there.
    #[command(mut_args(without_target), mut_arg("duration", |arg| arg.default_value("1s")))]
    Accept(LimitAcceptArgs),
    /// The loop itself, until standard input ends.
    #[command(hide = true)]
    Serve(LimitServeArgs),
}

fn without_target(arg: Arg) -> Arg {
    let is_hidden = NOT_OF_LOOPS.contains(&arg.get_id().as_str());
    let arg = if arg.get_id() == "target" { arg.default_value("") } else { arg };
    arg.hide(is_hidden)
}

/// The process that is measured.
#[derive(Args, Clone, Debug)]
pub(crate) struct LimitServer {
    /// How the loop does its I/O. By default io_uring, or epoll where that is refused.
    #[arg(long, value_name = "DRIVER")]
    pub(crate) server_reactor: Option<ReactorArg>,
    /// The core that the loop runs on.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) server_core: usize,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct LimitEchoArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) timeline: TimelineArgs,
    #[command(flatten)]
    pub(crate) server: LimitServer,
    #[command(flatten)]
    pub(crate) payload: Payload,
    /// Clients.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    pub(crate) connections: u32,
    /// Only so many of them send and receive; the rest stay connected and idle.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) active: Option<u32>,
    /// Closed loop: messages on their way at once for each active client.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) depth: u32,
    /// Open loop: messages a second in all, on a schedule that does not wait for the loop.
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_rate, conflicts_with = "depth")]
    pub(crate) rate: Option<f64>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct LimitFanoutArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) timeline: TimelineArgs,
    #[command(flatten)]
    pub(crate) server: LimitServer,
    #[command(flatten)]
    pub(crate) payload: Payload,
    /// Members of the group; the first one sends.
    #[arg(long, visible_alias = "connections", value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    pub(crate) members: u32,
    /// Closed loop: messages that may be on their way to some member.
    #[arg(long, visible_alias = "depth", value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) window: u32,
    /// Open loop: messages published a second, on a schedule that does not wait for the loop.
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_rate, conflicts_with = "window")]
    pub(crate) rate: Option<f64>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct LimitAcceptArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) server: LimitServer,
    /// Clients.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    pub(crate) connections: u32,
    /// New connections a second at most; by default as fast as they are taken.
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_rate)]
    pub(crate) max_rate: Option<f64>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct LimitServeArgs {
    #[arg(long)]
    pub(crate) what: What,
    #[arg(long)]
    pub(crate) server_reactor: ReactorArg,
    #[arg(long)]
    pub(crate) server_core: usize,
    /// The most connections at once.
    #[arg(long)]
    pub(crate) slots: u32,
}

/// Which loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    Echo,
    Relay,
    Fanout,
    Accept,
}

impl What {
    /// The scenario that loads it.
    pub(crate) fn scenario(self) -> &'static str {
        match self {
            What::Echo => "limit-echo",
            What::Relay => "limit-relay",
            What::Fanout => "limit-fanout",
            What::Accept => "limit-accept",
        }
    }
}

impl From<What> for Loop {
    fn from(what: What) -> Loop {
        match what {
            What::Echo => Loop::Echo,
            What::Relay => Loop::Relay,
            What::Fanout => Loop::Fanout,
            What::Accept => Loop::Accept,
        }
    }
}
