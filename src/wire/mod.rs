//! Bytes to frames and back. Pure: no I/O, no clock, nothing allocated before its length was checked.
//!
//! The layout is written down once, in `proto/frame.md`; its golden vectors are tested against this code.
#![deny(unsafe_code)]

mod batch;
mod checksum;
mod code;
mod compress;
mod fields;
mod hot;

/// The Protobuf bodies, generated from `proto/weir.proto`.
pub mod body {
    include!(concat!(env!("OUT_DIR"), "/weir.v1.rs"));
}

use checksum::checksum;

pub use batch::{BatchRef, Frames, wrap_batch};
pub use code::{ErrorCode, Retry};
pub use compress::{Packer, Unpacker};
pub use hot::{AcceptedRef, PushRef, SendRef};

/// The fixed header in front of every body.
pub const HEADER_BYTES: usize = 16;
/// The first two bytes of every frame: "WR".
pub const MAGIC: u16 = 0x5752;
/// The protocol version of this code.
pub const VERSION: u8 = 1;
/// Flag: the receiver must understand this frame's type, or answer with an error and close.
pub const FLAG_CRITICAL: u16 = 0x8000;
/// Flag: the body is one zstd frame of the real body.
pub const FLAG_COMPRESSED: u16 = 0x0100;
/// Flags in this half must be understood, or the frame is refused; the others may be ignored.
pub const FLAGS_CRITICAL_MASK: u16 = 0xff00;

/// Offset of the checksum, which covers the header before it and the body.
const CRC_OFFSET: usize = 12;

macro_rules! frame_types {
    ($($name:ident = $byte:literal, $text:literal;)*) => {
        /// The type byte of a frame.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum FrameType { $($name = $byte,)* }

        impl FrameType {
            /// All types, in the order of their bytes.
            pub const ALL: &'static [FrameType] = &[$(FrameType::$name,)*];

            /// The type with this byte, if there is one.
            pub fn from_byte(byte: u8) -> Option<FrameType> {
                match byte {
                    $($byte => Some(FrameType::$name),)*
                    _ => None,
                }
            }

            /// The name in `proto/frame.md`.
            pub fn name(self) -> &'static str {
                match self { $(FrameType::$name => $text,)* }
            }
        }
    };
}

frame_types! {
    Login = 0x01, "LOGIN";
    LoginOk = 0x02, "LOGIN_OK";
    Ping = 0x03, "PING";
    Pong = 0x04, "PONG";
    Send = 0x10, "SEND";
    SendOk = 0x11, "SEND_OK";
    Push = 0x12, "PUSH";
    Accepted = 0x13, "ACCEPTED";
    Received = 0x14, "RECEIVED";
    Read = 0x15, "READ";
    Gap = 0x16, "GAP";
    Batch = 0x18, "BATCH";
    Join = 0x20, "JOIN";
    JoinOk = 0x21, "JOIN_OK";
    Leave = 0x22, "LEAVE";
    LeaveOk = 0x23, "LEAVE_OK";
    Cursors = 0x24, "CURSORS";
    Sync = 0x25, "SYNC";
    Page = 0x26, "PAGE";
    Kicked = 0x30, "KICKED";
    Goaway = 0x31, "GOAWAY";
    Error = 0x32, "ERROR";
    State = 0x40, "STATE";
    Watch = 0x41, "WATCH";
    Unwatch = 0x42, "UNWATCH";
    Presence = 0x43, "PRESENCE";
}

