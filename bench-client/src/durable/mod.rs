//! Durable messages: senders that keep what was not accepted, receivers that check every sequence and acknowledge.
//!
//! Whoever takes part costs an outbox or a line; the other clients of a fleet cost nothing.
#![forbid(unsafe_code)]

mod ledger;
mod lines;
mod outbox;
mod receivers;
mod senders;
mod tally;

use weir::{
    io::Tick,
    wire::{ErrorCode, Frame, FrameType, PushRef, Retry, body},
};

pub(crate) use self::{
    ledger::{DurableLedger, Marks},
    lines::{LineFaults, Lines},
    outbox::Letter,
    tally::DurableTally,
};
use self::{receivers::Receivers, senders::Senders};
use crate::{fleet::Net, verify::Stamp};

/// The pause before a refused SEND is repeated when the gateway names none.
const RETRY_MS: u64 = 100;

/// How receivers take durable messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Receiving {
    /// LOGIN's window.
    pub(crate) window: u32,
    /// RECEIVED is sent after so many messages of a channel,
    pub(crate) ack_every: u32,
    /// and at the latest so long after one came, in microseconds.
    pub(crate) ack_after_us: u64,
}

/// Which channels the clients of a run follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Channels {
    /// Their own.
    pub(crate) own: bool,
    /// A group each.
    pub(crate) groups: Option<Groups>,
}

/// Clients dealt out to groups, one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Groups {
    pub(crate) count: u32,
    /// The first client that is a member.
    pub(crate) first: u32,
}

impl Groups {
    /// The group of a client.
    pub(crate) fn of(&self, client: u32) -> Option<u32> {
        Some(client.checked_sub(self.first)? % self.count)
    }
}

impl Channels {
    /// Lines of each receiver.
    pub(crate) fn lines(&self) -> u32 {
        u32::from(self.own) + u32::from(self.groups.is_some())
    }
}

/// How many clients, streams and channels one worker has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    /// The first so many clients send.
    pub(crate) senders: u32,
    /// The first so many clients receive.
    pub(crate) receivers: u32,
    pub(crate) outgoing: usize,
    pub(crate) incoming: usize,
    pub(crate) channels: Channels,
}

/// One worker's part.
pub(crate) struct Durable {
    pub(crate) senders: Senders,
    pub(crate) receivers: Receivers,
    is_over: bool,
}

impl Durable {
    pub(crate) fn new(receiving: Receiving, extent: &Extent) -> Durable {
        Durable {
            senders: Senders::new(extent.senders, extent.outgoing),
            receivers: Receivers::new(receiving, extent),
            is_over: false,
        }
    }

    /// A client is ready, for the first time or again.
    pub(crate) fn came(&mut self, net: &mut Net, local: u32, now: Tick) {
        self.senders.came(net, local, now);
    }

    /// A client's connection ended.
    pub(crate) fn went(&mut self, local: u32) {
        self.receivers.went(local);
    }

    /// Called each turn. Returns when it wants to be called again.
    pub(crate) fn turn(&mut self, net: &mut Net, now: Tick) -> Option<Tick> {
        let (ack, retry) = (self.receivers.acknowledge_due(net, now), self.senders.retry(net, now));
        ack.into_iter().chain(retry).min()
    }

    /// All connections are about to end.
    pub(crate) fn leave(&mut self, net: &mut Net, now: Tick) {
        if !std::mem::replace(&mut self.is_over, true) {
            self.receivers.leave(net, now);
            self.senders.leave(net);
        }
    }

    /// What is known at the end.
    pub(crate) fn take_ledger(&mut self) -> DurableLedger {
        let mut ledger = DurableLedger::default();
        self.senders.enter(&mut ledger);
        self.receivers.enter(&mut ledger);
        ledger
    }
}

/// Takes a durable message of an earlier run that comes to a client without lines, and acknowledges it. Returns whether it is one.
pub(crate) fn is_leftover(net: &mut Net, local: u32, push: &PushRef<'_>, now: Tick) -> bool {
    let is_ours = Stamp::read(push.payload).is_none_or(|stamp| stamp.run == net.plan.run);
    if push.seq == 0 || is_ours {
        return false;
    }
    net.outcome.tally.durable.leftovers += 1;
    net.put_frame(local, &Frame::Received(body::Received { channel: push.channel.to_owned(), seq: push.seq }), now);
    true
}

/// Whether an ERROR answers RECEIVED or READ.
pub(crate) fn is_to_acknowledgement(error: &body::Error) -> bool {
    [FrameType::Received as u32, FrameType::Read as u32].contains(&error.in_reply_to)
}

/// Whether the same request may succeed later.
fn passes(code: u32) -> bool {
    ErrorCode::from_number(code).is_none_or(|code| code.retry() == Retry::Later)
}

fn pause_ms(error: &body::Error) -> u64 {
    if error.retry_after_ms == 0 { RETRY_MS } else { error.retry_after_ms.into() }
}
