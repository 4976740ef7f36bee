//! One coarse timing wheel for all connections of a shard: a hashed wheel (Varghese and Lauck, 1987) whose buckets are
//! doubly linked lists through one table, 12 bytes a connection. Traffic never touches it: a timer that fires looks at its
//! connection, and is set again if the connection was heard meanwhile.
#![forbid(unsafe_code)]

use crate::io::Tick;

/// The width of a bucket.
pub const BUCKET_MS: u64 = 64;
/// One turn of the wheel is 131 s; later deadlines fire then, and are set again.
const BUCKETS: usize = 2048;
const NONE: u32 = u32::MAX;
/// `Link::bucket` of a slot without a timer.
const UNSET: u16 = u16::MAX;

const _: () = assert!(BUCKETS < UNSET as usize);

#[derive(Clone, Copy, Debug)]
struct Link {
    prev: u32,
    next: u32,
    bucket: u16,
}

/// At most one timer for each slot.
#[derive(Debug)]
pub struct Wheel {
    heads: Box<[u32]>,
    links: Vec<Link>,
    /// The first bucket number (not wrapped) that has not been expired in full.
    current: u64,
    set: usize,
}

impl Wheel {
    /// Starts at tick 0.
    pub fn new() -> Wheel {
        Wheel { heads: vec![NONE; BUCKETS].into_boxed_slice(), links: Vec::new(), current: 0, set: 0 }
    }

    /// Sets the slot's timer to fire at or soon after `at`, instead of whatever it was set to.
    pub fn set(&mut self, slot: u32, at: Tick) {
        self.cancel(slot);
        if self.links.len() <= slot as usize {
            self.links.resize(slot as usize + 1, Link { prev: NONE, next: NONE, bucket: UNSET });
        }
        // Rounded up: never early.
        let wanted = at.as_ms() / BUCKET_MS + 1;
        let number = wanted.clamp(self.current, self.current + BUCKETS as u64 - 1);
        let bucket = (number % BUCKETS as u64) as usize;
        let head = self.heads[bucket];
        self.links[slot as usize] = Link { prev: NONE, next: head, bucket: bucket as u16 };
        if head != NONE {
            self.links[head as usize].prev = slot;
        }
        self.heads[bucket] = slot;
        self.set += 1;
    }

    /// Takes the slot's timer off, if it has one.
    pub fn cancel(&mut self, slot: u32) {
        let Some(link) = self.links.get(slot as usize).copied().filter(|link| link.bucket != UNSET) else { return };
        if link.prev == NONE {
            self.heads[usize::from(link.bucket)] = link.next;
        } else {
            self.links[link.prev as usize].next = link.next;
        }
        if link.next != NONE {
            self.links[link.next as usize].prev = link.prev;
        }
        self.links[slot as usize].bucket = UNSET;
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
            let slot = self.heads[(self.current % BUCKETS as u64) as usize];
            if slot != NONE {
                self.cancel(slot);
                return Some(slot);
            }
            self.current += 1;
        }
        None
    }

    /// When `expire` should be called next.
    pub fn next(&self) -> Option<Tick> {
        if self.set == 0 {
            return None;
        }
        let ahead = (0..BUCKETS as u64).find(|ahead| self.heads[((self.current + ahead) % BUCKETS as u64) as usize] != NONE)?;
        Some(Tick((self.current + ahead) * BUCKET_MS * 1_000))
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
            wheel.set(slot, Tick(at_ms * 1_000));
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
            wheel.set(slot, Tick(1_000_000));
        }
        for slot in [0, 5, 9] {
            wheel.cancel(slot);
            wheel.cancel(slot);
        }
        wheel.set(3, Tick(5_000_000));
        assert_eq!(fired(&mut wheel, 2_000), [1, 2, 4, 6, 7, 8]);
        assert_eq!(fired(&mut wheel, 6_000), [3]);
    }

    #[test]
    fn next_tells_when_to_look_again() {
        let mut wheel = Wheel::new();
        wheel.set(7, Tick(10_000_000));
        let at = wheel.next().expect("one is set");
        assert_eq!(wheel.expire(Tick(at.0 - 1)), None);
        assert_eq!(wheel.expire(at), Some(7));
    }

    #[test]
    fn a_deadline_beyond_the_horizon_fires_at_its_end() {
        let mut wheel = Wheel::new();
        wheel.set(1, Tick(u64::MAX / 2));
        let horizon_ms = BUCKETS as u64 * BUCKET_MS;
        assert_eq!(fired(&mut wheel, horizon_ms - 2 * BUCKET_MS), [0u32; 0]);
        assert_eq!(fired(&mut wheel, horizon_ms), [1]);
    }

    #[test]
    fn a_long_pause_loses_nothing() {
        let mut wheel = Wheel::new();
        for slot in 0..1_000 {
            wheel.set(slot, Tick(u64::from(slot) * 100_000));
        }
        assert_eq!(fired(&mut wheel, 100_000_000).len(), 1_000);
        wheel.set(1, Tick(100_000_000_000 + 5_000_000));
        assert_eq!(fired(&mut wheel, 100_000_000 + 4_000), [0u32; 0]);
        assert_eq!(fired(&mut wheel, 100_000_000 + 6_000), [1]);
    }
}
