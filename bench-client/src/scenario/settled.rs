//! The books of senders held against those of receivers.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use crate::{durable::LineFaults, fleet::Ledger};

/// Channels that are told one by one, at most.
const FAULTY_CHANNELS_MAX: usize = 16;

/// A channel at one receiver that did not bring one sequence after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FaultyChannel {
    pub(crate) name: String,
    pub(crate) lost: u64,
    pub(crate) faults: LineFaults,
}

/// What the ledgers say together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    /// Deliveries that should have been.
    pub(crate) expected: u64,
    /// Those of them that were not.
    pub(crate) lost: u64,
    /// Deliveries of messages that the gateway had told the sender it refused.
    pub(crate) contradicted: u64,
    /// Durable deliveries that came after a later one of their sender, though nothing of it was refused.
    pub(crate) reordered: u64,
    /// Durable streams that came under other sequences than ACCEPTED had named.
    pub(crate) renumbered: u64,
    /// Durable deliveries that retention removed, and that the gateway said are gone.
    pub(crate) gone: u64,
    /// Sequences that never came, of all channels at all their receivers.
    pub(crate) lost_sequences: u64,
    /// Channels at their receivers: how many there are, how many had a fault, and the first of those.
    pub(crate) channels: u64,
    pub(crate) faulty_channels: u64,
    pub(crate) faulty: Vec<FaultyChannel>,
}

impl Settled {
    /// Holds an outgoing stream against one of the incoming streams that it leads to.
    pub(super) fn add(&mut self, (from, outgoing): (&Ledger, u32), (to, incoming): (&Ledger, u32)) {
        let sent = from.sent[outgoing as usize];
        let among = |marks: Option<&BTreeSet<u32>>| {
            marks.map_or((0, 0), |marks| (marks.len() as u32, to.received.count_among(incoming as usize, marks.iter().copied())))
        };
        let refused = from.durable.as_ref().map_or(&from.refused, |durable| &durable.refused);
        let (refused, contradicted) = among(refused.get(&outgoing));
        let (unanswered, all_the_same) = among(from.durable.as_ref().and_then(|durable| durable.unanswered.get(&outgoing)));
        // Of different messages none is counted twice, and what came was sent, as its checksum says; so nothing falls below 0.
        let expected = sent - refused - unanswered;
        let came = to.received.count(incoming as usize) - contradicted - all_the_same;
        self.expected += u64::from(expected);
        self.lost += u64::from(expected.saturating_sub(came));
        self.contradicted += u64::from(contradicted);
        let (Some(from), Some(to)) = (&from.durable, &to.durable) else { return };
        let may_be_late = |sequence: &u32| from.deferred.get(&outgoing).is_some_and(|deferred| deferred.contains(sequence));
        let late = to.late.get(&incoming).into_iter().flatten().filter(|sequence| !may_be_late(sequence));
        self.reordered += late.count() as u64;
        if came == sent {
            let is_told = from.numbered[outgoing as usize].pairings == to.pairings[incoming as usize];
            self.renumbered += u64::from(!is_told);
        }
    }

    /// Looks at a channel of a receiver, whose streams were added since `lost` was `lost_before`. `last` is the highest sequence that
    /// any sender was told.
    pub(super) fn add_channel(&mut self, to: &Ledger, line: u32, last: u64, lost_before: u64, name: impl FnOnce() -> String) {
        let Some(durable) = &to.durable else { return };
        let gone = durable.lines.gone(line).min(self.lost - lost_before);
        self.lost -= gone;
        self.expected -= gone;
        self.gone += gone;
        let (lost, faults) = (durable.lines.missing(line, last), durable.lines.faults(line));
        self.lost_sequences += lost;
        self.channels += 1;
        if lost > 0 || faults != LineFaults::default() {
            self.faulty_channels += 1;
            if self.faulty.len() < FAULTY_CHANNELS_MAX {
                self.faulty.push(FaultyChannel { name: name(), lost, faults });
            }
        }
    }

    /// The highest sequence that the sender of a stream was told.
    pub(super) fn last_told(from: &Ledger, outgoing: u32) -> u64 {
        from.durable.as_ref().map_or(0, |durable| durable.numbered[outgoing as usize].last)
    }
}
