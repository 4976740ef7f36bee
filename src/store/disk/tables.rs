//! Reads the database's lists of tables, and looks at the tables themselves, without changing anything.
//!
//! Both are archives of the library `sfa`: sections, a table of contents, and a trailer that has its place and checksum.
#![forbid(unsafe_code)]

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

const TRAILER_BYTES: u64 = 4 + 1 + 1 + 16 + 8 + 8;
const TRAILER_MAGIC: &[u8] = b"SFA!\x01\x00";
const CONTENTS_MAGIC: &[u8] = b"TOC!";
const READ_BYTES: usize = 1024 * 1024;
/// A table of contents names a handful of sections.
const CONTENTS_BYTES_MAX: u64 = 64 * 1024;

/// A file that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub file: PathBuf,
    pub what: &'static str,
}

/// A table that belongs to a keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub path: PathBuf,
    /// Of the whole file.
    checksum: u128,
}

type Looked<T> = io::Result<Result<T, Wrong>>;

fn wrong<T>(file: &Path, what: &'static str) -> Looked<T> {
    Ok(Err(Wrong { file: file.to_path_buf(), what }))
}

/// The tables of the keyspace in this folder.
pub(super) fn list(keyspace: &Path) -> Looked<Vec<Table>> {
    let current = keyspace.join("current");
    let Some(bytes) = read(&current)? else { return wrong(&current, "the file is missing") };
    // The number of the list, the checksum of its bytes, and which checksum it is.
    let parts = bytes.split_first_chunk::<8>().and_then(|(number, rest)| Some((number, rest.split_first_chunk::<16>()?)));
    let Some((number, (checksum, &[0]))) = parts else { return wrong(&current, "this is not what was written") };
    let list = keyspace.join(format!("v{}", u64::from_le_bytes(*number)));
    let Some(bytes) = read(&list)? else { return wrong(&list, "the list of tables is missing") };
    if xxh3_128(&bytes) != u128::from_le_bytes(*checksum) {
        return wrong(&list, "the list of tables has a wrong checksum");
    }
    match parse(&bytes, &keyspace.join("tables")) {
        Some(tables) => Ok(Ok(tables)),
        None => wrong(&list, "the list of tables is not what this version writes"),
    }
}

fn read(file: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes bytes from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

/// The tables in a list whose checksum is right.
fn parse(list: &[u8], folder: &Path) -> Option<Vec<Table>> {
    let trailer = list.get(list.len().checked_sub(TRAILER_BYTES as usize)?..)?;
    let mut fields = Fields(trailer.strip_prefix(TRAILER_MAGIC)?);
    fields.take::<16>()?;
    let contents = fields.u64()? as usize;
    let mut fields = Fields(list.get(contents..)?.strip_prefix(CONTENTS_MAGIC)?);
    let sections = fields.take().map(u32::from_le_bytes)?;
    let mut section = None;
    for _ in 0..sections {
        let (at, length) = (fields.u64()? as usize, fields.u64()? as usize);
        let name_length = fields.take().map(u16::from_le_bytes)?;
        if fields.bytes(usize::from(name_length))? == b"tables" {
            section = list.get(at..)?.get(..length);
        }
    }
    let mut fields = Fields(section?);
    let mut tables = Vec::new();
    let [levels] = fields.take()?;
    for _ in 0..levels {
        let [runs] = fields.take()?;
        for _ in 0..runs {
            for _ in 0..fields.take().map(u32::from_le_bytes)? {
                let number = fields.u64()?;
                let [0] = fields.take()? else { return None };
                let checksum = u128::from_le_bytes(fields.take()?);
                fields.u64()?;
                tables.push(Table { path: folder.join(number.to_string()), checksum });
            }
        }
    }
    Some(tables)
}

impl Table {
    /// Looks at the table of contents alone: the database asks for as much memory as it says.
    pub(super) fn look_at_contents(&self) -> Looked<()> {
        const WHAT: &str = "the table's contents have a wrong checksum";
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return wrong(&self.path, "the table is missing"),
            Err(error) => return Err(error),
        };
        let Some(end) = file.metadata()?.len().checked_sub(TRAILER_BYTES) else { return wrong(&self.path, WHAT) };
        let mut trailer = [0; TRAILER_BYTES as usize];
        file.seek(SeekFrom::Start(end))?;
        file.read_exact(&mut trailer)?;
        let Some(rest) = trailer.strip_prefix(TRAILER_MAGIC) else { return wrong(&self.path, WHAT) };
        let mut fields = Fields(rest);
        let place = fields.take().map(u128::from_le_bytes).zip(fields.u64());
        let Some((checksum, start)) = place.filter(|(_, start)| *start < end && end - start < CONTENTS_BYTES_MAX) else {
            return wrong(&self.path, WHAT);
        };
        let mut contents = vec![0; (end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut contents)?;
        if xxh3_128(&contents) == checksum { Ok(Ok(())) } else { wrong(&self.path, WHAT) }
    }

    /// Reads all of it.
    pub(super) fn look_at_all(&self) -> Looked<()> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return wrong(&self.path, "the table is missing"),
            Err(error) => return Err(error),
        };
        let mut hash = Xxh3::new();
        let mut chunk = vec![0; READ_BYTES];
        loop {
            match file.read(&mut chunk)? {
                0 => break,
                length => hash.update(&chunk[..length]),
            }
        }
        if hash.digest128() == self.checksum { Ok(Ok(())) } else { wrong(&self.path, "the table has a wrong checksum") }
    }
}
