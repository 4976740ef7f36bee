//! Receiving: step by step until the machine keeps the connection; then by a multishot receive while it is busy, and by a poll and a
//! receive while it is not (`idle`). Into shared buffers, in order, and only while the machine takes bytes.

use io_uring::cqueue;

use super::{
    super::{Event, Sink, buffers::NO_BUFFER},
    Owed, Uring, ops,
    table::{Flags, Phase},
};
use crate::ids::ConnId;

impl Uring {
    /// Receives from `conn` again with the next submission, if it is still there and wants to.
    pub(super) fn resume(&mut self, conn: ConnId) {
        if let Some(slot) = self.table.get(conn)
            && !slot.flags.has(Flags::RESUMING)
        {
            slot.flags.set(Flags::RESUMING);
            self.resuming.push(conn);
        }
    }

    /// Arms what is due: connections that found no buffer, as many as there are buffers now, and those that go on.
    /// Returns whether more of the former are due at once: what was armed may leave its buffers to them.
    pub(super) fn resume_receiving(&mut self) -> bool {
        let free = self.buffers.free();
        let mut buffers = free;
        while buffers > 0
            && let Some(conn) = self.hungry.pop_front().or_else(|| self.parked.pop_front())
        {
            if self.table.get(conn).is_some_and(|slot| slot.flags.clear(Flags::PARKED)) {
                self.arm_receive(conn, true);
                buffers -= 1;
            }
        }
        if free == 0 {
            // The machine takes no bytes, or too slowly, and a few connections may hold all buffers. The others' ends must show.
            while let Some(conn) = self.parked.pop_front() {
                if let Some(slot) = self.table.get(conn)
                    && slot.flags.clear(Flags::PARKED)
                {
                    slot.flags.set(Flags::RECEIVING.and(Flags::PEEKING));
                    let waits = !slot.flags.has(Flags::BROKEN);
                    let (direct, byte) = (slot.direct(conn), std::ptr::from_mut(self.scratch.as_mut()));
                    self.push(ops::peek(direct, byte, waits));
                }
            }
        }
        let mut resuming = std::mem::take(&mut self.resuming);
        for conn in resuming.drain(..) {
            if self.table.get(conn).is_some_and(|slot| slot.flags.clear(Flags::RESUMING)) {
                self.arm_receive(conn, false);
            }
        }
        self.resuming = resuming;
        free > 0 && !(self.hungry.is_empty() && self.parked.is_empty())
    }

    /// `expected`: there was something to receive a moment ago.
    fn arm_receive(&mut self, conn: ConnId, expected: bool) {
        let Some(slot) = self.table.get(conn) else { return };
        if slot.flags.has(Flags::RECEIVING.and(Flags::PARKED).and(Flags::ENDED)) {
            return;
        }
        let direct = slot.direct(conn);
        let entry = match slot.phase {
            // The machine has not seen the last step yet.
            Phase::Stepping if slot.queue != NO_BUFFER => return,
            Phase::Stepping | Phase::Streaming if slot.flags.has(Flags::BROKEN) => ops::receive_rest(direct),
            Phase::Stepping => ops::receive_one(direct),
            Phase::Streaming if slot.flags.has(Flags::BUSY) || self.idle.never() => ops::receive_many(direct),
            Phase::Streaming if expected => ops::receive_one(direct),
            Phase::Streaming => {
                slot.flags.set(Flags::POLLING);
                ops::poll(direct)
            }
            Phase::Free | Phase::Naming | Phase::Connecting | Phase::Leaving | Phase::Closing | Phase::Vacating => return,
        };
        slot.flags.set(Flags::RECEIVING);
        self.push(entry);
    }

    /// Bytes came, or the end, or an error. `room`: the budget of events is not used up.
    pub(super) fn received(&mut self, conn: ConnId, result: i32, flags: u32, room: bool, sink: &mut impl Sink) -> usize {
        let slot = self.table.get(conn).expect("a connection outlives its operations");
        if !cqueue::more(flags) {
            slot.flags.clear(Flags::RECEIVING);
        }
        let saw_bytes = slot.flags.clear(Flags::PEEKING) && result > 0;
        let saw_something = slot.flags.clear(Flags::POLLING) && result > 0;
        let buffer = cqueue::buffer_select(flags);
        if let Some(id) = buffer {
            self.buffers.take(id, result.max(0) as u32);
            if result <= 0 || slot.phase == Phase::Closing {
                self.buffers.give_back(id);
            }
        }
        match slot.phase {
            Phase::Stepping | Phase::Streaming => {}
            Phase::Closing => {
                self.close_when_still(conn);
                return 0;
            }
            Phase::Leaving if saw_bytes || matches!(-result, libc::ECANCELED | libc::ENOBUFS) => {
                self.send_away(conn);
                return 0;
            }
            // Something came before the receive could be cancelled: it stays, and the machine is told of that first.
            Phase::Leaving => {
                slot.phase = Phase::Stepping;
                self.owed.push_back(Owed::MoveRefused(conn));
                match (u32::try_from(result), buffer) {
                    (Ok(1..), Some(id)) => slot.queue = self.buffers.enqueue(slot.queue, id),
                    (Ok(_), _) => slot.flags.set(Flags::ENDED.and(Flags::OWES_EOF)),
                    (Err(_), _) => {
                        slot.break_with(-result);
                        slot.flags.set(Flags::ENDED);
                    }
                }
                return 0;
            }
            Phase::Free | Phase::Naming | Phase::Connecting | Phase::Vacating => {
                unreachable!("a receive ended in phase {:?}", slot.phase)
            }
        }
        match (result, buffer) {
            _ if saw_bytes || saw_something => {
                slot.flags.set(Flags::PARKED);
                // A poll may have seen the end, which needs no buffer to show.
                let list = if saw_bytes { &mut self.hungry } else { &mut self.parked };
                list.push_back(conn);
                0
            }
            (1.., Some(id)) => self.bytes(conn, id, !cqueue::more(flags), room, sink),
            (0.., _) => {
                // Behind a failed send it is only that there are no more bytes.
                slot.flags.set(if slot.flags.has(Flags::BROKEN) { Flags::ENDED } else { Flags::ENDED.and(Flags::OWES_EOF) });
                self.settle(conn, sink)
            }
            (error, _) => self.receive_failed(conn, -error, sink),
        }
    }

