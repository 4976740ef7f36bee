//! What came of all runs, documented in `bench-client/schema-bench.md`. Pure.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cases::Load;
use crate::args::{CaseName, Size, TargetName};

/// What says that a file is such a result, and which form it has.
pub(super) const FORMAT: u32 = 1;

/// One run, as it was.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Run {
    pub(super) round: u32,
    pub(super) place: u32,
    pub(super) exit_status: Option<i32>,
    pub(super) failure: Option<String>,
    pub(super) knee_per_s: Option<f64>,
    pub(super) report: Option<Value>,
}

impl Run {
    /// Whether its numbers count.
    pub(super) fn is_valid(&self) -> bool {
        self.exit_status == Some(0)
            && self.failure.is_none()
            && self.report.as_ref().is_some_and(|report| report["valid"] == true)
    }

    /// A number of its report, by its path.
    pub(super) fn number(&self, path: &str) -> Option<f64> {
        self.report.as_ref()?.pointer(path)?.as_f64()
    }

    fn count(&self, name: &str) -> u64 {
        self.report.as_ref().and_then(|report| report[name].as_u64()).unwrap_or(0)
    }

    /// What is wrong with it, in words.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut words: Vec<String> = self.failure.iter().cloned().collect();
        let Some(report) = &self.report else { return self.in_round(words) };
        let faults = FAULTS.iter().filter(|name| self.count(name) > 0);
        words.extend(faults.map(|name| format!("{} of {} deliveries {name}", self.count(name), self.count("expected"))));
        words.extend(strings(&report["invalid_reasons"]));
        if words.is_empty() && !self.is_valid() {
            words.push(format!("it ended with {:?}", self.exit_status));
        }
        self.in_round(words)
    }

    fn in_round(&self, words: Vec<String>) -> Vec<String> {
        words.into_iter().map(|words| format!("round {}: {words}", self.round)).collect()
    }
}

fn strings(list: &Value) -> impl Iterator<Item = String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned)
}

/// Any of these is a fault of the server (or of this program), and never to be found.
const FAULTS: [&str; 6] = ["lost", "duplicated", "reordered", "misdelivered", "corrupted", "contradicted"];

/// What several runs said of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// `None` of nothing.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Spread { median, min, max })
    }
}

/// Sums over all runs, valid or not.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Counts {
    sent: u64,
    expected: u64,
    received: u64,
    lost: u64,
    duplicated: u64,
    reordered: u64,
    misdelivered: u64,
    corrupted: u64,
    contradicted: u64,
    refused: u64,
    failed_connects: u64,
    retried_connects: u64,
    dropped_connections: u64,
}

impl Counts {
    fn of(runs: &[Run]) -> Counts {
        let sum = |name: &str| runs.iter().map(|run| run.count(name)).sum();
        Counts {
            sent: sum("sent"),
            expected: sum("expected"),
            received: sum("received"),
            lost: sum("lost"),
            duplicated: sum("duplicated"),
            reordered: sum("reordered"),
            misdelivered: sum("misdelivered"),
            corrupted: sum("corrupted"),
            contradicted: sum("contradicted"),
            refused: sum("refused"),
            failed_connects: sum("failed_connects"),
            retried_connects: sum("retried_connects"),
            dropped_connections: sum("dropped_connections"),
        }
    }
}

/// Latency over the rounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Latency {
    pub(super) p50: Spread,
    pub(super) p99: Spread,
    pub(super) p999: Spread,
}

/// What the bare loops on io_uring did in the same scenario.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loops<'a> {
    pub(super) limit: &'a [Run],
    pub(super) echo: &'a [Run],
}

/// One scenario with one target.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) scenario: String,
    pub(super) title: String,
    pub(super) target: &'static str,
    pub(super) reactor: Option<&'static str>,
    pub(super) server_version: Option<String>,
    pub(super) shards: Option<u32>,
    pub(super) server_cores: Vec<usize>,
    pub(super) load_cores: Vec<usize>,
    pub(super) connections: u32,
    pub(super) active: u32,
    pub(super) depth: Option<u32>,
    pub(super) window: Option<u32>,
    pub(super) rounds: u32,
    pub(super) valid_rounds: u32,
    pub(super) server_cpu_ns_per_message: Option<Spread>,
    pub(super) server_cpu_ns_per_connection: Option<Spread>,
    pub(super) user_bytes_per_connection: Option<Spread>,
    pub(super) ratio_to_limit: Option<Spread>,
    pub(super) ratio_to_echo: Option<Spread>,
    pub(super) rate_per_s: Option<Spread>,
    pub(super) latency_us: Option<Latency>,
    pub(super) client_cpu_cores: Option<Spread>,
    pub(super) counts: Counts,
    pub(super) problems: Vec<String>,
    pub(super) runs: Vec<Run>,
}

