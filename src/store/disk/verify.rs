//! Reads everything, and says what is not as it should be: files and their checksums, records and theirs, sequences without gaps,
//! byte counts, commits one after the other, and that what they name is there.
#![forbid(unsafe_code)]

use std::{collections::HashMap, path::Path, sync::Arc};

use super::{
    base::Trouble,
    check,
    error::{Commits, OpenError, catching, failed},
    look::{Look, name_of},
    open::Folder,
    record::{
        Channel, Commit, Entry, Mark, Message, content_crc, decode_fingerprint_key, decode_number, mark_key, split_commit_key,
        split_cursor_channel, split_hole_key, split_message_key,
    },
};
use crate::store::message_bytes;

/// More than a person reads.
const FINDINGS_MAX: usize = 100;

/// What was read, and what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    pub channels: u64,
    pub messages: u64,
    pub cursors: u64,
    pub commits: u64,
    /// Nothing if all is well.
    pub findings: Vec<String>,
}

impl Verified {
    fn find(&mut self, what: String) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(what);
        } else if self.findings.len() == FINDINGS_MAX {
            self.findings.push("and more, which are not listed".to_owned());
        }
    }
}

/// Reads the log in this directory, all of it.
///
/// # Errors
/// There is no log, or somebody uses it. What is wrong with it is no error.
pub fn verify(dir: &Path) -> Result<Verified, OpenError> {
    let folder = Arc::new(Folder::take(dir, false)?);
    if !folder.is_made()? {
        return Err(OpenError::Missing { dir: dir.to_path_buf() });
    }
    verify_folder(&folder)
}

/// Reads the log in this folder, which is ours.
pub(super) fn verify_folder(folder: &Arc<Folder>) -> Result<Verified, OpenError> {
    let mut verified = Verified::default();
    let witness = folder.read_witness()?;
    if witness.damaged && witness.newest.is_none_or(|newest| newest.commit > 1) {
        verified.find(format!("{}: a slot of the two cannot be read", folder.witness().display()));
    }
    let report = check::look(&folder.database()).map_err(failed("look through", &folder.database()))?;
    report.findings().into_iter().for_each(|finding| verified.find(finding));
    for table in &report.tables {
        let wrong = table.look_at_all().map_err(failed("read", &table.path))?.err();
        let known = |file: &Path| report.wrong.iter().any(|wrong| wrong.file == file);
        if let Some(wrong) = wrong.filter(|wrong| !known(&wrong.file)) {
            verified.find(format!("{}: {}", wrong.file.display(), wrong.what));
        }
    }
    // To open what is damaged may make it worse.
    if !verified.findings.is_empty() {
        return Ok(verified);
    }
    let opened = folder.prepare(&witness).and_then(|_| Look::of(Arc::clone(folder), witness.newest.unwrap_or_default().commit));
    let look = match opened {
        Ok(look) => look,
        Err(error) => {
            verified.find(error.to_string());
            return Ok(verified);
        }
    };
    let read = catching(&folder.dir, || {
        Reading { look: &look, channels: HashMap::new(), holes: HashMap::new(), entries: Vec::new(), to: &mut verified }
            .all()
            .map_err(|trouble| look.explain(trouble))
    });
    if let Err(error) = read {
        verified.find(error.to_string());
    }
    Ok(verified)
}

/// A channel's name and floor, and how far its messages were read.
struct Known {
    name: String,
    floor: u64,
}

struct Reading<'a> {
    look: &'a Look,
    channels: HashMap<u32, Known>,
    /// What a repair knows to be lost: channel and first sequence, and the last.
    holes: HashMap<(u32, u64), u64>,
    /// What the commits name, with its timestamp.
    entries: Vec<(Entry, u64)>,
    to: &'a mut Verified,
}

/// The message before, in the same channel.
#[derive(Clone, Copy)]
struct Before {
    channel: u32,
    seq: u64,
    timestamp: u64,
    total: u64,
}

