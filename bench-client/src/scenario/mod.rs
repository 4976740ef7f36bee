//! What clients do once they are logged in. Scenarios know clients, groups and messages; connections are the fleet's business.
#![forbid(unsafe_code)]

pub(crate) mod connect;
pub(crate) mod fanout;
pub(crate) mod pace;
pub(crate) mod route;
mod schedule;
mod streams;

use weir::{io::Tick, wire::PushRef};

use crate::{
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

    /// The gateway answered this SEND of the client at `local` with an error.
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

/// What the ledgers say together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    /// Deliveries that should have been.
    pub(crate) expected: u64,
    /// Those of them that were not.
    pub(crate) lost: u64,
    /// Deliveries of messages that the gateway had told the sender it refused.
    pub(crate) contradicted: u64,
}

impl Settled {
    /// Holds an outgoing stream against one of the incoming streams that it leads to.
    fn add(&mut self, (from, outgoing): (&Ledger, u32), (to, incoming): (&Ledger, u32)) {
        let sent = from.sent[outgoing as usize];
        let (refused, contradicted) = from.refused.get(&outgoing).map_or((0, 0), |refused| {
            (refused.len() as u32, to.received.count_among(incoming as usize, refused.iter().copied()))
        });
        // Of different messages none is counted twice, and what came was sent, as its checksum says; so nothing falls below 0.
        let expected = sent - refused;
        let came = to.received.count(incoming as usize) - contradicted;
        self.expected += u64::from(expected);
        self.lost += u64::from(expected.saturating_sub(came));
        self.contradicted += u64::from(contradicted);
    }
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
