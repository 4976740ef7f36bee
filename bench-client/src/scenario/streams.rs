//! One worker's books: what its streams sent, what the gateway refused of that, and what came.
#![forbid(unsafe_code)]

use crate::{
    fleet::Ledger,
    verify::{Arrival, Inbound},
};

/// The outgoing and incoming streams of one worker.
pub(super) struct Streams {
    ledger: Ledger,
}

impl Streams {
    pub(super) fn new(outgoing: usize, incoming: usize) -> Streams {
        Streams { ledger: Ledger { sent: vec![0; outgoing], received: Inbound::new(incoming), ..Ledger::default() } }
    }

    /// How many messages of a stream were sent.
    pub(super) fn sent(&self, stream: u32) -> u32 {
        self.ledger.sent[stream as usize]
    }

    /// The sequence of the next message of a stream, which is sent now.
    pub(super) fn next(&mut self, stream: u32) -> u32 {
        let sent = &mut self.ledger.sent[stream as usize];
        *sent += 1;
        *sent - 1
    }

    /// The gateway refused a message. One that was never sent is nobody's, and one refused twice is still one.
    pub(super) fn refuse(&mut self, stream: u32, sequence: u32) {
        if self.ledger.sent.get(stream as usize).is_some_and(|sent| sequence < *sent) {
            self.ledger.refused.entry(stream).or_default().insert(sequence);
        }
    }

    /// A message came.
    pub(super) fn take(&mut self, stream: usize, sequence: u32) -> Arrival {
        self.ledger.received.take(stream, sequence)
    }

    pub(super) fn take_ledger(&mut self) -> Ledger {
        std::mem::take(&mut self.ledger)
    }
}
