//! Which messages the newest commits stored: the window of de-duplication. Pure, and of bounded memory: 24 B for each message, 8 to 16 B for
//! the index, and 24 B for each commit.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::record::Entry;
use crate::store::Clock;

/// A commit that has entries in the window.
#[derive(Clone, Copy, Debug)]
struct Batch {
    number: u64,
    /// The position of its first entry.
    start: u64,
    /// Of that entry; the others' follow one by one.
    timestamp: u64,
}

/// The window. Entries have positions that only grow.
#[derive(Debug)]
pub(super) struct Seen {
    /// The most that it holds.
    capacity: usize,
    entries: VecDeque<Entry>,
    /// The position of the first entry.
    front: u64,
    batches: VecDeque<Batch>,
    /// Places of entries modulo `capacity`, plus one, by fingerprint; 0 is free. Collisions go to the next place. At most half full.
    index: Vec<u32>,
}

impl Seen {
    /// Empty. Memory is used as it fills.
    pub(super) fn new(capacity: u32) -> Seen {
        let capacity = capacity.max(1) as usize;
        Seen {
            capacity,
            entries: VecDeque::with_capacity(capacity),
            front: 0,
            batches: VecDeque::new(),
            index: vec![0; (2 * capacity).next_power_of_two()],
        }
    }

    /// The position that the next entry gets.
    pub(super) fn end(&self) -> u64 {
        self.front + self.entries.len() as u64
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The entries that follow are of this commit.
    pub(super) fn begin(&mut self, number: u64, timestamp: u64) {
        self.batches.push_back(Batch { number, start: self.end(), timestamp });
    }

    /// Adds an entry; the oldest goes if there is no more room.
    pub(super) fn push(&mut self, entry: Entry) {
        if self.entries.len() == self.capacity {
            self.drop_first();
        }
        let place = (self.end() % self.capacity as u64) as u32;
        self.entries.push_back(entry);
        let mut at = self.home(entry.fingerprint);
        while self.index[at] != 0 {
            at = self.after(at);
        }
        self.index[at] = place + 1;
    }

    /// Entries with this fingerprint, with their positions.
    pub(super) fn find(&self, fingerprint: u64) -> impl Iterator<Item = (u64, Entry)> + '_ {
        let mut at = self.home(fingerprint);
        std::iter::from_fn(move || {
            loop {
                let place = self.index[at].checked_sub(1)?;
                at = self.after(at);
                let position = self.position(place);
                let entry = self.entry(position);
                if entry.fingerprint == fingerprint {
                    return Some((position, entry));
                }
            }
        })
    }

    /// The timestamp of the message at a position.
    pub(super) fn timestamp(&self, position: u64) -> u64 {
        let after = self.batches.partition_point(|batch| batch.start <= position);
        let batch = &self.batches[after - 1];
        batch.timestamp + (position - batch.start)
    }

    /// Forgets what is older than `window_ms`.
    pub(super) fn expire(&mut self, wall_ms: u64, window_ms: u64) {
        while !self.entries.is_empty() && Clock::wall_ms(self.timestamp(self.front)) + window_ms < wall_ms {
            self.drop_first();
        }
    }

    /// The oldest commit of which there is an entry.
    pub(super) fn oldest_commit(&self) -> Option<u64> {
        self.batches.front().map(|batch| batch.number)
    }

    fn drop_first(&mut self) {
        let Some(entry) = self.entries.front().copied() else { return };
        let place = (self.front % self.capacity as u64) as u32;
        self.unindex(entry.fingerprint, place);
        self.entries.pop_front();
        self.front += 1;
        // The last commit stays: its entries may still be on their way.
        while self.batches.get(1).is_some_and(|next| next.start <= self.front) {
            self.batches.pop_front();
        }
    }

    /// Takes a place out of the index, and moves those behind it up, so that every chain stays unbroken.
    fn unindex(&mut self, fingerprint: u64, place: u32) {
        let mut hole = self.home(fingerprint);
        while self.index[hole] != place + 1 {
            hole = self.after(hole);
        }
        let mut at = self.after(hole);
        while let Some(other) = self.index[at].checked_sub(1) {
            let home = self.home(self.entry(self.position(other)).fingerprint);
            // It may move to the hole unless its home lies behind it.
            let mask = self.index.len() - 1;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.index[hole] = other + 1;
                hole = at;
            }
            at = self.after(at);
        }
        self.index[hole] = 0;
    }

    fn home(&self, fingerprint: u64) -> usize {
        // A keyed hash already: any bits are as good as others.
        fingerprint as usize & (self.index.len() - 1)
    }

    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.index.len() - 1)
    }

    /// The position whose entry has this place now.
    fn position(&self, place: u32) -> u64 {
        let capacity = self.capacity as u64;
        let first = self.front % capacity;
        self.front + (u64::from(place) + capacity - first) % capacity
    }

    fn entry(&self, position: u64) -> Entry {
        self.entries[(position - self.front) as usize]
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn entry(fingerprint: u64, seq: u64) -> Entry {
        Entry { fingerprint, channel: 1, content_crc: 0, seq }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        /// A list from which the oldest goes is the oracle. Few fingerprints, so that chains are long.
        #[test]
        fn it_finds_what_is_in_the_window(capacity in 1u32..9, fingerprints in vec(0u64..12, 0..60), per_commit in 1usize..5) {
            let mut seen = Seen::new(capacity);
            let mut oracle: VecDeque<(u64, u64)> = VecDeque::new();
            for (seq, fingerprint) in fingerprints.iter().enumerate() {
                if seq % per_commit == 0 {
                    seen.begin((seq / per_commit) as u64, 1000 + 10 * seq as u64);
                }
                seen.push(entry(*fingerprint, seq as u64));
                oracle.push_back((*fingerprint, seq as u64));
                if oracle.len() > capacity as usize {
                    oracle.pop_front();
                }
                prop_assert_eq!(seen.oldest_commit(), oracle.front().map(|(_, seq)| seq / per_commit as u64));
                for fingerprint in 0..12 {
                    let mut found: Vec<u64> = seen.find(fingerprint).map(|(_, entry)| entry.seq).collect();
                    found.sort_unstable();
                    let expected: Vec<u64> =
                        oracle.iter().filter(|(other, _)| *other == fingerprint).map(|(_, seq)| *seq).collect();
                    prop_assert_eq!(found, expected);
                    for (position, entry) in seen.find(fingerprint) {
                        let first = entry.seq - entry.seq % per_commit as u64;
                        prop_assert_eq!(seen.timestamp(position), 1000 + 10 * first + entry.seq % per_commit as u64);
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_too_old_is_forgotten() {
        let mut seen = Seen::new(10);
        for (number, wall_ms) in [(1, 100), (2, 200), (3, 300)] {
            seen.begin(number, wall_ms << 16);
            seen.push(entry(number, number));
        }
        seen.expire(250, 50);
        assert_eq!((seen.len(), seen.oldest_commit()), (2, Some(2)));
        assert_eq!(seen.find(1).count(), 0);
        seen.expire(10_000, 50);
        assert_eq!(seen.len(), 0);
    }
}
