//! What a client may say, for the targets that take whole frames.

use arbitrary::Arbitrary;
use weir::wire::{BatchRef, Frame, SendRef, body, encode};

/// A frame with its own memory. Names are mostly short and few, so that they meet.
#[derive(Arbitrary, Clone, Debug)]
pub enum Said {
    Login {
        client: Name,
        device: Name,
        class: Class,
        token: String,
        agent: Name,
        wants: Wants,
    },
    Ping {
        sent_us: u64,
        rtt_us: u32,
    },
    Pong {
        sent_us: u64,
    },
    Send {
        channel: Channel,
        id: u64,
        class: i8,
        payload: Vec<u8>,
        receipt: bool,
        include_sender: bool,
        key: Name,
    },
    Received {
        channel: Channel,
        seq: Number,
    },
    Read {
        channel: Channel,
        seq: Number,
    },
    Sync {
        channel: Channel,
        from: Number,
        limit: Number,
    },
    Join {
        group: Name,
        cursor: Option<Number>,
    },
    Leave(Name),
    State(i8),
    Watch(Vec<Name>),
    Unwatch(Vec<Name>),
    /// Other frames in one; also another one of these, which is not allowed.
    Batch(Vec<Said>),
    Unknown(u8),
    LikeAGateway(u8),
}

/// What LOGIN asks for beyond being let in.
#[derive(Arbitrary, Clone, Debug)]
pub struct Wants {
    window: Number,
    cursor: Option<Number>,
    batches: bool,
    zstd: bool,
}

/// Mostly small, so that it names something.
#[derive(Arbitrary, Clone, Debug)]
pub enum Number {
    Small(u8),
    Any(u64),
}

#[derive(Arbitrary, Clone, Debug)]
pub enum Name {
    Few(u8),
    Any(String),
}

#[derive(Arbitrary, Clone, Debug)]
pub enum Class {
    Known(u8),
    Any(String),
}

#[derive(Arbitrary, Clone, Debug)]
pub enum Channel {
    User(Name),
    Group(Name),
    Any(String),
}

/// The classes that `Class::Known` names: one of each policy.
pub const CLASSES: [&str; 3] = ["many", "newest", "oldest"];

impl Number {
    fn value(&self) -> u64 {
        match self {
            Number::Small(number) => u64::from(number % 8),
            Number::Any(number) => *number,
        }
    }
}

impl Name {
    pub fn text(&self) -> String {
        match self {
            Name::Few(number) => format!("n{}", number % 4),
            Name::Any(text) => text.clone(),
        }
    }
}

impl Class {
    fn text(&self) -> String {
        match self {
            Class::Known(number) => CLASSES[usize::from(*number) % CLASSES.len()].to_owned(),
            Class::Any(text) => text.clone(),
        }
    }
}

impl Channel {
    fn text(&self) -> String {
        match self {
            Channel::User(name) => format!("user/{}", name.text()),
            Channel::Group(name) => format!("group/{}", name.text()),
            Channel::Any(text) => text.clone(),
        }
    }
}

impl Said {
    /// Appends the frame's bytes.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        self.with_frame(|frame| encode(&frame, bytes));
    }

    /// Lends the frame out: SEND borrows its channel and payload.
    pub fn with_frame<R>(&self, take: impl FnOnce(Frame<'_>) -> R) -> R {
        match self {
            Said::Login { client, device, class, token, agent, wants } => take(Frame::Login(body::Login {
                client_id: client.text(),
                device_id: device.text(),
                device_class: class.text(),
                token: token.clone(),
                agent: agent.text(),
                window: wants.window.value() as u32,
                cursor: wants.cursor.as_ref().map(Number::value),
                batches: wants.batches,
                compression: i32::from(wants.zstd),
            })),
            Said::Ping { sent_us, rtt_us } => take(Frame::Ping(body::Ping { sent_us: *sent_us, rtt_us: *rtt_us })),
            Said::Pong { sent_us } => take(Frame::Pong(body::Pong { sent_us: *sent_us, heartbeat_interval_ms: 0 })),
            Said::Send { channel, id, class, payload, receipt, include_sender, key } => take(Frame::Send(SendRef {
                channel: &channel.text(),
                client_msg_id: *id,
                class: i32::from(*class),
                payload,
                receipt: *receipt,
                include_sender: *include_sender,
                key: &key.text(),
            })),
            Said::Received { channel, seq } => {
                take(Frame::Received(body::Received { channel: channel.text(), seq: seq.value() }))
            }
            Said::Read { channel, seq } => take(Frame::Read(body::Read { channel: channel.text(), seq: seq.value() })),
            Said::Sync { channel, from, limit } => {
                let (from, limit) = (from.value(), limit.value() as u32);
                take(Frame::Sync(body::Sync { channel: channel.text(), from, limit }))
            }
            Said::Join { group, cursor } => {
                take(Frame::Join(body::Join { group: group.text(), cursor: cursor.as_ref().map(Number::value) }))
            }
            Said::State(presence) => take(Frame::State(body::State { presence: i32::from(*presence) })),
            Said::Watch(clients) => take(Frame::Watch(body::Watch { clients: clients.iter().map(Name::text).collect() })),
            Said::Unwatch(clients) => take(Frame::Unwatch(body::Unwatch { clients: clients.iter().map(Name::text).collect() })),
            Said::Batch(frames) => {
                let mut bytes = Vec::new();
                for said in frames {
                    said.encode(&mut bytes);
                }
                take(Frame::Batch(BatchRef::new(&bytes)))
            }
            Said::Leave(group) => take(Frame::Leave(body::Leave { group: group.text() })),
            Said::Unknown(kind) => take(Frame::Unknown { kind: kind % 0x10 + 0x50 }),
            Said::LikeAGateway(kind) => take(match kind % 8 {
                0 => Frame::LoginOk(body::LoginOk::default()),
                1 => Frame::JoinOk(body::JoinOk::default()),
                2 => Frame::Kicked(body::Kicked::default()),
                3 => Frame::Cursors(body::Cursors::default()),
                4 => Frame::Gap(body::Gap::default()),
                5 => Frame::Page(body::Page::default()),
                6 => Frame::Presence(body::PresenceOf::default()),
                _ => Frame::Error(body::Error::default()),
            }),
        }
    }
}
