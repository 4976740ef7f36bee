//! From received bytes to what they ask for.
#![forbid(unsafe_code)]

use super::{
    Shard,
    connections::{Phase, Probe},
};
use crate::{
    ids::ConnId,
    limits::{HELD_BYTES_MAX, LOGIN_BODY_BYTES_MAX},
    session::{Action, Refusal, check_first_frame},
    wire::{BatchRef, Decoded, ErrorCode, Frame, Malformed, Unpacker, decode},
};

/// Whether the bytes behind a frame are still this connection's to read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    On,
    Stop,
}

/// How bytes become frames.
trait Decode {
    /// Whether bodies may be compressed.
    const UNPACKS: bool;

    /// `full_bytes` becomes what a compressed frame takes up decompressed.
    fn decode<'a>(&'a mut self, bytes: &'a [u8], limit: u32, full_bytes: &mut usize) -> Result<Decoded<'a>, Malformed>;
}

/// For who did not agree upon compression.
struct Plain;

impl Decode for Plain {
    const UNPACKS: bool = false;

    #[inline(always)]
    fn decode<'a>(&'a mut self, bytes: &'a [u8], limit: u32, _: &mut usize) -> Result<Decoded<'a>, Malformed> {
        decode(bytes, limit)
    }
}

impl Decode for &mut Unpacker {
    const UNPACKS: bool = true;

    fn decode<'a>(&'a mut self, bytes: &'a [u8], limit: u32, full_bytes: &mut usize) -> Result<Decoded<'a>, Malformed> {
        self.decode_weighed(bytes, limit, full_bytes)
    }
}

impl Shard {
    pub(super) fn handle_received(&mut self, conn: ConnId, bytes: &[u8]) {
        self.stats.bytes_in.add(bytes.len() as u64);
        let now_ms = self.now_ms();
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let silent_ms = now_ms.wrapping_sub(std::mem::replace(&mut connection.heard_ms, now_ms));
        connection.probe = Probe::None;
        if let Some(session) = &mut connection.session {
            session.heartbeat.heard_after(silent_ms);
        }
        match connection.phase {
            Phase::Anonymous | Phase::Active => self.feed(conn, bytes),
            Phase::Admitting => self.hold(conn, bytes),
            Phase::Homing => {
                self.hold(conn, bytes);
                if self.connections.get(conn).is_some_and(|connection| connection.phase == Phase::Homing) {
                    // That explains the refusal, and a client that keeps sending can cause many.
                    if let Some(arrival) = &mut self.connections.at_mut(conn.slot).extra().arrival {
                        arrival.refusals = 0;
                    }
                    self.send_home_again(conn);
                }
            }
            Phase::Flushing | Phase::Lingering | Phase::Closing | Phase::Vacant => {}
        }
    }

    /// Keeps bytes that came before the connection was admitted, or while it was on its way home. A wrong peer is told so at once.
    fn hold(&mut self, conn: ConnId, bytes: &[u8]) {
        let connection = self.connections.at_mut(conn.slot);
        let admitting = connection.phase == Phase::Admitting;
        let held = &mut connection.extra().partial;
        self.inbound_holders += usize::from(held.is_empty());
        held.extend_from_slice(bytes);
        self.inbound_bytes += bytes.len();
        let malformed = if admitting { decode(held, LOGIN_BODY_BYTES_MAX).err() } else { None };
        if let Some(malformed) = malformed {
            self.refuse(conn, Refusal::closing(malformed.code(), malformed.to_string()));
        } else if held.len() > HELD_BYTES_MAX || self.inbound_bytes > self.settings.limits.inbound_bytes_per_shard {
            let message = "too many bytes behind LOGIN; wait for LOGIN_OK when there is much to send";
            self.refuse(conn, Refusal::closing(ErrorCode::Overloaded, message));
        }
    }

    /// Works through all whole frames; what is left over waits for more bytes.
    pub(super) fn feed(&mut self, conn: ConnId, bytes: &[u8]) {
        let mut partial = self.take_partial(conn);
        if partial.is_empty() {
            let used = self.handle_frames(conn, bytes);
            self.keep_partial(conn, &bytes[used..]);
            return;
        }
        partial.extend_from_slice(bytes);
        let used = self.handle_frames(conn, &partial);
        if used == 0 {
            self.restore_partial(conn, partial, false);
        } else {
            self.keep_partial(conn, &partial[used..]);
        }
    }

