//! What a worker knows at the end of the durable streams and channels that begin or end at it.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use super::lines::Lines;

/// Numbers of messages, by stream, for the few streams that have any.
pub(crate) type Marks = BTreeMap<u32, BTreeSet<u32>>;

/// What the answers to one outgoing stream said.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Numbered {
    /// The highest sequence in the channel.
    pub(crate) last: u64,
    /// Which message got which sequence: the sum of [`pairing`] over all of them.
    pub(crate) pairings: u64,
}

/// The durable part of a worker's books.
#[derive(Debug, Default)]
pub(crate) struct DurableLedger {
    /// By outgoing stream.
    pub(crate) numbered: Vec<Numbered>,
    /// Refused for good, by outgoing stream.
    pub(crate) refused: Marks,
    /// Neither accepted nor refused for good, by outgoing stream: they may come, and need not.
    pub(crate) unanswered: Marks,
    /// Refused at least once and sent again, by outgoing stream: later ones may have overtaken them.
    pub(crate) deferred: Marks,
    /// By incoming stream, the sum of [`pairing`] over what came.
    pub(crate) pairings: Vec<u64>,
    /// What came after a later one of its sender, by incoming stream.
    pub(crate) late: Marks,
    pub(crate) lines: Lines,
}

/// A number that stands for "the message `sequence` of its stream is the message `seq` of its channel". Sums of it over the same pairs
/// are equal, and hardly any others are.
pub(crate) fn pairing(sequence: u32, seq: u64) -> u64 {
    let mixed = (seq ^ u64::from(sequence).rotate_left(40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swapped_sequences_show_in_the_sum() {
        let straight = pairing(1, 7).wrapping_add(pairing(2, 8));
        assert_ne!(straight, pairing(1, 8).wrapping_add(pairing(2, 7)));
        assert_ne!(straight, pairing(2, 9).wrapping_add(pairing(1, 6)));
    }
}
