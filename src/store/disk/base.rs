//! The database: three keyspaces, how they are set up, and how they are written and searched.
#![forbid(unsafe_code)]

use std::{
    ops::Bound,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use fjall::{
    AbstractTree as _, CompressionType, Database, Guard, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode,
    compaction::{Leveled, filter::Factory},
    config::{BlockSizePolicy, CompressionPolicy, FilterPolicy},
};

use super::{
    dead::Reach,
    record::{Damaged, Message, message_key, split_message_key},
};
use crate::limits::{
    STORE_BLOCK_BYTES, STORE_CACHED_FILES, STORE_GATE_LOOK_MS, STORE_GATE_MS_MAX, STORE_JOURNALS_BYTES, STORE_LEVEL0_RUNS_MAX,
    STORE_LEVEL0_TABLES, STORE_SEALED_MEMTABLES_MAX,
};

/// What goes wrong with the database.
#[derive(Debug)]
pub(super) enum Trouble {
    /// What was read is not what was written.
    Damaged(String),
    /// It cannot be read or written.
    Database(fjall::Error),
    /// It cannot write as fast as it is written to.
    Behind,
}

impl Trouble {
    /// What is on the disk is not what was written: trying again is of no use.
    pub(super) fn is_damage(&self) -> bool {
        use fjall::{Error, LsmError};
        match self {
            Trouble::Damaged(_) => true,
            Trouble::Database(Error::Storage(error)) => matches!(
                error,
                LsmError::ChecksumMismatch { .. }
                    | LsmError::Decompress(_)
                    | LsmError::InvalidTag(_)
                    | LsmError::InvalidTrailer
                    | LsmError::InvalidHeader(_)
            ),
            Trouble::Database(_) | Trouble::Behind => false,
        }
    }
}

impl From<fjall::Error> for Trouble {
    fn from(error: fjall::Error) -> Trouble {
        Trouble::Database(error)
    }
}

impl From<Damaged> for Trouble {
    fn from(damaged: Damaged) -> Trouble {
        Trouble::Damaged(damaged.0)
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Damaged(what) => f.write_str(what),
            Trouble::Database(error) => write!(f, "{error:?}"),
            Trouble::Behind => write!(f, "the disk does not keep up: tables were not written within {STORE_GATE_MS_MAX} ms"),
        }
    }
}

/// A stored message, as far as retention needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub seq: u64,
    pub timestamp: u64,
    /// The bytes of the channel up to and with it.
    pub total: u64,
    /// Without it.
    pub before: u64,
}

/// How much memory the database may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub cache_bytes: u64,
    /// Of all memtables.
    pub memtable_bytes: u64,
}

/// What the database is opened for.
pub(super) enum Purpose {
    /// To be written: the filter removes what is over.
    Serve(Arc<dyn Factory>),
    /// To be looked at: nothing runs in the background.
    Look,
}

/// The open database.
pub(super) struct Base {
    db: Database,
    pub messages: Keyspace,
    pub commits: Keyspace,
    pub state: Keyspace,
    /// A memtable of messages that grew larger is written to a table.
    memtable_bytes: u64,
}

/// Names of the keyspaces. The database numbers them from 1, in the order in which they are made.
const KEYSPACES: [&str; 3] = ["messages", "commits", "state"];
/// The number of the second.
pub(super) const COMMITS_ID: u64 = 2;

impl Base {
    /// Opens the database in this folder, or makes it.
    pub(super) fn open(folder: &Path, sizes: Sizes, purpose: Purpose) -> Result<Base, Trouble> {
        let builder = Database::builder(folder)
            .journal_compression(CompressionType::None)
            .max_journaling_size(STORE_JOURNALS_BYTES)
            .max_cached_files(Some(STORE_CACHED_FILES))
            .cache_size(sizes.cache_bytes);
        let db = match purpose {
            // More than one would turn in circles while the other compacts.
            Purpose::Serve(factory) => {
                let assign = move |keyspace: &str| (keyspace == KEYSPACES[0]).then(|| Arc::clone(&factory));
                builder.worker_threads(1).with_compaction_filter_factories(Arc::new(assign)).open()?
            }
            Purpose::Look => builder.worker_threads_unchecked(0).open()?,
        };
        let plain = || {
            KeyspaceCreateOptions::default()
                // We say ourselves when; a limit given here would be kept for ever.
                .max_memtable_size(u64::MAX)
                .data_block_compression_policy(CompressionPolicy::disabled())
        };
        // Messages and commits are found by ranges, in which filters do not help.
        let unfiltered = || plain().filter_policy(FilterPolicy::disabled());
        // A page of messages is about a block. Tables are merged late: each merge reads and writes all that it meets.
        let merged_late = Leveled::default().with_l0_threshold(STORE_LEVEL0_TABLES);
        let of_messages = || {
            let blocks = BlockSizePolicy::all(STORE_BLOCK_BYTES);
            unfiltered().data_block_size_policy(blocks).compaction_strategy(Arc::new(merged_late))
        };
        let messages = db.keyspace(KEYSPACES[0], of_messages)?;
        let commits = db.keyspace(KEYSPACES[1], unfiltered)?;
        let state = db.keyspace(KEYSPACES[2], plain)?;
        if [messages.id(), commits.id(), state.id()] != [1, COMMITS_ID, 3] {
            return Err(Trouble::Damaged("the keyspaces are not those that were made".to_owned()));
        }
        Ok(Base { db, messages, commits, state, memtable_bytes: sizes.memtable_bytes / (STORE_SEALED_MEMTABLES_MAX as u64 + 1) })
    }

