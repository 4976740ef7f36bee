//! The store without a thread: it serves when it is told to, and its log fails when it is told to.

use std::collections::VecDeque;

use weir::{
    store::{Batch, Bounds, CursorKey, Failure, Log, Memory, Outcome, PageLimit, Retention, Service, Write},
    wire::body::Durability,
};

/// A log that can fail.
struct Frail {
    log: Memory,
    fails: bool,
}

impl Frail {
    fn check(&self) -> Result<(), Failure> {
        if self.fails { Err(Failure::Unavailable("it was told to fail".to_owned())) } else { Ok(()) }
    }
}

impl Log for Frail {
    /// A write that fails may have happened.
    fn commit(&mut self, wall_ms: u64, writes: &[Write<'_>], outcomes: &mut Vec<Outcome>) -> Result<(), Failure> {
        self.log.commit(wall_ms, writes, outcomes)?;
        self.check()
    }

    fn read(&mut self, channel: &str, from: u64, limit: PageLimit, page: &mut Vec<u8>) -> Result<Bounds, Failure> {
        self.check()?;
        self.log.read(channel, from, limit, page)
    }

    fn bounds(&mut self, channel: &str) -> Result<Bounds, Failure> {
        self.check()?;
        self.log.bounds(channel)
    }

    fn cursor(&mut self, key: CursorKey<'_>) -> Result<Option<u64>, Failure> {
        self.check()?;
        self.log.cursor(key)
    }

    fn expire(&mut self, wall_ms: u64) -> Result<bool, Failure> {
        self.check()?;
        self.log.expire(wall_ms)
    }

    fn durability(&self) -> Durability {
        Durability::Memory
    }
}

pub struct Store {
    service: Service<Frail>,
    /// Answered, and not yet in a ring; by shard, in order.
    pub answered: VecDeque<(usize, Box<Batch>)>,
}

impl Store {
    /// Keeps so few messages of a channel that devices miss some.
    pub fn new() -> Store {
        let retention = Retention { age_ms: 60_000, messages: 6, bytes: 1 << 20, channels: u32::MAX, dedup_ms: 60_000, dedup_messages: 16 };
        let log = Frail { log: Memory::new(retention), fails: false };
        Store { service: Service::new(log), answered: VecDeque::new() }
    }

    /// Works through batches, as one group.
    #[expect(clippy::vec_box, reason = "a batch stays in its box from shard to store and back")]
    pub fn serve(&mut self, wall_ms: u64, mut batches: Vec<(usize, Box<Batch>)>, fails: bool) {
        self.service.log().fails = fails;
        let _ = self.service.log().expire(wall_ms);
        self.service.serve(wall_ms, batches.iter_mut().map(|(_, batch)| &mut **batch));
        self.answered.extend(batches);
    }
}
