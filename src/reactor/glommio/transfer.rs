//! Receiving and sending on the glommio reactor.

use std::{io, os::fd::AsRawFd as _, pin::Pin, task::Context, task::Poll};

use futures_io::AsyncRead as _;
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
};

use super::{Done, Glommio, Socket, errno_of};
use crate::{
    ids::ConnId,
    limits::{RECEIVE_STEP_BYTES, RECEIVE_TURN_BYTES},
    reactor::{
        Event, Sink,
        table::{Entry, Phase, Unsent},
    },
};

impl Entry<Socket> {
    /// Receives, or asks for the socket's wake when there is something to receive.
    fn poll_receive(&mut self, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let failed = self.failed;
        let socket = self.open();
        if failed {
            // What is there is all that will come, and while its poll is under way glommio's stream does not look.
            return match recv(socket.stream.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => Poll::Pending,
                result => Poll::Ready(result.map_err(io::Error::from)),
            };
        }
        let mut context = Context::from_waker(&socket.waker);
        Pin::new(&mut socket.stream).poll_read(&mut context, buffer)
    }
}

impl Glommio {
    /// Receives from a connection what it may have in this turn. Returns whether more may be there.
    pub(super) fn receive(&mut self, conn: ConnId, sink: &mut impl Sink) -> bool {
        let Some(entry) = self.table.get(conn) else { return false };
        entry.queued = false;
        let limit = match entry.phase {
            Phase::Deciding => RECEIVE_STEP_BYTES,
            Phase::Open => RECEIVE_TURN_BYTES,
            Phase::Free | Phase::Connecting | Phase::Broken | Phase::Ended => return false,
        };
        if entry.eof {
            // All is delivered that can be, but for the error of one of our sends.
            if entry.failed {
                break_connection(conn, entry, entry.number as i32, sink);
            }
            return false;
        }
        let mut taken = 0;
        loop {
            if !sink.takes_bytes() {
                return true;
            }
            match entry.poll_receive(&mut self.scratch[..limit - taken]) {
                Poll::Pending | Poll::Ready(Ok(0)) if entry.failed => {
                    break_connection(conn, entry, entry.number as i32, sink);
                    return false;
                }
                Poll::Pending => return false,
                Poll::Ready(Ok(0)) => {
                    entry.eof = true;
                    sink.event(Event::Eof { conn });
                    return false;
                }
                Poll::Ready(Ok(count)) => {
                    sink.event(Event::Received { conn, bytes: &self.scratch[..count] });
                    taken += count;
                    // Otherwise the stream is asked again, for its wake.
                    if entry.phase == Phase::Deciding || taken == limit {
                        return true;
                    }
                }
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Poll::Ready(Err(error)) => {
                    break_connection(conn, entry, errno_of(&error), sink);
                    return false;
                }
            }
        }
    }

    /// Gives the socket of a connection as much of its chunk as it takes; keeps the rest until the socket is writable again.
    pub(super) fn transmit(&mut self, conn: ConnId, mut unsent: Unsent) {
        let Some(entry) = self.table.get(conn) else { return };
        entry.sending = false;
        loop {
            let rest = &unsent.chunk.as_slice()[unsent.sent..];
            match entry.open().poll_send(rest) {
                Poll::Ready(Ok(count)) if count == rest.len() => {
                    self.done.push_back(Done::Sent { conn, chunk: unsent.chunk });
                    return;
                }
                Poll::Ready(Ok(count)) => unsent.sent += count,
                Poll::Pending => {
                    entry.sending = true;
                    self.unsent.insert(conn.slot, unsent);
                    return;
                }
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Poll::Ready(Err(error)) => {
                    // The peer's last bytes come first, then `Broken`.
                    entry.failed = true;
                    entry.number = errno_of(&error) as u32;
                    self.enqueue(conn);
                    self.overlooked = true;
                    return;
                }
            }
        }
    }
}

fn break_connection(conn: ConnId, entry: &mut Entry<Socket>, errno: i32, sink: &mut impl Sink) {
    entry.phase = Phase::Broken;
    sink.event(Event::Broken { conn, errno });
}
