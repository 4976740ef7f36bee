//! A durable message: from SEND to the home of its channel, into the log, and from there to the sender (ACCEPTED) and to the
//! devices that follow the channel.
#![forbid(unsafe_code)]

use super::{
    Shard,
    connections::NONE,
    devices::Place,
    message::{Batch, Item},
    outbound::Framed,
    reader::{Offer, Reader},
};
use crate::{
    ids::{ConnId, ShardId},
    limits::CHANNEL_RETRY_MS,
    session::{Refusal, Target},
    store::{self, Append, Failure, Reply, Request, Tag},
    wire::{AcceptedRef, ErrorCode, Frame, FrameType, PushRef, SendRef, body, encode},
};

/// Why a message was not accepted, and when to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAccepted {
    Overloaded,
    Behind,
    StoreFull,
    TooManyChannels,
    StoreUnavailable,
    IdReused,
}

impl NotAccepted {
    fn of(failure: &Failure) -> NotAccepted {
        match failure {
            Failure::Full => NotAccepted::StoreFull,
            Failure::TooManyChannels => NotAccepted::TooManyChannels,
            Failure::Behind => NotAccepted::Behind,
            Failure::Unavailable(_) => NotAccepted::StoreUnavailable,
        }
    }

    fn refusal(self, frame: FrameType) -> Refusal {
        let (code, retry_after_ms, message) = match self {
            NotAccepted::Overloaded => (ErrorCode::Overloaded, 100, "as much waits for the log as may; send it again later"),
            NotAccepted::Behind => (ErrorCode::Overloaded, 1_000, "the disk does not keep up; send it again later"),
            NotAccepted::StoreFull => (
                ErrorCode::StoreFull,
                1_000,
                "the disk has no room for more; try again later, a SEND with the same client_msg_id",
            ),
            NotAccepted::TooManyChannels => (
                ErrorCode::StoreFull,
                CHANNEL_RETRY_MS,
                "nothing was ever sent to this channel, and there is no room for one more channel; those that there are take messages",
            ),
            NotAccepted::StoreUnavailable => {
                (ErrorCode::StoreUnavailable, 1_000, "the log cannot be used now; try again, a SEND with the same client_msg_id")
            }
            NotAccepted::IdReused => {
                (ErrorCode::MessageIdReused, 0, "this client_msg_id was used before, for another message; choose a new one")
            }
        };
        Refusal { retry_after_ms, ..Refusal::answer(code, frame, message) }
    }
}

/// What ACCEPTED says, on its way to the sender's shard; the channel lies in the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acceptance {
    pub client_msg_id: u64,
    pub seq: u64,
    pub timestamp: u64,
    pub durability: body::Durability,
    pub duplicate: bool,
}

impl Shard {
    /// A durable SEND of one of our sessions: to the home of its channel.
    pub(super) fn append_message(&mut self, conn: ConnId, target: Target<'_>, send: &SendRef<'_>) {
        if send.client_msg_id == 0 {
            let message = "a durable message needs a client_msg_id other than 0, by which a retry is recognized";
            self.refuse(conn, Refusal::answer(ErrorCode::MessageIdMissing, FrameType::Send, message));
            return;
        }
        self.stats.sends_durable.add(1);
        let (Target::User(name) | Target::Group(name)) = target;
        let home = self.home(self.keyed.name(name));
        let names = &self.connections.at(conn.slot).names;
        let sender = Tag { shard: self.settings.id, conn, ticket: 0 };
        if self.is_me(home) {
            let message = PushRef {
                channel: send.channel,
                from_client: names.client(),
                from_device: names.device(),
                client_msg_id: send.client_msg_id,
                payload: send.payload,
                ..PushRef::default()
            };
            if self.storage.has_room() {
                self.stats.appends.add(1);
                self.storage.write(|batch| append_request(batch, sender, &message));
            } else {
                self.not_accepted(sender, send.client_msg_id, NotAccepted::Overloaded);
            }
        } else if !self.outbox.put(home, |batch| Item::Append {
            channel: batch.put(send.channel.as_bytes()),
            from_client: batch.put(names.client().as_bytes()),
            from_device: batch.put(names.device().as_bytes()),
            payload: batch.put(send.payload),
            client_msg_id: send.client_msg_id,
            conn,
        }) {
            self.not_accepted(sender, send.client_msg_id, NotAccepted::Overloaded);
        }
    }

    /// Another shard's session sends to a channel that is at home here.
    pub(super) fn append_posted(&mut self, sender: Tag, message: &PushRef<'_>) {
        if self.storage.has_room() {
            self.stats.appends.add(1);
            self.storage.write(|batch| append_request(batch, sender, message));
        } else {
            self.not_accepted(sender, message.client_msg_id, NotAccepted::Overloaded);
        }
    }

