//! Against a gateway that is a script: it reads what it expects and writes what it is told.
#![forbid(unsafe_code)]

use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;

use super::*;
use crate::wire::{ErrorCode, PushRef, Retry};

const TIMEOUT: Duration = Duration::from_secs(5);

/// A peer that accepts one connection and hands it to `script`.
fn gateway(script: impl FnOnce(TcpStream) + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (address, std::thread::spawn(move || script(listener.accept().unwrap().0)))
}

fn bytes(frames: &[Frame<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frames.iter().for_each(|frame| encode(frame, &mut bytes));
    bytes
}

fn read_frame(stream: &mut TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    let mut byte = [0];
    while let Decoded::NeedMore { .. } = decode(&received, BODY_BYTES_CEILING).unwrap() {
        stream.read_exact(&mut byte).unwrap();
        received.push(byte[0]);
    }
    received
}

fn push(payload: &[u8]) -> Frame<'_> {
    Frame::Push(PushRef { channel: "user/alice", from_client: "bob", payload, ..PushRef::default() })
}

#[test]
fn an_answer_is_found_behind_messages_and_pings() {
    let (address, peer) = gateway(|mut stream| {
        let asked = read_frame(&mut stream);
        assert!(matches!(decode(&asked, 1024).unwrap(), Decoded::Frame { frame: Frame::Join(_), .. }));
        let ping = Frame::Ping(body::Ping { sent_us: 7, rtt_us: 0 });
        let other = Frame::JoinOk(body::JoinOk { group: "other".into(), members: 0 });
        let ok = Frame::JoinOk(body::JoinOk { group: "room".into(), members: 3 });
        // A byte at a time, as a bad network might.
        for byte in bytes(&[push(b"one"), ping, other, ok, push(b"two")]) {
            stream.write_all(&[byte]).unwrap();
        }
        let answered = read_frame(&mut stream);
        let pong = Frame::Pong(body::Pong { sent_us: 7, heartbeat_interval_ms: 0 });
        assert_eq!(decode(&answered, 1024).unwrap(), Decoded::Frame { frame: pong, frame_bytes: answered.len() });
    });
    let mut client = Client::connect(&address.to_string(), TIMEOUT).unwrap();
    assert_eq!(client.join("room").unwrap(), 3);
    assert_eq!(client.next_push(TIMEOUT).unwrap().unwrap().payload, b"one");
    assert_eq!(client.next_push(TIMEOUT).unwrap().unwrap().payload, b"two");
    peer.join().unwrap();
}

#[test]
fn a_watch_waits_for_a_word_on_each_client_and_loses_none() {
    let (address, peer) = gateway(|mut stream| {
        let asked = read_frame(&mut stream);
        assert!(matches!(decode(&asked, 1024).unwrap(), Decoded::Frame { frame: Frame::Watch(_), .. }));
        let of = |client: &str, fresh| Frame::Presence(body::PresenceOf { client: client.into(), fresh, ..Default::default() });
        stream.write_all(&bytes(&[of("bob", true), of("bob", false), push(b"one"), of("carol", true)])).unwrap();
    });
    let mut client = Client::connect(&address.to_string(), TIMEOUT).unwrap();
    client.watch(&["carol".to_owned(), "bob".to_owned(), "bob".to_owned()]).unwrap();
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(match client.next_event(TIMEOUT).unwrap() {
            Some(Event::Presence(presence)) => presence.client,
            Some(Event::Push(_)) => "push".to_owned(),
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(seen, ["bob", "bob", "push", "carol"]);
    peer.join().unwrap();
}

#[test]
fn a_refusal_and_the_reason_of_a_close_are_told() {
    let (address, peer) = gateway(|mut stream| {
        read_frame(&mut stream);
        let code = ErrorCode::JoinForbidden.number();
        let refused = body::Error { code, in_reply_to: FrameType::Join as u32, ..body::Error::default() };
        let kicked = body::Kicked { code: ErrorCode::Superseded.number(), message: "newer".into(), by_device: String::new() };
        stream.write_all(&bytes(&[Frame::Error(refused), Frame::Kicked(kicked)])).unwrap();
    });
    let mut client = Client::connect(&address.to_string(), TIMEOUT).unwrap();
    let refused = client.join("room").unwrap_err();
    assert!(refused.to_string().contains("JOIN_FORBIDDEN (5002)"), "{refused}");
    assert!(matches!(client.next_event(TIMEOUT).unwrap(), Some(Event::Kicked(_))));
    let closed = client.next_event(TIMEOUT).unwrap_err();
    assert!(closed.to_string().contains("SUPERSEDED (4003): newer"), "{closed}");
    assert_eq!(closed.retry(), Retry::OnDemand);
    peer.join().unwrap();
}

#[test]
fn silence_is_no_message_and_no_answer() {
    let (address, peer) = gateway(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let mut client = Client::connect(&address.to_string(), Duration::from_millis(50)).unwrap();
    assert_eq!(client.next_event(Duration::from_millis(20)).unwrap(), None);
    assert_eq!(client.next_event(Duration::ZERO).unwrap(), None);
    assert!(matches!(client.ping(), Err(ClientError::Timeout { awaited: "PONG", .. })));
    client.finish().unwrap();
    peer.join().unwrap();
}

#[test]
fn a_peer_that_speaks_something_else_is_named() {
    let (address, peer) = gateway(|mut stream| stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap());
    let mut client = Client::connect(&address.to_string(), TIMEOUT).unwrap();
    let wrong = client.next_event(TIMEOUT).unwrap_err();
    assert!(matches!(wrong, ClientError::Malformed(_)), "{wrong}");
    peer.join().unwrap();
    let (address, peer) = gateway(|mut stream| stream.write_all(&bytes(&[Frame::Leave(body::Leave::default())])).unwrap());
    let mut client = Client::connect(&address.to_string(), TIMEOUT).unwrap();
    assert!(matches!(client.next_event(TIMEOUT), Err(ClientError::Unexpected { kind: "LEAVE" })));
    peer.join().unwrap();
}

#[test]
fn nobody_there_says_how_to_start_one() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let wrong = Client::connect(&free.to_string(), TIMEOUT).unwrap_err();
    assert!(wrong.to_string().contains("weir serve --dev"), "{wrong}");
    assert!(matches!(Client::connect("no port", TIMEOUT), Err(ClientError::Connect { .. })));
}
