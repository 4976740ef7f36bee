//! `fanout`: messages from some members of a group to all of them, the sender included.
//!
//! Client `i` is a member of group `i % groups`, and the first `publishers` members of each group publish. Closed loop: a
//! publisher has at most `window` messages on their way that not every member has yet, or, durable, that are not accepted yet. Open
//! loop: a schedule.
#![forbid(unsafe_code)]

use std::sync::Arc;

use weir::{io::Tick, wire::PushRef};

use super::{
    Books, Scenario, Settled,
    schedule::{SENDS_PER_TURN, Schedule},
    streams::Streams,
};
use crate::{
    durable::{Channels, Durable, Extent, Groups, Letter},
    fleet::{Ledger, Message, Net, sequence_of_id},
    plan::Plan,
    verify::{Arrival, Destination, Stamp},
};

/// What `fanout` is told, beyond the plan.
#[derive(Clone, Debug)]
pub(crate) struct FanoutConfig {
    pub(crate) groups: u32,
    /// Publishers of each group.
    pub(crate) publishers: u32,
    pub(crate) window: u32,
    /// Messages published a second, all groups together; `None` for the closed loop.
    pub(crate) rate: Option<f64>,
    /// Messages are durable. Then `window` bounds those of each publisher that are not accepted.
    pub(crate) is_durable: bool,
}

impl FanoutConfig {
    /// Publishers are the clients below this.
    fn publishing(&self) -> u32 {
        self.groups * self.publishers
    }

    /// A client's number among the members of its group; a publisher's slot.
    fn rank(&self, client: u32) -> u32 {
        client / self.groups
    }
}

/// How far the members of one worker are with one publisher's messages.
#[derive(Debug)]
struct Progress {
    /// Members of the publisher's group on this worker.
    members: u32,
    /// Every member here has the sequences below this behind it.
    below: u32,
    /// How many members have the sequences from `below` on behind them, as a ring as long as the window.
    counts: Vec<u32>,
    /// `below` moved, and the publisher's worker was not told.
    is_news: bool,
}

impl Progress {
    fn pass(&mut self, sequence: u32) {
        let window = self.counts.len() as u32;
        if sequence.wrapping_sub(self.below) >= window {
            return;
        }
        self.counts[(sequence % window) as usize] += 1;
        while self.counts[(self.below % window) as usize] == self.members {
            self.counts[(self.below % window) as usize] = 0;
            self.below += 1;
            self.is_news = true;
        }
    }
}

/// One worker's part.
pub(crate) struct Fanout {
    config: Arc<FanoutConfig>,
    /// Publishers on this worker; they come first among its clients.
    publishers_here: u32,
    /// Out: by local publisher. In: by local client and slot.
    streams: Streams,
    /// What each local publisher knows of each worker's members: they have the sequences below this behind them.
    reach: Vec<Vec<u32>>,
    /// By publisher, over all workers.
    progress: Vec<Progress>,
    /// Publishers whose `progress` is news.
    news: Vec<u32>,
    schedule: Option<Schedule>,
    durable: Option<Durable>,
    is_open: bool,
}

impl Fanout {
    pub(crate) fn new(config: Arc<FanoutConfig>, plan: &Plan, worker: u32) -> Fanout {
        let mut members = vec![vec![0u32; config.groups as usize]; plan.workers as usize];
        for client in 0..plan.connections {
            members[plan.worker_of(client) as usize][(client % config.groups) as usize] += 1;
        }
        let publishing = config.publishing();
        let publishers_here = plan.share(worker, publishing);
        let window = if config.rate.is_some() { 1 } else { config.window };
        let progress = |publisher: u32| Progress {
            members: members[worker as usize][(publisher % config.groups) as usize],
            below: 0,
            counts: vec![0; window as usize],
            is_news: false,
        };
        // A worker without members has everything behind it.
        let start = |publisher: u32| {
            let group = (publisher % config.groups) as usize;
            members.iter().map(|of_worker| if of_worker[group] == 0 { u32::MAX } else { 0 }).collect()
        };
        let share = plan.share(worker, plan.connections);
        let durable = config.is_durable.then(|| {
            let extent = Extent {
                senders: publishers_here,
                receivers: share,
                outgoing: publishers_here as usize,
                incoming: (share * config.publishers) as usize,
                channels: Channels { own: false, groups: Some(Groups { count: config.groups, first: 0 }) },
            };
            Durable::new(plan.receiving.expect("durable runs have a window"), &extent)
        });
        Fanout {
            publishers_here,
            streams: Streams::new(publishers_here as usize, (share * config.publishers) as usize),
            reach: (0..publishers_here).map(|local| start(plan.client(worker, local))).collect(),
            progress: (0..publishing).map(progress).collect(),
            news: Vec::new(),
            schedule: config.rate.map(|rate| Schedule::new(rate, plan, worker, publishing)),
            durable,
            is_open: false,
            config,
        }
    }

    fn publish(&mut self, net: &mut Net, local: u32, planned: Tick, now: Tick) {
        if self.durable.is_none() && !net.is_ready(local) {
            return;
        }
        let client = net.client(local);
        let (destination, slot) = (Destination::Group(client % self.config.groups), self.config.rank(client) as u8);
        let sequence = self.streams.next(local);
        match &mut self.durable {
            None => net.send(local, destination, slot, sequence, planned, now),
            Some(durable) => {
                durable.senders.send(net, local, &Letter { destination, planned, stream: local, sequence, slot }, now);
            }
        }
    }

