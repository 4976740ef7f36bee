//! The store's thread, and a port that plays a shard.
#![forbid(unsafe_code)]

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread::JoinHandle,
};

use super::*;
use crate::{
    ids::ConnId,
    mesh::mesh,
    store::{Append, Bounds, CursorKey, Failure, Memory, Outcome, PageLimit, Reply, Retention, Tag, Write},
    wire::body::Durability,
};

const TRAVEL: Travel<Option<Box<Batch>>> = Travel { wrap: Some, unwrap: |message| message.map_or(Posted::Stop, Posted::Batch) };
const STORE: ShardId = ShardId(1);

const RETENTION: Retention =
    Retention { age_ms: 1 << 40, messages: 1000, bytes: 1 << 20, channels: u32::MAX, dedup_ms: 1 << 40, dedup_messages: 100 };

/// A log of which each page takes a while.
struct Slow {
    log: Memory,
    page_ms: u64,
    /// Pages that were read.
    pages: Arc<AtomicU64>,
    /// It does not keep up.
    is_behind: Arc<AtomicBool>,
    /// Nothing can be removed.
    keeps_all: bool,
}

impl Slow {
    fn new(page_ms: u64) -> Slow {
        Slow { log: Memory::new(RETENTION), page_ms, pages: Arc::default(), is_behind: Arc::default(), keeps_all: false }
    }
}

