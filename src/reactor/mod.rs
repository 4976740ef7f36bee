//! Reactors: they own sockets and drive a [`Machine`]. What every driver does in a turn, and in which order, is in `drive`; what
//! differs is behind [`Backend`], and `tests/reactor_contract.rs` holds all drivers to the same behaviour.
#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "a fenced place: memory shared with the kernel")]
mod buffers;
mod drive;
mod epoll;
#[cfg(feature = "glommio")]
#[allow(unsafe_code, reason = "a fenced place: descriptors given to streams that take bare numbers")]
mod glommio;
pub mod limit;
mod pause;
pub mod probe;
mod slots;
pub mod socket;
mod table;
#[allow(unsafe_code, reason = "a fenced place: memory that operations in flight use")]
mod uring;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicI32, AtomicU32, Ordering},
    },
    time::Instant,
};

use crate::{
    ids::{ConnId, ShardId},
    io::{Chunk, Machine, Tick},
    mesh::Port,
    stats::ReactorStats,
};

/// What travels in the mesh's rings: the machine's messages, and connections.
#[derive(Debug)]
pub enum Envelope<M> {
    /// A message of the machine.
    Message(M),
    /// A connection, with what its last machine said of it.
    Adopt { parcel: Parcel, message: M },
}

/// A connection on its way between two reactors of one kind.
#[derive(Debug)]
pub enum Parcel {
    /// Already installed in the receiver's table of direct descriptors, at this index.
    Direct(u32),
    /// An ordinary descriptor.
    Descriptor(OwnedFd),
}

/// How long [`Backend::submit_and_wait`] may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Not at all.
    No,
    /// This many microseconds.
    Micros(u64),
    /// Until something happens.
    Forever,
}

impl Wait {
    /// This, but not longer than `limit` microseconds.
    fn at_most(self, limit: u64) -> Wait {
        match self {
            Wait::No => Wait::No,
            _ if limit == 0 => Wait::No,
            Wait::Micros(micros) => Wait::Micros(micros.min(limit)),
            Wait::Forever => Wait::Micros(limit),
        }
    }
}

/// What a backend tells the turn loop.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    Accepted {
        conn: ConnId,
        peer: IpAddr,
    },
    Connected {
        conn: ConnId,
        token: u32,
    },
    ConnectFailed {
        token: u32,
        errno: i32,
    },
    Received {
        conn: ConnId,
        bytes: &'a [u8],
    },
    Sent {
        conn: ConnId,
        chunk: Chunk,
    },
    Eof {
        conn: ConnId,
    },
    Broken {
        conn: ConnId,
        errno: i32,
    },
    Closed {
        conn: ConnId,
    },
    /// A move succeeded on this side: the parcel can be posted. The id is dead.
    Departed {
        conn: ConnId,
        parcel: Parcel,
    },
    /// A move failed; the connection stays, and is received from as before the move.
    MoveRefused {
        conn: ConnId,
    },
}

/// Takes a backend's events.
pub(crate) trait Sink {
    fn event(&mut self, event: Event<'_>);

    /// False: hold received bytes back, deliver everything else. `Eof` and `Broken` may wait too: a driver may not see them as long
    /// as bytes held back occupy its receive buffers. So what ends a machine's congestion must not depend on them.
    fn takes_bytes(&mut self) -> bool;
}

/// One driver's sockets. Operations are started by the methods and completed as events of `dispatch`.
///
/// The contract, beyond what [`crate::io`] says of the events:
/// - an accepted connection is received from one step at a time (no receive is in flight while the machine decides), until `stay`;
///   an adopted or connected one at full speed at once;
/// - after `close` no event but `Closed` comes for the connection, and nothing of it is in flight when that comes;
/// - `Eof` and `Broken` come at most once each; bytes that came before them are delivered before them;
/// - accepting survives running out of descriptors or slots: it pauses, and goes on when there is room.
pub(crate) trait Backend {
    /// Delivers the ends of all operations, and with them about `budget` events at most. Returns whether more can be delivered at once;
    /// bytes that the sink does not take do not count.
    fn dispatch(&mut self, budget: usize, sink: &mut impl Sink) -> bool;

    fn connect(&mut self, token: u32, from: Option<IpAddr>, to: SocketAddr);
    fn send(&mut self, conn: ConnId, chunk: Chunk);
    fn stay(&mut self, conn: ConnId);
    /// Starts a move; ends in `Departed` or `MoveRefused`.
    fn depart(&mut self, conn: ConnId, to: ShardId);
    /// Takes in a parcel; gives the id that the connection has here, or the errno that made it close the connection.
    fn adopt(&mut self, parcel: Parcel) -> Result<ConnId, i32>;
    fn finish(&mut self, conn: ConnId);
    fn close(&mut self, conn: ConnId);
    fn stop_accepting(&mut self);
}

/// A driver that waits by a system call of its own. One inside of an executor awaits instead.
pub(crate) trait BlockingBackend: Backend {
    /// Hands queued operations to the kernel and waits for events, or for the bell of this reactor's port. `now`: when the last turn began.
    fn submit_and_wait(&mut self, now: Tick, wait: Wait) -> io::Result<()>;
}

/// Which driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Uring,
    Epoll,
    /// Only in a build with the feature `glommio`.
    Glommio,
}

