//! `million`: what a machine full of connections is put through, leg by leg: hold, route, storm, broadcast.
//!
//! All clients come without a group. In the storm all of them drop, and come back into one group; so the broadcast that follows shows that
//! each of them is back, and is a member.
#![forbid(unsafe_code)]

use std::sync::Arc;

use weir::{io::Tick, wire::PushRef};

use super::{
    Books, Random, Scenario, Settled,
    fanout::{Fanout, FanoutConfig},
    route::{Route, RouteConfig},
};
use crate::{
    fleet::{Ledger, Net},
    plan::Plan,
    verify::{Destination, Stamp},
};

/// Connections that one turn drops.
const DROPS_PER_TURN: u32 = 256;

/// The legs, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Nobody says anything but PING.
    Hold,
    /// Some clients send to each other, in the midst of all the others.
    Route,
    /// All drop, and all come back.
    Storm,
    /// One sends to all.
    Broadcast,
}

/// What `million` is told, beyond the plan.
#[derive(Clone, Debug)]
pub(crate) struct MillionConfig {
    pub(crate) route: Arc<RouteConfig>,
    pub(crate) broadcast: Arc<FanoutConfig>,
    /// Each client drops and comes back within a random time up to this.
    pub(crate) jitter_ms: u32,
}

/// One worker's part.
pub(crate) struct Million {
    route: Route,
    broadcast: Fanout,
    stage: Option<Stage>,
    jitter_ms: u32,
    random: Random,
    /// Clients here, those that were dropped so far, and those that are back.
    here: u32,
    dropped: u32,
    back: u32,
    /// By client: dropped, and not back.
    is_away: Vec<bool>,
    storm_at: Tick,
}

impl Million {
    pub(crate) fn new(config: &MillionConfig, plan: &Plan, worker: u32) -> Million {
        let here = plan.share(worker, plan.connections);
        Million {
            route: Route::new(Arc::clone(&config.route), plan, worker),
            broadcast: Fanout::new(Arc::clone(&config.broadcast), plan, worker),
            stage: None,
            jitter_ms: config.jitter_ms,
            random: Random::new(plan.seed, u64::from(worker) << 32),
            here,
            dropped: 0,
            back: 0,
            is_away: vec![false; here as usize],
            storm_at: Tick(0),
        }
    }

    /// Drops some more connections. Returns when to be called again.
    fn drop_some(&mut self, net: &mut Net, now: Tick) -> Option<Tick> {
        let until = self.here.min(self.dropped + DROPS_PER_TURN);
        for local in self.dropped..until {
            self.is_away[local as usize] = true;
            if net.is_ready(local) {
                net.drops.push((local, self.random.below(self.jitter_ms + 1)));
            }
        }
        self.dropped = until;
        (until < self.here).then_some(now)
    }
}

impl Scenario for Million {
    fn group_of(&self, client: u32) -> Option<u32> {
        if self.stage >= Some(Stage::Storm) { self.broadcast.group_of(client) } else { None }
    }

    fn begin(&mut self, net: &mut Net, start: Tick, now: Tick) {
        let stage = match self.stage {
            None => Stage::Hold,
            Some(Stage::Hold) => Stage::Route,
            Some(Stage::Route) => Stage::Storm,
            Some(Stage::Storm | Stage::Broadcast) => Stage::Broadcast,
        };
        self.stage = Some(stage);
        match stage {
            Stage::Hold => {}
            Stage::Route => self.route.begin(net, start, now),
            Stage::Storm => {
                self.storm_at = start;
                net.outcome.tally.is_done = self.here == 0;
            }
            Stage::Broadcast => self.broadcast.begin(net, start, now),
        }
    }

    fn pushed(&mut self, net: &mut Net, local: u32, push: &PushRef<'_>, now: Tick) {
        match Stamp::read(push.payload).map(|stamp| stamp.destination) {
            Some(Destination::Group(_)) => self.broadcast.pushed(net, local, push, now),
            // What is broken is counted by the one as by the other.
            Some(Destination::Client(_)) | None => self.route.pushed(net, local, push, now),
        }
    }

    fn came(&mut self, net: &mut Net, local: u32, now: Tick) {
        if self.stage == Some(Stage::Storm) && std::mem::take(&mut self.is_away[local as usize]) {
            self.back += 1;
            net.outcome.return_us.saturating_record(now.micros_since(self.storm_at));
            net.outcome.tally.is_done = self.back == self.here;
        }
    }

    fn refused(&mut self, net: &mut Net, local: u32, client_msg_id: u64) {
        match self.stage {
            Some(Stage::Broadcast) => self.broadcast.refused(net, local, client_msg_id),
            None | Some(Stage::Hold | Stage::Route | Stage::Storm) => self.route.refused(net, local, client_msg_id),
        }
    }

    fn passed(&mut self, net: &mut Net, from: u32, publisher: u32, below: u32, now: Tick) {
        self.broadcast.passed(net, from, publisher, below, now);
    }

    fn tick(&mut self, net: &mut Net, now: Tick) -> Option<Tick> {
        match self.stage? {
            Stage::Hold => None,
            Stage::Route => self.route.tick(net, now),
            Stage::Storm => self.drop_some(net, now),
            Stage::Broadcast => self.broadcast.tick(net, now),
        }
    }

    fn end_turn(&mut self, net: &mut Net, now: Tick) {
        self.broadcast.end_turn(net, now);
    }

    fn end(&mut self, net: &mut Net, now: Tick) {
        match self.stage {
            Some(Stage::Route) => self.route.end(net, now),
            Some(Stage::Broadcast) => self.broadcast.end(net, now),
            None | Some(Stage::Hold | Stage::Storm) => {}
        }
    }

    fn take_ledger(&mut self) -> Ledger {
        Ledger { second: Some(Box::new(self.broadcast.take_ledger())), ..self.route.take_ledger() }
    }
}

impl MillionConfig {
    /// Holds what was received against what was sent, of both kinds of messages.
    pub(crate) fn settle(&self, plan: &Plan, mut ledgers: Vec<Ledger>) -> Settled {
        let broadcast: Vec<Ledger> =
            ledgers.iter_mut().map(|ledger| ledger.second.take().map_or_else(Ledger::default, |second| *second)).collect();
        let (routed, sent_to_all) = (self.route.settle(plan, &ledgers), self.broadcast.settle(plan, &broadcast));
        Settled {
            expected: routed.expected + sent_to_all.expected,
            lost: routed.lost + sent_to_all.lost,
            contradicted: routed.contradicted + sent_to_all.contradicted,
            ..Settled::default()
        }
    }
}
