//! The io_uring reactor: completions in, submissions out, one system call a turn.
//!
//! Connections are direct descriptors: they live in the ring's own table and have no number in the process. A connection's slot here is
//! not its index there (`table` says why). Where it is in its life is its slot's [`Phase`]; what is in flight on it are its [`Flags`];
//! and nothing is closed or moved before all of that has ended.
//!
//! - this file: construction, and which completion goes where
//! - `ring`: the io_uring itself; `ops`: the operations; `table`: the slots and their descriptors
//! - `accept`, `receive`, `idle`, `outgoing` (connect, send), `leave` (move, finish, close): one part of the life each

mod accept;
mod idle;
mod leave;
mod ops;
mod outgoing;
mod receive;
mod ring;
mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    sync::{Arc, atomic::Ordering},
};

use io_uring::{cqueue, squeue};

pub(super) use self::ring::{Ring, build as build_ring};
use self::{
    accept::Acceptor,
    idle::Idle,
    ops::Op,
    outgoing::{Outgoing, Sending},
    table::{Flags, Phase, Table},
};
use super::{Backend, BlockingBackend, Event, Parcel, Peers, Setup, Sink, Wait, buffers::Buffers};
use crate::{
    ids::{ConnId, ShardId},
    io::{Chunk, Tick},
    stats::ReactorStats,
};

/// One io_uring and its connections.
pub(super) struct Uring {
    // Dropped before the memory that its operations use, which is in the fields below.
    ring: Ring,
    table: Table,
    buffers: Buffers,
    acceptor: Acceptor,
    idle: Idle,
    outgoing: Outgoing,
    sends: slab::Slab<Sending>,
    /// Connections with bytes, or an end behind bytes, that the machine has not taken yet.
    ready: VecDeque<ConnId>,
    /// Connections to receive from again with the next submission, unless the machine closes or moves them before.
    resuming: Vec<ConnId>,
    /// Connections that found no receive buffer, or in which a poll has seen something.
    parked: VecDeque<ConnId>,
    /// Those of them that are known to have bytes.
    hungry: VecDeque<ConnId>,
    /// Where the byte goes that a peek has to write somewhere.
    scratch: Box<u8>,
    /// Events that no completion brings.
    owed: VecDeque<Owed>,
    peers: Peers,
    shard: ShardId,
    /// Our own descriptor of the bell, so that it outlives the poll on it.
    bell: OwnedFd,
    stats: Arc<ReactorStats>,
}

/// An event that waits for the next dispatch.
enum Owed {
    MoveRefused(ConnId),
    ConnectFailed { token: u32, errno: i32 },
}

impl Uring {
    /// Makes the ring of `shard`, and tells the peers of it. Runs on the thread that uses it.
    ///
    /// # Errors
    /// The kernel refuses the ring or the table, and the message says why.
    pub(super) fn new(setup: Setup, shard: ShardId, bell: BorrowedFd<'_>) -> io::Result<Uring> {
        let Setup { kind: _, slots, listener, peers, receive_buffers, receive_buffer_bytes, idle_ms, stats } = setup;
        let buffers = Buffers::new(receive_buffers, receive_buffer_bytes)?;
        let acceptor = Acceptor::new(listener, slots)?;
        let bell = bell.try_clone_to_owned()?;
        let ring = Ring::new(slots, Arc::clone(&stats))?;
        // SAFETY: the buffers are a later field of the same struct: they are dropped after the ring.
        unsafe { ring.register_buffers(buffers.ring_address(), buffers.count()) }?;
        peers.ring_fds[shard.index()].store(ring.descriptor(), Ordering::Release);
        let mut uring = Uring {
            ring,
            table: Table::new(slots),
            buffers,
            acceptor,
            idle: Idle::new(idle_ms),
            outgoing: Outgoing::default(),
            sends: slab::Slab::new(),
            ready: VecDeque::new(),
            resuming: Vec::new(),
            parked: VecDeque::new(),
            hungry: VecDeque::new(),
            scratch: Box::new(0),
            owed: VecDeque::new(),
            peers,
            shard,
            bell,
            stats,
        };
        uring.push(ops::bell(uring.bell.as_raw_fd()));
        Ok(uring)
    }

