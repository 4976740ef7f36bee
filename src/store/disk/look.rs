//! Looks into the log of a stopped gateway.
#![forbid(unsafe_code)]

use std::{path::Path, sync::Arc};

use super::{
    base::{Base, Found, Purpose, Sizes, Trouble},
    error::{OpenError, catching},
    open::Folder,
    record::{Channel, Commit, Mark, Message, channel_key, decode_number, mark_key, split_commit_key, split_message_key},
    witness::Testimony,
};
use crate::wire::PushRef;

/// Enough for one look.
const SIZES: Sizes = Sizes { cache_bytes: 16 * 1024 * 1024, memtable_bytes: 16 * 1024 * 1024 };

/// The log of a stopped gateway, open to be looked at. Nothing is written but what opening writes: a commit that a crash left
/// unfinished is cut off.
pub struct Look {
    pub(super) folder: Arc<Folder>,
    pub(super) base: Base,
    /// The highest sequence that a repair left out.
    pub(super) lost: u64,
    /// Messages with an older timestamp may be gone from the disk.
    pub(super) expired: u64,
    pub(super) newest: Testimony,
}

/// One channel, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelInfo {
    pub name: String,
    pub messages: u64,
    pub bytes: u64,
    pub first: u64,
    pub last: u64,
    /// Timestamps; 0 without messages.
    pub oldest: u64,
    pub newest: u64,
}

/// What there is in a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    pub channels: u64,
    pub messages: u64,
    pub bytes: u64,
    pub cursors: u64,
    /// The oldest commit that is stored, and the newest.
    pub commits: (u64, u64),
    /// The highest sequence that a repair left out; 0: there was none.
    pub lost: u64,
    pub disk_bytes: u64,
    /// Those with the most bytes.
    pub largest: Vec<ChannelInfo>,
}

impl Look {
    /// Opens the log in this directory.
    ///
    /// # Errors
    /// As for a gateway.
    pub fn open(dir: &Path) -> Result<Look, OpenError> {
        let folder = Arc::new(Folder::take(dir, false)?);
        if !folder.is_made()? {
            return Err(OpenError::Missing { dir: dir.to_path_buf() });
        }
        let witness = folder.read_witness()?;
        folder.prepare(&witness)?;
        Look::of(folder, witness.newest.unwrap_or_default().commit)
    }

    /// `commit`: which must be there.
    pub(super) fn of(folder: Arc<Folder>, commit: u64) -> Result<Look, OpenError> {
        let dir = folder.dir.clone();
        let look = catching(&dir, move || {
            let base = Base::open(&folder.database(), SIZES, Purpose::Look).map_err(|trouble| folder.explain(trouble))?;
            let marks = read_marks(&base).map_err(|trouble| folder.explain(trouble))?;
            Ok(Look { folder, base, lost: marks.0, expired: marks.1, newest: marks.2 })
        })?;
        if look.newest.commit < commit {
            return Err(OpenError::Lost { dir, from: look.newest.commit + 1, to: commit });
        }
        Ok(look)
    }

    pub(super) fn explain(&self, trouble: Trouble) -> OpenError {
        self.folder.explain(trouble)
    }

    /// What there is, with the `largest` channels one by one.
    ///
    /// # Errors
    /// The log is damaged.
    pub fn inspect(&self, largest: usize) -> Result<Inspection, OpenError> {
        catching(&self.folder.dir, || self.sum_up(largest).map_err(|trouble| self.explain(trouble)))
    }

    fn sum_up(&self, largest: usize) -> Result<Inspection, Trouble> {
        let oldest = self.base.commits.first_key_value().map(|guard| guard.key()).transpose()?;
        let mut sum = Inspection {
            commits: (oldest.map_or(Ok(0), |key| split_commit_key(&key))?, self.newest.commit),
            lost: self.lost,
            disk_bytes: self.base.disk_bytes()?,
            cursors: self.base.state.prefix(b"c").count() as u64,
            ..Inspection::default()
        };
        for guard in self.base.state.prefix(b"n") {
            let (key, value) = guard.into_inner()?;
            let info = self.channel(&name_of(&key), Channel::decode(&key, &value)?)?;
            sum.channels += 1;
            sum.messages += info.messages;
            sum.bytes += info.bytes;
            let at = sum.largest.partition_point(|other| other.bytes >= info.bytes);
            if at < largest {
                sum.largest.insert(at, info);
                sum.largest.truncate(largest);
            }
        }
        Ok(sum)
    }

    fn channel(&self, name: &str, channel: Channel) -> Result<ChannelInfo, Trouble> {
        let Channel { number, floor } = channel;
        let over = floor.max(self.lost);
        let empty =
            ChannelInfo { name: name.to_owned(), messages: 0, bytes: 0, first: over + 1, last: over, oldest: 0, newest: 0 };
        let (Some(first), Some(last)) = (self.base.at_or_after(number, floor + 1)?, self.base.newest(number, floor + 1)?) else {
            return Ok(empty);
        };
        let Found { seq: newest, .. } = last;
        // What a repair left out in between is no message.
        let hole = match self.base.range(number, first.seq, self.lost).next_back() {
            Some(before) if newest > self.lost => self.lost - split_message_key(&before.key()?)?.1,
            Some(_) | None => 0,
        };
        Ok(ChannelInfo {
            messages: newest - first.seq + 1 - hole,
            bytes: last.total - first.before,
            first: first.seq,
            last: newest.max(self.lost),
            oldest: first.timestamp,
            newest: last.timestamp,
            ..empty
        })
    }

    /// Hands out the messages of a channel from `from` on; stops when `take` says false. Says whether there is such a channel.
    ///
    /// # Errors
    /// The log is damaged.
    pub fn dump(&self, channel: &str, from: u64, mut take: impl FnMut(&PushRef<'_>) -> bool) -> Result<bool, OpenError> {
        let mut dump = || -> Result<bool, Trouble> {
            let key = channel_key(channel);
            let Some(value) = self.base.state.get(&key)? else { return Ok(false) };
            let Channel { number, floor } = Channel::decode(&key, &value)?;
            for guard in self.base.range(number, from.max(floor + 1), u64::MAX) {
                let (key, value) = guard.into_inner()?;
                if !take(&Message::decode(&key, &value)?.push()?) {
                    break;
                }
            }
            Ok(true)
        };
        catching(&self.folder.dir, || dump().map_err(|trouble| self.explain(trouble)))
    }
}

/// The channel that a key of the keyspace `state` is of.
pub(super) fn name_of(key: &[u8]) -> String {
    String::from_utf8_lossy(&key[1..]).into_owned()
}

/// What a repair left out, what is too old, and the newest commit.
fn read_marks(base: &Base) -> Result<(u64, u64, Testimony), Trouble> {
    let mark = |mark| {
        let key = mark_key(mark);
        let value = base.state.get(key).map_err(Trouble::Database)?;
        value.map_or(Ok(0), |value| decode_number(key, &value).map_err(Trouble::from))
    };
    let Some(newest) = base.commits.last_key_value() else { return Err(Trouble::Damaged("there are no commits".to_owned())) };
    let (key, value) = newest.into_inner()?;
    let mut entries = Vec::new();
    let Commit { timestamp, seq_max, .. } = Commit::decode(&key, &value, &mut entries)?;
    let testimony = Testimony { commit: split_commit_key(&key)?, seq_max, timestamp: timestamp + entries.len() as u64 };
    Ok((mark(Mark::Base)?, mark(Mark::Expired)?, testimony))
}
