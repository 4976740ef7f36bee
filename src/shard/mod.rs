//! One core's whole state: its connections, who they are, what waits for them, and the groups that live here.
//!
//! Pure: a [`Machine`] that a reactor, or the simulation, drives. Where things live is arithmetic (`hash::home`), so nothing
//! here is shared with other shards and there are no locks.
#![forbid(unsafe_code)]

mod addresses;
mod catch_up;
mod connections;
mod cursors;
mod devices;
mod directory;
mod drain;
mod durable;
mod fan_out;
mod forgets;
mod groups;
mod hash;
mod held;
mod inbound;
mod lifecycle;
mod login;
mod members;
mod message;
mod outbound;
mod outbox;
mod presence;
mod queue;
mod reader;
mod residue;
mod route;
mod storage;
#[cfg(test)]
mod tests;
mod timers;
mod watched;
mod watching;

pub use message::{Arrival, Batch, Control, Message};
pub use residue::Residue;

use std::{collections::VecDeque, sync::Arc};

use slab::Slab;

use crate::{
    ids::{ConnId, ShardId},
    io::{Input, Machine, Output, Tick},
    limits::TIMERS_PER_TURN,
    session::{Bucket, Rate, Rules},
    stats::ShardStats,
    wire::{Packer, Unpacker},
};
use addresses::Addresses;
use catch_up::CatchUp;
use connections::Connections;
use devices::Device;
use directory::Directory;
use drain::Drain;
use fan_out::Gathered;
use groups::{HomeGroups, LocalGroups};
use hash::{Keyed, home};
use members::Recounts;
use outbound::{Outbound, Pool};
use outbox::Outbox;
use storage::Storage;
use timers::Wheel;
use watched::Watched;
use watching::Watchers;

/// Bounds of one shard. 0 means no limit where it says so.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub connections: u32,
    /// Over the whole gateway; 0: no limit.
    pub connections_per_address: u32,
    /// 0: no limit.
    pub logins_per_second: u32,
    pub outbound_bytes_per_connection: usize,
    pub outbound_bytes_per_shard: usize,
    pub inbound_bytes_per_shard: usize,
    pub groups_per_connection: u32,
    /// Sum of the members of all groups.
    pub memberships_per_shard: u64,
    pub devices_per_client: u32,
    pub watches_per_connection: u32,
    /// Sum of the clients that all connections watch.
    pub watches_per_shard: u64,
    /// Connections, of all shards, that watch one client.
    pub watchers_per_client: u32,
    /// Of all connections together; each is asked less often when they are many.
    pub heartbeats_per_second: u32,
}

/// Deadlines, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// From accept to LOGIN.
    pub login_ms: u32,
    /// From the first byte of a frame to its last.
    pub frame_ms: u32,
    /// One chunk of at most 16 KiB into the kernel.
    pub write_ms: u32,
    /// From our last byte to the peer's end.
    pub linger_ms: u32,
    /// So long a change of presence lasts before watchers are told.
    pub settle_ms: u32,
}

/// What GOAWAY tells.
#[derive(Clone, Debug)]
pub struct GoawayRules {
    pub delay_min_ms: u32,
    pub delay_max_ms: u32,
    pub alternatives: Vec<String>,
}

/// What a shard is made from.
#[derive(Clone, Debug)]
pub struct Settings {
    pub id: ShardId,
    /// How many shards the gateway has.
    pub shards: u16,
    /// Secret, and the same for all shards.
    pub hash_key: (u64, u64),
    pub rules: Arc<Rules>,
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub goaway: GoawayRules,
}

