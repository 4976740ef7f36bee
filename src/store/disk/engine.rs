//! The log over an open database: commits and reads. What it knows in memory is what the database holds; when a commit fails, that may
//! not be so any more, and the engine is thrown away and opened again.
#![forbid(unsafe_code)]

use std::{
    collections::{HashMap, HashSet},
    hash::Hasher as _,
    sync::Arc,
};

use fjall::OwnedWriteBatch;
use siphasher::sip::SipHasher13;

use super::{
    base::{Base, Trouble},
    heads::{Head, Heads},
    record::{
        Channel, Commit, Entry, Message, channel_key, commit_key, content_crc, cursor_key, decode_number, encode_number,
        message_key,
    },
    retention::{Horizon, Walk, cut_bytes, refresh, settle_age},
    seen::Seen,
    witness::{Testimony, Witness},
};
use crate::{
    limits::{STORE_COMMITS_REMOVED_MAX, STORE_DAMAGE_REPORTS_MAX, STORE_FLOOR_STEP_MAX, STORE_FLOOR_STEP_MIN},
    store::{Bounds, Clock, CursorKey, Outcome, PageLimit, Retention, Write, message_bytes},
    wire::PushRef,
};

/// An open log.
pub(super) struct Engine {
    pub(super) base: Base,
    pub(super) witness: Witness,
    pub(super) retention: Retention,
    pub(super) clock: Clock,
    pub(super) heads: Heads,
    pub(super) seen: Seen,
    pub(super) horizon: Arc<Horizon>,
    /// Of the hash that makes fingerprints.
    pub(super) fingerprint_key: [u8; 16],
    /// The newest commit.
    pub(super) testimony: Testimony,
    pub(super) next_channel: u32,
    /// The oldest commit that is stored.
    pub(super) oldest_commit: u64,
    /// Messages with an older timestamp are over.
    pub(super) expired: u64,
    /// Sequences up to here are not given (again).
    pub(super) lost: u64,
    pub(super) walk: Walk,
    /// Channels whose damage was reported.
    pub(super) damaged: HashSet<u32>,
}

/// A commit in the making.
pub(super) struct Draft {
    batch: OwnedWriteBatch,
    /// Changes of the keyspace `state`; `None` removes.
    pub(super) state: HashMap<Vec<u8>, Option<Vec<u8>>>,
    entries: Vec<Entry>,
    /// Which write each entry came from.
    sources: Vec<usize>,
    /// Of the first message.
    timestamp: u64,
    /// Channels that hold more bytes than they may.
    over: Vec<Box<str>>,
    /// Floors to be made known once they are stored.
    pub(super) floors: Vec<(u32, u64)>,
}

impl Engine {
    pub(super) fn draft(&self) -> Draft {
        Draft {
            batch: self.base.batch(),
            state: HashMap::new(),
            entries: Vec::new(),
            sources: Vec::new(),
            timestamp: self.clock.last(),
            over: Vec::new(),
            floors: Vec::new(),
        }
    }

