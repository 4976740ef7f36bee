//! Watching, seen from the watcher's shard: WATCH and UNWATCH go to the homes of the clients, PRESENCE comes back.
//!
//! A PRESENCE that finds no room is dropped, and all that follow it, until there is room and the whole answer was asked for again: so
//! the watcher never hears of a change of what it does not know, and the last word is the truth.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::{Shard, connections::Phase, message::Item, outbound::Framed};
use crate::{
    ids::ConnId,
    io::Tick,
    limits::{PRESENCE_AGAIN_MS, PRESENCE_AGAIN_STEP, PRESENCE_PER_TURN},
    session::Refusal,
    wire::{ErrorCode, FrameType},
};

/// What a watcher knows of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// The answer is on its way; what comes before it is not meant.
    Asked,
    /// All that was said.
    All,
    /// Not all: something was dropped, and the answer is to be asked for again.
    Owed,
}

/// One client that a connection watches.
#[derive(Debug)]
struct Watch {
    hash: u64,
    client: Box<str>,
    /// Tells a refusal of an earlier WATCH apart.
    ticket: u32,
    known: Known,
}

/// Whom a connection watches.
#[derive(Debug, Default)]
pub struct Watching {
    /// In the order of hash and name.
    watches: Vec<Watch>,
    /// The shard's list of connections to which something is owed holds this one.
    owed: bool,
}

impl Watching {
    fn find(&self, hash: u64, client: &str) -> Result<usize, usize> {
        self.watches.binary_search_by(|watch| (watch.hash, &*watch.client).cmp(&(hash, client)))
    }

    fn owed_mut(&mut self) -> impl Iterator<Item = &mut Watch> {
        self.watches.iter_mut().filter(|watch| watch.known == Known::Owed)
    }
}

/// What a shard keeps for all its watching connections.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    /// Clients watched, each connection counted.
    pub watches: u64,
    /// Connections to which something is owed, and when to look whether there is room.
    owed: VecDeque<(Tick, ConnId)>,
    next_ticket: u32,
}

impl Watchers {
    /// How many connections are in line.
    pub fn in_line(&self) -> usize {
        self.owed.len()
    }
}

impl Shard {
    /// WATCH, with names that were checked.
    pub(super) fn watch_clients(&mut self, conn: ConnId, clients: &[String]) {
        if let Err(refusal) = self.check_watches(conn, clients) {
            self.refuse(conn, refusal);
            return;
        }
        for client in clients {
            let hash = self.keyed.name(client);
            let ticket = self.watchers.next_ticket;
            self.watchers.next_ticket = ticket.wrapping_add(1);
            let watching = self.connections.at_mut(conn.slot).extra().watching.get_or_insert_default();
            match watching.find(hash, client) {
                Ok(at) => watching.watches[at].ticket = ticket,
                Err(at) => {
                    self.watchers.watches += 1;
                    watching.watches.insert(at, Watch { hash, client: client.as_str().into(), ticket, known: Known::Asked });
                }
            }
            self.ask(conn, hash, client, ticket);
        }
        self.connections.at_mut(conn.slot).trim();
    }

    /// Whether there is room for those that are not watched yet.
    fn check_watches(&self, conn: ConnId, clients: &[String]) -> Result<(), Refusal> {
        let watching = self.connections.at(conn.slot).extra.as_ref().and_then(|extra| extra.watching.as_ref());
        let is_new = |client: &&String| watching.is_none_or(|watching| watching.find(self.keyed.name(client), client).is_err());
        let mut new: Vec<&String> = clients.iter().filter(is_new).collect();
        new.sort_unstable();
        new.dedup();
        let limits = &self.settings.limits;
        let have = watching.map_or(0, |watching| watching.watches.len());
        if have + new.len() > limits.watches_per_connection as usize {
            let message = format!(
                "this connection watches {have} clients and asks for {} more; it may watch {} (limits.watches_per_connection)",
                new.len(),
                limits.watches_per_connection
            );
            return Err(Refusal::answer(ErrorCode::TooManyWatches, FrameType::Watch, message));
        }
        if self.watchers.watches + new.len() as u64 > limits.watches_per_shard {
            let message = "the connections of this core watch as many clients as they may (limits.watches_per_shard)";
            return Err(Refusal::answer(ErrorCode::Overloaded, FrameType::Watch, message));
        }
        Ok(())
    }

    /// Has the client's home enter the watcher, if need be, and say how things are.
    fn ask(&mut self, conn: ConnId, hash: u64, client: &str, ticket: u32) {
        let home = self.home(hash);
        if self.is_me(home) {
            self.enter_watcher(home, conn, hash, client, ticket);
        } else {
            self.outbox.put_vital(home, |batch| Item::Watch { client: batch.put(client.as_bytes()), hash, conn, ticket });
        }
    }

    /// UNWATCH, with names that were checked. None: everybody.
    pub(super) fn unwatch_clients(&mut self, conn: ConnId, clients: &[String]) {
        if clients.is_empty() {
            self.unwatch_all(conn);
        }
        for client in clients {
            let hash = self.keyed.name(client);
            self.forget_watch(conn, hash, client, None);
        }
        self.connections.at_mut(conn.slot).trim();
    }

    /// Ends all watches of a connection.
    pub(super) fn unwatch_all(&mut self, conn: ConnId) {
        let extra = self.connections.at_mut(conn.slot).extra.as_mut();
        let Some(watching) = extra.and_then(|extra| extra.watching.take()) else { return };
        self.watchers.watches -= watching.watches.len() as u64;
        for watch in watching.watches {
            self.tell_home(conn, watch.hash, &watch.client);
        }
    }

