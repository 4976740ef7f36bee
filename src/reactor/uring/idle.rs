//! Idle connections. A multishot receive that waits holds 864 bytes of the kernel's memory for its connection: 256 for the operation, 512
//! for the message that it would fill, 96 for the poll that it hides. A poll is the operation alone. So a connection from which nothing came
//! for a while is waited for by a poll; when that sees something, a receive takes it. A poll and a receive for each message cost more
//! than a multishot receive does, which therefore comes back when messages come more than once in that while.

use super::{
    super::buffers::NO_BUFFER,
    Uring, ops,
    table::{Flags, Phase},
};
use crate::{io::Tick, limits::IDLE_SLOTS_PER_TURN};

/// When to look for connections that have become idle, and where.
pub(super) struct Idle {
    /// How long after a look the next one begins; 0: no connection counts as idle.
    after_us: u64,
    next: Tick,
    /// The first slot that the look in progress has not come to; 0: none is in progress.
    at: u32,
    /// There may be receives that wait.
    any_armed: bool,
}

impl Idle {
    pub(super) fn new(after_ms: u32) -> Idle {
        Idle { after_us: u64::from(after_ms) * 1_000, next: Tick(0), at: 0, any_armed: false }
    }

    /// Whether no connection ever counts as idle.
    pub(super) fn never(&self) -> bool {
        self.after_us == 0
    }

    /// A receive waits from now on.
    pub(super) fn armed(&mut self) {
        self.any_armed = true;
    }
}

impl Uring {
    /// Ends the receives of connections that have become idle, a part of the table in each turn; a poll follows once they have ended.
    /// Returns in how many microseconds there is more to do.
    pub(super) fn look_for_idle(&mut self, now: Tick) -> Option<u64> {
        if self.idle.never() || !self.idle.any_armed && self.idle.at == 0 {
            return None;
        }
        if self.idle.at == 0 {
            if now < self.idle.next {
                return Some(self.idle.next.0 - now.0);
            }
            self.idle.next = Tick(now.0 + self.idle.after_us);
            self.idle.any_armed = false;
        }
        let (first, slots) = (self.idle.at, self.table.slots());
        let mut idle = Vec::new();
        for (conn, slot) in self.table.part(first, IDLE_SLOTS_PER_TURN) {
            let silent = !slot.flags.clear(Flags::FRESH);
            let receives = slot.flags.has(Flags::RECEIVING) && !slot.flags.has(Flags::PEEKING);
            if slot.phase != Phase::Streaming || !receives {
                continue;
            }
            if silent && slot.queue == NO_BUFFER && !slot.flags.has(Flags::ENDED) {
                slot.flags.clear(Flags::BUSY);
                idle.push(conn);
            } else {
                self.idle.any_armed = true;
            }
        }
        self.stats.receives_idled.add(idle.len() as u64);
        for conn in idle {
            self.push(ops::cancel_receive(conn));
        }
        let next = first + IDLE_SLOTS_PER_TURN;
        self.idle.at = if next < slots { next } else { 0 };
        if self.idle.at != 0 { Some(0) } else { self.idle.any_armed.then_some(self.idle.after_us) }
    }
}
