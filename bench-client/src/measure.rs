//! Histograms, and what the kernel tells of a process in /proc.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
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
/// From this part of the kernel's memory on, what others did counts.
const DOUBT_SHARE: f64 = 0.02;

/// An empty histogram of microseconds, three digits exact.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constants in order")
}

/// The same, two digits exact: where there are many of them.
pub(crate) fn coarse_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 2).expect("the bounds are constants in order")
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

/// What the kernel could give to programs, in bytes (`MemAvailable` of `/proc/meminfo`).
///
/// # Errors
/// It cannot be read.
pub(crate) fn available_bytes() -> io::Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let kib = kib_of(&meminfo, "MemAvailable:").ok_or_else(|| io::Error::other("/proc/meminfo has no MemAvailable"))?;
    Ok(kib * 1024)
}

/// Memory that is in use at a moment: this process's own, the server's, and the kernel's for the whole machine.
#[derive(Clone, Debug)]
pub(crate) struct MemoryProbe {
    server: Option<u32>,
    server_bytes: u64,
    client_bytes: u64,
    kernel_bytes: u64,
    sockets: u64,
    slabs: BTreeMap<String, u64>,
}

/// What was used more at a later moment, in bytes. What the kernel used more may be for others: it counts for the machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryGrowth {
    pub(crate) server_bytes: Option<i64>,
    pub(crate) client_bytes: i64,
    /// `Slab` of `/proc/meminfo`: sockets and what hangs on them, of both ends.
    pub(crate) kernel_bytes: i64,
    /// TCP sockets of the whole machine.
    pub(crate) sockets: i64,
    /// By cache of `/proc/slabinfo`, largest first; empty where that may not be read.
    pub(crate) slabs: Vec<(String, i64)>,
}

impl MemoryProbe {
    /// What cannot be read counts as nothing.
    pub(crate) fn now(server: Option<u32>) -> MemoryProbe {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        MemoryProbe {
            server,
            server_bytes: server.and_then(|pid| anonymous_bytes(pid).ok()).unwrap_or(0),
            client_bytes: anonymous_bytes(std::process::id()).unwrap_or(0),
            kernel_bytes: kib_of(&meminfo, "Slab:").unwrap_or(0) * 1024,
            sockets: sockets(&fs::read_to_string("/proc/net/sockstat").unwrap_or_default()),
            slabs: slabs(&fs::read_to_string("/proc/slabinfo").unwrap_or_default()),
        }
    }

    /// How much more is in use now.
    pub(crate) fn growth(&self) -> MemoryGrowth {
        let now = MemoryProbe::now(self.server);
        let more = |now: u64, then: u64| now as i64 - then as i64;
        let mut slabs: Vec<(String, i64)> = now
            .slabs
            .iter()
            .map(|(name, bytes)| (name.clone(), more(*bytes, self.slabs.get(name).copied().unwrap_or(0))))
            .collect();
        slabs.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        MemoryGrowth {
            server_bytes: self.server.map(|_| more(now.server_bytes, self.server_bytes)),
            client_bytes: more(now.client_bytes, self.client_bytes),
            kernel_bytes: more(now.kernel_bytes, self.kernel_bytes),
            sockets: more(now.sockets, self.sockets),
            slabs,
        }
    }
}

impl MemoryGrowth {
    /// Why the kernel's memory is not that of `connections` whose both ends are here, if it is not: the machine did something else, too.
    pub(crate) fn kernel_doubt(&self, connections: u64) -> Option<String> {
        let expected = 2 * connections as i64;
        let off = |other: i64, of: i64| other.abs() as f64 > DOUBT_SHARE * of.abs() as f64;
        if off(self.sockets - expected, expected) {
            return Some(format!("the machine has {} TCP sockets more, and {expected} are the run's", self.sockets));
        }
        let of_files: i64 = self.slabs.iter().filter(|(name, _)| is_of_files(name)).map(|(_, bytes)| bytes).sum();
        off(of_files, self.kernel_bytes)
            .then(|| format!("the kernel's memory for files changed by {} KiB meanwhile", of_files / 1024))
    }
}

