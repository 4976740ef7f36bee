//! The command line.
#![forbid(unsafe_code)]

mod bench;
mod limit;
mod million;
mod soak;
mod timeline;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use self::{
    bench::{BenchArgs, CaseName, DiffArgs, ExecArgs, Size, TargetName},
    limit::{LimitAcceptArgs, LimitArgs, LimitCommand, LimitEchoArgs, LimitFanoutArgs, LimitServeArgs, LimitServer, What},
    million::MillionArgs,
    soak::SoakArgs,
    timeline::TimelineArgs,
};
use crate::verify::PAYLOAD_BYTES_MIN;

/// A load simulator for long-connection gateways: connects many clients, lets them talk, and checks every message.
///
/// Exit status: 0 all messages were exact and the run is valid; 1 a message was lost, duplicated, reordered, misdelivered,
/// corrupted, or delivered though refused; 2 the run is not valid or could not be made, with the reason; 64 wrong use.
#[derive(Debug, Parser)]
#[command(name = "bench-client", version, max_term_width = 120)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Connects clients, holds them with heartbeats, and ends them.
    Connect(ConnectArgs),
    /// Sends messages from client to client.
    Route(RouteArgs),
    /// Sends messages to groups; every member must get every message.
    Fanout(FanoutArgs),
    /// Sends durable messages to clients that are not there, and lets them come and get them.
    #[command(mut_arg("duration", |arg| arg.default_value("60s").help(
        "How long each phase may take: \"500ms\", \"10s\", \"2m\", \"1h\""
    )))]
    Offline(OfflineArgs),
    /// Lets everybody drop and come back, while durable messages are sent to them.
    Storm(StormArgs),
    /// Measures the bare loops that bound every gateway here: no protocol, no sessions, the same load.
    Limit(LimitArgs),
    /// Starts a gateway, and shows what it does with a million connections. This is `make million`.
    Million(MillionArgs),
    /// Keeps a gateway under mixed traffic for a long time: fails on any loss, on growing memory, on drifting latency. This is `make soak`.
    Soak(SoakArgs),
    /// Measures the gateway beside the bare loops and other servers, by turns. This is `make bench`.
    Bench(BenchArgs),
    /// Compares two results of `bench`.
    ///
    /// Exit status: 0 nothing got worse beyond the spread of the rounds; 1 something did; 2 the two cannot be compared, with
    /// the reason; 64 wrong use.
    Diff(DiffArgs),
    /// Becomes a server of `bench`.
    #[command(hide = true)]
    Exec(ExecArgs),
    /// Starts a gateway and shows what it does, in about 20 seconds. This is `make demo`.
    Demo(DemoArgs),
}

/// What all scenarios share.
#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    /// The gateway: HOST:PORT or weir://HOST:PORT. In connect, route and fanout also a NATS or MQTT server, by
    /// nats://HOST:PORT or mqtt://HOST:PORT.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7700")]
    pub(crate) target: String,
    /// How long to send, or to hold: "500ms", "10s", "2m", "1h".
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub(crate) duration: Duration,
    /// How long to wait for the last messages when nothing comes any more.
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_duration)]
    pub(crate) drain: Duration,
    /// Threads, each with a reactor. By default one a core, more where the file limit bounds what one can hold.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=250))]
    pub(crate) workers: Option<u32>,
    /// How the threads do their I/O. By default io_uring, or epoll where that is refused.
    #[arg(long, value_name = "DRIVER")]
    pub(crate) reactor: Option<ReactorArg>,
    /// Every random choice of a run follows from this.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Clients are called by this and a number. Two runs on one gateway at once need different ones.
    #[arg(long, value_name = "NAME", default_value = "b")]
    pub(crate) client_prefix: String,
    /// The first address to connect from, each takes 8,000 connections. By default 127.0.0.2 if the target is on 127.0.0.0/8,
    /// and the kernel's choice otherwise.
    #[arg(long, value_name = "IPV4")]
    pub(crate) source: Option<std::net::Ipv4Addr>,
    /// Clients on their way to being logged in at once. By default 512, and 4096 in `storm`.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connecting: Option<u32>,
    /// Take several frames in one, where the gateway has them.
    #[arg(long)]
    pub(crate) batches: bool,
    /// Take compressed frames.
    #[arg(long)]
    pub(crate) compress: bool,
    /// The token that every client logs in with.
    #[arg(long, value_name = "JWT", conflicts_with = "hs256_secret", env = "BENCH_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Make a token for each client with this secret, which the gateway has too.
    #[arg(long, value_name = "SECRET", env = "BENCH_HS256_SECRET", hide_env_values = true)]
    pub(crate) hs256_secret: Option<String>,
    /// The audience of the tokens made.
    #[arg(long, value_name = "NAME", requires = "hs256_secret")]
    pub(crate) audience: Vec<String>,
    /// Measure CPU and memory of the gateway with this process id.
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// Write the result there, as JSON (bench-client/schema.md).
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// The size of messages.
#[derive(Args, Clone, Debug)]
pub(crate) struct Payload {
    /// Bytes of payload in each message; at least 32, which carry what the check needs.
    #[arg(long = "payload", value_name = "BYTES", default_value_t = 64, value_parser = parse_payload)]
    pub(crate) bytes: usize,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ConnectArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Clients.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    pub(crate) connections: u32,
    /// New connections a second at most: a ceiling, not a schedule that the gateway is held to, because a client waits for
    /// answers (see --connecting). The result tells the rate reached. By default as fast as they are taken.
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_rate)]
    pub(crate) max_rate: Option<f64>,
    /// Log in with this window for durable messages; 0 takes no part in their delivery.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub(crate) receive_window: u32,
    #[command(flatten)]
    pub(crate) unused: Unused,
}