impl Outcome {
    /// Puts a scenario's runs with a target together.
    pub(super) fn new(case: CaseName, target: TargetName, size: &Size, runs: Vec<Run>, loops: Loops<'_>) -> Outcome {
        let valid = || runs.iter().filter(|run| run.is_valid());
        let spread = |path: &str| Spread::of(valid().filter_map(|run| run.number(path)));
        let load = case.load();
        let (connections, active, depth, window) = match load {
            Load::Route { depth, .. } => (size.connections, size.active, Some(depth), None),
            Load::Paced { .. } => (size.connections, size.active, None, None),
            Load::Fanout { window } => (size.members, 1, None, Some(window)),
            Load::Connect => (size.logins, 0, None, None),
        };
        let is_connect = load == Load::Connect;
        let of_connect = |path: &str| spread(path).filter(|_| is_connect);
        let of_messages = |path: &str| spread(path).filter(|_| !is_connect);
        let latency = |name: &str| of_messages(&format!("/latency_us/{name}"));
        let (p50, p99, p999) = (latency("p50"), latency("p99"), latency("p999"));
        Outcome {
            scenario: case.name(),
            title: case.title(size),
            target: target.server(),
            reactor: target.reactor(),
            server_version: runs.iter().find_map(|run| run.report.as_ref()?["server_version"].as_str()).map(str::to_owned),
            shards: target.reactor_of_weir().map(|_| case.shards()),
            server_cores: Vec::new(),
            load_cores: Vec::new(),
            connections,
            active,
            depth,
            window,
            rounds: runs.len() as u32,
            valid_rounds: valid().count() as u32,
            server_cpu_ns_per_message: of_messages(CPU_PER_MESSAGE),
            server_cpu_ns_per_connection: of_connect(CPU_PER_CONNECTION),
            user_bytes_per_connection: of_connect("/server/user_bytes_per_connection"),
            ratio_to_limit: Spread::of(valid().filter_map(|run| ratio(run, loops.limit, is_connect))),
            ratio_to_echo: Spread::of(valid().filter_map(|run| ratio(run, loops.echo, is_connect))),
            rate_per_s: if is_connect { spread("/connects_per_s") } else { spread("/rate_per_s") },
            latency_us: p50.zip(p99).zip(p999).map(|((p50, p99), p999)| Latency { p50, p99, p999 }),
            client_cpu_cores: spread("/client_cpu_cores"),
            counts: Counts::of(&runs),
            problems: runs.iter().flat_map(Run::problems).collect(),
            runs,
        }
    }

    /// As `--targets` takes it.
    pub(super) fn target_name(&self) -> String {
        self.reactor.map_or_else(|| self.target.to_owned(), |reactor| format!("{}-{reactor}", self.target))
    }

    /// What the server's CPU is shared out to.
    pub(super) fn cpu(&self) -> Option<Spread> {
        self.server_cpu_ns_per_message.or(self.server_cpu_ns_per_connection)
    }
}

const CPU_PER_MESSAGE: &str = "/server/cpu_ns_per_message";
const CPU_PER_CONNECTION: &str = "/server/cpu_ns_per_connection";

/// The CPU of a run by that of the loop in the same round.
fn ratio(run: &Run, loops: &[Run], is_connect: bool) -> Option<f64> {
    let path = if is_connect { CPU_PER_CONNECTION } else { CPU_PER_MESSAGE };
    let of_loop = loops.iter().find(|other| other.round == run.round && other.is_valid())?.number(path)?;
    (of_loop > 0.0).then_some(run.number(path)? / of_loop)
}

/// What the process ends with: the worst of all runs.
pub(super) fn exit_code(outcomes: &[Outcome]) -> u8 {
    let runs = || outcomes.iter().flat_map(|outcome| &outcome.runs);
    match (runs().any(|run| run.exit_status == Some(1)), runs().all(Run::is_valid)) {
        (true, _) => 1,
        (false, false) => 2,
        (false, true) => 0,
    }
}

#[cfg(test)]
#[path = "summary_tests.rs"]
mod tests;
