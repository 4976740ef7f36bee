//! Tables in which every message is over: they leave the disk at once, without being merged with others. That takes no room, so that a log
//! that has filled its disk gets it back by itself, however little is written.
#![forbid(unsafe_code)]

use super::{base::Trouble, engine::Engine, record::split_message_key};

/// Channels in which every message is over, by their number. One bit for each channel that there ever was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Over(Vec<u64>);

impl Over {
    /// Of none of the channels below `end`.
    pub(super) fn none(end: u32) -> Over {
        Over(vec![0; end as usize / 64 + 1])
    }

    /// Every message of this channel is over.
    pub(super) fn insert(&mut self, channel: u32) {
        if let Some(word) = self.0.get_mut(channel as usize / 64) {
            *word |= 1 << (channel % 64);
        }
    }

    /// Not any more.
    pub(super) fn remove(&mut self, channel: u32) {
        if let Some(word) = self.0.get_mut(channel as usize / 64) {
            *word &= !(1 << (channel % 64));
        }
    }

    fn contains(&self, channel: u32) -> bool {
        self.0.get(channel as usize / 64).is_some_and(|word| word >> (channel % 64) & 1 == 1)
    }
}

/// A table, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    pub table: u64,
    /// The keys of its first and its last message.
    pub first: Vec<u8>,
    pub last: Vec<u8>,
}

impl Reach {
    /// Whether all that may lie between its first and its last message is over. `floor`: up to where a channel is over, as far as known.
    fn is_over(&self, over: &Over, floor: impl Fn(u32) -> u64) -> bool {
        let (Ok((from, _)), Ok((to, last))) = (split_message_key(&self.first), split_message_key(&self.last)) else {
            return false;
        };
        (from..to).all(|channel| over.contains(channel)) && (over.contains(to) || last <= floor(to))
    }
}

impl Engine {
    /// Removes one table in which every message is over. Says whether there was one.
    pub(super) fn remove_dead_table(&mut self, over: &Over) -> Result<bool, Trouble> {
        // It would have to wait for it.
        if self.base.is_compacting() {
            return Ok(false);
        }
        let dead = |reach: &Reach| reach.is_over(over, |channel| self.horizon.floor(channel));
        let Some(reach) = self.base.tables().into_iter().find(dead) else { return Ok(false) };
        self.base.remove_between(&reach.first, &reach.last)?;
        Ok(self.base.tables().iter().all(|other| other.table != reach.table))
    }

    /// Tables were removed: lets go of their files, and of the journals that only small memtables need.
    pub(super) fn let_go(&mut self) -> Result<(), Trouble> {
        self.base.begin_flush()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::record::message_key, *};

    fn reach(first: (u32, u64), last: (u32, u64)) -> Reach {
        Reach { table: 1, first: message_key(first.0, first.1).to_vec(), last: message_key(last.0, last.1).to_vec() }
    }

    #[test]
    fn a_table_is_over_when_all_that_it_may_hold_is() {
        let mut over = Over::none(200);
        (3..=100).for_each(|channel| over.insert(channel));
        over.remove(70);
        let floor = |channel| if channel == 101 { 10 } else { 0 };
        let is_over = |first, last| reach(first, last).is_over(&over, floor);
        assert!(is_over((3, 1), (69, 99)) && is_over((71, 1), (100, 9)) && is_over((5, 5), (5, 5)));
        assert!(!is_over((2, 9), (69, 1)) && !is_over((69, 1), (70, 1)) && !is_over((69, 1), (71, 1)));
        assert!(is_over((71, 1), (101, 10)) && is_over((101, 1), (101, 10)), "up to the floor");
        assert!(!is_over((71, 1), (101, 11)) && !is_over((101, 1), (102, 1)));
        over.insert(10_000);
        assert!(!over.contains(10_000), "a channel that came later is not over");
    }
}
