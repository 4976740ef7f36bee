//! What a client says to a Weir gateway, and what it makes of the answers (`proto/frame.md`). Durable messages, which Weir alone has,
//! say theirs in `durable`.
#![forbid(unsafe_code)]

use weir::{
    io::Tick,
    limits::BODY_BYTES_CEILING,
    wire::{Decoded, ErrorCode, Frame, FrameType, Unpacker, body, decode},
};

use super::{Dialect, bare::greeting_of};
use crate::{
    durable::is_to_acknowledgement,
    fleet::{Fleet, link::State, message::count_cause, ramp::passes, session::HEARTBEAT_INTERVAL_MS},
    plan::Plan,
    scenario::Scenario,
};

impl<S: Scenario> Fleet<S> {
    /// LOGIN.
    pub(super) fn weir_log_in(&mut self, local: u32, now: Tick) {
        let (client, mut client_id) = (self.net.client(local), String::new());
        let named = if self.net.plan.dialect == Dialect::Bare { greeting_of(client) } else { client };
        self.net.plan.put_client(named, &mut client_id);
        let token = self.net.plan.credentials.token_for(&client_id);
        let agent = concat!("bench-client/", env!("CARGO_PKG_VERSION")).to_owned();
        let window = self.net.plan.receiving.map_or(0, |receiving| receiving.window);
        let Plan { batches, compress, .. } = *self.net.plan;
        let compression = if compress { body::Compression::Zstd } else { body::Compression::None } as i32;
        let device_id = "bench".into();
        let login = body::Login { client_id, device_id, token, agent, window, batches, compression, ..body::Login::default() };
        self.net.put_frame(local, &Frame::Login(login), now);
    }

    /// Takes all whole frames. Returns how many bytes they took up.
    pub(super) fn frames(&mut self, local: u32, bytes: &[u8], now: Tick) -> usize {
        if !self.net.plan.compress {
            return self.frames_by(local, bytes, now, &mut None);
        }
        let mut unpacker = Some(std::mem::take(&mut self.net.unpacker));
        let used = self.frames_by(local, bytes, now, &mut unpacker);
        self.net.unpacker = unpacker.expect("it was lent");
        used
    }

    fn frames_by(&mut self, local: u32, bytes: &[u8], now: Tick, unpacker: &mut Option<Unpacker>) -> usize {
        let mut used = 0;
        while self.net.links[local as usize].listens() {
            let decoded = match unpacker {
                None => decode(&bytes[used..], BODY_BYTES_CEILING),
                Some(unpacker) => unpacker.decode(&bytes[used..], BODY_BYTES_CEILING),
            };
            match decoded {
                Ok(Decoded::Frame { frame, frame_bytes }) => {
                    self.frame(local, frame, now);
                    used += frame_bytes;
                }
                Ok(Decoded::NeedMore { .. }) => return used,
                Err(malformed) => {
                    self.net.outcome.tally.corrupted += 1;
                    self.fail(local, "malformed frame", &malformed.to_string(), None);
                }
            }
        }
        // What comes after the end is of no interest.
        bytes.len()
    }

    pub(super) fn frame(&mut self, local: u32, frame: Frame<'_>, now: Tick) {
        match frame {
            Frame::Push(push) => self.scenario.pushed(&mut self.net, local, &push, now),
            Frame::Batch(batch) => {
                for frame in batch.frames() {
                    match frame {
                        Ok((frame, _)) => self.frame(local, frame, now),
                        Err(malformed) => {
                            self.net.outcome.tally.corrupted += 1;
                            self.fail(local, "malformed batch", &malformed.to_string(), None);
                        }
                    }
                }
            }
            Frame::LoginOk(ok) => self.logged_in(local, &ok, now),
            Frame::JoinOk(_) => self.joined(local, now),
            Frame::Ping(ping) => {
                let pong = body::Pong { sent_us: ping.sent_us, heartbeat_interval_ms: 0 };
                self.net.put_frame(local, &Frame::Pong(pong), now);
            }
            Frame::Pong(pong) => self.pong(local, &pong, now),
            Frame::Error(error) => self.error(local, &error, now),
            Frame::Accepted(accepted) => {
                let durable = self.scenario.durable();
                if durable.is_some_and(|durable| durable.senders.accepted(&mut self.net, local, &accepted, now)) {
                    self.scenario.answered(&mut self.net, local, now);
                }
            }
            Frame::Cursors(cursors) => self.cursors(local, &cursors, now),
            Frame::Gap(gap) => {
                if let Some(durable) = self.scenario.durable() {
                    durable.receivers.gap(&mut self.net, local, &gap, now);
                }
            }
            Frame::Kicked(kicked) => self.fail(local, &code_name(kicked.code), &kicked.message, None),
            Frame::Goaway(goaway) => {
                // The gateway ends the connection itself, after its window.
                count_cause(&mut self.net.outcome.endings, "GOAWAY", &goaway.message);
            }
            Frame::SendOk(_) | Frame::LeaveOk(_) | Frame::Page(_) | Frame::Presence(_) | Frame::Unknown { .. } => {}
            Frame::Login(_)
            | Frame::Send(_)
            | Frame::Received(_)
            | Frame::Read(_)
            | Frame::Sync(_)
            | Frame::Join(_)
            | Frame::Leave(_)
            | Frame::State(_)
            | Frame::Watch(_)
            | Frame::Unwatch(_) => {
                self.fail(local, "unexpected frame", "the gateway sent a frame that only clients send", None);
            }
        }
    }

