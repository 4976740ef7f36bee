//! From a LOGIN to a session: the rate, the epoch, who else of this client is here, and what the policy of the device class says.
#![forbid(unsafe_code)]

use super::{
    Shard,
    connections::{NONE, Phase},
};
use crate::{
    ids::ConnId,
    session::{Identity, Policy, Rate, Refusal, Session, Verdict, check_login},
    wire::{
        ErrorCode, Frame,
        body::{self, Presence},
    },
};

impl Shard {
    /// Checks a LOGIN; the rate first, so that a flood of forged tokens costs little.
    pub(super) fn check_login(&mut self, login: &body::Login) -> Result<Identity, Refusal> {
        let rate = Rate { per_second: self.settings.limits.logins_per_second };
        let since_ms = self.logins_refilled.as_ms();
        let elapsed_ms = self.now.as_ms() - since_ms;
        if elapsed_ms >= 10 {
            self.logins.refill(rate, (since_ms % 1_000) as u32, u32::try_from(elapsed_ms).unwrap_or(u32::MAX));
            self.logins_refilled = self.now;
        }
        match self.logins.take(rate, 1) {
            Verdict::Granted => check_login(self.now, login, &self.settings.rules),
            Verdict::Refused { .. } | Verdict::Abuse => {
                // What is refused is not charged: the rate is that of admitted logins.
                self.logins.put_back(rate, 1);
                let message = format!("more than {} logins a second on this core", rate.per_second);
                Err(Refusal { retry_after_ms: 1_000, ..Refusal::closing(ErrorCode::LoginRateExceeded, message) })
            }
        }
    }

    /// Wall clock at LOGIN, made unique: a later login of a device has the larger epoch, on whichever core it was read.
    pub(super) fn next_epoch(&mut self) -> u64 {
        let wall_us = self.settings.rules.wall_at_start_us + self.now.0;
        let shard = u64::from(self.settings.id.0) & 0xff;
        let mut epoch = wall_us << 8 | shard;
        if epoch <= self.last_epoch {
            epoch = self.last_epoch + 0x100;
        }
        self.last_epoch = epoch;
        epoch
    }

    /// Makes the connection a session of its client, as far as the policy of its device class lets it. Returns false if not.
    pub(super) fn install(&mut self, conn: ConnId, identity: Identity, epoch: u64) -> bool {
        let client = identity.names.client();
        let mut kicked: Vec<(ConnId, ErrorCode)> = Vec::new();
        let mut staying = 0;
        let mut slot = self.directory.first(self.keyed.name(client), client, &self.connections);
        while slot != NONE {
            let other = self.connections.at(slot);
            let same_device = other.names.device() == identity.names.device();
            let policy = self.settings.rules.device_classes[usize::from(identity.class)].policy;
            let rival = match (same_device, other.class == identity.class, policy) {
                (true, _, _) => Some(ErrorCode::Superseded),
                (false, true, Policy::KeepNewest) => Some(ErrorCode::ReplacedByDevice),
                (false, true, Policy::RefuseNewest) => Some(ErrorCode::DeviceRefused),
                (false, true, Policy::AllowMany) | (false, false, _) => None,
            };
            let other_id = ConnId { slot, generation: other.generation };
            match rival {
                None => staying += 1,
                Some(ErrorCode::DeviceRefused) => {
                    let message = format!(
                        "device {:?} of the same class is connected, and its policy is refuse_newest",
                        other.names.device()
                    );
                    self.refuse(conn, Refusal::closing(ErrorCode::DeviceRefused, message));
                    return false;
                }
                // Only the newest may kick: a login that was overtaken on its way is the past.
                Some(code) if other.epoch > epoch => {
                    let by = other.names.device().to_owned();
                    self.kick(conn, code, by);
                    return false;
                }
                Some(code) => kicked.push((other_id, code)),
            }
            slot = self.connections.at(slot).next_device;
        }
        let limit = self.settings.limits.devices_per_client;
        if staying >= limit {
            let message = format!("this client has {limit} devices connected, as many as one may (limits.devices_per_client)");
            self.refuse(conn, Refusal::closing(ErrorCode::TooManyDevices, message));
            return false;
        }
        for (other, code) in kicked {
            self.kick(other, code, identity.names.device().to_owned());
        }
        self.activate(conn, identity, epoch);
        true
    }

    fn activate(&mut self, conn: ConnId, identity: Identity, epoch: u64) {
        let mut session = Session::new(&self.settings.rules, self.now);
        session.heartbeat.spare(self.heartbeat_least_ms(), &self.settings.rules.heartbeat);
        let (window, cursor, form) = (identity.window, identity.cursor, identity.form);
        let silence_ms = session.heartbeat.silence_max_ms(&self.settings.rules.heartbeat);
        let login_ok = body::LoginOk {
            client_id: identity.names.client().to_owned(),
            session_epoch: epoch,
            heartbeat_interval_ms: session.heartbeat.interval_ms,
            max_body_bytes: self.settings.rules.max_body_bytes,
            server_time_ms: self.settings.rules.wall_ms(self.now),
            window,
            batches: form.batches,
            compression: form.compression() as i32,
        };
        let connection = self.connections.at_mut(conn.slot);
        connection.identify(identity, epoch, session);
        connection.phase = Phase::Active;
        self.directory.insert(conn.slot, &mut self.connections);
        self.presence_changed(conn.slot, Presence::Foreground);
        self.set_timer(conn.slot, silence_ms);
        self.stats.logins.add(1);
        self.stats.sessions.add(1);
        self.answer(conn, &Frame::LoginOk(login_ok));
        self.part_from_later(conn.slot);
        self.enroll(conn, window, cursor);
        if self.drain.is_some() {
            self.send_away(conn);
        }
    }

    fn kick(&mut self, conn: ConnId, code: ErrorCode, by_device: String) {
        self.stats.closed.of(code).add(1);
        let message = match code {
            ErrorCode::Superseded => "a newer connection of this device took over",
            _ => "a newer device of the same class took over",
        };
        let kicked = body::Kicked { code: code.number(), message: message.to_owned(), by_device };
        self.end(conn, Some(&Frame::Kicked(kicked)));
    }
}
