//! The one rule of durable delivery: a device takes only the sequence it waits for.
//!
//! An older one is a repeat, and dropped. A later one, or the right one when there is no room for it, puts the device *behind*:
//! from then on it reads the log, page by page, until nothing lies between it and the newest message that it knows of. So a full
//! ring, a slow client, a reconnect and a message that overtook another are all the same case.
#![forbid(unsafe_code)]

/// How a reader gets its next message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// This member takes no part in durable delivery.
    Absent,
    /// The store was asked where it stands, and JOIN_OK waits for the answer.
    Joining,
    /// The store was asked where it stands.
    Opening,
    /// It has all there is: the next message comes as it is accepted.
    Live,
    /// Behind, in line for a page.
    Queued,
    /// Behind, and a page was asked for.
    Reading,
    /// Behind, and its window or its queue has no room.
    Blocked,
    /// Behind, or not opened yet: the store could not answer, and is asked again in a while.
    Resting,
}

/// What to do with a message that was just accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It is the one that the reader waits for: push it, then say [`Reader::took`], or [`Reader::fall_behind`] if there is no room.
    Take,
    /// The reader has it, or will find it in the log.
    Leave,
    /// The reader has just fallen behind.
    Behind,
}

/// What an acknowledgement came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledged {
    /// So many messages less are on their way.
    Freed {
        messages: u16,
        /// The shard's list of cursors to save does not hold this one yet.
        is_unsaved: bool,
    },
    /// It was acknowledged before, or is looked at once it is known where the device stands.
    Known,
    /// It was never sent.
    NotSent,
}

/// What a client said before it was told where it stands; 0: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Early {
    pub received: u64,
    pub read: u64,
}

/// One device's place in one channel.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    /// The sequence it waits for. While opening: the cursor that the client brought.
    next: u64,
    /// All up to here was acknowledged. While opening: what the client has acknowledged meanwhile.
    received: u64,
    /// So far the store knows. While opening: what the client has read meanwhile.
    saved: u64,
    /// The newest sequence of the channel that was heard of.
    known: u64,
    /// Pushed and not acknowledged. While opening: 1 if the client brought a cursor.
    unacked: u16,
    /// Tells answers of the store to an earlier reader of the same connection and channel apart.
    pub ticket: u32,
    /// JOINs that are answered once the store has said where the reader stands.
    pub joins_due: u8,
    pub mode: Mode,
}

const _: () = assert!(size_of::<Reader>() <= 40, "one for each device, and for each of its groups");

impl Reader {
    /// A member that takes no part.
    pub fn absent() -> Reader {
        Reader { next: 0, received: 0, saved: 0, known: 0, unacked: 0, ticket: 0, joins_due: 0, mode: Mode::Absent }
    }

    /// Where it stands is asked for; `cursor` is what the client says.
    pub fn opening(cursor: Option<u64>, ticket: u32) -> Reader {
        let (next, unacked) = (cursor.unwrap_or(0), u16::from(cursor.is_some()));
        Reader { next, unacked, ticket, mode: Mode::Opening, ..Reader::absent() }
    }

    /// As `opening`, for a group.
    pub fn joining(cursor: Option<u64>, ticket: u32) -> Reader {
        Reader { mode: Mode::Joining, ..Reader::opening(cursor, ticket) }
    }

    /// Whether it waits for the store to say where it stands.
    pub fn is_opening(&self) -> bool {
        matches!(self.mode, Mode::Joining | Mode::Opening)
    }

    /// Whether JOIN_OK waits for the store: until then no message of the group may come.
    pub fn is_joining(&self) -> bool {
        self.mode == Mode::Joining
    }

    /// The cursor that the client brought.
    pub fn brought(&self) -> Option<u64> {
        (self.is_opening() && self.unacked > 0).then_some(self.next)
    }

    /// The client has read up to `seq`, and it is not known yet where it stands. The highest counts.
    pub fn reads_early(&mut self, seq: u64) {
        self.saved = self.saved.max(seq);
    }

    /// What the client said before it was known where it stands.
    pub fn early(&self) -> Early {
        if self.is_opening() { Early { received: self.received, read: self.saved } } else { Early::default() }
    }

    /// The store has answered: the reader has all up to `received`, and `last` is the newest message. `saved`: what the store holds.
    pub fn open(&mut self, received: u64, saved: u64, last: u64) {
        (self.next, self.unacked) = (received + 1, 0);
        self.received = received;
        self.saved = saved;
        self.known = self.known.max(last);
        self.mode = Mode::Live;
    }

    /// A message of the channel was accepted.
    pub fn offer(&mut self, seq: u64) -> Offer {
        self.known = self.known.max(seq);
        match self.mode {
            Mode::Absent | Mode::Joining | Mode::Opening => Offer::Leave,
            Mode::Queued | Mode::Reading | Mode::Blocked | Mode::Resting => Offer::Leave,
            Mode::Live if seq < self.next => Offer::Leave,
            Mode::Live if seq == self.next => Offer::Take,
            Mode::Live => Offer::Behind,
        }
    }

    /// A message was pushed.
    pub fn took(&mut self, seq: u64) {
        self.next = seq + 1;
        self.unacked += 1;
        self.known = self.known.max(seq);
    }

    /// Messages up to `seq` are gone, and the device is told. That it has heard, only a RECEIVED shows: a GAP that is lost with its
    /// connection is announced again.
    pub fn skip_to(&mut self, seq: u64) {
        self.next = seq + 1;
        self.known = self.known.max(seq);
    }

    /// Hears of the channel's newest message.
    pub fn hear_of(&mut self, last: u64) {
        self.known = self.known.max(last);
    }

    /// Whether the log holds more than the device was sent.
    pub fn is_behind(&self) -> bool {
        self.known >= self.next
    }

    /// The device has all up to `to`.
    pub fn acknowledge(&mut self, to: u64) -> Acknowledged {
        if self.is_opening() {
            self.received = self.received.max(to);
            return Acknowledged::Known;
        }
        if to >= self.next || self.mode == Mode::Absent {
            return Acknowledged::NotSent;
        }
        if to <= self.received {
            return Acknowledged::Known;
        }
        let is_unsaved = self.received <= self.saved && to > self.saved;
        self.received = to;
        let left = u16::try_from(self.next - 1 - to).unwrap_or(u16::MAX).min(self.unacked);
        let messages = self.unacked - left;
        self.unacked = left;
        Acknowledged::Freed { messages, is_unsaved }
    }

    /// What must be saved, if anything; from then on it counts as saved.
    pub fn take_unsaved(&mut self) -> Option<u64> {
        if self.received <= self.saved || self.is_opening() {
            return None;
        }
        self.saved = self.received;
        Some(self.received)
    }

    /// What counted as saved was not. Returns whether it is to be saved again.
    pub fn unsave(&mut self) -> bool {
        if self.is_opening() {
            return false;
        }
        let was_saved = self.received == self.saved;
        self.saved = 0;
        was_saved && self.received > 0
    }

    /// The sequence it waits for.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// All up to here was acknowledged.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The newest sequence that was heard of.
    pub fn known(&self) -> u64 {
        self.known
    }

    /// Pushed and not acknowledged.
    pub fn unacked(&self) -> u16 {
        if self.is_opening() { 0 } else { self.unacked }
    }
}
