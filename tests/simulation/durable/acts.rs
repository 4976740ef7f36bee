//! What a device says of its own accord.
#![forbid(unsafe_code)]

use weir::wire::{ErrorCode, Frame, FrameType, SendRef, body, body::DeliveryClass};

use super::{
    conn::{Asked, Due, Mistake},
    device::{Acks, Device, World},
    model::{PASSING, payload_of},
    shelf::{FAR_AHEAD, Spot},
};
use crate::{model::Target, plan::SECOND_US};

impl Device {
    /// A while of an ordinary life.
    pub(super) fn live(&mut self, world: &mut World<'_>) {
        self.acknowledge(world);
        if world.rng.chance(60) {
            self.act(world);
        }
        let wanted: Vec<String> = self.wanted.iter().cloned().collect();
        for channel in wanted {
            if world.rng.chance(20) {
                self.join(&channel, world);
            }
        }
        let Some(conn) = &mut self.conn else { return };
        if world.rng.chance(1) {
            conn.ever_paused = true;
            let most = if world.rng.chance(15) { 9 * SECOND_US } else { SECOND_US };
            conn.paused_until = world.now + world.rng.range(1_000, most);
        }
        if world.rng.chance(1) {
            self.quits(world);
        }
    }

    /// It goes, one way or another.
    fn quits(&mut self, world: &mut World<'_>) {
        let Some(conn) = &mut self.conn else { return };
        let link = &mut world.links[conn.link];
        match world.rng.range(0, 3) {
            // Politely: it reads to the end.
            0 => {
                conn.closed_itself = true;
                link.up_ended = true;
            }
            1 => {
                link.up_ended = true;
                self.loses(world.now, world.rng);
            }
            2 => {
                link.tear();
                self.loses(world.now, world.rng);
            }
            // The gateway hears nothing of it, until the device is there again.
            _ => self.loses(world.now, world.rng),
        }
    }

    /// Nothing goes wrong any more: it takes all there is.
    pub(super) fn catch_up(&mut self, world: &mut World<'_>) {
        self.acks = Acks::Each;
        if let Some(conn) = &mut self.conn {
            conn.paused_until = 0;
        }
        for channel in self.wanted.clone() {
            self.join(&channel, world);
        }
        for number in self.open.clone() {
            if self.conn.as_ref().is_some_and(|conn| !conn.unanswered.contains_key(&number)) {
                self.queue_send(number, world);
            }
        }
        self.acknowledge(world);
    }

    fn acknowledge(&mut self, world: &mut World<'_>) {
        let Some(conn) = &mut self.conn else { return };
        let channels: Vec<String> = conn.spots.keys().cloned().collect();
        for channel in channels {
            let due = conn.is_due(&channel);
            let spot = conn.spots.get_mut(&channel).expect("just seen");
            let has = spot.next.saturating_sub(1);
            if !spot.open || due || has <= spot.acked {
                continue;
            }
            let to = match self.acks {
                Acks::Each => has,
                Acks::Some if world.rng.chance(20) => world.rng.range(spot.acked + 1, has),
                Acks::Some | Acks::Never => continue,
            };
            spot.acks(self.shelves.get_mut(&channel).expect("it follows the channel"), to);
            conn.put(&Frame::Received(body::Received { channel, seq: to }));
        }
    }

    /// One thing of its own accord; it may be there and not yet logged in.
    pub(super) fn act(&mut self, world: &mut World<'_>) {
        let Some(conn) = &self.conn else { return };
        match world.rng.range(0, 19) {
            0..=7 if self.created < world.plan.messages => self.create(world),
            8 | 9 => self.pass(world),
            10 | 11 if !self.open.is_empty() => {
                let number = world.rng.pick(&self.open);
                self.queue_send(number, world);
            }
            12 if !self.done.is_empty() => {
                let number = world.rng.pick(&self.done);
                self.queue_send(number, world);
            }
            13 | 14 => self.mark_read(world),
            15 => self.sync(world),
            16 if world.rng.chance(30) => self.leave(world),
            17 => {
                let channels: Vec<String> = conn.members.keys().cloned().collect();
                if !channels.is_empty() {
                    let channel = world.rng.index(channels.len());
                    self.join_again(&channels[channel]);
                }
            }
            18 => self.blunder(world),
            _ => {}
        }
    }

    fn target(&self, world: &mut World<'_>) -> Target {
        if world.rng.chance(50) {
            Target::User(format!("client-{}", world.rng.range(1, world.plan.clients)))
        } else {
            Target::Group(format!("group-{}", world.rng.range(1, world.plan.groups)))
        }
    }

