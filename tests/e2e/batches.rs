//! Several frames in one, and compressed, both ways, over real sockets.
#![forbid(unsafe_code)]

use std::time::Duration;

use weir::client::{Client, Event};
use weir::wire::{ErrorCode, Packer, SendRef, body, wrap_batch};

use crate::harness::{Frame, Gateway, Got, Reactor, frame_bytes, on_both_reactors, run_weir};

const TIMEOUT: Duration = Duration::from_secs(20);

fn client(gateway: &Gateway, login: body::Login) -> Client {
    let mut client = Client::connect(&gateway.addr.to_string(), TIMEOUT).expect("the gateway listens");
    let (batches, compression) = (login.batches, login.compression);
    let ok = client.login(login).expect("anybody may log in");
    assert_eq!((ok.batches, ok.compression), (batches, compression));
    client
}

fn login(client_id: &str) -> body::Login {
    body::Login { client_id: client_id.to_owned(), batches: true, ..body::Login::default() }
}

fn payload(id: u64) -> Vec<u8> {
    let length = [0, 30, 700, 5_000][id as usize % 4];
    format!("message {id} ").into_bytes().repeat(length / 10 + 1)
}

on_both_reactors! {
    /// What leaves in batches, or compressed, or both, arrives as it was sent: in order, whole, once; also for who asked for neither.
    fn batches_both_ways(reactor) {
        let gateway = Gateway::start(reactor, &["--shards", "2"]);
        let zstd = body::Compression::Zstd as i32;
        let mut receivers = [
            client(&gateway, login("bob")),
            client(&gateway, body::Login { batches: false, ..login("carol") }),
            client(&gateway, body::Login { compression: zstd, ..login("dave") }),
            client(&gateway, body::Login { compression: zstd, batches: false, ..login("erin") }),
        ];
        let mut senders = [client(&gateway, login("alice")), client(&gateway, body::Login { compression: zstd, ..login("zoe") })];
        for first in (0..400).step_by(20) {
            let sender = &mut senders[first as usize / 20 % 2];
            let payloads: Vec<Vec<u8>> = (first..first + 20).map(payload).collect();
            for channel in ["user/bob", "user/carol", "user/dave", "user/erin"] {
                let send = |(at, payload)| {
                    let client_msg_id = first + at as u64;
                    Frame::Send(SendRef { channel, client_msg_id, payload, receipt: true, ..SendRef::default() })
                };
                let sends: Vec<Frame<'_>> = payloads.iter().map(Vec::as_slice).enumerate().map(send).collect();
                sender.write_batch(&sends).expect("the gateway takes it");
            }
            for _ in 0..4 * 20 {
                match sender.next_event(TIMEOUT).expect("the connection stands") {
                    Some(Event::SendOk(ok)) => assert_eq!((ok.reached, ok.dropped), (1, 0)),
                    other => panic!("{other:?}"),
                }
            }
        }
        for receiver in &mut receivers {
            for id in 0..400 {
                let push = receiver.next_push(TIMEOUT).expect("the connection stands").expect("it comes");
                assert_eq!((push.client_msg_id, push.payload), (id, payload(id)));
            }
            receiver.ping().expect("it lives");
        }
        assert_eq!(gateway.metric("batches_in_total"), 80);
        assert!(gateway.metric("batches_out_total") > 0);
        // Half of the senders and half of the receivers compress; a payload repeats itself.
        let all: u64 = (0..400).map(|id| payload(id).len() as u64).sum();
        assert!(gateway.metric("bytes_saved_total") > all);
        assert!(gateway.metric("bytes_in_total") < 3 * all);
    }

    /// A gateway whose memory does not grow with what bombs come to: 200 of them would be 200 MB.
    fn a_bomb_ends_its_connection_and_no_other(reactor) {
        let gateway = Gateway::start(reactor, &["--shards", "1"]);
        let mut other = gateway.login("other", "1");
        let mut bomb = frame_bytes(&Frame::Send(SendRef { channel: "user/other", payload: &vec![0; 1 << 20], ..SendRef::default() }));
        let mut packed = Vec::new();
        assert!(Packer::default().pack(&bomb, &mut packed));
        std::mem::swap(&mut bomb, &mut packed);
        assert!(bomb.len() < 500);
        let before = gateway.rss_bytes();
        for number in 0..200 {
            let mut peer = gateway.connect();
            let compression = body::Compression::Zstd as i32;
            peer.send_frame(&Frame::Login(body::Login { compression, batches: false, ..login(&format!("bomber-{number}")) }));
            assert!(matches!(peer.next(), Got::LoginOk(_)));
            peer.write(&bomb);
            peer.expect_closed(ErrorCode::DecompressedTooLong);
        }
        let grown = gateway.rss_bytes().saturating_sub(before);
        assert!(grown < 20 << 20, "{grown} bytes more");
        assert_eq!(gateway.closed(ErrorCode::DecompressedTooLong), 200);
        other.check_alive();
    }

    fn the_shell_commands_compress(reactor) {
        let gateway = Gateway::start(reactor, &[]);
        let mut bob = gateway.login("bob", "1");
        let text = "hello ".repeat(5_000);
        let addr = gateway.addr.to_string();
        let output = run_weir(&["send", "--addr", &addr, "--as", "alice", "--to", "bob", "--compress", &text]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (from, _, payload) = bob.next_push();
        assert!(from == "alice" && payload == text.as_bytes());
        assert!(gateway.metric("bytes_in_total") < 2_000);
    }

    fn a_bad_batch_ends_the_connection_and_no_other(reactor) {
        let gateway = Gateway::start(reactor, &[]);
        let mut other = gateway.login("other", "1");
        let mut peer = gateway.login("alice", "1");
        let mut batch = frame_bytes(&Frame::Ping(body::Ping::default()));
        batch.pop();
        wrap_batch(&mut batch);
        peer.write(&batch);
        peer.expect_closed(ErrorCode::BadBatch);
        assert_eq!(gateway.closed(ErrorCode::BadBatch), 1);
        other.check_alive();
    }
}
