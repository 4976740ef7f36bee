//! Makes a damaged log usable again, without what is gone. No sequence is given twice: all channels go on behind the highest one that
//! was ever given, as far as the witness knows, and clients are told that what lies between is lost.
//!
//! First in place: journals are cut where they are damaged. Where that is not enough, what can be read is copied into a new database,
//! and where nothing can be read, a new one begins. What was there before is set aside, never removed.
#![forbid(unsafe_code)]

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Options,
    base::{Base, Purpose},
    check::{self, Report},
    copy::copy,
    error::{Commits, FORMAT, OpenError, catching, failed, unused},
    journal,
    open::Folder,
    record::{Mark, encode_number, mark_key},
    verify::verify_folder,
    witness::{Testimony, Witness},
};
use crate::limits::STORE_REPAIR_JUMP;

/// What a repair did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// What was done, for a person.
    pub steps: Vec<String>,
    /// Where what was there before is kept.
    pub set_aside: PathBuf,
}

/// Repairs the log in this directory.
///
/// # Errors
/// There is no log, somebody uses it, or files cannot be written.
pub fn repair(dir: &Path, options: &Options) -> Result<Repaired, OpenError> {
    let folder = Arc::new(Folder::take(dir, false)?);
    let witness = folder.read_witness()?.newest;
    let mut repair = Repair {
        set_aside: unused(&folder.dir, "before-repair"),
        steps: Vec::new(),
        folder,
        options,
        testimony: witness.unwrap_or_default(),
    };
    repair.check_format()?;
    fs::create_dir(&repair.set_aside).map_err(failed("make the directory", &repair.set_aside))?;
    repair.keep(&repair.folder.witness())?;
    if witness.is_none() {
        repair.steps.push("the witness could not be read: nobody can tell whether more is missing".to_owned());
    }
    if repair.restore_version(witness.is_some())? {
        return Ok(Repaired { steps: repair.steps, set_aside: repair.set_aside });
    }
    repair.guard()?;
    let report = check::look(&repair.folder.database()).map_err(failed("look through", &repair.folder.database()))?;
    if !(report.wrong.is_empty() && repair.in_place(&report)?) {
        repair.anew()?;
    }
    Ok(Repaired { steps: repair.steps, set_aside: repair.set_aside })
}

struct Repair<'a> {
    folder: Arc<Folder>,
    options: &'a Options,
    set_aside: PathBuf,
    steps: Vec<String>,
    /// What the witness said.
    testimony: Testimony,
}

