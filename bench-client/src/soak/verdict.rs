//! What the cycles of a long run say together. Field meanings: `schema-soak.md`.
#![forbid(unsafe_code)]

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use weir::reactor::Kind;

use super::growth::Growth;
use crate::{
    report::Host,
    table::{grouped, micros},
};

/// The first quarter is the beginning, the second is what the last is held against; two cycles in each.
pub(super) const CYCLES_MIN: u32 = 8;
/// Memory may be this part larger at the end, and so many bytes: an allocator's arenas are not given back to the last page.
const GROWTH_MAX: f64 = 0.10;
const GROWTH_BYTES_MAX: f64 = 4e6;
/// So long it takes to fill the store's tables, which grow like a leak. A run whose second quarter begins earlier shows no leak by growing.
const FILLING_S: f64 = 120.0;
/// That lets a slow leak pass, so the second half is judged by its slope, too: memory that doubles within a day is a leak whatever it is now,
/// for gateways run for months. It counts what the slope is at least (the low end of its interval), so that noise is none; what rises by less
/// than these bytes may be pages of an allocator; and in a shorter time than this the store still fills its tables and caches, which looks the
/// same.
const DOUBLING_HOURS_MIN: f64 = 24.0;
const RISE_BYTES_MIN: f64 = 1e6;
const RISE_S_MIN: f64 = 540.0;
/// The latency's p99 may be so many times what it was, and so much beyond that: machines have good and bad minutes.
const DRIFT_MAX: f64 = 2.0;
const DRIFT_US_MAX: f64 = 2_000.0;

/// One cycle.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Cycle {
    /// Since the beginning.
    pub(super) ended_s: f64,
    /// Deliveries of all parts.
    received: u64,
    faults: u64,
    /// What the faulty parts said.
    faulty: Vec<String>,
    /// Parts whose numbers do not count: this machine was too busy for them.
    disturbed: Vec<String>,
    returned_connections: u64,
    /// From the planned time of each message of the judged part.
    p99_us: Option<u64>,
    /// That part could not hold its schedule, because this machine was busy: its latencies are longer than the gateway's.
    was_late: bool,
    pub(super) server_bytes: u64,
}

impl Cycle {
    /// Adds the result of a part.
    pub(super) fn add(&mut self, name: &str, code: i32, result: &Value, is_judged: bool) {
        let count = |field: &str| result[field].as_u64().unwrap_or(0);
        self.received += count("received");
        self.returned_connections += count("returned_connections");
        let counts = ["lost", "duplicated", "reordered", "misdelivered", "corrupted", "contradicted"];
        let faults: u64 = counts.into_iter().map(count).sum();
        // A code of 1 says that there is a fault, also where it is one of durable messages only.
        self.faults += faults.max(u64::from(code == 1));
        if code == 1 {
            let told = counts.map(|field| format!("{field} {}", count(field))).join(", ");
            self.faulty.push(format!("{name}: {told}; {}", result["fault_examples"]));
            return;
        }
        if code != 0 {
            self.disturbed.push(format!("{name}: {}", result["invalid_reasons"]));
        }
        if is_judged {
            self.p99_us = result["latency_us"]["p99"].as_u64();
            self.was_late = code != 0;
        }
    }

    pub(super) fn is_faulty(&self) -> bool {
        self.faults > 0
    }

    /// One line.
    pub(super) fn words(&self) -> String {
        let p99 = self.p99_us.map_or_else(|| "not judged".to_owned(), micros);
        let disturbed =
            if self.disturbed.is_empty() { String::new() } else { format!(", disturbed: {}", self.disturbed.join("; ")) };
        format!(
            "{} received, {} faults, {} connections returned, p99 {p99}, gateway {} KiB{disturbed}",
            grouped(self.received),
            self.faults,
            grouped(self.returned_connections),
            grouped(self.server_bytes >> 10)
        )
    }
}

/// The whole run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct SoakReport {
    scenario: &'static str,
    valid: bool,
    pub(super) invalid_reasons: Vec<String>,
    /// What failed: loss, growth, drift.
    failures: Vec<String>,
    cycle_s: f64,
    server_bytes_at_start: u64,
    /// Over the second half.
    growth: Option<Growth>,
    pub(super) cycles: Vec<Cycle>,
    host: Host,
}

impl SoakReport {
    pub(super) fn new(cycle: Duration, kind: Kind, server_bytes_at_start: u64) -> SoakReport {
        SoakReport {
            scenario: "soak",
            valid: true,
            invalid_reasons: Vec::new(),
            failures: Vec::new(),
            cycle_s: cycle.as_secs_f64(),
            server_bytes_at_start,
            growth: None,
            cycles: Vec::new(),
            host: Host::here(kind),
        }
    }

