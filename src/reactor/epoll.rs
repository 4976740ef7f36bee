//! The epoll driver: edge-triggered, one registration per descriptor for its whole life, so that the calls per message are
//! `recv`, `send` and a share of `epoll_wait`.
//!
//! An edge is reported once; what is left behind it is remembered here, as `readable` in the table and in the list `ready`.

mod listener;
#[cfg(test)]
mod tests;
mod transfer;
#[allow(unsafe_code, reason = "a fenced place: a system call that nix does not wrap")]
mod wait;

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll as Poll, EpollCreateFlags, EpollEvent, EpollFlags},
        socket::{Shutdown, shutdown},
    },
};

use self::{listener::Listener, transfer::enqueue};
use super::{
    Backend, BlockingBackend, Event, Parcel, Peers, Setup, Sink, Wait, socket,
    table::{Phase, Table, Unsent},
};
use crate::{
    ids::{ConnId, ShardId},
    io::{Chunk, Tick},
    limits::{ACCEPTS_PER_TURN, EDGES_PER_TURN, RECEIVE_TURN_BYTES},
};

/// Marks of registrations that are no connection; a [`ConnId`] leaves the upper byte 0.
const LISTENER: u64 = 1 << 56;
const BELL: u64 = 2 << 56;

/// One reactor's sockets.
pub(super) struct Epoll {
    poll: Poll,
    /// The edges of this turn are the first `edge_count`.
    edges: Vec<EpollEvent>,
    edge_count: usize,
    table: Table<OwnedFd>,
    peers: Peers,
    listener: Option<Listener>,
    /// What is left of chunks that their socket did not take whole, by slot.
    unsent: HashMap<u32, Unsent>,
    /// Ends of operations, to be delivered by the next `dispatch`.
    done: VecDeque<Done>,
    /// Connections to receive from; may hold ids that have ended.
    ready: VecDeque<ConnId>,
    /// Whether a connection became ready outside of `dispatch`, which therefore did not say so.
    overlooked: bool,
    /// Whether the last turn went without asking the kernel.
    skipped_wait: bool,
    /// Whether the kernel waits in microseconds (`epoll_pwait2`, since 5.11).
    waits_finely: bool,
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

impl Epoll {
    /// Builds the driver for `shard`, and opens its table to its peers. `bell` wakes it.
    pub(super) fn new(setup: Setup, shard: ShardId, bell: BorrowedFd<'_>) -> io::Result<Epoll> {
        let poll = Poll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        // Edge-triggered, each ring of the bell is an edge of its own, so that nobody has to read it silent.
        poll.add(bell, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, BELL))?;
        let listener = match setup.listener {
            Some(fd) => {
                poll.add(&fd, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, LISTENER))?;
                Some(Listener::new(fd, Arc::clone(&setup.stats)))
            }
            None => None,
        };
        Ok(Epoll {
            poll,
            edges: vec![EpollEvent::empty(); EDGES_PER_TURN],
            edge_count: 0,
            table: Table::new(setup.slots, setup.peers.clone(), shard),
            peers: setup.peers,
            listener,
            unsent: HashMap::new(),
            done: VecDeque::new(),
            ready: VecDeque::new(),
            overlooked: false,
            skipped_wait: false,
            waits_finely: true,
            scratch: vec![0; RECEIVE_TURN_BYTES].into(),
        })
    }

    /// Registers a connection for all that can happen to it. What is readable already is an edge too.
    fn register(&mut self, conn: ConnId) -> nix::Result<()> {
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        let entry = self.table.get(conn).expect("it was just inserted");
        self.poll.add(entry.open_fd(), EpollEvent::new(interest, conn.to_bits()))
    }
}

