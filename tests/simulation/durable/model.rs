//! What the devices have said and heard, in plain maps, and what must be true of it. What the log has taken is the ledger's.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use weir::wire::{AcceptedRef, PushRef, body};

use super::ledger::{Kept, Key, Ledger};
use crate::model::{Target, payload};

/// One durable message, from before its first SEND.
#[derive(Debug)]
pub struct Sent {
    pub target: Target,
    pub length: usize,
    /// SENDs of it that were queued.
    pub tries: u32,
    /// The newest sequence of the channel that anybody knew of before the first.
    above: u64,
    /// ACCEPTED: sequence and timestamp.
    pub accepted: Option<(u64, u64)>,
    /// ACCEPTED came without `duplicate`.
    was_first: bool,
    /// Its sender forgets about it without an answer.
    pub given_up: bool,
}

/// One transient message.
#[derive(Debug)]
struct Passing {
    target: Target,
    length: usize,
}

#[derive(Default)]
pub struct Model {
    /// Clients and devices, by their number.
    pub names: Vec<(String, String)>,
    pub sent: BTreeMap<(usize, u64), Sent>,
    passing: BTreeMap<(usize, u64), Passing>,
    /// The newest sequence of each channel that anybody has heard of.
    known: BTreeMap<String, u64>,
    /// The most that a client has said it has read of a channel.
    reads: BTreeMap<(String, String), u64>,
    /// Processes so far.
    pub lives: u64,
    /// The disk failed last at this time, as far as a request of now can have met it.
    pub outage_until: Option<u64>,
    /// So much waited for the log that something was refused.
    pub overloaded_at: Option<u64>,
    /// The last process ended then.
    pub ended_at: Option<u64>,
    /// For the last line of a run: how much was seen.
    pub pushes: u64,
    pub repeats: u64,
    pub gaps: u64,
}

/// Numbers of transient messages begin here.
pub const PASSING: u64 = 500_000;

/// The bytes that belong to a message.
pub fn payload_of(device: usize, number: u64, length: usize) -> Vec<u8> {
    payload(device as u64 * 1_000_000 + number, length)
}

impl Model {
    /// Of these clients and devices.
    pub fn new(names: Vec<(String, String)>) -> Model {
        Model { names, lives: 1, ..Model::default() }
    }

    pub fn key(&self, device: usize, number: u64) -> Key {
        let (client, name) = &self.names[device];
        Key { client: client.clone(), device: name.clone(), number }
    }

    fn device(&self, client: &str, device: &str) -> usize {
        let found = self.names.iter().position(|(c, d)| c == client && d == device);
        found.unwrap_or_else(|| panic!("a message names a sender that there is not: {client:?} {device:?}"))
    }

    /// Somebody heard that a channel has this message.
    pub fn heard_of(&mut self, channel: &str, seq: u64) {
        let known = self.known.entry(channel.to_owned()).or_default();
        *known = seq.max(*known);
    }

    pub fn known(&self, channel: &str) -> u64 {
        self.known.get(channel).copied().unwrap_or(0)
    }

    pub fn reads(&mut self, client: &str, channel: &str, seq: u64) {
        let most = self.reads.entry((client.to_owned(), channel.to_owned())).or_default();
        *most = seq.max(*most);
    }

    pub fn most_read(&self, client: &str, channel: &str) -> u64 {
        self.reads.get(&(client.to_owned(), channel.to_owned())).copied().unwrap_or(0)
    }

    /// A durable message comes into being.
    pub fn creates(&mut self, device: usize, number: u64, target: Target, length: usize) {
        let above = self.known(&target.channel());
        let sent = Sent { target, length, tries: 0, above, accepted: None, was_first: false, given_up: false };
        self.sent.insert((device, number), sent);
    }

    pub fn passes(&mut self, device: usize, number: u64, target: Target, length: usize) {
        self.passing.insert((device, number), Passing { target, length });
    }