/// One frame. The bodies of SEND, PUSH and ACCEPTED, the hot ones, borrow from the bytes they were decoded from.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame<'a> {
    Login(body::Login),
    LoginOk(body::LoginOk),
    Ping(body::Ping),
    Pong(body::Pong),
    Send(SendRef<'a>),
    SendOk(body::SendOk),
    Push(PushRef<'a>),
    Accepted(AcceptedRef<'a>),
    Received(body::Received),
    Read(body::Read),
    Gap(body::Gap),
    Batch(BatchRef<'a>),
    Join(body::Join),
    JoinOk(body::JoinOk),
    Leave(body::Leave),
    LeaveOk(body::LeaveOk),
    Cursors(body::Cursors),
    Sync(body::Sync),
    Page(body::Page),
    Kicked(body::Kicked),
    Goaway(body::Goaway),
    Error(body::Error),
    State(body::State),
    Watch(body::Watch),
    Unwatch(body::Unwatch),
    Presence(body::PresenceOf),
    /// A type this version does not know and the sender does not insist on: to be skipped.
    Unknown {
        kind: u8,
    },
}

impl Frame<'_> {
    /// The type byte.
    pub fn kind(&self) -> u8 {
        let kind = match self {
            Frame::Login(_) => FrameType::Login,
            Frame::LoginOk(_) => FrameType::LoginOk,
            Frame::Ping(_) => FrameType::Ping,
            Frame::Pong(_) => FrameType::Pong,
            Frame::Send(_) => FrameType::Send,
            Frame::SendOk(_) => FrameType::SendOk,
            Frame::Push(_) => FrameType::Push,
            Frame::Accepted(_) => FrameType::Accepted,
            Frame::Received(_) => FrameType::Received,
            Frame::Read(_) => FrameType::Read,
            Frame::Gap(_) => FrameType::Gap,
            Frame::Batch(_) => FrameType::Batch,
            Frame::Join(_) => FrameType::Join,
            Frame::JoinOk(_) => FrameType::JoinOk,
            Frame::Leave(_) => FrameType::Leave,
            Frame::LeaveOk(_) => FrameType::LeaveOk,
            Frame::Cursors(_) => FrameType::Cursors,
            Frame::Sync(_) => FrameType::Sync,
            Frame::Page(_) => FrameType::Page,
            Frame::Kicked(_) => FrameType::Kicked,
            Frame::Goaway(_) => FrameType::Goaway,
            Frame::Error(_) => FrameType::Error,
            Frame::State(_) => FrameType::State,
            Frame::Watch(_) => FrameType::Watch,
            Frame::Unwatch(_) => FrameType::Unwatch,
            Frame::Presence(_) => FrameType::Presence,
            Frame::Unknown { kind } => return *kind,
        };
        kind as u8
    }
}

/// What `decode` found at the start of the bytes.
#[derive(Clone, Debug, PartialEq)]
pub enum Decoded<'a> {
    /// A whole frame that takes up `frame_bytes`.
    Frame { frame: Frame<'a>, frame_bytes: usize },
    /// Not a whole frame yet: `total_bytes` are needed in all, more than there are (a lower bound while the header is incomplete).
    NeedMore { total_bytes: usize },
}

/// Why bytes are not a frame. The connection cannot go on: nothing behind the bytes can be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Malformed {
    Magic { seen: u16 },
    Version { seen: u8 },
    Flags { seen: u16 },
    TooLong { body_bytes: u32, limit: u32 },
    Checksum { seen: u32, computed: u32 },
    UnknownType { kind: u8 },
    Body { kind: FrameType, cause: String },
    Batch { cause: &'static str },
    Compression { cause: &'static str },
    DecompressedTooLong { limit: u32 },
}

impl Malformed {
    /// The code that the ERROR frame carries.
    pub fn code(&self) -> ErrorCode {
        match self {
            Malformed::Magic { .. } => ErrorCode::BadMagic,
            Malformed::Version { .. } => ErrorCode::UnsupportedVersion,
            Malformed::Flags { .. } => ErrorCode::UnsupportedFlags,
            Malformed::TooLong { .. } => ErrorCode::FrameTooLong,
            Malformed::Checksum { .. } => ErrorCode::BadChecksum,
            Malformed::UnknownType { .. } => ErrorCode::UnknownType,
            Malformed::Body { .. } => ErrorCode::BadBody,
            Malformed::Batch { .. } => ErrorCode::BadBatch,
            Malformed::Compression { .. } => ErrorCode::BadCompression,
            Malformed::DecompressedTooLong { .. } => ErrorCode::DecompressedTooLong,
        }
    }
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Malformed::Magic { seen } => write!(f, "a frame starts with {MAGIC:#06x}, not {seen:#06x}: is this a Weir client?"),
            Malformed::Version { seen } => write!(f, "protocol version {seen} is not spoken here, only {VERSION}"),
            Malformed::Flags { seen } => write!(f, "flags {seen:#06x} hold a critical bit that this version does not know"),
            Malformed::TooLong { body_bytes, limit } => write!(f, "a body of {body_bytes} bytes is over the limit of {limit}"),
            Malformed::Checksum { seen, computed } => {
                write!(f, "the header says CRC32C {seen:#010x}, header and body give {computed:#010x}")
            }
            Malformed::UnknownType { kind } => write!(f, "frame type {kind:#04x} is marked critical and not known here"),
            Malformed::Body { kind, cause } => write!(f, "the body of {} is not valid: {cause}", kind.name()),
            Malformed::Batch { cause } => write!(f, "a BATCH holds whole frames and at least one, but no other BATCH: {cause}"),
            Malformed::Compression { cause } => write!(f, "a compressed body cannot be taken: {cause}"),
            Malformed::DecompressedTooLong { limit } => {
                write!(f, "a compressed body is over the limit of {limit} bytes once decompressed")
            }
        }
    }
}

impl std::error::Error for Malformed {}

/// Reads the frame at the start of `bytes`, of a peer that did not agree upon compression.
///
/// The length is checked against `max_body_bytes` as soon as the header is there, and nothing is allocated before that.
///
/// # Errors
/// [`Malformed`], on which the connection is answered with its code and closed.
pub fn decode(bytes: &[u8], max_body_bytes: u32) -> Result<Decoded<'_>, Malformed> {
    match find(bytes, max_body_bytes, 0)? {
        Found::NeedMore { total_bytes } => Ok(Decoded::NeedMore { total_bytes }),
        Found::Frame { kind, flags, body, frame_bytes } => {
            let frame = decode_body(kind, flags, body)?;
            Ok(Decoded::Frame { frame, frame_bytes })
        }
    }
}

