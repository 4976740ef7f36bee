//! What a run will do, worked out before anything is started: how many workers, which client on which, from which address.
#![forbid(unsafe_code)]

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use crate::{durable::Receiving, fleet::dialect::Dialect, homes::Names, token::Credentials, verify::Destination};

/// The most connections that one source address takes on loopback: the gateway admits 10,000 per address by default.
pub(crate) const CONNECTIONS_PER_SOURCE: u32 = 8_000;
/// Descriptors that are kept for everything but connections: rings, eventfds, standard streams, files of the run.
pub(crate) const DESCRIPTORS_SPARE: u64 = 500;

/// One run, as all its workers see it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) target: SocketAddr,
    /// What is spoken there.
    pub(crate) dialect: Dialect,
    /// The clients are those from here on: other phases of the run have the ones before.
    pub(crate) first_client: u32,
    pub(crate) connections: u32,
    /// The first so many clients send; the rest stay logged in and idle.
    pub(crate) active: u32,
    pub(crate) workers: u32,
    /// Clients of all phases of the run.
    pub(crate) clients: u32,
    /// Clients are called by this and their number, which is their index if nothing else is said.
    pub(crate) prefix: String,
    pub(crate) names: Option<Arc<Names>>,
    /// What LOGIN asks for: several frames in one, and compressed ones.
    pub(crate) batches: bool,
    pub(crate) compress: bool,
    pub(crate) credentials: Credentials,
    pub(crate) seed: u64,
    /// Tells this run's messages from those of any other.
    pub(crate) run: u32,
    pub(crate) payload_bytes: usize,
    /// New connections a second at most, all workers together; as fast as `connecting` lets it when `None`.
    pub(crate) connect_rate: Option<f64>,
    /// Connections on their way to being logged in at once, all workers together.
    pub(crate) connecting: u32,
    /// The first local address to connect from; `None` leaves the choice to the kernel.
    pub(crate) first_source: Option<Ipv4Addr>,
    /// How clients take durable messages; `None`: they take no part in durable delivery.
    pub(crate) receiving: Option<Receiving>,
    /// Clients whose connection ends early come back.
    pub(crate) returns: bool,
    /// Latency is recorded by steps of this length, too.
    pub(crate) timeline_us: Option<u64>,
}

impl Plan {
    /// The worker that holds a client.
    pub(crate) fn worker_of(&self, client: u32) -> u32 {
        (client - self.first_client) % self.workers
    }

    /// A client's place in its worker's tables.
    pub(crate) fn local_of(&self, client: u32) -> u32 {
        (client - self.first_client) / self.workers
    }

    /// The client at a place of a worker's tables.
    pub(crate) fn client(&self, worker: u32, local: u32) -> u32 {
        self.first_client + local * self.workers + worker
    }

    /// How many of the first `below` clients a worker holds.
    pub(crate) fn share(&self, worker: u32, below: u32) -> u32 {
        (below + self.workers - 1 - worker) / self.workers
    }

    /// The address that a client connects from.
    pub(crate) fn source_of(&self, client: u32) -> Option<IpAddr> {
        let first = u32::from(self.first_source?);
        Some(Ipv4Addr::from(first + client / CONNECTIONS_PER_SOURCE).into())
    }

    /// Appends a client's name.
    pub(crate) fn put_client(&self, client: u32, out: &mut String) {
        out.push_str(&self.prefix);
        let number = self.names.as_ref().map_or(client, |names| names.number(client));
        write!(out, "{number}").expect("a String takes everything");
    }

    /// Appends a group's name.
    pub(crate) fn put_group(&self, group: u32, out: &mut String) {
        out.push_str(&self.prefix);
        write!(out, "-g{group}").expect("a String takes everything");
    }

    /// Appends a channel's name.
    pub(crate) fn put_channel(&self, destination: Destination, out: &mut String) {
        match destination {
            Destination::Client(client) => {
                out.push_str(self.dialect.user_prefix());
                self.put_client(client, out);
            }
            Destination::Group(group) => {
                out.push_str(self.dialect.group_prefix());
                self.put_group(group, out);
            }
        }
    }

    /// A channel's name.
    pub(crate) fn channel(&self, destination: Destination) -> String {
        let mut name = String::new();
        self.put_channel(destination, &mut name);
        name
    }

    /// The channel with this name.
    pub(crate) fn destination_named(&self, channel: &str) -> Option<Destination> {
        self.client_of(channel).map(Destination::Client).or_else(|| self.group_of(channel).map(Destination::Group))
    }

    /// The client whose own channel has this name.
    pub(crate) fn client_of(&self, channel: &str) -> Option<u32> {
        self.client_named(channel.strip_prefix(self.dialect.user_prefix())?)
    }

    /// The group whose channel has this name.
    pub(crate) fn group_of(&self, channel: &str) -> Option<u32> {
        self.group_named(channel.strip_prefix(self.dialect.group_prefix())?)
    }

