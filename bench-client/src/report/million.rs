//! The result of `million`. Field meanings: `schema.md`.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{Cause, Host, Report, causes, per, told};
use crate::{
    measure::Percentiles,
    plan::Plan,
    run::{Finished, LegUse, RunConfig},
    scenario::Settled,
    table::{grouped, micros},
};

/// Caches of the kernel that are told one by one, at most.
const SLABS_MAX: usize = 12;
/// … and only where they take so many bytes of each connection.
const SLAB_BYTES_MIN: f64 = 1.0;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct MillionReport {
    scenario: &'static str,
    target: &'static str,
    connections: u32,
    shards: u32,
    workers: u32,
    valid: bool,
    invalid_reasons: Vec<String>,
    sent: u64,
    expected: u64,
    received: u64,
    lost: u64,
    duplicated: u64,
    reordered: u64,
    misdelivered: u64,
    corrupted: u64,
    contradicted: u64,
    fault_examples: Vec<String>,
    refused: u64,
    endings: BTreeMap<String, Cause>,
    ramp: Ramp,
    memory: Memory,
    hold: Option<Hold>,
    route: Option<Messages>,
    storm: Option<Return>,
    broadcast: Option<Messages>,
    alone: Alone,
    route_cpu_ratio: Option<f64>,
    payload_bytes: usize,
    active: u32,
    seed: u64,
    host: Host,
}

#[derive(Clone, Debug, Serialize)]
struct Ramp {
    duration_s: f64,
    connects_per_s: f64,
    failed_connects: u64,
    retried_connects: u64,
    server_cpu_ns_per_connection: Option<f64>,
}

/// Bytes for each connection.
#[derive(Clone, Debug, Serialize)]
struct Memory {
    server_user_bytes: f64,
    client_user_bytes: f64,
    kernel_bytes_both_ends: Option<f64>,
    kernel_doubt: Option<String>,
    kernel_caches: BTreeMap<String, f64>,
}

#[derive(Clone, Debug, Serialize)]
struct Hold {
    duration_s: f64,
    server_cpu_cores: Option<f64>,
    client_cpu_cores: f64,
    heartbeats_sent: u64,
    heartbeats_answered: u64,
    heartbeat_rtt_us: Option<Percentiles>,
}

#[derive(Clone, Debug, Serialize)]
struct Messages {
    duration_s: f64,
    sent: u64,
    received: u64,
    rate_per_s: f64,
    latency_us: Option<Percentiles>,
    server_cpu_ns_per_message: Option<f64>,
    server_cpu_cores: Option<f64>,
    client_cpu_cores: f64,
}

#[derive(Clone, Debug, Serialize)]
struct Return {
    jitter_ms: u32,
    returned: u64,
    back_us: Option<Percentiles>,
    logins_per_s: f64,
    repeated_logins: u64,
    server_cpu_ns_per_connection: Option<f64>,
}

/// What `route` is held against.
#[derive(Clone, Debug, Serialize)]
struct Alone {
    connections: u32,
    received: u64,
    rate_per_s: f64,
    server_cpu_ns_per_message: Option<f64>,
}

