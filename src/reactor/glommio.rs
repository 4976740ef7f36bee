//! The glommio driver: the turns of a machine as the one task of a glommio executor that does the work.
//!
//! glommio waits, and wakes by name what it waited for; reading and writing are tried when it does, as on epoll. It has no operations
//! that stay armed, so that each receive costs a poll of its own, and a wait costs several system calls: with many events in a turn that
//! hardly shows.
//!
//! - this file: construction, the turns, and the sockets' part of a connection's life
//! - `signals`: what glommio wakes, and waiting for it; `accept`, `bell`: the tasks beside the turns
//! - `connect`, `transfer`: connecting, receiving, sending; `check`: whether glommio can work here

mod accept;
mod bell;
mod check;
mod connect;
mod signals;
mod transfer;

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use ::glommio::net::TcpStream;
use futures_io::AsyncWrite as _;
use nix::sys::socket::{Shutdown, shutdown};

pub(super) use self::check::check;
use self::{accept::Acceptor, bell::BellTask, signals::Signals};
use super::{
    Backend, Clock, Envelope, Event, Parcel, Peers, Setup, Sink, Wait,
    drive::Turns,
    table::{Entry, Phase, Table, Unsent},
};
use crate::{
    ids::{ConnId, ShardId},
    io::{Chunk, Machine},
    limits::RECEIVE_TURN_BYTES,
    mesh::Port,
};

/// A connection's stream, and what glommio wakes for it.
struct Socket {
    stream: TcpStream,
    waker: Waker,
}

impl Socket {
    fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the stream owns the descriptor, and is borrowed as long as this is.
        unsafe { BorrowedFd::borrow_raw(self.stream.as_raw_fd()) }
    }

    /// Sends some of `bytes`, or asks for the socket's wake when it takes more. Of a socket that connects, and no bytes: whether it has.
    fn poll_send(&mut self, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut context = Context::from_waker(&self.waker);
        std::pin::Pin::new(&mut self.stream).poll_write(&mut context, bytes)
    }
}

impl Entry<Socket> {
    /// The stream of a connection that has not ended.
    fn open(&mut self) -> &mut Socket {
        self.socket.as_mut().expect("only a connection that has ended has no stream")
    }
}

/// One executor's connections.
struct Glommio {
    table: Table<Socket>,
    peers: Peers,
    signals: Arc<Signals>,
    acceptor: Option<Acceptor>,
    bell: BellTask,
    /// What is left of chunks that their socket did not take whole, by slot.
    unsent: HashMap<u32, Unsent>,
    /// Ends of operations, to be delivered by the next `dispatch`.
    done: VecDeque<Done>,
    /// Closed, but glommio has not looked at its rings since, and a poll of it still holds the socket open.
    closing: Vec<ConnId>,
    /// Connections to receive from; may hold ids that have ended.
    ready: VecDeque<ConnId>,
    /// Whether a connection became ready outside of `dispatch`, which therefore did not say so.
    overlooked: bool,
    /// Whether the last turn went without glommio's looking at its rings.
    skipped_wait: bool,
    /// The connections woken, while they are looked at.
    woken: Vec<ConnId>,
    scratch: Box<[u8]>,
}

enum Done {
    Connected { conn: ConnId, token: u32 },
    ConnectFailed { token: u32, errno: i32 },
    Sent { conn: ConnId, chunk: Chunk },
    Closed { conn: ConnId },
    Departed { conn: ConnId, fd: OwnedFd },
    MoveRefused { conn: ConnId },
}

/// Runs a glommio executor on the calling thread until `machine` says `Stop`.
///
/// # Errors
/// The executor cannot be made; the text says what to type.
pub(super) fn run<M: Machine>(
    machine: &mut M,
    mut port: Port<Envelope<M::Message>>,
    setup: Setup,
    clock: Clock,
    ready: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let executor = check::executor()?;
    executor.run(async move {
        let stats = Arc::clone(&setup.stats);
        let mut backend = Glommio::new(setup, port.id(), port.bell().as_fd())?;
        let mut result = ready();
        let mut turns = Turns::new(machine, clock, &stats);
        while result.is_ok() {
            let wait = turns.begin(&mut port);
            let waited = backend.wait(wait).await;
            match turns.go_on(&mut backend, &mut port, waited) {
                Ok(flow) if flow.is_break() => break,
                Ok(_) => {}
                Err(error) => result = Err(error),
            }
        }
        backend.end().await;
        result
    })
}

