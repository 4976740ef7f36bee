//! Groups, seen from both sides: the members on this shard, and, for groups at home here, the shards that have members.
//!
//! Publishing goes through the group's home, so that all members see one order. A shard subscribes at the home when its
//! first member joins and unsubscribes when its last one leaves.
#![forbid(unsafe_code)]

use hashbrown::HashTable;
use slab::Slab;

use super::{
    connections::Connections,
    hash::Keyed,
    members::{Headcount, Shares},
    message::{Receipt, Tally},
    reader::{Mode, Reader},
};
use crate::ids::{ConnId, ShardId};
use crate::limits::GROUP_RECEIPTS_MAX;

/// One connection's place in one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Index of the group on this shard.
    pub group: u32,
    /// Index among its members.
    position: u32,
}

/// A group that has members here.
#[derive(Debug)]
pub struct LocalGroup {
    name: Box<str>,
    hash: u64,
    /// Slots of member connections.
    members: Vec<u32>,
    /// Where each of them stands in the group's log. Empty until one takes part in durable delivery.
    readers: Vec<Reader>,
    /// The JOINs that are answered when the subscription stands: a member for each. `None`: it stands.
    pending: Option<Vec<ConnId>>,
    /// Tells answers to an earlier subscription apart.
    ticket: u32,
    count: Headcount,
}

/// What joining came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// Member, and messages come: answer JOIN_OK.
    Now,
    /// The subscription at the group's home is awaited.
    Later,
    /// The first member here: subscribe with this ticket, answer later.
    Subscribe { ticket: u32 },
}

/// What leaving came to.
#[derive(Clone, Copy, Debug)]
pub struct Left {
    /// The group has no members here any more; it must be unsubscribed, by `close`.
    pub last: bool,
    /// JOINs of this connection that were not answered yet.
    pub unanswered: usize,
    /// Where it stood in the group's log.
    pub reader: Reader,
}

/// The groups that have members on this shard.
#[derive(Debug)]
pub struct LocalGroups {
    by_name: HashTable<u32>,
    groups: Slab<LocalGroup>,
    keyed: Keyed,
    next_ticket: u32,
    memberships: u64,
}

impl LocalGroups {
    /// None.
    pub fn new(keyed: Keyed) -> LocalGroups {
        LocalGroups { by_name: HashTable::new(), groups: Slab::new(), keyed, next_ticket: 0, memberships: 0 }
    }

    /// The group's index, if it has members here.
    pub fn find(&self, name: &str) -> Option<u32> {
        self.by_name.find(self.keyed.name(name), |index| *self.groups[*index as usize].name == *name).copied()
    }

    /// Whether messages of the group come.
    pub fn is_subscribed(&self, group: u32) -> bool {
        self.groups[group as usize].pending.is_none()
    }

    /// Lends the slots of the members out, so that they can be walked over while the rest of the shard changes. No
    /// membership may change until `return_members`.
    pub fn take_members(&mut self, group: u32) -> Vec<u32> {
        std::mem::take(&mut self.groups[group as usize].members)
    }

    /// Puts back what `take_members` gave.
    pub fn return_members(&mut self, group: u32, members: Vec<u32>) {
        self.groups[group as usize].members = members;
    }

    /// As `take_members`, of where they stand; in the same order, or empty if nobody takes part.
    pub fn take_readers(&mut self, group: u32) -> Vec<Reader> {
        std::mem::take(&mut self.groups[group as usize].readers)
    }

    /// Puts back what `take_readers` gave.
    pub fn return_readers(&mut self, group: u32, readers: Vec<Reader>) {
        self.groups[group as usize].readers = readers;
    }

    /// Where a member stands in the group's log.
    pub fn reader(&mut self, membership: Membership) -> Option<&mut Reader> {
        self.groups[membership.group as usize].readers.get_mut(membership.position as usize)
    }

    /// The group's name.
    pub fn name(&self, group: u32) -> &str {
        &self.groups[group as usize].name
    }

    /// Makes a connection a member. It must not be one already.
    pub fn join(&mut self, name: &str, conn: ConnId, reader: Reader, connections: &mut Connections) -> Joined {
        let found = self.find(name);
        let index = found.unwrap_or_else(|| self.open(name));
        let group = &mut self.groups[index as usize];
        let position = group.members.len() as u32;
        if reader.mode != Mode::Absent || !group.readers.is_empty() {
            group.readers.resize_with(group.members.len(), Reader::absent);
            group.readers.push(reader);
        }
        group.members.push(conn.slot);
        group.count.here += 1;
        self.memberships += 1;
        connections.at_mut(conn.slot).extra().groups.push(Membership { group: index, position });
        match (&mut group.pending, found) {
            (None, _) => Joined::Now,
            (Some(pending), found) => {
                pending.push(conn);
                if found.is_some() { Joined::Later } else { Joined::Subscribe { ticket: group.ticket } }
            }
        }
    }

    fn open(&mut self, name: &str) -> u32 {
        let hash = self.keyed.name(name);
        let ticket = self.next_ticket;
        self.next_ticket = self.next_ticket.wrapping_add(1);
        let group = LocalGroup {
            name: name.into(),
            hash,
            members: Vec::new(),
            readers: Vec::new(),
            pending: Some(Vec::new()),
            ticket,
            count: Headcount::first(),
        };
        let index = self.groups.insert(group) as u32;
        self.by_name.insert_unique(hash, index, |other| self.groups[*other as usize].hash);
        index
    }