    pub(super) fn take_partial(&mut self, conn: ConnId) -> Vec<u8> {
        let extra = self.connections.at_mut(conn.slot).extra.as_mut();
        let partial = extra.map_or_else(Vec::new, |extra| std::mem::take(&mut extra.partial));
        self.inbound_bytes -= partial.len();
        self.inbound_holders -= usize::from(!partial.is_empty());
        partial
    }

    fn keep_partial(&mut self, conn: ConnId, rest: &[u8]) {
        if rest.is_empty() {
            if let Some(connection) = self.connections.get_mut(conn) {
                connection.trim();
            }
        } else {
            self.restore_partial(conn, rest.to_vec(), true);
        }
    }

    /// `begins`: the frame's first byte is among what came just now.
    fn restore_partial(&mut self, conn: ConnId, partial: Vec<u8>, begins: bool) {
        let now = self.now;
        let reading =
            self.connections.get_mut(conn).filter(|connection| matches!(connection.phase, Phase::Anonymous | Phase::Active));
        let Some(connection) = reading else { return };
        self.inbound_bytes += partial.len();
        self.inbound_holders += 1;
        let held = partial.len();
        let extra = connection.extra();
        extra.partial = partial;
        if begins {
            extra.partial_since = now;
        }
        // Before LOGIN there is a deadline already.
        if connection.phase == Phase::Active && !connection.unfinished {
            connection.unfinished = true;
            self.unfinished.push_back((now.plus_ms(u64::from(self.settings.timeouts.frame_ms)), conn));
        }
        // Who holds no more than its share did not fill the budget.
        let budget = self.settings.limits.inbound_bytes_per_shard;
        if self.inbound_bytes > budget && held > budget / self.inbound_holders {
            let message = "unfinished frames take up all the memory they may on this core, and this one more than its share";
            self.refuse(conn, Refusal::closing(ErrorCode::Overloaded, message));
        }
    }

    /// Ends connections that began a frame and did not finish it in time.
    pub(super) fn end_unfinished(&mut self) {
        let frame_ms = u64::from(self.settings.timeouts.frame_ms);
        while let Some(&(at, conn)) = self.unfinished.front() {
            if at > self.now {
                return;
            }
            self.unfinished.pop_front();
            let Some(connection) = self.connections.get_mut(conn) else { continue };
            connection.unfinished = false;
            let Some(extra) = connection.extra.as_ref().filter(|extra| !extra.partial.is_empty()) else { continue };
            let due = extra.partial_since.plus_ms(frame_ms);
            if due > self.now {
                connection.unfinished = true;
                self.unfinished.push_back((due, conn));
            } else {
                let message = format!("a frame was begun and not finished within {frame_ms} ms");
                self.refuse(conn, Refusal::closing(ErrorCode::FrameTimeout, message));
            }
        }
    }

    /// Gives the number of bytes that are done with.
    fn handle_frames(&mut self, conn: ConnId, bytes: &[u8]) -> usize {
        let mut used = 0;
        loop {
            let Some(connection) = self.connections.get(conn) else { return bytes.len() };
            let is_plain = !connection.form.zstd;
            if is_plain {
                used += self.handle_frames_by(Plain, conn, &bytes[used..]);
            } else {
                let mut unpacker = std::mem::take(&mut self.unpacker);
                used += self.handle_frames_by(&mut unpacker, conn, &bytes[used..]);
                self.unpacker = unpacker;
            }
            // LOGIN may just have agreed upon compression, for what comes behind it.
            let has_agreed = is_plain && self.connections.get(conn).is_some_and(|connection| connection.form.zstd);
            if !has_agreed || used == bytes.len() {
                return used;
            }
        }
    }

