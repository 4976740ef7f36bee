//! A reactor without sockets. It does what `src/reactor/mod.rs` says a reactor does, as awkwardly as that allows, and fails
//! when the machine breaks its side of the contract.
#![forbid(unsafe_code)]

use std::{collections::VecDeque, sync::Arc};

use weir::{
    ids::{ConnId, ShardId},
    io::{Chunk, Input, Machine, Output, Tick},
    shard::{Message, Shard},
    stats::ShardStats,
};

use crate::{
    network::{Envelope, Link, Mesh, take},
    plan::Plan,
    rng::Rng,
};

/// What a turn may touch.
pub struct Surroundings<'a> {
    pub now: u64,
    /// A shard that drains may stop with unfinished business then.
    pub stop_at: u64,
    pub plan: &'a Plan,
    pub rng: &'a mut Rng,
    pub links: &'a mut [Link],
    pub mesh: &'a mut Mesh,
    /// Peers that have something to see.
    pub woken: &'a mut Vec<usize>,
}

struct Conn {
    link: usize,
    /// `Stay` was said, or it was adopted.
    decided: bool,
    sent_any: bool,
    sending: Option<(Chunk, usize)>,
    sending_since: u64,
    finished: bool,
    closing: bool,
    eof_told: bool,
    broken_told: bool,
    departing: Option<(usize, Message)>,
}

pub struct Reactor {
    id: usize,
    pub shard: Shard,
    pub stats: Arc<ShardStats>,
    slots: Vec<(u32, Option<Conn>)>,
    free: Vec<u32>,
    /// Links that wait to be accepted.
    pub backlog: VecDeque<usize>,
    accepting: bool,
    parcels: Vec<(usize, Envelope)>,
    refused: Vec<(usize, Message)>,
    first: usize,
    pub next_turn: u64,
    /// A stall lasts until then.
    not_before: u64,
    pub stopped_at: Option<u64>,
}

const STEP_BYTES: usize = 4 * 1024;
const MESSAGES_PER_TURN: usize = 16;

impl Reactor {
    pub fn new(id: usize, plan: &Plan, rng: &mut Rng) -> Reactor {
        let stats = Arc::new(ShardStats::default());
        let first = rng.pick(&[0, 5, ConnId::GENERATIONS - 2]);
        Reactor {
            id,
            shard: Shard::new(plan.settings(id as u16), Arc::clone(&stats)),
            stats,
            slots: (0..plan.slots).map(|_| (first, None)).collect(),
            free: (0..plan.slots as u32).rev().collect(),
            backlog: VecDeque::new(),
            accepting: true,
            parcels: Vec::new(),
            refused: Vec::new(),
            first: 0,
            next_turn: 0,
            not_before: 0,
            stopped_at: None,
        }
    }

    fn conn(&mut self, conn: ConnId, what: &str) -> &mut Conn {
        let (generation, entry) = &mut self.slots[conn.slot as usize];
        assert_eq!(*generation, conn.generation, "{what} for {conn}, whose slot has another user");
        let entry = entry.as_mut().unwrap_or_else(|| panic!("{what} for {conn}, which is gone"));
        assert!(!entry.closing, "{what} for {conn} after Close");
        assert!(entry.departing.is_none(), "{what} for {conn}, which is moving");
        entry
    }

    fn install(&mut self, link: usize, decided: bool) -> ConnId {
        let slot = self.free.pop().expect("room was taken before");
        let (generation, entry) = &mut self.slots[slot as usize];
        *generation = (*generation + 1) % ConnId::GENERATIONS;
        *entry = Some(Conn {
            link,
            decided,
            sent_any: false,
            sending: None,
            sending_since: 0,
            finished: false,
            closing: false,
            eof_told: false,
            broken_told: false,
            departing: None,
        });
        ConnId { slot, generation: *generation }
    }