    /// An empty commit.
    pub(super) fn batch(&self) -> OwnedWriteBatch {
        self.db.batch().durability(Some(PersistMode::SyncData))
    }

    /// Waits until the database has room in memory for one more commit: for whoever has nothing else to do.
    pub(super) fn gate(&self) -> Result<(), Trouble> {
        let deadline = Instant::now() + Duration::from_millis(STORE_GATE_MS_MAX);
        while self.is_behind()? {
            if Instant::now() > deadline {
                return Err(Trouble::Behind);
            }
            std::thread::sleep(Duration::from_millis(STORE_GATE_LOOK_MS));
        }
        Ok(())
    }

    /// Whether the database has no room in memory for one more commit, until it has written tables.
    pub(super) fn is_behind(&self) -> Result<bool, Trouble> {
        // The database's own limits are higher, and who waits for them waits for ever if its thread has ended.
        let behind = |keyspace: &Keyspace| {
            keyspace.sealed_memtable_count() >= STORE_SEALED_MEMTABLES_MAX
                || keyspace.tree.l0_run_count() >= STORE_LEVEL0_RUNS_MAX
        };
        let is_behind = [&self.messages, &self.commits, &self.state].into_iter().any(behind);
        if is_behind {
            self.check()?;
        }
        Ok(is_behind)
    }

    /// Fails if the database is out of order: the thread that would write the tables has ended then, and nobody says so.
    fn check(&self) -> Result<(), Trouble> {
        Ok(self.db.persist(PersistMode::Buffer)?)
    }

    /// After a commit: lets full memtables be written to tables. All of them at once, so that the journals before can go.
    pub(super) fn rotate_if_full(&self) -> Result<(), Trouble> {
        let sizes = [&self.messages, &self.commits, &self.state].map(|keyspace| keyspace.tree.active_memtable().size());
        if sizes.iter().sum::<u64>() >= self.memtable_bytes { self.rotate() } else { Ok(()) }
    }

    fn rotate(&self) -> Result<(), Trouble> {
        // The largest last: its journal goes when it is done.
        for keyspace in [&self.commits, &self.state, &self.messages] {
            keyspace.rotate_memtable()?;
        }
        Ok(())
    }

    /// Begins to write all that is in memory to tables.
    pub(super) fn begin_flush(&self) -> Result<(), Trouble> {
        self.rotate()
    }

    /// Whether all that was in memory when [`Base::begin_flush`] was called is in tables.
    pub(super) fn is_flushed(&self) -> Result<bool, Trouble> {
        self.check()?;
        Ok([&self.messages, &self.commits, &self.state].into_iter().all(|keyspace| keyspace.sealed_memtable_count() == 0))
    }

    /// Writes all that is in memory to tables, and waits for it.
    pub(super) fn flush(&self) -> Result<(), Trouble> {
        self.begin_flush()?;
        let deadline = Instant::now() + Duration::from_millis(STORE_GATE_MS_MAX);
        while !self.is_flushed()? {
            if Instant::now() > deadline {
                return Err(Trouble::Behind);
            }
            std::thread::sleep(Duration::from_millis(STORE_GATE_LOOK_MS));
        }
        Ok(())
    }

    /// Whether tables are being merged.
    pub(super) fn is_compacting(&self) -> bool {
        self.db.active_compactions() > 0
    }

    /// The tables of messages.
    pub(super) fn tables(&self) -> Vec<Reach> {
        let version = self.messages.tree.current_version();
        let reaches = version.iter_tables().map(|table| {
            let range = &table.metadata.key_range;
            Reach { table: table.id(), first: range.min().to_vec(), last: range.max().to_vec() }
        });
        reaches.collect()
    }

    /// Removes the tables of messages that lie between these keys, with all that is in them.
    pub(super) fn remove_between(&self, first: &[u8], last: &[u8]) -> Result<(), Trouble> {
        Ok(self.messages.tree.drop_range(first..=last).map_err(fjall::Error::from)?)
    }

    /// What it takes up on the disk.
    pub(super) fn disk_bytes(&self) -> Result<u64, Trouble> {
        Ok(self.db.disk_space()?)
    }

    /// The messages of a channel with these sequences.
    pub(super) fn range(&self, channel: u32, from: u64, to: u64) -> impl DoubleEndedIterator<Item = Guard> + use<> {
        let bounds = (Bound::Included(message_key(channel, from)), Bound::Included(message_key(channel, to)));
        self.messages.range(bounds)
    }

    /// The first message of a channel from `from` on.
    pub(super) fn at_or_after(&self, channel: u32, from: u64) -> Result<Option<Found>, Trouble> {
        self.range(channel, from, u64::MAX).next().map(found).transpose()
    }

    /// The newest message of a channel, if it is not before `from`.
    pub(super) fn newest(&self, channel: u32, from: u64) -> Result<Option<Found>, Trouble> {
        self.range(channel, from, u64::MAX).next_back().map(found).transpose()
    }
}

fn found(guard: Guard) -> Result<Found, Trouble> {
    let (key, value) = guard.into_inner()?;
    let (_, seq) = split_message_key(&key)?;
    let record = Message::decode(&key, &value)?;
    let push = record.push()?;
    let bytes = crate::store::message_bytes(&push);
    let before = record.total.checked_sub(bytes).ok_or_else(|| Damaged(format!("message {seq} counts more bytes than all")))?;
    Ok(Found { seq, timestamp: push.timestamp, total: record.total, before })
}
