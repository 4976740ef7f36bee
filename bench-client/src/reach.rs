//! The first look at a target, before any client comes: is it there, does it speak what it is said to speak, and which version is it?
#![forbid(unsafe_code)]

use std::{
    fs,
    io::{self, Read},
    net::TcpStream,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use crate::{
    fleet::dialect::{Dialect, Event, Parsed, nats},
    plan::Plan,
};

/// For the connection, and for what the server says on it.
const PATIENCE: Duration = Duration::from_secs(3);

/// Tries the target once, so that the commonest mistakes get a clear answer. Gives the server's version, if it is to be learned.
///
/// # Errors
/// Nothing answers there, or not in this dialect.
pub(crate) fn reach(plan: &Plan, server_pid: Option<u32>) -> anyhow::Result<Option<String>> {
    let (address, name) = (plan.target, plan.dialect.name());
    let stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| unreachable(plan))?;
    match plan.dialect {
        Dialect::Weir => Ok(server_pid.and_then(version_of_weir)),
        Dialect::Nats => {
            let mut ear = Ear::new(stream);
            match ear.hear(nats::parse).with_context(|| format!("{address} does not speak {name}"))? {
                Heard::Version(version) => Ok(Some(version)),
                Heard::Other => bail!("{address} does not speak {name}: it does not say who it is"),
            }
        }
    }
}

/// What to do where nobody listens.
fn unreachable(plan: &Plan) -> String {
    let start = match plan.dialect {
        Dialect::Weir => "is the gateway running? Start one with `weir serve --dev`",
        Dialect::Nats => "is the server running? Start one with `nats-server -c bench-client/peers/nats.conf`",
    };
    format!("cannot connect to {}: {start}, or name another with --target", plan.target)
}

/// What `weir --version` says, if the process is one.
fn version_of_weir(pid: u32) -> Option<String> {
    let program = format!("/proc/{pid}/exe");
    let path = fs::read_link(&program).ok()?;
    // A program that was built anew since is still there under this name, with another behind it.
    let file = path.file_name()?.to_str()?;
    if file.strip_suffix(" (deleted)").unwrap_or(file) != "weir" {
        return None;
    }
    let output = Command::new(program).arg("--version").output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().strip_prefix("weir ")?.to_owned())
}

/// What a server said.
enum Heard {
    Version(String),
    Other,
}

/// One connection that is listened to.
struct Ear {
    stream: TcpStream,
    held: Vec<u8>,
    deadline: Instant,
}

impl Ear {
    fn new(stream: TcpStream) -> Ear {
        Ear { stream, held: Vec::new(), deadline: Instant::now() + PATIENCE }
    }

    /// The next thing that the server says.
    fn hear(&mut self, parse: impl Fn(&[u8]) -> Parsed<'_>) -> anyhow::Result<Heard> {
        loop {
            if let Some((event, taken)) = parse(&self.held)? {
                let heard = match event {
                    Event::Hello { version, .. } => Heard::Version(version),
                    Event::Refusal { words, .. } => bail!("it refuses: {words}"),
                    Event::Message { .. } | Event::Ping | Event::Pong | Event::Nothing => Heard::Other,
                };
                self.held.drain(..taken);
                return Ok(heard);
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("it says nothing within {} s", PATIENCE.as_secs());
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => bail!("it ends the connection without a word"),
                Ok(count) => self.held.extend_from_slice(&bytes[..count]),
                Err(cause) if matches!(cause.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(cause) => return Err(cause.into()),
            }
        }
    }
}
