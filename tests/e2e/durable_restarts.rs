//! Messages on disk: what is there after the gateway was stopped and started again, and who may use a directory.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use weir::wire::{ErrorCode, body};

use crate::harness::{Frame, Gateway, Got, PATIENCE, Peer, Reactor, on_both_reactors, run_weir};

const WINDOW: u32 = 1_000;

/// A directory for messages, on the disk that holds the build: /tmp may be memory.
pub fn data_folder() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let data = folder.path().join("data").to_str().expect("UTF-8").to_owned();
    (folder, data)
}

pub fn start(reactor: Reactor, data: &str, flags: &[&str]) -> Gateway {
    Gateway::start(reactor, &[&["--shards", "4", "--timeouts-drain-ms", "2000", "--data", data], flags].concat())
}

/// SIGTERM, and an orderly end. All connections must be closed, or are closed by it.
fn stop(mut gateway: Gateway) {
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.wait(PATIENCE).code(), Some(0), "{}", gateway.log());
}

/// (first, last, received, read, unread)
fn numbers(cursors: &body::Cursors) -> (u64, u64, u64, u64, u64) {
    (cursors.first, cursors.last, cursors.received, cursors.read, cursors.unread)
}

/// Waits until the log has forgotten everything before a message.
fn await_first(peer: &mut Peer, channel: &str, first: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let page = peer.sync(channel, 1, 1);
        if page.first >= first {
            return assert_eq!(page.first, first, "no more than that");
        }
        assert!(Instant::now() < deadline, "{page:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

on_both_reactors! {
    fn everything_outlives_a_restart(reactor) {
        let (_folder, data) = data_folder();
        let gateway = start(reactor, &data, &[]);
        let mut sender = gateway.login("sender", "1");
        let (mut phone, _) = gateway.enroll("alice", "phone", WINDOW, None);
        let (mut tablet, _) = gateway.enroll("alice", "tablet", WINDOW, None);
        for device in [&mut phone, &mut tablet] {
            device.follow("team", None);
        }
        let first = sender.keep("user/alice", 1, b"first");
        assert_eq!(first.durability(), body::Durability::Fsync);
        sender.fill("user/alice", 2..=10);
        sender.fill("group/team", 11..=20);
        for device in [&mut phone, &mut tablet] {
            device.expect_seqs_of(&[("user/alice", 10), ("group/team", 10)]);
        }
        phone.received("user/alice", 4);
        phone.received("group/team", 3);
        phone.read("user/alice", 5);
        assert_eq!(numbers(&phone.next_cursors()), (1, 10, 4, 5, 5));
        assert_eq!(numbers(&tablet.next_cursors()), (1, 10, 0, 5, 5));
        tablet.leave("team");
        // One says goodbye, one is sent away; neither loses what it said.
        drop(phone);
        tablet.received("user/alice", 7);
        let history = sender.sync("group/team", 1, 200).messages;
        drop(sender);
        stop(gateway);

        let gateway = start(reactor, &data, &[]);
        let mut sender = gateway.login("sender", "1");
        assert_eq!(sender.sync("group/team", 1, 200).messages, history);
        // A retry is recognized, and so is a number that was used.
        assert_eq!(sender.keep("user/alice", 1, b"first"), body::Accepted { duplicate: true, ..first.clone() });
        sender.send_durable("user/alice", 15, b"15");
        sender.expect_refused(ErrorCode::MessageIdReused);
        let next = sender.keep("user/alice", 21, b"next");
        assert_eq!((next.seq, next.duplicate), (11, false));
        assert!(next.timestamp > history[9].timestamp, "time goes on");
        let (mut phone, cursors) = gateway.enroll("alice", "phone", WINDOW, None);
        assert_eq!(numbers(&cursors), (1, 11, 4, 5, 6));
        phone.expect_seqs("user/alice", 5..=11);
        assert_eq!(numbers(&phone.follow("team", None)), (1, 10, 3, 0, 10));
        phone.expect_seqs("group/team", 4..=10);
        let (mut tablet, cursors) = gateway.enroll("alice", "tablet", WINDOW, None);
        assert_eq!(numbers(&cursors), (1, 11, 7, 5, 6));
        tablet.expect_seqs("user/alice", 8..=11);
        assert_eq!(tablet.follow("team", None).received, 10, "it had left");
        sender.fill("group/team", 22..=22);
        for device in [&mut phone, &mut tablet] {
            device.expect_seqs("group/team", 11..=11);
            device.check_alive();
        }
    }

    /// The connection still works after GOAWAY, and so does the log.
    fn what_is_accepted_while_it_stops_is_kept(reactor) {
        let (_folder, data) = data_folder();
        let mut gateway = start(reactor, &data, &[]);
        let mut sender = gateway.login("sender", "1");
        sender.fill("user/alice", 1..=5);
        gateway.signal(Signal::SIGTERM);
        assert!(matches!(sender.next(), Got::Goaway(_)));
        sender.fill("user/alice", 6..=10);
        // As much as is accepted until the gateway goes, with all of it under way.
        for id in 11..=400 {
            let send = weir::wire::SendRef { channel: "user/alice", client_msg_id: id, class: 1, payload: &[1; 100], ..Default::default() };
            sender.send_frame(&Frame::Send(send));
        }
        let accepted = sender.drain().iter().filter(|got| matches!(got, Got::Accepted(_))).count() as u64;
        assert_eq!(gateway.wait(PATIENCE).code(), Some(0), "{}", gateway.log());
        let gateway = start(reactor, &data, &[]);
        let (mut alice, cursors) = gateway.enroll("alice", "1", WINDOW, None);
        assert!(cursors.last >= 10 + accepted, "{cursors:?}, and {accepted} were accepted on the way");
        alice.expect_seqs("user/alice", 1..=cursors.last);
        alice.check_alive();
    }

    fn two_gateways_do_not_share_a_directory(reactor) {
        let (_folder, data) = data_folder();
        let gateway = start(reactor, &data, &[]);
        let mut sender = gateway.login("sender", "1");
        sender.fill("user/alice", 1..=3);
        for _ in 0..2 {
            let second = run_weir(&["serve", "--dev", "--listen", "127.0.0.1:0", "--data", &data]);
            let said = String::from_utf8_lossy(&second.stderr);
            assert_eq!(second.status.code(), Some(1), "{said}");
            assert!(said.contains(&data) && said.contains("another weir process") && said.contains("--data DIR"), "{said}");
        }
        sender.fill("user/alice", 4..=6);
        // A killed one leaves no lock behind.
        gateway.signal(Signal::SIGKILL);
        drop(gateway);
        let gateway = start(reactor, &data, &[]);
        let (mut alice, _) = gateway.enroll("alice", "1", WINDOW, None);
        alice.expect_seqs("user/alice", 1..=6);
    }

    /// Cursors from before retention: what is gone is announced. And one channel's noise does not push out another's messages.
    fn what_retention_removed_is_announced(reactor) {
        let (_folder, data) = data_folder();
        let flags = ["--store-channel-messages-max", "20"];
        let gateway = start(reactor, &data, &flags);
        let mut sender = gateway.login("sender", "1");
        let (mut quiet, _) = gateway.enroll("quiet", "1", WINDOW, None);
        sender.fill("user/quiet", 1..=3);
        quiet.expect_seqs("user/quiet", 1..=3);
        // This one has five messages, and then is away.
        let (mut alice, _) = gateway.enroll("alice", "1", 5, None);
        alice.follow("team", None);
        sender.fill("group/team", 1_001..=1_100);
        alice.expect_seqs("group/team", 1..=5);
        await_first(&mut sender, "group/team", 81);
        let gap = Got::Gap(body::Gap { channel: "group/team".to_owned(), from: 6, to: 80, code: ErrorCode::Expired.number() });
        alice.received("group/team", 5);
        assert_eq!(alice.next(), gap);
        alice.expect_seqs("group/team", 81..=85);
        drop(alice);
        drop(quiet);
        stop(gateway);

        let gateway = start(reactor, &data, &flags);
        let (mut late, _) = gateway.enroll("late", "1", WINDOW, None);
        assert_eq!(numbers(&late.follow("team", Some(5))), (81, 100, 5, 0, 100));
        assert_eq!(late.next(), gap);
        late.expect_seqs("group/team", 81..=100);
        late.check_alive();
        let page = late.sync("group/team", 1, 200);
        assert_eq!((page.first, page.last, page.next, page.messages.len(), page.messages[0].seq), (81, 100, 101, 20, 81));
        let (mut quiet, cursors) = gateway.enroll("quiet", "2", WINDOW, None);
        assert_eq!(numbers(&cursors), (1, 3, 0, 0, 3));
        quiet.expect_seqs("user/quiet", 1..=3);
        quiet.check_alive();
    }
}
