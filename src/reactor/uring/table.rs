//! What the reactor knows of each connection.
//!
//! The kernel's direct descriptors are no slots of ours. It looks for a free one behind the last that it gave out, or from the last that was
//! closed on (`io_file_bitmap_get` and `io_file_bitmap_clear` in io_uring/filetable.c and .h): where several close before others come, it
//! takes ever higher ones, so that each would be used once before long, and what is indexed by them would grow with the ring's table.

use super::super::{
    buffers::NO_BUFFER,
    slots::{Content, Slots},
};
use crate::ids::ConnId;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No connection, and nothing in flight.
    Free,
    /// Accepted; its peer's address is asked for.
    Naming,
    /// An outgoing connection is being made.
    Connecting,
    /// Accepted, and received from step by step.
    Stepping,
    /// Received from at full speed.
    Streaming,
    /// On its way to another ring.
    Leaving,
    /// The machine closes it and waits for the answer: what is in flight ends first, then the descriptor is closed.
    Closing,
    /// The descriptor is being closed, and nobody waits for it.
    Vacating,
}

/// A set of facts about a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flags(u16);

impl Flags {
    pub(super) const NONE: Flags = Flags(0);
    /// A receive is in flight.
    pub(super) const RECEIVING: Flags = Flags(1);
    /// A send is in flight; `cargo` says where its chunk is.
    pub(super) const SENDING: Flags = Flags(1 << 1);
    /// A shutdown is in flight.
    pub(super) const FINISHING: Flags = Flags(1 << 2);
    /// What must have ended before the descriptor is closed or moved.
    pub(super) const IN_FLIGHT: Flags = Flags::RECEIVING.and(Flags::SENDING).and(Flags::FINISHING);
    /// In a list of those that wait for receive buffers.
    pub(super) const PARKED: Flags = Flags(1 << 3);
    /// In the list of those that have bytes for the machine.
    pub(super) const READY: Flags = Flags(1 << 4);
    /// In the list of those whose receiving goes on with the next submission.
    pub(super) const RESUMING: Flags = Flags(1 << 5);
    /// There is no more to receive: the peer has ended its direction, or the connection broke and its last bytes are here.
    pub(super) const ENDED: Flags = Flags(1 << 6);
    /// `Eof` is still to be told, behind the bytes that wait.
    pub(super) const OWES_EOF: Flags = Flags(1 << 7);
    /// A receive or a send failed, and `errno` says why. `Broken` was told, or is to be.
    pub(super) const BROKEN: Flags = Flags(1 << 8);
    /// `Broken` is still to be told, behind the last bytes.
    pub(super) const OWES_BROKEN: Flags = Flags(1 << 9);
    /// The receive in flight only looks.
    pub(super) const PEEKING: Flags = Flags(1 << 10);
    /// The receive in flight is a poll.
    pub(super) const POLLING: Flags = Flags(1 << 11);
    /// Bytes have come since `idle` last looked.
    pub(super) const FRESH: Flags = Flags(1 << 12);
    /// Bytes came more than once between two of its looks: a multishot receive pays.
    pub(super) const BUSY: Flags = Flags(1 << 13);

    pub(super) const fn and(self, more: Flags) -> Flags {
        Flags(self.0 | more.0)
    }

    pub(super) fn has(self, any: Flags) -> bool {
        self.0 & any.0 != 0
    }

    pub(super) fn set(&mut self, flags: Flags) {
        self.0 |= flags.0;
    }

    /// Returns whether any of them was set.
    pub(super) fn clear(&mut self, flags: Flags) -> bool {
        let any = self.has(flags);
        self.0 &= !flags.0;
        any
    }
}

/// A connection, and the index of its direct descriptor in the ring's table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Direct {
    pub(super) conn: ConnId,
    pub(super) index: u32,
}

/// One connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// Of its direct descriptor.
    index: u32,
    /// Which memory of this connection the kernel uses, by phase: the peer's address, the connecting socket's record, the chunk in
    /// flight; while it leaves, the shard it goes to. In a free slot the next free one.
    pub(super) cargo: u32,
    /// The last of the buffers that wait for the machine.
    pub(super) queue: u16,
    pub(super) flags: Flags,
    pub(super) phase: Phase,
    /// Why it is broken.
    pub(super) errno: u8,
}

const _: () = assert!(size_of::<Slot>() == 16);

impl Slot {
    /// Of the connection in it, which is `conn`.
    pub(super) fn direct(&self, conn: ConnId) -> Direct {
        Direct { conn, index: self.index }
    }

