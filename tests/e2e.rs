//! End to end: the real binary, real sockets on loopback, both reactors. What each file is about stands at its head.
#![forbid(unsafe_code)]

#[path = "e2e/devices.rs"]
mod devices;
#[path = "e2e/groups.rs"]
mod groups;
#[path = "e2e/harness.rs"]
mod harness;
#[path = "e2e/logins.rs"]
mod logins;
#[path = "e2e/malformed.rs"]
mod malformed;
#[path = "e2e/messages.rs"]
mod messages;
