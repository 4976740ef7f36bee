//! A connection's life on a shard: accepted, admitted, logged in, moved home, ended, closed.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use super::{
    Arrival, Message, Shard,
    connections::{NONE, Phase, Probe},
    drain::stopping,
    inbound::Flow,
};
use crate::{
    ids::ConnId,
    io::Output,
    limits::{MOVE_AGAIN_MS, MOVES_AGAIN_MAX},
    session::{Identity, Refusal},
    wire::{
        ErrorCode, Frame,
        body::{self, Presence},
    },
};

impl Shard {
    pub(super) fn handle_accepted(&mut self, conn: ConnId, peer: IpAddr) {
        self.stats.accepted.add(1);
        let now_ms = self.now_ms();
        self.connections.insert(conn, Phase::Admitting, now_ms);
        self.set_timer(conn.slot, self.settings.timeouts.login_ms);
        if self.connections.count() > self.settings.limits.connections {
            self.refuse(conn, too_many_connections());
        } else if self.drain.is_some() {
            self.refuse(conn, stopping());
        } else if self.settings.limits.connections_per_address == 0 {
            self.connections.at_mut(conn.slot).phase = Phase::Anonymous;
        } else {
            let address = self.keyed.address(peer);
            self.ask_admission(conn, address);
        }
    }

    pub(super) fn handle_admitted(&mut self, conn: ConnId, address: u64, granted: bool) {
        let waiting = self.connections.get_mut(conn).filter(|connection| connection.phase == Phase::Admitting);
        match (waiting, granted) {
            (Some(connection), true) => {
                connection.address = address;
                connection.phase = Phase::Anonymous;
                let peer_done = connection.peer_done;
                self.feed(conn, &[]);
                // It ended its direction before it was admitted: what came in front of that counts all the same.
                if peer_done {
                    self.handle_eof(conn);
                }
            }
            (Some(_), false) => {
                let limit = self.settings.limits.connections_per_address;
                let message =
                    format!("this address holds {limit} connections, as many as one may (limits.connections_per_address)");
                self.refuse(conn, Refusal { retry_after_ms: 1_000, ..Refusal::closing(ErrorCode::TooManyFromAddress, message) });
            }
            // It left before the answer came.
            (None, true) => self.address_left(address),
            (None, false) => {}
        }
    }

    /// Installs the connection here if this is its home, or moves it there.
    pub(super) fn go_home(&mut self, conn: ConnId, identity: Identity, rest: &[u8]) -> Flow {
        let epoch = self.next_epoch();
        let home = self.home(self.keyed.name(identity.names.client()));
        if self.is_me(home) {
            self.outputs.push_back(Output::Stay { conn });
            return if self.install(conn, identity, epoch) { Flow::On } else { Flow::Stop };
        }
        self.stats.moved_out.add(1);
        let address = self.connections.at(conn.slot).address;
        self.send_home(conn, Box::new(Arrival { identity, epoch, address, trailing: rest.to_vec(), refusals: 0 }));
        Flow::Stop
    }

    fn send_home(&mut self, conn: ConnId, arrival: Box<Arrival>) {
        let home = self.home(self.keyed.name(arrival.identity.names.client()));
        self.wheel.cancel(conn.slot);
        self.connections.remove(conn);
        self.outputs.push_back(Output::Move { conn, to: home, message: Message::Arrival(arrival) });
    }

    /// The same once more, with what came meanwhile.
    pub(super) fn send_home_again(&mut self, conn: ConnId) {
        let trailing = self.take_partial(conn);
        let extra = self.connections.at_mut(conn.slot).extra();
        let mut arrival = extra.arrival.take().expect("a connection on its way home has its arrival");
        arrival.trailing = trailing;
        self.send_home(conn, arrival);
    }

    pub(super) fn handle_adopted(&mut self, conn: ConnId, arrival: Arrival) {
        self.stats.moved_in.add(1);
        let now_ms = self.now_ms();
        let full = self.connections.count() >= self.settings.limits.connections;
        self.connections.insert(conn, Phase::Anonymous, now_ms).address = arrival.address;
        if full {
            self.refuse(conn, too_many_connections());
        } else if self.is_closing_all() {
            self.refuse(conn, stopping());
        } else if self.install(conn, arrival.identity, arrival.epoch) && !arrival.trailing.is_empty() {
            self.feed(conn, &arrival.trailing);
        }
    }

