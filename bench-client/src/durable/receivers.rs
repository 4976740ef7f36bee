//! The receivers of one worker: each checks the sequences of its channels, and acknowledges.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use weir::{
    io::Tick,
    wire::{ErrorCode, Frame, PushRef, body},
};

use super::{
    Channels, Extent, Receiving, is_leftover,
    ledger::{DurableLedger, Marks, pairing},
    lines::{Lines, Verdict},
    passes, pause_ms,
};
use crate::{
    fleet::Net,
    verify::{Arrival, Destination, Stamp},
};

/// All receivers of a worker.
pub(crate) struct Receivers {
    receiving: Receiving,
    channels: Channels,
    /// Clients from here on have no lines.
    count: u32,
    lines: Lines,
    /// Lines for which a RECEIVED is planned, in the order of their times.
    acks: VecDeque<(Tick, u32)>,
    /// By incoming stream, as `late`.
    pairings: Vec<u64>,
    late: Marks,
}

impl Receivers {
    pub(super) fn new(receiving: Receiving, extent: &Extent) -> Receivers {
        Receivers {
            receiving,
            channels: extent.channels,
            count: extent.receivers,
            lines: Lines::new((extent.receivers * extent.channels.lines()) as usize),
            acks: VecDeque::new(),
            pairings: vec![0; extent.incoming],
            late: Marks::new(),
        }
    }

    /// Goes on where an earlier phase of the run left its lines, in good order. Whether nothing was sent in between.
    pub(crate) fn resume(&mut self, lines: Lines, is_unchanged: bool) {
        assert_eq!(lines.len(), self.lines.len(), "phases of a run have the same receivers");
        self.lines = lines;
        self.lines.resume(is_unchanged);
    }

    pub(crate) fn lines(&self) -> &Lines {
        &self.lines
    }

    /// The line of a channel at a receiver.
    fn line_of(&self, net: &Net, local: u32, channel: &str) -> Option<u32> {
        if local >= self.count {
            return None;
        }
        let (client, first) = (net.client(local), local * self.channels.lines());
        match net.plan.destination_named(channel)? {
            Destination::Client(named) => (self.channels.own && named == client).then_some(first),
            Destination::Group(named) => {
                (self.channels.groups?.of(client) == Some(named)).then_some(first + u32::from(self.channels.own))
            }
        }
    }

    /// The name of a line's channel.
    fn channel_of(&self, net: &Net, line: u32) -> String {
        let (local, at) = (line / self.channels.lines(), line % self.channels.lines());
        let client = net.client(local);
        match self.channels.groups.and_then(|groups| groups.of(client)).filter(|_| at == u32::from(self.channels.own)) {
            Some(group) => net.plan.channel(Destination::Group(group)),
            None => net.plan.channel(Destination::Client(client)),
        }
    }

    /// Whether CURSORS said where the connection of a client begins, in each channel that it follows.
    pub(crate) fn is_placed(&self, local: u32) -> bool {
        let lines = self.channels.lines();
        local >= self.count || (0..lines).all(|at| self.lines.line(local * lines + at).here > 0)
    }

    /// Takes CURSORS.
    pub(crate) fn cursors(&mut self, net: &mut Net, local: u32, cursors: &body::Cursors) {
        let Some(line) = self.line_of(net, local, &cursors.channel) else { return };
        let before = *self.lines.line(line);
        if !self.lines.place(line, cursors) {
            net.outcome.tally.durable.wrong_cursors += 1;
            net.example(|net| format!("client {} got {cursors:?}, and has {before:?}", net.client(local)));
        }
    }

    /// Takes a durable message. Returns its stamp if it is of this run, is intact, and did not come on an earlier connection.
    pub(crate) fn take(&mut self, net: &mut Net, local: u32, push: &PushRef<'_>, now: Tick) -> Option<Stamp> {
        let Some(line) = self.line_of(net, local, push.channel).filter(|_| push.seq > 0) else {
            if !is_leftover(net, local, push, now) {
                let stamp = net.inspect(local, push)?;
                net.misdelivered(local, push, &stamp);
            }
            return None;
        };
        let taken = self.lines.take(line, push.seq, push.timestamp);
        let tally = &mut net.outcome.tally.durable;
        tally.back_in_time += u64::from(taken.is_back_in_time);
        tally.reordered += u64::from(taken.verdict == Verdict::Late || taken.is_early);
        tally.duplicated += u64::from(taken.verdict == Verdict::Duplicate);
        tally.repeated += u64::from(taken.verdict == Verdict::Repeat);
        let is_fault = taken.is_back_in_time || taken.is_early || taken.skipped > 0;
        if is_fault || matches!(taken.verdict, Verdict::Late | Verdict::Duplicate) {
            net.example(|net| format!("client {}, {}: sequence {} came, {taken:?}", net.client(local), push.channel, push.seq));
        }
        self.plan_ack(net, line, now);
        if taken.verdict == Verdict::Repeat {
            return None;
        }
        match Stamp::read(push.payload) {
            Some(stamp) if stamp.run != net.plan.run => {
                net.outcome.tally.durable.leftovers += 1;
                None
            }
            Some(_) | None => net.inspect(local, push),
        }
    }

