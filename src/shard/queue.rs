//! Putting frames on connections: the outbound budgets, and what happens when they are used up.
//!
//! | full | a PUSH | an answer |
//! |---|---|---|
//! | the connection's budget | dropped, counted, told in SEND_OK | up to twice the budget; then SLOW_CONSUMER |
//! | the shard's budget | dropped, counted, told in SEND_OK | SLOW_CONSUMER for who holds more than an equal share |
//! | either, and the PUSH may give way | the oldest such, or the one it replaces, is dropped and counted | – |
//! | a chunk in flight past the write deadline | SLOW_CONSUMER | SLOW_CONSUMER |
#![forbid(unsafe_code)]

use super::{
    Shard,
    connections::{NONE, Phase, Probe},
    outbound::{Departure, Framed, Outbound, Pressure},
};
use crate::{
    ids::ConnId,
    io::{Chunk, Tick},
    limits::{ANSWERS_BYTES_MIN, HELD_PUSHES_SHARE, UNWATCHED_BYTES_MAX},
    session::Form,
    wire::{ErrorCode, Frame, encode},
};

impl Shard {
    /// Queues a PUSH on the connection in a slot. Returns false if a budget was used up and it was dropped.
    pub(super) fn push(&mut self, slot: u32, frame: &mut Framed<'_>) -> bool {
        self.deliver_gathered();
        let queued = match self.connections.at(slot).outbound {
            NONE => 0,
            index if frame.pressure() != Pressure::DropNewest && self.outbounds[index as usize].is_pressed() => {
                return self.hold_push(slot, frame);
            }
            index => self.outbounds[index as usize].bytes,
        };
        if queued + frame.len() > self.settings.limits.outbound_bytes_per_connection {
            self.stats.dropped_connection_full.add(1);
            return false;
        }
        if self.outbound_bytes + frame.len() > self.settings.limits.outbound_bytes_per_shard {
            self.stats.dropped_shard_full.add(1);
            return false;
        }
        self.append(slot, frame);
        self.stats.pushes.add(1);
        true
    }

    /// Queues a run of PUSHes. Returns false if they do not all fit, and queues none then.
    pub(super) fn push_run(&mut self, slot: u32, run: &mut Framed<'_>) -> bool {
        let index = self.connections.at(slot).outbound;
        let queued = if index == NONE { 0 } else { self.outbounds[index as usize].bytes };
        let limits = &self.settings.limits;
        let fits = queued + run.len() <= limits.outbound_bytes_per_connection
            && self.outbound_bytes + run.len() <= limits.outbound_bytes_per_shard;
        if fits {
            self.append(slot, run);
            self.stats.pushes.add(run.frames().into());
        }
        fits
    }

    /// Keeps a PUSH that may give way beside the queue of a connection that does not keep up.
    fn hold_push(&mut self, slot: u32, frame: &mut Framed<'_>) -> bool {
        let place = frame.place(&self.keyed);
        let connection = self.connections.at(slot);
        let conn = ConnId { slot, generation: connection.generation };
        let kept = frame.keep(connection.form, &mut self.packer);
        let outbound = &mut self.outbounds[connection.outbound as usize];
        let limits = &self.settings.limits;
        let own_max = limits.outbound_bytes_per_connection;
        let others = self.outbound_bytes - outbound.bytes;
        let shard_max = limits.outbound_bytes_per_shard.saturating_sub(others);
        let Some(displaced) = outbound.hold(kept, place, own_max.min(shard_max), own_max / HELD_PUSHES_SHARE) else {
            let full = if shard_max < own_max { &self.stats.dropped_shard_full } else { &self.stats.dropped_connection_full };
            full.add(1);
            return false;
        };
        self.outbound_bytes = others + outbound.bytes;
        let since = outbound.in_flight_since;
        self.stats.dropped_oldest.add(displaced.oldest);
        self.stats.dropped_replaced.add(displaced.replaced);
        self.stats.pushes.add(1);
        if let Some(since) = since {
            self.watch(conn, since);
        }
        true
    }

    /// Queues an answer. A client that asks and asks and never reads is closed.
    pub(super) fn answer(&mut self, conn: ConnId, frame: &Frame<'_>) {
        self.deliver_gathered();
        let Some(connection) = self.connections.get(conn) else { return };
        // Behind the last frame nothing may come.
        if connection.phase.is_ending() {
            return;
        }
        let queued = if connection.outbound == NONE { 0 } else { self.outbounds[connection.outbound as usize].bytes };
        if queued > 2 * self.settings.limits.outbound_bytes_per_connection && connection.phase == Phase::Active {
            self.end_slow(conn, "its answers reached twice the outbound budget, unread");
            return;
        }
        // Who holds no more than its share did not fill the budget, and is answered all the same.
        let budget = self.settings.limits.outbound_bytes_per_shard;
        let share = (budget / self.outbounds.len().max(1)).max(ANSWERS_BYTES_MIN);
        if self.outbound_bytes > budget && queued > share && connection.phase == Phase::Active {
            self.end_slow(conn, "it holds more than its share of this core's outbound budget, which is used up");
            return;
        }
        self.append_frame(conn.slot, frame);
    }

