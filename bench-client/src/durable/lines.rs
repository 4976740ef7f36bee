//! Where each receiver stands in each of its channels: one sequence after another, and nothing twice.
#![forbid(unsafe_code)]

use std::{collections::HashMap, ops::Range};

use weir::wire::body::Cursors;

/// One channel at one receiver. There is one for everybody who takes part, so it is small.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Line {
    /// The sequence after the highest that came on any connection, or was said to be gone; 0 before the first CURSORS.
    pub(crate) next: u64,
    /// The sequence that this connection must bring next; 0 before its CURSORS.
    pub(crate) here: u64,
    /// The last RECEIVED that was sent.
    pub(crate) acked: u64,
    /// The last READ that was sent.
    pub(crate) read: u64,
    /// The newest message when the first CURSORS came: what is not above it is of an earlier run.
    base: u64,
    /// The timestamp of the message before `next`.
    timestamp: u64,
    /// Messages since the last RECEIVED.
    pub(crate) unacked: u32,
    /// A RECEIVED is planned.
    pub(crate) is_ack_planned: bool,
    /// Its last connection ended after all that it had to say, so that the next cursors must be exact.
    is_orderly: bool,
}

// One for each client that takes part.
const _: () = assert!(size_of::<Line>() <= 56);

/// What a sequence means for its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It came for the first time, and none after it had come.
    Next,
    /// It came on an earlier connection, and was not acknowledged there: allowed.
    Repeat,
    /// It came for the first time, but later ones had come before.
    Late,
    /// It came on this connection before, or had been acknowledged.
    Duplicate,
}

/// What became of a message's sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) verdict: Verdict,
    /// Sequences that were skipped, and never came before.
    pub(crate) skipped: u64,
    /// It came before CURSORS had told where this connection begins.
    pub(crate) is_early: bool,
    /// Its timestamp is not above that of the message before it.
    pub(crate) is_back_in_time: bool,
}

/// How often a line was not as it should be, beside what is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LineFaults {
    /// Came again though it came on this connection, or had been acknowledged.
    pub(crate) duplicated: u64,
    /// Came after a later one, or before CURSORS.
    pub(crate) reordered: u64,
}

/// All lines of a worker.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    lines: Vec<Line>,
    /// What never came below `next`, for the few lines where anything is missing.
    holes: HashMap<u32, Vec<Range<u64>>>,
    /// Messages of this run that the gateway said retention removed, for the few lines where it did.
    gone: HashMap<u32, u64>,
    /// For the few lines that had any.
    faults: HashMap<u32, LineFaults>,
    /// No message was sent since the last phase of the run.
    is_unchanged: bool,
}