    /// Counts what a message is for its stream. Returns whether it came for the first time.
    pub(crate) fn arrived(
        &mut self,
        net: &mut Net,
        local: u32,
        stream: usize,
        arrival: &Arrival,
        came: (&Stamp, u64),
        now: Tick,
    ) -> bool {
        let (stamp, seq) = came;
        match arrival {
            Arrival::Newest { .. } => {}
            // Whether it was to be expected shows when the sender's books are there too.
            Arrival::Reordered => {
                self.late.entry(stream as u32).or_default().insert(stamp.sequence);
            }
            Arrival::Duplicate => {
                net.outcome.tally.duplicated += 1;
                net.example(|net| format!("client {}: {arrival:?}, {stamp:?}", net.client(local)));
                return false;
            }
        }
        let pairings = &mut self.pairings[stream];
        *pairings = pairings.wrapping_add(pairing(stamp.sequence, seq));
        net.came_first(stamp, now);
        true
    }

    /// Takes GAP, which is acknowledged like the messages that it stands for.
    pub(crate) fn gap(&mut self, net: &mut Net, local: u32, gap: &body::Gap, now: Tick) {
        net.outcome.tally.durable.gaps += 1;
        net.example(|net| format!("client {} got {gap:?}", net.client(local)));
        if let Some(line) = self.line_of(net, local, &gap.channel) {
            self.lines.gap(line, gap.from, gap.to, ErrorCode::from_number(gap.code) != Some(ErrorCode::Expired));
            self.plan_ack(net, line, now);
        }
    }

    /// A message or a GAP came, so RECEIVED is to be sent: now, if there were many, or soon.
    fn plan_ack(&mut self, net: &mut Net, line: u32, now: Tick) {
        let state = self.lines.line_mut(line);
        state.unacked += 1;
        if state.unacked >= self.receiving.ack_every {
            self.acknowledge(net, line, now);
        } else if !state.is_ack_planned {
            state.is_ack_planned = true;
            self.acks.push_back((Tick(now.0 + self.receiving.ack_after_us), line));
        }
    }

    /// Sends RECEIVED, if there is anything new to say.
    fn acknowledge(&mut self, net: &mut Net, line: u32, now: Tick) {
        let state = self.lines.line_mut(line);
        let local = line / self.channels.lines();
        if state.unacked == 0 || state.here < 2 || !net.may_send(local) {
            return;
        }
        state.unacked = 0;
        // What this connection brought; an earlier one may have brought more, which the gateway need not know. If one was lost before,
        // that is counted: a receiver that waited for it would stop the run.
        let seq = state.here - 1;
        state.acked = state.acked.max(seq);
        let channel = self.channel_of(net, line);
        net.put_frame(local, &Frame::Received(body::Received { channel, seq }), now);
        net.outcome.tally.durable.acknowledgements += 1;
    }

    /// Sends the RECEIVED whose time has come. Returns when the next is due.
    pub(super) fn acknowledge_due(&mut self, net: &mut Net, now: Tick) -> Option<Tick> {
        while let Some((at, line)) = self.acks.front().copied() {
            if at > now {
                return Some(at);
            }
            self.acks.pop_front();
            self.lines.line_mut(line).is_ack_planned = false;
            self.acknowledge(net, line, now);
        }
        None
    }

    /// Says how far a client has read a channel.
    pub(crate) fn mark_read(&mut self, net: &mut Net, line: u32, seq: u64, now: Tick) {
        self.lines.line_mut(line).read = seq;
        let channel = self.channel_of(net, line);
        net.put_frame(line / self.channels.lines(), &Frame::Read(body::Read { channel, seq }), now);
    }

    /// Takes an ERROR that answers RECEIVED or READ.
    pub(crate) fn acknowledgement_refused(&mut self, net: &mut Net, local: u32, error: &body::Error, now: Tick) {
        if !passes(error.code) {
            net.outcome.tally.durable.refused_acknowledgements += 1;
            net.example(|net| format!("client {} acknowledged, and got {error:?}", net.client(local)));
            return;
        }
        if local >= self.count {
            return;
        }
        let lines = self.channels.lines();
        let at = now.plus_ms(pause_ms(error));
        for line in local * lines..(local + 1) * lines {
            let state = self.lines.line_mut(line);
            // The next one, whenever it comes, says this too; it comes in any case.
            state.unacked = state.unacked.max(1);
            let place = self.acks.partition_point(|(planned, _)| *planned <= at);
            self.acks.insert(place, (at, line));
        }
    }

    /// A client's connection ended.
    pub(super) fn went(&mut self, local: u32) {
        if local < self.count {
            let lines = self.channels.lines();
            (local * lines..(local + 1) * lines).for_each(|line| self.lines.close(line));
        }
    }

    /// All connections are about to end: says what is to be said.
    pub(super) fn leave(&mut self, net: &mut Net, now: Tick) {
        (0..self.lines.len() as u32).for_each(|line| self.acknowledge(net, line, now));
    }

    /// Puts what is known at the end into the books. Nothing comes after it.
    pub(super) fn enter(&mut self, ledger: &mut DurableLedger) {
        self.count = 0;
        self.acks.clear();
        ledger.pairings = std::mem::take(&mut self.pairings);
        ledger.late = std::mem::take(&mut self.late);
        ledger.lines = std::mem::take(&mut self.lines);
    }
}
