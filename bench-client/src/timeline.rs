//! Latency as it was in each step of the sending phase, for who asks for it. Pure.
#![forbid(unsafe_code)]

use hdrhistogram::Histogram;
use weir::io::Tick;

use crate::measure;

/// The most steps: each is a histogram of its own, of about 30 KiB, in each worker.
pub(crate) const STEPS_MAX: u64 = 1_000;

/// What one worker's clients received, by step.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    step_us: u64,
    start: Tick,
    end: Tick,
    steps: Vec<Histogram<u64>>,
}

impl Timeline {
    pub(crate) fn new(step_us: u64) -> Timeline {
        Timeline { step_us, start: Tick(0), end: Tick(0), steps: Vec::new() }
    }

    /// The sending phase begins.
    pub(crate) fn begin(&mut self, start: Tick, end: Tick) {
        (self.start, self.end) = (start, end);
        self.steps.clear();
    }

    /// A message arrived. What comes before or after the phase is not part of it.
    pub(crate) fn record(&mut self, now: Tick, latency_us: u64) {
        if now < self.start || now >= self.end {
            return;
        }
        let step = (now.micros_since(self.start) / self.step_us).min(STEPS_MAX - 1) as usize;
        self.reach(step + 1);
        self.steps[step].saturating_record(latency_us);
    }

    /// Adds what another worker saw of the same phase.
    pub(crate) fn merge(&mut self, other: &Timeline) {
        self.reach(other.steps.len());
        for (ours, theirs) in self.steps.iter_mut().zip(&other.steps) {
            ours.add(theirs).expect("all steps have the same bounds");
        }
    }

    pub(crate) fn step_us(&self) -> u64 {
        self.step_us
    }

    /// From the first step to the last in which anything arrived.
    pub(crate) fn steps(&self) -> &[Histogram<u64>] {
        &self.steps
    }

    fn reach(&mut self, steps: usize) {
        while self.steps.len() < steps {
            self.steps.push(measure::coarse_histogram());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_counts_in_the_step_in_which_it_arrives() {
        let mut one = Timeline::new(100);
        one.begin(Tick(1_000), Tick(1_350));
        for (now, latency) in [(999, 1), (1_000, 10), (1_099, 20), (1_100, 30), (1_349, 40), (1_350, 50)] {
            one.record(Tick(now), latency);
        }
        let counts: Vec<u64> = one.steps().iter().map(Histogram::len).collect();
        assert_eq!(counts, [2, 1, 0, 1], "neither what came before nor what came after the phase");
        assert_eq!((one.steps()[0].min(), one.steps()[0].max(), one.steps()[3].max()), (10, 20, 40));

        let mut two = Timeline::new(100);
        two.merge(&one);
        two.merge(&one);
        assert_eq!(two.steps().iter().map(Histogram::len).collect::<Vec<_>>(), [4, 2, 0, 2]);
        two.begin(Tick(5_000), Tick(6_000));
        assert!(two.steps().is_empty(), "another phase begins with nothing");
    }

    #[test]
    fn a_phase_that_lasts_longer_than_planned_takes_no_more_memory() {
        let mut timeline = Timeline::new(1);
        timeline.begin(Tick(0), Tick(1 << 40));
        timeline.record(Tick(1 << 39), 5);
        assert_eq!(timeline.steps().len() as u64, STEPS_MAX);
    }
}