    /// Ends one, if there is one, and if it is the one with this ticket.
    fn forget_watch(&mut self, conn: ConnId, hash: u64, client: &str, ticket: Option<u32>) {
        let connection = self.connections.get_mut(conn);
        let Some(slot) = connection.and_then(|connection| connection.extra.as_mut()).map(|extra| &mut extra.watching) else {
            return;
        };
        let Some(watching) = slot else { return };
        let Ok(at) = watching.find(hash, client) else { return };
        if ticket.is_some_and(|ticket| watching.watches[at].ticket != ticket) {
            return;
        }
        watching.watches.remove(at);
        if watching.watches.is_empty() {
            *slot = None;
        }
        self.watchers.watches -= 1;
        // A refused one was never entered.
        if ticket.is_none() {
            self.tell_home(conn, hash, client);
        }
    }

    fn tell_home(&mut self, conn: ConnId, hash: u64, client: &str) {
        let home = self.home(hash);
        if self.is_me(home) {
            self.remove_watcher(home, conn, hash, client);
        } else {
            self.outbox.put_vital(home, |batch| Item::Unwatch { client: batch.put(client.as_bytes()), hash, conn });
        }
    }

    /// The client's home did not enter the watcher: it has as many as it may have.
    pub(super) fn not_watched(&mut self, conn: ConnId, hash: u64, client: &str, ticket: u32) {
        self.forget_watch(conn, hash, client, Some(ticket));
        if let Some(connection) = self.connections.get_mut(conn) {
            connection.trim();
        }
        let max = self.settings.limits.watchers_per_client;
        let message =
            format!("client {client:?} is watched by {max} connections, as many as one may be (limits.watchers_per_client)");
        self.refuse(conn, Refusal::answer(ErrorCode::TooManyWatches, FrameType::Watch, message));
    }

    /// Queues a PRESENCE on a connection that still watches the client. `fresh`: with it the whole answer begins.
    pub(super) fn deliver_presence(&mut self, conn: ConnId, hash: u64, client: &str, frame: &mut Framed<'_>, fresh: bool) {
        let Some(connection) = self.connections.get(conn).filter(|connection| connection.phase == Phase::Active) else { return };
        let Some(watching) = connection.extra.as_ref().and_then(|extra| extra.watching.as_ref()) else { return };
        let Ok(at) = watching.find(hash, client) else { return };
        let follows = fresh || watching.watches[at].known == Known::All;
        let limits = &self.settings.limits;
        if follows
            && self.queued_bytes(conn.slot) + frame.len() <= limits.outbound_bytes_per_connection
            && self.outbound_bytes + frame.len() <= limits.outbound_bytes_per_shard
        {
            self.append(conn.slot, frame);
            self.stats.presence_pushes.add(1);
            self.watch_mut(conn, at).known = Known::All;
            return;
        }
        self.stats.dropped_presence.add(1);
        if !follows {
            return;
        }
        self.watch_mut(conn, at).known = Known::Owed;
        let watching = self.watching_mut(conn);
        if !std::mem::replace(&mut watching.owed, true) {
            self.watchers.owed.push_back((self.now.plus_ms(PRESENCE_AGAIN_MS), conn));
        }
    }

    fn watching_mut(&mut self, conn: ConnId) -> &mut Watching {
        self.connections.at_mut(conn.slot).extra().watching.as_mut().expect("the caller saw it")
    }

    fn watch_mut(&mut self, conn: ConnId, at: usize) -> &mut Watch {
        &mut self.watching_mut(conn).watches[at]
    }

    /// Asks again for what was dropped, where there is room now. Gives when to come back.
    pub(super) fn advance_watchers(&mut self) -> Option<Tick> {
        let limits = self.settings.limits;
        for _ in 0..PRESENCE_PER_TURN / PRESENCE_AGAIN_STEP {
            let Some(&(_, conn)) = self.watchers.owed.front().filter(|(at, _)| *at <= self.now) else { break };
            self.watchers.owed.pop_front();
            // Half of its budget, and some of everybody's, so that what is asked for fits.
            let budget = limits.outbound_bytes_per_shard;
            let has_room = self.outbound_bytes <= budget - budget / 8
                && self.connections.get(conn).is_some()
                && self.queued_bytes(conn.slot) <= limits.outbound_bytes_per_connection / 2;
            let extra = self.connections.get_mut(conn).and_then(|connection| connection.extra.as_mut());
            let Some(watching) = extra.and_then(|extra| extra.watching.as_mut()) else { continue };
            let mut asked = Vec::new();
            if has_room {
                for watch in watching.owed_mut().take(PRESENCE_AGAIN_STEP) {
                    watch.known = Known::Asked;
                    asked.push((watch.hash, watch.client.clone(), watch.ticket));
                }
            }
            let still = watching.owed_mut().next().is_some();
            watching.owed = still;
            if still {
                self.watchers.owed.push_back((self.now.plus_ms(PRESENCE_AGAIN_MS), conn));
            }
            self.stats.presence_again.add(asked.len() as u64);
            for (hash, client, ticket) in asked {
                self.ask(conn, hash, &client, ticket);
            }
        }
        self.watchers.owed.front().map(|(at, _)| *at)
    }
}
