//! The parts of a result that only `offline` and `storm` have.
#![forbid(unsafe_code)]

use serde::Serialize;

use crate::{fleet::Outcome, measure::Percentiles, scenario::storm::StormConfig};

/// Field meanings: `schema.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct OfflineReport {
    pub(crate) senders: u32,
    pub(crate) messages: u32,
    pub(crate) groups: u32,
    pub(crate) replay_s: f64,
    pub(crate) looked: u64,
    pub(crate) came_again: u64,
}

/// Field meanings: `schema.md`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct StormReport {
    pub(crate) dropped: u32,
    pub(crate) returned: u64,
    pub(crate) drop_after_s: f64,
    pub(crate) jitter_ms: u32,
    pub(crate) back_us: Option<Percentiles>,
    pub(crate) logins_per_s: f64,
    pub(crate) repeated_logins: u64,
}

impl StormReport {
    pub(crate) fn new(config: &StormConfig, outcome: &Outcome) -> StormReport {
        let returned = outcome.return_us.len();
        StormReport {
            dropped: config.mail.receivers,
            returned,
            drop_after_s: config.drop_after_us as f64 / 1e6,
            jitter_ms: config.jitter_ms,
            back_us: Percentiles::of_any(&outcome.return_us),
            logins_per_s: if returned == 0 { 0.0 } else { returned as f64 * 1e6 / outcome.return_us.max().max(1) as f64 },
            repeated_logins: outcome.tally.retried_returns,
        }
    }

    /// Why the run is not valid, if it is for want of clients.
    pub(super) fn reason(&self) -> Option<String> {
        let away = u64::from(self.dropped).saturating_sub(self.returned);
        (away > 0).then(|| format!("{away} of {} clients did not drop and come back", self.dropped))
    }
}
