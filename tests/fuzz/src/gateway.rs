//! One or two shards and the least reactor around them: it does what it is told as far as the contract of `weir::io` allows, and
//! fails when the shard breaks its own side of it.

use std::{collections::VecDeque, net::IpAddr, sync::Arc};

use arbitrary::Arbitrary;
use weir::{
    ids::{ConnId, ShardId},
    io::{Chunk, Input, Machine, Output, Tick},
    session::{DeviceClass, HeartbeatRules, Policy, Rate, Rules},
    shard::{Control, GoawayRules, Limits, Message, Residue, Settings, Shard, Timeouts},
    stats::ShardStats,
};

use crate::{said::CLASSES, store::Store};

/// Limits that are worth meeting.
#[derive(Arbitrary, Debug)]
pub struct Limited {
    connections: Option<u8>,
    per_address: u8,
    logins_per_second: u8,
    outbound_bytes: Option<u16>,
    groups: u8,
    frames_per_second: u8,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Undecided,
    Moving,
    Staying,
    Closing,
}

struct Conn {
    shard: usize,
    id: ConnId,
    stage: Stage,
    sending: Option<Chunk>,
    sent_any: bool,
    finished: bool,
    eof: bool,
    broken: bool,
    cargo: Option<(usize, Message)>,
}

enum Envelope {
    Message(Message),
    Adopt(Message),
}

struct Core {
    shard: Shard,
    stats: Arc<ShardStats>,
    slots: Vec<bool>,
    generation: u32,
    refused: Vec<(usize, Message)>,
    stopped: bool,
}

pub struct Gateway {
    now: Tick,
    cores: Vec<Core>,
    store: Store,
    /// By sender (shards, store, control), then receiver (shards, store).
    rings: Vec<Vec<VecDeque<Envelope>>>,
    ring_capacity: usize,
    conns: Vec<Conn>,
    drained: bool,
}

const CONNECTIONS_MAX: usize = 64;

impl Gateway {
    pub fn new(shards: usize, ring_capacity: usize, limited: &Limited) -> Gateway {
        let cores = (0..shards).map(|id| {
            let stats = Arc::new(ShardStats::default());
            let settings = settings(id as u16, shards as u16, limited);
            let shard = Shard::new(settings, Arc::clone(&stats));
            Core { shard, stats, slots: Vec::new(), generation: 0, refused: Vec::new(), stopped: false }
        });
        Gateway {
            now: Tick(1_000),
            cores: cores.collect(),
            store: Store::new(),
            rings: (0..shards + 2).map(|_| (0..=shards).map(|_| VecDeque::new()).collect()).collect(),
            ring_capacity,
            conns: Vec::new(),
            drained: false,
        }
    }

    fn place(&mut self, shard: usize, stage: Stage, eof: bool) -> (usize, ConnId) {
        let core = &mut self.cores[shard];
        let slot = core.slots.iter().position(|taken| !taken).unwrap_or(core.slots.len());
        if slot == core.slots.len() {
            core.slots.push(true);
        }
        core.slots[slot] = true;
        core.generation += 1;
        let id = ConnId { slot: slot as u32, generation: core.generation };
        let conn = Conn { shard, id, stage, sending: None, sent_any: false, finished: false, eof, broken: false, cargo: None };
        self.conns.push(conn);
        (self.conns.len() - 1, id)
    }

    fn pick(&self, who: u8) -> Option<usize> {
        (!self.conns.is_empty()).then(|| usize::from(who) % self.conns.len())
    }

    fn tell(&mut self, shard: usize, input: Input<'_, Message>) {
        if !self.cores[shard].stopped {
            self.cores[shard].shard.handle(self.now, input);
        }
    }

    pub fn accept(&mut self, shard: usize, address: u8) {
        let shard = shard % self.cores.len();
        if self.conns.len() < CONNECTIONS_MAX && !self.drained {
            let (_, conn) = self.place(shard, Stage::Undecided, false);
            self.tell(shard, Input::Accepted { conn, peer: IpAddr::from([127, 0, 0, address % 4]) });
        }
    }

    /// Bytes, unless none can come. While the machine decides, it has one step's worth a turn; the next `turn` makes it decide.
    pub fn receive(&mut self, who: u8, bytes: &[u8]) {
        let Some(index) = self.pick(who) else { return };
        let (shard, id, stage, over) = self.seen(index);
        if over || bytes.is_empty() || self.cores[shard].shard.is_congested() {
            return;
        }
        self.tell(shard, Input::Received { conn: id, bytes });
        if stage == Stage::Undecided {
            self.perform(shard);
        }
    }

    fn seen(&self, index: usize) -> (usize, ConnId, Stage, bool) {
        let conn = &self.conns[index];
        let over = conn.eof || conn.broken || matches!(conn.stage, Stage::Moving | Stage::Closing);
        (conn.shard, conn.id, conn.stage, over)
    }

