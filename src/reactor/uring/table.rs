//! What the reactor knows of each slot: 20 bytes, whether a connection is in it or not.
//!
//! Slots are ours, and the one that was left last is the first to be taken again: so there are as many as there were connections at once. The
//! kernel's direct descriptors are another thing: it gives them out in a round (`io_file_bitmap_get` in io_uring/filetable.c), so that with
//! clients that come and go each would be used once before long, and whatever is indexed by them would grow with the table.

use super::super::buffers::NO_BUFFER;
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

/// No slot is free.
const NO_SLOT: u32 = u32::MAX;

/// A connection, and where the kernel has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    pub(super) conn: ConnId,
    /// The index of its direct descriptor.
    pub(super) file: u32,
}

/// One slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// Of the connection in it, or of the next one.
    pub(super) generation: u32,
    /// The index of its direct descriptor.
    file: u32,
    /// In a free slot the next free one. Else which memory of this connection the kernel uses, by phase: the peer's address, the connecting socket's record, the chunk in
    /// flight; while it leaves, the shard it goes to.
    pub(super) cargo: u32,
    /// The last of the buffers that wait for the machine.
    pub(super) queue: u16,
    pub(super) flags: Flags,
    pub(super) phase: Phase,
    /// Why it is broken.
    pub(super) errno: u8,
}

const _: () = assert!(size_of::<Slot>() == 20);

impl Slot {
    /// `conn` is the connection in it.
    pub(super) fn at(&self, conn: ConnId) -> At {
        At { conn, file: self.file }
    }

    /// The connection is beyond use. What came before can still be received.
    pub(super) fn break_with(&mut self, errno: i32) {
        self.flags.set(Flags::BROKEN.and(Flags::OWES_BROKEN));
        // Linux has no socket error above 133.
        self.errno = u8::try_from(errno).unwrap_or(libc::EIO as u8);
    }
}

/// All slots of a reactor.
pub(super) struct Table {
    slots: Vec<Slot>,
    first_free: u32,
    /// How many slots hold a connection.
    used: u32,
    /// How many direct descriptors there are.
    files: u32,
}

impl Table {
    pub(super) fn new(files: u32) -> Table {
        // Address space only: the kernel gives pages as slots are used for the first time.
        Table { slots: Vec::with_capacity(files as usize), first_free: NO_SLOT, used: 0, files }
    }

    /// How many slots there are by now.
    pub(super) fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    /// How many more connections there can be.
    pub(super) fn free(&self) -> u32 {
        self.files.saturating_sub(self.used)
    }

    /// The slot of a connection that is there; `None` when the id is of one that was.
    pub(super) fn get(&mut self, conn: ConnId) -> Option<&mut Slot> {
        let slot = &mut self.slots[conn.slot as usize];
        (slot.generation == conn.generation && slot.phase != Phase::Free).then_some(slot)
    }

    /// Some of the slots, with the connections in them, from `first` on; none behind the last one.
    pub(super) fn part(&mut self, first: u32, count: u32) -> impl Iterator<Item = (ConnId, &mut Slot)> {
        let part = self.slots.iter_mut().enumerate().skip(first as usize).take(count as usize);
        part.map(|(index, slot)| (ConnId { slot: index as u32, generation: slot.generation }, slot))
    }

    /// Takes a slot for the connection whose direct descriptor is `file`.
    pub(super) fn occupy(&mut self, file: u32, phase: Phase, cargo: u32) -> At {
        let index = self.first_free;
        self.used += 1;
        let Some(slot) = self.slots.get_mut(index as usize) else {
            let conn = ConnId { slot: self.slots.len() as u32, generation: 0 };
            self.slots.push(Slot { generation: 0, file, cargo, queue: NO_BUFFER, flags: Flags::NONE, phase, errno: 0 });
            return At { conn, file };
        };
        self.first_free = slot.cargo;
        (slot.file, slot.phase, slot.cargo) = (file, phase, cargo);
        At { conn: ConnId { slot: index, generation: slot.generation }, file }
    }

    /// The descriptor is closed: the id is dead.
    pub(super) fn vacate(&mut self, conn: ConnId) {
        let slot = &mut self.slots[conn.slot as usize];
        assert!(slot.generation == conn.generation && slot.phase != Phase::Free);
        assert!(slot.queue == NO_BUFFER && !slot.flags.has(Flags::IN_FLIGHT));
        slot.generation = (slot.generation + 1) % ConnId::GENERATIONS;
        (slot.flags, slot.phase, slot.errno) = (Flags::NONE, Phase::Free, 0);
        slot.cargo = std::mem::replace(&mut self.first_free, conn.slot);
        self.used -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_dies_with_its_connection() {
        let mut table = Table::new(2);
        let first = table.occupy(1, Phase::Streaming, 0).conn;
        assert_eq!((table.free(), table.get(first).map(|slot| slot.phase)), (1, Some(Phase::Streaming)));
        table.vacate(first);
        assert!(table.free() == 2 && table.get(first).is_none());
        let second = table.occupy(1, Phase::Stepping, 0).conn;
        assert!(table.get(first).is_none() && second.slot == first.slot);
        assert_eq!(table.get(second).map(|slot| slot.phase), Some(Phase::Stepping));
    }

    #[test]
    fn there_are_as_many_slots_as_connections_at_once_whatever_descriptors_they_have() {
        let mut table = Table::new(1_000);
        let mut held: Vec<At> = (0..10).map(|file| table.occupy(file, Phase::Streaming, 0)).collect();
        for file in 10..5_000 {
            let gone = held.remove(file as usize * 7 % held.len());
            table.vacate(gone.conn);
            let come = table.occupy(file % 1_000, Phase::Streaming, 0);
            assert_eq!(table.get(come.conn).map(|slot| slot.at(come.conn).file), Some(file % 1_000));
            held.push(come);
            let mut slots: Vec<u32> = held.iter().map(|at| at.conn.slot).collect();
            slots.sort_unstable();
            assert_eq!(slots, (0..10).collect::<Vec<_>>());
        }
        assert_eq!((table.slots(), table.free()), (10, 990));
    }
}