    fn bytes(&mut self, conn: ConnId, id: u16, last: bool, room: bool, sink: &mut impl Sink) -> usize {
        let slot = self.table.get(conn).expect("the caller has looked");
        slot.flags.set(if slot.flags.has(Flags::FRESH) { Flags::BUSY } else { Flags::FRESH });
        self.idle.look_again();
        let now = room && slot.queue == NO_BUFFER && sink.takes_bytes();
        if now {
            sink.event(Event::Received { conn, bytes: self.buffers.bytes(id) });
            self.buffers.give_back(id);
        } else {
            slot.queue = self.buffers.enqueue(slot.queue, id);
            self.mark_ready(conn);
        }
        if last {
            self.resume(conn);
        }
        usize::from(now)
    }

    fn receive_failed(&mut self, conn: ConnId, errno: i32, sink: &mut impl Sink) -> usize {
        let slot = self.table.get(conn).expect("the caller has looked");
        let broke = slot.flags.has(Flags::BROKEN);
        match errno {
            libc::ENOBUFS => {
                self.stats.receives_parked.add(1);
                slot.flags.set(Flags::PARKED);
                self.parked.push_back(conn);
                0
            }
            libc::ECANCELED => {
                // One that streams, and did not break, is cancelled only for being idle.
                self.stats.receives_idled.add(u64::from(slot.phase == Phase::Streaming && !broke));
                self.resume(conn);
                0
            }
            libc::EINTR | libc::EAGAIN if !broke => {
                self.resume(conn);
                0
            }
            // Behind a failed send, `EAGAIN` says that nothing is left.
            errno => {
                if !broke {
                    slot.break_with(errno);
                }
                slot.flags.set(Flags::ENDED);
                self.settle(conn, sink)
            }
        }
    }

    /// A send failed: the connection is beyond use, which is told behind the bytes that came before. They may still be in the kernel.
    pub(super) fn fail(&mut self, conn: ConnId, errno: i32, sink: &mut impl Sink) -> usize {
        let slot = self.table.get(conn).expect("the caller has looked");
        if slot.flags.has(Flags::BROKEN) {
            return 0;
        }
        slot.break_with(errno);
        if slot.flags.has(Flags::RECEIVING) {
            self.push(ops::cancel_receive(conn));
        } else if !slot.flags.has(Flags::ENDED) {
            self.resume(conn);
        }
        self.settle(conn, sink)
    }

    /// Tells the end of the connection, once all bytes before it are delivered.
    pub(super) fn settle(&mut self, conn: ConnId, sink: &mut impl Sink) -> usize {
        let slot = self.table.get(conn).expect("the caller has looked");
        if slot.queue != NO_BUFFER {
            self.mark_ready(conn);
            return 0;
        }
        let mut events = 0;
        if slot.flags.clear(Flags::OWES_EOF) {
            sink.event(Event::Eof { conn });
            events += 1;
        }
        if slot.flags.has(Flags::ENDED) && slot.flags.clear(Flags::OWES_BROKEN) {
            sink.event(Event::Broken { conn, errno: slot.errno.into() });
            events += 1;
        }
        events
    }

    /// Puts `conn` on the list of those that have something for the machine, if it has.
    pub(super) fn mark_ready(&mut self, conn: ConnId) {
        if let Some(slot) = self.table.get(conn)
            && !slot.flags.has(Flags::READY)
            && (slot.queue != NO_BUFFER || slot.flags.has(Flags::OWES_EOF) || slot.flags.has(Flags::OWES_BROKEN))
        {
            slot.flags.set(Flags::READY);
            self.ready.push_back(conn);
        }
    }

    /// Delivers bytes that waited, connection by connection.
    pub(super) fn deliver_ready(&mut self, budget: usize, sink: &mut impl Sink) -> usize {
        let mut events = 0;
        while events < budget && sink.takes_bytes() {
            let Some(conn) = self.ready.pop_front() else { break };
            let Some(slot) = self.table.get(conn) else { continue };
            if !slot.flags.clear(Flags::READY) {
                continue;
            }
            if let Some((id, rest)) = self.buffers.dequeue(slot.queue) {
                slot.queue = rest;
                sink.event(Event::Received { conn, bytes: self.buffers.bytes(id) });
                self.buffers.give_back(id);
                events += 1;
                if rest == NO_BUFFER {
                    self.resume(conn);
                }
            }
            events += self.settle(conn, sink);
        }
        events
    }
}
