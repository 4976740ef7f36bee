//! The connections of a reactor whose sockets are ordinary descriptors.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use socket2::SockRef;

use super::{
    Peers,
    slots::{Content, Slots},
};
use crate::{
    ids::{ConnId, ShardId},
    io::Chunk,
};

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No connection.
    Free,
    /// The kernel is connecting it; `number` is the machine's token.
    Connecting,
    /// Accepted; the machine has not said yet whether it stays.
    Deciding,
    /// At full speed.
    Open,
    /// `Broken` was delivered: only `Close` can follow.
    Broken,
    /// Its descriptor is gone. The entry stays until `Closed` or `Departed` is delivered, so that the machine never sees a slot
    /// reused before it saw it end.
    Ended,
}

/// One connection, of whose socket the driver holds an `S`. There may be a million of them: keep it small.
#[derive(Debug)]
pub(super) struct Entry<S> {
    pub(super) socket: Option<S>,
    /// The next free slot, a token, or the errno of a failed send, as `phase` and `failed` say.
    pub(super) number: u32,
    pub(super) phase: Phase,
    /// The kernel may have something to receive. Edge-triggered: it will not say so again.
    pub(super) readable: bool,
    /// The end is in sight: receive until it shows.
    pub(super) hung_up: bool,
    /// `Eof` was delivered.
    pub(super) eof: bool,
    /// In the list of connections to receive from.
    pub(super) queued: bool,
    /// Part of a chunk waits for the socket to take it.
    pub(super) sending: bool,
    /// A send failed: `Broken` is due, with the errno in `number`, once all bytes are delivered.
    pub(super) failed: bool,
}

const _: () = assert!(size_of::<Entry<OwnedFd>>() <= 24);

impl<S> Entry<S> {
    fn new(socket: Option<S>, phase: Phase, number: u32) -> Entry<S> {
        Entry { socket, number, phase, readable: false, hung_up: false, eof: false, queued: false, sending: false, failed: false }
    }
}

impl<S> Content for Entry<S> {
    fn vacate(&mut self, next_free: u32) {
        *self = Entry::new(None, Phase::Free, next_free);
    }

    fn next_free(&self) -> Option<u32> {
        (self.phase == Phase::Free).then_some(self.number)
    }
}

impl Entry<OwnedFd> {
    /// The descriptor of a connection that has not ended.
    pub(super) fn open_fd(&self) -> &OwnedFd {
        self.socket.as_ref().expect("only a connection that has ended has no descriptor")
    }

    /// The error that the connection died of, if it did: that of a failed send, or the socket's.
    pub(super) fn take_error(&self) -> Option<i32> {
        if self.failed {
            return Some(self.number as i32);
        }
        match SockRef::from(self.open_fd()).take_error() {
            Ok(error) => error.map(|error| error.raw_os_error().unwrap_or(libc::EIO)),
            Err(error) => error.raw_os_error(),
        }
    }
}

/// A chunk on its way, and how much of it the socket has taken.
pub(super) struct Unsent {
    pub(super) chunk: Chunk,
    pub(super) sent: usize,
}

/// All connections of one reactor.
pub(super) struct Table<S> {
    entries: Slots<Entry<S>>,
    peers: Peers,
    shard: ShardId,
}

impl<S> Table<S> {
    /// A table for `slots` connections.
    pub(super) fn new(slots: u32, peers: Peers, shard: ShardId) -> Table<S> {
        peers.give_room(shard, slots);
        Table { entries: Slots::new(slots), peers, shard }
    }

    /// Takes room for one connection, if there is some. Others do so too, for those they send here.
    pub(super) fn take_room(&self) -> bool {
        self.peers.take_room(self.shard)
    }

    /// Gives back room for one connection that did not come.
    pub(super) fn give_room(&self) {
        self.peers.give_room(self.shard, 1);
    }

    /// How many more connections there is room for now.
    #[cfg(feature = "glommio")]
    pub(super) fn room(&self) -> u32 {
        self.peers.room_of(self.shard)
    }

    /// Takes in a connection for which room was taken.
    pub(super) fn insert(&mut self, socket: S, phase: Phase, number: u32) -> ConnId {
        self.entries.take(Entry::new(Some(socket), phase, number))
    }

    /// The connection, unless the id is dead.
    pub(super) fn get(&mut self, conn: ConnId) -> Option<&mut Entry<S>> {
        self.entries.get(conn)
    }

    /// The connection a machine speaks of. It must not use dead ids; in a release build that goes without consequence.
    pub(super) fn named(&mut self, conn: ConnId) -> Option<&mut Entry<S>> {
        let entry = self.get(conn);
        debug_assert!(entry.is_some(), "the machine speaks of connection {conn}, which has ended");
        entry
    }

    /// Ends the id, closes its socket if it still has one, and makes the slot free for another connection.
    pub(super) fn remove(&mut self, conn: ConnId) {
        if self.get(conn).is_some() {
            self.entries.vacate(conn);
            self.give_room();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor() -> OwnedFd {
        std::fs::File::open("/dev/null").expect("/dev/null opens").into()
    }

    #[test]
    fn a_reused_slot_has_a_new_generation_and_the_old_id_is_dead() {
        let mut table = Table::new(2, Peers::new(1), ShardId(0));
        let first = table.insert(descriptor(), Phase::Open, 0);
        table.remove(first);
        let second = table.insert(descriptor(), Phase::Open, 0);
        assert_eq!((second.slot, second.generation), (first.slot, first.generation + 1));
        assert!(table.get(first).is_none());
        table.remove(first);
        assert!(table.get(second).is_some(), "removing a dead id must not touch the slot's next user");
    }

    #[test]
    fn room_runs_out_and_comes_back() {
        let peers = Peers::new(1);
        let mut table = Table::new(2, peers.clone(), ShardId(0));
        assert!(table.take_room());
        let first = table.insert(descriptor(), Phase::Open, 0);
        assert!(peers.take_room(ShardId(0)), "a connection that is on its way takes the second place");
        assert!(!table.take_room());
        table.remove(first);
        assert!(table.take_room());
    }
}