    /// Bytes came that must be taken first, or the home has no room: the reactor does not tell which.
    pub(super) fn handle_move_refused(&mut self, conn: ConnId, mut arrival: Box<Arrival>) {
        let now_ms = self.now_ms();
        let connection = self.connections.insert(conn, Phase::Homing, now_ms);
        connection.address = arrival.address;
        if arrival.refusals == MOVES_AGAIN_MAX {
            self.stats.moves_refused.add(1);
            self.refuse(conn, too_many_connections());
            return;
        }
        arrival.refusals += 1;
        self.inbound_bytes += arrival.trailing.len();
        self.inbound_holders += usize::from(!arrival.trailing.is_empty());
        let extra = connection.extra();
        extra.partial = std::mem::take(&mut arrival.trailing);
        extra.arrival = Some(arrival);
        self.set_timer(conn.slot, MOVE_AGAIN_MS);
    }

    /// Answers with an ERROR, and ends the connection if the refusal says so.
    pub(super) fn refuse(&mut self, conn: ConnId, refusal: Refusal) {
        let frame = Frame::Error(refusal.body());
        if refusal.closing {
            // The first reason counts, and only that one was told.
            if self.connections.get(conn).is_none_or(|connection| connection.phase.is_ending()) {
                return;
            }
            log::debug!("shard {} closes {conn}: {} {}", self.settings.id, refusal.code.name(), refusal.message);
            self.stats.closed.of(refusal.code).add(1);
            self.end(conn, Some(&frame));
        } else {
            self.stats.refused.of(refusal.code).add(1);
            self.answer(conn, &frame);
        }
    }

    /// Begins the end: what is queued leaves, then `last`, then our direction is shut.
    pub(super) fn end(&mut self, conn: ConnId, last: Option<&Frame<'_>>) {
        self.deliver_gathered();
        let Some(connection) = self.connections.get(conn) else { return };
        match connection.phase {
            Phase::Admitting | Phase::Anonymous | Phase::Homing | Phase::Active => {}
            Phase::Flushing | Phase::Lingering | Phase::Closing | Phase::Vacant => return,
        }
        self.sign_off(conn);
        self.connections.at_mut(conn.slot).phase = Phase::Flushing;
        self.set_timer(conn.slot, self.settings.timeouts.write_ms);
        if let Some(frame) = last {
            self.append_frame(conn.slot, frame);
        }
        if self.connections.at(conn.slot).outbound == NONE {
            self.finish(conn);
        }
    }

    /// A connection that did not read is not waited for as long as others.
    pub(super) fn shorten_flush(&mut self, conn: ConnId) {
        self.set_timer(conn.slot, self.settings.timeouts.linger_ms);
    }

    /// Takes the connection out of everything that can send to it, and drops what it sent half.
    fn sign_off(&mut self, conn: ConnId) {
        let connection = self.connections.at_mut(conn.slot);
        let was_active = connection.phase == Phase::Active;
        self.take_partial(conn);
        if was_active {
            self.leave_all(conn);
            self.discharge(conn);
            self.unwatch_all(conn);
            self.directory.remove(conn.slot, &mut self.connections);
            self.presence_changed(conn.slot, Presence::Offline);
            self.stats.sessions.sub(1);
        }
        self.connections.at_mut(conn.slot).extra = None;
    }

    /// Everything has left: shut our direction, and give the peer time to read.
    pub(super) fn finish(&mut self, conn: ConnId) {
        let connection = self.connections.at_mut(conn.slot);
        if connection.peer_done {
            self.close(conn);
        } else {
            connection.phase = Phase::Lingering;
            self.outputs.push_back(Output::Finish { conn });
            self.set_timer(conn.slot, self.settings.timeouts.linger_ms);
        }
    }

    fn close(&mut self, conn: ConnId) {
        self.connections.at_mut(conn.slot).phase = Phase::Closing;
        self.wheel.cancel(conn.slot);
        self.outputs.push_back(Output::Close { conn });
    }

    pub(super) fn handle_eof(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.peer_done = true;
        match connection.phase {
            // What came in front of it is still to be worked through, there or here.
            Phase::Homing => self.send_home_again(conn),
            Phase::Admitting => {}
            Phase::Anonymous | Phase::Active => {
                self.stats.hung_up.add(1);
                self.end(conn, None);
            }
            Phase::Lingering => self.close(conn),
            Phase::Flushing | Phase::Closing | Phase::Vacant => {}
        }
    }

    pub(super) fn handle_broken(&mut self, conn: ConnId, errno: i32) {
        let Some(connection) = self.connections.get(conn) else { return };
        if connection.phase == Phase::Closing {
            return;
        }
        log::trace!("shard {}: {conn} is broken, errno {errno}", self.settings.id);
        self.stats.broken.add(1);
        match connection.phase {
            Phase::Admitting | Phase::Anonymous | Phase::Homing | Phase::Active => self.sign_off(conn),
            Phase::Flushing | Phase::Lingering | Phase::Closing | Phase::Vacant => {}
        }
        self.close(conn);
    }

