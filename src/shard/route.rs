//! From a SEND to the connections of its receivers, and what comes back.
#![forbid(unsafe_code)]

use super::{
    Shard,
    connections::NONE,
    devices::Place,
    groups::Joined,
    message::{Batch, Item, Receipt, Tally},
    outbound::{Framed, Pressure},
    reader::{Mode, Reader},
};
use crate::{
    ids::{ConnId, ShardId},
    session::{Refusal, Target},
    wire::{ErrorCode, Frame, FrameType, PushRef, SendRef, body, encode},
};

impl Shard {
    /// Routes a SEND of one of our sessions.
    pub(super) fn route(&mut self, conn: ConnId, target: Target<'_>, send: &SendRef<'_>) {
        let receipt = send.receipt.then_some(Receipt { shard: self.settings.id, conn, client_msg_id: send.client_msg_id });
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let sender = self.connections.at(conn.slot);
        let push = PushRef {
            channel: send.channel,
            from_client: sender.names.client(),
            from_device: sender.names.device(),
            client_msg_id: send.client_msg_id,
            payload: send.payload,
            key: send.key,
            ..PushRef::default()
        };
        encode(&Frame::Push(push), &mut scratch);
        let mut frame = Framed::of_class(&scratch, Pressure::of(send.class));
        match target {
            Target::User(client) => {
                self.stats.sends_user.add(1);
                self.send_to_user(client, &mut frame, receipt);
            }
            Target::Group(group) => {
                self.stats.sends_group.add(1);
                let except = (!send.include_sender).then_some((self.settings.id, conn));
                self.send_to_group(group, &mut frame, except, receipt);
            }
        }
        // An answer that was written meanwhile used a scratch of its own; the larger one is kept.
        if scratch.capacity() > self.scratch.capacity() {
            self.scratch = scratch;
        }
    }

    fn send_to_user(&mut self, client: &str, frame: &mut Framed<'_>, receipt: Option<Receipt>) {
        let hash = self.keyed.name(client);
        let home = self.home(hash);
        if self.is_me(home) {
            let tally = self.deliver(hash, client, frame);
            self.report(receipt, tally);
        } else if !self.outbox.put(home, |batch| {
            let (client, pressure, frame) = (batch.put(client.as_bytes()), frame.pressure(), batch.put(frame.bytes()));
            Item::Deliver { client, frame, pressure, hash, receipt }
        }) {
            self.dropped_on_mesh(receipt);
        }
    }

    fn send_to_group(
        &mut self,
        group: &str,
        frame: &mut Framed<'_>,
        except: Option<(ShardId, ConnId)>,
        receipt: Option<Receipt>,
    ) {
        let home = self.home(self.keyed.name(group));
        if self.is_me(home) {
            self.publish(group, frame, except, receipt);
        } else if !self.outbox.put(home, |batch| {
            let (group, pressure, frame) = (batch.put(group.as_bytes()), frame.pressure(), batch.put(frame.bytes()));
            Item::Publish { group, frame, pressure, except, receipt }
        }) {
            self.dropped_on_mesh(receipt);
        }
    }

    fn dropped_on_mesh(&mut self, receipt: Option<Receipt>) {
        self.stats.dropped_mesh_full.add(1);
        self.report(receipt, Tally { reached: 0, dropped: 1 });
    }

    /// Queues a PUSH on all connections of a client that is at home here.
    fn deliver(&mut self, hash: u64, client: &str, frame: &mut Framed<'_>) -> Tally {
        let mut tally = Tally::default();
        let mut slot = self.directory.first(hash, client, &self.connections);
        if slot == NONE {
            self.stats.unreachable.add(1);
        }
        while slot != NONE {
            if self.push(slot, frame) {
                tally.reached += 1;
            } else {
                tally.dropped += 1;
            }
            slot = self.connections.at(slot).next_device;
        }
        tally
    }

