//! Thousands of connections that do nothing good.
#![forbid(unsafe_code)]

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::SockRef;
use weir::wire::ErrorCode;

use crate::harness::{Bystanders, Frame, Gateway, Got, LoginFields, Peer, Reactor, frame_bytes, on_both_reactors};

/// This process has a limit of open files too: one storm at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const IDLE: usize = 10_000;

/// Lets this process have as many descriptors as it may.
fn raise_descriptor_limit() -> u64 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("the soft limit may be raised");
    hard
}

on_both_reactors! {
    /// 10,000 connections that do nothing: closed by the deadline for LOGIN, their memory bounded, and the others go on.
    fn ten_thousand_idle_connections(reactor) {
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let hard = raise_descriptor_limit();
        assert!(hard >= IDLE as u64 + 2_000, "this test holds {IDLE} sockets, and the limit of open files is {hard}: raise it (ulimit -Hn)");
        let flags = ["--shards", "4", "--limits-connections-per-address", "0", "--timeouts-login-ms", "3000"];
        let gateway = Gateway::start(reactor, &flags);
        let bystanders = Bystanders::start(&gateway);
        let rss = gateway.rss_bytes();
        let mut idle: Vec<Peer> = (0..IDLE).map(|_| gateway.connect()).collect();
        gateway.await_true("all to be accepted", |gateway| gateway.metric("accepted_total") >= IDLE as u64 + 6);
        let grown = gateway.rss_bytes().saturating_sub(rss);
        assert!(grown < 32 << 20, "{IDLE} idle connections take {grown} bytes");
        bystanders.await_progress();
        gateway.login("newcomer", "1").check_alive();
        gateway.await_value("LOGIN_TIMEOUT", IDLE as u64, |gateway| gateway.closed(ErrorCode::LoginTimeout));
        for peer in idle.iter_mut().step_by(500) {
            peer.expect_closed(ErrorCode::LoginTimeout);
        }
        gateway.await_value("connections", 6, |gateway| gateway.metric("connections"));
        assert!(gateway.rss_bytes().saturating_sub(rss) < 32 << 20, "nothing of it stays");
        gateway.login("newcomer", "1").check_alive();
        bystanders.check();
    }

    /// Connections that are reset at each stage of their life.
    fn resets(reactor) {
        let gateway = Gateway::start(reactor, &["--shards", "4"]);
        let bystanders = Bystanders::start(&gateway);
        let join = frame_bytes(&Frame::Join(weir::wire::body::Join { group: "storm".to_owned(), cursor: None }));
        for round in 0..3_000 {
            let mut peer = gateway.connect();
            let login = LoginFields { client: &format!("storm-{}", round % 100), ..LoginFields::default() }.frame();
            SockRef::from(peer.stream()).set_linger(Some(Duration::ZERO)).expect("an option");
            match round % 5 {
                0 => {}
                1 => peer.write(&login[..login.len() / 2]),
                2 => peer.write(&login),
                3 => peer.write(&[&login[..], &join].concat()),
                _ => {
                    peer.write(&[&login[..], &join].concat());
                    // Another of the same name may have superseded it already.
                    assert!(matches!(peer.next(), Got::LoginOk(_)));
                }
            }
        }
        gateway.await_value("connections", 6, |gateway| gateway.metric("connections"));
        for (what, left) in [("sessions", 6), ("clients", 6), ("group_members", 0), ("inbound_bytes", 0), ("outbound_bytes", 0)] {
            gateway.await_value(what, left, |gateway| gateway.metric(what));
        }
        assert!(gateway.metric("broken_total") > 0);
        gateway.login("survivor", "1").check_alive();
        bystanders.check();
    }

    /// Clients that end their direction and stay: they get what is theirs and the end, and hold nothing.
    fn half_open_connections(reactor) {
        let gateway = Gateway::start(reactor, &["--shards", "4"]);
        let bystanders = Bystanders::start(&gateway);
        let mut peers: Vec<Peer> = (0..400)
            .map(|index| {
                let mut peer = gateway.connect();
                if index % 2 == 0 {
                    peer.write(&LoginFields { client: &format!("half-{index}"), ..LoginFields::default() }.frame());
                }
                peer.finish();
                peer
            })
            .collect();
        gateway.await_value("connections", 6, |gateway| gateway.metric("connections"));
        for (index, peer) in peers.iter_mut().enumerate() {
            match &peer.drain()[..] {
                [Got::LoginOk(_), Got::End] if index % 2 == 0 => {}
                [Got::End] if index % 2 == 1 => {}
                other => panic!("{index}: {other:?}"),
            }
        }
        assert_eq!(gateway.metric("hung_up_total"), 400);
        bystanders.check();
    }

    /// A thousand wrong peers at once, each with more in flight than is read of it.
    fn garbage_from_all_sides(reactor) {
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        raise_descriptor_limit();
        let gateway = Gateway::start(reactor, &["--shards", "4"]);
        let bystanders = Bystanders::start(&gateway);
        let mut peers: Vec<Peer> = (0..1_000)
            .map(|_| {
                let mut peer = gateway.connect();
                peer.write(&[0xa5; 30_000]);
                peer
            })
            .collect();
        for peer in &mut peers {
            peer.expect_closed(ErrorCode::BadMagic);
        }
        drop(peers);
        gateway.await_value("connections", 6, |gateway| gateway.metric("connections"));
        assert_eq!(gateway.closed(ErrorCode::BadMagic), 1_000);
        assert!(gateway.log().lines().count() < 100, "a wrong peer does not fill the log:\n{}", gateway.log());
        bystanders.check();
    }
}
