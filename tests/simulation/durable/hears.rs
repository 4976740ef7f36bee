//! What a device makes of the gateway's frames.
#![forbid(unsafe_code)]

use weir::wire::{AcceptedRef, ErrorCode, Frame, FrameType, PushRef, body};

use super::{
    conn::Due,
    device::{Device, World},
    shelf::FAR_AHEAD,
};

impl Device {
    pub(super) fn hears(&mut self, world: &mut World<'_>, frame: Frame<'_>) {
        let me = self.id;
        let Some(conn) = &mut self.conn else { return };
        assert!(conn.ending.is_none(), "device {me} got {frame:?} behind the last frame, {:?}", conn.ending);
        match frame {
            Frame::LoginOk(ok) => {
                assert!(!conn.online, "device {me} got LOGIN_OK twice");
                assert_eq!((&ok.client_id, ok.window), (&self.client, conn.window), "device {me}");
                assert_eq!((ok.batches, ok.compression), (conn.batches, i32::from(conn.zstd)), "device {me}");
                conn.online = true;
                conn.interval_us = u64::from(ok.heartbeat_interval_ms) * 1_000;
            }
            Frame::Kicked(kicked) => self.ends(world, kicked.code),
            Frame::Error(error) if error.closing => self.ends(world, error.code),
            _ if !conn.online => panic!("device {me} got {frame:?} before LOGIN_OK"),
            Frame::Error(error) => self.refused(world, &error),
            Frame::Ping(ping) => conn.put(&Frame::Pong(body::Pong { sent_us: ping.sent_us, heartbeat_interval_ms: 0 })),
            Frame::Pong(pong) => conn.interval_us = u64::from(pong.heartbeat_interval_ms) * 1_000,
            Frame::Accepted(accepted) => self.accepted(world, &accepted),
            Frame::Push(push) if push.seq == 0 => self.passed_by(world, &push),
            Frame::Push(push) => self.pushed(world, &push),
            Frame::Gap(gap) => {
                let spot = conn.spots.get_mut(&gap.channel).unwrap_or_else(|| panic!("device {me} does not follow {gap:?}"));
                let shelf = self.shelves.get_mut(&gap.channel).expect("what it follows is on a shelf");
                spot.misses(shelf, &gap, &world.truth(&gap.channel));
                world.model.gaps += 1;
            }
            Frame::Cursors(cursors) => {
                let spot = conn.spots.get_mut(&cursors.channel);
                let spot = spot.unwrap_or_else(|| panic!("device {me} does not follow {cursors:?}"));
                let is_joined = !cursors.channel.starts_with("group/") || conn.members.contains_key(&cursors.channel);
                assert!(is_joined, "device {me} got {cursors:?} before JOIN_OK");
                let shelf = self.shelves.get_mut(&cursors.channel).expect("what it follows is on a shelf");
                spot.hears(shelf, &self.client, &cursors, &mut world.truth(&cursors.channel));
            }
            Frame::Page(page) => self.page(world, &page),
            Frame::JoinOk(ok) => {
                let channel = format!("group/{}", ok.group);
                let due = conn.due.get_mut(&channel).and_then(|due| due.pop_front());
                assert_eq!(due, Some(Due::JoinOk), "device {me} got JOIN_OK of {channel} instead of another answer, or none");
                conn.members.insert(channel, true);
            }
            Frame::LeaveOk(ok) => {
                let channel = format!("group/{}", ok.group);
                let due = conn.due.get_mut(&channel).and_then(|due| due.pop_front());
                assert_eq!(due, Some(Due::LeaveOk), "device {me} got LEAVE_OK of {channel} instead of another answer, or none");
                conn.members.remove(&channel);
                conn.spots.remove(&channel);
            }
            Frame::Goaway(_) => {
                let again = std::mem::replace(&mut conn.going, true);
                assert!(!again && self.hears_of_a_stop(world), "device {me} got GOAWAY for no reason");
                let conn = self.conn.as_mut().expect("it hears");
                if world.rng.chance(70) {
                    conn.closed_itself = true;
                    world.links[conn.link].up_ended = true;
                }
            }
            other => panic!("device {me} got {other:?} from a gateway"),
        }
    }

