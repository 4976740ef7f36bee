//! Reads the database's journals without changing them, before the database itself may: it drops, without a word, all that follows a
//! place that it cannot read.
//!
//! A journal is a row of batches, each the length of a commit, and then zeros. A crash leaves at most the last batch unfinished,
//! because each is synced before the next begins; so whatever is broken in any other way was damaged afterwards.
#![forbid(unsafe_code)]

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::Xxh3;

use super::{COMMITS_ID, record::split_commit_key};

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const TRAILER: [u8; 4] = *b"FJL\x03";
/// Tag and checksum, before the trailer.
const END_BYTES: u64 = 1 + 8;
const READ_BYTES: usize = 1024 * 1024;
/// Value type of an item that was put in, not removed.
const VALUE: u8 = 0;

/// A batch that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Batch {
    /// The database's own number of it.
    seqno: u64,
    /// Which commit it is; `None` if it is none of ours, or more than one.
    commit: Option<u64>,
    /// Where it ends.
    end: u64,
}

/// What is wrong with a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It ends in something that is not a whole batch, and nothing whole follows.
    Unfinished,
    /// Batches follow, or are missing: this is no crash.
    Damaged,
}

/// What a journal holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Journal {
    pub path: PathBuf,
    /// The commits of its whole batches, first and last.
    pub commits: Option<(u64, u64)>,
    /// Where the whole batches end.
    pub end: u64,
    pub trouble: Option<Trouble>,
    last_seqno: u64,
}

/// Reads all journals of the database in `folder`, oldest first.
///
/// # Errors
/// A file cannot be read.
pub(super) fn read_all(folder: &Path) -> io::Result<Vec<Journal>> {
    let mut numbered = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jnl") {
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
            let wrong_name = || io::Error::other(format!("{} is not a journal's name", path.display()));
            numbered.push((number.ok_or_else(wrong_name)?, path));
        }
    }
    numbered.sort_unstable();
    let mut journals: Vec<Journal> = Vec::new();
    let last = numbered.last().map(|(number, _)| *number);
    for (number, path) in numbered {
        let before = journals.iter().rev().find_map(|journal| Some((journal.commits?.1, journal.last_seqno)));
        let named = format!("{}: ", path.display());
        let mut journal = read(path, before).map_err(|error| io::Error::new(error.kind(), named + &error.to_string()))?;
        // All but the newest were synced whole.
        if Some(number) != last && journal.trouble == Some(Trouble::Unfinished) {
            journal.trouble = Some(Trouble::Damaged);
        }
        journals.push(journal);
    }
    Ok(journals)
}

/// `before`: the last commit of older journals, and its seqno.
fn read(path: PathBuf, before: Option<(u64, u64)>) -> io::Result<Journal> {
    let mut reader = Reader::open(&path)?;
    let mut journal = Journal { path, commits: None, end: 0, trouble: None, last_seqno: before.map_or(0, |(_, seqno)| seqno) };
    let mut expected = before.map(|(commit, _)| commit + 1);
    while let Some(batch) = reader.batch_at(journal.end)? {
        // The seqno is not covered by the batch's checksum.
        let follows = batch.commit.is_some_and(|commit| expected.is_none_or(|expected| commit == expected))
            && (batch.seqno > journal.last_seqno || journal.last_seqno == 0);
        let Some(commit) = batch.commit.filter(|_| follows) else {
            journal.trouble = Some(Trouble::Damaged);
            return Ok(journal);
        };
        expected = Some(commit + 1);
        journal.commits = Some((journal.commits.map_or(commit, |(first, _)| first), commit));
        (journal.end, journal.last_seqno) = (batch.end, batch.seqno);
    }
    if reader.is_zero_from(journal.end)? {
        return Ok(journal);
    }
    journal.trouble = Some(Trouble::Unfinished);
    for at in reader.trailers_from(journal.end)? {
        if reader.batch_at(at)?.is_some() {
            journal.trouble = Some(Trouble::Damaged);
        }
    }
    Ok(journal)
}

struct Reader {
    file: BufReader<File>,
    length: u64,
    position: u64,
}

