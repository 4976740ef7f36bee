//! A disk without room: writers are told so, readers go on, nothing that was accepted is lost, and service resumes by itself.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use weir::store::{
    Bounds, Failure, Log, Outcome, Retention, Write,
    disk::{Disk, Options, verify},
};

use crate::common::{NOW_MS, RETENTION, all, append, await_ready, commit, expire, folder, message, options, read_cursor, seqs};

#[test]
fn below_the_reserve_writers_are_refused_and_readers_are_not() {
    let folder = folder();
    let free = Arc::new(AtomicU64::new(1_000));
    let quota = Arc::clone(&free);
    let retention = Retention { age_ms: 60_000, ..RETENTION };
    let options =
        Options { reserve_bytes: 1_000, free_bytes: Box::new(move |_| Ok(quota.load(Ordering::Relaxed))), ..options(retention) };
    let mut log = Disk::open(folder.path(), options).unwrap().0;
    commit(&mut log, NOW_MS, &[append("user/a", message(1, b"x"))]);
    free.store(999, Ordering::Relaxed);
    let mut outcomes = Vec::new();
    let cursor = Write::Advance { key: read_cursor("user/a", "a"), to: 1 };
    for write in [append("user/a", message(2, b"y")), cursor] {
        assert_eq!(log.commit(NOW_MS, &[write], &mut outcomes), Err(Failure::Full));
    }
    assert_eq!(log.bounds("user/a"), Ok(Bounds { first: 1, last: 1, lost: 0 }));
    assert_eq!(all(&mut log, "user/a").len(), 1);
    // What makes room is not refused.
    expire(&mut log, NOW_MS + 100_000);
    assert_eq!(log.bounds("user/a"), Ok(Bounds { first: 2, last: 1, lost: 0 }));
    free.store(1_000, Ordering::Relaxed);
    assert_eq!(seqs(&commit(&mut log, NOW_MS, &[append("user/a", message(2, b"y"))])), [2]);
    assert_eq!(log.cursor(read_cursor("user/a", "a")), Ok(None));
}

/// A small file system; gone with this value.
pub struct Small<'a>(&'a Path);

impl Small<'_> {
    /// `None` where mounting is not permitted, which it says.
    pub fn mount<'a>(at: &'a Path, size: &str) -> Option<Small<'a>> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at).output();
        let is_mounted = mounted.is_ok_and(|output| output.status.success());
        if !is_mounted {
            println!("not tested: mounting a file system is not permitted here");
        }
        is_mounted.then_some(Small(at))
    }

    pub fn path(&self) -> &Path {
        self.0
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).output();
    }
}

fn send(log: &mut Disk, id: u64) -> Result<Outcome, Failure> {
    let mut outcomes = Vec::new();
    await_ready(log);
    log.commit(NOW_MS, &[append("user/a", message(id, &[id as u8; 20_000]))], &mut outcomes)?;
    Ok(outcomes[0])
}

/// What makes room must be able to run then, too.
#[test]
fn a_log_that_broke_off_opens_again_below_the_reserve_and_expires() {
    let folder = folder();
    let Some(mounted) = Small::mount(folder.path(), "64m") else { return };
    let free = Arc::new(AtomicU64::new(u64::MAX));
    let told = Arc::clone(&free);
    let retention = Retention { age_ms: 60_000, ..RETENTION };
    let options = Options {
        reserve_bytes: 60 << 20,
        memtable_bytes: 4 << 20,
        free_bytes: Box::new(move |_| Ok(told.load(Ordering::Relaxed))),
        ..options(retention)
    };
    let mut log = Disk::open(&mounted.path().join("data"), options).unwrap().0;
    let ballast = mounted.path().join("ballast");
    // More than all that may be in memory only: that is written when it opens.
    fs::write(&ballast, vec![1; 24 << 20]).unwrap();
    let accepted = (1..).map_while(|id| send(&mut log, id).ok()).take(10_000).count() as u64;
    assert!((100..10_000).contains(&accepted), "{accepted} were accepted");
    assert!(log.expire(NOW_MS).is_err(), "it broke off");
    fs::remove_file(&ballast).unwrap();
    free.store(24 << 20, Ordering::Relaxed);
    let deadline = Instant::now() + Duration::from_secs(60);
    let later_ms = NOW_MS + 100_000;
    while log.expire(later_ms) != Ok(false) || !log.bounds("user/a").is_ok_and(|bounds| bounds.first > accepted) {
        assert!(Instant::now() < deadline, "it does not open: {:?}", log.bounds("user/a"));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(send(&mut log, 1), Err(Failure::Full), "the reserve is not for messages");
    free.store(u64::MAX, Ordering::Relaxed);
    while let Err(failure) = send(&mut log, accepted + 1) {
        assert!(Instant::now() < deadline, "service does not resume: {failure:?}");
        log.expire(later_ms).ok();
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Without a reserve the database itself comes to the end of the disk, in a journal or in a table.
#[test]
fn a_disk_that_is_really_full_loses_nothing_and_service_resumes() {
    let folder = folder();
    let Some(mounted) = Small::mount(folder.path(), "12m") else { return };
    let dir = mounted.0.join("data");
    let ballast = mounted.0.join("ballast");
    for memtable_bytes in [16 << 20, 4 << 20] {
        fs::write(&ballast, vec![1; 6 << 20]).unwrap();
        let mut log = Disk::open(&dir, Options { memtable_bytes, ..options(RETENTION) }).unwrap().0;
        let mut accepted = Vec::new();
        let mut id = 0;
        let failure = loop {
            id += 1;
            match send(&mut log, id) {
                Ok(outcome) => accepted.extend(seqs(&[outcome])),
                Err(failure) => break failure,
            }
            assert!(id < 10_000, "the disk does not fill up");
        };
        assert_eq!(failure, Failure::Full, "after {id} messages");
        assert!(accepted.len() > 50, "{} were accepted", accepted.len());
        assert_eq!(send(&mut log, id), Err(Failure::Full), "and it stays full");
        fs::remove_file(&ballast).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let again = loop {
            match send(&mut log, id) {
                Ok(outcome) => break seqs(&[outcome]),
                Err(_) => assert!(Instant::now() < deadline, "service does not resume"),
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        // The one that failed has its place after those before it, whether it was stored then or now.
        assert_eq!(again, [accepted.len() as u64 + 1]);
        let stored = all(&mut log, "user/a");
        assert_eq!(stored.iter().map(|message| message.seq).collect::<Vec<_>>(), (1..=again[0]).collect::<Vec<_>>());
        assert_eq!(stored.iter().map(|message| message.from.2).collect::<Vec<_>>(), (1..=id).collect::<Vec<_>>());
        drop(log);
        assert_eq!(verify(&dir).unwrap().findings, Vec::<String>::new());
        fs::remove_dir_all(&dir).unwrap();
    }
}
