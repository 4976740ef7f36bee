//! A log in memory that fails when it is told to.
#![forbid(unsafe_code)]

use crate::{
    store::{Bounds, CursorKey, Failure, Log, Memory, Outcome, PageLimit, Retention, Write},
    wire::body::Durability,
};

#[derive(Debug)]
pub(super) struct Frail {
    log: Memory,
    /// Why it does nothing.
    pub failure: Option<Failure>,
}

impl Frail {
    pub(super) fn new(retention: Retention) -> Frail {
        Frail { log: Memory::new(retention), failure: None }
    }

    fn check(&self) -> Result<(), Failure> {
        self.failure.clone().map_or(Ok(()), Err)
    }
}

impl Log for Frail {
    fn commit(&mut self, wall_ms: u64, writes: &[Write<'_>], outcomes: &mut Vec<Outcome>) -> Result<(), Failure> {
        self.check()?;
        self.log.commit(wall_ms, writes, outcomes)
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
        self.log.durability()
    }
}
