//! Clients that go on exchanging messages while a test does its worst, and must not notice.
#![forbid(unsafe_code)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use weir::wire::body;

use super::{Frame, Gateway, Got, LoginFields, Peer};

/// Pairs, so that several ways through the shards are used.
const PAIRS: usize = 3;
/// The slowest message may take this long. Generous: the machine may be busy with other tests.
const LATENCY_MAX: Duration = Duration::from_secs(5);
/// A pause between messages, so that the bystanders are no load themselves.
const PAUSE: Duration = Duration::from_millis(5);

/// Running pairs.
pub struct Bystanders {
    stop: Arc<AtomicBool>,
    exchanged: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Bystanders {
    /// Logs pairs in and lets them talk.
    pub fn start(gateway: &Gateway) -> Bystanders {
        Bystanders::start_as(gateway, |client| LoginFields { client, device: "1", ..LoginFields::default() }.frame())
    }

    /// The same with LOGIN frames of the test's making.
    pub fn start_as(gateway: &Gateway, login: impl Fn(&str) -> Vec<u8>) -> Bystanders {
        let stop = Arc::new(AtomicBool::new(false));
        let exchanged = Arc::new(AtomicU64::new(0));
        let mut threads = Vec::new();
        for pair in 0..PAIRS {
            let names = [format!("bystander-{pair}-a"), format!("bystander-{pair}-b")];
            let peers = names.clone().map(|name| {
                let mut peer = gateway.connect();
                peer.write(&login(&name));
                assert!(matches!(peer.next(), Got::LoginOk(_)), "a bystander logs in");
                peer
            });
            let (stop, exchanged) = (Arc::clone(&stop), Arc::clone(&exchanged));
            threads.push(std::thread::spawn(move || {
                let [mut a, mut b] = peers;
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    hand_over(&mut a, &mut b, (&names[0], &names[1]), number);
                    hand_over(&mut b, &mut a, (&names[1], &names[0]), number);
                    exchanged.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(PAUSE);
                }
            }));
        }
        let bystanders = Bystanders { stop, exchanged, threads };
        bystanders.await_progress();
        bystanders
    }

    /// Waits until messages went back and forth some more times.
    pub fn await_progress(&self) {
        let goal = self.exchanged.load(Ordering::Relaxed) + 2 * PAIRS as u64;
        let deadline = Instant::now() + LATENCY_MAX;
        while self.exchanged.load(Ordering::Relaxed) < goal && !self.threads.iter().any(JoinHandle::is_finished) {
            assert!(Instant::now() < deadline, "the bystanders' messages do not get through");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// They talked all the time, and still do.
    pub fn check(mut self) {
        self.await_progress();
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Drop for Bystanders {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn hand_over(from: &mut Peer, to: &mut Peer, (sender, receiver): (&str, &str), number: u64) {
    let payload = number.to_be_bytes();
    let sent = Instant::now();
    from.send(&format!("user/{receiver}"), number, &payload);
    let mut got = to.next();
    // On a busy machine it may have been silent for long.
    while let Got::Ping(ping) = got {
        to.send_frame(&Frame::Pong(body::Pong { sent_us: ping.sent_us, heartbeat_interval_ms: 0 }));
        got = to.next();
    }
    match got {
        Got::Push { from_client, client_msg_id, payload: seen, .. } => {
            assert_eq!((from_client.as_str(), client_msg_id, &seen[..]), (sender, number, &payload[..]));
        }
        other => panic!("a bystander got {other:?}"),
    }
    let took = sent.elapsed();
    assert!(took < LATENCY_MAX, "a bystander's message took {took:?}");
}
