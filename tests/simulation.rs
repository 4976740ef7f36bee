//! Several shards under a simulated reactor, mesh, network and clock, driven by one seed: any failure can be repeated.
//!
//! Two worlds: in one the messages are transient and nothing but clients goes wrong; in the other, `durable`, the process crashes and
//! the disk fails. `make sim SEEDS=10000` runs many seeds of both. One alone: `WEIR_SIM_SEED=7 cargo test --test simulation one_seed`,
//! or `one_durable_seed`.
#![forbid(unsafe_code)]

#[path = "simulation/checks.rs"]
mod checks;
#[path = "simulation/disk.rs"]
mod disk;
#[path = "simulation/durable/mod.rs"]
mod durable;
#[path = "simulation/garbage.rs"]
mod garbage;
#[path = "simulation/model.rs"]
mod model;
#[path = "simulation/network.rs"]
mod network;
#[path = "simulation/peer.rs"]
mod peer;
#[path = "simulation/plan.rs"]
mod plan;
#[path = "simulation/presence.rs"]
mod presence;
#[path = "simulation/reactor.rs"]
mod reactor;
#[path = "simulation/rng.rs"]
mod rng;
#[path = "simulation/seeds.rs"]
mod seeds;
#[path = "simulation/store.rs"]
mod store;
#[path = "simulation/world.rs"]
mod world;

use std::{
    cell::Cell,
    panic::catch_unwind,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Seeds of each world that every test run takes.
const SEEDS: u64 = 300;
/// Enough to see what they have in common.
const FAILURES_MAX: usize = 10;
/// A bug that was put in on purpose is found by one of so many.
const FAULT_SEEDS: u64 = 400;

thread_local! {
    /// Where a run is, for whoever reports its failure.
    pub static PROGRESS: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// A world, by the name of the test that runs one seed of it.
#[derive(Clone, Copy)]
struct Simulation {
    one: &'static str,
    run: fn(u64),
}

const TRANSIENT: Simulation = Simulation { one: "one_seed", run: |seed| world::World::new(seed).run() };
const DURABLE: Simulation = Simulation { one: "one_durable_seed", run: |seed| durable::World::new(seed, None).run() };

impl Simulation {
    /// Runs one seed. Says how to repeat it if it fails.
    fn run(self, seed: u64) -> bool {
        let result = catch_unwind(|| (self.run)(seed));
        if result.is_err() {
            let (step, now) = PROGRESS.get();
            let again = format!("WEIR_SIM_SEED={seed} cargo test --test simulation {}", self.one);
            eprintln!("seed {seed} failed at step {step}, {now} us into the run. Once more: {again}");
        }
        result.is_ok()
    }

    /// Runs them on all cores: each run has its own world.
    fn run_all(self, seeds: &[u64]) {
        let next = AtomicUsize::new(0);
        let failed = Mutex::new(Vec::new());
        let work = || {
            while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                if failed.lock().expect("nobody panics with it").len() < FAILURES_MAX && !self.run(*seed) {
                    failed.lock().expect("nobody panics with it").push(*seed);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(work);
            }
        });
        let failed = failed.into_inner().expect("nobody panics with it");
        assert!(
            failed.is_empty(),
            "of {} seeds these failed (after {FAILURES_MAX} the rest is not tried): {failed:?}",
            seeds.len()
        );
    }

    fn run_one(self) {
        if let Some(seed) = number("WEIR_SIM_SEED") {
            assert!(self.run(seed), "seed {seed} failed");
        }
    }

    fn run_many(self) {
        let first = number("WEIR_SIM_FIRST").unwrap_or(1);
        let seeds: Vec<u64> = (first..first + number("WEIR_SIM_SEEDS").unwrap_or(SEEDS)).collect();
        self.run_all(&seeds);
    }
}

#[test]
fn seeds_that_failed_once() {
    TRANSIENT.run_all(seeds::SEEDS);
}

#[test]
fn durable_seeds_that_failed_once() {
    DURABLE.run_all(seeds::DURABLE);
}

#[test]
fn one_seed() {
    TRANSIENT.run_one();
}

#[test]
fn one_durable_seed() {
    DURABLE.run_one();
}

#[test]
fn many_seeds() {
    TRANSIENT.run_many();
}

#[test]
fn durable_many_seeds() {
    DURABLE.run_many();
}

/// Bugs around the gateway, and what is lost by them: the checks must see it.
#[test]
fn durable_faults_are_found() {
    for fault in durable::faults::Fault::ALL {
        let finds = |seed| catch_unwind(|| durable::World::new(seed, Some(fault)).run()).is_err();
        let found = (1..=FAULT_SEEDS).find(|seed| finds(*seed));
        assert!(found.is_some(), "{fault:?} was not found by {FAULT_SEEDS} seeds");
    }
}