impl Log for Slow {
    fn commit(&mut self, wall_ms: u64, writes: &[Write<'_>], outcomes: &mut Vec<Outcome>) -> Result<(), Failure> {
        assert!(!self.is_behind.load(Ordering::Relaxed), "it said that it was not ready");
        self.log.commit(wall_ms, writes, outcomes)
    }

    fn is_ready(&mut self) -> bool {
        !self.is_behind.load(Ordering::Relaxed)
    }

    fn read(&mut self, channel: &str, from: u64, limit: PageLimit, page: &mut Vec<u8>) -> Result<Bounds, Failure> {
        std::thread::sleep(Duration::from_millis(self.page_ms));
        self.pages.fetch_add(1, Ordering::Relaxed);
        self.log.read(channel, from, limit, page)
    }

    fn bounds(&mut self, channel: &str) -> Result<Bounds, Failure> {
        self.log.bounds(channel)
    }

    fn cursor(&mut self, key: CursorKey<'_>) -> Result<Option<u64>, Failure> {
        self.log.cursor(key)
    }

    fn expire(&mut self, wall_ms: u64) -> Result<bool, Failure> {
        if self.keeps_all {
            return Err(Failure::Unavailable("it was told to fail".to_owned()));
        }
        self.log.expire(wall_ms)
    }

    fn durability(&self) -> Durability {
        self.log.durability()
    }
}

/// A port that plays a shard, and the store's thread.
fn start(ring: usize, log: impl Log + Send + 'static) -> (Port<Option<Box<Batch>>>, JoinHandle<()>, Arc<StoreStats>) {
    let mut ports = mesh(2, ring).unwrap();
    let (store, shard) = (ports.pop().unwrap(), ports.pop().unwrap());
    let stats = Arc::new(StoreStats::default());
    let counted = Arc::clone(&stats);
    let thread = std::thread::spawn(move || run(store, log, TRAVEL, &counted));
    (shard, thread, stats)
}

fn append(client_msg_id: u64) -> Box<Batch> {
    let mut batch = Box::new(Batch::default());
    let channel = batch.put(b"user/bob");
    let (from_client, from_device) = (batch.put(b"alice"), batch.put(b"phone"));
    let payload = batch.put(b"hello");
    let sender = Tag { shard: ShardId(0), conn: ConnId { slot: 0, generation: 0 }, ticket: 0 };
    batch.requests.push(Request::Append(Append { channel, from_client, from_device, payload, client_msg_id, sender }));
    batch
}

/// So many pages.
fn pages(count: usize) -> Box<Batch> {
    let mut batch = Box::new(Batch::default());
    let channel = batch.put(b"user/bob");
    let tag = Tag { shard: ShardId(0), conn: ConnId { slot: 0, generation: 0 }, ticket: 0 };
    let limit = PageLimit { messages: 10, bytes: 1000 };
    let page = Request::Read { channel, from: 1, limit, sync: true, tag };
    batch.requests.extend(std::iter::repeat_n(page, count));
    batch
}

/// The next that comes back.
fn take(port: &mut Port<Option<Box<Batch>>>) -> Box<Batch> {
    let mut came = None;
    while came.is_none() {
        let mut batches = 0;
        port.receive(1, |_, batch| {
            came = batch;
            batches += 1;
        });
        assert!(batches <= 1);
        std::thread::yield_now();
    }
    came.unwrap()
}

/// Posts it, however long the ring is full.
fn post(port: &mut Port<Option<Box<Batch>>>, mut message: Option<Box<Batch>>) {
    while let Err(refused) = port.post(STORE, message) {
        message = refused;
        std::thread::yield_now();
    }
    port.publish();
}

fn seq_of(batch: &Batch) -> u64 {
    match batch.replies[..] {
        [Reply::Appended { seq, .. }] => seq,
        ref replies => panic!("{replies:?}"),
    }
}

#[test]
fn requests_come_back_in_order_though_the_rings_are_small() {
    let (mut port, thread, stats) = start(2, Memory::new(RETENTION));
    // Replies to six batches do not fit into a ring of two: the thread keeps them until they are taken.
    for client_msg_id in 1..=6 {
        post(&mut port, Some(append(client_msg_id)));
    }
    while stats.requests.get() < 6 {
        std::thread::yield_now();
    }
    let mut seen = Vec::new();
    while seen.len() < 6 {
        port.receive(1, |from, batch| seen.push((from, seq_of(&batch.unwrap()))));
    }
    assert_eq!(seen, (1..=6).map(|seq| (STORE, seq)).collect::<Vec<_>>());
    post(&mut port, None);
    thread.join().unwrap();
    assert_eq!((stats.appends.get(), stats.failed.get()), (6, 0));
}

#[test]
fn it_sleeps_and_wakes_and_ends_with_everything_served() {
    let (mut port, thread, stats) = start(8, Memory::new(RETENTION));
    post(&mut port, Some(append(1)));
    while stats.requests.get() < 1 {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_millis(20));
    post(&mut port, Some(append(2)));
    post(&mut port, None);
    thread.join().unwrap();
    let mut seen = Vec::new();
    port.receive(8, |_, batch| seen.push(seq_of(&batch.unwrap())));
    assert_eq!(seen, [1, 2]);
}

#[test]
fn what_was_written_is_answered_between_the_pages_of_history() {
    const PAGES: usize = 200;
    let log = Slow::new(5);
    let read = Arc::clone(&log.pages);
    let (mut port, thread, stats) = start(8, log);
    post(&mut port, Some(pages(PAGES)));
    for client_msg_id in 1..=3 {
        while read.load(Ordering::Relaxed) < client_msg_id {
            std::thread::yield_now();
        }
        post(&mut port, Some(append(client_msg_id)));
        assert_eq!(seq_of(&take(&mut port)), client_msg_id, "it comes before the pages");
        assert_eq!(stats.reads_waiting.get(), 1);
    }
    post(&mut port, None);
    let batch = take(&mut port);
    let lengths: Vec<usize> = batch
        .replies
        .iter()
        .map(|reply| match reply {
            Reply::Page { entries, .. } => batch.entries(*entries).count(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!((lengths.len(), lengths.first(), lengths.last()), (PAGES, Some(&0), Some(&3)), "each page as of when it was read");
    thread.join().unwrap();
    assert_eq!((stats.requests.get(), stats.reads_waiting.get(), stats.failed.get()), (PAGES as u64 + 3, 0, 0));
}

#[test]
fn a_log_that_falls_behind_delays_what_is_written_and_then_refuses_it_while_reading_goes_on() {
    let log = Slow::new(0);
    let is_behind = Arc::clone(&log.is_behind);
    let (mut port, thread, stats) = start(8, log);
    is_behind.store(true, Ordering::Relaxed);
    post(&mut port, Some(append(1)));
    post(&mut port, Some(pages(3)));
    assert_eq!(take(&mut port).replies.len(), 3, "pages come");
    assert_eq!(stats.appends.get(), 0, "and the message waits");
    // For a moment it only waits.
    is_behind.store(false, Ordering::Relaxed);
    assert_eq!(seq_of(&take(&mut port)), 1);
    assert_eq!((stats.writes_refused.get(), stats.failed.get()), (0, 0));
    is_behind.store(true, Ordering::Relaxed);
    let started = Instant::now();
    post(&mut port, Some(append(2)));
    assert_eq!(take(&mut port).replies, [Reply::Failed(Failure::Behind)]);
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(STORE_HOLD_MS_MAX), "{waited:?}");
    // From then on nothing waits, until it has caught up.
    post(&mut port, Some(append(3)));
    post(&mut port, Some(pages(1)));
    assert_eq!(take(&mut port).replies, [Reply::Failed(Failure::Behind)]);
    assert_eq!(take(&mut port).replies.len(), 1);
    assert_eq!((stats.writes_refused.get(), stats.failed.get(), stats.writes_waiting.get()), (2, 2, 0));
    is_behind.store(false, Ordering::Relaxed);
    while stats.appends.get() < 4 {
        post(&mut port, Some(append(4)));
        let batch = take(&mut port);
        assert!(
            matches!(batch.replies[..], [Reply::Appended { seq: 2, .. } | Reply::Failed(Failure::Behind)]),
            "{:?}",
            batch.replies
        );
    }
    // What waits when the gateway stops is not left behind.
    is_behind.store(true, Ordering::Relaxed);
    post(&mut port, Some(append(5)));
    post(&mut port, None);
    thread.join().unwrap();
    assert_eq!(take(&mut port).replies, [Reply::Failed(Failure::Behind)]);
}

#[test]
fn what_cannot_be_removed_is_counted_and_tried_again_in_a_while() {
    let (mut port, thread, stats) = start(8, Slow { keeps_all: true, ..Slow::new(0) });
    while stats.expire_failed.get() < 2 {
        std::thread::sleep(Duration::from_millis(20));
        post(&mut port, Some(append(stats.appends.get() + 1)));
        assert_eq!(take(&mut port).failures(), 0, "everything else goes on");
    }
    let asked = stats.requests.get();
    assert!(asked > 10, "it is not tried again and again: {asked}");
    post(&mut port, None);
    thread.join().unwrap();
}