/// Whether a cache of the kernel belongs to file systems, and so to nobody's connection.
fn is_of_files(cache: &str) -> bool {
    let is_inode = cache.contains("inode") && !["sock_inode_cache", "lsm_inode_cache"].contains(&cache);
    let systems = ["ext4_", "xfs_", "btrfs_", "jbd2_", "erofs_", "fuse_", "nfs_"];
    is_inode
        || ["buffer_head", "radix_tree_node", "extent_status"].contains(&cache)
        || systems.iter().any(|name| cache.starts_with(name))
}

/// TCP sockets of the machine, from `/proc/net/sockstat`; IPv6's are among them.
fn sockets(sockstat: &str) -> u64 {
    let tcp = sockstat.lines().find_map(|line| line.strip_prefix("TCP: ")).unwrap_or_default();
    let mut words = tcp.split_ascii_whitespace().skip_while(|word| *word != "alloc");
    words.nth(1).and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Bytes of the objects in use in each of the kernel's caches.
fn slabs(slabinfo: &str) -> BTreeMap<String, u64> {
    // name <active_objs> <num_objs> <objsize> …, below two lines of headings.
    let objects = slabinfo.lines().skip(2).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (name, active) = (fields.next()?, fields.next()?.parse::<u64>().ok()?);
        let size = fields.nth(1)?.parse::<u64>().ok()?;
        Some((name.to_owned(), active * size))
    });
    objects.collect()
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

    #[test]
    fn caches_are_read_as_the_kernel_writes_them() {
        let text = "slabinfo - version: 2.1\n# name <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables …\n\
                    TCP                 20     26   2432   13    8 : tunables    0    0    0 : slabdata      2      2      0\n\
                    io_kiocb             3     64    256   16    1 : tunables    0    0    0 : slabdata      4      4      0\n";
        assert_eq!(slabs(text), BTreeMap::from([("TCP".to_owned(), 48_640), ("io_kiocb".to_owned(), 768)]));
        assert!(slabs("").is_empty());
    }

    #[test]
    fn memory_of_others_makes_that_of_connections_doubtful() {
        let text = "sockets: used 9\nTCP: inuse 5 orphan 0 tw 2550 alloc 1919 mem 368\nUDP: inuse 0 mem 0\n";
        assert_eq!((sockets(text), sockets("")), (1_919, 0));
        let growth = |sockets, kernel_bytes, cache: &str, bytes| {
            let slabs = vec![("TCP".to_owned(), 4_700_000), (cache.to_owned(), bytes)];
            MemoryGrowth { sockets, kernel_bytes, slabs, ..MemoryGrowth::default() }.kernel_doubt(1_000)
        };
        assert_eq!(growth(2_020, 8_000_000, "sock_inode_cache", 1_600_000), None);
        assert_eq!(growth(1_990, 8_000_000, "ext4_inode_cache", -150_000), None);
        let words = growth(1_900, 8_000_000, "filp", 0).expect("sockets of others went");
        assert!(words.contains("1900 TCP sockets more, and 2000 are the run's"), "{words}");
        for (cache, bytes) in [("ext4_inode_cache", 2_000_000), ("radix_tree_node", -300_000), ("xfs_ili", 200_000)] {
            let words = growth(2_000, 8_000_000, cache, bytes).expect("files came or went");
            assert!(words.contains("for files changed by"), "{words}");
        }
    }

    #[test]
    fn what_this_process_takes_shows() {
        let probe = MemoryProbe::now(Some(std::process::id()));
        let held = vec![1u8; 32 << 20];
        let growth = probe.growth();
        assert!(growth.client_bytes >= 30 << 20 && growth.server_bytes >= Some(30 << 20), "{growth:?}");
        assert_eq!(held.iter().map(|byte| u64::from(*byte)).sum::<u64>(), 32 << 20);
    }
}
