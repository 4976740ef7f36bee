//! A client, written against `proto/frame.md`: it does what a client may do, and some do what they must not.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};

use weir::wire::{Decoded, ErrorCode, decode};

#[path = "acts.rs"]
mod acts;
#[path = "answers.rs"]
mod answers;

use crate::{
    model::Model,
    network::{Link, take},
    plan::{CLASSES, Plan, SECOND_US},
    presence::Book,
    rng::Rng,
};

/// What a peer is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Keeps the protocol and reads what comes.
    Good,
    /// Never logs in.
    Mute,
    /// Logs in, and says nothing more, not even to a probe.
    Silent,
    /// Logs in and stops reading.
    Deaf,
    /// Sends bytes that are refused with this code.
    Garbler(ErrorCode),
    /// Is gone suddenly.
    Vanisher,
}

/// Something that happens when the last byte of a frame leaves the peer.
#[derive(Clone, Debug)]
pub enum Mark {
    Login,
    Send(u64),
    Join(String),
    Leave(String),
}

/// A stay in a group: from JOIN_OK to LEAVE.
#[derive(Clone, Debug)]
struct Stay {
    joined_at: u64,
    left_at: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Membership {
    /// Answers that are due, in order: true for JOIN_OK.
    due: VecDeque<bool>,
    member: bool,
    /// JOIN was written once.
    ever: bool,
    stays: Vec<Stay>,
}

impl Membership {
    /// Whether a JOIN or LEAVE was not answered.
    pub fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Whether it is known whether the peer is a member.
    pub fn is_known(&self) -> bool {
        !self.has_due() && self.stays.iter().all(|stay| stay.joined_at < stay.left_at)
    }
}

/// Why the gateway ended the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    pub code: ErrorCode,
    pub kicked: bool,
    pub at: u64,
}

#[derive(Debug)]
pub struct Peer {
    pub id: usize,
    pub client: String,
    pub device: String,
    pub class: usize,
    pub habit: Habit,
    pub connect_at: u64,
    pub connected: bool,
    pub next_at: u64,
    /// Frames that it will still send of its own accord, and its pace.
    todo: u32,
    pace_us: u64,
    leaves_early: bool,
    /// Sends no PING of its own accord, and answers the gateway's.
    lazy: bool,
    /// Does not close its socket when the gateway has ended its direction.
    pub clings: bool,
    tx: VecDeque<u8>,
    queued: u64,
    written: u64,
    marks: VecDeque<(u64, Mark)>,
    rx: Vec<u8>,
    frames: u64,
    messages: u64,
    /// Frames below this number were handled: an answer to a later one came.
    pub processed: u64,
    pub groups: BTreeMap<String, Membership>,
    pub login_written_at: Option<u64>,
    pub login_ok_at: Option<u64>,
    pub epoch: u64,
    interval_us: u64,
    pub last_write_at: u64,
    paused_until: u64,
    pub ever_paused: bool,
    /// From here on something may end the session, as far as its owner can know.
    pub risk_at: u64,
    pub garbage_at: Option<u64>,
    pub going_at: Option<u64>,
    leave_at: u64,
    pub ending: Option<Ending>,
    /// When the stream ended for the peer, by either side.
    pub ended_at: Option<u64>,
    /// When the gateway let go of it.
    pub gone_at: Option<u64>,
    pub closed_itself: bool,
    /// When it ended its direction.
    pub left_at: Option<u64>,
    /// It read the gateway's stream up to its end.
    pub read_all: bool,
    pub book: Book,
    /// Last message of each sender and channel.
    seen: BTreeMap<(u64, String), u64>,
}

