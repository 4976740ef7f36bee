//! The protocol of one connection: which frame is allowed when, and what it asks for. Pure; the shard carries it out.
#![forbid(unsafe_code)]

mod heartbeat;
mod login;
mod name;
mod presence;
mod rate;
pub mod token;

pub use heartbeat::{Heartbeat, HeartbeatRules};
pub use login::{DeviceClass, Form, Identity, Policy, Rights, check_login};
pub use name::{BadName, Names, check_name, check_optional_name};
pub use rate::{Bucket, Rate, Verdict};

use crate::{
    io::Tick,
    limits::PAGE_MESSAGES_MAX,
    wire::{ErrorCode, Frame, FrameType, SendRef, body, body::DeliveryClass},
};

/// What holds for every session of a gateway.
#[derive(Debug)]
pub struct Rules {
    /// Checks tokens; `None` in developer mode, where any id is accepted.
    pub verifier: Option<token::Verifier>,
    /// The classes that a device may name; the first is what an empty name means.
    pub device_classes: Vec<DeviceClass>,
    pub heartbeat: HeartbeatRules,
    pub frames: Rate,
    pub bytes: Rate,
    /// The largest body taken from a session, in bytes.
    pub max_body_bytes: u32,
    /// The wall clock at tick 0, in microseconds since the Unix epoch.
    pub wall_at_start_us: u64,
}

impl Rules {
    /// The wall clock, in milliseconds since the Unix epoch.
    pub fn wall_ms(&self, now: Tick) -> u64 {
        (self.wall_at_start_us + now.0) / 1_000
    }
}

/// A frame that is not carried out: becomes an ERROR frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: ErrorCode,
    pub message: String,
    /// The connection ends with it.
    pub closing: bool,
    pub retry_after_ms: u32,
    pub client_msg_id: u64,
    pub in_reply_to: u8,
}

impl Refusal {
    /// One that ends the connection.
    pub fn closing(code: ErrorCode, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into(), closing: true, retry_after_ms: 0, client_msg_id: 0, in_reply_to: 0 }
    }

    /// One that the connection survives.
    pub fn answer(code: ErrorCode, in_reply_to: FrameType, message: impl Into<String>) -> Refusal {
        Refusal { closing: false, in_reply_to: in_reply_to as u8, ..Refusal::closing(code, message) }
    }

    fn about(self, client_msg_id: u64) -> Refusal {
        Refusal { client_msg_id, ..self }
    }

    /// The body of the ERROR frame.
    pub fn body(&self) -> body::Error {
        body::Error {
            code: self.code.number(),
            message: self.message.clone(),
            closing: self.closing,
            retry_after_ms: self.retry_after_ms,
            client_msg_id: self.client_msg_id,
            in_reply_to: u32::from(self.in_reply_to),
        }
    }
}

/// Where a SEND goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    User(&'a str),
    Group(&'a str),
}

/// What a frame of a session asks the shard to do.
#[derive(Debug, PartialEq)]
pub enum Action<'a> {
    /// Nothing more: it was heard.
    Nothing,
    Pong(body::Pong),
    /// Route it to who is online.
    Send {
        target: Target<'a>,
        send: SendRef<'a>,
    },
    /// Keep it in the channel's log first.
    Append {
        target: Target<'a>,
        send: SendRef<'a>,
    },
    Received(body::Received),
    Read(body::Read),
    Sync(body::Sync),
    Join {
        group: String,
        cursor: Option<u64>,
    },
    Leave {
        group: String,
    },
    State {
        background: bool,
    },
    /// Names that were checked.
    Watch(body::Watch),
    /// As above. None: everybody.
    Unwatch(body::Unwatch),
    /// Skipped; counted.
    Unknown,
}

/// The protocol state of a logged-in connection.
#[derive(Clone, Debug)]
pub struct Session {
    pub heartbeat: Heartbeat,
    frames: Bucket,
    bytes: Bucket,
    refilled_ms: u32,
}

impl Session {
    /// Starts with full buckets.
    pub fn new(rules: &Rules, now: Tick) -> Session {
        let now_ms = now.as_ms() as u32;
        Session {
            heartbeat: Heartbeat::new(&rules.heartbeat),
            frames: Bucket::new(rules.frames),
            bytes: Bucket::new(rules.bytes),
            refilled_ms: now_ms,
        }
    }

