//! Bringing clients up: so many on their way at once, a schedule if there is one, and another attempt where that makes sense.
#![forbid(unsafe_code)]

use std::{cmp::Reverse, collections::BinaryHeap, io};

use weir::{
    ids::ConnId,
    io::{Output, Tick},
    wire::{ErrorCode, Retry},
};

use super::{Fleet, link::State, message::count_cause};
use crate::{
    plan::Plan,
    scenario::{Scenario, pace::Pace},
};

/// A connection that is not ready after this long has failed.
const LOGIN_DEADLINE_MS: u32 = 10_000;
/// How often connections that are not ready are looked at.
const LOOK_MS: u64 = 500;
/// Attempts for each client.
const ATTEMPTS_MAX: u8 = 8;
/// The delay before the second attempt; it doubles with each further one.
const RETRY_MS: u64 = 100;
/// Connections that one turn starts at most.
const STARTS_PER_TURN: usize = 64;

/// Which clients are still to come.
pub(super) struct Ramp {
    /// Clients from here on were not tried yet.
    next: u32,
    /// Clients whose next attempt is due at a time.
    again: BinaryHeap<Reverse<(Tick, u32)>>,
    /// On their way to `Ready`, and how many of them there may be.
    arriving: u32,
    arriving_max: u32,
    pace: Option<Pace>,
    is_started: bool,
}

/// Why an attempt failed.
pub(super) struct Failure<'a> {
    pub(super) cause: &'a str,
    pub(super) words: &'a str,
    /// When another attempt makes sense; `None` for never.
    pub(super) retry_after_ms: Option<u32>,
}

impl Ramp {
    pub(super) fn new(plan: &Plan, worker: u32) -> Ramp {
        Ramp {
            next: 0,
            again: BinaryHeap::new(),
            arriving: 0,
            arriving_max: (plan.connecting / plan.workers).max(1),
            pace: plan.connect_rate.map(|rate| Pace::new(rate, plan.workers, worker)),
            is_started: false,
        }
    }

    /// The next client whose time has come.
    fn take(&mut self, clients: u32, now: Tick) -> Option<u32> {
        if self.arriving >= self.arriving_max {
            return None;
        }
        if let Some(Reverse((at, local))) = self.again.peek().copied()
            && at <= now
        {
            self.again.pop();
            return Some(local);
        }
        if self.next == clients {
            return None;
        }
        if let Some(pace) = &mut self.pace {
            pace.take_due(now)?;
        }
        self.next += 1;
        Some(self.next - 1)
    }

    /// When `take` may have something that it has not now, unless an answer comes before.
    fn wake_at(&self, clients: u32) -> Option<Tick> {
        if self.arriving >= self.arriving_max {
            return None;
        }
        let again = self.again.peek().map(|Reverse((at, _))| *at);
        let planned = if self.next < clients { Some(self.pace.as_ref().map_or(Tick(0), Pace::planned)) } else { None };
        [again, planned].into_iter().flatten().min()
    }

    /// One of those on their way arrived, or failed.
    pub(super) fn arrived(&mut self) {
        self.arriving -= 1;
    }
}

impl<S: Scenario> Fleet<S> {
    /// Starts as many connections as may start now.
    pub(super) fn start_connections(&mut self, now: Tick) -> Option<Tick> {
        if !std::mem::replace(&mut self.ramp.is_started, true)
            && let Some(pace) = &mut self.ramp.pace
        {
            pace.start(now);
        }
        let clients = self.net.links.len() as u32;
        for _ in 0..STARTS_PER_TURN {
            let Some(local) = self.ramp.take(clients, now) else { return self.ramp.wake_at(clients) };
            self.ramp.arriving += 1;
            let link = &mut self.net.links[local as usize];
            link.state = State::Connecting;
            link.last_sent_ms = now.as_ms() as u32;
            let from = self.net.plan.source_of(self.net.client(local));
            self.net.outputs.push_back(Output::Connect { token: local, from, to: self.net.plan.target });
        }
        Some(now)
    }

