//! Looks at the database's files before the database is opened, and changes nothing: whether its lists of tables and its journals are
//! what was written. The database itself does not check the former, and cuts the latter.
#![forbid(unsafe_code)]

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::xxh3_128;

use super::journal::{self, Journal, Trouble};

/// The database's own keyspace, and ours.
const KEYSPACES: u64 = 4;

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// A list of tables, or what names it, is not what was written.
    Tables { file: PathBuf, what: &'static str },
    /// A journal is broken in a way that no crash explains.
    Journal { file: PathBuf, from: u64 },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Tables { file, what } => write!(f, "{}: {what}", file.display()),
            Finding::Journal { file, from } => write!(f, "{}: damaged from byte {from} on", file.display()),
        }
    }
}

/// What was found in the files.
#[derive(Debug)]
pub(super) struct Report {
    pub findings: Vec<Finding>,
    pub journals: Vec<Journal>,
}

impl Report {
    /// The newest commit in the journals, before any damage.
    pub(super) fn last_commit(&self) -> Option<u64> {
        let mut last = None;
        for journal in &self.journals {
            last = journal.commits.map(|(_, newest)| newest).or(last);
            if journal.trouble == Some(Trouble::Damaged) {
                break;
            }
        }
        last
    }

    /// The journal that ends in something unfinished.
    pub(super) fn unfinished(&self) -> Option<&Journal> {
        self.journals.iter().find(|journal| journal.trouble == Some(Trouble::Unfinished))
    }
}

/// Looks at the files of the database in `folder`.
///
/// # Errors
/// A file cannot be read.
pub(super) fn look(folder: &Path) -> io::Result<Report> {
    let mut findings = Vec::new();
    for keyspace in 0..KEYSPACES {
        let keyspace = folder.join("keyspaces").join(keyspace.to_string());
        findings.extend(look_at_tables(&keyspace)?);
    }
    let journals = journal::read_all(folder)?;
    for journal in &journals {
        if journal.trouble == Some(Trouble::Damaged) {
            findings.push(Finding::Journal { file: journal.path.clone(), from: journal.end });
        }
    }
    Ok(Report { findings, journals })
}

/// The file `current` names a list of tables, and has its checksum.
fn look_at_tables(keyspace: &Path) -> io::Result<Option<Finding>> {
    let current = keyspace.join("current");
    let finding = |file: &Path, what| Ok(Some(Finding::Tables { file: file.to_path_buf(), what }));
    let Some(bytes) = read(&current)? else { return finding(&current, "the file is missing") };
    // The number of the list, the checksum of its bytes, and which checksum it is.
    let parts = bytes.split_first_chunk::<8>().and_then(|(number, rest)| Some((number, rest.split_first_chunk::<16>()?)));
    let Some((number, (checksum, &[0]))) = parts else { return finding(&current, "this is not what was written") };
    let list = keyspace.join(format!("v{}", u64::from_le_bytes(*number)));
    let Some(bytes) = read(&list)? else { return finding(&list, "the list of tables is missing") };
    if xxh3_128(&bytes) != u128::from_le_bytes(*checksum) {
        return finding(&list, "the list of tables has a wrong checksum");
    }
    Ok(None)
}

fn read(file: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
