//! What a client may say, for the targets that take whole frames.

use arbitrary::Arbitrary;
use weir::wire::{Frame, SendRef, body};

/// A frame with its own memory. Names are mostly short and few, so that they meet.
#[derive(Arbitrary, Clone, Debug)]
pub enum Said {
    Login { client: Name, device: Name, class: Class, token: String, agent: Name },
    Ping { sent_us: u64, rtt_us: u32 },
    Pong { sent_us: u64 },
    Send { channel: Channel, id: u64, class: i8, payload: Vec<u8>, receipt: bool, include_sender: bool },
    Join(Name),
    Leave(Name),
    Unknown(u8),
    LikeAGateway(u8),
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
    /// Lends the frame out: SEND borrows its channel and payload.
    pub fn with_frame<R>(&self, take: impl FnOnce(Frame<'_>) -> R) -> R {
        match self {
            Said::Login { client, device, class, token, agent } => take(Frame::Login(body::Login {
                client_id: client.text(),
                device_id: device.text(),
                device_class: class.text(),
                token: token.clone(),
                agent: agent.text(),
                ..body::Login::default()
            })),
            Said::Ping { sent_us, rtt_us } => take(Frame::Ping(body::Ping { sent_us: *sent_us, rtt_us: *rtt_us })),
            Said::Pong { sent_us } => take(Frame::Pong(body::Pong { sent_us: *sent_us, heartbeat_interval_ms: 0 })),
            Said::Send { channel, id, class, payload, receipt, include_sender } => take(Frame::Send(SendRef {
                channel: &channel.text(),
                client_msg_id: *id,
                class: i32::from(*class),
                payload,
                receipt: *receipt,
                include_sender: *include_sender,
                ..SendRef::default()
            })),
            Said::Join(group) => take(Frame::Join(body::Join { group: group.text(), cursor: None })),
            Said::Leave(group) => take(Frame::Leave(body::Leave { group: group.text() })),
            Said::Unknown(kind) => take(Frame::Unknown { kind: kind % 0x10 + 0x50 }),
            Said::LikeAGateway(kind) => take(match kind % 4 {
                0 => Frame::LoginOk(body::LoginOk::default()),
                1 => Frame::JoinOk(body::JoinOk::default()),
                2 => Frame::Kicked(body::Kicked::default()),
                _ => Frame::Error(body::Error::default()),
            }),
        }
    }
}
