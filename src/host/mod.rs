//! The host that the gateway runs on: what its kernel is set to, and how to change that and back.
#![forbid(unsafe_code)]

mod journal;
mod sysctl;
#[cfg(test)]
mod tests;
mod tune;

pub use journal::Journal;
pub use sysctl::{Kernel, SETTINGS_FILE, Wanted, parse};
pub use tune::{Line, Outcome, Tuner};
