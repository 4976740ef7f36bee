//! The ring against an oracle, and what a port promises.
#![forbid(unsafe_code)]

use std::{collections::VecDeque, os::fd::AsFd, sync::Arc};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use proptest::{collection::vec, prelude::*};

use super::{ring::ring_from, *};

#[derive(Clone, Copy, Debug)]
enum Step {
    Push,
    Publish,
    Pop,
    IsEmpty,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    vec(prop_oneof![3 => Just(Step::Push), 1 => Just(Step::Publish), 3 => Just(Step::Pop), 1 => Just(Step::IsEmpty)], 0..200)
}

/// First positions: 0, and some from which the indices wrap around.
fn start() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), (0usize..20).prop_map(|back| usize::MAX - back)]
}

/// Miri interprets, a thousand times slower.
const CASES: u32 = if cfg!(miri) { 8 } else { 512 };

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    /// The ring does what a deque does in which a published prefix is visible.
    #[test]
    fn the_ring_behaves_as_a_deque(capacity in 1usize..9, start in start(), steps in steps()) {
        let (mut producer, mut consumer) = ring_from(start, capacity);
        let capacity = capacity.next_power_of_two();
        let mut oracle: VecDeque<Arc<usize>> = VecDeque::new();
        let mut visible = 0;
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Push => {
                    let value = Arc::new(number);
                    let expected = oracle.len() < capacity;
                    if expected {
                        oracle.push_back(Arc::clone(&value));
                    }
                    match producer.push(value) {
                        Ok(()) => prop_assert!(expected, "took a value beyond its capacity"),
                        Err(refused) => {
                            prop_assert!(!expected, "refused a value with room left");
                            prop_assert_eq!(*refused, number);
                        }
                    }
                }
                Step::Publish => {
                    producer.publish();
                    visible = oracle.len();
                }
                Step::Pop => {
                    let expected = if visible > 0 { oracle.pop_front() } else { None };
                    visible = visible.saturating_sub(1);
                    prop_assert_eq!(consumer.pop().map(|value| *value), expected.map(|value| *value));
                }
                Step::IsEmpty => prop_assert_eq!(consumer.is_empty(), visible == 0),
            }
            // Held by the oracle and by the ring: none is leaked, none is dropped early.
            prop_assert!(oracle.iter().all(|value| Arc::strong_count(value) == 2));
        }
        drop((producer, consumer));
        prop_assert!(oracle.iter().all(|value| Arc::strong_count(value) == 1), "the ring did not drop what was left");
    }
}

/// Two threads, as in life; under Miri this also looks for data races.
#[test]
fn the_ring_passes_values_between_threads() {
    let last: u64 = if cfg!(miri) { 200 } else { 50_000 };
    let (mut producer, mut consumer) = ring_from(usize::MAX - 100, 64);
    let pusher = std::thread::spawn(move || {
        for number in 0..last {
            let mut value = Box::new(number);
            while let Err(refused) = producer.push(value) {
                value = refused;
                producer.publish();
                std::thread::yield_now();
            }
            if number % 3 == 0 {
                producer.publish();
            }
        }
    });
    for expected in 0..last {
        let value = loop {
            match consumer.pop() {
                Some(value) => break value,
                None => std::thread::yield_now(),
            }
        };
        assert_eq!(*value, expected);
    }
    pusher.join().expect("the producer ends");
    assert!(consumer.pop().is_none());
}

fn ports(count: u16, capacity: usize) -> Vec<Port<u32>> {
    mesh(count, capacity).expect("eventfds")
}

/// Messages that `port` gets in one call.
fn received(port: &mut Port<u32>, budget: usize) -> Vec<(u16, u32)> {
    let mut messages = Vec::new();
    let any = port.receive(budget, |from, message| messages.push((from.0, message)));
    assert_eq!(any, !messages.is_empty());
    messages
}