    fn logged_in(&mut self, local: u32, ok: &body::LoginOk, now: Tick) {
        let client = self.net.client(local);
        let group = self.scenario.group_of(client);
        let link = &mut self.net.links[local as usize];
        if link.state != State::LoggingIn {
            return;
        }
        link.interval_ms = if ok.heartbeat_interval_ms == 0 { HEARTBEAT_INTERVAL_MS } else { ok.heartbeat_interval_ms };
        if self.net.plan.receiving.is_some() && ok.window == 0 {
            self.fail(local, "no window", "the gateway takes no part in durable delivery", None);
            return;
        }
        match group {
            None => self.settle(local, now),
            Some(group) => {
                link.state = State::Joining;
                let mut name = String::new();
                self.net.plan.put_group(group, &mut name);
                self.net.put_frame(local, &Frame::Join(body::Join { group: name, cursor: None }), now);
            }
        }
    }

    fn cursors(&mut self, local: u32, cursors: &body::Cursors, now: Tick) {
        let Some(durable) = self.scenario.durable() else { return };
        durable.receivers.cursors(&mut self.net, local, cursors);
        if self.net.links[local as usize].state == State::Settling {
            self.settle(local, now);
        }
    }

    fn pong(&mut self, local: u32, pong: &body::Pong, now: Tick) {
        let rtt_us = now.micros_since(Tick(pong.sent_us));
        let link = &mut self.net.links[local as usize];
        link.rtt_us = rtt_us.clamp(1, u32::MAX.into()) as u32;
        if pong.heartbeat_interval_ms > 0 {
            link.interval_ms = pong.heartbeat_interval_ms;
        }
        self.answered_ping(local, rtt_us);
    }

    /// PING.
    pub(super) fn weir_ping(&mut self, local: u32, now: Tick) {
        let ping = body::Ping { sent_us: now.0, rtt_us: self.net.links[local as usize].rtt_us };
        self.net.put_frame(local, &Frame::Ping(ping), now);
    }

    fn error(&mut self, local: u32, error: &body::Error, now: Tick) {
        let name = code_name(error.code);
        if error.in_reply_to == FrameType::Send as u32 {
            count_cause(&mut self.net.outcome.refusals, &name, &error.message);
            match self.scenario.durable().map(|durable| durable.senders.refused(&mut self.net, local, error, now)) {
                // It is sent again, or was never sent.
                Some(false) => {}
                Some(true) => {
                    self.net.outcome.tally.refused += 1;
                    self.scenario.answered(&mut self.net, local, now);
                }
                None => {
                    self.net.outcome.tally.refused += 1;
                    self.scenario.refused(&mut self.net, local, error.client_msg_id);
                }
            }
        } else if is_to_acknowledgement(error)
            && let Some(durable) = self.scenario.durable()
        {
            count_cause(&mut self.net.outcome.refusals, &name, &error.message);
            durable.receivers.acknowledgement_refused(&mut self.net, local, error, now);
        }
        let is_arriving = self.net.links[local as usize].is_arriving();
        if error.closing || is_arriving {
            let passes = passes(ErrorCode::from_number(error.code), self.net.plan.returns);
            let retry = passes.then_some(error.retry_after_ms);
            self.fail(local, &name, &error.message, retry);
        }
    }
}

/// A code's name in `frame.md`.
fn code_name(code: u32) -> String {
    ErrorCode::from_number(code).map_or_else(|| format!("code {code}"), |known| known.name().to_owned())
}
