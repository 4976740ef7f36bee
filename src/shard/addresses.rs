//! Connections by peer address, counted at the address's home so that the limit holds over all shards.
#![forbid(unsafe_code)]

use hashbrown::{HashTable, hash_table::Entry};

use super::{Shard, message::Item};
use crate::ids::{ConnId, ShardId};

/// Counts of the addresses that have their home here.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    counts: HashTable<(u64, u32)>,
}

impl Addresses {
    /// How many addresses have connections.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// One connection more, unless there are `limit` already.
    fn enter(&mut self, address: u64, limit: u32) -> bool {
        match self.counts.entry(address, |(other, _)| *other == address, |(other, _)| *other) {
            Entry::Occupied(mut entry) => {
                let count = &mut entry.get_mut().1;
                let granted = *count < limit;
                *count += u32::from(granted);
                granted
            }
            Entry::Vacant(entry) => {
                entry.insert((address, 1));
                true
            }
        }
    }

    /// One connection less.
    fn leave(&mut self, address: u64) {
        let mut entry = self
            .counts
            .find_entry(address, |(other, _)| *other == address)
            .unwrap_or_else(|_| panic!("an address left that had not entered"));
        entry.get_mut().1 -= 1;
        if entry.get().1 == 0 {
            entry.remove();
        }
    }
}

impl Shard {
    /// Asks the address's home for admission. The answer comes to `handle_admitted`, perhaps at once.
    pub(super) fn ask_admission(&mut self, conn: ConnId, address: u64) {
        let home = self.home(address);
        if self.is_me(home) {
            let granted = self.addresses.enter(address, self.settings.limits.connections_per_address);
            self.handle_admitted(conn, address, granted);
        } else {
            self.outbox.put_vital(home, |_| Item::Arrived { address, conn });
        }
    }

    /// A connection of `from` asks.
    pub(super) fn handle_address_arrived(&mut self, from: ShardId, address: u64, conn: ConnId) {
        let granted = self.addresses.enter(address, self.settings.limits.connections_per_address);
        self.outbox.put_vital(from, |_| Item::Admitted { address, conn, granted });
    }

    /// A counted connection is gone; 0 stands for one that was not counted.
    pub(super) fn address_left(&mut self, address: u64) {
        if address == 0 {
            return;
        }
        let home = self.home(address);
        if self.is_me(home) {
            self.addresses.leave(address);
        } else {
            self.outbox.put_vital(home, |_| Item::Left { address });
        }
    }

    /// Another shard's connection is gone.
    pub(super) fn handle_address_left(&mut self, address: u64) {
        self.addresses.leave(address);
    }
}
