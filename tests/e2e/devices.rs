//! One client, several devices: who stays, who goes, and what the one that goes is told.
#![forbid(unsafe_code)]

use weir::wire::{ErrorCode, body};

use crate::harness::{Bystanders, Gateway, Got, LoginFields, Peer, Reactor, on_both_reactors};

const CLASSES: &[&str] = &["--shards", "4", "--device-classes", "many=allow_many,newest=keep_newest,oldest=refuse_newest"];

fn login(gateway: &Gateway, client: &str, device: &str, class: &str) -> (Peer, body::LoginOk) {
    let mut peer = gateway.connect();
    let ok = peer.log_in(&LoginFields { client, device, class, ..LoginFields::default() });
    (peer, ok)
}

/// The gateway must close this connection with KICKED.
fn expect_kicked(peer: &mut Peer, code: ErrorCode, by_device: &str) {
    match &peer.drain()[..] {
        [Got::Kicked(kicked), Got::End] if kicked.code == code.number() => assert_eq!(kicked.by_device, by_device),
        other => panic!("expected KICKED {}, got {other:?}", code.name()),
    }
}

on_both_reactors! {
    fn allow_many_keeps_all(reactor) {
        let gateway = Gateway::start(reactor, CLASSES);
        let mut devices: Vec<Peer> = (0..5).map(|device| login(&gateway, "alice", &device.to_string(), "many").0).collect();
        let mut bob = gateway.login("bob", "1");
        assert_eq!(bob.send_counted("user/alice", 1, b"all"), (5, 0));
        for device in &mut devices {
            assert_eq!(device.next_push(), ("bob".to_owned(), 1, b"all".to_vec()));
        }
        gateway.await_value("clients", 2, |gateway| gateway.metric("clients"));
    }

    fn keep_newest_replaces(reactor) {
        let gateway = Gateway::start(reactor, CLASSES);
        let (mut other_class, _) = login(&gateway, "alice", "laptop", "many");
        let (mut old, _) = login(&gateway, "alice", "phone-1", "newest");
        let (mut new, _) = login(&gateway, "alice", "phone-2", "newest");
        expect_kicked(&mut old, ErrorCode::ReplacedByDevice, "phone-2");
        assert_eq!(gateway.closed(ErrorCode::ReplacedByDevice), 1);
        assert_eq!(gateway.login("bob", "1").send_counted("user/alice", 1, b"x"), (2, 0));
        for peer in [&mut other_class, &mut new] {
            assert_eq!(peer.next_push().1, 1);
            peer.check_alive();
        }
    }

    fn refuse_newest_refuses(reactor) {
        let gateway = Gateway::start(reactor, CLASSES);
        let (mut old, _) = login(&gateway, "alice", "tv-1", "oldest");
        let mut new = gateway.connect();
        new.write(&LoginFields { client: "alice", device: "tv-2", class: "oldest", ..LoginFields::default() }.frame());
        let error = new.expect_closed(ErrorCode::DeviceRefused);
        assert!(error.message.contains("tv-1"), "{error:?} names the device that stays");
        assert_eq!(gateway.closed(ErrorCode::DeviceRefused), 1);
        old.check_alive();
        // The same device may come back, and when it is gone, another may.
        let (again, _) = login(&gateway, "alice", "tv-1", "oldest");
        expect_kicked(&mut old, ErrorCode::Superseded, "tv-1");
        drop(again);
        gateway.await_value("sessions", 0, |gateway| gateway.metric("sessions"));
        login(&gateway, "alice", "tv-2", "oldest").0.check_alive();
    }

    /// A device that reconnects takes over from its own past, and the past never takes anything back.
    fn a_device_takes_over_from_itself(reactor) {
        let gateway = Gateway::start(reactor, CLASSES);
        let bystanders = Bystanders::start(&gateway);
        let (mut old, ok) = login(&gateway, "alice", "phone", "many");
        let mut epoch = ok.session_epoch;
        for round in 0..20 {
            let (new, ok) = login(&gateway, "alice", "phone", "many");
            assert!(ok.session_epoch > epoch, "epochs grow");
            epoch = ok.session_epoch;
            expect_kicked(&mut old, ErrorCode::Superseded, "phone");
            old = new;
            old.check_alive();
            gateway.await_value("SUPERSEDED", round + 1, |gateway| gateway.closed(ErrorCode::Superseded));
        }
        assert_eq!(gateway.login("bob", "1").send_counted("user/alice", 1, b"x"), (1, 0));
        bystanders.check();
    }

    /// Many at once: in the end one is left, it works, and it is told to be the newest.
    fn a_device_that_connects_many_times_at_once(reactor) {
        let gateway = Gateway::start(reactor, CLASSES);
        let racers: Vec<_> = (0..8)
            .map(|_| {
                let addr = gateway.addr;
                std::thread::spawn(move || {
                    let mut all = Vec::new();
                    for _ in 0..10 {
                        let mut peer = Peer::connect(addr);
                        peer.write(&LoginFields { client: "racer", device: "1", ..LoginFields::default() }.frame());
                        all.push(peer);
                    }
                    all
                })
            })
            .collect();
        let mut peers: Vec<Peer> = racers.into_iter().flat_map(|racer| racer.join().expect("it connects")).collect();
        gateway.await_true("all but one to be closed", |gateway| gateway.closed(ErrorCode::Superseded) == 79);
        assert_eq!(gateway.metric("sessions"), 1);
        let mut survivors = Vec::new();
        let mut latest = 0;
        for peer in &mut peers {
            let mut epoch = 0;
            loop {
                match peer.next_within(std::time::Duration::from_millis(50)) {
                    Some(Got::LoginOk(ok)) => epoch = ok.session_epoch,
                    Some(Got::Kicked(kicked)) => assert_eq!(kicked.code, ErrorCode::Superseded.number()),
                    Some(Got::End) => break,
                    None => {
                        survivors.push(epoch);
                        peer.check_alive();
                        break;
                    }
                    other => panic!("{other:?}"),
                }
            }
            latest = latest.max(epoch);
        }
        assert_eq!(survivors, [latest], "the one that is left is the newest");
    }
}
