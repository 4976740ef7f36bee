//! Several shards under a simulated reactor, mesh, network and clock, driven by one seed: any failure can be repeated.
//!
//! `make sim SEEDS=10000` runs many. One alone: `WEIR_SIM_SEED=7 cargo test --test simulation one_seed`.
#![forbid(unsafe_code)]

#[path = "simulation/checks.rs"]
mod checks;
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
#[path = "simulation/reactor.rs"]
mod reactor;
#[path = "simulation/rng.rs"]
mod rng;
#[path = "simulation/seeds.rs"]
mod seeds;
#[path = "simulation/world.rs"]
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Seeds that every test run takes.
const SEEDS: u64 = 300;
/// Enough to see what they have in common.
const FAILURES_MAX: usize = 10;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// Runs one seed. Says how to repeat it if it fails.
fn run(seed: u64) -> bool {
    let result = catch_unwind(AssertUnwindSafe(|| world::World::new(seed).run()));
    if result.is_err() {
        let (step, now) = world::PROGRESS.get();
        eprintln!(
            "seed {seed} failed at step {step}, {now} us into the run. Once more: WEIR_SIM_SEED={seed} cargo test --test simulation one_seed"
        );
    }
    result.is_ok()
}

/// Runs them on all cores: each run has its own world.
fn run_all(seeds: &[u64]) {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let work = || {
        while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
            if failed.lock().expect("nobody panics with it").len() < FAILURES_MAX && !run(*seed) {
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
    assert!(failed.is_empty(), "of {} seeds these failed (after {FAILURES_MAX} the rest is not tried): {failed:?}", seeds.len());
}

#[test]
fn seeds_that_failed_once() {
    run_all(seeds::SEEDS);
}

#[test]
fn one_seed() {
    if let Some(seed) = number("WEIR_SIM_SEED") {
        assert!(run(seed), "seed {seed} failed");
    }
}

#[test]
fn many_seeds() {
    let first = number("WEIR_SIM_FIRST").unwrap_or(1);
    let seeds: Vec<u64> = (first..first + number("WEIR_SIM_SEEDS").unwrap_or(SEEDS)).collect();
    run_all(&seeds);
}
