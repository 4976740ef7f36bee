//! What waits for the other shards: at each moment one batch for each, and those that found the ring full.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::message::{Batch, Item};
use crate::ids::ShardId;
use crate::limits::{POOLED_BATCHES_MAX, RING_BACKLOG_BYTES_HIGH, RING_BACKLOG_BYTES_MAX, RING_BATCH_BYTES_MAX};

#[derive(Debug, Default)]
struct Lane {
    /// Boxed as they travel.
    waiting: VecDeque<Box<Batch>>,
    open: Option<Box<Batch>>,
    /// Batches that the ring refused in this turn; they lie in front.
    refused: usize,
}

/// All lanes of a shard.
#[derive(Debug)]
pub struct Outbox {
    lanes: Vec<Lane>,
    #[expect(clippy::vec_box, reason = "a batch stays in its box from shard to shard")]
    pool: Vec<Box<Batch>>,
    /// Where `next` looks first.
    cursor: usize,
    backlog: usize,
}

impl Outbox {
    /// For a mesh of `shards`.
    pub fn new(shards: u16) -> Outbox {
        Outbox { lanes: (0..shards).map(|_| Lane::default()).collect(), pool: Vec::new(), cursor: 0, backlog: 0 }
    }

    /// Puts one item into the batch for a shard; `fill` puts its bytes into the batch and names them.
    /// Returns false if it was dropped because the backlog is full.
    #[must_use = "what was dropped must be counted"]
    pub fn put(&mut self, to: ShardId, fill: impl FnOnce(&mut Batch) -> Item) -> bool {
        let room = self.backlog <= RING_BACKLOG_BYTES_MAX;
        if room {
            self.put_vital(to, fill);
        }
        room
    }

    /// As `put`, for what would leave state behind that nobody cleans up if it were lost. Bounded by the connections,
    /// memberships and messages with receipts that cause it.
    pub fn put_vital(&mut self, to: ShardId, fill: impl FnOnce(&mut Batch) -> Item) {
        let lane = &mut self.lanes[to.index()];
        let batch = lane.open.get_or_insert_with(|| self.pool.pop().unwrap_or_default());
        let before = batch.weight();
        let item = fill(batch);
        batch.items.push(item);
        let after = batch.weight();
        self.backlog += after - before;
        if after >= RING_BATCH_BYTES_MAX {
            lane.waiting.extend(lane.open.take());
        }
    }

    /// The next batch to post.
    pub fn next(&mut self) -> Option<(ShardId, Box<Batch>)> {
        while self.cursor < self.lanes.len() {
            let lane = &mut self.lanes[self.cursor];
            if let Some(batch) = lane.waiting.pop_front().or_else(|| lane.open.take()) {
                self.backlog -= batch.weight();
                return Some((ShardId(self.cursor as u16), batch));
            }
            self.cursor += 1;
        }
        None
    }

    /// Begins a new round of `next`, in which batches that were refused are tried again.
    pub fn rewind(&mut self) {
        self.cursor = 0;
        for lane in &mut self.lanes {
            lane.refused = 0;
        }
    }

    /// The ring was full: the batch goes back to the front of its lane, behind those that were refused before it in this turn,
    /// so that all leave in the order in which they were filled.
    pub fn refused(&mut self, to: ShardId, batch: Box<Batch>) {
        let lane = &mut self.lanes[to.index()];
        self.backlog += batch.weight();
        lane.waiting.insert(lane.refused, batch);
        lane.refused += 1;
    }

    /// Takes a batch that was worked through.
    pub fn recycle(&mut self, mut batch: Box<Batch>) {
        if self.pool.len() < POOLED_BATCHES_MAX {
            batch.clear(RING_BATCH_BYTES_MAX);
            self.pool.push(batch);
        }
    }

    /// Bytes that wait, for all shards.
    pub fn backlog(&self) -> usize {
        self.backlog
    }

    /// Whether so much waits that no more input should come.
    pub fn is_congested(&self) -> bool {
        self.backlog > RING_BACKLOG_BYTES_HIGH
    }
}
