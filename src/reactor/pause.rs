//! Pauses in accepting, where descriptors, memory or slots run out: for drivers whose connections are ordinary descriptors.
#![forbid(unsafe_code)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use nix::errno::Errno;

use crate::{limits::ACCEPT_PAUSE_MS, stats::ReactorStats};

/// A pause is logged at most this often.
const PAUSE_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Whether accepting pauses, and what was said of it.
pub(super) struct Pauses {
    until: Option<Instant>,
    /// Connections wait because the table is full.
    full: bool,
    /// Pauses since the last one that was logged.
    count: u64,
    logged_at: Option<Instant>,
    stats: Arc<ReactorStats>,
}

impl Pauses {
    pub(super) fn new(stats: Arc<ReactorStats>) -> Pauses {
        Pauses { until: None, full: false, count: 0, logged_at: None, stats }
    }

    /// Whether there is a pause now.
    pub(super) fn lasts(&mut self) -> bool {
        if self.until.is_some_and(|until| until <= Instant::now()) {
            self.until = None;
        }
        self.until.is_some()
    }

    /// How long the pause lasts yet, if there is one, in microseconds.
    pub(super) fn left_us(&self) -> Option<u64> {
        self.until.map(|until| until.saturating_duration_since(Instant::now()).as_micros() as u64 + 1)
    }

    /// A connection has gone, and its descriptor with it.
    pub(super) fn end(&mut self) {
        self.until = None;
        self.full = false;
    }

    /// Connections must wait until a slot is free.
    pub(super) fn note_full(&mut self) {
        if !std::mem::replace(&mut self.full, true) {
            self.log("this shard's table is full", "raise the limit of connections per shard, or the number of shards");
        }
    }

    /// Stops accepting for a while, because trying again at once would fail again.
    pub(super) fn begin(&mut self, errno: Errno) {
        self.until = Some(Instant::now() + Duration::from_millis(ACCEPT_PAUSE_MS));
        let advice = match errno {
            Errno::EMFILE => "raise the process's limit (LimitNOFILE= in its unit, or ulimit -n)",
            Errno::ENFILE => "raise the host's limit (sysctl fs.file-max)",
            Errno::ENOSPC => "raise the host's limit of epoll registrations (sysctl fs.epoll.max_user_watches)",
            _ => "look at the host's memory and at sysctl net.ipv4.tcp_mem",
        };
        self.log(errno.desc(), advice);
    }

    fn log(&mut self, cause: &str, advice: &str) {
        let now = Instant::now();
        self.count += 1;
        self.stats.accept_pauses.add(1);
        if self.logged_at.is_none_or(|at| now - at >= PAUSE_LOG_INTERVAL) {
            let pauses = std::mem::take(&mut self.count);
            log::warn!("accepting pauses, new clients wait: {cause} ({pauses} times since this was last said); {advice}");
            self.logged_at = Some(now);
        }
    }
}

/// accept(2): errors of the one connection that is taken from the backlog with them. The next may be fine.
pub(super) fn is_of_one_connection(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ECONNABORTED
            | Errno::EPROTO
            | Errno::ENETDOWN
            | Errno::ENOPROTOOPT
            | Errno::EHOSTDOWN
            | Errno::ENONET
            | Errno::EHOSTUNREACH
            | Errno::EOPNOTSUPP
            | Errno::ENETUNREACH
            | Errno::ETIMEDOUT
    )
}
