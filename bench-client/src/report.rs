//! The result as an object, documented in `bench-client/schema.md`, and what makes a run not valid.
#![forbid(unsafe_code)]

mod durable;
mod host;
mod limit;
mod million;
mod phases;
mod timeline;

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::Context;
use serde::Serialize;

use crate::{
    fleet::Causes,
    measure::Percentiles,
    plan::Plan,
    run::{Finished, RunConfig},
    scenario::Settled,
};

pub(crate) use self::{
    durable::DurableReport,
    host::Host,
    limit::{LimitCounts, LimitReport},
    million::MillionReport,
    phases::{OfflineReport, StormReport},
    timeline::TimelineReport,
};

/// An open loop whose sends or turns were later than this, in the 99th percentile, measured the client and not the gateway.
const LAG_P99_US_MAX: u64 = 1_000;
/// The same for the 99.9th percentile: a few time slices of the kernel, which a busy machine of few cores takes from anyone now and then …
const LAG_P999_US_MAX: u64 = 10_000;
/// … or this part of the latency's own 99.9th percentile, where that is more: a lag that small beside it changes no conclusion.
const LAG_P999_PART: u64 = 10;

/// One run's result. Field meanings: `schema.md`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) scenario: &'static str,
    pub(crate) target: &'static str,
    pub(crate) address: String,
    pub(crate) server_version: Option<String>,
    pub(crate) connections: u32,
    pub(crate) duration_s: f64,
    pub(crate) valid: bool,
    pub(crate) invalid_reasons: Vec<String>,
    pub(crate) sent: u64,
    pub(crate) bytes_per_send: Option<f64>,
    pub(crate) expected: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    pub(crate) misdelivered: u64,
    pub(crate) corrupted: u64,
    pub(crate) contradicted: u64,
    pub(crate) fault_examples: Vec<String>,
    pub(crate) refused: u64,
    pub(crate) refusals: BTreeMap<String, Cause>,
    pub(crate) rate_per_s: f64,
    pub(crate) latency_us: Option<Percentiles>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeline: Option<TimelineReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) schedule_lag_us: Option<Option<Percentiles>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) turn_lag_us: Option<Option<Percentiles>>,
    pub(crate) connects_per_s: f64,
    pub(crate) failed_connects: u64,
    pub(crate) retried_connects: u64,
    pub(crate) dropped_connections: u64,
    pub(crate) returned_connections: u64,
    pub(crate) endings: BTreeMap<String, Cause>,
    pub(crate) heartbeats: Heartbeats,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) durable: Option<DurableReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<Server>,
    pub(crate) client_cpu_cores: f64,
    pub(crate) workers: u32,
    pub(crate) payload_bytes: usize,
    pub(crate) active: u32,
    #[serde(flatten)]
    pub(crate) load: Load,
    pub(crate) seed: u64,
    pub(crate) host: Host,
}

/// What only some scenarios have.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Load {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pattern: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) depth: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) window: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) planned_rate_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_connects_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) groups: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) publishers: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) offline: Option<OfflineReport>,
    /// Clients whose connection ends come back, as was asked for.
    #[serde(skip)]
    pub(crate) reconnects: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) storm: Option<StormReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<LimitReport>,
}

