//! A device that follows its client's channel and all groups, and holds each message against the rules.
#![forbid(unsafe_code)]

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use weir::{
    client::{Client, ClientError, Event, Push, code_text},
    wire::{Frame, body},
};

use crate::{
    rng::Rng,
    world::{Message, World, client_name, group_name},
};

const TIMEOUT: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_millis(20);

/// Who remembers what the device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// The device: each LOGIN and JOIN brings its cursor.
    Own,
    /// The gateway.
    Gateways,
}

/// One channel, as the device knows it.
#[derive(Clone, Debug)]
pub struct Follow {
    /// Its index among all channels.
    pub channel: usize,
    /// What the gateway told first; the messages behind it are this device's. `None`: it was told nothing yet.
    pub base: Option<u64>,
    /// The messages above it.
    pub seen: Vec<Message>,
    /// Acknowledged at any time, and in this session.
    acked: u64,
    acked_now: u64,
    /// What CURSORS said last.
    told: u64,
    read: u64,
    /// What this session must bring next; `None` before CURSORS.
    next: Option<u64>,
}

impl Follow {
    fn have(&self) -> u64 {
        self.base.unwrap_or(0) + self.seen.len() as u64
    }
}

pub struct Device<'a> {
    world: &'a World,
    pub client: usize,
    pub name: String,
    memory: Memory,
    /// It wants a group's messages from its first on; else from its JOIN on.
    is_early: bool,
    rng: Rng,
    pub follows: Vec<Follow>,
}