impl MillionReport {
    pub(crate) fn new(
        (plan, config): (&Plan, &RunConfig),
        (shards, jitter_ms): (u32, u32),
        alone: &Report,
        finished: &Finished,
        settled: &Settled,
    ) -> MillionReport {
        let (outcome, tally) = (&finished.outcome, &finished.outcome.tally);
        let ready = tally.ready.max(1) as f64;
        let memory = &finished.memory;
        let kernel_doubt = memory.kernel_doubt(tally.ready);
        let slabs = memory.slabs.iter().map(|(name, bytes)| (name.clone(), *bytes as f64 / ready));
        // The latencies of the last phase are where they always are, those of the earlier ones beside them.
        let latencies: Vec<&Histogram<u64>> = outcome.earlier_us.iter().chain([&outcome.latency_us]).collect();
        let messages = |at: usize| Some(Messages::new(finished.legs.get(at)?, latencies.get(at)?));
        let mut report = MillionReport {
            scenario: config.scenario,
            target: plan.dialect.name(),
            connections: plan.connections,
            shards,
            workers: plan.workers,
            valid: true,
            invalid_reasons: finished.reasons.clone(),
            sent: tally.sent,
            expected: settled.expected,
            received: tally.received,
            lost: settled.lost,
            duplicated: tally.duplicated,
            reordered: tally.reordered,
            misdelivered: tally.misdelivered,
            corrupted: tally.corrupted,
            contradicted: settled.contradicted,
            fault_examples: outcome.examples.clone(),
            refused: tally.refused,
            endings: causes(&outcome.endings),
            ramp: Ramp {
                duration_s: finished.ramp.as_secs_f64(),
                connects_per_s: tally.ready as f64 / finished.ramp.as_secs_f64().max(1e-6),
                failed_connects: tally.failed,
                retried_connects: tally.retried - tally.retried_returns,
                server_cpu_ns_per_connection: finished.server.and_then(|server| per(server.cpu_of_ramp, tally.ready)),
            },
            memory: Memory {
                server_user_bytes: memory.server_bytes.unwrap_or(0) as f64 / ready,
                client_user_bytes: memory.client_bytes as f64 / ready,
                kernel_bytes_both_ends: kernel_doubt.is_none().then_some(memory.kernel_bytes as f64 / ready),
                kernel_doubt,
                kernel_caches: slabs.filter(|(_, bytes)| *bytes >= SLAB_BYTES_MIN).take(SLABS_MAX).collect(),
            },
            hold: finished.legs.first().map(|leg| Hold {
                duration_s: leg.lasted.as_secs_f64(),
                server_cpu_cores: leg.cpu_cores(),
                client_cpu_cores: leg.client_cpu_cores(),
                heartbeats_sent: leg.after.pings - leg.before.pings,
                heartbeats_answered: leg.after.pongs - leg.before.pongs,
                heartbeat_rtt_us: Percentiles::of_any(&outcome.rtt_us),
            }),
            route: messages(1),
            storm: finished.legs.get(2).map(|leg| {
                let returned = outcome.return_us.len();
                Return {
                    jitter_ms,
                    returned,
                    back_us: Percentiles::of_any(&outcome.return_us),
                    logins_per_s: returned as f64 * 1e6 / outcome.return_us.max().max(1) as f64,
                    repeated_logins: tally.retried_returns,
                    server_cpu_ns_per_connection: leg.cpu().and_then(|cpu| per(cpu, returned)),
                }
            }),
            broadcast: messages(3),
            alone: Alone {
                connections: alone.connections,
                received: alone.received,
                rate_per_s: alone.rate_per_s,
                server_cpu_ns_per_message: alone.server.and_then(|server| server.cpu_ns_per_message),
            },
            route_cpu_ratio: None,
            payload_bytes: plan.payload_bytes,
            active: plan.active,
            seed: plan.seed,
            host: Host::here(config.kind),
        };
        let routed = report.route.as_ref().and_then(|route| route.server_cpu_ns_per_message);
        report.route_cpu_ratio = routed.zip(report.alone.server_cpu_ns_per_message).map(|(among, alone)| among / alone);
        report.judge(tally.dropped);
        report
    }

    fn faults(&self) -> u64 {
        self.lost + self.duplicated + self.reordered + self.misdelivered + self.corrupted + self.contradicted
    }

    /// What the process ends with.
    pub(crate) fn exit_code(&self) -> u8 {
        match (self.faults(), self.valid) {
            (1.., _) => 1,
            (0, false) => 2,
            (0, true) => 0,
        }
    }

    /// Adds the reasons that follow from the counts, and decides.
    fn judge(&mut self, dropped: u64) {
        let mut reasons = std::mem::take(&mut self.invalid_reasons);
        if self.ramp.failed_connects > 0 {
            reasons.push(format!("{} clients could not log in: {}", self.ramp.failed_connects, told(&self.endings)));
        }
        if dropped > 0 {
            reasons.push(format!("{dropped} connections ended before they should: {}", told(&self.endings)));
        }
        if self.refused > 0 {
            reasons.push(format!("the gateway refused {} of {} messages", self.refused, self.sent));
        }
        if self.broadcast.is_none() && reasons.is_empty() {
            reasons.push("the run ended before its last phase".into());
        }
        self.valid = reasons.is_empty() && self.faults() == 0;
        self.invalid_reasons = reasons;
    }

