//! The command line of `soak`.
#![forbid(unsafe_code)]

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::parse_duration;

#[derive(Args, Clone, Debug)]
pub(crate) struct SoakArgs {
    /// How long in all, but for the pauses between the cycles: 20 s at least.
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = parse_duration)]
    pub(crate) duration: Duration,
    /// How long each cycle is; at the end of each, everybody leaves. By default 30 s, or an eighth of --duration if that is less.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) cycle: Option<Duration>,
    /// The gateway's program. By default `weir` beside this one.
    #[arg(long, value_name = "PATH")]
    pub(crate) weir: Option<PathBuf>,
    /// Write the result there, as JSON (bench-client/schema-soak.md).
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}
