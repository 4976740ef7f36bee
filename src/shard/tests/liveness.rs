//! Deadlines, slow consumers, and stopping.
#![forbid(unsafe_code)]

use super::*;

/// The wheel's buckets make a deadline late by so much at most.
const LATE_MS: u64 = 2 * timers::BUCKET_MS;

#[test]
fn who_does_not_log_in_is_told_in_time_and_closed() {
    let mut bench = Bench::new(|_| {});
    let conn = bench.connect();
    bench.advance(4_999);
    assert_eq!(bench.take(conn), []);
    bench.advance(1 + LATE_MS);
    assert_eq!(bench.take(conn), [Seen::Closing(ErrorCode::LoginTimeout), Seen::Finished]);
    bench.advance(1_999 - LATE_MS);
    assert_eq!(bench.take(conn), [], "the peer has time to read");
    bench.advance(1 + 2 * LATE_MS);
    assert_eq!(bench.take(conn), [Seen::Closed]);
    assert_eq!(bench.shard.residue(), Residue::default());
}

#[test]
fn a_shard_that_slept_long_gives_the_whole_time_for_login() {
    let mut bench = Bench::new(|_| {});
    bench.turn();
    bench.now = Tick(3_600_000_000);
    let conn = bench.connect();
    bench.advance(4_999);
    assert_eq!(bench.take(conn), []);
    assert_eq!(bench.try_login(conn, "alice"), [Seen::Frame("LOGIN_OK")]);
}

#[test]
fn silence_brings_a_probe_and_then_the_end() {
    let mut bench = Bench::new(|_| {});
    let conn = bench.login("alice");
    bench.advance(89_999);
    assert_eq!(bench.take(conn), []);
    bench.advance(1 + LATE_MS);
    assert_eq!(bench.take(conn), [Seen::Frame("PING")]);
    assert_eq!(bench.stats.probes.get(), 1);
    bench.advance(9_999 - LATE_MS);
    assert_eq!(bench.take(conn), []);
    bench.advance(1 + 2 * LATE_MS);
    assert_eq!(bench.take(conn), [Seen::Closing(ErrorCode::IdleTimeout), Seen::Finished]);
    assert_eq!(bench.closed_with(ErrorCode::IdleTimeout), 1);
}

#[test]
fn who_answers_the_probe_stays_each_time() {
    let mut bench = Bench::new(|_| {});
    let conn = bench.login("alice");
    for _ in 0..3 {
        bench.advance(90_000 + LATE_MS);
        assert_eq!(bench.take(conn), [Seen::Frame("PING")]);
        assert_eq!(bench.ask(conn, &Frame::Pong(body::Pong::default())), []);
    }
    assert_eq!(bench.stats.probes.get(), 3);
    assert_eq!(bench.ping(conn), [Seen::Frame("PONG")]);
}

#[test]
fn a_probe_is_out_when_what_was_before_it_is() {
    let mut bench = Bench::new(|_| {});
    let (alice, bob) = (bench.login("alice"), bench.login("bob"));
    bench.advance(85_000);
    bench.deafen(bob);
    for id in 0..2 {
        bench.send(alice, "user/bob", id, b"hello");
    }
    bench.advance(5_000 + LATE_MS);
    assert_eq!(bench.stats.probes.get(), 1);
    bench.advance(4_000);
    assert_eq!(bench.take(bob), [], "it reads slowly");
    bench.undeafen(bob);
    assert_eq!(bench.take(bob), [Seen::Push(0), Seen::Push(1), Seen::Frame("PING")]);
    bench.advance(9_999 - LATE_MS);
    assert_eq!(bench.take(bob), []);
    bench.advance(1 + 2 * LATE_MS);
    assert_eq!(bench.take(bob), [Seen::Closing(ErrorCode::IdleTimeout), Seen::Finished]);
}

#[test]
fn whoever_talks_is_never_probed() {
    let mut bench = Bench::new(|_| {});
    let conn = bench.login("alice");
    for _ in 0..100 {
        bench.advance(60_000);
        assert_eq!(bench.ping(conn), [Seen::Frame("PONG")]);
    }
    assert_eq!(bench.stats.probes.get(), 0);
}