/// What `connect` takes so that one set of options suits all scenarios. It sends no messages, so nothing follows from these.
#[derive(Args, Clone, Debug)]
pub(crate) struct Unused {
    #[command(flatten)]
    pub(crate) payload: Payload,
    /// As in the other scenarios; without effect here, because `connect` sends no messages. Nor does --payload have any.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) depth: u32,
}

/// How clients take durable messages.
#[derive(Args, Clone, Debug)]
pub(crate) struct ReceivingArgs {
    /// Durable messages that may be on their way to a client without a RECEIVED: the window that it logs in with.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) receive_window: u32,
    /// A client sends RECEIVED after so many messages of a channel …
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) ack_every: u32,
    /// … and at the latest so long after one came.
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = parse_duration)]
    pub(crate) ack_after: Duration,
}

/// Durable messages in scenarios that can do without.
#[derive(Args, Clone, Debug)]
pub(crate) struct DurableArgs {
    /// Messages are durable: each must be accepted, and delivered once, in the order of its channel. The closed loop then
    /// bounds the messages of each sender that are not accepted.
    #[arg(long)]
    pub(crate) durable: bool,
    /// Clients whose connection ends early come back, and send again what was not accepted. So a gateway may be killed and
    /// started again in the middle of a run.
    #[arg(long, requires = "durable")]
    pub(crate) reconnect: bool,
    #[command(flatten)]
    pub(crate) receiving: ReceivingArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RouteArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) payload: Payload,
    #[command(flatten)]
    pub(crate) durable: DurableArgs,
    #[command(flatten)]
    pub(crate) timeline: TimelineArgs,
    /// Clients.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..=4_000_000))]
    pub(crate) connections: u32,
    /// Only so many of them send and receive; the rest stay connected and idle.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) active: Option<u32>,
    /// Who sends to whom.
    #[arg(long, default_value = "pairs")]
    pub(crate) pattern: Pattern,
    /// With `--pattern across`: where the gateway's metrics are, as its own --metrics says.
    #[arg(long, value_name = "IP:PORT", required_if_eq("pattern", "across"))]
    pub(crate) metrics: Option<std::net::SocketAddr>,
    /// With `--pattern random`: how many peers each client picks from.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) peers: u32,
    /// Closed loop: messages on their way at once for each active client. With `--pattern random` it is so only on average, because
    /// whoever receives sends the next one: some clients have more on their way for a while, others fewer.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) depth: u32,
    /// Open loop: messages a second in all, on a schedule that does not wait for the gateway.
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_rate, conflicts_with = "depth")]
    pub(crate) rate: Option<f64>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct FanoutArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) payload: Payload,
    #[command(flatten)]
    pub(crate) durable: DurableArgs,
    #[command(flatten)]
    pub(crate) timeline: TimelineArgs,
    /// Clients, dealt out to the groups. By default 1,000 for each group.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4_000_000), conflicts_with = "members")]
    pub(crate) connections: Option<u32>,
    /// Members of each group.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    pub(crate) members: Option<u32>,
    /// Groups.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) groups: u32,
    /// Members of each group that send to it. They get their own messages too.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) publishers: u32,
    /// Closed loop: messages of each publisher that may be on their way to some member.
    #[arg(long, visible_alias = "depth", value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) window: u32,
    /// Open loop: messages published a second in all, on a schedule that does not wait for the gateway.
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_rate, conflicts_with = "window")]
    pub(crate) rate: Option<f64>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct OfflineArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) payload: Payload,
    #[command(flatten)]
    pub(crate) receiving: ReceivingArgs,
    /// Clients that messages are kept for.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    pub(crate) connections: u32,
    /// Messages for each of them, and for each group.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) messages: u32,
    /// Clients that send them.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) senders: u32,
    /// Messages of each sender that are not accepted, at most.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) depth: u32,
    /// Groups that the clients joined before, dealt out among them. Their members get the messages that they missed there, too.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub(crate) groups: u32,
    /// New connections a second at most, when the clients come.
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_rate)]
    pub(crate) max_rate: Option<f64>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct StormArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) payload: Payload,
    #[command(flatten)]
    pub(crate) receiving: ReceivingArgs,
    /// Clients that drop and come back.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    pub(crate) connections: u32,
    /// Clients that stay, and send to them.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) senders: u32,
    /// Closed loop: messages of each sender that are not accepted.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) depth: u32,
    /// Open loop: messages a second in all, on a schedule that does not wait for the gateway.
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_rate, conflicts_with = "depth")]
    pub(crate) rate: Option<f64>,
    /// From the beginning of the sending phase to the drop.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    pub(crate) drop_after: Duration,
    /// Each client comes back after a random time of so many milliseconds at most.
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(0..=3_600_000))]
    pub(crate) jitter_ms: u32,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct DemoArgs {
    /// The gateway's program. By default `weir` beside this one.
    #[arg(long, value_name = "PATH")]
    pub(crate) weir: Option<PathBuf>,
    /// How both ends do their I/O. By default io_uring, or epoll where that is refused.
    #[arg(long, value_name = "DRIVER")]
    pub(crate) reactor: Option<ReactorArg>,
}

