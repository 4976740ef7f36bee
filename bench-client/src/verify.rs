//! What every payload carries, and what its receiver concludes from it. Pure.
//!
//! ```text
//! offset  bytes  field, big-endian
//!      0      2  magic
//!      2      1  kind of the destination: 1 client, 2 group
//!      3      1  slot: which of the streams between sender and destination
//!      4      4  run
//!      8      4  sender, an index of this run
//!     12      4  destination, an index of this run
//!     16      4  sequence in the stream, from 0
//!     20      8  planned send time, microseconds of the run's clock
//!     28      4  CRC-32C over everything else
//!     32      …  filler
//! ```
#![forbid(unsafe_code)]

use std::{collections::HashMap, ops::Range};

use weir::io::Tick;

/// The smallest payload that carries a stamp.
pub(crate) const PAYLOAD_BYTES_MIN: usize = 32;

const MAGIC: u16 = 0xb37c;
const CRC: Range<usize> = 28..32;

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    Client(u32),
    Group(u32),
}

/// The facts that a payload carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) run: u32,
    pub(crate) sender: u32,
    pub(crate) destination: Destination,
    pub(crate) slot: u8,
    pub(crate) sequence: u32,
    pub(crate) planned: Tick,
}

impl Stamp {
    /// Writes the stamp over the head of `payload`, whose filler stays.
    pub(crate) fn write(&self, payload: &mut [u8]) {
        let (kind, destination) = match self.destination {
            Destination::Client(client) => (1, client),
            Destination::Group(group) => (2, group),
        };
        payload[0..2].copy_from_slice(&MAGIC.to_be_bytes());
        payload[2] = kind;
        payload[3] = self.slot;
        payload[4..8].copy_from_slice(&self.run.to_be_bytes());
        payload[8..12].copy_from_slice(&self.sender.to_be_bytes());
        payload[12..16].copy_from_slice(&destination.to_be_bytes());
        payload[16..20].copy_from_slice(&self.sequence.to_be_bytes());
        payload[20..28].copy_from_slice(&self.planned.0.to_be_bytes());
        let crc = checksum(payload);
        payload[CRC].copy_from_slice(&crc.to_be_bytes());
    }

    /// Reads a payload back; `None` if a single bit of it is not as it was written.
    pub(crate) fn read(payload: &[u8]) -> Option<Stamp> {
        let head: &[u8; PAYLOAD_BYTES_MIN] = payload.first_chunk()?;
        let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if u16::from_be_bytes([head[0], head[1]]) != MAGIC || word(CRC.start) != checksum(payload) {
            return None;
        }
        let destination = match head[2] {
            1 => Destination::Client(word(12)),
            2 => Destination::Group(word(12)),
            _ => return None,
        };
        let planned = Tick(u64::from(word(20)) << 32 | u64::from(word(24)));
        Some(Stamp { run: word(4), sender: word(8), destination, slot: head[3], sequence: word(16), planned })
    }
}

fn checksum(payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&payload[..CRC.start]), &payload[CRC.end..])
}

/// A payload of `bytes` bytes to write stamps into. Its filler is not all equal, so that shifted bytes show.
pub(crate) fn blank_payload(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 167 + 13) as u8).collect()
}

/// What a message means for its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The first time that this message came, and none of the stream after it had come. `passed` are the sequences that
    /// lie behind the stream now: this one, and any that were skipped.
    Newest { passed: Range<u32> },
    /// The first time that it came, but a later one had come before.
    Reordered,
    /// It had come before.
    Duplicate,
}

/// The receiving ends of many streams.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    /// The sequence after the highest that came, by stream.
    next: Vec<u32>,
    /// What is missing below `next`, for the few streams where anything is.
    gaps: HashMap<usize, Vec<Range<u32>>>,
}

impl Inbound {
    pub(crate) fn new(streams: usize) -> Inbound {
        Inbound { next: vec![0; streams], gaps: HashMap::new() }
    }

    /// Takes one intact message of `stream`.
    pub(crate) fn take(&mut self, stream: usize, sequence: u32) -> Arrival {
        let next = self.next[stream];
        if sequence >= next {
            if sequence > next {
                self.gaps.entry(stream).or_default().push(next..sequence);
            }
            self.next[stream] = sequence + 1;
            return Arrival::Newest { passed: next..sequence + 1 };
        }
        let Some(gaps) = self.gaps.get_mut(&stream) else { return Arrival::Duplicate };
        let Some(at) = gaps.iter().position(|gap| gap.contains(&sequence)) else { return Arrival::Duplicate };
        let gap = gaps.swap_remove(at);
        let halves = [gap.start..sequence, sequence + 1..gap.end];
        gaps.extend(halves.into_iter().filter(|half| !half.is_empty()));
        Arrival::Reordered
    }