    fn create(&mut self, world: &mut World<'_>) {
        self.created += 1;
        let target = self.target(world);
        let length = world.rng.range(8, world.plan.payload_max) as usize;
        world.model.creates(self.id, self.created, target, length);
        self.open.push(self.created);
        self.queue_send(self.created, world);
    }

    /// A durable message, for the first time or again.
    pub(super) fn queue_send(&mut self, number: u64, world: &mut World<'_>) {
        let Some(conn) = &mut self.conn else { return };
        if conn.mistakes.iter().any(|it| it.frame == FrameType::Send && it.number == number) {
            return;
        }
        let sent = world.model.sent.get_mut(&(self.id, number)).expect("it was created");
        sent.tries += 1;
        *conn.unanswered.entry(number).or_default() += 1;
        let (channel, payload) = (sent.target.channel(), payload_of(self.id, number, sent.length));
        conn.sent.entry(channel.clone()).or_default().push_back(number);
        conn.put(&Frame::Send(SendRef {
            channel: &channel,
            client_msg_id: number,
            class: DeliveryClass::Durable as i32,
            payload: &payload,
            include_sender: world.rng.chance(50),
            ..SendRef::default()
        }));
    }

    fn pass(&mut self, world: &mut World<'_>) {
        self.passed += 1;
        let (number, target) = (PASSING + self.passed, self.target(world));
        let length = world.rng.range(8, world.plan.payload_max) as usize;
        let (channel, payload) = (target.channel(), payload_of(self.id, number, length));
        world.model.passes(self.id, number, target, length);
        let Some(conn) = &mut self.conn else { return };
        conn.put(&Frame::Send(SendRef {
            channel: &channel,
            client_msg_id: number,
            payload: &payload,
            include_sender: world.rng.chance(50),
            ..SendRef::default()
        }));
    }

    pub(super) fn join(&mut self, channel: &str, world: &mut World<'_>) {
        let Some(conn) = &self.conn else { return };
        if conn.is_member(channel) || conn.is_due(channel) {
            return;
        }
        let is_ahead = !self.is_calm && world.rng.chance(2) && conn.mistakes.iter().all(|it| it.frame != FrameType::Join);
        let cursor = match is_ahead && self.takes_part() {
            true => Some(FAR_AHEAD),
            false => self.brought(channel, world.rng),
        };
        let takes_part = self.takes_part();
        let Some(conn) = &mut self.conn else { return };
        conn.due.entry(channel.to_owned()).or_default().push_back(Due::JoinOk);
        let group = channel.trim_start_matches("group/").to_owned();
        conn.put(&Frame::Join(body::Join { group, cursor }));
        if takes_part {
            self.shelves.entry(channel.to_owned()).or_default().asks(world.model.known(channel), cursor);
            conn.spots.insert(channel.to_owned(), Spot::new(cursor));
            if cursor == Some(FAR_AHEAD) {
                conn.mistakes.push(Mistake { frame: FrameType::Join, code: ErrorCode::CursorAhead, number: 0 });
            } else if !world.plan.is_heavy() {
                self.says_early(channel, cursor, world);
            }
        }
    }

    /// It may say right behind LOGIN or JOIN what it has, and what was read of it.
    pub(super) fn says_early(&mut self, channel: &str, cursor: Option<u64>, world: &mut World<'_>) {
        if let (Some(cursor @ 1..), Some(conn)) = (cursor, &mut self.conn)
            && world.rng.chance(20)
        {
            let seq = world.rng.range(1, cursor);
            conn.put(&Frame::Received(body::Received { channel: channel.to_owned(), seq }));
        }
        let high = self.shelves.get(channel).map_or(0, |shelf| if shelf.begun { shelf.high } else { 0 });
        if high > 0 && world.rng.chance(20) {
            let seq = world.rng.range(1, high);
            self.read_up_to(channel.to_owned(), seq, world);
        }
    }

    /// JOIN of a group that it is in.
    fn join_again(&mut self, channel: &str) {
        let Some(conn) = &mut self.conn else { return };
        if conn.is_member(channel) && !conn.is_due(channel) {
            conn.due.entry(channel.to_owned()).or_default().push_back(Due::JoinOk);
            let group = channel.trim_start_matches("group/").to_owned();
            conn.put(&Frame::Join(body::Join { group, cursor: None }));
        }
    }

