//! Copies what can be read of a damaged database into a new one.
//!
//! A keyspace is read from its beginning up to the first place that cannot be read, and from its end down to the last one.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap, HashSet};

use fjall::{Guard, Keyspace, OwnedWriteBatch};

use super::{
    base::{Base, Trouble},
    record::{
        Channel, Commit, Entry, Mark, Message, commit_key, decode_fingerprint_key, decode_number, encode_number, hole_key,
        mark_key, split_cursor_channel, split_hole_key, split_message_key,
    },
    witness::Testimony,
};

/// Records of one commit of the new database.
const RECORDS_PER_COMMIT: usize = 1_000;

/// What was copied.
pub(super) struct Copied {
    pub steps: Vec<String>,
    /// The newest commit of the new database.
    pub testimony: Testimony,
}

/// Writes the new database.
struct Writer<'a> {
    new: &'a Base,
    batch: OwnedWriteBatch,
    records: usize,
    newest: Commit,
    number: u64,
}

impl Writer<'_> {
    fn put(&mut self, keyspace: &Keyspace, key: &[u8], value: &[u8]) -> Result<(), Trouble> {
        self.batch.insert(keyspace, key, value);
        self.records += 1;
        if self.records >= RECORDS_PER_COMMIT { self.commit(&[]) } else { Ok(()) }
    }

    fn commit(&mut self, entries: &[Entry]) -> Result<(), Trouble> {
        self.number += 1;
        self.records = 0;
        let key = commit_key(self.number);
        let mut batch = std::mem::replace(&mut self.batch, self.new.batch());
        batch.insert(&self.new.commits, key, self.newest.encode(&key, entries));
        batch.commit()?;
        self.new.gate()?;
        self.new.rotate_if_full()
    }
}

/// Copies what can be read of `old`, if it can be opened at all, into `new`, which has its first commit. `base` says from the highest
/// sequence that was found behind which one all channels go on.
pub(super) fn copy(old: Option<&Base>, new: &Base, base: impl Fn(u64) -> u64) -> Result<Copied, Trouble> {
    let mut steps = Vec::new();
    let newest = Commit { timestamp: 0, next_channel: 1, seq_max: 0 };
    let mut writer = Writer { new, batch: new.batch(), records: 0, newest, number: 1 };
    let mut channels = HashMap::new();
    let mut commits = BTreeMap::new();
    if let Some(old) = old {
        read(&old.commits, "commits", &mut steps, |key, value| {
            let mut entries = Vec::new();
            let commit = Commit::decode(key, value, &mut entries).ok()?;
            // What follows one by one has its number, even if the commits between are gone.
            commits.insert(key.to_vec(), (commit, entries));
            Some(())
        });
        channels = copy_state(old, &mut writer, &mut steps)?;
        for (commit, entries) in commits.values() {
            writer.newest.next_channel = writer.newest.next_channel.max(commit.next_channel);
            writer.newest.seq_max = writer.newest.seq_max.max(commit.seq_max);
            writer.newest.timestamp = writer.newest.timestamp.max(commit.timestamp + entries.len() as u64);
        }
        copy_messages(old, &mut writer, &channels, &mut steps)?;
    }
    let next = channels.keys().max().map_or(1, |number| number + 1);
    writer.newest.next_channel = writer.newest.next_channel.max(next);
    writer.newest.seq_max = base(writer.newest.seq_max);
    let key = mark_key(Mark::Base);
    writer.put(&new.state, key, &encode_number(key, writer.newest.seq_max))?;
    writer.commit(&[])?;
    // Retries are still recognized where the message is there.
    let (seq_max, next_channel, last) = (writer.newest.seq_max, writer.newest.next_channel, writer.newest.timestamp);
    for (commit, entries) in commits.into_values().filter(|(_, entries)| !entries.is_empty()) {
        writer.newest = Commit { timestamp: commit.timestamp, next_channel, seq_max };
        writer.commit(&entries)?;
    }
    writer.newest.timestamp = last;
    writer.commit(&[])?;
    new.flush()?;
    Ok(Copied { steps, testimony: Testimony { commit: writer.number, seq_max, timestamp: last } })
}

