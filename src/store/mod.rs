//! The log of messages behind one trait: channels with gap-free sequences, and cursors that only move forward.
//!
//! A [`Log`] is made so that one shared by several gateways fits it: the log gives the sequences, readers page, and cursors are
//! compare-and-advance. Shards never call it: they put [`Request`]s into a [`Batch`], which travels to the store's thread and
//! comes back with a [`Reply`] to each, in the order in which it was sent.
//!
//! ```text
//! shard ── Box<Batch> ──▶ Service: all writes of all batches that wait → one Log::commit (group commit) → reads
//!       ◀─ the same box, replies filled in, after the sync that covers them ─┘
//! ```
#![forbid(unsafe_code)]

mod batch;
mod clock;
pub mod disk;
mod memory;
mod peak;
mod service;
pub mod thread;

pub use batch::{Append, Batch, Entries, Reply, Request, Span, Tag};
pub use clock::Clock;
pub use memory::Memory;
pub use service::Service;

use crate::wire::{PushRef, body::Durability};

/// What a device, or a client, has of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CursorKind<'a> {
    /// All up to here was received by this device.
    Received { device: &'a str },
    /// All up to here was read, on whichever device.
    Read,
}

/// Names one cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CursorKey<'a> {
    pub channel: &'a str,
    pub client: &'a str,
    pub kind: CursorKind<'a>,
}

/// One change of the log.
#[derive(Clone, Copy, Debug)]
pub enum Write<'a> {
    /// A message for a channel: `message` has no sequence, no timestamp and no channel yet.
    Append { channel: &'a str, message: PushRef<'a> },
    /// Moves a cursor forward; one that is there already, or further, stays.
    Advance { key: CursorKey<'a>, to: u64 },
    /// Removes a cursor.
    Forget { key: CursorKey<'a> },
}

/// What a write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The message has this place. `duplicate`: it had it before; nothing was stored.
    Appended { seq: u64, timestamp: u64, duplicate: bool },
    /// This sender used this `client_msg_id` for another message, within the window of de-duplication.
    IdReused,
    /// Where the cursor is now; `moved`: it was elsewhere before.
    Cursor { at: u64, moved: bool },
    /// What is stored of this channel cannot be read. Nothing was changed.
    Unreadable,
    /// It would take a new channel, and there are as many as there may be. Nothing was changed.
    TooManyChannels,
}

/// The sequences of a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The oldest message that is kept; `last + 1` when there is none.
    pub first: u64,
    /// The newest that was ever appended; 0 when there was none.
    pub last: u64,
    /// Where the sequences end that the log lost, and that its repair left out; 0 if it never lost any.
    pub lost: u64,
}

impl Bounds {
    /// Of a channel that never was.
    pub const NONE: Bounds = Bounds { first: 1, last: 0, lost: 0 };

    /// For a reader that waits for `from`, and finds nothing up to and with `to`: whether that was lost; otherwise retention has
    /// removed it.
    pub fn is_lost(&self, from: u64, to: u64) -> bool {
        // Retention removes the oldest and nothing else: any other hole is a loss.
        from >= self.first || to == self.lost
    }
}

/// How much one page may hold. The first message comes even if it alone is over `bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimit {
    pub messages: u32,
    pub bytes: u32,
}

/// Why the log cannot do what was asked. Nothing was changed, as far as the log can know: a write that failed may have happened,
/// and a retry with the same `client_msg_id` finds out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No room on the disk.
    Full,
    /// No room for one more channel.
    TooManyChannels,
    /// The log writes more slowly than it is written to. Nothing was done.
    Behind,
    /// Anything else; for a person.
    Unavailable(String),
}

/// A log of messages and cursors. Time is an argument, in milliseconds since the Unix epoch.
pub trait Log {
    /// Carries out all writes, in order, and returns once all of them are as durable as [`Log::durability`] says. `outcomes`
    /// gets one for each.
    ///
    /// Sequences begin at 1 and have no gaps. A message of a sender (client and device) whose `client_msg_id` it used within the
    /// window of de-duplication is not stored again.
    ///
    /// # Errors
    /// None of the writes is known to have happened.
    fn commit(&mut self, wall_ms: u64, writes: &[Write<'_>], outcomes: &mut Vec<Outcome>) -> Result<(), Failure>;

    /// Whether a commit would be carried out now. If not, it fails with [`Failure::Behind`]; reading goes on.
    fn is_ready(&mut self) -> bool {
        true
    }

    /// Appends the messages of a channel from sequence `from` on to `page`, as [`Entries`], and gives the channel's bounds. A
    /// message that is gone is left out; the next one's sequence tells, or, where none follows, the bounds: an empty page of a channel
    /// whose `last` is not before `from` means that all the rest is gone.
    ///
    /// # Errors
    /// The log cannot be read.
    fn read(&mut self, channel: &str, from: u64, limit: PageLimit, page: &mut Vec<u8>) -> Result<Bounds, Failure>;

    /// The bounds of a channel; [`Bounds::NONE`] for a channel that never was.
    ///
    /// # Errors
    /// The log cannot be read.
    fn bounds(&mut self, channel: &str) -> Result<Bounds, Failure>;

    /// Where a cursor is, if there is one.
    ///
    /// # Errors
    /// The log cannot be read.
    fn cursor(&mut self, key: CursorKey<'_>) -> Result<Option<u64>, Failure>;

    /// Removes what retention says is over, a bounded step at a time. Returns whether more is to be done now.
    ///
    /// # Errors
    /// The log cannot be written.
    fn expire(&mut self, wall_ms: u64) -> Result<bool, Failure>;

    /// How safe a message is once `commit` has returned.
    fn durability(&self) -> Durability;
}

impl<L: Log + ?Sized> Log for Box<L> {
    fn commit(&mut self, wall_ms: u64, writes: &[Write<'_>], outcomes: &mut Vec<Outcome>) -> Result<(), Failure> {
        (**self).commit(wall_ms, writes, outcomes)
    }

    fn is_ready(&mut self) -> bool {
        (**self).is_ready()
    }

    fn read(&mut self, channel: &str, from: u64, limit: PageLimit, page: &mut Vec<u8>) -> Result<Bounds, Failure> {
        (**self).read(channel, from, limit, page)
    }

    fn bounds(&mut self, channel: &str) -> Result<Bounds, Failure> {
        (**self).bounds(channel)
    }

    fn cursor(&mut self, key: CursorKey<'_>) -> Result<Option<u64>, Failure> {
        (**self).cursor(key)
    }

    fn expire(&mut self, wall_ms: u64) -> Result<bool, Failure> {
        (**self).expire(wall_ms)
    }

    fn durability(&self) -> Durability {
        (**self).durability()
    }
}

/// How much of a channel is kept, and for how long a retry is recognized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// In milliseconds.
    pub age_ms: u64,
    /// Of one channel.
    pub messages: u64,
    /// Of one channel: names and payloads. Its newest message stays, however large it is.
    pub bytes: u64,
    /// Channels that there may be. One that is empty counts, too: it is kept, or its sequences would begin anew.
    pub channels: u32,
    /// A retry is recognized for this long, in milliseconds,
    pub dedup_ms: u64,
    /// and among this many newest messages of the whole log.
    pub dedup_messages: u32,
}

/// What a message counts for in a channel's bytes.
pub fn message_bytes(message: &PushRef<'_>) -> u64 {
    (message.from_client.len() + message.from_device.len() + message.payload.len()) as u64
}
