//! Who writes to whom in `offline` and `storm`, and the senders' side of it.
//!
//! The first clients of the run send, those behind them receive. Each receiver has messages of two senders, so that its channel mixes
//! them, and a group has those of one.
#![forbid(unsafe_code)]

use weir::{io::Tick, wire::PushRef};

use super::{
    Settled,
    schedule::{SENDS_PER_TURN, Schedule},
    streams::Streams,
};
use crate::{
    durable::{Channels, Durable, Groups, Letter, Marks},
    fleet::{Ledger, Net},
    plan::Plan,
    verify::{Destination, Stamp},
};

/// Senders of each receiver, if there are so many.
const SLOTS_MAX: u32 = 2;

/// The clients of a run by what they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mail {
    /// Clients below this send.
    pub(crate) senders: u32,
    /// So many clients behind them receive.
    pub(crate) receivers: u32,
    /// Groups to which the receivers are dealt out; 0 for none.
    pub(crate) groups: u32,
}

impl Mail {
    /// Streams to each receiver, beside that of its group.
    pub(crate) fn slots(&self) -> u32 {
        SLOTS_MAX.min(self.senders)
    }

    /// All clients.
    pub(crate) fn clients(&self) -> u32 {
        self.senders + self.receivers
    }

    /// What the receivers follow.
    pub(crate) fn channels(&self) -> Channels {
        let groups = (self.groups > 0).then_some(Groups { count: self.groups, first: self.senders });
        Channels { own: true, groups }
    }

    /// The most receivers, and the most groups, that any sender has in one slot.
    fn widths(&self) -> (u32, u32) {
        (self.receivers.div_ceil(self.senders), self.groups.div_ceil(self.senders))
    }

    /// Outgoing streams of each sender. Some lead nowhere, where the numbers do not divide.
    pub(crate) fn outgoing(&self) -> u32 {
        let (receivers, groups) = self.widths();
        self.slots() * receivers + groups
    }

    /// Incoming streams of each receiver.
    pub(crate) fn incoming(&self) -> u32 {
        self.slots() + u32::from(self.groups > 0)
    }

    /// Where a sender's stream leads to, and its slot there.
    fn leads_to(&self, sender: u32, at: u32) -> Option<(Destination, u32)> {
        let (width, _) = self.widths();
        let (slot, at) = ((at / width).min(self.slots()), at);
        if slot == self.slots() {
            let group = sender + (at - slot * width) * self.senders;
            return (group < self.groups).then_some((Destination::Group(group), slot));
        }
        let receiver = (sender + self.senders - slot) % self.senders + (at % width) * self.senders;
        (receiver < self.receivers).then_some((Destination::Client(self.senders + receiver), slot))
    }

    /// Whose stream it is that comes to a receiver in a slot, and which of that sender's.
    fn comes_from(&self, client: u32, slot: u32) -> (u32, u32) {
        let (width, receiver) = (self.widths().0, client - self.senders);
        if slot == self.slots() {
            let group = receiver % self.groups;
            return (group % self.senders, slot * width + group / self.senders);
        }
        ((receiver + slot) % self.senders, slot * width + receiver / self.senders)
    }

    /// The incoming stream of a message that came to the client at `local`, if such a message can come to it.
    pub(crate) fn stream(&self, net: &Net, local: u32, push: &PushRef<'_>, stamp: &Stamp) -> Option<usize> {
        let (client, slot) = (net.client(local), u32::from(stamp.slot));
        let own = match stamp.destination {
            Destination::Client(named) => named == client && slot < self.slots(),
            Destination::Group(named) => {
                self.channels().groups.and_then(|groups| groups.of(client)) == Some(named) && slot == self.slots()
            }
        };
        let fits = client >= self.senders
            && own
            && net.plan.destination_named(push.channel) == Some(stamp.destination)
            && self.comes_from(client, slot).0 == stamp.sender;
        fits.then_some((local * self.incoming() + slot) as usize)
    }

