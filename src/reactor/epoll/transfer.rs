//! Receiving and sending on the epoll reactor.
#![forbid(unsafe_code)]

use std::{
    collections::VecDeque,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send},
};

use super::{Done, Epoll};
use crate::{
    ids::ConnId,
    limits::{RECEIVE_STEP_BYTES, RECEIVE_TURN_BYTES},
    reactor::{
        Event, Sink,
        table::{Entry, Phase, Unsent},
    },
};

impl Epoll {
    /// Receives from a connection what it may have in this turn. Returns whether more may be there.
    pub(super) fn receive(&mut self, conn: ConnId, sink: &mut impl Sink) -> bool {
        let Some(entry) = self.table.get(conn) else { return false };
        entry.queued = false;
        let limit = match entry.phase {
            Phase::Deciding => RECEIVE_STEP_BYTES,
            Phase::Open => RECEIVE_TURN_BYTES,
            Phase::Free | Phase::Connecting | Phase::Broken | Phase::Ended => return false,
        };
        let mut taken = 0;
        while entry.readable {
            if entry.eof {
                // All is delivered that can be, but for an error: one behind the peer's end, or one of our sends.
                entry.readable = false;
                if let Some(errno) = entry.take_error() {
                    break_connection(conn, entry, errno, sink);
                }
                return false;
            }
            let takes_bytes = sink.takes_bytes();
            if !takes_bytes && !entry.hung_up {
                return true;
            }
            // While bytes are held back, only the end is looked for.
            let flags = if takes_bytes { MsgFlags::MSG_DONTWAIT } else { MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK };
            match recv(entry.open_fd().as_raw_fd(), &mut self.scratch[..limit - taken], flags) {
                Ok(0) if entry.failed => break_connection(conn, entry, entry.number as i32, sink),
                Ok(0) => {
                    entry.eof = true;
                    sink.event(Event::Eof { conn });
                }
                Ok(_) if !takes_bytes => return true,
                Ok(count) => {
                    sink.event(Event::Received { conn, bytes: &self.scratch[..count] });
                    taken += count;
                    // Less than asked for means that no more was there, and what comes later is an edge of its own.
                    entry.readable = entry.hung_up || taken == limit;
                    if entry.phase == Phase::Deciding || taken == limit {
                        return entry.readable;
                    }
                }
                Err(Errno::EAGAIN) if entry.failed => break_connection(conn, entry, entry.number as i32, sink),
                Err(Errno::EAGAIN) => entry.readable = false,
                Err(Errno::EINTR) => {}
                Err(errno) => break_connection(conn, entry, errno as i32, sink),
            }
        }
        false
    }

    /// Gives the socket of a connection as much of its chunk as it takes; keeps the rest until the socket is writable again.
    pub(super) fn transmit(&mut self, conn: ConnId, mut unsent: Unsent) {
        let Some(entry) = self.table.get(conn) else { return };
        entry.sending = false;
        loop {
            let rest = &unsent.chunk.as_slice()[unsent.sent..];
            match send(entry.open_fd().as_raw_fd(), rest, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
                Ok(count) if count == rest.len() => {
                    self.done.push_back(Done::Sent { conn, chunk: unsent.chunk });
                    return;
                }
                Ok(count) => unsent.sent += count,
                Err(Errno::EAGAIN) => {
                    entry.sending = true;
                    self.unsent.insert(conn.slot, unsent);
                    return;
                }
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    // The peer's last bytes come first, then `Broken`.
                    entry.failed = true;
                    entry.number = errno as i32 as u32;
                    entry.readable = true;
                    entry.hung_up = true;
                    enqueue(&mut self.ready, conn, entry);
                    self.overlooked = true;
                    return;
                }
            }
        }
    }
}

/// Lists a connection to be received from, once.
pub(super) fn enqueue(ready: &mut VecDeque<ConnId>, conn: ConnId, entry: &mut Entry<OwnedFd>) {
    if !std::mem::replace(&mut entry.queued, true) {
        ready.push_back(conn);
    }
}

fn break_connection(conn: ConnId, entry: &mut Entry<OwnedFd>, errno: i32, sink: &mut impl Sink) {
    entry.phase = Phase::Broken;
    entry.readable = false;
    sink.event(Event::Broken { conn, errno });
}
