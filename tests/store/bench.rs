//! What the log on disk can do. Not part of a test run:
//!
//! `cargo test --release --test store bench -- --ignored --nocapture --test-threads 1`
//!
//! `WEIR_BENCH_DIR` is where (default: the system's folder for temporary files), `WEIR_BENCH_MESSAGES` how many.

use std::{
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::sys::resource::{UsageWho, getrusage};
use tempfile::TempDir;
use weir::store::{
    Log, PageLimit, Retention, Write,
    disk::{Disk, Options, free_bytes},
};

use crate::common::{RETENTION, append, await_ready, message};

const CHANNELS: u64 = 10_000;
const PAYLOAD: [u8; 64] = [7; 64];

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn folder() -> TempDir {
    let parent = std::env::var_os("WEIR_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    TempDir::new_in(parent).unwrap()
}

/// As a gateway without flags has them.
fn open(folder: &TempDir) -> Disk {
    let retention = Retention { messages: 1_000_000, bytes: 256 << 20, dedup_messages: 2_000_000, ..RETENTION };
    let options = Options {
        retention,
        cache_bytes: 64 << 20,
        memtable_bytes: 256 << 20,
        cached_channels: 100_000,
        reserve_bytes: 1 << 30,
        free_bytes: Box::new(free_bytes),
    };
    Disk::open(folder.path(), options).unwrap().0
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Seconds of both kinds.
fn cpu() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

/// A line of `/proc/self/status`, in megabytes.
fn memory_mb(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// Sends messages to channels at random.
struct Sender {
    names: Vec<String>,
    random: u64,
    sent: u64,
}

impl Sender {
    fn new() -> Sender {
        Sender { names: (0..CHANNELS).map(|number| format!("user/{number}")).collect(), random: 88_172_645_463_325_252, sent: 0 }
    }

    fn commit(&mut self, log: &mut Disk, count: u64) -> Duration {
        let mut writes: Vec<Write<'_>> = Vec::with_capacity(count as usize);
        for _ in 0..count {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            self.sent += 1;
            writes.push(append(&self.names[(self.random % CHANNELS) as usize], message(self.sent, &PAYLOAD)));
        }
        let mut outcomes = Vec::new();
        let started = Instant::now();
        await_ready(log);
        log.commit(wall_ms(), &writes, &mut outcomes).unwrap();
        started.elapsed()
    }
}

fn quantile(sorted: &[Duration], of: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * of) as usize]
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    println!(
        "{what}: p50 {:?}, p99 {:?}, p99.9 {:?}, longest {:?}",
        quantile(&times, 0.5),
        quantile(&times, 0.99),
        quantile(&times, 0.999),
        times[times.len() - 1]
    );
}

#[test]
#[ignore = "a benchmark"]
fn bench_commits_of_one_size() {
    for size in [16, 128, 1024] {
        let folder = folder();
        let mut log = open(&folder);
        let mut sender = Sender::new();
        let total = number("WEIR_BENCH_MESSAGES", 5_000_000).min(size * 40_000);
        let (started, cpu_before) = (Instant::now(), cpu());
        let times: Vec<Duration> = (0..total / size).map(|_| sender.commit(&mut log, size)).collect();
        let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu() - cpu_before);
        println!(
            "{size} messages a commit: {:.0}/s, {:.2} us of CPU each, {} MB",
            sender.sent as f64 / seconds,
            cpu * 1e6 / sender.sent as f64,
            memory_mb("VmRSS")
        );
        report("  commits", times);
    }
}

/// Messages come at a steady pace, and each commit takes what came during the one before.
#[test]
#[ignore = "a benchmark"]
fn bench_commits_at_a_steady_pace() {
    let per_second = number("WEIR_BENCH_RATE", 150_000);
    let total = number("WEIR_BENCH_MESSAGES", 5_000_000);
    let folder = folder();
    let mut log = open(&folder);
    let mut sender = Sender::new();
    let (started, cpu_before) = (Instant::now(), cpu());
    let (mut commits, mut waits, mut slow) = (Vec::new(), Vec::new(), Vec::new());
    while sender.sent < total {
        let came = (started.elapsed().as_secs_f64() * per_second as f64) as u64;
        let waiting = came.min(total) - sender.sent;
        if waiting < 16 {
            std::thread::sleep(Duration::from_micros(100));
            continue;
        }
        let oldest = Duration::from_secs_f64(sender.sent as f64 / per_second as f64);
        let time = sender.commit(&mut log, waiting.min(8_192));
        if time > Duration::from_millis(8) {
            slow.push((started.elapsed().as_secs_f64(), time));
        }
        commits.push(time);
        waits.push(started.elapsed() - oldest);
    }
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu() - cpu_before);
    println!(
        "{per_second}/s wanted: {:.0}/s, {:.0} a commit, {:.2} us of CPU each, {} MB",
        total as f64 / seconds,
        total as f64 / commits.len() as f64,
        cpu * 1e6 / total as f64,
        memory_mb("VmRSS")
    );
    report("  commits", commits);
    report("  from coming to stored, of the oldest of each commit", waits);
    println!(
        "  {} over 8 ms, at: {:.2?}",
        slow.len(),
        slow.iter().take(60).map(|(at, time)| (*at, time.as_millis())).collect::<Vec<_>>()
    );
}

