//! What is over: too old, or more than its channel may keep.
//!
//! That is decided by arithmetic on what is stored, when a channel is used; so nothing is written for it message by message. What is
//! over leaves the disk when the database compacts its tables. Before that may happen, it is stored what it rests on, so that a
//! message that was gone once does not come back: for each channel a *floor*, for the whole log the age.
#![forbid(unsafe_code)]

use std::{
    collections::HashMap,
    ops::Bound,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use fjall::compaction::filter::{CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict};

use super::{
    base::{Base, Found, Trouble},
    dead::Over,
    engine::Engine,
    heads::Head,
    record::{Channel, Mark, Message, encode_number, mark_key, split_message_key},
};
use crate::{
    limits::{STORE_WALK_CHANNELS, STORE_WALK_MS_MIN, STORE_WALKS_PER_AGE},
    store::{Clock, Retention},
};

/// What compaction may remove: shared with the database's own thread.
#[derive(Debug)]
pub(super) struct Horizon {
    /// Older messages may go.
    expired: AtomicU64,
    /// By channel: messages up to here may go. Incomplete: what is missing stays on the disk for longer.
    floors: RwLock<HashMap<u32, u64>>,
    floors_max: usize,
}

impl Horizon {
    /// Lets nothing go but what is older than `expired`.
    pub(super) fn new(expired: u64, floors_max: u32) -> Horizon {
        Horizon { expired: AtomicU64::new(expired), floors: RwLock::default(), floors_max: floors_max as usize }
    }

    /// Lets go what is older.
    pub(super) fn raise(&self, expired: u64) {
        self.expired.fetch_max(expired, Ordering::Relaxed);
    }

    /// How old.
    pub(super) fn expired(&self) -> u64 {
        self.expired.load(Ordering::Relaxed)
    }

    /// Lets a channel's messages go, up to and with `floor`.
    pub(super) fn raise_floor(&self, channel: u32, floor: u64) {
        let mut floors = self.floors.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if floors.len() >= self.floors_max && !floors.contains_key(&channel) {
            // They come back when their channels are used.
            floors.clear();
        }
        let kept = floors.entry(channel).or_default();
        *kept = floor.max(*kept);
    }

    /// Up to where a channel's messages may go, as far as is known.
    pub(super) fn floor(&self, channel: u32) -> u64 {
        let floors = self.floors.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        floors.get(&channel).copied().unwrap_or(0)
    }
}

/// Gives compactions their filter.
pub(super) struct FilterFactory(pub Arc<Horizon>);

impl std::panic::RefUnwindSafe for FilterFactory {}

impl Factory for FilterFactory {
    fn name(&self) -> &str {
        "retention"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(Filter { horizon: Arc::clone(&self.0), expired: self.0.expired(), channel: None })
    }
}

struct Filter {
    horizon: Arc<Horizon>,
    expired: u64,
    /// The channel of the last item, and its floor: items come channel by channel.
    channel: Option<(u32, u64)>,
}

impl Filter {
    fn is_over(&mut self, key: &[u8], value: &[u8]) -> Option<bool> {
        let (number, seq) = split_message_key(key).ok()?;
        let floor = match self.channel {
            Some((channel, floor)) if channel == number => floor,
            Some(_) | None => self.horizon.floor(number),
        };
        self.channel = Some((number, floor));
        if seq <= floor {
            return Some(true);
        }
        if self.expired == 0 {
            return Some(false);
        }
        let push = Message::decode(key, value).ok()?.push().ok()?;
        Some(push.timestamp < self.expired)
    }
}

impl CompactionFilter for Filter {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        // What cannot be read stays, for whoever looks for the damage. Keys are never written twice.
        let over = self.is_over(item.key(), &item.value()?).unwrap_or(false);
        Ok(if over { Verdict::Destroy } else { Verdict::Keep })
    }
}

/// Moves the head's `first` to the first message that there is, and tells what it is.
pub(super) fn refresh(base: &Base, head: &mut Head) -> Result<(), Trouble> {
    let first = base.at_or_after(head.number, head.first)?;
    set_first(head, first);
    Ok(())
}

/// Moves the head's `first` past what is too old.
pub(super) fn settle_age(base: &Base, head: &mut Head, expired: u64) -> Result<(), Trouble> {
    if head.first <= head.last && head.first_timestamp < expired {
        // What is known of the first message may be old.
        refresh(base, head)?;
        if head.first_timestamp < expired {
            search(base, head, |found| found.timestamp >= expired)?;
        }
    }
    Ok(())
}

/// Moves the head's `first` past what is more than its channel may keep, which is never the newest. All its messages must be in the
/// database.
pub(super) fn cut_bytes(base: &Base, head: &mut Head, retention: &Retention) -> Result<(), Trouble> {
    if head.first < head.last && head.total - head.before_first > retention.bytes {
        refresh(base, head)?;
        let (total, bytes) = (head.total, retention.bytes);
        if total - head.before_first > bytes {
            search(base, head, |found| total - found.before <= bytes || found.total == total)?;
        }
    }
    Ok(())
}

fn set_first(head: &mut Head, first: Option<Found>) {
    *head = match first {
        Some(found) => Head { first: found.seq, before_first: found.before, first_timestamp: found.timestamp, ..*head },
        None => Head { first: head.last + 1, before_first: head.total, first_timestamp: u64::MAX, ..*head },
    };
}

