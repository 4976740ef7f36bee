//! Where channels stand, for those that were used last. Pure, and of bounded memory: about 150 B for each channel.
#![forbid(unsafe_code)]

use std::hash::Hasher as _;

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

/// Where a channel stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub number: u32,
    /// The newest sequence that was given.
    pub last: u64,
    /// The bytes of all messages that there ever were.
    pub total: u64,
    /// The oldest message that is kept; `last + 1` if there is none.
    pub first: u64,
    /// The bytes of all messages before `first`, or fewer.
    pub before_first: u64,
    /// Of the message `first`, or older; without a message, the latest there can be.
    pub first_timestamp: u64,
    /// What is stored as such: messages up to here may be gone from the disk.
    pub floor: u64,
}

const NOBODY: u32 = u32::MAX;

#[derive(Debug)]
struct Slot {
    name: Box<str>,
    head: Head,
    /// Used next after this one.
    newer: u32,
    older: u32,
}

/// The heads of the channels that were used last.
#[derive(Debug)]
pub(super) struct Heads {
    capacity: usize,
    /// Of the hash of names: nobody who chooses names may know it.
    key: [u8; 16],
    index: HashTable<u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    newest: u32,
    oldest: u32,
}

impl Heads {
    /// Empty. Memory is used as it fills.
    pub(super) fn new(capacity: u32, key: [u8; 16]) -> Heads {
        let capacity = capacity.max(1) as usize;
        Heads { capacity, key, index: HashTable::new(), slots: Vec::new(), free: Vec::new(), newest: NOBODY, oldest: NOBODY }
    }

    /// The head of a channel, if it is known.
    pub(super) fn get(&mut self, name: &str) -> Option<&mut Head> {
        let hash = hash_of(&self.key, name);
        let slot = *self.index.find(hash, |slot| *self.slots[*slot as usize].name == *name)?;
        self.unlink(slot);
        self.link(slot);
        Some(&mut self.slots[slot as usize].head)
    }

    /// Changes the head of a channel, or takes one in that was not known. That may be one too many until [`Heads::trim`].
    pub(super) fn put(&mut self, name: &str, head: Head) {
        if let Some(known) = self.get(name) {
            *known = head;
            return;
        }
        let new = Slot { name: name.into(), head, newer: NOBODY, older: NOBODY };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = new;
                slot
            }
            None => {
                self.slots.push(new);
                self.slots.len() as u32 - 1
            }
        };
        self.link(slot);
        let hash = hash_of(&self.key, name);
        self.index.insert_unique(hash, slot, |slot| hash_of(&self.key, &self.slots[*slot as usize].name));
    }

    /// Forgets those that were not used for longest, if there are too many.
    pub(super) fn trim(&mut self) {
        while self.index.len() > self.capacity {
            let slot = self.oldest;
            self.unlink(slot);
            let hash = hash_of(&self.key, &self.slots[slot as usize].name);
            if let Ok(entry) = self.index.find_entry(hash, |other| *other == slot) {
                entry.remove();
            }
            self.slots[slot as usize].name = Box::default();
            self.free.push(slot);
        }
    }

    fn unlink(&mut self, slot: u32) {
        let Slot { newer, older, .. } = self.slots[slot as usize];
        match newer {
            NOBODY => self.newest = older,
            newer => self.slots[newer as usize].older = older,
        }
        match older {
            NOBODY => self.oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
    }

    fn link(&mut self, slot: u32) {
        let before = std::mem::replace(&mut self.newest, slot);
        (self.slots[slot as usize].newer, self.slots[slot as usize].older) = (NOBODY, before);
        match before {
            NOBODY => self.oldest = slot,
            before => self.slots[before as usize].newer = slot,
        }
    }
}

fn hash_of(key: &[u8; 16], name: &str) -> u64 {
    let mut hasher = SipHasher13::new_with_key(key);
    hasher.write(name.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn head(number: u32) -> Head {
        Head { number, last: 0, total: 0, first: 1, before_first: 0, first_timestamp: 0, floor: 0 }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        /// A list, newest first, is the oracle.
        #[test]
        fn it_keeps_what_was_used_last(capacity in 1u32..6, uses in vec(0u32..10, 0..80)) {
            let mut heads = Heads::new(capacity, [7; 16]);
            let mut oracle: VecDeque<u32> = VecDeque::new();
            for number in uses {
                let name = format!("group/{number}");
                let known = oracle.iter().position(|other| *other == number);
                let found = heads.get(&name).map(|head| head.number);
                prop_assert_eq!(found, known.map(|_| number));
                match known {
                    Some(at) => drop(oracle.remove(at)),
                    None => heads.put(&name, head(number)),
                }
                heads.trim();
                oracle.push_front(number);
                oracle.truncate(capacity as usize);
            }
            prop_assert!(heads.slots.len() <= capacity as usize + 1);
        }
    }
}