    /// The table for a reader.
    pub(crate) fn print(&self) {
        let row = |label: &str, text: String| say!("  {label:<12}{text}");
        say!("\nmillion, {} clients, {} shards, {} workers", grouped(self.connections.into()), self.shards, self.workers);
        let ns = |ns: Option<f64>| ns.map_or("–".to_owned(), |ns| grouped(ns as u64));
        let cores = |cores: Option<f64>| cores.map_or("–".to_owned(), |cores| format!("{cores:.2}"));
        row(
            "ramp",
            format!(
                "{:.1} s, {} logins per second, {} ns of the gateway's CPU each, {} attempts repeated",
                self.ramp.duration_s,
                grouped(self.ramp.connects_per_s as u64),
                ns(self.ramp.server_cpu_ns_per_connection),
                grouped(self.ramp.retried_connects)
            ),
        );
        let memory = &self.memory;
        row(
            "memory",
            format!(
                "per connection: gateway {:.0} B, this client {:.0} B, kernel {} for both ends",
                memory.server_user_bytes,
                memory.client_user_bytes,
                memory.kernel_bytes_both_ends.map_or("not known".to_owned(), |bytes| format!("{bytes:.0} B"))
            ),
        );
        if let Some(doubt) = &memory.kernel_doubt {
            row("", format!("the kernel's part is not known: {doubt}; run it while nothing else does"));
        }
        let mut caches: Vec<_> = memory.kernel_caches.iter().collect();
        caches.sort_by(|a, b| b.1.total_cmp(a.1));
        if !caches.is_empty() {
            row("of it", caches.iter().map(|(name, bytes)| format!("{name} {bytes:.0}")).collect::<Vec<_>>().join(", "));
        }
        if let Some(hold) = &self.hold {
            row(
                "hold",
                format!(
                    "{:.0} s, gateway {} cores, this client {:.2}, {} heartbeats, {} answered",
                    hold.duration_s,
                    cores(hold.server_cpu_cores),
                    hold.client_cpu_cores,
                    grouped(hold.heartbeats_sent),
                    grouped(hold.heartbeats_answered)
                ),
            );
        }
        for (label, messages) in [("route", &self.route), ("broadcast", &self.broadcast)] {
            let Some(messages) = messages else { continue };
            row(
                label,
                format!(
                    "{} sent, {} received in {:.1} s, {} per second, {} ns of the gateway's CPU each",
                    grouped(messages.sent),
                    grouped(messages.received),
                    messages.duration_s,
                    grouped(messages.rate_per_s as u64),
                    ns(messages.server_cpu_ns_per_message)
                ),
            );
            if let Some(p) = messages.latency_us {
                let [p50, p99, p999, last] = [p.p50, p.p99, p.p999, p.max].map(micros);
                row("", format!("p50 {p50}, p99 {p99}, p99.9 {p999}, the last {last}"));
            }
        }
        if let Some(ratio) = self.route_cpu_ratio {
            let words = format!(
                "{} per second, {} ns each with {} clients in all; with {} it is {ratio:.2} times that",
                grouped(self.alone.rate_per_s as u64),
                ns(self.alone.server_cpu_ns_per_message),
                grouped(self.alone.connections.into()),
                grouped(self.connections.into())
            );
            row("the same", words);
        }
        if let Some(storm) = &self.storm {
            let back = storm.back_us.map_or_else(String::new, |back| {
                format!(
                    ": half after {}, 99.9 % after {}, the last after {}",
                    micros(back.p50),
                    micros(back.p999),
                    micros(back.max)
                )
            });
            row("storm", format!("{} dropped and came back{back}", grouped(storm.returned)));
            let (rate, repeated) = (grouped(storm.logins_per_s as u64), grouped(storm.repeated_logins));
            row("", format!("{rate} logins per second, {repeated} attempts repeated"));
            if storm.repeated_logins > 0 {
                row("", told(&self.endings));
            }
        }
        row(
            "faults",
            format!(
                "{} lost, {} duplicated, {} reordered, {} misdelivered, {} corrupted, {} refused",
                self.lost, self.duplicated, self.reordered, self.misdelivered, self.corrupted, self.refused
            ),
        );
        row("result", if self.valid { "exact".into() } else { "NOT VALID, see below".into() });
        self.invalid_reasons.iter().for_each(|reason| say!("  not valid: {reason}"));
        self.fault_examples.iter().for_each(|example| say!("  fault: {example}"));
    }
}

impl Messages {
    fn new(leg: &LegUse, latency: &Histogram<u64>) -> Messages {
        let received = leg.after.received - leg.before.received;
        let in_phase = leg.after.received_in_phase - leg.before.received_in_phase;
        Messages {
            duration_s: leg.lasted.as_secs_f64(),
            sent: leg.after.sent - leg.before.sent,
            received,
            rate_per_s: in_phase as f64 / leg.lasted.as_secs_f64().max(1e-6),
            latency_us: Percentiles::of_any(latency),
            server_cpu_ns_per_message: leg.cpu().and_then(|cpu| per(cpu, received)),
            server_cpu_cores: leg.cpu_cores(),
            client_cpu_cores: leg.client_cpu_cores(),
        }
    }
}
