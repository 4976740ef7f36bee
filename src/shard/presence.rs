//! Presence, seen from the watched client's home: who comes, goes and changes, and who is told.
//!
//! Clients that nobody watches cost a look into the table of those that somebody does, when they come and go, and no memory.
#![forbid(unsafe_code)]

use super::{
    Shard,
    connections::NONE,
    message::Item,
    outbound::Framed,
    watched::{Told, Watcher},
};
use crate::{
    ids::{ConnId, ShardId},
    io::Tick,
    limits::{PRESENCE_AGAIN_MS, PRESENCE_PER_TURN, WATCHERS_PER_ITEM_MAX},
    wire::{
        Frame,
        body::{self, Presence},
        encode,
    },
};

/// Who is told something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whom {
    /// All who know how things were are told of a change.
    Everybody,
    /// One is told everything.
    One(ShardId, ConnId),
    /// Those to whom something is owed are told everything.
    Owed,
}

impl Whom {
    fn is_meant(self, watcher: &Watcher) -> bool {
        match self {
            Whom::Everybody => !watcher.owed,
            Whom::One(shard, conn) => (watcher.shard, watcher.conn) == (shard, conn),
            Whom::Owed => watcher.owed,
        }
    }
}

impl Shard {
    /// STATE.
    pub(super) fn set_state(&mut self, conn: ConnId, background: bool) {
        self.connections.at_mut(conn.slot).background = background;
        self.presence_changed(conn.slot, self.connections.at(conn.slot).presence());
    }

    /// The session in this slot came, went or changed.
    pub(super) fn presence_changed(&mut self, slot: u32, to: Presence) {
        if self.watched.len() == 0 {
            return;
        }
        let names = &self.connections.at(slot).names;
        let hash = self.keyed.name(names.client());
        if let Some(client) = self.watched.find(hash, names.client())
            && self.watched.changed(client, names.device(), to, self.now)
        {
            self.stats.presence_suppressed.add(1);
        }
    }

    /// A connection of some shard watches a client that is at home here, or does so already; it is told everything.
    pub(super) fn enter_watcher(&mut self, shard: ShardId, conn: ConnId, hash: u64, client: &str, ticket: u32) {
        let index = self.watched.find(hash, client).unwrap_or_else(|| self.open_watched(hash, client));
        if self.watched.watch(index, shard, conn, self.settings.limits.watchers_per_client).is_ok() {
            self.tell_all(index, Whom::One(shard, conn));
        } else if self.is_me(shard) {
            self.not_watched(conn, hash, client, ticket);
        } else {
            self.outbox.put_vital(shard, |batch| Item::NotWatched { client: batch.put(client.as_bytes()), hash, conn, ticket });
        }
    }

    fn open_watched(&mut self, hash: u64, client: &str) -> u32 {
        let index = self.watched.open(hash, client);
        let mut slot = self.directory.first(hash, client, &self.connections);
        while slot != NONE {
            let connection = self.connections.at(slot);
            // The epoch is the time of its login.
            let since_ms = (connection.epoch >> 8) / 1_000;
            self.watched.enter(index, connection.names.device(), connection.presence(), since_ms);
            slot = connection.next_device;
        }
        index
    }

    /// A connection of some shard does not watch the client any more.
    pub(super) fn remove_watcher(&mut self, shard: ShardId, conn: ConnId, hash: u64, client: &str) {
        if let Some(index) = self.watched.find(hash, client) {
            self.watched.unwatch(index, shard, conn);
        }
    }

    /// Tells what has settled, and what is still owed. Gives when to come back.
    pub(super) fn advance_presence(&mut self) -> Option<Tick> {
        // That everybody goes is no news when the gateway stops.
        if self.drain.is_some() {
            return None;
        }
        let settle_ms = self.settings.timeouts.settle_ms;
        let mut told = 0;
        while told < PRESENCE_PER_TURN {
            let rules = &self.settings.rules;
            let Some((client, change)) = self.watched.settled(self.now, settle_ms, |at| rules.wall_ms(at)) else { break };
            told += 1 + self.watched.watchers(client);
            self.stats.presence_changes.add(1);
            let frame = self.presence_frame(client, change, false);
            self.tell(client, Whom::Everybody, &[frame]);
        }
        while told < PRESENCE_PER_TURN {
            let Some(client) = self.watched.owed(self.now) else { break };
            told += 1 + self.watched.watchers(client);
            self.stats.presence_again.add(1);
            self.tell_all(client, Whom::Owed);
        }
        [self.watched.next_settled(settle_ms), self.watched.next_owed()].into_iter().flatten().min()
    }

    /// Everything that was told before.
    fn tell_all(&mut self, client: u32, whom: Whom) {
        let all = self.watched.all(client).into_iter().enumerate();
        let frames: Vec<Vec<u8>> = all.map(|(at, told)| self.presence_frame(client, told, at == 0)).collect();
        self.tell(client, whom, &frames);
    }

    fn presence_frame(&self, client: u32, told: Told, fresh: bool) -> Vec<u8> {
        let presence = body::PresenceOf {
            client: self.watched.name(client).0.to_owned(),
            device: told.device.into(),
            presence: told.presence.into(),
            online: told.online,
            since_ms: told.since_ms,
            fresh,
        };
        let mut bytes = Vec::new();
        encode(&Frame::Presence(presence), &mut bytes);
        bytes
    }

    /// Brings frames to watchers, shard by shard. Those whose shard cannot be reached now are told everything later.
    fn tell(&mut self, client: u32, whom: Whom, frames: &[Vec<u8>]) {
        let (name, hash) = self.watched.name(client);
        let name = name.to_owned();
        let mut watchers = self.watched.take_watchers(client);
        let mut owes = false;
        let runs = watchers.chunk_by_mut(|one, other| one.shard == other.shard);
        for run in runs.flat_map(|run| run.chunks_mut(WATCHERS_PER_ITEM_MAX)) {
            let shard = run[0].shard;
            let meant = run.iter().filter(|watcher| whom.is_meant(watcher)).map(|watcher| watcher.conn);
            if self.is_me(shard) {
                for conn in meant {
                    for (at, frame) in frames.iter().enumerate() {
                        let fresh = whom != Whom::Everybody && at == 0;
                        self.deliver_presence(conn, hash, &name, &mut Framed::new(frame), fresh);
                    }
                }
                continue;
            }
            let conns: Vec<u8> = meant.flat_map(|conn| conn.to_bits().to_le_bytes()).collect();
            if conns.is_empty() {
                continue;
            }
            let sent = frames.iter().enumerate().all(|(at, frame)| {
                let fresh = whom != Whom::Everybody && at == 0;
                self.outbox.put(shard, |batch| {
                    let (client, frame) = (batch.put(name.as_bytes()), batch.put(frame));
                    Item::Presence { client, hash, frame, conns: batch.put(&conns), fresh }
                })
            });
            for watcher in run.iter_mut().filter(|watcher| whom.is_meant(watcher)) {
                watcher.owed = !sent;
                self.stats.dropped_presence.add(u64::from(!sent));
            }
            owes |= !sent;
        }
        self.watched.return_watchers(client, watchers);
        if owes {
            self.watched.owe(client, self.now.plus_ms(PRESENCE_AGAIN_MS));
        }
    }
}
