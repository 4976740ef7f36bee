//! How connections go: to another ring, or for good. Either way, what is in flight ends first.

use super::{
    super::{Event, Parcel, Sink, buffers::NO_BUFFER},
    Owed, Uring, ops,
    table::{Flags, Phase},
};
use crate::ids::{ConnId, ShardId};

impl Uring {
    /// Starts a move. A connection on which anything is under way in our direction, or has come that the machine has not seen, stays.
    pub(super) fn start_move(&mut self, conn: ConnId, to: ShardId) {
        let slot = self.table.get(conn).expect("only a connection that is here can move");
        assert!(slot.phase == Phase::Stepping, "{conn} cannot move in phase {:?}", slot.phase);
        let busy = slot.flags.has(Flags::SENDING.and(Flags::FINISHING).and(Flags::BROKEN)) || slot.queue != NO_BUFFER;
        if busy || self.peers.ring_of(to).is_none() || to == self.shard {
            self.owed.push_back(Owed::MoveRefused(conn));
            return;
        }
        slot.phase = Phase::Leaving;
        slot.cargo = to.0.into();
        slot.flags.clear(Flags::PARKED);
        if slot.flags.has(Flags::RECEIVING) {
            self.push(ops::cancel_receive(conn));
        } else {
            self.send_away(conn);
        }
    }

    /// Nothing is in flight any more: installs the connection in the other ring's table.
    ///
    /// The other ring gets no completion for it. Our own carries the index that it has there, which travels through the mesh: so that
    /// the connection and the machine's message of it cannot arrive apart.
    pub(super) fn send_away(&mut self, conn: ConnId) {
        let slot = self.table.get(conn).expect("the caller has looked");
        match self.peers.ring_of(ShardId(slot.cargo as u16)) {
            Some(ring) => {
                let direct = slot.direct(conn);
                self.push(ops::depart(direct, ring));
            }
            None => {
                slot.phase = Phase::Stepping;
                self.owed.push_back(Owed::MoveRefused(conn));
            }
        }
    }

    /// The other ring has the connection, or no room for it.
    pub(super) fn moved(&mut self, conn: ConnId, result: i32, sink: &mut impl Sink) -> usize {
        let slot = self.table.get(conn).expect("a connection outlives its operations");
        if let Ok(index) = u32::try_from(result) {
            slot.phase = Phase::Vacating;
            let direct = slot.direct(conn);
            self.push(ops::close(direct));
            sink.event(Event::Departed { conn, parcel: Parcel::Direct(index) });
        } else {
            log::debug!("{conn} cannot move to shard {}: {}", slot.cargo, std::io::Error::from_raw_os_error(-result));
            slot.phase = Phase::Stepping;
            sink.event(Event::MoveRefused { conn });
            self.resume(conn);
        }
        1
    }

    /// Starts to close: gives up what is in flight and what has not been delivered.
    pub(super) fn start_close(&mut self, conn: ConnId) {
        let Some(slot) = self.table.get(conn) else { return };
        match slot.phase {
            Phase::Stepping | Phase::Streaming => {}
            Phase::Closing => return,
            Phase::Free | Phase::Naming | Phase::Connecting | Phase::Leaving | Phase::Vacating => {
                unreachable!("the machine closes {conn}, which it does not have: it is {:?}", slot.phase)
            }
        }
        slot.phase = Phase::Closing;
        slot.flags.clear(Flags::READY.and(Flags::PARKED).and(Flags::OWES_EOF).and(Flags::OWES_BROKEN));
        while let Some((id, rest)) = self.buffers.dequeue(slot.queue) {
            slot.queue = rest;
            self.buffers.give_back(id);
        }
        let flags = slot.flags;
        if flags.has(Flags::RECEIVING) {
            self.push(ops::cancel_receive(conn));
        }
        if flags.has(Flags::SENDING) {
            self.push(ops::cancel_send(conn));
        }
        self.close_when_still(conn);
    }

    /// Closes the descriptor once nothing is in flight on it. (A multishot receive would outlive it: it holds the socket.)
    pub(super) fn close_when_still(&mut self, conn: ConnId) {
        let slot = self.table.get(conn).expect("the caller has looked");
        if !slot.flags.has(Flags::IN_FLIGHT) {
            let direct = slot.direct(conn);
            self.push(ops::close(direct));
        }
    }

    /// A cancel found nothing. When the completion of what it was meant for has not come either, it was between two states: once more.
    pub(super) fn cancel_missed(&mut self, conn: ConnId, target: Flags) -> usize {
        let Some(slot) = self.table.get(conn).filter(|slot| slot.flags.has(target)) else { return 0 };
        if matches!(slot.phase, Phase::Closing | Phase::Leaving) || slot.flags.has(Flags::BROKEN) {
            self.push(if target == Flags::SENDING { ops::cancel_send(conn) } else { ops::cancel_receive(conn) });
        } else {
            // It was cancelled for being idle, which can wait.
            self.idle.look_again();
        }
        0
    }

    /// Our direction is shut down.
    pub(super) fn finished(&mut self, conn: ConnId) -> usize {
        let slot = self.table.get(conn).expect("a connection outlives its operations");
        slot.flags.clear(Flags::FINISHING);
        if slot.phase == Phase::Closing {
            self.close_when_still(conn);
        }
        0
    }

    /// The descriptor is closed.
    pub(super) fn closed(&mut self, conn: ConnId, result: i32, sink: &mut impl Sink) -> usize {
        let slot = self.table.get(conn).expect("a connection outlives its operations");
        assert!(result == 0, "the descriptor of {conn} was not there to be closed: {result}, {slot:?}");
        let told = slot.phase == Phase::Closing;
        self.table.vacate(conn);
        self.acceptor.slot_freed();
        if told {
            sink.event(Event::Closed { conn });
        }
        usize::from(told)
    }
}