    /// Queues a frame, whatever waits already.
    pub(super) fn append_frame(&mut self, slot: u32, frame: &Frame<'_>) {
        let connection = self.connections.at(slot);
        // No PUSH of a group comes behind its LEAVE_OK, and none at all behind the last frame.
        if connection.outbound != NONE && (connection.phase.is_ending() || matches!(frame, Frame::LeaveOk(_))) {
            self.outbounds[connection.outbound as usize].settle();
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        encode(frame, &mut scratch);
        self.append(slot, &mut Framed::new(&scratch));
        self.scratch = scratch;
    }

    pub(super) fn append(&mut self, slot: u32, frame: &mut Framed<'_>) {
        let connection = self.connections.at_mut(slot);
        let conn = ConnId { slot, generation: connection.generation };
        if connection.outbound == NONE {
            connection.outbound = self.outbounds.insert(Outbound::new(&mut self.pool)) as u32;
        }
        let outbound = &mut self.outbounds[connection.outbound as usize];
        let was_empty = outbound.is_empty();
        let added = outbound.push(frame, connection.form, &mut self.packer);
        self.outbound_bytes += added;
        if added < frame.len() {
            self.stats.bytes_saved.add((frame.len() - added) as u64);
        }
        match outbound.in_flight_since {
            None if was_empty => self.ready.push(conn),
            None => {}
            Some(since) => self.watch(conn, since),
        }
    }

    /// What is queued leaves as it is, and what comes later as LOGIN agreed upon.
    pub(super) fn part_from_later(&mut self, slot: u32) {
        let connection = self.connections.at(slot);
        if connection.outbound != NONE && connection.form != Form::default() {
            self.outbounds[connection.outbound as usize].rotate();
        }
    }

    /// Has the write deadline of the chunk in flight looked after. Once only for each connection, however often its queue runs
    /// empty meanwhile: else the list would grow with the traffic.
    fn watch(&mut self, conn: ConnId, since: Tick) {
        let connection = self.connections.at_mut(conn.slot);
        if !connection.watched {
            connection.watched = true;
            self.slow.push_back((since.plus_ms(u64::from(self.settings.timeouts.write_ms)), conn));
        }
    }

    /// The next chunk to hand to the reactor.
    pub(super) fn next_send(&mut self) -> Option<(ConnId, Chunk)> {
        while let Some(conn) = self.ready.pop() {
            let Some(connection) = self.connections.get(conn) else { continue };
            if connection.outbound == NONE || connection.phase == Phase::Closing {
                continue;
            }
            let outbound = &mut self.outbounds[connection.outbound as usize];
            if let Some(Departure { chunk, is_batch, saved }) =
                outbound.next(self.now, connection.form, &mut self.packer, &mut self.pool)
            {
                self.stats.batches_out.add(u64::from(is_batch));
                self.stats.bytes_saved.add(saved as u64);
                // A small chunk with nothing behind it holds little, and the check for silence sees it too.
                if outbound.bytes > UNWATCHED_BYTES_MAX {
                    self.watch(conn, self.now);
                }
                return Some((conn, chunk));
            }
        }
        None
    }

    pub(super) fn handle_sent(&mut self, conn: ConnId, chunk: Chunk) {
        self.stats.bytes_out.add(chunk.as_slice().len() as u64);
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let index = connection.outbound as usize;
        let outbound = self.outbounds.get_mut(index).expect("a chunk in flight keeps its queue");
        self.outbound_bytes -= outbound.sent(chunk, &mut self.pool);
        let has_device = connection.device != NONE;
        if !outbound.is_empty() {
            self.ready.push(conn);
            if has_device {
                self.wake_readers(conn);
            }
            return;
        }
        connection.outbound = NONE;
        let flushing = connection.phase == Phase::Flushing;
        let probed = connection.probe == Probe::Queued && connection.phase == Phase::Active;
        self.outbounds.remove(index).retire(&mut self.pool);
        if probed {
            self.probe_left(conn);
        }
        if flushing {
            self.finish(conn);
        } else if has_device {
            self.wake_readers(conn);
        }
    }

    /// Forgets what waits for a connection.
    pub(super) fn discard_outbound(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let index = std::mem::replace(&mut connection.outbound, NONE);
        if index != NONE {
            let outbound = self.outbounds.remove(index as usize);
            self.outbound_bytes -= outbound.bytes;
            outbound.retire(&mut self.pool);
        }
    }

    /// Ends connections whose chunk in flight has kept others waiting for too long.
    pub(super) fn end_stalled(&mut self) {
        let write_ms = u64::from(self.settings.timeouts.write_ms);
        while let Some(&(at, conn)) = self.slow.front() {
            if at > self.now {
                return;
            }
            self.slow.pop_front();
            let Some(connection) = self.connections.get_mut(conn) else { continue };
            connection.watched = false;
            if connection.outbound == NONE {
                continue;
            }
            match self.outbounds[connection.outbound as usize].in_flight_since {
                None => {}
                Some(since) if since.plus_ms(write_ms) > self.now => {
                    connection.watched = true;
                    self.slow.push_back((since.plus_ms(write_ms), conn));
                }
                Some(_) => self.end_slow(conn, "it took no bytes until the write deadline"),
            }
        }
    }

    /// Whether a chunk in flight is past the write deadline.
    pub(super) fn is_stalled(&self, slot: u32) -> bool {
        let index = self.connections.at(slot).outbound;
        let since = if index == NONE { None } else { self.outbounds[index as usize].in_flight_since };
        since.is_some_and(|since| since.plus_ms(u64::from(self.settings.timeouts.write_ms)) <= self.now)
    }

    /// Closes a connection that does not read: what waits is dropped, the ERROR is behind the chunk in flight.
    pub(super) fn end_slow(&mut self, conn: ConnId, why: &str) {
        let Some(connection) = self.connections.get(conn) else { return };
        if connection.phase != Phase::Active {
            return;
        }
        if connection.outbound != NONE {
            let dropped = self.outbounds[connection.outbound as usize].drop_waiting();
            self.outbound_bytes -= dropped;
        }
        let message = format!("this connection does not read fast enough: {why}");
        self.refuse(conn, crate::session::Refusal::closing(ErrorCode::SlowConsumer, message));
        self.shorten_flush(conn);
    }
}
