//! The first look at a target, before any client comes: is it there, does it speak what it is said to speak, and which version is it?
#![forbid(unsafe_code)]

use std::{
    fs,
    io::{self, Read, Write},
    net::TcpStream,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use crate::{
    fleet::dialect::{Dialect, Event, Parsed, mqtt, nats},
    plan::Plan,
};

/// For the connection, and for what the server says on it.
const PATIENCE: Duration = Duration::from_secs(3);
/// For what a server may not have to say.
const PATIENCE_FOR_TOPIC: Duration = Duration::from_millis(500);
/// Where MQTT servers tell their version: a convention, begun by mosquitto.
const MQTT_VERSION_TOPIC: &str = "$SYS/broker/version";
/// A version that is longer is cut.
const VERSION_CHARS_MAX: usize = 64;

/// Tries the target once, so that the commonest mistakes get a clear answer. Gives the server's version, if it is to be learned.
///
/// # Errors
/// Nothing answers there, or not in this dialect.
pub(crate) fn reach(plan: &Plan, server_pid: Option<u32>) -> anyhow::Result<Option<String>> {
    let stream = TcpStream::connect_timeout(&plan.target, PATIENCE).with_context(|| unreachable(plan))?;
    let version = match plan.dialect {
        Dialect::Weir => Ok(server_pid.and_then(version_of_weir)),
        // It is this very program.
        Dialect::Bare => Ok(Some(env!("CARGO_PKG_VERSION").to_owned())),
        Dialect::Nats => version_of_nats(&mut Ear::new(stream, nats::parse)),
        Dialect::Mqtt => version_of_mqtt(&mut Ear::new(stream, mqtt::parse), &plan.prefix),
    };
    let version = version.with_context(|| format!("{} does not speak {}", plan.target, plan.dialect.name()))?;
    Ok(version.map(|version| version.chars().take(VERSION_CHARS_MAX).collect()))
}

/// What to do where nobody listens.
pub(crate) fn unreachable(plan: &Plan) -> String {
    let start = match plan.dialect {
        Dialect::Weir => "is the gateway running? Start one with `weir serve --dev`",
        Dialect::Nats => "is the server running? Start one with `nats-server -c bench-client/peers/nats.conf`",
        Dialect::Mqtt => "is the server running? Start one with `mosquitto -c bench-client/peers/mosquitto.conf`",
        Dialect::Bare => return format!("cannot connect to {}, where the loop listened when it started", plan.target),
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

/// What INFO says, which is the first thing.
fn version_of_nats(ear: &mut Ear) -> anyhow::Result<Option<String>> {
    match ear.hear()? {
        Heard::Version(version) => Ok(Some(version)),
        Heard::LoggedIn | Heard::Joined | Heard::Other => bail!("it does not say who it is"),
    }
}

/// What mosquitto and others keep for whoever subscribes to it.
fn version_of_mqtt(ear: &mut Ear, prefix: &str) -> anyhow::Result<Option<String>> {
    ear.say(|out| mqtt::put_connect(&format!("{prefix}-probe"), 0, out))?;
    match ear.hear()? {
        Heard::LoggedIn => {}
        Heard::Version(_) | Heard::Joined | Heard::Other => bail!("it does not answer a CONNECT"),
    }
    // From here on it is one, whatever it says of this topic.
    ear.say(|out| mqtt::put_subscribe([MQTT_VERSION_TOPIC].into_iter(), out))?;
    ear.deadline = Instant::now() + PATIENCE_FOR_TOPIC;
    let version = std::iter::from_fn(|| ear.hear().ok()).find_map(|heard| match heard {
        Heard::Version(version) => Some(version),
        Heard::LoggedIn | Heard::Joined | Heard::Other => None,
    });
    // It may have ended the connection for being asked.
    let _ = ear.say(|out| out.extend_from_slice(mqtt::DISCONNECT));
    Ok(version)
}

/// What a server said, as far as it matters here.
enum Heard {
    Version(String),
    LoggedIn,
    Joined,
    Other,
}

/// One connection that is listened to.
struct Ear {
    stream: TcpStream,
    parse: fn(&[u8]) -> Parsed<'_>,
    held: Vec<u8>,
    deadline: Instant,
}

impl Ear {
    fn new(stream: TcpStream, parse: fn(&[u8]) -> Parsed<'_>) -> Ear {
        Ear { stream, parse, held: Vec::new(), deadline: Instant::now() + PATIENCE }
    }

    fn say(&mut self, put: impl FnOnce(&mut Vec<u8>)) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        put(&mut bytes);
        self.stream.set_write_timeout(Some(PATIENCE))?;
        Ok(self.stream.write_all(&bytes)?)
    }

    /// The next thing that the server says.
    fn hear(&mut self) -> anyhow::Result<Heard> {
        loop {
            if let Some((event, taken)) = (self.parse)(&self.held)? {
                let heard = match event {
                    Event::Hello { version, .. } => Heard::Version(version),
                    Event::Message { channel: MQTT_VERSION_TOPIC, payload } => {
                        Heard::Version(String::from_utf8_lossy(payload).into_owned())
                    }
                    Event::LoggedIn => Heard::LoggedIn,
                    Event::Joined => Heard::Joined,
                    Event::Refusal { name, words } => bail!("it refuses: {name} ({words})"),
                    Event::Message { .. } | Event::Ping | Event::Pong | Event::Nothing => Heard::Other,
                };
                self.held.drain(..taken);
                return Ok(heard);
            }
            self.read_some()?;
        }
    }

    fn read_some(&mut self) -> anyhow::Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("it says nothing within {} s", PATIENCE.as_secs());
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => bail!("it ends the connection without a word"),
            Ok(count) => self.held.extend_from_slice(&bytes[..count]),
            // Whether that was all the time there is, is seen in the next round.
            Err(cause) if matches!(cause.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(cause) => return Err(cause.into()),
        }
        Ok(())
    }
}
