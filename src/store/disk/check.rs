//! Looks at the database's files before the database is opened, and changes nothing: whether its lists of tables and its journals are
//! what was written. The database itself does not check the former, and cuts the latter.
#![forbid(unsafe_code)]

use std::{fmt, fs, io, path::Path};

use super::{
    journal::{self, Journal, Trouble},
    tables::{self, Table, Wrong},
};

/// The database's own keyspace, and ours.
const KEYSPACES: u64 = 4;
/// The database's files beside them.
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
    let version = folder.join("version");
    match fs::read(&version) {
        Ok(bytes) if bytes == VERSION => {}
        Ok(_) => report.wrong.push(Wrong { file: version, what: "this is not what was written" }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            report.wrong.push(Wrong { file: version, what: "the file is missing" });
            return Ok(report);
        }
        Err(error) => return Err(error),
    }
    for keyspace in 0..KEYSPACES {
        let keyspace = folder.join("keyspaces").join(keyspace.to_string());
        match tables::list(&keyspace)? {
            Ok(tables) => report.tables.extend(tables),
            Err(wrong) => report.wrong.push(wrong),
        }
    }
    for table in &report.tables {
        report.wrong.extend(table.look_at_contents()?.err());
    }
    report.journals = journal::read_all(folder)?;
    Ok(report)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.findings().join("; "))
    }
}
