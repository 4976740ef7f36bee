//! The bare loops that bound every gateway on a machine: what the kernel takes to carry the same bytes, and next to nothing above it.
//!
//! No frames, no sessions, no [`Machine`](crate::io::Machine) and no order of a turn: only the operations that the reactors use,
//! in the same way, and the fewest instructions around them. What a loop costs, no gateway can go below on that driver. With the
//! reactors the io_uring loops share what calls the kernel (the ring and its receive buffers), so that both make the same calls.
//!
//! A loop knows nothing of what it carries, but for one thing: the first bytes of a connection are its greeting, which goes back to
//! where it came from and to nobody else. Whoever has it back is known to the loop.

mod epoll;
mod log;
mod pairs;
#[cfg(test)]
mod tests;
#[allow(unsafe_code, reason = "a fenced place: memory that operations in flight use")]
mod uring;

use std::{io, os::fd::OwnedFd};

use super::Kind;

/// Which loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loop {
    /// What a connection sends comes back to it. On io_uring it waits in the receive buffers that all connections share: peers that do
    /// not read may take them all, and then nobody is received from until they do.
    Echo,
    /// What a connection sends goes to the one other connection with the same greeting, and back. Until there is one, and when it has
    /// gone, it goes nowhere.
    Relay,
    /// What a connection sends goes to all connections, itself among them: one send to each in a turn, from memory that they share.
    Fanout,
    /// Connections are accepted in one place and move to another one, on a thread of its own, once the greeting has come: it is
    /// answered there. What comes later is echoed.
    Accept,
}

/// What a loop is made from.
#[derive(Debug)]
pub struct Setup {
    pub kind: Kind,
    pub what: Loop,
    /// Listening, with the options that accepted connections inherit (`TCP_NODELAY`).
    pub listener: OwnedFd,
    /// The most connections at once; one more is closed, and counted as refused.
    pub connections: u32,
    /// The loop ends when this becomes readable, or its other end is closed.
    pub stop: OwnedFd,
}

/// What a loop did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections taken in.
    pub accepted: u64,
    /// Connections closed because there was no room for them.
    pub refused: u64,
    /// Connections closed because they sent to a group one of whose members is [`LIMIT_LOG_BYTES`](crate::limits::LIMIT_LOG_BYTES)
    /// behind.
    pub overrun: u64,
    /// How often a receive found no buffer, and waited for one (io_uring).
    pub parked: u64,
    /// How often the kernel was asked for what had happened. What it costs to ask is shared by all that had.
    pub turns: u64,
}

impl Counts {
    /// The sum of both.
    fn and(self, other: Counts) -> Counts {
        Counts {
            accepted: self.accepted + other.accepted,
            refused: self.refused + other.refused,
            overrun: self.overrun + other.overrun,
            parked: self.parked + other.parked,
            turns: self.turns + other.turns,
        }
    }
}

/// Runs a loop on the calling thread, and on one more for [`Loop::Accept`], until it is stopped. Calls `ready` once it is
/// built: from then on connections are served.
///
/// # Errors
/// The kernel refuses what the loop is made of, or what it needs to go on: the process is out of files, for example. A gateway would
/// wait for better times; a loop that is measured must not.
pub fn serve(setup: Setup, ready: impl FnOnce() -> io::Result<()>) -> io::Result<Counts> {
    match setup.kind {
        Kind::Uring => uring::serve(setup, ready),
        Kind::Epoll => epoll::serve(setup, ready),
        Kind::Glommio => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "there is no bare loop on glommio: what bounds a gateway on it is the one on io_uring, so take that",
        )),
    }
}
