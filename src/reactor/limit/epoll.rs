//! The bare loops on epoll: edge-triggered, one registration for the life of a connection.
#![forbid(unsafe_code)]

mod doorman;
mod echo;
mod fanout;
mod rig;

use std::{io, os::fd::AsFd, sync::Arc, sync::mpsc::channel, thread};

use nix::sys::epoll::EpollFlags;

use self::{
    doorman::Doorman,
    echo::Echo,
    fanout::Fanout,
    rig::{Mark, Rig},
};
use super::{Counts, Loop, Setup, pairs::Pairs};
use crate::mesh::Bell;

/// What a loop does with edges.
trait Bare {
    /// A connection was accepted.
    fn accepted(&mut self, rig: &mut Rig, key: usize) -> io::Result<()>;

    /// Something happened to a connection.
    fn edge(&mut self, rig: &mut Rig, key: usize, edge: EpollFlags) -> io::Result<()>;

    /// Somebody rang.
    fn rung(&mut self, _rig: &mut Rig) -> io::Result<()> {
        Ok(())
    }

    /// Everything that had happened is dealt with.
    fn end_turn(&mut self, _rig: &mut Rig) {}
}

fn drive(mut rig: Rig, mut bare: impl Bare) -> io::Result<Counts> {
    loop {
        let edges = rig.wait()?;
        for at in 0..edges {
            match rig.edge(at) {
                (Mark::Stop, _) => return Ok(rig.counts),
                (Mark::Bell, _) => bare.rung(&mut rig)?,
                (Mark::Listener, _) => {
                    while let Some(key) = rig.accept()? {
                        bare.accepted(&mut rig, key)?;
                    }
                }
                (Mark::Connection(key), edge) => bare.edge(&mut rig, key, edge)?,
            }
        }
        bare.end_turn(&mut rig);
    }
}

/// Runs a loop.
pub(super) fn serve(setup: Setup, ready: impl FnOnce() -> io::Result<()>) -> io::Result<Counts> {
    let Setup { what, listener, connections, stop, .. } = setup;
    let rig = Rig::new(Some(listener), connections, &stop)?;
    match what {
        Loop::Echo => {
            ready()?;
            drive(rig, Echo::new(None, None))
        }
        Loop::Relay => {
            ready()?;
            drive(rig, Echo::new(Some(Pairs::default()), None))
        }
        Loop::Fanout => {
            ready()?;
            drive(rig, Fanout::new())
        }
        Loop::Accept => {
            // Bounded by the connections that there may be: each message is one.
            let (leave, arrive) = channel();
            let bell = Arc::new(Bell::new()?);
            let rig_of_echo = Rig::new(None, connections, &stop)?;
            rig_of_echo.hear(bell.as_fd())?;
            let echo = thread::Builder::new().name("echo".into());
            let echo = echo.spawn(move || drive(rig_of_echo, Echo::new(None, Some(arrive))))?;
            ready()?;
            let counts = drive(rig, Doorman::new(leave, bell))?;
            let echoed = echo.join().unwrap_or_else(|_| Err(io::Error::other("the thread that echoes panicked")));
            Ok(counts.and(echoed?))
        }
    }
}