#[test]
fn the_more_connections_there_are_the_less_often_each_is_asked_for_a_heartbeat() {
    let mut bench = Bench::new(|settings| {
        (settings.limits.heartbeats_per_second, settings.limits.connections) = (1, 1_000);
        let rules = &mut Arc::get_mut(&mut settings.rules).expect("nobody else has it").heartbeat;
        (rules.interval_min_ms, rules.interval_max_ms) = (10_000, 60_000);
    });
    let good = Frame::Ping(body::Ping { rtt_us: 1_000, ..body::Ping::default() });
    let mut interval = |others: usize| {
        let all: Vec<ConnId> = (0..=others).map(|number| bench.login(&format!("c{others}-{number}"))).collect();
        for _ in 0..20 {
            bench.advance(1_000);
            assert_eq!(bench.ask(all[0], &good), [Seen::Frame("PONG")]);
        }
        let session = bench.shard.connections.get(all[0]).and_then(|connection| connection.session.as_ref());
        session.expect("it is there").heartbeat.interval_ms
    };
    assert_eq!(interval(0), 10_000, "the shortest, on a good path");
    // With the one from before.
    assert_eq!(interval(17), 19_000, "as many seconds as connections");
    assert_eq!(interval(30), 50_000);
    assert_eq!(interval(100), 60_000, "no longer than the rules allow");
    let conn = bench.login("late");
    let session = bench.shard.connections.get(conn).and_then(|connection| connection.session.as_ref());
    assert_eq!(session.expect("it is there").heartbeat.interval_ms, 60_000, "a new one is told so, too");
}

#[test]
fn a_chunk_that_does_not_leave_while_more_waits_ends_the_connection() {
    let mut bench = Bench::new(|_| {});
    let (alice, bob) = (bench.login("alice"), bench.login("bob"));
    bench.deafen(bob);
    for id in 0..3 {
        bench.send(alice, "user/bob", id, b"hello");
    }
    bench.advance(9_999);
    assert_eq!(bench.closed_with(ErrorCode::SlowConsumer), 0);
    bench.advance(1);
    assert_eq!(bench.closed_with(ErrorCode::SlowConsumer), 1);
    // What was in flight may still leave; then the reason, and nothing between them.
    bench.undeafen(bob);
    assert_eq!(bench.take(bob), [Seen::Push(0), Seen::Closing(ErrorCode::SlowConsumer), Seen::Finished]);
}

#[test]
fn a_slow_consumer_that_never_reads_is_closed_all_the_same() {
    let mut bench = Bench::new(|_| {});
    let (alice, bob) = (bench.login("alice"), bench.login("bob"));
    bench.deafen(bob);
    for id in 0..3 {
        bench.send(alice, "user/bob", id, b"hello");
    }
    bench.advance(10_000 + 2_000 + LATE_MS);
    assert_eq!(bench.take(bob), [Seen::Closed]);
    assert_eq!((bench.shard.residue().outbounds, bench.shard.residue().outbound_bytes), (0, 0));
}

#[test]
fn a_busy_connection_is_watched_once() {
    let mut bench = Bench::new(|_| {});
    let (alice, bob) = (bench.login("alice"), bench.login("bob"));
    for id in 0..1_000 {
        bench.deafen(bob);
        bench.send(alice, "user/bob", 2 * id, b"in flight");
        bench.send(alice, "user/bob", 2 * id + 1, b"behind it");
        bench.undeafen(bob);
    }
    assert_eq!(bench.take(bob).len(), 2_000);
    assert_eq!(bench.shard.residue().watched, 1);
    bench.advance(20_000);
    assert_eq!(bench.shard.residue().watched, 0);
}

#[test]
fn nothing_follows_the_last_frame() {
    let mut bench = Bench::new(|settings| settings.shards = 2);
    let near =
        (0..).map(|number| format!("near{number}")).find(|name| bench.shard.home(bench.shard.keyed.name(name)) == ShardId(0));
    let conn = bench.login(&near.expect("half of all names"));
    bench.deafen(conn);
    bench.ping(conn);
    let mut bytes = Vec::new();
    encode(&Frame::JoinOk(body::JoinOk::default()), &mut bytes);
    bench.input(Input::Received { conn, bytes: &bytes });
    // The answer to an earlier SEND comes from the other shard.
    let mut batch = Batch::default();
    let tally = message::Tally { reached: 1, dropped: 0 };
    batch.items.push(message::Item::Reached { conn, client_msg_id: 1, tally });
    bench.input(Input::Posted { from: ShardId(1), message: Message::Batch(Box::new(batch)) });
    bench.undeafen(conn);
    assert_eq!(bench.take(conn), [Seen::Frame("PONG"), Seen::Closing(ErrorCode::UnexpectedFrame), Seen::Finished]);
}

fn drain(bench: &mut Bench, within_ms: u32) {
    let message = Message::Control(Control::Drain { within_ms });
    bench.input(Input::Posted { from: ShardId(1), message });
}

#[test]
fn a_drain_tells_everybody_and_goes_on_until_nobody_is_left_anywhere() {
    let mut bench = Bench::new(|_| {});
    let (alice, stranger) = (bench.login("alice"), bench.connect());
    drain(&mut bench, 10_000);
    assert_eq!(bench.stops_accepting, 1);
    assert_eq!(bench.take(alice), [Seen::Frame("GOAWAY")]);
    assert_eq!(bench.take(stranger), [Seen::Closing(ErrorCode::GoingAway), Seen::Finished]);
    let late = bench.connect();
    assert_eq!(bench.take(late), [Seen::Closing(ErrorCode::GoingAway), Seen::Finished]);
    assert_eq!(bench.ping(alice), [Seen::Frame("PONG")], "it still works");
    for conn in [alice, stranger, late] {
        assert_eq!(bench.stopped, 0);
        bench.input(Input::Eof { conn });
    }
    bench.advance(1_000);
    assert_eq!(bench.stopped, 0, "others may still send to what lives here");
    bench.input(Input::Posted { from: ShardId(1), message: Message::Control(Control::Stop) });
    assert_eq!(bench.stopped, 1);
    bench.advance(20_000);
    assert_eq!(bench.stopped, 1, "Stop is said once");
}

