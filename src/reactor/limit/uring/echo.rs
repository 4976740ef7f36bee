//! Echo and relay on io_uring: what was received is sent from the very buffer that the kernel received it in.

use std::io;

use super::{
    super::pairs::Pairs,
    Bare, Greeting,
    rig::{Op, Received, Rig},
};
use crate::reactor::buffers::NO_BUFFER;

/// What is being sent on a connection, and what waits behind it.
struct Line {
    sending: Cargo,
    /// The last of the buffers that wait, in the order in which they came.
    queue: u16,
    /// How many bytes of `sending` the kernel has taken.
    done: u32,
    /// The peer sends no more: the connection ends when everything is sent.
    last: bool,
}

/// Where the bytes of a send are.
enum Cargo {
    Nothing,
    /// In a receive buffer.
    Buffer(u16),
    /// In what came with the connection from another ring.
    Greeting(Greeting),
}

/// The connections of an echo, or of a relay.
pub(super) struct Echo {
    lines: Vec<Line>,
    /// Of a relay: who has what another one sends.
    pairs: Option<Pairs>,
}

impl Echo {
    pub(super) fn new(connections: u32, pairs: Option<Pairs>) -> Echo {
        let line = || Line { sending: Cargo::Nothing, queue: NO_BUFFER, done: 0, last: false };
        Echo { lines: (0..connections).map(|_| line()).collect(), pairs }
    }

    /// Who is to have what came in a buffer. `None`: nobody, and the kernel has it back.
    fn route(&mut self, rig: &mut Rig, from: u32, id: u16) -> Option<u32> {
        let Some(pairs) = &mut self.pairs else { return Some(from) };
        let to = pairs.route(from as usize, rig.buffers.bytes(id)).map(|to| to as u32).filter(|to| !rig.has_ended(*to));
        if to.is_none() {
            rig.buffers.give_back(id);
        }
        to
    }

    /// Sends what is left of the line's cargo.
    fn send(&mut self, rig: &mut Rig, slot: u32) {
        let line = &self.lines[slot as usize];
        let bytes = match &line.sending {
            Cargo::Nothing => return,
            Cargo::Buffer(id) => rig.buffers.bytes(*id),
            Cargo::Greeting(greeting) => &greeting.0,
        };
        let rest = std::ptr::from_ref(&bytes[line.done as usize..]);
        // SAFETY: a buffer is given back, and a greeting dropped, only in `advance`, which the completion leads to, and with the whole
        // of this echo, which its driver drops after the rig.
        unsafe { rig.send(slot, rest) };
    }

    /// Nothing is in flight: lets go of the cargo, and takes the next buffer, if the connection goes on.
    fn advance(&mut self, rig: &mut Rig, slot: u32, goes_on: bool) {
        let line = &mut self.lines[slot as usize];
        match std::mem::replace(&mut line.sending, Cargo::Nothing) {
            Cargo::Nothing => {}
            Cargo::Buffer(id) => rig.buffers.give_back(id),
            // The connection is answered: it takes part from here on.
            Cargo::Greeting(_) => rig.receive(slot),
        }
        line.done = 0;
        while let Some((id, rest)) = rig.buffers.dequeue(line.queue) {
            line.queue = rest;
            if goes_on {
                line.sending = Cargo::Buffer(id);
                self.send(rig, slot);
                return;
            }
            rig.buffers.give_back(id);
        }
        if line.last {
            rig.end(slot);
        }
    }
}

impl Bare for Echo {
    fn complete(&mut self, rig: &mut Rig, op: Op, slot: u32, (result, flags): (i32, u32)) -> io::Result<()> {
        match op {
            Op::Accept => {
                if let Some(slot) = rig.accepted(result, flags)? {
                    rig.receive(slot);
                }
            }
            Op::Receive => {
                let to = match rig.received(slot, result, flags) {
                    Received::Bytes(id) => {
                        let Some(to) = self.route(rig, slot, id) else { return Ok(()) };
                        let line = &mut self.lines[to as usize];
                        line.queue = rig.buffers.enqueue(line.queue, id);
                        to
                    }
                    Received::End => {
                        self.lines[slot as usize].last = true;
                        slot
                    }
                    Received::Nothing => return Ok(()),
                };
                if !rig.is_sending(to) {
                    self.advance(rig, to, true);
                }
            }
            Op::Send => {
                let sent = rig.sent(slot, result);
                let line = &mut self.lines[slot as usize];
                line.done += sent.unwrap_or(0);
                let bytes = match &line.sending {
                    Cargo::Nothing => 0,
                    Cargo::Buffer(id) => rig.buffers.bytes(*id).len(),
                    Cargo::Greeting(greeting) => greeting.0.len(),
                };
                match sent {
                    Some(1..) if (line.done as usize) < bytes => self.send(rig, slot),
                    Some(_) => self.advance(rig, slot, true),
                    None => self.advance(rig, slot, false),
                }
            }
            Op::Close => {
                rig.closed(slot);
                self.lines[slot as usize].last = false;
                self.pairs.iter_mut().for_each(|pairs| pairs.remove(slot as usize));
            }
            Op::Arrive | Op::Stop | Op::CancelReceive | Op::Depart => {}
        }
        Ok(())
    }

    fn arrive(&mut self, rig: &mut Rig, slot: u32, greeting: Greeting) {
        self.lines[slot as usize].sending = Cargo::Greeting(greeting);
        self.send(rig, slot);
    }

    fn end_turn(&mut self, _rig: &mut Rig) {}
}