    pub fn sent(&mut self, who: u8) {
        let Some(index) = self.pick(who) else { return };
        let (shard, id, stage, _) = self.seen(index);
        if stage != Stage::Closing
            && !self.conns[index].broken
            && let Some(chunk) = self.conns[index].sending.take()
        {
            self.tell(shard, Input::Sent { conn: id, chunk });
        }
    }

    pub fn eof(&mut self, who: u8) {
        let Some(index) = self.pick(who) else { return };
        let (shard, id, _, over) = self.seen(index);
        if !over {
            self.conns[index].eof = true;
            self.tell(shard, Input::Eof { conn: id });
        }
    }

    pub fn broken(&mut self, who: u8) {
        let Some(index) = self.pick(who) else { return };
        let (shard, id, stage, _) = self.seen(index);
        if !matches!(stage, Stage::Moving | Stage::Closing) && !self.conns[index].broken {
            self.conns[index].broken = true;
            self.conns[index].sending = None;
            self.tell(shard, Input::Broken { conn: id, errno: 104 });
        }
    }

    pub fn closed(&mut self, who: u8) {
        let Some(index) = self.pick(who) else { return };
        let (shard, id, stage, _) = self.seen(index);
        if stage == Stage::Closing {
            self.conns.swap_remove(index);
            self.cores[shard].slots[id.slot as usize] = false;
            self.tell(shard, Input::Closed { conn: id });
        }
    }

    /// A move ends: on its way, refused, or lost on the other side.
    pub fn moved(&mut self, who: u8, refused: bool, failed: bool) {
        let Some(index) = self.pick(who) else { return };
        let (shard, id, stage, _) = self.seen(index);
        if stage != Stage::Moving {
            return;
        }
        let (to, message) = self.conns[index].cargo.take().expect("a moving connection has cargo");
        if refused {
            self.conns[index].stage = Stage::Undecided;
            self.tell(shard, Input::MoveRefused { conn: id, message });
            return;
        }
        self.conns.swap_remove(index);
        self.cores[shard].slots[id.slot as usize] = false;
        if failed {
            self.tell(to, Input::AdoptFailed { from: ShardId(shard as u16), message, errno: 12 });
        } else {
            self.rings[shard][to].push_back(Envelope::Adopt(message));
        }
    }

    pub fn drain(&mut self, within_ms: u32) {
        let store = self.cores.len();
        self.drained = true;
        for ring in &mut self.rings[store + 1][..store] {
            ring.push_back(Envelope::Message(Message::Control(Control::Drain { within_ms })));
        }
    }

    /// The store takes at most so many batches of each shard, and gives back what finds room.
    pub fn serve(&mut self, most: u8, fails: bool) {
        let me = self.cores.len();
        let mut batches = Vec::new();
        for shard in 0..me {
            for _ in 0..most {
                match self.rings[shard][me].pop_front() {
                    Some(Envelope::Message(Message::Store(batch))) => batches.push((shard, batch)),
                    Some(_) => panic!("the store got something that is not for it"),
                    None => break,
                }
            }
        }
        self.store.serve(1_767_225_600_000 + self.now.as_ms(), batches, fails);
        let mut full = vec![false; me];
        for (to, batch) in std::mem::take(&mut self.store.answered) {
            full[to] |= self.rings[me][to].len() >= self.ring_capacity;
            if full[to] {
                self.store.answered.push_back((to, batch));
            } else {
                self.rings[me][to].push_back(Envelope::Message(Message::Store(batch)));
            }
        }
    }

    /// Rings, tick, outputs.
    pub fn turn(&mut self, shard: usize, elapsed_us: u64) {
        let shard = shard % self.cores.len();
        self.now = Tick(self.now.0 + elapsed_us);
        if self.cores[shard].stopped {
            return;
        }
        for from in 0..self.rings.len() {
            for _ in 0..16 {
                let Some(envelope) = self.rings[from][shard].pop_front() else { break };
                let sender = ShardId(from as u16);
                match envelope {
                    Envelope::Message(message) => self.tell(shard, Input::Posted { from: sender, message }),
                    Envelope::Adopt(message) => {
                        let (_, conn) = self.place(shard, Stage::Staying, false);
                        self.tell(shard, Input::Adopted { conn, from: sender, message });
                    }
                }
            }
        }
        let shard_state = &mut self.cores[shard].shard;
        // It may ask for another turn at once, but not for ever.
        let late = |at: Option<Tick>| at.is_some_and(|at| at < self.now);
        let calm = (0..100).any(|_| !late(shard_state.handle_tick(self.now)));
        assert!(calm, "it wants to be woken in the past, again and again");
        self.perform(shard);
        for (to, message) in std::mem::take(&mut self.cores[shard].refused) {
            self.tell(shard, Input::PostRefused { to: ShardId(to as u16), message });
        }
    }

    fn conn(&mut self, shard: usize, id: ConnId) -> &mut Conn {
        let found = self.conns.iter_mut().find(|conn| conn.shard == shard && conn.id == id);
        let found = found.unwrap_or_else(|| panic!("an output for {id}, which is not there"));
        assert!(!matches!(found.stage, Stage::Moving | Stage::Closing), "an output for {id}, which is leaving");
        found
    }

