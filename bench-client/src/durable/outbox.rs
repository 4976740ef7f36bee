//! What one sender has sent and has no ACCEPTED for yet.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use weir::io::Tick;

use crate::verify::Destination;

/// One message, with all that is needed to send the same bytes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Letter {
    pub(crate) destination: Destination,
    pub(crate) planned: Tick,
    /// The outgoing stream, in the books of this worker.
    pub(crate) stream: u32,
    /// Its number in that stream.
    pub(crate) sequence: u32,
    pub(crate) slot: u8,
}

/// What the gateway said to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Nothing yet.
    Awaited,
    /// Not now: it waits to be sent again.
    Refused,
    /// ACCEPTED, or a refusal for good.
    Given,
}

#[derive(Debug)]
struct Entry {
    letter: Letter,
    answer: Answer,
}

/// A sender's messages by number: they count from 0 over all its streams.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// The number of the first entry.
    first: u32,
    entries: VecDeque<Entry>,
    /// Entries without an answer for good.
    open: u32,
}

impl Outbox {
    /// Takes in a message that is sent now. Returns its number.
    pub(crate) fn post(&mut self, letter: Letter) -> u32 {
        self.entries.push_back(Entry { letter, answer: Answer::Awaited });
        self.open += 1;
        self.first.wrapping_add(self.entries.len() as u32 - 1)
    }

    /// Messages that are not accepted, nor refused for good.
    pub(crate) fn open(&self) -> u32 {
        self.open
    }

    fn entry(&mut self, number: u32, answer: Answer) -> Option<&mut Entry> {
        let at = number.wrapping_sub(self.first) as usize;
        self.entries.get_mut(at).filter(|entry| entry.answer == answer)
    }

    /// An answer for good came. `None` if nothing waits for it.
    pub(crate) fn settle(&mut self, number: u32) -> Option<Letter> {
        let entry = self.entry(number, Answer::Awaited)?;
        entry.answer = Answer::Given;
        let letter = entry.letter;
        self.open -= 1;
        while self.entries.front().is_some_and(|entry| entry.answer == Answer::Given) {
            self.entries.pop_front();
            self.first = self.first.wrapping_add(1);
        }
        Some(letter)
    }

    /// The gateway asked to try again later. `None` if nothing waits for it.
    pub(crate) fn defer(&mut self, number: u32) -> Option<Letter> {
        let entry = self.entry(number, Answer::Awaited)?;
        entry.answer = Answer::Refused;
        Some(entry.letter)
    }

    /// A deferred message is sent again now. `None` if it is not deferred any more.
    pub(crate) fn retry(&mut self, number: u32) -> Option<Letter> {
        let entry = self.entry(number, Answer::Refused)?;
        entry.answer = Answer::Awaited;
        Some(entry.letter)
    }

    /// All that is open is sent again now, on a new connection, in the order in which it was sent first.
    pub(crate) fn retry_all(&mut self) -> Vec<(u32, Letter)> {
        let mut again = Vec::with_capacity(self.open as usize);
        for (at, entry) in self.entries.iter_mut().enumerate().filter(|(_, entry)| entry.answer != Answer::Given) {
            entry.answer = Answer::Awaited;
            again.push((self.first.wrapping_add(at as u32), entry.letter));
        }
        again
    }

    /// Gives up what is open: each message, and whether the gateway refused it when it spoke of it last.
    pub(crate) fn give_up(&mut self) -> impl Iterator<Item = (Letter, bool)> {
        self.first = self.first.wrapping_add(self.entries.len() as u32);
        self.open = 0;
        let entries = std::mem::take(&mut self.entries).into_iter();
        entries.filter(|entry| entry.answer != Answer::Given).map(|entry| (entry.letter, entry.answer == Answer::Refused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(sequence: u32) -> Letter {
        Letter { destination: Destination::Client(3), planned: Tick(9), stream: 0, sequence, slot: 0 }
    }

    fn outbox(letters: u32) -> Outbox {
        let mut outbox = Outbox::default();
        for sequence in 0..letters {
            assert_eq!(outbox.post(letter(sequence)), sequence);
        }
        outbox
    }

    #[test]
    fn answers_may_come_in_any_order_and_only_once() {
        let mut outbox = outbox(3);
        assert_eq!(outbox.settle(1), Some(letter(1)));
        assert_eq!(outbox.settle(1), None, "it was answered");
        assert_eq!(outbox.settle(3), None, "it was never sent");
        assert_eq!((outbox.settle(0), outbox.open()), (Some(letter(0)), 1));
        assert_eq!(outbox.settle(0), None);
        assert_eq!(outbox.post(letter(3)), 3);
        assert_eq!((outbox.settle(2), outbox.settle(3), outbox.open()), (Some(letter(2)), Some(letter(3)), 0));
    }

    #[test]
    fn what_is_refused_waits_and_keeps_its_number() {
        let mut outbox = outbox(2);
        assert_eq!(outbox.defer(0), Some(letter(0)));
        assert_eq!((outbox.defer(0), outbox.settle(0)), (None, None), "nothing is on its way");
        assert_eq!((outbox.settle(1), outbox.open()), (Some(letter(1)), 1));
        assert_eq!((outbox.retry(0), outbox.retry(0)), (Some(letter(0)), None));
        assert_eq!((outbox.settle(0), outbox.open()), (Some(letter(0)), 0));
    }

    #[test]
    fn a_new_connection_repeats_what_is_open_in_order() {
        let mut outbox = outbox(4);
        outbox.settle(1);
        outbox.defer(2);
        assert_eq!(outbox.retry_all(), [(0, letter(0)), (2, letter(2)), (3, letter(3))]);
        assert_eq!(outbox.settle(2), Some(letter(2)));
        outbox.defer(3);
        assert_eq!(outbox.give_up().collect::<Vec<_>>(), [(letter(0), false), (letter(3), true)]);
        assert_eq!((outbox.open(), outbox.post(letter(4))), (0, 4));
    }
}
