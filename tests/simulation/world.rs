//! One run: reactors, links and peers under one clock, which jumps from one thing that is due to the next.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr};

use weir::shard::Control;

use crate::{
    PROGRESS,
    disk::Disk,
    model::{Model, Totals},
    network::{Link, Mesh, take},
    peer::{Mark, Peer},
    plan::{Plan, SECOND_US, SLACK_US, WALL_US},
    presence::Ways,
    reactor::{Reactor, Surroundings},
    rng::Rng,
    store::{FOREVER, Pace, Store},
};

/// The control thread looks at the shards this often while they drain.
const LOOK_US: u64 = 20_000;

/// Nobody sends durable messages here; `durable` has its own world for them.
const STORE_PACE: Pace = Pace { sync_us: (300, 3_000), stall_us: 0, group: 4 };

pub struct World {
    pub plan: Plan,
    rng: Rng,
    now: u64,
    step: u64,
    pub reactors: Vec<Reactor>,
    mesh: Mesh,
    store: Store,
    pub links: Vec<Link>,
    pub peers: Vec<Peer>,
    names: Vec<(String, String)>,
    pub model: Model,
    /// Nobody begins anything any more.
    settle_at: u64,
    /// Everybody leaves, or the gateway stops.
    pub finale_at: u64,
    pub drain_within_us: u64,
    /// The control thread looks at the shards next, and whether nobody was left when it last did.
    look_at: u64,
    was_empty: bool,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut rng = Rng::new(seed);
        let mut plan = Plan::new(&mut rng);
        Ways::choose(&mut plan);
        let count = usize::from(plan.shards);
        let mut peers: Vec<Peer> = (0..plan.peers).map(|id| Peer::new(id, &plan, &mut rng)).collect();
        let address = |rng: &mut Rng| IpAddr::V4(Ipv4Addr::new(10, 0, 0, rng.range(1, plan.addresses) as u8));
        let deadlines_us =
            plan.silence_max_us() + 1_000 * u64::from(plan.heartbeat.probe_timeout_ms + 2 * plan.timeouts.write_ms);
        let settle_at = plan.begin_us + plan.spread_us + 10 * SECOND_US + deadlines_us;
        let finale_at = settle_at + 4 * SECOND_US;
        if plan.drain {
            // Some come just when the gateway begins to stop.
            for peer in &mut peers {
                if rng.chance(20) {
                    peer.connect_at = finale_at - rng.range(0, 4_000);
                    peer.next_at = peer.connect_at;
                }
            }
        }
        World {
            reactors: (0..count).map(|id| Reactor::new(id, &plan, &mut rng)).collect(),
            mesh: Mesh::new(count, plan.ring, plan.slots),
            store: Store::new(Disk::new(FOREVER, None), STORE_PACE),
            links: (0..plan.peers).map(|_| Link::new(address(&mut rng), plan.socket_bytes)).collect(),
            names: peers.iter().map(|peer| (peer.client.clone(), peer.device.clone())).collect(),
            peers,
            model: Model::default(),
            settle_at,
            finale_at,
            drain_within_us: rng.range(200, 6_000) * 1_000,
            look_at: u64::MAX,
            was_empty: false,
            now: 0,
            step: 0,
            rng,
            plan,
        }
    }

    /// Runs from the first connection until long after the last can have gone.
    pub fn run(&mut self) {
        self.advance(self.settle_at);
        self.settle();
        self.advance(self.settle_at + 2 * SECOND_US);
        crate::presence::count(self);
        self.advance(self.finale_at);
        crate::presence::truth(self);
        crate::checks::deadlines(self);
        crate::checks::stalls(self);
        crate::checks::rivals(self);
        self.finale();
        let timeouts = self.plan.timeouts;
        let most_us = 1_000 * u64::from(2 * timeouts.write_ms + timeouts.linger_ms) + SLACK_US;
        self.advance(self.finale_at + most_us.max(self.drain_within_us + SLACK_US) + 5 * SECOND_US);
        if self.reactors.iter().all(|reactor| reactor.stopped_at.is_some()) {
            // The process is gone, and with it what was on its way between its shards.
            for link in self.links.iter_mut().filter(|link| link.closed_at.is_none()) {
                link.close(self.now, true, &mut self.rng);
            }
            for id in 0..self.peers.len() {
                self.peers[id].next_at = self.now;
            }
            self.advance(self.now + SECOND_US);
        }
        for (peer, link) in self.peers.iter_mut().zip(&self.links) {
            peer.gone_at = link.closed_at;
        }
        crate::checks::end(self);
        crate::presence::judge(self);
        self.model.judge(&self.peers, self.finale_at - 1, &self.totals());
    }

    pub fn now(&self) -> u64 {
        self.now
    }

    pub fn totals(&self) -> Totals {
        let sum = |read: fn(&weir::stats::ShardStats) -> u64| self.reactors.iter().map(|reactor| read(&reactor.stats)).sum();
        Totals {
            pushes: sum(|stats| stats.pushes.get()),
            dropped: sum(|stats| stats.dropped_connection_full.get() + stats.dropped_shard_full.get()),
            dropped_mesh: sum(|stats| stats.dropped_mesh_full.get()),
            has_small_budget: self.plan.has_small_budget(),
        }
    }

    /// Does everything that is due until `until`.
    fn advance(&mut self, until: u64) {
        loop {
            let reactor = self.reactors.iter().enumerate().map(|(id, reactor)| (reactor.next_turn, id)).min();
            let peer = self.peers.iter().map(|peer| (peer.next_at, peer.id)).min();
            let (turn_at, shard) = reactor.expect("there are shards");
            let (step_at, id) = peer.expect("there are peers");
            let serve_at = self.store.next_turn;
            let at = turn_at.min(step_at).min(self.look_at).min(serve_at);
            if at > until {
                self.now = until;
                return;
            }
            self.now = self.now.max(at);
            self.step += 1;
            PROGRESS.set((self.step, self.now));
            assert!(self.step < 5_000_000, "the run does not come to an end: somebody is woken for nothing");
            match at {
                _ if at == self.look_at => self.look(),
                _ if at == serve_at => self.serve(),
                _ if at == turn_at => self.turn(shard),
                _ => self.step(id),
            }
        }
    }

    /// What the control thread does while the gateway stops: when nobody is left on any shard, twice in a row, all may stop.
    fn look(&mut self) {
        self.look_at = self.now + LOOK_US;
        let empty = self.reactors.iter().all(|reactor| reactor.stats.connections.get() == 0);
        if empty && self.was_empty {
            self.control(Control::Stop);
            self.look_at = u64::MAX;
        }
        self.was_empty = empty;
    }

    /// The control thread tells all shards something.
    fn control(&mut self, control: Control) {
        self.mesh.control(control);
        for to in 0..self.reactors.len() {
            self.wake(to);
        }
    }

    fn turn(&mut self, shard: usize) {
        let mut woken = Vec::new();
        let mut with = Surroundings {
            now: self.now,
            stop_at: self.finale_at + self.drain_within_us,
            plan: &self.plan,
            rng: &mut self.rng,
            links: &mut self.links,
            mesh: &mut self.mesh,
            woken: &mut woken,
        };
        self.reactors[shard].turn(&mut with);
        for peer in woken {
            let at = self.now + self.rng.range(10, 3_000);
            self.peers[peer].next_at = self.peers[peer].next_at.min(at);
        }
        self.wake_receivers();
    }

    /// Whoever something lies in a ring for.
    fn wake_receivers(&mut self) {
        for to in 0..self.reactors.len() {
            if self.mesh.waits_for(to) {
                self.wake(to);
            }
        }
        if self.mesh.waits_for(self.mesh.store()) {
            self.store.wake(self.now + self.rng.range(1, self.plan.turn_us));
        }
    }

    fn serve(&mut self) {
        let wall_ms = WALL_US / 1_000 + self.now / 1_000;
        self.store.turn(self.now, wall_ms, u64::MAX, &mut self.mesh, &mut self.rng);
        self.wake_receivers();
    }

    fn wake(&mut self, shard: usize) {
        let at = self.now + self.rng.range(1, self.plan.turn_us);
        self.reactors[shard].wake(at);
    }

    fn step(&mut self, id: usize) {
        if !self.peers[id].connected {
            self.connect(id);
            return;
        }
        self.read(id);
        let winding_down = self.now >= self.settle_at;
        let (peer, link) = (&mut self.peers[id], &mut self.links[id]);
        peer.step(self.now, &mut self.rng, link, &mut self.model, &self.plan, winding_down);
        for mark in peer.write(self.now, &mut self.rng, link) {
            match mark {
                Mark::Login => self.login_written(id),
                Mark::Send(message) => {
                    self.model.sent.get_mut(&message).expect("it was entered when it was queued").written_at = Some(self.now);
                }
                Mark::Join(_) | Mark::Leave(_) => {}
            }
        }
        if let Some(shard) = self.links[id].holder {
            self.wake(shard);
        }
    }

    fn connect(&mut self, id: usize) {
        let shard = self.rng.index(self.reactors.len());
        self.peers[id].begin(self.now, &mut self.rng, &mut self.model, &self.plan);
        self.links[id].holder = Some(shard);
        self.reactors[shard].backlog.push_back(id);
        self.wake(shard);
    }

    fn read(&mut self, id: usize) {
        let (peer, link) = (&mut self.peers[id], &mut self.links[id]);
        if !peer.reads(self.now) {
            // Who never reads never sees the end; a closed socket is the end all the same.
            if link.closed_at.is_some() && !peer.is_over() && peer.ever_paused {
                peer.ended_at = Some(self.now);
            }
            return;
        }
        if !link.down.is_empty() {
            let length = self.rng.range(1, link.down.len() as u64) as usize;
            let length = if self.rng.chance(60) { link.down.len() } else { length };
            peer.read(self.now, &take(&mut link.down, length), &mut self.rng, &mut self.model, &self.names);
        }
        if link.down_ended && link.down.is_empty() {
            peer.ended_at = Some(self.now);
            // What waited for a slow consumer was dropped.
            let slow = peer.ending.is_some_and(|ending| ending.code == weir::wire::ErrorCode::SlowConsumer);
            // Who has left is given what waits until a deadline, and not longer.
            let write_us = u64::from(self.plan.timeouts.write_ms) * 1_000;
            let flushed = peer.left_at.zip(link.closed_at).is_none_or(|(left, closed)| closed < left + write_us);
            peer.read_all = !link.aborted && !slow && flushed;
            link.up_ended |= !peer.clings;
            if !link.aborted {
                assert!(!flushed || !peer.has_part_of_a_frame(), "peer {id}: the stream ended inside a frame");
                let said_why = peer.ending.is_some() || peer.closed_itself;
                assert!(said_why, "peer {id}: the gateway ended the connection and did not say why");
            }
        }
    }

    /// From now on this login, and others of the same client, may take each other's place.
    fn login_written(&mut self, id: usize) {
        let now = self.now;
        for other in (0..self.peers.len()).filter(|other| *other != id) {
            if !crate::checks::are_rivals(&self.peers[id], &self.peers[other]) || self.peers[other].login_written_at.is_none() {
                continue;
            }
            self.peers[other].at_risk(now);
            let is_gone = self.links[other].closed_at.is_some();
            if self.peers[other].login_ok_at.is_none() && !is_gone {
                self.peers[id].at_risk(now);
            }
        }
    }

    fn settle(&mut self) {
        for id in 0..self.peers.len() {
            let peer = &mut self.peers[id];
            if peer.login_ok_at.is_some() && !peer.closed_itself && !peer.is_over() {
                peer.ping(&mut self.rng);
                peer.next_at = self.now;
            }
        }
    }

    fn finale(&mut self) {
        if self.plan.drain {
            let within_ms = (self.drain_within_us / 1_000) as u32;
            self.control(Control::Drain { within_ms });
            self.look_at = self.now + LOOK_US;
            return;
        }
        for id in 0..self.peers.len() {
            let (peer, link) = (&mut self.peers[id], &mut self.links[id]);
            if peer.connected && !peer.is_over() && !link.up_ended {
                peer.leave(self.now, link);
            }
            if let Some(shard) = link.holder {
                self.wake(shard);
            }
        }
    }
}