    fn vacate(&mut self, slot: u32, mesh: &mut Mesh) -> Conn {
        self.free.push(slot);
        mesh.rooms[self.id] += 1;
        self.slots[slot as usize].1.take().expect("only taken slots are vacated")
    }

    /// One turn, in the order of `drive`.
    pub fn turn(&mut self, with: &mut Surroundings<'_>) {
        let mut live: Vec<u32> = (0..self.slots.len() as u32).filter(|slot| self.slots[*slot as usize].1.is_some()).collect();
        with.rng.shuffle(&mut live);
        for slot in live {
            self.events(slot, with);
        }
        self.accept(with);
        self.post_parcels(with);
        self.drain(with);
        let wake_at = self.shard.handle_tick(Tick(with.now));
        let retries = self.perform(with);
        if self.stopped_at.is_some() {
            return;
        }
        let mut next = wake_at.map_or(u64::MAX, |tick| tick.0.max(with.now + 1));
        if self.is_busy(with) {
            next = next.min(with.now + with.rng.range(1, with.plan.turn_us));
        }
        if retries || !self.parcels.is_empty() {
            next = next.min(with.now + 500);
        }
        if with.plan.stall_us > 0 && with.rng.chance(2) {
            self.not_before = with.now + with.rng.range(1, with.plan.stall_us);
        }
        self.next_turn = next.max(self.not_before);
    }

    /// Something has come for it.
    pub fn wake(&mut self, at: u64) {
        if self.stopped_at.is_none() {
            self.next_turn = self.next_turn.min(at).max(self.not_before);
        }
    }

    /// What the network has for one connection.
    fn events(&mut self, slot: u32, with: &mut Surroundings<'_>) {
        let now = Tick(with.now);
        let (generation, Some(conn)) = &mut self.slots[slot as usize] else { return };
        let id = ConnId { slot, generation: *generation };
        let link = &mut with.links[conn.link];
        if conn.closing {
            if with.rng.chance(60) {
                self.vacate(slot, with.mesh);
                self.shard.handle(now, Input::Closed { conn: id });
            }
            return;
        }
        if conn.departing.is_some() {
            if with.rng.chance(60) {
                self.depart(id, with);
            }
            return;
        }
        if conn.broken_told {
            return;
        }
        if link.reset {
            conn.broken_told = true;
            conn.sending = None;
            self.shard.handle(now, Input::Broken { conn: id, errno: 104 });
            return;
        }
        if let Some((chunk, at)) = &mut conn.sending {
            let left = chunk.as_slice().len() - *at;
            if left > 0 && link.room() > 0 {
                let part = with.rng.range(1, left.min(link.room()) as u64) as usize;
                link.down.extend(&chunk.as_slice()[*at..*at + part]);
                *at += part;
                with.woken.push(conn.link);
            }
            if chunk.as_slice().len() == *at && with.rng.chance(70) {
                let (chunk, _) = conn.sending.take().expect("just seen");
                self.shard.handle(now, Input::Sent { conn: id, chunk });
            }
        }
        self.receive(id, with);
    }

    fn receive(&mut self, id: ConnId, with: &mut Surroundings<'_>) {
        let now = Tick(with.now);
        loop {
            let Some(conn) = &mut self.slots[id.slot as usize].1 else { return };
            let link = &mut with.links[conn.link];
            if link.up.is_empty() {
                if link.up_ended && !conn.eof_told {
                    conn.eof_told = true;
                    self.shard.handle(now, Input::Eof { conn: id });
                }
                return;
            }
            if self.shard.is_congested() {
                return;
            }
            let most = link.up.len().min(if conn.decided { 16 * STEP_BYTES } else { STEP_BYTES });
            let length = if with.rng.chance(60) { most } else { with.rng.range(1, most as u64) as usize };
            let bytes = take(&mut link.up, length);
            let decided = conn.decided;
            self.shard.handle(now, Input::Received { conn: id, bytes: &bytes });
            if !decided || with.rng.chance(60) {
                return;
            }
        }
    }

