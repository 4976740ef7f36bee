//! What a peer makes of the gateway's frames.
#![forbid(unsafe_code)]

use weir::wire::{ErrorCode, Frame, FrameType, body};

use super::{Ending, Habit, Model, Peer, Rng, Stay};

impl Peer {
    pub(super) fn handle(&mut self, now: u64, frame: Frame<'_>, rng: &mut Rng, model: &mut Model, names: &[(String, String)]) {
        let me = self.id;
        assert!(self.ending.is_none(), "peer {me} got {frame:?} behind the last frame, {:?}", self.ending);
        let first = self.login_ok_at.is_none();
        match frame {
            Frame::LoginOk(ok) => {
                assert!(first, "peer {me} got LOGIN_OK twice");
                assert_eq!(ok.client_id, self.client, "peer {me} speaks for somebody else");
                self.login_ok_at = Some(now);
                self.epoch = ok.session_epoch;
                self.interval_us = u64::from(ok.heartbeat_interval_ms) * 1_000;
            }
            Frame::Kicked(kicked) => self.end(now, kicked.code, true),
            Frame::Error(error) if error.closing => self.end(now, error.code, false),
            _ if first => panic!("peer {me} got {frame:?} before LOGIN_OK"),
            Frame::Error(error) => self.refused(&error, model),
            Frame::Ping(ping) => {
                if self.habit != Habit::Silent {
                    self.put(&Frame::Pong(body::Pong { sent_us: ping.sent_us, heartbeat_interval_ms: 0 }), None);
                }
            }
            Frame::Pong(pong) => {
                assert!(pong.sent_us <= self.frames, "peer {me} got a PONG for a PING that it has not sent");
                assert!(pong.sent_us > self.processed, "peer {me} got a PONG twice, or out of order");
                self.processed = pong.sent_us;
                self.interval_us = u64::from(pong.heartbeat_interval_ms) * 1_000;
            }
            Frame::SendOk(ok) => {
                let sent = model.sent.get_mut(&ok.client_msg_id);
                let sent = sent.filter(|sent| sent.sender == me).unwrap_or_else(|| panic!("peer {me} got {ok:?} for nothing"));
                assert!(sent.answer.is_none() && !sent.refused, "peer {me} got a second answer: {ok:?}");
                sent.answer = Some((now, ok.reached, ok.dropped));
            }
            Frame::Push(push) => {
                model.delivered(self, &push, names);
                let key = (push.client_msg_id / 1_000_000, push.channel.to_owned());
                let last = self.seen.insert(key, push.client_msg_id);
                assert!(last.is_none_or(|last| last < push.client_msg_id), "peer {me}: {last:?} overtook {}", push.client_msg_id);
            }
            Frame::JoinOk(ok) => {
                self.book.joined(&ok.group, ok.members, names.len());
                self.joined(now, &ok.group);
            }
            Frame::Presence(presence) => self.book.heard(me, now, self.processed, presence),
            Frame::LeaveOk(ok) => {
                let due = self.groups.get_mut(&ok.group).and_then(|membership| {
                    membership.member = false;
                    membership.due.pop_front()
                });
                assert_eq!(due, Some(false), "peer {me} got LEAVE_OK of {} instead of another answer, or none", ok.group);
            }
            Frame::Goaway(goaway) => {
                assert_eq!(goaway.code, ErrorCode::GoingAway.number());
                assert!(self.going_at.is_none(), "peer {me} got GOAWAY twice");
                self.going_at = Some(now);
                self.at_risk(now);
                self.leave_at = if rng.chance(60) {
                    now + rng.range(u64::from(goaway.delay_min_ms), u64::from(goaway.delay_max_ms)) * 1_000
                } else {
                    u64::MAX
                };
            }
            Frame::Accepted(_)
            | Frame::Gap(_)
            | Frame::Cursors(_)
            | Frame::Page(_)
            | Frame::Login(_)
            | Frame::Send(_)
            | Frame::Received(_)
            | Frame::Read(_)
            | Frame::Sync(_)
            | Frame::Join(_)
            | Frame::Leave(_)
            | Frame::State(_)
            | Frame::Watch(_)
            | Frame::Unwatch(_)
            | Frame::Batch(_)
            | Frame::Unknown { .. } => {
                panic!("peer {me} got {frame:?} from a gateway")
            }
        }
    }

    fn joined(&mut self, now: u64, group: &str) {
        let me = self.id;
        let membership = self.groups.get_mut(group).unwrap_or_else(|| panic!("peer {me} got JOIN_OK of {group} for nothing"));
        assert_eq!(membership.due.pop_front(), Some(true), "peer {me} got JOIN_OK of {group} instead of another answer, or none");
        if !membership.member {
            let leaves = membership.due.contains(&false);
            membership.stays.push(Stay { joined_at: now, left_at: if leaves { now } else { u64::MAX } });
        }
        membership.member = true;
    }

    fn refused(&mut self, error: &body::Error, model: &mut Model) {
        let me = self.id;
        let code = ErrorCode::from_number(error.code).unwrap_or_else(|| panic!("peer {me} got a code of no meaning: {error:?}"));
        assert!(
            matches!(code, ErrorCode::RateExceeded | ErrorCode::TooManyGroups | ErrorCode::TooManyWatches),
            "peer {me} was refused something that is fine: {error:?}"
        );
        match FrameType::from_byte(error.in_reply_to as u8) {
            Some(FrameType::Send) => {
                let sent = model.sent.get_mut(&error.client_msg_id).filter(|sent| sent.sender == me);
                sent.unwrap_or_else(|| panic!("peer {me} got {error:?} for nothing")).refused = true;
            }
            Some(kind @ (FrameType::Join | FrameType::Leave)) => {
                let membership = self.groups.values_mut().find(|membership| !membership.due.is_empty());
                let membership = membership.unwrap_or_else(|| panic!("peer {me} got {error:?} for nothing"));
                assert_eq!(membership.due.pop_front(), Some(kind == FrameType::Join), "peer {me}: {error:?}");
                if kind == FrameType::Leave {
                    // It is still a member; when it is one no longer is not known any more.
                    membership.stays.iter_mut().for_each(|stay| stay.left_at = stay.left_at.min(stay.joined_at));
                }
            }
            Some(kind @ (FrameType::Watch | FrameType::State)) => self.book.refused(kind),
            Some(FrameType::Ping | FrameType::Pong) if code == ErrorCode::RateExceeded => {}
            // The rate is looked at before whether the frame may come.
            Some(FrameType::JoinOk) if code == ErrorCode::RateExceeded && self.garbage_at.is_some() => {}
            other => panic!("peer {me} got a refusal of {other:?}: {error:?}"),
        }
    }

    fn end(&mut self, now: u64, code: u32, kicked: bool) {
        let code = ErrorCode::from_number(code).unwrap_or_else(|| panic!("peer {} was closed with code {code}", self.id));
        // What waited for it was dropped. Whether that was right is judged by its ending.
        if code == ErrorCode::SlowConsumer {
            self.risk_at = 0;
        }
        self.ending = Some(Ending { code, kicked, at: now });
    }
}
