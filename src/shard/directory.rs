//! Who is online here: from a client's name to its connections. The table holds slots only; names are read from the
//! connections themselves, and further devices of a client are chained through them.
#![forbid(unsafe_code)]

use hashbrown::{HashTable, hash_table::Entry};

use super::connections::{Connections, NONE};
use crate::shard::hash::Keyed;

/// Clients that have at least one connection on this shard.
#[derive(Debug)]
pub struct Directory {
    /// The first connection of each client, by the hash of its name.
    heads: HashTable<u32>,
    keyed: Keyed,
}

impl Directory {
    /// Empty.
    pub fn new(keyed: Keyed) -> Directory {
        Directory { heads: HashTable::new(), keyed }
    }

    /// The first of the client's connections, or `NONE`; follow `next_device` for the others.
    pub fn first(&self, hash: u64, client: &str, connections: &Connections) -> u32 {
        self.heads.find(hash, |slot| connections.at(*slot).names.client() == client).copied().unwrap_or(NONE)
    }

    /// Enters a connection whose names are set. Returns true if it is the client's first.
    pub fn insert(&mut self, slot: u32, connections: &mut Connections) -> bool {
        let hash = self.keyed.name(connections.at(slot).names.client());
        let entry = self.heads.entry(
            hash,
            |other| connections.at(*other).names.client() == connections.at(slot).names.client(),
            |other| self.keyed.name(connections.at(*other).names.client()),
        );
        let next = match entry {
            Entry::Occupied(mut head) => std::mem::replace(head.get_mut(), slot),
            Entry::Vacant(vacant) => {
                vacant.insert(slot);
                NONE
            }
        };
        connections.at_mut(slot).next_device = next;
        next == NONE
    }

    /// Takes a connection out. Returns true if it was the client's last.
    pub fn remove(&mut self, slot: u32, connections: &mut Connections) -> bool {
        let hash = self.keyed.name(connections.at(slot).names.client());
        let next = std::mem::replace(&mut connections.at_mut(slot).next_device, NONE);
        let client = connections.at(slot).names.client();
        let mut entry = self
            .heads
            .find_entry(hash, |other| connections.at(*other).names.client() == client)
            .unwrap_or_else(|_| panic!("slot {slot} is not in the directory"));
        if *entry.get() == slot {
            if next == NONE {
                entry.remove();
                return true;
            }
            *entry.get_mut() = next;
            return false;
        }
        let mut before = *entry.get();
        while connections.at(before).next_device != slot {
            before = connections.at(before).next_device;
            assert_ne!(before, NONE, "slot {slot} is not in its client's chain");
        }
        connections.at_mut(before).next_device = next;
        false
    }

    /// How many clients there are.
    pub fn clients(&self) -> usize {
        self.heads.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::ConnId, session::Names, shard::connections::Phase};

    fn devices(directory: &Directory, keyed: Keyed, client: &str, connections: &Connections) -> Vec<u32> {
        let first = directory.first(keyed.name(client), client, connections);
        let mut found: Vec<u32> = std::iter::successors((first != NONE).then_some(first), |slot| {
            Some(connections.at(*slot).next_device).filter(|next| *next != NONE)
        })
        .collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn devices_are_chained_and_leave_in_any_order() {
        let keyed = Keyed::new(1, 2);
        for leaving in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]] {
            let mut connections = Connections::default();
            let mut directory = Directory::new(keyed);
            for slot in 0..1_000 {
                let client = if slot < 3 { "alice".to_owned() } else { format!("c{slot}") };
                let connection = connections.insert(ConnId { slot, generation: 1 }, Phase::Active, 0);
                connection.names = Names::new(&client, &slot.to_string());
                assert_eq!(directory.insert(slot, &mut connections), slot == 0 || slot >= 3);
            }
            assert_eq!(devices(&directory, keyed, "alice", &connections), [0, 1, 2]);
            let mut left = vec![0, 1, 2];
            for slot in leaving {
                left.retain(|other| *other != slot);
                assert_eq!(directory.remove(slot, &mut connections), left.is_empty());
                assert_eq!(devices(&directory, keyed, "alice", &connections), left);
            }
            assert_eq!(directory.clients(), 997);
            assert_eq!(devices(&directory, keyed, "c500", &connections), [500]);
        }
    }
}
