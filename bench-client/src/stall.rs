//! When to give up a sending phase in which nothing arrives any more.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use crate::fleet::Tally;

/// The sending phase is given up when something was on its way for this long, and nothing arrived.
pub(crate) const SEND_STALL: Duration = Duration::from_secs(5);

/// Deliveries that the gateway still owes. It may refuse more than was sent, being under test.
pub(crate) fn outstanding(tally: &Tally, deliveries_per_message: u64) -> u64 {
    (tally.sent.saturating_sub(tally.refused) * deliveries_per_message).saturating_sub(tally.received)
}

/// How long the gateway has owed something without delivering anything.
#[derive(Debug)]
pub(crate) struct StallClock {
    received: u64,
    since: Instant,
}

impl StallClock {
    pub(crate) fn start(now: Instant) -> StallClock {
        StallClock { received: 0, since: now }
    }

    /// Takes the counts as they stand now. With nothing on its way the clock stands still: an open loop of few messages has long
    /// pauses in which nothing can arrive.
    pub(crate) fn is_stalled(&mut self, tally: &Tally, deliveries_per_message: u64, now: Instant) -> bool {
        if tally.received > self.received || outstanding(tally, deliveries_per_message) == 0 {
            *self = StallClock { received: tally.received, since: now };
        }
        now.duration_since(self.since) > SEND_STALL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the clock runs out while these counts stand for `SEND_STALL` and a little more.
    fn runs_out(clock: &mut StallClock, sent: u64, received: u64, begun: Instant) -> bool {
        let tally = Tally { sent, received, ..Tally::default() };
        clock.is_stalled(&tally, 2, begun);
        clock.is_stalled(&tally, 2, begun + SEND_STALL + Duration::from_millis(1))
    }

    #[test]
    fn a_pause_between_messages_is_no_stall() {
        let begun = Instant::now();
        let mut clock = StallClock::start(begun);
        assert!(!runs_out(&mut clock, 0, 0, begun));
        let later = begun + Duration::from_secs(10);
        assert!(!runs_out(&mut clock, 1, 2, later));
        // The next message, after ten seconds of silence, has its whole time too.
        let later = later + Duration::from_secs(10);
        assert!(!clock.is_stalled(&Tally { sent: 1, received: 2, ..Tally::default() }, 2, later));
        assert!(!clock.is_stalled(&Tally { sent: 2, received: 2, ..Tally::default() }, 2, later + SEND_STALL));
    }

    #[test]
    fn a_gateway_that_owes_and_says_nothing_is_a_stall() {
        let begun = Instant::now();
        assert!(runs_out(&mut StallClock::start(begun), 1, 0, begun));
        assert!(runs_out(&mut StallClock::start(begun), 1, 1, begun));
    }

    #[test]
    fn refused_messages_are_not_owed_however_many() {
        let tally = Tally { sent: 3, refused: 5, ..Tally::default() };
        assert_eq!(outstanding(&tally, 10), 0);
    }
}
