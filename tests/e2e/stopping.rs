//! How the gateway ends: GOAWAY to everybody, what is queued leaves, exit status 0, all within the deadline.
#![forbid(unsafe_code)]

use std::{
    io,
    net::TcpStream,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use weir::wire::ErrorCode;

use crate::harness::{Gateway, Got, PATIENCE, Peer, Reactor, on_both_reactors};

fn expect_goaway(peer: &mut Peer) {
    match peer.next() {
        Got::Goaway(goaway) => {
            assert_eq!(goaway.code, ErrorCode::GoingAway.number());
            assert_eq!((goaway.delay_min_ms, goaway.delay_max_ms), (100, 700));
            assert_eq!(goaway.alternatives, ["gw2.example:7700", "gw3.example:7700"]);
        }
        other => panic!("expected GOAWAY, got {other:?}"),
    }
}

fn start(reactor: Reactor, drain_ms: &str) -> Gateway {
    let window = ["--timeouts-goaway-delay-min-ms", "100", "--timeouts-goaway-delay-max-ms", "700"];
    let alternatives = ["--goaway-alternatives", "gw2.example:7700,gw3.example:7700"];
    Gateway::start(reactor, &[&window[..], &alternatives, &["--timeouts-drain-ms", drain_ms]].concat())
}

on_both_reactors! {
    fn everybody_is_sent_away(reactor) {
        let mut gateway = start(reactor, "4000");
        let (mut alice, mut bob) = (gateway.login("alice", "1"), gateway.login("bob", "1"));
        let mut anonymous = gateway.connect();
        gateway.await_value("connections", 3, |gateway| gateway.metric("connections"));
        let begun = Instant::now();
        gateway.signal(Signal::SIGTERM);
        expect_goaway(&mut alice);
        expect_goaway(&mut bob);
        anonymous.expect_closed(ErrorCode::GoingAway);
        gateway.await_true("new connections to be refused", |gateway| {
            matches!(TcpStream::connect(gateway.addr), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
        });
        // The connection still works: what was begun can be finished.
        assert_eq!(alice.send_counted("user/bob", 1, b"see you"), (1, 0));
        assert_eq!(bob.next_push(), ("alice".to_owned(), 1, b"see you".to_vec()));
        drop(alice);
        // Who stays is told in the end, half-way to the deadline.
        bob.expect_closed(ErrorCode::GoingAway);
        drop(bob);
        let status = gateway.wait(PATIENCE);
        assert_eq!(status.code(), Some(0), "{}", gateway.log());
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(2_000), "clients had time: {took:?}");
        assert!(took < Duration::from_millis(4_000 + 1_000), "the deadline holds: {took:?}");
    }

    fn a_signal_right_after_the_announcement_is_not_missed(reactor) {
        for _ in 0..10 {
            let mut gateway = Gateway::start(reactor, &[]);
            gateway.signal(Signal::SIGTERM);
            assert_eq!(gateway.wait(PATIENCE).code(), Some(0), "{}", gateway.log());
        }
    }

    fn who_is_still_here_can_finish_though_most_shards_are_empty(reactor) {
        let window = ["--timeouts-drain-ms", "6000", "--shards", "8"];
        let mut gateway = Gateway::start(reactor, &window);
        let (mut alice, mut bob) = (gateway.login("alice", "1"), gateway.login("bob", "1"));
        let groups: Vec<String> = (0..40).map(|group| format!("room{group}")).collect();
        for group in &groups {
            bob.join(group);
        }
        gateway.signal(Signal::SIGTERM);
        assert!(matches!(alice.next(), Got::Goaway(_)) && matches!(bob.next(), Got::Goaway(_)));
        // Time for a shard that believes itself done to stop.
        std::thread::sleep(Duration::from_millis(300));
        // The groups live on all shards, of which at most two have a connection.
        for (id, group) in (1..).zip(&groups) {
            assert_eq!(alice.send_counted(&format!("group/{group}"), id, b"last words"), (1, 0));
            assert_eq!(bob.next_push(), ("alice".to_owned(), id, b"last words".to_vec()));
        }
        alice.join("a room that nobody was in");
        drop((alice, bob));
        assert_eq!(gateway.wait(PATIENCE).code(), Some(0), "{}", gateway.log());
    }

    fn it_does_not_wait_for_nobody(reactor) {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let mut gateway = start(reactor, "60000");
            let mut alice = gateway.login("alice", "1");
            gateway.signal(signal);
            expect_goaway(&mut alice);
            drop(alice);
            assert_eq!(gateway.wait(PATIENCE).code(), Some(0), "{}", gateway.log());
        }
    }

    /// Clients that neither read nor go do not hold it up.
    fn the_deadline_holds(reactor) {
        let mut gateway = start(reactor, "1000");
        let _stubborn: Vec<Peer> = (0..20).map(|index| gateway.login(&format!("stubborn-{index}"), "1")).collect();
        let begun = Instant::now();
        gateway.signal(Signal::SIGTERM);
        assert_eq!(gateway.wait(PATIENCE).code(), Some(0), "{}", gateway.log());
        assert!(begun.elapsed() < Duration::from_millis(1_000 + 2_000), "{:?}", begun.elapsed());
    }

    /// What was queued before the signal arrives, in front of GOAWAY.
    fn what_is_queued_leaves_first(reactor) {
        let mut gateway = start(reactor, "10000");
        let (mut alice, mut bob) = (gateway.login("alice", "1"), gateway.login("bob", "1"));
        for id in 0..150u64 {
            assert_eq!(alice.send_counted("user/bob", id, &[id as u8; 6_000]), (1, 0));
        }
        gateway.signal(Signal::SIGTERM);
        expect_goaway(&mut alice);
        drop(alice);
        for id in 0..150u64 {
            assert_eq!(bob.next_push(), ("alice".to_owned(), id, vec![id as u8; 6_000]));
        }
        expect_goaway(&mut bob);
        drop(bob);
        assert_eq!(gateway.wait(PATIENCE).code(), Some(0), "{}", gateway.log());
    }

    fn a_second_signal_ends_it_at_once(reactor) {
        let mut gateway = start(reactor, "60000");
        let mut alice = gateway.login("alice", "1");
        gateway.signal(Signal::SIGTERM);
        expect_goaway(&mut alice);
        assert!(gateway.is_running());
        gateway.signal(Signal::SIGTERM);
        assert_eq!(gateway.wait(PATIENCE).code(), Some(143), "{}", gateway.log());
    }
}
