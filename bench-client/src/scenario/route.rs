//! `route`: messages from client to client.
//!
//! Closed loop, transient: every active client starts with `depth` messages on their way, and whoever gets one sends one, so that the
//! number in flight stays (of each pair; of random peers only over all of them). Closed loop, durable: every active client has `depth`
//! messages that are not accepted. Open loop: sends follow a schedule, whatever comes back.
#![forbid(unsafe_code)]

use std::sync::Arc;

use weir::{io::Tick, wire::PushRef};

use super::{
    Books, Random, Scenario, Settled,
    schedule::{SENDS_PER_TURN, Schedule},
    streams::Streams,
};
use crate::{
    durable::{Channels, Durable, Extent, Letter},
    fleet::{Ledger, Net, sequence_of_id, slot_of_id},
    plan::Plan,
    verify::{Arrival, Destination, Stamp},
};

/// Who sends to whom. Every active client has as many streams out as in, one for each slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peers {
    /// 0 ↔ 1, 2 ↔ 3, …
    Pairs,
    /// Each to itself, by way of an echo.
    Own,
    /// Clients sit around a table in random order, and slot `k` of each sends `offsets[k]` places on: a random permutation without fixed
    /// points for each slot, of which no two agree anywhere, and which both ends know.
    Random { order: Vec<u32>, places: Vec<u32>, offsets: Vec<u32> },
}

impl Peers {
    /// `count` different random peers for each of `active` clients.
    pub(crate) fn random(count: u32, active: u32, seed: u64) -> Peers {
        let mut random = Random::new(seed, u64::MAX);
        let mut offsets = Vec::new();
        while offsets.len() < count.min(active - 1).min(256) as usize {
            let offset = 1 + random.below(active - 1);
            if !offsets.contains(&offset) {
                offsets.push(offset);
            }
        }
        let mut order: Vec<u32> = (0..active).collect();
        // Fisher and Yates.
        for last in (1..active).rev() {
            order.swap(last as usize, random.below(last + 1) as usize);
        }
        let mut places = vec![0; order.len()];
        for (place, client) in (0..).zip(&order) {
            places[*client as usize] = place;
        }
        Peers::Random { order, places, offsets }
    }

    fn slots(&self) -> u32 {
        match self {
            Peers::Pairs | Peers::Own => 1,
            Peers::Random { offsets, .. } => offsets.len() as u32,
        }
    }

    /// To whom slot `slot` of `client` sends.
    fn receiver(&self, client: u32, slot: u32, active: u32) -> u32 {
        match self {
            Peers::Pairs => client ^ 1,
            Peers::Own => client,
            Peers::Random { order, places, offsets } => {
                order[((places[client as usize] + offsets[slot as usize]) % active) as usize]
            }
        }
    }

    /// Whose slot `slot` sends to `client`.
    fn sender(&self, client: u32, slot: u32, active: u32) -> u32 {
        match self {
            Peers::Pairs => client ^ 1,
            Peers::Own => client,
            Peers::Random { order, places, offsets } => {
                order[((places[client as usize] + active - offsets[slot as usize]) % active) as usize]
            }
        }
    }
}

/// What `route` is told, beyond the plan.
#[derive(Clone, Debug)]
pub(crate) struct RouteConfig {
    pub(crate) peers: Peers,
    pub(crate) depth: u32,
    /// Messages a second, all workers together; `None` for the closed loop.
    pub(crate) rate: Option<f64>,
    /// Messages are durable. Then `depth` bounds those of each client that are not accepted.
    pub(crate) is_durable: bool,
}

impl RouteConfig {
    /// The clients that take part: all active ones, but for the odd one without a partner.
    pub(crate) fn active(&self, plan: &Plan) -> u32 {
        match self.peers {
            Peers::Pairs => plan.active & !1,
            Peers::Own | Peers::Random { .. } => plan.active,
        }
    }
}

/// One worker's part.
pub(crate) struct Route {
    config: Arc<RouteConfig>,
    /// Active clients over all workers, and on this one.
    active: u32,
    active_here: u32,
    slots: u32,
    /// Out and in: by local client and slot.
    streams: Streams,
    random: Random,
    schedule: Option<Schedule>,
    durable: Option<Durable>,
    is_open: bool,
}

impl Route {
    pub(crate) fn new(config: Arc<RouteConfig>, plan: &Plan, worker: u32) -> Route {
        let active = config.active(plan);
        let active_here = plan.share(worker, active);
        let slots = config.peers.slots();
        let streams = (active_here * slots) as usize;
        let durable = config.is_durable.then(|| {
            let extent = Extent {
                senders: active_here,
                receivers: active_here,
                outgoing: streams,
                incoming: streams,
                channels: Channels { own: true, groups: None },
            };
            Durable::new(plan.receiving.expect("durable runs have a window"), &extent)
        });
        Route {
            active,
            active_here,
            slots,
            streams: Streams::new(streams, streams),
            random: Random::new(plan.seed, worker.into()),
            schedule: config.rate.map(|rate| Schedule::new(rate, plan, worker, active)),
            durable,
            is_open: false,
            config,
        }
    }

    fn send(&mut self, net: &mut Net, local: u32, planned: Tick, now: Tick) {
        if self.durable.is_none() && !net.is_ready(local) {
            return;
        }
        let slot = if self.slots == 1 { 0 } else { self.random.below(self.slots) };
        let receiver = self.config.peers.receiver(net.client(local), slot, self.active);
        let (stream, destination, slot) = (local * self.slots + slot, Destination::Client(receiver), slot as u8);
        let sequence = self.streams.next(stream);
        match &mut self.durable {
            None => net.send(local, destination, slot, sequence, planned, now),
            Some(durable) => {
                durable.senders.send(net, local, &Letter { destination, planned, stream, sequence, slot }, now);
            }
        }
    }

