//! The protocols that clients speak: Weir's own, and those of the servers that it is measured beside.
//!
//! | file | owns |
//! |---|---|
//! | this one | which dialects there are, and the only places that tell them apart |
//! | `weir` | Weir's frames, and what a fleet makes of them |
//! | `nats`, `mqtt` | bytes ↔ [`Event`]s of another protocol: pure, without a connection or a state |
//! | `peer` | what a fleet makes of these events |
//! | `bare` | what a fleet makes of its own frames when they come back from a loop that knows no frames |
//!
//! What holds for all of them is not here: `session` makes a client ready, has it send PINGs and ends it, `Net` stamps messages and
//! checks them, scenarios say who sends to whom.
#![forbid(unsafe_code)]

mod bare;
pub(crate) mod mqtt;
pub(crate) mod nats;
mod peer;
#[cfg(test)]
mod pieces;
mod weir;

use std::fmt;

use ::weir::io::Tick;

use super::Fleet;
use crate::scenario::Scenario;

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Weir,
    Nats,
    Mqtt,
    /// Weir's frames, to a loop that carries them and knows nothing of them (`limit`).
    Bare,
}

impl Dialect {
    /// Those of servers that are there already. The bare loops are started by `limit` alone.
    pub(crate) const ALL: [Dialect; 3] = [Dialect::Weir, Dialect::Nats, Dialect::Mqtt];

    /// Its name, which is the scheme of `--target` too.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Dialect::Weir => "weir",
            Dialect::Nats => "nats",
            Dialect::Mqtt => "mqtt",
            Dialect::Bare => "limit",
        }
    }

    /// What a client's own channel is called, in front of the client's name. One length for all, and inlined: then it is compared and
    /// copied as a number, and not byte by byte.
    #[inline(always)]
    pub(crate) fn user_prefix(self) -> &'static str {
        match self {
            Dialect::Weir | Dialect::Mqtt | Dialect::Bare => "user/",
            Dialect::Nats => "user.",
        }
    }

    /// What a group's channel is called, in front of the group's name.
    #[inline(always)]
    pub(crate) fn group_prefix(self) -> &'static str {
        match self {
            Dialect::Weir | Dialect::Mqtt | Dialect::Bare => "group/",
            Dialect::Nats => "group.",
        }
    }

    /// Whether a delivery says who sent it.
    pub(crate) fn names_senders(self) -> bool {
        match self {
            Dialect::Weir => true,
            Dialect::Nats | Dialect::Mqtt | Dialect::Bare => false,
        }
    }

    /// The characters that have a meaning of their own in the names of channels.
    pub(crate) fn reserved(self) -> &'static [char] {
        match self {
            Dialect::Weir | Dialect::Bare => &[],
            Dialect::Nats => &[' ', '.', '*', '>'],
            Dialect::Mqtt => &['+', '#'],
        }
    }
}

/// What a server other than Weir said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// It introduced itself, or told what changed.
    Hello {
        version: String,
        payload_bytes_max: u64,
    },
    /// It took the client in.
    LoggedIn,
    /// It took what the client subscribed to.
    Joined,
    Message {
        channel: &'a str,
        payload: &'a [u8],
    },
    Ping,
    Pong,
    /// It refused something, and is about to end the connection.
    Refusal {
        name: &'static str,
        words: String,
    },
    /// An answer that nothing depends on.
    Nothing,
}

/// What is at the start of the bytes, and how many of them it takes up; `None` while its end has not come. An error on the first bytes of
/// something is one on all of it, so that it does not matter in which pieces they come.
pub(crate) type Parsed<'a> = Result<Option<(Event<'a>, usize)>, Garbled>;

/// Why bytes are none of the protocol. Nothing behind them can be trusted, so the connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Garbled {
    /// They begin nothing that a server sends.
    Unknown {
        dialect: Dialect,
        seen: String,
    },
    /// A line without an end.
    LineTooLong {
        limit: usize,
    },
    PayloadTooLong {
        bytes: u64,
        limit: usize,
    },
    /// Something known, which is not as it should be.
    Wrong {
        what: &'static str,
        seen: String,
    },
}

/// Bytes that are told in an error, at most.
const SEEN_BYTES_MAX: usize = 64;

impl Garbled {
    fn unknown(dialect: Dialect, bytes: &[u8]) -> Garbled {
        Garbled::Unknown { dialect, seen: seen(bytes) }
    }

    fn wrong(what: &'static str, bytes: &[u8]) -> Garbled {
        Garbled::Wrong { what, seen: seen(bytes) }
    }
}

/// The beginning of some bytes, readable.
fn seen(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(SEEN_BYTES_MAX)].escape_ascii().to_string()
}

impl fmt::Display for Garbled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Garbled::Unknown { dialect, seen } => {
                let name = dialect.name();
                write!(f, "bytes that begin with \"{seen}\" are nothing that a server says in {name}:// : is this one?")
            }
            Garbled::LineTooLong { limit } => write!(f, "a line does not end within {limit} bytes"),
            Garbled::PayloadTooLong { bytes, limit } => write!(f, "a payload of {bytes} bytes is over the limit of {limit}"),
            Garbled::Wrong { what, seen } => write!(f, "{what}: \"{seen}\""),
        }
    }
}

impl std::error::Error for Garbled {}

impl<S: Scenario> Fleet<S> {
    /// Says what a client says first on a new connection.
    pub(super) fn log_in(&mut self, local: u32, now: Tick) {
        match self.net.plan.dialect {
            // A loop does not know what it is, only that it is the first that comes, and sends it back.
            Dialect::Weir | Dialect::Bare => self.weir_log_in(local, now),
            // The server speaks first.
            Dialect::Nats => {}
            Dialect::Mqtt => self.mqtt_log_in(local, now),
        }
    }

    /// Takes all that is whole. Returns how many bytes that was.
    pub(super) fn take(&mut self, local: u32, bytes: &[u8], now: Tick) -> usize {
        match self.net.plan.dialect {
            Dialect::Weir => self.frames(local, bytes, now),
            Dialect::Nats => self.events(local, bytes, now, nats::parse),
            Dialect::Mqtt => self.events(local, bytes, now, mqtt::parse),
            Dialect::Bare => self.echoes(local, bytes, now),
        }
    }

    /// Asks for a sign of life.
    pub(super) fn ping(&mut self, local: u32, now: Tick) {
        match self.net.plan.dialect {
            Dialect::Weir => self.weir_ping(local, now),
            Dialect::Nats => self.peer_ping(local, nats::PING, now),
            Dialect::Mqtt => self.peer_ping(local, mqtt::PINGREQ, now),
            Dialect::Bare => unreachable!("a loop has no heartbeats: see `echoes`"),
        }
    }

    /// Says that a client is about to end its connection, where the server would take it for lost otherwise.
    pub(super) fn take_leave(&mut self, local: u32, now: Tick) {
        match self.net.plan.dialect {
            Dialect::Weir | Dialect::Nats | Dialect::Bare => {}
            Dialect::Mqtt => self.net.put(local, now, |out| out.extend_from_slice(mqtt::DISCONNECT)),
        }
    }
}
