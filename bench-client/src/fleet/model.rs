//! A server in memory, for tests: it speaks a dialect to whole fleets, and can be told to get single messages wrong.
#![forbid(unsafe_code)]

mod log;
mod peer;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use weir::{
    ids::{ConnId, ShardId},
    io::{Input, Machine, Output, Tick},
    wire::{Decoded, ErrorCode, Frame, FrameType, PushRef, SendRef, body, decode},
};

use self::log::Reading;
pub(super) use self::log::{Log, SendFault};
use super::{Fleet, Ledger, Message, Outcome, dialect::Dialect};
use crate::{plan::Plan, scenario::Scenario};

/// What the gateway does to one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Drop,
    Duplicate,
    /// Delivers it after the next one of the same receiver.
    Swap,
    /// Delivers it to somebody else.
    Misdeliver,
    /// Delivers it under another sender's name.
    Rename,
    /// Delivers it with one bit changed.
    Flip,
    /// Answers the SEND with RATE_EXCEEDED.
    Refuse,
    /// Closes the receiver's connection instead.
    Kick,
    /// Ends the receiver's connection instead, without a word.
    Cut,
    /// Says that retention removed it, or that it was lost, instead.
    Gap(ErrorCode),
    /// Delivers it as the next one of its channel.
    Skip,
}

/// What the gateway is told to do.
#[derive(Clone, Debug, Default)]
pub(super) struct Script {
    /// Faults by number of the delivery.
    pub(super) faults: BTreeMap<u64, Fault>,
    /// Faults by number of the durable SEND.
    pub(super) send_faults: BTreeMap<u64, SendFault>,
    /// Replays begin so much lower than CURSORS say.
    pub(super) forgets_received: u64,
    /// CURSORS say that so much less was read.
    pub(super) forgets_read: u64,
    /// LOGINs, by number, that are answered by this error.
    pub(super) refused_logins: BTreeMap<u64, ErrorCode>,
    /// The heartbeat interval announced.
    pub(super) heartbeat_interval_ms: u32,
    /// PINGs are not answered.
    pub(super) ignores_pings: bool,
    /// Bytes reach the clients in pieces of this size; 0 for whole.
    pub(super) piece_bytes: usize,
    /// After so many deliveries it takes nothing more, as a stopped process: chunks stay with the reactor.
    pub(super) takes_no_more_after: Option<u64>,
}

/// One side of a connection: which worker's, and its slot.
type Peer = (usize, u32);

/// What the gateway knows of a connection.
#[derive(Debug)]
struct Session {
    conn: ConnId,
    client: String,
    groups: Vec<String>,
    /// Bytes on their way to the client.
    pending: Vec<u8>,
    /// A push that waits for the next one, to be overtaken.
    swapped: Option<Vec<u8>>,
    is_ended: bool,
    /// Nothing reaches the client any more.
    is_cut: bool,
    /// The client said that it leaves.
    has_left: bool,
    reading: Reading,
}

/// Fleets, the gateway they talk to, and time.
pub(super) struct World<S> {
    fleets: Vec<Fleet<S>>,
    script: Script,
    sessions: BTreeMap<Peer, Session>,
    log: Log,
    generation: u32,
    deliveries: u64,
    logins: u64,
    pub(super) now: Tick,
    mail: VecDeque<(usize, u32, Message)>,
    stopped: usize,
    /// What the main thread was told.
    pub(super) tallies: Vec<super::Tally>,
    outcomes: Vec<Option<Box<Outcome>>>,
    /// Connections that were there at once, at most.
    pub(super) peak: usize,
    /// Answers to PINGs of this side.
    pub(super) pongs: usize,
    /// A worker that gets no turns, as if it lacked the core.
    pub(super) asleep: Option<usize>,
}

impl<S: Scenario> World<S> {
    pub(super) fn new(plan: &Plan, script: Script, scenario: impl Fn(&Plan, u32) -> S) -> World<S> {
        let plan = Arc::new(plan.clone());
        World {
            fleets: (0..plan.workers).map(|worker| Fleet::new(Arc::clone(&plan), worker, scenario(&plan, worker))).collect(),
            script,
            sessions: BTreeMap::new(),
            log: Log::default(),
            generation: 0,
            deliveries: 0,
            logins: 0,
            now: Tick(1_000_000),
            mail: VecDeque::new(),
            stopped: 0,
            tallies: vec![super::Tally::default(); plan.workers as usize],
            outcomes: (0..plan.workers).map(|_| None).collect(),
            peak: 0,
            pongs: 0,
            asleep: None,
        }
    }

