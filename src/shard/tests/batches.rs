//! BATCH both ways: what is asked for at LOGIN, what is taken apart, and what is refused.
#![forbid(unsafe_code)]

use super::*;
use crate::wire::wrap_batch;

const BATCH: Seen = Seen::Frame("BATCH");
const PONG: Seen = Seen::Frame("PONG");

fn login_with_batches(bench: &mut Bench, client: &str) -> ConnId {
    let conn = bench.connect();
    let login =
        body::Login { client_id: client.to_owned(), device_id: conn.to_string(), batches: true, ..body::Login::default() };
    assert_eq!(bench.ask(conn, &Frame::Login(login)), [Seen::Frame("LOGIN_OK")]);
    conn
}

fn encoded(frames: &[Frame<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        encode(frame, &mut bytes);
    }
    bytes
}

fn batch(frames: &[Frame<'_>]) -> Vec<u8> {
    let mut bytes = encoded(frames);
    wrap_batch(&mut bytes);
    bytes
}

fn ping() -> Frame<'static> {
    Frame::Ping(body::Ping { sent_us: 1, rtt_us: 0 })
}

fn send(id: u64) -> Frame<'static> {
    Frame::Send(SendRef { channel: "user/bob", client_msg_id: id, receipt: true, ..SendRef::default() })
}

fn input(bench: &mut Bench, conn: ConnId, bytes: &[u8]) -> Vec<Seen> {
    bench.input(Input::Received { conn, bytes });
    bench.take(conn)
}

#[test]
fn several_frames_of_a_turn_leave_as_one_batch_and_one_alone_does_not() {
    let mut bench = Bench::new(|_| {});
    let (alice, bob) = (bench.login("alice"), login_with_batches(&mut bench, "bob"));
    assert_eq!(input(&mut bench, alice, &encoded(&[send(1), send(2)])).len(), 2, "no batch for who did not ask");
    assert_eq!(bench.take(bob), [BATCH, Seen::Push(1), Seen::Push(2)]);
    input(&mut bench, alice, &encoded(&[send(3)]));
    assert_eq!(bench.take(bob), [Seen::Push(3)]);
    assert_eq!(bench.stats.batches_out.get(), 1);
    assert_eq!(bench.shard.residue().outbound_bytes, 0);
}

#[test]
fn login_ok_comes_alone_even_if_more_is_to_be_said_at_once() {
    let mut bench = Bench::new(|_| {});
    let conn = bench.connect();
    let login = Frame::Login(body::Login { client_id: "alice".to_owned(), batches: true, ..body::Login::default() });
    let seen = input(&mut bench, conn, &encoded(&[login, ping(), ping()]));
    assert_eq!(seen, [Seen::Frame("LOGIN_OK"), BATCH, PONG, PONG]);
}

#[test]
fn the_frames_of_a_batch_are_handled_in_order() {
    let mut bench = Bench::new(|_| {});
    let (alice, bob) = (bench.login("alice"), bench.login("bob"));
    let bytes = batch(&[ping(), send(1), send(2), ping()]);
    let reached = Seen::SendOk { reached: 1, dropped: 0 };
    let frames_before = bench.stats.frames_in.get();
    assert_eq!(input(&mut bench, alice, &bytes), [PONG, reached.clone(), reached, PONG]);
    assert_eq!(bench.take(bob), [Seen::Push(1), Seen::Push(2)]);
    assert_eq!((bench.stats.batches_in.get(), bench.stats.frames_in.get()), (1, frames_before + 4));
    // Byte by byte it is the same batch.
    for byte in &bytes {
        bench.input(Input::Received { conn: alice, bytes: &[*byte] });
    }
    assert_eq!(bench.take(alice).len(), 4);
}

#[test]
fn every_frame_of_a_batch_is_charged() {
    let mut bench = Bench::new(|settings| settings.rules = Arc::new(rules(5, 0)));
    let conn = bench.login("alice");
    let seen = input(&mut bench, conn, &batch(&vec![ping(); 15]));
    assert_eq!(seen, [vec![PONG; 10], vec![Seen::Refused(ErrorCode::RateExceeded); 5]].concat());
    let seen = input(&mut bench, conn, &batch(&vec![ping(); 15]));
    assert!(seen.ends_with(&[Seen::Closing(ErrorCode::RateExceeded), Seen::Finished]), "{seen:?}");
    assert!(seen.len() < 15, "nothing behind it is handled");
}

#[test]
fn bad_batches_end_the_connection_behind_what_came_first() {
    let whole = encoded(&[ping(), ping()]);
    let wrapped = |frames: &[u8]| {
        let mut bytes = frames.to_vec();
        wrap_batch(&mut bytes);
        bytes
    };
    let mut changed = whole.clone();
    *changed.last_mut().expect("it is not empty") ^= 1;
    let cases = [
        (wrapped(&whole[..whole.len() - 1]), ErrorCode::BadBatch, 1),
        (wrapped(&[&whole[..], b"W"].concat()), ErrorCode::BadBatch, 2),
        (wrapped(&[&whole[..], &wrapped(&whole)].concat()), ErrorCode::BadBatch, 2),
        (wrapped(&changed), ErrorCode::BadChecksum, 1),
        (batch(&[ping(), Frame::Login(body::Login::default()), ping()]), ErrorCode::UnexpectedFrame, 1),
        (batch(&[Frame::SendOk(body::SendOk::default())]), ErrorCode::UnexpectedFrame, 0),
    ];
    for (bytes, code, pongs) in cases {
        let mut bench = Bench::new(|_| {});
        let conn = bench.login("alice");
        let seen = input(&mut bench, conn, &bytes);
        assert_eq!(seen, [vec![PONG; pongs], vec![Seen::Closing(code), Seen::Finished]].concat());
        assert_eq!(bench.closed_with(code), 1);
    }
}

#[test]
fn an_empty_batch_is_refused() {
    let mut bench = Bench::new(|_| {});
    let conn = bench.login("alice");
    let empty = Frame::Batch(crate::wire::BatchRef::new(&[]));
    assert_eq!(bench.ask(conn, &empty), [Seen::Closing(ErrorCode::BadBatch), Seen::Finished]);
}

#[test]
fn a_batch_before_login_is_refused() {
    let mut bench = Bench::new(|_| {});
    let conn = bench.connect();
    let bytes = batch(&[Frame::Login(body::Login { client_id: "alice".to_owned(), ..body::Login::default() })]);
    assert_eq!(input(&mut bench, conn, &bytes), [Seen::Closing(ErrorCode::UnexpectedFrame), Seen::Finished]);
}

#[test]
fn the_last_frame_may_come_in_a_batch() {
    let mut bench = Bench::new(|_| {});
    let conn = login_with_batches(&mut bench, "alice");
    let seen = input(&mut bench, conn, &encoded(&[ping(), Frame::Login(body::Login::default())]));
    assert_eq!(seen, [BATCH, PONG, Seen::Closing(ErrorCode::UnexpectedFrame), Seen::Finished]);
}
