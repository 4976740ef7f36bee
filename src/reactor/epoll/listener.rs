//! Accepting on the epoll reactor: until the backlog is empty, with a pause where descriptors or memory run out.
#![forbid(unsafe_code)]

use std::{net::IpAddr, os::fd::OwnedFd, sync::Arc};

use nix::errno::Errno;
use socket2::Socket;

use crate::{
    reactor::pause::{Pauses, is_of_one_connection},
    stats::ReactorStats,
};

/// A listening socket and what is known of its backlog.
pub(super) struct Listener {
    socket: Socket,
    /// The kernel may have a connection for us. Edge-triggered: it will not say so again.
    pending: bool,
    pauses: Pauses,
}

impl Listener {
    pub(super) fn new(fd: OwnedFd, stats: Arc<ReactorStats>) -> Listener {
        Listener { socket: fd.into(), pending: true, pauses: Pauses::new(stats) }
    }

    /// The kernel says that connections came.
    pub(super) fn note_edge(&mut self) {
        self.pending = true;
    }

    /// Whether it is worth asking for a connection now.
    pub(super) fn is_due(&mut self) -> bool {
        !self.pauses.lasts() && self.pending
    }

    /// How long the pause lasts yet, if there is one, in microseconds.
    pub(super) fn pause_left_us(&self) -> Option<u64> {
        self.pauses.left_us()
    }

    /// A connection has gone, and its descriptor with it.
    pub(super) fn end_pause(&mut self) {
        self.pauses.end();
    }

    /// Connections must wait until a slot is free.
    pub(super) fn note_full(&mut self) {
        self.pauses.note_full();
    }

    /// Stops accepting for a while.
    pub(super) fn pause(&mut self, errno: Errno) {
        self.pauses.begin(errno);
    }

    /// The next connection. `None`: no more now, or a pause has begun.
    pub(super) fn accept(&mut self) -> Option<(OwnedFd, IpAddr)> {
        while self.is_due() {
            match self.socket.accept4(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) {
                Ok((socket, addr)) => {
                    // A connection without an address would not be of this listener's family: it cannot be served.
                    let Some(addr) = addr.as_socket() else { continue };
                    return Some((socket.into(), addr.ip().to_canonical()));
                }
                Err(error) => match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
                    Errno::EAGAIN => self.pending = false,
                    Errno::EINTR => {}
                    errno if is_of_one_connection(errno) => {}
                    errno => self.pauses.begin(errno),
                },
            }
        }
        None
    }
}