/// One core's state.
pub struct Shard {
    settings: Settings,
    stats: Arc<ShardStats>,
    keyed: Keyed,
    now: Tick,
    connections: Connections,
    directory: Directory,
    addresses: Addresses,
    local_groups: LocalGroups,
    home_groups: HomeGroups,
    recounts: Recounts,
    /// Clients at home here that somebody watches.
    watched: Watched,
    /// Connections here that watch somebody.
    watchers: Watchers,
    devices: Slab<Device>,
    catch_up: CatchUp,
    wheel: Wheel,
    outbox: Outbox,
    storage: Storage,
    outbounds: Slab<Outbound>,
    packer: Packer,
    unpacker: Unpacker,
    pool: Pool,
    outbound_bytes: usize,
    inbound_bytes: usize,
    /// Connections that hold a part of a frame.
    inbound_holders: usize,
    /// Connections that began a frame, with the deadlines of finishing it.
    unfinished: VecDeque<(Tick, ConnId)>,
    /// Connections with something to send and nothing in flight.
    ready: Vec<ConnId>,
    /// Connections with a chunk in flight, with their write deadlines.
    slow: VecDeque<(Tick, ConnId)>,
    /// For the reactor, besides sends and posts.
    outputs: VecDeque<Output<Message>>,
    logins: Bucket,
    logins_refilled: Tick,
    last_epoch: u64,
    drain: Option<Drain>,
    scratch: Vec<u8>,
    /// Messages of one group that its members have yet to get.
    gathered: Gathered,
}

impl Shard {
    /// Empty.
    pub fn new(settings: Settings, stats: Arc<ShardStats>) -> Shard {
        let keyed = Keyed::new(settings.hash_key.0, settings.hash_key.1);
        Shard {
            keyed,
            now: Tick::default(),
            connections: Connections::default(),
            directory: Directory::new(keyed),
            addresses: Addresses::default(),
            local_groups: LocalGroups::new(keyed),
            home_groups: HomeGroups::new(keyed),
            recounts: Recounts::default(),
            watched: Watched::default(),
            watchers: Watchers::default(),
            devices: Slab::new(),
            catch_up: CatchUp::default(),
            wheel: Wheel::new(),
            outbox: Outbox::new(settings.shards),
            storage: Storage::default(),
            outbounds: Slab::new(),
            packer: Packer::default(),
            unpacker: Unpacker::default(),
            pool: Pool::default(),
            outbound_bytes: 0,
            inbound_bytes: 0,
            inbound_holders: 0,
            unfinished: VecDeque::new(),
            ready: Vec::new(),
            slow: VecDeque::new(),
            outputs: VecDeque::new(),
            logins: Bucket::new(Rate { per_second: settings.limits.logins_per_second }),
            logins_refilled: Tick::default(),
            last_epoch: 0,
            drain: None,
            scratch: Vec::new(),
            gathered: Gathered::default(),
            settings,
            stats,
        }
    }

    fn home(&self, hash: u64) -> ShardId {
        home(hash, self.settings.shards)
    }

    fn is_me(&self, shard: ShardId) -> bool {
        shard == self.settings.id
    }

    /// The store's port: behind those of the shards.
    fn store(&self) -> ShardId {
        ShardId(self.settings.shards)
    }

    fn now_ms(&self) -> u32 {
        self.now.as_ms() as u32
    }

    /// Sets the timer of the connection in a slot.
    fn set_timer(&mut self, slot: u32, after_ms: u32) {
        self.wheel.set(slot, self.now, self.now.plus_ms(u64::from(after_ms)));
    }

    /// Makes the gauges true.
    fn publish_gauges(&self) {
        self.stats.connections.set(u64::from(self.connections.count()));
        self.stats.clients.set(self.directory.clients() as u64);
        self.stats.group_members.set(self.local_groups.memberships());
        self.stats.watches.set(self.watchers.watches);
        self.stats.watched_clients.set(self.watched.len() as u64);
        self.stats.outbound_bytes.set(self.outbound_bytes as u64);
        self.stats.inbound_bytes.set(self.inbound_bytes as u64);
        self.stats.mesh_backlog_bytes.set(self.outbox.backlog() as u64);
        self.stats.store_backlog_bytes.set(self.storage.backlog() as u64);
    }

    fn handle_posted(&mut self, from: ShardId, message: Message) {
        match message {
            Message::Batch(batch) => {
                for item in &batch.items {
                    self.handle_item(from, &batch, *item);
                }
                self.outbox.recycle(batch);
            }
            Message::Arrival(arrival) => self.address_left(arrival.address),
            Message::Control(Control::Drain { within_ms }) => self.start_drain(within_ms),
            Message::Control(Control::Stop) => self.stop(),
            Message::Store(batch) => self.handle_stored(batch),
        }
    }

