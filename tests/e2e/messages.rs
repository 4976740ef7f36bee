//! Messages from one client to another: between all shards, in order, whole, once.
#![forbid(unsafe_code)]

use std::{collections::BTreeSet, thread, time::Duration};

use nix::sys::signal::Signal;
use socket2::SockRef;
use weir::wire::{ErrorCode, SendRef};

use crate::harness::{Frame, Gateway, Got, LoginFields, Peer, Reactor, frame_bytes, on_both_reactors};

/// So many clients that each of four shards is home to some: the chance that one is not is 4 × (3/4)^40, about 1 in 25,000.
const CLIENTS: usize = 40;

fn name(index: usize) -> String {
    format!("client-{index}")
}

fn log_all_in(gateway: &Gateway) -> Vec<Peer> {
    (0..CLIENTS).map(|index| gateway.login(&name(index), "1")).collect()
}

on_both_reactors! {
    /// Everybody to everybody: all pairs of shards are crossed. More shards than this machine may have cores.
    fn every_pair_of_shards(reactor) {
        let gateway = Gateway::start(reactor, &["--shards", "4"]);
        let mut peers = log_all_in(&gateway);
        for (from, peer) in peers.iter_mut().enumerate() {
            let sends: Vec<u8> = (0..CLIENTS)
                .flat_map(|to| {
                    let channel = format!("user/{}", name(to));
                    let id = (from * CLIENTS + to) as u64;
                    frame_bytes(&Frame::Send(SendRef { channel: &channel, client_msg_id: id, payload: channel.as_bytes(), ..SendRef::default() }))
                })
                .collect();
            peer.write(&sends);
        }
        for (to, peer) in peers.iter_mut().enumerate() {
            let expected: BTreeSet<(String, u64)> = (0..CLIENTS).map(|from| (name(from), (from * CLIENTS + to) as u64)).collect();
            let mut seen = BTreeSet::new();
            for _ in 0..CLIENTS {
                let (from, id, payload) = peer.next_push();
                assert_eq!(payload, format!("user/{}", name(to)).into_bytes());
                assert!(seen.insert((from, id)), "none arrives twice");
            }
            assert_eq!(seen, expected);
            peer.check_alive();
        }
        let page = gateway.scrape();
        for shard in 0..4 {
            let start = format!("weir_sessions{{shard=\"{shard}\"}} ");
            let sessions = page.lines().find_map(|line| line.strip_prefix(&start)).expect("each shard reports");
            assert_ne!(sessions, "0", "shard {shard} is home to somebody");
        }
        assert_eq!(gateway.metric("sessions"), CLIENTS as u64);
        assert_eq!(gateway.metric("pushes_total"), (CLIENTS * CLIENTS) as u64);
    }

    /// Pauses of more and of less than the time after which a connection counts as idle, at all places of a frame.
    fn nothing_is_lost_on_connections_that_fall_silent(reactor) {
        let gateway = Gateway::start(reactor, &["--timeouts-receive-idle-ms", "64"]);
        let mut peers: Vec<Peer> = (0..8).map(|index| gateway.login(&name(index), "1")).collect();
        for round in 0..40_u64 {
            let (from, to) = (round as usize % 8, (round as usize * 3 + 1) % 8);
            let channel = format!("user/{}", name(to));
            // Several at once make a connection busy, a pause makes it idle.
            for id in round * 10..round * 10 + 5 {
                let send = SendRef { channel: &channel, client_msg_id: id, payload: &[round as u8; 700], ..SendRef::default() };
                let bytes = frame_bytes(&Frame::Send(send));
                let (first, rest) = bytes.split_at(1 + (id as usize * 97) % (bytes.len() - 1));
                peers[from].write(first);
                if id % 5 == 2 {
                    thread::sleep(Duration::from_millis(round % 4 * 50));
                }
                peers[from].write(rest);
                let (sender, seen, payload) = peers[to].next_push();
                assert_eq!((sender, seen, payload.len()), (name(from), id, 700));
            }
        }
        peers.iter_mut().for_each(Peer::check_alive);
        if reactor == Reactor::Uring {
            gateway.await_true("receives are idled", |gateway| gateway.metric("receives_idled_total") >= 8);
        }
        let mut ended = peers.remove(0);
        ended.finish();
        assert!(matches!(ended.drain()[..], [Got::End]), "an end on a silent connection shows");
    }

    /// What a client sent before it reset its connection arrives, also when the gateway learns of the reset by sending to it.
    fn what_came_before_a_reset_arrives(reactor) {
        let gateway = Gateway::start(reactor, &[]);
        let (mut bob, mut carol) = (gateway.login("bob", "1"), gateway.login("carol", "1"));
        for round in 0..5_u64 {
            let mut alice = gateway.login("alice", "1");
            gateway.signal(Signal::SIGSTOP);
            carol.send("user/alice", round, b"are you there?");
            let sends = (0..8).map(|id| {
                let send = SendRef { channel: "user/bob", client_msg_id: round * 8 + id, payload: &[b'a'; 400], ..SendRef::default() };
                frame_bytes(&Frame::Send(send))
            });
            // At once, and no more than a window holds: the last ones would wait for acknowledgements.
            alice.write(&sends.collect::<Vec<_>>().concat());
            // All is in the gateway's socket by then.
            thread::sleep(Duration::from_millis(20));
            SockRef::from(alice.stream()).set_linger(Some(Duration::ZERO)).expect("can be set");
            drop(alice);
            gateway.signal(Signal::SIGCONT);
            for id in 0..8 {
                let (from, seen, payload) = bob.next_push();
                assert_eq!((from.as_str(), seen, payload.len()), ("alice", round * 8 + id, 400));
            }
            gateway.await_value("sessions", 2, |gateway| gateway.metric("sessions"));
        }
        [bob, carol].iter_mut().for_each(Peer::check_alive);
    }

    fn messages_of_one_sender_stay_in_order(reactor) {
        let gateway = Gateway::start(reactor, &["--shards", "4"]);
        let mut receivers: Vec<Peer> = (0..8).map(|index| gateway.login(&format!("receiver-{index}"), "1")).collect();
        let mut sender = gateway.login("sender", "1");
        for id in 0..800u64 {
            let length = [1, 30, 5_000, 200][id as usize % 4];
            sender.send(&format!("user/receiver-{}", id % 8), id, &vec![id as u8; length]);
        }
        for (index, receiver) in receivers.iter_mut().enumerate() {
            for id in (index as u64..800).step_by(8) {
                let (from, seen, payload) = receiver.next_push();
                assert_eq!((from.as_str(), seen), ("sender", id));
                assert!(payload.len() == [1, 30, 5_000, 200][id as usize % 4] && payload.iter().all(|byte| *byte == id as u8));
            }
        }
    }

    fn receipts_count_devices(reactor) {
        let gateway = Gateway::start(reactor, &["--shards", "4"]);
        let mut sender = gateway.login("sender", "1");
        assert_eq!(sender.send_counted("user/nobody", 1, b"?"), (0, 0));
        let mut devices: Vec<Peer> = (0..3).map(|device| gateway.login("many", &device.to_string())).collect();
        assert_eq!(sender.send_counted("user/many", 2, b"to all"), (3, 0));
        for device in &mut devices {
            assert_eq!(device.next_push(), ("sender".to_owned(), 2, b"to all".to_vec()));
        }
        // To oneself: the sending device gets it as well.
        assert!(matches!(devices.pop(), Some(_gone)));
        gateway.await_value("sessions", 3, |gateway| gateway.metric("sessions"));
        devices[0].send("user/many", 3, b"note");
        for device in &mut devices {
            assert_eq!(device.next_push(), ("many".to_owned(), 3, b"note".to_vec()));
        }
        assert_eq!(gateway.metric("unreachable_total"), 1);
    }

    fn a_push_says_where_it_came_from(reactor) {
        let gateway = Gateway::start(reactor, &[]);
        let mut bob = gateway.login("bob", "laptop");
        let mut alice = gateway.login("alice", "phone-1");
        alice.send("user/bob", 41, b"\0\xff hi");
        let expected = Got::Push {
            channel: "user/bob".to_owned(),
            from_client: "alice".to_owned(),
            from_device: "phone-1".to_owned(),
            client_msg_id: 41,
            payload: b"\0\xff hi".to_vec(),
            seq: 0,
            timestamp: 0,
        };
        assert_eq!(bob.next(), expected);
        bob.send("user/alice", u64::MAX, b"");
        assert_eq!(alice.next_push(), ("bob".to_owned(), u64::MAX, Vec::new()));
    }

    /// Bytes that came behind LOGIN, in the same write, go with the connection to its home.
    fn what_came_behind_login_moves_along(reactor) {
        let gateway = Gateway::start(reactor, &["--shards", "4"]);
        let mut reader = gateway.login("reader", "1");
        for round in 0..20u64 {
            let client = format!("hasty-{round}");
            let mut bytes = LoginFields { client: &client, device: "1", ..LoginFields::default() }.frame();
            for id in 0..50 {
                let send = SendRef { channel: "user/reader", client_msg_id: id, payload: &[id as u8; 100], receipt: true, ..SendRef::default() };
                bytes.extend(frame_bytes(&Frame::Send(send)));
            }
            let mut peer = gateway.connect();
            peer.write(&bytes);
            assert!(matches!(peer.next(), Got::LoginOk(ok) if ok.client_id == client));
            for id in 0..50 {
                assert_eq!(reader.next_push(), (client.clone(), id, vec![id as u8; 100]));
                assert!(matches!(peer.next(), Got::SendOk(ok) if ok.reached == 1));
            }
        }
        assert!(gateway.metric("moved_in_total") > 0, "of 20 clients on 4 shards some were accepted elsewhere");
    }

    /// Piece by piece, without waiting: some pieces come just while the connection moves.
    fn what_comes_while_it_moves_is_not_lost(reactor) {
        let gateway = Gateway::start(reactor, &["--shards", "4"]);
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let addr = gateway.addr;
                let mut reader = gateway.login(&format!("reader-{writer}"), "1");
                std::thread::spawn(move || {
                    let channel = format!("user/reader-{writer}");
                    for round in 0..40 {
                        let client = format!("hasty-{writer}-{round}");
                        let mut peer = Peer::connect(addr);
                        peer.write(&LoginFields { client: &client, device: "1", ..LoginFields::default() }.frame());
                        for id in 0..20 {
                            peer.send(&channel, id, &[id as u8; 500]);
                        }
                        assert!(matches!(peer.next(), Got::LoginOk(ok) if ok.client_id == client));
                        for id in 0..20 {
                            assert_eq!(reader.next_push(), (client.clone(), id, vec![id as u8; 500]));
                        }
                    }
                })
            })
            .collect();
        for writer in writers {
            if let Err(panic) = writer.join() {
                std::panic::resume_unwind(panic);
            }
        }
        assert_eq!(gateway.metric("moves_refused_total"), 0);
    }

    /// More behind LOGIN than one receive takes, cut inside frames, and our direction ended behind it.
    fn much_behind_login_and_then_the_end(reactor) {
        let gateway = Gateway::start(reactor, &["--shards", "4"]);
        let mut reader = gateway.login("reader", "1");
        for round in 0..8u64 {
            let client = format!("hasty-{round}");
            let mut bytes = LoginFields { client: &client, device: "1", ..LoginFields::default() }.frame();
            for id in 0..40 {
                let send = SendRef { channel: "user/reader", client_msg_id: id, payload: &[id as u8; 10_000], ..SendRef::default() };
                bytes.extend(frame_bytes(&Frame::Send(send)));
            }
            let mut peer = gateway.connect();
            peer.write(&bytes);
            peer.finish();
            for id in 0..40 {
                assert_eq!(reader.next_push(), (client.clone(), id, vec![id as u8; 10_000]));
            }
            assert!(matches!(peer.drain()[..], [Got::LoginOk(_), Got::End]));
        }
        gateway.await_value("sessions", 1, |gateway| gateway.metric("sessions"));
    }

    fn the_largest_payload(reactor) {
        let limit = 4_000_000;
        let gateway = Gateway::start(
            reactor,
            &["--limits-max-body-bytes", "4000000", "--limits-outbound-bytes-per-connection", "20000000"],
        );
        let mut bob = gateway.login("bob", "1");
        let mut alice = gateway.connect();
        let ok = alice.log_in(&LoginFields { client: "alice", ..LoginFields::default() });
        assert_eq!(ok.max_body_bytes, limit);
        // Beside the payload: channel, id, the payload's key and length.
        let payload: Vec<u8> = (0..limit as usize - 20).map(|at| (at * 7 % 251) as u8).collect();
        for id in 1..=3 {
            alice.send("user/bob", id, &payload);
            let (from, seen, bytes) = bob.next_push();
            assert_eq!((from.as_str(), seen), ("alice", id));
            assert!(bytes == payload, "{} bytes came, not the same", bytes.len());
        }
        alice.write(&crate::harness::raw_frame(0x10, 0, &vec![0; limit as usize + 1])[..16]);
        alice.expect_closed(ErrorCode::FrameTooLong);
    }

    fn refused_requests_leave_the_connection(reactor) {
        let gateway = Gateway::start(reactor, &[]);
        let mut peer = gateway.login("sloppy", "1");
        let long = format!("user/{}", "n".repeat(65));
        for (id, channel) in ["team", "", "/", "user/", "group/", "other/x", "user", &long, "user/a\nb"].into_iter().enumerate() {
            peer.send(channel, id as u64 + 1, b"oops");
            let error = peer.expect_refused(ErrorCode::BadChannel);
            assert_eq!((error.client_msg_id, error.in_reply_to), (id as u64 + 1, 0x10), "{channel:?}");
        }
        assert_eq!(gateway.refused(ErrorCode::BadChannel), 9);
        let send = SendRef { channel: "user/x", client_msg_id: 77, class: 9, receipt: true, ..SendRef::default() };
        peer.send_frame(&Frame::Send(send));
        let error = peer.expect_refused(ErrorCode::UnsupportedClass);
        assert_eq!((error.client_msg_id, error.in_reply_to), (77, 0x10));
        peer.check_alive();
    }
}