impl Reading<'_> {
    fn all(mut self) -> Result<(), Trouble> {
        self.read_commits()?;
        self.read_state()?;
        self.entries.sort_unstable_by_key(|(entry, _)| (entry.channel, entry.seq));
        self.read_messages()
    }

    fn read_commits(&mut self) -> Result<(), Trouble> {
        let mut before: Option<u64> = None;
        let mut entries = Vec::new();
        for guard in self.look.base.commits.iter() {
            let (key, value) = guard.into_inner()?;
            let number = split_commit_key(&key)?;
            entries.clear();
            match Commit::decode(&key, &value, &mut entries) {
                Ok(commit) => self.entries.extend(entries.iter().zip(commit.timestamp..).map(|(entry, at)| (*entry, at))),
                Err(damaged) => self.to.find(format!("commit {number}: {}", damaged.0)),
            }
            if let Some(before) = before.filter(|before| before + 1 != number) {
                let missing = Commits { from: before + 1, to: number - 1, verb: ("is missing", "are missing") };
                self.to.find(missing.to_string());
            }
            before = Some(number);
            self.to.commits += 1;
        }
        Ok(())
    }

    fn read_state(&mut self) -> Result<(), Trouble> {
        for guard in self.look.base.state.iter() {
            let (key, value) = guard.into_inner()?;
            let read = match key.first() {
                Some(b'n') => Channel::decode(&key, &value).map(|channel| {
                    let known = Known { name: name_of(&key), floor: channel.floor };
                    self.to.channels += 1;
                    if let Some(other) = self.channels.insert(channel.number, known) {
                        self.to.find(format!("the channels {} and {} have the same number", other.name, name_of(&key)));
                    }
                }),
                Some(b'c') => decode_number(&key, &value).map(|_| self.to.cursors += 1),
                Some(b'h') => decode_number(&key, &value).and_then(|to| {
                    self.holes.insert(split_hole_key(&key)?, to);
                    Ok(())
                }),
                Some(b'm') if key == mark_key(Mark::FingerprintKey) => decode_fingerprint_key(&value).map(|_| ()),
                Some(b'm') => decode_number(&key, &value).map(|_| ()),
                Some(_) | None => {
                    self.to.find(format!("there is a record {} that nobody wrote", key.escape_ascii()));
                    Ok(())
                }
            };
            if let Err(damaged) = read {
                self.to.find(damaged.0);
            }
        }
        for guard in self.look.base.state.prefix(b"c") {
            let key = guard.key()?;
            if split_cursor_channel(&key).is_none_or(|channel| !self.channels.contains_key(&channel)) {
                self.to.find(format!("the cursor {} is of no channel", key.escape_ascii()));
            }
        }
        Ok(())
    }

    fn read_messages(&mut self) -> Result<(), Trouble> {
        let entries = std::mem::take(&mut self.entries);
        let mut named = entries.iter().peekable();
        let mut before: Option<Before> = None;
        for guard in self.look.base.messages.iter() {
            let (key, value) = guard.into_inner()?;
            let (channel, seq) = split_message_key(&key)?;
            self.to.messages += 1;
            // What commits name up to here, and was not read, is gone.
            while let Some((entry, at)) = named.next_if(|(entry, _)| (entry.channel, entry.seq) < (channel, seq)) {
                self.miss(entry, *at);
            }
            let named = named.next_if(|(entry, _)| (entry.channel, entry.seq) == (channel, seq));
            match self.message(&key, &value, before.filter(|before| before.channel == channel), named) {
                Ok(this) => before = Some(this),
                Err(damaged) => self.to.find(format!("{}, sequence {seq}: {}", self.name(channel), damaged.0)),
            }
        }
        named.for_each(|(entry, at)| self.miss(entry, *at));
        Ok(())
    }

    /// Checks one message against the one before it.
    fn message(
        &mut self,
        key: &[u8],
        value: &[u8],
        before: Option<Before>,
        named: Option<&(Entry, u64)>,
    ) -> Result<Before, super::record::Damaged> {
        let (channel, seq) = split_message_key(key)?;
        let record = Message::decode(key, value)?;
        let push = record.push()?;
        let name = self.name(channel);
        let floor = self.channels.get(&channel).map_or(0, |known| known.floor);
        if !self.channels.contains_key(&channel) {
            self.to.find(format!("{name}, sequence {seq}: there is no such channel"));
        }
        if push.seq != seq {
            self.to.find(format!("{name}, sequence {seq}: the message says that it is {}", push.seq));
        }
        if let Some((entry, at)) = named
            && (entry.content_crc != content_crc(&push) || *at != push.timestamp)
        {
            self.to.find(format!("{name}, sequence {seq}: its commit tells of another message"));
        }
        let expected = before.map_or(1, |before| before.seq + 1);
        // Below the floor, and among what is too old, compaction takes what it comes across. What is missing here is later than the
        // message before.
        let too_old = self.look.expired > 0 && before.is_none_or(|before| before.timestamp < self.look.expired);
        let known = seq - 1 == self.look.lost || self.holes.get(&(channel, expected)) == Some(&(seq - 1));
        if seq != expected && !known && seq - 1 > floor && !too_old {
            self.to.find(format!("{name}: the messages {expected} to {} are missing", seq - 1));
        }
        if let Some(before) = before {
            if push.timestamp <= before.timestamp {
                self.to.find(format!("{name}, sequence {seq}: it is not later than the one before"));
            }
            // They are counted anew when all before was over.
            if seq == before.seq + 1 && before.seq > floor && record.total != before.total + message_bytes(&push) {
                self.to.find(format!("{name}, sequence {seq}: the channel's bytes do not add up"));
            }
        }
        Ok(Before { channel, seq, timestamp: push.timestamp, total: record.total })
    }

    /// A commit names a message that is not there.
    fn miss(&mut self, entry: &Entry, timestamp: u64) {
        let floor = self.channels.get(&entry.channel).map_or(0, |known| known.floor);
        if entry.seq > floor && timestamp >= self.look.expired {
            self.to.find(format!("{}: the message {} is missing", self.name(entry.channel), entry.seq));
        }
    }

    fn name(&self, channel: u32) -> String {
        self.channels.get(&channel).map_or_else(|| format!("channel number {channel}"), |known| known.name.clone())
    }
}
