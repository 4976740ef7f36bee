//! What a client says to a Weir gateway, and what it makes of the answers (`proto/frame.md`). Other protocols would take this
//! file's place; nothing else in the fleet reads or writes frames but `Net`, which writes SEND.
#![forbid(unsafe_code)]

use std::io;

use weir::{
    io::{Output, Tick},
    limits::BODY_BYTES_CEILING,
    wire::{Decoded, ErrorCode, Frame, FrameType, Unpacker, body, decode},
};

use super::{
    Fleet,
    link::State,
    message::count_cause,
    ramp::{Failure, passes},
};
use crate::{
    durable::is_to_acknowledgement,
    plan::Plan,
    scenario::{Random, Scenario},
};

/// A connection whose last PINGs all went unanswered is dead.
const PINGS_UNANSWERED_MAX: u8 = 3;
/// The interval when the gateway announces none.
const HEARTBEAT_INTERVAL_MS: u32 = 30_000;

impl<S: Scenario> Fleet<S> {
    pub(super) fn log_in(&mut self, local: u32, now: Tick) {
        let mut client_id = String::new();
        self.net.plan.put_client(self.net.client(local), &mut client_id);
        let token = self.net.plan.credentials.token_for(&client_id);
        let agent = concat!("bench-client/", env!("CARGO_PKG_VERSION")).to_owned();
        let window = self.net.plan.receiving.map_or(0, |receiving| receiving.window);
        let Plan { batches, compress, .. } = *self.net.plan;
        let compression = if compress { body::Compression::Zstd } else { body::Compression::None } as i32;
        let device_id = "bench".into();
        let login = body::Login { client_id, device_id, token, agent, window, batches, compression, ..body::Login::default() };
        self.net.put_frame(local, &Frame::Login(login), now);
    }

    /// Takes bytes of the gateway.
    pub(super) fn received(&mut self, local: u32, bytes: &[u8], now: Tick) {
        let link = &mut self.net.links[local as usize];
        let mut held = std::mem::take(&mut link.partial);
        if held.is_empty() {
            let used = self.frames(local, bytes, now);
            if used < bytes.len() {
                held = self.net.pool.pop().unwrap_or_default();
                held.extend_from_slice(&bytes[used..]);
            }
        } else {
            held.extend_from_slice(bytes);
            let used = self.frames(local, &held, now);
            held.drain(..used);
        }
        if held.is_empty() {
            self.net.recycle(held);
        } else {
            self.net.links[local as usize].partial = held;
        }
    }

