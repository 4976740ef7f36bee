//! One epoll instance with the connections of a bare loop: what all loops do with them.
#![forbid(unsafe_code)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll as Poll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        socket::{MsgFlags, recv, send},
    },
};
use slab::Slab;
use socket2::Socket;

use super::super::Counts;
use crate::limits::{EDGES_PER_TURN, RECEIVE_TURN_BYTES};

const LISTENER: u64 = u64::MAX;
const STOP: u64 = u64::MAX - 1;
const BELL: u64 = u64::MAX - 2;

/// What an edge is of.
pub(super) enum Mark {
    Listener,
    Stop,
    Bell,
    Connection(usize),
}

/// A connection.
pub(super) struct Conn {
    pub(super) fd: OwnedFd,
    /// What the socket would not take of an echo.
    pub(super) unsent: Vec<u8>,
    /// How far in the log it is, once it is a member of the group.
    pub(super) position: Option<u64>,
    /// The socket takes nothing before its next edge.
    pub(super) is_full: bool,
}

/// What a receive brought.
pub(super) enum Received {
    Bytes(usize),
    /// Nothing, for now.
    Nothing,
    /// The end, or an error: nothing more will come.
    End,
}

/// The epoll instance and its connections.
pub(super) struct Rig {
    poll: Poll,
    edges: Vec<EpollEvent>,
    listener: Option<Socket>,
    pub(super) conns: Slab<Conn>,
    connections: usize,
    pub(super) scratch: Box<[u8]>,
    pub(super) counts: Counts,
}

impl Rig {
    pub(super) fn new(listener: Option<OwnedFd>, connections: u32, stop: &OwnedFd) -> io::Result<Rig> {
        let poll = Poll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        poll.add(stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        if let Some(listener) = &listener {
            poll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        }
        Ok(Rig {
            poll,
            edges: vec![EpollEvent::empty(); EDGES_PER_TURN],
            listener: listener.map(Socket::from),
            conns: Slab::new(),
            connections: connections as usize,
            scratch: vec![0; RECEIVE_TURN_BYTES].into(),
            counts: Counts::default(),
        })
    }

    /// Has each ring of this bell be an edge.
    pub(super) fn hear(&self, bell: BorrowedFd<'_>) -> io::Result<()> {
        Ok(self.poll.add(bell, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, BELL))?)
    }

    /// Waits for edges, and gives their number.
    pub(super) fn wait(&mut self) -> io::Result<usize> {
        self.counts.turns += 1;
        match self.poll.wait(&mut self.edges, EpollTimeout::NONE) {
            Err(Errno::EINTR) => Ok(0),
            result => Ok(result?),
        }
    }

    pub(super) fn edge(&self, at: usize) -> (Mark, EpollFlags) {
        let edge = &self.edges[at];
        let mark = match edge.data() {
            LISTENER => Mark::Listener,
            STOP => Mark::Stop,
            BELL => Mark::Bell,
            key => Mark::Connection(key as usize),
        };
        (mark, edge.events())
    }

    /// Takes a connection from the listener, if one waits there. It is not registered yet.
    pub(super) fn accept(&mut self) -> io::Result<Option<usize>> {
        let Some(listener) = &self.listener else { return Ok(None) };
        loop {
            match listener.accept4(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) {
                Ok((socket, _)) => match self.insert(socket.into()) {
                    Some(key) => {
                        self.counts.accepted += 1;
                        return Ok(Some(key));
                    }
                    // Closed. The listener is not edge-triggered, and tells of the next one in the next turn.
                    None => return Ok(None),
                },
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(None),
                    Some(libc::EINTR | libc::ECONNABORTED | libc::EPROTO) => {}
                    _ => return Err(error),
                },
            }
        }
    }

    /// Takes in a connection, if there is room.
    pub(super) fn insert(&mut self, fd: OwnedFd) -> Option<usize> {
        if self.conns.len() == self.connections {
            self.counts.refused += 1;
            return None;
        }
        Some(self.conns.insert(Conn { fd, unsent: Vec::new(), position: None, is_full: false }))
    }

    /// Registers a connection for all that can happen to it. What is there already is an edge too.
    pub(super) fn register(&self, key: usize) -> io::Result<()> {
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        Ok(self.poll.add(&self.conns[key].fd, EpollEvent::new(interest, key as u64))?)
    }

    /// Gives a registered connection away.
    pub(super) fn release(&mut self, key: usize) -> io::Result<OwnedFd> {
        let conn = self.conns.remove(key);
        self.poll.delete(&conn.fd)?;
        Ok(conn.fd)
    }

    /// Receives into `scratch`, `length` bytes at most.
    pub(super) fn receive(&mut self, key: usize, length: usize) -> Received {
        loop {
            return match recv(self.conns[key].fd.as_fd().as_raw_fd(), &mut self.scratch[..length], MsgFlags::MSG_DONTWAIT) {
                Ok(0) => Received::End,
                Ok(count) => Received::Bytes(count),
                Err(Errno::EAGAIN) => Received::Nothing,
                Err(Errno::EINTR) => continue,
                Err(_) => Received::End,
            };
        }
    }
}

/// Gives a socket what it takes of `bytes`, and says how many that were.
///
/// # Errors
/// The connection is beyond use.
pub(super) fn transmit(fd: &OwnedFd, bytes: &[u8]) -> nix::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match send(fd.as_raw_fd(), &bytes[sent..], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
            Ok(count) => sent += count,
            Err(Errno::EAGAIN) => break,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(sent)
}

/// Whether there is something to receive, or the end of it.
pub(super) fn is_readable(edge: EpollFlags) -> bool {
    edge.intersects(EpollFlags::EPOLLIN) || is_ending(edge)
}

/// Whether the end is in sight.
pub(super) fn is_ending(edge: EpollFlags) -> bool {
    edge.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR)
}
