//! One life of the gateway: its shards, the rings between them, and its store. What outlives it is the disk.
#![forbid(unsafe_code)]

use weir::shard::Control;

use super::{faults::Fault, plan::Plan};
use crate::{
    disk::Disk,
    network::{Link, Mesh},
    plan,
    reactor::{Reactor, Surroundings},
    rng::Rng,
    store::Store,
};

/// The control thread looks at the shards this often while they stop.
const LOOK_US: u64 = 20_000;

pub struct Process {
    pub reactors: Vec<Reactor>,
    mesh: Mesh,
    pub store: Store,
    base_us: u64,
    /// While it stops: when the control thread looks next, and whether nobody was left when it last did.
    look_at: u64,
    was_empty: bool,
    /// It stops, and must have stopped by then.
    pub stop_by: Option<u64>,
    fault: Option<Fault>,
}

impl Process {
    pub fn new(plan: &Plan, base: &plan::Plan, disk: Disk, rng: &mut Rng) -> Process {
        let count = usize::from(base.shards);
        let fault = disk.fault;
        Process {
            reactors: (0..count).map(|id| Reactor::new(id, base, rng)).collect(),
            mesh: Mesh::new(count, base.ring, base.slots),
            store: Store::new(disk, plan.pace),
            base_us: base.wall_us,
            look_at: u64::MAX,
            was_empty: false,
            stop_by: None,
            fault,
        }
    }

    /// Who acts next, and when.
    pub fn next(&self) -> u64 {
        let turns = self.reactors.iter().map(|reactor| reactor.next_turn);
        turns.chain([self.store.next_turn, self.look_at]).min().expect("there is a store")
    }

    /// Does what is due now. Gives the links on which something is to be seen.
    pub fn advance(&mut self, now: u64, crash_at: u64, base: &plan::Plan, links: &mut [Link], rng: &mut Rng) -> Vec<usize> {
        let mut woken = Vec::new();
        if self.look_at <= now {
            self.look(now, base, rng);
        } else if self.store.next_turn <= now {
            let wall_ms = (self.base_us + now) / 1_000;
            self.store.turn(now, wall_ms, crash_at, &mut self.mesh, rng);
        } else {
            let due = self.reactors.iter_mut().find(|reactor| reactor.next_turn <= now).expect("somebody is due");
            let (mesh, stop_at) = (&mut self.mesh, self.stop_by.unwrap_or(u64::MAX));
            due.turn(&mut Surroundings { now, stop_at, plan: base, rng, links, mesh, woken: &mut woken });
        }
        if self.fault == Some(Fault::LosesBatch) && rng.chance(1) {
            let shards = self.reactors.len();
            let (from, to) = (rng.index(shards), rng.index(shards));
            self.mesh.lose(from, to);
        }
        self.wake_receivers(now, base, rng);
        woken
    }

    fn wake_receivers(&mut self, now: u64, base: &plan::Plan, rng: &mut Rng) {
        for to in 0..self.reactors.len() {
            if self.mesh.waits_for(to) {
                self.reactors[to].wake(now + rng.range(1, base.turn_us));
            }
        }
        if self.mesh.waits_for(self.mesh.store()) {
            self.store.wake(now + rng.range(1, base.turn_us));
        }
    }

    /// What the control thread does while the gateway stops: when nobody is left on any shard, twice in a row, all may stop.
    fn look(&mut self, now: u64, base: &plan::Plan, rng: &mut Rng) {
        self.look_at = now + LOOK_US;
        let empty = self.reactors.iter().all(|reactor| reactor.stats.connections.get() == 0);
        if empty && self.was_empty {
            self.mesh.control(Control::Stop);
            self.look_at = u64::MAX;
        }
        self.was_empty = empty;
        self.wake_receivers(now, base, rng);
    }

    /// It is asked to stop.
    pub fn stop(&mut self, now: u64, within_us: u64, base: &plan::Plan, rng: &mut Rng) {
        self.mesh.control(Control::Drain { within_ms: (within_us / 1_000) as u32 });
        (self.look_at, self.stop_by) = (now + LOOK_US, Some(now + within_us));
        self.wake_receivers(now, base, rng);
    }

    /// All its shards have ended, and the store has done what they asked for.
    pub fn has_stopped(&self) -> bool {
        let ended = self.reactors.iter().all(|reactor| reactor.stopped_at.is_some());
        ended && !self.store.is_busy() && !self.mesh.waits_for(self.mesh.store())
    }
}
