//! The gateway as a server that this program starts, on a free port of loopback.
#![forbid(unsafe_code)]

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};

use crate::child::{self, Server};

/// The first line of its standard output, before its address.
pub(crate) const ANNOUNCEMENT: &str = "weir: listening on ";
/// Another one, before the address of its metrics, and what is behind that.
pub(crate) const METRICS_ANNOUNCEMENT: &str = "weir: metrics on http://";
pub(crate) const METRICS_PATH: &str = "/metrics";
/// Its own deadline to stop is 10 s.
pub(crate) const STOP_DEADLINE: Duration = Duration::from_secs(12);

/// Where its program is: as named, or beside this one.
///
/// # Errors
/// It is not there.
pub(crate) fn program(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = named {
        return Ok(path.to_path_buf());
    }
    let beside = env::current_exe().context("this program's own place is not known")?.with_file_name("weir");
    if !beside.exists() {
        bail!("there is no gateway at {}: build it with `cargo build --release`, or name it with --weir PATH", beside.display());
    }
    Ok(beside)
}

/// The command that serves, with nothing that is set for the gateways of this user: that is not meant for this one.
///
/// # Errors
/// As [`child::command`].
pub(crate) fn serve(program: &Path) -> anyhow::Result<Command> {
    let mut command = child::command(program)?;
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WEIR_")) {
        command.env_remove(name);
    }
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    Ok(command)
}

/// Starts it.
///
/// # Errors
/// It cannot be started.
pub(crate) fn start(command: &mut Command) -> anyhow::Result<Server> {
    Server::start(command.stdin(Stdio::null())).context("the gateway cannot be started")
}

/// Asks it to stop, as a service manager would, and waits for it. Gives the time that it took.
///
/// # Errors
/// It did not stop in this time, or not as it should.
pub(crate) fn stop(gateway: &mut Server, time: Duration) -> anyhow::Result<Duration> {
    let (status, took) = gateway.terminate(time)?;
    if !status.success() {
        bail!("the gateway ended with {status}, not with 0");
    }
    Ok(took)
}
