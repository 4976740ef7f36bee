//! Accepting on io_uring, for another ring: a connection moves there once its greeting has come, with the greeting.

use std::io;

use super::{
    Bare, Greeting,
    rig::{Op, Received, Rig},
};

/// Connections on their way from the listener to another ring.
pub(super) struct Doorman {
    /// The descriptor of the other ring.
    ring: i32,
    /// The address of each greeting that is on its way.
    greetings: Vec<u64>,
}

impl Doorman {
    pub(super) fn new(ring: i32, connections: u32) -> Doorman {
        Doorman { ring, greetings: vec![0; connections as usize] }
    }
}

impl Bare for Doorman {
    fn complete(&mut self, rig: &mut Rig, op: Op, slot: u32, (result, flags): (i32, u32)) -> io::Result<()> {
        match op {
            Op::Accept => {
                if let Some(slot) = rig.accepted(result, flags)? {
                    rig.receive(slot);
                }
            }
            Op::Receive => match rig.received(slot, result, flags) {
                Received::Bytes(id) => {
                    let address = Greeting(rig.buffers.bytes(id).to_vec()).into_address();
                    rig.buffers.give_back(id);
                    self.greetings[slot as usize] = address;
                    rig.depart(slot, self.ring, address);
                }
                Received::End => rig.end(slot),
                Received::Nothing => {}
            },
            Op::Depart => {
                if result < 0 {
                    // There was no room for it, and nobody else has seen the greeting.
                    rig.counts.refused += 1;
                    // SAFETY: the address is of this greeting, and the other ring was told nothing of it: the move failed.
                    drop(unsafe { Greeting::from_address(self.greetings[slot as usize]) });
                }
                rig.departed(slot);
            }
            Op::Close => rig.closed(slot),
            Op::Arrive | Op::Stop | Op::CancelReceive | Op::Send => {}
        }
        Ok(())
    }
}
