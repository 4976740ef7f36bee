//! The largest of the numbers of the last moments. Pure: time is an argument.
#![forbid(unsafe_code)]

use std::time::Duration;

/// A number stays the largest for one to two windows.
#[derive(Debug)]
pub struct Peak {
    window: Duration,
    /// Which window this is, since the beginning.
    number: u128,
    this: u64,
    last: u64,
}

impl Peak {
    /// Nothing was seen.
    pub fn new(window: Duration) -> Peak {
        Peak { window, number: 0, this: 0, last: 0 }
    }

    /// Takes note of a number. `now`: since any beginning that stays.
    pub fn note(&mut self, now: Duration, value: u64) {
        self.largest(now);
        self.this = self.this.max(value);
    }

    /// The largest of the last one to two windows; 0 if there was none.
    pub fn largest(&mut self, now: Duration) -> u64 {
        let number = now.as_nanos() / self.window.as_nanos();
        if number > self.number {
            self.last = if number == self.number + 1 { self.this } else { 0 };
            (self.number, self.this) = (number, 0);
        }
        self.this.max(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_is_forgotten_after_two_windows() {
        let at = Duration::from_secs;
        let mut peak = Peak::new(at(10));
        peak.note(at(1), 5);
        peak.note(at(9), 3);
        assert_eq!(peak.largest(at(9)), 5);
        peak.note(at(12), 4);
        assert_eq!(peak.largest(at(19)), 5, "for one window more");
        assert_eq!(peak.largest(at(20)), 4);
        peak.note(at(25), 1);
        assert_eq!(peak.largest(at(30)), 1);
        assert_eq!(peak.largest(at(55)), 0, "nothing for a long while");
    }
}
