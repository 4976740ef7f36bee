//! A device's place in one channel: what it keeps across connections, and how far it is on one of them.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use weir::{
    store::Bounds,
    wire::{ErrorCode, body},
};

use super::{ledger::Ledger, model::Model};

/// A cursor from the future: no channel of any run is so long.
pub const FAR_AHEAD: u64 = 1 << 40;

/// What a device keeps of a channel that it follows.
#[derive(Clone, Debug, Default)]
pub struct Shelf {
    /// It has heard once where it begins, and has all from there, up to `high`, but for what was gone.
    pub begun: bool,
    pub high: u64,
    /// It has never said, nor brought, more than this; so the gateway must not believe that it has more.
    claim: u64,
    /// The store is known to remember this much.
    saved: u64,
    /// The largest read cursor that it heard of.
    read: u64,
    /// What was known of the channel when it first asked, if it has not begun.
    since: Option<u64>,
    /// What it has brought since then.
    brought: Vec<u64>,
    /// It has asked without a cursor, and may not have heard where it began.
    unheard: bool,
    /// It has brought a cursor from the future, and may not have heard what came of it.
    renounced: bool,
    /// It has left the group; with the gateway's lives of then. It forgets the device's cursor, however the disk fails, unless it ends itself.
    pub left: Option<u64>,
}

impl Shelf {
    /// It asks to follow the channel.
    pub fn asks(&mut self, known: u64, brought: Option<u64>) {
        self.since.get_or_insert(known);
        if brought == Some(FAR_AHEAD) {
            self.renounced = true;
            return;
        }
        self.brought.extend(brought);
        if self.begun {
            self.claim = self.claim.max(brought.unwrap_or(0));
        } else {
            self.unheard |= brought.is_none();
        }
    }

    /// LEAVE is on its way.
    pub fn leaves(&mut self, lives: u64) {
        self.begun = false;
        self.since = None;
        self.brought.clear();
        self.unheard = false;
        self.left = Some(lives);
    }

    /// Whether the cursor that the gateway remembers, or says it does, can be true.
    fn remembered(&self, is_own: bool, cursors: &body::Cursors, lives: u64) -> bool {
        let received = cursors.received;
        let kept = self.saved <= received && (received <= self.claim || self.renounced);
        if self.begun {
            return kept;
        }
        // Whoever comes for the first time has everything of its own channel before it, and nothing of a group. It may have
        // come before, and not have heard the answer.
        let is_new = if is_own { received == 0 } else { self.since.is_some_and(|since| since <= received) };
        is_new || self.brought.contains(&received) || self.left.is_some_and(|then| lives > then) && kept
    }
}

/// How far a device is in a channel, on one connection.
#[derive(Clone, Debug, Default)]
pub struct Spot {
    /// What LOGIN or JOIN brought.
    pub brought: Option<u64>,
    /// JOINs, and with them cursors, were refused as coming from the future.
    pub was_ahead: bool,
    /// CURSORS came.
    pub open: bool,
    /// The sequence that must come next.
    pub next: u64,
    /// Said to be received.
    pub acked: u64,
    /// Pushed and not said to be received.
    pub waiting: VecDeque<u64>,
    /// What the newest CURSORS said.
    pub told: Option<body::Cursors>,
}

/// What a frame of the channel is held against.
pub struct Truth<'a> {
    pub model: &'a mut Model,
    pub ledger: &'a Ledger,
    /// What the log keeps now.
    pub bounds: Bounds,
}

impl Spot {
    pub fn new(brought: Option<u64>) -> Spot {
        Spot { brought, ..Spot::default() }
    }