impl Epoll {
    /// Takes note of an edge of a connection. Delivers nothing itself.
    fn note_edge(&mut self, conn: ConnId, edge: EpollFlags) {
        let Some(entry) = self.table.get(conn) else { return };
        let over = edge.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
        match entry.phase {
            Phase::Free | Phase::Broken | Phase::Ended => return,
            Phase::Connecting if over || edge.contains(EpollFlags::EPOLLOUT) => {
                let token = entry.number;
                if let Some(errno) = entry.take_error() {
                    self.done.push_back(Done::ConnectFailed { token, errno });
                    self.remove(conn);
                    return;
                }
                entry.phase = Phase::Open;
                self.done.push_back(Done::Connected { conn, token });
            }
            Phase::Connecting => return,
            Phase::Deciding | Phase::Open => {}
        }
        entry.hung_up |= over || edge.contains(EpollFlags::EPOLLRDHUP);
        if over || edge.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP) {
            entry.readable = true;
            enqueue(&mut self.ready, conn, entry);
        }
        if entry.sending
            && let Some(unsent) = self.unsent.remove(&conn.slot)
        {
            self.transmit(conn, unsent);
        }
    }

    /// Delivers the end of an operation, if its connection still lives.
    fn deliver(&mut self, done: Done, sink: &mut impl Sink) {
        match done {
            Done::Connected { conn, token } => sink.event(Event::Connected { conn, token }),
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
        if let Some(listener) = &mut self.listener {
            listener.end_pause();
        }
    }

    /// Accepts what this turn allows. Returns whether more may wait.
    fn accept(&mut self, sink: &mut impl Sink) -> bool {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = &mut self.listener else { return false };
            if !listener.is_due() {
                return false;
            }
            if !self.table.take_room() {
                // They wait in the backlog: a slot that becomes free brings us back here.
                listener.note_full();
                return false;
            }
            let Some((fd, peer)) = listener.accept() else {
                self.table.give_room();
                return false;
            };
            let conn = self.table.insert(fd, Phase::Deciding, 0);
            match self.register(conn) {
                Ok(()) => sink.event(Event::Accepted { conn, peer }),
                Err(errno) => {
                    self.table.remove(conn);
                    self.listener.iter_mut().for_each(|listener| listener.pause(errno));
                    return false;
                }
            }
        }
        true
    }

    /// Opens a connection as far as the kernel waits for the peer.
    fn try_connect(&mut self, token: u32, from: Option<IpAddr>, to: SocketAddr) -> io::Result<()> {
        let fd = socket::outgoing(from, to)?;
        // Registered only then: an unconnected socket would report that it is hung up.
        socket::start_connect(&fd, to)?;
        if !self.table.take_room() {
            return Err(Errno::ENFILE.into());
        }
        let conn = self.table.insert(fd, Phase::Connecting, token);
        self.register(conn).inspect_err(|_| self.table.remove(conn))?;
        Ok(())
    }
}

impl BlockingBackend for Epoll {
    fn submit_and_wait(&mut self, _now: Tick, wait: Wait) -> io::Result<()> {
        let has_work = self.overlooked || !self.done.is_empty();
        self.edge_count = 0;
        // Ends of operations go to the machine at once; the kernel is asked in the turn behind.
        self.skipped_wait = has_work && !self.skipped_wait;
        if self.skipped_wait {
            return Ok(());
        }
        let pause = self.listener.as_ref().and_then(Listener::pause_left_us);
        let wait = if has_work { Wait::No } else { wait };
        match self.wait(pause.map_or(wait, |left| wait.at_most(left))) {
            Ok(count) => self.edge_count = count,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }
}

impl Backend for Epoll {
    fn dispatch(&mut self, budget: usize, sink: &mut impl Sink) -> bool {
        self.overlooked = false;
        for edge in 0..self.edge_count {
            let (mark, flags) = (self.edges[edge].data(), self.edges[edge].events());
            match mark {
                BELL => {}
                LISTENER => self.listener.iter_mut().for_each(Listener::note_edge),
                bits => self.note_edge(ConnId::from_bits(bits), flags),
            }
        }
        while let Some(done) = self.done.pop_front() {
            self.deliver(done, sink);
        }
        for _ in 0..self.ready.len().min(budget) {
            let conn = self.ready.pop_front().expect("it was counted");
            if self.receive(conn, sink)
                && let Some(entry) = self.table.get(conn)
            {
                enqueue(&mut self.ready, conn, entry);
            }
        }
        let may_accept = self.accept(sink);
        may_accept || !self.ready.is_empty() && sink.takes_bytes()
    }

    fn connect(&mut self, token: u32, from: Option<IpAddr>, to: SocketAddr) {
        if let Err(error) = self.try_connect(token, from, to) {
            let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
            self.done.push_back(Done::ConnectFailed { token, errno });
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
        let done = match entry.socket.take_if(|_| healthy && self.peers.take_room(to)) {
            Some(fd) => {
                entry.phase = Phase::Ended;
                if let Err(errno) = self.poll.delete(&fd) {
                    unreachable!("connection {conn} was registered once, and is not any more: {errno}");
                }
                Done::Departed { conn, fd }
            }
            None => Done::MoveRefused { conn },
        };
        self.done.push_back(done);
    }

    fn adopt(&mut self, parcel: Parcel) -> Result<ConnId, i32> {
        let Parcel::Descriptor(fd) = parcel else {
            panic!("a direct descriptor came to an epoll reactor: all reactors of a process must be of one kind");
        };
        let conn = self.table.insert(fd, Phase::Open, 0);
        match self.register(conn) {
            Ok(()) => Ok(conn),
            Err(errno) => {
                self.remove(conn);
                Err(errno as i32)
            }
        }
    }

    fn finish(&mut self, conn: ConnId) {
        let Some(entry) = self.table.named(conn) else { return };
        if let Some(fd) = &entry.socket {
            // Fails only on a connection that is broken, which is told by an event of its own.
            let _ = shutdown(fd.as_raw_fd(), Shutdown::Write);
        }
    }

    fn close(&mut self, conn: ConnId) {
        let Some(entry) = self.table.named(conn) else { return };
        if entry.phase != Phase::Ended {
            entry.phase = Phase::Ended;
            // Closing the only descriptor ends its registration too.
            entry.socket = None;
            self.unsent.remove(&conn.slot);
            self.done.push_back(Done::Closed { conn });
        }
    }

    fn stop_accepting(&mut self) {
        self.listener = None;
    }
}