impl Peer {
    pub fn new(id: usize, plan: &Plan, rng: &mut Rng) -> Peer {
        let habit = match rng.range(0, 19) {
            _ if plan.all_good => Habit::Good,
            0..=11 => Habit::Good,
            12 => Habit::Mute,
            13 => Habit::Silent,
            14 | 15 => Habit::Deaf,
            16 => Habit::Garbler(ErrorCode::BadMagic),
            _ => Habit::Vanisher,
        };
        let habit = match habit {
            Habit::Garbler(_) => Habit::Garbler(rng.pick(&crate::garbage::CODES)),
            other => other,
        };
        let device = if plan.all_good { id as u64 } else { rng.range(1, plan.devices) };
        let connect_at = plan.begin_us + rng.range(0, plan.spread_us);
        Peer {
            id,
            client: format!("client-{}", rng.range(1, plan.clients)),
            device: if device == 1 { String::new() } else { format!("device-{device}") },
            class: if plan.all_good { 0 } else { rng.index(CLASSES.len()) },
            habit,
            connect_at,
            connected: false,
            next_at: connect_at,
            todo: rng.range(0, 40) as u32 + if plan.presence.pressed { 150 } else { 0 },
            pace_us: rng.pick(&[1_000, 20_000, 200_000]),
            leaves_early: rng.chance(30),
            // The probe waits behind what is queued, and its time runs: who drinks through a straw must speak up.
            lazy: habit == Habit::Good && plan.socket_bytes >= 4_096 && rng.chance(20),
            clings: rng.chance(15),
            tx: VecDeque::new(),
            queued: 0,
            written: 0,
            marks: VecDeque::new(),
            rx: Vec::new(),
            frames: 0,
            messages: 0,
            processed: 0,
            groups: BTreeMap::new(),
            login_written_at: None,
            login_ok_at: None,
            epoch: 0,
            interval_us: u64::from(plan.heartbeat.interval_ms) * 1_000,
            last_write_at: 0,
            paused_until: 0,
            ever_paused: false,
            risk_at: u64::MAX,
            garbage_at: None,
            going_at: None,
            leave_at: u64::MAX,
            ending: None,
            ended_at: None,
            gone_at: None,
            closed_itself: false,
            left_at: None,
            read_all: false,
            book: Book::new(plan, id),
            seen: BTreeMap::new(),
        }
    }

    pub fn is_member(&self, group: &str) -> bool {
        self.groups.get(group).is_some_and(|membership| membership.member)
    }

    pub fn ever_joined(&self, group: &str) -> bool {
        self.groups.get(group).is_some_and(|membership| membership.ever)
    }

    pub fn was_member(&self, group: &str, from: u64, to: u64) -> bool {
        self.groups.get(group).is_some_and(|it| it.stays.iter().any(|stay| stay.joined_at < from && stay.left_at > to))
    }

    /// Nothing is on its way to the gateway, and no answer about a group is due.
    pub fn has_all_answers(&self) -> bool {
        self.tx.is_empty() && self.groups.values().all(|membership| !membership.has_due())
    }

    /// From now on its session may end.
    pub fn at_risk(&mut self, now: u64) {
        self.risk_at = self.risk_at.min(now);
    }

    pub fn is_over(&self) -> bool {
        self.ended_at.is_some()
    }

    /// Lets the peer do what is due. Returns the frames that were written whole.
    pub fn step(&mut self, now: u64, rng: &mut Rng, link: &mut Link, model: &mut Model, plan: &Plan, winding_down: bool) {
        self.next_at = u64::MAX;
        if self.is_over() || self.closed_itself {
            return;
        }
        let online = self.login_ok_at.is_some();
        if online && (self.habit == Habit::Silent || plan.has_rate_limit()) {
            self.at_risk(now);
        }
        let paused = now < self.paused_until;
        if online && !paused && !winding_down && self.going_at.is_none() {
            self.live(now, rng, link, model, plan);
        }
        if self.closed_itself && link.reset {
            return;
        }
        let pings = self.habit != Habit::Silent && !self.lazy;
        if online && pings && now >= self.last_write_at + self.interval_us * 8 / 10 && self.tx.is_empty() {
            self.ping(rng);
        }
        if now >= self.leave_at && self.tx.is_empty() {
            self.leave(now, link);
        }
        let pace_us = if self.todo > 0 { self.pace_us } else { SECOND_US / 2 };
        let ping_at = if online && pings { self.last_write_at + self.interval_us * 8 / 10 } else { u64::MAX };
        let due = [self.leave_at, ping_at, now + pace_us];
        self.next_at = due.into_iter().map(|at| at.max(now + 1_000)).min().expect("there are three");
        if !self.tx.is_empty() {
            self.next_at = self.next_at.min(now + rng.range(10, 2_000));
        }
        if paused {
            self.next_at = self.next_at.min(self.paused_until);
        } else if (!link.down.is_empty() || link.down_ended) && self.reads(now) {
            self.next_at = self.next_at.min(now + rng.range(10, 3_000));
        }
    }

