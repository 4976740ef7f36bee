//! What all threads of a run share, and what goes wrong in it.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    net::SocketAddr,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use weir::{client::ClientError, wire::Retry};

/// What is in a payload in front of its filler: the sender's number and the message's.
pub const HEAD_BYTES: usize = 10;
/// Findings of each kind that are told; more say nothing new.
const FINDINGS_MAX: usize = 5;
/// A thread looks so often whether the run is over.
const LOOK: Duration = Duration::from_millis(20);

/// How large a run is.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub senders: u16,
    /// Clients with a channel of their own, which are members of all groups.
    pub clients: usize,
    pub groups: usize,
    /// Messages that a sender has under way.
    pub depth: usize,
}

impl Plan {
    /// The channels, the clients' own first.
    pub fn channels(&self) -> Vec<String> {
        let own = (0..self.clients).map(|client| format!("user/{}", client_name(client)));
        own.chain((0..self.groups).map(|group| format!("group/{}", group_name(group)))).collect()
    }
}

pub fn client_name(client: usize) -> String {
    format!("client-{client}")
}

pub fn group_name(group: usize) -> String {
    format!("group-{group}")
}

pub fn sender_name(sender: u16) -> String {
    format!("sender-{sender}")
}

/// One message, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Message {
    pub sender: u16,
    pub id: u64,
    pub payload_crc: u32,
    pub timestamp: u64,
}

impl Message {
    /// Reads what arrived. `None` if no sender of this run can have sent it.
    pub fn of(from_client: &str, id: u64, payload: &[u8], timestamp: u64) -> Option<Message> {
        let sender = from_client.strip_prefix("sender-")?.parse().ok()?;
        let (head, _) = payload.split_at_checked(HEAD_BYTES)?;
        let named = (u16::from_be_bytes(head[..2].try_into().ok()?), u64::from_be_bytes(head[2..].try_into().ok()?));
        (named == (sender, id)).then(|| Message { sender, id, payload_crc: crc32c::crc32c(payload), timestamp })
    }
}

impl Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message {} of {} ({:08x} at {})", self.id, sender_name(self.sender), self.payload_crc, self.timestamp)
    }
}

/// What all threads share.
pub struct World {
    pub plan: Plan,
    pub channels: Vec<String>,
    /// Where the gateway is; `None` while there is none.
    address: Mutex<Option<SocketAddr>>,
    moved: Condvar,
    /// Senders make up new messages.
    sending: AtomicBool,
    /// The newest sequence of each channel, once no more come: devices that have these are done.
    newest: Mutex<Option<Vec<u64>>>,
    /// Nobody waits any longer.
    over: AtomicBool,
    /// By kind, with how many there were.
    findings: Mutex<BTreeMap<&'static str, (u64, Vec<String>)>>,
    pub accepted: AtomicU64,
    pub again: AtomicU64,
    pub delivered: AtomicU64,
    pub repeated: AtomicU64,
    pub sessions: AtomicU64,
}

impl World {
    pub fn new(plan: Plan) -> World {
        World {
            plan,
            channels: plan.channels(),
            address: Mutex::new(None),
            moved: Condvar::new(),
            sending: AtomicBool::new(true),
            newest: Mutex::new(None),
            over: AtomicBool::new(false),
            findings: Mutex::new(BTreeMap::new()),
            accepted: AtomicU64::new(0),
            again: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
        }
    }

    /// The gateway is there, or is not.
    pub fn move_to(&self, address: Option<SocketAddr>) {
        *self.address.lock().unwrap() = address;
        self.moved.notify_all();
    }

    /// Where the gateway is, as soon as it is somewhere. `None`: the run is over.
    pub fn gateway(&self) -> Option<SocketAddr> {
        let mut address = self.address.lock().unwrap();
        while !self.is_over() {
            if let Some(found) = *address {
                return Some(found);
            }
            address = self.moved.wait_timeout(address, LOOK).unwrap().0;
        }
        None
    }

    pub fn is_sending(&self) -> bool {
        self.sending.load(Ordering::Acquire)
    }

    pub fn stop_sending(&self) {
        self.sending.store(false, Ordering::Release);
    }

    /// The newest sequence of a channel, once no more come.
    pub fn newest(&self, channel: usize) -> Option<u64> {
        self.newest.lock().unwrap().as_ref().map(|newest| newest[channel])
    }

    pub fn settle(&self, newest: Vec<u64>) {
        *self.newest.lock().unwrap() = Some(newest);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    pub fn end(&self) {
        self.over.store(true, Ordering::Release);
        self.moved.notify_all();
    }

    /// The promise was broken.
    pub fn found(&self, kind: &'static str, finding: impl Display) {
        let mut findings = self.findings.lock().unwrap();
        let (count, told) = findings.entry(kind).or_default();
        *count += 1;
        if told.len() < FINDINGS_MAX {
            told.push(format!("{kind}: {finding}"));
        }
    }

    /// What went wrong, a line each.
    pub fn findings(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (kind, (count, told)) in self.findings.lock().unwrap().iter() {
            lines.extend(told.iter().cloned());
            let more = count - told.len() as u64;
            lines.extend((more > 0).then(|| format!("{kind}: {more} more")));
        }
        lines
    }

    /// A session ended. That is ordinary, unless the gateway said something that it may not say here.
    pub fn ended(&self, who: &str, error: &ClientError) {
        match error {
            ClientError::Malformed(_) | ClientError::Unexpected { .. } => self.found("garbled", format!("{who}: {error}")),
            // A killed gateway says nothing, and a busy machine is slow.
            ClientError::Refused(_) | ClientError::Closed { .. } if error.retry() == Retry::Later => {}
            ClientError::Refused(_) | ClientError::Closed { .. } => self.found("refused", format!("{who}: {error}")),
            ClientError::Connect { .. } | ClientError::Broken(_) | ClientError::Timeout { .. } => {}
        }
        self.sessions.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until something holds; gives up after a while.
pub fn await_true(within: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + within;
    while !holds() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}
