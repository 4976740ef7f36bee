//! Clients that take more than their share, or give less than they must: the policy of each limit, seen from outside.
#![forbid(unsafe_code)]

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use weir::wire::{ErrorCode, SendRef, body};

use crate::harness::{Bystanders, Frame, Gateway, Got, LoginFields, PATIENCE, Peer, Reactor, frame_bytes, on_both_reactors};

/// Connects from an address of loopback, with a small receive buffer if asked for.
pub fn connect_from(gateway: &Gateway, from: Ipv4Addr, receive_buffer: Option<usize>) -> Peer {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes).expect("a buffer size");
    }
    socket.bind(&SocketAddr::from((from, 0)).into()).expect("all of 127/8 is ours");
    socket.connect_timeout(&gateway.addr.into(), PATIENCE).expect("the gateway listens");
    Peer::over(socket.into())
}

/// Connects many, but never more at a time than the room that io_uring's accept keeps free: beyond it the kernel accepts
/// connections that there is no slot for, and drops them.
fn connect_in_batches(gateway: &Gateway, count: u64) -> Vec<Peer> {
    let before = gateway.metric("accepted_total");
    let mut peers = Vec::new();
    for made in 1..=count {
        peers.push(gateway.connect());
        if made % 40 == 0 || made == count {
            gateway.await_value("accepted", before + made, |gateway| gateway.metric("accepted_total"));
        }
    }
    peers
}

/// What came of a connection's flood: answers, refusals that it survived, and the refusal that closed it.
fn outcome(peer: &mut Peer, code: ErrorCode) -> (usize, usize) {
    let all = peer.drain();
    let refusals = all.iter().filter(|got| matches!(got, Got::Error(error) if !error.closing)).count();
    let answers = all.iter().filter(|got| matches!(got, Got::Pong(_) | Got::SendOk(_))).count();
    match &all[..] {
        [.., Got::Error(last), Got::End] if last.closing && last.code == code.number() => (answers, refusals),
        [.., a, b] => panic!("expected ERROR {} and the end, got {a:?}, {b:?}", code.name()),
        other => panic!("{other:?}"),
    }
}