    pub(super) fn handle_closed(&mut self, conn: ConnId) {
        if self.connections.get(conn).is_none() {
            return;
        }
        self.discard_outbound(conn);
        self.wheel.cancel(conn.slot);
        let address = self.connections.remove(conn).address;
        self.address_left(address);
    }

    pub(super) fn handle_timer(&mut self, slot: u32) {
        let Some(conn) = self.connections.id_at(slot) else { return };
        match self.connections.at(slot).phase {
            Phase::Admitting | Phase::Anonymous => {
                let message = format!("no LOGIN came within {} ms", self.settings.timeouts.login_ms);
                self.refuse(conn, Refusal::closing(ErrorCode::LoginTimeout, message));
            }
            Phase::Homing => self.send_home_again(conn),
            Phase::Active => self.check_silence(conn),
            Phase::Flushing | Phase::Lingering => self.close(conn),
            Phase::Closing | Phase::Vacant => {}
        }
    }

    /// Answers a PING.
    pub(super) fn pong(&mut self, conn: ConnId, mut pong: body::Pong) {
        let least_ms = self.heartbeat_least_ms();
        let rules = &self.settings.rules.heartbeat;
        let session = self.connections.get_mut(conn).and_then(|connection| connection.session.as_mut());
        if let Some(session) = session {
            pong.heartbeat_interval_ms = session.heartbeat.spare(least_ms, rules);
        }
        self.answer(conn, &Frame::Pong(pong));
        self.bring_forward_silence(conn);
    }

    /// The shortest interval between heartbeats that so many connections can be asked for, however good their paths: together they
    /// would keep a core busy with nothing else.
    pub(super) fn heartbeat_least_ms(&self) -> u32 {
        let per_second = u64::from(self.settings.limits.heartbeats_per_second);
        u32::try_from(u64::from(self.connections.count()) * 1_000 / per_second).unwrap_or(u32::MAX)
    }

    /// The interval may have become shorter: silence is looked for in time. Once in an interval, so that traffic stays free of it.
    fn bring_forward_silence(&mut self, conn: ConnId) {
        if let Some(session) = self.connections.get(conn).and_then(|connection| connection.session.as_ref()) {
            let silence_ms = session.heartbeat.silence_max_ms(&self.settings.rules.heartbeat);
            self.set_timer(conn.slot, silence_ms);
        }
    }

    /// Idle for some intervals: a probe. No answer to it: the end.
    fn check_silence(&mut self, conn: ConnId) {
        if self.is_stalled(conn.slot) {
            self.end_slow(conn, "it took no bytes until the write deadline");
            return;
        }
        let rules = self.settings.rules.heartbeat;
        let now_ms = self.now_ms();
        let connection = self.connections.at_mut(conn.slot);
        let session = connection.session.as_ref().expect("active connections have a session");
        let silent_ms = now_ms.wrapping_sub(connection.heard_ms);
        let silence_max_ms = session.heartbeat.silence_max_ms(&rules);
        if silent_ms < silence_max_ms {
            self.set_timer(conn.slot, silence_max_ms - silent_ms);
            return;
        }
        match connection.probe {
            Probe::None => {
                connection.probe = Probe::Queued;
                self.stats.probes.add(1);
                self.set_timer(conn.slot, rules.probe_timeout_ms);
                self.answer(conn, &Frame::Ping(body::Ping { sent_us: self.now.0, rtt_us: 0 }));
            }
            // Whoever takes what is before it is not gone; that it does is what the write deadline is for.
            Probe::Queued if connection.outbound != NONE => self.set_timer(conn.slot, rules.probe_timeout_ms),
            Probe::Queued | Probe::Out => {
                let message = format!("nothing was heard for {silent_ms} ms, and a probe went unanswered");
                self.refuse(conn, Refusal::closing(ErrorCode::IdleTimeout, message));
            }
        }
    }

    /// A probe has left: from now on it may be answered.
    pub(super) fn probe_left(&mut self, conn: ConnId) {
        self.connections.at_mut(conn.slot).probe = Probe::Out;
        self.set_timer(conn.slot, self.settings.rules.heartbeat.probe_timeout_ms);
    }
}

fn too_many_connections() -> Refusal {
    let message = "this core holds as many connections as it may (limits.connections_per_shard, or the table of descriptors)";
    Refusal { retry_after_ms: 1_000, ..Refusal::closing(ErrorCode::TooManyConnections, message) }
}

#[cfg(test)]
mod tests;