    /// A move comes to its end on this side: refused if the other table is full, and perhaps if something came meanwhile.
    fn depart(&mut self, id: ConnId, with: &mut Surroundings<'_>) {
        let conn = self.slots[id.slot as usize].1.as_mut().expect("the caller has looked");
        let told = conn.eof_told;
        let (to, message) = conn.departing.take().expect("the caller has looked");
        let link = &with.links[conn.link];
        let something_came = !link.up.is_empty() || link.up_ended && !told || link.reset;
        if with.mesh.rooms[to] == 0 || something_came && with.rng.chance(50) {
            self.shard.handle(Tick(with.now), Input::MoveRefused { conn: id, message });
            return;
        }
        with.mesh.rooms[to] -= 1;
        let conn = self.vacate(id.slot, with.mesh);
        with.links[conn.link].holder = None;
        self.parcels.push((to, Envelope::Adopt { link: conn.link, message }));
    }

    fn accept(&mut self, with: &mut Surroundings<'_>) {
        while self.accepting && with.mesh.rooms[self.id] > 0 {
            let Some(link) = self.backlog.pop_front() else { return };
            with.mesh.rooms[self.id] -= 1;
            with.links[link].holder = Some(self.id);
            let conn = self.install(link, false);
            self.shard.handle(Tick(with.now), Input::Accepted { conn, peer: with.links[link].address });
        }
        if !self.accepting {
            for link in self.backlog.drain(..) {
                with.links[link].close(with.now, true, with.rng);
                with.woken.push(link);
            }
        }
    }

    fn post_parcels(&mut self, with: &mut Surroundings<'_>) {
        for (to, envelope) in std::mem::take(&mut self.parcels) {
            let ring = &mut with.mesh.rings[self.id][to];
            if ring.len() < with.mesh.capacity {
                ring.push_back(envelope);
            } else {
                self.parcels.push((to, envelope));
            }
        }
    }

    fn drain(&mut self, with: &mut Surroundings<'_>) {
        let (senders, first) = (with.mesh.rings.len(), self.first);
        for from in (0..senders).map(|offset| (first + offset) % senders) {
            for _ in 0..MESSAGES_PER_TURN {
                let Some(envelope) = with.mesh.rings[from][self.id].pop_front() else { break };
                self.take(from, envelope, with);
            }
        }
        self.first = (self.first + 1) % senders;
    }

    fn take(&mut self, from: usize, envelope: Envelope, with: &mut Surroundings<'_>) {
        let (now, from) = (Tick(with.now), ShardId(from as u16));
        match envelope {
            Envelope::Message(message) => self.shard.handle(now, Input::Posted { from, message }),
            Envelope::Adopt { link, message } if !with.plan.all_good && with.rng.chance(5) => {
                with.mesh.rooms[self.id] += 1;
                with.links[link].close(with.now, true, with.rng);
                with.woken.push(link);
                self.shard.handle(now, Input::AdoptFailed { from, message, errno: 12 });
            }
            Envelope::Adopt { link, message } => {
                with.links[link].holder = Some(self.id);
                let conn = self.install(link, true);
                self.shard.handle(now, Input::Adopted { conn, from, message });
            }
        }
    }

