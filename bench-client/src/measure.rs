//! Histograms, and what the kernel tells of a process in /proc.
#![forbid(unsafe_code)]

use std::{
    fs, io,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use nix::{
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use serde::Serialize;

/// Latencies above this count as this.
const LATENCY_US_MAX: u64 = 120_000_000;

/// An empty histogram of microseconds, three digits exact.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constants in order")
}

/// Percentiles, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

impl Percentiles {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Percentiles {
        let at = |quantile| histogram.value_at_quantile(quantile).min(histogram.max());
        Percentiles { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: histogram.max() }
    }

    /// `None` if nothing was recorded.
    pub(crate) fn of_any(histogram: &Histogram<u64>) -> Option<Percentiles> {
        (!histogram.is_empty()).then(|| Percentiles::of(histogram))
    }
}

/// CPU time that a process had used when it was looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuReading {
    used: Duration,
    at: Instant,
}

impl CpuReading {
    /// Reads the process's CPU clock: user and system time of all its threads, also of those that have ended, in nanoseconds.
    ///
    /// # Errors
    /// There is no such process, or it may not be looked at.
    pub(crate) fn of(pid: u32) -> io::Result<CpuReading> {
        let used = clock_gettime(clock_getcpuclockid(Pid::from_raw(pid as i32))?)?;
        Ok(CpuReading { used: used.into(), at: Instant::now() })
    }

    /// CPU time used since `earlier`.
    pub(crate) fn used_since(&self, earlier: &CpuReading) -> Duration {
        self.used.saturating_sub(earlier.used)
    }

    /// Cores kept busy since `earlier`, on average.
    pub(crate) fn cores_since(&self, earlier: &CpuReading) -> f64 {
        let wall = self.at.duration_since(earlier.at).as_secs_f64();
        if wall > 0.0 { self.used_since(earlier).as_secs_f64() / wall } else { 0.0 }
    }
}

/// The memory that a process has for itself (`Anonymous` of `/proc/PID/smaps_rollup`, else `RssAnon` of its status), in bytes.
///
/// # Errors
/// There is no such process, or it may not be looked at.
pub(crate) fn anonymous_bytes(pid: u32) -> io::Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
    if let Some(kib) = rollup.ok().as_deref().and_then(|text| kib_of(text, "Anonymous:")) {
        return Ok(kib * 1024);
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = kib_of(&status, "RssAnon:").ok_or_else(|| io::Error::other(format!("/proc/{pid}/status has no RssAnon")))?;
    Ok(kib * 1024)
}

fn kib_of(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn percentiles_come_from_the_merged_counts() {
        // Worker one: 99 fast messages. Worker two: a single slow one. The average of two p99 would be far off.
        let (mut one, mut two) = (histogram(), histogram());
        one.record_n(100, 990).expect("in bounds");
        two.record_n(50_000, 10).expect("in bounds");
        one.add(&two).expect("same bounds");
        let percentiles = Percentiles::of(&one);
        assert_eq!((percentiles.p50, percentiles.p99), (100, 100));
        assert!((49_900..=50_100).contains(&percentiles.p999), "{percentiles:?}");
    }

    #[test]
    fn our_own_process_can_be_read() {
        let before = CpuReading::of(std::process::id()).expect("readable");
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(60) {
            std::hint::spin_loop();
        }
        let after = CpuReading::of(std::process::id()).expect("readable");
        assert!(after.used_since(&before) >= Duration::from_millis(10), "{before:?} {after:?}");
        let bytes = anonymous_bytes(std::process::id()).expect("readable");
        assert!((100 << 10..8 << 30).contains(&bytes), "{bytes}");
    }

    #[test]
    fn another_process_can_be_read_to_the_microsecond() {
        let mut child = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("a shell");
        let first = CpuReading::of(child.id()).expect("readable");
        let deadline = Instant::now() + Duration::from_secs(10);
        // In steps of the scheduler's ticks it would first be 0 and then at least 1 ms.
        let is_fine = loop {
            let used = CpuReading::of(child.id()).expect("readable").used_since(&first);
            if !used.is_zero() || Instant::now() > deadline {
                break !used.is_zero() && !used.as_nanos().is_multiple_of(1_000_000);
            }
        };
        child.kill().expect("a child");
        child.wait().expect("a child");
        assert!(is_fine);
        assert!(CpuReading::of(child.id()).is_err(), "it is gone");
    }
}
