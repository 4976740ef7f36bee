//! Echo and relay on epoll: one receive and one send for what is there.
#![forbid(unsafe_code)]

use std::{io, os::fd::OwnedFd, sync::mpsc::Receiver};

use nix::sys::epoll::EpollFlags;

use super::{
    super::pairs::Pairs,
    Bare,
    rig::{Received, Rig, is_ending, is_readable, transmit},
};

/// The connections of an echo, or of a relay.
pub(super) struct Echo {
    /// Of a relay: who has what another one sends.
    pairs: Option<Pairs>,
    /// Where connections come from, if that is not the listener.
    arrivals: Option<Receiver<(OwnedFd, Vec<u8>)>>,
}

impl Echo {
    pub(super) fn new(pairs: Option<Pairs>, arrivals: Option<Receiver<(OwnedFd, Vec<u8>)>>) -> Echo {
        Echo { pairs, arrivals }
    }

    /// Receives from a connection, until that is over or its bytes are not taken: while they are not it is not read, so that TCP slows
    /// its peer down. `to_the_end`: its end is in sight, or it was not read for a while.
    fn read(&mut self, rig: &mut Rig, key: usize, to_the_end: bool) {
        while rig.conns.contains(key) && self.is_taken(rig, key) {
            match rig.receive(key, rig.scratch.len()) {
                Received::Bytes(count) => {
                    let to = match &mut self.pairs {
                        None => Some(key),
                        Some(pairs) => pairs.route(key, &rig.scratch[..count]),
                    };
                    to.into_iter().for_each(|to| self.answer(rig, to, count));
                    // Less than asked for: no more was there, and what comes later is an edge of its own.
                    if count < rig.scratch.len() && !to_the_end {
                        break;
                    }
                }
                Received::Nothing => break,
                Received::End => self.close(rig, key),
            }
        }
    }

    /// Whether there is room for what a connection sends.
    fn is_taken(&self, rig: &Rig, key: usize) -> bool {
        let to = match &self.pairs {
            None => key,
            Some(pairs) => pairs.other(key).unwrap_or(key),
        };
        rig.conns[to].unsent.is_empty()
    }

    /// Sends what the scratch holds; keeps what the socket does not take.
    fn answer(&mut self, rig: &mut Rig, key: usize, bytes: usize) {
        let (conn, bytes) = (&mut rig.conns[key], &rig.scratch[..bytes]);
        match transmit(&conn.fd, bytes) {
            Ok(sent) => conn.unsent.extend_from_slice(&bytes[sent..]),
            Err(_) => self.close(rig, key),
        }
    }

    fn close(&mut self, rig: &mut Rig, key: usize) {
        drop(rig.conns.remove(key));
        self.pairs.iter_mut().for_each(|pairs| pairs.remove(key));
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
                Err(_) => {
                    self.close(rig, key);
                    return Ok(());
                }
            }
            if conn.unsent.is_empty() {
                // Whoever fills it was not read meanwhile.
                let from = self.pairs.as_ref().map_or(Some(key), |pairs| pairs.other(key));
                from.into_iter().for_each(|from| self.read(rig, from, true));
            }
        }
        if is_readable(edge) {
            self.read(rig, key, is_ending(edge));
        }
        Ok(())
    }

    fn rung(&mut self, rig: &mut Rig) -> io::Result<()> {
        while let Some((fd, greeting)) = self.arrivals.as_ref().and_then(|arrivals| arrivals.try_recv().ok()) {
            let Some(key) = rig.insert(fd) else { continue };
            rig.scratch[..greeting.len()].copy_from_slice(&greeting);
            self.answer(rig, key, greeting.len());
            if rig.conns.contains(key) {
                rig.register(key)?;
            }
        }
        Ok(())
    }
}
