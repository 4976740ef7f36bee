//! What travels between a shard and the store: requests there, the same box with replies back.
#![forbid(unsafe_code)]

use super::{Bounds, CursorKey, CursorKind, Failure, PageLimit};
use crate::{
    ids::{ConnId, ShardId},
    wire::{PushRef, body::Durability},
};

/// A part of a batch's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    length: u32,
}

/// Whom the shard asked for; means nothing to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    pub shard: ShardId,
    pub conn: ConnId,
    /// Tells requests for one connection and channel apart.
    pub ticket: u32,
}

/// A durable message on its way into a channel. The payload and the sender's names lie in the batch's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Append {
    pub channel: Span,
    pub from_client: Span,
    pub from_device: Span,
    pub payload: Span,
    pub client_msg_id: u64,
    /// The sender's connection.
    pub sender: Tag,
}

/// One question to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Answered by `Appended`, `IdReused` or `Failed`.
    Append(Append),
    /// Where does a device stand in a channel? Answered by `Opened` or `Failed`.
    Open { channel: Span, client: Span, device: Span, tag: Tag },
    /// A page, for a device that is behind (`sync` false) or that asked for history. Answered by `Page` or `Failed`.
    Read { channel: Span, from: u64, limit: PageLimit, sync: bool, tag: Tag },
    /// RECEIVED, persisted. Answered by `Done` or `Failed`.
    Received { channel: Span, client: Span, device: Span, to: u64, tag: Tag },
    /// READ, persisted. Answered by `Read` or `Failed`.
    MarkRead { channel: Span, client: Span, to: u64, tag: Tag },
    /// LEAVE: the device's cursor is forgotten. Answered by `Done` or `Failed`.
    Forget { channel: Span, client: Span, device: Span },
}

impl Request {
    /// Whether it changes the log.
    pub fn is_write(&self) -> bool {
        match self {
            Request::Append(_) | Request::Received { .. } | Request::MarkRead { .. } | Request::Forget { .. } => true,
            Request::Open { .. } | Request::Read { .. } => false,
        }
    }
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Appended {
        seq: u64,
        timestamp: u64,
        duplicate: bool,
        durability: Durability,
    },
    /// The sender used this `client_msg_id` for another message.
    IdReused,
    Opened {
        bounds: Bounds,
        /// What the store remembers; `None`: this device never was here.
        received: Option<u64>,
        read: u64,
    },
    /// `entries` lie in the batch's pages.
    Page {
        bounds: Bounds,
        entries: Span,
    },
    /// `at`: where the cursor is now; `moved`: it was further back before.
    Read {
        bounds: Bounds,
        at: u64,
        moved: bool,
    },
    Done,
    Failed(Failure),
}

/// Many requests of one shard, and their replies. All of them change the log, or none does: what was written is answered before what is
/// read.
#[derive(Debug, Default)]
pub struct Batch {
    pub requests: Vec<Request>,
    /// One for each request, once the store has worked them through.
    pub replies: Vec<Reply>,
    bytes: Vec<u8>,
    pub(super) pages: Vec<u8>,
}

impl Batch {
    /// Appends bytes, to be named by a request.
    pub fn put(&mut self, bytes: &[u8]) -> Span {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        Span { start, length: bytes.len() as u32 }
    }

    /// The bytes of a span.
    pub fn bytes(&self, span: Span) -> &[u8] {
        &self.bytes[span.start as usize..][..span.length as usize]
    }

    /// The name in a span.
    pub fn name(&self, span: Span) -> &str {
        std::str::from_utf8(self.bytes(span)).expect("names are put in as text")
    }

    /// The message that an append carries, without channel, sequence and timestamp.
    pub fn message(&self, append: &Append) -> PushRef<'_> {
        PushRef {
            from_client: self.name(append.from_client),
            from_device: self.name(append.from_device),
            client_msg_id: append.client_msg_id,
            payload: self.bytes(append.payload),
            ..PushRef::default()
        }
    }

    /// The cursor of a device.
    pub(super) fn received_key(&self, channel: Span, client: Span, device: Span) -> CursorKey<'_> {
        let kind = CursorKind::Received { device: self.name(device) };
        CursorKey { channel: self.name(channel), client: self.name(client), kind }
    }

    /// The read cursor of a client.
    pub(super) fn read_key(&self, channel: Span, client: Span) -> CursorKey<'_> {
        CursorKey { channel: self.name(channel), client: self.name(client), kind: CursorKind::Read }
    }

    /// Names what was appended to the pages since `start`.
    pub(super) fn page_since(&self, start: usize) -> Span {
        Span { start: start as u32, length: (self.pages.len() - start) as u32 }
    }

    /// The messages of a page.
    pub fn entries(&self, page: Span) -> Entries<'_> {
        Entries::of(&self.pages[page.start as usize..][..page.length as usize])
    }

    /// Whether its requests change the log.
    pub fn is_write(&self) -> bool {
        self.requests.first().is_some_and(Request::is_write)
    }

    /// Answers all of its requests with a failure.
    pub fn fail(&mut self, failure: &Failure) {
        self.replies.extend(self.requests.iter().map(|_| Reply::Failed(failure.clone())));
    }

    /// How many of its requests failed.
    pub fn failures(&self) -> usize {
        self.replies.iter().filter(|reply| matches!(reply, Reply::Failed(_))).count()
    }

    /// What its requests take up, roughly.
    pub fn weight(&self) -> usize {
        self.bytes.len() + self.requests.len() * size_of::<Request>()
    }

    /// Empty, with its memory kept for the next use unless it grew large.
    pub fn clear(&mut self, keep_bytes: usize) {
        self.requests.clear();
        self.replies.clear();
        self.bytes.clear();
        self.pages.clear();
        self.bytes.shrink_to(keep_bytes);
        self.pages.shrink_to(keep_bytes);
        self.requests.shrink_to(keep_bytes / size_of::<Request>());
        self.replies.shrink_to(keep_bytes / size_of::<Reply>());
    }
}

/// The messages of a page, in order: each a length of 4 bytes (little-endian) and the body of a PUSH without its channel.
#[derive(Clone, Copy, Debug)]
pub struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Entries<'a> {
    /// The messages that [`super::Log::read`] appended.
    pub fn of(page: &'a [u8]) -> Entries<'a> {
        Entries { rest: page }
    }

    /// Appends one message to a page.
    pub fn put(message: &PushRef<'_>, page: &mut Vec<u8>) {
        let start = page.len();
        page.extend_from_slice(&[0; 4]);
        message.encode_body(page);
        let length = (page.len() - start - 4) as u32;
        page[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = PushRef<'a>;

    fn next(&mut self) -> Option<PushRef<'a>> {
        let (length, rest) = self.rest.split_first_chunk::<4>()?;
        let (body, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
        self.rest = rest;
        Some(PushRef::decode_body(body).expect("the log gives what it was given"))
    }
}
