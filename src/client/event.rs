//! What comes from a gateway, as a client sees it.
#![forbid(unsafe_code)]

use crate::wire::{Frame, FrameType, PushRef, body};

/// A PUSH.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Push {
    pub channel: String,
    pub from_client: String,
    pub from_device: String,
    pub client_msg_id: u64,
    pub payload: Vec<u8>,
    /// 0: the message is not durable.
    pub seq: u64,
    pub timestamp: u64,
}

/// A frame from the gateway.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    LoginOk(body::LoginOk),
    Pong(body::Pong),
    SendOk(body::SendOk),
    Push(Push),
    JoinOk(body::JoinOk),
    LeaveOk(body::LeaveOk),
    Accepted(body::Accepted),
    Gap(body::Gap),
    Cursors(body::Cursors),
    Page(body::Page),
    Presence(body::PresenceOf),
    Kicked(body::Kicked),
    Goaway(body::Goaway),
    Error(body::Error),
}

/// What a client makes of a frame.
#[derive(Debug)]
pub(super) enum Taken {
    Event(Event),
    Ping(body::Ping),
    Skip,
    Misdirected(FrameType),
}

impl Taken {
    /// A frame off the wire.
    pub(super) fn of(frame: Frame<'_>) -> Taken {
        Taken::Event(match frame {
            Frame::LoginOk(ok) => Event::LoginOk(ok),
            Frame::Pong(pong) => Event::Pong(pong),
            Frame::SendOk(ok) => Event::SendOk(ok),
            Frame::Push(push) => Event::Push(push.into()),
            Frame::JoinOk(ok) => Event::JoinOk(ok),
            Frame::LeaveOk(ok) => Event::LeaveOk(ok),
            Frame::Accepted(accepted) => Event::Accepted(accepted.to_owned()),
            Frame::Gap(gap) => Event::Gap(gap),
            Frame::Cursors(cursors) => Event::Cursors(cursors),
            Frame::Page(page) => Event::Page(page),
            Frame::Presence(presence) => Event::Presence(presence),
            Frame::Kicked(kicked) => Event::Kicked(kicked),
            Frame::Goaway(goaway) => Event::Goaway(goaway),
            Frame::Error(error) => Event::Error(error),
            Frame::Ping(ping) => return Taken::Ping(ping),
            Frame::Unknown { .. } => return Taken::Skip,
            // Taken apart before.
            Frame::Batch(_) => return Taken::Misdirected(FrameType::Batch),
            Frame::Login(_) => return Taken::Misdirected(FrameType::Login),
            Frame::Send(_) => return Taken::Misdirected(FrameType::Send),
            Frame::Join(_) => return Taken::Misdirected(FrameType::Join),
            Frame::Leave(_) => return Taken::Misdirected(FrameType::Leave),
            Frame::Received(_) => return Taken::Misdirected(FrameType::Received),
            Frame::Read(_) => return Taken::Misdirected(FrameType::Read),
            Frame::Sync(_) => return Taken::Misdirected(FrameType::Sync),
            Frame::State(_) => return Taken::Misdirected(FrameType::State),
            Frame::Watch(_) => return Taken::Misdirected(FrameType::Watch),
            Frame::Unwatch(_) => return Taken::Misdirected(FrameType::Unwatch),
        })
    }
}

impl From<PushRef<'_>> for Push {
    fn from(push: PushRef<'_>) -> Push {
        Push {
            channel: push.channel.to_owned(),
            from_client: push.from_client.to_owned(),
            from_device: push.from_device.to_owned(),
            client_msg_id: push.client_msg_id,
            payload: push.payload.to_vec(),
            seq: push.seq,
            timestamp: push.timestamp,
        }
    }
}
