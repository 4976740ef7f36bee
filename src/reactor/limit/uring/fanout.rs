//! Fan-out on io_uring: what comes is written once, to a log, and one send to each member and turn reads it from there.

use std::io;

use super::{
    super::log::Log,
    Bare,
    rig::{Op, Received, Rig},
};
use crate::limits::LIMIT_LOG_BYTES;

/// No place among the members.
const NOWHERE: u32 = u32::MAX;

/// A connection of the group, or one that is to be.
#[derive(Clone, Copy)]
struct Member {
    /// The buffer that its greeting is in, while that is sent back.
    greeting: Option<u16>,
    /// Its place in `members`.
    place: u32,
    /// How far in the log it is.
    position: u64,
}

const STRANGER: Member = Member { greeting: None, place: NOWHERE, position: 0 };

/// The group.
pub(super) struct Fanout {
    log: Log,
    /// No member is behind this; how far the last one really is, is only looked up when there is no room.
    oldest: u64,
    connections: Vec<Member>,
    /// The slots of the members.
    members: Vec<u32>,
    /// Members that something was sent to since the last turn.
    sent: Vec<u32>,
    /// The log has grown since the last turn.
    has_grown: bool,
}

impl Fanout {
    pub(super) fn new(connections: u32) -> Fanout {
        Fanout {
            log: Log::new(LIMIT_LOG_BYTES),
            oldest: 0,
            connections: vec![STRANGER; connections as usize],
            members: Vec::new(),
            sent: Vec::new(),
            has_grown: false,
        }
    }

    fn received(&mut self, rig: &mut Rig, slot: u32, id: u16) {
        let member = &mut self.connections[slot as usize];
        if member.place != NOWHERE {
            if self.append(rig.buffers.bytes(id)) {
                self.has_grown = true;
            } else {
                rig.counts.overrun += 1;
                self.leave(rig, slot);
            }
        } else if !rig.is_sending(slot) {
            member.greeting = Some(id);
            let greeting = std::ptr::from_ref(rig.buffers.bytes(id));
            // SAFETY: the buffer is given back when the send is completed, in `greeted`.
            unsafe { rig.send(slot, greeting) };
            return;
        } else {
            // It does not wait for its greeting.
            self.leave(rig, slot);
        }
        rig.buffers.give_back(id);
    }

    /// Appends to the log, if no member is so far behind that its bytes would be written over.
    fn append(&mut self, bytes: &[u8]) -> bool {
        if self.log.room(self.oldest) < bytes.len() {
            let positions = self.members.iter().map(|slot| self.connections[*slot as usize].position);
            self.oldest = positions.min().unwrap_or(self.log.end());
        }
        let has_room = self.log.room(self.oldest) >= bytes.len();
        if has_room {
            self.log.append(bytes);
        }
        has_room
    }

    /// A greeting is back where it came from.
    fn greeted(&mut self, rig: &mut Rig, slot: u32, id: u16, sent: Option<u32>) {
        let is_whole = sent.is_some_and(|sent| sent as usize == rig.buffers.bytes(id).len());
        rig.buffers.give_back(id);
        let member = &mut self.connections[slot as usize];
        member.greeting = None;
        if is_whole {
            member.place = self.members.len() as u32;
            member.position = self.log.end();
            self.members.push(slot);
        } else {
            rig.end(slot);
        }
    }

    /// Sends what a member has not got yet.
    fn send(&mut self, rig: &mut Rig, slot: u32) {
        let member = &self.connections[slot as usize];
        let bytes = std::ptr::from_ref(self.log.after(member.position));
        if !bytes.is_empty() && member.place != NOWHERE && !rig.is_sending(slot) && !rig.has_ended(slot) {
            // SAFETY: the log is dropped after the rig, and `append` writes over nothing behind the position of a member, which moves
            // on when the send is completed.
            unsafe { rig.send(slot, bytes) };
        }
    }

    /// Closes a connection. As long as a send reads from the log for it, it stays a member.
    fn leave(&mut self, rig: &mut Rig, slot: u32) {
        rig.end(slot);
        if !rig.is_sending(slot) {
            self.remove(slot);
        }
    }

    fn remove(&mut self, slot: u32) {
        let place = std::mem::replace(&mut self.connections[slot as usize].place, NOWHERE);
        if place == NOWHERE {
            return;
        }
        self.members.swap_remove(place as usize);
        if let Some(moved) = self.members.get(place as usize) {
            self.connections[*moved as usize].place = place;
        }
    }
}

impl Bare for Fanout {
    fn complete(&mut self, rig: &mut Rig, op: Op, slot: u32, (result, flags): (i32, u32)) -> io::Result<()> {
        match op {
            Op::Accept => {
                if let Some(slot) = rig.accepted(result, flags)? {
                    rig.receive(slot);
                }
            }
            Op::Receive => match rig.received(slot, result, flags) {
                Received::Bytes(id) => self.received(rig, slot, id),
                Received::End => self.leave(rig, slot),
                Received::Nothing if rig.has_ended(slot) => self.leave(rig, slot),
                Received::Nothing => {}
            },
            Op::Send => {
                let sent = rig.sent(slot, result);
                let member = &mut self.connections[slot as usize];
                member.position += u64::from(sent.unwrap_or(0));
                match (member.greeting, sent) {
                    (Some(id), _) => {
                        member.position = 0;
                        self.greeted(rig, slot, id, sent);
                    }
                    (None, Some(_)) => self.sent.push(slot),
                    (None, None) => self.remove(slot),
                }
            }
            Op::Close => rig.closed(slot),
            Op::Arrive | Op::Stop | Op::CancelReceive | Op::Depart => {}
        }
        Ok(())
    }

    /// One send to everybody who has something to get, and nothing in flight.
    fn end_turn(&mut self, rig: &mut Rig) {
        let mut sent = std::mem::take(&mut self.sent);
        if std::mem::take(&mut self.has_grown) {
            for place in 0..self.members.len() {
                self.send(rig, self.members[place]);
            }
        } else {
            sent.iter().for_each(|slot| self.send(rig, *slot));
        }
        sent.clear();
        self.sent = sent;
    }
}