    fn leave(&mut self, world: &mut World<'_>) {
        let Some(conn) = &mut self.conn else { return };
        let may_leave = |channel: &&String| {
            let is_open = conn.spots.get(*channel).is_none_or(|spot| spot.open);
            conn.is_member(channel) && !conn.is_due(channel) && is_open
        };
        let Some(channel) = self.wanted.iter().find(may_leave).cloned() else { return };
        conn.due.entry(channel.clone()).or_default().push_back(Due::LeaveOk);
        conn.put(&Frame::Leave(body::Leave { group: channel.trim_start_matches("group/").to_owned() }));
        if let Some(shelf) = self.shelves.get_mut(&channel) {
            shelf.leaves(world.model.lives);
        }
        if world.rng.chance(40) {
            self.wanted.remove(&channel);
        }
    }

    /// READ, of something that it has.
    fn mark_read(&mut self, world: &mut World<'_>) {
        let Some(conn) = &mut self.conn else { return };
        let open: Vec<String> =
            conn.spots.iter().filter(|(name, spot)| spot.next > 1 && !conn.is_due(name)).map(|(name, _)| name.clone()).collect();
        if open.is_empty() {
            return;
        }
        let channel = open[world.rng.index(open.len())].clone();
        let seq = world.rng.range(1, conn.spots[&channel].next - 1);
        self.read_up_to(channel, seq, world);
    }

    fn read_up_to(&mut self, channel: String, seq: u64, world: &mut World<'_>) {
        let Some(conn) = &mut self.conn else { return };
        world.model.reads(&self.client, &channel, seq);
        conn.reads += 1;
        conn.put(&Frame::Read(body::Read { channel, seq }));
    }

    /// READ, of all that it has.
    pub fn read_all(&mut self, world: &mut World<'_>) {
        let Some(conn) = &self.conn else { return };
        let has: Vec<(String, u64)> = conn.spots.iter().map(|(name, spot)| (name.clone(), spot.next - 1)).collect();
        for (channel, seq) in has.into_iter().filter(|(_, seq)| *seq > 0) {
            self.read_up_to(channel, seq, world);
        }
    }

    fn sync(&mut self, world: &mut World<'_>) {
        let channel = match world.rng.chance(50) {
            true => self.inbox(),
            false => format!("group/group-{}", world.rng.range(1, world.plan.groups)),
        };
        let known = world.model.known(&channel);
        let (from, limit) = (world.rng.range(1, known + 3), world.rng.pick(&[1, 2, 10, 200]));
        let Some(conn) = &mut self.conn else { return };
        conn.syncs.push(Asked { channel: channel.clone(), from, limit, known });
        conn.put(&Frame::Sync(body::Sync { channel, from, limit }));
    }

    /// Something that must be refused, and that the connection survives.
    fn blunder(&mut self, world: &mut World<'_>) {
        let inbox = self.inbox();
        let Some(conn) = &mut self.conn else { return };
        let is_open = conn.spots.get(&inbox).is_some_and(|spot| spot.open);
        let nowhere = || "group/nowhere".to_owned();
        let sync = |channel: &str, from, limit| Frame::Sync(body::Sync { channel: channel.to_owned(), from, limit });
        let durable = |channel, client_msg_id, payload| {
            let class = DeliveryClass::Durable as i32;
            Frame::Send(SendRef { channel, client_msg_id, class, payload, ..SendRef::default() })
        };
        let (frame, code, number) = match world.rng.range(0, 8) {
            0 if is_open => (Frame::Received(body::Received { channel: inbox, seq: FAR_AHEAD }), ErrorCode::NotSent, 0),
            1 => (Frame::Received(body::Received { channel: nowhere(), seq: 1 }), ErrorCode::UnknownChannel, 0),
            2 => (Frame::Read(body::Read { channel: nowhere(), seq: 1 }), ErrorCode::UnknownChannel, 0),
            3 if is_open => (Frame::Read(body::Read { channel: inbox, seq: FAR_AHEAD }), ErrorCode::CursorAhead, 0),
            4 => (sync(&inbox, 0, 10), ErrorCode::BadRange, 0),
            5 => (sync("group/nowhere", 1, 100_000), ErrorCode::BadRange, 0),
            6 => (sync("user/nobody", 1, 10), ErrorCode::ReadForbidden, 0),
            7 => (durable("user/client-1", 0, b"no number"), ErrorCode::MessageIdMissing, 0),
            // Not while a repeat of it waits for an answer, or a refusal of both could not be told apart.
            8 if !self.done.is_empty() => {
                let number = world.rng.pick(&self.done);
                if conn.unanswered.contains_key(&number) {
                    return;
                }
                (durable("user/client-1", number, b"another"), ErrorCode::MessageIdReused, number)
            }
            _ => return,
        };
        let kind = FrameType::from_byte(frame.kind()).expect("it is known");
        conn.put(&frame);
        conn.mistakes.push(Mistake { frame: kind, code, number });
    }
}