    /// Sends a message of a group that is at home here to all shards that have members.
    fn publish(&mut self, group: &str, frame: &mut Framed<'_>, except: Option<(ShardId, ConnId)>, receipt: Option<Receipt>) {
        let shards = self.home_groups.shards(group);
        let count = match receipt {
            Some(receipt) if shards.is_empty() => {
                self.report(Some(receipt), Tally::default());
                None
            }
            Some(receipt) => {
                let Some(count) = self.home_groups.count(shards.len(), receipt) else {
                    self.not_counted(receipt);
                    return;
                };
                Some(count)
            }
            None => None,
        };
        for shard in shards {
            let except = except.and_then(|(their_shard, conn)| (their_shard == shard).then_some(conn));
            if self.is_me(shard) {
                let tally = self.fan_out(group, frame, except, count.is_some());
                self.counted(count, tally);
            } else if !self.outbox.put(shard, |batch| {
                let (group, pressure, frame) = (batch.put(group.as_bytes()), frame.pressure(), batch.put(frame.bytes()));
                Item::Fanout { group, frame, pressure, except, count }
            }) {
                self.stats.dropped_mesh_full.add(1);
                self.counted(count, Tally { reached: 0, dropped: 1 });
            }
        }
    }

    fn counted(&mut self, count: Option<u32>, tally: Tally) {
        if let Some(count) = count
            && let Some((receipt, tally)) = self.home_groups.counted(count, tally)
        {
            self.report(Some(receipt), tally);
        }
    }

    /// Tells the sender what its message came to, if it asked.
    fn report(&mut self, receipt: Option<Receipt>, tally: Tally) {
        let Some(Receipt { shard, conn, client_msg_id }) = receipt else { return };
        if self.is_me(shard) {
            let Tally { reached, dropped } = tally;
            self.answer(conn, &Frame::SendOk(body::SendOk { client_msg_id, reached, dropped }));
        } else {
            self.outbox.put_vital(shard, |_| Item::Reached { conn, client_msg_id, tally });
        }
    }

    /// Too many messages are being counted to count this one, which is therefore not sent.
    fn not_counted(&mut self, receipt: Receipt) {
        let Receipt { shard, conn, client_msg_id } = receipt;
        if self.is_me(shard) {
            let message =
                "too many messages to groups of one home wait for their receipts; send again later, or without a receipt";
            let refusal = Refusal::answer(ErrorCode::Overloaded, FrameType::Send, message);
            self.refuse(conn, Refusal { client_msg_id, retry_after_ms: 100, ..refusal });
        } else {
            self.outbox.put_vital(shard, |_| Item::NotCounted { conn, client_msg_id });
        }
    }

    /// Makes a session a member of a group; JOIN_OK follows when messages are sure to come.
    pub(super) fn join(&mut self, conn: ConnId, group: String, cursor: Option<u64>) {
        let groups_max = self.settings.limits.groups_per_connection;
        let connection = self.connections.at(conn.slot);
        let groups = connection.extra.as_ref().map_or(&[][..], |extra| &extra.groups);
        if let Some(index) = self.local_groups.find(&group)
            && groups.iter().any(|membership| membership.group == index)
        {
            // A repeated JOIN; if the first one still waits, so does this one.
            if self.local_groups.is_subscribed(index) {
                self.joined(conn, index);
            } else {
                self.local_groups.join_again(index, conn);
            }
            return;
        }
        if groups.len() >= groups_max as usize {
            let message =
                format!("this connection is in {groups_max} groups, as many as one may be (limits.groups_per_connection)");
            self.refuse(conn, Refusal::answer(ErrorCode::TooManyGroups, FrameType::Join, message));
            return;
        }
        if self.local_groups.memberships() >= self.settings.limits.memberships_per_shard {
            let message = "this core holds as many memberships of groups as it may (limits.memberships_per_shard)";
            self.refuse(conn, Refusal::answer(ErrorCode::Overloaded, FrameType::Join, message));
            return;
        }
        let takes_part = connection.device != NONE;
        if takes_part && !self.store_takes(conn, FrameType::Join) {
            return;
        }
        let reader = if takes_part { Reader::joining(cursor, self.next_ticket()) } else { Reader::absent() };
        match self.local_groups.join(&group, conn, reader, &mut self.connections) {
            Joined::Now => {
                let index = self.local_groups.find(&group).expect("it has a member now");
                self.joined(conn, index);
            }
            Joined::Later => {}
            Joined::Subscribe { ticket } => self.subscribe(&group, ticket),
        }
        if let Some(index) = self.local_groups.find(&group) {
            self.recount(index);
        }
    }