impl Repair<'_> {
    /// Whether the folder is ours, though perhaps damaged.
    fn check_format(&self) -> Result<(), OpenError> {
        let path = self.folder.dir.join("format");
        match fs::read(&path) {
            Ok(bytes) if bytes == FORMAT.as_bytes() => Ok(()),
            // Another version's is none of ours to repair.
            Ok(bytes) if is_format(&bytes) => self.folder.is_made().map(|_| ()),
            Ok(_) | Err(_) => fs::write(&path, FORMAT).map_err(failed("write", &path)),
        }
    }

    /// Writes the file again that says the database's format. Says whether that was all.
    fn restore_version(&mut self, has_witness: bool) -> Result<bool, OpenError> {
        let database = self.folder.database();
        let restored = check::restore_version(&database, &self.set_aside);
        if !restored.map_err(failed("write the version of", &database))? {
            return Ok(false);
        }
        self.steps.push(format!("{}: written again, it only names the database's format", database.join("version").display()));
        let is_whole = has_witness && verify_folder(&self.folder)?.findings.is_empty();
        if is_whole {
            self.steps.push("nothing else is wrong, and nothing is lost".to_owned());
        }
        Ok(is_whole)
    }

    /// Copies a file to what is set aside.
    fn keep(&self, file: &Path) -> Result<(), OpenError> {
        let Some(name) = file.file_name().filter(|_| file.exists()) else { return Ok(()) };
        fs::copy(file, self.set_aside.join(name)).map(drop).map_err(failed("copy", file))
    }

    /// Until the repair is done nobody can open the log: sequences might be given twice.
    fn guard(&self) -> Result<(), OpenError> {
        self.swear(&Testimony { commit: u64::MAX, ..self.testimony })
    }

    fn swear(&self, testimony: &Testimony) -> Result<(), OpenError> {
        let path = self.folder.witness();
        Witness::create(&path, testimony).map(drop).map_err(failed("write", &path))
    }

    /// Behind this sequence every channel goes on.
    fn base(&self, known: u64) -> u64 {
        self.testimony.seq_max.max(known) + STORE_REPAIR_JUMP
    }

    /// Cuts journals where they are damaged. Says whether that was enough.
    fn in_place(&mut self, report: &Report) -> Result<bool, OpenError> {
        let mut damaged = false;
        for journal in &report.journals {
            self.keep(&journal.path)?;
            if damaged {
                fs::remove_file(&journal.path).map_err(failed("remove", &journal.path))?;
                self.steps.push(format!("{}: left out, because it follows damage", journal.path.display()));
            } else if journal.trouble.is_some() {
                let file = OpenOptions::new().write(true).open(&journal.path);
                let cut = file.and_then(|file| file.set_len(journal.end).and_then(|()| file.sync_all()));
                cut.map_err(failed("cut", &journal.path))?;
                self.steps.push(format!("{}: cut at byte {}", journal.path.display(), journal.end));
                damaged = journal.trouble == Some(journal::Trouble::Damaged);
            }
        }
        let folder = Arc::clone(&self.folder);
        let done = catching(&folder.dir, || {
            let mut engine = folder.load(self.options, &Testimony::default())?;
            let (last, base) = (engine.testimony.commit, self.base(engine.testimony.seq_max));
            let key = mark_key(Mark::Base);
            let mut draft = engine.draft();
            draft.state.insert(key.to_vec(), Some(encode_number(key, base)));
            engine.testimony.seq_max = base;
            engine.finish(draft).and_then(|()| engine.base.flush()).map_err(|trouble| folder.explain(trouble))?;
            Ok((last, engine.testimony))
        });
        let (last, testimony) = match done {
            Ok(done) => done,
            Err(error) => {
                self.steps.push(format!("the database cannot be opened: {error}"));
                return Ok(false);
            }
        };
        self.swear(&testimony)?;
        let verified = verify_folder(&self.folder)?;
        if !verified.findings.is_empty() {
            self.steps.extend(verified.findings);
            return self.guard().map(|()| false);
        }
        if last < self.testimony.commit {
            let lost = Commits { from: last + 1, to: self.testimony.commit, verb: ("is lost", "are lost") };
            self.steps.push(lost.to_string());
        }
        self.steps.push(format!("all channels go on behind sequence {}", testimony.seq_max));
        Ok(true)
    }

    /// Sets the database aside, and makes a new one with what can be read of it.
    fn anew(&mut self) -> Result<(), OpenError> {
        let (database, old) = (self.folder.database(), self.set_aside.join("log"));
        if database.exists() {
            fs::rename(&database, &old).map_err(failed("set aside", &database))?;
        }
        self.steps.push("what can be read is copied into a new database".to_owned());
        let folder = Arc::clone(&self.folder);
        let old = match catching(&folder.dir, || {
            Base::open(&old, self.options.sizes(), Purpose::Look).map_err(|trouble| folder.explain(trouble))
        }) {
            Ok(old) => Some(old),
            Err(error) => {
                self.steps.push(format!("nothing can be read, all messages are lost: {error}"));
                None
            }
        };
        let new = || -> Result<Testimony, OpenError> {
            let explain = |trouble| folder.explain(trouble);
            let new = folder.start(self.options).map_err(explain)?;
            let copied = copy(old.as_ref(), &new, |known| self.base(known)).map_err(explain)?;
            self.steps.extend(copied.steps);
            Ok(copied.testimony)
        };
        let testimony = catching(&folder.dir, new)?;
        self.steps.push(format!("all channels go on behind sequence {}", testimony.seq_max));
        self.swear(&testimony)
    }
}

/// Whether this is what some version of Weir writes.
fn is_format(bytes: &[u8]) -> bool {
    let version = bytes.strip_prefix(b"weir log ").and_then(|rest| rest.strip_suffix(b"\n"));
    version.is_some_and(|version| !version.is_empty() && version.iter().all(u8::is_ascii_digit))
}
