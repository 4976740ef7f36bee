//! Which cores servers and load run on: a process inherits them from the thread that starts it.
#![forbid(unsafe_code)]

use anyhow::Context;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// The calling thread.
const SELF: Pid = Pid::from_raw(0);

/// The cores that this program may use.
pub(super) struct Cores {
    all: Vec<usize>,
}

impl Cores {
    /// # Errors
    /// The kernel does not say.
    pub(super) fn here() -> anyhow::Result<Cores> {
        let set = sched_getaffinity(SELF).context("the cores of this program are not known")?;
        let all: Vec<usize> = (0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap_or(false)).collect();
        anyhow::ensure!(!all.is_empty(), "the kernel names no core for this program");
        Ok(Cores { all })
    }

    pub(super) fn all(&self) -> &[usize] {
        &self.all
    }

    /// The first ones: as many as the server has shards, if there are so many.
    pub(super) fn of_server(&self, shards: u32) -> &[usize] {
        &self.all[..self.all.len().min(shards as usize)]
    }

    /// The last one.
    pub(super) fn of_load(&self) -> &[usize] {
        &self.all[self.all.len() - 1..]
    }

    /// What `start` starts runs on these cores only; this thread goes on on those that it had.
    ///
    /// # Errors
    /// The kernel does not allow it.
    pub(super) fn on<T>(&self, cores: &[usize], start: impl FnOnce() -> T) -> anyhow::Result<T> {
        bind(cores)?;
        let started = start();
        bind(&self.all)?;
        Ok(started)
    }
}

/// Keeps the calling thread, and what it starts from now on, on these cores.
pub(super) fn bind(cores: &[usize]) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    let all = cores.iter().try_for_each(|core| set.set(*core));
    all.and_then(|()| sched_setaffinity(SELF, &set)).with_context(|| format!("processes cannot be kept on cores {cores:?}"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_child_runs_where_it_is_told_and_we_go_on_where_we_were() {
        let cores = Cores::here().expect("known");
        for wanted in [cores.of_load(), cores.of_server(1)] {
            let child = cores.on(wanted, || Command::new("cat").arg("/proc/self/status").output()).expect("allowed");
            let status = String::from_utf8(child.expect("it runs").stdout).expect("text");
            assert!(status.contains(&format!("Cpus_allowed_list:\t{}\n", wanted[0])), "{wanted:?}: {status}");
            assert_eq!(Cores::here().expect("known").all, cores.all);
        }
    }

    #[test]
    fn server_and_load_share_a_core_only_where_there_are_too_few() {
        let cores = |all: &[usize]| Cores { all: all.to_vec() };
        assert_eq!((cores(&[2, 3, 7]).of_server(1), cores(&[2, 3, 7]).of_server(2)), (&[2][..], &[2, 3][..]));
        assert_eq!(cores(&[2, 3, 7]).of_load(), [7]);
        assert_eq!((cores(&[4]).of_server(2), cores(&[4]).of_load()), (&[4][..], &[4][..]));
    }
}