    /// How many messages a receiver should get, as the books of the senders say.
    pub(crate) fn expected(&self, client: u32, plan: &Plan, ledgers: &[Ledger]) -> u32 {
        let of_slot = |slot| {
            let (from, outgoing) = self.sending_end(client, slot, plan, ledgers);
            let among = |marks: &Marks| marks.get(&outgoing).map_or(0, |marks| marks.len() as u32);
            let not_accepted = from.durable.as_ref().map_or(0, |durable| among(&durable.refused) + among(&durable.unanswered));
            from.sent[outgoing as usize] - not_accepted
        };
        (0..self.incoming()).map(of_slot).sum()
    }

    fn sending_end<'a>(&self, client: u32, slot: u32, plan: &Plan, ledgers: &'a [Ledger]) -> (&'a Ledger, u32) {
        let (sender, at) = self.comes_from(client, slot);
        (&ledgers[plan.worker_of(sender) as usize], plan.local_of(sender) * self.outgoing() + at)
    }

    /// Holds the books of the senders against those of the receivers, which may be of another phase of the run.
    pub(crate) fn settle(&self, (from_plan, from): (&Plan, &[Ledger]), (to_plan, to): (&Plan, &[Ledger])) -> Settled {
        let mut settled = Settled::default();
        for client in self.senders..self.clients() {
            let (to, local) = (&to[to_plan.worker_of(client) as usize], to_plan.local_of(client));
            let (mut lost_before, mut last) = (settled.lost, 0);
            let mut line = local * self.channels().lines();
            for slot in 0..self.incoming() {
                let (from, outgoing) = self.sending_end(client, slot, from_plan, from);
                settled.add((from, outgoing), (to, local * self.incoming() + slot));
                last = last.max(Settled::last_told(from, outgoing));
                if slot + 1 >= self.slots() {
                    // The channel of the client is complete with its last slot, and that of its group is the next.
                    let name = || self.name_of(client, slot, to_plan);
                    settled.add_channel(to, line, last, lost_before, name);
                    (lost_before, last, line) = (settled.lost, 0, line + 1);
                }
            }
        }
        settled
    }

    fn name_of(&self, client: u32, slot: u32, plan: &Plan) -> String {
        let channel = plan.channel(Destination::Client(client));
        match self.channels().groups.and_then(|groups| groups.of(client)).filter(|_| slot == self.slots()) {
            Some(group) => format!("{} at {}{client}", plan.channel(Destination::Group(group)), plan.prefix),
            None => channel,
        }
    }
}

/// How senders send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sending {
    /// Messages for each receiver and each group; `None`: no end.
    pub(crate) each: Option<u32>,
    /// Closed loop: messages of each sender that are not accepted.
    pub(crate) depth: u32,
    /// Open loop: messages a second, all workers together.
    pub(crate) rate: Option<f64>,
}

/// The senders of one worker: each sends to its receivers, one after another.
pub(super) struct Mailer {
    mail: Mail,
    sending: Sending,
    /// By local sender: the stream whose turn it is, and how many messages are left.
    turns: Vec<(u32, u64)>,
    schedule: Option<Schedule>,
    is_open: bool,
}

impl Mailer {
    pub(super) fn new(mail: Mail, sending: Sending, plan: &Plan, worker: u32) -> Mailer {
        let senders = plan.share(worker, mail.senders);
        let left = |local| {
            let sender = plan.client(worker, local);
            let of_stream = |at| mail.leads_to(sender, at).map(|(_, slot)| u64::from(share(&mail, &sending, slot)));
            (0..mail.outgoing()).filter_map(of_stream).sum()
        };
        Mailer {
            mail,
            sending,
            turns: (0..senders).map(|local| (0, left(local))).collect(),
            schedule: sending.rate.map(|rate| Schedule::new(rate, plan, worker, mail.senders)),
            is_open: false,
        }
    }

    /// Senders on this worker.
    pub(super) fn senders(&self) -> u32 {
        self.turns.len() as u32
    }

    pub(super) fn begin(&mut self, net: &mut Net, books: (&mut Streams, &mut Durable), start: Tick, now: Tick) {
        self.is_open = true;
        let (streams, durable) = books;
        match &mut self.schedule {
            Some(schedule) => schedule.start(start),
            None => (0..self.senders()).for_each(|local| self.fill(net, (&mut *streams, &mut *durable), local, now)),
        }
    }

