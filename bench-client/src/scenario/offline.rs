//! `offline`: messages to clients that are not there, who come and fetch them.
//!
//! Each phase is a run of its own: receivers join their groups and go; senders post; receivers come and get what they missed;
//! receivers come again, and get nothing.
#![forbid(unsafe_code)]

use std::sync::Arc;

use weir::{io::Tick, wire::PushRef};

use super::{
    Scenario,
    mail::{Mail, Mailer, Sending},
    streams::Streams,
};
use crate::{
    durable::{Channels, Durable, Extent, Lines, Receiving},
    fleet::{Ledger, Net},
    plan::Plan,
};

/// The senders' phase: one worker's part.
pub(crate) struct Posting {
    mailer: Mailer,
    streams: Streams,
    durable: Durable,
}

impl Posting {
    pub(crate) fn new(mail: Mail, sending: Sending, plan: &Plan, worker: u32) -> Posting {
        let mailer = Mailer::new(mail, sending, plan, worker);
        let outgoing = (mailer.senders() * mail.outgoing()) as usize;
        let extent = Extent {
            senders: mailer.senders(),
            receivers: 0,
            outgoing,
            incoming: 0,
            channels: Channels { own: true, groups: None },
        };
        let nothing = Receiving { window: 0, ack_every: 1, ack_after_us: 0 };
        Posting { mailer, streams: Streams::new(outgoing, 0), durable: Durable::new(nothing, &extent) }
    }
}

impl Scenario for Posting {
    fn group_of(&self, _client: u32) -> Option<u32> {
        None
    }

    fn begin(&mut self, net: &mut Net, start: Tick, now: Tick) {
        self.mailer.begin(net, (&mut self.streams, &mut self.durable), start, now);
    }

    /// Nobody writes to senders.
    fn pushed(&mut self, net: &mut Net, local: u32, push: &PushRef<'_>, now: Tick) {
        if let Some(stamp) = self.durable.receivers.take(net, local, push, now) {
            net.misdelivered(local, push, &stamp);
        }
    }

    fn durable(&mut self) -> Option<&mut Durable> {
        Some(&mut self.durable)
    }

    fn answered(&mut self, net: &mut Net, local: u32, now: Tick) {
        self.mailer.fill(net, (&mut self.streams, &mut self.durable), local, now);
    }

    fn refused(&mut self, _net: &mut Net, _local: u32, _client_msg_id: u64) {}

    fn passed(&mut self, _net: &mut Net, _from: u32, _publisher: u32, _below: u32, _now: Tick) {}

    fn tick(&mut self, net: &mut Net, now: Tick) -> Option<Tick> {
        let wake = self.mailer.tick(net, (&mut self.streams, &mut self.durable), now);
        net.outcome.tally.is_done |= self.mailer.is_done(&self.durable);
        wake
    }

    fn end_turn(&mut self, _net: &mut Net, _now: Tick) {}

    fn end(&mut self, net: &mut Net, now: Tick) {
        self.mailer.end(net, now);
    }

    fn take_ledger(&mut self) -> Ledger {
        self.streams.take_ledger()
    }
}

/// What receivers come for.
#[derive(Clone, Debug)]
pub(crate) enum Errand {
    /// To join their groups, and go.
    Join,
    /// To get so many messages, by receiver.
    Fetch { expected: Arc<Vec<u32>> },
    /// To see that there is nothing left to get.
    Look,
}

/// The receivers' phases: one worker's part.
pub(crate) struct Inbox {
    mail: Mail,
    streams: Streams,
    durable: Durable,
    /// By local receiver, in the phase in which messages are fetched: how many it was to get, and how many of them are missing.
    wanted: Vec<(u32, u32)>,
    /// Receivers that have everything.
    complete: u32,
}

impl Inbox {
    /// `lines`: where an earlier phase left the channels.
    pub(crate) fn new(mail: Mail, errand: &Errand, plan: &Plan, worker: u32, lines: Option<Lines>) -> Inbox {
        let receivers = plan.share(worker, mail.receivers);
        let incoming = (receivers * mail.incoming()) as usize;
        let extent = Extent { senders: 0, receivers, outgoing: 0, incoming, channels: mail.channels() };
        let mut durable = Durable::new(plan.receiving.expect("receivers have a window"), &extent);
        if let Some(lines) = lines {
            durable.receivers.resume(lines, matches!(errand, Errand::Look));
        }
        let of_receiver = |local: u32| match errand {
            Errand::Fetch { expected } => expected[(plan.client(worker, local) - mail.senders) as usize],
            Errand::Join | Errand::Look => 0,
        };
        let wanted: Vec<_> = (0..receivers).map(of_receiver).map(|expected| (expected, expected)).collect();
        let complete = wanted.iter().filter(|(expected, _)| *expected == 0).count() as u32;
        Inbox { mail, streams: Streams::new(0, incoming), durable, wanted, complete }
    }

    /// A receiver got one of its messages. With the last of them it has read its own channel up to about the middle of what came,
    /// and its group's to the end.
    fn got_one(&mut self, net: &mut Net, local: u32, now: Tick) {
        let (expected, missing) = &mut self.wanted[local as usize];
        // One that nobody knows to be accepted may come beside those that are.
        if *missing == 0 {
            return;
        }
        *missing -= 1;
        if *missing > 0 {
            return;
        }
        let unread = *expected / (2 * self.mail.channels().lines());
        self.complete += 1;
        let first = local * self.mail.channels().lines();
        for line in first..first + self.mail.channels().lines() {
            let last = self.durable.receivers.lines().line(line).next - 1;
            let seq = if line == first { last.saturating_sub(unread.into()) } else { last };
            if seq > self.durable.receivers.lines().line(line).read {
                self.durable.receivers.mark_read(net, line, seq, now);
            }
        }
    }
}

impl Scenario for Inbox {
    fn group_of(&self, client: u32) -> Option<u32> {
        self.mail.channels().groups.and_then(|groups| groups.of(client))
    }

    fn begin(&mut self, _net: &mut Net, _start: Tick, _now: Tick) {}

    fn pushed(&mut self, net: &mut Net, local: u32, push: &PushRef<'_>, now: Tick) {
        let Some(stamp) = self.durable.receivers.take(net, local, push, now) else { return };
        let Some(stream) = self.mail.stream(net, local, push, &stamp) else {
            net.misdelivered(local, push, &stamp);
            return;
        };
        let arrival = self.streams.take(stream, stamp.sequence);
        if self.durable.receivers.arrived(net, local, stream, &arrival, (&stamp, push.seq), now) {
            self.got_one(net, local, now);
        }
    }

    fn durable(&mut self) -> Option<&mut Durable> {
        Some(&mut self.durable)
    }

    fn refused(&mut self, _net: &mut Net, _local: u32, _client_msg_id: u64) {}

    fn passed(&mut self, _net: &mut Net, _from: u32, _publisher: u32, _below: u32, _now: Tick) {}

    fn tick(&mut self, net: &mut Net, _now: Tick) -> Option<Tick> {
        net.outcome.tally.is_done = self.complete as usize >= self.wanted.len();
        None
    }

    fn end_turn(&mut self, _net: &mut Net, _now: Tick) {}

    fn end(&mut self, _net: &mut Net, _now: Tick) {}

    fn take_ledger(&mut self) -> Ledger {
        self.streams.take_ledger()
    }
}