    /// An arrival whose connection is not there: only what it counted for is left to undo.
    fn handle_lost_arrival(&mut self, message: Message) {
        match message {
            Message::Arrival(arrival) => self.address_left(arrival.address),
            Message::Batch(_) | Message::Control(_) | Message::Store(_) => unreachable!("connections travel with arrivals"),
        }
    }
}

impl Machine for Shard {
    type Message = Message;

    fn handle(&mut self, now: Tick, input: Input<'_, Message>) {
        self.now = now;
        if !matches!(input, Input::Received { .. } | Input::Posted { message: Message::Batch(_), .. }) {
            self.deliver_gathered();
        }
        match input {
            Input::Accepted { conn, peer } => self.handle_accepted(conn, peer),
            Input::Received { conn, bytes } => self.handle_received(conn, bytes),
            Input::Sent { conn, chunk } => self.handle_sent(conn, chunk),
            Input::Eof { conn } => self.handle_eof(conn),
            Input::Broken { conn, errno } => self.handle_broken(conn, errno),
            Input::Closed { conn } => self.handle_closed(conn),
            Input::Adopted { conn, message: Message::Arrival(arrival), .. } => self.handle_adopted(conn, *arrival),
            Input::MoveRefused { conn, message: Message::Arrival(arrival) } => self.handle_move_refused(conn, arrival),
            Input::AdoptFailed { message, .. } => self.handle_lost_arrival(message),
            Input::Posted { from, message } => self.handle_posted(from, message),
            Input::PostRefused { to, message: Message::Batch(batch) } => {
                self.stats.posts_refused.add(1);
                self.outbox.refused(to, batch);
            }
            Input::PostRefused { message: Message::Store(batch), .. } => {
                self.stats.store_posts_refused.add(1);
                self.storage.refused(batch);
            }
            Input::Adopted { .. } | Input::MoveRefused { .. } | Input::PostRefused { .. } => {
                unreachable!("shards move connections with arrivals, and post batches")
            }
            Input::Connected { .. } | Input::ConnectFailed { .. } => unreachable!("shards do not connect"),
        }
    }

    fn handle_tick(&mut self, now: Tick) -> Option<Tick> {
        self.now = now;
        self.deliver_gathered();
        self.outbox.rewind();
        self.storage.rewind();
        for _ in 0..TIMERS_PER_TURN {
            let Some(slot) = self.wheel.expire(now) else { break };
            self.handle_timer(slot);
        }
        self.end_stalled();
        self.end_unfinished();
        let catch_up_at = self.advance_catch_up();
        let members_at = self.advance_members();
        let presence_at = self.advance_presence();
        let watchers_at = self.advance_watchers();
        let drain_at = self.advance_drain();
        let slow_at = self.slow.front().map(|(at, _)| *at);
        let unfinished_at = self.unfinished.front().map(|(at, _)| *at);
        [self.wheel.next(), slow_at, unfinished_at, catch_up_at, members_at, presence_at, watchers_at, drain_at]
            .into_iter()
            .flatten()
            .min()
    }

    fn poll_output(&mut self) -> Option<Output<Message>> {
        self.deliver_gathered();
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        if let Some((conn, chunk)) = self.next_send() {
            return Some(Output::Send { conn, chunk });
        }
        if let Some((to, batch)) = self.outbox.next() {
            self.stats.posts.add(1);
            return Some(Output::Post { to, message: Message::Batch(batch) });
        }
        if let Some(batch) = self.storage.next() {
            self.stats.store_posts.add(1);
            return Some(Output::Post { to: self.store(), message: Message::Store(batch) });
        }
        // The turn's last call: a shard that sleeps now leaves true numbers behind.
        self.publish_gauges();
        self.drained().then_some(Output::Stop)
    }

    fn is_congested(&self) -> bool {
        self.outbox.is_congested()
    }
}
