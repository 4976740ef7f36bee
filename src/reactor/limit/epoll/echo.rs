//! Echo on epoll: one receive and one send for what is there.
#![forbid(unsafe_code)]

use std::{io, os::fd::OwnedFd, sync::mpsc::Receiver};

use nix::sys::epoll::EpollFlags;

use super::{
    Bare,
    rig::{Received, Rig, is_ending, is_readable, transmit},
};

/// The connections of an echo. They come from a listener, or from a doorman.
pub(super) struct Echo {
    arrivals: Option<Receiver<(OwnedFd, Vec<u8>)>>,
}

impl Echo {
    pub(super) fn new(arrivals: Option<Receiver<(OwnedFd, Vec<u8>)>>) -> Echo {
        Echo { arrivals }
    }

    /// Sends back what the scratch holds; keeps what the socket does not take.
    fn answer(rig: &mut Rig, key: usize, bytes: usize) {
        let (conn, bytes) = (&mut rig.conns[key], &rig.scratch[..bytes]);
        match transmit(&conn.fd, bytes) {
            Ok(sent) => conn.unsent.extend_from_slice(&bytes[sent..]),
            Err(_) => drop(rig.conns.remove(key)),
        }
    }
}

impl Bare for Echo {
    fn accepted(&mut self, rig: &mut Rig, key: usize) -> io::Result<()> {
        rig.register(key)
    }

    fn edge(&mut self, rig: &mut Rig, key: usize, edge: EpollFlags) -> io::Result<()> {
        // It may have been closed since the kernel told of it.
        let Some(conn) = rig.conns.get_mut(key) else { return Ok(()) };
        if !conn.unsent.is_empty() {
            match transmit(&conn.fd, &conn.unsent) {
                Ok(sent) => drop(conn.unsent.drain(..sent)),
                Err(_) => drop(rig.conns.remove(key)),
            }
        }
        // While it takes nothing it is not read: TCP slows its peer down.
        while is_readable(edge) && rig.conns.get(key).is_some_and(|conn| conn.unsent.is_empty()) {
            match rig.receive(key, rig.scratch.len()) {
                Received::Bytes(count) => {
                    Echo::answer(rig, key, count);
                    // Less than asked for: no more was there, and what comes later is an edge of its own.
                    if count < rig.scratch.len() && !is_ending(edge) {
                        break;
                    }
                }
                Received::Nothing => break,
                Received::End => drop(rig.conns.remove(key)),
            }
        }
        Ok(())
    }

    fn rung(&mut self, rig: &mut Rig) -> io::Result<()> {
        let Some(arrivals) = &self.arrivals else { return Ok(()) };
        for (fd, greeting) in arrivals.try_iter() {
            let Some(key) = rig.insert(fd) else { continue };
            rig.scratch[..greeting.len()].copy_from_slice(&greeting);
            Echo::answer(rig, key, greeting.len());
            if rig.conns.contains(key) {
                rig.register(key)?;
            }
        }
        Ok(())
    }
}
