//! Connecting and sending.
//!
//! A socket to connect is made as an ordinary descriptor, because its source address is bound with ordinary calls, and moves into the
//! table at once: in batches, so that few ordinary descriptors exist at a time however many connections are asked for.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use socket2::{SockAddr, SockRef};

use super::{
    super::{Event, Sink, socket},
    Owed, Uring, ops,
    table::{Flags, Phase},
};
use crate::{ids::ConnId, io::Chunk};

/// Sockets made in one turn.
const BATCH: usize = 128;

/// A connection that the machine asked for.
struct Request {
    token: u32,
    from: Option<IpAddr>,
    to: SocketAddr,
}

/// Sockets on their way into the table.
struct Batch {
    /// Their descriptors; the kernel writes the indices of direct ones over them.
    descriptors: [i32; BATCH],
    sockets: Vec<(OwnedFd, Request)>,
}

/// A connection that is being made.
struct Connecting {
    token: u32,
    address: SockAddr,
}

/// Outgoing connections before they are connections.
#[derive(Default)]
pub(super) struct Outgoing {
    requests: VecDeque<Request>,
    batch: Option<Box<Batch>>,
    connecting: slab::Slab<Box<Connecting>>,
}

impl Outgoing {
    pub(super) fn request(&mut self, token: u32, from: Option<IpAddr>, to: SocketAddr) {
        self.requests.push_back(Request { token, from, to });
    }
}

/// A chunk in flight.
pub(super) struct Sending {
    chunk: Chunk,
    /// How many of its bytes the kernel has taken.
    done: usize,
}

impl Uring {
    /// Makes the next batch of sockets, when the last one is through.
    pub(super) fn start_connecting(&mut self) {
        if self.outgoing.batch.is_some() || self.outgoing.requests.is_empty() {
            return;
        }
        let mut batch = Box::new(Batch { descriptors: [-1; BATCH], sockets: Vec::with_capacity(BATCH) });
        let room = self.table.free().min(BATCH as u32) as usize;
        while batch.sockets.len() < BATCH
            && let Some(request) = self.outgoing.requests.pop_front()
        {
            let made = if batch.sockets.len() < room {
                blocking_socket(&request)
            } else {
                Err(io::Error::from_raw_os_error(libc::ENFILE))
            };
            match made {
                Ok(socket) => {
                    batch.descriptors[batch.sockets.len()] = socket.as_raw_fd();
                    batch.sockets.push((socket, request));
                }
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
                    self.owed.push_back(Owed::ConnectFailed { token: request.token, errno });
                }
            }
        }
        if !batch.sockets.is_empty() {
            let (descriptors, count) = (batch.descriptors.as_mut_ptr(), batch.sockets.len());
            self.outgoing.batch = Some(batch);
            self.push(ops::install(descriptors, count));
        }
    }

    /// The first `result` sockets of the batch are in the table.
    pub(super) fn installed(&mut self, result: i32) -> usize {
        let batch = self.outgoing.batch.take().expect("one batch is in flight");
        let installed = usize::try_from(result).unwrap_or(0);
        let errno = if result < 0 { -result } else { libc::ENFILE };
        let Batch { descriptors, sockets } = *batch;
        for (index, (socket, request)) in sockets.into_iter().enumerate() {
            // The table holds the socket from here on.
            drop(socket);
            if index >= installed {
                self.owed.push_back(Owed::ConnectFailed { token: request.token, errno });
                continue;
            }
            let connecting = Box::new(Connecting { token: request.token, address: request.to.into() });
            let (address, length) = (connecting.address.as_ptr().cast(), connecting.address.len());
            let key = self.outgoing.connecting.insert(connecting);
            let direct = self.table.occupy(descriptors[index] as u32, Phase::Connecting, key as u32);
            self.push(ops::connect(direct, address, length));
        }
        0
    }

    /// A connection was made, or refused.
    pub(super) fn connected(&mut self, conn: ConnId, result: i32, sink: &mut impl Sink) -> usize {
        let slot = self.table.get(conn).expect("a connection outlives its operations");
        let token = self.outgoing.connecting.remove(slot.cargo as usize).token;
        if result < 0 {
            slot.phase = Phase::Vacating;
            let direct = slot.direct(conn);
            self.push(ops::close(direct));
            sink.event(Event::ConnectFailed { token, errno: -result });
        } else {
            slot.phase = Phase::Streaming;
            self.resume(conn);
            sink.event(Event::Connected { conn, token });
        }
        1
    }

    /// Sends `chunk`. It is dropped when the connection is beyond use, of which the machine is told by other events.
    pub(super) fn start_send(&mut self, conn: ConnId, chunk: Chunk) {
        let Some(slot) = self.table.get(conn) else { return };
        if !matches!(slot.phase, Phase::Stepping | Phase::Streaming) || slot.flags.has(Flags::BROKEN) {
            return;
        }
        assert!(!slot.flags.has(Flags::SENDING), "a second chunk for {conn} while one is in flight");
        slot.flags.set(Flags::SENDING);
        let key = self.sends.insert(Sending { chunk, done: 0 });
        slot.cargo = key as u32;
        let direct = slot.direct(conn);
        self.push(ops::send(direct, &self.sends[key].chunk, 0));
    }

    /// The kernel took a chunk, or a part of it, or refused it.
    pub(super) fn sent(&mut self, conn: ConnId, result: i32, sink: &mut impl Sink) -> usize {
        let slot = self.table.get(conn).expect("a connection outlives its operations");
        let key = slot.cargo as usize;
        let sending = &mut self.sends[key];
        sending.done += result.max(0) as usize;
        if result > 0 && sending.done < sending.chunk.as_slice().len() && slot.phase != Phase::Closing {
            let direct = slot.direct(conn);
            self.push(ops::send(direct, &self.sends[key].chunk, self.sends[key].done));
            return 0;
        }
        slot.flags.clear(Flags::SENDING);
        let chunk = self.sends.remove(key).chunk;
        match slot.phase {
            Phase::Closing => {
                self.close_when_still(conn);
                0
            }
            _ if result < 0 => self.fail(conn, -result, sink),
            _ => {
                sink.event(Event::Sent { conn, chunk });
                1
            }
        }
    }
}

/// io_uring takes a non-blocking socket at its word: it would fail operations that have to wait.
fn blocking_socket(request: &Request) -> io::Result<OwnedFd> {
    let socket = socket::outgoing(request.from, request.to)?;
    SockRef::from(&socket).set_nonblocking(false)?;
    Ok(socket)
}
