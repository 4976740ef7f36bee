//! A coarse timing wheel: one entry per connection, which traffic never touches. Whoever is woken looks whether it is
//! really due, and if not, goes back in.
#![forbid(unsafe_code)]

use weir::io::Tick;

/// How late an entry may come up.
const SLOT_MS: u64 = 100;
/// Entries further ahead come up early, after this many slots.
const SLOTS: u64 = 1024;

/// Which connections to look at, and when.
#[derive(Debug)]
pub(crate) struct Wheel {
    slots: Vec<Vec<u32>>,
    /// The first slot, counted from tick 0, that was not opened yet.
    next: u64,
    entries: usize,
}

impl Wheel {
    pub(crate) fn new() -> Wheel {
        Wheel { slots: (0..SLOTS).map(|_| Vec::new()).collect(), next: 0, entries: 0 }
    }

    /// Has `link` come up at `at_ms`, or up to a slot later.
    pub(crate) fn insert(&mut self, link: u32, at_ms: u64) {
        let slot = (at_ms / SLOT_MS + 1).clamp(self.next, self.next + SLOTS - 1);
        self.slots[(slot % SLOTS) as usize].push(link);
        self.entries += 1;
    }

    /// Moves the links that have come up to the end of `due`.
    pub(crate) fn advance(&mut self, now: Tick, due: &mut Vec<u32>) {
        let current = now.as_ms() / SLOT_MS;
        if self.entries == 0 {
            self.next = self.next.max(current + 1);
            return;
        }
        while self.next <= current {
            let slot = &mut self.slots[(self.next % SLOTS) as usize];
            self.entries -= slot.len();
            due.append(slot);
            self.next += 1;
        }
    }

    /// When to call `advance` again.
    pub(crate) fn wake_at(&self) -> Option<Tick> {
        (self.entries > 0).then_some(Tick(self.next * SLOT_MS * 1_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The time at which `link`, inserted at `start_ms` for `at_ms`, comes up.
    fn comes_up(start_ms: u64, at_ms: u64) -> u64 {
        let mut wheel = Wheel::new();
        let mut due = Vec::new();
        wheel.advance(Tick(start_ms * 1_000), &mut due);
        wheel.insert(5, at_ms);
        loop {
            let now = wheel.wake_at().expect("an entry waits");
            wheel.advance(now, &mut due);
            if !due.is_empty() {
                assert_eq!(due, [5]);
                assert_eq!(wheel.wake_at(), None);
                return now.as_ms();
            }
        }
    }

    #[test]
    fn entries_come_up_on_time_and_never_early() {
        for (start, at) in [(0, 0), (0, 99), (0, 100), (12_345, 12_400), (12_345, 42_345), (500_000, 600_000)] {
            let up = comes_up(start, at);
            assert!((at..=at + 2 * SLOT_MS).contains(&up), "wanted {at}, came {up}");
        }
    }

    #[test]
    fn what_is_past_comes_up_at_once_and_what_is_far_ahead_comes_early() {
        assert!(comes_up(50_000, 10) <= 50_000 + 2 * SLOT_MS);
        assert!(comes_up(0, 10_000_000) >= (SLOTS - 2) * SLOT_MS);
    }
}