impl Glommio {
    /// Builds the driver for `shard`, and opens its table to its peers. `bell` wakes it. Runs on its executor.
    fn new(setup: Setup, shard: ShardId, bell: BorrowedFd<'_>) -> io::Result<Glommio> {
        let signals = Arc::new(Signals::default());
        let acceptor = setup.listener.map(|listener| Acceptor::new(listener, &signals, Arc::clone(&setup.stats))).transpose()?;
        Ok(Glommio {
            table: Table::new(setup.slots, setup.peers.clone(), shard),
            peers: setup.peers,
            bell: BellTask::start(bell, &signals)?,
            signals,
            acceptor,
            unsent: HashMap::new(),
            done: VecDeque::new(),
            closing: Vec::new(),
            ready: VecDeque::new(),
            overlooked: false,
            skipped_wait: false,
            woken: Vec::new(),
            scratch: vec![0; RECEIVE_TURN_BYTES].into(),
        })
    }

    /// Lets glommio submit and reap, and waits for what this reactor is to be woken by.
    async fn wait(&mut self, wait: Wait) -> io::Result<()> {
        let has_work = self.overlooked || !self.done.is_empty();
        // Ends of operations go to the machine at once; glommio gets its turn behind.
        self.skipped_wait = has_work && !self.skipped_wait;
        if self.skipped_wait {
            return Ok(());
        }
        let pause = self.acceptor.as_ref().and_then(Acceptor::pause_left_us);
        let wait = if has_work || !self.closing.is_empty() { Wait::No } else { wait };
        match pause.map_or(wait, |left| wait.at_most(left)) {
            Wait::No => signals::look_at_rings().await,
            Wait::Micros(micros) => self.signals.wait(Some(Duration::from_micros(micros))).await,
            Wait::Forever => self.signals.wait(None).await,
        }
        self.done.extend(self.closing.drain(..).map(|conn| Done::Closed { conn }));
        self.bell.check()
    }

    /// Ends what the kernel may still write to memory for: an accept, and the bell's read. Polls have none.
    async fn end(self) {
        drop(self.table);
        if let Some(acceptor) = self.acceptor {
            acceptor.end().await;
        }
        self.bell.end().await;
        signals::look_at_rings().await;
    }

    /// Takes in a socket for which room was taken.
    fn insert(&mut self, stream: TcpStream, phase: Phase, number: u32) -> ConnId {
        let conn = self.table.insert(Socket { stream, waker: Waker::noop().clone() }, phase, number);
        let entry = self.table.get(conn).expect("it was just inserted");
        entry.open().waker = self.signals.waker(conn);
        conn
    }

    /// Takes note of a wake for a connection. Delivers nothing itself.
    fn note_wake(&mut self, conn: ConnId) {
        let Some(entry) = self.table.get(conn) else { return };
        match entry.phase {
            Phase::Free | Phase::Broken | Phase::Ended => {}
            Phase::Connecting => self.go_on_connecting(conn),
            Phase::Deciding | Phase::Open => {
                let sending = entry.sending;
                self.enqueue(conn);
                if sending && let Some(unsent) = self.unsent.remove(&conn.slot) {
                    self.transmit(conn, unsent);
                }
            }
        }
    }

    /// Lists a connection to be received from, once.
    fn enqueue(&mut self, conn: ConnId) {
        if let Some(entry) = self.table.get(conn)
            && !std::mem::replace(&mut entry.queued, true)
        {
            self.ready.push_back(conn);
        }
    }

    /// Delivers the end of an operation, if its connection still lives.
    fn deliver(&mut self, done: Done, sink: &mut impl Sink) {
        match done {
            Done::Connected { conn, token } => {
                sink.event(Event::Connected { conn, token });
                self.enqueue(conn);
            }
            Done::ConnectFailed { token, errno } => sink.event(Event::ConnectFailed { token, errno }),
            Done::MoveRefused { conn } => sink.event(Event::MoveRefused { conn }),
            Done::Sent { conn, chunk } => {
                // Not behind `Close` and `Broken`, which may have come since.
                if self.table.get(conn).is_some_and(|entry| matches!(entry.phase, Phase::Deciding | Phase::Open)) {
                    sink.event(Event::Sent { conn, chunk });
                }
            }
            Done::Closed { conn } => {
                self.remove(conn);
                sink.event(Event::Closed { conn });
            }
            Done::Departed { conn, fd } => {
                self.remove(conn);
                sink.event(Event::Departed { conn, parcel: Parcel::Descriptor(fd) });
            }
        }
    }

    /// Frees a slot, and with it perhaps what accepting waits for.
    fn remove(&mut self, conn: ConnId) {
        self.table.remove(conn);
        if let Some(acceptor) = &mut self.acceptor {
            acceptor.end_pause();
        }
    }

