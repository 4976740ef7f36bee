//! What is measured: scenarios, servers, and the command of each run. They are those of the budgets that the gateway is built to.
#![forbid(unsafe_code)]

use std::{path::Path, time::Duration};

use clap::ValueEnum;

use crate::{
    args::{CaseName, Size, TargetName},
    table::grouped,
};

/// A server is loaded with this part of the most that it can take where it is asked for latency.
pub(super) const KNEE_PART: f64 = 0.7;

/// Messages on their way, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    Route {
        depth: u32,
        /// Each message crosses the shards of a gateway.
        crosses: bool,
    },
    /// By a schedule: [`KNEE_PART`] of the knee, which is looked for below what the closed loop of this depth reaches.
    Paced {
        depth: u32,
    },
    Fanout {
        window: u32,
    },
    Connect,
}

impl Load {
    /// Whether each message crosses the shards of a gateway, whose metrics then say between which clients it does.
    pub(super) fn crosses(self) -> bool {
        matches!(self, Load::Route { crosses: true, .. })
    }
}

impl CaseName {
    pub(super) fn name(self) -> String {
        named(self)
    }

    pub(super) fn load(self) -> Load {
        match self {
            CaseName::Route1 => Load::Route { depth: 1, crosses: false },
            CaseName::Route1Across => Load::Route { depth: 1, crosses: true },
            CaseName::Route16 => Load::Route { depth: 16, crosses: false },
            CaseName::Route70 => Load::Paced { depth: 16 },
            CaseName::Fanout16 => Load::Fanout { window: 16 },
            CaseName::Fanout64 => Load::Fanout { window: 64 },
            CaseName::Connect => Load::Connect,
        }
    }

    /// Shards of a gateway. Everything else has one thread.
    pub(super) fn shards(self) -> u32 {
        match self {
            CaseName::Route1Across => 2,
            CaseName::Route1 | CaseName::Route16 | CaseName::Route70 => 1,
            CaseName::Fanout16 | CaseName::Fanout64 | CaseName::Connect => 1,
        }
    }

    /// Whether it is measured with this server.
    pub(super) fn takes(self, target: TargetName) -> bool {
        let (is_route, is_paced) = (matches!(self.load(), Load::Route { .. }), matches!(self.load(), Load::Paced { .. }));
        match target {
            TargetName::WeirUring | TargetName::WeirEpoll | TargetName::WeirGlommio => true,
            // The knee of a loop is far beyond that of its load.
            TargetName::LimitUring => !is_paced,
            TargetName::EchoUring => is_route,
            TargetName::LimitEpoll if is_paced => false,
            // What shards cost each other can only be asked of shards; the ratios need the loops on io_uring.
            TargetName::LimitEpoll | TargetName::Nats | TargetName::Mqtt => self != CaseName::Route1Across,
        }
    }

    pub(super) fn title(self, size: &Size) -> String {
        let Size { connections, active, members, logins } = *size;
        let [connections, active, members, logins] = [connections, active, members, logins].map(|number| grouped(number.into()));
        match self {
            CaseName::Route1 => format!("1:1, one in flight, {active} active of {connections}"),
            CaseName::Route16 => format!("1:1, 16 in flight, {active} active of {connections}"),
            CaseName::Route70 => {
                format!("1:1 by a schedule, at 70 % of the knee, {active} active of {connections}")
            }
            CaseName::Route1Across => format!("1:1, one in flight, {active} active of {connections}, across two shards"),
            CaseName::Fanout16 => format!("fan-out to {members}, window 16"),
            CaseName::Fanout64 => format!("fan-out to {members}, window 64"),
            CaseName::Connect => format!("{logins} logins"),
        }
    }
}

impl TargetName {
    pub(super) fn name(self) -> String {
        named(self)
    }

    /// What results call it, as the results of single runs do.
    pub(super) fn server(self) -> &'static str {
        match self {
            TargetName::LimitUring | TargetName::LimitEpoll => "limit",
            TargetName::EchoUring => "echo",
            TargetName::WeirUring | TargetName::WeirEpoll | TargetName::WeirGlommio => "weir",
            TargetName::Nats => "nats",
            TargetName::Mqtt => "mqtt",
        }
    }

    pub(super) fn reactor(self) -> Option<&'static str> {
        self.reactor_of_weir().or(self.reactor_of_limit())
    }

    pub(super) fn reactor_of_weir(self) -> Option<&'static str> {
        match self {
            TargetName::WeirUring => Some("uring"),
            TargetName::WeirEpoll => Some("epoll"),
            TargetName::WeirGlommio => Some("glommio"),
            TargetName::LimitUring | TargetName::LimitEpoll | TargetName::EchoUring => None,
            TargetName::Nats | TargetName::Mqtt => None,
        }
    }

    pub(super) fn reactor_of_limit(self) -> Option<&'static str> {
        match self {
            TargetName::LimitUring | TargetName::EchoUring => Some("uring"),
            TargetName::LimitEpoll => Some("epoll"),
            TargetName::WeirUring | TargetName::WeirEpoll | TargetName::WeirGlommio | TargetName::Nats | TargetName::Mqtt => None,
        }
    }
}