    /// Does what the machine asks for. Returns whether posts were refused.
    fn perform(&mut self, with: &mut Surroundings<'_>) -> bool {
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Send { conn, chunk } => {
                    assert!(!chunk.as_slice().is_empty(), "an empty chunk for {conn}");
                    let entry = self.conn(conn, "Send");
                    assert!(entry.sending.is_none(), "a second chunk in flight on {conn}");
                    assert!(!entry.finished, "Send on {conn} after Finish");
                    entry.sent_any = true;
                    entry.sending = Some((chunk, 0));
                    entry.sending_since = with.now;
                }
                Output::Stay { conn } => {
                    let entry = self.conn(conn, "Stay");
                    assert!(!entry.decided, "Stay for {conn}, which stays already");
                    entry.decided = true;
                }
                Output::Move { conn, to, message } => {
                    assert_ne!(to.index(), self.id, "{conn} moves to where it is");
                    let entry = self.conn(conn, "Move");
                    assert!(!entry.decided && !entry.sent_any, "{conn} cannot move any more");
                    entry.departing = Some((to.index(), message));
                }
                Output::Finish { conn } => {
                    let entry = self.conn(conn, "Finish");
                    assert!(entry.sending.is_none() && !entry.finished, "Finish on {conn} with a chunk in flight, or twice");
                    entry.finished = true;
                    let link = entry.link;
                    with.links[link].down_ended = true;
                    with.links[link].finished_at = Some(with.now);
                    with.woken.push(link);
                }
                Output::Close { conn } => {
                    let entry = self.conn(conn, "Close");
                    entry.closing = true;
                    let (link, gave_up) = (entry.link, entry.sending.take().is_some());
                    with.links[link].close(with.now, gave_up, with.rng);
                    with.woken.push(link);
                }
                Output::Post { to, message } => self.post(to.index(), message, with),
                Output::StopAccepting => self.accepting = false,
                Output::Stop => {
                    self.stop(with);
                    return false;
                }
                Output::Connect { .. } => panic!("a gateway does not connect"),
            }
        }
        let any = !self.refused.is_empty();
        for (to, message) in self.refused.drain(..) {
            self.shard.handle(Tick(with.now), Input::PostRefused { to: ShardId(to as u16), message });
        }
        any
    }

    fn post(&mut self, to: usize, message: Message, with: &mut Surroundings<'_>) {
        assert_ne!(to, self.id, "a post to oneself");
        let ring = &mut with.mesh.rings[self.id][to];
        if ring.len() >= with.mesh.capacity || self.refused.iter().any(|(refused, _)| *refused == to) {
            self.refused.push((to, message));
        } else {
            ring.push_back(Envelope::Message(message));
        }
    }

    fn stop(&mut self, with: &mut Surroundings<'_>) {
        let left = self.shard.residue().connections;
        assert!(left == 0 || with.now >= with.stop_at, "shard {} stops early, and {left} are still there", self.id);
        self.stopped_at = Some(with.now);
        self.next_turn = u64::MAX;
        for conn in self.slots.iter_mut().filter_map(|(_, conn)| conn.take()).filter(|conn| !conn.closing) {
            with.links[conn.link].close(with.now, true, with.rng);
            with.woken.push(conn.link);
        }
    }

    /// A link on which one chunk has been in flight since before `since`.
    pub fn stuck(&self, since: u64) -> Option<usize> {
        let is_stuck = |conn: &&Conn| conn.sending.is_some() && conn.sending_since < since && !conn.closing;
        self.slots.iter().filter_map(|(_, conn)| conn.as_ref()).find(is_stuck).map(|conn| conn.link)
    }

    fn is_busy(&self, with: &Surroundings<'_>) -> bool {
        let congested = self.shard.is_congested();
        let has_event = |conn: &Conn| {
            let link = &with.links[conn.link];
            let sends = conn.sending.as_ref().is_some_and(|(chunk, at)| *at == chunk.as_slice().len() || link.room() > 0);
            let ends = link.reset || !conn.eof_told && link.up_ended && link.up.is_empty();
            let talks = conn.closing || conn.departing.is_some() || sends || ends || !link.up.is_empty() && !congested;
            talks && (conn.closing || !conn.broken_told)
        };
        let posted = with.mesh.waits_for(self.id);
        let arrives = !self.backlog.is_empty() && (with.mesh.rooms[self.id] > 0 || !self.accepting);
        posted || arrives || self.slots.iter().filter_map(|(_, conn)| conn.as_ref()).any(has_event)
    }
}