/// A reactor's driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReactorArg {
    Uring,
    Epoll,
    /// Only in a build with `--features glommio`.
    Glommio,
}

/// Who sends to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pattern {
    /// 0 with 1, 2 with 3, and so on.
    Pairs,
    /// Each to a few others, drawn by the seed.
    Random,
    /// Pairs whose two ends are at home on different shards of the gateway, so that each message crosses them. Needs --metrics: it is
    /// looked up before the run, by a login for each of the active clients and some more, one after the other, about a millisecond each.
    Across,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("a time is a number with a unit, like 500ms, 10s, 2m or 1h".into()),
    };
    let seconds: f64 = number.parse::<f64>().map_err(|_| format!("{number:?} is not a number; write 10s, for example"))? * factor;
    if !(0.001..=7.0 * 86_400.0).contains(&seconds) {
        return Err("a time is at least 1ms and at most 168h".into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn parse_payload(text: &str) -> Result<usize, String> {
    let bytes: usize = text.parse().map_err(|_| "not a number of bytes".to_owned())?;
    let max = weir::limits::BODY_BYTES_CEILING as usize / 2;
    if bytes < PAYLOAD_BYTES_MIN {
        return Err(format!(
            "the smallest payload is {PAYLOAD_BYTES_MIN} bytes: it carries sender, receiver, sequence, time and checksum, by which \
             every message is checked"
        ));
    }
    if bytes > max {
        return Err(format!("the largest payload is {max} bytes"));
    }
    Ok(bytes)
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.01..=1e8).contains(&rate) => Ok(rate),
        Ok(_) => Err("a rate is between 0.01 and 100000000 a second".into()),
        Err(_) => Err("not a number".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(args: &[&str]) -> String {
        let args = ["bench-client"].iter().chain(args);
        Cli::try_parse_from(args).expect_err("these arguments are wrong").to_string()
    }

    #[test]
    fn a_payload_below_the_minimum_is_refused_with_the_minimum() {
        let error = error_of(&["route", "--payload", "31"]);
        assert!(error.contains("smallest payload is 32 bytes"), "{error}");
        assert!(Cli::try_parse_from(["bench-client", "route", "--payload", "32"]).is_ok());
    }

    #[test]
    fn loops_cannot_be_open_and_closed_at_once() {
        assert!(error_of(&["route", "--rate", "100", "--depth", "2"]).contains("cannot be used with"));
        assert!(error_of(&["fanout", "--rate", "100", "--window", "2"]).contains("cannot be used with"));
    }

    #[test]
    fn wrong_values_are_told_apart() {
        for (args, words) in [
            (&["route", "--duration", "10"][..], "with a unit"),
            (&["route", "--duration", "s"], "is not a number"),
            (&["route", "--duration", "0s"], "at least 1ms"),
            (&["route", "--connections", "1"], "2..="),
            (&["route", "--rate", "0"], "a rate is between"),
            (&["route", "--pattern", "ring"], "possible values: pairs, random, across"),
            (&["fanout", "--members", "5", "--connections", "5"], "cannot be used with"),
            (&["connect", "--rate", "5"], "unexpected argument"),
            (&["connect", "--audience", "a"], "--hs256-secret"),
        ] {
            let error = error_of(args);
            assert!(error.contains(words), "{args:?}: {error}");
        }
    }

    #[test]
    fn all_scenarios_take_the_same_options() {
        for scenario in ["connect", "route", "fanout", "offline", "storm"] {
            let options = "--target 127.0.0.1:1 --connections 4 --depth 2 --duration 1s --payload 100 --workers 2 --seed 3";
            let words = ["bench-client", scenario].into_iter().chain(options.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{scenario}");
        }
    }

    #[test]
    fn times_have_units() {
        for (text, ms) in [("500ms", 500), ("10s", 10_000), ("1.5s", 1_500), ("2m", 120_000), ("1h", 3_600_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }
}
