//! Keeps what the kernel had before, so that it can be restored: written to disk before each change.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

const HEADER: &str =
    "# What `weir tune` found, and what it set: `weir tune --undo` restores it. Setting, before, after; separated by tabs.\n";

/// A changed setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    /// What it was before the first change.
    pub(super) before: String,
    /// What it was set to last.
    pub(super) after: String,
}

/// The file of changed settings.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    entries: Vec<Entry>,
}

impl Journal {
    /// Reads the file, which need not exist.
    ///
    /// # Errors
    /// It cannot be read, or holds something else.
    pub fn open(path: &Path) -> io::Result<Journal> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => String::new(),
            Err(cause) => return Err(cause),
        };
        let lines = text.lines().enumerate().filter(|(_, line)| !line.starts_with('#') && !line.is_empty());
        let entries = lines.map(|(index, line)| {
            let mut fields = line.split('\t').map(str::to_owned);
            match (fields.next(), fields.next(), fields.next(), fields.next()) {
                (Some(key), Some(before), Some(after), None) => Ok(Entry { key, before, after }),
                _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("line {} is not one that weir wrote", index + 1))),
            }
        });
        Ok(Journal { path: path.to_owned(), entries: entries.collect::<io::Result<_>>()? })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it lists no change.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Notes a change that is about to be made. What an earlier run found remains what is restored.
    ///
    /// # Errors
    /// The file cannot be written; then the change must not be made.
    pub(super) fn note(&mut self, key: &str, before: &str, after: &str) -> io::Result<()> {
        let mut entries = self.entries.clone();
        match entries.iter_mut().find(|entry| entry.key == key) {
            Some(entry) => after.clone_into(&mut entry.after),
            None => entries.push(Entry { key: key.to_owned(), before: before.to_owned(), after: after.to_owned() }),
        }
        self.replace(entries)
    }

    /// Forgets a change that was taken back or never made.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn forget(&mut self, key: &str) -> io::Result<()> {
        let entries = self.entries.iter().filter(|entry| entry.key != key).cloned().collect();
        self.replace(entries)
    }

    /// Writes a new file and renames it over the old one, so that an interruption leaves one of the two.
    fn replace(&mut self, entries: Vec<Entry>) -> io::Result<()> {
        if entries.is_empty() {
            match std::fs::remove_file(&self.path) {
                Ok(()) => {}
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
                Err(cause) => return Err(cause),
            }
            self.entries = entries;
            return Ok(());
        }
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(HEADER.as_bytes())?;
        for Entry { key, before, after } in &entries {
            writeln!(file, "{key}\t{before}\t{after}")?;
        }
        file.sync_all()?;
        std::fs::rename(&new, &self.path)?;
        self.entries = entries;
        Ok(())
    }
}
