//! The model gateway's durable side: one log, ACCEPTED for what is in it, and a window of pushes for each connection.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use weir::wire::{
    AcceptedRef, ErrorCode, Frame, FrameType, PushRef, SendRef,
    body::{self, Durability},
};

use super::{Peer, Session, World};
use crate::scenario::Scenario;

/// What the gateway gets wrong, or refuses, of one durable SEND.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fleet) enum SendFault {
    /// Stores it, and says nothing.
    Silence,
    /// Refuses it with OVERLOADED, to be tried again after 20 ms.
    Overload,
    /// Refuses it for good, and does not store it.
    Forbid,
    /// Refuses it for good, and stores it.
    ForbidAndStore,
    /// Accepts it, and does not store it.
    Forget,
    /// Accepts it under another sequence.
    Renumber,
    /// Accepts it twice.
    AcceptTwice,
    /// Stores it twice.
    StoreTwice,
    /// Accepts it in another channel.
    OtherChannel,
}

impl SendFault {
    fn refusal(self) -> Option<(ErrorCode, u32)> {
        match self {
            SendFault::Overload => Some((ErrorCode::Overloaded, 20)),
            SendFault::Forbid | SendFault::ForbidAndStore => Some((ErrorCode::WriteForbidden, 0)),
            SendFault::Silence
            | SendFault::Forget
            | SendFault::Renumber
            | SendFault::AcceptTwice
            | SendFault::StoreTwice
            | SendFault::OtherChannel => None,
        }
    }

    /// How often it is stored.
    fn copies(self) -> u32 {
        match self {
            SendFault::Overload | SendFault::Forbid | SendFault::Forget => 0,
            SendFault::Silence
            | SendFault::ForbidAndStore
            | SendFault::Renumber
            | SendFault::AcceptTwice
            | SendFault::OtherChannel => 1,
            SendFault::StoreTwice => 2,
        }
    }

    /// How often it is accepted.
    fn answers(self) -> u32 {
        match self {
            SendFault::Silence | SendFault::Overload | SendFault::Forbid | SendFault::ForbidAndStore => 0,
            SendFault::Forget | SendFault::Renumber | SendFault::StoreTwice | SendFault::OtherChannel => 1,
            SendFault::AcceptTwice => 2,
        }
    }
}

#[derive(Debug)]
struct Stored {
    from: String,
    client_msg_id: u64,
    payload: Vec<u8>,
}

/// Where a client stands in a channel.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    received: u64,
    read: u64,
}

/// All that is kept.
#[derive(Debug, Default)]
pub(in crate::fleet) struct Log {
    channels: BTreeMap<String, Vec<Stored>>,
    /// By channel and client.
    cursors: BTreeMap<(String, String), Cursor>,
    /// By sender and `client_msg_id`.
    seen: BTreeMap<(String, u64), u64>,
    sends: u64,
}

impl Log {
    pub(super) fn last(&self, channel: &str) -> u64 {
        self.channels.get(channel).map_or(0, |messages| messages.len() as u64)
    }

    fn append(&mut self, channel: &str, stored: Stored) -> u64 {
        let messages = self.channels.entry(channel.to_owned()).or_default();
        messages.push(stored);
        messages.len() as u64
    }
}

/// What a connection takes of durable messages.
#[derive(Debug, Default)]
pub(super) struct Reading {
    window: u32,
    /// By channel: what was pushed last, on this connection or an earlier one.
    pushed: BTreeMap<String, u64>,
}

impl<S: Scenario> World<S> {
    /// A connection takes part from now on.
    pub(super) fn open(&mut self, peer: Peer, window: u32) {
        if window > 0 {
            self.session(peer).reading.window = window;
            let channel = format!("user/{}", self.session(peer).client);
            self.follow(peer, channel, 0);
        }
    }

    /// A connection follows a channel: CURSORS, then what lies above.
    pub(super) fn follow(&mut self, peer: Peer, channel: String, start: u64) {
        if self.session(peer).reading.window == 0 {
            return;
        }
        let key = (channel.clone(), self.session(peer).client.clone());
        let mut cursor = *self.log.cursors.entry(key).or_insert(Cursor { received: start, read: 0 });
        cursor.read -= self.script.forgets_read.min(cursor.read);
        let last = self.log.last(&channel);
        let received = cursor.received - self.script.forgets_received.min(cursor.received);
        self.session(peer).reading.pushed.insert(channel.clone(), received);
        let cursors =
            body::Cursors { channel, first: 1, last, received: cursor.received, read: cursor.read, unread: last - cursor.read };
        self.push(peer, &Frame::Cursors(cursors));
        self.pump(peer);
    }

