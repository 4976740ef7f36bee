//! One coarse timing wheel for all connections of a shard: a hashed wheel (Varghese and Lauck, 1987) whose buckets are
//! doubly linked lists through one table, 12 bytes a connection. Traffic never touches it: a timer that fires looks at its
//! connection, and is set again if the connection was heard meanwhile.
#![forbid(unsafe_code)]

use crate::{
    io::Tick,
    limits::{TIME_MS_MAX, TIMER_TICK_MS},
};

/// The width of a bucket.
pub const BUCKET_MS: u64 = TIMER_TICK_MS as u64;
/// One turn of the wheel is 131 s; a later deadline lies in the last bucket of the turn, and is put further on from there.
const BUCKETS: u32 = 1 << BUCKET_BITS;
const BUCKET_BITS: u32 = 11;
/// The number of the bucket in which a deadline is due is kept modulo this.
const NUMBERS: u32 = 1 << (32 - BUCKET_BITS);
const NONE: u32 = u32::MAX;
/// `Link::prev` of a slot without a timer.
const UNSET: u32 = u32::MAX - 1;

const _: () = assert!(TIME_MS_MAX as u64 / BUCKET_MS + (BUCKETS as u64) < NUMBERS as u64, "every configured time fits");

#[derive(Clone, Copy, Debug)]
struct Link {
    prev: u32,
    next: u32,
    /// Above, the number of the bucket in which it is due, modulo `NUMBERS`; below, the bucket in which it lies.
    place: u32,
}

impl Link {
    fn bucket(self) -> usize {
        (self.place % BUCKETS) as usize
    }
}

/// At most one timer for each slot.
#[derive(Debug)]
pub struct Wheel {
    heads: Box<[u32]>,
    /// One bit for each bucket: set if it is not empty.
    occupied: [u64; BUCKETS as usize / 64],
    links: Vec<Link>,
    /// The first bucket number (not wrapped) that has not been expired in full.
    current: u64,
    set: usize,
}

impl Wheel {
    /// Starts at tick 0.
    pub fn new() -> Wheel {
        Wheel {
            heads: vec![NONE; BUCKETS as usize].into_boxed_slice(),
            occupied: [0; BUCKETS as usize / 64],
            links: Vec::new(),
            current: 0,
            set: 0,
        }
    }

    /// Sets the slot's timer to fire at or soon after `at`, instead of whatever it was set to.
    pub fn set(&mut self, slot: u32, now: Tick, at: Tick) {
        self.cancel(slot);
        if self.set == 0 {
            // Nobody called `expire` while there was nothing to wait for: the wheel may stand far behind.
            self.current = self.current.max(now.as_ms() / BUCKET_MS);
        }
        if self.links.len() <= slot as usize {
            self.links.resize(slot as usize + 1, Link { prev: UNSET, next: NONE, place: 0 });
        }
        // Rounded up: never early.
        let wanted = at.as_ms() / BUCKET_MS + 1;
        self.insert(slot, wanted.clamp(self.current, self.current + u64::from(NUMBERS) - 1));
    }

    /// Puts a slot without a timer into the bucket where it is due, or into the last of this turn.
    fn insert(&mut self, slot: u32, due: u64) {
        let number = due.min(self.current + u64::from(BUCKETS) - 1);
        let bucket = (number % u64::from(BUCKETS)) as u32;
        let head = self.heads[bucket as usize];
        let place = ((due % u64::from(NUMBERS)) as u32) << BUCKET_BITS | bucket;
        self.links[slot as usize] = Link { prev: NONE, next: head, place };
        if head != NONE {
            self.links[head as usize].prev = slot;
        }
        self.heads[bucket as usize] = slot;
        self.occupied[bucket as usize / 64] |= 1 << (bucket % 64);
        self.set += 1;
    }

    /// Takes the slot's timer off, if it has one.
    pub fn cancel(&mut self, slot: u32) {
        let Some(link) = self.links.get(slot as usize).copied().filter(|link| link.prev != UNSET) else { return };
        if link.prev == NONE {
            let bucket = link.bucket();
            self.heads[bucket] = link.next;
            if link.next == NONE {
                self.occupied[bucket / 64] &= !(1 << (bucket % 64));
            }
        } else {
            self.links[link.prev as usize].next = link.next;
        }
        if link.next != NONE {
            self.links[link.next as usize].prev = link.prev;
        }
        self.links[slot as usize].prev = UNSET;
        self.set -= 1;
    }

    /// Takes off the next timer that is due, and gives its slot. Call until `None`, or as often as the turn allows.
    pub fn expire(&mut self, now: Tick) -> Option<u32> {
        let due = now.as_ms() / BUCKET_MS;
        if self.set == 0 {
            self.current = self.current.max(due);
            return None;
        }
        while self.current <= due {
            let slot = self.heads[(self.current % u64::from(BUCKETS)) as usize];
            if slot == NONE {
                self.current += 1;
                continue;
            }
            let number = self.links[slot as usize].place >> BUCKET_BITS;
            let ahead = number.wrapping_sub((self.current % u64::from(NUMBERS)) as u32) % NUMBERS;
            self.cancel(slot);
            if ahead == 0 {
                return Some(slot);
            }
            self.insert(slot, self.current + u64::from(ahead));
        }
        None
    }

