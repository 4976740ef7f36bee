//! End to end: the real binary, real sockets on loopback, both reactors. What each file is about stands at its head.
#![forbid(unsafe_code)]

#[path = "e2e/batches.rs"]
mod batches;
#[path = "e2e/classes.rs"]
mod classes;
#[path = "e2e/devices.rs"]
mod devices;
#[path = "e2e/disk_full.rs"]
mod disk_full;
#[path = "e2e/durable.rs"]
mod durable;
#[path = "e2e/durable_refusals.rs"]
mod durable_refusals;
#[path = "e2e/durable_restarts.rs"]
mod durable_restarts;
#[path = "e2e/durable_slow.rs"]
mod durable_slow;
#[path = "e2e/floods.rs"]
mod floods;
#[path = "e2e/groups.rs"]
mod groups;
#[path = "e2e/harness.rs"]
mod harness;
#[path = "e2e/heartbeats.rs"]
mod heartbeats;
#[path = "e2e/logins.rs"]
mod logins;
#[path = "e2e/malformed.rs"]
mod malformed;
#[path = "e2e/messages.rs"]
mod messages;
#[path = "e2e/presence.rs"]
mod presence;
#[path = "e2e/starting.rs"]
mod starting;
#[path = "e2e/stopping.rs"]
mod stopping;
#[path = "e2e/storms.rs"]
mod storms;
