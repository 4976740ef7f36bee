//! Counters and gauges: each written by one shard only, read by anyone at any time.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use crate::wire::ErrorCode;

/// A number with a single writer: an update is a plain load and store, no locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Called by the one writer only.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// For gauges: takes `n` off. Called by the one writer only.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }

    /// For gauges. Called by the one writer only.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value as the writer last left it.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One number for each error code.
#[derive(Debug)]
pub struct PerCode([Counter; ErrorCode::ALL.len()]);

impl Default for PerCode {
    fn default() -> Self {
        PerCode(std::array::from_fn(|_| Counter::default()))
    }
}

impl PerCode {
    /// The counter of this code.
    pub fn of(&self, code: ErrorCode) -> &Counter {
        let index = ErrorCode::ALL.iter().position(|known| *known == code).expect("ALL holds every code");
        &self.0[index]
    }

    /// All counters with their codes.
    pub fn iter(&self) -> impl Iterator<Item = (ErrorCode, u64)> {
        ErrorCode::ALL.iter().zip(&self.0).map(|(code, counter)| (*code, counter.get()))
    }
}

/// Whether a number only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

/// A plain number: name, kind, meaning, value.
pub type Plain = (&'static str, Kind, &'static str, u64);

/// Defines a struct of numbers, and how to list them.
macro_rules! numbers {
    (
        $(#[doc = $about:literal])+
        $struct:ident {
            $($kind:ident $name:ident: $help:literal;)+
            $(=> by code { $($(#[doc = $code_help:literal])+ $code:ident,)+ })?
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Default)]
        pub struct $struct {
            $(#[doc = $help] pub $name: Counter,)+
            $($($(#[doc = $code_help])+ pub $code: PerCode,)+)?
        }

        impl $struct {
            /// Every plain number.
            pub fn plain(&self) -> impl Iterator<Item = Plain> + use<> {
                [$((stringify!($name), Kind::$kind, $help, self.$name.get()),)+].into_iter()
            }
        }
    };
}

numbers! {
    /// What one reactor counts.
    ReactorStats {
        Counter turns: "Turns of the reactor's loop.";
        Counter wakes: "Times that a sleeping shard was woken by this one.";
        Counter accept_pauses: "Pauses in accepting, because descriptors, memory or slots ran out.";
        Counter accepts_dropped: "Connections that the kernel accepted for a full table, and dropped.";
        Counter receives_parked: "Receives that found no buffer and waited for one.";
        Counter receives_idled: "Receives that were ended because nothing came for a while: a poll waits in their place.";
        Counter completions_overflowed: "Times that the kernel had to keep completions aside.";
    }
}

numbers! {
    /// What the store's thread counts.
    StoreStats {
        Counter turns: "Turns of the store's thread in which it had requests: each is one commit at most.";
        Counter turn_micros: "Microseconds that these turns took.";
        Gauge turn_micros_max: "The longest of them in the last one to two minutes, in microseconds.";
        Counter batches: "Batches of requests taken from shards.";
        Counter requests: "Requests taken from shards.";
        Counter appends: "Requests to store a message.";
        Counter failed: "Requests that failed, because the disk was full or the store was not available.";
        Counter channels_refused: "Requests that were refused because they needed a new channel, and there are as many as store.channels_max.";
        Counter expire_failed: "Times that what retention is done with could not be removed.";
        Gauge writes_waiting: "Batches of requests to write that wait for the database to get done with its tables.";
        Counter writes_refused: "Requests to write that were refused because the database did not get done in time: the disk does not keep up.";
        Gauge reads_waiting: "Batches of requests to read that wait until what was written is answered.";
        Gauge replies_kept: "Batches of replies that wait for room in the ring to their shard.";
    }
}

numbers! {
    /// What one shard counts.
    ShardStats {
        Gauge connections: "Connections held, logged in or not.";
        Gauge sessions: "Connections that are logged in.";
        Gauge clients: "Clients with at least one session.";
        Gauge group_members: "Memberships of sessions in groups.";
        Gauge watches: "Clients that sessions of this shard watch, counted once for each session.";
        Gauge watched_clients: "Clients at home on this shard that somebody watches.";
        Gauge outbound_bytes: "Bytes queued for or in flight to clients.";
        Gauge inbound_bytes: "Bytes of frames that are not complete yet.";
        Gauge mesh_backlog_bytes: "Bytes that wait for room in the rings to other shards.";
        Counter accepted: "Connections accepted.";
        Counter logins: "Successful LOGINs.";
        Counter moved_out: "Connections handed to their home shard.";
        Counter moved_in: "Connections taken in by this shard as their home.";
        Counter frames_in: "Frames received.";
        Counter batches_in: "BATCH frames received; the frames in them count as received too.";
        Counter batches_out: "BATCH frames sent.";
        Counter bytes_saved: "Bytes that clients were not sent because frames to them were compressed.";
        Counter frames_unknown: "Frames of unknown, not critical types, skipped.";
        Counter bytes_in: "Bytes received.";
        Counter bytes_out: "Bytes handed to the kernel.";
        Counter sends_user: "SEND frames to a client, routed.";
        Counter sends_durable: "Durable SEND frames, taken on.";
        Counter sends_group: "SEND frames to a group, routed.";
        Counter pushes: "PUSH frames queued on a connection.";
        Counter unreachable: "Messages to a client that has no session.";
        Counter dropped_connection_full: "PUSH frames dropped because the connection's outbound budget was used up.";
        Counter dropped_shard_full: "PUSH frames dropped because the shard's outbound budget was used up.";
        Counter dropped_oldest: "PUSH frames of TRANSIENT_NEWEST and TRANSIENT_LATEST dropped while they waited, for a later one.";
        Counter dropped_replaced: "PUSH frames of TRANSIENT_LATEST replaced while they waited, by a later one of the same channel and key.";
        Counter dropped_mesh_full: "Messages dropped because the backlog to another shard was full.";
        Counter presence_changes: "Devices of watched clients that came, went or changed, and whose watchers were told.";
        Counter presence_suppressed: "Changes of presence that were overtaken or undone before they settled, and never told.";
        Counter presence_pushes: "PRESENCE frames queued on a connection.";
        Counter presence_again: "Answers to WATCH given again, because PRESENCE frames had been dropped.";
        Counter dropped_presence: "PRESENCE frames dropped because a budget or the way to another shard was full; how things are is told later.";
        Counter probes: "PING frames sent to connections that were silent for too long.";
        Counter hung_up: "Connections that the peer ended.";
        Counter broken: "Connections that failed (reset, timed out).";
        Counter posts: "Batches posted to other shards.";
        Counter posts_refused: "Batches that found the ring to another shard full, and were kept.";
        Gauge store_backlog_bytes: "Bytes of requests that the store has not answered yet.";
        Counter store_posts: "Batches of requests posted to the store.";
        Counter store_posts_refused: "Batches of requests that found the ring to the store full, and were kept.";
        Counter appends: "Durable messages that this shard, as home of their channel, gave to the store.";
        Counter accepted_messages: "Durable messages that the store accepted.";
        Counter accepted_again: "Durable messages that were sent again, and had been accepted before.";
        Counter appends_failed: "Durable messages that the store could not keep.";
        Counter pushes_durable: "PUSH frames of durable messages queued on a connection.";
        Counter fell_behind: "Times that a device had to go on from the log, because it, a ring or a queue was full.";
        Counter pages_read: "Pages read from the log for devices that are behind.";
        Counter pages_history: "Pages read from the log for SYNC.";
        Counter gaps: "GAP frames: messages that were gone when a device wanted them.";
        Counter cursors_saved: "Cursors given to the store.";
        Counter cursors_given_up: "Cursors of connections that ended while the store's backlog was full: their devices get some messages again.";
        Counter cursors_left: "Cursors of groups that were left, and that stay with the store because too many waited to be removed.";
        Counter tails_owed: "Shards that could not be sent a durable message of a group, and were told of it later.";
        Counter moves_refused: "Connections that their home shard had no room for.";
        => by code {
            /// Connections that the gateway closed, by the code it gave.
            closed,
            /// Requests that were refused while their connection lived on, by code.
            refused,
        }
    }
}
