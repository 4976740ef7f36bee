//! A device: it comes, stays for a while, is cut off or leaves, and comes again. Written against `proto/frame.md`.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use weir::wire::{Decoded, Frame, body, decode};

use super::{conn::Conn, conn::Due, model::Model, plan::Plan, shelf::Shelf, shelf::Spot, shelf::Truth};
use crate::{
    disk::Disk,
    network::{Link, take},
    plan::CLASSES,
    plan::SECOND_US,
    rng::Rng,
};

/// When it acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    Each,
    Some,
    Never,
}

/// Where it says it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brings {
    /// What it has.
    All,
    /// Nothing: the gateway remembers.
    Nothing,
    /// This, or that, or less than it has.
    Any,
}

#[derive(Debug)]
pub struct Device {
    pub id: usize,
    pub client: String,
    pub name: String,
    pub acks: Acks,
    brings: Brings,
    /// 0: it takes no part in durable delivery.
    window: u32,
    /// Groups that it wants to be in, by channel.
    pub wanted: BTreeSet<String>,
    pub shelves: BTreeMap<String, Shelf>,
    /// Its durable messages without an answer.
    pub open: Vec<u64>,
    /// And those with one.
    pub done: Vec<u64>,
    pub created: u64,
    pub passed: u64,
    pub conn: Option<Conn>,
    /// Connections of this process, and those that were given up without the gateway's knowledge.
    pub conns: u32,
    pub next_at: u64,
    /// Not before.
    pub connect_at: u64,
    /// It wants everything now, and does nothing else.
    pub is_calm: bool,
}

/// What a device may touch.
pub struct World<'a> {
    pub now: u64,
    pub plan: &'a Plan,
    pub rng: &'a mut Rng,
    pub model: &'a mut Model,
    pub disk: &'a mut Disk,
    pub links: &'a mut Vec<Link>,
    /// The gateway stops, or may have begun to.
    pub stopping: bool,
}

impl World<'_> {
    /// What frames of a channel are held against.
    pub fn truth(&mut self, channel: &str) -> Truth<'_> {
        let bounds = self.disk.bounds_now(channel);
        Truth { model: self.model, ledger: &self.disk.ledger, bounds }
    }
}

impl Device {
    pub fn new(id: usize, plan: &Plan, rng: &mut Rng) -> Device {
        let (client, name) = plan.devices[id].clone();
        let wanted = (1..=plan.groups).filter(|_| rng.chance(60)).map(|group| format!("group/group-{group}")).collect();
        let connect_at = rng.range(0, SECOND_US);
        Device {
            id,
            client,
            name,
            acks: rng.pick(&[Acks::Each, Acks::Some, Acks::Some, Acks::Never]),
            brings: rng.pick(&[Brings::All, Brings::Nothing, Brings::Nothing, Brings::Any]),
            window: if rng.chance(5) { 0 } else { rng.range(1, plan.window) as u32 },
            wanted,
            shelves: BTreeMap::new(),
            open: Vec::new(),
            done: Vec::new(),
            created: 0,
            passed: 0,
            conn: None,
            conns: 0,
            next_at: connect_at,
            connect_at,
            is_calm: false,
        }
    }

    pub fn inbox(&self) -> String {
        format!("user/{}", self.client)
    }

    pub fn takes_part(&self) -> bool {
        self.window > 0
    }

    /// The cursor that LOGIN or JOIN brings.
    pub(super) fn brought(&mut self, channel: &str, rng: &mut Rng) -> Option<u64> {
        let shelf = self.shelves.entry(channel.to_owned()).or_default();
        let has = if shelf.begun { Some(shelf.high) } else { None };
        match self.brings {
            Brings::All => has,
            Brings::Nothing => None,
            Brings::Any => match rng.range(0, 5) {
                0 | 1 => None,
                2 => Some(0),
                3 => has,
                _ => has.map(|has| rng.range(0, has)),
            },
        }
    }

    /// LOGIN on a new connection.
    pub fn begin(&mut self, link: usize, world: &mut World<'_>) {
        let channel = self.inbox();
        let takes_part = self.takes_part();
        let cursor = if takes_part { self.brought(&channel, world.rng) } else { None };
        let mut conn = Conn {
            link,
            opened_at: world.now,
            window: self.window,
            interval_us: u64::from(world.plan.base.heartbeat.interval_ms) * 1_000,
            last_write_at: world.now,
            batches: world.rng.chance(50),
            zstd: world.rng.chance(50),
            ..Conn::default()
        };
        let login = body::Login {
            client_id: self.client.clone(),
            device_id: self.name.clone(),
            device_class: CLASSES[0].0.to_owned(),
            agent: "simulation".to_owned(),
            window: self.window,
            cursor,
            batches: conn.batches,
            compression: i32::from(conn.zstd),
            ..body::Login::default()
        };
        conn.put(&Frame::Login(login));
        if takes_part {
            self.shelves.entry(channel.clone()).or_default().asks(world.model.known(&channel), cursor);
            conn.spots.insert(channel.clone(), Spot::new(cursor));
        }
        self.conns += 1;
        self.conn = Some(conn);
        if takes_part {
            self.says_early(&channel, cursor, world);
        }
        if world.rng.chance(30) {
            for _ in 0..world.rng.range(1, 4) {
                self.act(world);
            }
        }
    }