on_both_reactors! {
    /// It is not disconnected at once: what does not fit is dropped, counted and told to the sender. Then the deadline passes.
    fn a_client_that_never_reads(reactor) {
        let flags = ["--limits-outbound-bytes-per-connection", "300000", "--timeouts-write-ms", "2000"];
        let gateway = Gateway::start(reactor, &flags);
        let bystanders = Bystanders::start(&gateway);
        let rss = gateway.rss_bytes();
        let mut victim = connect_from(&gateway, Ipv4Addr::LOCALHOST, Some(4_096));
        victim.log_in(&LoginFields { client: "victim", device: "asleep", ..LoginFields::default() });
        let mut awake = gateway.login("victim", "awake");
        let mut sender = gateway.login("sender", "1");
        let payload = vec![7; 60_000];
        let (mut reached, mut dropped) = (0, 0);
        for id in 0..200 {
            let (now_reached, now_dropped) = sender.send_counted("user/victim", id, &payload);
            assert_eq!(awake.next_push().1, id, "the device that reads gets everything");
            (reached, dropped) = (reached + now_reached, dropped + now_dropped);
            if now_dropped > 0 && dropped > 20 {
                break;
            }
        }
        assert!(dropped > 20, "12 MB do not fit into sockets' buffers and 300 kB: {reached} reached, {dropped} dropped");
        assert!(gateway.metric("outbound_bytes") <= 300_000 + 65_536, "{}", gateway.metric("outbound_bytes"));
        assert!(gateway.metric("dropped_connection_full_total") >= u64::from(dropped));
        gateway.await_value("SLOW_CONSUMER", 1, |gateway| gateway.closed(ErrorCode::SlowConsumer));
        gateway.await_value("outbound_bytes", 0, |gateway| gateway.metric("outbound_bytes"));
        assert_eq!(sender.send_counted("user/victim", 999, b"without it"), (1, 0));
        let grown = gateway.rss_bytes().saturating_sub(rss);
        assert!(grown < 32 << 20, "{grown} bytes");
        drop(victim);
        bystanders.check();
    }

    /// Many such clients share the shard's budget, and leave what others need: small messages still get through.
    fn many_clients_that_never_read(reactor) {
        let flags = ["--shards", "1", "--limits-outbound-bytes-per-connection", "800000", "--limits-bytes-per-second", "0"];
        let gateway = Gateway::start(reactor, &[&flags[..], &["--limits-outbound-bytes-per-shard", "1000000"]].concat());
        let mut victims: Vec<Peer> = (0..3)
            .map(|index| {
                let mut peer = connect_from(&gateway, Ipv4Addr::LOCALHOST, Some(4_096));
                peer.log_in(&LoginFields { client: &format!("victim-{index}"), ..LoginFields::default() });
                peer
            })
            .collect();
        let mut sender = gateway.login("sender", "1");
        let payload = vec![7; 60_000];
        let mut id = 0;
        while gateway.metric("dropped_shard_full_total") == 0 {
            assert!(id < 1_000, "60 MB fit into a budget of 1 MB");
            for victim in 0..3 {
                id += 1;
                sender.send_counted(&format!("user/victim-{victim}"), id, &payload);
            }
        }
        assert!(gateway.metric("outbound_bytes") <= 1_000_000 + 65_536, "{}", gateway.metric("outbound_bytes"));
        // Room comes back with the reading.
        for victim in &mut victims {
            while let Some(got) = victim.next_within(Duration::from_millis(300)) {
                assert!(matches!(got, Got::Push { .. }), "{got:?}");
            }
        }
        for (index, victim) in victims.iter_mut().enumerate() {
            id += 1;
            assert_eq!(sender.send_counted(&format!("user/victim-{index}"), id, &payload), (1, 0));
            assert_eq!(victim.next_push().1, id);
        }
        assert_eq!(gateway.closed(ErrorCode::SlowConsumer), 0, "nobody was slow for long");
    }

    /// It asks and asks, and never reads the answers.
    fn a_client_that_never_reads_its_answers(reactor) {
        let flags = ["--limits-outbound-bytes-per-connection", "100000", "--limits-frames-per-second", "0"];
        let more = ["--limits-bytes-per-second", "0", "--timeouts-write-ms", "1500"];
        let gateway = Gateway::start(reactor, &[&flags[..], &more].concat());
        let bystanders = Bystanders::start(&gateway);
        let mut peer = connect_from(&gateway, Ipv4Addr::LOCALHOST, Some(4_096));
        peer.log_in(&LoginFields { client: "asker", ..LoginFields::default() });
        // The answer repeats a part of what was wrong, so that it is longer than the question.
        let question = frame_bytes(&Frame::Send(SendRef { channel: "nobody/here", ..SendRef::default() })).repeat(1_000);
        peer.stream().set_write_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        let deadline = Instant::now() + PATIENCE;
        while gateway.closed(ErrorCode::SlowConsumer) == 0 {
            assert!(Instant::now() < deadline, "it is still there; {} bytes wait", gateway.metric("outbound_bytes"));
            let _ = peer.try_write(&question);
        }
        assert!(gateway.metric("outbound_bytes") < 1 << 20);
        gateway.await_value("sessions", 6, |gateway| gateway.metric("sessions"));
        bystanders.check();
    }

    fn a_flood_that_ignores_refusals(reactor) {
        let gateway = Gateway::start(reactor, &["--limits-frames-per-second", "1000"]);
        let bystanders = Bystanders::start(&gateway);
        let mut peer = gateway.login("flood", "1");
        let ping = frame_bytes(&Frame::Ping(body::Ping { sent_us: 1, rtt_us: 0 }));
        let _ = peer.try_write(&ping.repeat(20_000));
        let (answers, refusals) = outcome(&mut peer, ErrorCode::RateExceeded);
        assert!(answers >= 2_000, "two seconds' worth may come at once: {answers}");
        assert!(refusals >= 1_000, "it was warned: {refusals}");
        gateway.await_value("RATE_EXCEEDED", 1, |gateway| gateway.closed(ErrorCode::RateExceeded));
        assert_eq!(gateway.refused(ErrorCode::RateExceeded), refusals as u64);
        bystanders.check();
    }

    fn a_burst_that_heeds_refusals(reactor) {
        let gateway = Gateway::start(reactor, &["--limits-bytes-per-second", "100000"]);
        let mut peer = gateway.login("burst", "1");
        let mut refusal = None;
        for id in 1..=10 {
            let send = SendRef { channel: "user/nobody", client_msg_id: id, payload: &[0; 40_000], receipt: true, ..SendRef::default() };
            peer.send_frame(&Frame::Send(send));
            match peer.next() {
                Got::SendOk(ok) => assert_eq!(ok.client_msg_id, id),
                Got::Error(error) => {
                    assert_eq!((error.code, error.closing), (ErrorCode::RateExceeded.number(), false));
                    assert_eq!((error.client_msg_id, error.in_reply_to), (id, 0x10));
                    assert!(id >= 5, "200,000 bytes may come at once");
                    refusal = Some(error);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        let wait_ms = refusal.expect("400,000 bytes at once are too many").retry_after_ms;
        assert!((1..2_000).contains(&wait_ms), "{wait_ms} ms");
        std::thread::sleep(Duration::from_millis(u64::from(wait_ms) + 200));
        peer.check_alive();
        assert!(gateway.refused(ErrorCode::RateExceeded) >= 1);
    }

    fn too_many_logins_a_second(reactor) {
        let gateway = Gateway::start(reactor, &["--limits-logins-per-second-per-shard", "10"]);
        let bystanders = Bystanders::start(&gateway);
        let mut peers: Vec<Peer> = (0..200)
            .map(|index| {
                let mut peer = gateway.connect();
                peer.write(&LoginFields { client: &format!("crowd-{index}"), ..LoginFields::default() }.frame());
                peer
            })
            .collect();
        let mut refused = 0;
        for peer in &mut peers {
            match peer.next() {
                Got::LoginOk(_) => {}
                Got::Error(error) => {
                    assert_eq!((error.code, error.closing), (ErrorCode::LoginRateExceeded.number(), true));
                    assert!(error.retry_after_ms > 0);
                    refused += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(refused >= 100, "two shards take 20 at once and 10 a second each: {refused} were refused");
        assert_eq!(gateway.closed(ErrorCode::LoginRateExceeded), refused);
        gateway.await_true("logins to be taken again", |gateway| {
            let mut peer = gateway.connect();
            peer.write(&LoginFields { client: "patient", ..LoginFields::default() }.frame());
            matches!(peer.next(), Got::LoginOk(_))
        });
        bystanders.check();
    }

    /// Counted over all shards.
    fn too_many_connections_of_one_address(reactor) {
        let gateway = Gateway::start(reactor, &["--limits-connections-per-address", "40", "--shards", "4"]);
        let bystanders = Bystanders::start(&gateway);
        let from = Ipv4Addr::new(127, 0, 0, 9);
        let mut peers: Vec<Peer> = (0..40)
            .map(|index| {
                let mut peer = connect_from(&gateway, from, None);
                peer.log_in(&LoginFields { client: &format!("neighbour-{index}"), ..LoginFields::default() });
                peer
            })
            .collect();
        for _ in 0..60 {
            let mut peer = connect_from(&gateway, from, None);
            let error = peer.expect_closed(ErrorCode::TooManyFromAddress);
            assert!(error.message.contains("40") && error.retry_after_ms > 0, "{error:?}");
        }
        assert_eq!(gateway.closed(ErrorCode::TooManyFromAddress), 60);
        for peer in &mut peers {
            peer.check_alive();
        }
        // Another address has its own share, and a place that was given up is free again.
        connect_from(&gateway, Ipv4Addr::new(127, 0, 0, 10), None).log_in(&LoginFields { client: "other", ..LoginFields::default() });
        peers.truncate(20);
        gateway.await_true("a place to be free again", |gateway| {
            let mut peer = connect_from(gateway, from, None);
            peer.write(&LoginFields { client: "next", ..LoginFields::default() }.frame());
            matches!(peer.next(), Got::LoginOk(_))
        });
        bystanders.check();
    }

    fn too_many_connections_of_a_shard(reactor) {
        let gateway = Gateway::start(reactor, &["--limits-connections-per-shard", "20", "--timeouts-login-ms", "60000"]);
        let bystanders = Bystanders::start(&gateway);
        // Spread by the kernel: of 200 each shard gets more than 20.
        let mut peers = connect_in_batches(&gateway, 200);
        let refused = |gateway: &Gateway| gateway.closed(ErrorCode::TooManyConnections);
        gateway.await_true("all shards to be full", |gateway| refused(gateway) >= 200 - 40 + 6);
        gateway.await_value("connections", 40, |gateway| gateway.metric("connections"));
        let mut seen = 0;
        for peer in &mut peers {
            match peer.next_within(Duration::from_millis(1)) {
                None => {}
                Some(Got::Error(error)) => {
                    assert_eq!((error.code, error.closing), (ErrorCode::TooManyConnections.number(), true));
                    assert_eq!(peer.next(), Got::End);
                    seen += 1;
                }
                Some(other) => panic!("{other:?}"),
            }
        }
        assert_eq!(seen, refused(&gateway));
        drop(peers);
        gateway.await_value("connections", 6, |gateway| gateway.metric("connections"));
        gateway.login("next", "1").check_alive();
        bystanders.check();
    }

    /// The kernel gives no more descriptors: who comes is refused with a reason, and those who are in go on.
    fn more_connections_than_descriptors(reactor) {
        let (limit, crowd) = ("400", if reactor == Reactor::Uring { 900 } else { 400 });
        let command = Gateway::command(reactor.name());
        let mut limited = std::process::Command::new("sh");
        limited.args(["-c", &format!("ulimit -n {limit} && exec \"$0\" \"$@\""), crate::harness::WEIR]);
        limited.args(command.get_args()).args(["--dev", "--shards", "2", "--timeouts-login-ms", "60000"]);
        let gateway = Gateway::launch(limited, None);
        let bystanders = Bystanders::start(&gateway);
        let mut peers = connect_in_batches(&gateway, crowd);
        gateway.await_true("the refused to be gone", |gateway| {
            gateway.metric("connections") == crowd + 6 - gateway.closed(ErrorCode::TooManyConnections)
        });
        let refused = peers.iter_mut().filter_map(|peer| peer.next_within(Duration::from_millis(1))).map(|got| {
            assert!(matches!(&got, Got::Error(error) if error.code == ErrorCode::TooManyConnections.number()), "{got:?}");
        });
        let refused = refused.count() as u64;
        assert!(refused > 0 && refused == gateway.closed(ErrorCode::TooManyConnections), "{refused} were refused");
        bystanders.await_progress();
        drop(peers);
        gateway.await_value("connections", 6, |gateway| gateway.metric("connections"));
        gateway.login("next", "1").check_alive();
        bystanders.check();
    }

    fn a_client_that_never_logs_in(reactor) {
        let gateway = Gateway::start(reactor, &["--timeouts-login-ms", "600"]);
        let bystanders = Bystanders::start(&gateway);
        let begun = Instant::now();
        let (mut mute, mut dribbling) = (gateway.connect(), gateway.connect());
        let login = LoginFields { client: "dribbler", ..LoginFields::default() }.frame();
        for byte in &login[..20] {
            dribbling.write(&[*byte]);
            std::thread::sleep(Duration::from_millis(20));
        }
        for peer in [&mut mute, &mut dribbling] {
            let error = peer.expect_closed(ErrorCode::LoginTimeout);
            assert!(error.message.contains("600 ms"), "{error:?}");
        }
        assert!(begun.elapsed() >= Duration::from_millis(600), "{:?}", begun.elapsed());
        gateway.await_value("LOGIN_TIMEOUT", 2, |gateway| gateway.closed(ErrorCode::LoginTimeout));
        bystanders.check();
    }
}
