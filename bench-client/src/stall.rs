//! When to give up a sending phase in which nothing arrives any more.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use crate::fleet::Tally;

/// The sending phase is given up when something was on its way for this long, and nothing arrived.
pub(crate) const SEND_STALL: Duration = Duration::from_secs(5);

/// What the gateway owes for what is sent to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owed {
    /// Deliveries for each message: a fan-out's members get them all.
    pub(crate) deliveries_per_message: u64,
    /// Deliveries of messages of earlier phases.
    pub(crate) deliveries: u64,
    /// An ACCEPTED for each message.
    pub(crate) answers: bool,
}

impl Owed {
    /// Deliveries and answers that the gateway still owes for what was sent since `before`. It may refuse more than was sent, being
    /// under test.
    pub(crate) fn outstanding(&self, tally: &Tally, before: &Tally) -> u64 {
        let sent = (tally.sent - before.sent).saturating_sub(tally.refused - before.refused);
        let answers = if self.answers { sent.saturating_sub(tally.durable.accepted - before.durable.accepted) } else { 0 };
        (self.deliveries + sent * self.deliveries_per_message).saturating_sub(tally.received - before.received) + answers
    }
}

/// How long the gateway has owed something without delivering or answering anything.
#[derive(Debug)]
pub(crate) struct StallClock {
    came: u64,
    since: Instant,
}

impl StallClock {
    pub(crate) fn start(now: Instant) -> StallClock {
        StallClock { came: 0, since: now }
    }

    /// Takes the counts as they stand now. With nothing on its way the clock stands still: an open loop of few messages has long
    /// pauses in which nothing can arrive.
    pub(crate) fn is_stalled(&mut self, tally: &Tally, outstanding: u64, now: Instant) -> bool {
        let came = tally.received + tally.durable.accepted;
        if came > self.came || outstanding == 0 {
            *self = StallClock { came, since: now };
        }
        now.duration_since(self.since) > SEND_STALL
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::DurableTally;

    const TWICE: Owed = Owed { deliveries_per_message: 2, deliveries: 0, answers: false };

    fn outstanding(owed: &Owed, tally: &Tally) -> u64 {
        owed.outstanding(tally, &Tally::default())
    }

    fn is_stalled(clock: &mut StallClock, owed: &Owed, tally: &Tally, now: Instant) -> bool {
        clock.is_stalled(tally, outstanding(owed, tally), now)
    }

    /// Whether the clock runs out while these counts stand for `SEND_STALL` and a little more.
    fn runs_out(clock: &mut StallClock, sent: u64, received: u64, begun: Instant) -> bool {
        let tally = Tally { sent, received, ..Tally::default() };
        is_stalled(clock, &TWICE, &tally, begun);
        is_stalled(clock, &TWICE, &tally, begun + SEND_STALL + Duration::from_millis(1))
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
        assert!(!is_stalled(&mut clock, &TWICE, &Tally { sent: 1, received: 2, ..Tally::default() }, later));
        assert!(!is_stalled(&mut clock, &TWICE, &Tally { sent: 2, received: 2, ..Tally::default() }, later + SEND_STALL));
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
        assert_eq!(outstanding(&TWICE, &tally), 0);
    }

    #[test]
    fn answers_are_owed_too_and_count_as_life() {
        let owed = Owed { deliveries_per_message: 1, deliveries: 10, answers: true };
        let tally = |received, accepted| {
            let durable = DurableTally { accepted, ..DurableTally::default() };
            Tally { sent: 4, refused: 1, received, durable, ..Tally::default() }
        };
        assert_eq!(
            (outstanding(&owed, &tally(0, 0)), outstanding(&owed, &tally(13, 2)), outstanding(&owed, &tally(13, 3))),
            (16, 1, 0)
        );
        let begun = Instant::now();
        let mut clock = StallClock::start(begun);
        assert!(!is_stalled(&mut clock, &owed, &tally(5, 0), begun));
        assert!(!is_stalled(&mut clock, &owed, &tally(5, 1), begun + SEND_STALL + Duration::from_millis(1)));
        assert!(is_stalled(&mut clock, &owed, &tally(5, 1), begun + 3 * SEND_STALL));
    }

    #[test]
    fn what_an_earlier_phase_owed_is_no_part_of_this_one() {
        let before = Tally { sent: 10, received: 15, refused: 1, ..Tally::default() };
        let tally = Tally { sent: 12, received: 18, refused: 1, ..Tally::default() };
        assert_eq!(TWICE.outstanding(&tally, &before), 1);
    }
}