    /// Queues an operation.
    fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: entries are made in `ops` only. The memory they point to is: chunks on the heap, owned by `sends` until the send's
        // completion; addresses boxed in `acceptor` until the name's; the batch boxed in `outgoing` until the installation's, and a
        // socket address boxed there until the connection's; and the box `scratch`. `drop` ends all operations before any of that goes.
        unsafe { self.ring.push(entry) };
    }

    /// Takes one completion to its handler.
    fn complete(&mut self, completion: &cqueue::Entry, room: bool, sink: &mut impl Sink) -> usize {
        let (op, conn) = Op::decode(completion.user_data());
        let (result, flags) = (completion.result(), completion.flags());
        let more = cqueue::more(flags);
        match op {
            Op::Bell => {
                if !more {
                    self.push(ops::bell(self.bell.as_raw_fd()));
                }
                0
            }
            Op::Accept => self.accepted(result, more),
            Op::CancelAccept => 0,
            Op::Name => self.named(conn, result, sink),
            Op::Receive => self.received(conn, result, flags, room, sink),
            Op::CancelReceive => self.cancel_missed(conn, Flags::RECEIVING),
            Op::CancelSend => self.cancel_missed(conn, Flags::SENDING),
            Op::Send => self.sent(conn, result, sink),
            Op::Install => self.installed(result),
            Op::Connect => self.connected(conn, result, sink),
            Op::Move => self.moved(conn, result, sink),
            Op::Finish => self.finished(conn),
            Op::Close => self.closed(conn, result, sink),
        }
    }

    /// Tells what the machine is owed without a completion.
    fn pay(&mut self, sink: &mut impl Sink) -> usize {
        let mut events = 0;
        while let Some(owed) = self.owed.pop_front() {
            events += 1;
            match owed {
                Owed::ConnectFailed { token, errno } => sink.event(Event::ConnectFailed { token, errno }),
                Owed::MoveRefused(conn) => {
                    if self.table.get(conn).is_some_and(|slot| slot.phase == Phase::Stepping) {
                        sink.event(Event::MoveRefused { conn });
                        self.resume(conn);
                        // What came while it was about to leave.
                        self.mark_ready(conn);
                    }
                }
            }
        }
        events
    }
}

impl BlockingBackend for Uring {
    fn submit_and_wait(&mut self, now: Tick, wait: Wait) -> io::Result<()> {
        let look = self.look_for_idle(now);
        let hurry = self.resume_receiving();
        self.start_connecting();
        let patience = self.keep_accepting();
        let wait = if hurry || !self.owed.is_empty() { Wait::No } else { wait };
        let wait = [patience, look].into_iter().flatten().fold(wait, Wait::at_most);
        self.ring.submit_and_wait(wait)
    }
}

impl Backend for Uring {
    /// All completions are taken in each turn, and all of their events are delivered except bytes: these wait in their buffers once the
    /// budget is used up.
    fn dispatch(&mut self, budget: usize, sink: &mut impl Sink) -> bool {
        let mut events = self.pay(sink);
        events += self.deliver_ready(budget.saturating_sub(events), sink);
        while let Some(completion) = self.ring.next_completion() {
            events += self.complete(&completion, events < budget, sink);
        }
        !self.owed.is_empty() || !self.ready.is_empty() && sink.takes_bytes()
    }

    fn connect(&mut self, token: u32, from: Option<IpAddr>, to: SocketAddr) {
        self.outgoing.request(token, from, to);
    }

    fn send(&mut self, conn: ConnId, chunk: Chunk) {
        self.start_send(conn, chunk);
    }

    fn stay(&mut self, conn: ConnId) {
        if let Some(slot) = self.table.get(conn)
            && slot.phase == Phase::Stepping
        {
            slot.phase = Phase::Streaming;
            self.resume(conn);
        }
    }

    fn depart(&mut self, conn: ConnId, to: ShardId) {
        self.start_move(conn, to);
    }

    fn adopt(&mut self, parcel: Parcel) -> Result<ConnId, i32> {
        match parcel {
            Parcel::Direct(index) => {
                let conn = self.table.occupy(index, Phase::Streaming, 0).conn;
                self.resume(conn);
                Ok(conn)
            }
            // Of an epoll reactor; all reactors of a process are of one kind. Dropping it closes it.
            Parcel::Descriptor(_) => Err(libc::EINVAL),
        }
    }

    fn finish(&mut self, conn: ConnId) {
        // The kernel looks the descriptor up when a worker comes to it: this flag keeps the close back until then, and counts one.
        if let Some(slot) = self.table.get(conn)
            && slot.phase != Phase::Closing
            && !slot.flags.has(Flags::FINISHING)
        {
            slot.flags.set(Flags::FINISHING);
            let direct = slot.direct(conn);
            self.push(ops::finish(direct));
        }
    }

    fn close(&mut self, conn: ConnId) {
        self.start_close(conn);
    }

    fn stop_accepting(&mut self) {
        if self.acceptor.stop() {
            self.push(ops::cancel_accept());
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.peers.ring_fds[self.shard.index()].store(-1, Ordering::Release);
        if let Err(error) = self.ring.shut() {
            // The kernel may still write to the buffers: better to stop than to let it write into memory that is used for something else.
            log::error!("the operations of shard {} cannot be ended: {error}", self.shard);
            std::process::abort();
        }
    }
}
