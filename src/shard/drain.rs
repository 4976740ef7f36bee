//! Stopping: nobody new, GOAWAY to everybody, and an end when told, or when time is up.
//!
//! A shard without connections is still the home of groups and clients that others send to. So it goes on until the control
//! thread, which sees all shards, says that nobody is left anywhere.
#![forbid(unsafe_code)]

use super::{Shard, connections::Phase};
use crate::{
    ids::ConnId,
    io::{Output, Tick},
    session::Refusal,
    wire::{ErrorCode, Frame, body},
};

/// Connections told in one step, unless there are so many that a pass would take longer than a quarter of the time there is.
const STEP_CONNECTIONS_MIN: u64 = 2048;
/// While a drain goes on, it is looked after this often.
const STEP_MS: u64 = 10;

/// How far stopping has come.
#[derive(Debug)]
pub(super) struct Drain {
    /// Connections below this slot were told.
    cursor: u32,
    /// Who is still here then is closed.
    close_at: Tick,
    /// The shard stops then, whoever is still here.
    stop_at: Tick,
    closing: bool,
    /// Connections told in one step.
    step: u32,
    /// The control thread has said so.
    told_to_stop: bool,
    stopped: bool,
}

impl Shard {
    pub(super) fn start_drain(&mut self, within_ms: u32) {
        if self.drain.is_some() {
            return;
        }
        let within_ms = u64::from(within_ms);
        self.outputs.push_back(Output::StopAccepting);
        let steps = (within_ms / 4 / STEP_MS).max(1);
        let step = u64::from(self.connections.slots()).div_ceil(steps).max(STEP_CONNECTIONS_MIN);
        self.drain = Some(Drain {
            cursor: 0,
            close_at: self.now.plus_ms(within_ms / 2),
            stop_at: self.now.plus_ms(within_ms),
            closing: false,
            step: u32::try_from(step).unwrap_or(u32::MAX),
            told_to_stop: false,
            stopped: false,
        });
    }

    /// Nobody is left on any shard.
    pub(super) fn stop(&mut self) {
        self.start_drain(0);
        if let Some(drain) = &mut self.drain {
            drain.told_to_stop = true;
        }
    }

    /// Takes the next step of a drain. Gives when to come back.
    pub(super) fn advance_drain(&mut self) -> Option<Tick> {
        let drain = self.drain.as_mut()?;
        if !drain.closing && self.now >= drain.close_at {
            drain.closing = true;
            drain.cursor = 0;
        }
        let closing = drain.closing;
        let from = drain.cursor;
        let to = from.saturating_add(drain.step).min(self.connections.slots());
        drain.cursor = to;
        for conn in (from..to).filter_map(|slot| self.connections.id_at(slot)).collect::<Vec<_>>() {
            if closing {
                self.refuse(conn, stopping());
            } else {
                self.send_away(conn);
            }
        }
        Some(self.now.plus_ms(STEP_MS))
    }

    /// Tells one connection to go; one that has not logged in goes at once.
    pub(super) fn send_away(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        match connection.phase {
            Phase::Active if !connection.going => {
                connection.going = true;
                let rules = &self.settings.goaway;
                let goaway = body::Goaway {
                    code: ErrorCode::GoingAway.number(),
                    message: "this gateway stops; connect again after a random delay inside the window".to_owned(),
                    delay_min_ms: rules.delay_min_ms,
                    delay_max_ms: rules.delay_max_ms,
                    alternatives: rules.alternatives.clone(),
                };
                self.answer(conn, &Frame::Goaway(goaway));
            }
            Phase::Admitting | Phase::Anonymous | Phase::Homing => self.refuse(conn, stopping()),
            Phase::Active | Phase::Flushing | Phase::Lingering | Phase::Closing | Phase::Vacant => {}
        }
    }

    /// Whether the shard is done; true once.
    pub(super) fn drained(&mut self) -> bool {
        let is_idle = self.storage.is_idle();
        let Some(drain) = &mut self.drain else { return false };
        // What was acknowledged before the end is to be saved.
        if drain.stopped || !(drain.told_to_stop && is_idle || self.now >= drain.stop_at) {
            return false;
        }
        drain.stopped = true;
        true
    }

    /// Whether who has not left by now is closed.
    pub(super) fn is_closing_all(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.closing)
    }
}

/// What a connection is told that must end because the gateway does.
pub(super) fn stopping() -> Refusal {
    Refusal::closing(ErrorCode::GoingAway, "this gateway stops now")
}