    /// See [`crate::store::Log::commit`]. After an error, but for `Behind`, the engine is of no use any more.
    pub(super) fn commit(&mut self, wall_ms: u64, writes: &[Write<'_>], outcomes: &mut Vec<Outcome>) -> Result<(), Trouble> {
        if self.base.is_behind()? {
            return Err(Trouble::Behind);
        }
        self.seen.expire(wall_ms, self.retention.dedup_ms);
        let mut draft = self.draft();
        for (index, write) in writes.iter().enumerate() {
            let outcome = match write {
                Write::Append { channel, message } => self.append(&mut draft, wall_ms, (index, writes), channel, message),
                Write::Advance { key, to } => self.advance(&mut draft, key, *to),
                Write::Forget { key } => self.forget(&mut draft, key),
            };
            // One channel that cannot be read is no reason to refuse all others. Nothing was changed for it.
            outcomes.push(outcome.unwrap_or_else(|trouble| {
                log::error!("store: a channel cannot be read, try `weir log verify`: {trouble}");
                Outcome::Unreadable
            }));
        }
        if draft.entries.is_empty() && draft.state.is_empty() {
            self.heads.trim();
            return Ok(());
        }
        self.finish(draft)
    }

    /// Stores the draft, and says so to the witness.
    pub(super) fn finish(&mut self, mut draft: Draft) -> Result<(), Trouble> {
        let number = self.testimony.commit + 1;
        let key = commit_key(number);
        let record = Commit { timestamp: draft.timestamp, next_channel: self.next_channel, seq_max: self.testimony.seq_max };
        draft.batch.insert(&self.base.commits, key, record.encode(&key, &draft.entries));
        let needed = self.seen.oldest_commit().unwrap_or(number).min(number);
        let over = self.oldest_commit..needed.min(self.oldest_commit + STORE_COMMITS_REMOVED_MAX);
        self.oldest_commit = over.end.max(self.oldest_commit);
        for old in over {
            draft.batch.remove(&self.base.commits, commit_key(old));
        }
        for (key, value) in draft.state {
            match value {
                Some(value) => draft.batch.insert(&self.base.state, key, value),
                None => draft.batch.remove(&self.base.state, key),
            }
        }
        draft.batch.commit()?;
        self.testimony.commit = number;
        self.testimony.timestamp = self.clock.last();
        self.witness.write(&self.testimony).map_err(fjall::Error::from)?;
        self.base.rotate_if_full()?;
        for (channel, floor) in draft.floors {
            self.horizon.raise_floor(channel, floor);
        }
        for name in draft.over {
            // It is tried again at the next message.
            if let Err(trouble) = self.cut(&name) {
                log::error!("store: a channel cannot be read, try `weir log verify`: {trouble}");
            }
        }
        self.heads.trim();
        Ok(())
    }

    /// Makes a channel hold no more bytes than it may.
    fn cut(&mut self, name: &str) -> Result<(), Trouble> {
        if let Some(head) = self.heads.get(name) {
            cut_bytes(&self.base, head, &self.retention)?;
        }
        Ok(())
    }

    /// The oldest sequence that may stay, by their number alone.
    fn first_by_count(&self, last: u64) -> u64 {
        let first = (last + 1).saturating_sub(self.retention.messages.max(1));
        // What a repair left out is no message: until there are enough after it, those before it stay.
        if first > self.lost { first } else { 1 }
    }

    fn append(
        &mut self,
        draft: &mut Draft,
        wall_ms: u64,
        (index, writes): (usize, &[Write<'_>]),
        name: &str,
        message: &PushRef<'_>,
    ) -> Result<Outcome, Trouble> {
        let fingerprint = self.fingerprint(message);
        let known = self.head(name)?;
        if let Some(outcome) = self.find(draft, writes, (name, known), message, fingerprint)? {
            return Ok(outcome);
        }
        let mut head = match known {
            Some(head) => head,
            None if self.is_full() => return Ok(Outcome::TooManyChannels),
            None => self.create(draft, name)?,
        };
        let timestamp = self.clock.tick(wall_ms);
        if head.first > head.last {
            (head.before_first, head.first_timestamp) = (head.total, timestamp);
        }
        head.last += 1;
        head.total += message_bytes(message);
        head.first = head.first.max(self.first_by_count(head.last));
        self.store_floor(draft, name, &mut head);
        if head.total - head.before_first > self.retention.bytes {
            draft.over.push(name.into());
        }
        self.heads.put(name, head);
        self.walk.meet(head.number);
        let key = message_key(head.number, head.last);
        let stored = PushRef { channel: "", seq: head.last, timestamp, ..*message };
        draft.batch.insert(&self.base.messages, key, Message::encode(&key, head.total, &stored));
        if draft.entries.is_empty() {
            draft.timestamp = timestamp;
            self.seen.begin(self.testimony.commit + 1, timestamp);
        }
        let entry = Entry { fingerprint, channel: head.number, content_crc: content_crc(message), seq: head.last };
        self.seen.push(entry);
        draft.entries.push(entry);
        draft.sources.push(index);
        self.testimony.seq_max = self.testimony.seq_max.max(head.last);
        Ok(Outcome::Appended { seq: head.last, timestamp, duplicate: false })
    }

    /// Stores from where on a channel is kept, now and then, so that what is before may leave the disk.
    fn store_floor(&self, draft: &mut Draft, name: &str, head: &mut Head) {
        let step = ((head.last - head.floor) / 16).clamp(STORE_FLOOR_STEP_MIN, STORE_FLOOR_STEP_MAX);
        let floor = head.first - 1;
        if floor >= head.floor + step {
            head.floor = floor;
            let key = channel_key(name);
            let record = Channel { number: head.number, floor }.encode(&key);
            draft.state.insert(key, Some(record));
            draft.floors.push((head.number, floor));
        }
    }

    fn fingerprint(&self, message: &PushRef<'_>) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.fingerprint_key);
        // Names hold no zero byte.
        hasher.write(message.from_client.as_bytes());
        hasher.write_u8(0);
        hasher.write(message.from_device.as_bytes());
        hasher.write_u8(0);
        hasher.write_u64(message.client_msg_id);
        hasher.finish()
    }

    /// Whether this sender used this `client_msg_id` before, within the window.
    fn find(
        &self,
        draft: &Draft,
        writes: &[Write<'_>],
        (name, head): (&str, Option<Head>),
        message: &PushRef<'_>,
        fingerprint: u64,
    ) -> Result<Option<Outcome>, Trouble> {
        let is_sender = |other: &PushRef<'_>| {
            (other.from_client, other.from_device, other.client_msg_id)
                == (message.from_client, message.from_device, message.client_msg_id)
        };
        for (position, entry) in self.seen.find(fingerprint) {
            let age = self.seen.end() - position;
            let in_draft = (draft.entries.len() as u64).checked_sub(age).map(|at| draft.sources[at as usize]);
            let same = if let Some(Write::Append { channel, message: other }) = in_draft.map(|source| &writes[source]) {
                if !is_sender(other) {
                    continue;
                }
                *channel == name && other.payload == message.payload
            } else {
                let in_channel = head.is_some_and(|head| head.number == entry.channel);
                let key = message_key(entry.channel, entry.seq);
                match self.base.messages.get(key)? {
                    Some(value) => {
                        let other = Message::decode(&key, &value)?.push()?;
                        if !is_sender(&other) {
                            continue;
                        }
                        in_channel && other.payload == message.payload
                    }
                    // Retention has removed it; what is left is the checksum.
                    None => in_channel && entry.content_crc == content_crc(message),
                }
            };
            return Ok(Some(match same {
                true => Outcome::Appended { seq: entry.seq, timestamp: self.seen.timestamp(position), duplicate: true },
                false => Outcome::IdReused,
            }));
        }
        Ok(None)
    }

    fn advance(&mut self, draft: &mut Draft, key: &CursorKey<'_>, to: u64) -> Result<Outcome, Trouble> {
        let head = match self.head(key.channel)? {
            Some(head) => head,
            None if self.is_full() => return Ok(Outcome::TooManyChannels),
            None => self.create(draft, key.channel)?,
        };
        let stored = cursor_key(head.number, key.client, key.kind);
        let at = self.number_in(draft, &stored)?;
        let moved = at.is_none_or(|at| to > at);
        if moved {
            let value = encode_number(&stored, to);
            draft.state.insert(stored, Some(value));
        }
        Ok(Outcome::Cursor { at: at.unwrap_or(0).max(to), moved: to > at.unwrap_or(0) })
    }

    fn forget(&mut self, draft: &mut Draft, key: &CursorKey<'_>) -> Result<Outcome, Trouble> {
        let Some(head) = self.head(key.channel)? else { return Ok(Outcome::Cursor { at: 0, moved: false }) };
        let stored = cursor_key(head.number, key.client, key.kind);
        let moved = self.number_in(draft, &stored)?.is_some();
        if moved {
            draft.state.insert(stored, None);
        }
        Ok(Outcome::Cursor { at: 0, moved })
    }

    /// A number of the keyspace `state`, as the draft leaves it.
    fn number_in(&self, draft: &Draft, key: &[u8]) -> Result<Option<u64>, Trouble> {
        match draft.state.get(key) {
            Some(value) => Ok(value.as_ref().map(|value| decode_number(key, value)).transpose()?),
            None => self.number(key),
        }
    }

    /// A number of the keyspace `state`.
    pub(super) fn number(&self, key: &[u8]) -> Result<Option<u64>, Trouble> {
        Ok(self.base.state.get(key)?.map(|value| decode_number(key, &value)).transpose()?)
    }

    /// Whether there are as many channels as there may be. None is ever removed: its record is what its sequences go on from.
    fn is_full(&self) -> bool {
        self.next_channel > self.retention.channels
    }

    /// A channel that never was: gives it a number.
    fn create(&mut self, draft: &mut Draft, name: &str) -> Result<Head, Trouble> {
        let number = self.next_channel;
        self.next_channel = number.checked_add(1).ok_or_else(|| Trouble::Damaged("there are too many channels".to_owned()))?;
        let key = channel_key(name);
        let record = Channel { number, floor: 0 }.encode(&key);
        draft.state.insert(key, Some(record));
        let head = self.empty(number, 0);
        self.heads.put(name, head);
        Ok(head)
    }

    /// A channel that holds no message.
    fn empty(&self, number: u32, floor: u64) -> Head {
        let last = floor.max(self.lost);
        Head { number, last, total: 0, first: last + 1, before_first: 0, first_timestamp: u64::MAX, floor }
    }

    /// Where a channel stands, without what is over; `None` if it never was.
    fn head(&mut self, name: &str) -> Result<Option<Head>, Trouble> {
        let known = self.heads.get(name).copied();
        let Some(mut head) = known.map_or_else(|| self.load(name), |head| Ok(Some(head)))? else { return Ok(None) };
        settle_age(&self.base, &mut head, self.expired)?;
        if known != Some(head) {
            self.heads.put(name, head);
        }
        Ok(Some(head))
    }

    /// Finds a channel's head in the database.
    fn load(&self, name: &str) -> Result<Option<Head>, Trouble> {
        let key = channel_key(name);
        let Some(value) = self.base.state.get(&key)? else { return Ok(None) };
        let Channel { number, floor } = Channel::decode(&key, &value)?;
        if floor > 0 {
            self.horizon.raise_floor(number, floor);
        }
        let Some(newest) = self.base.newest(number, floor + 1)? else { return Ok(Some(self.empty(number, floor))) };
        let last = newest.seq.max(self.lost);
        let first = (floor + 1).max(self.first_by_count(last));
        let mut head = Head { number, last, total: newest.total, first, before_first: 0, first_timestamp: 0, floor };
        refresh(&self.base, &mut head)?;
        cut_bytes(&self.base, &mut head, &self.retention)?;
        Ok(Some(head))
    }

    /// See [`crate::store::Log::read`]. What is damaged is left out, as lost, once all before it was read.
    pub(super) fn read(&mut self, name: &str, from: u64, limit: PageLimit, page: &mut Vec<u8>) -> Result<Bounds, Trouble> {
        let Some(head) = self.head(name)? else { return Ok(self.bounds_of(None)) };
        self.heads.trim();
        let start = page.len();
        let mut from = from.max(head.first);
        while let Err(trouble) = self.read_run(&head, from, limit, page) {
            if !trouble.is_damage() {
                return Err(trouble);
            }
            if page.len() > start {
                break;
            }
            self.report_damage(name, head.number, &trouble);
            let Some(next) = self.readable_after(&head, from)? else { break };
            from = next;
        }
        Ok(self.bounds_of(Some(head)))
    }

    fn read_run(&self, head: &Head, from: u64, limit: PageLimit, page: &mut Vec<u8>) -> Result<(), Trouble> {
        let start = page.len();
        for guard in self.base.range(head.number, from, head.last).take(limit.messages as usize) {
            let (key, value) = guard.into_inner().map_err(Trouble::Database)?;
            let body = Message::decode(&key, &value)?.body;
            if page.len() > start && page.len() + 4 + body.len() - start > limit.bytes as usize {
                break;
            }
            page.extend_from_slice(&(body.len() as u32).to_le_bytes());
            page.extend_from_slice(body);
        }
        Ok(())
    }

    /// The first message behind damage that begins at `damaged`: found in steps that double, then by halves.
    fn readable_after(&self, head: &Head, damaged: u64) -> Result<Option<u64>, Trouble> {
        let probe = |at: u64| match self.base.at_or_after(head.number, at) {
            Err(trouble) if trouble.is_damage() => Ok(None),
            found => found.map(Some),
        };
        let (mut low, mut step, mut best) = (damaged, 1, None);
        while low + step <= head.last && best.is_none() {
            match probe(low + step)? {
                None => (low, step) = (low + step, step * 2),
                Some(found) => best = Some((low + step, found)),
            }
        }
        let Some((mut high, mut found)) = best else { return Ok(None) };
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match probe(middle)? {
                None => low = middle,
                Some(earlier) => (high, found) = (middle, earlier),
            }
        }
        Ok(found.map(|found| found.seq))
    }

    /// Once for each channel: clients may ask as often as they like.
    fn report_damage(&mut self, name: &str, number: u32, trouble: &Trouble) {
        if self.damaged.len() < STORE_DAMAGE_REPORTS_MAX && self.damaged.insert(number) {
            log::error!("store: messages of {name} cannot be read, and are told as lost; try `weir log verify`: {trouble}");
        }
    }

    /// See [`crate::store::Log::bounds`].
    pub(super) fn bounds(&mut self, name: &str) -> Result<Bounds, Trouble> {
        let head = self.head(name)?;
        self.heads.trim();
        Ok(self.bounds_of(head))
    }

    fn bounds_of(&self, head: Option<Head>) -> Bounds {
        let head = head.unwrap_or_else(|| self.empty(0, 0));
        Bounds { first: head.first, last: head.last, lost: self.lost }
    }

    /// See [`crate::store::Log::cursor`].
    pub(super) fn cursor(&mut self, key: &CursorKey<'_>) -> Result<Option<u64>, Trouble> {
        let head = self.head(key.channel)?;
        self.heads.trim();
        head.map_or(Ok(None), |head| self.number(&cursor_key(head.number, key.client, key.kind)))
    }
}
