//! What workers and the main thread tell each other over the mesh.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use hdrhistogram::Histogram;
use weir::io::Tick;

use crate::{
    durable::{DurableLedger, DurableTally},
    measure,
    timeline::Timeline,
    verify::Inbound,
};

/// A message of the mesh. The main thread's port is the one after the workers'.
#[derive(Debug)]
pub(crate) enum Message {
    /// Main to worker: send from `start` until `end`.
    Go { start: Tick, end: Tick },
    /// Main to worker: send nothing new.
    Halt,
    /// Main to worker: end all connections; close what is left at `deadline`.
    Leave { deadline: Tick },
    /// Main to worker: return.
    Exit,
    /// Worker to main: how things stand.
    Progress(Box<Tally>),
    /// Worker to main: all connections are closed; these are the results.
    Done(Box<Outcome>),
    /// Worker to the worker of a group's publisher: every member here has all sequences below `below` behind it.
    Passed { publisher: u32, below: u32 },
}

/// A worker's counts. All of them only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Clients that became ready.
    pub(crate) ready: u64,
    /// Clients that never will.
    pub(crate) failed: u64,
    /// Attempts to connect or log in that failed and were repeated.
    pub(crate) retried: u64,
    /// Ready clients whose connection ended before it should.
    pub(crate) dropped: u64,
    /// SEND frames given to the reactor.
    pub(crate) sent: u64,
    /// The same with those that were repeated, and the bytes of all of them, with everything that the protocol adds.
    pub(crate) sends: u64,
    pub(crate) send_bytes: u64,
    /// Different intact messages that came to whom they were meant for.
    pub(crate) received: u64,
    /// Those of them that came before the end of the sending phase.
    pub(crate) received_in_phase: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    pub(crate) misdelivered: u64,
    pub(crate) corrupted: u64,
    /// Messages that the gateway refused: the durable ones for good.
    pub(crate) refused: u64,
    /// Clients that were ready before, and are again.
    pub(crate) returned: u64,
    /// Attempts to come back that failed and were repeated; among `retried`.
    pub(crate) retried_returns: u64,
    pub(crate) durable: DurableTally,
    pub(crate) pings: u64,
    pub(crate) pongs: u64,
    /// When the last client so far became ready; the latest of all workers.
    pub(crate) last_arrival: Tick,
    /// When the last new message so far came, and when the last was accepted; the latest of all workers.
    pub(crate) last_received: Tick,
    pub(crate) last_accepted: Tick,
    /// The gateway took messages so much slower than they were planned that no more were sent.
    pub(crate) is_backlogged: bool,
    /// No SEND will follow in this phase.
    pub(crate) is_quiet: bool,
    /// Everything that the scenario set out to do is done.
    pub(crate) is_done: bool,
}

impl Tally {
    /// Adds another worker's counts.
    pub(crate) fn add(&mut self, other: &Tally) {
        self.ready += other.ready;
        self.failed += other.failed;
        self.retried += other.retried;
        self.dropped += other.dropped;
        self.sent += other.sent;
        self.sends += other.sends;
        self.send_bytes += other.send_bytes;
        self.received += other.received;
        self.received_in_phase += other.received_in_phase;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.misdelivered += other.misdelivered;
        self.corrupted += other.corrupted;
        self.refused += other.refused;
        self.returned += other.returned;
        self.retried_returns += other.retried_returns;
        self.durable.add(&other.durable);
        self.pings += other.pings;
        self.pongs += other.pongs;
        self.last_arrival = self.last_arrival.max(other.last_arrival);
        self.last_received = self.last_received.max(other.last_received);
        self.last_accepted = self.last_accepted.max(other.last_accepted);
        self.is_backlogged |= other.is_backlogged;
        self.is_quiet &= other.is_quiet;
        self.is_done &= other.is_done;
    }

    /// What sums begin with.
    pub(crate) fn zero() -> Tally {
        Tally { is_quiet: true, is_done: true, ..Tally::default() }
    }

    /// Faults that show before the end is known; `lost` only shows then.
    pub(crate) fn faults(&self) -> u64 {
        self.duplicated + self.reordered + self.misdelivered + self.corrupted + self.durable.faults()
    }
}

/// What a worker knows of the streams of messages that begin or end at it.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// SENDs by outgoing stream.
    pub(crate) sent: Vec<u32>,
    /// The sequences of those that the gateway refused, for the few streams where it did.
    pub(crate) refused: BTreeMap<u32, BTreeSet<u32>>,
    /// What came, by incoming stream.
    pub(crate) received: Inbound,
    /// The books of durable messages, if there are any.
    pub(crate) durable: Option<DurableLedger>,
    /// The books of a second scenario that the same clients played.
    pub(crate) second: Option<Box<Ledger>>,
}