    /// CURSORS.
    pub fn hears(&mut self, shelf: &mut Shelf, client: &str, cursors: &body::Cursors, truth: &mut Truth<'_>) {
        let body::Cursors { channel, first, last, received, read, unread } = cursors;
        assert!(*last <= truth.ledger.last(channel), "{cursors:?} names a message that is not there");
        assert!(*first >= 1 && *first <= truth.bounds.first && *first <= last + 1, "{cursors:?}: {:?}", truth.bounds);
        assert_eq!(*unread, last.saturating_sub(*read), "{cursors:?}");
        assert!(*read <= truth.model.most_read(client, channel), "{cursors:?}: nobody has read so much");
        assert!(*read >= shelf.read, "{cursors:?}: {} was read before", shelf.read);
        shelf.read = *read;
        truth.model.heard_of(channel, *last);
        if self.open {
            assert!(*received < self.next && *received <= shelf.claim, "{cursors:?}: it did not say so much, {shelf:?}");
            self.told = Some(cursors.clone());
            return;
        }
        assert!(*last >= shelf.since.unwrap_or(0), "{cursors:?}: {:?} was known before it was asked for", shelf.since);
        match self.brought {
            Some(cursor) if self.was_ahead => {
                assert!(cursor > *last && received == last, "{cursors:?}: {cursor} was refused");
                shelf.begun = false;
            }
            Some(cursor) => assert_eq!(*received, cursor, "{cursors:?} is not where the device says it is"),
            None => {
                let is_own = channel.starts_with("user/");
                let fits = shelf.remembered(is_own, cursors, truth.model.lives);
                assert!(fits, "{cursors:?} is not where the device was: {shelf:?}, {} lives", truth.model.lives);
                shelf.saved = shelf.saved.max(*received);
            }
        }
        // What the gateway remembers, and never told, is not moved back by a cursor that is brought.
        let vague = self.brought.is_some() && (shelf.unheard || shelf.renounced || shelf.left.is_some());
        let remembers = if vague { *last } else { *received };
        // It has said so itself, of a kind.
        if *received > shelf.high {
            shelf.begun = false;
        }
        if !shelf.begun {
            *shelf = Shelf { high: *received, saved: 0, claim: *received, ..shelf.clone() };
            if self.brought.is_none() {
                shelf.saved = *received;
            }
            (shelf.begun, shelf.left) = (true, None);
        }
        shelf.claim = shelf.claim.max(remembers);
        shelf.since = None;
        shelf.brought.clear();
        (shelf.renounced, shelf.unheard) = (false, false);
        (self.open, self.next, self.acked) = (true, received + 1, *received);
        self.told = Some(cursors.clone());
    }

    /// A durable PUSH. Gives whether the device had it before.
    pub fn takes(&mut self, shelf: &mut Shelf, channel: &str, seq: u64) -> bool {
        assert!(self.open, "{channel} {seq} came before it was said where the channel begins");
        assert_eq!(seq, self.next, "{channel}: {seq} came, and {} is next", self.next);
        assert!(seq <= shelf.high + 1, "{channel} {seq} came, and the device has only {}", shelf.high);
        let is_repeat = seq <= shelf.high;
        self.next += 1;
        self.waiting.push_back(seq);
        shelf.high = shelf.high.max(seq);
        is_repeat
    }

    /// GAP.
    pub fn misses(&mut self, shelf: &mut Shelf, gap: &body::Gap, truth: &Truth<'_>) {
        assert!(self.open, "{gap:?} came before it was said where the channel begins");
        assert!(gap.from == self.next && gap.to >= gap.from, "{gap:?} came, and {} is next", self.next);
        assert!(gap.to < truth.bounds.first, "{gap:?} names what is still there: {:?}", truth.bounds);
        assert_eq!(gap.code, ErrorCode::Expired.number(), "{gap:?}");
        self.next = gap.to + 1;
        shelf.high = shelf.high.max(gap.to);
    }

    /// RECEIVED is on its way.
    pub fn acks(&mut self, shelf: &mut Shelf, to: u64) {
        self.acked = to;
        shelf.claim = shelf.claim.max(to);
        while self.waiting.front().is_some_and(|seq| *seq <= to) {
            self.waiting.pop_front();
        }
    }
}