    /// ACCEPTED.
    pub fn accepted(&mut self, device: usize, body: &AcceptedRef<'_>, ledger: &Ledger) {
        let key = self.key(device, body.client_msg_id);
        let sent = self.sent.get_mut(&(device, body.client_msg_id));
        let sent = sent.unwrap_or_else(|| panic!("{key:?} was accepted, and never sent"));
        assert_eq!(body.channel, sent.target.channel(), "{key:?} was accepted in another channel");
        assert_eq!(body.durability, body::Durability::Fsync as i32, "{key:?}: the log is on a disk");
        let place = (body.seq, body.timestamp);
        assert!(sent.accepted.is_none_or(|first| first == place), "{key:?} got {place:?}, and {:?} before", sent.accepted);
        sent.accepted = Some(place);
        assert!(body.seq > sent.above, "{key:?} got place {}, and {} was taken before it was sent", body.seq, sent.above);
        if body.duplicate {
            assert!(sent.tries > 1, "{key:?} was sent once, and accepted as a duplicate");
        } else {
            assert!(!std::mem::replace(&mut sent.was_first, true), "{key:?} was accepted for the first time, twice");
        }
        let kept = ledger.at(body.channel, body.seq);
        let kept = kept.unwrap_or_else(|| panic!("{key:?} was accepted as {} {}, and is not there", body.channel, body.seq));
        assert_eq!((&kept.key, kept.timestamp), (&key, body.timestamp), "{} {} is another message", body.channel, body.seq);
        self.heard_of(body.channel, body.seq);
    }

    /// A durable message came, in a PUSH or in a PAGE.
    pub fn is_kept(&mut self, channel: &str, push: &PushRef<'_>, ledger: &Ledger) {
        let seq = push.seq;
        let kept = ledger.at(channel, seq).unwrap_or_else(|| panic!("{channel} has no message {seq}, and it was delivered"));
        let from = (&*kept.key.client, &*kept.key.device, kept.key.number);
        assert_eq!((push.from_client, push.from_device, push.client_msg_id), from, "{channel} {seq} is another message");
        assert_eq!(push.timestamp, kept.timestamp, "{channel} {seq} has another timestamp");
        assert!(push.payload == kept.payload, "{channel} {seq} was altered");
        self.heard_of(channel, seq);
    }

    /// A transient message came. Gives its sender.
    pub fn is_passing(&self, client: &str, push: &PushRef<'_>) -> usize {
        let sender = self.device(push.from_client, push.from_device);
        let passing = self.passing.get(&(sender, push.client_msg_id));
        let passing = passing.unwrap_or_else(|| panic!("a transient message came that nobody sent: {push:?}"));
        assert_eq!(push.channel, passing.target.channel(), "a transient message came in another channel");
        assert!(push.payload == payload_of(sender, push.client_msg_id, passing.length), "a transient message was altered");
        if let Target::User(name) = &passing.target {
            assert_eq!(name, client, "a transient message came to somebody else");
        }
        sender
    }

    /// The newest message of a channel that was accepted.
    pub fn last_accepted(&self, channel: &str) -> u64 {
        let there = self.sent.values().filter(|sent| sent.target.channel() == channel);
        there.filter_map(|sent| sent.accepted).map(|(seq, _)| seq).max().unwrap_or(0)
    }

    /// At the end: what was accepted is there, and no sender waits for an answer.
    pub fn judge(&self, ledger: &Ledger) {
        for (channel, list) in ledger.channels() {
            for Kept { key, payload, .. } in list {
                let sender = self.device(&key.client, &key.device);
                let sent = self.sent.get(&(sender, key.number)).unwrap_or_else(|| panic!("{key:?} is in the log, and never was"));
                let same = *payload == payload_of(sender, key.number, sent.length) && channel == sent.target.channel();
                assert!(same, "{key:?} is in the log of {channel}, and not as it was sent");
            }
        }
        for ((device, number), sent) in &self.sent {
            let key = self.key(*device, *number);
            let place = ledger.place(&key);
            match sent.accepted {
                Some((seq, timestamp)) => {
                    let channel = sent.target.channel();
                    assert_eq!(place, Some((&*channel, seq)), "{key:?} was accepted, and is somewhere else");
                    assert_eq!(ledger.at(&channel, seq).map(|kept| kept.timestamp), Some(timestamp), "{key:?}");
                }
                None => assert!(sent.given_up, "{key:?} was never accepted, and its sender did not give up: {sent:?}"),
            }
            assert!(sent.tries > 0 || place.is_none(), "{key:?} is in the log, and was never sent");
        }
    }
}
