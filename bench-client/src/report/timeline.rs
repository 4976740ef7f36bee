//! Latency over time, and all of it by size: what only those get who ask for it.
#![forbid(unsafe_code)]

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::timeline::Timeline;

/// Classes of latency for each factor of ten.
const CLASSES_PER_DECADE: f64 = 20.0;

/// The steps of the sending phase, each with what arrived in it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TimelineReport {
    pub(crate) step_ms: f64,
    pub(crate) received: Vec<u64>,
    pub(crate) p50_us: Vec<u64>,
    pub(crate) p99_us: Vec<u64>,
    pub(crate) histogram: HistogramReport,
}

/// How many deliveries took how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct HistogramReport {
    pub(crate) up_to_us: Vec<u64>,
    pub(crate) received: Vec<u64>,
}

impl TimelineReport {
    pub(crate) fn new(timeline: &Timeline, latency_us: &Histogram<u64>) -> TimelineReport {
        let at = |quantile: f64| timeline.steps().iter().map(|step| step.value_at_quantile(quantile).min(step.max())).collect();
        TimelineReport {
            step_ms: timeline.step_us() as f64 / 1e3,
            received: timeline.steps().iter().map(Histogram::len).collect(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            histogram: HistogramReport::new(latency_us),
        }
    }
}

impl HistogramReport {
    fn new(latency_us: &Histogram<u64>) -> HistogramReport {
        let mut report = HistogramReport { up_to_us: Vec::new(), received: Vec::new() };
        for recorded in latency_us.iter_recorded() {
            let bound = class_of(recorded.value_iterated_to());
            let count = recorded.count_since_last_iteration();
            match (report.up_to_us.last(), report.received.last_mut()) {
                (Some(last), Some(sum)) if *last == bound => *sum += count,
                (_, _) => {
                    report.up_to_us.push(bound);
                    report.received.push(count);
                }
            }
        }
        report
    }
}

/// The upper bound of the class that a latency falls into.
fn class_of(us: u64) -> u64 {
    let bound = |class: f64| 10_f64.powf(class / CLASSES_PER_DECADE).round() as u64;
    let class = ((us.max(1) as f64).log10() * CLASSES_PER_DECADE).ceil();
    // Rounding may have put it one too low.
    if bound(class) < us { bound(class + 1.0) } else { bound(class) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure;

    #[test]
    fn every_delivery_is_in_one_class_that_it_fits() {
        let mut latency_us = measure::histogram();
        for us in [0, 1, 2, 9, 10, 11, 99, 100, 5_000, 5_001, 1_000_000] {
            latency_us.saturating_record(us);
            assert!((us..=us + us / 6 + 1).contains(&class_of(us)), "{us} is in {}", class_of(us));
        }
        let report = HistogramReport::new(&latency_us);
        assert_eq!(report.received.iter().sum::<u64>(), 11);
        assert_eq!(report.received.len(), report.up_to_us.len());
        assert!(report.up_to_us.is_sorted_by(|a, b| a < b), "{report:?}");
    }
}
