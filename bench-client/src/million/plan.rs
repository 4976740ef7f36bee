//! What a run with very many connections needs of the machine, worked out before anything starts.
#![forbid(unsafe_code)]

use std::time::Duration;

use weir::{
    limits::{LISTEN_BACKLOG_MIN, SHARDS_MAX},
    reactor::Kind,
};

use crate::{
    plan::{CONNECTIONS_PER_SOURCE, DESCRIPTORS_SPARE, connections_per_worker, workers_for},
    table::grouped,
};

/// Kernel memory of one connection, both ends, by reactor: two TCP sockets with all that belongs to them, and what waits on each. As
/// measured (9,657 while all have a receive, 8,451 once most are idle; 7,770), with a tenth of reserve.
const KERNEL_BYTES_URING: u64 = 10_600;
const KERNEL_BYTES_EPOLL: u64 = 8_600;
/// Of memory that an end of a connection takes more with glommio: about 790 B of its own, and a poll of the kernel.
const GLOMMIO_BYTES: u64 = 1_024;
/// The two processes' own memory for it.
const USER_BYTES: u64 = 1_024;
/// What must be free beyond that: for the run's own books, and for everything else on the machine.
const SPARE_BYTES: u64 = 1 << 30;
/// Connections that two cores, shared by both ends, bring up in a second when there are a million; fewer come faster.
const CONNECTS_PER_SECOND: u64 = 10_000;
/// Workers of the load, at most: the mesh between them has a port for the main thread, too.
const WORKERS_MAX: u32 = 250;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) connections: u32,
    pub(crate) kind: Kind,
    /// Of all phases that last as long as they are told.
    pub(crate) phases: Duration,
}

/// What the machine has.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) cores: u32,
    /// `RLIMIT_NOFILE`.
    pub(crate) file_limit: u64,
    pub(crate) available_bytes: u64,
    pub(crate) is_root: bool,
    /// Values of the kernel, where they can be read.
    pub(crate) somaxconn: Option<u64>,
    pub(crate) file_max: Option<u64>,
    /// Pages of TCP buffers from which the kernel holds back.
    pub(crate) tcp_pages: Option<u64>,
    pub(crate) ports: Option<u64>,
    /// The size of the table of connections that the kernel's firewall keeps, if it keeps one and loopback is in it.
    pub(crate) tracked_max: Option<u64>,
}

/// Who runs where, and what that takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outline {
    pub(crate) shards: u32,
    pub(crate) workers: u32,
    pub(crate) addresses: u32,
    pub(crate) memory_bytes: u64,
    pub(crate) time: Duration,
    /// What the kernel must have: the setting, the least value, and what it has.
    pub(crate) kernel: Vec<(&'static str, u64, Option<u64>)>,
}

impl Outline {
    /// Works it out.
    pub(crate) fn new(wanted: &Wanted, machine: &Machine) -> Outline {
        let connections = u64::from(wanted.connections);
        let kernel_bytes = match wanted.kind {
            Kind::Uring => KERNEL_BYTES_URING,
            Kind::Epoll => KERNEL_BYTES_EPOLL,
            // A poll for each connection, and what glommio keeps of it, for both ends.
            Kind::Glommio => KERNEL_BYTES_EPOLL + 2 * GLOMMIO_BYTES,
        };
        // The ramp, and the storm, which is a ramp too; the end takes half of one.
        let moves = Duration::from_secs(connections * 5 / 2 / CONNECTS_PER_SECOND);
        let mut kernel = vec![
            ("net.core.somaxconn", u64::from(LISTEN_BACKLOG_MIN), machine.somaxconn),
            ("net.ipv4.ip_local_port_range, its length", u64::from(CONNECTIONS_PER_SOURCE) * 5 / 4, machine.ports),
            // A message to all waits in all receive buffers at once: a small one is charged two thirds of a page at most.
            ("net.ipv4.tcp_mem, its second number", connections * 2 / 3, machine.tcp_pages),
        ];
        if !machine.is_root {
            kernel.push(("fs.file-max", 2 * connections + 100_000, machine.file_max));
        }
        if machine.tracked_max.is_some() {
            kernel.push(("net.netfilter.nf_conntrack_max", connections * 11 / 10, machine.tracked_max));
        }
        Outline {
            shards: shards_for(wanted.connections, machine.cores, machine.file_limit),
            workers: workers_for(wanted.connections, machine.cores, machine.file_limit),
            addresses: wanted.connections.div_ceil(CONNECTIONS_PER_SOURCE),
            memory_bytes: connections * (kernel_bytes + USER_BYTES) + SPARE_BYTES,
            time: wanted.phases + moves,
            kernel,
        }
    }