    fn handle_frames_by<D: Decode>(&mut self, mut decoder: D, conn: ConnId, bytes: &[u8]) -> usize {
        let mut used = 0;
        while used < bytes.len() {
            let Some(connection) = self.connections.get(conn) else { return bytes.len() };
            let limit = match connection.phase {
                Phase::Anonymous => LOGIN_BODY_BYTES_MAX,
                Phase::Active => self.settings.rules.max_body_bytes,
                Phase::Admitting | Phase::Homing | Phase::Flushing | Phase::Lingering | Phase::Closing | Phase::Vacant => {
                    return bytes.len();
                }
            };
            if connection.form.zstd != D::UNPACKS {
                break;
            }
            let mut full_bytes = 0;
            match decoder.decode(&bytes[used..], limit, &mut full_bytes) {
                Ok(Decoded::NeedMore { .. }) => break,
                Ok(Decoded::Frame { frame, frame_bytes }) => {
                    used += frame_bytes;
                    let flow = match frame {
                        Frame::Batch(batch) if connection.phase == Phase::Active => self.handle_batch(conn, batch),
                        frame => self.handle_frame(conn, frame, frame_bytes.max(full_bytes), &bytes[used..]),
                    };
                    if flow == Flow::Stop {
                        return bytes.len();
                    }
                }
                Err(malformed) => {
                    self.refuse(conn, Refusal::closing(malformed.code(), malformed.to_string()));
                    return bytes.len();
                }
            }
        }
        used
    }

    /// Handles the frames of a BATCH as if they had come one by one.
    fn handle_batch(&mut self, conn: ConnId, batch: BatchRef<'_>) -> Flow {
        self.stats.batches_in.add(1);
        for frame in batch.frames() {
            // What came before may have ended the connection.
            if self.connections.get(conn).is_none_or(|connection| connection.phase != Phase::Active) {
                return Flow::Stop;
            }
            match frame {
                Ok((frame, frame_bytes)) => {
                    if self.handle_frame(conn, frame, frame_bytes, &[]) == Flow::Stop {
                        return Flow::Stop;
                    }
                }
                Err(malformed) => {
                    self.refuse(conn, Refusal::closing(malformed.code(), malformed.to_string()));
                    return Flow::Stop;
                }
            }
        }
        Flow::On
    }

    fn handle_frame(&mut self, conn: ConnId, frame: Frame<'_>, frame_bytes: usize, rest: &[u8]) -> Flow {
        self.stats.frames_in.add(1);
        if !matches!(frame, Frame::Send(_)) {
            self.deliver_gathered();
        }
        if self.connections.at(conn.slot).phase == Phase::Anonymous {
            let login = check_first_frame(frame).and_then(|login| self.check_login(&login));
            return match login {
                Ok(identity) => self.go_home(conn, identity, rest),
                Err(refusal) => {
                    self.refuse(conn, refusal);
                    Flow::Stop
                }
            };
        }
        let connection = self.connections.at_mut(conn.slot);
        let session = connection.session.as_mut().expect("active connections have a session");
        match session.handle(self.now, frame, frame_bytes, &self.settings.rules, connection.rights.as_deref()) {
            Ok(action) => self.carry_out(conn, action),
            Err(refusal) => {
                let closing = refusal.closing;
                self.refuse(conn, refusal);
                if closing {
                    return Flow::Stop;
                }
            }
        }
        Flow::On
    }

    fn carry_out(&mut self, conn: ConnId, action: Action<'_>) {
        match action {
            Action::Nothing => {}
            Action::Unknown => self.stats.frames_unknown.add(1),
            Action::Pong(pong) => self.pong(conn, pong),
            Action::Send { target, send } => self.route(conn, target, &send),
            Action::Append { target, send } => self.append_message(conn, target, &send),
            Action::Received(received) => self.receive(conn, &received),
            Action::Read(read) => self.mark_read(conn, &read),
            Action::Sync(sync) => self.sync(conn, &sync),
            Action::Join { group, cursor } => self.join(conn, group, cursor),
            Action::Leave { group } => self.leave(conn, group),
            Action::State { background } => self.set_state(conn, background),
            Action::Watch(watch) => self.watch_clients(conn, &watch.clients),
            Action::Unwatch(unwatch) => self.unwatch_clients(conn, &unwatch.clients),
        }
    }
}