/// What is at the start of the bytes, its body unread.
enum Found<'a> {
    NeedMore { total_bytes: usize },
    Frame { kind: u8, flags: u16, body: &'a [u8], frame_bytes: usize },
}

/// Finds the frame at the start of `bytes` and checks all but its body. `agreed`: flags that this peer may set.
#[inline(always)]
fn find(bytes: &[u8], max_body_bytes: u32, agreed: u16) -> Result<Found<'_>, Malformed> {
    // A wrong peer is told so by its first bytes, not after 16 of them came.
    if let Some(magic) = bytes.first_chunk::<2>() {
        let seen = u16::from_be_bytes(*magic);
        if seen != MAGIC {
            return Err(Malformed::Magic { seen });
        }
    }
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Ok(Found::NeedMore { total_bytes: HEADER_BYTES });
    };
    let [_, _, version, kind, f0, f1, _, _, l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    if version != VERSION {
        return Err(Malformed::Version { seen: version });
    }
    let flags = u16::from_be_bytes([f0, f1]);
    if flags & FLAGS_CRITICAL_MASK & !(FLAG_CRITICAL | agreed) != 0 {
        return Err(refused_flags(flags));
    }
    let body_bytes = u32::from_be_bytes([l0, l1, l2, l3]);
    if body_bytes > max_body_bytes {
        return Err(Malformed::TooLong { body_bytes, limit: max_body_bytes });
    }
    let frame_bytes = HEADER_BYTES + body_bytes as usize;
    let Some(frame) = bytes.get(..frame_bytes) else {
        return Ok(Found::NeedMore { total_bytes: frame_bytes });
    };
    let seen = u32::from_be_bytes([c0, c1, c2, c3]);
    let computed = checksum(frame);
    if seen != computed {
        return Err(Malformed::Checksum { seen, computed });
    }
    Ok(Found::Frame { kind, flags, body: &frame[HEADER_BYTES..], frame_bytes })
}

#[cold]
fn refused_flags(flags: u16) -> Malformed {
    match flags & FLAGS_CRITICAL_MASK & !FLAG_CRITICAL {
        FLAG_COMPRESSED => Malformed::Compression { cause: "it was not agreed upon at LOGIN, or came in front of LOGIN_OK" },
        _ => Malformed::Flags { seen: flags },
    }
}

/// Whether the body of an encoded frame is compressed.
pub fn is_compressed(frame: &[u8]) -> bool {
    frame.get(4).is_some_and(|flags| u16::from(*flags) << 8 & FLAG_COMPRESSED != 0)
}