#[test]
fn who_comes_home_during_a_drain_is_told() {
    let mut bench = Bench::new(|_| {});
    let (early, stays) = (bench.login("early"), bench.login("stays"));
    drain(&mut bench, 10_000);
    bench.input(Input::Eof { conn: early });
    // Into a slot whose user was told already.
    let conn = ConnId { slot: early.slot, generation: 2 };
    let identity = crate::session::Identity {
        names: crate::session::Names::new("late", ""),
        class: 0,
        rights: None,
        window: 0,
        cursor: None,
        form: crate::session::Form::default(),
    };
    let arrival = Arrival { identity, epoch: 1, address: 0, trailing: Vec::new(), refusals: 0 };
    bench.input(Input::Adopted { conn, from: ShardId(1), message: Message::Arrival(Box::new(arrival)) });
    assert_eq!(bench.take(conn), [Seen::Frame("LOGIN_OK"), Seen::Frame("GOAWAY")]);
    assert_eq!(bench.take(stays), [Seen::Frame("GOAWAY")]);
}

#[test]
fn who_outstays_a_drain_is_told_and_the_shard_stops_in_time() {
    let mut bench = Bench::new(|_| {});
    let (alice, deaf) = (bench.login("alice"), bench.login("deaf"));
    bench.deafen(deaf);
    drain(&mut bench, 10_000);
    assert_eq!(bench.take(alice), [Seen::Frame("GOAWAY")]);
    bench.advance(4_999);
    assert_eq!(bench.take(alice), []);
    bench.advance(11);
    assert_eq!(bench.take(alice), [Seen::Closing(ErrorCode::GoingAway), Seen::Finished]);
    bench.input(Input::Eof { conn: alice });
    bench.advance(4_980);
    assert_eq!(bench.stopped, 0, "the other one has not read it");
    bench.advance(20);
    assert_eq!(bench.stopped, 1);
}

#[test]
fn the_write_deadline_holds_for_what_was_queued_in_one_turn() {
    let mut bench = Bench::new(|_| {});
    let (alice, bob) = (bench.login("alice"), bench.login("bob"));
    bench.deafen(bob);
    // One frame of several chunks, and nothing is appended any more once the first of them is in flight.
    bench.send(alice, "user/bob", 1, &[0; 50_000]);
    bench.advance(9_900);
    assert_eq!(bench.closed_with(ErrorCode::SlowConsumer), 0);
    bench.advance(300);
    assert_eq!(bench.closed_with(ErrorCode::SlowConsumer), 1);
}

#[test]
fn a_slow_reader_that_gets_on_is_not_closed() {
    let mut bench = Bench::new(|_| {});
    let (alice, bob) = (bench.login("alice"), bench.login("bob"));
    for id in 0..3 {
        bench.send(alice, "user/bob", id, &[0; 60_000]);
        bench.take(bob);
    }
    bench.deafen(bob);
    bench.send(alice, "user/bob", 3, &[0; 60_000]);
    // Far slower than one frame in ten seconds, but a chunk every eight.
    for _ in 0..4 {
        bench.advance(8_000);
        bench.undeafen_once(bob);
    }
    bench.undeafen(bob);
    assert!(bench.take(bob).contains(&Seen::Push(3)));
    assert_eq!(bench.closed_with(ErrorCode::SlowConsumer), 0);
}

#[test]
fn a_frame_that_is_begun_and_not_finished_ends_the_connection() {
    let mut bench = Bench::new(|_| {});
    let (slow, dead) = (bench.login("slow"), bench.login("dead"));
    let mut frame = Vec::new();
    encode(&Frame::Send(SendRef { channel: "user/bob", payload: &[0; 3_000], ..SendRef::default() }), &mut frame);
    for part in frame.chunks(500) {
        bench.input(Input::Received { conn: slow, bytes: part });
        bench.advance(4_000);
    }
    assert_eq!(bench.closed_with(ErrorCode::FrameTimeout), 0, "24 s are enough");
    // A byte now and then is life, but not an end of the frame.
    for byte in frame[..40].chunks(1) {
        bench.input(Input::Received { conn: dead, bytes: byte });
        bench.advance(1_000);
    }
    assert_eq!(bench.take(dead), [Seen::Closing(ErrorCode::FrameTimeout), Seen::Finished, Seen::Closed]);
    assert_eq!(bench.closed_with(ErrorCode::FrameTimeout), 1);
}
