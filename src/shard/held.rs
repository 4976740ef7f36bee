//! PUSHes that give way: what waits for one connection of the classes TRANSIENT_NEWEST and TRANSIENT_LATEST.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use bytes::Bytes;

use crate::{limits::HELD_PUSHES_MAX, wire::body::DeliveryClass};

/// What is dropped when a connection does not keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// The PUSH that comes.
    DropNewest,
    /// The oldest that waits.
    DropOldest,
    /// The one of the same channel and key that waits.
    Replace,
}

impl Pressure {
    /// That of a class, by its number on the wire.
    pub fn of(class: i32) -> Pressure {
        match DeliveryClass::try_from(class) {
            Ok(DeliveryClass::TransientNewest) => Pressure::DropOldest,
            Ok(DeliveryClass::TransientLatest) => Pressure::Replace,
            Ok(DeliveryClass::Transient | DeliveryClass::Durable) | Err(_) => Pressure::DropNewest,
        }
    }
}

/// What a PUSH pushed aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Displaced {
    pub oldest: u64,
    pub replaced: u64,
}

#[derive(Debug)]
struct Waiting {
    frame: Bytes,
    /// The keyed hash of channel and key, if a later one of both replaces it.
    place: Option<u64>,
}

/// They wait beside the queue and not in it, so that they can still be dropped, up to the moment when the connection can take them.
#[derive(Debug, Default)]
pub struct Held {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// Bytes that are still to leave before the first of them may, as it came behind them.
    pub ahead: usize,
}

impl Held {
    /// Bytes of all that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Puts a PUSH behind the others, after dropping what gives way to it. `bytes_max`: for all of them, but one fits always.
    pub fn put(&mut self, frame: Bytes, place: Option<u64>, bytes_max: usize) -> Displaced {
        let mut displaced = Displaced::default();
        if place.is_some()
            && let Some(at) = self.waiting.iter().position(|waiting| waiting.place == place)
        {
            self.remove(at);
            displaced.replaced += 1;
        }
        while !self.is_empty() && (self.waiting.len() >= HELD_PUSHES_MAX || self.bytes + frame.len() > bytes_max) {
            // One class does not push the other aside while it has something to drop itself.
            let own = self.waiting.iter().position(|waiting| waiting.place.is_some() == place.is_some());
            self.remove(own.unwrap_or(0));
            displaced.oldest += 1;
        }
        self.bytes += frame.len();
        self.waiting.push_back(Waiting { frame, place });
        displaced
    }

    fn remove(&mut self, at: usize) {
        if let Some(waiting) = self.waiting.remove(at) {
            self.bytes -= waiting.frame.len();
        }
    }

    /// The oldest.
    pub fn take(&mut self) -> Option<Bytes> {
        let Waiting { frame, .. } = self.waiting.pop_front()?;
        self.bytes -= frame.len();
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: usize = 1_000;

    fn put(held: &mut Held, name: u8, length: usize, place: Option<u64>) -> (u64, u64) {
        let Displaced { oldest, replaced } = held.put(Bytes::from(vec![name; length]), place, ROOM);
        assert_eq!(held.bytes(), held.waiting.iter().map(|waiting| waiting.frame.len()).sum::<usize>());
        (oldest, replaced)
    }

    fn names(held: &mut Held) -> Vec<u8> {
        std::iter::from_fn(|| held.take().map(|frame| frame[0])).collect()
    }

    #[test]
    fn the_oldest_gives_way() {
        let mut held = Held::default();
        for name in 0..4 {
            assert_eq!(put(&mut held, name, 250, None), (0, 0));
        }
        assert_eq!(put(&mut held, 4, 251, None), (2, 0));
        assert_eq!(names(&mut held), [2, 3, 4]);
        assert_eq!((held.bytes(), held.is_empty()), (0, true));
    }

    #[test]
    fn the_same_place_is_taken_and_the_order_stays_that_of_arrival() {
        let mut held = Held::default();
        for (name, place) in [(1, 7), (2, 8), (3, 9)] {
            assert_eq!(put(&mut held, name, 10, Some(place)), (0, 0));
        }
        assert_eq!(put(&mut held, 4, 900, Some(8)), (0, 1));
        assert_eq!(put(&mut held, 5, 10, None), (0, 0));
        assert_eq!(names(&mut held), [1, 3, 4, 5]);
    }

    #[test]
    fn a_class_drops_its_own_first() {
        let mut held = Held::default();
        put(&mut held, 1, 400, Some(7));
        put(&mut held, 2, 400, None);
        assert_eq!(put(&mut held, 3, 400, None), (1, 0));
        assert_eq!(put(&mut held, 4, 400, Some(8)), (1, 0));
        assert_eq!(put(&mut held, 5, 1_000, Some(9)), (2, 0));
        assert_eq!(names(&mut held), [5]);
    }

    #[test]
    fn one_fits_whatever_its_size() {
        let mut held = Held::default();
        assert_eq!(put(&mut held, 1, 2 * ROOM, None), (0, 0));
        assert_eq!(put(&mut held, 2, 2 * ROOM, None), (1, 0));
        assert_eq!(names(&mut held), [2]);
    }

    #[test]
    fn their_number_is_bounded() {
        let mut held = Held::default();
        let dropped: u64 = (0..HELD_PUSHES_MAX + 10).map(|_| put(&mut held, 1, 1, None).0).sum();
        assert_eq!(dropped, 10);
        assert_eq!(names(&mut held).len(), HELD_PUSHES_MAX);
    }
}
