//! Bytes that are no frame, and frames that may not come: each is answered with its code, closed and counted, and no other
//! client notices.
#![forbid(unsafe_code)]

use std::time::Duration;

use weir::{
    limits::LOGIN_BODY_BYTES_MAX,
    wire::{ErrorCode, SendRef, body},
};

use crate::harness::{Bystanders, Frame, Gateway, Got, LoginFields, Peer, Reactor, frame_bytes, on_both_reactors, raw_frame};

/// A header that announces a body of this length.
fn header(kind: u8, body_bytes: u32) -> Vec<u8> {
    let mut bytes = vec![0x57, 0x52, 1, kind, 0, 0, 0, 0];
    bytes.extend(body_bytes.to_be_bytes());
    bytes.extend([0; 4]);
    bytes
}

fn login(client: &str) -> Vec<u8> {
    LoginFields { client, device: "1", ..LoginFields::default() }.frame()
}

fn altered(mut frame: Vec<u8>, offset: usize, value: u8) -> Vec<u8> {
    frame[offset] = value;
    frame
}

/// What no connection may send, logged in or not.
fn bad_bytes() -> Vec<(&'static str, Vec<u8>, ErrorCode)> {
    vec![
        ("an HTTP request", b"GET / HTTP/1.1\r\nHost: weir\r\n\r\n".to_vec(), ErrorCode::BadMagic),
        ("a TLS ClientHello", vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01], ErrorCode::BadMagic),
        ("two wrong bytes", b"RW".to_vec(), ErrorCode::BadMagic),
        ("version 2", altered(login("x"), 2, 2), ErrorCode::UnsupportedVersion),
        ("version 0", altered(login("x"), 2, 0), ErrorCode::UnsupportedVersion),
        ("an unknown critical flag", raw_frame(0x01, 0x0200, b""), ErrorCode::UnsupportedFlags),
        ("a compressed body, not agreed upon", raw_frame(0x01, 0x0100, b""), ErrorCode::BadCompression),
        ("a length of 4 GiB", header(0x10, u32::MAX), ErrorCode::FrameTooLong),
        ("a wrong checksum", altered(login("x"), 15, 0), ErrorCode::BadChecksum),
        ("a changed body", altered(login("xy"), 19, b'z'), ErrorCode::BadChecksum),
        ("an unknown critical type", raw_frame(0xf0, 0x8000, b"future"), ErrorCode::UnknownType),
        ("type 0, critical", raw_frame(0x00, 0x8000, b""), ErrorCode::UnknownType),
        ("garbage for a LOGIN", raw_frame(0x01, 0, b"hello, gateway"), ErrorCode::BadBody),
        ("garbage for a SEND", raw_frame(0x10, 0, &[0xff; 64]), ErrorCode::BadBody),
        ("a JOIN that is not UTF-8", raw_frame(0x20, 0, &[0x0a, 2, 0xc3, 0x28]), ErrorCode::BadBody),
        ("a body of too many fields", raw_frame(0x03, 0, &[0x08, 1].repeat(257)), ErrorCode::BadBody),
    ]
}

/// Frames that only a gateway sends.
fn of_gateways() -> Vec<(&'static str, Vec<u8>, ErrorCode)> {
    let frames = [
        ("LOGIN_OK", Frame::LoginOk(body::LoginOk::default())),
        ("SEND_OK", Frame::SendOk(body::SendOk::default())),
        ("PUSH", Frame::Push(weir::wire::PushRef { channel: "user/bystander-0-a", ..Default::default() })),
        ("JOIN_OK", Frame::JoinOk(body::JoinOk::default())),
        ("LEAVE_OK", Frame::LeaveOk(body::LeaveOk::default())),
        ("KICKED", Frame::Kicked(body::Kicked::default())),
        ("GOAWAY", Frame::Goaway(body::Goaway::default())),
        ("ERROR", Frame::Error(body::Error::default())),
    ];
    frames.map(|(name, frame)| (name, frame_bytes(&frame), ErrorCode::UnexpectedFrame)).to_vec()
}

