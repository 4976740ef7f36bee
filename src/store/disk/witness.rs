//! A small file beside the database that knows the newest commit. The database, when it is opened, drops the end of a journal that it
//! cannot read, and says nothing; the witness tells that end from a commit that was never finished.
//!
//! Two slots are written in turn, after the sync of the commit and without one of their own: a killed process leaves the newest, a
//! host that lost power leaves one that is older, and then less is detected, never too much.
#![forbid(unsafe_code)]

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

const MAGIC: [u8; 8] = *b"weirwit1";
/// A sector each, so that one torn write cannot hit both.
const SLOT_BYTES: u64 = 512;
const SLOTS: u64 = 2;
const USED_BYTES: usize = 8 + 8 + 8 + 8 + 4;

/// What the witness says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Testimony {
    /// The newest commit.
    pub commit: u64,
    /// The highest sequence that any channel ever gave.
    pub seq_max: u64,
    /// The newest timestamp.
    pub timestamp: u64,
}

impl Testimony {
    fn encode(&self) -> [u8; USED_BYTES] {
        let mut slot = [0; USED_BYTES];
        slot[..8].copy_from_slice(&MAGIC);
        slot[8..16].copy_from_slice(&self.commit.to_le_bytes());
        slot[16..24].copy_from_slice(&self.seq_max.to_le_bytes());
        slot[24..32].copy_from_slice(&self.timestamp.to_le_bytes());
        let crc = crc32c::crc32c(&slot[..32]);
        slot[32..].copy_from_slice(&crc.to_le_bytes());
        slot
    }

    fn decode(slot: &[u8]) -> Option<Testimony> {
        let number = |at: usize| Some(u64::from_le_bytes(slot.get(at..at + 8)?.try_into().ok()?));
        let crc = u32::from_le_bytes(slot.get(32..36)?.try_into().ok()?);
        let intact = slot.starts_with(&MAGIC) && crc == crc32c::crc32c(&slot[..32]);
        if intact { Some(Testimony { commit: number(8)?, seq_max: number(16)?, timestamp: number(24)? }) } else { None }
    }
}

/// What an existing witness file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// `None`: neither slot can be read.
    pub newest: Option<Testimony>,
    /// A slot was written and cannot be read.
    pub damaged: bool,
}

/// The file, open for writing.
#[derive(Debug)]
pub(super) struct Witness {
    file: File,
    next_slot: u64,
}

impl Witness {
    /// Makes the file, or makes it anew, and syncs it.
    pub(super) fn create(path: &Path, testimony: &Testimony) -> io::Result<Witness> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        file.set_len(SLOTS * SLOT_BYTES)?;
        let mut witness = Witness { file, next_slot: 0 };
        witness.write(testimony)?;
        witness.file.sync_all()?;
        Ok(witness)
    }

    /// Opens the file to go on with it.
    pub(super) fn open(path: &Path) -> io::Result<Witness> {
        let bytes = std::fs::read(path)?;
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(SLOTS * SLOT_BYTES)?;
        let commit = |slot: &[u8]| Testimony::decode(slot).map(|testimony| testimony.commit);
        let [first, second] = slots(&bytes).map(commit);
        // The newest stays until the other slot is newer.
        Ok(Witness { file, next_slot: u64::from(first > second) })
    }

    /// Reads the file, without changing it.
    pub(super) fn read(path: &Path) -> io::Result<Found> {
        let bytes = std::fs::read(path)?;
        let slots = slots(&bytes);
        let read = slots.map(Testimony::decode);
        let newest = read.into_iter().flatten().max_by_key(|testimony| testimony.commit);
        // The second slot of a new file is empty.
        let damaged = slots
            .iter()
            .zip(read)
            .any(|(slot, read)| read.is_none() && (slot.len() < SLOT_BYTES as usize || slot.iter().any(|byte| *byte != 0)));
        Ok(Found { newest, damaged: damaged || newest.is_none() })
    }

    /// Says that this is the newest commit.
    pub(super) fn write(&mut self, testimony: &Testimony) -> io::Result<()> {
        self.file.write_all_at(&testimony.encode(), self.next_slot * SLOT_BYTES)?;
        self.next_slot = (self.next_slot + 1) % SLOTS;
        Ok(())
    }
}

/// The bytes of both slots; fewer if the file is short.
fn slots(bytes: &[u8]) -> [&[u8]; SLOTS as usize] {
    [0, 1].map(|number| {
        let start = number * SLOT_BYTES as usize;
        bytes.get(start..).map_or(&[][..], |rest| &rest[..rest.len().min(SLOT_BYTES as usize)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn testimony(commit: u64) -> Testimony {
        Testimony { commit, seq_max: 2 * commit, timestamp: 3 * commit }
    }

    #[test]
    fn the_newest_of_two_slots_counts_and_the_other_stands_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("witness");
        let mut witness = Witness::create(&path, &testimony(1)).unwrap();
        assert_eq!(Witness::read(&path).unwrap(), Found { newest: Some(testimony(1)), damaged: false });
        for commit in 2..5 {
            witness.write(&testimony(commit)).unwrap();
            assert_eq!(Witness::read(&path).unwrap(), Found { newest: Some(testimony(commit)), damaged: false });
        }
        drop(witness);
        let mut witness = Witness::open(&path).unwrap();
        witness.write(&testimony(5)).unwrap();
        assert_eq!(Witness::read(&path).unwrap(), Found { newest: Some(testimony(5)), damaged: false });
        let intact = std::fs::read(&path).unwrap();
        for byte in 0..USED_BYTES {
            let mut flipped = intact.clone();
            flipped[byte] ^= 4;
            std::fs::write(&path, &flipped).unwrap();
            assert_eq!(Witness::read(&path).unwrap(), Found { newest: Some(testimony(4)), damaged: true }, "byte {byte}");
        }
        for length in 0..SLOT_BYTES as usize + USED_BYTES {
            std::fs::write(&path, &intact[..length]).unwrap();
            let found = Witness::read(&path).unwrap();
            assert!(found.damaged, "{length} bytes");
        }
    }
}