    /// The client with this name, if it is one of this run.
    pub(crate) fn client_named(&self, name: &str) -> Option<u32> {
        let number = number(name.strip_prefix(&self.prefix)?)?;
        match &self.names {
            None => (number < self.clients).then_some(number),
            Some(names) => names.client(number),
        }
    }

    /// The group with this name.
    pub(crate) fn group_named(&self, name: &str) -> Option<u32> {
        number(name.strip_prefix(&self.prefix)?.strip_prefix("-g")?)
    }
}

/// A number in the one form in which it is written here.
fn number(text: &str) -> Option<u32> {
    let is_plain = text == "0" || text.starts_with(|first: char| ('1'..='9').contains(&first));
    text.parse().ok().filter(|_| is_plain)
}

/// The workers for so many connections: one a core, more where a worker's table of direct descriptors, which is bounded by
/// the file limit, could not hold its share.
pub(crate) fn workers_for(connections: u32, cores: u32, file_limit: u64) -> u32 {
    let by_table = u64::from(connections).div_ceil(connections_per_worker(file_limit).into());
    (by_table as u32).max(cores).clamp(1, connections.max(1))
}

/// The connections that one worker's table holds.
pub(crate) fn connections_per_worker(file_limit: u64) -> u32 {
    file_limit.saturating_sub(DESCRIPTORS_SPARE).clamp(1, 1 << 20) as u32
}

#[cfg(test)]
pub(crate) fn example(connections: u32, workers: u32) -> Plan {
    Plan {
        target: "127.0.0.1:1".parse().expect("an address"),
        dialect: Dialect::Weir,
        first_client: 0,
        connections,
        clients: connections,
        active: connections,
        workers,
        prefix: "b".into(),
        names: None,
        batches: false,
        compress: false,
        credentials: Credentials::None,
        seed: 1,
        run: 77,
        payload_bytes: 64,
        connect_rate: None,
        connecting: 64,
        first_source: Some(Ipv4Addr::new(127, 0, 0, 2)),
        receiving: None,
        returns: false,
        timeline_us: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_has_one_place() {
        for (connections, workers) in [(1, 1), (10, 3), (9, 3), (7, 7), (1000, 7)] {
            let plan = example(connections, workers);
            let mut seen = 0;
            for worker in 0..workers {
                for local in 0..plan.share(worker, connections) {
                    let client = plan.client(worker, local);
                    assert!(client < connections);
                    assert_eq!((plan.worker_of(client), plan.local_of(client)), (worker, local));
                    seen += 1;
                }
            }
            assert_eq!(seen, connections);
        }
    }

    #[test]
    fn workers_follow_cores_and_the_file_limit() {
        assert_eq!(workers_for(100, 2, 20_000), 2);
        assert_eq!(workers_for(60_000, 2, 20_000), 4);
        assert_eq!(workers_for(1_000_000, 2, 20_000), 52);
        assert_eq!(workers_for(1, 8, 20_000), 1);
        assert_eq!(workers_for(3, 2, 10), 3);
    }

    #[test]
    fn no_source_address_takes_more_than_the_gateway_admits() {
        let plan = example(20_000, 2);
        assert_eq!(plan.source_of(0), Some("127.0.0.2".parse().expect("an address")));
        assert_eq!(plan.source_of(7_999), plan.source_of(0));
        assert_eq!(plan.source_of(8_000), Some("127.0.0.3".parse().expect("an address")));
        assert_eq!(Plan { first_source: None, ..plan }.source_of(3), None);
    }

    #[test]
    fn names_are_read_back() {
        let plan = example(50, 1);
        let mut name = String::new();
        plan.put_client(42, &mut name);
        assert_eq!((name.as_str(), plan.client_named(&name)), ("b42", Some(42)));
        for name in ["b50", "b042", "b+4", "b00", "b", "c4", "4"] {
            assert_eq!(plan.client_named(name), None, "{name:?} is no client of this run");
        }
        name.clear();
        plan.put_group(3, &mut name);
        assert_eq!((name.as_str(), plan.group_named(&name)), ("b-g3", Some(3)));
        for destination in [Destination::Client(42), Destination::Group(3)] {
            assert_eq!(plan.destination_named(&plan.channel(destination)), Some(destination));
        }
        for channel in ["user/b50", "group/b3", "b42", "room/b-g3", "user/b-g3"] {
            assert_eq!(plan.destination_named(channel), None, "{channel:?} is no channel of this run");
        }
    }

    #[test]
    fn a_phase_has_the_clients_of_its_own() {
        let plan = Plan { first_client: 7, clients: 17, ..example(10, 3) };
        let mut seen = Vec::new();
        for worker in 0..3 {
            for local in 0..plan.share(worker, plan.connections) {
                let client = plan.client(worker, local);
                assert_eq!((plan.worker_of(client), plan.local_of(client)), (worker, local));
                seen.push(client);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (7..17).collect::<Vec<_>>());
        assert_eq!((plan.client_named("b3"), plan.client_named("b17")), (Some(3), None));
    }
}
