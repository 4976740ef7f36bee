//! Opens the log: the folder and who may use it, the checks before and after the database opens, and what the engine starts from.
//!
//! ```text
//! DIR/lock     held by the gateway that uses the folder
//! DIR/format   the version of all this; written last when the folder is made
//! DIR/witness  see `witness`
//! DIR/log/     the database
//! ```
#![forbid(unsafe_code)]

use std::{
    collections::HashSet,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use super::{
    Options,
    base::{Base, Purpose, Trouble},
    check,
    engine::Engine,
    error::{Commits, FORMAT, OpenError, failed, unused},
    heads::Heads,
    record::{Commit, Entry, Mark, commit_key, decode_fingerprint_key, encode_fingerprint_key, mark_key, split_commit_key},
    retention::{FilterFactory, Horizon, Walk},
    seen::Seen,
    witness::{Found, Testimony, Witness},
};
use crate::store::Clock;

/// How often, and after what time, a lock that somebody holds is tried again.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// A new log's journal holds its first commit and no more.
const UNFINISHED_BYTES_MAX: u64 = 1024;

/// What was found when the log was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The newest commit.
    pub commit: u64,
    /// Channels that there ever were.
    pub channels: u32,
    /// Messages by which retries are recognized.
    pub recognized: usize,
    /// Whether the folder was made just now.
    pub is_new: bool,
    /// Bytes of a commit that a crash left unfinished, and that nobody was told of.
    pub unfinished_bytes: u64,
}

/// A folder that nobody else uses.
#[derive(Debug)]
pub(super) struct Folder {
    pub dir: PathBuf,
    /// Held as long as it is open.
    _lock: File,
}