    /// Holds the last quarter of the run against the second, and looks for a slope in the second half.
    pub(super) fn judge(&mut self) {
        let faulty: Vec<String> = self.cycles.iter().flat_map(|cycle| cycle.faulty.clone()).collect();
        self.failures.extend(faulty);
        let bytes = |cycle: &Cycle| Some(cycle.server_bytes as f64);
        match self.quarters(bytes) {
            Some((before, after)) if after > before * (1.0 + GROWTH_MAX) + GROWTH_BYTES_MAX => {
                let words = format!("the gateway's memory grew from {:.1} MB to {:.1} MB", before / 1e6, after / 1e6);
                if self.two_quarters().0.iter().any(|cycle| cycle.ended_s < FILLING_S) {
                    self.invalid_reasons
                        .push(format!("{words}, but so early the store still fills its tables: raise --duration to 8m"));
                } else {
                    self.failures.push(words);
                }
            }
            Some(_) | None => {}
        }
        let half = self.second_half();
        let points: Vec<_> = half.iter().map(|cycle| (cycle.ended_s, cycle.server_bytes as f64)).collect();
        self.growth = Growth::of(&points);
        if let Some(growth) = self.growth.filter(|growth| self.is_leak(growth)) {
            let doubled = growth.bytes_per_hour * DOUBLING_HOURS_MIN / 1e6;
            let words = growth.words();
            self.failures
                .push(format!("the gateway's memory grows by {words}, which is {doubled:.0} MB a day: more than it has"));
        }
        match self.quarters(|cycle| cycle.p99_us.map(|us| us as f64)) {
            Some((before, after)) if after > before * DRIFT_MAX + DRIFT_US_MAX => {
                let words = format!("the p99 drifted from {} to {}", micros(before as u64), micros(after as u64));
                if self.two_quarters().1.iter().any(|cycle| cycle.was_late) {
                    self.invalid_reasons.push(format!("{words}, but this machine was too busy then to say whose fault that is"));
                } else {
                    self.failures.push(words);
                }
            }
            Some(_) => {}
            None if self.cycles.len() >= CYCLES_MIN as usize => {
                self.invalid_reasons.push("there are no latencies of a quarter of the run".into());
            }
            None => {}
        }
        if self.failures.is_empty() && self.invalid_reasons.is_empty() && self.cycles.len() < CYCLES_MIN as usize {
            self.invalid_reasons.push("the run ended too early to be judged".into());
        }
        self.valid = self.failures.is_empty() && self.invalid_reasons.is_empty();
    }

    /// The medians of the second and of the last quarter.
    fn quarters(&self, value: impl Fn(&Cycle) -> Option<f64>) -> Option<(f64, f64)> {
        let (second, last) = self.two_quarters();
        let median = |cycles: &[Cycle]| {
            let mut values: Vec<f64> = cycles.iter().filter_map(&value).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied()
        };
        Some((median(second)?, median(last)?))
    }

    fn second_half(&self) -> &[Cycle] {
        &self.cycles[self.cycles.len() / 2..]
    }

    /// How long that is, in hours, if it can be judged.
    fn hours_judged(&self) -> Option<f64> {
        let half = self.second_half();
        let lasted_s = half.last()?.ended_s - half.first()?.ended_s;
        (lasted_s >= RISE_S_MIN).then_some(lasted_s / 3_600.0)
    }

    fn is_leak(&self, growth: &Growth) -> bool {
        let Some((hours, has)) = self.hours_judged().zip(self.second_half().first()) else { return false };
        growth.low * hours > RISE_BYTES_MIN && growth.low * DOUBLING_HOURS_MIN > has.server_bytes as f64
    }

    fn two_quarters(&self) -> (&[Cycle], &[Cycle]) {
        let quarter = self.cycles.len() / 4;
        (&self.cycles[quarter..2 * quarter], &self.cycles[self.cycles.len() - quarter..])
    }

    /// What the process ends with.
    pub(super) fn exit_code(&self) -> u8 {
        match (self.failures.is_empty(), self.valid) {
            (false, _) => 1,
            (true, false) => 2,
            (true, true) => 0,
        }
    }

