//! Several frames in one, both ways, over real sockets.
#![forbid(unsafe_code)]

use std::time::Duration;

use weir::client::{Client, Event};
use weir::wire::{ErrorCode, SendRef, body, wrap_batch};

use crate::harness::{Frame, Gateway, Reactor, frame_bytes, on_both_reactors};

const TIMEOUT: Duration = Duration::from_secs(20);

fn client(gateway: &Gateway, login: body::Login) -> Client {
    let mut client = Client::connect(&gateway.addr.to_string(), TIMEOUT).expect("the gateway listens");
    let asked = login.batches;
    let ok = client.login(login).expect("anybody may log in");
    assert_eq!(ok.batches, asked);
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
    /// What leaves in batches arrives as it was sent: in order, whole, once; also for who did not ask for batches.
    fn batches_both_ways(reactor) {
        let gateway = Gateway::start(reactor, &["--shards", "2"]);
        let mut receivers = [client(&gateway, login("bob")), client(&gateway, body::Login { batches: false, ..login("carol") })];
        let mut sender = client(&gateway, login("alice"));
        let mut receipts = 0;
        for first in (0..400).step_by(20) {
            let payloads: Vec<Vec<u8>> = (first..first + 20).map(payload).collect();
            for channel in ["user/bob", "user/carol"] {
                let send = |(at, payload)| {
                    let client_msg_id = first + at as u64;
                    Frame::Send(SendRef { channel, client_msg_id, payload, receipt: true, ..SendRef::default() })
                };
                let sends: Vec<Frame<'_>> = payloads.iter().map(Vec::as_slice).enumerate().map(send).collect();
                sender.write_batch(&sends).expect("the gateway takes it");
            }
            while receipts < 2 * (first + 20) {
                match sender.next_event(TIMEOUT).expect("the connection stands") {
                    Some(Event::SendOk(ok)) => assert_eq!((ok.reached, ok.dropped), (1, 0)),
                    other => panic!("{other:?}"),
                }
                receipts += 1;
            }
        }
        for receiver in &mut receivers {
            for id in 0..400 {
                let push = receiver.next_push(TIMEOUT).expect("the connection stands").expect("it comes");
                assert_eq!((push.client_msg_id, push.payload), (id, payload(id)));
            }
            receiver.ping().expect("it lives");
        }
        assert_eq!(gateway.metric("batches_in_total"), 40);
        assert!(gateway.metric("batches_out_total") > 0);
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