    pub(super) fn connected(&mut self, conn: ConnId, local: u32, now: Tick) {
        if self.is_ending() {
            self.net.outputs.push_back(Output::Close { conn });
            if self.net.links[local as usize].state == State::Connecting {
                self.gone(local);
            }
            return;
        }
        let slot = conn.slot as usize;
        if self.net.by_slot.len() <= slot {
            self.net.by_slot.resize(slot + 1, u32::MAX);
        }
        self.net.by_slot[slot] = local;
        let link = &mut self.net.links[local as usize];
        link.conn = conn;
        link.state = State::LoggingIn;
        link.pings_unanswered = 0;
        self.net.wheel.insert(local, now.as_ms() + LOOK_MS);
        self.log_in(local, now);
    }

    pub(super) fn connect_failed(&mut self, local: u32, errno: i32, now: Tick) {
        if self.net.links[local as usize].state != State::Connecting {
            return;
        }
        let words = io::Error::from_raw_os_error(errno).to_string();
        // Anything else would end the same way again.
        let passes = [nix::libc::ECONNRESET, nix::libc::ETIMEDOUT, nix::libc::EAGAIN, nix::libc::EADDRNOTAVAIL].contains(&errno)
            || self.net.plan.returns && errno == nix::libc::ECONNREFUSED;
        let failure = Failure { cause: "connect", words: &words, retry_after_ms: passes.then_some(0) };
        match self.attempt_failed(local, &failure).filter(|_| !self.is_ending()) {
            Some(after_ms) => self.try_again(local, after_ms, now),
            None => self.gone(local),
        }
    }

    /// Counts a failed attempt. Returns after how many milliseconds another one is to follow, if any is.
    pub(super) fn attempt_failed(&mut self, local: u32, failure: &Failure<'_>) -> Option<u32> {
        let link = &mut self.net.links[local as usize];
        if link.is_arriving() {
            self.ramp.arrived();
        }
        link.attempts += 1;
        let again_ms = failure.retry_after_ms.filter(|_| link.attempts < ATTEMPTS_MAX);
        let was_ready = link.was_ready;
        let tally = &mut self.net.outcome.tally;
        tally.retried_returns += u64::from(was_ready && again_ms.is_some());
        *(if again_ms.is_some() { &mut tally.retried } else { &mut tally.failed }) += 1;
        count_cause(&mut self.net.outcome.endings, failure.cause, failure.words);
        again_ms
    }

    /// Puts a client in the queue for its next attempt: no sooner than asked for, and later the more of them failed.
    pub(super) fn try_again(&mut self, local: u32, after_ms: u32, now: Tick) {
        let link = &mut self.net.links[local as usize];
        link.state = State::Waiting;
        let pause_ms = if link.attempts == 0 { 0 } else { RETRY_MS << link.attempts.min(6) };
        let delay_ms = pause_ms.max(after_ms.into());
        self.ramp.again.push(Reverse((now.plus_ms(delay_ms), local)));
    }

    /// A link came up in the wheel before it was ready.
    pub(super) fn look_at_arriving(&mut self, local: u32, now: Tick) {
        let waited_ms = (now.as_ms() as u32).wrapping_sub(self.net.links[local as usize].last_sent_ms);
        if waited_ms < LOGIN_DEADLINE_MS {
            self.net.wheel.insert(local, now.as_ms() + LOOK_MS);
            return;
        }
        let words = format!("no answer to LOGIN or JOIN within {LOGIN_DEADLINE_MS} ms");
        let retry_after_ms = self.net.plan.returns.then_some(0);
        let failure = Failure { cause: "login timeout", words: &words, retry_after_ms };
        let again_ms = self.attempt_failed(local, &failure);
        self.close(local, again_ms);
    }
}

/// Whether a client that was refused with this code tries again: where that may help with nothing changed.
pub(super) fn passes(code: Option<ErrorCode>, returns: bool) -> bool {
    if returns {
        return code.is_none_or(|code| code.retry() == Retry::Later);
    }
    match code {
        Some(ErrorCode::LoginRateExceeded | ErrorCode::Overloaded | ErrorCode::LoginTimeout) => true,
        // Every other code is for good: another attempt would only hide it.
        Some(_) | None => false,
    }
}
