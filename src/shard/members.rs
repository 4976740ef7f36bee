//! Counting a group's members. Each shard tells the group's home how many it has, the home tells each shard how many the others
//! have: at most once in a while for each group, however many come and go. What a shard knows of itself is always exact.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::{Shard, message::Item};
use crate::{
    ids::ShardId,
    io::Tick,
    limits::{MEMBERS_PER_TURN, MEMBERS_SETTLE_MS},
};

/// What a shard with members knows of their number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Headcount {
    /// On this shard.
    pub here: u32,
    /// On the others, as last told by the home.
    pub elsewhere: u32,
    /// What the home knows of this shard.
    told: u32,
    /// It is in line to be told again.
    in_line: bool,
}

impl Headcount {
    /// Of a group that is about to get its first member: subscribing says so.
    pub fn first() -> Headcount {
        Headcount { told: 1, ..Headcount::default() }
    }

    /// All members, as far as is known; one at least, for whoever asks is one.
    pub fn members(self) -> u32 {
        self.here.saturating_add(self.elsewhere).max(1)
    }
}

/// What a group's home knows of one shard with members.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    pub shard: ShardId,
    members: u32,
    /// The members of the others that it was told of.
    elsewhere: u32,
}

/// What a group's home knows of all.
#[derive(Debug, Default)]
pub struct Shares {
    shares: Vec<Share>,
    in_line: bool,
}

impl Shares {
    /// The shards with members.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.shares.iter().map(|share| share.shard)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.shares.is_empty()
    }

    fn sum(&self) -> u64 {
        self.shares.iter().map(|share| u64::from(share.members)).sum()
    }

    /// Enters a shard with a first member. Gives the number of members elsewhere, which it is to be told.
    pub fn enter(&mut self, shard: ShardId) -> u32 {
        self.remove(shard);
        let elsewhere = clamp(self.sum());
        self.shares.push(Share { shard, members: 1, elsewhere });
        elsewhere
    }

    /// Takes a shard out.
    pub fn remove(&mut self, shard: ShardId) {
        self.shares.retain(|share| share.shard != shard);
    }

    /// A shard has so many. Returns false if it has none any more.
    pub fn set(&mut self, shard: ShardId, members: u32) -> bool {
        let share = self.shares.iter_mut().find(|share| share.shard == shard);
        share.map(|share| share.members = members).is_some()
    }

    /// Whether some shard does not know how many there are elsewhere, and the group is not in line yet; it is from now on.
    pub fn needs_line(&mut self) -> bool {
        let sum = self.sum();
        let is_stale = self.shares.iter().any(|share| share.elsewhere != clamp(sum - u64::from(share.members)));
        is_stale && !std::mem::replace(&mut self.in_line, true)
    }

    /// Takes the group out of the line. Has `tell` called for each shard that must be told; those that it could not tell remain stale.
    fn tell(&mut self, mut tell: impl FnMut(ShardId, u32) -> bool) {
        self.in_line = false;
        let sum = self.sum();
        for share in &mut self.shares {
            let elsewhere = clamp(sum - u64::from(share.members));
            if share.elsewhere != elsewhere && tell(share.shard, elsewhere) {
                share.elsewhere = elsewhere;
            }
        }
    }
}

fn clamp(members: u64) -> u32 {
    u32::try_from(members).unwrap_or(u32::MAX)
}

/// Groups whose numbers are to be told, and when.
#[derive(Debug, Default)]
pub(super) struct Recounts {
    /// By index and ticket: their members here changed.
    local: VecDeque<(Tick, u32, u32)>,
    /// At home here: their sum changed.
    home: VecDeque<(Tick, Box<str>)>,
}

impl Recounts {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.local.len() + self.home.len()
    }
}

impl Shard {
    /// Somebody here joined or left the group, and others remain.
    pub(super) fn recount(&mut self, group: u32) {
        let (count, ticket) = self.local_groups.count_mut(group);
        if count.here != count.told && !std::mem::replace(&mut count.in_line, true) {
            self.recounts.local.push_back((self.now.plus_ms(MEMBERS_SETTLE_MS), group, ticket));
        }
    }

    /// So many members of a group that is at home here are on a shard.
    pub(super) fn set_members(&mut self, group: &str, shard: ShardId, members: u32) {
        if self.home_groups.shares_mut(group).is_some_and(|shares| shares.set(shard, members)) {
            self.recount_home(group);
        }
    }

    /// The sum of a group that is at home here may have changed.
    pub(super) fn recount_home(&mut self, group: &str) {
        if self.home_groups.shares_mut(group).is_some_and(Shares::needs_line) {
            self.recounts.home.push_back((self.now.plus_ms(MEMBERS_SETTLE_MS), group.into()));
        }
    }

    /// The group's home has said how many members there are on other shards.
    pub(super) fn set_elsewhere(&mut self, group: &str, members: u32) {
        if let Some(index) = self.local_groups.find(group) {
            self.local_groups.count_mut(index).0.elsewhere = members;
        }
    }

    /// Tells what is due. Gives when to come back.
    pub(super) fn advance_members(&mut self) -> Option<Tick> {
        for _ in 0..MEMBERS_PER_TURN {
            let Some(&(_, group, ticket)) = self.recounts.local.front().filter(|(at, ..)| *at <= self.now) else { break };
            self.recounts.local.pop_front();
            self.tell_members(group, ticket);
        }
        for _ in 0..MEMBERS_PER_TURN {
            if self.recounts.home.front().is_none_or(|(at, _)| *at > self.now) {
                break;
            }
            let Some((_, group)) = self.recounts.home.pop_front() else { break };
            self.tell_elsewhere(&group);
        }
        let local_at = self.recounts.local.front().map(|(at, ..)| *at);
        let home_at = self.recounts.home.front().map(|(at, _)| *at);
        [local_at, home_at].into_iter().flatten().min()
    }

    fn tell_members(&mut self, group: u32, ticket: u32) {
        // It may have closed meanwhile, and another may have its place.
        if !self.local_groups.is_open(group, ticket) {
            return;
        }
        let name = self.local_groups.name(group).to_owned();
        let home = self.home(self.keyed.name(&name));
        let count = self.local_groups.count_mut(group).0;
        count.in_line = false;
        let members = count.here;
        if members == count.told {
            return;
        }
        let is_told = home == self.settings.id
            || self.outbox.put(home, |batch| Item::Members { group: batch.put(name.as_bytes()), members });
        if is_told {
            count.told = members;
        }
        if home == self.settings.id {
            self.set_members(&name, home, members);
        }
        self.recount(group);
    }

    fn tell_elsewhere(&mut self, group: &str) {
        let Shard { home_groups, local_groups, outbox, settings, .. } = self;
        let Some(shares) = home_groups.shares_mut(group) else { return };
        shares.tell(|shard, members| {
            if shard != settings.id {
                return outbox.put(shard, |batch| Item::Elsewhere { group: batch.put(group.as_bytes()), members });
            }
            if let Some(index) = local_groups.find(group) {
                local_groups.count_mut(index).0.elsewhere = members;
            }
            true
        });
        self.recount_home(group);
    }
}
