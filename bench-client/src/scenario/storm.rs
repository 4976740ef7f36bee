//! `storm`: everybody drops at once and comes back, while clients that stay go on sending to them.
#![forbid(unsafe_code)]

use weir::{io::Tick, wire::PushRef};

use super::{
    Books, Random, Scenario, Settled,
    mail::{Mail, Mailer, Sending},
    streams::Streams,
};
use crate::{
    durable::{Durable, Extent},
    fleet::{Ledger, Net},
    plan::Plan,
};

/// Connections that one turn drops.
const DROPS_PER_TURN: u32 = 1024;

/// What `storm` is told, beyond the plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StormConfig {
    pub(crate) mail: Mail,
    pub(crate) sending: Sending,
    /// From the beginning of the sending phase to the drop.
    pub(crate) drop_after_us: u64,
    /// Each client comes back after a random time up to this.
    pub(crate) jitter_ms: u32,
}

/// One worker's part.
pub(crate) struct Storm {
    config: StormConfig,
    mailer: Mailer,
    streams: Streams,
    durable: Durable,
    random: Random,
    /// When everybody drops.
    drop_at: Option<Tick>,
    /// Receivers from here on have yet to be dropped.
    next: u32,
    /// By client: dropped, and not back.
    is_away: Vec<bool>,
}

impl Storm {
    pub(crate) fn new(config: StormConfig, plan: &Plan, worker: u32) -> Storm {
        let mail = config.mail;
        let mailer = Mailer::new(mail, config.sending, plan, worker);
        let (outgoing, here) = ((mailer.senders() * mail.outgoing()) as usize, plan.share(worker, plan.connections));
        let incoming = (here * mail.incoming()) as usize;
        let extent = Extent { senders: mailer.senders(), receivers: here, outgoing, incoming, channels: mail.channels() };
        Storm {
            config,
            next: mailer.senders(),
            mailer,
            streams: Streams::new(outgoing, incoming),
            durable: Durable::new(plan.receiving.expect("receivers have a window"), &extent),
            random: Random::new(plan.seed, worker.into()),
            drop_at: None,
            is_away: vec![false; here as usize],
        }
    }

    /// Drops some more connections, if it is time. Returns when to be called again.
    fn drop_some(&mut self, net: &mut Net, now: Tick) -> Option<Tick> {
        let (at, all) = (self.drop_at?, self.is_away.len() as u32);
        if now < at || self.next == all {
            return (now < at).then_some(at);
        }
        let until = all.min(self.next + DROPS_PER_TURN);
        for local in self.next..until {
            if net.is_ready(local) {
                self.is_away[local as usize] = true;
                net.drops.push((local, self.random.below(self.config.jitter_ms + 1)));
            }
        }
        self.next = until;
        (until < all).then_some(now)
    }
}

impl Scenario for Storm {
    fn group_of(&self, _client: u32) -> Option<u32> {
        None
    }

    fn begin(&mut self, net: &mut Net, start: Tick, now: Tick) {
        self.drop_at = Some(Tick(start.0 + self.config.drop_after_us));
        self.mailer.begin(net, (&mut self.streams, &mut self.durable), start, now);
    }

    fn pushed(&mut self, net: &mut Net, local: u32, push: &PushRef<'_>, now: Tick) {
        let Some(stamp) = self.durable.receivers.take(net, local, push, now) else { return };
        let Some(stream) = self.config.mail.stream(net, local, push, &stamp) else {
            net.misdelivered(local, push, &stamp);
            return;
        };
        let arrival = self.streams.take(stream, stamp.sequence);
        self.durable.receivers.arrived(net, local, stream, &arrival, (&stamp, push.seq), now);
    }

    fn durable(&mut self) -> Option<&mut Durable> {
        Some(&mut self.durable)
    }

    fn answered(&mut self, net: &mut Net, local: u32, now: Tick) {
        self.mailer.fill(net, (&mut self.streams, &mut self.durable), local, now);
    }

    fn came(&mut self, net: &mut Net, local: u32, now: Tick) {
        if let Some(at) = self.drop_at
            && std::mem::take(&mut self.is_away[local as usize])
        {
            net.outcome.return_us.saturating_record(now.micros_since(at));
        }
    }

    fn refused(&mut self, _net: &mut Net, _local: u32, _client_msg_id: u64) {}

    fn passed(&mut self, _net: &mut Net, _from: u32, _publisher: u32, _below: u32, _now: Tick) {}

    fn tick(&mut self, net: &mut Net, now: Tick) -> Option<Tick> {
        let wake = self.mailer.tick(net, (&mut self.streams, &mut self.durable), now);
        wake.into_iter().chain(self.drop_some(net, now)).min()
    }

    fn end_turn(&mut self, _net: &mut Net, _now: Tick) {}

    fn end(&mut self, net: &mut Net, now: Tick) {
        self.mailer.end(net, now);
    }

    fn take_ledger(&mut self) -> Ledger {
        self.streams.take_ledger()
    }
}

impl Books for StormConfig {
    fn settle(&self, plan: &Plan, ledgers: &[Ledger]) -> Settled {
        self.mail.settle((plan, ledgers), (plan, ledgers))
    }
}
