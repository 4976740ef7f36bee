//! Devices that are behind read the log: one page each in turn, a bounded number of pages at a time, so that they share the core
//! with live traffic and with each other.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    Shard,
    connections::NONE,
    devices::Place,
    forgets::Forgets,
    message::Item,
    outbound::Framed,
    reader::{Mode, Reader},
};
use crate::{
    ids::{ConnId, ShardId},
    io::Tick,
    limits::{CATCH_UP_BYTES_MAX, CATCH_UP_MESSAGES_MAX, CURSOR_SAVE_MS, CURSORS_PER_TURN, PAGES_IN_FLIGHT_MAX, STORE_RETRY_MS},
    store::{self, Bounds, PageLimit, Reply, Request, Span, Tag},
    wire::{ErrorCode, Frame, PushRef, body, encode},
};

/// Shards that are owed a tail are looked at again so soon: the rings may be free without an event of their own.
const OWED_RETRY_MS: u64 = 1;

/// Who waits for the log.
#[derive(Debug, Default)]
pub struct CatchUp {
    /// In line for a page. May hold connections that have gone meanwhile.
    line: VecDeque<(ConnId, Place)>,
    /// Pages under way, and those of SYNCs.
    pages: usize,
    /// The connections that wait for a page of history.
    pub syncs: BTreeSet<u64>,
    /// To be asked for again then, because the store could not answer.
    resting: VecDeque<(Tick, ConnId, Place)>,
    /// Acknowledged cursors that are saved then.
    saving: VecDeque<(Tick, ConnId, Place)>,
    /// Shards that have members of a group and could not be sent a message of it, with the newest of these.
    owed: BTreeMap<(ShardId, Box<str>), u64>,
    /// Cursors that are given up.
    pub forgets: Forgets,
    next_ticket: u32,
}

impl CatchUp {
    /// A shard could not be sent a message: it is told of the newest as soon as there is room.
    pub fn owe(&mut self, shard: ShardId, group: &str, seq: u64) {
        let newest = self.owed.entry((shard, group.into())).or_default();
        *newest = seq.max(*newest);
    }

    /// Everything that is kept for somebody.
    pub fn len(&self) -> usize {
        self.line.len()
            + self.pages
            + self.syncs.len()
            + self.resting.len()
            + self.saving.len()
            + self.owed.len()
            + self.forgets.len()
    }
}

impl Shard {
    /// Tells requests of one reader from those of another in the same place.
    pub(super) fn next_ticket(&mut self) -> u32 {
        // 0 stands for no ticket.
        self.catch_up.next_ticket = self.catch_up.next_ticket.wrapping_add(1).max(1);
        self.catch_up.next_ticket
    }

    /// Puts a reader into the line for a page.
    pub(super) fn line_up(&mut self, reader: &mut Reader, conn: ConnId, place: Place) {
        reader.mode = Mode::Queued;
        self.catch_up.line.push_back((conn, place));
    }

    /// A reader that waited for room gets in line.
    pub(super) fn wake_reader(&mut self, conn: ConnId, place: Place) {
        self.with_reader(conn, place, |shard, reader| {
            if reader.mode == Mode::Blocked {
                shard.line_up(reader, conn, place);
            }
        });
    }

    /// Lends a reader out while the rest of the shard changes.
    pub(super) fn with_reader(&mut self, conn: ConnId, place: Place, change: impl FnOnce(&mut Shard, &mut Reader)) {
        let Some(mut reader) = self.reader(conn, place).map(|reader| *reader) else { return };
        change(self, &mut reader);
        // The change may have ended the connection.
        if let Some(kept) = self.reader(conn, place) {
            *kept = reader;
        }
    }

    /// Whoever follows a channel that is at home here, and has not heard of this message, reads it from the log.
    pub(super) fn tell_tail(&mut self, channel: &str, seq: u64) {
        match channel.split_once('/') {
            Some(("user", client)) => {
                let mut slot = self.directory.first(self.keyed.name(client), client, &self.connections);
                while slot != NONE {
                    let connection = self.connections.at(slot);
                    let conn = ConnId { slot, generation: connection.generation };
                    slot = connection.next_device;
                    self.with_reader(conn, Place::Inbox, |shard, reader| shard.hear_of(reader, conn, Place::Inbox, seq));
                }
            }
            Some((_, group)) => {
                for shard in self.home_groups.shards(group).to_vec() {
                    if self.is_me(shard) {
                        self.hear_tail(group, seq);
                    } else {
                        self.catch_up.owe(shard, group, seq);
                    }
                }
            }
            None => unreachable!("channels were checked when they came"),
        }
    }

