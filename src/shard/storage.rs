//! A shard's side of the store: requests are gathered into batches, and few batches are under way at a time, so that what comes in
//! while the disk is busy shares the next sync.
//!
//! What writes and what reads travel apart, so that an answer to a message never waits for pages of history. What reads is posted
//! behind what was to be written before it.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use crate::{
    limits::{
        POOLED_STORE_BATCHES_MAX, STORE_BACKLOG_BYTES_MAX, STORE_BATCH_BYTES_MAX, STORE_BATCHES_IN_FLIGHT_MAX,
        STORE_POOLED_BYTES_MAX, STORE_READS_IN_FLIGHT_MAX,
    },
    store::{Batch, Request},
};

/// Batches of one kind.
#[derive(Debug, Default)]
struct Lane {
    /// Boxed as they travel. With each, the number of the batch of writes that must be posted before it.
    waiting: VecDeque<(u64, Box<Batch>)>,
    open: Option<Box<Batch>>,
    /// The same for the open one.
    open_after: u64,
    /// Batches that the ring refused in this turn; they lie in front.
    refused: usize,
    in_flight: usize,
    /// Batches that were opened, ever,
    opened: u64,
    /// and those of them that were posted.
    posted: u64,
}

impl Lane {
    fn close(&mut self) {
        let after = self.open_after;
        self.waiting.extend(self.open.take().map(|batch| (after, batch)));
    }

    /// The next batch, if fewer than `most` are under way, and writes are posted as far as it needs.
    fn next(&mut self, most: usize, written: u64) -> Option<Box<Batch>> {
        // What was refused is tried again in the next turn.
        if self.in_flight >= most || self.refused > 0 {
            return None;
        }
        if self.waiting.is_empty() {
            self.close();
        }
        self.waiting.front().filter(|(after, _)| *after <= written)?;
        let (_, batch) = self.waiting.pop_front()?;
        self.in_flight += 1;
        self.posted += 1;
        Some(batch)
    }

    fn refused(&mut self, after: u64, batch: Box<Batch>) {
        self.in_flight -= 1;
        self.posted -= 1;
        self.waiting.insert(self.refused, (after, batch));
        self.refused += 1;
    }
}

/// What waits for the store, and what is there.
#[derive(Debug, Default)]
pub struct Storage {
    writes: Lane,
    reads: Lane,
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

    /// Asks the store to change something; `fill` puts the request's bytes into the batch and names them. Whoever can wait looks for
    /// room first; what comes all the same follows from an answer of the store, or ends a membership.
    pub fn write(&mut self, fill: impl FnOnce(&mut Batch) -> Request) {
        self.ask(true, fill);
    }

    /// The same for what changes nothing.
    pub fn read(&mut self, fill: impl FnOnce(&mut Batch) -> Request) {
        self.reads.open_after = self.writes.opened;
        self.ask(false, fill);
    }

    fn ask(&mut self, is_write: bool, fill: impl FnOnce(&mut Batch) -> Request) {
        let lane = if is_write { &mut self.writes } else { &mut self.reads };
        if lane.open.is_none() {
            lane.opened += 1;
        }
        let batch = lane.open.get_or_insert_with(|| self.pool.pop().unwrap_or_default());
        let before = batch.weight();
        let request = fill(batch);
        assert_eq!(request.is_write(), is_write, "{request:?}");
        batch.requests.push(request);
        let after = batch.weight();
        self.backlog += after - before;
        if after >= STORE_BATCH_BYTES_MAX {
            lane.close();
        }
    }

    /// The next batch to post.
    pub fn next(&mut self) -> Option<Box<Batch>> {
        let batch = self.writes.next(STORE_BATCHES_IN_FLIGHT_MAX, u64::MAX);
        let posted = self.writes.posted;
        batch.or_else(|| self.reads.next(STORE_READS_IN_FLIGHT_MAX, posted))
    }

    /// Begins a new turn.
    pub fn rewind(&mut self) {
        (self.writes.refused, self.reads.refused) = (0, 0);
    }

