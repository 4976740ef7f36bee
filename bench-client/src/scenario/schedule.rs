//! The open loop of one worker: which of its senders sends next, when that was planned, and how late the worker itself is.
#![forbid(unsafe_code)]

use weir::io::Tick;

use super::pace::Pace;
use crate::{
    fleet::{Net, Outcome},
    plan::Plan,
};

/// Planned sends made in one turn; the rest follow in the next.
pub(super) const SENDS_PER_TURN: usize = 1024;
/// Turns planned a second on every worker, to see how late it takes them. As fine as the lag that is allowed.
const TURNS_PER_S: f64 = 1_000.0;

/// One worker's part of an open loop.
pub(super) struct Schedule {
    /// The sends planned for this worker, if it has anyone to make them.
    sends: Option<Pace>,
    /// The worker's own turns. A worker that only receives is late too when it lacks the core, and what it is late by counts as
    /// latency of the gateway; only this tells the two apart.
    turns: Pace,
    /// Senders on this worker, and whose turn it is.
    senders: u32,
    next_sender: u32,
}

impl Schedule {
    /// `rate` messages a second from the clients below `sending`, dealt out to their workers.
    pub(super) fn new(rate: f64, plan: &Plan, worker: u32, sending: u32) -> Schedule {
        let senders = plan.share(worker, sending);
        Schedule {
            sends: (senders > 0).then(|| Pace::new(rate, plan.workers.min(sending), worker)),
            turns: Pace::new(TURNS_PER_S, 1, 0),
            senders,
            next_sender: 0,
        }
    }

    pub(super) fn start(&mut self, at: Tick) {
        self.sends.iter_mut().for_each(|sends| sends.start(at));
        self.turns.start(at);
    }

    /// The next sender whose time has come, and when that was. None when the queue to the gateway is full: then the run is over.
    pub(super) fn take_due(&mut self, net: &mut Net, now: Tick) -> Option<(u32, Tick)> {
        if net.is_backlogged() {
            return None;
        }
        let planned = self.sends.as_mut()?.take_due(now)?;
        net.outcome.lag_us.saturating_record(now.micros_since(planned));
        let local = self.next_sender;
        self.next_sender = (local + 1) % self.senders;
        Some((local, planned))
    }

    /// Records how late this turn is. Returns when the next one is planned.
    pub(super) fn turn(&mut self, net: &mut Net, now: Tick) -> Tick {
        self.record_turns(&mut net.outcome, now);
        match &self.sends {
            Some(sends) if !net.is_backlogged() => sends.planned().min(self.turns.planned()),
            Some(_) | None => self.turns.planned(),
        }
    }

    /// The sending phase is over: what was planned and never done lagged until now at least, unless it was the gateway that left no room
    /// for it.
    pub(super) fn end(&mut self, net: &mut Net, now: Tick) {
        self.record_turns(&mut net.outcome, now);
        if net.is_backlogged() {
            return;
        }
        while let Some(planned) = self.sends.as_mut().and_then(|sends| sends.take_due(now)) {
            net.outcome.lag_us.saturating_record(now.micros_since(planned));
        }
    }

    /// Every planned turn counts, also those that one long turn swallowed: so a pause weighs by its length.
    fn record_turns(&mut self, outcome: &mut Outcome, now: Tick) {
        while let Some(planned) = self.turns.take_due(now) {
            outcome.turn_lag_us.saturating_record(now.micros_since(planned));
        }
    }
}
