//! The log on disk: an embedded database (fjall), and around it what a log must promise beyond what the database does.
//!
//! - Each message is one record, its key the channel's number and its sequence; each commit one more, with what is needed to recognize
//!   retries (`record`). So a commit is one write and one sync, and what a restart needs is in the newest commits.
//! - Damage is detected before the database may cover it up (`check`, `journal`), and so is a loss of what was committed (`witness`).
//! - Memory is bounded: heads of channels (`heads`), the window of de-duplication (`seen`), and the database's own by configuration.
//! - After a failure the database is opened again, once a second at most, and service goes on.
#![forbid(unsafe_code)]

mod base;
mod check;
mod copy;
mod dead;
mod engine;
mod error;
mod heads;
mod journal;
mod look;
mod open;
mod record;
mod repair;
mod retention;
mod seen;
mod tables;
mod verify;
mod witness;

pub use error::OpenError;
pub use look::{ChannelInfo, Inspection, Look};
pub use open::Opened;
pub use repair::{Repaired, repair};
pub use verify::{Verified, verify};

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use base::{COMMITS_ID, Sizes, Trouble};
use engine::Engine;
use error::catching;
use nix::sys::statvfs::statvfs;
use open::Folder;

use super::{Bounds, CursorKey, Failure, Log, Outcome, PageLimit, Retention, Write};
use crate::{
    limits::{STORE_FREE_BYTES_MIN, STORE_REOPEN_MS, STORE_SETTLE_MS_MAX},
    wire::body::Durability,
};

/// Says how much is free on the disk of a directory.
pub type FreeBytes = Box<dyn Fn(&Path) -> io::Result<u64> + Send>;

/// What a log on disk is made from.
pub struct Options {
    pub retention: Retention,
    /// For blocks of tables that were read.
    pub cache_bytes: u64,
    /// For what is not in tables yet.
    pub memtable_bytes: u64,
    /// Channels whose place is kept in memory.
    pub cached_channels: u32,
    /// Nothing is stored when less than this is free on the disk.
    pub reserve_bytes: u64,
    /// [`free_bytes`], but for tests.
    pub free_bytes: FreeBytes,
}

impl Options {
    fn sizes(&self) -> Sizes {
        Sizes { cache_bytes: self.cache_bytes, memtable_bytes: self.memtable_bytes }
    }
}

/// How much is free, for users that are not root.
///
/// # Errors
/// The file system does not say.
pub fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = statvfs(dir).map_err(io::Error::from)?;
    Ok(stat.blocks_available() * stat.fragment_size())
}

/// The log on disk.
pub struct Disk {
    options: Options,
    folder: Folder,
    state: State,
    /// The last commit found less than the reserve free.
    is_full: bool,
}

enum State {
    Open(Box<Engine>),
    /// Out of order; it is tried again later.
    Broken {
        failure: Failure,
        retry_at: Instant,
    },
    /// Opened again. What the journals gave back may be in the page cache only, if it was a sync that failed: until it is written anew,
    /// nobody may see it.
    Settling {
        engine: Box<Engine>,
        failure: Failure,
        give_up_at: Instant,
    },
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("dir", &self.folder.dir).finish_non_exhaustive()
    }
}

impl Disk {
    /// Opens the log in a directory, or makes it.
    ///
    /// # Errors
    /// Says what is wrong and what to do.
    pub fn open(dir: &Path, options: Options) -> Result<(Disk, Opened), OpenError> {
        let folder = Folder::take(dir, true)?;
        let (engine, opened) = catching(dir, || folder.engine(&options))?;
        Ok((Disk { options, folder, state: State::Open(Box::new(engine)), is_full: false }, opened))
    }

    /// Where it is.
    pub fn dir(&self) -> PathBuf {
        self.folder.dir.clone()
    }

    /// What it takes up on the disk.
    ///
    /// # Errors
    /// It is out of order.
    pub fn disk_bytes(&mut self) -> Result<u64, Failure> {
        self.with_engine(|engine| engine.base.disk_bytes())
    }

    /// Does something that changes nothing.
    fn with_engine<T>(&mut self, act: impl FnOnce(&mut Engine) -> Result<T, Trouble>) -> Result<T, Failure> {
        let engine = self.engine()?;
        act(engine).map_err(|trouble| {
            log::error!("store: {trouble}");
            Failure::Unavailable(trouble.to_string())
        })
    }

    /// Does something after whose failure nobody knows what was done.
    fn change<T>(&mut self, act: impl FnOnce(&mut Engine) -> Result<T, Trouble>) -> Result<T, Failure> {
        match act(self.engine()?) {
            Ok(done) => Ok(done),
            // It did nothing.
            Err(Trouble::Behind) => Err(Failure::Behind),
            Err(trouble @ (Trouble::Damaged(_) | Trouble::Database(_))) => Err(self.break_off(&trouble)),
        }
    }

    fn break_off(&mut self, trouble: &Trouble) -> Failure {
        let failure = if self.is_full(trouble) { Failure::Full } else { Failure::Unavailable(trouble.to_string()) };
        log::error!(
            "store: out of order, to be tried again every {STORE_REOPEN_MS} ms. If that goes on, stop the gateway and type `weir log verify \
             --data {}`: {trouble}",
            self.folder.dir.display()
        );
        self.set_broken(failure.clone());
        failure
    }

    fn set_broken(&mut self, failure: Failure) {
        self.state = State::Broken { failure, retry_at: Instant::now() + Duration::from_millis(STORE_REOPEN_MS) };
    }

