//! Works through the batches of all shards: all writes in one commit, and reads one by one, after them, so that these see what was just
//! written.
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

    /// Fills in the replies of all batches: of those that write first.
    pub fn serve<'a>(&mut self, wall_ms: u64, batches: impl Iterator<Item = &'a mut Batch>) {
        let (writes, reads): (Vec<&mut Batch>, Vec<&mut Batch>) = batches.partition(|batch| batch.is_write());
        self.write(wall_ms, writes.into_iter());
        for batch in reads {
            while self.read_next(batch) {}
        }
    }

    /// Fills in the replies of batches that write, after one commit for all.
    pub fn write<'a>(&mut self, wall_ms: u64, batches: impl Iterator<Item = &'a mut Batch>) {
        let mut batches: Vec<&mut Batch> = batches.collect();
        let writes: Vec<Write<'_>> =
            batches.iter().flat_map(|batch| batch.requests.iter().map(|request| write_of(batch, request))).collect();
        let mut outcomes = std::mem::take(&mut self.outcomes);
        outcomes.clear();
        let failure = if writes.is_empty() { None } else { self.log.commit(wall_ms, &writes, &mut outcomes).err() };
        drop(writes);
        let mut rest = outcomes.iter();
        for batch in &mut batches {
            let mut replies = std::mem::take(&mut batch.replies);
            replies.extend(batch.requests.iter().map(|request| match &failure {
                Some(failure) => Reply::Failed(failure.clone()),
                None => {
                    let outcome = rest.next().expect("the log says what each write came to");
                    self.written(batch, request, *outcome).unwrap_or_else(Reply::Failed)
                }
            }));
            batch.replies = replies;
        }
        self.outcomes = outcomes;
    }

    fn written(&mut self, batch: &Batch, request: &Request, outcome: Outcome) -> Result<Reply, Failure> {
        Ok(match (request, outcome) {
            (Request::Append(_), Outcome::Appended { seq, timestamp, duplicate }) => {
                Reply::Appended { seq, timestamp, duplicate, durability: self.log.durability() }
            }
            (Request::Append(_), Outcome::IdReused) => Reply::IdReused,
            (_, Outcome::Unreadable) => {
                Reply::Failed(Failure::Unavailable("what is stored of this channel cannot be read".to_owned()))
            }
            (_, Outcome::TooManyChannels) => Reply::Failed(Failure::TooManyChannels),
            (Request::MarkRead { channel, client, .. }, Outcome::Cursor { at, moved }) => {
                // After the commit, like every read: whoever is told of a cursor twice is not told of an older one last.
                let at = self.log.cursor(batch.read_key(*channel, *client))?.unwrap_or(at);
                Reply::Read { bounds: self.log.bounds(batch.name(*channel))?, at, moved }
            }
            (Request::Received { .. } | Request::Forget { .. }, Outcome::Cursor { .. }) => Reply::Done,
            (request, outcome) => unreachable!("{request:?} came to {outcome:?}"),
        })
    }

    /// Fills in the next reply of a batch that reads. Says whether there was one to fill in.
    pub fn read_next(&mut self, batch: &mut Batch) -> bool {
        let Some(request) = batch.requests.get(batch.replies.len()).copied() else { return false };
        let reply = self.look_up(batch, &request).unwrap_or_else(Reply::Failed);
        batch.replies.push(reply);
        true
    }

    fn look_up(&mut self, batch: &mut Batch, request: &Request) -> Result<Reply, Failure> {
        match request {
            Request::Open { channel, client, device, .. } => Ok(Reply::Opened {
                bounds: self.log.bounds(batch.name(*channel))?,
                received: self.log.cursor(batch.received_key(*channel, *client, *device))?,
                read: self.log.cursor(batch.read_key(*channel, *client))?.unwrap_or(0),
            }),
            Request::Read { channel, from, limit, .. } => {
                let mut pages = std::mem::take(&mut batch.pages);
                let start = pages.len();
                let read = self.log.read(batch.name(*channel), *from, *limit, &mut pages);
                batch.pages = pages;
                Ok(Reply::Page { bounds: read?, entries: batch.page_since(start) })
            }
            Request::Append(_) | Request::Received { .. } | Request::MarkRead { .. } | Request::Forget { .. } => {
                unreachable!("{request:?} in a batch of reads")
            }
        }
    }
}

fn write_of<'a>(batch: &'a Batch, request: &Request) -> Write<'a> {
    match request {
        Request::Append(append) => Write::Append { channel: batch.name(append.channel), message: batch.message(append) },
        Request::Received { channel, client, device, to, .. } => {
            Write::Advance { key: batch.received_key(*channel, *client, *device), to: *to }
        }
        Request::Forget { channel, client, device } => Write::Forget { key: batch.received_key(*channel, *client, *device) },
        Request::MarkRead { channel, client, to, .. } => Write::Advance { key: batch.read_key(*channel, *client), to: *to },
        Request::Open { .. } | Request::Read { .. } => unreachable!("{request:?} in a batch of writes"),
    }
}
