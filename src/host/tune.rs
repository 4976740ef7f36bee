//! Applies kernel settings one by one, and takes them back. Each line is reported, whatever happens to the others.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;

use super::journal::{Entry, Journal};
use super::sysctl::{Kernel, Wanted, text};

/// What became of one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Would be changed.
    Planned { from: String, to: String },
    /// Changed, and read back.
    Applied { from: String, to: String },
    /// Changed, to another value than was asked for: the kernel rounds, or has a bound of its own.
    Rounded { from: String, to: String, asked: String },
    /// As it should be, or better.
    AlreadyRight { value: String },
    /// This kernel does not have it.
    Absent,
    /// Left alone, because it would do harm here.
    Unfit { value: String, why: String },
    /// Somebody else changed it after us; restoring would undo their work.
    ChangedSince { value: String, ours: String, before: String },
    /// Not changed.
    Refused { from: String, to: String, why: String },
}

/// A setting and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub key: String,
    pub outcome: Outcome,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.outcome {
            Outcome::Planned { from, to } => write!(f, "would change   {key}: {from} -> {to}"),
            Outcome::Applied { from, to } => write!(f, "applied        {key}: {from} -> {to}"),
            Outcome::Rounded { from, to, asked } => {
                write!(f, "applied        {key}: {from} -> {to}: {asked} was asked for, the kernel rounds or bounds it")
            }
            Outcome::AlreadyRight { value } => write!(f, "already right  {key}: {value}"),
            Outcome::Absent => write!(f, "absent         {key}: not on this kernel, or not in this container"),
            Outcome::Unfit { value, why } => write!(f, "left alone     {key}: {value}: {why}"),
            Outcome::ChangedSince { value, ours, before } => write!(
                f,
                "left alone     {key}: {value}: somebody changed it after weir set {ours}; it was {before} before. To restore that: \
                 sysctl -w {key}='{before}'"
            ),
            Outcome::Refused { from, to, why } => write!(f, "refused        {key}: {from} -> {to}: {why}"),
        }
    }
}

/// Changes the settings of one kernel, and keeps what was there in one journal.
#[derive(Debug)]
pub struct Tuner {
    kernel: Kernel,
    journal: Journal,
}

impl Tuner {
    pub fn new(kernel: Kernel, journal: Journal) -> Tuner {
        Tuner { kernel, journal }
    }

    /// The journal.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Changes one setting, or only says what would be done.
    pub fn apply(&mut self, wanted: &Wanted, dry_run: bool) -> Line {
        let key = &wanted.key;
        let outcome = match self.kernel.read(key) {
            Ok(None) => Outcome::Absent,
            Ok(Some(current)) => self.apply_over(wanted, current, dry_run),
            Err(cause) => Outcome::Refused { from: "?".into(), to: text(&wanted.numbers), why: explain(&cause) },
        };
        Line { key: key.clone(), outcome }
    }

    fn apply_over(&mut self, wanted: &Wanted, current: String, dry_run: bool) -> Outcome {
        let Some(numbers) = wanted.merged(&current) else {
            let why = format!("the kernel has {} here, and {} numbers were expected", quoted(&current), wanted.numbers.len());
            return Outcome::Refused { from: current, to: text(&wanted.numbers), why };
        };
        let target = text(&numbers);
        if target == current {
            return Outcome::AlreadyRight { value: current };
        }
        if let (Some(needed), Some(memory)) = (wanted.memory_bytes(), self.kernel.memory_bytes())
            && needed > memory / 2
        {
            let why = format!("{} MiB are more than half of this machine's {} MiB", needed >> 20, memory >> 20);
            return Outcome::Unfit { value: current, why };
        }
        if dry_run {
            return Outcome::Planned { from: current, to: target };
        }
        let known = self.journal.entries().iter().find(|entry| entry.key == wanted.key).cloned();
        if let Err(cause) = self.journal.note(&wanted.key, &current, &target) {
            let path = self.journal.path().display();
            let why = format!("what was there could not be kept in {path} ({cause}), so nothing was changed");
            return Outcome::Refused { from: current, to: target, why };
        }
        let written = self.set(&wanted.key, &target);
        // What the kernel has now is what --undo must find to know it for ours.
        match (written, self.kernel.read(&wanted.key)) {
            (Ok(()), Ok(Some(now))) if now == target => Outcome::Applied { from: current, to: target },
            (written, Ok(Some(now))) if now == current => {
                self.amend(&wanted.key, known.as_ref());
                match written {
                    // As near as this kernel comes, from an earlier run.
                    Ok(()) if known.is_some_and(|entry| entry.after == current) => Outcome::AlreadyRight { value: current },
                    Ok(()) => {
                        let why = "the kernel took the write and changed nothing".to_owned();
                        Outcome::Refused { from: current, to: target, why }
                    }
                    Err(why) => Outcome::Refused { from: current, to: target, why },
                }
            }
            (Ok(()), Ok(Some(now))) => {
                self.amend(&wanted.key, Some(&Entry { key: wanted.key.clone(), before: current.clone(), after: now.clone() }));
                Outcome::Rounded { from: current, to: now, asked: target }
            }
            // It may have been changed: the journal goes on listing it.
            (Err(why), _) => Outcome::Refused { from: current, to: target, why },
            (Ok(()), Ok(None)) => {
                Outcome::Refused { from: current, to: target, why: "it was written, and is not there any more".to_owned() }
            }
            (Ok(()), Err(cause)) => {
                let why = format!("it was written, and cannot be read back: {cause}");
                Outcome::Refused { from: current, to: target, why }
            }
        }
    }

