//! How often a client is asked to say that it lives: longer on a slow or lossy path, shorter on a good one.
//!
//! Round trips are smoothed as in RFC 6298, section 2.
#![forbid(unsafe_code)]

/// The bounds of the interval, and what silence means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatRules {
    /// Announced by LOGIN_OK.
    pub interval_ms: u32,
    pub interval_min_ms: u32,
    pub interval_max_ms: u32,
    /// So many intervals of silence bring a probe.
    pub missed_max: u32,
    /// So long the probe may stay unanswered.
    pub probe_timeout_ms: u32,
}

/// A smoothed round trip above this makes a path slow, below a quarter of it good.
const SLOW_SRTT_US: u32 = 400_000;
/// A deviation above this makes a path lossy, below a quarter of it good.
const SLOW_RTTVAR_US: u32 = 200_000;

/// What is known of one connection's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// What the client was told last.
    pub interval_ms: u32,
    srtt_us: u32,
    rttvar_us: u32,
    /// Since the last PING, the client was silent for longer than it may.
    late: bool,
}

impl Heartbeat {
    /// For a new session.
    pub fn new(rules: &HeartbeatRules) -> Heartbeat {
        Heartbeat { interval_ms: rules.interval_ms, srtt_us: 0, rttvar_us: 0, late: false }
    }

    /// A round trip was measured: by the client (told in its PING) or by us (its PONG).
    pub fn measured(&mut self, rtt_us: u32) {
        if rtt_us == 0 {
            return;
        }
        // A made-up value must not poison the average: no real path is slower than a minute.
        let rtt_us = rtt_us.min(60_000_000);
        if self.srtt_us == 0 {
            self.srtt_us = rtt_us;
            self.rttvar_us = rtt_us / 2;
        } else {
            let deviation = self.srtt_us.abs_diff(rtt_us);
            self.rttvar_us = (self.rttvar_us / 4) * 3 + deviation / 4;
            self.srtt_us = (self.srtt_us / 8) * 7 + rtt_us / 8;
        }
    }

    /// Something came after so long a silence. Whoever sends other frames need not send PINGs.
    pub fn heard_after(&mut self, silent_ms: u32) {
        self.late |= silent_ms > self.interval_ms.saturating_add(self.interval_ms / 2);
    }

    /// A PING came. Returns the interval to announce.
    pub fn pinged(&mut self, rules: &HeartbeatRules) -> u32 {
        let late = std::mem::take(&mut self.late);
        let slow = self.srtt_us > SLOW_SRTT_US || self.rttvar_us > SLOW_RTTVAR_US;
        let good = (1..SLOW_SRTT_US / 4).contains(&self.srtt_us) && self.rttvar_us < SLOW_RTTVAR_US / 4;
        let next = if late || slow {
            self.interval_ms.saturating_add(self.interval_ms / 2)
        } else if good {
            self.interval_ms - self.interval_ms / 8
        } else {
            self.interval_ms
        };
        self.interval_ms = next.clamp(rules.interval_min_ms, rules.interval_max_ms);
        self.interval_ms
    }

    /// Asks for no shorter interval than this, as far as the rules allow. Returns the interval to announce.
    pub fn spare(&mut self, least_ms: u32, rules: &HeartbeatRules) -> u32 {
        self.interval_ms = self.interval_ms.max(least_ms.min(rules.interval_max_ms));
        self.interval_ms
    }

    /// Silence for this long brings a probe, in milliseconds.
    pub fn silence_max_ms(&self, rules: &HeartbeatRules) -> u32 {
        self.interval_ms.saturating_mul(rules.missed_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: HeartbeatRules = HeartbeatRules {
        interval_ms: 30_000,
        interval_min_ms: 20_000,
        interval_max_ms: 120_000,
        missed_max: 3,
        probe_timeout_ms: 10_000,
    };

    fn settle(rtt_us: u32, gap_ms: u32) -> u32 {
        let mut heartbeat = Heartbeat::new(&RULES);
        for _ in 0..40 {
            heartbeat.heard_after(gap_ms.max(heartbeat.interval_ms));
            heartbeat.measured(rtt_us);
            heartbeat.pinged(&RULES);
        }
        heartbeat.interval_ms
    }

    #[test]
    fn a_good_path_gets_the_shortest_interval() {
        assert_eq!(settle(20_000, 0), RULES.interval_min_ms);
    }

    #[test]
    fn a_slow_path_gets_the_longest_interval() {
        assert_eq!(settle(900_000, 0), RULES.interval_max_ms);
    }

    #[test]
    fn late_pings_lengthen_the_interval() {
        assert_eq!(settle(20_000, 300_000), RULES.interval_max_ms);
    }

    #[test]
    fn who_says_other_things_between_its_pings_is_not_late() {
        let mut heartbeat = Heartbeat::new(&RULES);
        for _ in 0..40 {
            // A message each second, a PING every five minutes.
            for _ in 0..300 {
                heartbeat.heard_after(1_000);
            }
            heartbeat.measured(20_000);
            heartbeat.pinged(&RULES);
        }
        assert_eq!(heartbeat.interval_ms, RULES.interval_min_ms);
    }

    #[test]
    fn an_ordinary_path_and_an_unmeasured_one_keep_it() {
        assert_eq!(settle(200_000, 0), RULES.interval_ms);
        assert_eq!(settle(0, 0), RULES.interval_ms);
    }

    #[test]
    fn absurd_round_trips_are_survived() {
        assert_eq!(settle(u32::MAX, 0), RULES.interval_max_ms);
    }
}