impl Kind {
    /// As `--reactor` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Uring => "uring",
            Kind::Epoll => "epoll",
            Kind::Glommio => "glommio",
        }
    }
}

/// What a reactor is made from.
pub struct Setup {
    pub kind: Kind,
    /// The most connections that this reactor can hold at once.
    pub slots: u32,
    /// Listening, with the options that accepted connections inherit (`TCP_NODELAY`, `TCP_USER_TIMEOUT`).
    pub listener: Option<OwnedFd>,
    /// Where the reactors of one process find each other; the same for all of them.
    pub peers: Peers,
    /// Receive buffers that connections share, and the size of each.
    pub receive_buffers: u16,
    pub receive_buffer_bytes: u32,
    /// A connection that sends nothing for this long, in milliseconds, is waited for by a poll instead of a receive, where that holds less
    /// of the kernel's memory (io_uring); 0: never.
    pub idle_ms: u32,
    /// Where the reactor counts.
    pub stats: Arc<ReactorStats>,
}

/// The reactors of one process, as far as they must know of each other to move connections.
#[derive(Clone, Debug)]
pub struct Peers {
    /// The ring's descriptor of each io_uring reactor, by shard; -1 until it is known.
    ring_fds: Arc<[AtomicI32]>,
    /// How many more connections each reactor without a table in the kernel has room for, by shard. A connection takes its room in the other reactor
    /// before it leaves, so that it cannot arrive at a full table.
    rooms: Arc<[Room]>,
}

/// On a cache line of its own: its reactor writes it for every connection that comes or goes.
#[derive(Debug)]
#[repr(align(128))]
struct Room(AtomicU32);

impl Peers {
    /// For `count` reactors.
    pub fn new(count: u16) -> Peers {
        Peers {
            ring_fds: (0..count).map(|_| AtomicI32::new(-1)).collect(),
            rooms: (0..count).map(|_| Room(AtomicU32::new(0))).collect(),
        }
    }

    /// The descriptor of a shard's io_uring, if it has one.
    fn ring_of(&self, shard: ShardId) -> Option<i32> {
        let descriptor = self.ring_fds.get(shard.index())?.load(Ordering::Acquire);
        (descriptor >= 0).then_some(descriptor)
    }

    /// Gives `connections` back to, or first of all to, a shard's room.
    fn give_room(&self, shard: ShardId, connections: u32) {
        self.rooms[shard.index()].0.fetch_add(connections, Ordering::Relaxed);
    }

    /// How many more connections a shard has room for now.
    #[cfg(feature = "glommio")]
    fn room_of(&self, shard: ShardId) -> u32 {
        self.rooms[shard.index()].0.load(Ordering::Relaxed)
    }

    /// Takes room for one connection, if there is some.
    fn take_room(&self, shard: ShardId) -> bool {
        // Nothing is published through the counter: the connection itself travels in the mesh.
        self.rooms[shard.index()].0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(1)).is_ok()
    }
}

/// Runs one reactor on the calling thread until `machine` says [`Output::Stop`]. Calls `ready` once the reactor is built; it
/// must not return before all reactors of the process are, because from then on connections move between them.
///
/// # Errors
/// The kernel refuses what the reactor is made of, or `ready` fails. What happens to a single connection is never an error here.
pub fn run<M: Machine>(
    machine: &mut M,
    mut port: Port<Envelope<M::Message>>,
    setup: Setup,
    clock: Clock,
    ready: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let stats = Arc::clone(&setup.stats);
    match setup.kind {
        #[cfg(feature = "glommio")]
        Kind::Glommio => glommio::run(machine, port, setup, clock, ready),
        #[cfg(not(feature = "glommio"))]
        Kind::Glommio => Err(io::Error::new(io::ErrorKind::Unsupported, probe::WITHOUT_GLOMMIO)),
        Kind::Epoll => {
            let mut backend = epoll::Epoll::new(setup, port.id(), port.bell().as_fd())?;
            ready()?;
            drive::drive(machine, &mut backend, &mut port, clock, &stats)
        }
        Kind::Uring => {
            let mut backend = uring::Uring::new(setup, port.id(), port.bell().as_fd())?;
            ready()?;
            drive::drive(machine, &mut backend, &mut port, clock, &stats)
        }
    }
}

/// A clock that all reactors of a process share.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Tick 0 is now.
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// The tick that it is now.
    pub fn now(self) -> Tick {
        Tick(self.0.elapsed().as_micros() as u64)
    }
}
