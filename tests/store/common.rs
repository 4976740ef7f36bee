//! Short names for what tests write and read.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use weir::{
    store::{
        Bounds, CursorKey, CursorKind, Entries, Log, Memory, Outcome, PageLimit, Retention, Write,
        disk::{Disk, Options, free_bytes},
    },
    wire::PushRef,
};

/// A Tuesday in 2023.
pub const NOW_MS: u64 = 1_700_000_000_000;

/// Keeps everything.
pub const RETENTION: Retention = Retention {
    age_ms: 7 * 86_400_000,
    messages: 1_000_000,
    bytes: 1 << 30,
    channels: u32::MAX,
    dedup_ms: 86_400_000,
    dedup_messages: 10_000,
};

/// For a log on disk that is small.
pub fn options(retention: Retention) -> Options {
    Options {
        retention,
        cache_bytes: 1 << 20,
        memtable_bytes: 16 << 20,
        cached_channels: 100,
        reserve_bytes: 0,
        free_bytes: Box::new(free_bytes),
    }
}

/// A folder, in memory where the system has such a file system: syncs take no time there.
pub fn folder() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

/// Opens the log in this folder.
pub fn open(dir: &Path, retention: Retention) -> Disk {
    Disk::open(dir, options(retention)).unwrap_or_else(|error| panic!("{error}")).0
}

/// A log of each kind, with its name. The folder goes with the log.
pub fn each(retention: Retention, test: impl Fn(&str, &mut dyn Log)) {
    test("memory", &mut Memory::new(retention));
    let folder = folder();
    test("disk", &mut open(folder.path(), retention));
}

/// A message of alice's phone.
pub fn message(client_msg_id: u64, payload: &[u8]) -> PushRef<'_> {
    PushRef { from_client: "alice", from_device: "phone", client_msg_id, payload, ..PushRef::default() }
}

pub fn append<'a>(channel: &'a str, message: PushRef<'a>) -> Write<'a> {
    Write::Append { channel, message }
}

pub fn received<'a>(channel: &'a str, client: &'a str, device: &'a str) -> CursorKey<'a> {
    CursorKey { channel, client, kind: CursorKind::Received { device } }
}

pub fn read_cursor<'a>(channel: &'a str, client: &'a str) -> CursorKey<'a> {
    CursorKey { channel, client, kind: CursorKind::Read }
}

/// Waits, like the store's thread, until the log takes a commit.
pub fn await_ready(log: &mut dyn Log) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !log.is_ready() {
        assert!(Instant::now() < deadline, "the log does not get done with its tables");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Commits, which must succeed.
pub fn commit(log: &mut dyn Log, wall_ms: u64, writes: &[Write<'_>]) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    await_ready(log);
    log.commit(wall_ms, writes, &mut outcomes).unwrap();
    assert_eq!(outcomes.len(), writes.len());
    outcomes
}

/// The sequences that were given.
pub fn seqs(outcomes: &[Outcome]) -> Vec<u64> {
    let seq = |outcome: &Outcome| match outcome {
        Outcome::Appended { seq, .. } => *seq,
        other => panic!("{other:?}"),
    };
    outcomes.iter().map(seq).collect()
}

/// One message of a page, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub seq: u64,
    pub timestamp: u64,
    pub from: (String, String, u64),
    pub payload: Vec<u8>,
}

/// A page, and the bounds that came with it.
pub fn page(log: &mut dyn Log, channel: &str, from: u64, limit: PageLimit) -> (Vec<Seen>, Bounds) {
    let mut bytes = Vec::new();
    let bounds = log.read(channel, from, limit, &mut bytes).unwrap();
    let seen = |push: PushRef<'_>| Seen {
        seq: push.seq,
        timestamp: push.timestamp,
        from: (push.from_client.to_owned(), push.from_device.to_owned(), push.client_msg_id),
        payload: push.payload.to_vec(),
    };
    (Entries::of(&bytes).map(seen).collect(), bounds)
}

/// All of a channel.
pub fn all(log: &mut dyn Log, channel: &str) -> Vec<Seen> {
    page(log, channel, 0, PageLimit { messages: u32::MAX, bytes: u32::MAX }).0
}

/// Expires until nothing is left to do.
pub fn expire(log: &mut dyn Log, wall_ms: u64) {
    while log.expire(wall_ms).unwrap() {}
}