    /// Takes all whole frames. Returns how many bytes they took up.
    fn frames(&mut self, local: u32, bytes: &[u8], now: Tick) -> usize {
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

    fn frame(&mut self, local: u32, frame: Frame<'_>, now: Tick) {
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
                    durable.receivers.gap(&mut self.net, local, &gap);
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

    fn joined(&mut self, local: u32, now: Tick) {
        if self.net.links[local as usize].state == State::Joining {
            self.settle(local, now);
        }
    }

    /// A client is ready once it knows where its durable channels stand, if it has any.
    fn settle(&mut self, local: u32, now: Tick) {
        if self.scenario.durable().is_none_or(|durable| durable.receivers.is_placed(local)) {
            self.ready(local, now);
        } else {
            self.net.links[local as usize].state = State::Settling;
        }
    }

    fn cursors(&mut self, local: u32, cursors: &body::Cursors, now: Tick) {
        let Some(durable) = self.scenario.durable() else { return };
        durable.receivers.cursors(&mut self.net, local, cursors);
        if self.net.links[local as usize].state == State::Settling {
            self.settle(local, now);
        }
    }

    fn ready(&mut self, local: u32, now: Tick) {
        self.ramp.arrived();
        let link = &mut self.net.links[local as usize];
        link.state = State::Ready;
        link.attempts = 0;
        let was_ready = std::mem::replace(&mut link.was_ready, true);
        // Spreads the first heartbeats over half an interval, and with them all later ones.
        let spread =
            Random::new(self.net.plan.seed, self.net.plan.client(self.net.worker, local).into()).below(link.interval_ms / 2 + 1);
        link.last_sent_ms = (now.as_ms() as u32).wrapping_sub(spread);
        let tally = &mut self.net.outcome.tally;
        if was_ready {
            tally.returned += 1;
        } else {
            tally.ready += 1;
            tally.last_arrival = now;
        }
        if let Some(durable) = self.scenario.durable() {
            durable.came(&mut self.net, local, now);
        }
        self.scenario.came(&mut self.net, local, now);
    }

    fn pong(&mut self, local: u32, pong: &body::Pong, now: Tick) {
        let rtt_us = now.micros_since(Tick(pong.sent_us));
        let link = &mut self.net.links[local as usize];
        link.pings_unanswered = 0;
        link.rtt_us = rtt_us.clamp(1, u32::MAX.into()) as u32;
        if pong.heartbeat_interval_ms > 0 {
            link.interval_ms = pong.heartbeat_interval_ms;
        }
        self.net.outcome.rtt_us.saturating_record(rtt_us);
        self.net.outcome.tally.pongs += 1;
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

    /// Gives a connection up, whatever its state, for a reason that the gateway or its bytes gave.
    fn fail(&mut self, local: u32, cause: &str, words: &str, retry_after_ms: Option<u32>) {
        let link = &self.net.links[local as usize];
        match link.state {
            State::Connecting | State::LoggingIn | State::Joining | State::Settling => {
                let again_ms = self.attempt_failed(local, &Failure { cause, words, retry_after_ms });
                self.close(local, again_ms);
            }
            State::Ready => {
                if !self.is_ending() {
                    self.net.outcome.tally.dropped += 1;
                    count_cause(&mut self.net.outcome.endings, cause, words);
                }
                self.close(local, retry_after_ms.filter(|_| self.net.plan.returns));
            }
            State::Finishing | State::Finished => self.close(local, None),
            State::Waiting | State::Closing { .. } | State::Gone => {}
        }
    }

    /// The gateway ended a connection, or it broke.
    pub(super) fn ended(&mut self, local: u32, errno: Option<i32>, now: Tick) {
        match errno {
            None => {
                let retry = self.net.plan.returns.then_some(0);
                self.fail(local, "closed by the gateway", "the connection ended without a word", retry);
            }
            Some(errno) => {
                let words = io::Error::from_raw_os_error(errno).to_string();
                let retry = (errno == nix::libc::ECONNRESET || self.net.plan.returns).then_some(0);
                self.fail(local, "broken connection", &words, retry);
            }
        }
        debug_assert!(!self.net.links[local as usize].listens(), "at {now:?}");
    }

    pub(super) fn close(&mut self, local: u32, again_ms: Option<u32>) {
        if let Some(durable) = self.scenario.durable() {
            durable.went(local);
        }
        let link = &mut self.net.links[local as usize];
        link.state = State::Closing { again: again_ms.is_some() };
        link.last_sent_ms = again_ms.unwrap_or(0);
        let (conn, out, partial) = (link.conn, std::mem::take(&mut link.out), std::mem::take(&mut link.partial));
        self.net.queued_bytes -= out.len();
        self.net.recycle(out);
        self.net.recycle(partial);
        self.net.outputs.push_back(Output::Close { conn });
    }

    /// Looks at the links whose time has come.
    pub(super) fn look_at_due_links(&mut self, now: Tick) {
        let mut due = std::mem::take(&mut self.due);
        self.net.wheel.advance(now, &mut due);
        for local in due.drain(..) {
            match self.net.links[local as usize].state {
                State::LoggingIn | State::Joining | State::Settling => self.look_at_arriving(local, now),
                State::Ready => self.look_at_ready(local, now),
                // Nothing to wait for; a new attempt makes its own entry.
                State::Waiting | State::Connecting | State::Finishing | State::Finished | State::Closing { .. } | State::Gone => {
                }
            }
        }
        self.due = due;
    }

    /// Sends a PING if nothing was sent for an interval.
    fn look_at_ready(&mut self, local: u32, now: Tick) {
        let now_ms = now.as_ms();
        let link = &mut self.net.links[local as usize];
        let silent_ms = (now_ms as u32).wrapping_sub(link.last_sent_ms);
        // An entry comes up late by up to two slots; the interval is an upper bound.
        let interval_ms = link.interval_ms.saturating_sub(200).max(50);
        if silent_ms < interval_ms {
            let due_ms = now_ms + u64::from(interval_ms - silent_ms);
            self.net.wheel.insert(local, due_ms);
            return;
        }
        if link.pings_unanswered == PINGS_UNANSWERED_MAX {
            let retry = self.net.plan.returns.then_some(0);
            self.fail(local, "unanswered pings", "the gateway answered none of the last three PINGs", retry);
            return;
        }
        link.pings_unanswered += 1;
        let ping = body::Ping { sent_us: now.0, rtt_us: link.rtt_us };
        self.net.put_frame(local, &Frame::Ping(ping), now);
        self.net.outcome.tally.pings += 1;
        self.net.wheel.insert(local, now_ms + u64::from(interval_ms));
    }
}

/// A code's name in `frame.md`.
fn code_name(code: u32) -> String {
    ErrorCode::from_number(code).map_or_else(|| format!("code {code}"), |known| known.name().to_owned())
}