    /// The gateway stops, or is gone and this is the last that it said.
    fn hears_of_a_stop(&self, world: &World<'_>) -> bool {
        let opened_at = self.conn.as_ref().map_or(0, |conn| conn.opened_at);
        world.stopping || world.model.ended_at.is_some_and(|at| opened_at <= at)
    }

    fn ends(&mut self, world: &mut World<'_>, code: u32) {
        let me = self.id;
        let code = ErrorCode::from_number(code).unwrap_or_else(|| panic!("device {me} was closed with code {code}"));
        let base = &world.plan.base;
        let stopping = self.hears_of_a_stop(world);
        let conn = self.conn.as_mut().expect("it hears");
        let right = match code {
            // By one of its own that the gateway got to later.
            ErrorCode::Superseded => self.conns > 1,
            ErrorCode::SlowConsumer => conn.ever_paused || base.limits.outbound_bytes_per_connection < 1 << 20,
            ErrorCode::GoingAway => stopping,
            // What it wrote may wait behind what nobody takes.
            ErrorCode::LoginTimeout => world.now >= conn.opened_at + u64::from(base.timeouts.login_ms) * 1_000,
            _ => false,
        };
        assert!(right, "device {me} was closed for no reason: {code:?}, connected at {}", conn.opened_at);
        conn.ending = Some(code);
    }

    fn accepted(&mut self, world: &mut World<'_>, accepted: &AcceptedRef<'_>) {
        let conn = self.conn.as_mut().expect("it hears");
        answer(&mut conn.unanswered, accepted.client_msg_id, self.id);
        if !accepted.duplicate {
            // Those of one channel come in the order in which they were sent. Others were refused, or had been accepted before.
            let sent = conn.sent.get_mut(accepted.channel).unwrap_or_else(|| panic!("{accepted:?} for nothing"));
            let at = sent.iter().position(|number| *number == accepted.client_msg_id);
            sent.drain(..=at.unwrap_or_else(|| panic!("device {}: {accepted:?} was overtaken", self.id)));
        }
        world.model.accepted(self.id, accepted, &world.disk.ledger);
        if let Some(at) = self.open.iter().position(|number| *number == accepted.client_msg_id) {
            self.open.remove(at);
            self.done.push(accepted.client_msg_id);
        }
    }

    /// A transient message.
    fn passed_by(&mut self, world: &mut World<'_>, push: &PushRef<'_>) {
        let sender = world.model.is_passing(&self.client, push);
        let conn = self.conn.as_mut().expect("it hears");
        if push.channel.starts_with("group/") {
            assert!(conn.is_member(push.channel), "device {} got {push:?} and is not a member", self.id);
        }
        let last = conn.passed.insert((sender, push.channel.to_owned()), push.client_msg_id);
        assert!(last.is_none_or(|last| last < push.client_msg_id), "device {}: {last:?} overtook {push:?}", self.id);
    }

    fn pushed(&mut self, world: &mut World<'_>, push: &PushRef<'_>) {
        let me = self.id;
        world.model.is_kept(push.channel, push, &world.disk.ledger);
        let conn = self.conn.as_mut().expect("it hears");
        let spot = conn.spots.get_mut(push.channel).unwrap_or_else(|| panic!("device {me} does not follow {push:?}"));
        let shelf = self.shelves.get_mut(push.channel).expect("what it follows is on a shelf");
        let is_repeat = spot.takes(shelf, push.channel, push.seq);
        world.model.pushes += 1;
        world.model.repeats += u64::from(is_repeat);
        let (waiting, window) = (conn.waiting(), conn.window as usize);
        assert!(waiting <= window, "device {me}: {waiting} messages wait for RECEIVED, and the window is {window}");
    }