    /// How many timers are set.
    pub fn len(&self) -> usize {
        self.set
    }

    /// When `expire` should be called next.
    pub fn next(&self) -> Option<Tick> {
        if self.set == 0 {
            return None;
        }
        let start = (self.current % u64::from(BUCKETS)) as usize;
        let words = self.occupied.len();
        // The word of `start` is looked at twice: first what lies at and above `start`, at last what lies below.
        let ahead = (0..=words).find_map(|step| {
            let index = (start / 64 + step) % words;
            let word = match step {
                0 => self.occupied[index] & (u64::MAX << (start % 64)),
                _ => self.occupied[index],
            };
            (word != 0).then(|| (index * 64 + word.trailing_zeros() as usize + BUCKETS as usize - start) % BUCKETS as usize)
        })?;
        Some(Tick((self.current + ahead as u64) * BUCKET_MS * 1_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fired(wheel: &mut Wheel, now_ms: u64) -> Vec<u32> {
        let mut slots: Vec<u32> = std::iter::from_fn(|| wheel.expire(Tick(now_ms * 1_000))).collect();
        slots.sort_unstable();
        slots
    }

    #[test]
    fn fires_never_early_and_less_than_two_buckets_late() {
        let mut wheel = Wheel::new();
        for (slot, at_ms) in [(0, 0), (1, 63), (2, 64), (3, 1_000), (4, 100_000)] {
            wheel.set(slot, Tick(0), Tick(at_ms * 1_000));
        }
        let mut seen = Vec::new();
        for now_ms in 0..101_000 {
            for slot in fired(&mut wheel, now_ms) {
                let at_ms = [0, 63, 64, 1_000, 100_000][slot as usize];
                assert!(now_ms >= at_ms && now_ms < at_ms + 2 * BUCKET_MS, "slot {slot} at {now_ms}");
                seen.push(slot);
            }
        }
        assert_eq!(seen, [0, 1, 2, 3, 4]);
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn cancelled_and_moved_timers_do_not_fire() {
        let mut wheel = Wheel::new();
        for slot in 0..10 {
            wheel.set(slot, Tick(0), Tick(1_000_000));
        }
        for slot in [0, 5, 9] {
            wheel.cancel(slot);
            wheel.cancel(slot);
        }
        wheel.set(3, Tick(0), Tick(5_000_000));
        assert_eq!(fired(&mut wheel, 2_000), [1, 2, 4, 6, 7, 8]);
        assert_eq!(fired(&mut wheel, 6_000), [3]);
    }

    #[test]
    fn next_tells_when_to_look_again() {
        let mut wheel = Wheel::new();
        wheel.set(7, Tick(0), Tick(10_000_000));
        let at = wheel.next().expect("one is set");
        assert_eq!(wheel.expire(Tick(at.0 - 1)), None);
        assert_eq!(wheel.expire(at), Some(7));
    }

    #[test]
    fn a_deadline_beyond_one_turn_is_not_early() {
        let mut wheel = Wheel::new();
        let day_ms = u64::from(TIME_MS_MAX);
        for (slot, at_ms) in [(0, 150_000), (1, 300_000), (2, day_ms)] {
            wheel.set(slot, Tick(0), Tick(at_ms * 1_000));
        }
        let mut seen = Vec::new();
        while let Some(at) = wheel.next() {
            let now_ms = at.as_ms();
            seen.extend(fired(&mut wheel, now_ms).into_iter().map(|slot| (slot, now_ms / 1_000)));
        }
        assert_eq!(seen, [(0, 150), (1, 300), (2, day_ms / 1_000)]);
    }

    #[test]
    fn a_timer_set_after_a_long_sleep_is_not_early() {
        let mut wheel = Wheel::new();
        wheel.set(0, Tick(0), Tick(1_000_000));
        assert_eq!(fired(&mut wheel, 2_000), [0]);
        let woken_ms = 4_000_000;
        wheel.set(0, Tick(woken_ms * 1_000), Tick((woken_ms + 5_000) * 1_000));
        assert_eq!(fired(&mut wheel, woken_ms + 4_999), [0u32; 0]);
        assert_eq!(fired(&mut wheel, woken_ms + 5_128), [0]);
    }

    #[test]
    fn a_long_pause_loses_nothing() {
        let mut wheel = Wheel::new();
        for slot in 0..1_000 {
            wheel.set(slot, Tick(0), Tick(u64::from(slot) * 100_000));
        }
        assert_eq!(fired(&mut wheel, 100_000_000).len(), 1_000);
        wheel.set(1, Tick(0), Tick(100_000_000_000 + 5_000_000));
        assert_eq!(fired(&mut wheel, 100_000_000 + 4_000), [0u32; 0]);
        assert_eq!(fired(&mut wheel, 100_000_000 + 6_000), [1]);
    }
}
