//! Durable messages: kept for who is not there, in one order for everybody, each once, with cursors that devices and gateway share.
#![forbid(unsafe_code)]

use std::time::{SystemTime, UNIX_EPOCH};

use weir::wire::body;

use crate::harness::{Durable, Frame, Gateway, Got, LoginFields, Peer, Reactor, on_both_reactors};

/// Keeps messages in memory, which is what developer mode does.
const FOUR: &[&str] = &["--shards", "4"];

/// Wide enough for whatever these tests send.
const WINDOW: u32 = 1_000;

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

/// (first, last, received, read, unread)
fn numbers(cursors: &body::Cursors) -> (u64, u64, u64, u64, u64) {
    (cursors.first, cursors.last, cursors.received, cursors.read, cursors.unread)
}

on_both_reactors! {
    fn an_inbox_waits_for_its_client_and_goes_on_live(reactor) {
        let gateway = Gateway::start(reactor, FOUR);
        let mut sender = gateway.login("sender", "1");
        let begun = wall_ms();
        let mut timestamp = 0;
        for id in 1..=50 {
            let accepted = sender.keep("user/alice", id, &[id as u8; 300]);
            assert_eq!((accepted.seq, accepted.duplicate), (id, false));
            assert_eq!(accepted.durability(), body::Durability::Memory);
            assert!(accepted.timestamp > timestamp, "timestamps grow with the sequence");
            timestamp = accepted.timestamp;
            assert!((begun..=wall_ms()).contains(&(timestamp >> 16)), "{timestamp} says when it was accepted");
        }
        let (mut alice, cursors) = gateway.enroll("alice", "phone", WINDOW, None);
        assert_eq!(numbers(&cursors), (1, 50, 0, 0, 50));
        for (id, message) in (1..).zip(alice.expect_seqs("user/alice", 1..=50)) {
            let Durable { from_client, client_msg_id, payload, .. } = message;
            assert_eq!((from_client.as_str(), client_msg_id, payload), ("sender", id, vec![id as u8; 300]));
        }
        let accepted = sender.keep("user/alice", 51, b"live");
        let message = alice.next_durable();
        assert_eq!((message.seq, message.timestamp, &message.payload[..]), (51, accepted.timestamp, &b"live"[..]));
        alice.check_alive();
    }

    /// A retry gets the first answer, and nobody gets the message again.
    fn a_retry_gets_the_first_answer(reactor) {
        let gateway = Gateway::start(reactor, FOUR);
        let (mut alice, _) = gateway.enroll("alice", "phone", WINDOW, None);
        let mut sender = gateway.login("sender", "1");
        let first = sender.keep("user/alice", 7, b"once");
        for _ in 0..5 {
            let again = sender.keep("user/alice", 7, b"once");
            assert_eq!(again, body::Accepted { duplicate: true, ..first.clone() });
        }
        // Over a new connection of the same device too; another device of the sender has numbers of its own.
        drop(sender);
        let mut sender = gateway.login("sender", "1");
        assert_eq!(sender.keep("user/alice", 7, b"once"), body::Accepted { duplicate: true, ..first });
        let mut other = gateway.login("sender", "2");
        assert_eq!(other.keep("user/alice", 7, b"once").seq, 2);
        assert_eq!(sender.keep("user/alice", 8, b"next").seq, 3);
        alice.expect_seqs("user/alice", 1..=3);
        alice.check_alive();
        assert_eq!(alice.sync("user/alice", 1, 200).messages.len(), 3);
    }

    fn each_device_has_a_cursor_of_its_own(reactor) {
        let gateway = Gateway::start(reactor, FOUR);
        let mut sender = gateway.login("sender", "1");
        sender.fill("user/alice", 1..=10);
        let (mut phone, _) = gateway.enroll("alice", "phone", WINDOW, None);
        phone.expect_seqs("user/alice", 1..=10);
        phone.received("user/alice", 6);
        // Cumulative: one below says nothing new.
        phone.received("user/alice", 2);
        phone.check_alive();
        drop(phone);
        gateway.await_value("sessions", 1, |gateway| gateway.metric("sessions"));
        let (mut laptop, cursors) = gateway.enroll("alice", "laptop", WINDOW, None);
        assert_eq!(numbers(&cursors), (1, 10, 0, 0, 10));
        laptop.expect_seqs("user/alice", 1..=10);
        // What the gateway remembers, and what the device brings itself.
        let (mut phone, cursors) = gateway.enroll("alice", "phone", WINDOW, None);
        assert_eq!(numbers(&cursors), (1, 10, 6, 0, 10));
        phone.expect_seqs("user/alice", 7..=10);
        let (mut tablet, cursors) = gateway.enroll("alice", "tablet", WINDOW, Some(8));
        assert_eq!(numbers(&cursors), (1, 10, 8, 0, 10));
        tablet.expect_seqs("user/alice", 9..=10);
        // A device may go back: its storage was wiped.
        let (mut tablet, _) = gateway.enroll("alice", "tablet", WINDOW, Some(0));
        tablet.expect_seqs("user/alice", 1..=10);
        sender.fill("user/alice", 11..=12);
        for device in [&mut phone, &mut laptop, &mut tablet] {
            device.expect_seqs("user/alice", 11..=12);
            device.check_alive();
        }
    }

    /// Members and senders on all shards: everybody gets everything, in the same order, which is that of each sender too.
    fn one_order_for_a_whole_group(reactor) {
        let gateway = Gateway::start(reactor, FOUR);
        let mut members: Vec<Peer> = (0..24)
            .map(|member| {
                let (mut peer, _) = gateway.enroll(&format!("member-{member}"), "1", WINDOW, None);
                assert_eq!(numbers(&peer.follow("team", None)), (1, 0, 0, 0, 0));
                peer
            })
            .collect();
        let senders: Vec<_> = (0..8)
            .map(|sender| {
                let mut peer = gateway.login(&format!("sender-{sender}"), "1");
                std::thread::spawn(move || {
                    for id in 1..=40 {
                        peer.send_durable("group/team", id, &[id as u8; 100]);
                    }
                    (1..=40).map(|_| peer.next_accepted()).map(|accepted| (accepted.seq, accepted.client_msg_id)).collect()
                })
            })
            .collect();
        let mut accepted = vec![(String::new(), 0); 320];
        for (sender, thread) in senders.into_iter().enumerate() {
            let answers: Vec<(u64, u64)> = thread.join().expect("all are accepted");
            assert!(answers.is_sorted(), "each sender's messages stay in order");
            for (seq, id) in answers {
                accepted[seq as usize - 1] = (format!("sender-{sender}"), id);
            }
        }
        for member in &mut members {
            let seen = member.expect_seqs("group/team", 1..=320);
            let seen: Vec<(String, u64)> = seen.into_iter().map(|message| (message.from_client, message.client_msg_id)).collect();
            assert_eq!(seen, accepted);
            member.check_alive();
        }
    }

    /// The sender of a durable message is a member device like any other.
    fn a_sender_that_is_a_member_gets_it_too(reactor) {
        let gateway = Gateway::start(reactor, FOUR);
        let (mut alice, _) = gateway.enroll("alice", "phone", WINDOW, None);
        alice.follow("team", None);
        for (channel, id) in [("group/team", 1), ("user/alice", 2)] {
            alice.send_durable(channel, id, b"note to self");
            let (mut accepted, mut pushed) = (false, false);
            for _ in 0..2 {
                match alice.next() {
                    Got::Accepted(answer) => accepted = answer.client_msg_id == id && answer.seq == 1,
                    Got::Push { channel: to, seq: 1, client_msg_id, .. } => pushed = to == channel && client_msg_id == id,
                    other => panic!("{other:?}"),
                }
            }
            assert!(accepted && pushed);
        }
        alice.check_alive();
    }

    fn who_joins_stands_where_it_says_or_where_it_stood(reactor) {
        let gateway = Gateway::start(reactor, FOUR);
        let mut sender = gateway.login("sender", "1");
        sender.fill("group/team", 1..=10);
        // The first time: from now on.
        let (mut alice, _) = gateway.enroll("alice", "phone", WINDOW, None);
        assert_eq!(numbers(&alice.follow("team", None)), (1, 10, 10, 0, 10));
        sender.fill("group/team", 11..=14);
        alice.expect_seqs("group/team", 11..=14);
        alice.received("group/team", 12);
        alice.check_alive();
        drop(alice);
        gateway.await_value("sessions", 1, |gateway| gateway.metric("sessions"));
        // Then: where it stood, though membership ended with the connection.
        let (mut alice, _) = gateway.enroll("alice", "phone", WINDOW, None);
        assert_eq!(numbers(&alice.follow("team", None)), (1, 14, 12, 0, 14));
        alice.expect_seqs("group/team", 13..=14);
        // LEAVE forgets.
        alice.leave("team");
        sender.fill("group/team", 15..=16);
        assert_eq!(numbers(&alice.follow("team", None)), (1, 16, 16, 0, 16));
        // A cursor of its own.
        let (mut bob, _) = gateway.enroll("bob", "phone", WINDOW, None);
        assert_eq!(numbers(&bob.follow("team", Some(3))), (1, 16, 3, 0, 16));
        bob.expect_seqs("group/team", 4..=16);
        bob.leave("team");
        assert_eq!(numbers(&bob.follow("team", Some(0))), (1, 16, 0, 0, 16));
        bob.expect_seqs("group/team", 1..=16);
        sender.fill("group/team", 17..=17);
        for peer in [&mut alice, &mut bob] {
            peer.expect_seqs("group/team", 17..=17);
            peer.check_alive();
        }
    }

    /// So many are on their way at a time, in all channels together; acknowledgements let the next ones come.
    fn a_window_bounds_what_is_on_its_way(reactor) {
        let gateway = Gateway::start(reactor, FOUR);
        let mut sender = gateway.login("sender", "1");
        sender.fill("user/alice", 1..=20);
        let (mut alice, _) = gateway.enroll("alice", "phone", 5, None);
        alice.expect_seqs("user/alice", 1..=5);
        alice.follow("team", None);
        sender.fill("group/team", 101..=110);
        alice.check_alive();
        alice.received("user/alice", 2);
        let mut seen = (5, 0);
        let mut unacked = 3;
        while seen != (20, 10) {
            let message = alice.next_durable();
            unacked += 1;
            assert!(unacked <= 5, "no more than the window");
            let newest = if message.channel == "user/alice" { &mut seen.0 } else { &mut seen.1 };
            assert_eq!(message.seq, *newest + 1);
            *newest = message.seq;
            if unacked == 5 {
                alice.check_alive();
                for (channel, newest) in [("user/alice", seen.0), ("group/team", seen.1)] {
                    if newest > 0 {
                        alice.received(channel, newest);
                    }
                }
                unacked = 0;
            }
        }
        alice.check_alive();
    }

    fn read_is_told_to_the_other_devices(reactor) {
        let gateway = Gateway::start(reactor, FOUR);
        let mut sender = gateway.login("sender", "1");
        sender.fill("user/alice", 1..=8);
        let (mut phone, _) = gateway.enroll("alice", "phone", WINDOW, None);
        let (mut laptop, _) = gateway.enroll("alice", "laptop", WINDOW, None);
        for device in [&mut phone, &mut laptop] {
            device.expect_seqs("user/alice", 1..=8);
            device.received("user/alice", 8);
        }
        phone.read("user/alice", 5);
        for device in [&mut laptop, &mut phone] {
            assert_eq!(numbers(&device.next_cursors()), (1, 8, 8, 5, 3));
        }
        // It only goes forward.
        laptop.read("user/alice", 3);
        assert_eq!(numbers(&laptop.next_cursors()), (1, 8, 8, 5, 3));
        laptop.read("user/alice", 8);
        for device in [&mut laptop, &mut phone] {
            assert_eq!(numbers(&device.next_cursors()), (1, 8, 8, 8, 0));
            device.check_alive();
        }
        sender.fill("user/alice", 9..=10);
        drop((phone, laptop));
        // Unread is told at LOGIN, to a device that never was here before as well.
        let (_, cursors) = gateway.enroll("alice", "tablet", WINDOW, None);
        assert_eq!(numbers(&cursors), (1, 10, 0, 8, 2));
    }

    fn read_in_a_group_is_the_clients_own(reactor) {
        let gateway = Gateway::start(reactor, FOUR);
        let mut sender = gateway.login("sender", "1");
        let (mut phone, _) = gateway.enroll("alice", "phone", WINDOW, None);
        let (mut laptop, _) = gateway.enroll("alice", "laptop", WINDOW, None);
        let (mut bob, _) = gateway.enroll("bob", "phone", WINDOW, None);
        for peer in [&mut phone, &mut laptop, &mut bob] {
            peer.follow("team", None);
        }
        sender.fill("group/team", 1..=4);
        for peer in [&mut phone, &mut laptop, &mut bob] {
            peer.expect_seqs("group/team", 1..=4);
        }
        phone.read("group/team", 4);
        for device in [&mut phone, &mut laptop] {
            assert_eq!(numbers(&device.next_cursors()), (1, 4, 0, 4, 0));
        }
        bob.read("group/team", 2);
        assert_eq!(numbers(&bob.next_cursors()), (1, 4, 0, 2, 2));
        for peer in [&mut phone, &mut laptop, &mut bob] {
            peer.check_alive();
        }
    }

    fn history_comes_in_pages(reactor) {
        let gateway = Gateway::start(reactor, FOUR);
        let mut sender = gateway.login("sender", "1");
        sender.fill("group/team", 1..=450);
        // Who takes no part in durable delivery may read it as well.
        let mut reader = gateway.login("reader", "1");
        let (mut from, mut seen) = (1, Vec::new());
        while from <= 450 {
            let page = reader.sync("group/team", from, 200);
            assert_eq!((page.first, page.last), (1, 450));
            assert!(page.messages.iter().all(|message| message.channel.is_empty() && message.from_client == "sender"));
            seen.extend(page.messages.iter().map(|message| (message.seq, message.client_msg_id, message.timestamp)));
            from = page.next;
        }
        assert!(seen.iter().map(|(seq, ..)| *seq).eq(1..=450) && seen.iter().all(|(seq, id, _)| seq == id));
        assert!(seen.is_sorted_by_key(|(.., timestamp)| *timestamp));
        let page = reader.sync("group/team", 449, 1);
        assert_eq!((page.next, page.messages.len(), page.messages[0].payload.as_slice()), (450, 1, &b"449"[..]));
        let beyond = [("group/team", 451, 450), ("group/team", u64::MAX, 450), ("group/nobody", 1, 0), ("user/reader", 9, 0)];
        for (channel, from, last) in beyond {
            let page = reader.sync(channel, from, 200);
            assert_eq!((page.first, page.last, page.next, page.messages.len()), (1, last, from, 0), "{channel} from {from}");
        }
        // Large messages: fewer to a page, none left out.
        for id in 451..=470 {
            sender.keep("user/reader", id, &vec![id as u8; 30_000]);
        }
        let (mut from, mut pages) = (1, 0);
        while from <= 20 {
            let page = reader.sync("user/reader", from, 200);
            assert!(!page.messages.is_empty() && page.messages.iter().all(|message| message.payload.len() == 30_000));
            (from, pages) = (page.next, pages + 1);
        }
        assert!((10..=20).contains(&pages), "{pages} pages");
        reader.check_alive();
    }

    /// A window of 0: nothing durable is pushed, and there is nothing to acknowledge. Both kinds of devices of one client.
    fn who_takes_no_part_gets_no_durable_messages(reactor) {
        let gateway = Gateway::start(reactor, FOUR);
        let mut plain = gateway.login("alice", "plain");
        plain.join("team");
        let (mut phone, _) = gateway.enroll("alice", "phone", WINDOW, None);
        phone.follow("team", None);
        let mut sender = gateway.login("sender", "1");
        for (id, channel) in [(1, "user/alice"), (2, "group/team")] {
            sender.fill(channel, id..=id);
            assert_eq!(phone.next_durable().channel, channel);
            // A transient message behind it reaches both.
            assert_eq!(sender.send_counted(channel, 9, b"now"), (2, 0));
            for device in [&mut plain, &mut phone] {
                assert_eq!(device.next_push(), ("sender".to_owned(), 9, b"now".to_vec()));
            }
        }
    }

    /// A device that connects again while messages pour in: no gap and no repeat where replay meets live.
    fn no_gap_and_no_repeat_at_the_seam(reactor) {
        let gateway = Gateway::start(reactor, FOUR);
        let mut sender = gateway.login("sender", "1");
        let sending = std::thread::spawn(move || {
            for burst in 0..60 {
                sender.fill("user/alice", burst * 50 + 1..=burst * 50 + 50);
                sender.fill("group/team", burst * 50 + 10_001..=burst * 50 + 10_050);
            }
        });
        let mut have = (0, 0);
        let mut visits = 0;
        while have != (3_000, 3_000) {
            visits += 1;
            let mut alice = gateway.connect();
            let cursor = Some(have.0);
            alice.log_in(&LoginFields { client: "alice", device: "1", window: 64, cursor, ..LoginFields::default() });
            alice.send_frame(&Frame::Join(body::Join { group: "team".to_owned(), cursor: Some(have.1) }));
            for _ in 0..visits % 7 * 97 + 50 {
                if have == (3_000, 3_000) {
                    break;
                }
                match alice.next() {
                    Got::Push { channel, seq, .. } => {
                        let newest = if channel == "user/alice" { &mut have.0 } else { &mut have.1 };
                        assert_eq!(seq, *newest + 1, "{channel} on visit {visits}");
                        *newest = seq;
                        alice.received(&channel, seq);
                    }
                    Got::JoinOk(_) => {}
                    Got::Cursors(cursors) => {
                        let newest = if cursors.channel == "user/alice" { have.0 } else { have.1 };
                        assert_eq!(cursors.received, newest);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        sending.join().expect("all are accepted");
        assert!(visits > 5, "it came often: {visits}");
    }
}
