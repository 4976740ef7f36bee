//! What clients do once they are logged in. Scenarios know clients, groups and messages; connections are the fleet's business.
#![forbid(unsafe_code)]

pub(crate) mod connect;
pub(crate) mod fanout;
pub(crate) mod mail;
pub(crate) mod million;
pub(crate) mod offline;
pub(crate) mod pace;
pub(crate) mod route;
mod schedule;
mod settled;
pub(crate) mod storm;
mod streams;

use weir::{io::Tick, wire::PushRef};

#[cfg(test)]
pub(crate) use self::settled::FaultyChannel;
pub(crate) use self::settled::Settled;

use crate::{
    durable::Durable,
    fleet::{Ledger, Net},
    plan::Plan,
};

/// One worker's part of a scenario. Pure, like the fleet that it lives in.
pub(crate) trait Scenario: Send {
    /// The group that a client joins before it counts as ready.
    fn group_of(&self, client: u32) -> Option<u32>;

    /// The sending phase begins; it ends by `end`. Everybody is ready.
    fn begin(&mut self, net: &mut Net, start: Tick, now: Tick);

    /// A message came to the client at `local`.
    fn pushed(&mut self, net: &mut Net, local: u32, push: &PushRef<'_>, now: Tick);

    /// The durable messages of this worker, if it has any.
    fn durable(&mut self) -> Option<&mut Durable> {
        None
    }

    /// A durable message of the client at `local` was accepted, or refused for good: there is room for another.
    fn answered(&mut self, _net: &mut Net, _local: u32, _now: Tick) {}

    /// The client at `local` is ready, for the first time or again.
    fn came(&mut self, _net: &mut Net, _local: u32, _now: Tick) {}

    /// The gateway answered this transient SEND of the client at `local` with an error.
    fn refused(&mut self, net: &mut Net, local: u32, client_msg_id: u64);

    /// All members of another worker, or of this one, have the sequences of `publisher` below `below` behind them.
    fn passed(&mut self, net: &mut Net, from: u32, publisher: u32, below: u32, now: Tick);

    /// Called each turn of the sending phase; says when it wants to be called next at the latest.
    fn tick(&mut self, net: &mut Net, now: Tick) -> Option<Tick>;

    /// Called each turn, after everything else.
    fn end_turn(&mut self, net: &mut Net, now: Tick);

    /// The sending phase is over: nothing new is sent.
    fn end(&mut self, net: &mut Net, now: Tick);

    /// What was sent and received, by stream.
    fn take_ledger(&mut self) -> Ledger;
}

/// How the ledgers of all workers are held against each other.
pub(crate) trait Books {
    /// What should have come, and what did.
    fn settle(&self, plan: &Plan, ledgers: &[Ledger]) -> Settled;
}

/// SplitMix64 (Steele, Lea and Flood 2014): every choice of a run comes from its seed.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Independent sequences for different `stream`s of one seed.
    pub(crate) fn new(seed: u64, stream: u64) -> Random {
        let mut random = Random(seed ^ stream.wrapping_mul(0xd134_2543_de82_ef95));
        random.next();
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        (((self.next() >> 32) * u64::from(bound)) >> 32) as u32
    }
}
