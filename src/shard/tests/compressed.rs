//! Compression: agreed upon at LOGIN or refused, bounded, charged by what it comes to.
#![forbid(unsafe_code)]

use super::*;
use crate::wire::{Packer, wrap_batch};

const LOGIN_OK: Seen = Seen::Frame("LOGIN_OK");
const PONG: Seen = Seen::Frame("PONG");
const REACHED: Seen = Seen::SendOk { reached: 1, dropped: 0 };

fn login(client: &str, compression: i32) -> Frame<'static> {
    Frame::Login(body::Login { client_id: client.to_owned(), compression, batches: true, ..body::Login::default() })
}

fn encoded(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(frame, &mut bytes);
    bytes
}

fn packed(frame: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    assert!(Packer::default().pack(frame, &mut packed));
    packed
}

fn send(id: u64, payload: &[u8]) -> Vec<u8> {
    encoded(&Frame::Send(SendRef { channel: "user/bob", client_msg_id: id, payload, receipt: true, ..SendRef::default() }))
}

fn input(bench: &mut Bench, conn: ConnId, bytes: &[u8]) -> Vec<Seen> {
    bench.input(Input::Received { conn, bytes });
    bench.take(conn)
}

/// Alice and Bob, who both agreed upon compression.
fn two(bench: &mut Bench) -> (ConnId, ConnId) {
    let (alice, bob) = (bench.connect(), bench.connect());
    assert_eq!(bench.ask(alice, &login("alice", 1)), [LOGIN_OK]);
    assert_eq!(bench.ask(bob, &login("bob", 1)), [LOGIN_OK]);
    (alice, bob)
}

#[test]
fn what_was_agreed_upon_is_told() {
    for (asked, agreed) in [(0, 0), (1, 1), (2, 0), (-1, 0)] {
        let mut bench = Bench::new(|_| {});
        let conn = bench.connect();
        bench.deafen(conn);
        bench.ask(conn, &login("alice", asked));
        let chunk = bench.held.get(&conn).expect("LOGIN_OK is in flight");
        let Ok(Decoded::Frame { frame: Frame::LoginOk(ok), .. }) = decode(chunk.as_slice(), 65_536) else { panic!("LOGIN_OK") };
        assert_eq!((ok.compression, ok.batches), (agreed, true));
    }
}

#[test]
fn compressed_messages_go_both_ways() {
    let mut bench = Bench::new(|_| {});
    let (alice, bob) = two(&mut bench);
    for (id, length) in [(1, 1_000), (2, 20_000), (3, 64_000)] {
        assert_eq!(input(&mut bench, alice, &packed(&send(id, &vec![7; length]))), [REACHED]);
        assert_eq!(bench.take(bob), [Seen::Push(id)]);
    }
    assert!(bench.stats.bytes_saved.get() > 80_000);
    assert!(bench.stats.bytes_out.get() < 2_000);
    // A batch, compressed as a whole.
    let mut batch = [send(4, b"four"), send(5, &[0; 3_000])].concat();
    wrap_batch(&mut batch);
    assert_eq!(input(&mut bench, alice, &packed(&batch)), [Seen::Frame("BATCH"), REACHED, REACHED]);
    assert_eq!(bench.take(bob), [Seen::Frame("BATCH"), Seen::Push(4), Seen::Push(5)]);
    assert_eq!(bench.shard.residue().outbound_bytes, 0);
    // Who did not agree gets the same, plain.
    let carol = bench.login("bob");
    assert_eq!(input(&mut bench, alice, &send(6, &[0; 30_000])), [Seen::SendOk { reached: 2, dropped: 0 }]);
    assert_eq!((bench.take(bob), bench.take(carol)), (vec![Seen::Push(6)], vec![Seen::Push(6)]));
}

#[test]
fn byte_by_byte_it_is_the_same_frame() {
    let mut bench = Bench::new(|_| {});
    let (alice, bob) = two(&mut bench);
    for byte in packed(&send(1, &[7; 1_000])) {
        bench.input(Input::Received { conn: alice, bytes: &[byte] });
    }
    assert_eq!((bench.take(alice), bench.take(bob)), (vec![REACHED], vec![Seen::Push(1)]));
}

#[test]
fn who_did_not_agree_may_not_compress() {
    let mut bench = Bench::new(|_| {});
    let conn = bench.login("alice");
    let end = [Seen::Closing(ErrorCode::BadCompression), Seen::Finished];
    assert_eq!(input(&mut bench, conn, &packed(&send(1, &[7; 1_000]))), end);
    // Nor may LOGIN itself be compressed.
    let conn = bench.connect();
    let login = body::Login { client_id: "a".to_owned(), token: "x".repeat(2_000), ..body::Login::default() };
    assert_eq!(input(&mut bench, conn, &packed(&encoded(&Frame::Login(login)))), end);
    assert_eq!(bench.closed_with(ErrorCode::BadCompression), 2);
}

#[test]
fn it_is_agreed_upon_from_login_on() {
    let mut bench = Bench::new(|_| {});
    let conn = bench.connect();
    let bytes = [encoded(&login("bob", 1)), packed(&send(1, &[7; 1_000])), send(2, b"plain")].concat();
    let seen = input(&mut bench, conn, &bytes);
    assert_eq!(seen, [LOGIN_OK, Seen::Frame("BATCH"), Seen::Push(1), REACHED, Seen::Push(2), REACHED]);
}

#[test]
fn bombs_end_the_connection_and_cost_no_more_than_the_limit() {
    // The limit is 64 KiB: a batch of a megabyte, and a SEND of one byte too many.
    let mut batch = send(1, &[7; 60_000]).repeat(20);
    wrap_batch(&mut batch);
    let by_one = send(1, &vec![7; 64 * 1024 - 17]);
    assert_eq!(by_one.len(), 16 + 64 * 1024 + 1);
    for bomb in [batch, by_one] {
        let mut bench = Bench::new(|_| {});
        let (alice, bob) = two(&mut bench);
        let seen = input(&mut bench, alice, &packed(&bomb));
        assert_eq!(seen, [Seen::Closing(ErrorCode::DecompressedTooLong), Seen::Finished]);
        assert_eq!(bench.closed_with(ErrorCode::DecompressedTooLong), 1);
        assert_eq!(bench.take(bob), []);
        assert_eq!(bench.ping(bob), [PONG]);
    }
}

#[test]
fn a_compressed_frame_in_a_batch_is_refused() {
    let mut bench = Bench::new(|_| {});
    let (alice, _) = two(&mut bench);
    let mut batch = [encoded(&Frame::Ping(body::Ping::default())), packed(&send(1, &[7; 1_000]))].concat();
    wrap_batch(&mut batch);
    let seen = input(&mut bench, alice, &batch);
    assert_eq!(seen, [Seen::Frame("BATCH"), PONG, Seen::Closing(ErrorCode::BadBatch), Seen::Finished]);
}

#[test]
fn a_frame_is_charged_as_what_it_comes_to() {
    let mut bench = Bench::new(|settings| settings.rules = Arc::new(rules(0, 50_000)));
    let (alice, _) = two(&mut bench);
    let small = packed(&send(1, &[7; 45_000]));
    assert!(small.len() < 200);
    assert_eq!(input(&mut bench, alice, &small), [REACHED]);
    assert_eq!(input(&mut bench, alice, &small), [REACHED]);
    assert_eq!(input(&mut bench, alice, &small), [Seen::Refused(ErrorCode::RateExceeded)]);
}
