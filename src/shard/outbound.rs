//! What waits for one connection: frames coalesced into one buffer, large shared frames by reference, one chunk in flight.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use bytes::Bytes;

use crate::{
    io::{Chunk, Tick},
    limits::{CHUNK_BYTES_MAX, POOLED_BUFFER_BYTES_MAX, POOLED_BUFFERS_MAX, SHARE_BYTES_MIN},
};

/// An encoded frame on its way to one or many connections.
pub struct Framed<'a> {
    bytes: &'a [u8],
    shared: Option<Bytes>,
}

impl<'a> Framed<'a> {
    /// The whole frame, header and body.
    pub fn new(bytes: &'a [u8]) -> Framed<'a> {
        Framed { bytes, shared: None }
    }

    /// Its length.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// A chunk that waits.
#[derive(Debug)]
struct Part {
    chunk: Chunk,
    /// Whether a frame ends with it; else the next part goes on with the same frame.
    ends_frame: bool,
}

/// The queue of one connection that has something to send; idle connections have none.
#[derive(Debug)]
pub struct Outbound {
    /// In front of `tail`.
    full: VecDeque<Part>,
    /// The chunk in flight, or the last one sent, ended inside a frame.
    mid_frame: bool,
    tail: Vec<u8>,
    /// Queued and in flight.
    pub bytes: usize,
    /// Since when a chunk is in flight.
    pub in_flight_since: Option<Tick>,
}

impl Outbound {
    /// Empty, with a buffer of the pool.
    pub fn new(pool: &mut Pool) -> Outbound {
        Outbound { full: VecDeque::new(), mid_frame: false, tail: pool.take(), bytes: 0, in_flight_since: None }
    }

    /// Appends a frame.
    pub fn push(&mut self, frame: &mut Framed<'_>) {
        self.bytes += frame.len();
        if frame.len() >= SHARE_BYTES_MIN {
            self.rotate();
            let shared = frame.shared.get_or_insert_with(|| Bytes::copy_from_slice(frame.bytes));
            let parts = (0..shared.len()).step_by(CHUNK_BYTES_MAX).map(|from| {
                let to = shared.len().min(from + CHUNK_BYTES_MAX);
                Part { chunk: Chunk::Shared(shared.slice(from..to)), ends_frame: to == shared.len() }
            });
            self.full.extend(parts);
            return;
        }
        if self.tail.len() + frame.len() > CHUNK_BYTES_MAX {
            self.rotate();
        }
        self.tail.extend_from_slice(frame.bytes);
    }

    fn rotate(&mut self) {
        if !self.tail.is_empty() {
            self.full.push_back(Part { chunk: Chunk::Owned(std::mem::take(&mut self.tail)), ends_frame: true });
        }
    }

    /// The next chunk to put in flight, if nothing is in flight and there is one.
    pub fn next(&mut self, now: Tick) -> Option<Chunk> {
        if self.in_flight_since.is_some() {
            return None;
        }
        let part = match self.full.pop_front() {
            Some(part) => part,
            None if self.tail.is_empty() => return None,
            None => Part { chunk: Chunk::Owned(std::mem::take(&mut self.tail)), ends_frame: true },
        };
        self.mid_frame = !part.ends_frame;
        self.in_flight_since = Some(now);
        Some(part.chunk)
    }

    /// The chunk in flight reached the kernel.
    pub fn sent(&mut self, chunk: Chunk, pool: &mut Pool) {
        self.in_flight_since = None;
        self.bytes -= chunk.as_slice().len();
        if let Chunk::Owned(buffer) = chunk {
            if self.tail.capacity() == 0 && self.bytes > 0 {
                self.tail = Pool::cleared(buffer);
            } else {
                pool.give(buffer);
            }
        }
    }

    /// Drops what waits behind the frame in flight, and says how many bytes that were.
    pub fn drop_waiting(&mut self) -> usize {
        let rest_of_frame = match self.full.iter().position(|part| part.ends_frame) {
            Some(last) if self.mid_frame => last + 1,
            Some(_) | None => 0,
        };
        let waiting = self.full.drain(rest_of_frame..).map(|part| part.chunk.as_slice().len()).sum::<usize>() + self.tail.len();
        self.tail.clear();
        self.bytes -= waiting;
        waiting
    }

    /// Nothing queued, nothing in flight.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Gives the buffer back.
    pub fn retire(self, pool: &mut Pool) {
        pool.give(self.tail);
    }
}

/// Buffers that wait for the next connection with something to say, so that a message costs no allocation.
#[derive(Debug, Default)]
pub struct Pool(Vec<Vec<u8>>);

impl Pool {
    fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }

    fn give(&mut self, buffer: Vec<u8>) {
        if buffer.capacity() > 0 && buffer.capacity() <= POOLED_BUFFER_BYTES_MAX && self.0.len() < POOLED_BUFFERS_MAX {
            self.0.push(Pool::cleared(buffer));
        }
    }

    fn cleared(mut buffer: Vec<u8>) -> Vec<u8> {
        buffer.clear();
        buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(outbound: &mut Outbound, pool: &mut Pool) -> (Vec<u8>, usize) {
        let (mut bytes, mut chunks) = (Vec::new(), 0);
        while let Some(chunk) = outbound.next(Tick(1)) {
            assert!(outbound.next(Tick(1)).is_none(), "one chunk in flight at a time");
            bytes.extend_from_slice(chunk.as_slice());
            chunks += 1;
            outbound.sent(chunk, pool);
        }
        (bytes, chunks)
    }

    #[test]
    fn small_frames_leave_as_one_chunk_and_in_order() {
        let mut pool = Pool::default();
        let mut outbound = Outbound::new(&mut pool);
        for byte in 0..100u8 {
            outbound.push(&mut Framed::new(&[byte; 30]));
        }
        let (bytes, chunks) = drain(&mut outbound, &mut pool);
        assert_eq!((bytes.len(), chunks), (3_000, 1));
        assert!(bytes.chunks(30).enumerate().all(|(at, frame)| frame.iter().all(|byte| usize::from(*byte) == at)));
        assert!(outbound.is_empty());
    }

    #[test]
    fn large_frames_are_shared_and_keep_their_place() {
        let mut pool = Pool::default();
        let (mut a, mut b) = (Outbound::new(&mut pool), Outbound::new(&mut pool));
        let large = vec![7; SHARE_BYTES_MIN];
        let mut framed = Framed::new(&large);
        for outbound in [&mut a, &mut b] {
            outbound.push(&mut Framed::new(b"before"));
            outbound.push(&mut framed);
            outbound.push(&mut Framed::new(b"after"));
        }
        let expected = [b"before".as_slice(), &large, b"after"].concat();
        for outbound in [&mut a, &mut b] {
            assert_eq!(drain(outbound, &mut pool), (expected.clone(), 3));
        }
    }

    #[test]
    fn a_chunk_stays_bounded() {
        let mut pool = Pool::default();
        for frame in [vec![0; 1_000], vec![0; 1_000_000]] {
            let mut outbound = Outbound::new(&mut pool);
            for _ in 0..1_000_000 / frame.len() {
                outbound.push(&mut Framed::new(&frame));
            }
            while let Some(chunk) = outbound.next(Tick(1)) {
                assert!(chunk.as_slice().len() <= CHUNK_BYTES_MAX);
                outbound.sent(chunk, &mut pool);
            }
            assert!(outbound.is_empty());
        }
    }

    #[test]
    fn what_waits_is_dropped_but_for_the_rest_of_the_frame_in_flight() {
        let mut pool = Pool::default();
        let mut outbound = Outbound::new(&mut pool);
        let large = vec![1; 3 * CHUNK_BYTES_MAX];
        for _ in 0..2 {
            outbound.push(&mut Framed::new(&large));
        }
        let first = outbound.next(Tick(1)).expect("there is something");
        assert_eq!(outbound.drop_waiting(), large.len());
        outbound.push(&mut Framed::new(b"the last word"));
        outbound.sent(first, &mut pool);
        let (bytes, _) = drain(&mut outbound, &mut pool);
        assert_eq!(bytes, [&large[CHUNK_BYTES_MAX..], b"the last word"].concat());
    }

    #[test]
    fn buffers_are_used_again() {
        let mut pool = Pool::default();
        let mut outbound = Outbound::new(&mut pool);
        outbound.push(&mut Framed::new(b"once"));
        let (_, _) = drain(&mut outbound, &mut pool);
        outbound.retire(&mut pool);
        assert_eq!(pool.0.len(), 1);
        assert!(Outbound::new(&mut pool).tail.capacity() >= 4);
    }
}