    /// The connection is beyond use. What came before can still be received.
    pub(super) fn break_with(&mut self, errno: i32) {
        self.flags.set(Flags::BROKEN.and(Flags::OWES_BROKEN));
        // Linux has no socket error above 133.
        self.errno = u8::try_from(errno).unwrap_or(libc::EIO as u8);
    }
}

impl Content for Slot {
    fn vacate(&mut self, next_free: u32) {
        assert!(self.queue == NO_BUFFER && !self.flags.has(Flags::IN_FLIGHT), "{self:?} is vacated");
        (self.phase, self.cargo) = (Phase::Free, next_free);
    }

    fn next_free(&self) -> Option<u32> {
        (self.phase == Phase::Free).then_some(self.cargo)
    }
}

/// All connections of a reactor.
pub(super) struct Table {
    slots: Slots<Slot>,
    /// How many slots have a connection.
    used: u32,
    /// How many direct descriptors the ring has.
    descriptors: u32,
    /// Which connection has each of them, to notice one that is used by two.
    #[cfg(debug_assertions)]
    owners: std::collections::HashMap<u32, ConnId>,
}

impl Table {
    pub(super) fn new(descriptors: u32) -> Table {
        Table {
            slots: Slots::new(descriptors),
            used: 0,
            descriptors,
            #[cfg(debug_assertions)]
            owners: std::collections::HashMap::new(),
        }
    }

    /// How many slots there are by now.
    pub(super) fn slots(&self) -> u32 {
        self.slots.count()
    }

    /// How many more connections there can be.
    pub(super) fn free(&self) -> u32 {
        // Until the completion of a close is read, its descriptor may be another connection's already.
        self.descriptors.saturating_sub(self.used)
    }

    /// The slot of a connection that is there; `None` when the id is of one that was.
    pub(super) fn get(&mut self, conn: ConnId) -> Option<&mut Slot> {
        self.slots.get(conn)
    }

    /// The connections in some of the slots, from `first` on; none behind the last one.
    pub(super) fn part(&mut self, first: u32, count: u32) -> impl Iterator<Item = (ConnId, &mut Slot)> {
        self.slots.part(first, count)
    }

    /// Takes a slot for the connection with the direct descriptor `index`.
    pub(super) fn occupy(&mut self, index: u32, phase: Phase, cargo: u32) -> Direct {
        self.used += 1;
        let conn = self.slots.take(Slot { index, cargo, queue: NO_BUFFER, flags: Flags::NONE, phase, errno: 0 });
        #[cfg(debug_assertions)]
        if let Some(before) = self.owners.insert(index, conn)
            && let Some(slot) = self.slots.get(before)
        {
            let is_closed = matches!(slot.phase, Phase::Closing | Phase::Vacating) && !slot.flags.has(Flags::IN_FLIGHT);
            assert!(is_closed, "direct descriptor {index} is given to {conn}, and {before} has it: {slot:?}");
        }
        Direct { conn, index }
    }

    /// The descriptor is closed: the id is dead.
    pub(super) fn vacate(&mut self, conn: ConnId) {
        self.slots.vacate(conn);
        self.used -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_keeps_the_descriptor_that_it_came_with() {
        let mut table = Table::new(3);
        let first = table.occupy(2, Phase::Streaming, 0);
        let second = table.occupy(0, Phase::Stepping, 0);
        assert_eq!((first.conn.slot, second.conn.slot, table.free(), table.slots()), (0, 1, 1, 2));
        table.vacate(first.conn);
        let third = table.occupy(1, Phase::Streaming, 0);
        assert_eq!((third.conn.slot, table.slots()), (0, 2));
        assert!(table.get(first.conn).is_none());
        for (held, index) in [(second, 0), (third, 1)] {
            assert_eq!(table.get(held.conn).map(|slot| slot.direct(held.conn).index), Some(index));
        }
    }

    #[test]
    fn one_that_is_closed_may_go_to_another_before_that_is_known() {
        let mut table = Table::new(1);
        let first = table.occupy(0, Phase::Closing, 0);
        let second = table.occupy(0, Phase::Naming, 0);
        assert_eq!((table.free(), table.slots()), (0, 2));
        table.vacate(first.conn);
        assert!(table.free() == 0 && table.get(second.conn).is_some());
    }

    #[cfg(debug_assertions)]
    #[test]
    #[should_panic(expected = "direct descriptor 0 is given to")]
    fn one_that_is_in_use_goes_to_nobody_else() {
        let mut table = Table::new(2);
        table.occupy(0, Phase::Streaming, 0);
        table.occupy(0, Phase::Naming, 0);
    }
}
