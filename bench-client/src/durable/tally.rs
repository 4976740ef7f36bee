//! What a worker counts of durable messages.
#![forbid(unsafe_code)]

/// Counts that only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DurableTally {
    /// Messages that the gateway accepted.
    pub(crate) accepted: u64,
    /// Those of them that it accepted before the end of the sending phase.
    pub(crate) accepted_in_phase: u64,
    /// Answers that were the first one again.
    pub(crate) accepted_before: u64,
    /// Answers to nothing that waited for one, or for another channel, or without a sequence.
    pub(crate) misanswered: u64,
    /// Messages sent again: refused before, or unanswered when their connection ended.
    pub(crate) resent: u64,
    /// Messages that were neither accepted nor refused in the end, though their sender's connection was up.
    pub(crate) unanswered: u64,
    /// RECEIVED frames sent.
    pub(crate) acknowledgements: u64,
    /// RECEIVED and READ frames refused, though what they said was right.
    pub(crate) refused_acknowledgements: u64,
    /// Messages that came again on a later connection, as they may when they were not acknowledged.
    pub(crate) repeated: u64,
    /// Messages of earlier runs.
    pub(crate) leftovers: u64,
    /// GAP frames.
    pub(crate) gaps: u64,
    /// By the channel's sequence: came again though they came on this connection, or had been acknowledged.
    pub(crate) duplicated: u64,
    /// By the channel's sequence: came after a later one, or before CURSORS.
    pub(crate) reordered: u64,
    /// Messages whose timestamp is not above that of the one before.
    pub(crate) back_in_time: u64,
    /// CURSORS that contradict themselves, or what their device was sent and acknowledged.
    pub(crate) wrong_cursors: u64,
}

impl DurableTally {
    /// Adds another worker's counts.
    pub(crate) fn add(&mut self, other: &DurableTally) {
        self.accepted += other.accepted;
        self.accepted_in_phase += other.accepted_in_phase;
        self.accepted_before += other.accepted_before;
        self.misanswered += other.misanswered;
        self.resent += other.resent;
        self.unanswered += other.unanswered;
        self.acknowledgements += other.acknowledgements;
        self.refused_acknowledgements += other.refused_acknowledgements;
        self.repeated += other.repeated;
        self.leftovers += other.leftovers;
        self.gaps += other.gaps;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.back_in_time += other.back_in_time;
        self.wrong_cursors += other.wrong_cursors;
    }

    /// Faults of single messages, answers and cursors. What is missing shows at the end.
    pub(crate) fn faults(&self) -> u64 {
        self.misanswered
            + self.unanswered
            + self.refused_acknowledgements
            + self.duplicated
            + self.reordered
            + self.back_in_time
            + self.wrong_cursors
    }
}
