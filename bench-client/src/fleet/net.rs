//! The connections of one worker, and what scenarios do with them: send, check what came, count.
#![forbid(unsafe_code)]

use std::{collections::VecDeque, sync::Arc};

use weir::{
    ids::ShardId,
    io::{Output, Tick},
    wire::{Frame, PushRef, SendRef, Unpacker, body::DeliveryClass, encode},
};

use super::{
    dialect::{Dialect, mqtt, nats},
    link::{Link, State},
    message::{EXAMPLES_MAX, Message, Outcome},
    wheel::Wheel,
};
use crate::{
    durable::Letter,
    plan::Plan,
    timeline::Timeline,
    verify::{self, Arrival, Destination, Stamp},
};

/// Buffers that are kept for reuse, at most.
const POOL_MAX: usize = 4096;
/// An open loop goes no further when so many bytes of a worker wait for the gateway to take them: as much as a link of 1 Gbit/s carries
/// in half a second, beyond what the kernel holds. A gateway that far behind does not keep the rate, and what is
/// measured after that is the length of this queue. As much again may be with the reactor.
pub(super) const BACKLOG_BYTES_MAX: usize = 64 << 20;

/// One worker's connections and counts.
pub(crate) struct Net {
    pub(crate) plan: Arc<Plan>,
    /// This worker's number.
    pub(crate) worker: u32,
    pub(crate) links: Vec<Link>,
    /// The link of each of the reactor's slots.
    pub(crate) by_slot: Vec<u32>,
    pub(crate) wheel: Wheel,
    pub(crate) outputs: VecDeque<Output<Message>>,
    /// Links with frames to send and nothing in flight.
    pub(crate) dirty: Vec<u32>,
    pub(crate) pool: Vec<Vec<u8>>,
    /// Bytes in the `out` of all links.
    pub(crate) queued_bytes: usize,
    pub(crate) outcome: Outcome,
    /// Connections that the scenario wants dropped, and after how many milliseconds each is to come back.
    pub(crate) drops: Vec<(u32, u32)>,
    /// Until when what arrives counts as received in the sending phase.
    pub(crate) phase_end: Tick,
    pub(crate) unpacker: Unpacker,
    channel: String,
    payload: Vec<u8>,
}

impl Net {
    pub(crate) fn new(plan: Arc<Plan>, worker: u32) -> Net {
        let links = plan.share(worker, plan.connections);
        let mut outcome = Outcome::new();
        outcome.tally.is_done = false;
        outcome.timeline = plan.timeline_us.map(|step_us| Box::new(Timeline::new(step_us)));
        Net {
            worker,
            links: (0..links).map(|_| Link::new()).collect(),
            by_slot: Vec::with_capacity(links as usize),
            wheel: Wheel::new(),
            outputs: VecDeque::new(),
            dirty: Vec::new(),
            pool: Vec::new(),
            queued_bytes: 0,
            outcome,
            drops: Vec::new(),
            phase_end: Tick(0),
            unpacker: Unpacker::default(),
            channel: String::new(),
            payload: verify::blank_payload(plan.payload_bytes),
            plan,
        }
    }

    /// The index, over all workers, of the client of a link.
    pub(crate) fn client(&self, local: u32) -> u32 {
        self.plan.client(self.worker, local)
    }

    /// Sends one transient message, planned for `planned` and given to the reactor in this turn.
    pub(crate) fn send(&mut self, local: u32, destination: Destination, slot: u8, sequence: u32, planned: Tick, now: Tick) {
        let letter = Letter { destination, planned, stream: 0, sequence, slot };
        self.put_send(local, &letter, (DeliveryClass::Transient, message_id(slot, sequence)), now);
        self.outcome.tally.sent += 1;
    }

    /// Sends one durable message, for the first time or again.
    pub(crate) fn send_durable(&mut self, local: u32, letter: &Letter, client_msg_id: u64, now: Tick) {
        self.put_send(local, letter, (DeliveryClass::Durable, client_msg_id), now);
    }

