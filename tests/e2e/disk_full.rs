//! A disk without room: senders are told so, nothing that was accepted is lost, everything else goes on, and so does the log when there
//! is room again.
#![forbid(unsafe_code)]

use std::{
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use weir::wire::{ErrorCode, body};

use crate::{
    durable_restarts::start,
    harness::{Bystanders, Gateway, Got, PATIENCE, Peer, Reactor, on_both_reactors},
};

const WINDOW: u32 = 32_768;
const SEND: u32 = 0x10;
const PAYLOAD: usize = 20_000;

/// A small file system in memory.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// Fails where this user may not mount anything.
    fn mount(megabytes: u32) -> Result<SmallDisk, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "weir-test"]).arg(folder.path());
        let output = mount.output().map_err(|error| error.to_string())?;
        if output.status.success() { Ok(SmallDisk { folder }) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    fn data(&self) -> String {
        self.folder.path().join("data").to_str().expect("UTF-8").to_owned()
    }

    fn filler(&self) -> PathBuf {
        self.folder.path().join("filler")
    }

    /// Takes so much room away.
    fn fill(&self, megabytes: usize) {
        let mut file = File::create(self.filler()).expect("a file");
        for _ in 0..megabytes {
            file.write_all(&[1; 1 << 20]).expect("there was room for it");
        }
    }

    /// Takes all the room that is left.
    fn fill_up(&self) {
        let mut file = File::options().append(true).open(self.filler()).expect("the file of `fill`");
        while file.write_all(&[2; 4096]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.filler()).expect("it is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The gateway may be about to end.
        let _ = Command::new("umount").arg("--lazy").arg(self.folder.path()).status();
    }
}

/// Loudly: whoever reads the output shall not believe that it was tested.
fn skip(why: &str) {
    eprintln!("SKIPPED: this user may not mount a small disk: {why}");
}

fn payload(id: u64) -> Vec<u8> {
    let mut payload = vec![id as u8; PAYLOAD];
    payload[..8].copy_from_slice(&id.to_be_bytes());
    payload
}

/// What came of a durable SEND.
fn offer(sender: &mut Peer, channel: &str, id: u64) -> Result<u64, body::Error> {
    sender.send_durable(channel, id, &payload(id));
    match sender.next() {
        Got::Accepted(accepted) => {
            assert_eq!((accepted.client_msg_id, accepted.channel.as_str()), (id, channel));
            Ok(accepted.seq)
        }
        Got::Error(error) => {
            assert!(!error.closing && error.in_reply_to == SEND && error.client_msg_id == id, "{error:?}");
            Err(error)
        }
        other => panic!("SEND was answered by {other:?}"),
    }
}

/// Sends one message until it is accepted.
fn insist(sender: &mut Peer, channel: &str, id: u64) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match offer(sender, channel, id) {
            Ok(seq) => return seq,
            Err(error) => {
                assert!(Instant::now() < deadline, "there is room again, and still {error:?}");
                std::thread::sleep(Duration::from_millis(u64::from(error.retry_after_ms).clamp(50, 1_000)));
            }
        }
    }
}

fn is_full(error: &body::Error) -> bool {
    error.code == ErrorCode::StoreFull.number() && error.retry_after_ms > 0
}