    /// Tells a sender that its message was not accepted.
    pub(super) fn not_accepted(&mut self, sender: Tag, client_msg_id: u64, why: NotAccepted) {
        let Tag { shard, conn, .. } = sender;
        if self.is_me(shard) {
            self.refuse(conn, Refusal { client_msg_id, ..why.refusal(FrameType::Send) });
        } else {
            self.outbox.put_vital(shard, |_| Item::NotAccepted { conn, client_msg_id, why });
        }
    }

    /// Answers a request that the store could not carry out.
    pub(super) fn not_stored(&mut self, conn: ConnId, frame: FrameType, failure: &Failure) {
        self.refuse(conn, NotAccepted::of(failure).refusal(frame));
    }

    /// Whether the store takes a request that can be refused; if not, it is.
    pub(super) fn store_takes(&mut self, conn: ConnId, frame: FrameType) -> bool {
        if !self.storage.has_room() {
            self.refuse(conn, NotAccepted::Overloaded.refusal(frame));
            return false;
        }
        true
    }

    /// A batch of requests came back from the store.
    pub(super) fn handle_stored(&mut self, mut batch: Box<store::Batch>) {
        let replies = std::mem::take(&mut batch.replies);
        assert_eq!(replies.len(), batch.requests.len(), "the store answers every request");
        for (request, reply) in batch.requests.iter().zip(&replies) {
            match request {
                Request::Append(append) => self.appended(&batch, append, reply),
                Request::Open { channel, tag, .. } => self.opened(*tag, batch.name(*channel), reply),
                Request::Read { channel, tag, sync: true, from, .. } => self.synced(&batch, *tag, *channel, *from, reply),
                Request::Read { channel, tag, sync: false, .. } => self.page_came(&batch, *tag, *channel, reply),
                Request::MarkRead { channel, client, tag, to } => {
                    self.marked_read(*tag, batch.name(*channel), batch.name(*client), *to, reply);
                }
                Request::Received { channel, tag, .. } => self.cursor_saved(*tag, batch.name(*channel), reply),
                Request::Forget { channel, client, device } => {
                    let failure = if let Reply::Failed(failure) = reply { Some(failure) } else { None };
                    self.cursor_forgotten(batch.name(*channel), batch.name(*client), batch.name(*device), failure);
                }
            }
        }
        batch.replies = replies;
        self.storage.answered(batch);
    }

    fn appended(&mut self, batch: &store::Batch, append: &Append, reply: &Reply) {
        let (seq, timestamp) = match reply {
            Reply::Appended { seq, timestamp, duplicate, durability } => {
                let accepted = Acceptance {
                    client_msg_id: append.client_msg_id,
                    seq: *seq,
                    timestamp: *timestamp,
                    durability: *durability,
                    duplicate: *duplicate,
                };
                self.accepted(append.sender, batch.name(append.channel), accepted);
                if *duplicate {
                    self.stats.accepted_again.add(1);
                    // The first time, the store may have said that it failed: then nobody has heard of the message yet.
                    self.tell_tail(batch.name(append.channel), *seq);
                    return;
                }
                self.stats.accepted_messages.add(1);
                (*seq, *timestamp)
            }
            Reply::IdReused => {
                self.not_accepted(append.sender, append.client_msg_id, NotAccepted::IdReused);
                return;
            }
            Reply::Failed(failure) => {
                self.stats.appends_failed.add(1);
                self.not_accepted(append.sender, append.client_msg_id, NotAccepted::of(failure));
                return;
            }
            Reply::Opened { .. } | Reply::Page { .. } | Reply::Read { .. } | Reply::Done => {
                unreachable!("the store answered an append with {reply:?}")
            }
        };
        let channel = batch.name(append.channel);
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        encode(&Frame::Push(PushRef { channel, seq, timestamp, ..batch.message(append) }), &mut scratch);
        match channel.split_once('/') {
            Some(("user", client)) => self.deliver_durable(client, seq, &scratch),
            Some((_, group)) => self.publish_durable(group, seq, &scratch),
            None => unreachable!("channels were checked when they came"),
        }
        if scratch.capacity() > self.scratch.capacity() {
            self.scratch = scratch;
        }
    }

    /// Tells the sender that its message is kept.
    pub(super) fn accepted(&mut self, sender: Tag, channel: &str, accepted: Acceptance) {
        let Tag { shard, conn, .. } = sender;
        if self.is_me(shard) {
            let Acceptance { client_msg_id, seq, timestamp, durability, duplicate } = accepted;
            let durability = durability as i32;
            let body = AcceptedRef { client_msg_id, channel, seq, timestamp, durability, duplicate };
            self.answer(conn, &Frame::Accepted(body));
        } else {
            self.outbox.put_vital(shard, |batch| Item::Accepted { conn, channel: batch.put(channel.as_bytes()), accepted });
        }
    }

