//! Works through the batches of all shards: all writes in one commit, then the reads, so that these see what was just written.
#![forbid(unsafe_code)]

use super::{Batch, Failure, Log, Outcome, Reply, Request, Write};

/// A log with what it takes to serve shards. Pure but for the log: the store's thread drives it, and the simulation.
#[derive(Debug)]
pub struct Service<L> {
    log: L,
    outcomes: Vec<Outcome>,
}

impl<L: Log> Service<L> {
    /// Around a log.
    pub fn new(log: L) -> Service<L> {
        Service { log, outcomes: Vec::new() }
    }

    /// The log itself.
    pub fn log(&mut self) -> &mut L {
        &mut self.log
    }

    /// Fills in the replies of all batches.
    pub fn serve<'a>(&mut self, wall_ms: u64, batches: impl Iterator<Item = &'a mut Batch>) {
        let mut batches: Vec<&mut Batch> = batches.collect();
        let failure = self.write(wall_ms, &batches);
        let mut outcomes = std::mem::take(&mut self.outcomes).into_iter();
        for batch in &mut batches {
            self.answer(batch, &failure, &mut outcomes);
        }
    }

    /// One commit for all writes.
    fn write(&mut self, wall_ms: u64, batches: &[&mut Batch]) -> Option<Failure> {
        let writes: Vec<Write<'_>> =
            batches.iter().flat_map(|batch| batch.requests.iter().filter_map(|request| write_of(batch, request))).collect();
        self.outcomes.clear();
        if writes.is_empty() {
            return None;
        }
        self.log.commit(wall_ms, &writes, &mut self.outcomes).err()
    }

    fn answer(&mut self, batch: &mut Batch, failure: &Option<Failure>, outcomes: &mut impl Iterator<Item = Outcome>) {
        let requests = std::mem::take(&mut batch.requests);
        let mut replies = std::mem::take(&mut batch.replies);
        for request in &requests {
            let is_write = write_of(batch, request).is_some();
            let reply = match failure {
                Some(failure) if is_write => Reply::Failed(failure.clone()),
                Some(_) | None => {
                    let outcome = if is_write { outcomes.next() } else { None };
                    self.reply(batch, request, outcome).unwrap_or_else(Reply::Failed)
                }
            };
            replies.push(reply);
        }
        batch.requests = requests;
        batch.replies = replies;
    }

    fn reply(&mut self, batch: &mut Batch, request: &Request, outcome: Option<Outcome>) -> Result<Reply, Failure> {
        Ok(match (request, outcome) {
            (Request::Append(_), Some(Outcome::Appended { seq, timestamp, duplicate })) => {
                Reply::Appended { seq, timestamp, duplicate, durability: self.log.durability() }
            }
            (Request::Append(_), Some(Outcome::IdReused)) => Reply::IdReused,
            (_, Some(Outcome::Unreadable)) => {
                Reply::Failed(Failure::Unavailable("what is stored of this channel cannot be read".to_owned()))
            }
            (Request::Open { channel, client, device, .. }, None) => Reply::Opened {
                bounds: self.log.bounds(batch.name(*channel))?,
                received: self.log.cursor(batch.received_key(*channel, *client, *device))?,
                read: self.log.cursor(batch.read_key(*channel, *client))?.unwrap_or(0),
            },
            (Request::Read { channel, from, limit, .. }, None) => {
                let mut pages = std::mem::take(&mut batch.pages);
                let start = pages.len();
                let read = self.log.read(batch.name(*channel), *from, *limit, &mut pages);
                batch.pages = pages;
                Reply::Page { bounds: read?, entries: batch.page_since(start) }
            }
            (Request::MarkRead { channel, client, .. }, Some(Outcome::Cursor { at, moved })) => {
                // After the commit, like every read: whoever is told of a cursor twice is not told of an older one last.
                let at = self.log.cursor(batch.read_key(*channel, *client))?.unwrap_or(at);
                Reply::Read { bounds: self.log.bounds(batch.name(*channel))?, at, moved }
            }
            (Request::Received { .. } | Request::Forget { .. }, Some(Outcome::Cursor { .. })) => Reply::Done,
            (request, outcome) => unreachable!("{request:?} came to {outcome:?}"),
        })
    }
}

fn write_of<'a>(batch: &'a Batch, request: &Request) -> Option<Write<'a>> {
    match request {
        Request::Append(append) => Some(Write::Append { channel: batch.name(append.channel), message: batch.message(append) }),
        Request::Received { channel, client, device, to, .. } => {
            Some(Write::Advance { key: batch.received_key(*channel, *client, *device), to: *to })
        }
        Request::Forget { channel, client, device } => {
            Some(Write::Forget { key: batch.received_key(*channel, *client, *device) })
        }
        Request::MarkRead { channel, client, to, .. } => Some(Write::Advance { key: batch.read_key(*channel, *client), to: *to }),
        Request::Open { .. } | Request::Read { .. } => None,
    }
}