    fn put_send(&mut self, local: u32, letter: &Letter, (class, client_msg_id): (DeliveryClass, u64), now: Tick) {
        let Letter { destination, planned, sequence, slot, .. } = *letter;
        let sender = self.client(local);
        Stamp { run: self.plan.run, sender, destination, slot, sequence, planned }.write(&mut self.payload);
        self.channel.clear();
        self.plan.put_channel(destination, &mut self.channel);
        let (channel, payload) = (self.channel.as_str(), self.payload.as_slice());
        let out = buffer(&mut self.links[local as usize], &mut self.pool);
        let before = out.len();
        match self.plan.dialect {
            Dialect::Weir | Dialect::Bare => {
                let send = SendRef {
                    channel,
                    client_msg_id,
                    class: class as i32,
                    payload,
                    receipt: false,
                    include_sender: matches!(destination, Destination::Group(_)),
                    ..SendRef::default()
                };
                encode(&Frame::Send(send), out);
            }
            Dialect::Nats => nats::put_publish(channel, payload, out),
            Dialect::Mqtt => mqtt::put_publish(channel, payload, out),
        }
        let bytes = out.len() - before;
        self.queued_bytes += bytes;
        self.outcome.tally.sends += 1;
        self.outcome.tally.send_bytes += bytes as u64;
        self.touch(local, now);
    }

    /// The `client_msg_id` of a sender's durable message. No two runs have the same, because one gateway may see them both within its
    /// window of de-duplication.
    pub(crate) fn message_id(&self, number: u32) -> u64 {
        u64::from(self.plan.run) << 32 | u64::from(number)
    }

    /// The number of a durable message of this run.
    pub(crate) fn number_of(&self, client_msg_id: u64) -> Option<u32> {
        (client_msg_id >> 32 == u64::from(self.plan.run)).then_some(client_msg_id as u32)
    }

    /// Appends a frame to what a link has to send.
    pub(crate) fn put_frame(&mut self, local: u32, frame: &Frame<'_>, now: Tick) {
        self.put(local, now, |out| encode(frame, out));
    }

    /// Appends what `write` writes to what a link has to send.
    pub(crate) fn put(&mut self, local: u32, now: Tick, write: impl FnOnce(&mut Vec<u8>)) {
        let out = buffer(&mut self.links[local as usize], &mut self.pool);
        let before = out.len();
        write(out);
        self.queued_bytes += out.len() - before;
        self.touch(local, now);
    }

    fn touch(&mut self, local: u32, now: Tick) {
        let link = &mut self.links[local as usize];
        link.last_sent_ms = now.as_ms() as u32;
        self.mark_dirty(local);
    }

    pub(crate) fn mark_dirty(&mut self, local: u32) {
        let link = &mut self.links[local as usize];
        if !link.is_dirty && !link.in_flight {
            link.is_dirty = true;
            self.dirty.push(local);
        }
    }

    /// Whether the queue to the gateway is, or was, so long that an open loop sends nothing more.
    pub(crate) fn is_backlogged(&mut self) -> bool {
        self.outcome.tally.is_backlogged |= self.queued_bytes > BACKLOG_BYTES_MAX;
        self.outcome.tally.is_backlogged
    }

    /// Gives a buffer back for reuse.
    pub(crate) fn recycle(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() > 0 && self.pool.len() < POOL_MAX {
            buffer.clear();
            self.pool.push(buffer);
        }
    }

    /// Whether this client's connection is up.
    pub(crate) fn is_ready(&self, local: u32) -> bool {
        self.links[local as usize].state == State::Ready
    }

    /// Whether its connection takes frames; it may not be ready yet.
    pub(crate) fn may_send(&self, local: u32) -> bool {
        self.links[local as usize].may_send()
    }