    /// Why this machine cannot do it; each with what to do.
    pub(crate) fn refusals(&self, wanted: &Wanted, machine: &Machine) -> Vec<String> {
        let mut refusals = Vec::new();
        let mut refuse = |words: String| refusals.push(words);
        let files = machine.file_limit.saturating_sub(DESCRIPTORS_SPARE);
        match wanted.kind {
            Kind::Epoll | Kind::Glommio if u64::from(wanted.connections) > files => refuse(format!(
                "with {} each connection is an open file, and `ulimit -n` allows {}: raise it (sysctl/limits.conf), or use io_uring",
                wanted.kind.name(),
                grouped(machine.file_limit)
            )),
            Kind::Uring if self.shards > u32::from(SHARDS_MAX) || self.workers > WORKERS_MAX => refuse(format!(
                "with `ulimit -n` at {} it would take {} shards and {} workers, more than {SHARDS_MAX} and {WORKERS_MAX}: raise the limit \
                 (sysctl/limits.conf)",
                grouped(machine.file_limit),
                self.shards,
                self.workers
            )),
            Kind::Epoll | Kind::Glommio | Kind::Uring => {}
        }
        if self.memory_bytes > machine.available_bytes {
            refuse(format!(
                "{} MB of memory are needed, and {} MB are available: stop what else runs, or lower --connections",
                grouped(self.memory_bytes >> 20),
                grouped(machine.available_bytes >> 20)
            ));
        }
        for (setting, least, has) in &self.kernel {
            if let Some(has) = has.filter(|has| has < least) {
                let (least, has) = (grouped(*least), grouped(has));
                refuse(format!(
                    "{setting}: {has}, and {least} are needed: type `sudo make tune` (`sudo make untune` takes it back)"
                ));
            }
        }
        refusals
    }
}

/// The fewest shards, but one for each core at least, of which none gets more connections than its table of direct descriptors holds. The
/// hash deals them out like dice: none is further from its share than six standard deviations.
fn shards_for(connections: u32, cores: u32, file_limit: u64) -> u32 {
    let room = f64::from(connections_per_worker(file_limit));
    let fits = |shards: u32| {
        let share = f64::from(connections) / f64::from(shards);
        share + 6.0 * share.sqrt() <= room
    };
    (cores.max(1)..u32::MAX).find(|shards| *shards >= connections || fits(*shards)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted { connections: 1_000_000, kind: Kind::Uring, phases: Duration::from_secs(160) }
    }

    fn machine() -> Machine {
        Machine {
            cores: 2,
            file_limit: 20_000,
            available_bytes: 22 << 30,
            is_root: false,
            somaxconn: Some(16_384),
            file_max: Some(2_466_170),
            tcp_pages: Some(1_048_576),
            ports: Some(55_536),
            tracked_max: None,
        }
    }

    #[test]
    fn shards_and_workers_follow_from_the_file_limit() {
        let outline = Outline::new(&wanted(), &machine());
        assert_eq!((outline.shards, outline.workers, outline.addresses), (54, 52, 125));
        assert_eq!(outline.refusals(&wanted(), &machine()), Vec::<String>::new());
        let free = Machine { file_limit: 2_000_000, ..machine() };
        assert_eq!(Outline::new(&wanted(), &free).shards, 2);
        assert_eq!(shards_for(10, 4, 20_000), 4);
        assert_eq!(shards_for(3, 1, 1), 3);
    }

    #[test]
    fn each_want_is_told_with_what_to_do() {
        let refusals = |wanted: Wanted, machine: Machine| Outline::new(&wanted, &machine).refusals(&wanted, &machine);
        for (machine, words) in [
            (Machine { available_bytes: 8 << 30, ..machine() }, "are available: stop what else runs"),
            (
                Machine { somaxconn: Some(128), ..machine() },
                "net.core.somaxconn: 128, and 4,096 are needed: type `sudo make tune`",
            ),
            (Machine { file_max: Some(1_000_000), ..machine() }, "fs.file-max: 1,000,000, and 2,100,000 are needed"),
            (Machine { tcp_pages: Some(383_867), ..machine() }, "net.ipv4.tcp_mem, its second number: 383,867"),
            (Machine { ports: Some(1_000), ..machine() }, "net.ipv4.ip_local_port_range"),
            (Machine { tracked_max: Some(262_144), ..machine() }, "net.netfilter.nf_conntrack_max: 262,144"),
            (Machine { file_limit: 1_024, ..machine() }, "raise the limit"),
        ] {
            let refusals = refusals(wanted(), machine.clone());
            assert!(refusals.len() == 1 && refusals[0].contains(words), "{machine:?}: {refusals:?}");
        }
        let on_epoll = refusals(Wanted { kind: Kind::Epoll, ..wanted() }, machine());
        assert!(on_epoll.len() == 1 && on_epoll[0].contains("each connection is an open file"), "{on_epoll:?}");
        assert_eq!(refusals(wanted(), Machine { is_root: true, file_max: Some(1), ..machine() }), Vec::<String>::new());
    }
}
