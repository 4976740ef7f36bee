//! Staying alive: PING and PONG, the interval that follows the path, and what silence leads to.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use weir::wire::{ErrorCode, body};

use crate::harness::{Bystanders, Frame, Gateway, Got, LoginFields, Peer, Reactor, on_both_reactors};

const BOUNDS: &[&str] =
    &["--heartbeat-interval-ms", "400", "--heartbeat-interval-min-ms", "200", "--heartbeat-interval-max-ms", "1000"];

/// The interval that the gateway answers a PING with.
fn ping(peer: &mut Peer, sent_us: u64, rtt_us: u32) -> u32 {
    peer.send_frame(&Frame::Ping(body::Ping { sent_us, rtt_us }));
    match peer.next() {
        Got::Pong(pong) if pong.sent_us == sent_us => pong.heartbeat_interval_ms,
        other => panic!("PING was answered by {other:?}"),
    }
}

/// The intervals of many PINGs in a row.
fn intervals(gateway: &Gateway, client: &str, rtt_us: u32) -> Vec<u32> {
    let mut peer = gateway.connect();
    let ok = peer.log_in(&LoginFields { client, ..LoginFields::default() });
    assert_eq!(ok.heartbeat_interval_ms, 400, "LOGIN_OK announces the configured interval");
    (1..=20).map(|number| ping(&mut peer, number << 40, rtt_us)).collect()
}

on_both_reactors! {
    fn the_interval_follows_the_path(reactor) {
        let gateway = Gateway::start(reactor, BOUNDS);
        let good = intervals(&gateway, "good", 5_000);
        assert!(good[0] < 400 && good.is_sorted_by(|a, b| a >= b), "{good:?}");
        assert_eq!(good.last(), Some(&200), "down to the shortest");
        let slow = intervals(&gateway, "slow", 900_000);
        assert!(slow[0] > 400 && slow.is_sorted(), "{slow:?}");
        assert_eq!(slow.last(), Some(&1_000), "up to the longest");
        assert_eq!(intervals(&gateway, "ordinary", 200_000), [400; 20]);
        assert_eq!(intervals(&gateway, "unmeasured", 0), [400; 20]);
        assert_eq!(intervals(&gateway, "absurd", u32::MAX).last(), Some(&1_000));
    }

    /// Silence brings a probe; a client that answers stays, one that does not is closed.
    fn silence_brings_a_probe_and_then_the_end(reactor) {
        let flags = ["--heartbeat-interval-ms", "400", "--heartbeat-interval-min-ms", "400", "--heartbeat-missed-max", "2"];
        let gateway = Gateway::start(reactor, &[&flags[..], &["--heartbeat-probe-timeout-ms", "1000"]].concat());
        let bystanders = Bystanders::start(&gateway);
        let begun = Instant::now();
        let mut answering = gateway.login("answering", "1");
        let mut silent: Vec<Peer> = (0..4).map(|device| gateway.login("silent", &device.to_string())).collect();
        for _ in 0..2 {
            let Got::Ping(ping) = answering.next() else { panic!("a probe is a PING") };
            assert!(begun.elapsed() >= Duration::from_millis(800), "two intervals of silence first: {:?}", begun.elapsed());
            answering.send_frame(&Frame::Pong(body::Pong { sent_us: ping.sent_us, heartbeat_interval_ms: 0 }));
        }
        for peer in &mut silent {
            match &peer.drain()[..] {
                [Got::Ping(_), Got::Error(error), Got::End] => {
                    assert_eq!((error.code, error.closing), (ErrorCode::IdleTimeout.number(), true));
                }
                other => panic!("expected a probe and IDLE_TIMEOUT, got {other:?}"),
            }
        }
        gateway.await_value("IDLE_TIMEOUT", 4, |gateway| gateway.closed(ErrorCode::IdleTimeout));
        assert!(gateway.metric("probes_total") >= 6);
        answering.check_alive();
        bystanders.check();
    }

    /// Whatever comes is life, frames that are skipped too.
    fn any_bytes_are_life(reactor) {
        let flags = ["--heartbeat-interval-ms", "500", "--heartbeat-interval-min-ms", "500", "--heartbeat-missed-max", "3"];
        let gateway = Gateway::start(reactor, &flags);
        let mut peer = gateway.login("busy", "1");
        let begun = Instant::now();
        let unknown = crate::harness::raw_frame(0x7f, 0, b"still here");
        for byte in unknown.iter().cycle().take(unknown.len() * 3) {
            peer.write(&[*byte]);
            assert_eq!(peer.next_within(Duration::from_millis(30)), None, "after {:?}", begun.elapsed());
        }
        assert!(begun.elapsed() > Duration::from_millis(2_000), "longer than the silence that brings a probe");
        peer.check_alive();
    }
}
