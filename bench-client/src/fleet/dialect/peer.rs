//! What a fleet makes of the events of servers other than Weir.
#![forbid(unsafe_code)]

use ::weir::{
    io::Tick,
    wire::{Frame, PushRef},
};

use super::{Dialect, Event, Parsed, mqtt, nats};
use crate::{
    fleet::{Fleet, link::State, session::HEARTBEAT_INTERVAL_MS},
    scenario::Scenario,
    verify::Destination,
};

impl<S: Scenario> Fleet<S> {
    /// Takes all whole events. Returns how many bytes they took up.
    pub(super) fn events(&mut self, local: u32, bytes: &[u8], now: Tick, parse: impl Fn(&[u8]) -> Parsed<'_>) -> usize {
        let mut used = 0;
        while self.net.links[local as usize].listens() {
            match parse(&bytes[used..]) {
                Ok(Some((event, taken))) => {
                    self.event(local, event, now);
                    used += taken;
                }
                Ok(None) => return used,
                Err(garbled) => {
                    self.net.outcome.tally.corrupted += 1;
                    self.fail(local, "malformed bytes", &garbled.to_string(), None);
                }
            }
        }
        // What comes after the end is of no interest.
        bytes.len()
    }

    fn event(&mut self, local: u32, event: Event<'_>, now: Tick) {
        match event {
            Event::Message { channel, payload } => {
                // Who sent it, the stamp alone says. It goes the way of a PUSH: a second caller would keep what scenarios do with one from
                // being inlined there, for 1 % of what a message of Weir costs.
                let push = PushRef { channel, payload, ..PushRef::default() };
                self.frame(local, Frame::Push(push), now);
            }
            Event::Hello { payload_bytes_max, version: _ } => self.introduced(local, payload_bytes_max, now),
            Event::LoggedIn => self.taken_in(local, now),
            Event::Joined => self.joined(local, now),
            Event::Ping => self.net.put(local, now, |out| out.extend_from_slice(nats::PONG)),
            Event::Pong => self.pong_of_peer(local, now),
            Event::Refusal { name, words } => self.fail(local, name, &words, None),
            Event::Nothing => {}
        }
    }

    /// A NATS server said who it is: the client does the same, subscribes, and has the server say that it took notice.
    fn introduced(&mut self, local: u32, payload_bytes_max: u64, now: Tick) {
        let link = &mut self.net.links[local as usize];
        if link.state != State::LoggingIn {
            return;
        }
        let payload_bytes = self.net.plan.payload_bytes;
        if payload_bytes as u64 > payload_bytes_max {
            let words =
                format!("--payload {payload_bytes} is over the {payload_bytes_max} bytes that the server takes (max_payload)");
            self.fail(local, "payload too long", &words, None);
            return;
        }
        (link.state, link.interval_ms) = (State::Joining, HEARTBEAT_INTERVAL_MS);
        let client = self.net.client(local);
        let mut name = String::new();
        self.net.plan.put_client(client, &mut name);
        let channels = self.channels_of(client);
        self.net.put(local, now, |out| {
            nats::put_connect(&name, out);
            channels.iter().for_each(|channel| nats::put_subscribe(channel, out));
            out.extend_from_slice(nats::PING);
        });
    }

    /// CONNECT.
    pub(super) fn mqtt_log_in(&mut self, local: u32, now: Tick) {
        let mut name = String::new();
        self.net.plan.put_client(self.net.client(local), &mut name);
        // The server waits half as long again.
        let keep_alive_s = (HEARTBEAT_INTERVAL_MS / 1_000) as u16;
        self.net.put(local, now, |out| mqtt::put_connect(&name, keep_alive_s, out));
    }

    /// An MQTT server took a client in, which subscribes.
    fn taken_in(&mut self, local: u32, now: Tick) {
        let link = &mut self.net.links[local as usize];
        if link.state != State::LoggingIn {
            return;
        }
        (link.state, link.interval_ms) = (State::Joining, HEARTBEAT_INTERVAL_MS);
        let channels = self.channels_of(self.net.client(local));
        self.net.put(local, now, |out| mqtt::put_subscribe(channels.iter().map(String::as_str), out));
    }

    /// What a client subscribes to: its own channel, and that of its group if the scenario has any.
    fn channels_of(&self, client: u32) -> Vec<String> {
        let group = self.scenario.group_of(client).map(Destination::Group);
        [Destination::Client(client)].into_iter().chain(group).map(|destination| self.net.plan.channel(destination)).collect()
    }

    /// Sends a PING of a protocol whose PONG does not say which one it answers.
    pub(super) fn peer_ping(&mut self, local: u32, ping: &[u8], now: Tick) {
        let link = &mut self.net.links[local as usize];
        if link.pings_unanswered == 1 {
            link.pinged_us = now.0 as u32;
        }
        self.net.put(local, now, |out| out.extend_from_slice(ping));
    }

    fn pong_of_peer(&mut self, local: u32, now: Tick) {
        let link = &self.net.links[local as usize];
        let rtt_us = (now.0 as u32).wrapping_sub(link.pinged_us);
        match (link.state, self.net.plan.dialect) {
            // The one that closed the login.
            (State::Joining, Dialect::Nats) => self.joined(local, now),
            _ if link.pings_unanswered > 0 => self.answered_ping(local, rtt_us.into()),
            // Nobody asked, and it costs nothing.
            _ => {}
        }
    }
}