    /// Takes one frame of `frame_bytes` bytes in all.
    ///
    /// # Errors
    /// The refusal to answer with.
    pub fn handle<'a>(
        &mut self,
        now: Tick,
        frame: Frame<'a>,
        frame_bytes: usize,
        rules: &Rules,
        rights: Option<&Rights>,
    ) -> Result<Action<'a>, Refusal> {
        self.charge(now, &frame, frame_bytes, rules)?;
        match frame {
            Frame::Send(send) => check_send(send, rights),
            Frame::Ping(ping) => {
                self.heartbeat.measured(ping.rtt_us);
                let interval_ms = self.heartbeat.pinged(&rules.heartbeat);
                Ok(Action::Pong(body::Pong { sent_us: ping.sent_us, heartbeat_interval_ms: interval_ms }))
            }
            Frame::Pong(pong) => {
                // Only what this gateway can have sent: its own clock, and not the future.
                if (1..=now.0).contains(&pong.sent_us) {
                    self.heartbeat.measured(u32::try_from(now.0 - pong.sent_us).unwrap_or(u32::MAX));
                }
                Ok(Action::Nothing)
            }
            Frame::Join(join) => {
                check_group(&join.group, FrameType::Join)?;
                if rights.is_some_and(|rights| !rights.join.allows(&join.group)) {
                    let message = format!("the token's claim `join` does not cover group {:?}", join.group);
                    return Err(Refusal::answer(ErrorCode::JoinForbidden, FrameType::Join, message));
                }
                Ok(Action::Join { group: join.group, cursor: join.cursor })
            }
            Frame::Leave(leave) => {
                check_group(&leave.group, FrameType::Leave)?;
                Ok(Action::Leave { group: leave.group })
            }
            Frame::Received(received) => {
                check_channel(&received.channel, FrameType::Received)?;
                Ok(Action::Received(received))
            }
            Frame::Read(read) => {
                check_channel(&read.channel, FrameType::Read)?;
                Ok(Action::Read(read))
            }
            Frame::Sync(sync) => check_sync(sync, rights),
            Frame::State(state) => presence::check_state(state),
            Frame::Watch(watch) => presence::check_watch(watch, rights),
            Frame::Unwatch(unwatch) => presence::check_unwatch(unwatch),
            Frame::Unknown { .. } => Ok(Action::Unknown),
            Frame::Login(_) => Err(Refusal::closing(
                ErrorCode::UnexpectedFrame,
                "LOGIN came twice on one connection; open another for another client",
            )),
            Frame::Batch(_) => Err(Refusal::closing(ErrorCode::BadBatch, "a BATCH is taken apart before its frames are handled")),
            Frame::LoginOk(_)
            | Frame::SendOk(_)
            | Frame::Push(_)
            | Frame::Accepted(_)
            | Frame::Gap(_)
            | Frame::JoinOk(_)
            | Frame::LeaveOk(_)
            | Frame::Cursors(_)
            | Frame::Page(_)
            | Frame::Presence(_)
            | Frame::Kicked(_)
            | Frame::Goaway(_)
            | Frame::Error(_) => Err(only_gateways_send(&frame)),
        }
    }

    /// Takes the frame from the rate limits.
    fn charge(&mut self, now: Tick, frame: &Frame<'_>, frame_bytes: usize, rules: &Rules) -> Result<(), Refusal> {
        let now_ms = now.as_ms() as u32;
        let elapsed_ms = now_ms.wrapping_sub(self.refilled_ms);
        // Once in a while is enough, and costs less.
        if elapsed_ms >= 100 {
            self.frames.refill(rules.frames, self.refilled_ms, elapsed_ms);
            self.bytes.refill(rules.bytes, self.refilled_ms, elapsed_ms);
            self.refilled_ms = now_ms;
        }
        let frames = self.frames.take(rules.frames, presence::cost(frame, rules.frames));
        let bytes = self.bytes.take(rules.bytes, u32::try_from(frame_bytes).unwrap_or(u32::MAX));
        let client_msg_id = if let Frame::Send(send) = frame { send.client_msg_id } else { 0 };
        for (verdict, what, rate) in [(frames, "frames", rules.frames), (bytes, "bytes", rules.bytes)] {
            match verdict {
                Verdict::Granted => {}
                Verdict::Refused { retry_after_ms } => {
                    let message = format!(
                        "more than {} {what} a second on one connection; this frame was not carried out",
                        rate.per_second
                    );
                    let refusal =
                        Refusal { closing: false, retry_after_ms, ..Refusal::closing(ErrorCode::RateExceeded, message) };
                    return Err(Refusal { in_reply_to: frame.kind(), ..refusal.about(client_msg_id) });
                }
                Verdict::Abuse => {
                    let message = format!("far more than {} {what} a second, and refusals went unheeded", rate.per_second);
                    return Err(Refusal { retry_after_ms: 1_000, ..Refusal::closing(ErrorCode::RateExceeded, message) });
                }
            }
        }
        Ok(())
    }
}

