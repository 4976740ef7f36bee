//! A client's session, whatever its dialect: how it becomes ready, shows that it lives, and ends.
#![forbid(unsafe_code)]

use std::io;

use weir::io::{Output, Tick};

use super::{Fleet, link::State, message::count_cause, ramp::Failure};
use crate::scenario::{Random, Scenario};

/// A connection whose last PINGs all went unanswered is dead.
const PINGS_UNANSWERED_MAX: u8 = 3;
/// The interval when the server announces none.
pub(super) const HEARTBEAT_INTERVAL_MS: u32 = 30_000;

impl<S: Scenario> Fleet<S> {
    /// Takes bytes of the gateway.
    pub(super) fn received(&mut self, local: u32, bytes: &[u8], now: Tick) {
        let link = &mut self.net.links[local as usize];
        let mut held = std::mem::take(&mut link.partial);
        if held.is_empty() {
            let used = self.take(local, bytes, now);
            if used < bytes.len() {
                held = self.net.pool.pop().unwrap_or_default();
                held.extend_from_slice(&bytes[used..]);
            }
        } else {
            held.extend_from_slice(bytes);
            let used = self.take(local, &held, now);
            held.drain(..used);
        }
        if held.is_empty() {
            self.net.recycle(held);
        } else {
            self.net.links[local as usize].partial = held;
        }
    }

    /// A client is in its group, or has no group to be in and is done with logging in.
    pub(super) fn joined(&mut self, local: u32, now: Tick) {
        if self.net.links[local as usize].state == State::Joining {
            self.settle(local, now);
        }
    }

    /// A client is ready once it knows where its durable channels stand, if it has any.
    pub(super) fn settle(&mut self, local: u32, now: Tick) {
        if self.scenario.durable().is_none_or(|durable| durable.receivers.is_placed(local)) {
            self.ready(local, now);
        } else {
            self.net.links[local as usize].state = State::Settling;
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

    /// A PING was answered, after so many microseconds.
    pub(super) fn answered_ping(&mut self, local: u32, rtt_us: u64) {
        self.net.links[local as usize].pings_unanswered = 0;
        self.net.outcome.rtt_us.saturating_record(rtt_us);
        self.net.outcome.tally.pongs += 1;
    }

    /// Gives a connection up, whatever its state, for a reason that the server or its bytes gave.
    pub(super) fn fail(&mut self, local: u32, cause: &str, words: &str, retry_after_ms: Option<u32>) {
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
        self.ping(local, now);
        self.net.outcome.tally.pings += 1;
        self.net.wheel.insert(local, now_ms + u64::from(interval_ms));
    }
}
