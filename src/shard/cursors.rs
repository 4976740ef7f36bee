//! Where devices stand: asking the store at LOGIN and JOIN, RECEIVED, READ, and pages of history.
#![forbid(unsafe_code)]

use super::{
    Shard,
    connections::NONE,
    devices::Place,
    reader::{Acknowledged, Early, Mode, Reader},
};
use crate::{
    ids::ConnId,
    limits::{HISTORY_BYTES_MAX, SYNCS_IN_FLIGHT_MAX},
    session::{Refusal, Target, check_channel},
    store::{self, Bounds, PageLimit, Reply, Request, Span, Tag},
    wire::{ErrorCode, Frame, FrameType, body},
};

/// What a page of history may take up beside its messages: names, numbers, and lengths of 200 messages.
const PAGE_OVERHEAD_BYTES: u32 = 4 * 1024;

impl Shard {
    /// Asks the store where a device stands in a channel.
    pub(super) fn open(&mut self, conn: ConnId, place: Place) {
        let channel = self.channel_at(conn, place);
        let Some(ticket) = self.reader(conn, place).map(|reader| reader.ticket) else { return };
        if self.waits_for_forget(conn, place) {
            return;
        }
        let names = &self.connections.at(conn.slot).names;
        let tag = Tag { shard: self.settings.id, conn, ticket };
        self.storage.read(|batch| Request::Open {
            channel: batch.put(channel.as_bytes()),
            client: batch.put(names.client().as_bytes()),
            device: batch.put(names.device().as_bytes()),
            tag,
        });
    }

    /// The store has said where a device stands.
    pub(super) fn opened(&mut self, tag: Tag, channel: &str, reply: &Reply) {
        let conn = tag.conn;
        let Some(place) = self.place_of(conn, channel) else { return };
        let mut early = Early::default();
        self.with_reader(conn, place, |shard, reader| {
            if !reader.is_opening() || reader.ticket != tag.ticket {
                return;
            }
            shard.answer_joins(reader, conn, place);
            if !shard.is_active(conn) {
                return;
            }
            match reply {
                Reply::Opened { bounds, received, read } => {
                    let said = reader.early();
                    shard.begin_reading(reader, conn, place, channel, *bounds, *received, *read);
                    if !reader.is_opening() {
                        early = said;
                    }
                }
                Reply::Failed(_) => shard.rest(conn, place),
                other => unreachable!("the store answered an opening with {other:?}"),
            }
        });
        // What the client said meanwhile is judged like what it says from now on.
        if early.received > 0 && self.is_active(conn) {
            self.receive(conn, &body::Received { channel: channel.to_owned(), seq: early.received });
        }
        if early.read > 0 && self.is_active(conn) {
            self.mark_read(conn, &body::Read { channel: channel.to_owned(), seq: early.read });
        }
    }

