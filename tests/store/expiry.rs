//! What is over leaves the disk though nothing is written any more, and nothing else does.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use weir::store::{
    Bounds, Failure, Log as _, Retention, Write,
    disk::{Disk, Options, verify},
};

use crate::{
    common::{NOW_MS, RETENTION, all, append, await_ready, commit, expire, folder, message, options, seqs},
    full::Small,
};

const AGE_MS: u64 = 100_000;
const LATER_MS: u64 = NOW_MS + 10 * AGE_MS;

/// Small tables, and messages that do not live long.
fn short_lived() -> Options {
    let retention = Retention { age_ms: AGE_MS, dedup_messages: 100, ..RETENTION };
    Options { memtable_bytes: 400_000, ..options(retention) }
}

fn open(dir: &Path, options: Options) -> Disk {
    Disk::open(dir, options).unwrap_or_else(|error| panic!("{error}")).0
}

fn channel(number: u64) -> String {
    format!("user/{number}")
}

/// So many messages of 10 kB to each of so many channels.
fn fill(log: &mut Disk, channels: u64, messages: u64) {
    let names: Vec<String> = (0..channels).map(channel).collect();
    let ids: Vec<u64> = (0..channels * messages).collect();
    for ids in ids.chunks(10) {
        let writes: Vec<Write<'_>> =
            ids.iter().map(|id| append(&names[(id % channels) as usize], message(id + 1, &[7; 10_000]))).collect();
        commit(log, NOW_MS, &writes);
    }
}

/// What the tables of messages take up on the disk.
fn table_bytes(dir: &Path) -> u64 {
    let tables = fs::read_dir(dir.join("log/keyspaces/1/tables")).unwrap();
    tables.filter_map(|table| Some(table.unwrap().metadata().ok()?.len())).sum()
}

/// Waits until the tables take up no more than this, which they may when a merge that is under way is done.
fn await_size(log: &mut Disk, wall_ms: u64, most: u64) {
    let deadline = Instant::now() + Duration::from_secs(20);
    for round in 1.. {
        expire(log, wall_ms + round * AGE_MS);
        let bytes = table_bytes(&log.dir());
        if bytes <= most {
            return;
        }
        assert!(Instant::now() < deadline, "{bytes} bytes are still there, of {most}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_is_over_leaves_the_disk_though_nothing_is_written() {
    let folder = folder();
    let mut log = open(folder.path(), short_lived());
    fill(&mut log, 50, 20);
    await_ready(&mut log);
    assert!(table_bytes(folder.path()) > 8_000_000, "{}", table_bytes(folder.path()));
    expire(&mut log, NOW_MS);
    assert!(table_bytes(folder.path()) > 8_000_000, "nothing is over yet");
    // What the last memtables held may have become one since.
    await_size(&mut log, LATER_MS, 1_000_000);
    for number in 0..50 {
        assert_eq!(log.bounds(&channel(number)), Ok(Bounds { first: 21, last: 20, lost: 0 }));
    }
    let wall_ms = LATER_MS + 1_000 * AGE_MS;
    assert_eq!(seqs(&commit(&mut log, wall_ms, &[append("user/7", message(9_999, b"x"))])), [21], "sequences go on");
    drop(log);
    assert_eq!(verify(folder.path()).unwrap().findings, Vec::<String>::new());
    let mut log = open(folder.path(), short_lived());
    assert_eq!(log.bounds("user/7"), Ok(Bounds { first: 21, last: 21, lost: 0 }));
    assert_eq!(log.bounds("user/8"), Ok(Bounds { first: 21, last: 20, lost: 0 }));
}

/// Between two steps of the walk messages come into channels that it has just found to be over, and a table is written with them alone.
#[test]
fn a_message_that_comes_during_the_walk_stays() {
    const CHANNELS: u64 = 200;
    // They are among the first by name, and have numbers in a row.
    const LATE: std::ops::Range<u64> = 100..110;
    let folder = folder();
    let mut log = open(folder.path(), short_lived());
    fill(&mut log, CHANNELS, 5);
    let (mut id, mut steps, mut idle) = (100_000, 0, 0);
    while idle < 3 {
        // It pauses while the database is behind, and while tables are merged.
        await_ready(&mut log);
        std::thread::sleep(Duration::from_millis(50));
        idle = if log.expire(LATER_MS).unwrap() { 0 } else { idle + 1 };
        steps += 1;
        // The first step begins the walk, the second one meets them.
        if (2..5).contains(&steps) {
            for number in LATE {
                id += 1;
                commit(&mut log, LATER_MS, &[append(&channel(number), message(id, &[1; 20_000]))]);
            }
        }
        assert!(steps < 1_000, "it comes to no end");
    }
    for number in 0..CHANNELS {
        let seqs: Vec<u64> = all(&mut log, &channel(number)).iter().map(|message| message.seq).collect();
        let expected = if LATE.contains(&number) { vec![6, 7, 8] } else { vec![] };
        assert_eq!(seqs, expected, "{number}");
    }
    drop(log);
    assert_eq!(verify(folder.path()).unwrap().findings, Vec::<String>::new());
}

/// The bytes of a channel in which all is over are counted anew, though what is over may still lie there.
#[test]
fn a_channel_that_begins_anew_adds_up() {
    let folder = folder();
    let mut log = open(folder.path(), short_lived());
    fill(&mut log, 1, 3);
    expire(&mut log, LATER_MS);
    drop(log);
    let mut log = open(folder.path(), short_lived());
    assert_eq!(seqs(&commit(&mut log, LATER_MS, &[append(&channel(0), message(9, b"x"))])), [4]);
    drop(log);
    assert_eq!(verify(folder.path()).unwrap().findings, Vec::<String>::new());
}

/// The log itself has filled its disk, and nobody makes room.
#[test]
fn a_log_that_filled_its_disk_goes_on_when_that_is_over() {
    let folder = folder();
    let Some(mounted) = Small::mount(folder.path(), "320m") else { return };
    let dir = mounted.path().join("data");
    // Journals take up to 128 MB, and stay.
    let reserve_bytes = 60 << 20;
    let mut log = open(&dir, Options { reserve_bytes, memtable_bytes: 8 << 20, ..short_lived() });
    let mut id = 0;
    let send = |log: &mut Disk, wall_ms, id: u64| {
        await_ready(log);
        let mut outcomes = Vec::new();
        log.commit(wall_ms, &[append(&channel(id % 10), message(id, &[id as u8; 400_000]))], &mut outcomes)
    };
    let failure = loop {
        id += 1;
        match send(&mut log, NOW_MS, id) {
            Ok(()) => assert!(id < 10_000, "the disk does not fill up"),
            Err(failure) => break failure,
        }
    };
    assert_eq!(failure, Failure::Full);
    // Where tables were written late the disk is full to the last byte, and the log closed until they are removed.
    let expire_if_open = |log: &mut Disk, wall_ms| while log.expire(wall_ms) == Ok(true) {};
    expire_if_open(&mut log, NOW_MS);
    assert_eq!(send(&mut log, NOW_MS, id), Err(Failure::Full), "as long as nothing is over");
    let deadline = Instant::now() + Duration::from_secs(60);
    for round in 1.. {
        let wall_ms = LATER_MS + round * AGE_MS;
        expire_if_open(&mut log, wall_ms);
        match send(&mut log, wall_ms, id) {
            Ok(()) => break,
            Err(failure) => assert!(Instant::now() < deadline, "{failure:?}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
