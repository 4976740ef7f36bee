//! The bare loops on io_uring: multishot accept into direct descriptors, multishot receive into provided buffers, one send in flight
//! for each connection, one system call a turn.

mod doorman;
mod echo;
mod fanout;
mod rig;

use std::{io, sync::mpsc::channel, thread};

use self::{
    doorman::Doorman,
    echo::Echo,
    fanout::Fanout,
    rig::{Op, Receiving, Rig},
};
use super::{Counts, Loop, Setup, pairs::Pairs};

/// What a loop does with completions.
trait Bare {
    /// Takes one completion: what it ends, of which slot, its result and its flags.
    fn complete(&mut self, rig: &mut Rig, op: Op, slot: u32, outcome: (i32, u32)) -> io::Result<()>;

    /// A connection came from another ring.
    fn arrive(&mut self, _rig: &mut Rig, slot: u32, _greeting: Greeting) {
        unreachable!("nobody sends connections here, and one came to slot {slot}");
    }

    /// Everything that had happened is dealt with.
    fn end_turn(&mut self, _rig: &mut Rig) {}
}

/// The first bytes of a connection, on their way to another ring with it.
struct Greeting(Vec<u8>);

impl Greeting {
    /// As a number that fits into a message between rings. Only [`Greeting::from_address`] frees it.
    fn into_address(self) -> u64 {
        let address = Box::into_raw(Box::new(self)) as u64;
        assert_eq!(Op::decode(address).0, Op::Arrive, "addresses of a process leave the upper byte 0");
        address
    }

    /// # Safety
    /// The address is of [`Greeting::into_address`], and comes here once.
    unsafe fn from_address(address: u64) -> Greeting {
        // SAFETY: the caller's promise.
        *unsafe { Box::from_raw(address as *mut Greeting) }
    }
}

/// A loop with its ring.
struct Driven<B> {
    // Dropped before the loop, whose memory its operations use.
    rig: Rig,
    bare: B,
}

impl<B: Bare> Driven<B> {
    fn drive(mut self) -> io::Result<Counts> {
        loop {
            self.rig.submit_and_wait()?;
            while let Some(completion) = self.rig.next_completion() {
                let user_data = completion.user_data();
                let (op, slot) = Op::decode(user_data);
                match op {
                    Op::Stop => return Ok(self.rig.counts),
                    Op::Arrive => {
                        let slot = u32::try_from(completion.result()).expect("only a connection that is here is told of");
                        // SAFETY: the doorman's ring sent it, and has let go of it with the move.
                        let greeting = unsafe { Greeting::from_address(user_data) };
                        self.bare.arrive(&mut self.rig, slot, greeting);
                    }
                    Op::Accept | Op::Receive | Op::CancelReceive | Op::Send | Op::Depart | Op::Close => {
                        self.bare.complete(&mut self.rig, op, slot, (completion.result(), completion.flags()))?;
                    }
                }
            }
            self.bare.end_turn(&mut self.rig);
        }
    }
}

/// Runs a loop.
pub(super) fn serve(setup: Setup, ready: impl FnOnce() -> io::Result<()>) -> io::Result<Counts> {
    let Setup { what, listener, connections, stop, .. } = setup;
    match what {
        Loop::Echo => {
            let rig = Rig::new(Some(listener), connections, stop, Receiving::Many)?;
            ready()?;
            Driven { rig, bare: Echo::new(connections, None) }.drive()
        }
        Loop::Relay => {
            let rig = Rig::new(Some(listener), connections, stop, Receiving::Many)?;
            ready()?;
            Driven { rig, bare: Echo::new(connections, Some(Pairs::default())) }.drive()
        }
        Loop::Fanout => {
            let rig = Rig::new(Some(listener), connections, stop, Receiving::Many)?;
            ready()?;
            Driven { rig, bare: Fanout::new(connections) }.drive()
        }
        Loop::Accept => {
            let (tell, told) = channel();
            let stop_echo = stop.try_clone()?;
            let echo = thread::Builder::new().name("echo".into()).spawn(move || {
                let rig = Rig::new(None, connections, stop_echo, Receiving::Many)?;
                // Nobody hears it any more: the other thread has failed, and its error is what counts.
                let _ = tell.send(rig.descriptor());
                Driven { rig, bare: Echo::new(connections, None) }.drive()
            })?;
            let join = || echo.join().unwrap_or_else(|_| Err(io::Error::other("the thread that echoes panicked")));
            let Ok(ring) = told.recv() else { return join() };
            let rig = Rig::new(Some(listener), connections, stop, Receiving::Once)?;
            ready()?;
            let counts = Driven { rig, bare: Doorman::new(ring, connections) }.drive()?;
            Ok(counts.and(join()?))
        }
    }
}