impl Lines {
    pub(crate) fn new(lines: usize) -> Lines {
        Lines { lines: vec![Line::default(); lines], ..Lines::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    pub(crate) fn line(&self, line: u32) -> &Line {
        &self.lines[line as usize]
    }

    pub(crate) fn line_mut(&mut self, line: u32) -> &mut Line {
        &mut self.lines[line as usize]
    }

    /// The connection ended: CURSORS will tell where the next one begins.
    pub(crate) fn close(&mut self, line: u32) {
        let line = &mut self.lines[line as usize];
        (line.here, line.unacked) = (0, 0);
    }

    /// All connections ended in good order, and the next phase of the run begins. Whether nothing was sent in between.
    pub(crate) fn resume(&mut self, is_unchanged: bool) {
        self.is_unchanged = is_unchanged;
        for line in &mut self.lines {
            *line = Line { here: 0, unacked: 0, is_ack_planned: false, is_orderly: line.next > 0, ..*line };
        }
    }

    /// Takes CURSORS: the first of a connection say where it begins. Returns whether they agree with what is known here: exactly, if the
    /// last connection ended in good order; else the gateway need not know of the last RECEIVED.
    pub(crate) fn place(&mut self, line: u32, cursors: &Cursors) -> bool {
        let line = &mut self.lines[line as usize];
        let adds_up = cursors.first <= cursors.last.saturating_add(1)
            && cursors.received <= cursors.last
            && cursors.read <= cursors.last
            && cursors.unread == cursors.last - cursors.read;
        let is_first_here = line.here == 0;
        if is_first_here {
            line.here = cursors.received + 1;
        }
        if line.next == 0 {
            *line = Line { next: line.here, acked: cursors.received, read: cursors.read, base: cursors.last, ..*line };
            return adds_up;
        }
        let is_known = if std::mem::take(&mut line.is_orderly) {
            let is_last = !self.is_unchanged || cursors.last + 1 == line.next;
            is_last && cursors.received == line.acked && cursors.read == line.read
        } else {
            cursors.received <= line.acked && cursors.read <= line.read
        };
        adds_up && is_known && cursors.last + 1 >= line.next
    }

    /// Takes the sequence of a message that came.
    pub(crate) fn take(&mut self, line: u32, seq: u64, timestamp: u64) -> Taken {
        let taken = self.judge(line, seq, timestamp);
        let (is_again, is_late) = (taken.verdict == Verdict::Duplicate, taken.verdict == Verdict::Late || taken.is_early);
        if is_again || is_late {
            let faults = self.faults.entry(line).or_default();
            faults.duplicated += u64::from(is_again);
            faults.reordered += u64::from(is_late);
        }
        taken
    }

    fn judge(&mut self, line: u32, seq: u64, timestamp: u64) -> Taken {
        let at = line;
        let line = &mut self.lines[line as usize];
        let is_early = line.here == 0;
        if is_early {
            line.here = seq;
            line.next = if line.next == 0 { seq } else { line.next };
        }
        let mut taken = Taken { verdict: Verdict::Next, skipped: 0, is_early, is_back_in_time: false };
        let is_again = seq < line.here;
        line.here = line.here.max(seq + 1);
        if seq < line.next {
            taken.verdict = match (self.fill(at, seq), is_again) {
                (true, _) => Verdict::Late,
                (false, true) => Verdict::Duplicate,
                (false, false) => Verdict::Repeat,
            };
            return taken;
        }
        if seq > line.next {
            taken.skipped = seq - line.next;
            self.holes.entry(at).or_default().push(line.next..seq);
        }
        taken.is_back_in_time = timestamp <= line.timestamp;
        (line.next, line.timestamp) = (seq + 1, timestamp);
        taken
    }

    /// Whether a sequence was missing, which it is no longer.
    fn fill(&mut self, line: u32, seq: u64) -> bool {
        let Some(holes) = self.holes.get_mut(&line) else { return false };
        let Some(at) = holes.iter().position(|hole| hole.contains(&seq)) else { return false };
        let hole = holes.swap_remove(at);
        let halves = [hole.start..seq, seq + 1..hole.end];
        holes.extend(halves.into_iter().filter(|half| !half.is_empty()));
        true
    }

    /// Takes a GAP: these sequences will not come. What it says is lost counts as missing; what retention removed does not.
    pub(crate) fn gap(&mut self, line: u32, from: u64, to: u64, is_lost: bool) {
        let at = line;
        let line = &mut self.lines[line as usize];
        if to < from || to == u64::MAX {
            return;
        }
        line.here = line.here.max(to + 1);
        if to < line.next {
            return;
        }
        let due = line.next;
        line.next = to + 1;
        let begin = from.max(due);
        let holes = if is_lost { due..to + 1 } else { due..begin };
        if !holes.is_empty() {
            self.holes.entry(at).or_default().push(holes);
        }
        let ours = (to + 1).saturating_sub(begin.max(line.base + 1));
        if !is_lost && ours > 0 {
            *self.gone.entry(at).or_default() += ours;
        }
    }

    /// How many messages of a line never came, and were not said to be gone, of those up to `last`.
    pub(crate) fn missing(&self, line: u32, last: u64) -> u64 {
        let inside: u64 = self.holes.get(&line).into_iter().flatten().map(|hole| hole.end - hole.start).sum();
        inside + (last + 1).saturating_sub(self.lines[line as usize].next)
    }

    /// What else was wrong with a line.
    pub(crate) fn faults(&self, line: u32) -> LineFaults {
        self.faults.get(&line).copied().unwrap_or_default()
    }

    /// How many messages of this run retention removed.
    pub(crate) fn gone(&self, line: u32) -> u64 {
        self.gone.get(&line).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursors(received: u64, last: u64) -> Cursors {
        Cursors { channel: String::new(), first: 1, last, received, read: 0, unread: last }
    }

    /// A line whose channel had 10 messages, all of them received, before this run.
    fn lines() -> Lines {
        let mut lines = Lines::new(1);
        assert!(lines.place(0, &cursors(10, 10)));
        lines
    }

    fn feed(lines: &mut Lines, seqs: &[u64]) -> Vec<Verdict> {
        seqs.iter().map(|&seq| lines.take(0, seq, seq).verdict).collect()
    }

    /// The connection ends, and the gateway goes on above `received`.
    fn again(lines: &mut Lines, received: u64) {
        lines.close(0);
        assert!(lines.place(0, &cursors(received, 99)));
    }

    use Verdict::{Duplicate, Late, Next, Repeat};

    #[test]
    fn one_after_another_is_as_it_should_be() {
        let mut lines = lines();
        assert_eq!(feed(&mut lines, &[11, 12, 13]), [Next, Next, Next]);
        assert_eq!((lines.missing(0, 13), lines.missing(0, 15)), (0, 2));
    }

    #[test]
    fn what_is_skipped_is_missing_until_it_comes() {
        let mut lines = lines();
        assert_eq!(feed(&mut lines, &[11]), [Next]);
        let taken = lines.take(0, 15, 15);
        assert_eq!((taken.verdict, taken.skipped, lines.missing(0, 15)), (Next, 3, 3));
        assert_eq!(feed(&mut lines, &[13, 13, 15, 12]), [Late, Duplicate, Duplicate, Late]);
        assert_eq!(lines.faults(0), LineFaults { duplicated: 2, reordered: 2 });
        assert_eq!(lines.missing(0, 15), 1);
    }

    #[test]
    fn a_new_connection_may_repeat_what_was_not_acknowledged() {
        let mut lines = lines();
        feed(&mut lines, &[11, 12, 13]);
        lines.line_mut(0).acked = 11;
        again(&mut lines, 11);
        assert_eq!(feed(&mut lines, &[12, 13, 13, 14]), [Repeat, Repeat, Duplicate, Next]);
        // Nor may it go back behind its own beginning.
        assert_eq!(feed(&mut lines, &[11]), [Duplicate]);
        assert_eq!(lines.missing(0, 14), 0);
    }

    #[test]
    fn a_replay_closes_the_hole_that_an_earlier_connection_left() {
        let mut lines = lines();
        feed(&mut lines, &[11, 13]);
        again(&mut lines, 10);
        assert_eq!(feed(&mut lines, &[11, 12, 13, 14]), [Repeat, Late, Repeat, Next]);
        assert_eq!(lines.missing(0, 14), 0);
    }

    #[test]
    fn a_replay_that_begins_too_late_leaves_a_hole() {
        let mut lines = lines();
        feed(&mut lines, &[11, 12]);
        lines.line_mut(0).acked = 12;
        again(&mut lines, 12);
        assert_eq!(lines.take(0, 15, 15).skipped, 2);
        assert_eq!(lines.missing(0, 15), 2);
        lines.close(0);
        assert!(!lines.place(0, &cursors(17, 20)), "nobody acknowledged that");
        assert_eq!(lines.take(0, 18, 18).skipped, 2);
        assert_eq!(lines.missing(0, 18), 4);
    }

    #[test]
    fn cursors_must_agree_with_what_was_acknowledged() {
        let placed = |cursors: &Cursors, is_orderly: bool| {
            let mut lines = lines();
            feed(&mut lines, &[11, 12, 13]);
            lines.line_mut(0).acked = 13;
            if is_orderly {
                lines.resume(false)
            } else {
                lines.close(0)
            }
            lines.place(0, cursors)
        };
        assert!(placed(&cursors(13, 13), true));
        assert!(placed(&cursors(13, 20), true));
        assert!(placed(&cursors(12, 13), false), "the last RECEIVED may have been lost with the connection");
        assert!(!placed(&cursors(12, 13), true), "but not if it ended in good order");
        assert!(!placed(&cursors(14, 14), false), "nobody said so");
        assert!(!placed(&cursors(12, 12), false), "a message that came is not known any more");
        assert!(!placed(&Cursors { unread: 3, ..cursors(13, 13) }, true));
        assert!(!placed(&Cursors { read: 2, unread: 11, ..cursors(13, 13) }, true), "nothing was read");
        assert!(!placed(&Cursors { first: 15, ..cursors(13, 13) }, true));
        let unchanged = |last| {
            let mut lines = lines();
            lines.resume(true);
            lines.place(0, &Cursors { unread: last, ..cursors(10, last) })
        };
        assert!(unchanged(10) && !unchanged(11), "nothing was sent");
    }

    #[test]
    fn cursors_in_the_middle_of_a_connection_move_nothing() {
        let mut lines = lines();
        feed(&mut lines, &[11, 12]);
        lines.line_mut(0).acked = 11;
        assert!(lines.place(0, &cursors(11, 12)));
        assert_eq!(feed(&mut lines, &[13, 12]), [Next, Duplicate]);
    }

    #[test]
    fn what_retention_removed_is_gone_and_what_was_lost_is_missing() {
        let mut lines = lines();
        feed(&mut lines, &[11]);
        lines.gap(0, 12, 14, false);
        assert_eq!((lines.missing(0, 14), lines.gone(0)), (0, 3));
        lines.gap(0, 15, 16, true);
        assert_eq!((lines.missing(0, 16), lines.gone(0)), (2, 3));
        // 17 is neither announced nor delivered.
        lines.gap(0, 18, 18, false);
        assert_eq!((lines.missing(0, 18), lines.gone(0)), (3, 4));
        assert_eq!(feed(&mut lines, &[19, 13]), [Next, Duplicate]);
        lines.gap(0, 5, 3, false);
        lines.gap(0, 3, 5, false);
        assert_eq!((lines.missing(0, 19), lines.gone(0)), (3, 4));
    }

    #[test]
    fn what_was_gone_before_this_run_is_none_of_it() {
        let mut lines = Lines::new(1);
        assert!(lines.place(0, &cursors(4, 10)));
        lines.gap(0, 5, 12, false);
        assert_eq!(lines.gone(0), 2);
    }

    #[test]
    fn a_message_before_cursors_and_one_back_in_time_are_told() {
        let mut lines = Lines::new(1);
        assert!(lines.take(0, 7, 50).is_early);
        assert!(!lines.take(0, 8, 51).is_early);
        assert!(lines.take(0, 9, 51).is_back_in_time);
    }
}
