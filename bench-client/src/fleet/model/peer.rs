//! The server's side of the dialects other than Weir's own.
#![forbid(unsafe_code)]

use weir::wire::{Frame, PushRef, SendRef, encode};

use super::{Dialect, Peer, World};
use crate::{fleet::dialect::mqtt, scenario::Scenario};

impl<S: Scenario> World<S> {
    /// A connection is up.
    pub(super) fn greet(&mut self, peer: Peer) {
        match self.dialect() {
            Dialect::Weir | Dialect::Mqtt | Dialect::Bare => {}
            Dialect::Nats => self.say(peer, b"INFO {\"version\":\"2.9.10\",\"max_payload\":1048576}\r\n"),
        }
    }

    fn say(&mut self, peer: Peer, bytes: &[u8]) {
        self.session(peer).pending.extend_from_slice(bytes);
    }

    /// Appends a frame, or a push in the dialect of this run.
    pub(super) fn put(&self, frame: &Frame<'_>, out: &mut Vec<u8>) {
        match (self.dialect(), frame) {
            (Dialect::Weir, frame) => encode(frame, out),
            (Dialect::Nats, Frame::Push(PushRef { channel, payload, .. })) => {
                let number = if channel.starts_with("user") { 1 } else { 2 };
                let subject = channel.replacen('/', ".", 1);
                out.extend_from_slice(format!("MSG {subject} {number} {}\r\n", payload.len()).as_bytes());
                out.extend_from_slice(payload);
                out.extend_from_slice(b"\r\n");
            }
            (Dialect::Mqtt, Frame::Push(PushRef { channel, payload, .. })) => mqtt::put_publish(channel, payload, out),
            (dialect, other) => panic!("{dialect:?} has nothing like {other:?}"),
        }
    }

    /// A client follows a channel.
    fn subscribe(&mut self, peer: Peer, channel: &str) {
        match channel.split_once('/') {
            Some(("user", client)) => self.session(peer).client = client.to_owned(),
            Some(("group", group)) => self.session(peer).groups.push(group.to_owned()),
            _ => panic!("no such channel: {channel:?}"),
        }
    }

    /// Takes what a NATS client says.
    pub(super) fn take_lines(&mut self, peer: Peer, mut rest: &[u8]) {
        let logs_in = rest.starts_with(b"CONNECT {");
        while !rest.is_empty() {
            let end = rest.windows(2).position(|ends| ends == b"\r\n").expect("clients send whole lines");
            let line = str::from_utf8(&rest[..end]).expect("text");
            rest = &rest[end + 2..];
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["CONNECT", ..] => assert!(logs_in, "a client introduces itself once, and first"),
                ["SUB", subject, "1" | "2"] => self.subscribe(peer, &subject.replacen('.', "/", 1)),
                ["PUB", subject, length] => {
                    let (payload, behind) = rest.split_at(length.parse().expect("a length"));
                    self.route(peer, &SendRef { channel: &subject.replacen('.', "/", 1), payload, ..SendRef::default() });
                    rest = behind.strip_prefix(b"\r\n").expect("the end of a payload");
                }
                // The first one asks whether what came before it was taken. It is asked the same.
                ["PING"] if logs_in => self.say(peer, b"PONG\r\nPING\r\n"),
                ["PING"] if self.script.ignores_pings => {}
                ["PING"] => self.say(peer, b"PONG\r\n"),
                ["PONG"] => self.pongs += 1,
                _ => panic!("a client has no reason to say {line:?}"),
            }
        }
    }

    /// Takes what an MQTT client says.
    pub(super) fn take_packets(&mut self, peer: Peer, mut rest: &[u8]) {
        while let [first, length, behind @ ..] = rest {
            let (body, behind) =
                behind.split_at_checked((*length).into()).expect("clients send whole packets, and here short ones");
            assert!(!self.session(peer).has_left, "nothing comes after DISCONNECT");
            match first {
                0x10 => self.say(peer, &[0x20, 2, 0, 0]),
                0x82 => {
                    let (mut topics, mut answers) = (&body[2..], Vec::new());
                    while !topics.is_empty() {
                        let (topic, quality_and_rest) = topics[2..].split_at(topics[1].into());
                        self.subscribe(peer, str::from_utf8(topic).expect("text"));
                        answers.push(quality_and_rest[0]);
                        topics = &quality_and_rest[1..];
                    }
                    self.say(peer, &[&[0x90, 2 + answers.len() as u8], &body[..2], &answers].concat());
                }
                0x30 => {
                    let (topic, payload) = body[2..].split_at(body[1].into());
                    let channel = str::from_utf8(topic).expect("text");
                    self.route(peer, &SendRef { channel, payload, ..SendRef::default() });
                }
                0xc0 if self.script.ignores_pings => {}
                0xc0 => self.say(peer, &[0xd0, 0]),
                0xe0 => self.session(peer).has_left = true,
                other => panic!("a client has no reason to send a packet {other:#x}"),
            }
            rest = behind;
        }
        assert!(rest.is_empty(), "clients send whole packets");
    }
}
