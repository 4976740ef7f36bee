//! What a shard still holds: nothing, once everybody has left. For tests, which would otherwise not see state that leaks.
#![forbid(unsafe_code)]

use super::Shard;

/// Counts of everything that a shard keeps for somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Residue {
    pub connections: usize,
    pub clients: usize,
    /// Peer addresses that are counted here.
    pub addresses: usize,
    pub local_groups: usize,
    pub memberships: usize,
    pub home_groups: usize,
    /// Groups whose members are to be counted again. Entries of those that are gone go by time.
    pub recounts: usize,
    /// Clients that connections here watch.
    pub watches: usize,
    /// Clients at home here that somebody watches, their devices, and what they are still to be told.
    pub watched_clients: usize,
    /// Connections that are to be told again how those are whom they watch. Entries of dead connections go by time.
    pub owed: usize,
    /// Messages whose receivers are being counted.
    pub counts: usize,
    pub timers: usize,
    /// Connections with a queue of their own.
    pub outbounds: usize,
    pub outbound_bytes: usize,
    /// Connections that are, or were, watched for a chunk that does not leave. Entries of dead connections go by time.
    pub watched: usize,
    pub inbound_bytes: usize,
    pub inbound_holders: usize,
    /// Devices that take part in durable delivery.
    pub devices: usize,
    /// Devices in line for a page, pages under way, cursors to be saved. Entries of dead connections go by time.
    pub catching_up: usize,
    /// Bytes that wait for the store, or for its answer.
    pub store_bytes: usize,
    /// Bytes that wait for other shards.
    pub backlog_bytes: usize,
    pub outputs: usize,
}

impl Shard {
    /// What is still held.
    pub fn residue(&self) -> Residue {
        Residue {
            connections: self.connections.count() as usize,
            clients: self.directory.clients(),
            addresses: self.addresses.len(),
            local_groups: self.local_groups.len(),
            memberships: self.local_groups.memberships() as usize,
            home_groups: self.home_groups.len(),
            recounts: self.recounts.len(),
            watches: self.watchers.watches as usize,
            watched_clients: self.watched.len() + self.watched.held(),
            owed: self.watchers.in_line(),
            counts: self.home_groups.counts(),
            timers: self.wheel.len(),
            outbounds: self.outbounds.len(),
            outbound_bytes: self.outbound_bytes,
            watched: self.slow.len(),
            inbound_bytes: self.inbound_bytes,
            inbound_holders: self.inbound_holders,
            devices: self.devices.len(),
            catching_up: self.catch_up.len(),
            store_bytes: self.storage.backlog(),
            backlog_bytes: self.outbox.backlog(),
            outputs: self.outputs.len(),
        }
    }
}
