//! Cursors that LEAVE gave up: the store is asked until it has forgotten them. Whoever joins again meanwhile waits for that: it would be
//! told of the old cursor, and lose the new one.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};

use super::{Shard, devices::Place};
use crate::{
    ids::ConnId,
    io::Tick,
    limits::{CURSORS_PER_TURN, FORGETS_MAX, STORE_RETRY_MS},
    store::{Failure, Request},
};

/// Group, client and device.
type Cursor = (Box<str>, Box<str>, Box<str>);

/// What the store has not forgotten yet. A process that ends forgets it: then these cursors stay.
#[derive(Debug, Default)]
pub struct Forgets {
    /// With the connection that has joined again.
    pending: BTreeMap<Cursor, Option<ConnId>>,
    /// To be asked for again then, because the store could not.
    again: VecDeque<(Tick, Cursor)>,
}

/// What there is to do for a cursor that is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    Ask,
    /// The store is being asked.
    Known,
    /// Too many wait: this one stays.
    Full,
}

impl Forgets {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// When the store is to be asked again.
    pub fn next(&self) -> Option<Tick> {
        self.again.front().map(|(at, _)| *at)
    }

    fn begin(&mut self, cursor: &Cursor, most: usize) -> Begun {
        if let Some(joined) = self.pending.get_mut(cursor) {
            *joined = None;
            return Begun::Known;
        }
        if self.pending.len() >= most {
            return Begun::Full;
        }
        self.pending.insert(cursor.clone(), None);
        Begun::Ask
    }
}

impl Shard {
    /// The device has left a group for good.
    pub(super) fn forget_cursor(&mut self, conn: ConnId, group: &str) {
        let names = &self.connections.at(conn.slot).names;
        let cursor = (group.into(), names.client().into(), names.device().into());
        match self.catch_up.forgets.begin(&cursor, FORGETS_MAX) {
            Begun::Ask => self.ask_to_forget(&cursor),
            Begun::Known => {}
            Begun::Full => self.stats.cursors_left.add(1),
        }
    }

    fn ask_to_forget(&mut self, (group, client, device): &Cursor) {
        self.storage.write(|batch| Request::Forget {
            channel: batch.put(format!("group/{group}").as_bytes()),
            client: batch.put(client.as_bytes()),
            device: batch.put(device.as_bytes()),
        });
    }

    /// Whether where this device stands can only be asked for once the store has forgotten where it stood: it is asked for then.
    pub(super) fn waits_for_forget(&mut self, conn: ConnId, place: Place) -> bool {
        let Place::Group(group) = place else { return false };
        if self.catch_up.forgets.pending.is_empty() {
            return false;
        }
        let names = &self.connections.at(conn.slot).names;
        let cursor = (self.local_groups.name(group).into(), names.client().into(), names.device().into());
        let Some(joined) = self.catch_up.forgets.pending.get_mut(&cursor) else { return false };
        *joined = Some(conn);
        true
    }

    /// The store has forgotten a cursor, or could not.
    pub(super) fn cursor_forgotten(&mut self, channel: &str, client: &str, device: &str, failure: Option<&Failure>) {
        let group = channel.strip_prefix("group/").expect("only groups are left");
        let cursor: Cursor = (group.into(), client.into(), device.into());
        let Some(joined) = self.catch_up.forgets.pending.get(&cursor).copied() else {
            unreachable!("the store answers once for each cursor that it was asked to forget")
        };
        let joined = joined.and_then(|conn| Some((conn, self.place_of(conn, channel)?)));
        if let Some(failure) = failure {
            log::debug!("shard {}: a cursor was not forgotten: {failure:?}", self.settings.id);
            let at = self.now.plus_ms(STORE_RETRY_MS);
            self.catch_up.forgets.again.push_back((at, cursor));
            // That it is a member it is told all the same, as when the store cannot say where it stands.
            if let Some((conn, place)) = joined {
                self.with_reader(conn, place, |shard, reader| shard.answer_joins(reader, conn, place));
            }
            return;
        }
        self.catch_up.forgets.pending.remove(&cursor);
        if let Some((conn, place)) = joined
            && self.reader(conn, place).is_some_and(|reader| reader.is_opening())
        {
            self.open(conn, place);
        }
    }

    /// Asks again for what is due.
    pub(super) fn forget_again(&mut self) {
        for _ in 0..CURSORS_PER_TURN {
            let is_due = self.catch_up.forgets.next().is_some_and(|at| at <= self.now);
            if !is_due || !self.storage.has_room() {
                return;
            }
            let Some((_, cursor)) = self.catch_up.forgets.again.pop_front() else { return };
            self.ask_to_forget(&cursor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn their_number_is_bounded() {
        let cursor = |device: &str| -> Cursor { ("team".into(), "alice".into(), device.into()) };
        let mut forgets = Forgets::default();
        assert_eq!(forgets.begin(&cursor("phone"), 2), Begun::Ask);
        assert_eq!(forgets.begin(&cursor("laptop"), 2), Begun::Ask);
        assert_eq!(forgets.begin(&cursor("watch"), 2), Begun::Full);
        assert_eq!(forgets.begin(&cursor("phone"), 2), Begun::Known);
        assert_eq!(forgets.len(), 2);
    }
}
