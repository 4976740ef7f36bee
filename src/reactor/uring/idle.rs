//! Idle connections. A multishot receive that waits holds 864 bytes of the kernel's memory for its connection: 256 for the operation, 512
//! for the message that it would fill, 96 for the poll that it hides. A poll is the operation alone. So a connection from which nothing came
//! for a while is waited for by a poll; when that sees something, a receive takes it. A poll and a receive for each message cost more
//! than a multishot receive does, which therefore comes back when messages come more than once in that while.

use super::{
    super::buffers::NO_BUFFER,
    Uring, ops,
    table::{Flags, Phase},
};
use crate::{
    io::Tick,
    limits::{IDLE_CANCELS_PER_TURN, IDLE_SLOTS_PER_TURN},
};

/// When to look for connections that have become idle, and where.
pub(super) struct Idle {
    /// How long after a look the next one begins; 0: no connection counts as idle.
    after_us: u64,
    next: Tick,
    /// The first slot that the look in progress has not come to; 0: none is in progress.
    at: u32,
    /// Bytes have come since the last look began, or receives are left.
    is_due: bool,
}

impl Idle {
    pub(super) fn new(after_ms: u32) -> Idle {
        Idle { after_us: u64::from(after_ms) * 1_000, next: Tick(0), at: 0, is_due: false }
    }

    /// Whether no connection ever counts as idle.
    pub(super) fn never(&self) -> bool {
        self.after_us == 0
    }

    /// Some connection may have a receive, and become idle: bytes came from it, or its receive could not be ended.
    pub(super) fn look_again(&mut self) {
        self.is_due = true;
    }

    /// Whether there is something to look for now; else in how many microseconds, if ever.
    fn turn(&mut self, now: Tick) -> Result<(), Option<u64>> {
        if self.at != 0 {
            return Ok(());
        }
        if self.never() || !self.is_due {
            return Err(None);
        }
        if now < self.next {
            return Err(Some(self.next.0 - now.0));
        }
        self.next = Tick(now.0 + self.after_us);
        self.is_due = false;
        Ok(())
    }
}

impl Uring {
    /// Ends the receives of connections that have become idle, a few in each turn; a poll follows once they have ended. Returns in how
    /// many microseconds there is more to do.
    pub(super) fn look_for_idle(&mut self, now: Tick) -> Option<u64> {
        if let Err(later) = self.idle.turn(now) {
            return later;
        }
        let mut next = self.idle.at + IDLE_SLOTS_PER_TURN;
        let mut silent = Vec::new();
        for (conn, slot) in self.table.part(self.idle.at, IDLE_SLOTS_PER_TURN) {
            let is_silent = !slot.flags.clear(Flags::FRESH);
            let receives = slot.flags.has(Flags::RECEIVING) && !slot.flags.has(Flags::PEEKING.and(Flags::POLLING));
            if slot.phase != Phase::Streaming || !receives {
                continue;
            }
            if !is_silent || slot.queue != NO_BUFFER || slot.flags.has(Flags::ENDED.and(Flags::BROKEN)) {
                self.idle.is_due = true;
                continue;
            }
            slot.flags.clear(Flags::BUSY);
            silent.push(conn);
            if silent.len() == IDLE_CANCELS_PER_TURN {
                next = conn.slot + 1;
                break;
            }
        }
        for conn in silent {
            self.push(ops::cancel_receive(conn));
        }
        self.idle.at = if next < self.table.slots() { next } else { 0 };
        match self.idle.at {
            0 => self.idle.is_due.then_some(self.idle.after_us),
            _ => Some(0),
        }
    }
}
