//! Reactors: they own sockets and drive a [`Machine`]. What every driver does in a turn, and in which order, is here; what
//! differs is behind [`Backend`], and `tests/reactor_contract.rs` holds all drivers to the same behaviour.
#![deny(unsafe_code)]

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Arc, atomic::AtomicI32},
    time::Instant,
};

use crate::{
    ids::{ConnId, ShardId},
    io::{Chunk, Input, Machine, Output, Tick},
    mesh::Port,
};

/// Events taken from the backend in one turn.
const EVENTS_PER_TURN: usize = 1024;
/// Messages taken from each peer in one turn.
const MESSAGES_PER_TURN: usize = 16;
/// A refused post is tried again after this long at the latest.
const REFUSED_POST_RETRY_US: u64 = 500;

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

    /// False: hold received bytes back, deliver everything else.
    fn takes_bytes(&self) -> bool;
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
    /// Hands queued operations to the kernel and waits for events, or for the bell of this reactor's port.
    fn submit_and_wait(&mut self, wait: Wait) -> io::Result<()>;

    /// Delivers at most about `budget` events. Returns whether more are there already.
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

/// Which driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Uring,
    Epoll,
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
}

/// The reactors of one process, as far as they must know of each other to move connections.
#[derive(Clone, Debug)]
pub struct Peers {
    /// The ring's descriptor of each io_uring reactor, by shard; -1 until it is known.
    ring_fds: Arc<[AtomicI32]>,
}

impl Peers {
    /// For `count` reactors.
    pub fn new(count: u16) -> Peers {
        Peers { ring_fds: (0..count).map(|_| AtomicI32::new(-1)).collect() }
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

/// A machine under its driver.
struct Turn<'a, M: Machine> {
    machine: &'a mut M,
    now: Tick,
    /// What a machine said of connections whose move is under way.
    departing: &'a mut HashMap<ConnId, (ShardId, M::Message)>,
    /// Parcels that wait for room in a ring. Bounded by the connections of the table.
    parcels: &'a mut Vec<(ShardId, Envelope<M::Message>)>,
}

impl<M: Machine> Sink for Turn<'_, M> {
    fn event(&mut self, event: Event<'_>) {
        let input = match event {
            Event::Accepted { conn, peer } => Input::Accepted { conn, peer },
            Event::Connected { conn, token } => Input::Connected { conn, token },
            Event::ConnectFailed { token, errno } => Input::ConnectFailed { token, errno },
            Event::Received { conn, bytes } => Input::Received { conn, bytes },
            Event::Sent { conn, chunk } => Input::Sent { conn, chunk },
            Event::Eof { conn } => Input::Eof { conn },
            Event::Broken { conn, errno } => Input::Broken { conn, errno },
            Event::Closed { conn } => Input::Closed { conn },
            Event::Departed { conn, parcel } => {
                let (to, message) = self.departing.remove(&conn).expect("only departing connections depart");
                self.parcels.push((to, Envelope::Adopt { parcel, message }));
                return;
            }
            Event::MoveRefused { conn } => {
                let (_, message) = self.departing.remove(&conn).expect("only departing connections are refused");
                Input::MoveRefused { conn, message }
            }
        };
        self.machine.handle(self.now, input);
    }

    fn takes_bytes(&self) -> bool {
        !self.machine.is_congested()
    }
}

/// Drives `machine` until it says `Stop`.
pub(crate) fn drive<M: Machine>(
    machine: &mut M,
    backend: &mut impl Backend,
    port: &mut Port<Envelope<M::Message>>,
    clock: Clock,
) -> io::Result<()> {
    let mut departing = HashMap::new();
    let mut parcels = Vec::new();
    let mut wait = Wait::No;
    loop {
        // 1. reap
        let asleep = wait != Wait::No && port.sleep();
        backend.submit_and_wait(if asleep { wait } else { Wait::No })?;
        if asleep {
            port.wake();
        }
        let now = clock.now();
        let mut turn = Turn { machine, now, departing: &mut departing, parcels: &mut parcels };
        // 2. handle each
        let mut more = backend.dispatch(EVENTS_PER_TURN, &mut turn);
        // 3. drain rings
        more |= port.receive(MESSAGES_PER_TURN, |from, envelope| match envelope {
            Envelope::Message(message) => turn.machine.handle(now, Input::Posted { from, message }),
            Envelope::Adopt { parcel, message } => match backend.adopt(parcel) {
                Ok(conn) => turn.machine.handle(now, Input::Adopted { conn, from, message }),
                Err(errno) => {
                    log::warn!("a connection moved from shard {from} was lost: {}", io::Error::from_raw_os_error(errno))
                }
            },
        });
        // 4. tick
        let mut wake_at = machine.handle_tick(now);
        // 5. poll outputs
        let mut refused: Vec<(ShardId, M::Message)> = Vec::new();
        while let Some(output) = machine.poll_output() {
            match output {
                Output::Connect { token, from, to } => backend.connect(token, from, to),
                Output::Send { conn, chunk } => backend.send(conn, chunk),
                Output::Stay { conn } => backend.stay(conn),
                Output::Move { conn, to, message } => {
                    departing.insert(conn, (to, message));
                    backend.depart(conn, to);
                }
                Output::Finish { conn } => backend.finish(conn),
                Output::Close { conn } => backend.close(conn),
                Output::Post { to, message } => {
                    if let Err(Envelope::Message(message)) = port.post(to, Envelope::Message(message)) {
                        refused.push((to, message));
                    }
                }
                Output::StopAccepting => backend.stop_accepting(),
                Output::Stop => {
                    port.publish();
                    return Ok(());
                }
            }
        }
        for (to, envelope) in std::mem::take(&mut parcels) {
            if let Err(envelope) = port.post(to, envelope) {
                parcels.push((to, envelope));
            }
        }
        if !refused.is_empty() || !parcels.is_empty() {
            let retry = Tick(now.0 + REFUSED_POST_RETRY_US);
            wake_at = Some(wake_at.map_or(retry, |at| at.min(retry)));
        }
        for (to, message) in refused {
            machine.handle(now, Input::PostRefused { to, message });
        }
        port.publish();
        // 6. submit, at the top of the next turn
        wait = match wake_at {
            _ if more => Wait::No,
            None => Wait::Forever,
            Some(at) => match at.micros_since(clock.now()) {
                0 => Wait::No,
                micros => Wait::Micros(micros),
            },
        };
    }
}
