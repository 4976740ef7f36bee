//! TCP as both ends see it: bytes in order, small buffers, an end of each direction, resets. And the rings between shards.
#![forbid(unsafe_code)]

use std::{collections::VecDeque, net::IpAddr};

use weir::shard::{Control, Message};

use crate::rng::Rng;

/// Takes the first bytes of a stream.
pub fn take(stream: &mut VecDeque<u8>, length: usize) -> Vec<u8> {
    let (front, back) = stream.as_slices();
    let mut bytes = front[..length.min(front.len())].to_vec();
    bytes.extend_from_slice(&back[..length - bytes.len()]);
    stream.drain(..length);
    bytes
}

/// One TCP connection; index `n` belongs to peer `n`.
pub struct Link {
    pub address: IpAddr,
    /// The shard whose reactor has it; `None` before it was accepted, and on its way between two.
    pub holder: Option<usize>,
    /// From the peer.
    pub up: VecDeque<u8>,
    pub up_ended: bool,
    pub reset: bool,
    /// From the gateway.
    pub down: VecDeque<u8>,
    pub down_ended: bool,
    /// When the gateway ended its direction.
    pub finished_at: Option<u64>,
    pub capacity: usize,
    pub closed_at: Option<u64>,
    /// The gateway closed with bytes unsent or unread, so that the peer may miss the end of the stream.
    pub aborted: bool,
}

impl Link {
    pub fn new(address: IpAddr, capacity: usize) -> Link {
        Link {
            address,
            holder: None,
            up: VecDeque::new(),
            up_ended: false,
            reset: false,
            down: VecDeque::new(),
            down_ended: false,
            finished_at: None,
            capacity,
            closed_at: None,
            aborted: false,
        }
    }

    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.down.len())
    }

    /// The peer writes.
    pub fn write(&mut self, bytes: Vec<u8>) {
        if self.closed_at.is_none() {
            self.up.extend(bytes);
        }
    }

    /// The peer tears the connection down; what was on its way is lost.
    pub fn tear(&mut self) {
        self.reset = true;
        self.up.clear();
        self.down.clear();
    }

    /// The gateway closes its descriptor.
    pub fn close(&mut self, now: u64, gave_up: bool, rng: &mut Rng) {
        self.closed_at = Some(now);
        if gave_up || !self.up.is_empty() {
            self.aborted = true;
            // A close with unread bytes is a reset, which may overtake what the peer has not read.
            if rng.chance(50) {
                self.down.clear();
            }
        }
        self.up.clear();
        self.down_ended = true;
    }
}

/// What lies in the rings.
pub enum Envelope {
    Message(Message),
    Adopt { link: usize, message: Message },
}

/// What the reactors of a process share. Ports: the shards, behind them the store, behind that the control thread.
pub struct Mesh {
    /// By sender, then receiver; nobody sends to the control thread.
    pub rings: Vec<Vec<VecDeque<Envelope>>>,
    pub capacity: usize,
    /// Connections that each reactor has room for.
    pub rooms: Vec<usize>,
}

impl Mesh {
    pub fn new(shards: usize, capacity: usize, slots: usize) -> Mesh {
        let rings = (0..shards + 2).map(|_| (0..=shards).map(|_| VecDeque::new()).collect()).collect();
        Mesh { rings, capacity, rooms: vec![slots; shards] }
    }

    /// The store's port.
    pub fn store(&self) -> usize {
        self.rooms.len()
    }

    /// The control thread tells all shards something.
    pub fn control(&mut self, control: Control) {
        let me = self.rooms.len() + 1;
        for ring in &mut self.rings[me][..me - 1] {
            ring.push_back(Envelope::Message(Message::Control(control)));
        }
    }

    /// A batch is lost, if one is there and can be.
    pub fn lose(&mut self, from: usize, to: usize) {
        let is_batch = |envelope: &Envelope| matches!(envelope, Envelope::Message(Message::Batch(_)));
        if self.rings[from][to].front().is_some_and(is_batch) {
            self.rings[from][to].pop_front();
        }
    }

    /// Whether something lies in a ring to this port.
    pub fn waits_for(&self, port: usize) -> bool {
        self.rings.iter().any(|from| !from[port].is_empty())
    }
}
