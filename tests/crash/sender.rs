//! A client that sends durable messages and remembers what became of each.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeSet, VecDeque},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use weir::{
    client::{Client, ClientError, Event, code_text},
    wire::{ErrorCode, Frame, SendRef, body},
};

use crate::{
    rng::Rng,
    world::{HEAD_BYTES, World, sender_name},
};

const TIMEOUT: Duration = Duration::from_secs(10);
/// A pause in which nothing came.
const IDLE: Duration = Duration::from_millis(20);
/// So many messages that were accepted before are sent once more in each session.
const RETRIES: usize = 5;

/// Where a message lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub seq: u64,
    pub timestamp: u64,
}

/// A message that was sent; its place in the list is its number less 1.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub channel: usize,
    pub payload_crc: u32,
    attempts: u32,
    /// ACCEPTED came.
    pub accepted: Option<Place>,
    /// It was refused once, so that later ones may have overtaken it.
    pub was_refused: bool,
}

pub struct Sender<'a> {
    world: &'a World,
    index: u16,
    rng: Rng,
    sent: Vec<Sent>,
    unanswered: BTreeSet<u64>,
    durability: body::Durability,
}

impl Sender<'_> {
    pub fn new(world: &World, index: u16, durability: body::Durability) -> Sender<'_> {
        let rng = Rng::new(world.plan.seed ^ (u64::from(index) + 1) << 32);
        Sender { world, index, rng, sent: Vec::new(), unanswered: BTreeSet::new(), durability }
    }

    /// Sends until it shall not any more and everything is answered.
    pub fn run(mut self) -> Vec<Sent> {
        while let Some(address) = self.world.gateway() {
            match self.session(&address.to_string()) {
                Ok(()) => break,
                Err(error) => self.world.ended(&sender_name(self.index), &error),
            }
        }
        for id in &self.unanswered {
            self.world.found("unanswered", format!("{} {id} was sent, and never answered", sender_name(self.index)));
        }
        self.sent
    }

    fn session(&mut self, address: &str) -> Result<(), ClientError> {
        let mut client = Client::connect(address, TIMEOUT)?;
        let login = body::Login { client_id: sender_name(self.index), device_id: "1".to_owned(), ..body::Login::default() };
        client.login(login)?;
        // First what was never answered, in its order; among it some that were.
        let mut again: BTreeSet<u64> = self.unanswered.clone();
        for _ in 0..RETRIES.min(self.sent.len()) {
            again.insert(self.rng.range(1, self.sent.len() as u64));
        }
        let mut again: VecDeque<u64> = again.into_iter().collect();
        let mut under_way = 0;
        let mut not_before = Instant::now();
        while !self.world.is_over() {
            while under_way < self.world.plan.depth && Instant::now() >= not_before {
                let next = again.pop_front().or_else(|| self.world.is_sending().then(|| self.compose()));
                let Some(id) = next else { break };
                self.write(&mut client, id)?;
                under_way += 1;
            }
            if under_way == 0 && again.is_empty() && !self.world.is_sending() {
                return Ok(());
            }
            match client.next_event(IDLE)? {
                Some(Event::Accepted(accepted)) => {
                    under_way -= 1;
                    self.take(&accepted);
                }
                Some(Event::Error(error)) => {
                    under_way -= 1;
                    again.extend(self.take_refusal(&error));
                    not_before = Instant::now() + Duration::from_millis(error.retry_after_ms.into());
                }
                Some(Event::Goaway(_)) | None => {}
                Some(other) => self.world.found("unexpected", format!("{} got {other:?}", sender_name(self.index))),
            }
        }
        Ok(())
    }

    /// Makes a message up.
    fn compose(&mut self) -> u64 {
        let id = self.sent.len() as u64 + 1;
        let channel = self.rng.index(self.world.channels.len());
        self.sent.push(Sent { channel, payload_crc: 0, attempts: 0, accepted: None, was_refused: false });
        self.unanswered.insert(id);
        self.sent[id as usize - 1].payload_crc = crc32c::crc32c(&self.payload(id));
        id
    }

    /// The same each time: a retry must not differ.
    fn payload(&self, id: u64) -> Vec<u8> {
        let mut rng = Rng::new(self.world.plan.seed ^ u64::from(self.index) << 48 ^ id);
        let filler = match rng.range(1, 100) {
            1 => rng.range(8_000, 60_000),
            2..=10 => rng.range(300, 8_000),
            _ => rng.range(0, 300),
        };
        let mut payload = Vec::with_capacity(HEAD_BYTES + filler as usize);
        payload.extend(self.index.to_be_bytes());
        payload.extend(id.to_be_bytes());
        payload.extend((0..filler).map(|at| (at.wrapping_mul(31) ^ id) as u8));
        payload
    }

    fn write(&mut self, client: &mut Client, id: u64) -> Result<(), ClientError> {
        let payload = self.payload(id);
        let sent = &mut self.sent[id as usize - 1];
        sent.attempts += 1;
        let channel = &self.world.channels[sent.channel];
        let class = body::DeliveryClass::Durable as i32;
        client.write_frame(&Frame::Send(SendRef { channel, client_msg_id: id, class, payload: &payload, ..SendRef::default() }))
    }

    fn take(&mut self, accepted: &body::Accepted) {
        let name = sender_name(self.index);
        let id = accepted.client_msg_id;
        let Some(sent) = self.sent.get_mut((id as usize).wrapping_sub(1)) else {
            self.world.found("unexpected", format!("{name}: {accepted:?} answers nothing"));
            return;
        };
        let channel = &self.world.channels[sent.channel];
        let place = Place { seq: accepted.seq, timestamp: accepted.timestamp };
        if accepted.channel != *channel || accepted.durability() != self.durability {
            self.world.found("unexpected", format!("{name} sent {id} to {channel}: {accepted:?}"));
        }
        match sent.accepted {
            Some(first) if first != place || !accepted.duplicate => {
                self.world.found("stored twice", format!("{name} {id} in {channel} had {first:?}, and now {accepted:?}"));
            }
            None if accepted.duplicate && sent.attempts == 1 => {
                self.world.found("unexpected", format!("{name} sent {id} to {channel} for the first time: {accepted:?}"));
            }
            Some(_) | None => {}
        }
        let counter = if accepted.duplicate { &self.world.again } else { &self.world.accepted };
        counter.fetch_add(1, Ordering::Relaxed);
        sent.accepted.get_or_insert(place);
        self.unanswered.remove(&id);
    }

    /// Gives the message if it shall be sent again.
    fn take_refusal(&mut self, error: &body::Error) -> Option<u64> {
        let name = sender_name(self.index);
        let code = ErrorCode::from_number(error.code);
        let sent = self.sent.get_mut((error.client_msg_id as usize).wrapping_sub(1));
        match (code, sent) {
            (Some(ErrorCode::Overloaded | ErrorCode::StoreFull), Some(sent)) => {
                sent.was_refused = true;
                Some(error.client_msg_id)
            }
            _ => {
                let why = code_text(error.code);
                self.world.found("refused", format!("{name} {}: {why}: {}", error.client_msg_id, error.message));
                None
            }
        }
    }
}