impl Device<'_> {
    pub fn new(world: &World, client: usize, name: String, memory: Memory, is_early: bool) -> Device<'_> {
        let follow =
            |channel| Follow { channel, base: None, seen: Vec::new(), acked: 0, acked_now: 0, told: 0, read: 0, next: None };
        let groups = world.plan.clients..world.channels.len();
        let follows = std::iter::once(client).chain(groups).map(follow).collect();
        let rng = Rng::new(world.plan.seed ^ u64::from(crc32c::crc32c(name.as_bytes())) << 20 ^ client as u64);
        Device { world, client, name, memory, is_early, rng, follows }
    }

    /// Comes and goes until it has everything.
    pub fn run(mut self) -> Self {
        while let Some(address) = self.world.gateway() {
            match self.session(&address.to_string()) {
                Ok(()) if self.is_done() => break,
                // It went on its own account.
                Ok(()) => {}
                Err(error) => self.world.ended(&self.who(), &error),
            }
        }
        self
    }

    pub fn who(&self) -> String {
        format!("{}/{}", client_name(self.client), self.name)
    }

    fn is_done(&self) -> bool {
        self.follows.iter().all(|follow| {
            let newest = self.world.newest(follow.channel);
            follow.base.is_some() && newest.is_some_and(|newest| follow.have() >= newest)
        })
    }

    /// What to say at LOGIN or JOIN.
    fn cursor(&self, index: usize) -> Option<u64> {
        let follow = &self.follows[index];
        match self.memory {
            Memory::Own if index == 0 || self.is_early || follow.base.is_some() => Some(follow.have()),
            Memory::Own => None,
            Memory::Gateways if index > 0 && self.is_early && follow.base.is_none() => Some(0),
            Memory::Gateways => None,
        }
    }

    fn session(&mut self, address: &str) -> Result<(), ClientError> {
        for follow in &mut self.follows {
            follow.next = None;
        }
        let window = self.rng.range(8, 600) as u32;
        let mut client = Client::connect(address, TIMEOUT)?;
        client.login(body::Login {
            client_id: client_name(self.client),
            device_id: self.name.clone(),
            window,
            cursor: self.cursor(0),
            ..body::Login::default()
        })?;
        for group in 0..self.world.plan.groups {
            client.write_frame(&Frame::Join(body::Join { group: group_name(group), cursor: self.cursor(group + 1) }))?;
        }
        // Often until the gateway dies, sometimes not.
        let leaves_at = self.rng.chance(30).then(|| Instant::now() + Duration::from_millis(self.rng.range(1, 800)));
        let acknowledges_at = self.rng.range(1, u64::from(window / 2)) as u32;
        let mut unacked = 0;
        while !self.is_done() && leaves_at.is_none_or(|at| Instant::now() < at) {
            match client.next_event(IDLE)? {
                Some(Event::Push(push)) => {
                    self.take(&push);
                    unacked += 1;
                }
                Some(Event::Cursors(cursors)) => self.stand(&cursors),
                Some(Event::Goaway(_) | Event::JoinOk(_)) => {}
                // Why the session ends is told once more with its end.
                Some(Event::Error(error)) if error.closing => {}
                Some(Event::Error(error)) => {
                    let why = code_text(error.code);
                    self.world.found("refused", format!("{} is told {why}: {}", self.who(), error.message));
                }
                Some(other) => self.world.found("unexpected", format!("{} got {other:?}", self.who())),
                // What is acknowledged too late comes again; what is never acknowledged stops the flow.
                None if unacked > 0 => unacked = acknowledges_at,
                None => {}
            }
            if unacked >= acknowledges_at {
                self.acknowledge(&mut client)?;
                unacked = 0;
            }
            if self.world.is_over() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// CURSORS: replay begins here, or somebody has read something.
    fn stand(&mut self, cursors: &body::Cursors) {
        let who = self.who();
        let Some(index) = self.follows.iter().position(|follow| self.world.channels[follow.channel] == cursors.channel) else {
            self.world.found("unexpected", format!("{who} follows nothing like {cursors:?}"));
            return;
        };
        let follow = &mut self.follows[index];
        if cursors.read < follow.read {
            self.world.found("went back", format!("{who} had read up to {}, and now {cursors:?}", follow.read));
        }
        follow.read = cursors.read;
        if follow.next.is_some() {
            return;
        }
        let allowed = match (follow.base, self.memory) {
            // Its own channel is there from its beginning, and so is a group if the device asks for that.
            (None, _) if index == 0 || self.is_early => 0..=0,
            (None, _) => 0..=cursors.last,
            (Some(_), Memory::Own) => follow.have()..=follow.have(),
            (Some(_), Memory::Gateways) => follow.told..=follow.acked.max(follow.told),
        };
        if !allowed.contains(&cursors.received) {
            self.world.found("went astray", format!("{who} may stand at {allowed:?}: {cursors:?}"));
        }
        follow.base.get_or_insert(cursors.received);
        follow.told = cursors.received;
        follow.acked_now = cursors.received;
        follow.next = Some(cursors.received + 1);
    }

    fn take(&mut self, push: &Push) {
        let who = self.who();
        let follow = self.follows.iter_mut().find(|follow| self.world.channels[follow.channel] == push.channel);
        let message = Message::of(&push.from_client, push.client_msg_id, &push.payload, push.timestamp);
        let (Some(follow), Some(message)) = (follow, message) else {
            let (channel, from, id) = (&push.channel, &push.from_client, push.client_msg_id);
            self.world.found("corrupted", format!("{who} got message {id} of {from} in {channel}, which nobody sent"));
            return;
        };
        let what = format!("{} {} ({message})", push.channel, push.seq);
        if follow.next != Some(push.seq) {
            self.world.found("out of order", format!("{who} waits for {:?} and got {what}", follow.next));
        }
        follow.next = Some(push.seq + 1);
        let base = follow.base.unwrap_or(0);
        match follow.seen.get((push.seq as usize).wrapping_sub(base as usize + 1)) {
            Some(first) if *first != message => {
                self.world.found("changed", format!("{who} got {what}, and before that {first} in its place"));
            }
            Some(_) => _ = self.world.repeated.fetch_add(1, Ordering::Relaxed),
            None if push.seq == follow.have() + 1 => {
                follow.seen.push(message);
                self.world.delivered.fetch_add(1, Ordering::Relaxed);
            }
            None => self.world.found("lost", format!("{who} has {} up to {}, and got {what}", push.channel, follow.have())),
        }
    }

    /// RECEIVED for what came, now and then READ.
    fn acknowledge(&mut self, client: &mut Client) -> Result<(), ClientError> {
        for index in 0..self.follows.len() {
            let follow = &mut self.follows[index];
            let Some(seq) = follow.next.map(|next| next - 1).filter(|seq| *seq > follow.acked_now) else { continue };
            let channel = self.world.channels[follow.channel].clone();
            follow.acked_now = seq;
            follow.acked = follow.acked.max(seq);
            client.write_frame(&Frame::Received(body::Received { channel: channel.clone(), seq }))?;
            if self.rng.chance(5) {
                client.write_frame(&Frame::Read(body::Read { channel, seq }))?;
            }
        }
        Ok(())
    }
}
