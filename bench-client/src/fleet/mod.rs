//! One worker's machine: connects its clients, keeps them alive, lets a scenario send and receive, ends them.
//!
//! Pure, like every [`Machine`]: time and events come in, outputs go out. The main thread leads it through its phases by
//! messages: ramp → `Go` → sending → quiet → `Leave` → leaving → `Done` → `Exit`.
#![forbid(unsafe_code)]

pub(crate) mod dialect;
#[cfg(test)]
mod durable_tests;
mod leave;
mod link;
#[cfg(test)]
mod mail_tests;
mod message;
#[cfg(test)]
mod model;
mod net;
#[cfg(test)]
mod peer_tests;
mod ramp;
mod session;
#[cfg(test)]
mod tests;
mod wheel;

use std::sync::Arc;

use weir::{
    ids::ConnId,
    io::{Chunk, Input, Machine, Output, Tick},
};

#[cfg(test)]
pub(crate) use message::count_cause;
pub(crate) use message::{Causes, Ledger, Message, Outcome, Tally};
pub(crate) use net::{Net, sequence_of_id, slot_of_id};

use self::{leave::Leaving, link::State, ramp::Ramp};
use crate::{durable::Durable, plan::Plan, scenario::Scenario};

/// How often the main thread is told how things stand.
const PROGRESS_US: u64 = 100_000;
/// The same while it waits for the last messages.
pub(crate) const PROGRESS_QUIET_US: u64 = 10_000;

/// What all workers of a run do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Connecting and logging in.
    Ramp,
    /// Sending.
    Sending { end: Tick },
    /// Waiting for what is under way.
    Quiet,
    /// Ending all connections.
    Leaving,
    /// The results are out.
    Reported,
}

/// One worker.
pub(crate) struct Fleet<S> {
    net: Net,
    scenario: S,
    ramp: Ramp,
    leaving: Leaving,
    phase: Phase,
    /// Links that are `Gone`.
    gone: u32,
    next_progress: Tick,
    /// The main thread was told that the scenario is through.
    told_done: bool,
    /// Links that the wheel brought up in this turn.
    due: Vec<u32>,
}

impl<S: Scenario> Fleet<S> {
    pub(crate) fn new(plan: Arc<Plan>, worker: u32, scenario: S) -> Fleet<S> {
        Fleet {
            ramp: Ramp::new(&plan, worker),
            net: Net::new(plan, worker),
            scenario,
            leaving: Leaving::default(),
            phase: Phase::Ramp,
            gone: 0,
            next_progress: Tick(0),
            told_done: false,
            due: Vec::new(),
        }
    }

    /// The link that an event is about. `None` for an event of an earlier user of the slot.
    fn link_of(&self, conn: ConnId) -> Option<u32> {
        let local = *self.net.by_slot.get(conn.slot as usize)?;
        (self.net.links.get(local as usize)?.conn == conn).then_some(local)
    }

    fn sent(&mut self, local: u32, chunk: Chunk) {
        match chunk {
            Chunk::Owned(buffer) => self.net.recycle(buffer),
            Chunk::Shared(_) => {}
        }
        let link = &mut self.net.links[local as usize];
        link.in_flight = false;
        if !link.out.is_empty() {
            self.net.mark_dirty(local);
        } else if link.state == State::Finishing {
            self.finish(local);
        }
    }

    fn control(&mut self, from: u32, message: Message, now: Tick) {
        match message {
            Message::Go { start, end } => {
                if self.phase != Phase::Ramp {
                    self.net.outcome.next_leg();
                }
                self.net.outcome.tally.is_quiet = false;
                self.net.outcome.tally.is_done = false;
                self.told_done = false;
                self.net.phase_end = end;
                if let Some(timeline) = &mut self.net.outcome.timeline {
                    timeline.begin(start, end);
                }
                self.phase = Phase::Sending { end };
                self.scenario.begin(&mut self.net, start, now);
            }
            Message::Halt => self.quiet(now),
            Message::Leave { deadline } => {
                self.quiet(now);
                if let Some(durable) = self.scenario.durable() {
                    durable.leave(&mut self.net, now);
                }
                self.phase = Phase::Leaving;
                self.leaving.begin(deadline);
            }
            Message::Exit => self.net.outputs.push_back(Output::Stop),
            Message::Passed { publisher, below } => self.scenario.passed(&mut self.net, from, publisher, below, now),
            Message::Progress(_) | Message::Done(_) => unreachable!("only the main thread is told"),
        }
    }

    /// Drops the connections that the scenario asks to be dropped, as a network would: without a word.
    fn drop_connections(&mut self) {
        for (local, again_ms) in std::mem::take(&mut self.net.drops) {
            if self.net.is_ready(local) {
                self.close(local, Some(again_ms));
            }
        }
    }