    /// The connection is over, for the device at least.
    pub fn loses(&mut self, now: u64, rng: &mut Rng) {
        let Some(conn) = self.conn.take() else { return };
        for (channel, due) in conn.due {
            if due.contains(&Due::LeaveOk)
                && let Some(shelf) = self.shelves.get_mut(&channel)
                && shelf.left.is_some()
            {
                // Nobody knows whether the gateway has heard of it.
                shelf.left = Some(0);
            }
        }
        let most = if self.is_calm { SECOND_US / 2 } else { rng.pick(&[5_000, SECOND_US / 2, 3 * SECOND_US]) };
        self.connect_at = now + rng.range(1_000, most);
        self.next_at = self.connect_at;
    }

    /// Reads what has come, and sees the end.
    pub fn read(&mut self, world: &mut World<'_>) {
        let Some(conn) = &mut self.conn else { return };
        let link = &mut world.links[conn.link];
        if world.now < conn.paused_until {
            return;
        }
        if !link.down.is_empty() {
            let most = link.down.len();
            let length = if world.rng.chance(70) { most } else { world.rng.range(1, most as u64) as usize };
            conn.rx.extend(take(&mut link.down, length));
            self.decode(world);
        }
        let Some(conn) = &mut self.conn else { return };
        let link = &mut world.links[conn.link];
        if !link.down_ended || !link.down.is_empty() {
            return;
        }
        if !link.aborted {
            assert!(conn.rx.is_empty(), "device {}: the stream ended inside a frame", self.id);
            let said_why = conn.ending.is_some() || conn.closed_itself;
            assert!(said_why, "device {}: the gateway ended the connection and did not say why", self.id);
        }
        link.up_ended = true;
        self.loses(world.now, world.rng);
    }

    fn decode(&mut self, world: &mut World<'_>) {
        let Some(conn) = &mut self.conn else { return };
        let rx = std::mem::take(&mut conn.rx);
        let mut unpacker = std::mem::take(&mut conn.unpacker);
        let (batches, zstd) = (conn.batches, conn.zstd);
        let limit = world.plan.base.max_body_bytes + 512;
        let mut used = 0;
        loop {
            let bytes = &rx[used..];
            let decoded = if zstd { unpacker.decode(bytes, limit) } else { decode(bytes, limit) };
            match decoded {
                Ok(Decoded::Frame { frame: Frame::Batch(batch), frame_bytes }) => {
                    assert!(batches, "device {} got a BATCH, and did not ask for any", self.id);
                    used += frame_bytes;
                    for frame in batch.frames() {
                        let (frame, _) = frame.unwrap_or_else(|bad| panic!("device {} got a bad BATCH: {bad}", self.id));
                        self.hears(world, frame);
                    }
                }
                Ok(Decoded::Frame { frame, frame_bytes }) => {
                    used += frame_bytes;
                    self.hears(world, frame);
                }
                Ok(Decoded::NeedMore { .. }) => break,
                Err(malformed) => panic!("device {} got bytes that are no frame: {malformed}", self.id),
            }
        }
        if let Some(conn) = &mut self.conn {
            conn.rx = rx[used..].to_vec();
            conn.unpacker = unpacker;
        }
    }

    /// Does what is due.
    pub fn step(&mut self, world: &mut World<'_>) {
        self.next_at = u64::MAX;
        if self.conn.is_none() {
            return;
        }
        self.read(world);
        if self.conn.as_ref().is_some_and(|conn| conn.online && !conn.closed_itself && conn.ending.is_none()) {
            if self.is_calm {
                self.catch_up(world);
            } else {
                self.live(world);
            }
        }
        self.write(world);
        let Some(conn) = &self.conn else { return };
        let link = &world.links[conn.link];
        let pace_us = if self.is_calm { SECOND_US / 4 } else { world.rng.range(1, 2 * world.plan.act_us) };
        let mut at = world.now + pace_us.max(1_000);
        if !conn.tx.is_empty() || (!link.down.is_empty() || link.down_ended) && world.now >= conn.paused_until {
            at = at.min(world.now + world.rng.range(10, 3_000));
        }
        self.next_at = at;
    }

    fn write(&mut self, world: &mut World<'_>) {
        let Some(conn) = &mut self.conn else { return };
        let link = &mut world.links[conn.link];
        if conn.online && conn.is_silent() && world.now >= conn.last_write_at + conn.interval_us * 7 / 10 {
            conn.put(&Frame::Ping(body::Ping { sent_us: world.now, rtt_us: 0 }));
        }
        conn.flush(world.rng, world.plan.base.max_body_bytes);
        if conn.tx.is_empty() || link.up_ended || link.reset || link.up.len() > 256 * 1024 {
            return;
        }
        let most = conn.tx.len();
        let length = if world.rng.chance(60) { most } else { world.rng.range(1, most as u64) as usize };
        link.write(take(&mut conn.tx, length));
        conn.last_write_at = world.now;
    }
}