/// Why something was refused or ended: how often, and what was said the first time.
pub(crate) type Causes = BTreeMap<String, (u64, String)>;

/// A worker's results.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    pub(crate) ledger: Ledger,
    /// From the (planned) send time to the receiver, microseconds.
    pub(crate) latency_us: Histogram<u64>,
    /// The same of each earlier phase of the run.
    pub(crate) earlier_us: Vec<Histogram<u64>>,
    /// From the planned to the actual send time, microseconds.
    pub(crate) lag_us: Histogram<u64>,
    /// From the planned to the actual turns of the workers in the open loop, microseconds.
    pub(crate) turn_lag_us: Histogram<u64>,
    /// PING to PONG, microseconds.
    pub(crate) rtt_us: Histogram<u64>,
    /// From the (planned) send time of a durable message to its ACCEPTED, microseconds.
    pub(crate) accepted_us: Histogram<u64>,
    /// From the end of a connection to its client being ready again, microseconds.
    pub(crate) return_us: Histogram<u64>,
    /// The latencies by step, if they were asked for.
    pub(crate) timeline: Option<Box<Timeline>>,
    /// The lowest durability that an ACCEPTED stated, by its number in `weir.proto`.
    pub(crate) durability: Option<i32>,
    /// Refused SENDs, by code.
    pub(crate) refusals: Causes,
    /// Failed, repeated and dropped connections, by cause.
    pub(crate) endings: Causes,
    /// The first faults seen, in words.
    pub(crate) examples: Vec<String>,
}

/// This many faults are told in words.
pub(crate) const EXAMPLES_MAX: usize = 8;

impl Outcome {
    pub(crate) fn new() -> Outcome {
        Outcome {
            tally: Tally::zero(),
            ledger: Ledger::default(),
            latency_us: measure::histogram(),
            earlier_us: Vec::new(),
            lag_us: measure::histogram(),
            turn_lag_us: measure::histogram(),
            rtt_us: measure::histogram(),
            accepted_us: measure::histogram(),
            return_us: measure::histogram(),
            timeline: None,
            durability: None,
            refusals: Causes::new(),
            endings: Causes::new(),
            examples: Vec::new(),
        }
    }

    /// Another phase begins, whose latencies are its own.
    pub(super) fn next_leg(&mut self) {
        self.earlier_us.push(std::mem::replace(&mut self.latency_us, measure::histogram()));
    }

    /// Adds another worker's results, except its ledger.
    pub(crate) fn merge(&mut self, other: &Outcome) {
        self.tally.add(&other.tally);
        self.earlier_us.resize_with(self.earlier_us.len().max(other.earlier_us.len()), measure::histogram);
        for (ours, theirs) in self.earlier_us.iter_mut().zip(&other.earlier_us) {
            ours.add(theirs).expect("all histograms have the same bounds");
        }
        for (ours, theirs) in [
            (&mut self.latency_us, &other.latency_us),
            (&mut self.lag_us, &other.lag_us),
            (&mut self.turn_lag_us, &other.turn_lag_us),
            (&mut self.rtt_us, &other.rtt_us),
            (&mut self.accepted_us, &other.accepted_us),
            (&mut self.return_us, &other.return_us),
        ] {
            ours.add(theirs).expect("all histograms have the same bounds");
        }
        match (&mut self.timeline, &other.timeline) {
            (Some(ours), Some(theirs)) => ours.merge(theirs),
            (None, Some(theirs)) => self.timeline = Some(theirs.clone()),
            (_, None) => {}
        }
        for (ours, theirs) in [(&mut self.refusals, &other.refusals), (&mut self.endings, &other.endings)] {
            for (cause, (count, words)) in theirs {
                ours.entry(cause.clone()).or_insert_with(|| (0, words.clone())).0 += count;
            }
        }
        self.durability = self.durability.into_iter().chain(other.durability).min();
        self.examples.extend(other.examples.iter().cloned());
        self.examples.truncate(EXAMPLES_MAX);
    }
}

/// Counts one more of `cause`.
pub(crate) fn count_cause(causes: &mut Causes, cause: &str, words: &str) {
    match causes.get_mut(cause) {
        Some((count, _)) => *count += 1,
        None => {
            causes.insert(cause.to_owned(), (1, words.to_owned()));
        }
    }
}