/// How often something happened, and what was said the first time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Cause {
    pub(crate) count: u64,
    pub(crate) message: String,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Heartbeats {
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    pub(crate) rtt_us: Option<Percentiles>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Server {
    pub(crate) cpu_ns_per_connection: Option<f64>,
    pub(crate) cpu_ns_per_message: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_ns_per_accepted: Option<Option<f64>>,
    pub(crate) cpu_cores: f64,
    pub(crate) user_bytes_per_connection: f64,
}

impl Report {
    /// Puts together what came of a run.
    pub(crate) fn new(plan: &Plan, config: &RunConfig, load: Load, finished: &Finished, settled: &Settled) -> Report {
        let (outcome, tally) = (&finished.outcome, &finished.outcome.tally);
        let seconds = finished.phase.as_secs_f64();
        let server = finished.server.map(|server| Server {
            cpu_ns_per_connection: per(server.cpu_of_ramp, tally.ready),
            cpu_ns_per_message: per(server.cpu, tally.received),
            cpu_ns_per_accepted: config.leg.owed.answers.then(|| per(server.cpu, tally.durable.accepted)),
            cpu_cores: server.cpu_cores,
            user_bytes_per_connection: server.grown_bytes as f64 / tally.ready.max(1) as f64,
        });
        let mut report = Report {
            scenario: config.scenario,
            target: plan.dialect.name(),
            address: plan.target.to_string(),
            server_version: finished.server_version.clone(),
            connections: plan.connections,
            duration_s: seconds,
            valid: true,
            invalid_reasons: finished.reasons.clone(),
            sent: tally.sent,
            bytes_per_send: (tally.sends > 0).then(|| tally.send_bytes as f64 / tally.sends as f64),
            expected: settled.expected,
            received: tally.received,
            lost: settled.lost,
            duplicated: tally.duplicated,
            reordered: tally.reordered + settled.reordered,
            misdelivered: tally.misdelivered,
            corrupted: tally.corrupted,
            contradicted: settled.contradicted,
            fault_examples: outcome.examples.clone(),
            refused: tally.refused,
            refusals: causes(&outcome.refusals),
            rate_per_s: if seconds > 0.0 { tally.received_in_phase as f64 / seconds } else { 0.0 },
            latency_us: Percentiles::of_any(&outcome.latency_us),
            timeline: outcome.timeline.as_ref().map(|timeline| TimelineReport::new(timeline, &outcome.latency_us)),
            schedule_lag_us: load.planned_rate_per_s.map(|_| Percentiles::of_any(&outcome.lag_us)),
            turn_lag_us: load.planned_rate_per_s.map(|_| Percentiles::of_any(&outcome.turn_lag_us)),
            connects_per_s: tally.ready as f64 / finished.ramp.as_secs_f64().max(1e-6),
            failed_connects: tally.failed,
            retried_connects: tally.retried,
            dropped_connections: tally.dropped,
            returned_connections: tally.returned,
            endings: causes(&outcome.endings),
            heartbeats: Heartbeats { sent: tally.pings, answered: tally.pongs, rtt_us: Percentiles::of_any(&outcome.rtt_us) },
            durable: plan
                .receiving
                .filter(|_| config.leg.owed.answers)
                .map(|receiving| DurableReport::new(receiving, outcome, settled, seconds)),
            server,
            client_cpu_cores: finished.client_cpu_cores,
            workers: plan.workers,
            payload_bytes: plan.payload_bytes,
            active: plan.active,
            load,
            seed: plan.seed,
            host: Host::here(config.kind),
        };
        report.judge(tally.is_backlogged);
        report
    }

    /// The server, its version if that is known, and where it is.
    pub(crate) fn server_name(&self) -> String {
        let version = self.server_version.as_ref().map_or(String::new(), |version| format!(" {version}"));
        format!("{}{version} at {}", self.target, self.address)
    }

    /// Messages that did not come as they should.
    pub(crate) fn faults(&self) -> u64 {
        let durable = self.durable.as_ref().map_or(0, DurableReport::faults);
        self.lost + self.duplicated + self.reordered + self.misdelivered + self.corrupted + self.contradicted + durable
    }

    /// What the process ends with.
    pub(crate) fn exit_code(&self) -> u8 {
        match (self.faults(), self.valid) {
            (1.., _) => 1,
            (0, false) => 2,
            (0, true) => 0,
        }
    }

    /// Takes what a bare loop said when it ended.
    pub(crate) fn add_limit(&mut self, limit: LimitReport) {
        self.invalid_reasons.extend(limit.counts.reasons());
        self.valid &= self.invalid_reasons.is_empty();
        self.load.limit = Some(limit);
    }

    /// Adds the reasons that follow from the counts, and decides.
    fn judge(&mut self, is_backlogged: bool) {
        let mut reasons = std::mem::take(&mut self.invalid_reasons);
        if self.failed_connects > 0 {
            reasons.push(format!(
                "{} of {} clients could not log in: {}",
                self.failed_connects,
                self.connections,
                told(&self.endings)
            ));
        }
        // A storm drops connections itself, and waits for these; beyond them none should end.
        let forgiven = if self.load.reconnects { self.returned_connections } else { 0 };
        if self.dropped_connections > forgiven {
            reasons.push(format!("{} connections ended before they should: {}", self.dropped_connections, told(&self.endings)));
        }
        reasons.extend(self.durable.as_ref().and_then(DurableReport::gone_reason));
        if self.refused > 0 {
            reasons.push(format!("the gateway refused {} of {} messages: {}", self.refused, self.sent, told(&self.refusals)));
        }
        if is_backlogged {
            reasons.push(
                "the gateway took messages so much more slowly than --rate planned them that the queue of this client was full, so the \
                 run was ended early; lower --rate, or look at what stops the gateway"
                    .into(),
            );
        }
        match &self.load.storm {
            // What it measures is how long the return takes, with which this client has as much work as the gateway.
            Some(storm) => reasons.extend(storm.reason()),
            None => {
                for (what, lag) in [("sends", self.schedule_lag_us), ("turns", self.turn_lag_us)] {
                    reasons.extend(lag.flatten().and_then(|lag| bottleneck(what, &lag, self.latency_us)));
                }
            }
        }
        self.valid = reasons.is_empty() && self.faults() == 0;
        self.invalid_reasons = reasons;
    }
}

/// Writes a result to a file, as JSON for readers.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write_json(path: &Path, result: &impl Serialize) -> anyhow::Result<()> {
    write_lines(path, serde_json::to_string_pretty(result).context("the result cannot be written as JSON")?)
}

