//! The part of a result that tells of durable messages.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::Serialize;
use weir::wire::body::Durability;

use crate::{durable::Receiving, fleet::Outcome, measure::Percentiles, scenario::Settled};

/// Field meanings: `schema.md`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DurableReport {
    pub(crate) accepted: u64,
    pub(crate) accepted_per_s: f64,
    pub(crate) accepted_us: Option<Percentiles>,
    pub(crate) durability: Option<&'static str>,
    pub(crate) accepted_before: u64,
    pub(crate) resent: u64,
    pub(crate) unanswered: u64,
    pub(crate) misanswered: u64,
    pub(crate) renumbered: u64,
    pub(crate) by_sequence: BySequence,
    pub(crate) back_in_time: u64,
    pub(crate) wrong_cursors: u64,
    pub(crate) channels: u64,
    pub(crate) faulty_channels: u64,
    pub(crate) faults_by_channel: BTreeMap<String, BySequence>,
    pub(crate) repeated: u64,
    pub(crate) leftovers: u64,
    pub(crate) gaps: u64,
    pub(crate) gone: u64,
    pub(crate) acknowledgements: u64,
    pub(crate) refused_acknowledgements: u64,
    pub(crate) receive_window: u32,
    pub(crate) ack_every: u32,
    pub(crate) ack_after_ms: f64,
}

/// Exactness by the channel's own sequence.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct BySequence {
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
}

impl DurableReport {
    /// `seconds`: how long messages were sent.
    pub(super) fn new(receiving: Receiving, outcome: &Outcome, settled: &Settled, seconds: f64) -> DurableReport {
        let tally = &outcome.tally.durable;
        let faulty = settled.faulty.iter().map(|channel| {
            let (lost, faults) = (channel.lost, channel.faults);
            (channel.name.clone(), BySequence { lost, duplicated: faults.duplicated, reordered: faults.reordered })
        });
        DurableReport {
            accepted: tally.accepted,
            accepted_per_s: if seconds > 0.0 { tally.accepted_in_phase as f64 / seconds } else { 0.0 },
            accepted_us: Percentiles::of_any(&outcome.accepted_us),
            durability: outcome.durability.map(durability),
            accepted_before: tally.accepted_before,
            resent: tally.resent,
            unanswered: tally.unanswered,
            misanswered: tally.misanswered,
            renumbered: settled.renumbered,
            by_sequence: BySequence { lost: settled.lost_sequences, duplicated: tally.duplicated, reordered: tally.reordered },
            back_in_time: tally.back_in_time,
            wrong_cursors: tally.wrong_cursors,
            channels: settled.channels,
            faulty_channels: settled.faulty_channels,
            faults_by_channel: faulty.collect(),
            repeated: tally.repeated,
            leftovers: tally.leftovers,
            gaps: tally.gaps,
            gone: settled.gone,
            acknowledgements: tally.acknowledgements,
            refused_acknowledgements: tally.refused_acknowledgements,
            receive_window: receiving.window,
            ack_every: receiving.ack_every,
            ack_after_ms: receiving.ack_after_us as f64 / 1e3,
        }
    }

    /// What did not come, or was not answered, as it should be.
    pub(super) fn faults(&self) -> u64 {
        let by_sequence = self.by_sequence.lost + self.by_sequence.duplicated + self.by_sequence.reordered;
        let answers = self.unanswered + self.misanswered + self.renumbered + self.refused_acknowledgements;
        by_sequence + answers + self.back_in_time + self.wrong_cursors
    }

    /// Why the run is not valid though nothing was lost without a word.
    pub(super) fn gone_reason(&self) -> Option<String> {
        (self.gone > 0).then(|| {
            format!(
                "{} messages were older, or more, than the gateway keeps, as its GAPs say: raise its retention, or send less",
                self.gone
            )
        })
    }
}

/// A durability's name.
fn durability(number: i32) -> &'static str {
    match Durability::try_from(number) {
        Ok(Durability::Memory) => "memory",
        Ok(Durability::Fsync) => "fsync",
        Ok(Durability::Replicated) => "replicated",
        Ok(Durability::Unknown) | Err(_) => "unknown",
    }
}