/// Moves `first`, which may not stay, to the first message that may. Those that may are the later ones.
fn search(base: &Base, head: &mut Head, may_stay: impl Fn(&Found) -> bool) -> Result<(), Trouble> {
    // In steps that double, because mostly it is the next or the one after it; then by halves.
    let (mut low, mut high, mut step) = (head.first, head.last + 1, 1);
    let mut best = None;
    while high - low > 1 {
        let doubling = best.is_none() && step < high - low;
        let probe = if doubling { low + step } else { low + (high - low) / 2 };
        match base.at_or_after(head.number, probe)? {
            Some(found) if !may_stay(&found) => (low, step) = (found.seq, step.saturating_mul(2)),
            Some(found) => (best, high) = (Some(found), probe),
            None => high = probe,
        }
    }
    set_first(head, best);
    Ok(())
}

/// The walk over all channels that must come before the database may remove messages by their age: where all are over, the channel's
/// floor keeps its sequences from beginning anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// None is under way.
    Idle,
    /// For messages older than `cut`; channels up to `after` were looked at. One that cannot be read keeps all that is over on the
    /// disk: the database would remove it by age, and with it the channel's sequences.
    Under { cut: u64, after: Vec<u8>, is_damaged: bool, over: Over },
    /// It has come to its end: tables in which all is over are removed, one in each step. `any`: there was one.
    Removing { over: Over, any: bool },
    /// The last one met a channel that cannot be read: not again before this time.
    Resting { until_ms: u64 },
}

impl Walk {
    /// A message came into this channel.
    pub(super) fn meet(&mut self, channel: u32) {
        match self {
            Walk::Under { over, .. } | Walk::Removing { over, .. } => over.remove(channel),
            Walk::Idle | Walk::Resting { .. } => {}
        }
    }
}

impl Engine {
    /// See [`crate::store::Log::expire`]: a step is a number of channels.
    pub(super) fn expire(&mut self, wall_ms: u64) -> Result<bool, Trouble> {
        let cut = Clock::of_wall_ms(wall_ms.saturating_sub(self.retention.age_ms));
        if cut > self.expired {
            self.expired = cut;
            // A message that comes now is not over, wherever the host's clock goes.
            self.clock.observe(cut);
        }
        let every_ms = (self.retention.age_ms / STORE_WALKS_PER_AGE).max(STORE_WALK_MS_MIN);
        match std::mem::replace(&mut self.walk, Walk::Idle) {
            Walk::Resting { until_ms } if wall_ms < until_ms => {
                self.walk = Walk::Resting { until_ms };
                Ok(false)
            }
            Walk::Idle | Walk::Resting { .. } => {
                let due = Clock::wall_ms(self.expired) >= Clock::wall_ms(self.horizon.expired()) + every_ms;
                if due {
                    let over = Over::none(self.next_channel);
                    self.walk = Walk::Under { cut: self.expired, after: b"n".to_vec(), is_damaged: false, over };
                }
                Ok(due)
            }
            // Later: whoever waits for the disk goes before.
            under @ Walk::Under { .. } if self.base.is_behind()? => {
                self.walk = under;
                Ok(false)
            }
            Walk::Under { cut, after, is_damaged, over } => {
                self.walk = match self.step(cut, &after, is_damaged, over)? {
                    Walk::Resting { .. } => Walk::Resting { until_ms: wall_ms + every_ms },
                    walk @ (Walk::Idle | Walk::Under { .. } | Walk::Removing { .. }) => walk,
                };
                Ok(matches!(self.walk, Walk::Under { .. } | Walk::Removing { .. }))
            }
            Walk::Removing { over, any } => {
                // What a merge under way keeps from being removed is left to the next walk.
                let more = self.remove_dead_table(&over)?;
                if more {
                    self.walk = Walk::Removing { over, any: true };
                } else if any {
                    self.let_go()?;
                }
                Ok(more)
            }
        }
    }

    /// The newest message of a channel record, if it is above the floor.
    fn newest_of(&self, key: &[u8], value: &[u8]) -> Result<(Channel, Option<Found>), Trouble> {
        let channel = Channel::decode(key, value)?;
        let newest = self.base.newest(channel.number, channel.floor + 1)?;
        Ok((channel, newest))
    }

    fn step(&mut self, cut: u64, after: &[u8], mut is_damaged: bool, mut over: Over) -> Result<Walk, Trouble> {
        let mut draft = self.draft();
        let mut next = None;
        let range = (Bound::Excluded(after.to_vec()), Bound::Excluded(b"o".to_vec()));
        for guard in self.base.state.range(range).take(STORE_WALK_CHANNELS) {
            let (key, value) = guard.into_inner()?;
            match self.newest_of(&key, &value) {
                Ok((Channel { number, .. }, Some(newest))) if newest.timestamp < cut => {
                    draft.state.insert(key.to_vec(), Some(Channel { number, floor: newest.seq }.encode(&key)));
                    draft.floors.push((number, newest.seq));
                    over.insert(number);
                }
                Ok((Channel { number, .. }, None)) => over.insert(number),
                Ok((_, Some(_))) => {}
                // One channel that cannot be read is no reason to stop serving all others.
                Err(trouble) => {
                    log::error!("store: a channel cannot be read, try `weir log verify`: {trouble}");
                    is_damaged = true;
                }
            }
            next = Some(key.to_vec());
        }
        let Some(next) = next else {
            if is_damaged {
                return Ok(Walk::Resting { until_ms: 0 });
            }
            // All channels were looked at: from now on the database may remove what is older.
            let key = mark_key(Mark::Expired);
            draft.state.insert(key.to_vec(), Some(encode_number(key, cut)));
            self.finish(draft)?;
            self.horizon.raise(cut);
            return Ok(Walk::Removing { over, any: false });
        };
        if !draft.state.is_empty() {
            self.finish(draft)?;
        }
        Ok(Walk::Under { cut, after: next, is_damaged, over })
    }
}
