//! A bounded single-producer single-consumer ring.
//!
//! Both ends keep their own index and a cached copy of the other's, so that a push or a pop touches a shared cache line only
//! when the cached copy says full or empty. Pushed values become visible together, at [`Producer::publish`].
//!
//! Layout and index protocol: Lamport, "Specifying Concurrent Program Modules" (1983); cached indices: Lee et al., "MCRingBuffer" (2010).

#[cfg(loom)]
use loom::{
    cell::UnsafeCell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use std::mem::MaybeUninit;
#[cfg(not(loom))]
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// `std`'s cell behind loom's interface.
#[cfg(not(loom))]
struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    fn new(value: T) -> Self {
        UnsafeCell(std::cell::UnsafeCell::new(value))
    }

    fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// Keeps the two indices from sharing a cache line (128 bytes: two lines are prefetched together on x86).
#[repr(align(128))]
struct Padded<T>(T);

struct Shared<T> {
    /// Next position to be popped. Written by the consumer only.
    head: Padded<AtomicUsize>,
    /// Next position to be pushed, as far as it was published. Written by the producer only.
    tail: Padded<AtomicUsize>,
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
}

// SAFETY: a slot is accessed by the producer while it lies in [tail, head + capacity), by the consumer while it lies in
// [head, tail); the indices pass it between them with release and acquire. So `T` only ever moves between threads.
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: as above; the slots are owned by `Shared`.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T> Shared<T> {
    fn slot(&self, position: usize) -> &UnsafeCell<MaybeUninit<T>> {
        // The capacity is a power of two.
        &self.slots[position & (self.slots.len() - 1)]
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let head = self.head.0.load(Ordering::Relaxed);
        let tail = self.tail.0.load(Ordering::Relaxed);
        let mut position = head;
        while position != tail {
            // SAFETY: both ends are gone, and positions in [head, tail) hold values that were never popped.
            self.slot(position).with_mut(|slot| unsafe { (*slot).assume_init_drop() });
            position = position.wrapping_add(1);
        }
    }
}

/// The end that pushes. Not `Clone`: one producer.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    /// Our position; ahead of the published tail by what was pushed since.
    tail: usize,
    cached_head: usize,
}

/// The end that pops. Not `Clone`: one consumer.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    head: usize,
    cached_tail: usize,
}

/// A ring for `capacity` values, rounded up to a power of two.
pub fn ring<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    ring_from(0, capacity)
}

/// A ring whose first position is `start`; positions wrap around, so each is as good as 0.
pub(super) fn ring_from<T: Send>(start: usize, capacity: usize) -> (Producer<T>, Consumer<T>) {
    let capacity = capacity.next_power_of_two();
    let slots = (0..capacity).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect();
    let shared = Arc::new(Shared { head: Padded(AtomicUsize::new(start)), tail: Padded(AtomicUsize::new(start)), slots });
    let producer = Producer { shared: Arc::clone(&shared), tail: start, cached_head: start };
    (producer, Consumer { shared, head: start, cached_tail: start })
}

impl<T> Producer<T> {
    /// Puts a value at the end, visible to the consumer after the next [`Producer::publish`].
    ///
    /// # Errors
    /// The value itself when the ring is full.
    pub fn push(&mut self, value: T) -> Result<(), T> {
        let capacity = self.shared.slots.len();
        if self.tail.wrapping_sub(self.cached_head) == capacity {
            self.cached_head = self.shared.head.0.load(Ordering::Acquire);
            if self.tail.wrapping_sub(self.cached_head) == capacity {
                return Err(value);
            }
        }
        // SAFETY: the position lies in [tail, head + capacity): the consumer has left it (acquire above) and does not read it
        // before the tail passes it.
        self.shared.slot(self.tail).with_mut(|slot| unsafe { (*slot).write(value) });
        self.tail = self.tail.wrapping_add(1);
        Ok(())
    }

    /// Makes all pushed values visible.
    pub fn publish(&mut self) {
        self.shared.tail.0.store(self.tail, Ordering::Release);
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        // What was pushed and not published is still owned by the ring: publish it, so that it is dropped with the rest.
        self.publish();
    }
}

impl<T> Consumer<T> {
    /// The oldest published value, if there is one.
    pub fn pop(&mut self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        // SAFETY: the position lies in [head, tail): the producer has written it (acquire in `is_empty`) and does not touch it
        // before the head passes it.
        let value = self.shared.slot(self.head).with_mut(|slot| unsafe { (*slot).assume_init_read() });
        self.head = self.head.wrapping_add(1);
        self.shared.head.0.store(self.head, Ordering::Release);
        Some(value)
    }

    /// Whether nothing is published that was not popped.
    pub fn is_empty(&mut self) -> bool {
        if self.head == self.cached_tail {
            self.cached_tail = self.shared.tail.0.load(Ordering::Acquire);
        }
        self.head == self.cached_tail
    }
}