    /// Lets time pass, a millisecond a turn.
    pub(super) fn run_ms(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now = self.now.plus_ms(1);
            self.turn();
        }
    }

    pub(super) fn tell(&mut self, message: impl Fn() -> Message) {
        for worker in 0..self.fleets.len() {
            self.mail.push_back((worker, self.fleets.len() as u32, message()));
        }
    }

    /// A whole run: ramp, sending phase, drain, end.
    pub(super) fn whole(mut self, phase_ms: u64) -> (Outcome, Vec<Ledger>) {
        self.run_ms(2_000);
        let (start, end) = (self.now, self.now.plus_ms(phase_ms));
        self.tell(|| Message::Go { start, end });
        self.run_ms(phase_ms + 200);
        self.finish()
    }

    /// Every connection ends without a word, and what was on its way to the clients is gone.
    pub(super) fn cut_all(&mut self) {
        for session in self.sessions.values_mut() {
            session.pending.clear();
            (session.is_ended, session.is_cut) = (true, true);
        }
    }

    /// Goes on with the log of an earlier phase of the run.
    pub(super) fn with_log(self, log: Log) -> World<S> {
        World { log, ..self }
    }

    /// The end of a run.
    pub(super) fn finish(self) -> (Outcome, Vec<Ledger>) {
        let (outcome, ledgers, _) = self.finish_phase();
        (outcome, ledgers)
    }

    /// The end of a phase of a run: the log goes on.
    pub(super) fn finish_phase(mut self) -> (Outcome, Vec<Ledger>, Log) {
        let deadline = self.now.plus_ms(500);
        self.tell(|| Message::Leave { deadline });
        self.run_ms(1_000);
        assert_eq!(self.sessions.len(), 0, "every connection was closed");
        self.tell(|| Message::Exit);
        self.run_ms(1);
        assert_eq!(self.stopped, self.fleets.len(), "every worker returned");
        let mut sum = Outcome::new();
        let mut ledgers = Vec::new();
        for outcome in self.outcomes.into_iter().flatten() {
            sum.merge(&outcome);
            ledgers.push(outcome.ledger);
        }
        assert_eq!(ledgers.len(), self.fleets.len(), "every worker reported");
        (sum, ledgers, self.log)
    }

    /// One turn of every reactor.
    fn turn(&mut self) {
        for (to, from, message) in std::mem::take(&mut self.mail) {
            if self.asleep == Some(to) {
                self.mail.push_back((to, from, message));
                continue;
            }
            self.fleets[to].handle(self.now, Input::Posted { from: ShardId(from as u16), message });
        }
        let asleep = self.asleep;
        for worker in (0..self.fleets.len()).filter(|worker| asleep != Some(*worker)) {
            self.deliver(worker);
            self.fleets[worker].handle_tick(self.now);
            while let Some(output) = self.fleets[worker].poll_output() {
                self.perform(worker, output);
            }
        }
        self.peak = self.peak.max(self.sessions.len());
    }

    /// Hands a worker's connections what waits for them.
    fn deliver(&mut self, worker: usize) {
        let peers: Vec<Peer> = self.sessions.range((worker, 0)..(worker + 1, 0)).map(|(peer, _)| *peer).collect();
        for peer in peers {
            let session = self.sessions.get_mut(&peer).expect("just seen");
            let (conn, bytes, is_ended) = (session.conn, std::mem::take(&mut session.pending), session.is_ended);
            let piece = if self.script.piece_bytes == 0 { bytes.len().max(1) } else { self.script.piece_bytes };
            for bytes in bytes.chunks(piece) {
                self.fleets[worker].handle(self.now, Input::Received { conn, bytes });
            }
            if is_ended {
                self.sessions.get_mut(&peer).expect("just seen").is_ended = false;
                self.fleets[worker].handle(self.now, Input::Eof { conn });
            }
        }
    }

    fn perform(&mut self, worker: usize, output: Output<Message>) {
        match output {
            Output::Connect { token, from, .. } => {
                assert!(from.is_some(), "loopback runs name their source");
                let slot = (0..).find(|slot| !self.sessions.contains_key(&(worker, *slot))).expect("slots never end");
                self.generation += 1;
                let conn = ConnId { slot, generation: self.generation };
                let session = Session {
                    conn,
                    client: String::new(),
                    groups: Vec::new(),
                    pending: Vec::new(),
                    swapped: None,
                    is_ended: false,
                    is_cut: false,
                    has_left: false,
                    reading: Reading::default(),
                };
                self.sessions.insert((worker, slot), session);
                self.greet((worker, slot));
                self.fleets[worker].handle(self.now, Input::Connected { conn, token });
            }
            Output::Send { .. } if self.script.takes_no_more_after.is_some_and(|most| self.deliveries >= most) => {}
            Output::Send { conn, chunk } => {
                match self.dialect() {
                    Dialect::Weir => self.take_frames((worker, conn.slot), chunk.as_slice()),
                    Dialect::Nats => self.take_lines((worker, conn.slot), chunk.as_slice()),
                    Dialect::Mqtt => self.take_packets((worker, conn.slot), chunk.as_slice()),
                    Dialect::Bare => unreachable!("a loop is no gateway: its tests have one of their own"),
                }
                self.fleets[worker].handle(self.now, Input::Sent { conn, chunk });
            }
            Output::Finish { conn } => {
                let takes_leave = self.dialect() == Dialect::Mqtt;
                let session = self.session((worker, conn.slot));
                session.is_ended = true;
                assert_eq!(session.has_left, takes_leave, "who ends a connection says so where the protocol has it");
            }
            Output::Close { conn } => {
                let session = self.sessions.remove(&(worker, conn.slot)).expect("a live connection");
                assert_eq!(session.conn, conn, "no old id is used");
                self.fleets[worker].handle(self.now, Input::Closed { conn });
            }
            Output::Post { to, message } if to.index() < self.fleets.len() => {
                self.mail.push_back((to.index(), worker as u32, message))
            }
            Output::Post { message: Message::Progress(tally), .. } => self.tallies[worker] = *tally,
            Output::Post { message: Message::Done(outcome), .. } => self.outcomes[worker] = Some(outcome),
            Output::Stop => self.stopped += 1,
            other => panic!("a fleet has no use for {other:?}"),
        }
    }

    fn dialect(&self) -> Dialect {
        self.fleets[0].net.plan.dialect
    }

    fn take_frames(&mut self, peer: Peer, mut rest: &[u8]) {
        while !rest.is_empty() {
            let Ok(Decoded::Frame { frame, frame_bytes }) = decode(rest, 1 << 20) else { panic!("clients send whole frames") };
            self.take(peer, frame);
            rest = &rest[frame_bytes..];
        }
    }

    fn take(&mut self, peer: Peer, frame: Frame<'_>) {
        match frame {
            Frame::Login(login) => {
                self.logins += 1;
                if let Some(code) = self.script.refused_logins.get(&(self.logins - 1)) {
                    let error =
                        body::Error { code: code.number(), message: "scripted".into(), closing: true, ..Default::default() };
                    self.push(peer, &Frame::Error(error));
                    self.session(peer).is_ended = true;
                    return;
                }
                self.session(peer).client = login.client_id;
                let heartbeat_interval_ms = self.script.heartbeat_interval_ms;
                let ok = body::LoginOk { heartbeat_interval_ms, window: login.window, ..Default::default() };
                self.push(peer, &Frame::LoginOk(ok));
                self.open(peer, login.window);
            }
            Frame::Join(join) => {
                self.session(peer).groups.push(join.group.clone());
                let channel = format!("group/{}", join.group);
                self.push(peer, &Frame::JoinOk(body::JoinOk { group: join.group, members: 0 }));
                let now_on = self.log.last(&channel);
                self.follow(peer, channel, now_on);
            }
            Frame::Received(received) => self.received(peer, received),
            Frame::Read(read) => self.read(peer, read),
            Frame::Send(send) if send.class == body::DeliveryClass::Durable as i32 => self.store(peer, &send),
            Frame::Ping(ping) if !self.script.ignores_pings => {
                self.push(peer, &Frame::Pong(body::Pong { sent_us: ping.sent_us, heartbeat_interval_ms: 0 }));
            }
            Frame::Ping(_) => {}
            Frame::Send(send) => self.route(peer, &send),
            other => panic!("a client has no reason to send {other:?}"),
        }
    }

    fn session(&mut self, peer: Peer) -> &mut Session {
        self.sessions.get_mut(&peer).expect("a live connection")
    }

    fn push(&mut self, peer: Peer, frame: &Frame<'_>) {
        let mut bytes = Vec::new();
        self.put(frame, &mut bytes);
        if !self.session(peer).is_cut {
            self.session(peer).pending.extend_from_slice(&bytes);
        }
    }

    /// Delivers a SEND, with the faults that the script asks for.
    fn route(&mut self, from: Peer, send: &SendRef<'_>) {
        let sender = self.session(from).client.clone();
        let receivers: Vec<Peer> = self
            .sessions
            .iter()
            .filter(|(_, session)| match send.channel.split_once('/') {
                Some(("user", client)) => session.client == client,
                Some(("group", group)) => session.groups.iter().any(|joined| joined == group),
                _ => panic!("no such channel: {:?}", send.channel),
            })
            .map(|(peer, _)| *peer)
            .collect();
        for to in receivers {
            let fault = self.script.faults.get(&self.deliveries).copied();
            self.deliveries += 1;
            let push = PushRef {
                channel: send.channel,
                from_client: &sender,
                from_device: "bench",
                client_msg_id: send.client_msg_id,
                payload: send.payload,
                ..PushRef::default()
            };
            self.deliver_push(from, to, &push, fault);
        }
    }

    fn deliver_push(&mut self, from: Peer, to: Peer, push: &PushRef<'_>, fault: Option<Fault>) {
        if self.session(to).is_cut {
            return;
        }
        let mut bytes = Vec::new();
        self.put(&Frame::Push(*push), &mut bytes);
        match fault {
            None => self.session(to).pending.extend_from_slice(&bytes),
            Some(Fault::Drop) => return,
            Some(Fault::Duplicate) => self.session(to).pending.extend_from_slice(&bytes.repeat(2)),
            Some(Fault::Swap) => {
                self.session(to).swapped = Some(bytes);
                return;
            }
            Some(Fault::Misdeliver) => {
                let other = *self.sessions.keys().find(|peer| **peer != to && **peer != from).expect("a third client");
                self.session(other).pending.extend_from_slice(&bytes);
            }
            Some(Fault::Rename) => {
                let from_client = if push.from_client == "b1" { "b2" } else { "b1" };
                self.push(to, &Frame::Push(PushRef { from_client, ..*push }));
            }
            Some(Fault::Flip) => {
                let mut payload = push.payload.to_vec();
                payload[40] ^= 4;
                self.push(to, &Frame::Push(PushRef { payload: &payload, ..*push }));
            }
            Some(Fault::Refuse) => {
                let error = body::Error {
                    code: ErrorCode::RateExceeded.number(),
                    message: "scripted".into(),
                    client_msg_id: push.client_msg_id,
                    in_reply_to: FrameType::Send as u32,
                    ..Default::default()
                };
                self.push(from, &Frame::Error(error));
            }
            Some(Fault::Cut) => {
                let session = self.session(to);
                (session.is_ended, session.is_cut) = (true, true);
            }
            Some(Fault::Gap(code)) => {
                let gap = body::Gap { channel: push.channel.into(), from: push.seq, to: push.seq, code: code.number() };
                self.push(to, &Frame::Gap(gap));
            }
            Some(Fault::Skip) => {
                self.push(to, &Frame::Push(PushRef { seq: push.seq + 1, ..*push }));
            }
            Some(Fault::Kick) => {
                let kicked =
                    body::Kicked { code: ErrorCode::Superseded.number(), message: "scripted".into(), ..Default::default() };
                self.push(to, &Frame::Kicked(kicked));
                self.session(to).is_ended = true;
            }
        }
        if let Some(swapped) = self.session(to).swapped.take() {
            self.session(to).pending.extend_from_slice(&swapped);
        }
    }
}
