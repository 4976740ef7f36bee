//! What is wrong about durable messages, cursors and history: each gets its code, the connection survives, and nobody else notices.
#![forbid(unsafe_code)]

use weir::wire::{ErrorCode, body};

use crate::{
    harness::{Bystanders, Frame, Gateway, Got, LoginFields, Peer, Reactor, on_both_reactors},
    logins,
};

const LOGIN: u32 = 0x01;
const SEND: u32 = 0x10;
const RECEIVED: u32 = 0x14;
const READ: u32 = 0x15;
const JOIN: u32 = 0x20;
const SYNC: u32 = 0x25;

const WINDOW: u32 = 100;

/// What a device that takes part is told when it names a cursor that lies ahead, and where it goes on.
fn expect_cursor_ahead(peer: &mut Peer, kind: u32, cursor: u64) -> body::Cursors {
    let error = peer.expect_refusal_of(kind, ErrorCode::CursorAhead);
    assert!(error.message.contains(&format!(" {cursor},")) && error.message.contains("newest"), "{error:?}");
    peer.next_cursors()
}

on_both_reactors! {
    fn cursors_from_the_future(reactor) {
        let gateway = Gateway::start(reactor, &[]);
        let bystanders = Bystanders::start(&gateway);
        let mut sender = gateway.login("sender", "1");
        sender.fill("user/alice", 1..=3);
        sender.fill("group/team", 11..=13);
        for brought in [4, u64::MAX - 1, u64::MAX] {
            let cursor = Some(brought);
            let mut alice = gateway.connect();
            alice.log_in(&LoginFields { client: "alice", device: "1", window: WINDOW, cursor, ..LoginFields::default() });
            let cursors = expect_cursor_ahead(&mut alice, LOGIN, brought);
            assert_eq!((cursors.last, cursors.received), (3, 3), "it goes on from the newest");
            alice.send_frame(&Frame::Join(body::Join { group: "team".to_owned(), cursor }));
            assert_eq!(alice.next(), Got::JoinOk("team".to_owned()));
            let cursors = expect_cursor_ahead(&mut alice, JOIN, brought);
            assert_eq!((cursors.last, cursors.received), (3, 3));
            alice.check_alive();
        }
        assert_eq!(gateway.refused(ErrorCode::CursorAhead), 6);
        // What comes next comes.
        let (mut alice, cursors) = gateway.enroll("alice", "1", WINDOW, None);
        assert_eq!(cursors.received, 3);
        sender.fill("user/alice", 4..=4);
        alice.expect_seqs("user/alice", 4..=4);
        bystanders.check();
    }

    fn one_channel_too_many(reactor) {
        let gateway = Gateway::start(reactor, &["--store-channels-max", "2"]);
        let bystanders = Bystanders::start(&gateway);
        let mut sender = gateway.login("sender", "1");
        sender.fill("user/alice", 1..=2);
        sender.fill("group/team", 11..=12);
        sender.send_durable("user/bob", 21, b"x");
        let error = sender.expect_refusal_of(SEND, ErrorCode::StoreFull);
        assert!(error.client_msg_id == 21 && error.retry_after_ms > 1_000 && error.message.contains("channel"), "{error:?}");
        assert!(gateway.scrape().contains("\nweir_store_channels_refused_total 1\n"));
        // Those that there are take messages, and transient ones need no channel.
        sender.fill("user/alice", 3..=4);
        let (mut alice, _) = gateway.enroll("alice", "1", WINDOW, None);
        alice.expect_seqs("user/alice", 1..=4);
        let mut bob = gateway.login("bob", "1");
        assert_eq!(sender.send_counted("user/bob", 9, b"now"), (1, 0));
        assert_eq!(bob.next_push().1, 9);
        bystanders.check();
    }

    fn marks_that_lie_ahead(reactor) {
        let gateway = Gateway::start(reactor, &[]);
        let bystanders = Bystanders::start(&gateway);
        let mut sender = gateway.login("sender", "1");
        sender.fill("user/alice", 1..=20);
        let (mut alice, _) = gateway.enroll("alice", "1", 10, None);
        alice.expect_seqs("user/alice", 1..=10);
        for never_sent in [11, 20, 21, u64::MAX] {
            alice.received("user/alice", never_sent);
            let error = alice.expect_refusal_of(RECEIVED, ErrorCode::NotSent);
            assert!(error.message.contains(&never_sent.to_string()), "{error:?}");
        }
        assert_eq!(gateway.refused(ErrorCode::NotSent), 4);
        for ahead in [21, u64::MAX] {
            alice.read("user/alice", ahead);
            alice.expect_refusal_of(READ, ErrorCode::CursorAhead);
        }
        // What was never sent to this device may have been read on another.
        alice.read("user/alice", 20);
        assert_eq!(alice.next_cursors().read, 20);
        // None of it let anything out of the window.
        alice.check_alive();
        alice.received("user/alice", 10);
        alice.expect_seqs("user/alice", 11..=20);
        alice.received("user/alice", 0);
        alice.check_alive();
        bystanders.check();
    }

    fn marks_in_channels_that_are_not_followed(reactor) {
        let gateway = Gateway::start(reactor, &["--shards", "4"]);
        let bystanders = Bystanders::start(&gateway);
        let mut sender = gateway.login("sender", "1");
        sender.fill("user/bob", 1..=3);
        sender.fill("group/team", 4..=6);
        let (mut alice, _) = gateway.enroll("alice", "1", WINDOW, None);
        // Somebody else's, a group that exists, one that does not; and all of them for a device that takes no part.
        let mut plain = gateway.login("plain", "1");
        plain.join("team");
        for (peer, own) in [(&mut alice, "user/nobody"), (&mut plain, "user/plain")] {
            for channel in ["user/bob", "group/team", "group/void", own] {
                peer.received(channel, 1);
                let error = peer.expect_refusal_of(RECEIVED, ErrorCode::UnknownChannel);
                assert!(error.message.contains(channel), "{error:?}");
                peer.read(channel, 1);
                peer.expect_refusal_of(READ, ErrorCode::UnknownChannel);
            }
            for channel in ["", "team", "group/", "user/a\nb", "other/x"] {
                peer.received(channel, 1);
                peer.expect_refusal_of(RECEIVED, ErrorCode::BadChannel);
                peer.read(channel, 1);
                peer.expect_refusal_of(READ, ErrorCode::BadChannel);
                peer.ask_page(channel, 1, 10);
                peer.expect_refusal_of(SYNC, ErrorCode::BadChannel);
            }
            peer.check_alive();
        }
        // A group that was left is followed no longer.
        alice.follow("team", None);
        alice.leave("team");
        alice.received("group/team", 1);
        alice.expect_refusal_of(RECEIVED, ErrorCode::UnknownChannel);
        assert_eq!(gateway.refused(ErrorCode::UnknownChannel), 17);
        assert_eq!(gateway.refused(ErrorCode::BadChannel), 30);
        // Bob's messages wait for him untouched.
        let (mut bob, cursors) = gateway.enroll("bob", "1", WINDOW, None);
        assert_eq!((cursors.received, cursors.read), (0, 0));
        bob.expect_seqs("user/bob", 1..=3);
        bystanders.check();
    }

    fn numbers_of_messages_used_wrongly(reactor) {
        let gateway = Gateway::start(reactor, &["--shards", "4"]);
        let bystanders = Bystanders::start(&gateway);
        let (mut alice, _) = gateway.enroll("alice", "1", WINDOW, None);
        let mut sender = gateway.login("sender", "1");
        let first = sender.keep("user/alice", 5, b"content");
        // Other content, another channel; the latter on all shards, so that some are at home elsewhere.
        for (channel, payload) in [("user/alice", &b"other content"[..]), ("user/alice", b"")] {
            sender.send_durable(channel, 5, payload);
            assert_eq!(sender.expect_refusal_of(SEND, ErrorCode::MessageIdReused).client_msg_id, 5);
        }
        for other in 0..16 {
            sender.send_durable(&format!("user/other-{other}"), 5, b"content");
            assert_eq!(sender.expect_refusal_of(SEND, ErrorCode::MessageIdReused).client_msg_id, 5);
        }
        assert_eq!(gateway.refused(ErrorCode::MessageIdReused), 18);
        sender.send_durable("user/alice", 0, b"content");
        assert_eq!(sender.expect_refusal_of(SEND, ErrorCode::MessageIdMissing).client_msg_id, 0);
        assert_eq!(gateway.refused(ErrorCode::MessageIdMissing), 1);
        // The first is what it was, and nothing else was stored.
        assert_eq!(sender.keep("user/alice", 5, b"content"), body::Accepted { duplicate: true, ..first });
        assert_eq!(sender.keep("user/alice", u64::MAX, b"last").seq, 2);
        alice.expect_seqs("user/alice", 1..=2);
        alice.check_alive();
        assert_eq!(sender.sync("user/sender", 1, 10).last, 0);
        bystanders.check();
    }

    fn pages_that_cannot_be(reactor) {
        let gateway = Gateway::start(reactor, &["--shards", "4"]);
        let bystanders = Bystanders::start(&gateway);
        let mut peer = gateway.login("alice", "1");
        peer.fill("group/team", 1..=3);
        for (from, limit) in [(0, 10), (1, 0), (0, 0), (1, 201), (1, u32::MAX), (u64::MAX, 1 << 31)] {
            peer.ask_page("group/team", from, limit);
            let error = peer.expect_refusal_of(SYNC, ErrorCode::BadRange);
            assert!(error.message.contains('0'), "{error:?} says what is allowed");
        }
        assert_eq!(gateway.refused(ErrorCode::BadRange), 6);
        // Each of them somebody's, or nobody's.
        for channel in ["user/bystander-0-a", "user/nobody", "user/ALICE", "user/alice/"] {
            peer.ask_page(channel, 1, 10);
            peer.expect_refusal_of(SYNC, ErrorCode::ReadForbidden);
        }
        assert_eq!(gateway.refused(ErrorCode::ReadForbidden), 4);
        assert_eq!(peer.sync("group/team", 1, 200).messages.len(), 3);
        assert_eq!(peer.sync("user/alice", 1, 1).messages.len(), 0);
        peer.check_alive();
        bystanders.check();
    }

    fn what_the_token_does_not_cover(reactor) {
        let gateway = logins::with_keys(reactor, &[]);
        let bystanders = logins::bystanders(&gateway);
        let login = |client: &str, window, join: &[&str], write: &[&str]| {
            let owned = |groups: &[&str]| groups.iter().map(|group| (*group).to_owned()).collect();
            let token = logins::granted(client, |grant| (grant.join, grant.write) = (owned(join), owned(write)));
            let mut peer = gateway.connect();
            peer.log_in(&LoginFields { client, device: "1", window, token: &token, ..LoginFields::default() });
            peer
        };
        let mut writer = login("writer", 0, &[], &["room/*"]);
        let mut reader = login("reader", WINDOW, &["room/7"], &[]);
        reader.next_cursors();
        writer.fill("group/room/7", 1..=2);
        writer.fill("group/room/8", 3..=4);
        writer.send_durable("group/lobby", 5, b"x");
        assert_eq!(writer.expect_refusal_of(SEND, ErrorCode::WriteForbidden).client_msg_id, 5);
        reader.send_durable("group/room/7", 5, b"x");
        assert_eq!(reader.expect_refusal_of(SEND, ErrorCode::WriteForbidden).client_msg_id, 5);
        assert_eq!(gateway.refused(ErrorCode::WriteForbidden), 2);
        for cursor in [None, Some(0), Some(u64::MAX)] {
            reader.send_frame(&Frame::Join(body::Join { group: "room/8".to_owned(), cursor }));
            reader.expect_refusal_of(JOIN, ErrorCode::JoinForbidden);
        }
        reader.received("group/room/8", 1);
        reader.expect_refusal_of(RECEIVED, ErrorCode::UnknownChannel);
        // Who may write may not read for that.
        for (peer, group) in [(&mut reader, "group/room/8"), (&mut writer, "group/room/7")] {
            peer.ask_page(group, 1, 10);
            peer.expect_refusal_of(SYNC, ErrorCode::ReadForbidden);
        }
        assert_eq!(reader.follow("room/7", Some(0)).last, 2);
        reader.expect_seqs("group/room/7", 1..=2);
        assert_eq!(reader.sync("group/room/7", 2, 10).messages.len(), 1);
        // Another client's channel is there to write to, and to nothing else.
        assert_eq!(writer.keep("user/reader", 6, b"x").seq, 1);
        reader.expect_seqs("user/reader", 1..=1);
        writer.ask_page("user/reader", 1, 10);
        writer.expect_refusal_of(SYNC, ErrorCode::ReadForbidden);
        for peer in [&mut reader, &mut writer] {
            peer.check_alive();
        }
        bystanders.check();
    }
}