/// Reads a keyspace around what cannot be read. `take` says `None` of a record that is damaged.
fn read(keyspace: &Keyspace, what: &str, steps: &mut Vec<String>, mut take: impl FnMut(&[u8], &[u8]) -> Option<()>) {
    let (mut count, mut damaged) = (0_u64, 0_u64);
    let mut last: Option<Vec<u8>> = None;
    let mut take = |guard: Guard| -> Result<Vec<u8>, fjall::Error> {
        let (key, value) = guard.into_inner()?;
        match take(&key, &value) {
            Some(()) => count += 1,
            None => damaged += 1,
        }
        Ok(key.to_vec())
    };
    let mut whole = true;
    for guard in keyspace.iter() {
        match take(guard) {
            Ok(key) => last = Some(key),
            Err(_) => {
                whole = false;
                break;
            }
        }
    }
    if !whole {
        for guard in keyspace.iter().rev() {
            // Down to what was read already, if the damage is gone from between.
            match take(guard) {
                Ok(key) if last.as_ref().is_none_or(|last| key > *last) => {}
                Ok(_) | Err(_) => break,
            }
        }
    }
    let note = if whole { "" } else { "; what lies between two places that cannot be read is lost" };
    let bad = if damaged == 0 { String::new() } else { format!(", {damaged} damaged ones left out") };
    steps.push(format!("{what}: {count} records copied{bad}{note}"));
}

/// Copies channels, cursors and marks. Gives the channels that there are.
fn copy_state(old: &Base, writer: &mut Writer<'_>, steps: &mut Vec<String>) -> Result<HashMap<u32, Channel>, Trouble> {
    let mut records = BTreeMap::new();
    read(&old.state, "channels and cursors", steps, |key, value| {
        let intact = match key.first() {
            Some(b'n') => Channel::decode(key, value).is_ok(),
            Some(b'm') if key == mark_key(Mark::FingerprintKey) => decode_fingerprint_key(value).is_ok(),
            Some(_) | None => decode_number(key, value).is_ok(),
        };
        records.insert(key.to_vec(), value.to_vec());
        intact.then_some(())
    });
    let mut channels = HashMap::new();
    for (key, value) in &records {
        if let (Some(b'n'), Ok(channel)) = (key.first(), Channel::decode(key, value)) {
            channels.insert(channel.number, channel);
        }
    }
    for (key, value) in &records {
        let intact = match key.first() {
            Some(b'n') => Channel::decode(key, value).is_ok(),
            Some(b'c') => {
                let channel = split_cursor_channel(key);
                decode_number(key, value).is_ok() && channel.is_some_and(|channel| channels.contains_key(&channel))
            }
            Some(b'h') => {
                let channel = split_hole_key(key);
                decode_number(key, value).is_ok() && channel.is_ok_and(|(channel, _)| channels.contains_key(&channel))
            }
            Some(b'm') if key == mark_key(Mark::FingerprintKey) => decode_fingerprint_key(value).is_ok(),
            Some(b'm') => key != mark_key(Mark::Base) && decode_number(key, value).is_ok(),
            Some(_) | None => false,
        };
        if intact {
            writer.put(&writer.new.state.clone(), key, value)?;
        }
    }
    Ok(channels)
}

/// Copies messages, and notes the holes between them.
fn copy_messages(
    old: &Base,
    writer: &mut Writer<'_>,
    channels: &HashMap<u32, Channel>,
    steps: &mut Vec<String>,
) -> Result<(), Trouble> {
    let (messages, state) = (writer.new.messages.clone(), writer.new.state.clone());
    let mut nameless: HashSet<u32> = HashSet::new();
    let mut failed = Ok(());
    read(&old.messages, "messages", steps, |key, value| {
        let (channel, seq) = split_message_key(key).ok()?;
        Message::decode(key, value).ok()?.push().ok()?;
        if !channels.contains_key(&channel) {
            nameless.insert(channel);
            return None;
        }
        writer.newest.seq_max = writer.newest.seq_max.max(seq);
        if failed.is_ok() {
            failed = writer.put(&messages, key, value);
        }
        Some(())
    });
    failed?;
    writer.commit(&[])?;
    if !nameless.is_empty() {
        steps.push(format!("the names of {} channels are lost, and so are their messages", nameless.len()));
    }
    // All copied: what is missing between two messages of a channel, or before the first, is lost or over.
    let mut before: Option<(u32, u64)> = None;
    for guard in messages.iter() {
        let (channel, seq) = split_message_key(&guard.key()?)?;
        let floor = channels.get(&channel).map_or(0, |channel| channel.floor);
        let expected = before.filter(|(other, _)| *other == channel).map_or(1, |(_, seq)| seq + 1);
        if seq > expected && seq - 1 > floor {
            let key = hole_key(channel, expected);
            writer.put(&state, &key, &encode_number(&key, seq - 1))?;
        }
        before = Some((channel, seq));
    }
    Ok(())
}