impl Folder {
    /// Takes the folder, making it if `make` says so and there is none.
    pub(super) fn take(dir: &Path, make: bool) -> Result<Folder, OpenError> {
        let missing = || OpenError::Missing { dir: dir.to_path_buf() };
        match fs::metadata(dir) {
            Ok(metadata) if !metadata.is_dir() => return Err(OpenError::NotADirectory { dir: dir.to_path_buf() }),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound && make => {
                fs::create_dir_all(dir).map_err(failed("make the directory", dir))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
            Err(error) => return Err(failed("look at", dir)(error)),
        }
        let lock_path = dir.join("lock");
        // A copy that left empty files out is ours all the same.
        if !lock_path.exists() && !dir.join("format").exists() {
            let mut entries = fs::read_dir(dir).map_err(failed("list", dir))?;
            if entries.next().is_some() {
                return Err(OpenError::Foreign { dir: dir.to_path_buf() });
            }
            if !make {
                return Err(missing());
            }
        }
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(&lock_path);
        let lock = lock.map_err(failed("open", &lock_path))?;
        let mut taken = lock.try_lock();
        // A process that the last holder started has a copy of its lock until it runs its own program.
        for _ in 0..LOCK_TRIES {
            if !matches!(taken, Err(fs::TryLockError::WouldBlock)) {
                break;
            }
            thread::sleep(LOCK_PAUSE);
            taken = lock.try_lock();
        }
        match taken {
            Ok(()) => Ok(Folder { dir: dir.to_path_buf(), _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(OpenError::Locked { dir: dir.to_path_buf() }),
            Err(fs::TryLockError::Error(error)) => Err(failed("lock", &lock_path)(error)),
        }
    }

    pub(super) fn database(&self) -> PathBuf {
        self.dir.join("log")
    }

    pub(super) fn witness(&self) -> PathBuf {
        self.dir.join("witness")
    }

    pub(super) fn damaged(&self, what: impl fmt::Display) -> OpenError {
        OpenError::Damaged { dir: self.dir.clone(), what: what.to_string() }
    }

    /// Whether the folder was made to its end; otherwise there is nothing in it that counts.
    pub(super) fn is_made(&self) -> Result<bool, OpenError> {
        let path = self.dir.join("format");
        match fs::read(&path) {
            Ok(bytes) if bytes == FORMAT.as_bytes() => Ok(true),
            Ok(bytes) => {
                let found = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
                Err(OpenError::Format { dir: self.dir.clone(), found })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let found = if self.witness().exists() { Some(self.read_witness()?) } else { None };
                match found.is_none_or(|found| found.newest.is_some_and(|newest| newest.commit <= 1)) {
                    true => Ok(false),
                    false => Err(self.damaged("the file `format` is missing")),
                }
            }
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// What the witness says.
    pub(super) fn read_witness(&self) -> Result<Found, OpenError> {
        let path = self.witness();
        match Witness::read(&path) {
            Ok(found) => Ok(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found { newest: None, damaged: true }),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Makes an empty log.
    fn make(&self, options: &Options) -> Result<(), OpenError> {
        let database = self.database();
        if database.exists() {
            self.check_unfinished(&database)?;
            let aside = unused(&self.dir, "unfinished");
            fs::rename(&database, &aside).map_err(failed("move aside", &database))?;
            log::warn!("store: {} was never finished; it is {} now", database.display(), aside.display());
        }
        self.start(options).map_err(|trouble| self.explain(trouble))?;
        let witness = self.witness();
        Witness::create(&witness, &Testimony { commit: 1, ..Testimony::default() }).map_err(failed("write", &witness))?;
        let format = self.dir.join("format");
        fs::write(&format, FORMAT).map_err(failed("write", &format))?;
        File::open(&format).and_then(|file| file.sync_all()).map_err(failed("sync", &format))?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", &self.dir))
    }

    /// What is left of a log that was never made to its end holds nothing; anything else is damaged.
    fn check_unfinished(&self, database: &Path) -> Result<(), OpenError> {
        let report = check::look(database).map_err(failed("look through", database))?;
        // The database's own keyspace has tables from the beginning.
        let tables = report.tables.iter().any(|table| !table.path.starts_with(database.join("keyspaces/0")));
        if tables || report.journals.iter().any(|journal| journal.end > UNFINISHED_BYTES_MAX) {
            return Err(self.damaged("the files `format` and `witness` are missing, and there are messages"));
        }
        Ok(())
    }

    /// Makes the database with its first commit.
    pub(super) fn start(&self, options: &Options) -> Result<Base, Trouble> {
        let mut secret = [0; 16];
        File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut secret)).map_err(fjall::Error::from)?;
        let filter = Arc::new(FilterFactory(Arc::new(Horizon::new(0, 0))));
        let base = Base::open(&self.database(), options.sizes(), Purpose::Serve(filter))?;
        let mut batch = base.batch();
        let key = commit_key(1);
        batch.insert(&base.commits, key, Commit { timestamp: 0, next_channel: 1, seq_max: 0 }.encode(&key, &[]));
        batch.insert(&base.state, mark_key(Mark::FingerprintKey), encode_fingerprint_key(secret));
        batch.commit()?;
        Ok(base)
    }

    /// Looks at the files. A commit that a crash left unfinished is cut off, unless the witness knows it as finished.
    pub(super) fn prepare(&self, witness: &Found) -> Result<u64, OpenError> {
        let report = check::look(&self.database()).map_err(failed("look through", &self.database()))?;
        let Some(testimony) = witness.newest else {
            return Err(self.damaged(format!(
                "{} is missing or cannot be read, so that nobody can tell whether messages were lost",
                self.witness().display()
            )));
        };
        if !report.findings().is_empty() {
            return Err(self.damaged(report));
        }
        let Some(journal) = report.unfinished() else { return Ok(0) };
        if let Some(last) = report.last_commit()
            && last < testimony.commit
        {
            return Err(OpenError::Lost { dir: self.dir.clone(), from: last + 1, to: testimony.commit });
        }
        // Without a whole commit in the journals, the tables will tell; so a copy is kept until then.
        if report.last_commit().is_none() {
            fs::copy(&journal.path, self.set_aside()).map_err(failed("copy", &journal.path))?;
        }
        let cut = OpenOptions::new().write(true).open(&journal.path).and_then(|file| {
            let bytes = file.metadata()?.len() - journal.end;
            file.set_len(journal.end)?;
            file.sync_all()?;
            Ok(bytes)
        });
        cut.map_err(failed("cut the unfinished end of", &journal.path))
    }

    fn set_aside(&self) -> PathBuf {
        self.dir.join("unfinished.jnl")
    }

    /// An error of the database that is already open.
    pub(super) fn explain(&self, trouble: Trouble) -> OpenError {
        match trouble {
            Trouble::Database(fjall::Error::Io(cause)) => {
                OpenError::Io { doing: "use the database in", path: self.database(), cause }
            }
            Trouble::Database(fjall::Error::Locked) => OpenError::Locked { dir: self.dir.clone() },
            Trouble::Damaged(_) | Trouble::Database(_) | Trouble::Behind => self.damaged(trouble),
        }
    }

    /// Opens the engine of a folder that is ours.
    pub(super) fn engine(&self, options: &Options) -> Result<(Engine, Opened), OpenError> {
        let is_new = !self.is_made()?;
        if is_new {
            self.make(options)?;
        }
        let witness = self.read_witness()?;
        let unfinished_bytes = self.prepare(&witness)?;
        let testimony = witness.newest.unwrap_or_default();
        if witness.damaged && !is_new && testimony.commit > 1 {
            log::warn!("store: one of the two slots of {} cannot be read; the other can", self.witness().display());
        }
        let engine = self.load(options, &testimony)?;
        let _ = fs::remove_file(self.set_aside());
        let opened = Opened {
            commit: engine.testimony.commit,
            channels: engine.next_channel - 1,
            recognized: engine.seen.len(),
            is_new,
            unfinished_bytes,
        };
        Ok((engine, opened))
    }

    /// What the engine starts from: the newest commits, and the marks. `testimony`: what must be there.
    pub(super) fn load(&self, options: &Options, testimony: &Testimony) -> Result<Engine, OpenError> {
        let horizon = Arc::new(Horizon::new(0, options.cached_channels));
        let filter = Arc::new(FilterFactory(Arc::clone(&horizon)));
        let base =
            Base::open(&self.database(), options.sizes(), Purpose::Serve(filter)).map_err(|trouble| self.explain(trouble))?;
        let (seen, newest, oldest_commit) =
            recall(&base, options.retention.dedup_messages).map_err(|trouble| self.explain(trouble))?;
        if newest.testimony.commit < testimony.commit {
            let from = newest.testimony.commit + 1;
            return Err(OpenError::Lost { dir: self.dir.clone(), from, to: testimony.commit });
        }
        let fingerprint_key = self.fingerprint_key(&base).map_err(|trouble| self.explain(trouble))?;
        let mut clock = Clock::default();
        clock.observe(newest.testimony.timestamp);
        clock.observe(testimony.timestamp);
        let mut engine = Engine {
            witness: Witness::open(&self.witness()).map_err(failed("open", &self.witness()))?,
            base,
            retention: options.retention,
            clock,
            heads: Heads::new(options.cached_channels, fingerprint_key),
            seen,
            horizon,
            fingerprint_key,
            testimony: newest.testimony,
            next_channel: newest.next_channel,
            oldest_commit,
            expired: 0,
            lost: 0,
            walk: Walk::Idle,
            damaged: HashSet::new(),
        };
        self.load_marks(&mut engine).map_err(|trouble| self.explain(trouble))?;
        Ok(engine)
    }

    fn fingerprint_key(&self, base: &Base) -> Result<[u8; 16], Trouble> {
        let secret = base.state.get(mark_key(Mark::FingerprintKey))?;
        let secret = secret.ok_or_else(|| Trouble::Damaged("the key of the fingerprints is missing".to_owned()))?;
        Ok(decode_fingerprint_key(&secret)?)
    }

    fn load_marks(&self, engine: &mut Engine) -> Result<(), Trouble> {
        engine.lost = engine.number(mark_key(Mark::Base))?.unwrap_or(0);
        engine.expired = engine.number(mark_key(Mark::Expired))?.unwrap_or(0);
        engine.clock.observe(engine.expired);
        engine.horizon.raise(engine.expired);
        Ok(())
    }
}

/// What the newest commit says.
struct Newest {
    testimony: Testimony,
    next_channel: u32,
}

/// The newest commits: by how many messages retries are recognized, what came last, and which commit is the oldest.
fn recall(base: &Base, dedup_messages: u32) -> Result<(Seen, Newest, u64), Trouble> {
    let none = || Trouble::Damaged("there are no commits".to_owned());
    let (oldest, _) = base.commits.first_key_value().ok_or_else(none)?.into_inner()?;
    // Backwards to the first commit that counts, then forwards, so that only one window is in memory.
    let mut messages = 0;
    let mut from = oldest.to_vec();
    for guard in base.commits.iter().rev() {
        let (key, value) = guard.into_inner()?;
        messages += Commit::count(&value);
        if messages >= dedup_messages as usize {
            from = key.to_vec();
            break;
        }
    }
    let mut seen = Seen::new(dedup_messages);
    let mut newest: Option<Newest> = None;
    let mut entries: Vec<Entry> = Vec::new();
    for guard in base.commits.range(from..) {
        let (key, value) = guard.into_inner()?;
        entries.clear();
        let commit = Commit::decode(&key, &value, &mut entries)?;
        let number = split_commit_key(&key)?;
        if let Some(before) = newest.as_ref().map(|newest| newest.testimony.commit)
            && number != before + 1
        {
            let missing = Commits { from: before + 1, to: number - 1, verb: ("is missing", "are missing") };
            return Err(Trouble::Damaged(missing.to_string()));
        }
        if !entries.is_empty() {
            seen.begin(number, commit.timestamp);
        }
        entries.iter().for_each(|entry| seen.push(*entry));
        let timestamp = commit.timestamp + (entries.len() as u64).saturating_sub(1);
        let testimony = Testimony { commit: number, seq_max: commit.seq_max, timestamp };
        newest = Some(Newest { testimony, next_channel: commit.next_channel });
    }
    Ok((seen, newest.ok_or_else(none)?, split_commit_key(&oldest)?))
}
