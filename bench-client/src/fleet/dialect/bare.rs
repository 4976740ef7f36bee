//! What a fleet makes of its own frames when they come back from a loop that knows no frames: LOGIN back is an answer to it, SEND is the
//! delivery of a message. So that as many bytes are on the wire as a client of Weir sends, and each message is checked as any other.
#![forbid(unsafe_code)]

use ::weir::{
    io::Tick,
    limits::BODY_BYTES_CEILING,
    wire::{Decoded, Frame, PushRef, decode},
};

use crate::{
    fleet::{Fleet, link::State},
    scenario::Scenario,
};

/// No connection is that long silent in a run, whose phases have an end. Nobody would answer its PING, and a fan-out would carry it to
/// everybody.
const HEARTBEAT_INTERVAL_MS: u32 = u32::MAX;

/// Under whose name a client greets. Loops do not read it, but one knows by it who belongs together: the pairs of `route`.
pub(super) fn greeting_of(client: u32) -> u32 {
    client & !1
}

impl<S: Scenario> Fleet<S> {
    /// Takes all whole frames. Returns how many bytes they took up.
    pub(super) fn echoes(&mut self, local: u32, bytes: &[u8], now: Tick) -> usize {
        let mut used = 0;
        while self.net.links[local as usize].listens() {
            match decode(&bytes[used..], BODY_BYTES_CEILING) {
                Ok(Decoded::Frame { frame, frame_bytes }) => {
                    self.echo(local, &frame, now);
                    used += frame_bytes;
                }
                Ok(Decoded::NeedMore { .. }) => return used,
                Err(malformed) => {
                    self.net.outcome.tally.corrupted += 1;
                    self.fail(local, "malformed frame", &malformed.to_string(), None);
                }
            }
        }
        // What comes after the end is of no interest.
        bytes.len()
    }

    fn echo(&mut self, local: u32, frame: &Frame<'_>, now: Tick) {
        let state = self.net.links[local as usize].state;
        if let Frame::Send(send) = frame {
            // Who sent it, the stamp alone says. It goes the way of a PUSH, for the reason that `peer` gives.
            let push = PushRef { channel: send.channel, payload: send.payload, ..PushRef::default() };
            self.frame(local, Frame::Push(push), now);
        } else if let Frame::Login(login) = frame
            && self.net.plan.client_named(&login.client_id) == Some(greeting_of(self.net.client(local)))
            && state == State::LoggingIn
        {
            self.net.links[local as usize].interval_ms = HEARTBEAT_INTERVAL_MS;
            self.settle(local, now);
        } else {
            self.net.outcome.tally.misdelivered += 1;
            self.fail(local, "unexpected frame", "a frame came that this client did not send, or not now", None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ::weir::{
        ids::{ConnId, ShardId},
        io::{Input, Machine, Output},
    };

    use super::*;
    use crate::{
        fleet::{Message, Tally, dialect::Dialect},
        plan::{self, Plan},
        scenario::route::{Peers, Route, RouteConfig},
    };

    const CLIENTS: u32 = 3;
    const SENDS: u64 = 200;

    /// Three clients and an echo that makes of the n-th chunk what `change` says: bytes for a client, or for several.
    fn run(change: impl Fn(u64, u32, Vec<u8>) -> Vec<(u32, Vec<u8>)>) -> Tally {
        let plan = Arc::new(Plan { dialect: Dialect::Bare, ..plan::example(CLIENTS, 1) });
        let config = RouteConfig { peers: Peers::Own, depth: 3, rate: None, is_durable: false };
        let mut fleet = Fleet::new(Arc::clone(&plan), 0, Route::new(Arc::new(config), &plan, 0));
        let (conn_of, main) = (|client| ConnId { slot: client, generation: 0 }, ShardId(1));
        let (mut now, mut chunks, mut told) = (Tick(0), 0, None);
        for turn in 0..1_000 {
            now = Tick(now.0 + 1_000);
            fleet.handle_tick(now);
            while let Some(output) = fleet.poll_output() {
                match output {
                    Output::Connect { token, .. } => fleet.handle(now, Input::Connected { conn: conn_of(token), token }),
                    Output::Send { conn, chunk } => {
                        let bytes = chunk.as_slice().to_vec();
                        fleet.handle(now, Input::Sent { conn, chunk });
                        chunks += 1;
                        if chunks < SENDS {
                            for (client, bytes) in change(chunks, conn.slot, bytes) {
                                fleet.handle(now, Input::Received { conn: conn_of(client), bytes: &bytes });
                            }
                        }
                    }
                    Output::Close { conn } => fleet.handle(now, Input::Closed { conn }),
                    Output::Post { message: Message::Progress(tally), .. } => told = Some(*tally),
                    Output::Post { message: Message::Done(outcome), .. } => return outcome.tally,
                    _ => {}
                }
            }
            match turn {
                20 => {
                    let message = Message::Go { start: now, end: Tick(u64::MAX) };
                    fleet.handle(now, Input::Posted { from: main, message });
                }
                900 => fleet.handle(now, Input::Posted { from: main, message: Message::Leave { deadline: now } }),
                _ => {}
            }
        }
        panic!("it did not leave: {told:?}");
    }

    #[test]
    fn frames_that_come_back_are_exact_in_whatever_pieces() {
        for pieces in [1, 7, 1_000] {
            let tally = run(|_, client, bytes| bytes.chunks(pieces).map(|piece| (client, piece.to_vec())).collect());
            assert_eq!((tally.ready, tally.failed, tally.faults(), tally.pings), (CLIENTS.into(), 0, 0, 0), "{tally:?}");
            assert!(tally.received > SENDS / 2 && tally.received <= tally.sent, "{tally:?}");
            assert_eq!(tally.sends, tally.sent);
            assert!(tally.send_bytes > tally.sends * 64, "{tally:?}");
        }
    }

    #[test]
    fn what_comes_back_wrong_is_counted_as_what_it_is() {
        let other = |n, at, client, bytes| vec![(if n == at { (client + 1) % CLIENTS } else { client }, bytes)];
        let tally = run(|n, client, bytes| other(n, 50, client, bytes));
        assert!(tally.misdelivered > 0 && tally.corrupted == 0, "{tally:?}");

        let tally = run(|n, client, bytes| (0..if n == 50 { 2 } else { 1 }).map(|_| (client, bytes.clone())).collect());
        assert!(tally.duplicated > 0 && tally.misdelivered + tally.corrupted == 0, "{tally:?}");

        let tally = run(|n, client, mut bytes| {
            *bytes.last_mut().expect("a chunk has bytes") ^= u8::from(n == 50);
            vec![(client, bytes)]
        });
        assert!(tally.corrupted > 0, "{tally:?}");
    }

    #[test]
    fn who_gets_the_greeting_of_another_pair_is_not_ready() {
        let tally = run(|n, client, bytes| vec![(if n <= 3 { 2 - client } else { client }, bytes)]);
        assert!(tally.ready < 3 && tally.failed > 0 && tally.misdelivered > 0, "{tally:?}");
    }
}