#[test]
#[ignore = "a benchmark"]
fn bench_start() {
    let total = number("WEIR_BENCH_MESSAGES", 10_000_000);
    let folder = folder();
    let mut log = open(&folder);
    let mut sender = Sender::new();
    let started = Instant::now();
    while sender.sent < total {
        sender.commit(&mut log, 1_024);
    }
    println!("{total} messages stored in {:?}; {} MB, at most {} MB", started.elapsed(), memory_mb("VmRSS"), memory_mb("VmHWM"));
    let started = Instant::now();
    drop(log);
    println!("closed in {:?}; {} MB", started.elapsed(), memory_mb("VmRSS"));
    // A process that was killed leaves the same journals as one that ended: nothing is written at the end.
    let exe = std::env::current_exe().unwrap();
    let mut child = std::process::Command::new(exe);
    child.args(["bench_reopen", "--ignored", "--nocapture", "--exact", "bench::bench_reopen"]);
    child.env("WEIR_BENCH_REOPEN", folder.path());
    assert!(child.status().unwrap().success());
}

/// The second half of `bench_start`, in a process of its own, so that its memory is the start's.
#[test]
#[ignore = "a part of bench_start"]
fn bench_reopen() {
    let Some(dir) = std::env::var_os("WEIR_BENCH_REOPEN").map(PathBuf::from) else { return };
    let retention = Retention { messages: 1_000_000, bytes: 256 << 20, dedup_messages: 2_000_000, ..RETENTION };
    let options = Options {
        retention,
        cache_bytes: 64 << 20,
        memtable_bytes: 256 << 20,
        cached_channels: 100_000,
        reserve_bytes: 1 << 30,
        free_bytes: Box::new(free_bytes),
    };
    let before = memory_mb("VmRSS");
    let started = Instant::now();
    let (mut log, opened) = Disk::open(&dir, options).unwrap();
    println!(
        "opened in {:?}: {opened:?}; {} MB more, at most {} MB",
        started.elapsed(),
        memory_mb("VmRSS") - before,
        memory_mb("VmHWM")
    );
    let started = Instant::now();
    let mut page = Vec::new();
    let mut messages = 0;
    for number in 0..1_000 {
        page.clear();
        log.read(&format!("user/{number}"), 0, PageLimit { messages: 100, bytes: 64 << 10 }, &mut page).unwrap();
        messages += weir::store::Entries::of(&page).count();
    }
    println!("{messages} messages in 1,000 pages of 1,000 channels in {:?}", started.elapsed());
}