/// Each case on a connection of its own, before LOGIN or behind it.
fn check_cases(gateway: &Gateway, cases: &[(&'static str, Vec<u8>, ErrorCode)], logged_in: bool) {
    for (index, (name, bytes, code)) in cases.iter().enumerate() {
        println!("{name}, {}", if logged_in { "logged in" } else { "before LOGIN" });
        let before = gateway.closed(*code);
        let mut peer = if logged_in { gateway.login(&format!("culprit-{index}"), "1") } else { gateway.connect() };
        peer.write(bytes);
        let error = peer.expect_closed(*code);
        assert!(!error.message.is_empty(), "{name}: a person wants to know why");
        gateway.await_value(code.name(), before + 1, |gateway| gateway.closed(*code));
    }
}

on_both_reactors! {
    fn bytes_that_are_no_frame(reactor) {
        let gateway = Gateway::start(reactor, &[]);
        let bystanders = Bystanders::start(&gateway);
        check_cases(&gateway, &bad_bytes(), false);
        check_cases(&gateway, &bad_bytes(), true);
        bystanders.check();
    }

    fn frames_of_the_wrong_side(reactor) {
        let gateway = Gateway::start(reactor, &[]);
        let bystanders = Bystanders::start(&gateway);
        check_cases(&gateway, &of_gateways(), false);
        check_cases(&gateway, &of_gateways(), true);
        bystanders.check();
    }

    fn anything_before_login_and_a_second_login(reactor) {
        let gateway = Gateway::start(reactor, &[]);
        let bystanders = Bystanders::start(&gateway);
        let send = SendRef { channel: "user/bystander-0-a", payload: b"intruder", receipt: true, ..SendRef::default() };
        let cases = [
            ("SEND", frame_bytes(&Frame::Send(send)), ErrorCode::UnexpectedFrame),
            ("JOIN", frame_bytes(&Frame::Join(body::Join { group: "g".to_owned(), cursor: None })), ErrorCode::UnexpectedFrame),
            ("LEAVE", frame_bytes(&Frame::Leave(body::Leave { group: "g".to_owned() })), ErrorCode::UnexpectedFrame),
            ("PING", frame_bytes(&Frame::Ping(body::Ping::default())), ErrorCode::UnexpectedFrame),
            ("PONG", frame_bytes(&Frame::Pong(body::Pong::default())), ErrorCode::UnexpectedFrame),
            ("an unknown type", raw_frame(0x7f, 0, b""), ErrorCode::UnexpectedFrame),
        ];
        check_cases(&gateway, &cases, false);
        check_cases(&gateway, &[("LOGIN", login("another"), ErrorCode::UnexpectedFrame)], true);
        // Two in one write: the second is behind the first wherever the connection moved to.
        for number in 0..8 {
            let mut peer = gateway.connect();
            peer.write(&[login(&format!("twice-{number}")), login(&format!("twice-{number}"))].concat());
            assert!(matches!(peer.next(), Got::LoginOk(_)));
            peer.expect_closed(ErrorCode::UnexpectedFrame);
        }
        bystanders.check();
    }

    fn a_frame_of_an_unknown_type_is_skipped(reactor) {
        let gateway = Gateway::start(reactor, &[]);
        let mut peer = gateway.login("curious", "1");
        for (kind, flags) in [(0xf0, 0), (0x7f, 0x00ff), (0x00, 0)] {
            peer.write(&raw_frame(kind, flags, &[0xff; 100]));
            peer.check_alive();
        }
        assert_eq!(gateway.metric("frames_unknown_total"), 3);
    }

    /// Refused from the header alone: nobody waits for the body, nor sets room aside for it.
    fn a_length_above_the_limit(reactor) {
        let gateway = Gateway::start(reactor, &["--limits-max-body-bytes", "1000000"]);
        let bystanders = Bystanders::start(&gateway);
        let rss = gateway.rss_bytes();
        let (before, rounds) = (gateway.closed(ErrorCode::FrameTooLong), 100);
        for round in 0..rounds {
            // Before LOGIN the limit is that of a LOGIN; then LOGIN_OK's holds.
            let (mut peer, limit) = match round % 2 {
                0 => (gateway.connect(), LOGIN_BODY_BYTES_MAX),
                _ => (gateway.login("long", &round.to_string()), 1_000_000),
            };
            let body_bytes = if round < 4 { limit + 1 } else { u32::MAX - 1 };
            peer.write(&header(0x10, body_bytes));
            let error = peer.expect_closed(ErrorCode::FrameTooLong);
            assert!(error.message.contains(&limit.to_string()), "{error:?} tells the limit of {limit}");
        }
        gateway.await_value("FRAME_TOO_LONG", before + rounds, |gateway| gateway.closed(ErrorCode::FrameTooLong));
        let grown = gateway.rss_bytes().saturating_sub(rss);
        assert!(grown < 16 << 20, "100 announced frames of 4 GiB cost {grown} bytes");
        bystanders.check();
    }

    /// The limit itself is allowed.
    fn a_length_at_the_limit(reactor) {
        let gateway = Gateway::start(reactor, &[]);
        let mut peer = gateway.connect();
        let mut body = LoginFields { client: "exact", ..LoginFields::default() }.frame().split_off(16);
        // An unknown field fills the body up: key and length take four bytes.
        let filler = LOGIN_BODY_BYTES_MAX as usize - body.len() - 5;
        body.extend([0x82, 0x01, (filler & 0x7f) as u8 | 0x80, (filler >> 7 & 0x7f) as u8 | 0x80, (filler >> 14) as u8]);
        body.resize(LOGIN_BODY_BYTES_MAX as usize, 0);
        peer.write(&raw_frame(0x01, 0, &body));
        assert!(matches!(peer.next(), Got::LoginOk(ok) if ok.client_id == "exact"));
    }

    fn a_truncated_frame_and_then_the_end(reactor) {
        let gateway = Gateway::start(reactor, &[]);
        let bystanders = Bystanders::start(&gateway);
        let whole = login("truncated");
        for length in 0..whole.len() {
            let before = gateway.metric("hung_up_total");
            let mut peer = gateway.connect();
            peer.write(&whole[..length]);
            peer.finish();
            assert_eq!(peer.drain(), [Got::End], "after {length} of {} bytes", whole.len());
            gateway.await_value("hung_up", before + 1, |gateway| gateway.metric("hung_up_total"));
        }
        let mut peer = gateway.login("truncated", "2");
        peer.write(&whole[..20]);
        peer.finish();
        assert_eq!(peer.drain(), [Got::End]);
        gateway.await_value("inbound_bytes", 0, |gateway| gateway.metric("inbound_bytes"));
        bystanders.check();
    }

    fn bytes_one_at_a_time(reactor) {
        let gateway = Gateway::start(reactor, &[]);
        let bystanders = Bystanders::start(&gateway);
        let mut reader = gateway.login("reader", "1");
        let mut peer = gateway.connect();
        let send = SendRef { channel: "user/reader", client_msg_id: 9, payload: b"slowly", receipt: true, ..SendRef::default() };
        for byte in [login("dribbler"), frame_bytes(&Frame::Send(send))].concat() {
            peer.write(&[byte]);
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(matches!(peer.next(), Got::LoginOk(ok) if ok.client_id == "dribbler"));
        assert!(matches!(peer.next(), Got::SendOk(ok) if ok.client_msg_id == 9 && ok.reached == 1));
        assert_eq!(reader.next_push(), ("dribbler".to_owned(), 9, b"slowly".to_vec()));
        // And something bad, as slowly.
        for byte in altered(login("dribbler"), 15, 0) {
            peer.write(&[byte]);
        }
        peer.expect_closed(ErrorCode::BadChecksum);
        bystanders.check();
    }

    /// The answer reaches a client that has much more in flight: closing at once would reset the connection over it.
    fn the_reason_arrives_in_front_of_a_flood(reactor) {
        let gateway = Gateway::start(reactor, &[]);
        let bystanders = Bystanders::start(&gateway);
        for logged_in in [false, true] {
            for _ in 0..5 {
                let mut peer = if logged_in { gateway.login("flood", "1") } else { gateway.connect() };
                peer.write(&vec![b'x'; 1 << 20]);
                peer.expect_closed(ErrorCode::BadMagic);
            }
        }
        bystanders.check();
    }

    /// Half a connection: we end our direction behind the mistake, and still read the answer.
    fn the_reason_arrives_behind_a_half_close(reactor) {
        let gateway = Gateway::start(reactor, &[]);
        for _ in 0..50 {
            let mut peer: Peer = gateway.connect();
            peer.write(b"GET / HTTP/1.0\r\n\r\n");
            peer.finish();
            peer.expect_closed(ErrorCode::BadMagic);
        }
        gateway.await_value("BAD_MAGIC", 50, |gateway| gateway.closed(ErrorCode::BadMagic));
    }
}