    /// To the devices of a client that is at home here.
    fn deliver_durable(&mut self, client: &str, seq: u64, frame: &[u8]) {
        let mut framed = Framed::new(frame);
        let mut slot = self.directory.first(self.keyed.name(client), client, &self.connections);
        while slot != NONE {
            let connection = self.connections.at(slot);
            let (index, conn) = (connection.device, ConnId { slot, generation: connection.generation });
            slot = connection.next_device;
            if index != NONE {
                let mut reader = self.devices[index as usize].inbox;
                self.offer(&mut reader, conn, Place::Inbox, seq, &mut framed);
                self.devices[index as usize].inbox = reader;
            }
        }
    }

    /// To all shards with members of a group that is at home here.
    fn publish_durable(&mut self, group: &str, seq: u64, frame: &[u8]) {
        for shard in self.home_groups.shards(group) {
            if self.is_me(shard) {
                self.fan_out_durable(group, seq, frame);
            } else if !self.outbox.put(shard, |batch| Item::Follow {
                group: batch.put(group.as_bytes()),
                frame: batch.put(frame),
                seq,
            }) {
                self.stats.tails_owed.add(1);
                self.catch_up.owe(shard, group, seq);
            }
        }
    }

    /// To the members of a group on this shard.
    pub(super) fn fan_out_durable(&mut self, group: &str, seq: u64, frame: &[u8]) {
        let Some(index) = self.local_groups.find(group) else { return };
        let mut readers = self.local_groups.take_readers(index);
        if readers.is_empty() {
            return;
        }
        let members = self.local_groups.take_members(index);
        let mut framed = Framed::new(frame);
        for (&slot, reader) in members.iter().zip(&mut readers) {
            let conn = ConnId { slot, generation: self.connections.at(slot).generation };
            self.offer(reader, conn, Place::Group(index), seq, &mut framed);
        }
        self.local_groups.return_members(index, members);
        self.local_groups.return_readers(index, readers);
    }

    /// The one place where a message that was just accepted meets a device.
    fn offer(&mut self, reader: &mut Reader, conn: ConnId, place: Place, seq: u64, framed: &mut Framed<'_>) {
        match reader.offer(seq) {
            Offer::Leave => {}
            Offer::Take if self.push_durable(conn, framed) => reader.took(seq),
            Offer::Take | Offer::Behind => {
                self.stats.fell_behind.add(1);
                self.line_up(reader, conn, place);
            }
        }
    }

    /// Queues a durable PUSH, if window and budgets have room for it.
    pub(super) fn push_durable(&mut self, conn: ConnId, framed: &mut Framed<'_>) -> bool {
        let has_room = self.has_outbound_room(conn.slot, framed.len());
        let Some(device) = self.device(conn).filter(|device| has_room && device.room() > 0) else { return false };
        device.unacked += 1;
        self.append(conn.slot, framed);
        self.stats.pushes.add(1);
        self.stats.pushes_durable.add(1);
        true
    }

    /// Other shards' items that have to do with durable messages.
    pub(super) fn handle_durable_item(&mut self, from: ShardId, batch: &Batch, item: Item) {
        match item {
            Item::Append { channel, from_client, from_device, payload, client_msg_id, conn } => {
                let message = PushRef {
                    channel: batch.name(channel),
                    from_client: batch.name(from_client),
                    from_device: batch.name(from_device),
                    client_msg_id,
                    payload: batch.bytes(payload),
                    ..PushRef::default()
                };
                self.append_posted(Tag { shard: from, conn, ticket: 0 }, &message);
            }
            Item::Accepted { conn, channel, accepted } => {
                let sender = Tag { shard: self.settings.id, conn, ticket: 0 };
                self.accepted(sender, batch.name(channel), accepted);
            }
            Item::NotAccepted { conn, client_msg_id, why } => {
                self.not_accepted(Tag { shard: self.settings.id, conn, ticket: 0 }, client_msg_id, why);
            }
            Item::Follow { group, frame, seq } => self.fan_out_durable(batch.name(group), seq, batch.bytes(frame)),
            Item::Tail { group, seq } => self.hear_tail(batch.name(group), seq),
            other => unreachable!("{other:?} is not about durable messages"),
        }
    }
}

fn append_request(batch: &mut store::Batch, sender: Tag, message: &PushRef<'_>) -> Request {
    Request::Append(Append {
        channel: batch.put(message.channel.as_bytes()),
        from_client: batch.put(message.from_client.as_bytes()),
        from_device: batch.put(message.from_device.as_bytes()),
        payload: batch.put(message.payload),
        client_msg_id: message.client_msg_id,
        sender,
    })
}