    /// Reads the stamp of a message that came to `local`, if it is intact, of this run and from whom it says it is. Else counts the fault.
    pub(crate) fn inspect(&mut self, local: u32, push: &PushRef<'_>) -> Option<Stamp> {
        let Some(stamp) = Stamp::read(push.payload).filter(|_| push.payload.len() == self.plan.payload_bytes) else {
            self.outcome.tally.corrupted += 1;
            self.example(|net| {
                let (client, from, bytes) = (net.client(local), push.from_client, push.payload.len());
                format!("client {client} got a corrupted payload of {bytes} bytes from {from:?}")
            });
            return None;
        };
        let is_named = || self.plan.client_named(push.from_client) == Some(stamp.sender) || !self.plan.dialect.names_senders();
        if stamp.run != self.plan.run || !is_named() {
            self.misdelivered(local, push, &stamp);
            return None;
        }
        Some(stamp)
    }

    /// Counts a message that should not have come to this client, or not under this name.
    pub(crate) fn misdelivered(&mut self, local: u32, push: &PushRef<'_>, stamp: &Stamp) {
        self.outcome.tally.misdelivered += 1;
        self.example(|net| {
            let (client, from, channel) = (net.client(local), push.from_client, push.channel);
            format!("client {client} got on {channel:?} from {from:?} what was sent as {stamp:?}")
        });
    }

    /// Counts an intact message that came to whom it was meant for. Returns whether it is the first time.
    pub(crate) fn arrived(&mut self, local: u32, arrival: &Arrival, stamp: &Stamp, now: Tick) -> bool {
        let tally = &mut self.outcome.tally;
        match arrival {
            Arrival::Newest { .. } => {}
            Arrival::Reordered => tally.reordered += 1,
            Arrival::Duplicate => tally.duplicated += 1,
        }
        let fresh = *arrival != Arrival::Duplicate;
        if fresh {
            self.came_first(stamp, now);
        }
        if !matches!(arrival, Arrival::Newest { .. }) {
            self.example(|net| format!("client {}: {arrival:?}, {stamp:?}", net.client(local)));
        }
        fresh
    }

    /// Counts an intact message that came to whom it was meant for, for the first time.
    pub(crate) fn came_first(&mut self, stamp: &Stamp, now: Tick) {
        let tally = &mut self.outcome.tally;
        tally.received += 1;
        tally.received_in_phase += u64::from(now < self.phase_end);
        tally.last_received = now;
        let latency_us = now.micros_since(stamp.planned);
        self.outcome.latency_us.saturating_record(latency_us);
        if let Some(timeline) = &mut self.outcome.timeline {
            timeline.record(now, latency_us);
        }
    }

    /// Remembers a fault in words, if there are not enough of them yet.
    pub(crate) fn example(&mut self, words: impl FnOnce(&Net) -> String) {
        if self.outcome.examples.len() < EXAMPLES_MAX {
            let words = words(self);
            self.outcome.examples.push(words);
        }
    }

    /// Sends a message to another worker.
    pub(crate) fn post(&mut self, worker: u32, message: Message) {
        self.outputs.push_back(Output::Post { to: ShardId(worker as u16), message });
    }

    /// Sends a message to the main thread.
    pub(crate) fn post_main(&mut self, message: Message) {
        self.post(self.plan.workers, message);
    }
}

/// What a link has to send, to append to.
fn buffer<'a>(link: &'a mut Link, pool: &mut Vec<Vec<u8>>) -> &'a mut Vec<u8> {
    if link.out.capacity() == 0 {
        link.out = pool.pop().unwrap_or_default();
    }
    &mut link.out
}

/// A `client_msg_id` that tells the stream and the sequence.
pub(crate) fn message_id(slot: u8, sequence: u32) -> u64 {
    u64::from(slot) << 32 | u64::from(sequence)
}

/// The slot of a [`message_id`].
pub(crate) fn slot_of_id(id: u64) -> u8 {
    (id >> 32) as u8
}

/// The sequence of a [`message_id`].
pub(crate) fn sequence_of_id(id: u64) -> u32 {
    id as u32
}
