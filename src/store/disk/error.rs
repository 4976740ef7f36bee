//! Why the log cannot be opened, and what to do.
#![forbid(unsafe_code)]

use std::{
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

/// What the file `format` says.
pub(super) const FORMAT: &str = "weir log 1\n";

/// Why the log cannot be opened, and what to do.
#[derive(Debug)]
pub enum OpenError {
    /// Something that is not a directory is in its place.
    NotADirectory { dir: PathBuf },
    /// A file operation failed.
    Io { doing: &'static str, path: PathBuf, cause: io::Error },
    /// Another process uses it.
    Locked { dir: PathBuf },
    /// The directory holds something else.
    Foreign { dir: PathBuf },
    /// There is nothing yet.
    Missing { dir: PathBuf },
    /// Written by another version.
    Format { dir: PathBuf, found: String },
    /// Files are not what was written.
    Damaged { dir: PathBuf, what: String },
    /// Commits that were finished are gone.
    Lost { dir: PathBuf, from: u64, to: u64 },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::NotADirectory { dir } => {
                write!(f, "{} is not a directory: name one for the messages with --data DIR", dir.display())
            }
            OpenError::Io { doing, path, cause } => {
                write!(f, "cannot {doing} {}: {cause}", path.display())?;
                match cause.kind() {
                    io::ErrorKind::PermissionDenied => {
                        write!(
                            f,
                            ". Let the user who runs weir own it (chown -R USER DIR), or name another directory with --data DIR"
                        )
                    }
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                        write!(f, ". Make room on that disk, or name a directory on another one with --data DIR")
                    }
                    io::ErrorKind::ReadOnlyFilesystem => write!(f, ". Name a directory that can be written with --data DIR"),
                    // Of all kinds of errors there are, these are the ones that a person causes.
                    _ => Ok(()),
                }
            }
            OpenError::Locked { dir } => write!(
                f,
                "{} is in use by another weir process. A second gateway on this machine needs a directory of its own: --data DIR. \
                 To see who uses this one: fuser -v {}",
                dir.display(),
                dir.join("lock").display()
            ),
            OpenError::Foreign { dir } => write!(
                f,
                "{} is not empty, and what is in it is not Weir's: name an empty or a new directory with --data DIR",
                dir.display()
            ),
            OpenError::Missing { dir } => {
                write!(f, "there is no log in {}: name the gateway's directory with --data DIR", dir.display())
            }
            OpenError::Format { dir, found } => write!(
                f,
                "{} says {found:?}, and this version of Weir reads {FORMAT:?}: start the version that wrote it, or name another \
                 directory with --data DIR",
                dir.join("format").display()
            ),
            OpenError::Damaged { dir, what } => {
                write!(f, "the log in {} is damaged: {what}. {}", dir.display(), advice(dir))
            }
            OpenError::Lost { dir, from, to } => write!(
                f,
                "the log in {} has lost messages that it had accepted: {}. {}",
                dir.display(),
                Commits { from: *from, to: *to, verb: ("is gone", "are gone") },
                advice(dir)
            ),
        }
    }
}

/// A row of commits, and what happened to them.
pub(super) struct Commits {
    pub from: u64,
    pub to: u64,
    /// For one, and for more.
    pub verb: (&'static str, &'static str),
}

impl fmt::Display for Commits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Commits { from, to, verb } = self;
        if from == to { write!(f, "commit {from} {}", verb.0) } else { write!(f, "commits {from} to {to} {}", verb.1) }
    }
}

fn advice(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "Nothing was changed. Best restore a backup, or take a copy of the directory first. To see what is wrong: weir log verify --data \
         {dir}. To go on without what is gone, which clients are told: weir log repair --data {dir}"
    )
}

impl std::error::Error for OpenError {}

/// Turns a failed file operation into an error that says which.
pub(super) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError + use<> {
    let path = path.to_path_buf();
    move |cause| OpenError::Io { doing, path, cause }
}

/// A name in the folder that nothing has yet.
pub(super) fn unused(dir: &Path, prefix: &str) -> PathBuf {
    let name = |number: u32| dir.join(format!("{prefix}-{number}"));
    (1..u32::MAX).map(name).find(|path| !path.exists()).unwrap_or_else(|| name(0))
}

/// Does something with files that may be damaged in a way that makes the database panic. That becomes an error, or, where a panic ends
/// the process, its last words.
pub(super) fn catching<T>(dir: &Path, act: impl FnOnce() -> Result<T, OpenError>) -> Result<T, OpenError> {
    let damaged = |what: String| OpenError::Damaged { dir: dir.to_path_buf(), what };
    let ends_process = cfg!(panic = "abort");
    let before = ends_process.then(std::panic::take_hook);
    if ends_process {
        let dir = dir.to_path_buf();
        std::panic::set_hook(Box::new(move |panic| {
            let error = OpenError::Damaged { dir: dir.clone(), what: format!("the database gave up: {panic}") };
            let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("weir: {error}\n"));
            std::process::exit(1);
        }));
    }
    let result = catch_unwind(AssertUnwindSafe(act));
    if let Some(before) = before {
        std::panic::set_hook(before);
    }
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(damaged(format!("the database gave up: {}", text.unwrap_or("it did not say why"))))
    })
}