impl Reader {
    fn open(path: &Path) -> io::Result<Reader> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Reader { file: BufReader::with_capacity(READ_BYTES, file), length, position: 0 })
    }

    fn go_to(&mut self, position: u64) -> io::Result<()> {
        // Relative, which keeps what is buffered.
        self.file.seek_relative(position as i64 - self.position as i64)?;
        self.position = position;
        Ok(())
    }

    /// `None`: the file ends.
    fn take<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        if self.length.saturating_sub(self.position) < N as u64 {
            return Ok(None);
        }
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes)?;
        self.position += N as u64;
        Ok(Some(bytes))
    }

    /// The batch that begins here, if there is a whole one.
    fn batch_at(&mut self, start: u64) -> io::Result<Option<Batch>> {
        self.go_to(start)?;
        let Some([START]) = self.take()? else { return Ok(None) };
        let Some(items) = self.take()?.map(u32::from_le_bytes) else { return Ok(None) };
        let Some(seqno) = self.take()?.map(u64::from_le_bytes) else { return Ok(None) };
        let mut hash = Xxh3::new();
        let (mut commits, mut commit) = (0, None);
        for _ in 0..items {
            let Some(number) = self.item(&mut hash)? else { return Ok(None) };
            if number.is_some() {
                (commits, commit) = (commits + 1, number);
            }
        }
        let Some([END]) = self.take()? else { return Ok(None) };
        let Some(checksum) = self.take()?.map(u64::from_le_bytes) else { return Ok(None) };
        let Some(TRAILER) = self.take()? else { return Ok(None) };
        if checksum != hash.digest() {
            return Ok(None);
        }
        Ok(Some(Batch { seqno, commit: commit.filter(|_| commits == 1), end: self.position }))
    }

    /// Reads an item. The inner option is the commit that it is the record of.
    #[expect(clippy::option_option, reason = "no item, an item that is no commit, and a commit")]
    fn item(&mut self, hash: &mut Xxh3) -> io::Result<Option<Option<u64>>> {
        // Tag, value type, compression, keyspace, length of the key, of the value, and of the value as it is stored.
        let Some(head) = self.take::<21>()? else { return Ok(None) };
        let number = |at: usize, length: usize| {
            let mut bytes = [0; 8];
            bytes[..length].copy_from_slice(&head[at..at + length]);
            u64::from_le_bytes(bytes)
        };
        let (keyspace, key_length, value_length) = (number(3, 8), number(11, 2), number(17, 4));
        if head[0] != ITEM || self.length - self.position < key_length + value_length {
            return Ok(None);
        }
        hash.update(&head);
        let mut key = [0; 8];
        let mut left = key_length + value_length;
        if key_length == 8 {
            self.file.read_exact(&mut key)?;
            hash.update(&key);
            (self.position, left) = (self.position + 8, left - 8);
        }
        let mut chunk = [0; 4096];
        while left > 0 {
            let part = &mut chunk[..left.min(4096) as usize];
            self.file.read_exact(part)?;
            hash.update(part);
            (self.position, left) = (self.position + part.len() as u64, left - part.len() as u64);
        }
        let is_commit = keyspace == COMMITS_ID && key_length == 8 && head[1] == VALUE;
        Ok(Some(if is_commit { split_commit_key(&key).ok() } else { None }))
    }

    fn is_zero_from(&mut self, start: u64) -> io::Result<bool> {
        self.go_to(start)?;
        let mut is_zero = true;
        self.each_chunk(|_, chunk| is_zero = is_zero && chunk.iter().all(|byte| *byte == 0))?;
        Ok(is_zero)
    }

    /// Where something ends that looks like the end of a batch.
    fn trailers_from(&mut self, start: u64) -> io::Result<Vec<u64>> {
        self.go_to(start)?;
        let mut found = Vec::new();
        let mut window: Vec<u8> = Vec::new();
        let whole = (END_BYTES as usize) + TRAILER.len();
        self.each_chunk(|at, chunk| {
            let kept = window.len();
            window.extend_from_slice(chunk);
            let ends = window.windows(whole).enumerate().filter(|(_, part)| part[0] == END && part.ends_with(&TRAILER));
            found.extend(ends.map(|(offset, _)| at - kept as u64 + (offset + whole) as u64));
            window.drain(..window.len().saturating_sub(whole - 1));
        })?;
        Ok(found)
    }

    /// All that follows, each chunk with its position.
    fn each_chunk(&mut self, mut take: impl FnMut(u64, &[u8])) -> io::Result<()> {
        let mut chunk = vec![0; READ_BYTES];
        loop {
            let length = self.file.read(&mut chunk)?;
            if length == 0 {
                return Ok(());
            }
            take(self.position, &chunk[..length]);
            self.position += length as u64;
        }
    }
}