    /// Takes in the connections that were accepted, as far as there is room.
    fn accept(&mut self, sink: &mut impl Sink) {
        while let Some(stream) = self.acceptor.as_mut().and_then(Acceptor::next) {
            if !self.table.take_room() {
                // It waits with those of the backlog: a slot that becomes free brings us back here.
                if let Some(acceptor) = &mut self.acceptor {
                    acceptor.keep(stream);
                }
                break;
            }
            let Ok(peer) = stream.peer_addr() else {
                // It is gone already.
                self.table.give_room();
                continue;
            };
            let conn = self.insert(stream, Phase::Deciding, 0);
            sink.event(Event::Accepted { conn, peer: peer.ip().to_canonical() });
            self.enqueue(conn);
        }
        let room = self.table.room();
        self.acceptor.iter_mut().for_each(|acceptor| acceptor.go_on(room));
    }
}

impl Backend for Glommio {
    fn dispatch(&mut self, budget: usize, sink: &mut impl Sink) -> bool {
        self.overlooked = false;
        let mut woken = std::mem::take(&mut self.woken);
        self.signals.take(&mut woken);
        for conn in woken.drain(..) {
            self.note_wake(conn);
        }
        self.woken = woken;
        while let Some(done) = self.done.pop_front() {
            self.deliver(done, sink);
        }
        for _ in 0..self.ready.len().min(budget) {
            let conn = self.ready.pop_front().expect("it was counted");
            if self.receive(conn, sink) {
                self.enqueue(conn);
            }
        }
        self.accept(sink);
        !self.ready.is_empty() && sink.takes_bytes()
    }

    fn connect(&mut self, token: u32, from: Option<IpAddr>, to: SocketAddr) {
        if let Err(error) = self.try_connect(token, from, to) {
            self.done.push_back(Done::ConnectFailed { token, errno: errno_of(&error) });
        }
    }

    fn send(&mut self, conn: ConnId, chunk: Chunk) {
        let Some(entry) = self.table.named(conn) else { return };
        debug_assert!(!entry.sending, "a chunk is in flight on connection {conn} already");
        debug_assert!(!chunk.as_slice().is_empty(), "an empty chunk for connection {conn}");
        if matches!(entry.phase, Phase::Deciding | Phase::Open) && !entry.failed {
            self.transmit(conn, Unsent { chunk, sent: 0 });
        }
    }

    fn stay(&mut self, conn: ConnId) {
        if let Some(entry) = self.table.named(conn)
            && entry.phase == Phase::Deciding
        {
            entry.phase = Phase::Open;
        }
    }

    fn depart(&mut self, conn: ConnId, to: ShardId) {
        let Some(entry) = self.table.named(conn) else { return };
        let healthy = entry.phase == Phase::Deciding && !entry.failed && !entry.sending;
        let done = if healthy && self.peers.take_room(to) {
            // A stream gives its descriptor to nobody; its own goes with it, and with that its poll here.
            match entry.open().descriptor().try_clone_to_owned() {
                Ok(fd) => {
                    entry.phase = Phase::Ended;
                    entry.socket = None;
                    Done::Departed { conn, fd }
                }
                Err(_) => {
                    self.peers.give_room(to, 1);
                    Done::MoveRefused { conn }
                }
            }
        } else {
            Done::MoveRefused { conn }
        };
        self.done.push_back(done);
    }

    fn adopt(&mut self, parcel: Parcel) -> Result<ConnId, i32> {
        let Parcel::Descriptor(fd) = parcel else {
            panic!("a direct descriptor came to a glommio reactor: all reactors of a process must be of one kind");
        };
        let conn = self.insert(stream_of(fd), Phase::Open, 0);
        self.enqueue(conn);
        self.overlooked = true;
        Ok(conn)
    }

    fn finish(&mut self, conn: ConnId) {
        let Some(entry) = self.table.named(conn) else { return };
        if let Some(socket) = &entry.socket {
            // Fails only on a connection that is broken, which is told by an event of its own.
            let _ = shutdown(socket.stream.as_raw_fd(), Shutdown::Write);
        }
    }

    fn close(&mut self, conn: ConnId) {
        let Some(entry) = self.table.named(conn) else { return };
        if entry.phase != Phase::Ended {
            entry.phase = Phase::Ended;
            entry.socket = None;
            self.unsent.remove(&conn.slot);
            self.closing.push(conn);
        }
    }

    fn stop_accepting(&mut self) {
        self.acceptor.iter_mut().for_each(Acceptor::stop);
    }
}

/// A stream of the executor that runs, which owns the descriptor from here on.
fn stream_of(fd: OwnedFd) -> TcpStream {
    // SAFETY: the descriptor is a socket's, and given up here.
    unsafe { TcpStream::from_raw_fd(fd.into_raw_fd()) }
}

fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