/// What a frame before LOGIN is.
pub fn check_first_frame(frame: Frame<'_>) -> Result<body::Login, Refusal> {
    match frame {
        Frame::Login(login) => Ok(login),
        Frame::Ping(_)
        | Frame::Pong(_)
        | Frame::Send(_)
        | Frame::Received(_)
        | Frame::Read(_)
        | Frame::Sync(_)
        | Frame::Join(_)
        | Frame::Leave(_)
        | Frame::State(_)
        | Frame::Watch(_)
        | Frame::Unwatch(_)
        | Frame::Batch(_)
        | Frame::Unknown { .. } => {
            Err(Refusal::closing(ErrorCode::UnexpectedFrame, "the first frame of a connection must be LOGIN"))
        }
        Frame::LoginOk(_)
        | Frame::SendOk(_)
        | Frame::Push(_)
        | Frame::Accepted(_)
        | Frame::Gap(_)
        | Frame::Cursors(_)
        | Frame::Page(_)
        | Frame::Presence(_)
        | Frame::JoinOk(_)
        | Frame::LeaveOk(_)
        | Frame::Kicked(_)
        | Frame::Goaway(_)
        | Frame::Error(_) => Err(only_gateways_send(&frame)),
    }
}

fn only_gateways_send(frame: &Frame<'_>) -> Refusal {
    let name = FrameType::from_byte(frame.kind()).map_or("this frame", FrameType::name);
    Refusal::closing(ErrorCode::UnexpectedFrame, format!("{name} is sent by gateways only"))
}

fn check_group(group: &str, frame: FrameType) -> Result<(), Refusal> {
    check_name(group).map_err(|bad| Refusal::answer(ErrorCode::BadName, frame, format!("the group's name {bad}")))
}

fn check_send<'a>(send: SendRef<'a>, rights: Option<&Rights>) -> Result<Action<'a>, Refusal> {
    let refuse = |code, message: String| Err(Refusal::answer(code, FrameType::Send, message).about(send.client_msg_id));
    let Some(class) = send.known_class() else {
        return refuse(ErrorCode::UnsupportedClass, format!("delivery class {} is not offered here", send.class));
    };
    if let Err(bad) = check_optional_name(send.key) {
        return refuse(ErrorCode::BadName, format!("the key {bad}"));
    }
    let target = check_channel(send.channel, FrameType::Send).map_err(|refusal| refusal.about(send.client_msg_id))?;
    match target {
        Target::Group(group) if rights.is_some_and(|rights| !rights.write.allows(group)) => {
            return refuse(ErrorCode::WriteForbidden, format!("the token's claim `write` does not cover group {group:?}"));
        }
        Target::Group(_) | Target::User(_) => {}
    }
    Ok(match class {
        DeliveryClass::Durable => Action::Append { target, send },
        DeliveryClass::Transient | DeliveryClass::TransientNewest | DeliveryClass::TransientLatest => {
            Action::Send { target, send }
        }
    })
}

/// What a channel names.
pub fn check_channel(channel: &str, frame: FrameType) -> Result<Target<'_>, Refusal> {
    let bad = |message| Refusal::answer(ErrorCode::BadChannel, frame, message);
    let target = if let Some(name) = channel.strip_prefix("user/") {
        Target::User(name)
    } else if let Some(name) = channel.strip_prefix("group/") {
        Target::Group(name)
    } else {
        let shown: String = channel.chars().take(80).collect();
        return Err(bad(format!("channel {shown:?} is neither \"user/<client_id>\" nor \"group/<group>\"")));
    };
    let (Target::User(name) | Target::Group(name)) = target;
    check_name(name).map_err(|why| bad(format!("the name in the channel {why}")))?;
    Ok(target)
}

/// Whose channel it is, the shard knows.
fn check_sync(sync: body::Sync, rights: Option<&Rights>) -> Result<Action<'static>, Refusal> {
    let refuse = |code, message: String| Err(Refusal::answer(code, FrameType::Sync, message));
    if let Target::Group(group) = check_channel(&sync.channel, FrameType::Sync)?
        && rights.is_some_and(|rights| !rights.join.allows(group))
    {
        return refuse(ErrorCode::ReadForbidden, format!("the token's claim `join` does not cover group {group:?}"));
    }
    if sync.from == 0 {
        return refuse(ErrorCode::BadRange, "the first sequence of a channel is 1, not 0".to_owned());
    }
    if !(1..=PAGE_MESSAGES_MAX).contains(&sync.limit) {
        let message = format!("a page holds 1 to {PAGE_MESSAGES_MAX} messages, not {}", sync.limit);
        return refuse(ErrorCode::BadRange, message);
    }
    Ok(Action::Sync(sync))
}
