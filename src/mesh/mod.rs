//! How ports (shards, and the control thread) pass messages: a ring for each ordered pair, a bell for each port.
#![deny(unsafe_code)]

mod bell;
#[allow(unsafe_code, reason = "a fenced place: the ring's slots")]
mod ring;
#[cfg(all(test, not(loom)))]
mod tests;

pub use bell::{Bell, SleepFlag};
pub use ring::{Consumer, Producer, ring};

use std::sync::Arc;

use crate::ids::ShardId;

/// What a port's peers need to wake it.
#[derive(Debug)]
struct Seat {
    flag: SleepFlag,
    bell: Bell,
}

/// One participant's ends of all rings.
pub struct Port<T> {
    id: ShardId,
    outgoing: Vec<Producer<T>>,
    incoming: Vec<Consumer<T>>,
    seats: Arc<[Seat]>,
    /// Ports that were posted to since the last `publish`.
    touched: Vec<bool>,
    /// Where `receive` starts, so that no peer is always last.
    first: usize,
}

/// `ports` ports, each connected to all (itself too) by rings of `capacity` messages.
///
/// # Errors
/// The process is out of descriptors: each port needs one.
pub fn mesh<T: Send>(ports: u16, capacity: usize) -> nix::Result<Vec<Port<T>>> {
    let count = usize::from(ports);
    let seats =
        (0..count).map(|_| Ok(Seat { flag: SleepFlag::default(), bell: Bell::new()? })).collect::<nix::Result<Arc<[_]>>>()?;
    let mut incoming: Vec<Vec<Consumer<T>>> = (0..count).map(|_| Vec::with_capacity(count)).collect();
    let mut outgoing: Vec<Vec<Producer<T>>> = Vec::with_capacity(count);
    for _ in 0..count {
        let ends = incoming.iter_mut().map(|to| {
            let (producer, consumer) = ring(capacity);
            to.push(consumer);
            producer
        });
        outgoing.push(ends.collect());
    }
    let ends = outgoing.into_iter().zip(incoming);
    let port = |(id, (outgoing, incoming))| Port {
        id: ShardId(id),
        outgoing,
        incoming,
        seats: Arc::clone(&seats),
        touched: vec![false; count],
        first: 0,
    };
    Ok((0..ports).zip(ends).map(port).collect())
}

impl<T> Port<T> {
    /// This port's own number.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// How many ports the mesh has.
    pub fn count(&self) -> usize {
        self.seats.len()
    }

    /// Puts a message into the ring to `to`, which sees it after [`Port::publish`].
    ///
    /// # Errors
    /// The message itself when that ring is full.
    pub fn post(&mut self, to: ShardId, message: T) -> Result<(), T> {
        self.outgoing[to.index()].push(message)?;
        self.touched[to.index()] = true;
        Ok(())
    }

    /// Makes what was posted visible, and wakes those of its receivers that sleep. Returns how many it woke.
    pub fn publish(&mut self) -> usize {
        let mut woken = 0;
        for (to, touched) in self.touched.iter_mut().enumerate() {
            if std::mem::take(touched) {
                self.outgoing[to].publish();
                let seat = &self.seats[to];
                if seat.flag.must_ring() {
                    seat.bell.ring();
                    woken += 1;
                }
            }
        }
        woken
    }

    /// Takes at most `budget` messages of each peer. Returns whether it took any.
    pub fn receive(&mut self, budget: usize, mut take: impl FnMut(ShardId, T)) -> bool {
        let count = self.incoming.len();
        let mut any = false;
        for from in (0..count).map(|offset| (self.first + offset) % count) {
            for _ in 0..budget {
                let Some(message) = self.incoming[from].pop() else { break };
                take(ShardId(from as u16), message);
                any = true;
            }
        }
        self.first = (self.first + 1) % count;
        any
    }

    /// Declares this port asleep, unless messages wait. When it returns true, the caller may wait on [`Port::bell`], and must
    /// call [`Port::wake`] afterwards.
    pub fn sleep(&mut self) -> bool {
        self.seats[self.id.index()].flag.raise();
        let empty = self.incoming.iter_mut().all(Consumer::is_empty);
        if !empty {
            self.wake();
        }
        empty
    }

    /// Declares this port awake.
    pub fn wake(&mut self) {
        self.seats[self.id.index()].flag.lower();
    }

    /// Readable when a peer woke this port.
    pub fn bell(&self) -> &Bell {
        &self.seats[self.id.index()].bell
    }
}