    fn is_full(&self, trouble: &Trouble) -> bool {
        let cause = match trouble {
            Trouble::Database(fjall::Error::Io(cause) | fjall::Error::Storage(fjall::LsmError::Io(cause))) => Some(cause.kind()),
            Trouble::Database(_) | Trouble::Damaged(_) | Trouble::Behind => None,
        };
        // The database's own thread may have found the disk full, which it tells nobody.
        let needed = self.options.reserve_bytes.max(STORE_FREE_BYTES_MIN);
        matches!(cause, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
            || self.free().is_ok_and(|free| free < needed)
    }

    fn free(&self) -> Result<u64, Failure> {
        (self.options.free_bytes)(&self.folder.dir).map_err(|error| Failure::Unavailable(error.to_string()))
    }

    fn has_room(&self) -> Result<bool, Failure> {
        Ok(self.free()? >= self.options.reserve_bytes)
    }

    /// The engine, opened again if it is time.
    fn engine(&mut self) -> Result<&mut Engine, Failure> {
        if let State::Broken { failure, retry_at } = &self.state {
            let failure = failure.clone();
            if Instant::now() < *retry_at {
                return Err(failure);
            }
            self.reopen(failure)?;
        }
        if matches!(self.state, State::Settling { .. }) {
            self.settle()?;
        }
        match &mut self.state {
            State::Open(engine) => Ok(engine),
            State::Broken { failure, .. } | State::Settling { failure, .. } => Err(failure.clone()),
        }
    }

    fn reopen(&mut self, failure: Failure) -> Result<(), Failure> {
        // Also with less room than the reserve: expiry needs it open, and is what makes room.
        let opened = catching(&self.folder.dir, || self.folder.engine(&self.options)).map_err(|error| error.to_string());
        let opened = opened.and_then(|(engine, _)| {
            engine.base.begin_flush().map_err(|trouble| trouble.to_string())?;
            Ok(Box::new(engine))
        });
        match opened {
            Ok(engine) => {
                let give_up_at = Instant::now() + Duration::from_millis(STORE_SETTLE_MS_MAX);
                self.state = State::Settling { engine, failure, give_up_at };
                Ok(())
            }
            Err(why) => Err(self.still_broken(failure, &why)),
        }
    }

    /// Looks whether all is written anew.
    fn settle(&mut self) -> Result<(), Failure> {
        let unknown = Failure::Unavailable("the log is being opened".to_owned());
        match std::mem::replace(&mut self.state, State::Broken { failure: unknown, retry_at: Instant::now() }) {
            State::Settling { engine, failure, give_up_at } => match engine.base.is_flushed() {
                Ok(true) => {
                    log::info!("store: in order again");
                    self.state = State::Open(engine);
                    Ok(())
                }
                Ok(false) if Instant::now() < give_up_at => {
                    self.state = State::Settling { engine, failure: failure.clone(), give_up_at };
                    Err(failure)
                }
                Ok(false) => Err(self.still_broken(failure, &Trouble::Behind.to_string())),
                Err(trouble) => Err(self.still_broken(failure, &trouble.to_string())),
            },
            state @ (State::Open(_) | State::Broken { .. }) => {
                self.state = state;
                Ok(())
            }
        }
    }

    fn still_broken(&mut self, failure: Failure, why: &str) -> Failure {
        log::error!("store: still out of order: {why}");
        self.set_broken(failure.clone());
        failure
    }
}

impl Log for Disk {
    fn commit(&mut self, wall_ms: u64, writes: &[Write<'_>], outcomes: &mut Vec<Outcome>) -> Result<(), Failure> {
        let is_full = !self.has_room()?;
        if std::mem::replace(&mut self.is_full, is_full) != is_full {
            let (dir, reserve) = (self.folder.dir.display(), self.options.reserve_bytes);
            match is_full {
                true => log::warn!(
                    "store: less than {reserve} bytes are free in {dir}: durable messages are refused with STORE_FULL until there is \
                     room; make some, or lower store.reserve_bytes"
                ),
                false => log::info!("store: there is room in {dir} again"),
            }
        }
        if is_full {
            return Err(Failure::Full);
        }
        self.change(|engine| engine.commit(wall_ms, writes, outcomes))
    }

    fn is_ready(&mut self) -> bool {
        match self.engine().map(|engine| engine.base.is_behind()) {
            // What is refused for want of room need not wait for that.
            Ok(Ok(is_behind)) => !is_behind || !self.has_room().unwrap_or(true),
            Ok(Err(trouble)) => {
                self.break_off(&trouble);
                true
            }
            // A commit says why.
            Err(_) => true,
        }
    }

    fn read(&mut self, channel: &str, from: u64, limit: PageLimit, page: &mut Vec<u8>) -> Result<Bounds, Failure> {
        let start = page.len();
        let read = self.with_engine(|engine| engine.read(channel, from, limit, page));
        if read.is_err() {
            page.truncate(start);
        }
        read
    }

    fn bounds(&mut self, channel: &str) -> Result<Bounds, Failure> {
        self.with_engine(|engine| engine.bounds(channel))
    }

    fn cursor(&mut self, key: CursorKey<'_>) -> Result<Option<u64>, Failure> {
        self.with_engine(|engine| engine.cursor(&key))
    }

    fn expire(&mut self, wall_ms: u64) -> Result<bool, Failure> {
        // It may use the reserve: it is what makes room.
        self.change(|engine| engine.expire(wall_ms))
    }

    fn durability(&self) -> Durability {
        Durability::Fsync
    }
}