    /// Messages of the group come: JOIN_OK, as soon as it is known where the device stands in the group's log.
    fn joined(&mut self, conn: ConnId, group: u32) {
        let place = Place::Group(group);
        let opening = self.reader(conn, place).filter(|reader| reader.is_joining());
        let Some(reader) = opening else {
            self.answer_join(conn, group);
            return;
        };
        let Some(due) = reader.joins_due.checked_add(1) else {
            let message = "too many JOINs of this group wait for the log";
            self.refuse(conn, Refusal::answer(ErrorCode::Overloaded, FrameType::Join, message));
            return;
        };
        reader.joins_due = due;
        if reader.joins_due == 1 {
            self.open(conn, place);
        }
    }

    /// JOIN_OK.
    pub(super) fn answer_join(&mut self, conn: ConnId, group: u32) {
        let members = self.local_groups.members(group);
        let group = self.local_groups.name(group).to_owned();
        self.answer(conn, &Frame::JoinOk(body::JoinOk { group, members }));
    }

    fn subscribe(&mut self, group: &str, ticket: u32) {
        let home = self.home(self.keyed.name(group));
        if self.is_me(home) {
            let elsewhere = self.home_groups.subscribe(group, home);
            self.recount_home(group);
            self.subscribed(group, ticket, elsewhere);
        } else {
            self.outbox.put_vital(home, |batch| Item::Subscribe { group: batch.put(group.as_bytes()), ticket });
        }
    }

    fn subscribed(&mut self, group: &str, ticket: u32, elsewhere: u32) {
        for conn in self.local_groups.subscribed(group, ticket, elsewhere) {
            if let Some(index) = self.local_groups.find(group) {
                self.joined(conn, index);
            }
        }
    }

    /// Ends a membership, if there is one.
    pub(super) fn leave(&mut self, conn: ConnId, group: String) {
        if let Some(index) = self.local_groups.find(&group)
            && let Some(extra) = &mut self.connections.at_mut(conn.slot).extra
            && let Some(at) = extra.groups.iter().position(|membership| membership.group == index)
        {
            let membership = extra.groups.swap_remove(at);
            let members = self.local_groups.members(index);
            let left = self.local_groups.leave(membership, &mut self.connections);
            if left.last {
                self.unsubscribe(index);
            } else {
                self.recount(index);
            }
            self.connections.at_mut(conn.slot).trim();
            self.release(conn, &left.reader);
            if left.reader.mode != Mode::Absent {
                self.forget_cursor(conn, &group);
            }
            // Every JOIN has its answer, and before that of the LEAVE behind it; that no message came between them is allowed.
            for _ in 0..left.unanswered + usize::from(left.reader.joins_due) {
                self.answer(conn, &Frame::JoinOk(body::JoinOk { group: group.clone(), members }));
            }
        }
        self.answer(conn, &Frame::LeaveOk(body::LeaveOk { group }));
    }

    /// Ends all memberships of a connection.
    pub(super) fn leave_all(&mut self, conn: ConnId) {
        let Some(extra) = &mut self.connections.at_mut(conn.slot).extra else { return };
        for membership in std::mem::take(&mut extra.groups) {
            let mut left = self.local_groups.leave(membership, &mut self.connections);
            if let Some(to) = left.reader.take_unsaved() {
                self.save_last(conn, Place::Group(membership.group), to);
            }
            if left.last {
                self.unsubscribe(membership.group);
            } else {
                self.recount(membership.group);
            }
        }
    }

