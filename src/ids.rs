//! Identifiers that more than one module speaks of.
#![forbid(unsafe_code)]

use std::fmt;

/// A shard: one core's reactor with its state. Dense, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

impl ShardId {
    /// As an index into per-shard tables.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One connection of one shard. `slot` is reused, `generation` tells the users of a slot apart: a late event for an
/// earlier user carries an older generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    /// Index into the reactor's and the machine's tables.
    pub slot: u32,
    /// Counts the users of the slot, modulo 2^24.
    pub generation: u32,
}

impl ConnId {
    /// Generations wrap at this value, so that an id fits into 56 bits beside an operation code.
    pub const GENERATIONS: u32 = 1 << 24;

    /// Slot and generation in the low 56 bits.
    pub fn to_bits(self) -> u64 {
        debug_assert!(self.generation < Self::GENERATIONS);
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    /// The inverse of [`ConnId::to_bits`]; bits above 56 are ignored.
    pub fn from_bits(bits: u64) -> ConnId {
        ConnId { slot: bits as u32, generation: (bits >> 32) as u32 % Self::GENERATIONS }
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conn_id_survives_packing() {
        for (slot, generation) in [(0, 0), (u32::MAX, ConnId::GENERATIONS - 1), (7, 123_456)] {
            let id = ConnId { slot, generation };
            assert_eq!(ConnId::from_bits(id.to_bits() | 0xab << 56), id);
        }
    }
}
