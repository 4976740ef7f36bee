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

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Seeds that every test run takes.
const SEEDS: u64 = 100;

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

fn run_all(seeds: impl Iterator<Item = u64>) {
    let (mut count, mut failed) = (0u64, Vec::new());
    for seed in seeds {
        count += 1;
        if !run(seed) {
            failed.push(seed);
            assert!(failed.len() < 10, "{} of {count} seeds failed, the rest was not tried: {failed:?}", failed.len());
        }
    }
    assert!(failed.is_empty(), "{} of {count} seeds failed: {failed:?}", failed.len());
}

#[test]
fn seeds_that_failed_once() {
    run_all(seeds::SEEDS.iter().copied());
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
    run_all(first..first + number("WEIR_SIM_SEEDS").unwrap_or(SEEDS));
}