    fn live(&mut self, now: u64, rng: &mut Rng, link: &mut Link, model: &mut Model, plan: &Plan) {
        if self.todo > 0 && self.habit != Habit::Silent {
            if self.tx.is_empty() || rng.chance(30) {
                self.act(rng, model, plan);
            }
            if !plan.all_good && rng.chance(2) && self.habit == Habit::Good {
                self.paused_until = now + rng.range(1_000, SECOND_US);
            }
            return;
        }
        match self.habit {
            Habit::Good if self.leaves_early && self.leave_at == u64::MAX => {
                self.ping(rng);
                self.leave_at = now + rng.range(1_000, SECOND_US);
            }
            Habit::Garbler(code) if self.garbage_at.is_none() && self.tx.is_empty() => self.put_garbage(code, now),
            Habit::Vanisher if rng.chance(20) => {
                self.at_risk(now);
                if rng.chance(50) {
                    self.closed_itself = true;
                    self.ended_at = Some(now);
                    link.tear();
                } else {
                    self.leave(now, link);
                }
            }
            Habit::Good | Habit::Mute | Habit::Silent | Habit::Deaf | Habit::Garbler(_) | Habit::Vanisher => {}
        }
    }

    /// Ends its direction, and reads on.
    pub fn leave(&mut self, now: u64, link: &mut Link) {
        self.at_risk(now);
        self.leave_at = u64::MAX;
        self.closed_itself = true;
        self.left_at = Some(now);
        link.up_ended = true;
    }

    /// Writes some of what waits, and gives the marks that were passed.
    pub fn write(&mut self, now: u64, rng: &mut Rng, link: &mut Link) -> Vec<Mark> {
        if self.tx.is_empty() || link.up_ended || link.reset || self.is_over() || link.up.len() > 256 * 1024 {
            return Vec::new();
        }
        let most = self.tx.len();
        let length = if rng.chance(50) { most } else { rng.range(1, most as u64) as usize };
        link.write(take(&mut self.tx, length));
        self.written += length as u64;
        self.last_write_at = now;
        let mut passed = Vec::new();
        while self.marks.front().is_some_and(|(at, _)| *at <= self.written) {
            passed.extend(self.marks.pop_front().map(|(_, mark)| mark));
        }
        for mark in &passed {
            self.passed(now, mark);
        }
        passed
    }

    fn passed(&mut self, now: u64, mark: &Mark) {
        match mark {
            Mark::Login => self.login_written_at = Some(now),
            Mark::Join(group) => self.groups.entry(group.clone()).or_default().ever = true,
            Mark::Leave(group) => {
                let membership = self.groups.entry(group.clone()).or_default();
                membership.stays.iter_mut().for_each(|stay| stay.left_at = stay.left_at.min(now));
            }
            Mark::Send(_) => {}
        }
    }

    /// Whether it reads now.
    pub fn reads(&mut self, now: u64) -> bool {
        let deaf = self.habit == Habit::Deaf && self.login_ok_at.is_some();
        if deaf {
            self.ever_paused = true;
            self.at_risk(now);
        }
        self.connected && !self.is_over() && !deaf && now >= self.paused_until
    }

    /// Takes bytes that were read, and handles the frames that are whole.
    pub fn read(&mut self, now: u64, bytes: &[u8], rng: &mut Rng, model: &mut Model, names: &[(String, String)]) {
        self.rx.extend_from_slice(bytes);
        let rx = std::mem::take(&mut self.rx);
        let mut used = 0;
        loop {
            match decode(&rx[used..], 64 * 1024 + 512) {
                Ok(Decoded::Frame { frame, frame_bytes }) => {
                    used += frame_bytes;
                    self.handle(now, frame, rng, model, names);
                }
                Ok(Decoded::NeedMore { .. }) => break,
                Err(malformed) => panic!("peer {} got bytes that are no frame: {malformed}", self.id),
            }
        }
        self.rx = rx[used..].to_vec();
    }

    /// The stream ended between two frames, or not.
    pub fn has_part_of_a_frame(&self) -> bool {
        !self.rx.is_empty()
    }
}