    fn perform(&mut self, shard: usize) {
        while let Some(output) = self.cores[shard].shard.poll_output() {
            match output {
                Output::Send { conn, chunk } => {
                    let conn = self.conn(shard, conn);
                    assert!(conn.sending.is_none() && !conn.finished && !chunk.as_slice().is_empty());
                    conn.sent_any = true;
                    // On a broken connection it goes nowhere.
                    conn.sending = (!conn.broken).then_some(chunk);
                }
                Output::Stay { conn } => {
                    let conn = self.conn(shard, conn);
                    assert!(conn.stage == Stage::Undecided);
                    conn.stage = Stage::Staying;
                }
                Output::Move { conn, to, message } => {
                    let conn = self.conn(shard, conn);
                    assert!(conn.stage == Stage::Undecided && !conn.sent_any && to.index() != shard);
                    conn.stage = Stage::Moving;
                    conn.cargo = Some((to.index(), message));
                }
                Output::Finish { conn } => {
                    let conn = self.conn(shard, conn);
                    assert!(conn.sending.is_none() && !conn.finished);
                    conn.finished = true;
                }
                Output::Close { conn } => {
                    let conn = self.conn(shard, conn);
                    conn.stage = Stage::Closing;
                    conn.sending = None;
                }
                Output::Post { to, message } => {
                    let ring = &mut self.rings[shard][to.index()];
                    let core = &mut self.cores[shard];
                    if ring.len() >= self.ring_capacity || core.refused.iter().any(|(other, _)| *other == to.index()) {
                        core.refused.push((to.index(), message));
                    } else {
                        ring.push_back(Envelope::Message(message));
                    }
                }
                Output::StopAccepting => assert!(self.drained),
                Output::Stop => {
                    assert!(self.drained && !self.cores[shard].stopped);
                    self.cores[shard].stopped = true;
                }
                Output::Connect { .. } => panic!("a gateway does not connect"),
            }
        }
    }

    /// Everybody leaves; then nothing may be left.
    pub fn end(mut self) {
        // Deadlines of an hour pass: whatever waits for one has its end.
        for round in 0..200u64 {
            for who in 0..self.conns.len() {
                let who = who as u8;
                self.moved(who, false, false);
                self.broken(who);
            }
            for who in (0..self.conns.len()).rev() {
                self.closed(who as u8);
            }
            self.serve(4, false);
            for shard in 0..self.cores.len() {
                self.turn(shard, if round < 100 { 1_000 } else { 60_000_000 });
            }
        }
        for (id, core) in self.cores.iter_mut().enumerate() {
            if self.drained {
                assert!(core.stopped, "shard {id} does not stop");
                assert!(core.shard.poll_output().is_none(), "shard {id} speaks after Stop");
                continue;
            }
            assert_eq!(core.shard.residue(), Residue::default(), "shard {id} holds something, and everybody has left");
            assert_eq!((core.stats.connections.get(), core.stats.sessions.get()), (0, 0));
        }
    }
}

fn settings(id: u16, shards: u16, limited: &Limited) -> Settings {
    let policies = [Policy::AllowMany, Policy::KeepNewest, Policy::RefuseNewest];
    let classes = CLASSES.into_iter().zip(policies).map(|(name, policy)| DeviceClass { name: name.to_owned(), policy });
    let outbound = limited.outbound_bytes.map_or(1 << 20, |bytes| usize::from(bytes) + 64);
    Settings {
        id: ShardId(id),
        shards,
        hash_key: (1, 2),
        rules: Arc::new(Rules {
            verifier: None,
            device_classes: classes.collect(),
            heartbeat: HeartbeatRules {
                interval_ms: 30_000,
                interval_min_ms: 10_000,
                interval_max_ms: 120_000,
                missed_max: 3,
                probe_timeout_ms: 10_000,
            },
            frames: Rate { per_second: u32::from(limited.frames_per_second) },
            bytes: Rate { per_second: 0 },
            max_body_bytes: 65_536,
            wall_at_start_us: 1_767_225_600_000_000,
        }),
        limits: Limits {
            connections: limited.connections.map_or(1_000, u32::from),
            connections_per_address: u32::from(limited.per_address),
            logins_per_second: u32::from(limited.logins_per_second),
            outbound_bytes_per_connection: outbound,
            outbound_bytes_per_shard: outbound * 4,
            inbound_bytes_per_shard: 1 << 20,
            groups_per_connection: u32::from(limited.groups),
            memberships_per_shard: 1_000,
            devices_per_client: 8,
            watches_per_connection: 8,
            watches_per_shard: 1_000,
            watchers_per_client: 4,
            heartbeats_per_second: 1,
        },
        timeouts: Timeouts { login_ms: 5_000, frame_ms: 30_000, write_ms: 10_000, linger_ms: 2_000, settle_ms: 2_000 },
        goaway: GoawayRules { delay_min_ms: 0, delay_max_ms: 1_000, alternatives: Vec::new() },
    }
}
