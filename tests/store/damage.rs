//! Files that are cut off or have a flipped bit: what is lost is reported, or nothing is lost; never is there silently less, or
//! something else. And a repair makes it usable again without giving a sequence twice.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use weir::store::{
    Log, PageLimit, Write,
    disk::{Disk, OpenError, Options, repair, verify},
};

use crate::common::{NOW_MS, RETENTION, Seen, append, commit, folder, message, options, page, received, seqs};

const CHANNELS: [&str; 3] = ["user/a", "group/b", "user/c"];
/// Nothing here takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);
/// Places that are tried in a file that is too large to try all.
const SAMPLES: u64 = 6;
const SMALL: u64 = 30;

/// Memtables are full soon, so that there are tables.
fn small() -> Options {
    Options { memtable_bytes: 120_000, ..options(RETENTION) }
}

fn payload(id: u64) -> Vec<u8> {
    (0..40 + id % 60).map(|at| (id * 31 + at) as u8).collect()
}

fn send(log: &mut dyn Log, ids: std::ops::Range<u64>) {
    let payloads: Vec<(u64, Vec<u8>)> = ids.map(|id| (id, payload(id))).collect();
    let mut writes: Vec<Write<'_>> =
        payloads.iter().map(|(id, payload)| append(CHANNELS[(id % 3) as usize], message(*id, payload))).collect();
    let at = payloads[0].0 / 4;
    writes.push(Write::Advance { key: received("user/a", "a", "phone"), to: at });
    commit(log, NOW_MS, &writes);
}

/// What a log holds: messages by channel, and a cursor.
type Content = (BTreeMap<&'static str, Vec<Seen>>, Option<u64>);

fn content(log: &mut dyn Log) -> Result<Content, String> {
    let mut channels = BTreeMap::new();
    for channel in CHANNELS {
        // `page` is for logs that are intact.
        let mut bytes = Vec::new();
        log.read(channel, 0, PageLimit { messages: u32::MAX, bytes: u32::MAX }, &mut bytes)
            .map_err(|failure| format!("{failure:?}"))?;
        channels.insert(channel, page(log, channel, 0, PageLimit { messages: u32::MAX, bytes: u32::MAX }).0);
    }
    let cursor = log.cursor(received("user/a", "a", "phone")).map_err(|failure| format!("{failure:?}"))?;
    Ok((channels, cursor))
}

/// A log with tables and a journal, and what it holds.
fn build(dir: &Path) -> Content {
    let mut log = Disk::open(dir, small()).unwrap().0;
    for batch in 0..30 {
        send(&mut log, batch * 20..batch * 20 + 20);
    }
    drop(log);
    // What the first process left in journals becomes tables, at least in part; the rest stays there.
    let mut log = Disk::open(dir, small()).unwrap().0;
    for batch in 30..36 {
        send(&mut log, batch * 20..batch * 20 + 20);
    }
    let before = content(&mut log).unwrap();
    drop(log);
    before
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// The length of a file without the zeros at its end.
fn used(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}

/// Copies a folder, without the zeros at the end of journals.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, target) = {
            let entry = entry.unwrap();
            (entry.path(), to.join(entry.file_name()))
        };
        if path.is_dir() {
            copy(&path, &target);
            continue;
        }
        let length = fs::metadata(&path).unwrap().len();
        if length < 1 << 20 {
            fs::copy(&path, &target).unwrap();
            continue;
        }
        let mut bytes = vec![0; used(&path) as usize];
        File::open(&path).unwrap().read_exact(&mut bytes).unwrap();
        let mut copy = File::create(&target).unwrap();
        copy.write_all(&bytes).unwrap();
        copy.set_len(length).unwrap();
    }
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Cut { at: u64 },
    Flip { byte: u64, bit: u8 },
}

fn apply(damage: Damage, path: &Path) {
    let mut file = File::options().read(true).write(true).open(path).unwrap();
    match damage {
        Damage::Cut { at } => file.set_len(at).unwrap(),
        Damage::Flip { byte, bit } => {
            let mut one = [0];
            file.seek(SeekFrom::Start(byte)).unwrap();
            file.read_exact(&mut one).unwrap();
            file.seek(SeekFrom::Start(byte)).unwrap();
            file.write_all(&[one[0] ^ 1 << bit]).unwrap();
        }
    }
}

/// All places of a small file, some of a large one.
fn damages(length: u64, random: &mut u64) -> Vec<Damage> {
    let mut next = move || {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        *random
    };
    let mut damages = Vec::new();
    let count = if length <= SMALL { length } else { SAMPLES };
    for number in 0..count {
        let place = if length <= SMALL { number } else { next() % length };
        damages.push(Damage::Cut { at: place });
        let byte = if length <= SMALL { number } else { next() % length };
        damages.push(Damage::Flip { byte, bit: (next() % 8) as u8 });
    }
    damages
}