    pub(super) fn print(&self) {
        let sum = |count: fn(&Cycle) -> u64| grouped(self.cycles.iter().map(count).sum());
        let row = |label: &str, text: String| say!("  {label:<12}{text}");
        say!("soak, {} cycles of {} s", self.cycles.len(), self.cycle_s);
        row("received", format!("{} deliveries, {} connections returned", sum(|c| c.received), sum(|c| c.returned_connections)));
        row("faults", sum(|cycle| cycle.faults));
        let cycles_of = |which: fn(&Cycle) -> bool| self.cycles.iter().filter(|cycle| which(cycle)).count();
        let (disturbed, late) = (cycles_of(|cycle| !cycle.disturbed.is_empty()), cycles_of(|cycle| cycle.was_late));
        let count = self.cycles.len();
        row(
            "disturbed",
            format!("{disturbed} of {count} cycles: this machine was too busy for some part; in {late} for that of the p99"),
        );
        let megabytes = |bytes: f64| format!("{:.1} MB", bytes / 1e6);
        let start = megabytes(self.server_bytes_at_start as f64);
        if let Some((before, after)) = self.quarters(|cycle| Some(cycle.server_bytes as f64)) {
            row(
                "memory",
                format!("{start} at first, {} in the second quarter, {} in the last", megabytes(before), megabytes(after)),
            );
        }
        if let Some(growth) = &self.growth {
            let judged = if self.hours_judged().is_some() { "" } else { "; too short a time to judge by it" };
            row("growth", format!("{} in the second half{judged}", growth.words()));
        }
        if let Some((before, after)) = self.quarters(|cycle| cycle.p99_us.map(|us| us as f64)) {
            row("p99", format!("{} in the second quarter, {} in the last", micros(before as u64), micros(after as u64)));
        }
        row("result", if self.valid { "sound".into() } else { "NOT SOUND, see below".into() });
        self.failures.iter().for_each(|words| say!("  failed: {words}"));
        self.invalid_reasons.iter().for_each(|words| say!("  not valid: {words}"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judged(cycles: impl Iterator<Item = (u64, Option<u64>)>) -> SoakReport {
        let mut report = SoakReport::new(Duration::from_secs(30), Kind::Epoll, 0);
        let cycle =
            |(at, (server_bytes, p99_us))| Cycle { ended_s: 30.0 * f64::from(at), server_bytes, p99_us, ..Cycle::default() };
        report.cycles = (1..).zip(cycles).map(cycle).collect();
        report.judge();
        report
    }

    #[test]
    fn a_steady_run_is_sound_whatever_its_beginning() {
        let report = judged((0..20).map(|at| (100_000_000 - if at < 5 { 90_000_000 } else { at }, Some(500 + at % 3))));
        assert_eq!((report.exit_code(), report.failures), (0, Vec::<String>::new()));
    }

    #[test]
    fn growth_and_drift_fail() {
        let growing = judged((0..20).map(|at| (50_000_000 + at * 1_000_000, Some(500))));
        assert!(growing.exit_code() == 1 && growing.failures[0].contains("memory grew"), "{:?}", growing.failures);
        let early = judged((0..8).map(|at| (50_000_000 + at * 5_000_000, Some(500))));
        assert_eq!((early.exit_code(), early.invalid_reasons[0].contains("raise --duration to 8m")), (2, true), "{early:?}");
        let mut drifting = judged((0..20).map(|at| (50_000_000, Some(500 + at * at * 100))));
        assert!(drifting.exit_code() == 1 && drifting.failures[0].contains("drifted"), "{:?}", drifting.failures);
        // A machine that got busy may be why.
        drifting.failures.clear();
        drifting.cycles[19].was_late = true;
        drifting.judge();
        assert_eq!(drifting.exit_code(), 2, "{:?}", drifting.failures);
    }

    #[test]
    fn memory_that_doubles_in_a_day_is_a_leak_however_little_it_is_in_this_run() {
        // From 28 MB on, with some noise: by 115 MB a day, by 32, and by 14.
        let growing = |cycles: u64, bytes: u64| {
            judged((0..cycles).map(move |at| (28_000_000 + at * bytes + at * 7 % 5 * 20_000, Some(500))))
        };
        let leaks = |report: &SoakReport| report.exit_code() == 1 && report.failures[0].contains("MB a day: more than it has");
        assert!(leaks(&growing(60, 40_000)), "{:?}", growing(60, 40_000).failures);
        // It takes a longer run to show a slower one.
        assert_eq!((growing(60, 11_000).exit_code(), leaks(&growing(480, 11_000))), (0, true));
        assert_eq!(growing(240, 5_000).exit_code(), 0, "{:?}", growing(240, 5_000).failures);
        // What fills up in the first minutes is no leak, and what levels off is none.
        assert_eq!(growing(20, 200_000).exit_code(), 0);
        let level = judged((0..60).map(|at: u64| (28_000_000 + at.min(35) * 100_000, Some(500))));
        assert_eq!((level.exit_code(), level.growth.map(|growth| growth.low)), (0, Some(0.0)), "{:?}", level.failures);
    }

    #[test]
    fn what_cannot_be_judged_is_not_valid() {
        assert_eq!(judged((0..20).map(|_| (50_000_000, None))).exit_code(), 2);
        assert_eq!(judged((0..3).map(|_| (50_000_000, Some(500)))).exit_code(), 2);
    }

    #[test]
    fn a_loss_fails_and_a_busy_machine_does_not() {
        let mut cycle = Cycle::default();
        cycle.add("talk", 2, &json!({"received": 5, "lost": 0, "invalid_reasons": ["busy"], "latency_us": {"p99": 9}}), true);
        assert!(!cycle.is_faulty() && cycle.p99_us == Some(9) && cycle.was_late && cycle.disturbed.len() == 1);
        cycle.add("kept", 1, &json!({"received": 5, "lost": 2, "duplicated": 1, "fault_examples": ["gone"]}), false);
        assert_eq!((cycle.faults, cycle.received), (3, 10));
        // A fault that only the channels' sequences show.
        cycle.add("kept", 1, &json!({"received": 5, "lost": 0}), false);
        assert_eq!(cycle.faults, 4);
        let mut report = judged((0..8).map(|_| (1, Some(1))));
        report.cycles.push(cycle);
        report.judge();
        assert_eq!(report.exit_code(), 1);
    }
}