    /// Publishes as much as the window leaves room for.
    fn fill_window(&mut self, net: &mut Net, local: u32, now: Tick) {
        if let Some(durable) = &self.durable {
            let room = self.config.window.saturating_sub(durable.senders.open(local));
            (0..room).for_each(|_| self.publish(net, local, now, now));
            return;
        }
        let below = self.reach[local as usize].iter().copied().min().unwrap_or(0);
        while self.is_open && net.is_ready(local) && self.streams.sent(local).saturating_sub(below) < self.config.window {
            self.publish(net, local, now, now);
        }
    }

    /// The stream by which this message came to its receiver, and its publisher, if such a message can come to it.
    fn stream(&self, net: &Net, local: u32, push: &PushRef<'_>, stamp: &Stamp) -> Option<usize> {
        let group = net.client(local) % self.config.groups;
        let fits = stamp.destination == Destination::Group(group)
            && net.plan.group_of(push.channel) == Some(group)
            && stamp.sender < self.config.publishing()
            && stamp.sender % self.config.groups == group
            && self.config.rank(stamp.sender) == u32::from(stamp.slot);
        fits.then_some((local * self.config.publishers + u32::from(stamp.slot)) as usize)
    }
}

impl Scenario for Fanout {
    fn group_of(&self, client: u32) -> Option<u32> {
        Some(client % self.config.groups)
    }

    fn begin(&mut self, net: &mut Net, start: Tick, now: Tick) {
        self.is_open = true;
        match &mut self.schedule {
            Some(schedule) => schedule.start(start),
            None => (0..self.publishers_here).for_each(|local| self.fill_window(net, local, now)),
        }
    }

    fn pushed(&mut self, net: &mut Net, local: u32, push: &PushRef<'_>, now: Tick) {
        let stamp = match &mut self.durable {
            None => net.inspect(local, push),
            Some(durable) => durable.receivers.take(net, local, push, now),
        };
        let Some(stamp) = stamp else { return };
        let Some(stream) = self.stream(net, local, push, &stamp) else {
            net.misdelivered(local, push, &stamp);
            return;
        };
        let arrival = self.streams.take(stream, stamp.sequence);
        if let Some(durable) = &mut self.durable {
            durable.receivers.arrived(net, local, stream, &arrival, (&stamp, push.seq), now);
            return;
        }
        net.arrived(local, &arrival, &stamp, now);
        if let (Arrival::Newest { passed }, None) = (arrival, self.config.rate) {
            let progress = &mut self.progress[stamp.sender as usize];
            let was_news = progress.is_news;
            passed.for_each(|sequence| progress.pass(sequence));
            if progress.is_news && !was_news {
                self.news.push(stamp.sender);
            }
        }
    }

    fn durable(&mut self) -> Option<&mut Durable> {
        self.durable.as_mut()
    }

    fn answered(&mut self, net: &mut Net, local: u32, now: Tick) {
        if self.is_open && self.config.rate.is_none() {
            self.fill_window(net, local, now);
        }
    }

    fn refused(&mut self, _net: &mut Net, local: u32, client_msg_id: u64) {
        self.streams.refuse(local, sequence_of_id(client_msg_id));
    }

    fn passed(&mut self, net: &mut Net, from: u32, publisher: u32, below: u32, now: Tick) {
        let local = net.plan.local_of(publisher);
        self.reach[local as usize][from as usize] = below;
        self.fill_window(net, local, now);
    }

    fn tick(&mut self, net: &mut Net, now: Tick) -> Option<Tick> {
        for _ in 0..SENDS_PER_TURN {
            let Some((local, planned)) = self.schedule.as_mut()?.take_due(net, now) else { break };
            self.publish(net, local, planned, now);
        }
        self.schedule.as_mut().map(|schedule| schedule.turn(net, now))
    }

    fn end_turn(&mut self, net: &mut Net, now: Tick) {
        for publisher in std::mem::take(&mut self.news) {
            let progress = &mut self.progress[publisher as usize];
            progress.is_news = false;
            let (owner, below) = (net.plan.worker_of(publisher), progress.below);
            if owner == net.worker {
                self.passed(net, owner, publisher, below, now);
            } else {
                net.post(owner, Message::Passed { publisher, below });
            }
        }
    }

    fn end(&mut self, net: &mut Net, now: Tick) {
        self.is_open = false;
        if let Some(schedule) = &mut self.schedule {
            schedule.end(net, now);
        }
    }

    fn take_ledger(&mut self) -> Ledger {
        self.streams.take_ledger()
    }
}

impl Books for FanoutConfig {
    fn settle(&self, plan: &Plan, ledgers: &[Ledger]) -> Settled {
        let mut settled = Settled::default();
        for client in 0..plan.connections {
            let to = &ledgers[plan.worker_of(client) as usize];
            let (lost_before, mut last) = (settled.lost, 0);
            for slot in 0..self.publishers {
                let publisher = slot * self.groups + client % self.groups;
                let (from, outgoing) = (&ledgers[plan.worker_of(publisher) as usize], plan.local_of(publisher));
                settled.add((from, outgoing), (to, plan.local_of(client) * self.publishers + slot));
                last = last.max(Settled::last_told(from, outgoing));
            }
            let name = || {
                let channel = plan.channel(Destination::Group(client % self.groups));
                format!("{channel} at {}{client}", plan.prefix)
            };
            settled.add_channel(to, plan.local_of(client), last, lost_before, name);
        }
        settled
    }
}
