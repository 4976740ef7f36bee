//! The store: what any log must do, and what the log on disk does beyond that when files are damaged or the disk is full.
#![forbid(unsafe_code)]

#[path = "store/behind.rs"]
mod behind;
#[path = "store/bench.rs"]
mod bench;
#[path = "store/commands.rs"]
mod commands;
#[path = "store/common.rs"]
mod common;
#[path = "store/contract.rs"]
mod contract;
#[path = "store/damage.rs"]
mod damage;
#[path = "store/expiry.rs"]
mod expiry;
#[path = "store/full.rs"]
mod full;
#[path = "store/model.rs"]
mod model;
