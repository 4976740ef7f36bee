//! Hybrid logical timestamps (Kulkarni et al., "Logical Physical Clocks", 2014): close to the wall clock, and never twice the same.
#![forbid(unsafe_code)]

/// Bits of the counter below the milliseconds.
const COUNTER_BITS: u32 = 16;

/// Gives timestamps: milliseconds since the Unix epoch in the upper 48 bits, a counter in the lower 16.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    last: u64,
}

impl Clock {
    /// The next timestamp: larger than every one before, whatever the wall clock does. A counter that overflows borrows from the
    /// milliseconds.
    pub fn tick(&mut self, wall_ms: u64) -> u64 {
        self.last = (self.last + 1).max(Clock::of_wall_ms(wall_ms));
        self.last
    }

    /// Takes note of a timestamp that was given elsewhere, or before a restart.
    pub fn observe(&mut self, timestamp: u64) {
        self.last = self.last.max(timestamp);
    }

    /// The newest timestamp, given here or elsewhere.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The earliest timestamp of this time.
    pub fn of_wall_ms(wall_ms: u64) -> u64 {
        wall_ms << COUNTER_BITS
    }

    /// The wall clock's part of a timestamp.
    pub fn wall_ms(timestamp: u64) -> u64 {
        timestamp >> COUNTER_BITS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_grow_even_if_the_wall_clock_goes_back() {
        let mut clock = Clock::default();
        let mut last = 0;
        for wall_ms in [5, 5, 5, 9, 3, 3, 10] {
            let next = clock.tick(wall_ms);
            assert!(next > last);
            last = next;
        }
        assert_eq!(Clock::wall_ms(last), 10);
        clock.observe(20 << 16 | 7);
        assert_eq!(clock.tick(11), 20 << 16 | 8);
    }
}
