//! How long this machine's cores stand still when they have nothing else to do: interrupts, threads of the kernel, and on a virtual
//! machine its host take them away. No latency below that is to be had here, whoever serves.
#![forbid(unsafe_code)]

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde::Serialize;

use super::cores::Cores;

/// How long each core is looked at.
const WATCHED: Duration = Duration::from_secs(2);
/// A shorter pause is no pause.
const PAUSE_MIN: Duration = Duration::from_micros(100);

/// What loops that only read the clock missed, one on each core at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Pauses {
    /// Of the cores' time.
    share: f64,
    longest_us: u64,
}

impl Pauses {
    /// Takes [`WATCHED`].
    ///
    /// # Errors
    /// The kernel does not keep a thread on a core.
    pub(super) fn here(cores: &Cores) -> anyhow::Result<Pauses> {
        let until = Instant::now() + WATCHED;
        let watched: anyhow::Result<Vec<_>> = thread::scope(|scope| {
            let threads: Vec<_> = cores.all().iter().map(|core| scope.spawn(move || watch(*core, until))).collect();
            threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
        });
        let watched = watched.context("how long cores stand still cannot be measured")?;
        let lost: Duration = watched.iter().map(|core| core.lost).sum();
        let longest = watched.iter().map(|core| core.longest).max().unwrap_or_default();
        let share = lost.as_secs_f64() / (WATCHED.as_secs_f64() * watched.len() as f64);
        Ok(Pauses { share, longest_us: longest.as_micros() as u64 })
    }

    pub(super) fn words(&self) -> String {
        format!(
            "idle, the cores stood still for {:.1} % of the time, {:.1} ms at most: latencies of single messages have that in them",
            self.share * 100.0,
            self.longest_us as f64 / 1_000.0
        )
    }
}

/// What one core missed.
#[derive(Default)]
struct Missed {
    lost: Duration,
    longest: Duration,
}

fn watch(core: usize, until: Instant) -> anyhow::Result<Missed> {
    super::cores::bind(&[core])?;
    let mut missed = Missed::default();
    let mut last = Instant::now();
    while last < until {
        let now = Instant::now();
        let pause = now - last;
        if pause >= PAUSE_MIN {
            missed.lost += pause;
            missed.longest = missed.longest.max(pause);
        }
        last = now;
    }
    Ok(missed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_others_use_stands_still() {
        let cores = Cores::here().expect("known");
        let quiet = Pauses::here(&cores).expect("measured");
        assert!((0.0..=1.0).contains(&quiet.share), "{quiet:?}");
        // Another thread on every core takes about half of it, in turns of the scheduler.
        let until = Instant::now() + WATCHED + Duration::from_millis(200);
        let shared = thread::scope(|scope| {
            cores.all().iter().for_each(|core| {
                scope.spawn(move || watch(*core, until).expect("measured"));
            });
            Pauses::here(&cores).expect("measured")
        });
        assert!(shared.share > 0.2 && shared.longest_us >= 100, "{shared:?}, and {quiet:?} without others");
        assert!(shared.words().contains("stood still for"), "{}", shared.words());
    }
}
