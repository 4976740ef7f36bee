//! What a device that takes part in durable delivery says and hears.
#![forbid(unsafe_code)]

use std::ops::RangeInclusive;

use weir::wire::{ErrorCode, SendRef, body};

use super::{Frame, Gateway, Got, LoginFields, Peer};

const DURABLE: i32 = body::DeliveryClass::Durable as i32;

/// A durable PUSH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durable {
    pub channel: String,
    pub seq: u64,
    pub timestamp: u64,
    pub from_client: String,
    pub client_msg_id: u64,
    pub payload: Vec<u8>,
}

impl Gateway {
    /// A device that takes part: logged in, and told where it stands in its client's channel.
    pub fn enroll(&self, client: &str, device: &str, window: u32, cursor: Option<u64>) -> (Peer, body::Cursors) {
        let mut peer = self.connect();
        let ok = peer.log_in(&LoginFields { client, device, window, cursor, ..LoginFields::default() });
        assert_eq!(ok.window, window);
        let cursors = peer.next_cursors();
        assert_eq!(cursors.channel, format!("user/{client}"));
        (peer, cursors)
    }
}

impl Peer {
    /// Writes a durable SEND.
    pub fn send_durable(&mut self, channel: &str, client_msg_id: u64, payload: &[u8]) {
        let send = SendRef { channel, client_msg_id, payload, class: DURABLE, ..SendRef::default() };
        self.send_frame(&Frame::Send(send));
    }

    /// The next frame, which must be ACCEPTED.
    pub fn next_accepted(&mut self) -> body::Accepted {
        match self.next() {
            Got::Accepted(accepted) => accepted,
            other => panic!("not ACCEPTED: {other:?}"),
        }
    }

    /// A durable SEND, to which ACCEPTED is the next frame that comes.
    pub fn keep(&mut self, channel: &str, client_msg_id: u64, payload: &[u8]) -> body::Accepted {
        self.send_durable(channel, client_msg_id, payload);
        let accepted = self.next_accepted();
        assert_eq!((accepted.channel.as_str(), accepted.client_msg_id), (channel, client_msg_id));
        accepted
    }

    /// One message for each id, which is its payload too. All are new, and their sequences follow each other. Gives these.
    pub fn fill(&mut self, channel: &str, ids: RangeInclusive<u64>) -> RangeInclusive<u64> {
        for id in ids.clone() {
            self.send_durable(channel, id, id.to_string().as_bytes());
        }
        let all: Vec<body::Accepted> = ids.clone().map(|_| self.next_accepted()).collect();
        let first = all[0].seq;
        for ((seq, id), accepted) in (first..).zip(ids).zip(&all) {
            assert_eq!((accepted.client_msg_id, accepted.seq, accepted.duplicate), (id, seq, false));
        }
        first..=all[all.len() - 1].seq
    }

    /// The next frame, which must be CURSORS.
    pub fn next_cursors(&mut self) -> body::Cursors {
        match self.next() {
            Got::Cursors(cursors) => cursors,
            other => panic!("not CURSORS: {other:?}"),
        }
    }

    /// The next frame, which must be a durable PUSH.
    pub fn next_durable(&mut self) -> Durable {
        match self.next() {
            Got::Push { channel, seq, timestamp, from_client, client_msg_id, payload, .. } if seq > 0 => {
                Durable { channel, seq, timestamp, from_client, client_msg_id, payload }
            }
            other => panic!("not a durable PUSH: {other:?}"),
        }
    }

    /// The next frames must be these messages of a channel. Gives them.
    pub fn expect_seqs(&mut self, channel: &str, seqs: RangeInclusive<u64>) -> Vec<Durable> {
        let mut all = Vec::new();
        for seq in seqs {
            let message = self.next_durable();
            assert_eq!((message.channel.as_str(), message.seq), (channel, seq));
            all.push(message);
        }
        all
    }

    /// The next frames must be the first messages of these channels, each in its order, up to a sequence.
    pub fn expect_seqs_of(&mut self, newest: &[(&str, u64)]) {
        let mut seen = vec![0; newest.len()];
        while seen.iter().zip(newest).any(|(seen, (_, newest))| seen < newest) {
            let message = self.next_durable();
            let index = newest.iter().position(|(channel, _)| *channel == message.channel).expect("one of them");
            seen[index] += 1;
            assert_eq!(message.seq, seen[index], "{}", message.channel);
        }
    }

    /// RECEIVED.
    pub fn received(&mut self, channel: &str, seq: u64) {
        self.send_frame(&Frame::Received(body::Received { channel: channel.to_owned(), seq }));
    }

    /// READ.
    pub fn read(&mut self, channel: &str, seq: u64) {
        self.send_frame(&Frame::Read(body::Read { channel: channel.to_owned(), seq }));
    }

    /// Writes a SYNC.
    pub fn ask_page(&mut self, channel: &str, from: u64, limit: u32) {
        self.send_frame(&Frame::Sync(body::Sync { channel: channel.to_owned(), from, limit }));
    }

    /// SYNC, to which PAGE is the next frame that comes.
    pub fn sync(&mut self, channel: &str, from: u64, limit: u32) -> body::Page {
        self.ask_page(channel, from, limit);
        match self.next() {
            Got::Page(page) => {
                assert_eq!((page.channel.as_str(), page.from), (channel, from));
                page
            }
            other => panic!("SYNC was answered by {other:?}"),
        }
    }

    /// JOIN of a device that takes part, which must succeed: where it stands in the group.
    pub fn follow(&mut self, group: &str, cursor: Option<u64>) -> body::Cursors {
        self.send_frame(&Frame::Join(body::Join { group: group.to_owned(), cursor }));
        assert_eq!(self.next(), Got::JoinOk(group.to_owned()));
        let cursors = self.next_cursors();
        assert_eq!(cursors.channel, format!("group/{group}"));
        cursors
    }

    /// LEAVE.
    pub fn leave(&mut self, group: &str) {
        self.send_frame(&Frame::Leave(body::Leave { group: group.to_owned() }));
        assert_eq!(self.next(), Got::LeaveOk(group.to_owned()));
    }

    /// The next frame must be an ERROR of this code, in reply to this type, that the connection survives.
    pub fn expect_refusal_of(&mut self, kind: u32, code: ErrorCode) -> body::Error {
        let error = self.expect_refused(code);
        assert_eq!(error.in_reply_to, kind, "{error:?}");
        error
    }
}