    fn unsubscribe(&mut self, index: u32) {
        let group = self.local_groups.close(index);
        let home = self.home(self.keyed.name(&group));
        if self.is_me(home) {
            self.home_groups.unsubscribe(&group, home);
            self.recount_home(&group);
        } else {
            self.outbox.put_vital(home, |batch| Item::Unsubscribe { group: batch.put(group.as_bytes()) });
        }
    }

    /// Takes one item of another shard's batch.
    pub(super) fn handle_item(&mut self, from: ShardId, batch: &Batch, item: Item) {
        if !matches!(item, Item::Publish { .. } | Item::Fanout { .. }) {
            self.deliver_gathered();
        }
        match item {
            Item::Deliver { client, frame, pressure, hash, receipt } => {
                let mut frame = Framed::of_class(batch.bytes(frame), pressure);
                let tally = self.deliver(hash, batch.name(client), &mut frame);
                self.report(receipt, tally);
            }
            Item::Publish { group, frame, pressure, except, receipt } => {
                let mut frame = Framed::of_class(batch.bytes(frame), pressure);
                self.publish(batch.name(group), &mut frame, except, receipt);
            }
            Item::Fanout { group, frame, pressure, except, count } => {
                let mut frame = Framed::of_class(batch.bytes(frame), pressure);
                let tally = self.fan_out(batch.name(group), &mut frame, except, count.is_some());
                if let Some(count) = count {
                    self.outbox.put_vital(from, |_| Item::Counted { count, tally });
                }
            }
            Item::Counted { count, tally } => self.counted(Some(count), tally),
            Item::Reached { conn, client_msg_id, tally } => {
                self.report(Some(Receipt { shard: self.settings.id, conn, client_msg_id }), tally);
            }
            Item::NotCounted { conn, client_msg_id } => {
                self.not_counted(Receipt { shard: self.settings.id, conn, client_msg_id });
            }
            Item::Subscribe { group, ticket } => {
                let group = batch.name(group);
                let elsewhere = self.home_groups.subscribe(group, from);
                self.recount_home(group);
                self.outbox.put_vital(from, |back| Item::Subscribed { group: back.put(group.as_bytes()), ticket, elsewhere });
            }
            Item::Subscribed { group, ticket, elsewhere } => self.subscribed(batch.name(group), ticket, elsewhere),
            Item::Unsubscribe { group } => {
                self.home_groups.unsubscribe(batch.name(group), from);
                self.recount_home(batch.name(group));
            }
            Item::Members { group, members } => self.set_members(batch.name(group), from, members),
            Item::Elsewhere { group, members } => self.set_elsewhere(batch.name(group), members),
            item @ (Item::Append { .. }
            | Item::Accepted { .. }
            | Item::NotAccepted { .. }
            | Item::Follow { .. }
            | Item::Tail { .. }) => self.handle_durable_item(from, batch, item),
            Item::Watch { client, hash, conn, ticket } => self.enter_watcher(from, conn, hash, batch.name(client), ticket),
            Item::NotWatched { client, hash, conn, ticket } => self.not_watched(conn, hash, batch.name(client), ticket),
            Item::Unwatch { client, hash, conn } => self.remove_watcher(from, conn, hash, batch.name(client)),
            Item::Presence { client, hash, frame, conns, fresh } => {
                for conn in batch.conns(conns) {
                    self.deliver_presence(conn, hash, batch.name(client), &mut Framed::new(batch.bytes(frame)), fresh);
                }
            }
            Item::Arrived { address, conn } => self.handle_address_arrived(from, address, conn),
            Item::Admitted { address, conn, granted } => self.handle_admitted(conn, address, granted),
            Item::Left { address } => self.handle_address_left(address),
        }
    }
}
