//! `weir serve`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use weir::config::check;

use super::config::ConfigFlags;

pub(super) fn run(flags: &ConfigFlags) -> anyhow::Result<ExitCode> {
    let loaded = flags.load()?;
    check(&loaded)?;
    weir::boot::serve(loaded.config)
}