    /// Takes a durable SEND.
    pub(super) fn store(&mut self, peer: Peer, send: &SendRef<'_>) {
        let from = self.session(peer).client.clone();
        let fault = self.script.send_faults.get(&self.log.sends).copied();
        self.log.sends += 1;
        self.refuse(peer, send, fault);
        let key = (from.clone(), send.client_msg_id);
        let before = self.log.seen.get(&key).copied();
        let mut seq = before.unwrap_or(self.log.last(send.channel) + 1);
        if before.is_none() {
            for _ in 0..fault.map_or(1, SendFault::copies) {
                let stored = Stored { from: from.clone(), client_msg_id: send.client_msg_id, payload: send.payload.to_vec() };
                seq = self.log.append(send.channel, stored);
                self.log.seen.insert(key.clone(), seq);
            }
        }
        let accepted = AcceptedRef {
            client_msg_id: send.client_msg_id,
            channel: if fault == Some(SendFault::OtherChannel) { "user/nobody" } else { send.channel },
            seq: seq + u64::from(fault == Some(SendFault::Renumber)),
            timestamp: seq,
            durability: Durability::Memory as i32,
            duplicate: before.is_some(),
        };
        for _ in 0..fault.map_or(1, SendFault::answers) {
            self.push(peer, &Frame::Accepted(accepted));
        }
        let follows = |(peer, session): (&Peer, &Session)| session.reading.pushed.contains_key(send.channel).then_some(*peer);
        let readers: Vec<Peer> = self.sessions.iter().filter_map(follows).collect();
        readers.into_iter().for_each(|reader| self.pump(reader));
    }

    fn refuse(&mut self, peer: Peer, send: &SendRef<'_>, fault: Option<SendFault>) {
        let Some((code, retry_after_ms)) = fault.and_then(SendFault::refusal) else { return };
        let error = body::Error {
            code: code.number(),
            message: "scripted".into(),
            retry_after_ms,
            client_msg_id: send.client_msg_id,
            in_reply_to: FrameType::Send as u32,
            ..Default::default()
        };
        self.push(peer, &Frame::Error(error));
    }

    /// Takes RECEIVED, which must not say more than was pushed.
    pub(super) fn received(&mut self, peer: Peer, received: body::Received) {
        let pushed = self.session(peer).reading.pushed[&received.channel];
        assert!(received.seq <= pushed, "{received:?}, and {pushed} was pushed last");
        let key = (received.channel, self.session(peer).client.clone());
        let cursor = self.log.cursors.get_mut(&key).expect("a channel that is followed");
        cursor.received = cursor.received.max(received.seq);
        self.pump(peer);
    }

    pub(super) fn read(&mut self, peer: Peer, read: body::Read) {
        let key = (read.channel, self.session(peer).client.clone());
        self.log.cursors.get_mut(&key).expect("a channel that is followed").read = read.seq;
    }

    /// Pushes what the window has room for, one channel after another.
    fn pump(&mut self, peer: Peer) {
        let session = self.session(peer);
        let (client, window) = (session.client.clone(), u64::from(session.reading.window));
        let channels: Vec<String> = session.reading.pushed.keys().cloned().collect();
        for channel in channels {
            loop {
                let pushed = &self.sessions[&peer].reading.pushed;
                let unacknowledged = |(channel, pushed): (&String, &u64)| {
                    pushed.saturating_sub(self.log.cursors[&(channel.clone(), client.clone())].received)
                };
                let (on_their_way, next) = (pushed.iter().map(unacknowledged).sum::<u64>(), pushed[&channel] + 1);
                if on_their_way >= window || next > self.log.last(&channel) {
                    break;
                }
                self.session(peer).reading.pushed.insert(channel.clone(), next);
                self.push_stored(peer, &channel, next);
            }
        }
    }

    fn push_stored(&mut self, peer: Peer, channel: &str, seq: u64) {
        let stored = &self.log.channels[channel][seq as usize - 1];
        let (from, client_msg_id, payload) = (stored.from.clone(), stored.client_msg_id, stored.payload.clone());
        let fault = self.script.faults.get(&self.deliveries).copied();
        self.deliveries += 1;
        let push = PushRef {
            channel,
            from_client: &from,
            from_device: "bench",
            client_msg_id,
            payload: &payload,
            seq,
            timestamp: seq,
            ..PushRef::default()
        };
        self.deliver_push(peer, peer, &push, fault);
    }
}