    /// A message came on its stream.
    fn arrived(&mut self, net: &mut Net, local: u32, stream: usize, (stamp, seq): (&Stamp, u64), now: Tick) {
        let arrival = self.streams.take(stream, stamp.sequence);
        debug_assert!(!matches!(&arrival, Arrival::Newest { passed } if passed.is_empty()));
        match &mut self.durable {
            Some(durable) => {
                durable.receivers.arrived(net, local, stream, &arrival, (stamp, seq), now);
            }
            None => {
                if net.arrived(local, &arrival, stamp, now) && self.is_open && self.config.rate.is_none() {
                    self.send(net, local, now, now);
                }
            }
        }
    }

    /// The stream by which this message came to its receiver, if such a message can come to it.
    fn stream(&self, net: &Net, local: u32, push: &PushRef<'_>, stamp: &Stamp) -> Option<usize> {
        let (client, slot) = (net.client(local), u32::from(stamp.slot));
        let fits = stamp.destination == Destination::Client(client)
            && net.plan.client_of(push.channel) == Some(client)
            && local < self.active_here
            && slot < self.slots
            && stamp.sender == self.config.peers.sender(client, slot, self.active);
        fits.then_some((local * self.slots + slot) as usize)
    }
}

impl Scenario for Route {
    fn group_of(&self, _client: u32) -> Option<u32> {
        None
    }

    fn begin(&mut self, net: &mut Net, start: Tick, now: Tick) {
        self.is_open = true;
        match &mut self.schedule {
            Some(schedule) => schedule.start(start),
            None => {
                for local in 0..self.active_here {
                    for _ in 0..self.config.depth {
                        self.send(net, local, now, now);
                    }
                }
            }
        }
    }

    fn pushed(&mut self, net: &mut Net, local: u32, push: &PushRef<'_>, now: Tick) {
        let stamp = match &mut self.durable {
            None => net.inspect(local, push),
            Some(durable) => durable.receivers.take(net, local, push, now),
        };
        let Some(stamp) = stamp else { return };
        match self.stream(net, local, push, &stamp) {
            Some(stream) => self.arrived(net, local, stream, (&stamp, push.seq), now),
            None => net.misdelivered(local, push, &stamp),
        }
    }

    fn durable(&mut self) -> Option<&mut Durable> {
        self.durable.as_mut()
    }

    fn answered(&mut self, net: &mut Net, local: u32, now: Tick) {
        if self.is_open && self.config.rate.is_none() {
            self.send(net, local, now, now);
        }
    }

    fn refused(&mut self, _net: &mut Net, local: u32, client_msg_id: u64) {
        let slot = u32::from(slot_of_id(client_msg_id));
        if local < self.active_here && slot < self.slots {
            self.streams.refuse(local * self.slots + slot, sequence_of_id(client_msg_id));
        }
    }

    fn passed(&mut self, _net: &mut Net, _from: u32, _publisher: u32, _below: u32, _now: Tick) {}

    fn tick(&mut self, net: &mut Net, now: Tick) -> Option<Tick> {
        for _ in 0..SENDS_PER_TURN {
            let Some((local, planned)) = self.schedule.as_mut()?.take_due(net, now) else { break };
            self.send(net, local, planned, now);
        }
        self.schedule.as_mut().map(|schedule| schedule.turn(net, now))
    }

    fn end_turn(&mut self, _net: &mut Net, _now: Tick) {}

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

impl Books for RouteConfig {
    fn settle(&self, plan: &Plan, ledgers: &[Ledger]) -> Settled {
        let (active, slots) = (self.active(plan), self.peers.slots());
        let end = |client: u32, slot: u32| (&ledgers[plan.worker_of(client) as usize], plan.local_of(client) * slots + slot);
        let mut settled = Settled::default();
        for client in 0..active {
            let (lost_before, mut last) = (settled.lost, 0);
            for slot in 0..slots {
                let (from, outgoing) = end(self.peers.sender(client, slot, active), slot);
                settled.add((from, outgoing), end(client, slot));
                last = last.max(Settled::last_told(from, outgoing));
            }
            let to = &ledgers[plan.worker_of(client) as usize];
            let name = || plan.channel(Destination::Client(client));
            settled.add_channel(to, plan.local_of(client), last, lost_before, name);
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receivers_and_senders_agree() {
        let random = [(16, 1000), (1, 1000), (16, 5), (1, 2)].map(|(count, active)| (Peers::random(count, active, 3), active));
        for (peers, active) in [(Peers::Pairs, 10)].into_iter().chain(random) {
            for client in 0..active {
                let mut seen = Vec::new();
                for slot in 0..peers.slots() {
                    let receiver = peers.receiver(client, slot, active);
                    assert!(receiver < active && receiver != client && !seen.contains(&receiver));
                    assert_eq!(peers.sender(receiver, slot, active), client);
                    seen.push(receiver);
                }
            }
        }
    }

    #[test]
    fn random_pairs_are_not_all_the_same_way_apart() {
        let peers = Peers::random(1, 1000, 3);
        let apart = (0..1000).map(|client| (peers.receiver(client, 0, 1000) + 1000 - client) % 1000);
        // Of 1,000 random ones, 1,000 × (1 - 1/e) differ.
        let different = apart.collect::<std::collections::BTreeSet<_>>().len();
        assert!((550..700).contains(&different), "{different}");
    }

    #[test]
    fn the_seed_decides_the_peers() {
        assert_eq!(Peers::random(16, 1000, 3), Peers::random(16, 1000, 3));
        assert_ne!(Peers::random(16, 1000, 3), Peers::random(16, 1000, 4));
    }
}
