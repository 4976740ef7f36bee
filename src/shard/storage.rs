//! A shard's side of the store: requests are gathered into batches, and few batches are under way at a time, so that what comes in
//! while the disk is busy shares the next sync.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use crate::{
    limits::{
        POOLED_STORE_BATCHES_MAX, STORE_BACKLOG_BYTES_MAX, STORE_BATCH_BYTES_MAX, STORE_BATCHES_IN_FLIGHT_MAX,
        STORE_POOLED_BYTES_MAX,
    },
    store::{Batch, Request},
};

/// What waits for the store, and what is there.
#[derive(Debug, Default)]
pub struct Storage {
    /// Boxed as they travel.
    waiting: VecDeque<Box<Batch>>,
    open: Option<Box<Batch>>,
    /// Batches that the ring refused in this turn; they lie in front.
    refused: usize,
    in_flight: usize,
    /// What all unanswered requests take up.
    backlog: usize,
    #[expect(clippy::vec_box, reason = "a batch stays in its box from shard to store and back")]
    pool: Vec<Box<Batch>>,
}

impl Storage {
    /// Whether there is room for what can be refused or put off: a message, a mark, a page of history, opening a place, a cursor.
    pub fn has_room(&self) -> bool {
        self.backlog <= STORE_BACKLOG_BYTES_MAX
    }

    /// Asks the store; `fill` puts the request's bytes into the batch and names them. Whoever can wait looks for room first; what
    /// comes all the same follows from an answer of the store, or ends a membership.
    pub fn ask(&mut self, fill: impl FnOnce(&mut Batch) -> Request) {
        let batch = self.open.get_or_insert_with(|| self.pool.pop().unwrap_or_default());
        let before = batch.weight();
        let request = fill(batch);
        batch.requests.push(request);
        let after = batch.weight();
        self.backlog += after - before;
        if after >= STORE_BATCH_BYTES_MAX {
            self.waiting.extend(self.open.take());
        }
    }

    /// The next batch to post.
    pub fn next(&mut self) -> Option<Box<Batch>> {
        // What was refused is tried again in the next turn.
        if self.in_flight >= STORE_BATCHES_IN_FLIGHT_MAX || self.refused > 0 {
            return None;
        }
        let batch = self.waiting.pop_front().or_else(|| self.open.take())?;
        self.in_flight += 1;
        Some(batch)
    }

    /// Begins a new turn.
    pub fn rewind(&mut self) {
        self.refused = 0;
    }

    /// The ring was full: the batch goes back to the front.
    pub fn refused(&mut self, batch: Box<Batch>) {
        self.in_flight -= 1;
        self.waiting.insert(self.refused, batch);
        self.refused += 1;
    }

    /// A batch came back, and has been worked through.
    pub fn answered(&mut self, mut batch: Box<Batch>) {
        self.in_flight -= 1;
        self.backlog -= batch.weight();
        if self.pool.len() < POOLED_STORE_BATCHES_MAX {
            batch.clear(STORE_POOLED_BYTES_MAX);
            self.pool.push(batch);
        }
    }

    /// Nothing waits, and nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.backlog == 0
    }

    /// What all unanswered requests take up, in bytes.
    pub fn backlog(&self) -> usize {
        self.backlog
    }
}
