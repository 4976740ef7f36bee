//! The classes of transient messages, for a device that sleeps and wakes up: what it missed, and what it did not.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use weir::wire::{SendRef, body::DeliveryClass};

use crate::floods::connect_from;
use crate::harness::{Frame, Gateway, Got, LoginFields, Peer, Reactor, on_both_reactors};

const FLAGS: [&str; 6] =
    ["--limits-outbound-bytes-per-connection", "300000", "--limits-frames-per-second", "0", "--limits-bytes-per-second", "0"];
/// So many of 20 kB do not fit into the sockets' buffers.
const MESSAGES: u64 = 600;

/// A device that does not read, and a sender.
fn sleeper(gateway: &Gateway) -> (Peer, Peer) {
    let mut sleeper = connect_from(gateway, Ipv4Addr::LOCALHOST, Some(4_096));
    sleeper.log_in(&LoginFields { client: "bob", device: "asleep", ..LoginFields::default() });
    (sleeper, gateway.login("alice", "1"))
}

/// Sends messages numbered from 1, which must all be queued.
fn send_all(sender: &mut Peer, class: DeliveryClass, key: impl Fn(u64) -> String) {
    for id in 1..=MESSAGES {
        let payload = vec![id as u8; 20_000];
        let key = key(id);
        sender.send_frame(&Frame::Send(SendRef {
            channel: "user/bob",
            client_msg_id: id,
            class: class as i32,
            payload: &payload,
            receipt: true,
            key: &key,
            ..SendRef::default()
        }));
        match sender.next() {
            Got::SendOk(ok) => assert_eq!((ok.client_msg_id, ok.reached, ok.dropped), (id, 1, 0)),
            other => panic!("{other:?}"),
        }
    }
}

/// Wakes up: all messages that come until the gateway answers a PING. Each must be whole, and later than the one before.
fn wake(sleeper: &mut Peer) -> Vec<u64> {
    sleeper.send_frame(&Frame::Ping(weir::wire::body::Ping { sent_us: 5, rtt_us: 0 }));
    let mut ids = Vec::new();
    let mut has_pong = false;
    while !has_pong || ids.last() != Some(&MESSAGES) {
        match sleeper.next() {
            Got::Push { client_msg_id: id, payload, .. } => {
                assert!(payload.len() == 20_000 && payload.iter().all(|byte| *byte == id as u8));
                assert!(ids.last().is_none_or(|last| *last < id), "{id} behind {ids:?}");
                ids.push(id);
            }
            Got::Pong(_) => has_pong = true,
            other => panic!("{other:?}"),
        }
    }
    ids
}

on_both_reactors! {
    fn the_newest_reach_a_device_that_slept(reactor) {
        let gateway = Gateway::start(reactor, &FLAGS);
        let (mut sleeper, mut sender) = sleeper(&gateway);
        send_all(&mut sender, DeliveryClass::TransientNewest, |_| String::new());
        assert!(gateway.metric("outbound_bytes") <= 300_000 + 65_536);
        let dropped = gateway.metric("dropped_oldest_total");
        assert!(dropped > 10, "only {dropped} of {MESSAGES} were dropped");
        let ids = wake(&mut sleeper);
        assert_eq!(ids.len() as u64, MESSAGES - dropped, "what was not dropped came");
        assert_eq!((ids[0], gateway.metric("dropped_connection_full_total")), (1, 0));
        sleeper.check_alive();
    }

    fn the_latest_of_each_key_reaches_a_device_that_slept(reactor) {
        let gateway = Gateway::start(reactor, &FLAGS);
        let (mut sleeper, mut sender) = sleeper(&gateway);
        send_all(&mut sender, DeliveryClass::TransientLatest, |id| format!("key-{}", id % 3));
        let replaced = gateway.metric("dropped_replaced_total");
        assert!(replaced > 10, "only {replaced} of {MESSAGES} were replaced");
        let ids = wake(&mut sleeper);
        assert_eq!(ids.len() as u64, MESSAGES - replaced);
        assert!(ids.ends_with(&[MESSAGES - 2, MESSAGES - 1, MESSAGES]), "the latest of three keys, in order");
        assert_eq!(gateway.metric("dropped_oldest_total"), 0);
        sleeper.check_alive();
    }
}
