//! A token bucket with a debt: what is over the rate is refused, and who goes on regardless is closed.
#![forbid(unsafe_code)]

/// What one connection may do, a second. 0: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub per_second: u32,
}

/// What a bucket says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Granted,
    /// Over the rate. The request was charged all the same.
    Refused {
        retry_after_ms: u32,
    },
    /// A whole burst over the rate: the peer does not heed refusals.
    Abuse,
}

/// The state of one bucket: 4 bytes; the time of the last refill is shared by a connection's buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    level: i32,
}

impl Rate {
    /// Two seconds' worth.
    fn burst(self) -> i64 {
        i64::from(self.per_second) * 2
    }
}

impl Bucket {
    /// A full bucket.
    pub fn new(rate: Rate) -> Bucket {
        Bucket { level: saturate(rate.burst()) }
    }

    /// Adds what the `elapsed_ms` since `since_ms`, the end of the last refill, have brought.
    ///
    /// What is due at a moment is rounded, not what an interval brings: small rates would lose up to all of it otherwise.
    pub fn refill(&mut self, rate: Rate, since_ms: u32, elapsed_ms: u32) {
        let due = |at_ms: i64| i64::from(rate.per_second).saturating_mul(at_ms) / 1_000;
        let since_ms = i64::from(since_ms % 1_000);
        let gained = due(since_ms + i64::from(elapsed_ms)) - due(since_ms);
        self.level = saturate((i64::from(self.level) + gained).min(rate.burst()));
    }

    /// Asks for `amount`.
    pub fn take(&mut self, rate: Rate, amount: u32) -> Verdict {
        if rate.per_second == 0 {
            return Verdict::Granted;
        }
        let level = i64::from(self.level) - i64::from(amount);
        self.level = saturate(level);
        if level >= 0 {
            Verdict::Granted
        } else if level >= -rate.burst() {
            let wait_ms = (-level) * 1_000 / i64::from(rate.per_second) + 1;
            Verdict::Refused { retry_after_ms: wait_ms as u32 }
        } else {
            Verdict::Abuse
        }
    }

    /// Gives back what was taken for a request that was then not carried out.
    pub fn put_back(&mut self, rate: Rate, amount: u32) {
        self.level = saturate((i64::from(self.level) + i64::from(amount)).min(rate.burst()));
    }
}

fn saturate(level: i64) -> i32 {
    level.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 10 };

    #[test]
    fn a_burst_then_refusals_then_abuse() {
        let mut bucket = Bucket::new(RATE);
        for _ in 0..20 {
            assert_eq!(bucket.take(RATE, 1), Verdict::Granted);
        }
        for _ in 0..20 {
            assert!(matches!(bucket.take(RATE, 1), Verdict::Refused { retry_after_ms: 1.. }));
        }
        assert_eq!(bucket.take(RATE, 1), Verdict::Abuse);
    }

    #[test]
    fn who_waits_is_served_again() {
        let mut bucket = Bucket::new(RATE);
        for _ in 0..20 {
            bucket.take(RATE, 1);
        }
        let Verdict::Refused { retry_after_ms } = bucket.take(RATE, 1) else { panic!("the bucket is empty") };
        bucket.refill(RATE, 0, retry_after_ms + 100);
        assert_eq!(bucket.take(RATE, 1), Verdict::Granted);
    }

    #[test]
    fn small_rates_lose_nothing_to_rounding() {
        let rate = Rate { per_second: 7 };
        for step_ms in [1u32, 10, 13, 99, 142, 1_001] {
            let mut bucket = Bucket::new(rate);
            assert_eq!(bucket.take(rate, 14), Verdict::Granted, "the burst");
            let (mut granted, mut now_ms) = (0u32, 0u32);
            while now_ms < 100_000 {
                bucket.refill(rate, now_ms, step_ms);
                now_ms += step_ms;
                while bucket.take(rate, 1) == Verdict::Granted {
                    granted += 1;
                }
                bucket.put_back(rate, 1);
            }
            assert!((700..=707).contains(&granted), "{granted} in 100 s by steps of {step_ms} ms");
        }
    }

    #[test]
    fn idling_gathers_no_more_than_the_burst() {
        let mut bucket = Bucket::new(RATE);
        bucket.refill(RATE, 0, u32::MAX);
        assert_eq!(bucket, Bucket::new(RATE));
    }

    #[test]
    fn the_largest_rate_does_not_overflow() {
        let rate = Rate { per_second: u32::MAX };
        let mut bucket = Bucket::new(rate);
        bucket.refill(rate, 0, u32::MAX);
        assert_eq!(bucket.take(rate, i32::MAX as u32), Verdict::Granted);
    }

    #[test]
    fn zero_means_no_limit() {
        let mut bucket = Bucket::new(Rate { per_second: 0 });
        assert_eq!(bucket.take(Rate { per_second: 0 }, u32::MAX), Verdict::Granted);
    }
}
