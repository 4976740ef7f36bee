//! From a message to the members of its group on this shard.
//!
//! Messages of one group that come one after the other are put together, and then given to each member at once: what a delivery costs is
//! finding the member's queue in memory more than copying the message, and so it is found once for all of them. Whatever else may show on a
//! connection, or change who is a member, has them delivered first, so that nobody can tell.
#![forbid(unsafe_code)]

use super::{
    Shard,
    connections::NONE,
    message::Tally,
    outbound::{Framed, Pressure},
    reader::Reader,
};
use crate::{
    ids::ConnId,
    limits::{CHUNK_BYTES_MAX, SHARE_BYTES_MIN},
};

/// Messages of one group that its members here do not have yet. Empty most of the time.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    group: u32,
    /// The sender that does not get its own.
    except: Option<ConnId>,
    frames: Vec<u8>,
    /// Where each frame ends.
    ends: Vec<usize>,
}

impl Shard {
    /// Queues a PUSH on all members on this shard. `is_counted`: somebody wants to know what it came to.
    pub(super) fn fan_out(&mut self, group: &str, frame: &mut Framed<'_>, except: Option<ConnId>, is_counted: bool) -> Tally {
        // Without a standing subscription this was sent under an earlier one, and nobody here has had JOIN_OK since.
        let subscribed = self.local_groups.find(group).filter(|index| self.local_groups.is_subscribed(*index));
        let Some(index) = subscribed else { return Tally::default() };
        if is_counted || frame.pressure() != Pressure::DropNewest || frame.len() >= SHARE_BYTES_MIN {
            self.deliver_gathered();
            return self.deliver_to_members(index, except, |shard, slot| if shard.push(slot, frame) { (1, 0) } else { (0, 1) });
        }
        let gathered = &self.gathered;
        let is_full = gathered.frames.len() + frame.len() > CHUNK_BYTES_MAX;
        if is_full || (gathered.group, gathered.except) != (index, except) {
            self.deliver_gathered();
        }
        let gathered = &mut self.gathered;
        (gathered.group, gathered.except) = (index, except);
        gathered.frames.extend_from_slice(frame.bytes());
        gathered.ends.push(gathered.frames.len());
        Tally::default()
    }

    /// Gives the members what was put together for them.
    #[inline]
    pub(super) fn deliver_gathered(&mut self) {
        if !self.gathered.ends.is_empty() {
            self.deliver_run();
        }
    }

    fn deliver_run(&mut self) {
        let mut gathered = std::mem::take(&mut self.gathered);
        let mut run = Framed::run(&gathered.frames, gathered.ends.len() as u32);
        self.deliver_to_members(gathered.group, gathered.except, |shard, slot| {
            if !shard.push_run(slot, &mut run) {
                // Some of them may fit.
                let mut from = 0;
                for &end in &gathered.ends {
                    shard.push(slot, &mut Framed::new(&gathered.frames[from..end]));
                    from = end;
                }
            }
            (0, 0)
        });
        gathered.frames.clear();
        gathered.ends.clear();
        self.gathered = gathered;
    }

    /// Calls `push` with the slot of each member of the group, and adds up what it says of reached and dropped.
    fn deliver_to_members(
        &mut self,
        group: u32,
        except: Option<ConnId>,
        mut push: impl FnMut(&mut Shard, u32) -> (u32, u32),
    ) -> Tally {
        let mut tally = Tally::default();
        let readers = self.local_groups.take_readers(group);
        let members = self.local_groups.take_members(group);
        let except = except.filter(|conn| self.connections.get(*conn).is_some()).map_or(NONE, |conn| conn.slot);
        for (position, &slot) in members.iter().enumerate() {
            if slot == except || readers.get(position).is_some_and(Reader::is_joining) {
                continue;
            }
            let (reached, dropped) = push(self, slot);
            tally.reached += reached;
            tally.dropped += dropped;
        }
        self.local_groups.return_members(group, members);
        self.local_groups.return_readers(group, readers);
        tally
    }
}
