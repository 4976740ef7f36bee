//! Where all runs were made.
#![forbid(unsafe_code)]

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use weir::reactor::Kind;

use super::{cores::Cores, pauses::Pauses};
use crate::report::Host;

/// The machine and this program, as single results tell them, and what else makes results differ.
#[derive(Clone, Debug, Serialize)]
pub(super) struct BenchHost {
    #[serde(flatten)]
    host: Host,
    cpu_model: String,
    memory_bytes: u64,
    load_average: f64,
    pauses: Pauses,
    started_unix_s: u64,
}

impl BenchHost {
    /// To be asked before anything is started: the load, and what keeps the cores, is that of others.
    ///
    /// # Errors
    /// The kernel does not let the cores be looked at.
    pub(super) fn here(kind: Kind, cores: &Cores) -> anyhow::Result<BenchHost> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Ok(BenchHost {
            host: Host::here(kind),
            cpu_model: value_of(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            memory_bytes: value_of(&read("/proc/meminfo"), "MemTotal").as_deref().and_then(kib).unwrap_or(0) * 1024,
            load_average: read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
            pauses: Pauses::here(cores)?,
            started_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        })
    }

    pub(super) fn load_average(&self) -> f64 {
        self.load_average
    }

    pub(super) fn pauses(&self) -> Pauses {
        self.pauses
    }

    pub(super) fn words(&self) -> String {
        format!("{}, {} cores, kernel {}", self.cpu_model, self.host.cores, self.host.kernel)
    }
}

/// What stands behind the first line's colon that begins with this label.
fn value_of(text: &str, label: &str) -> Option<String> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(name, _)| name.trim() == label).map(|(_, value)| value.trim().to_owned())
}

fn kib(value: &str) -> Option<u64> {
    value.strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known() {
        let host = BenchHost::here(Kind::Epoll, &Cores::here().expect("known")).expect("looked at");
        assert!(!host.cpu_model.is_empty() && host.memory_bytes > 64 << 20 && host.started_unix_s > 1_700_000_000, "{host:?}");
        assert_eq!(value_of("a: 1\nmodel name\t: X Y: Z\n", "model name").as_deref(), Some("X Y: Z"));
        assert_eq!((kib("24 kB"), kib("24")), (Some(24), None));
    }
}