fn decode_body(kind_byte: u8, flags: u16, body: &[u8]) -> Result<Frame<'_>, Malformed> {
    let Some(kind) = FrameType::from_byte(kind_byte) else {
        if flags & FLAG_CRITICAL != 0 {
            return Err(Malformed::UnknownType { kind: kind_byte });
        }
        return Ok(Frame::Unknown { kind: kind_byte });
    };
    let malformed = |cause: &str| Malformed::Body { kind, cause: cause.to_owned() };
    match kind {
        FrameType::Login => cold(body).map(Frame::Login),
        FrameType::LoginOk => cold(body).map(Frame::LoginOk),
        FrameType::Ping => cold(body).map(Frame::Ping),
        FrameType::Pong => cold(body).map(Frame::Pong),
        FrameType::Send => return SendRef::decode(body).map(Frame::Send).map_err(malformed),
        FrameType::SendOk => cold(body).map(Frame::SendOk),
        FrameType::Push => return PushRef::decode(body).map(Frame::Push).map_err(malformed),
        FrameType::Accepted => return AcceptedRef::decode(body).map(Frame::Accepted).map_err(malformed),
        FrameType::Received => cold(body).map(Frame::Received),
        FrameType::Read => cold(body).map(Frame::Read),
        FrameType::Gap => cold(body).map(Frame::Gap),
        FrameType::Batch => return BatchRef::decode(body).map(Frame::Batch),
        FrameType::Join => cold(body).map(Frame::Join),
        FrameType::JoinOk => cold(body).map(Frame::JoinOk),
        FrameType::Leave => cold(body).map(Frame::Leave),
        FrameType::LeaveOk => cold(body).map(Frame::LeaveOk),
        FrameType::Cursors => cold(body).map(Frame::Cursors),
        FrameType::Sync => cold(body).map(Frame::Sync),
        FrameType::Page => cold(body).map(Frame::Page),
        FrameType::Kicked => cold(body).map(Frame::Kicked),
        FrameType::Goaway => cold(body).map(Frame::Goaway),
        FrameType::Error => cold(body).map(Frame::Error),
        FrameType::State => cold(body).map(Frame::State),
        FrameType::Watch => cold(body).map(Frame::Watch),
        FrameType::Unwatch => cold(body).map(Frame::Unwatch),
        FrameType::Presence => cold(body).map(Frame::Presence),
    }
    .map_err(|cause| malformed(&cause))
}

/// Reads a body by prost, which allocates: its form is checked before.
fn cold<M: prost::Message + Default>(body: &[u8]) -> Result<M, String> {
    fields::check(body)?;
    M::decode(body).map_err(|cause| cause.to_string())
}

/// Appends one frame to `out`.
pub fn encode(frame: &Frame<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&header(frame.kind()));
    match frame {
        Frame::Login(body) => append(body, out),
        Frame::LoginOk(body) => append(body, out),
        Frame::Ping(body) => append(body, out),
        Frame::Pong(body) => append(body, out),
        Frame::Send(body) => body.encode(out),
        Frame::SendOk(body) => append(body, out),
        Frame::Push(body) => body.encode(out),
        Frame::Accepted(body) => body.encode(out),
        Frame::Received(body) => append(body, out),
        Frame::Read(body) => append(body, out),
        Frame::Gap(body) => append(body, out),
        Frame::Batch(batch) => out.extend_from_slice(batch.bytes()),
        Frame::Join(body) => append(body, out),
        Frame::JoinOk(body) => append(body, out),
        Frame::Leave(body) => append(body, out),
        Frame::LeaveOk(body) => append(body, out),
        Frame::Cursors(body) => append(body, out),
        Frame::Sync(body) => append(body, out),
        Frame::Page(body) => append(body, out),
        Frame::Kicked(body) => append(body, out),
        Frame::Goaway(body) => append(body, out),
        Frame::Error(body) => append(body, out),
        Frame::State(body) => append(body, out),
        Frame::Watch(body) => append(body, out),
        Frame::Unwatch(body) => append(body, out),
        Frame::Presence(body) => append(body, out),
        Frame::Unknown { .. } => {}
    }
    seal(&mut out[start..]);
}

fn append(body: &impl prost::Message, out: &mut Vec<u8>) {
    body.encode(out).expect("a Vec grows as needed");
}

/// A header without flags; length and checksum are still to be filled in.
fn header(kind: u8) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..2].copy_from_slice(&MAGIC.to_be_bytes());
    header[2..4].copy_from_slice(&[VERSION, kind]);
    header
}

/// Fills in length and checksum of a frame whose other bytes are in place.
fn seal(frame: &mut [u8]) {
    let body_bytes = u32::try_from(frame.len() - HEADER_BYTES).expect("bodies are bounded far below 4 GiB");
    frame[8..12].copy_from_slice(&body_bytes.to_be_bytes());
    let crc = checksum(frame);
    frame[CRC_OFFSET..HEADER_BYTES].copy_from_slice(&crc.to_be_bytes());
}
