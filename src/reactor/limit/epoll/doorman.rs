//! Accepting on epoll, for another thread: a connection moves there once its greeting has come, with the greeting.
#![forbid(unsafe_code)]

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, mpsc::Sender},
};

use nix::sys::epoll::EpollFlags;

use super::{
    Bare,
    rig::{Received, Rig, is_readable},
};
use crate::{limits::RECEIVE_STEP_BYTES, mesh::Bell};

/// Connections on their way from the listener to another thread.
pub(super) struct Doorman {
    leave: Sender<(OwnedFd, Vec<u8>)>,
    /// Wakes the other thread, once a turn.
    bell: Arc<Bell>,
    is_due: bool,
}

impl Doorman {
    pub(super) fn new(leave: Sender<(OwnedFd, Vec<u8>)>, bell: Arc<Bell>) -> Doorman {
        Doorman { leave, bell, is_due: false }
    }
}

impl Bare for Doorman {
    fn accepted(&mut self, rig: &mut Rig, key: usize) -> io::Result<()> {
        rig.register(key)
    }

    fn edge(&mut self, rig: &mut Rig, key: usize, edge: EpollFlags) -> io::Result<()> {
        if !is_readable(edge) || !rig.conns.contains(key) {
            return Ok(());
        }
        match rig.receive(key, RECEIVE_STEP_BYTES) {
            Received::Bytes(count) => {
                let greeting = rig.scratch[..count].to_vec();
                let fd = rig.release(key)?;
                // Only a thread that has failed does not take it; then the connection is closed here.
                self.is_due |= self.leave.send((fd, greeting)).is_ok();
            }
            Received::Nothing => {}
            Received::End => drop(rig.conns.remove(key)),
        }
        Ok(())
    }

    fn end_turn(&mut self, _rig: &mut Rig) {
        if std::mem::take(&mut self.is_due) {
            self.bell.ring();
        }
    }
}
