//! A log in memory: for developers, and as the model of what any log must do.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};

use super::{
    Bounds, CursorKey, CursorKind, Entries, Failure, Log, Outcome, PageLimit, Retention, Write, clock::Clock, message_bytes,
};
use crate::wire::{PushRef, body::Durability};

#[derive(Clone, Debug)]
struct Message {
    seq: u64,
    timestamp: u64,
    from: Sender,
    client_msg_id: u64,
    payload: Box<[u8]>,
}

impl Message {
    fn as_push(&self) -> PushRef<'_> {
        PushRef {
            from_client: &self.from.0,
            from_device: &self.from.1,
            client_msg_id: self.client_msg_id,
            payload: &self.payload,
            seq: self.seq,
            timestamp: self.timestamp,
            ..PushRef::default()
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Channel {
    last: u64,
    bytes: u64,
    messages: VecDeque<Message>,
}

impl Channel {
    fn bounds(&self) -> Bounds {
        Bounds { first: self.last + 1 - self.messages.len() as u64, last: self.last, lost: 0 }
    }

    fn drop_first(&mut self) {
        if let Some(message) = self.messages.pop_front() {
            self.bytes -= message_bytes(&message.as_push());
        }
    }
}

/// Client and device.
type Sender = (Box<str>, Box<str>);
/// Channel, client, and the device of a received cursor; `None` for a read cursor.
type Cursor = (Box<str>, Box<str>, Option<Box<str>>);

#[derive(Clone, Debug)]
struct Seen {
    channel: Box<str>,
    seq: u64,
    timestamp: u64,
    payload_crc: u32,
}

/// The log in memory.
#[derive(Clone, Debug)]
pub struct Memory {
    retention: Retention,
    clock: Clock,
    channels: BTreeMap<Box<str>, Channel>,
    cursors: BTreeMap<Cursor, u64>,
    seen: BTreeMap<(Sender, u64), Seen>,
    /// In the order of their timestamps.
    seen_order: VecDeque<(u64, (Sender, u64))>,
    /// Where `expire` goes on.
    expire_after: Box<str>,
}

impl Memory {
    /// Empty.
    pub fn new(retention: Retention) -> Memory {
        Memory {
            retention,
            clock: Clock::default(),
            channels: BTreeMap::new(),
            cursors: BTreeMap::new(),
            seen: BTreeMap::new(),
            seen_order: VecDeque::new(),
            expire_after: Box::default(),
        }
    }

    fn append(&mut self, wall_ms: u64, name: &str, message: &PushRef<'_>) -> Outcome {
        let from: Sender = (message.from_client.into(), message.from_device.into());
        let key = (from.clone(), message.client_msg_id);
        let payload_crc = crc32c::crc32c(message.payload);
        if let Some(seen) = self.seen.get(&key) {
            let same = *seen.channel == *name && seen.payload_crc == payload_crc;
            return match same {
                true => Outcome::Appended { seq: seen.seq, timestamp: seen.timestamp, duplicate: true },
                false => Outcome::IdReused,
            };
        }
        if !self.has_room_for(name) {
            return Outcome::TooManyChannels;
        }
        let timestamp = self.clock.tick(wall_ms);
        let channel = match self.channels.get_mut(name) {
            Some(channel) => channel,
            None => self.channels.entry(name.into()).or_default(),
        };
        channel.last += 1;
        channel.bytes += message_bytes(message);
        let seq = channel.last;
        channel.messages.push_back(Message {
            seq,
            timestamp,
            from,
            client_msg_id: message.client_msg_id,
            payload: message.payload.into(),
        });
        while channel.messages.len() as u64 > self.retention.messages.max(1) {
            channel.drop_first();
        }
        self.seen.insert(key.clone(), Seen { channel: name.into(), seq, timestamp, payload_crc });
        self.seen_order.push_back((timestamp, key));
        if self.seen_order.len() > self.retention.dedup_messages as usize {
            self.forget_seen();
        }
        Outcome::Appended { seq, timestamp, duplicate: false }
    }

    fn has_room_for(&self, name: &str) -> bool {
        self.channels.len() < self.retention.channels as usize || self.channels.contains_key(name)
    }

    /// Makes a channel hold no more bytes than it may.
    fn cut(&mut self, name: &str) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        while channel.messages.len() > 1 && channel.bytes > self.retention.bytes {
            channel.drop_first();
        }
    }

    fn forget_seen(&mut self) {
        if let Some((_, key)) = self.seen_order.pop_front() {
            self.seen.remove(&key);
        }
    }

    fn cursor_of(key: CursorKey<'_>) -> Cursor {
        let device = match key.kind {
            CursorKind::Received { device } => Some(device.into()),
            CursorKind::Read => None,
        };
        (key.channel.into(), key.client.into(), device)
    }
}

impl Log for Memory {
    fn commit(&mut self, wall_ms: u64, writes: &[Write<'_>], outcomes: &mut Vec<Outcome>) -> Result<(), Failure> {
        while self.seen_order.front().is_some_and(|(at, _)| Clock::wall_ms(*at) + self.retention.dedup_ms < wall_ms) {
            self.forget_seen();
        }
        for write in writes {
            outcomes.push(match write {
                Write::Append { channel, message } => self.append(wall_ms, channel, message),
                Write::Advance { key, .. } if !self.has_room_for(key.channel) => Outcome::TooManyChannels,
                Write::Advance { key, to } => {
                    self.channels.entry(key.channel.into()).or_default();
                    let at = self.cursors.entry(Memory::cursor_of(*key)).or_default();
                    let moved = *to > *at;
                    *at = (*at).max(*to);
                    Outcome::Cursor { at: *at, moved }
                }
                Write::Forget { key } => {
                    let moved = self.cursors.remove(&Memory::cursor_of(*key)).is_some();
                    Outcome::Cursor { at: 0, moved }
                }
            });
        }
        for write in writes {
            if let Write::Append { channel, .. } = write {
                self.cut(channel);
            }
        }
        Ok(())
    }

    fn read(&mut self, channel: &str, from: u64, limit: PageLimit, page: &mut Vec<u8>) -> Result<Bounds, Failure> {
        let Some(channel) = self.channels.get(channel) else { return Ok(Bounds::NONE) };
        let bounds = channel.bounds();
        let start = page.len();
        let skipped = from.saturating_sub(bounds.first) as usize;
        for message in channel.messages.iter().skip(skipped).take(limit.messages as usize) {
            let before = page.len();
            Entries::put(&message.as_push(), page);
            if page.len() - start > limit.bytes as usize && before > start {
                page.truncate(before);
                break;
            }
        }
        Ok(bounds)
    }

    fn bounds(&mut self, channel: &str) -> Result<Bounds, Failure> {
        Ok(self.channels.get(channel).map_or(Bounds::NONE, Channel::bounds))
    }

    fn cursor(&mut self, key: CursorKey<'_>) -> Result<Option<u64>, Failure> {
        Ok(self.cursors.get(&Memory::cursor_of(key)).copied())
    }

    /// One channel at a time.
    fn expire(&mut self, wall_ms: u64) -> Result<bool, Failure> {
        let mut later =
            self.channels.range_mut::<str, _>((std::ops::Bound::Excluded(&*self.expire_after), std::ops::Bound::Unbounded));
        let Some((name, channel)) = later.next() else {
            self.expire_after = Box::default();
            return Ok(false);
        };
        let age_ms = self.retention.age_ms;
        while channel.messages.front().is_some_and(|message| Clock::wall_ms(message.timestamp) + age_ms < wall_ms) {
            channel.drop_first();
        }
        self.expire_after = name.clone();
        Ok(true)
    }

    fn durability(&self) -> Durability {
        Durability::Memory
    }
}
