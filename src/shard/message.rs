//! What shards say to each other. Everything that one shard has for another in one turn travels as one batch: one entry of
//! the ring between them, and at most one wake.
#![forbid(unsafe_code)]

use super::{
    durable::{Acceptance, NotAccepted},
    outbound::Pressure,
};
use crate::{
    ids::{ConnId, ShardId},
    session::Identity,
    store,
};

/// A message of the mesh.
#[derive(Debug)]
pub enum Message {
    Batch(Box<Batch>),
    /// Goes with a connection that moves to its home.
    Arrival(Box<Arrival>),
    /// From the control thread.
    Control(Control),
    /// To the store, and back with the replies.
    Store(Box<store::Batch>),
}

/// What the control thread asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Stop accepting, send everybody away; be done this long from now at the latest.
    Drain { within_ms: u32 },
    /// Nobody is left on any shard: stop.
    Stop,
}

/// A logged-in connection on its way home.
#[derive(Debug)]
pub struct Arrival {
    pub identity: Identity,
    pub epoch: u64,
    /// As in `Connection::address`.
    pub address: u64,
    /// What came behind LOGIN.
    pub trailing: Vec<u8>,
    /// How often the move was refused.
    pub refusals: u8,
}

/// A part of a batch's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: u32,
    length: u32,
}

/// A connection of some shard that waits for SEND_OK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub shard: ShardId,
    pub conn: ConnId,
    pub client_msg_id: u64,
}

/// How many devices a message got to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub reached: u32,
    pub dropped: u32,
}

impl Tally {
    /// Adds another count to this one.
    pub fn add(&mut self, other: Tally) {
        self.reached += other.reached;
        self.dropped += other.dropped;
    }
}

/// One thing in a batch. Names and frames lie in the batch's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// To the client's home: a PUSH for its devices.
    Deliver { client: Span, frame: Span, pressure: Pressure, hash: u64, receipt: Option<Receipt> },
    /// To the group's home: a PUSH for all members but, perhaps, one connection.
    Publish { group: Span, frame: Span, pressure: Pressure, except: Option<(ShardId, ConnId)>, receipt: Option<Receipt> },
    /// From the group's home to a shard with members.
    Fanout { group: Span, frame: Span, pressure: Pressure, except: Option<ConnId>, count: Option<u32> },
    /// Back to the group's home: what a `Fanout` with a `count` came to.
    Counted { count: u32, tally: Tally },
    /// To the sender's shard: what a message with a receipt came to.
    Reached { conn: ConnId, client_msg_id: u64, tally: Tally },
    /// To the sender's shard: too many messages are being counted; this one was not sent.
    NotCounted { conn: ConnId, client_msg_id: u64 },
    /// To the group's home: this shard has a member now.
    Subscribe { group: Span, ticket: u32 },
    /// Back from the group's home: messages published from now on will come. So many members are on other shards.
    Subscribed { group: Span, ticket: u32, elsewhere: u32 },
    /// To the group's home: no members here any more.
    Unsubscribe { group: Span },
    /// To the group's home: this shard has so many members now.
    Members { group: Span, members: u32 },
    /// From the group's home to a shard with members: so many are on other shards now.
    Elsewhere { group: Span, members: u32 },
    /// To the channel's home: keep it. Answered by `Accepted` or `NotAccepted`.
    Append { channel: Span, from_client: Span, from_device: Span, payload: Span, client_msg_id: u64, conn: ConnId },
    /// To the sender's shard.
    Accepted { conn: ConnId, channel: Span, accepted: Acceptance },
    /// To the sender's shard.
    NotAccepted { conn: ConnId, client_msg_id: u64, why: NotAccepted },
    /// From the group's home to a shard with members: a durable PUSH.
    Follow { group: Span, frame: Span, seq: u64 },
    /// From the group's home to a shard that missed some: the newest message of the group.
    Tail { group: Span, seq: u64 },
    /// To the client's home: a connection watches it, or asks again. Answered by `Presence` or `NotWatched`.
    Watch { client: Span, hash: u64, conn: ConnId, ticket: u32 },
    /// Back from the client's home: it has as many watchers as it may.
    NotWatched { client: Span, hash: u64, conn: ConnId, ticket: u32 },
    /// To the client's home: the connection does not watch it any more.
    Unwatch { client: Span, hash: u64, conn: ConnId },
    /// From the client's home to a shard with watchers: a PRESENCE. `conns` are theirs, eight bytes each. `fresh`: the whole answer
    /// begins with it.
    Presence { client: Span, hash: u64, frame: Span, conns: Span, fresh: bool },
    /// To the address's home: one more connection. Answered by `Admitted`.
    Arrived { address: u64, conn: ConnId },
    /// Back from the address's home.
    Admitted { address: u64, conn: ConnId, granted: bool },
    /// To the address's home: one connection less.
    Left { address: u64 },
}

/// Many items for one shard.
#[derive(Debug, Default)]
pub struct Batch {
    pub items: Vec<Item>,
    bytes: Vec<u8>,
}

impl Batch {
    /// Appends bytes, to be named by an item.
    pub fn put(&mut self, bytes: &[u8]) -> Span {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        Span { start, length: bytes.len() as u32 }
    }

    /// The bytes of a span of this batch.
    pub fn bytes(&self, span: Span) -> &[u8] {
        &self.bytes[span.start as usize..][..span.length as usize]
    }

    /// The name in a span of this batch.
    pub fn name(&self, span: Span) -> &str {
        std::str::from_utf8(self.bytes(span)).expect("names are put in as text")
    }

    /// The connections in a span of this batch.
    pub fn conns(&self, span: Span) -> impl Iterator<Item = ConnId> + '_ {
        let (ids, _) = self.bytes(span).as_chunks();
        ids.iter().map(|id| ConnId::from_bits(u64::from_le_bytes(*id)))
    }

    /// What it takes up, roughly.
    pub fn weight(&self) -> usize {
        self.bytes.len() + self.items.len() * size_of::<Item>()
    }

    /// Empty, with its memory kept for the next use unless it grew large.
    pub fn clear(&mut self, keep_bytes: usize) {
        self.items.clear();
        self.bytes.clear();
        self.bytes.shrink_to(keep_bytes);
        self.items.shrink_to(keep_bytes / size_of::<Item>());
    }
}