/// What came of a damaged log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Same,
    Reported,
}

/// Opens a damaged log as a gateway does, and reads everything.
fn open_damaged(dir: &Path, expected: &Content) -> Result<End, String> {
    let opened = Disk::open(dir, small());
    let mut log = match opened {
        Ok((log, _)) => log,
        Err(error) => {
            let text = error.to_string();
            let helps = text.contains("weir log verify") || matches!(error, OpenError::Format { .. });
            return if helps { Ok(End::Reported) } else { Err(format!("the error does not help: {text}")) };
        }
    };
    match content(&mut log) {
        Ok(seen) if seen == *expected => Ok(End::Same),
        Ok(_) => Err("it was opened, and holds something else".to_owned()),
        Err(_) => Ok(End::Reported),
    }
}

/// A repaired log is in order, holds nothing that was not there before, and gives no sequence again.
fn repair_damaged(dir: &Path, expected: &Content) -> Result<(), String> {
    repair(dir, &options(RETENTION)).map_err(|error| format!("repair: {error}"))?;
    let verified = verify(dir).map_err(|error| format!("verify after the repair: {error}"))?;
    if !verified.findings.is_empty() {
        return Err(format!("after the repair: {:?}", verified.findings));
    }
    let mut log = Disk::open(dir, small()).map_err(|error| format!("after the repair: {error}"))?.0;
    let (channels, _) = content(&mut log)?;
    for (channel, messages) in &channels {
        if let Some(strange) = messages.iter().find(|message| !expected.0[channel].contains(message)) {
            return Err(format!("after the repair {channel} holds {strange:?}"));
        }
    }
    for (id, channel) in (1_000_000..).zip(CHANNELS) {
        let next = seqs(&commit(&mut log, NOW_MS, &[append(channel, message(id, b"new"))]));
        let newest = expected.0[channel].last().map_or(0, |message| message.seq);
        if next[0] <= newest {
            return Err(format!("{channel} gives {} again: {newest} was given before", next[0]));
        }
        let (seen, bounds) = page(&mut log, channel, newest + 1, PageLimit { messages: 1, bytes: 1 });
        if seen[0].seq != next[0] || !bounds.is_lost(newest + 1, next[0] - 1) {
            return Err(format!("{channel}: nobody is told that {} to {} are lost: {bounds:?}", newest + 1, next[0] - 1));
        }
        commit(&mut log, NOW_MS, &[Write::Forget { key: received(channel, "a", "phone") }]);
    }
    Ok(())
}

/// One damage to one file of a copy.
fn try_one(original: &Path, file: &Path, damage: Damage, expected: &Content, repairs: bool) -> Result<End, String> {
    let copied = folder();
    let dir = copied.path().join("data");
    copy(original, &dir);
    apply(damage, &dir.join(file));
    let end = open_damaged(&dir, expected)?;
    if end == End::Reported && repairs {
        let verified = verify(&dir);
        if verified.is_ok_and(|verified| verified.findings.is_empty()) {
            return Err("a gateway would not take it, but `verify` finds nothing".to_owned());
        }
        repair_damaged(&dir, expected)?;
    }
    Ok(end)
}

#[test]
fn no_damage_goes_unnoticed() {
    let original = folder();
    let dir = original.path().join("data");
    let expected = build(&dir);
    let mut random = 0x9e37_79b9_7f4a_7c15;
    let mut trials = Vec::new();
    for file in files(&dir) {
        let relative = file.strip_prefix(&dir).unwrap().to_path_buf();
        trials.extend(damages(used(&file), &mut random).into_iter().map(|damage| (relative.clone(), damage)));
    }
    let tables = trials.iter().filter(|(file, _)| file.to_string_lossy().contains("/1/tables/")).count();
    let journals = trials.iter().filter(|(file, _)| file.to_string_lossy().ends_with(".jnl")).count();
    assert!(tables > 0 && journals > 0, "{tables} trials with tables of messages, {journals} with journals");
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let ends = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some((file, damage)) = trials.get(number).cloned() else { break };
                    let (sender, receiver) = mpsc::channel();
                    let (dir, expected, of) = (dir.clone(), expected.clone(), file.clone());
                    std::thread::spawn(move || sender.send(try_one(&dir, &of, damage, &expected, number % 4 == 0)));
                    let end = receiver.recv_timeout(PATIENCE).unwrap_or_else(|_| Err("it hangs, or it died".to_owned()));
                    match end {
                        Ok(end) => *ends.lock().unwrap().entry(format!("{end:?}")).or_insert(0) += 1,
                        Err(why) => wrong.lock().unwrap().push(format!("{}, {damage:?}: {why}", file.display())),
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), trials.len(), wrong.join("\n"));
    println!("{} trials: {:?}", trials.len(), ends.into_inner().unwrap());
}