    fn page(&mut self, world: &mut World<'_>, page: &body::Page) {
        let me = self.id;
        let conn = self.conn.as_mut().expect("it hears");
        let asked = conn.syncs.iter().position(|asked| asked.channel == page.channel && asked.from == page.from);
        let asked = conn.syncs.remove(asked.unwrap_or_else(|| panic!("device {me} got {page:?} for nothing")));
        let truth = world.truth(&page.channel);
        assert!(page.first >= 1 && page.first <= truth.bounds.first && page.first <= page.last + 1, "{page:?}");
        assert!(page.last <= truth.ledger.last(&page.channel) && page.last >= asked.known, "{page:?}: {asked:?}");
        let start = asked.from.max(page.first);
        let mut next = start;
        for message in &page.messages {
            assert_eq!((message.seq, &*message.channel), (next, ""), "{page:?}: a hole, or out of order");
            let push = PushRef {
                channel: &page.channel,
                from_client: &message.from_client,
                from_device: &message.from_device,
                client_msg_id: message.client_msg_id,
                payload: &message.payload,
                seq: message.seq,
                timestamp: message.timestamp,
                ..PushRef::default()
            };
            world.model.is_kept(&page.channel, &push, &world.disk.ledger);
            next += 1;
        }
        assert!(page.messages.len() <= asked.limit as usize, "{page:?}: more than {asked:?}");
        assert!(!page.messages.is_empty() || start > page.last, "{page:?} is empty, and there is more");
        assert_eq!(page.next, next, "{page:?}");
        world.model.heard_of(&page.channel, page.last);
    }

    /// An ERROR that the connection survives.
    fn refused(&mut self, world: &mut World<'_>, error: &body::Error) {
        let me = self.id;
        let conn = self.conn.as_mut().expect("it hears");
        let code =
            ErrorCode::from_number(error.code).unwrap_or_else(|| panic!("device {me} got a code of no meaning: {error:?}"));
        let kind = FrameType::from_byte(error.in_reply_to as u8);
        let is_it = |it: &super::conn::Mistake| Some(it.frame) == kind && it.code == code && it.number == error.client_msg_id;
        if let Some(at) = conn.mistakes.iter().position(is_it) {
            conn.mistakes.remove(at);
            if kind == Some(FrameType::Join) {
                let ahead = conn.spots.values_mut().find(|spot| spot.brought == Some(FAR_AHEAD) && !spot.open);
                ahead.unwrap_or_else(|| panic!("device {me} got {error:?} for a group that it has left")).was_ahead = true;
            }
            return;
        }
        // One page at a time: while the first that was asked for is read, the next is refused.
        if kind == Some(FrameType::Sync) && code == ErrorCode::Overloaded && conn.syncs.len() > 1 {
            conn.syncs.remove(1);
            return;
        }
        let met_outage = world.model.outage_until.is_some_and(|until| conn.opened_at <= until);
        let right = match code {
            // A request that was on its way for a while may have met the trouble that was.
            ErrorCode::StoreFull | ErrorCode::StoreUnavailable => met_outage,
            ErrorCode::Overloaded => world.plan.is_heavy() || met_outage,
            _ => false,
        };
        assert!(right, "device {me} was refused something that is fine: {error:?}");
        if code == ErrorCode::Overloaded {
            // Cursors may have been given up as well.
            world.model.overloaded_at = Some(world.now);
        }
        match kind {
            Some(FrameType::Send) => {
                if let Some(at) = conn.mistakes.iter().position(|it| it.number == error.client_msg_id && it.number > 0) {
                    conn.mistakes.remove(at);
                    return;
                }
                answer(&mut conn.unanswered, error.client_msg_id, me);
                if !self.is_calm && world.rng.chance(10) {
                    self.gives_up(world, error.client_msg_id);
                }
            }
            Some(FrameType::Sync) => {
                assert!(!conn.syncs.is_empty(), "device {me} got {error:?} for nothing");
                // They are answered in the order in which they were asked.
                conn.syncs.remove(0);
            }
            Some(FrameType::Read) => {
                assert!(conn.reads > 0, "device {me} got {error:?} for nothing");
                conn.reads -= 1;
            }
            // The group is not named; it begins anew.
            Some(FrameType::Join) if code == ErrorCode::Overloaded => {
                world.links[conn.link].tear();
                self.loses(world.now, world.rng);
            }
            other => panic!("device {me} got a refusal of {other:?}: {error:?}"),
        }
    }

    fn gives_up(&mut self, world: &mut World<'_>, number: u64) {
        if let Some(at) = self.open.iter().position(|open| *open == number) {
            self.open.remove(at);
            world.model.sent.get_mut(&(self.id, number)).expect("it was sent").given_up = true;
        }
    }
}

/// One SEND of a message was answered.
fn answer(unanswered: &mut std::collections::BTreeMap<u64, u32>, number: u64, device: usize) {
    let left = unanswered.get_mut(&number).unwrap_or_else(|| panic!("device {device} got an answer to {number}, sent or not"));
    *left -= 1;
    if *left == 0 {
        unanswered.remove(&number);
    }
}