    /// JOIN_OK, for all that wait for the store.
    pub(super) fn answer_joins(&mut self, reader: &mut Reader, conn: ConnId, place: Place) {
        let Place::Group(group) = place else { return };
        reader.mode = Mode::Opening;
        for _ in 0..std::mem::take(&mut reader.joins_due) {
            // Answers may be what ends a connection that does not read, and with it the group here.
            if self.is_active(conn) {
                self.answer_join(conn, group);
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one answer of the store, taken apart")]
    fn begin_reading(
        &mut self,
        reader: &mut Reader,
        conn: ConnId,
        place: Place,
        channel: &str,
        bounds: Bounds,
        saved: Option<u64>,
        read: u64,
    ) {
        // A device that nothing is known of stands at 0 of its own channel: that needs no cursor.
        let Some(saved) = saved.or((place == Place::Inbox).then_some(0)) else {
            // Whoever is told where it stands in a group may rely on being remembered: first the log, then CURSORS.
            let start = reader.brought().unwrap_or(u64::MAX).min(bounds.last);
            self.save_cursor(conn, channel, start, reader.ticket);
            return;
        };
        let start = match reader.brought() {
            Some(cursor) if cursor > bounds.last => {
                self.refuse_cursor(conn, place, cursor, bounds.last);
                bounds.last
            }
            Some(cursor) => cursor,
            None => saved.min(bounds.last),
        };
        if saved < start {
            self.save_cursor(conn, channel, start, 0);
        }
        reader.open(start, saved.max(start), bounds.last);
        self.answer(conn, &Frame::Cursors(cursors(channel, bounds, start, read)));
        if reader.next() < bounds.first {
            self.announce_gap(reader, conn, channel, bounds.first - 1, bounds);
        }
        if reader.is_behind() {
            self.line_up(reader, conn, place);
        }
    }

    fn refuse_cursor(&mut self, conn: ConnId, place: Place, cursor: u64, last: u64) {
        let frame = match place {
            Place::Inbox => FrameType::Login,
            Place::Group(_) => FrameType::Join,
        };
        let message = format!("the cursor says {cursor}, and the newest message of the channel is {last}; going on from there");
        self.refuse(conn, Refusal::answer(ErrorCode::CursorAhead, frame, message));
    }

    /// Gives a cursor to the store. `ticket`: of a reader that waits for it, or 0.
    pub(super) fn save_cursor(&mut self, conn: ConnId, channel: &str, to: u64, ticket: u32) {
        let names = &self.connections.at(conn.slot).names;
        let tag = Tag { shard: self.settings.id, conn, ticket };
        self.stats.cursors_saved.add(1);
        self.storage.write(|batch| Request::Received {
            channel: batch.put(channel.as_bytes()),
            client: batch.put(names.client().as_bytes()),
            device: batch.put(names.device().as_bytes()),
            to,
            tag,
        });
    }

    /// A cursor was saved, or was not.
    pub(super) fn cursor_saved(&mut self, tag: Tag, channel: &str, reply: &Reply) {
        if let Reply::Failed(failure) = reply {
            // Saved later, or, if the connection has ended, delivered again after the next LOGIN, as the promise allows.
            log::debug!("shard {}: a cursor was not saved: {failure:?}", self.settings.id);
        }
        let Some(place) = self.place_of(tag.conn, channel) else { return };
        if tag.ticket == 0 {
            if matches!(reply, Reply::Failed(_)) && self.reader(tag.conn, place).is_some_and(Reader::unsave) {
                self.save_later(tag.conn, place);
            }
            return;
        }
        let waits = |reader: &mut Reader| reader.is_opening() && reader.ticket == tag.ticket;
        if self.reader(tag.conn, place).is_some_and(waits) {
            match reply {
                Reply::Done => self.open(tag.conn, place),
                Reply::Failed(_) => self.rest(tag.conn, place),
                other => unreachable!("the store answered a cursor with {other:?}"),
            }
        }
    }

    /// RECEIVED.
    pub(super) fn receive(&mut self, conn: ConnId, received: &body::Received) {
        let Some(place) = self.followed(conn, &received.channel, FrameType::Received) else { return };
        let reader = self.reader(conn, place).expect("it was just found");
        let next = reader.next();
        match reader.acknowledge(received.seq) {
            Acknowledged::Known => {}
            Acknowledged::NotSent => {
                let message =
                    format!("{} was not sent to this device in {:?}; it waits for {next}", received.seq, received.channel);
                self.refuse(conn, Refusal::answer(ErrorCode::NotSent, FrameType::Received, message));
            }
            Acknowledged::Freed { messages, is_unsaved } => {
                if let Some(device) = self.device(conn) {
                    device.unacked -= messages;
                }
                if is_unsaved {
                    self.save_later(conn, place);
                }
                self.wake_readers(conn);
            }
        }
    }

    /// The place of a channel that a frame is about; if the device does not follow it, the frame is refused.
    fn followed(&mut self, conn: ConnId, channel: &str, frame: FrameType) -> Option<Place> {
        let place = self.place_of(conn, channel);
        let follows = place.and_then(|place| self.reader(conn, place)).is_some_and(|reader| reader.mode != Mode::Absent);
        if follows {
            return place;
        }
        let message = format!("this device does not follow {channel:?}: LOGIN asks for a window, JOIN for a group");
        self.refuse(conn, Refusal::answer(ErrorCode::UnknownChannel, frame, message));
        None
    }

    /// READ.
    pub(super) fn mark_read(&mut self, conn: ConnId, read: &body::Read) {
        let Some(place) = self.followed(conn, &read.channel, FrameType::Read) else { return };
        let reader = self.reader(conn, place).expect("it was just found");
        if reader.is_opening() {
            // The answer comes behind CURSORS.
            reader.reads_early(read.seq);
            return;
        }
        let known = reader.known();
        if read.seq > known {
            let message = format!("the newest message of {:?} is {known}, not {}", read.channel, read.seq);
            self.refuse(conn, Refusal::answer(ErrorCode::CursorAhead, FrameType::Read, message));
            return;
        }
        if !self.store_takes(conn, FrameType::Read) {
            return;
        }
        let names = &self.connections.at(conn.slot).names;
        let tag = Tag { shard: self.settings.id, conn, ticket: 0 };
        self.storage.write(|batch| Request::MarkRead {
            channel: batch.put(read.channel.as_bytes()),
            client: batch.put(names.client().as_bytes()),
            to: read.seq,
            tag,
        });
    }

    /// The read cursor of a client is known: its devices are told if it has moved, else only the one that asked.
    pub(super) fn marked_read(&mut self, tag: Tag, channel: &str, client: &str, to: u64, reply: &Reply) {
        let (bounds, at, news) = match reply {
            // Said once more, it may be news too: the store may have failed the first time, and nobody was told.
            Reply::Read { bounds, at, moved } => (*bounds, *at, *moved || *at == to),
            Reply::Failed(failure) => {
                self.not_stored(tag.conn, FrameType::Read, failure);
                return;
            }
            other => unreachable!("the store answered READ with {other:?}"),
        };
        let mut slot = self.directory.first(self.keyed.name(client), client, &self.connections);
        while slot != NONE {
            let connection = self.connections.at(slot);
            let conn = ConnId { slot, generation: connection.generation };
            slot = connection.next_device;
            if news || conn == tag.conn {
                self.tell_read(conn, channel, bounds, at);
            }
        }
    }

    fn tell_read(&mut self, conn: ConnId, channel: &str, bounds: Bounds, read: u64) {
        let Some(place) = self.place_of(conn, channel) else { return };
        let Some(reader) = self.reader(conn, place) else { return };
        let is_open = reader.mode != Mode::Absent && !reader.is_opening();
        let received = reader.received();
        if is_open {
            self.answer(conn, &Frame::Cursors(cursors(channel, bounds, received, read)));
        }
    }

    /// SYNC.
    pub(super) fn sync(&mut self, conn: ConnId, sync: &body::Sync) {
        let target = check_channel(&sync.channel, FrameType::Sync);
        if let Ok(Target::User(client)) = target
            && self.connections.at(conn.slot).names.client() != client
        {
            let message = "only the client itself may read its own channel";
            self.refuse(conn, Refusal::answer(ErrorCode::ReadForbidden, FrameType::Sync, message));
            return;
        }
        if self.catch_up.syncs.len() >= SYNCS_IN_FLIGHT_MAX || self.catch_up.syncs.contains(&conn.to_bits()) {
            let message = "a page is being read for this connection, or as many on this core as may; ask again when it has come";
            let refusal = Refusal::answer(ErrorCode::Overloaded, FrameType::Sync, message);
            self.refuse(conn, Refusal { retry_after_ms: 100, ..refusal });
            return;
        }
        if !self.store_takes(conn, FrameType::Sync) {
            return;
        }
        self.catch_up.syncs.insert(conn.to_bits());
        self.stats.pages_history.add(1);
        let bytes = (self.settings.rules.max_body_bytes - PAGE_OVERHEAD_BYTES).min(HISTORY_BYTES_MAX);
        let limit = PageLimit { messages: sync.limit, bytes };
        let tag = Tag { shard: self.settings.id, conn, ticket: 0 };
        let from = sync.from;
        self.storage.read(|batch| Request::Read { channel: batch.put(sync.channel.as_bytes()), from, limit, sync: true, tag });
    }

    /// A page of history came.
    pub(super) fn synced(&mut self, batch: &store::Batch, tag: Tag, channel: Span, from: u64, reply: &Reply) {
        self.catch_up.syncs.remove(&tag.conn.to_bits());
        let (bounds, entries) = match reply {
            Reply::Page { bounds, entries } => (*bounds, batch.entries(*entries)),
            Reply::Failed(failure) => {
                self.not_stored(tag.conn, FrameType::Sync, failure);
                return;
            }
            other => unreachable!("the store answered SYNC with {other:?}"),
        };
        let messages: Vec<body::Push> = entries
            .map(|message| body::Push {
                channel: String::new(),
                from_client: message.from_client.to_owned(),
                from_device: message.from_device.to_owned(),
                client_msg_id: message.client_msg_id,
                payload: message.payload.to_vec(),
                seq: message.seq,
                timestamp: message.timestamp,
                key: String::new(),
            })
            .collect();
        let next = messages.last().map_or(from.max(bounds.last + 1), |message| message.seq + 1);
        let channel = batch.name(channel).to_owned();
        let page = body::Page { channel, from, first: bounds.first, last: bounds.last, next, messages };
        self.answer(tag.conn, &Frame::Page(page));
    }
}

fn cursors(channel: &str, bounds: Bounds, received: u64, read: u64) -> body::Cursors {
    body::Cursors {
        channel: channel.to_owned(),
        first: bounds.first,
        last: bounds.last,
        received,
        read,
        unread: bounds.last.saturating_sub(read),
    }
}
