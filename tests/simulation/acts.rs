//! What a peer says of its own accord.
#![forbid(unsafe_code)]

use weir::wire::{ErrorCode, Frame, SendRef, body, encode};

use super::{CLASSES, Habit, Mark, Model, Peer, Plan, Rng};
use crate::model::{Sent, Target, message_id, payload};

impl Peer {
    pub(super) fn put(&mut self, frame: &Frame<'_>, mark: Option<Mark>) {
        let mut bytes = Vec::new();
        encode(frame, &mut bytes);
        self.put_bytes(&bytes, mark);
    }

    pub fn put_bytes(&mut self, bytes: &[u8], mark: Option<Mark>) {
        self.tx.extend(bytes);
        self.queued += bytes.len() as u64;
        self.frames += 1;
        if let Some(mark) = mark {
            self.marks.push_back((self.queued, mark));
        }
    }

    /// Begins: LOGIN, and perhaps more right behind it.
    pub fn begin(&mut self, now: u64, rng: &mut Rng, model: &mut Model, plan: &Plan) {
        self.connected = true;
        self.last_write_at = now;
        self.next_at = now + rng.range(1, 3_000);
        if self.habit == Habit::Mute {
            self.at_risk(now);
            let start = &b"WR\x01\x01\0\0\0\0\0\0\0\x20\0\0"[..rng.range(0, 14) as usize];
            self.put_bytes(start, None);
            return;
        }
        if let Habit::Garbler(code) = self.habit
            && crate::garbage::comes_first(code, rng)
        {
            self.put_garbage(code, now);
            return;
        }
        let login = body::Login {
            client_id: self.client.clone(),
            device_id: self.device.clone(),
            device_class: CLASSES[self.class].0.to_owned(),
            token: String::new(),
            agent: "simulation".to_owned(),
            ..body::Login::default()
        };
        self.put(&Frame::Login(login), Some(Mark::Login));
        if rng.chance(50) {
            for _ in 0..rng.range(1, 4).min(u64::from(self.todo)) {
                self.act(rng, model, plan);
            }
        }
    }

    pub(super) fn put_garbage(&mut self, code: ErrorCode, now: u64) {
        // Its first bytes may be enough.
        self.garbage_at = Some(now);
        self.at_risk(now);
        let bytes = crate::garbage::bytes(code);
        self.put_bytes(&bytes, None);
        self.todo = 0;
    }

    /// One frame of its own accord.
    pub(super) fn act(&mut self, rng: &mut Rng, model: &mut Model, plan: &Plan) {
        self.todo -= 1;
        if let Some(frame) = self.book.act(self.frames, plan) {
            self.put(&frame, None);
            return;
        }
        let group = format!("group-{}", rng.range(1, plan.groups));
        // Where a JOIN or LEAVE may be refused, the refusal does not name the group: one at a time.
        let waits = self.groups.values().any(|membership| !membership.due.is_empty());
        let may_change = !waits || plan.limits.groups_per_connection > 100 && !plan.has_rate_limit();
        match rng.range(0, 9) {
            0..=2 if may_change => {
                self.groups.entry(group.clone()).or_default().due.push_back(true);
                self.put(&Frame::Join(body::Join { group: group.clone(), cursor: None }), Some(Mark::Join(group)));
            }
            3 if may_change => {
                self.groups.entry(group.clone()).or_default().due.push_back(false);
                self.put(&Frame::Leave(body::Leave { group: group.clone() }), Some(Mark::Leave(group)));
            }
            4 => self.ping(rng),
            5..=7 => self.send(Target::Group(group), rng, model, plan),
            _ => self.send(Target::User(format!("client-{}", rng.range(1, plan.clients))), rng, model, plan),
        }
    }

    /// JOIN, of a group that it is in.
    pub fn join_again(&mut self) {
        let joined = self.groups.iter_mut().find(|(_, membership)| membership.member && !membership.has_due());
        if let Some((group, membership)) = joined {
            membership.due.push_back(true);
            let group = group.clone();
            self.put(&Frame::Join(body::Join { group: group.clone(), cursor: None }), Some(Mark::Join(group)));
        }
    }

    fn send(&mut self, target: Target, rng: &mut Rng, model: &mut Model, plan: &Plan) {
        let id = message_id(self.id, self.messages);
        self.messages += 1;
        let sent = Sent {
            sender: self.id,
            frame: self.frames,
            length: rng.range(8, plan.payload_max) as usize,
            receipt: rng.chance(50),
            include_sender: rng.chance(50),
            target,
            written_at: None,
            answer: None,
            refused: false,
            receivers: Default::default(),
        };
        let (channel, payload) = (sent.target.channel(), payload(id, sent.length));
        let send = SendRef {
            channel: &channel,
            client_msg_id: id,
            class: 0,
            payload: &payload,
            receipt: sent.receipt,
            include_sender: sent.include_sender,
            ..SendRef::default()
        };
        self.put(&Frame::Send(send), Some(Mark::Send(id)));
        model.sent.insert(id, sent);
    }

    /// A PING that carries its own place among the frames: its PONG says that all before were handled.
    pub fn ping(&mut self, rng: &mut Rng) {
        let ping = body::Ping { sent_us: self.frames + 1, rtt_us: rng.pick(&[0, 1_000, 150_000, 900_000]) };
        self.put(&Frame::Ping(ping), None);
    }
}