fn is_rung(port: &Port<u32>) -> bool {
    let mut fds = [PollFd::new(port.bell().as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).expect("poll") == 1
}

#[test]
fn ports_know_their_numbers_and_reach_each_other_and_themselves() {
    let mut ports = ports(3, 4);
    for (from, port) in ports.iter_mut().enumerate() {
        assert_eq!((port.id().index(), port.count()), (from, 3));
        for to in 0..3 {
            port.post(ShardId(to), 10 * from as u32 + u32::from(to)).expect("there is room");
        }
    }
    for port in &mut ports {
        assert_eq!(received(port, 4), [], "nothing was published");
    }
    for port in &mut ports {
        port.publish();
    }
    for (to, port) in (0..).zip(&mut ports) {
        let mut messages = received(port, 4);
        messages.sort_unstable();
        assert_eq!(messages, [(0, to), (1, 10 + to), (2, 20 + to)]);
    }
}

#[test]
fn a_full_ring_gives_the_message_back_and_holds_up_nobody_else() {
    let mut ports = ports(3, 2);
    assert_eq!(ports[0].post(ShardId(1), 1), Ok(()));
    assert_eq!(ports[0].post(ShardId(1), 2), Ok(()));
    assert_eq!(ports[0].post(ShardId(1), 3), Err(3));
    assert_eq!(ports[0].post(ShardId(2), 4), Ok(()));
    assert_eq!(ports[2].post(ShardId(1), 5), Ok(()));
    ports[0].publish();
    assert_eq!(received(&mut ports[1], 1), [(0, 1)]);
    assert_eq!(ports[0].post(ShardId(1), 3), Ok(()), "room again");
    ports[0].publish();
    assert_eq!(received(&mut ports[1], 9), [(0, 2), (0, 3)]);
    assert_eq!(received(&mut ports[2], 9), [(0, 4)]);
}

#[test]
fn only_a_sleeper_is_rung_and_only_once() {
    let mut ports = ports(3, 8);
    ports[1].post(ShardId(0), 1).expect("there is room");
    assert_eq!(ports[1].publish(), 0, "port 0 is awake");
    assert!(!is_rung(&ports[0]));
    assert!(!ports[0].sleep(), "a message waits");
    assert_eq!(received(&mut ports[0], 9), [(1, 1)]);

    assert!(ports[0].sleep());
    assert_eq!(ports[1].publish(), 0, "nothing was posted");
    ports[1].post(ShardId(0), 2).expect("there is room");
    ports[1].post(ShardId(2), 3).expect("there is room");
    assert_eq!(ports[1].publish(), 1, "port 0 sleeps, port 2 does not");
    ports[2].post(ShardId(0), 4).expect("there is room");
    assert_eq!(ports[2].publish(), 0, "the bell was rung already");
    assert!(is_rung(&ports[0]) && !is_rung(&ports[2]));

    ports[0].wake();
    ports[0].bell().silence();
    assert!(!is_rung(&ports[0]));
    assert_eq!(received(&mut ports[0], 9).len(), 2);
    ports[0].bell().silence();
    assert!(ports[0].sleep(), "silencing twice does no harm");
    ports[0].wake();
    ports[1].post(ShardId(0), 5).expect("there is room");
    assert_eq!(ports[1].publish(), 0, "awake again");
}

#[test]
fn no_peer_starves_another() {
    let mut ports = ports(3, 64);
    for port in &mut ports {
        for number in 0..30 {
            port.post(ShardId(0), number).expect("there is room");
        }
        port.publish();
    }
    let mut firsts = Vec::new();
    for turn in 0..3 {
        let messages = received(&mut ports[0], 10);
        firsts.push(messages[0].0);
        for from in 0..3 {
            let numbers: Vec<_> = messages.iter().filter(|message| message.0 == from).map(|message| message.1).collect();
            assert_eq!(numbers, (turn * 10..turn * 10 + 10).collect::<Vec<_>>(), "the share of port {from}, in order");
        }
    }
    assert_eq!(firsts, [0, 1, 2], "each peer is first in its turn");
    assert_eq!(received(&mut ports[0], 10), []);
}

#[test]
fn what_a_port_leaves_behind_still_arrives() {
    let mut ports = ports(2, 8);
    let mut gone = ports.pop().expect("port 1");
    gone.post(ShardId(0), 7).expect("there is room");
    drop(gone);
    assert_eq!(received(&mut ports[0], 9), [(1, 7)]);
    assert_eq!(ports[0].post(ShardId(1), 8), Ok(()), "posting to a port that is gone is no error");
    ports[0].publish();
}
