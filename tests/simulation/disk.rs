//! The log on a disk that can be full, be gone for a while, or be torn in the middle of a commit. It keeps the ledger as it goes.
#![forbid(unsafe_code)]

use weir::{
    store::{Bounds, CursorKey, CursorKind, Failure, Log, Memory, Outcome, PageLimit, Retention, Write},
    wire::body::Durability,
};

use crate::durable::{
    faults::Fault,
    ledger::{Kept, Key, Ledger},
};

/// What becomes of the next commits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    #[default]
    Good,
    /// The process ends in the middle of it: so many of the writes happen, and no reply ever leaves.
    Torn { writes: usize },
    /// It says that it failed, and so many of the writes happened all the same.
    Fails { failure: Failure, writes: usize },
}

/// What outlives the process.
#[derive(Clone, Debug)]
pub struct Disk {
    log: Memory,
    pub ledger: Ledger,
    pub fate: Fate,
    /// Reads fail too.
    pub unreadable: bool,
    pub fault: Option<Fault>,
    restarts: u64,
}

impl Disk {
    pub fn new(retention: Retention, fault: Option<Fault>) -> Disk {
        let dedup_messages = if fault == Some(Fault::ForgetsRetries) { 1 } else { retention.dedup_messages };
        let log = Memory::new(Retention { dedup_messages, ..retention });
        Disk { log, ledger: Ledger::default(), fate: Fate::Good, unreadable: false, fault, restarts: 0 }
    }

    /// Looks past all faults.
    pub fn bounds_now(&mut self, channel: &str) -> Bounds {
        self.log.bounds(channel).expect("memory is always there")
    }

    pub fn cursor_now(&mut self, key: CursorKey<'_>) -> Option<u64> {
        self.log.cursor(key).expect("memory is always there")
    }

    pub fn read_now(&mut self, channel: &str, from: u64, page: &mut Vec<u8>) {
        self.log.read(channel, from, PageLimit { messages: u32::MAX, bytes: u32::MAX }, page).expect("memory is always there");
    }

    /// What a restart does to it, if a bug was put in.
    pub fn restart(&mut self) {
        self.restarts += 1;
        if self.fault == Some(Fault::ForgetsCursors) {
            let mut outcomes = Vec::new();
            for (channel, client, device) in self.ledger.devices() {
                let key = CursorKey { channel: &channel, client: &client, kind: CursorKind::Received { device: &device } };
                self.log.commit(0, &[Write::Forget { key }], &mut outcomes).expect("memory is always there");
            }
        }
    }

    /// The write as a bug carries it out.
    fn twisted<'a>(&self, write: Write<'a>) -> Write<'a> {
        match (self.fault, write) {
            (Some(Fault::SavesTooMuch), Write::Advance { key, to }) => Write::Advance { key, to: to + 1 },
            (_, write) => write,
        }
    }

    fn check(&self) -> Result<(), Failure> {
        if self.unreadable { Err(Failure::Unavailable("the disk is gone".to_owned())) } else { Ok(()) }
    }

    /// Enters what the log says that it did.
    fn enter(&mut self, write: &Write<'_>, outcome: &Outcome) {
        match (write, outcome) {
            (Write::Append { channel, message }, outcome) => {
                let key = Key {
                    client: message.from_client.to_owned(),
                    device: message.from_device.to_owned(),
                    number: message.client_msg_id,
                };
                match *outcome {
                    Outcome::Appended { seq, timestamp, duplicate: false } => {
                        let kept = Kept { key, timestamp, payload: message.payload.to_vec() };
                        self.ledger.appended(channel, seq, kept);
                    }
                    Outcome::Appended { seq, timestamp, duplicate: true } => {
                        self.ledger.repeated(channel, seq, timestamp, &key);
                    }
                    Outcome::IdReused => self.ledger.reused(channel, &key, message.payload),
                    Outcome::Cursor { .. } | Outcome::Unreadable | Outcome::TooManyChannels => {
                        panic!("an append came to {outcome:?}")
                    }
                }
            }
            (Write::Advance { key, to }, Outcome::Cursor { at, .. }) => self.ledger.advanced(owned(key), *to, *at),
            (Write::Forget { key }, Outcome::Cursor { .. }) => self.ledger.forgotten(&owned(key)),
            (write, outcome) => panic!("{write:?} came to {outcome:?}"),
        }
    }
}

fn owned(key: &CursorKey<'_>) -> (String, String, Option<String>) {
    let device = match key.kind {
        CursorKind::Received { device } => Some(device.to_owned()),
        CursorKind::Read => None,
    };
    (key.channel.to_owned(), key.client.to_owned(), device)
}

impl Log for Disk {
    fn commit(&mut self, wall_ms: u64, writes: &[Write<'_>], outcomes: &mut Vec<Outcome>) -> Result<(), Failure> {
        let happen = match &self.fate {
            Fate::Good => writes.len(),
            Fate::Torn { writes: some } | Fate::Fails { writes: some, .. } => writes.len().min(*some),
        };
        let first = outcomes.len();
        let writes: Vec<Write<'_>> = writes[..happen].iter().map(|write| self.twisted(*write)).collect();
        self.log.commit(wall_ms, &writes, outcomes)?;
        for (write, outcome) in writes.iter().zip(&mut outcomes[first..]) {
            if let Outcome::Appended { timestamp, duplicate: false, .. } = outcome
                && self.fault == Some(Fault::RepeatsTimestamps)
            {
                *timestamp -= self.restarts << 32;
            }
            self.enter(write, outcome);
        }
        match &self.fate {
            Fate::Good => Ok(()),
            Fate::Torn { .. } => Err(Failure::Unavailable("nobody will ever read this".to_owned())),
            Fate::Fails { failure, .. } => Err(failure.clone()),
        }
    }

    fn is_ready(&mut self) -> bool {
        !matches!(self.fate, Fate::Fails { failure: Failure::Behind, .. })
    }

    fn read(&mut self, channel: &str, from: u64, limit: PageLimit, page: &mut Vec<u8>) -> Result<Bounds, Failure> {
        self.check()?;
        let last = self.log.bounds(channel)?.last;
        if self.fault == Some(Fault::HidesMessage) && from < last && last % 4 == 0 {
            // Up to the newest but one, then the newest.
            let messages = u32::try_from(last - 1 - from).unwrap_or(u32::MAX).min(limit.messages);
            let bounds = self.log.read(channel, from, PageLimit { messages, ..limit }, page)?;
            if messages < limit.messages {
                self.log.read(channel, last, PageLimit { messages: 1, ..limit }, page)?;
            }
            return Ok(bounds);
        }
        self.log.read(channel, from, limit, page)
    }

    fn bounds(&mut self, channel: &str) -> Result<Bounds, Failure> {
        self.check()?;
        self.log.bounds(channel)
    }

    fn cursor(&mut self, key: CursorKey<'_>) -> Result<Option<u64>, Failure> {
        self.check()?;
        self.log.cursor(key)
    }

    fn expire(&mut self, wall_ms: u64) -> Result<bool, Failure> {
        self.check()?;
        self.log.expire(wall_ms)
    }

    fn durability(&self) -> Durability {
        Durability::Fsync
    }
}