/// As it is written on the command line.
fn named(value: impl ValueEnum) -> String {
    value.to_possible_value().expect("none is skipped").get_name().to_owned()
}

/// Where a run finds its server.
pub(super) enum Place<'a> {
    /// It is there, with this process id. Where messages are to cross its shards, its metrics tell which do.
    There { target: &'a str, pid: u32, metrics: Option<&'a str> },
    /// The run starts it itself, on this core.
    Bare { reactor: &'static str, core: usize },
}

/// The words of one run's command. `load` is what the scenario asks for, and `rate` what a schedule is made of.
pub(super) fn words(
    (load, rate): (Load, Option<f64>),
    target: TargetName,
    size: &Size,
    duration: Duration,
    place: &Place<'_>,
) -> Vec<String> {
    let is_bare = matches!(place, Place::Bare { .. });
    let (scenario, bare) = match load {
        Load::Route { .. } if target == TargetName::EchoUring => ("route", "echo"),
        Load::Route { .. } | Load::Paced { .. } => ("route", "relay"),
        Load::Fanout { .. } => ("fanout", "fanout"),
        Load::Connect => ("connect", "accept"),
    };
    let mut words: Vec<String> = if is_bare { vec!["limit".into(), bare.into()] } else { vec![scenario.into()] };
    let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
    match load {
        Load::Route { depth, .. } | Load::Paced { depth } => {
            option("--connections", size.connections.to_string());
            option("--active", size.active.to_string());
            match rate {
                None => option("--depth", depth.to_string()),
                Some(rate) => option("--rate", format!("{rate:.0}")),
            }
        }
        Load::Fanout { window } => {
            option("--members", size.members.to_string());
            option("--window", window.to_string());
        }
        Load::Connect => option("--connections", size.logins.to_string()),
    }
    option("--duration", format!("{}ms", duration.as_millis()));
    option("--workers", "1".into());
    if load != Load::Connect {
        option("--timeline", format!("{}ms", step(duration).as_millis()));
    }
    match place {
        Place::There { target, pid, metrics } => {
            option("--target", (*target).to_owned());
            option("--server-pid", pid.to_string());
            if load.crosses() {
                option("--pattern", "across".into());
                option("--metrics", metrics.expect("a server that is to be crossed was started with metrics").to_owned());
            }
        }
        Place::Bare { reactor, core } => {
            option("--server-reactor", (*reactor).to_owned());
            option("--server-core", core.to_string());
        }
    }
    if target == TargetName::Mqtt {
        // It lets 100 connections wait for it, and each one too many costs its client a second.
        option("--connecting", "64".into());
    }
    words
}

/// A tenth of a second, and never more than a tenth or less than a hundredth of the phase.
fn step(duration: Duration) -> Duration {
    Duration::from_millis(100).clamp(duration / 100, duration / 10).max(Duration::from_millis(1))
}

/// The words with what only this run needs.
pub(super) fn with_json(mut words: Vec<String>, json: &Path) -> Vec<String> {
    words.extend(["--json".to_owned(), json.display().to_string()]);
    words
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Cli;

    const SIZE: Size = Size { connections: 1_000, active: 200, members: 1_000, logins: 10_000 };

    #[test]
    fn every_command_is_one_that_this_program_takes() {
        for case in CaseName::value_variants() {
            for target in TargetName::value_variants() {
                let place = match target.reactor_of_limit() {
                    Some(reactor) => Place::Bare { reactor, core: 0 },
                    None => {
                        let metrics = case.load().crosses().then_some("127.0.0.1:2");
                        Place::There { target: "nats://127.0.0.1:1", pid: 1, metrics }
                    }
                };
                for duration in [Duration::from_millis(300), Duration::from_secs(2), Duration::from_secs(600)] {
                    let rate = matches!(case.load(), Load::Paced { .. }).then_some(1234.5);
                    let words = words((case.load(), rate), *target, &SIZE, duration, &place);
                    let words = with_json(words, Path::new("x.json"));
                    let all = [String::from("bench-client")].into_iter().chain(words.clone());
                    assert!(Cli::try_parse_from(all).is_ok(), "{words:?}");
                }
            }
        }
    }

    #[test]
    fn steps_are_neither_few_nor_many() {
        for (ms, step_ms) in [(300, 30), (2_000, 100), (60_000, 600), (5, 1)] {
            assert_eq!(step(Duration::from_millis(ms)), Duration::from_millis(step_ms), "{ms}");
        }
    }
}
