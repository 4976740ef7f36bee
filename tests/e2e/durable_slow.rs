//! Devices that do not keep up: memory stays bounded, nobody else waits, and nothing is missing once they read.
#![forbid(unsafe_code)]

use std::{net::Ipv4Addr, ops::RangeInclusive, thread::JoinHandle};

use weir::wire::{ErrorCode, body};

use crate::{
    floods::connect_from,
    harness::{Bystanders, Frame, Gateway, Got, LoginFields, Peer, Reactor, on_both_reactors},
};

/// What may wait on one connection in these tests.
const BUDGET: &str = "300000";
const PAYLOAD: usize = 20_000;
const MESSAGES: u64 = 300;
const WINDOW: u32 = 32_768;

/// A sleeper's connection: the kernel's buffers take little of what comes.
fn connect_small(gateway: &Gateway) -> Peer {
    connect_from(gateway, Ipv4Addr::LOCALHOST, Some(4_096))
}

fn payload(id: u64) -> Vec<u8> {
    (0..PAYLOAD as u64).map(|at| (at * 31 + id) as u8).collect()
}

/// Reads its group as fast as it comes, and acknowledges now and then.
fn read_on(mut peer: Peer, seqs: RangeInclusive<u64>) -> JoinHandle<Peer> {
    std::thread::spawn(move || {
        for seq in seqs {
            let message = peer.next_durable();
            assert_eq!((message.channel.as_str(), message.seq), ("group/team", seq));
            assert!(message.payload == payload(message.client_msg_id), "unaltered");
            if seq % 20 == 0 {
                peer.received("group/team", seq);
            }
        }
        peer
    })
}

on_both_reactors! {
    fn a_member_that_never_reads(reactor) {
        let flags = ["--shards", "4", "--limits-outbound-bytes-per-connection", BUDGET, "--timeouts-write-ms", "2000"];
        let gateway = Gateway::start(reactor, &[&flags[..], &["--limits-bytes-per-second", "0"]].concat());
        let bystanders = Bystanders::start(&gateway);
        let mut victim = connect_small(&gateway);
        victim.log_in(&LoginFields { client: "victim", device: "1", window: WINDOW, ..LoginFields::default() });
        victim.next_cursors();
        victim.follow("team", None);
        let members: Vec<Peer> = (0..12)
            .map(|member| {
                let (mut peer, _) = gateway.enroll(&format!("member-{member}"), "1", WINDOW, None);
                peer.follow("team", None);
                peer
            })
            .collect();
        let readers: Vec<_> = members.into_iter().map(|peer| read_on(peer, 1..=MESSAGES)).collect();
        let mut sender = gateway.login("sender", "1");
        for id in 1..=MESSAGES {
            assert_eq!(sender.keep("group/team", id, &payload(id)).seq, id);
        }
        for reader in readers {
            reader.join().expect("it gets everything, in order").check_alive();
        }
        let waiting = gateway.metric("outbound_bytes");
        assert!(waiting <= 300_000 + 65_536, "{waiting} bytes wait for the one that does not read");
        assert_eq!(gateway.metric("dropped_connection_full_total"), 0, "nothing durable is dropped");
        // It is disconnected when the deadline has passed, and finds everything when it comes back.
        gateway.await_value("SLOW_CONSUMER", 1, |gateway| gateway.closed(ErrorCode::SlowConsumer));
        drop(victim);
        let (mut victim, _) = gateway.enroll("victim", "1", WINDOW, None);
        assert_eq!(victim.follow("team", None).received, 0);
        read_on(victim, 1..=MESSAGES).join().expect("nothing is missing").check_alive();
        bystanders.check();
    }

    /// More waits for it than its budget, and its own channel and a group share that.
    fn a_device_that_reads_slowly(reactor) {
        let flags = ["--shards", "4", "--limits-outbound-bytes-per-connection", BUDGET, "--limits-bytes-per-second", "0"];
        let gateway = Gateway::start(reactor, &flags);
        let mut sender = gateway.login("sender", "1");
        for id in 1..=100 {
            sender.keep("user/slow", id, &payload(id));
            sender.keep("group/team", 1_000 + id, &payload(1_000 + id));
        }
        let mut slow = connect_small(&gateway);
        slow.log_in(&LoginFields { client: "slow", device: "1", window: WINDOW, ..LoginFields::default() });
        slow.send_frame(&Frame::Join(body::Join { group: "team".to_owned(), cursor: Some(0) }));
        let (mut own, mut group) = (0, 0);
        let mut most = 0;
        while (own, group) != (101, 101) {
            match slow.next() {
                Got::Push { channel, seq, client_msg_id, payload: seen, .. } => {
                    let newest = if channel == "user/slow" { &mut own } else { &mut group };
                    assert_eq!(seq, *newest + 1, "{channel}");
                    *newest = seq;
                    assert!(seen == payload(client_msg_id), "unaltered");
                }
                Got::Cursors(_) | Got::JoinOk(_) => {}
                other => panic!("{other:?}"),
            }
            if (own + group) % 20 == 0 {
                most = most.max(gateway.metric("outbound_bytes"));
            }
            // What comes meanwhile has its place behind.
            if own + group == 50 {
                sender.keep("user/slow", 101, &payload(101));
                sender.keep("group/team", 1_101, &payload(1_101));
            }
        }
        assert!(most <= 300_000 + 65_536, "{most} bytes");
        slow.check_alive();
    }
}
