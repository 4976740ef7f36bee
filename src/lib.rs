//! Weir: an instant-messaging and push gateway for Linux.
//!
//! Imports go one way: `ids`, `limits` ← `io`, `wire` ← `session` ← `shard` ← `boot`, and `io`, `mesh` ← `reactor` ← `boot`.
//! `tests/tidy/main.rs` holds every module to it.
#![deny(unsafe_code)]

pub mod boot;
pub mod client;
pub mod config;
pub mod control;
pub mod host;
pub mod ids;
pub mod io;
pub mod limits;
pub mod mesh;
pub mod reactor;
pub mod session;
pub mod shard;
pub mod stats;
pub mod store;
pub mod wire;