    fn hear_of(&mut self, reader: &mut Reader, conn: ConnId, place: Place, seq: u64) {
        reader.hear_of(seq);
        if reader.mode == Mode::Live && reader.is_behind() {
            self.stats.fell_behind.add(1);
            self.line_up(reader, conn, place);
        }
    }

    /// A member's shard missed messages of a group, the newest of which is `seq`.
    pub(super) fn hear_tail(&mut self, group: &str, seq: u64) {
        let Some(index) = self.local_groups.find(group) else { return };
        let mut readers = self.local_groups.take_readers(index);
        let members = self.local_groups.take_members(index);
        for (&slot, reader) in members.iter().zip(&mut readers) {
            let conn = ConnId { slot, generation: self.connections.at(slot).generation };
            self.hear_of(reader, conn, Place::Group(index), seq);
        }
        self.local_groups.return_members(index, members);
        self.local_groups.return_readers(index, readers);
    }

    /// The last word of a reader that goes. Without room for it, the device gets again what it had not saved.
    pub(super) fn save_last(&mut self, conn: ConnId, place: Place, to: u64) {
        if self.storage.has_room() {
            let channel = self.channel_at(conn, place);
            self.save_cursor(conn, &channel, to, 0);
        } else {
            self.stats.cursors_given_up.add(1);
        }
    }

    /// What is due in this turn. Gives when to come back.
    pub(super) fn advance_catch_up(&mut self) -> Option<Tick> {
        self.tell_owed();
        self.ask_again();
        self.save_due();
        self.forget_again();
        self.ask_for_pages();
        let rest = self.catch_up.resting.front().map(|(at, ..)| *at);
        let save = self.catch_up.saving.front().map(|(at, ..)| *at);
        let owed = (!self.catch_up.owed.is_empty()).then(|| self.now.plus_ms(OWED_RETRY_MS));
        let due = [rest, save, self.catch_up.forgets.next()].into_iter().flatten().min();
        let Some(due) = due else { return owed };
        // The store's next answer makes room, and is a turn of its own.
        if self.storage.has_room() { Some(owed.map_or(due, |owed| owed.min(due))) } else { owed }
    }

    fn tell_owed(&mut self) {
        while let Some(entry) = self.catch_up.owed.first_entry() {
            let ((shard, group), seq) = (entry.key().clone(), *entry.get());
            if !self.outbox.put(shard, |batch| Item::Tail { group: batch.put(group.as_bytes()), seq }) {
                return;
            }
            self.catch_up.owed.pop_first();
        }
    }

    fn ask_again(&mut self) {
        for _ in 0..CURSORS_PER_TURN {
            if !self.storage.has_room() {
                return;
            }
            let Some((conn, place)) = pop_due(&mut self.catch_up.resting, self.now) else { return };
            let mut opens = false;
            self.with_reader(conn, place, |shard, reader| match reader.mode {
                Mode::Joining | Mode::Opening => opens = true,
                Mode::Resting => shard.line_up(reader, conn, place),
                Mode::Absent | Mode::Live | Mode::Queued | Mode::Reading | Mode::Blocked => {}
            });
            if opens {
                self.open(conn, place);
            }
        }
    }

    /// The store could not answer: asked again in a while.
    pub(super) fn rest(&mut self, conn: ConnId, place: Place) {
        self.catch_up.resting.push_back((self.now.plus_ms(STORE_RETRY_MS), conn, place));
    }

    /// An acknowledgement is to be saved, together with those that follow.
    pub(super) fn save_later(&mut self, conn: ConnId, place: Place) {
        self.catch_up.saving.push_back((self.now.plus_ms(CURSOR_SAVE_MS), conn, place));
    }

    fn save_due(&mut self) {
        for _ in 0..CURSORS_PER_TURN {
            if !self.storage.has_room() {
                return;
            }
            let Some((conn, place)) = pop_due(&mut self.catch_up.saving, self.now) else { return };
            let unsaved = self.reader(conn, place).and_then(Reader::take_unsaved);
            if let Some(to) = unsaved {
                let channel = self.channel_at(conn, place);
                self.save_cursor(conn, &channel, to, 0);
            }
        }
    }

    fn ask_for_pages(&mut self) {
        // A turn in which bytes leave comes back here.
        let budget = self.settings.limits.outbound_bytes_per_shard;
        while self.catch_up.pages < PAGES_IN_FLIGHT_MAX && self.outbound_bytes <= budget {
            let Some((conn, place)) = self.catch_up.line.pop_front() else { return };
            self.with_reader(conn, place, |shard, reader| {
                if reader.mode == Mode::Queued {
                    shard.ask_for_page(reader, conn, place);
                }
            });
        }
    }

