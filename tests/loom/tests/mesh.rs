//! Model-checks the ring and the sleep/wake protocol of the mesh: loom runs each test under every schedule, and every outcome
//! of relaxed loads, that the memory model allows. Run it by `make loom`.
#![cfg(loom)]
#![forbid(unsafe_code)]

use std::sync::{
    Arc as StdArc,
    atomic::{AtomicUsize as StdAtomicUsize, Ordering::SeqCst},
};

use loom::{
    model::Builder,
    sync::{Arc, Condvar, Mutex},
    thread,
};
use weir_loom::{
    ids::ShardId,
    mesh::{Port, SleepFlag, mesh, ring},
};

/// Schedules with more preemptions than this are left out; published experience is that two or three find nearly all bugs.
const PREEMPTIONS: usize = 3;

fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound.get_or_insert(PREEMPTIONS);
    builder.check(test);
}

/// What an eventfd does, in loom's world: a rung bell stays rung until a wait takes it. A lost wakeup is a deadlock, which loom reports.
#[derive(Default)]
struct ModelBell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl ModelBell {
    fn ring(&self) {
        *self.rung.lock().expect("no test thread panics with the lock") = true;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let mut rung = self.rung.lock().expect("no test thread panics with the lock");
        while !*rung {
            rung = self.changed.wait(rung).expect("no test thread panics with the lock");
        }
        *rung = false;
    }
}

/// Counts its drops. The counter is std's: loom must not see it as a way to synchronize.
struct Counted {
    number: usize,
    drops: StdArc<StdAtomicUsize>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.drops.fetch_add(1, SeqCst);
    }
}

/// Capacity 2, so that four values meet a full ring, an empty one, and wrap around twice.
#[test]
fn the_ring_passes_every_value_once_and_in_order() {
    model(|| {
        let (mut producer, mut consumer) = ring(2);
        let pusher = thread::spawn(move || {
            for number in 0..4usize {
                while producer.push(Box::new(number)).is_err() {
                    thread::yield_now();
                }
                producer.publish();
            }
        });
        for expected in 0..4usize {
            let value = loop {
                match consumer.pop() {
                    Some(value) => break value,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(*value, expected);
        }
        pusher.join().expect("the producer ends");
        assert!(consumer.is_empty());
    });
}

#[test]
fn what_is_published_together_is_seen_together() {
    model(|| {
        let (mut producer, mut consumer) = ring(4);
        let pusher = thread::spawn(move || {
            for number in 1..=3 {
                producer.push(number).expect("there is room");
            }
            producer.publish();
            producer
        });
        let seen: Vec<i32> = std::iter::from_fn(|| consumer.pop()).collect();
        assert!(seen.is_empty() || seen == [1, 2, 3], "saw a part: {seen:?}");
        drop(pusher.join().expect("the producer ends"));
    });
}

/// Both ends go while values are in the ring, published and not, in every order.
#[test]
fn what_is_left_in_the_ring_is_dropped_once() {
    model(|| {
        let drops = StdArc::new(StdAtomicUsize::new(0));
        let (mut producer, mut consumer) = ring(2);
        let counter = StdArc::clone(&drops);
        let pusher = thread::spawn(move || {
            let mut accepted = 0;
            for number in 0..3 {
                match producer.push(Counted { number, drops: StdArc::clone(&counter) }) {
                    Ok(()) => accepted += 1,
                    Err(refused) => assert_eq!(refused.number, number),
                }
                if number == 0 {
                    producer.publish();
                }
            }
            drop(producer);
            accepted
        });
        let popped = consumer.pop();
        if let Some(value) = &popped {
            assert_eq!(value.number, 0);
        }
        drop(consumer);
        let accepted: usize = pusher.join().expect("the producer ends");
        assert!(accepted >= 2);
        let held = usize::from(popped.is_some());
        assert_eq!(drops.load(SeqCst), 3 - held, "refused and left values are dropped, popped ones are not");
        drop(popped);
        assert_eq!(drops.load(SeqCst), 3);
    });
}

/// The flag alone with one ring, as its documentation says to use it.
#[test]
fn no_wakeup_is_lost_between_one_producer_and_a_sleeper() {
    model(|| {
        let (mut producer, mut consumer) = ring(2);
        let flag = Arc::new(SleepFlag::default());
        let bell = Arc::new(ModelBell::default());
        let (peer_flag, peer_bell) = (Arc::clone(&flag), Arc::clone(&bell));
        let pusher = thread::spawn(move || {
            for number in 0..2 {
                producer.push(number).expect("there is room");
                producer.publish();
                if peer_flag.must_ring() {
                    peer_bell.ring();
                }
            }
            producer
        });
        let mut seen = 0;
        while seen < 2 {
            while let Some(number) = consumer.pop() {
                assert_eq!(number, seen);
                seen += 1;
            }
            if seen < 2 {
                flag.raise();
                if consumer.is_empty() {
                    bell.wait();
                }
                flag.lower();
            }
        }
        drop(pusher.join().expect("the producer ends"));
    });
}

/// Two producers race to ring for one sleeper: the one that sees the flag down must be able to rely on the other.
#[test]
fn no_wakeup_is_lost_between_two_producers_and_a_sleeper() {
    model(|| {
        let flag = Arc::new(SleepFlag::default());
        let bell = Arc::new(ModelBell::default());
        let mut consumers = Vec::new();
        let mut pushers = Vec::new();
        for number in 0..2 {
            let (mut producer, consumer) = ring(1);
            consumers.push(consumer);
            let (flag, bell) = (Arc::clone(&flag), Arc::clone(&bell));
            pushers.push(thread::spawn(move || {
                producer.push(number).expect("there is room");
                producer.publish();
                if flag.must_ring() {
                    bell.ring();
                }
                producer
            }));
        }
        let mut seen = Vec::new();
        loop {
            seen.extend(consumers.iter_mut().filter_map(|consumer| consumer.pop()));
            if seen.len() == 2 {
                break;
            }
            flag.raise();
            if consumers.iter_mut().all(|consumer| consumer.is_empty()) {
                bell.wait();
            }
            flag.lower();
        }
        for pusher in pushers {
            drop(pusher.join().expect("the producer ends"));
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1]);
    });
}

/// The same with the real ports. Their bells are eventfds, which loom cannot block on, so a model bell stands beside: `publish` tells
/// when it rang.
#[test]
fn no_wakeup_is_lost_between_ports() {
    model(|| {
        let mut ports = mesh::<u32>(2, 2).expect("two eventfds").into_iter();
        let mut sleeper = ports.next().expect("port 0");
        let mut sender: Port<u32> = ports.next().expect("port 1");
        let bell = Arc::new(ModelBell::default());
        let peer_bell = Arc::clone(&bell);
        let pusher = thread::spawn(move || {
            for number in 0..2 {
                sender.post(ShardId(0), number).expect("there is room");
                if sender.publish() > 0 {
                    peer_bell.ring();
                }
            }
            sender
        });
        let mut seen = 0;
        loop {
            sleeper.receive(2, |from, number| {
                assert_eq!((from, number), (ShardId(1), seen));
                seen += 1;
            });
            if seen == 2 {
                break;
            }
            if sleeper.sleep() {
                bell.wait();
                sleeper.wake();
            }
        }
        drop(pusher.join().expect("the sender ends"));
    });
}
