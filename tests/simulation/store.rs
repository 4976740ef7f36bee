//! The store's thread without a thread: a port of the mesh. It takes what waits, commits what writes as one group, and answers when the
//! disk has synced, or later; between two commits it reads for a while.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use weir::{
    limits::STORE_HOLD_MS_MAX,
    shard::Message,
    store::{Batch, Failure, Log as _, Retention, Service},
};

use crate::{
    disk::{Disk, Fate},
    durable::faults::Fault,
    network::{Envelope, Mesh},
    rng::Rng,
};

/// How fast it is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// A sync takes between these, in microseconds.
    pub sync_us: (u64, u64),
    /// Now and then it takes this long.
    pub stall_us: u64,
    /// Batches of one shard that share a commit, at most.
    pub group: u64,
}

pub struct Store {
    service: Service<Disk>,
    pace: Pace,
    /// Batches that write, while the disk does not keep up; and since when it does not.
    held: Vec<(usize, Box<Batch>)>,
    behind_since: Option<u64>,
    /// A commit is under way until then.
    busy_until: Option<u64>,
    /// Batches of that commit, by shard.
    serving: Vec<(usize, Box<Batch>)>,
    /// Batches that read, the first one perhaps in part.
    reading: VecDeque<(usize, Box<Batch>)>,
    /// Answered, and on its way into the rings, in order.
    answered: VecDeque<(usize, Box<Batch>)>,
    /// What a crash brings back, if the replies leave too early.
    before: Option<Disk>,
    first: usize,
    pub next_turn: u64,
}

impl Store {
    pub fn new(disk: Disk, pace: Pace) -> Store {
        Store {
            service: Service::new(disk),
            pace,
            held: Vec::new(),
            behind_since: None,
            busy_until: None,
            serving: Vec::new(),
            reading: VecDeque::new(),
            answered: VecDeque::new(),
            before: None,
            first: 0,
            next_turn: u64::MAX,
        }
    }

    pub fn disk(&mut self) -> &mut Disk {
        self.service.log()
    }

    /// Something has come for it, to be looked at when it is done with what it has.
    pub fn wake(&mut self, at: u64) {
        self.next_turn = self.next_turn.min(at.max(self.busy_until.unwrap_or(0)));
    }

    /// One turn. The process will end at `crash_at`, and with it a commit that is not done by then.
    pub fn turn(&mut self, now: u64, wall_ms: u64, crash_at: u64, mesh: &mut Mesh, rng: &mut Rng) {
        self.next_turn = u64::MAX;
        if let Some(until) = self.busy_until {
            if now < until {
                self.next_turn = until;
                self.post(now, mesh, rng);
                return;
            }
            self.busy_until = None;
            self.before = None;
            self.answered.extend(self.serving.drain(..));
        }
        self.read(now, rng);
        self.post(now, mesh, rng);
        if rng.chance(10) {
            while self.service.log().expire(wall_ms).unwrap_or(false) {}
        }
        // Who cannot give back what it has takes no more.
        if self.answered.len() < 8 {
            self.take(now, wall_ms, crash_at, mesh, rng);
        }
    }

    /// A step of reading.
    fn read(&mut self, now: u64, rng: &mut Rng) {
        let mut left = rng.range(0, 30);
        while let Some((_, batch)) = self.reading.front_mut() {
            while left > 0 && self.service.read_next(batch) {
                left -= 1;
            }
            if batch.replies.len() < batch.requests.len() {
                self.next_turn = self.next_turn.min(now + rng.range(1, 300));
                return;
            }
            self.answered.extend(self.reading.pop_front());
        }
    }

    /// What is to be written waits for a while, and then is refused.
    fn hold(&mut self, now: u64) {
        let since = *self.behind_since.get_or_insert(now);
        if now - since >= STORE_HOLD_MS_MAX * 1_000 {
            self.held.iter_mut().for_each(|(_, batch)| batch.fail(&Failure::Behind));
            self.answered.append(&mut self.held.drain(..).collect());
        }
        if !self.held.is_empty() || !self.answered.is_empty() {
            self.next_turn = self.next_turn.min(now + 1_000);
        }
    }

    fn take(&mut self, now: u64, wall_ms: u64, crash_at: u64, mesh: &mut Mesh, rng: &mut Rng) {
        let (me, shards) = (mesh.store(), mesh.store());
        for from in (0..shards).map(|offset| (self.first + offset) % shards) {
            for _ in 0..rng.range(1, self.pace.group) {
                match mesh.rings[from][me].pop_front() {
                    Some(Envelope::Message(Message::Store(batch))) if batch.is_write() => self.held.push((from, batch)),
                    Some(Envelope::Message(Message::Store(batch))) => {
                        self.reading.push_back((from, batch));
                        self.next_turn = self.next_turn.min(now + rng.range(1, 300));
                    }
                    Some(_) => panic!("shard {from} sent the store something that is not for it"),
                    None => break,
                }
            }
        }
        self.first = (self.first + 1) % shards;
        if !self.service.log().is_ready() {
            self.hold(now);
            return;
        }
        self.behind_since = None;
        self.serving.append(&mut self.held);
        if self.serving.is_empty() {
            return;
        }
        let (low, high) = self.pace.sync_us;
        let stall_us = if self.pace.stall_us > 0 && rng.chance(2) { rng.range(1, self.pace.stall_us) } else { 0 };
        let until = now + rng.range(low, high) + stall_us;
        let early = self.disk().fault == Some(Fault::AnswersBeforeSync);
        let writes = self.serving.iter().map(|(_, batch)| batch.requests.len()).sum::<usize>();
        let kept = self.disk().fate.clone();
        if until >= crash_at {
            if early {
                self.before = Some(self.disk().clone());
            } else {
                self.disk().fate = Fate::Torn { writes: rng.range(0, writes as u64 + 1) as usize };
            }
        }
        self.service.write(wall_ms, self.serving.iter_mut().map(|(_, batch)| &mut **batch));
        self.disk().fate = kept;
        self.busy_until = Some(until);
        self.next_turn = until;
        if early {
            self.answered.extend(self.serving.drain(..));
            self.post(now, mesh, rng);
        }
    }

    /// Into the rings, as far as they have room; in order, for each shard.
    fn post(&mut self, now: u64, mesh: &mut Mesh, rng: &mut Rng) {
        let (me, capacity) = (mesh.store(), mesh.capacity);
        let mut waiting = VecDeque::new();
        for (to, batch) in self.answered.drain(..) {
            let ring = &mut mesh.rings[me][to];
            if waiting.iter().any(|(other, _)| *other == to) || ring.len() >= capacity {
                waiting.push_back((to, batch));
            } else if self.service.log().fault != Some(Fault::LosesReplies) || !rng.chance(2) {
                ring.push_back(Envelope::Message(Message::Store(batch)));
            }
        }
        self.answered = waiting;
        if !self.answered.is_empty() {
            self.next_turn = self.next_turn.min(now + 500);
        }
    }

    /// Whether a commit is under way, or something is yet to be read or written.
    pub fn is_busy(&self) -> bool {
        self.busy_until.is_some() || !self.held.is_empty() || !self.reading.is_empty()
    }

    /// The process is gone; the disk stays.
    pub fn into_disk(mut self) -> Disk {
        self.before.take().unwrap_or_else(|| self.service.log().clone())
    }
}

/// Keeps everything.
pub const FOREVER: Retention = Retention {
    age_ms: 7 * 86_400_000,
    messages: 1_000_000,
    bytes: 1 << 40,
    channels: u32::MAX,
    dedup_ms: 86_400_000,
    dedup_messages: 2_000_000,
};