    /// So much may wait on a connection when a page is asked for it. Catching up takes half of the shard's budget at most, in equal
    /// shares, and in the last quarter only those are served who hold nothing: many slow devices keep nobody else from its page.
    pub(super) fn catch_up_allowance(&self) -> usize {
        let limits = &self.settings.limits;
        let budget = limits.outbound_bytes_per_shard;
        if self.outbound_bytes > budget - budget / 4 {
            return 0;
        }
        (limits.outbound_bytes_per_connection / 2).min(budget / 2 / self.outbounds.len().max(1))
    }

    fn ask_for_page(&mut self, reader: &mut Reader, conn: ConnId, place: Place) {
        let allowance = self.catch_up_allowance();
        let queued = self.queued_bytes(conn.slot);
        let Some(device) = self.device(conn) else { return };
        let room = device.room();
        if room == 0 || queued > allowance {
            device.is_blocked = true;
            reader.mode = Mode::Blocked;
            return;
        }
        let bytes = u32::try_from(allowance - queued).unwrap_or(u32::MAX).min(CATCH_UP_BYTES_MAX);
        let limit = PageLimit { messages: room.min(CATCH_UP_MESSAGES_MAX), bytes };
        let channel = self.channel_at(conn, place);
        let tag = Tag { shard: self.settings.id, conn, ticket: reader.ticket };
        let from = reader.next();
        self.storage.read(|batch| Request::Read { channel: batch.put(channel.as_bytes()), from, limit, sync: false, tag });
        self.catch_up.pages += 1;
        self.stats.pages_read.add(1);
        reader.mode = Mode::Reading;
    }

    /// A page came for a device that is behind.
    pub(super) fn page_came(&mut self, batch: &store::Batch, tag: Tag, channel: Span, reply: &Reply) {
        self.catch_up.pages -= 1;
        let (conn, channel) = (tag.conn, batch.name(channel));
        let Some(place) = self.place_of(conn, channel) else { return };
        self.with_reader(conn, place, |shard, reader| {
            if reader.mode != Mode::Reading || reader.ticket != tag.ticket {
                return;
            }
            match reply {
                Reply::Page { bounds, entries } => {
                    shard.take_page(reader, conn, place, channel, *bounds, batch.entries(*entries))
                }
                Reply::Failed(_) => {
                    reader.mode = Mode::Resting;
                    shard.rest(conn, place);
                }
                other => unreachable!("the store answered a page with {other:?}"),
            }
        });
    }

    fn take_page(
        &mut self,
        reader: &mut Reader,
        conn: ConnId,
        place: Place,
        channel: &str,
        bounds: Bounds,
        entries: store::Entries<'_>,
    ) {
        reader.hear_of(bounds.last);
        let mut scratch = std::mem::take(&mut self.scratch);
        let (mut took_all, mut any) = (true, false);
        for message in entries {
            any = true;
            if message.seq > reader.next() {
                self.announce_gap(reader, conn, channel, message.seq - 1, bounds);
            }
            scratch.clear();
            encode(&Frame::Push(PushRef { channel, ..message }), &mut scratch);
            if !self.push_durable(conn, &mut Framed::new(&scratch)) {
                took_all = false;
                break;
            }
            reader.took(message.seq);
        }
        self.scratch = scratch;
        // An empty page says that all the rest is gone.
        let gone = if any { bounds.first - 1 } else { bounds.last.max(bounds.first - 1) };
        if took_all && reader.next() <= gone {
            self.announce_gap(reader, conn, channel, gone, bounds);
        }
        if !self.is_active(conn) {
            return;
        }
        if reader.is_behind() {
            self.line_up(reader, conn, place);
        } else {
            reader.mode = Mode::Live;
        }
    }

    /// Messages up to `to` are gone.
    pub(super) fn announce_gap(&mut self, reader: &mut Reader, conn: ConnId, channel: &str, to: u64, bounds: Bounds) {
        let from = reader.next();
        let code = if bounds.is_lost(from, to) { ErrorCode::Lost } else { ErrorCode::Expired };
        self.stats.gaps.add(1);
        self.answer(conn, &Frame::Gap(body::Gap { channel: channel.to_owned(), from, to, code: code.number() }));
        reader.skip_to(to);
    }
}

/// The first entry, if its time has come.
fn pop_due(list: &mut VecDeque<(Tick, ConnId, Place)>, now: Tick) -> Option<(ConnId, Place)> {
    if list.front()?.0 > now {
        return None;
    }
    list.pop_front().map(|(_, conn, place)| (conn, place))
}