    /// The home has entered this shard, and knows of so many members elsewhere. Gives the connections whose JOIN can be answered now.
    pub fn subscribed(&mut self, name: &str, ticket: u32, elsewhere: u32) -> Vec<ConnId> {
        let Some(index) = self.find(name) else { return Vec::new() };
        let group = &mut self.groups[index as usize];
        if group.ticket != ticket {
            return Vec::new();
        }
        group.count.elsewhere = elsewhere;
        group.pending.take().unwrap_or_default()
    }

    /// A member joins once more while its first JOIN still waits; each is answered.
    pub fn join_again(&mut self, group: u32, conn: ConnId) {
        if let Some(pending) = &mut self.groups[group as usize].pending {
            pending.push(conn);
        }
    }

    /// Ends one membership of a connection, taken out of its list by the caller.
    pub fn leave(&mut self, membership: Membership, connections: &mut Connections) -> Left {
        let group = &mut self.groups[membership.group as usize];
        let position = membership.position as usize;
        let slot = group.members.swap_remove(position);
        group.count.here -= 1;
        let reader = if group.readers.is_empty() { Reader::absent() } else { group.readers.swap_remove(position) };
        self.memberships -= 1;
        let mut unanswered = 0;
        if let Some(pending) = &mut group.pending {
            let before = pending.len();
            pending.retain(|conn| conn.slot != slot);
            unanswered = before - pending.len();
        }
        if let Some(&moved) = group.members.get(position) {
            let groups = &mut connections.at_mut(moved).extra().groups;
            let theirs = groups.iter_mut().find(|other| other.group == membership.group).expect("members know their groups");
            theirs.position = membership.position;
        }
        Left { last: group.members.is_empty(), unanswered, reader }
    }

    /// Forgets a group without members, and gives its name.
    pub fn close(&mut self, group: u32) -> Box<str> {
        let removed = self.groups.remove(group as usize);
        debug_assert!(removed.members.is_empty());
        let entry = self.by_name.find_entry(removed.hash, |index| *index == group);
        entry.unwrap_or_else(|_| panic!("group {} is not in the table", removed.name)).remove();
        removed.name
    }

    /// How many members the group has, as far as is known here.
    pub fn members(&self, group: u32) -> u32 {
        self.groups[group as usize].count.members()
    }

    /// What is known of their number, and the group's ticket.
    pub fn count_mut(&mut self, group: u32) -> (&mut Headcount, u32) {
        let group = &mut self.groups[group as usize];
        (&mut group.count, group.ticket)
    }

    /// Whether the group with this index is still the one with this ticket.
    pub fn is_open(&self, group: u32, ticket: u32) -> bool {
        self.groups.get(group as usize).is_some_and(|group| group.ticket == ticket)
    }

    /// How many groups have members here.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Sum of the members of all groups.
    pub fn memberships(&self) -> u64 {
        self.memberships
    }
}

/// A message whose receivers are being counted.
#[derive(Debug)]
struct Count {
    outstanding: u16,
    tally: Tally,
    receipt: Receipt,
}

/// The groups whose home is this shard.
#[derive(Debug)]
pub struct HomeGroups {
    /// Shards with members, by group.
    by_name: HashTable<(Box<str>, Shares)>,
    keyed: Keyed,
    counts: Slab<Count>,
}

impl HomeGroups {
    /// None.
    pub fn new(keyed: Keyed) -> HomeGroups {
        HomeGroups { by_name: HashTable::new(), keyed, counts: Slab::new() }
    }

    /// Enters a shard that has members now. Gives how many there are on others.
    pub fn subscribe(&mut self, name: &str, shard: ShardId) -> u32 {
        let hash = self.keyed.name(name);
        let keyed = self.keyed;
        let entry = self.by_name.entry(hash, |(other, _)| **other == *name, |(other, _)| keyed.name(other));
        let mut entry = entry.or_insert_with(|| (name.into(), Shares::default()));
        entry.get_mut().1.enter(shard)
    }

    /// Takes a shard out that has no members any more.
    pub fn unsubscribe(&mut self, name: &str, shard: ShardId) {
        if let Ok(mut entry) = self.by_name.find_entry(self.keyed.name(name), |(other, _)| **other == *name) {
            entry.get_mut().1.remove(shard);
            if entry.get().1.is_empty() {
                entry.remove();
            }
        }
    }

    /// The shards with members.
    pub fn shards(&self, name: &str) -> Vec<ShardId> {
        let found = self.by_name.find(self.keyed.name(name), |(other, _)| **other == *name);
        found.map_or_else(Vec::new, |(_, shares)| shares.shards().collect())
    }

    /// How many members each of them has.
    pub fn shares_mut(&mut self, name: &str) -> Option<&mut Shares> {
        let found = self.by_name.find_mut(self.keyed.name(name), |(other, _)| **other == *name);
        found.map(|(_, shares)| shares)
    }

    /// How many groups have members anywhere.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// How many messages are being counted.
    pub fn counts(&self) -> usize {
        self.counts.len()
    }

    /// Starts counting the receivers on `outstanding` shards. `None` when too many counts are under way.
    pub fn count(&mut self, outstanding: usize, receipt: Receipt) -> Option<u32> {
        if self.counts.len() >= GROUP_RECEIPTS_MAX {
            return None;
        }
        Some(self.counts.insert(Count { outstanding: outstanding as u16, tally: Tally::default(), receipt }) as u32)
    }

    /// One shard has counted. Gives the sum when it was the last.
    pub fn counted(&mut self, count: u32, tally: Tally) -> Option<(Receipt, Tally)> {
        let entry = &mut self.counts[count as usize];
        entry.tally.add(tally);
        entry.outstanding -= 1;
        if entry.outstanding > 0 {
            return None;
        }
        let done = self.counts.remove(count as usize);
        Some((done.receipt, done.tally))
    }
}
