//! The seam between reactors and what they drive.
//!
//! A reactor owns sockets and rings and knows nothing of shards. A [`Machine`] owns state and knows nothing of sockets:
//! time and [`Input`] go in, [`Output`] comes out. The life of a connection, seen from the machine:
//!
//! ```text
//! Accepted ─ Received* ─┬─ Stay ── Received* ──┬── Finish ─┐
//!                       └─ Move (gone; the     └───────────┴── Close ── Closed (the id is dead)
//!                          other side: Adopted)
//! ```
//!
//! `Eof` and `Broken` may come at any time before `Closed`; the machine always ends a connection itself, by `Close`.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use crate::ids::{ConnId, ShardId};

/// A point in time: microseconds since a start that all reactors of a process share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u64);

impl Tick {
    /// Milliseconds since the shared start.
    pub fn as_ms(self) -> u64 {
        self.0 / 1_000
    }

    /// The tick `ms` milliseconds later.
    pub fn plus_ms(self, ms: u64) -> Tick {
        Tick(self.0 + ms * 1_000)
    }

    /// Microseconds since `earlier`, 0 if that lies ahead.
    pub fn micros_since(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Anything a reactor can drive. The gateway's `Shard` is one, bench-client's `Fleet` another.
///
/// No method blocks, sleeps, reads a clock or touches a socket. The reactor calls `handle` for each event of a turn, then
/// `handle_tick`, then `poll_output` until it returns `None`.
pub trait Machine {
    /// What travels between shards.
    type Message: Send + 'static;

    /// Takes one event.
    fn handle(&mut self, now: Tick, input: Input<'_, Self::Message>);

    /// Lets time pass. Returns when it wants to be called again at the latest; `None` when only input can cause work.
    fn handle_tick(&mut self, now: Tick) -> Option<Tick>;

    /// The next thing for the reactor to do.
    fn poll_output(&mut self) -> Option<Output<Self::Message>>;

    /// While true the reactor hands in no received bytes, so that TCP slows the peers down. Everything else goes on.
    fn is_congested(&self) -> bool {
        false
    }
}

/// What a reactor tells its machine.
#[derive(Debug)]
pub enum Input<'a, M> {
    /// A peer connected to the listener. Received in small steps until `Stay` or `Move`.
    Accepted { conn: ConnId, peer: IpAddr },
    /// An `Output::Connect` succeeded.
    Connected { conn: ConnId, token: u32 },
    /// An `Output::Connect` failed.
    ConnectFailed { token: u32, errno: i32 },
    /// A connection moved here from another shard, with what its last machine said of it.
    Adopted { conn: ConnId, from: ShardId, message: M },
    /// A connection that moved here could not be taken in, and was closed; `message` is what its last machine said of it.
    AdoptFailed { from: ShardId, message: M, errno: i32 },
    /// An `Output::Move` failed (the other shard has no room). The connection is still here, under the same id.
    MoveRefused { conn: ConnId, message: M },
    /// Bytes from the peer, at least one.
    Received { conn: ConnId, bytes: &'a [u8] },
    /// The chunk was handed to the kernel whole. The next `Send` on this connection may follow.
    Sent { conn: ConnId, chunk: Chunk },
    /// The peer will send no more.
    Eof { conn: ConnId },
    /// The connection is beyond use (reset, timed out); a chunk in flight is lost.
    Broken { conn: ConnId, errno: i32 },
    /// The answer to `Close`: nothing is in flight, and the id is dead.
    Closed { conn: ConnId },
    /// A message of another port of the mesh.
    Posted { from: ShardId, message: M },
    /// The ring to `to` is full; the machine keeps the message and may post it again in a later turn.
    PostRefused { to: ShardId, message: M },
}

/// What a machine asks its reactor to do.
#[derive(Debug)]
pub enum Output<M> {
    /// Opens a connection, from a local address if one is given. Answered by `Connected` or `ConnectFailed`.
    Connect { token: u32, from: Option<IpAddr>, to: SocketAddr },
    /// Sends one chunk. At most one is in flight per connection: the machine waits for `Sent`.
    Send { conn: ConnId, chunk: Chunk },
    /// Keeps an accepted connection here, at full receiving speed.
    Stay { conn: ConnId },
    /// Hands an accepted connection, on which nothing was sent yet, to another shard. The id is dead unless `MoveRefused` comes.
    Move { conn: ConnId, to: ShardId, message: M },
    /// Ends our direction of the connection (`shutdown(SHUT_WR)`); the peer's bytes still come in. Nothing may be in flight.
    Finish { conn: ConnId },
    /// Closes the connection. A chunk in flight is given up. Answered by `Closed`.
    Close { conn: ConnId },
    /// Sends a message to another port of the mesh.
    Post { to: ShardId, message: M },
    /// Stops listening, for good.
    StopAccepting,
    /// The machine is done: the reactor returns.
    Stop,
}

/// Bytes on their way to one connection.
#[derive(Clone, Debug)]
pub enum Chunk {
    /// Frames coalesced for this connection; the buffer comes back in `Sent` for reuse.
    Owned(Vec<u8>),
    /// A large frame shared by many connections.
    Shared(Bytes),
}

impl Chunk {
    /// The bytes to send, at least one.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Chunk::Owned(bytes) => bytes,
            Chunk::Shared(bytes) => bytes,
        }
    }
}