    /// Corrects what was noted before a write that did not do what was asked; `None`: nothing was changed, and nothing was noted
    /// before either.
    fn amend(&mut self, key: &str, entry: Option<&Entry>) {
        let result = match entry {
            Some(Entry { before, after, .. }) => self.journal.note(key, before, after),
            None => self.journal.forget(key),
        };
        if let Err(cause) = result {
            log::warn!("what {} says of {key} is out of date: {cause}", self.journal.path().display());
        }
    }

    /// Restores all that the journal lists, the last change first. What cannot be restored stays in the journal.
    pub fn undo(&mut self, dry_run: bool) -> Vec<Line> {
        let entries: Vec<Entry> = self.journal.entries().iter().rev().cloned().collect();
        entries.iter().map(|entry| Line { key: entry.key.clone(), outcome: self.undo_one(entry, dry_run) }).collect()
    }

    fn undo_one(&mut self, entry: &Entry, dry_run: bool) -> Outcome {
        let Entry { key, before, after } = entry;
        let refused = |from: String, why: String| Outcome::Refused { from, to: before.clone(), why };
        let current = match self.kernel.read(key) {
            Ok(Some(current)) => current,
            Ok(None) => return Outcome::Absent,
            Err(cause) => return refused("?".into(), explain(&cause)),
        };
        if current == *before {
            return self.forgotten(key, Outcome::AlreadyRight { value: current }, dry_run);
        }
        if current != *after {
            return Outcome::ChangedSince { value: current, ours: after.clone(), before: before.clone() };
        }
        if dry_run {
            return Outcome::Planned { from: current, to: before.clone() };
        }
        if let Err(why) = self.set(key, before) {
            return refused(current, why);
        }
        match self.kernel.read(key) {
            Ok(Some(now)) if now == *before => {
                self.forgotten(key, Outcome::Applied { from: current, to: before.clone() }, dry_run)
            }
            Ok(Some(now)) => {
                // The next --undo must know this value for ours, too.
                self.amend(key, Some(&Entry { after: now.clone(), ..entry.clone() }));
                refused(current, format!("the kernel took the write and has {} now", quoted(&now)))
            }
            Ok(None) => refused(current, "it was written, and is not there any more".to_owned()),
            Err(cause) => refused(current, format!("it was written, and cannot be read back: {cause}")),
        }
    }

    /// Takes a setting out of the journal, if it was not a dry run.
    fn forgotten(&mut self, key: &str, outcome: Outcome, dry_run: bool) -> Outcome {
        if dry_run {
            return outcome;
        }
        match self.journal.forget(key) {
            Ok(()) => outcome,
            // The kernel is right. That the journal still lists the setting only makes the next --undo look at it again.
            Err(cause) => {
                log::warn!("{} still lists {key}: {cause}", self.journal.path().display());
                outcome
            }
        }
    }

    /// Writes a value. Whoever calls this reads it back.
    fn set(&self, key: &str, value: &str) -> Result<(), String> {
        self.kernel.write(key, value).map_err(|cause| explain(&cause))
    }
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// The cause, and what to do about it.
fn explain(cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("{cause}: only root may change it, and in a container nobody; try `sudo weir tune`")
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            format!("{cause}: this is a container whose host owns the setting; run `weir tune` on the host")
        }
        io::ErrorKind::InvalidInput => format!("{cause}: this kernel does not take the value"),
        _ => cause.to_string(),
    }
}
