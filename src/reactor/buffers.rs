//! The receive buffers that all connections of one io_uring reactor share.
//!
//! The kernel takes a buffer from the provided-buffer ring when bytes are there, not when a receive is armed; so idle
//! connections cost none. A buffer whose bytes the machine does not take yet stays out of the ring, in its connection's
//! queue: a circular list through `next`, known by its last member, so that a connection needs two bytes for it.

use std::{
    io,
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::types::BufRingEntry;

/// No buffer: an empty queue. The kernel allows 2^15 buffers, so that this is never one's number.
pub(super) const NO_BUFFER: u16 = u16::MAX;
/// The most buffers that one ring can hold.
const BUFFERS_MAX: u16 = 1 << 15;
const PAGE_BYTES: usize = 4096;

/// The buffers and the ring through which the kernel gets them. The memory must outlive the io_uring it is registered with.
pub(super) struct Buffers {
    memory: Mapping,
    /// How many there are, a power of two.
    count: u16,
    /// The size of each.
    bytes: u32,
    /// Where the next one is put into the ring; counts on and wraps.
    tail: u16,
    /// How many the kernel does not have.
    taken: u16,
    /// How many bytes a taken buffer holds.
    lengths: Box<[u32]>,
    /// A queue's links.
    next: Box<[u16]>,
}

impl Buffers {
    /// At least `count` buffers of `bytes` bytes, all of them in the ring.
    ///
    /// # Errors
    /// The process may not map that much memory.
    pub(super) fn new(count: u16, bytes: u32) -> io::Result<Buffers> {
        let count = count.clamp(1, BUFFERS_MAX).next_power_of_two();
        let bytes = bytes.max(1);
        let ring_bytes = Self::ring_bytes(count);
        let memory = Mapping::new(ring_bytes + usize::from(count) * bytes as usize)?;
        let lengths = vec![0; count.into()].into_boxed_slice();
        let next = vec![NO_BUFFER; count.into()].into_boxed_slice();
        let mut buffers = Buffers { memory, count, bytes, tail: 0, taken: count, lengths, next };
        (0..count).for_each(|id| buffers.give_back(id));
        Ok(buffers)
    }

    /// The ring takes whole pages, so that the first buffer is aligned.
    fn ring_bytes(count: u16) -> usize {
        (usize::from(count) * size_of::<BufRingEntry>()).next_multiple_of(PAGE_BYTES)
    }

    /// The address to register.
    pub(super) fn ring_address(&self) -> u64 {
        self.memory.start.as_ptr() as u64
    }

    /// How many there are.
    pub(super) fn count(&self) -> u16 {
        self.count
    }

    /// How many the kernel has, as far as its completions were seen.
    pub(super) fn free(&self) -> u16 {
        self.count - self.taken
    }

    /// The kernel filled buffer `id`.
    pub(super) fn take(&mut self, id: u16, length: u32) {
        assert!(length <= self.bytes && self.taken < self.count, "buffer {id} with {length} bytes was not the kernel's to fill");
        self.taken += 1;
        self.lengths[usize::from(id)] = length;
    }

    /// The bytes in taken buffer `id`.
    pub(super) fn bytes(&self, id: u16) -> &[u8] {
        let length = self.lengths[usize::from(id)] as usize;
        // SAFETY: the index above checked `id`, and `take` checked the length, so this lies within the mapping. The buffer is out of
        // the ring until `give_back`, which needs `&mut self`; so the kernel does not write to it while it is borrowed.
        unsafe { std::slice::from_raw_parts(self.start_of(id), length) }
    }

    /// Puts a taken buffer back into the ring.
    pub(super) fn give_back(&mut self, id: u16) {
        assert!(id < self.count && self.taken > 0, "buffer {id} is not taken");
        let entries = self.memory.start.as_ptr().cast::<BufRingEntry>();
        let at = usize::from(self.tail & (self.count - 1));
        // SAFETY: `at` is below `count`, and the mapping starts with `count` entries, zeroed, which is a valid value. The kernel reads an
        // entry only after the tail has passed it. No reference covers `resv`, where the first entry holds the tail, by the time it
        // is accessed as an atomic below.
        let entry = unsafe { &mut *entries.add(at) };
        entry.set_addr(self.start_of(id) as u64);
        entry.set_len(self.bytes);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `entries` is the ring's base; its tail is two-aligned and shared with the kernel, which reads it with acquire.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(entries).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
        self.taken -= 1;
    }

    fn start_of(&self, id: u16) -> *mut u8 {
        let offset = Self::ring_bytes(self.count) + usize::from(id) * self.bytes as usize;
        // SAFETY: `id` is below `count`, checked by the callers, so the offset lies within the mapping.
        unsafe { self.memory.start.as_ptr().add(offset) }
    }

    /// Appends a taken buffer to the queue whose last member is `last`. Returns the new last member.
    pub(super) fn enqueue(&mut self, last: u16, id: u16) -> u16 {
        if last == NO_BUFFER {
            self.next[usize::from(id)] = id;
        } else {
            self.next[usize::from(id)] = self.next[usize::from(last)];
            self.next[usize::from(last)] = id;
        }
        id
    }

    /// Takes the first buffer off the queue whose last member is `last`. Returns it, and the last member of what remains.
    pub(super) fn dequeue(&mut self, last: u16) -> Option<(u16, u16)> {
        if last == NO_BUFFER {
            return None;
        }
        let first = self.next[usize::from(last)];
        if first == last {
            return Some((first, NO_BUFFER));
        }
        self.next[usize::from(last)] = self.next[usize::from(first)];
        Some((first, last))
    }
}

/// Anonymous memory, page-aligned, zeroed, and not touched before it is used.
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

impl Mapping {
    fn new(length: usize) -> io::Result<Mapping> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory in use.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            let text = format!("cannot map {length} bytes for receive buffers: {error}; configure fewer or smaller ones");
            return Err(io::Error::new(error.kind(), text));
        }
        Ok(Mapping { start: NonNull::new(start.cast()).expect("mmap never gives address 0 by itself"), length })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the whole mapping, and whoever borrowed from it is gone; the reactor drops its io_uring first.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_keeps_its_order_and_its_neighbours() {
        let mut buffers = Buffers::new(8, 64).unwrap();
        assert_eq!((buffers.count(), buffers.free()), (8, 8));
        (0..5).for_each(|id| buffers.take(id, u32::from(id) + 1));
        assert_eq!(buffers.free(), 3);
        let one = [0, 2, 4].into_iter().fold(NO_BUFFER, |last, id| buffers.enqueue(last, id));
        let other = [1, 3].into_iter().fold(NO_BUFFER, |last, id| buffers.enqueue(last, id));
        for (mut last, expected) in [(one, vec![0, 2, 4]), (other, vec![1, 3])] {
            let mut seen = Vec::new();
            while let Some((id, rest)) = buffers.dequeue(last) {
                assert_eq!(buffers.bytes(id).len(), usize::from(id) + 1);
                buffers.give_back(id);
                seen.push(id);
                last = rest;
            }
            assert_eq!(seen, expected);
        }
        assert_eq!(buffers.free(), 8);
    }

    #[test]
    fn counts_are_rounded_up_to_a_power_of_two() {
        assert_eq!(Buffers::new(9, 1).unwrap().count(), 16);
        assert_eq!(Buffers::new(u16::MAX, 1).unwrap().count(), BUFFERS_MAX);
    }
}
