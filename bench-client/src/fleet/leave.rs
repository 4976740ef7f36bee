//! Ending all connections: our direction first, so that the gateway sees an orderly end, then the rest at a deadline.
#![forbid(unsafe_code)]

use weir::{
    ids::ConnId,
    io::{Output, Tick},
};

use super::{
    Fleet, Phase,
    link::{Link, State},
};
use crate::scenario::Scenario;

/// Connections that one turn starts to end.
const ENDS_PER_TURN: u32 = 256;

/// How far the leaving is.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// Links from here on have not been looked at.
    next: u32,
    deadline: Tick,
    is_past_deadline: bool,
}

impl Leaving {
    pub(super) fn begin(&mut self, deadline: Tick) {
        self.next = 0;
        self.deadline = deadline;
    }
}

impl<S: Scenario> Fleet<S> {
    /// Ends some more connections, and reports when none is left.
    pub(super) fn leave(&mut self, now: Tick) -> Option<Tick> {
        let links = self.net.links.len() as u32;
        if now >= self.leaving.deadline && !self.leaving.is_past_deadline {
            self.leaving.is_past_deadline = true;
            (0..links).for_each(|local| self.give_up(local));
        }
        let until = links.min(self.leaving.next + ENDS_PER_TURN);
        for local in self.leaving.next..until {
            self.end(local, now);
        }
        self.leaving.next = until;
        if self.gone == links {
            self.report_results();
            return None;
        }
        if until < links { Some(now) } else { (!self.leaving.is_past_deadline).then_some(self.leaving.deadline) }
    }

    /// Starts to end one connection.
    fn end(&mut self, local: u32, now: Tick) {
        if self.net.is_ready(local) {
            self.take_leave(local, now);
        }
        let link = &mut self.net.links[local as usize];
        match link.state {
            State::Waiting => self.gone(local),
            State::Ready if link.in_flight || !link.out.is_empty() => link.state = State::Finishing,
            State::Ready => self.finish(local),
            State::LoggingIn | State::Joining | State::Settling => self.close(local, None),
            // A connect under way cannot be taken back: what comes of it is closed.
            State::Connecting | State::Finishing | State::Finished | State::Closing { .. } | State::Gone => {}
        }
    }

    /// Closes one connection that did not end in time.
    fn give_up(&mut self, local: u32) {
        match self.net.links[local as usize].state {
            State::Waiting | State::Connecting => self.gone(local),
            State::LoggingIn | State::Joining | State::Settling | State::Ready | State::Finishing | State::Finished => {
                self.close(local, None);
            }
            State::Closing { .. } | State::Gone => {}
        }
    }

    /// Ends our direction.
    pub(super) fn finish(&mut self, local: u32) {
        let link = &mut self.net.links[local as usize];
        link.state = State::Finished;
        self.net.outputs.push_back(Output::Finish { conn: link.conn });
    }

    /// The reactor has let go of a connection.
    pub(super) fn closed(&mut self, local: u32, now: Tick) {
        let link: &mut Link = &mut self.net.links[local as usize];
        let State::Closing { again } = link.state else { unreachable!("only what was closed is closed: {:?}", link.state) };
        link.conn = ConnId { slot: u32::MAX, generation: 0 };
        link.in_flight = false;
        let after_ms = link.last_sent_ms;
        if again && !self.is_ending() {
            self.try_again(local, after_ms, now);
        } else {
            self.gone(local);
        }
    }

    /// This client will have no connection any more.
    pub(super) fn gone(&mut self, local: u32) {
        self.net.links[local as usize].state = State::Gone;
        self.gone += 1;
    }

    /// Whether the run is about to end, so that nothing new is begun.
    pub(super) fn is_ending(&self) -> bool {
        match self.phase {
            Phase::Leaving | Phase::Reported => true,
            Phase::Ramp | Phase::Sending { .. } | Phase::Quiet => false,
        }
    }
}
