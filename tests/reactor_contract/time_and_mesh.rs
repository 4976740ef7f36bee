//! Deadlines, and messages between reactors.

use std::{
    io::{Read, Write},
    net::Shutdown,
    thread,
    time::Duration,
};

use weir::{ids::ShardId, io::Output};

use crate::{
    probe::{Behaviour, Note, Seen},
    rig::{Driver, Options, Rig, connect},
    transfer::ECHO,
};

/// The most that a wake or a tick may be late, in the median: the machine that runs the tests has other things to do as well.
const LATE_US_MAX: u64 = 10_000;

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}

pub(crate) fn wakes_a_sleeping_reactor(driver: Driver) {
    let mut rig = Rig::single(driver, Behaviour::default());
    let mut late = Vec::new();
    for round in 0..200 {
        // From asleep for long to just falling asleep.
        thread::sleep(Duration::from_micros(round * 13 % 700));
        let posted = rig.now();
        rig.tell(0, Note::Number(round));
        late.push(rig.reactors[0].wait_for("the number posted", |report| match report.seen {
            Seen::Number { number, .. } if number == round => Some(report.now.micros_since(posted)),
            _ => None,
        }));
    }
    let late = median(late);
    assert!(late < LATE_US_MAX, "a post woke the reactor after {late} µs in the median");
}

pub(crate) fn passes_messages_between_reactors(driver: Driver) {
    let mut rig = Rig::new(driver, Options { reactors: 3, ring: 256, ..Options::default() });
    for round in 0..500 {
        let (from, to) = (round as usize % 3, ShardId((round as u16 + 1) % 3));
        rig.ask(from, Output::Post { to, message: Note::Number(round) });
        rig.reactors[to.index()].expect(Seen::Number { from: ShardId(from as u16), number: round });
    }
}

pub(crate) fn refuses_a_post_into_a_full_ring(driver: Driver) {
    const TURNS: u64 = 200;
    const EACH: u64 = 20;
    let mut rig = Rig::new(driver, Options { reactors: 2, ring: 4, ..Options::default() });
    // Over many turns, so that the other side makes room in the middle of some of them.
    for turn in 0..TURNS {
        let posts = (turn * EACH..(turn + 1) * EACH).map(|number| Output::Post { to: ShardId(1), message: Note::Number(number) });
        rig.tell(0, Note::DoAll(posts.collect()));
    }
    rig.reactors[0].wait_for("PostRefused", |report| matches!(report.seen, Seen::PostRefused { .. }).then_some(()));
    for expected in 0..TURNS * EACH {
        let number = rig.reactors[1].wait_for("a number", |report| match report.seen {
            Seen::Number { number, .. } => Some(number),
            _ => None,
        });
        assert_eq!(number, expected, "numbers that were refused must arrive once each, and in order");
    }
    rig.reactors[1].expect_silence();
}

/// How late ticks are, in the median.
fn lateness_us(rig: &mut Rig) -> u64 {
    let delays = [50, 300, 900, 1_100, 2_500, 4_999, 7_000, 12_345, 25_000];
    let late = delays.iter().map(|delay| {
        rig.tell(0, Note::TickIn(*delay));
        rig.reactors[0].wait_for("the tick", |report| match report.seen {
            Seen::Ticked { due } => {
                assert!(report.now >= due, "a tick came early");
                Some(report.now.micros_since(due))
            }
            _ => None,
        })
    });
    median(late.collect())
}

pub(crate) fn keeps_deadlines(driver: Driver) {
    let mut rig = Rig::single(driver, Behaviour::default());
    let late = lateness_us(&mut rig);
    assert!(late < LATE_US_MAX, "ticks were {late} µs late in the median");
}

pub(crate) fn keeps_deadlines_under_load(driver: Driver) {
    let mut rig = Rig::single(driver, ECHO);
    let client = connect(rig.reactors[0].addr);
    let (mut writer, mut reader) = (client.try_clone().expect("a descriptor is free"), client.try_clone().expect("likewise"));
    // Ends when the connection is shut down below.
    let writer = thread::spawn(move || while writer.write_all(&[7; 32 * 1024]).is_ok() {});
    let reader = thread::spawn(move || while reader.read(&mut [0; 32 * 1024]).is_ok_and(|count| count > 0) {});
    let late = lateness_us(&mut rig);
    client.shutdown(Shutdown::Both).expect("ends the load");
    writer.join().expect("the writer ends");
    reader.join().expect("the reader ends");
    assert!(late < LATE_US_MAX, "under load ticks were {late} µs late in the median");
}