    /// Sends as much as the closed loop leaves room for.
    pub(super) fn fill(&mut self, net: &mut Net, (streams, durable): (&mut Streams, &mut Durable), local: u32, now: Tick) {
        if !self.is_open || self.sending.rate.is_some() || local >= self.senders() {
            return;
        }
        while durable.senders.open(local) < self.sending.depth {
            let Some(letter) = self.next(net, streams, local, now) else { return };
            durable.senders.send(net, local, &letter, now);
        }
    }

    /// Sends what the open loop planned. Returns when to be called again.
    pub(super) fn tick(&mut self, net: &mut Net, (streams, durable): (&mut Streams, &mut Durable), now: Tick) -> Option<Tick> {
        for _ in 0..SENDS_PER_TURN {
            let Some((local, planned)) = self.schedule.as_mut()?.take_due(net, now) else { break };
            if let Some(letter) = self.next(net, streams, local, planned) {
                durable.senders.send(net, local, &letter, now);
            }
        }
        self.schedule.as_mut().map(|schedule| schedule.turn(net, now))
    }

    pub(super) fn end(&mut self, net: &mut Net, now: Tick) {
        self.is_open = false;
        if let Some(schedule) = &mut self.schedule {
            schedule.end(net, now);
        }
    }

    /// Whether everything is sent and answered.
    pub(super) fn is_done(&self, durable: &Durable) -> bool {
        (0..).zip(&self.turns).all(|(local, (_, left))| *left == 0 && durable.senders.open(local) == 0)
    }

    /// The next message of a sender, if it has one left.
    fn next(&mut self, net: &Net, streams: &mut Streams, local: u32, planned: Tick) -> Option<Letter> {
        let (outgoing, sender) = (self.mail.outgoing(), net.client(local));
        let (turn, left) = &mut self.turns[local as usize];
        if *left == 0 {
            return None;
        }
        loop {
            let at = *turn;
            *turn = (at + 1) % outgoing;
            let Some((destination, slot)) = self.mail.leads_to(sender, at) else { continue };
            let stream = local * outgoing + at;
            if streams.sent(stream) < share(&self.mail, &self.sending, slot) {
                *left -= 1;
                return Some(Letter { destination, planned, stream, sequence: streams.next(stream), slot: slot as u8 });
            }
        }
    }
}

/// The messages of a stream in a slot: a receiver's are dealt out to its senders.
fn share(mail: &Mail, sending: &Sending, slot: u32) -> u32 {
    let Some(each) = sending.each else { return u32::MAX };
    if slot == mail.slots() { each } else { each / mail.slots() + u32::from(slot < each % mail.slots()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_begin_where_they_say_they_come_from() {
        for (senders, receivers, groups) in [(1, 1, 0), (1, 5, 2), (2, 7, 0), (4, 3, 1), (4, 18, 9), (16, 1000, 3)] {
            let mail = Mail { senders, receivers, groups };
            let mut streams = 0;
            for sender in 0..senders {
                for at in 0..mail.outgoing() {
                    let Some((destination, slot)) = mail.leads_to(sender, at) else { continue };
                    streams += 1;
                    let members = match destination {
                        Destination::Client(client) => vec![client],
                        Destination::Group(group) => {
                            let groups = mail.channels().groups.expect("there are groups");
                            (senders..mail.clients()).filter(|client| groups.of(*client) == Some(group)).collect()
                        }
                    };
                    for client in members {
                        assert_eq!(mail.comes_from(client, slot), (sender, at), "{mail:?}: {client}, {slot}");
                    }
                }
            }
            assert_eq!(streams, receivers * mail.slots() + groups, "{mail:?}");
        }
    }

    #[test]
    fn messages_are_dealt_out_to_the_senders_of_a_receiver() {
        let mail = Mail { senders: 4, receivers: 9, groups: 2 };
        let sending = Sending { each: Some(7), depth: 1, rate: None };
        assert_eq!([0, 1, 2].map(|slot| share(&mail, &sending, slot)), [4, 3, 7]);
        assert_eq!(share(&Mail { senders: 1, ..mail }, &sending, 0), 7);
    }
}