    /// Ends the sending phase, if it lasts.
    fn quiet(&mut self, now: Tick) {
        if let Phase::Sending { .. } = self.phase {
            self.phase = Phase::Quiet;
            self.scenario.end(&mut self.net, now);
            self.net.phase_end = self.net.phase_end.min(now);
            self.next_progress = now;
        }
        self.net.outcome.tally.is_quiet = true;
    }

    fn report_progress(&mut self, now: Tick) -> Tick {
        let tally = &self.net.outcome.tally;
        if self.phase == Phase::Ramp && tally.last_arrival == now && tally.ready + tally.failed == self.net.links.len() as u64 {
            self.next_progress = now;
        }
        if tally.is_done && !std::mem::replace(&mut self.told_done, true) {
            self.next_progress = now;
        }
        if now >= self.next_progress {
            let every = if self.phase == Phase::Quiet { PROGRESS_QUIET_US } else { PROGRESS_US };
            self.next_progress = Tick(now.0 + every);
            self.net.post_main(Message::Progress(Box::new(self.net.outcome.tally)));
        }
        self.next_progress
    }

    /// Posts the results, once every connection is closed.
    fn report_results(&mut self) {
        self.phase = Phase::Reported;
        let mut outcome = std::mem::replace(&mut self.net.outcome, Outcome::new());
        outcome.ledger = self.scenario.take_ledger();
        outcome.ledger.durable = self.scenario.durable().map(Durable::take_ledger);
        self.net.post_main(Message::Done(Box::new(outcome)));
    }
}

impl<S: Scenario> Machine for Fleet<S> {
    type Message = Message;

    fn handle(&mut self, now: Tick, input: Input<'_, Message>) {
        match input {
            Input::Connected { conn, token } => self.connected(conn, token, now),
            Input::ConnectFailed { token, errno } => self.connect_failed(token, errno, now),
            Input::Received { conn, bytes } => {
                if let Some(local) = self.link_of(conn) {
                    self.received(local, bytes, now);
                }
            }
            Input::Sent { conn, chunk } => {
                if let Some(local) = self.link_of(conn) {
                    self.sent(local, chunk);
                }
            }
            Input::Eof { conn } => {
                if let Some(local) = self.link_of(conn) {
                    self.ended(local, None, now);
                }
            }
            Input::Broken { conn, errno } => {
                if let Some(local) = self.link_of(conn) {
                    self.ended(local, Some(errno), now);
                }
            }
            Input::Closed { conn } => {
                if let Some(local) = self.link_of(conn) {
                    self.closed(local, now);
                }
            }
            Input::Posted { from, message } => self.control(from.0.into(), message, now),
            Input::PostRefused { to, message } => self.net.outputs.push_back(Output::Post { to, message }),
            Input::Accepted { .. } | Input::Adopted { .. } | Input::AdoptFailed { .. } | Input::MoveRefused { .. } => {
                unreachable!("a fleet has no listener and moves no connection")
            }
        }
    }

    fn handle_tick(&mut self, now: Tick) -> Option<Tick> {
        let mut wake = Vec::with_capacity(4);
        match self.phase {
            Phase::Ramp => wake.extend(self.start_connections(now)),
            Phase::Sending { end } if now >= end => self.quiet(now),
            Phase::Sending { end } => {
                wake.push(end);
                wake.extend(self.scenario.tick(&mut self.net, now));
                self.drop_connections();
                wake.extend(self.start_connections(now));
            }
            Phase::Quiet => wake.extend(self.start_connections(now)),
            Phase::Leaving => wake.extend(self.leave(now)),
            Phase::Reported => return None,
        }
        self.look_at_due_links(now);
        if let Some(durable) = self.scenario.durable() {
            wake.extend(durable.turn(&mut self.net, now));
        }
        self.scenario.end_turn(&mut self.net, now);
        wake.extend(self.net.wheel.wake_at());
        wake.push(self.report_progress(now));
        wake.into_iter().min()
    }

    fn poll_output(&mut self) -> Option<Output<Message>> {
        if let Some(output) = self.net.outputs.pop_front() {
            return Some(output);
        }
        while let Some(local) = self.net.dirty.pop() {
            let link = &mut self.net.links[local as usize];
            link.is_dirty = false;
            if link.may_send() && !link.in_flight && !link.out.is_empty() {
                link.in_flight = true;
                self.net.queued_bytes -= link.out.len();
                return Some(Output::Send { conn: link.conn, chunk: Chunk::Owned(std::mem::take(&mut link.out)) });
            }
        }
        None
    }
}
