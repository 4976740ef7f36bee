//! The option that asks for latency over time.
#![forbid(unsafe_code)]

use std::time::Duration;

use clap::Args;

use super::parse_duration;

#[derive(Args, Clone, Debug)]
pub(crate) struct TimelineArgs {
    /// Record the latency of each step of this length, and how often each latency came, for --json.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) timeline: Option<Duration>,
}
