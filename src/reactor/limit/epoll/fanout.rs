//! Fan-out on epoll: what comes is written once, to a log, and one send to each member and turn reads it from there.
#![forbid(unsafe_code)]

use std::io;

use nix::sys::epoll::EpollFlags;

use super::{
    super::log::Log,
    Bare,
    rig::{Received, Rig, is_ending, is_readable, transmit},
};
use crate::limits::LIMIT_LOG_BYTES;

/// The group: all connections with a position.
pub(super) struct Fanout {
    log: Log,
    /// No member is behind this; how far the last one really is, is only looked up when there is no room.
    oldest: u64,
    /// Members whose socket has become writable since the last turn.
    writable: Vec<usize>,
    /// The log has grown since the last turn.
    has_grown: bool,
}

impl Fanout {
    pub(super) fn new() -> Fanout {
        Fanout { log: Log::new(LIMIT_LOG_BYTES), oldest: 0, writable: Vec::new(), has_grown: false }
    }

    /// Takes what the scratch holds. Returns whether the connection goes on.
    fn received(&mut self, rig: &mut Rig, key: usize, bytes: usize) -> bool {
        let (conn, bytes) = (&mut rig.conns[key], &rig.scratch[..bytes]);
        if conn.position.is_none() {
            let is_whole = transmit(&conn.fd, bytes) == Ok(bytes.len());
            conn.position = is_whole.then(|| self.log.end());
            return is_whole;
        }
        if self.log.room(self.oldest) < bytes.len() {
            let positions = rig.conns.iter().filter_map(|(_, conn)| conn.position);
            self.oldest = positions.min().unwrap_or(self.log.end());
        }
        let has_room = self.log.room(self.oldest) >= bytes.len();
        if has_room {
            self.log.append(bytes);
            self.has_grown = true;
        } else {
            rig.counts.overrun += 1;
        }
        has_room
    }

    /// Sends to a member what it has not got yet. Returns whether the connection goes on.
    fn send(&self, rig: &mut Rig, key: usize) -> bool {
        let Some(conn) = rig.conns.get_mut(key) else { return true };
        let Some(position) = &mut conn.position else { return true };
        while !conn.is_full && *position < self.log.end() {
            let bytes = self.log.after(*position);
            let Ok(sent) = transmit(&conn.fd, bytes) else { return false };
            *position += sent as u64;
            conn.is_full = sent < bytes.len();
        }
        true
    }
}

impl Bare for Fanout {
    fn accepted(&mut self, rig: &mut Rig, key: usize) -> io::Result<()> {
        rig.register(key)
    }

    fn edge(&mut self, rig: &mut Rig, key: usize, edge: EpollFlags) -> io::Result<()> {
        // It may have been closed since the kernel told of it.
        let Some(conn) = rig.conns.get_mut(key) else { return Ok(()) };
        if edge.contains(EpollFlags::EPOLLOUT) && std::mem::replace(&mut conn.is_full, false) {
            self.writable.push(key);
        }
        while is_readable(edge) {
            let goes_on = match rig.receive(key, rig.scratch.len()) {
                Received::Bytes(count) => {
                    let goes_on = self.received(rig, key, count);
                    // Less than asked for: no more was there, and what comes later is an edge of its own.
                    if goes_on && count < rig.scratch.len() && !is_ending(edge) {
                        break;
                    }
                    goes_on
                }
                Received::Nothing => break,
                Received::End => false,
            };
            if !goes_on {
                drop(rig.conns.remove(key));
                break;
            }
        }
        Ok(())
    }

    /// One send to everybody who has something to get, and room for it.
    fn end_turn(&mut self, rig: &mut Rig) {
        let writable = std::mem::take(&mut self.writable);
        let everybody = if std::mem::take(&mut self.has_grown) { 0..key_after_last(rig) } else { 0..0 };
        for key in everybody.chain(writable.iter().copied()) {
            if !self.send(rig, key) {
                drop(rig.conns.remove(key));
            }
        }
        self.writable = writable;
        self.writable.clear();
    }
}

/// All keys are below it.
fn key_after_last(rig: &Rig) -> usize {
    rig.conns.iter().next_back().map_or(0, |(key, _)| key + 1)
}
