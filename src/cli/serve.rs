//! `weir serve`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use super::config::ConfigFlags;

pub(super) fn run(flags: &ConfigFlags) -> anyhow::Result<ExitCode> {
    weir::boot::serve(flags.load()?.config)
}