    /// How many different messages of a stream came.
    pub(crate) fn count(&self, stream: usize) -> u32 {
        let missing = self.gaps.get(&stream).into_iter().flatten().map(|gap| gap.end - gap.start).sum::<u32>();
        self.next[stream] - missing
    }

    /// How many of these messages of a stream, in ascending order, came.
    pub(crate) fn count_among(&self, stream: usize, sequences: impl Iterator<Item = u32>) -> u32 {
        let mut gaps = self.gaps.get(&stream).cloned().unwrap_or_default();
        gaps.sort_unstable_by_key(|gap| gap.start);
        let mut gaps = gaps.into_iter().peekable();
        let came = sequences.take_while(|sequence| *sequence < self.next[stream]).filter(|sequence| {
            while gaps.next_if(|gap| gap.end <= *sequence).is_some() {}
            gaps.peek().is_none_or(|gap| *sequence < gap.start)
        });
        came.count() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(sequence: u32) -> Stamp {
        let destination = Destination::Client(4_000_000_001);
        Stamp { run: 0xfeed_beef, sender: 7, destination, slot: 15, sequence, planned: Tick(1 << 40 | 3) }
    }

    fn feed(sequences: &[u32]) -> (Vec<Arrival>, u32) {
        let mut inbound = Inbound::new(2);
        let arrivals = sequences.iter().map(|&sequence| inbound.take(1, sequence)).collect();
        (arrivals, inbound.count(1))
    }

    fn newest(passed: Range<u32>) -> Arrival {
        Arrival::Newest { passed }
    }

    #[test]
    fn a_stamp_survives_the_payload() {
        for bytes in [PAYLOAD_BYTES_MIN, PAYLOAD_BYTES_MIN + 1, 64, 4096] {
            for destination in [Destination::Client(u32::MAX), Destination::Group(0)] {
                let mut payload = blank_payload(bytes);
                let stamp = Stamp { destination, ..stamp(u32::MAX - 1) };
                stamp.write(&mut payload);
                assert_eq!(Stamp::read(&payload), Some(stamp));
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let mut payload = blank_payload(80);
        stamp(9).write(&mut payload);
        for bit in 0..payload.len() * 8 {
            payload[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Stamp::read(&payload), None, "bit {bit}");
            payload[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(Stamp::read(&payload), Some(stamp(9)));
    }

    #[test]
    fn a_cut_or_lengthened_payload_is_seen() {
        let mut payload = blank_payload(80);
        stamp(9).write(&mut payload);
        for bytes in 0..payload.len() {
            assert_eq!(Stamp::read(&payload[..bytes]), None, "cut to {bytes}");
        }
        payload.push(0);
        assert_eq!(Stamp::read(&payload), None);
    }

    #[test]
    fn an_undisturbed_stream_is_in_order() {
        assert_eq!(feed(&[0, 1, 2]), (vec![newest(0..1), newest(1..2), newest(2..3)], 3));
    }

    #[test]
    fn a_dropped_message_is_missing() {
        assert_eq!(feed(&[0, 2, 3]), (vec![newest(0..1), newest(1..3), newest(3..4)], 3));
        assert_eq!(feed(&[5]), (vec![newest(0..6)], 1));
    }

    #[test]
    fn a_repeated_message_is_a_duplicate() {
        assert_eq!(feed(&[0, 0]), (vec![newest(0..1), Arrival::Duplicate], 1));
        let arrivals = vec![newest(0..1), newest(1..3), Arrival::Reordered, Arrival::Duplicate, Arrival::Duplicate];
        assert_eq!(feed(&[0, 2, 1, 1, 2]), (arrivals, 3));
    }

    #[test]
    fn a_swap_is_reordering_and_nothing_else() {
        assert_eq!(feed(&[1, 0, 2]), (vec![newest(0..2), Arrival::Reordered, newest(2..3)], 3));
    }

    #[test]
    fn late_messages_close_a_gap_piece_by_piece() {
        let (arrivals, count) = feed(&[9, 4, 0, 8, 4, 5]);
        assert_eq!(arrivals[1..4], [Arrival::Reordered, Arrival::Reordered, Arrival::Reordered]);
        assert_eq!(arrivals[4..], [Arrival::Duplicate, Arrival::Reordered]);
        assert_eq!(count, 5);
    }

    #[test]
    fn what_came_is_told_from_what_did_not() {
        let mut inbound = Inbound::new(1);
        // 0 to 3 and 6, 7 are missing, and so is everything from 10 on.
        for sequence in [9, 4, 5, 8] {
            inbound.take(0, sequence);
        }
        assert_eq!(inbound.count_among(0, 0..20), 4);
        assert_eq!(inbound.count_among(0, [3, 4, 6, 8, 10].into_iter()), 2);
        assert_eq!(inbound.count(0), 4);
    }
}