/// The largest table of messages.
fn largest_table(dir: &Path) -> PathBuf {
    let tables = files(&dir.join("log/keyspaces/1/tables"));
    tables.into_iter().max_by_key(|table| fs::metadata(table).unwrap().len()).expect("there are tables")
}

/// Two channels in tables of several blocks: the first with 600 messages, the second with 10.
fn in_tables(dir: &Path, options: impl Fn() -> Options) {
    let mut log = Disk::open(dir, options()).unwrap().0;
    let send = |log: &mut Disk, channel: &str, ids: std::ops::Range<u64>| {
        let writes: Vec<Write<'_>> = ids.map(|id| append(channel, message(id, &[7; 1_000]))).collect();
        commit(log, NOW_MS, &writes);
    };
    send(&mut log, "user/a", 1..601);
    send(&mut log, "user/b", 601..611);
    // What is in memory becomes a table by the next.
    send(&mut log, "user/c", 611..1_211);
    crate::common::await_ready(&mut log);
    std::thread::sleep(Duration::from_millis(300));
}

/// All that is read of a channel, page by page, as a device that is behind does.
fn pages(log: &mut Disk, channel: &str) -> Vec<u64> {
    let (mut next, mut seen) = (1, Vec::new());
    loop {
        let (page, bounds) = page(log, channel, next, PageLimit { messages: 50, bytes: u32::MAX });
        let Some(last) = page.last() else {
            assert!(bounds.last >= next || bounds.last + 1 == next, "{bounds:?}, {next}");
            return seen;
        };
        next = last.seq + 1;
        seen.extend(page.iter().map(|message| message.seq));
    }
}

#[test]
fn readers_go_on_behind_what_is_damaged_in_a_table() {
    let folder = folder();
    let dir = folder.path().join("data");
    in_tables(&dir, small);
    let table = largest_table(&dir);
    apply(Damage::Flip { byte: fs::metadata(&table).unwrap().len() / 3, bit: 5 }, &table);
    let mut log = Disk::open(&dir, small()).unwrap().0;
    let mut holes = 0;
    for (channel, last) in [("user/a", 600), ("user/b", 10), ("user/c", 600)] {
        let seen = pages(&mut log, channel);
        assert!(seen.is_sorted() && seen.first() == Some(&1) && seen.last() == Some(&last), "{channel}: {seen:?}");
        let gaps: Vec<(u64, u64)> = seen.windows(2).filter(|pair| pair[1] > pair[0] + 1).map(|pair| (pair[0], pair[1])).collect();
        assert!(gaps.iter().all(|(before, behind)| behind - before < 40), "about a block: {gaps:?}");
        holes += gaps.len();
    }
    assert_eq!(holes, 1, "the damage takes one block");
    drop(log);
    assert!(!verify(&dir).unwrap().findings.is_empty(), "and it is reported");
}

/// A channel whose newest message cannot be read keeps the walk from its end, and the walk rests before it begins again.
#[test]
fn the_walk_rests_when_it_meets_a_damaged_channel() {
    let options = || Options { retention: weir::store::Retention { age_ms: 640_000, ..RETENTION }, ..small() };
    let every_ms = 10_000;
    let folder = folder();
    let dir = folder.path().join("data");
    in_tables(&dir, options);
    let wall_ms = NOW_MS + 1_000_000;
    let walks = |log: &mut Disk, wall_ms| {
        let mut steps = 0;
        while log.expire(wall_ms).unwrap() {
            steps += 1;
            assert!(steps < 100, "it comes to no end");
        }
        steps > 0
    };
    let table = largest_table(&dir);
    // The newest message of the channel lies at the end of the data.
    let length = fs::metadata(&table).unwrap().len();
    let damaged = (1..40).map(|part| length * part / 40).rev().find(|byte| {
        apply(Damage::Flip { byte: *byte, bit: 1 }, &table);
        let is_newest =
            Disk::open(&dir, options()).is_ok_and(|(mut log, _)| log.bounds("user/a").is_err() || log.bounds("user/c").is_err());
        if !is_newest {
            apply(Damage::Flip { byte: *byte, bit: 1 }, &table);
        }
        is_newest
    });
    assert!(damaged.is_some(), "no place in the table is that of a channel's newest message");
    let mut log = Disk::open(&dir, options()).unwrap().0;
    assert!(walks(&mut log, wall_ms), "it walks");
    assert!(!walks(&mut log, wall_ms + every_ms - 1), "it rests, though messages have grown older");
    assert!(walks(&mut log, wall_ms + every_ms), "it tries again");
    assert!(!walks(&mut log, wall_ms + every_ms), "and rests again");
    // Nobody else is kept from anything.
    assert_eq!(seqs(&commit(&mut log, wall_ms, &[append("user/b", message(9_999, b"x"))])), [11]);
}
