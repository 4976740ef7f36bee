//! The senders of one worker: what they sent is kept until the gateway accepted it, or refused it for good.
#![forbid(unsafe_code)]

use std::{cmp::Reverse, collections::BinaryHeap};

use weir::{
    io::Tick,
    wire::{AcceptedRef, body},
};

use super::{
    ledger::{DurableLedger, Marks, Numbered, pairing},
    outbox::{Letter, Outbox},
    passes, pause_ms,
};
use crate::fleet::Net;

/// All senders of a worker.
pub(crate) struct Senders {
    outboxes: Vec<Outbox>,
    /// Refused messages, by when they are sent again: sender and number.
    retries: BinaryHeap<Reverse<(Tick, u32, u32)>>,
    /// By outgoing stream, as the rest.
    numbered: Vec<Numbered>,
    refused: Marks,
    unanswered: Marks,
    deferred: Marks,
    /// No answer matters any more.
    is_over: bool,
}

impl Senders {
    pub(super) fn new(senders: u32, streams: usize) -> Senders {
        Senders {
            outboxes: (0..senders).map(|_| Outbox::default()).collect(),
            retries: BinaryHeap::new(),
            numbered: vec![Numbered::default(); streams],
            refused: Marks::new(),
            unanswered: Marks::new(),
            deferred: Marks::new(),
            is_over: false,
        }
    }

    /// Sends a message, or keeps it for the sender's next connection.
    pub(crate) fn send(&mut self, net: &mut Net, local: u32, letter: &Letter, now: Tick) {
        let number = self.outboxes[local as usize].post(*letter);
        net.outcome.tally.sent += 1;
        if net.is_ready(local) {
            let id = net.message_id(number);
            net.send_durable(local, letter, id, now);
        }
    }

    /// Messages of a sender without an answer for good.
    pub(crate) fn open(&self, local: u32) -> u32 {
        self.outboxes.get(local as usize).map_or(0, Outbox::open)
    }

    /// Takes ACCEPTED. Returns whether it answers a message.
    pub(crate) fn accepted(&mut self, net: &mut Net, local: u32, accepted: &AcceptedRef<'_>, now: Tick) -> bool {
        if self.is_over {
            return false;
        }
        let waiting =
            net.number_of(accepted.client_msg_id).and_then(|number| self.outboxes.get_mut(local as usize)?.settle(number));
        let Some(letter) =
            waiting.filter(|letter| accepted.seq > 0 && net.plan.destination_named(accepted.channel) == Some(letter.destination))
        else {
            net.outcome.tally.durable.misanswered += 1;
            net.example(|net| format!("client {} got {accepted:?}, and {waiting:?} was sent", net.client(local)));
            return waiting.is_some();
        };
        let outcome = &mut net.outcome;
        outcome.tally.last_accepted = now;
        let tally = &mut outcome.tally.durable;
        tally.accepted += 1;
        tally.accepted_in_phase += u64::from(now < net.phase_end);
        tally.accepted_before += u64::from(accepted.duplicate);
        outcome.accepted_us.saturating_record(now.micros_since(letter.planned));
        outcome.durability = Some(outcome.durability.map_or(accepted.durability, |lowest| lowest.min(accepted.durability)));
        let numbered = &mut self.numbered[letter.stream as usize];
        numbered.last = numbered.last.max(accepted.seq);
        numbered.pairings = numbered.pairings.wrapping_add(pairing(letter.sequence, accepted.seq));
        true
    }

    /// Takes an ERROR that answers a SEND. Returns whether the message is refused for good.
    pub(crate) fn refused(&mut self, net: &mut Net, local: u32, error: &body::Error, now: Tick) -> bool {
        let Some(number) = net.number_of(error.client_msg_id).filter(|_| !self.is_over) else { return false };
        let Some(outbox) = self.outboxes.get_mut(local as usize) else { return false };
        if !passes(error.code) {
            let Some(letter) = outbox.settle(number) else { return false };
            self.refused.entry(letter.stream).or_default().insert(letter.sequence);
            return true;
        }
        if let Some(letter) = outbox.defer(number) {
            self.deferred.entry(letter.stream).or_default().insert(letter.sequence);
            self.retries.push(Reverse((now.plus_ms(pause_ms(error)), local, number)));
        }
        false
    }

    /// Sends again what was refused long enough ago. Returns when the next is due.
    pub(super) fn retry(&mut self, net: &mut Net, now: Tick) -> Option<Tick> {
        while let Some(Reverse((at, local, number))) = self.retries.peek().copied() {
            if at > now {
                return Some(at);
            }
            self.retries.pop();
            // A connection that is not up sends all that is open when it is.
            if !self.is_over
                && net.is_ready(local)
                && let Some(letter) = self.outboxes[local as usize].retry(number)
            {
                self.send_again(net, local, number, &letter, now);
            }
        }
        None
    }

    fn send_again(&mut self, net: &mut Net, local: u32, number: u32, letter: &Letter, now: Tick) {
        net.outcome.tally.durable.resent += 1;
        let id = net.message_id(number);
        net.send_durable(local, letter, id, now);
    }

    /// A sender is ready, for the first time or again: what is open is sent once more.
    pub(super) fn came(&mut self, net: &mut Net, local: u32, now: Tick) {
        if self.open(local) > 0 {
            for (number, letter) in self.outboxes[local as usize].retry_all() {
                self.send_again(net, local, number, &letter, now);
            }
        }
    }

    /// All connections are about to end: gives up what has no answer.
    pub(super) fn leave(&mut self, net: &mut Net) {
        self.is_over = true;
        for (local, outbox) in (0..).zip(&mut self.outboxes) {
            let is_ready = net.is_ready(local);
            for (letter, was_refused) in outbox.give_up() {
                self.unanswered.entry(letter.stream).or_default().insert(letter.sequence);
                let tally = &mut net.outcome.tally;
                tally.refused += u64::from(was_refused);
                if is_ready && !was_refused {
                    tally.durable.unanswered += 1;
                    net.example(|net| format!("client {}: no answer to {letter:?}", net.client(local)));
                }
            }
        }
    }

    /// Puts what is known at the end into the books.
    pub(super) fn enter(&mut self, ledger: &mut DurableLedger) {
        ledger.numbered = std::mem::take(&mut self.numbered);
        ledger.refused = std::mem::take(&mut self.refused);
        ledger.unanswered = std::mem::take(&mut self.unanswered);
        ledger.deferred = std::mem::take(&mut self.deferred);
    }
}
