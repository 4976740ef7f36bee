//! `connect`: everybody logs in and stays, with heartbeats and nothing else.
#![forbid(unsafe_code)]

use weir::{io::Tick, wire::PushRef};

use super::{Books, Scenario, Settled};
use crate::{
    durable::is_leftover,
    fleet::{Ledger, Net},
    plan::Plan,
};

/// One worker's part.
pub(crate) struct Connect;

impl Scenario for Connect {
    fn group_of(&self, _client: u32) -> Option<u32> {
        None
    }

    fn begin(&mut self, _net: &mut Net, _start: Tick, _now: Tick) {}

    /// Nobody sends, so a message that comes all the same is not ours.
    fn pushed(&mut self, net: &mut Net, local: u32, push: &PushRef<'_>, now: Tick) {
        if is_leftover(net, local, push, now) {
            return;
        }
        if let Some(stamp) = net.inspect(local, push) {
            net.misdelivered(local, push, &stamp);
        }
    }

    fn refused(&mut self, _net: &mut Net, _local: u32, _client_msg_id: u64) {}

    fn passed(&mut self, _net: &mut Net, _from: u32, _publisher: u32, _below: u32, _now: Tick) {}

    fn tick(&mut self, _net: &mut Net, _now: Tick) -> Option<Tick> {
        None
    }

    fn end_turn(&mut self, _net: &mut Net, _now: Tick) {}

    fn end(&mut self, _net: &mut Net, _now: Tick) {}

    fn take_ledger(&mut self) -> Ledger {
        Ledger::default()
    }
}

/// Nothing is sent.
pub(crate) struct ConnectBooks;

impl Books for ConnectBooks {
    fn settle(&self, _plan: &Plan, _ledgers: &[Ledger]) -> Settled {
        Settled::default()
    }
}