    /// The ring was full: the batch goes back to the front.
    pub fn refused(&mut self, batch: Box<Batch>) {
        if batch.is_write() {
            self.writes.refused(0, batch);
        } else {
            // The writes that it waited for may have been refused just before.
            self.reads.refused(self.writes.opened, batch);
        }
    }

    /// A batch came back, and has been worked through.
    pub fn answered(&mut self, mut batch: Box<Batch>) {
        let lane = if batch.is_write() { &mut self.writes } else { &mut self.reads };
        lane.in_flight -= 1;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::{ConnId, ShardId},
        store::{PageLimit, Tag},
    };

    const TAG: Tag = Tag { shard: ShardId(0), conn: ConnId { slot: 0, generation: 0 }, ticket: 0 };

    fn write(storage: &mut Storage, to: u64) {
        storage.write(|batch| {
            let (channel, client, device) = (batch.put(b"user/a"), batch.put(b"a"), batch.put(b"phone"));
            Request::Received { channel, client, device, to, tag: TAG }
        });
    }

    fn read(storage: &mut Storage, from: u64) {
        let limit = PageLimit { messages: 1, bytes: 1 };
        storage.read(|batch| Request::Read { channel: batch.put(b"user/a"), from, limit, sync: false, tag: TAG });
    }

    /// The numbers in all batches that can be posted now: of each whether it writes.
    fn post(storage: &mut Storage) -> (Vec<(bool, u64)>, VecDeque<Box<Batch>>) {
        storage.rewind();
        let posted: VecDeque<Box<Batch>> = std::iter::from_fn(|| storage.next()).collect();
        let number = |request: &Request| match request {
            Request::Received { to, .. } => (true, *to),
            Request::Read { from, .. } => (false, *from),
            other => panic!("{other:?}"),
        };
        (posted.iter().flat_map(|batch| batch.requests.iter().map(number)).collect(), posted)
    }

    #[test]
    fn what_reads_goes_apart_and_behind_what_was_to_be_written() {
        let mut storage = Storage::default();
        read(&mut storage, 1);
        write(&mut storage, 2);
        read(&mut storage, 3);
        write(&mut storage, 4);
        let (numbers, posted) = post(&mut storage);
        assert_eq!(numbers, [(true, 2), (true, 4), (false, 1), (false, 3)]);
        assert_eq!(posted.len(), 2);
        posted.into_iter().for_each(|batch| storage.answered(batch));
        assert!(storage.is_idle());
    }

    #[test]
    fn neither_kind_keeps_the_other_waiting_but_for_the_order() {
        let mut storage = Storage::default();
        let mut away = VecDeque::new();
        for number in 0..STORE_BATCHES_IN_FLIGHT_MAX as u64 {
            write(&mut storage, number);
            away.extend(post(&mut storage).1);
        }
        // The next to be written waits, and what reads behind it, but not for those that come after that.
        read(&mut storage, 10);
        write(&mut storage, 11);
        assert_eq!(post(&mut storage).0, [(false, 10)]);
        read(&mut storage, 12);
        assert_eq!(post(&mut storage).0, []);
        write(&mut storage, 13);
        storage.answered(away.pop_front().unwrap());
        assert_eq!(post(&mut storage).0, [(true, 11), (true, 13), (false, 12)]);
        // Pages that take long leave the way free.
        read(&mut storage, 14);
        storage.answered(away.pop_front().unwrap());
        write(&mut storage, 15);
        assert_eq!(post(&mut storage).0, [(true, 15)]);
    }

    #[test]
    fn a_full_ring_keeps_the_order() {
        let mut storage = Storage::default();
        let mut away = VecDeque::new();
        for number in 0..STORE_BATCHES_IN_FLIGHT_MAX as u64 - 1 {
            write(&mut storage, number);
            away.extend(post(&mut storage).1);
        }
        write(&mut storage, 20);
        read(&mut storage, 21);
        for batch in post(&mut storage).1 {
            storage.refused(batch);
        }
        assert!(storage.next().is_none(), "not in the same turn");
        write(&mut storage, 22);
        assert_eq!(post(&mut storage).0, [(true, 20), (false, 21)]);
        away.into_iter().for_each(|batch| storage.answered(batch));
        assert_eq!(post(&mut storage).0, [(true, 22)]);
    }
}
