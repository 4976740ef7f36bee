//! The open loop's schedule: sends evenly spaced over all workers, planned without regard to what the gateway manages.
#![forbid(unsafe_code)]

use weir::io::Tick;

/// One worker's part of a schedule.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    start: Tick,
    interval_us: f64,
    /// This worker sends the planned messages `offset`, `offset + step`, …
    step: u64,
    next: u64,
}

impl Pace {
    /// `rate` a second in all, dealt out to `step` workers, of which this is number `offset`.
    pub(crate) fn new(rate: f64, step: u32, offset: u32) -> Pace {
        Pace { start: Tick(0), interval_us: 1e6 / rate, step: step.into(), next: offset.into() }
    }

    /// Starts the schedule.
    pub(crate) fn start(&mut self, at: Tick) {
        self.start = at;
    }

    /// When the next one is planned.
    pub(crate) fn planned(&self) -> Tick {
        Tick(self.start.0 + (self.next as f64 * self.interval_us) as u64)
    }

    /// The planned time of the next one if that is not after `now`, which takes it off the schedule.
    pub(crate) fn take_due(&mut self, now: Tick) -> Option<Tick> {
        let planned = self.planned();
        (planned <= now).then(|| {
            self.next += self.step;
            planned
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_a_schedule_evenly() {
        let mut times = Vec::new();
        for offset in 0..3 {
            let mut pace = Pace::new(1_000.0, 3, offset);
            pace.start(Tick(500));
            while let Some(planned) = pace.take_due(Tick(1_000_000)) {
                times.push(planned.0);
            }
        }
        times.sort_unstable();
        assert_eq!(times, (0..times.len() as u64).map(|n| 500 + n * 1_000).collect::<Vec<_>>());
        assert_eq!(times.len(), 1_000);
    }

    #[test]
    fn what_was_missed_keeps_its_planned_time() {
        let mut pace = Pace::new(100.0, 1, 0);
        pace.start(Tick(0));
        assert_eq!(pace.take_due(Tick(25_000)), Some(Tick(0)));
        assert_eq!(pace.take_due(Tick(25_000)), Some(Tick(10_000)));
        assert_eq!(pace.take_due(Tick(25_000)), Some(Tick(20_000)));
        assert_eq!(pace.take_due(Tick(25_000)), None);
        assert_eq!(pace.planned(), Tick(30_000));
    }
}