/// Writes text that ends without a line's end to a file that ends with one.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write_lines(path: &Path, mut text: String) -> anyhow::Result<()> {
    text.push('\n');
    fs::write(path, text).with_context(|| format!("the result cannot be written to {}", path.display()))
}

/// Why lag of this kind makes an open loop not valid, if it does.
fn bottleneck(what: &str, lag: &Percentiles, latency: Option<Percentiles>) -> Option<String> {
    let p999_max = latency.map_or(0, |latency| latency.p999 / LAG_P999_PART).max(LAG_P999_US_MAX);
    let (part, us, max) = match (lag.p99 > LAG_P99_US_MAX, lag.p999 > p999_max) {
        (true, _) => ("1 %", lag.p99, LAG_P99_US_MAX),
        (false, true) => ("0.1 %", lag.p999, p999_max),
        (false, false) => return None,
    };
    Some(format!(
        "this client was the bottleneck: {part} of its {what} were more than {us} µs later than planned, and {max} µs is the limit; \
         lower --rate, or give it more cores"
    ))
}

/// CPU time of each of so many, in nanoseconds.
pub(crate) fn per(cpu: Duration, count: u64) -> Option<f64> {
    (count > 0).then(|| cpu.as_nanos() as f64 / count as f64)
}

fn causes(causes: &Causes) -> BTreeMap<String, Cause> {
    causes.iter().map(|(name, (count, message))| (name.clone(), Cause { count: *count, message: message.clone() })).collect()
}

/// All causes in one line, each with what to do about it.
fn told(causes: &BTreeMap<String, Cause>) -> String {
    let one = |(name, cause): (&String, &Cause)| {
        let advice = advice(name).map_or(String::new(), |advice| format!(" → {advice}"));
        format!("{} × {name} ({}){advice}", cause.count, cause.message)
    };
    causes.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// What to do so that the gateway does not answer with this code.
fn advice(code: &str) -> Option<&'static str> {
    Some(match code {
        "RATE_EXCEEDED" => "raise the gateway's --limits-frames-per-second or --limits-bytes-per-second (0 for none)",
        "LOGIN_RATE_EXCEEDED" => "raise the gateway's --limits-logins-per-second-per-shard, or lower --connecting",
        "TOO_MANY_CONNECTIONS" => "raise the gateway's --limits-connections-per-shard, or give it more --shards",
        "TOO_MANY_FROM_ADDRESS" => "raise the gateway's --limits-connections-per-address",
        "SLOW_CONSUMER" => "raise the gateway's --limits-outbound-bytes-per-connection, or lower the load",
        "STORE_FULL" => "make room on the disk of the gateway's --data",
        "STORE_UNAVAILABLE" => "the gateway's own log says why its store fails",
        "MESSAGE_ID_REUSED" => "an earlier run had the same ids: run it again",
        "OVERLOADED" => "raise the gateway's --limits-outbound-bytes-per-shard, or lower the load",
        "FRAME_TOO_LONG" => "raise the gateway's --limits-max-body-bytes, or lower --payload",
        "TOKEN_MISSING" => "start the gateway with --dev, or give this program its --hs256-secret",
        "TOKEN_INVALID" => "is --hs256-secret (and --audience) the gateway's own?",
        "JOIN_FORBIDDEN" | "WRITE_FORBIDDEN" => "the token gives no right to the groups of this run: use --hs256-secret",
        "SUPERSEDED" => "another run has clients of the same names: use another --client-prefix",
        "not authorized" => "let clients in without a name: allow_anonymous true in the server's configuration",
        "Maximum Connections Exceeded" => "raise max_connections in the server's configuration",
        "connect" => "is the gateway running, and does `ulimit -n` allow this many connections?",
        _ => return None,
    })
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
