//! What only the bare loops have.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use weir::reactor::limit::Counts;

/// The loop that was measured, and what it says that it did.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct LimitReport {
    pub(crate) reactor: &'static str,
    pub(crate) core: usize,
    #[serde(flatten)]
    pub(crate) counts: LimitCounts,
}

/// What a loop says when it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LimitCounts {
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    pub(crate) overrun: u64,
    pub(crate) parked: u64,
    pub(crate) turns: u64,
}

impl From<Counts> for LimitCounts {
    fn from(counts: Counts) -> LimitCounts {
        let Counts { accepted, refused, overrun, parked, turns } = counts;
        LimitCounts { accepted, refused, overrun, parked, turns }
    }
}

impl LimitCounts {
    /// Why the run is not valid, if the loop closed connections that it should have served.
    pub(super) fn reasons(&self) -> impl Iterator<Item = String> {
        let refused = (self.refused > 0).then(|| format!("the loop had no room for {} connections", self.refused));
        let overrun = (self.overrun > 0).then(|| {
            format!(
                "the loop closed {} publishers, because a member was too far behind: lower --window or --payload",
                self.overrun
            )
        });
        refused.into_iter().chain(overrun)
    }
}
