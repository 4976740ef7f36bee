//! Looks at the database's files before the database is opened, and changes nothing: whether its lists of tables and its journals are
//! what was written. The database itself does not check the former, and cuts the latter.
#![forbid(unsafe_code)]

use std::{
    fmt,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::{
    journal::{self, Journal, Trouble},
    tables::{self, Table, Wrong},
};

/// The database's own keyspace, and ours.
const KEYSPACES: u64 = 4;
/// The database's file beside them that says which format the others have; always the same.
const VERSION: &[u8] = b"FJL\x03";

/// What was found in the files.
#[derive(Debug)]
pub(super) struct Report {
    /// What is wrong but for journals.
    pub wrong: Vec<Wrong>,
    pub journals: Vec<Journal>,
    pub tables: Vec<Table>,
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

    /// What is wrong, for a person.
    pub(super) fn findings(&self) -> Vec<String> {
        let wrong = self.wrong.iter().map(|Wrong { file, what }| format!("{}: {what}", file.display()));
        let damaged = self.journals.iter().filter(|journal| journal.trouble == Some(Trouble::Damaged));
        let damaged = damaged.map(|Journal { path, commits, end, .. }| {
            let whole = commits
                .map_or_else(|| "no commit before that is whole".to_owned(), |(_, last)| format!("commit {last} is whole"));
            format!("{}: damaged from byte {end} on, {whole}", path.display())
        });
        wrong.chain(damaged).collect()
    }
}

/// Looks at the files of the database in `folder`.
///
/// # Errors
/// A file cannot be read.
pub(super) fn look(folder: &Path) -> io::Result<Report> {
    let mut report = Report { wrong: Vec::new(), journals: Vec::new(), tables: Vec::new() };
    if let Some(wrong) = look_at_version(folder)? {
        report.wrong.push(wrong);
    }
    if !folder.exists() {
        return Ok(report);
    }
    for keyspace in 0..KEYSPACES {
        let keyspace = folder.join("keyspaces").join(keyspace.to_string());
        match tables::list(&keyspace).map_err(named(&keyspace))? {
            Ok(tables) => report.tables.extend(tables),
            Err(wrong) => report.wrong.push(wrong),
        }
    }
    for table in &report.tables {
        report.wrong.extend(table.look_at_contents().map_err(named(&table.path))?.err());
    }
    report.journals = journal::read_all(folder)?;
    Ok(report)
}

fn version_file(folder: &Path) -> PathBuf {
    folder.join("version")
}

/// What is wrong with the file that says the database's format.
fn look_at_version(folder: &Path) -> io::Result<Option<Wrong>> {
    let file = version_file(folder);
    let what = match fs::read(&file) {
        Ok(bytes) if bytes == VERSION => return Ok(None),
        Ok(_) => "this is not what was written; it only names the database's format, and a repair writes it again",
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(named(&file)(error)),
        Err(_) if !folder.exists() => return Ok(Some(Wrong { file: folder.to_path_buf(), what: "the database is missing" })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            "the file is missing; it only names the database's format, and a repair writes it again"
        }
        Err(_) => "this cannot be read; it only names the database's format, and a repair writes it again",
    };
    Ok(Some(Wrong { file, what }))
}

/// Writes the file that says the database's format, if it is not as it should be, and sets aside what is in its place. Says whether it
/// did.
///
/// # Errors
/// It cannot be written.
pub(super) fn restore_version(folder: &Path, set_aside: &Path) -> io::Result<bool> {
    if !folder.exists() || look_at_version(folder)?.is_none() {
        return Ok(false);
    }
    let file = version_file(folder);
    if file.exists() {
        fs::rename(&file, set_aside.join("version"))?;
    }
    fs::write(&file, VERSION)?;
    File::open(&file)?.sync_all()?;
    File::open(folder)?.sync_all()?;
    Ok(true)
}

/// Says which file an error is about.
fn named(file: &Path) -> impl FnOnce(io::Error) -> io::Error + use<> {
    let file = file.to_path_buf();
    move |error| io::Error::new(error.kind(), format!("{}: {error}", file.display()))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.findings().join("; "))
    }
}
