//! The slots of a reactor's connections. The one that was left last is the first to be taken again: so there are as many as there were
//! connections at once, and whatever is indexed by them grows no further.
#![forbid(unsafe_code)]

use crate::ids::ConnId;

/// What a driver knows of a connection. In a slot that no connection has, it holds the number of the next one that is free.
pub(super) trait Content {
    /// The connection is gone.
    fn vacate(&mut self, next_free: u32);
    /// `None` if a connection has this slot.
    fn next_free(&self) -> Option<u32>;
}

/// Behind the last free slot.
const NO_SLOT: u32 = u32::MAX;

#[derive(Debug)]
struct Slot<T> {
    /// Of the connection that has it, or of the next one.
    generation: u32,
    content: T,
}

/// All slots of a reactor. There may be a million: keep what is in them small.
#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<Slot<T>>,
    first_free: u32,
}

impl<T: Content> Slots<T> {
    /// None yet, and room for so many.
    pub(super) fn new(room: u32) -> Slots<T> {
        // Address space only: the kernel gives pages as slots are used for the first time.
        Slots { slots: Vec::with_capacity(room as usize), first_free: NO_SLOT }
    }

    /// How many there are by now, taken or free.
    pub(super) fn count(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Gives a connection a slot, and with it its id.
    pub(super) fn take(&mut self, content: T) -> ConnId {
        let Some(slot) = self.slots.get_mut(self.first_free as usize) else {
            self.slots.push(Slot { generation: 0, content });
            return ConnId { slot: self.slots.len() as u32 - 1, generation: 0 };
        };
        let conn = ConnId { slot: self.first_free, generation: slot.generation };
        self.first_free = slot.content.next_free().expect("it is free");
        slot.content = content;
        conn
    }

    /// What is known of a connection; `None` when the id is of one that was.
    pub(super) fn get(&mut self, conn: ConnId) -> Option<&mut T> {
        let slot = self.slots.get_mut(conn.slot as usize)?;
        (slot.generation == conn.generation && slot.content.next_free().is_none()).then_some(&mut slot.content)
    }

    /// The connection is gone, and its id dead.
    ///
    /// # Panics
    /// It was before.
    pub(super) fn vacate(&mut self, conn: ConnId) {
        let slot = &mut self.slots[conn.slot as usize];
        assert!(slot.generation == conn.generation && slot.content.next_free().is_none(), "{conn} is gone already");
        slot.generation = (slot.generation + 1) % ConnId::GENERATIONS;
        slot.content.vacate(self.first_free);
        self.first_free = conn.slot;
    }

    /// The connections that have some of the slots, from `first` on; none behind the last one.
    pub(super) fn part(&mut self, first: u32, count: u32) -> impl Iterator<Item = (ConnId, &mut T)> {
        let part = self.slots.iter_mut().enumerate().skip(first as usize).take(count as usize);
        part.filter(|(_, slot)| slot.content.next_free().is_none())
            .map(|(index, slot)| (ConnId { slot: index as u32, generation: slot.generation }, &mut slot.content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    enum Word {
        Said(&'static str),
        Free(u32),
    }

    impl Content for Word {
        fn vacate(&mut self, next_free: u32) {
            *self = Word::Free(next_free);
        }

        fn next_free(&self) -> Option<u32> {
            match self {
                Word::Said(_) => None,
                Word::Free(next) => Some(*next),
            }
        }
    }

    #[test]
    fn an_id_dies_with_its_connection() {
        let mut slots = Slots::new(2);
        let first = slots.take(Word::Said("one"));
        assert_eq!(slots.get(first), Some(&mut Word::Said("one")));
        slots.vacate(first);
        assert_eq!(slots.get(first), None);
        let second = slots.take(Word::Said("two"));
        assert_eq!((second.slot, second.generation), (first.slot, first.generation + 1));
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.count(), 1);
        assert_eq!(slots.get(second), Some(&mut Word::Said("two")));
        // One that nobody has got yet.
        assert_eq!(slots.get(ConnId { slot: 7, generation: 0 }), None);
    }

    #[test]
    #[should_panic(expected = "is gone already")]
    fn an_id_dies_once() {
        let mut slots = Slots::new(2);
        let conn = slots.take(Word::Said("one"));
        slots.vacate(conn);
        slots.vacate(conn);
    }

    #[test]
    fn generations_begin_again() {
        let mut slots = Slots::new(1);
        slots.slots.push(Slot { generation: ConnId::GENERATIONS - 1, content: Word::Said("the last") });
        slots.vacate(ConnId { slot: 0, generation: ConnId::GENERATIONS - 1 });
        assert_eq!(slots.take(Word::Said("the first")).generation, 0);
    }

    #[test]
    fn there_are_as_many_as_connections_at_once() {
        let mut slots = Slots::new(1_000);
        let mut held: Vec<ConnId> = (0..10).map(|_| slots.take(Word::Said("here"))).collect();
        for round in 0..1_000 {
            for _ in 0..=round % 3 {
                slots.vacate(held.swap_remove(round * 7 % held.len()));
            }
            let there: Vec<_> = slots.part(0, 100).map(|(conn, _)| conn).collect();
            held.sort_unstable_by_key(|conn| conn.slot);
            assert_eq!(there, held);
            while held.len() < 10 {
                held.push(slots.take(Word::Said("here")));
            }
        }
        assert_eq!(
            (slots.count(), slots.part(4, 3).count(), slots.part(8, 100).count(), slots.part(10, 1).count()),
            (10, 3, 2, 0)
        );
    }
}
