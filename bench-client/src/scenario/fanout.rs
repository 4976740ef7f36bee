//! `fanout`: messages from some members of a group to all of them, the sender included.
//!
//! Client `i` is a member of group `i % groups`, and the first `publishers` members of each group publish. Closed loop: a
//! publisher has at most `window` messages on their way that not every member has yet. Open loop: a schedule.
#![forbid(unsafe_code)]

use std::{collections::BTreeMap, sync::Arc};

use weir::{io::Tick, wire::PushRef};

use super::{Books, Scenario, pace::Pace};
use crate::{
    fleet::{Ledger, Message, Net},
    plan::Plan,
    verify::{Arrival, Destination, Inbound, Stamp},
};

/// Planned sends made in one turn; the rest follow in the next.
const SENDS_PER_TURN: usize = 1024;

/// What `fanout` is told, beyond the plan.
#[derive(Clone, Debug)]
pub(crate) struct FanoutConfig {
    pub(crate) groups: u32,
    /// Publishers of each group.
    pub(crate) publishers: u32,
    pub(crate) window: u32,
    /// Messages published a second, all groups together; `None` for the closed loop.
    pub(crate) rate: Option<f64>,
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
    /// Messages sent, by local publisher.
    sent: Vec<u32>,
    refused: BTreeMap<u32, u32>,
    /// What each local publisher knows of each worker's members: they have the sequences below this behind them.
    reach: Vec<Vec<u32>>,
    /// By publisher, over all workers.
    progress: Vec<Progress>,
    /// Publishers whose `progress` is news.
    news: Vec<u32>,
    /// By local client and slot.
    inbound: Inbound,
    pace: Option<Pace>,
    turn: u32,
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
        Fanout {
            publishers_here,
            sent: vec![0; publishers_here as usize],
            refused: BTreeMap::new(),
            reach: (0..publishers_here).map(|local| start(plan.client(worker, local))).collect(),
            progress: (0..publishing).map(progress).collect(),
            news: Vec::new(),
            inbound: Inbound::new((share * config.publishers) as usize),
            pace: config.rate.filter(|_| publishers_here > 0).map(|rate| Pace::new(rate, plan.workers.min(publishing), worker)),
            turn: 0,
            is_open: false,
            config,
        }
    }

    fn publish(&mut self, net: &mut Net, local: u32, planned: Tick, now: Tick) {
        if !net.is_ready(local) {
            return;
        }
        let client = net.client(local);
        let sequence = &mut self.sent[local as usize];
        let (group, slot) = (client % self.config.groups, self.config.rank(client));
        net.send(local, Destination::Group(group), slot as u8, *sequence, planned, now);
        *sequence += 1;
    }

    /// Publishes as much as the window leaves room for.
    fn fill_window(&mut self, net: &mut Net, local: u32, now: Tick) {
        let below = self.reach[local as usize].iter().copied().min().unwrap_or(0);
        while self.is_open && net.is_ready(local) && self.sent[local as usize].saturating_sub(below) < self.config.window {
            self.publish(net, local, now, now);
        }
    }

    /// The stream by which this message came to its receiver, and its publisher, if such a message can come to it.
    fn stream(&self, net: &Net, local: u32, push: &PushRef<'_>, stamp: &Stamp) -> Option<usize> {
        let group = net.client(local) % self.config.groups;
        let told = push.channel.strip_prefix("group/").and_then(|name| net.plan.group_named(name));
        let fits = stamp.destination == Destination::Group(group)
            && told == Some(group)
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
        match &mut self.pace {
            Some(pace) => pace.start(start),
            None if self.config.rate.is_some() => {}
            None => (0..self.publishers_here).for_each(|local| self.fill_window(net, local, now)),
        }
    }

    fn pushed(&mut self, net: &mut Net, local: u32, push: &PushRef<'_>, now: Tick) {
        let Some(stamp) = net.inspect(local, push) else { return };
        let Some(stream) = self.stream(net, local, push, &stamp) else {
            net.misdelivered(local, push, &stamp);
            return;
        };
        let arrival = self.inbound.take(stream, stamp.sequence);
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

    fn refused(&mut self, _net: &mut Net, local: u32, _client_msg_id: u64) {
        if local < self.publishers_here {
            *self.refused.entry(local).or_default() += 1;
        }
    }

    fn passed(&mut self, net: &mut Net, from: u32, publisher: u32, below: u32, now: Tick) {
        let local = net.plan.local_of(publisher);
        self.reach[local as usize][from as usize] = below;
        self.fill_window(net, local, now);
    }

    fn tick(&mut self, net: &mut Net, now: Tick) -> Option<Tick> {
        for _ in 0..SENDS_PER_TURN {
            let Some(planned) = self.pace.as_mut()?.take_due(now) else { break };
            net.outcome.lag_us.saturating_record(now.micros_since(planned));
            let local = self.turn;
            self.turn = (self.turn + 1) % self.publishers_here;
            self.publish(net, local, planned, now);
        }
        self.pace.as_ref().map(Pace::planned)
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
        // What was planned and never sent lagged until now at least.
        while let Some(planned) = self.pace.as_mut().and_then(|pace| pace.take_due(now)) {
            net.outcome.lag_us.saturating_record(now.micros_since(planned));
        }
    }

    fn take_ledger(&mut self) -> Ledger {
        let inbound = std::mem::replace(&mut self.inbound, Inbound::new(0));
        Ledger {
            sent: std::mem::take(&mut self.sent),
            refused: std::mem::take(&mut self.refused),
            received: inbound.into_counts(),
        }
    }
}

impl Books for FanoutConfig {
    fn settle(&self, plan: &Plan, ledgers: &[Ledger]) -> (u64, u64) {
        let taken = |publisher: u32| ledgers[plan.worker_of(publisher) as usize].taken(plan.local_of(publisher) as usize);
        let (mut expected, mut lost) = (0, 0);
        for client in 0..plan.connections {
            let ledger = &ledgers[plan.worker_of(client) as usize];
            for slot in 0..self.publishers {
                let taken = taken(slot * self.groups + client % self.groups);
                let received = ledger.received[(plan.local_of(client) * self.publishers + slot) as usize];
                expected += u64::from(taken);
                lost += u64::from(taken.saturating_sub(received));
            }
        }
        (expected, lost)
    }
}