on_both_reactors! {
    /// The room that the gateway leaves is gone: it refuses, and reads on.
    fn senders_are_refused_and_everything_else_goes_on(reactor) {
        let disk = match SmallDisk::mount(160) {
            Ok(disk) => disk,
            Err(why) => return skip(&why),
        };
        let gateway = start(reactor, &disk.data(), &["--store-reserve-bytes", "40000000"]);
        let bystanders = Bystanders::start(&gateway);
        let (mut alice, _) = gateway.enroll("alice", "1", WINDOW, None);
        let mut sender = gateway.login("sender", "1");
        for id in 1..=50 {
            assert_eq!(offer(&mut sender, "user/alice", id), Ok(id));
        }
        disk.fill(130);
        let mut refused = 0;
        for id in 51..=60 {
            let error = offer(&mut sender, "user/alice", id).expect_err("there is no room");
            assert!(is_full(&error), "{error:?}");
            refused += 1;
        }
        gateway.await_value("STORE_FULL", refused, |gateway| gateway.refused(ErrorCode::StoreFull));
        // Transient traffic, logins of both kinds, replay, history: all of it needs no room.
        assert_eq!(sender.send_counted("user/alice", 9, b"now"), (1, 0));
        alice.expect_seqs("user/alice", 1..=50);
        assert_eq!(alice.next_push().1, 9);
        let (mut laptop, cursors) = gateway.enroll("alice", "laptop", WINDOW, None);
        assert_eq!(cursors.last, 50);
        laptop.expect_seqs("user/alice", 1..=50);
        let mut plain = gateway.login("plain", "1");
        plain.join("team");
        assert_eq!(alice.sync("user/alice", 49, 10).messages.len(), 2);
        bystanders.await_progress();
        // READ cannot be kept either, and is told so; the acknowledgement is kept when there is room.
        alice.received("user/alice", 50);
        alice.read("user/alice", 50);
        assert!(is_full(&alice.expect_refused(ErrorCode::StoreFull)));
        disk.free();
        // By itself.
        for id in 51..=100 {
            assert_eq!(insist(&mut sender, "user/alice", id), id);
        }
        for device in [&mut alice, &mut laptop] {
            let seen = device.expect_seqs("user/alice", 51..=100);
            assert!(seen.iter().all(|message| message.payload == payload(message.client_msg_id) && message.client_msg_id == message.seq));
            device.check_alive();
        }
        bystanders.check();
    }

    /// It comes up without a byte to write to, says what it cannot do, and does the rest.
    fn a_restart_on_a_full_disk(reactor) {
        let disk = match SmallDisk::mount(160) {
            Ok(disk) => disk,
            Err(why) => return skip(&why),
        };
        let flags = ["--store-reserve-bytes", "20000000"];
        let gateway = start(reactor, &disk.data(), &flags);
        let mut sender = gateway.login("sender", "1");
        for id in 1..=50 {
            assert_eq!(offer(&mut sender, "user/alice", id), Ok(id));
        }
        disk.fill(100);
        disk.fill_up();
        gateway.signal(Signal::SIGKILL);
        drop(gateway);
        let gateway = start(reactor, &disk.data(), &flags);
        let mut sender = gateway.login("sender", "1");
        assert!(is_full(&offer(&mut sender, "user/alice", 51).expect_err("there is no room")));
        let (mut alice, cursors) = gateway.enroll("alice", "1", WINDOW, None);
        assert_eq!((cursors.first, cursors.last), (1, 50));
        alice.expect_seqs("user/alice", 1..=50);
        assert_eq!(alice.sync("user/alice", 49, 10).messages.len(), 2);
        assert_eq!(sender.send_counted("user/alice", 9, b"now"), (1, 0));
        assert_eq!(alice.next_push().1, 9);
        disk.free();
        assert_eq!(insist(&mut sender, "user/alice", 51), 51);
        alice.expect_seqs("user/alice", 51..=51);
    }

    /// A neighbour on the same disk takes the reserve too, to the last byte, while the log writes its tables.
    fn a_neighbour_that_takes_the_last_byte(reactor) {
        let disk = match SmallDisk::mount(160) {
            Ok(disk) => disk,
            Err(why) => return skip(&why),
        };
        disk.fill(80);
        fill_to_the_brim_and_come_back(reactor, &disk, "8000000", |error| error.code == ErrorCode::StoreFull.number());
    }

    /// No room is left free at all: the disk itself refuses. What the gateway calls that, it cannot always know.
    fn a_disk_without_a_reserve(reactor) {
        let disk = match SmallDisk::mount(160) {
            Ok(disk) => disk,
            Err(why) => return skip(&why),
        };
        disk.fill(80);
        let refusals = [ErrorCode::StoreFull.number(), ErrorCode::StoreUnavailable.number()];
        fill_to_the_brim_and_come_back(reactor, &disk, "0", |error| refusals.contains(&error.code));
    }
}

/// Small tables, so that some are being written at any time.
fn start_small(reactor: Reactor, disk: &SmallDisk, reserve: &str) -> Gateway {
    let flags = ["--store-reserve-bytes", reserve, "--store-memtable-bytes", "16777216", "--limits-bytes-per-second", "0"];
    // Its member reads nothing until the disk is full, and filling it may take a while.
    start(reactor, &disk.data(), &[&flags[..], &["--timeouts-write-ms", "120000"]].concat())
}

/// Sends until it is refused, goes on while it is refused, then makes room.
fn fill_to_the_brim_and_come_back(reactor: Reactor, disk: &SmallDisk, reserve: &str, may: impl Fn(&body::Error) -> bool) {
    let gateway = start_small(reactor, disk, reserve);
    let bystanders = Bystanders::start(&gateway);
    let (mut alice, _) = gateway.enroll("alice", "1", WINDOW, None);
    let mut sender = gateway.login("sender", "1");
    let mut id = 0;
    let refused = |error: &body::Error| assert!(may(error) && error.retry_after_ms > 0, "{error:?}");
    loop {
        id += 1;
        assert!(id < 10_000, "200 MB do not fit");
        match offer(&mut sender, "user/alice", id) {
            Ok(seq) => assert_eq!(seq, id, "no gaps"),
            Err(error) => break refused(&error),
        }
    }
    disk.fill_up();
    let full_until = Instant::now() + Duration::from_millis(2_500);
    while Instant::now() < full_until {
        refused(&offer(&mut sender, "user/alice", id).expect_err("there is no room"));
        assert_eq!(sender.send_counted("user/alice", 9, b"now"), (1, 0));
        gateway.login("newcomer", "1").check_alive();
        std::thread::sleep(Duration::from_millis(100));
    }
    bystanders.await_progress();
    disk.free();
    let last = id + 20;
    for id in id..=last {
        assert_eq!(insist(&mut sender, "user/alice", id), id, "each is stored once, and none twice");
    }
    let mut next = 1;
    while next <= last {
        let got = alice.next();
        assert!(!matches!(got, Got::End | Got::Reset), "{got:?} instead of {next}");
        if let Got::Push { seq: seq @ 1.., client_msg_id, payload: seen, .. } = got {
            assert!(seq == next && client_msg_id == seq && seen == payload(seq), "{seq}, {client_msg_id}, waited for {next}");
            next += 1;
            if next.is_multiple_of(100) {
                alice.received("user/alice", seq);
            }
        }
    }
    bystanders.check();
    // What was accepted before and afterwards is there after a crash as well.
    gateway.signal(Signal::SIGKILL);
    drop(gateway);
    let gateway = start_small(reactor, disk, reserve);
    let (mut laptop, cursors) = gateway.enroll("alice", "laptop", WINDOW, None);
    assert_eq!((cursors.first, cursors.last), (1, last));
    for message in laptop.expect_seqs("user/alice", 1..=last) {
        assert!(message.client_msg_id == message.seq && message.payload == payload(message.seq));
    }
}
