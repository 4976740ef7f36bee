//! What waits for one connection: frames coalesced into one buffer, large shared frames by reference, one chunk in flight.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use bytes::Bytes;

pub use super::held::{Displaced, Pressure};
use super::{hash::Keyed, held::Held};
use crate::{
    io::{Chunk, Tick},
    limits::{CHUNK_BYTES_MAX, COMPRESS_BYTES_MIN, POOLED_BUFFER_BYTES_MAX, POOLED_BUFFERS_MAX, SHARE_BYTES_MIN},
    session::Form,
    wire::{HEADER_BYTES, Packer, PushRef, is_compressed, wrap_batch},
};

/// An encoded frame on its way to one or many connections.
pub struct Framed<'a> {
    bytes: &'a [u8],
    /// How many frames these are: more than one only for a run of small ones, which go together.
    frames: u32,
    shared: Option<Bytes>,
    /// Compressed, once that was tried; `None` inside: it does not pay.
    packed: Option<Option<Bytes>>,
    pressure: Pressure,
    /// That of a PUSH which is replaced, once it was computed.
    place: Option<u64>,
}

impl<'a> Framed<'a> {
    /// The whole frame, header and body.
    pub fn new(bytes: &'a [u8]) -> Framed<'a> {
        Framed::of_class(bytes, Pressure::DropNewest)
    }

    /// A PUSH of a class that may give way.
    pub fn of_class(bytes: &'a [u8], pressure: Pressure) -> Framed<'a> {
        Framed { bytes, frames: 1, shared: None, packed: None, pressure, place: None }
    }

    /// Several whole frames, one behind the other; in all no longer than a chunk.
    pub fn run(bytes: &'a [u8], frames: u32) -> Framed<'a> {
        Framed { frames, ..Framed::new(bytes) }
    }

    /// How many frames these are.
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// Header and body.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What gives way to it, or it to others.
    pub fn pressure(&self) -> Pressure {
        self.pressure
    }

    /// What it shares with the PUSHes that it replaces, if it is of their class.
    pub fn place(&mut self, keyed: &Keyed) -> Option<u64> {
        if self.pressure == Pressure::Replace && self.place.is_none() {
            let push = PushRef::decode_body(&self.bytes[HEADER_BYTES..]).expect("a PUSH that this gateway wrote");
            self.place = Some(keyed.place(push.channel, push.key));
        }
        self.place
    }

    /// What is kept of a PUSH that may give way.
    pub fn keep(&mut self, form: Form, packer: &mut Packer) -> Bytes {
        self.kept(form, packer).clone()
    }

    /// In the form in which it travels to such a connection, to be kept. A small one is compressed when it leaves, with its neighbours.
    fn kept(&mut self, form: Form, packer: &mut Packer) -> &Bytes {
        if form.zstd && self.bytes.len() >= SHARE_BYTES_MIN {
            let packed = self.packed.get_or_insert_with(|| {
                let mut packed = Vec::new();
                packer.pack(self.bytes, &mut packed).then(|| {
                    packed.shrink_to_fit();
                    packed.into()
                })
            });
            if let Some(packed) = packed {
                return packed;
            }
        }
        self.shared.get_or_insert_with(|| Bytes::copy_from_slice(self.bytes))
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
    /// How many frames end in it.
    frames: u32,
    /// Whether a frame ends with it; else the next part goes on with the same frame.
    ends_frame: bool,
}

/// A chunk that is put in flight.
#[derive(Debug)]
pub struct Departure {
    pub chunk: Chunk,
    /// It is one BATCH.
    pub is_batch: bool,
    /// So many bytes less than before it was compressed just now.
    pub saved: usize,
}

/// Compresses a chunk that is one whole frame, if that pays, and says how many bytes it saved.
fn compress(chunk: &mut Chunk, packer: &mut Packer, pool: &mut Pool) -> usize {
    let Chunk::Owned(plain) = chunk else { return 0 };
    if plain.len() < COMPRESS_BYTES_MIN {
        return 0;
    }
    let mut packed = pool.take();
    if !packer.pack(plain, &mut packed) {
        pool.give(packed);
        return 0;
    }
    let saved = plain.len() - packed.len();
    pool.give(std::mem::replace(plain, packed));
    saved
}

/// The queue of one connection that has something to send; idle connections have none.
#[derive(Debug)]
pub struct Outbound {
    /// In front of `tail`.
    full: VecDeque<Part>,
    /// The chunk in flight, or the last one sent, ended inside a frame.
    mid_frame: bool,
    tail: Vec<u8>,
    /// How many frames are in it.
    tail_frames: u32,
    /// PUSHes that may yet be dropped. In a box of its own, because few connections ever have any.
    held: Option<Box<Held>>,
    /// Queued, held and in flight; small frames as they were given, large ones as they travel.
    pub bytes: usize,
    /// What of it is in flight; with a BATCH around it, or compressed, the chunk has another length.
    in_flight: usize,
    /// Since when a chunk is in flight.
    pub in_flight_since: Option<Tick>,
}

impl Outbound {
    /// Empty, with a buffer of the pool.
    pub fn new(pool: &mut Pool) -> Outbound {
        Outbound {
            full: VecDeque::new(),
            mid_frame: false,
            tail: pool.take(),
            tail_frames: 0,
            held: None,
            bytes: 0,
            in_flight: 0,
            in_flight_since: None,
        }
    }

    /// Appends a frame, and says how many bytes that were.
    pub fn push(&mut self, frame: &mut Framed<'_>, form: Form, packer: &mut Packer) -> usize {
        // A run is taken apart for who wants its small frames in a BATCH, or compressed.
        let shares = frame.len() >= SHARE_BYTES_MIN && (frame.frames == 1 || form == Form::default());
        let length = if shares {
            let frames = frame.frames;
            let kept = frame.kept(form, packer);
            self.append_large(kept, frames);
            kept.len()
        } else {
            self.append_small(frame.bytes, frame.frames);
            frame.len()
        };
        self.bytes += length;
        length
    }

    fn append_small(&mut self, bytes: &[u8], frames: u32) {
        if self.tail.len() + bytes.len() > CHUNK_BYTES_MAX {
            self.rotate();
        }
        self.tail.extend_from_slice(bytes);
        self.tail_frames += frames;
    }

    fn append_large(&mut self, frame: &Bytes, frames: u32) {
        self.rotate();
        let parts = (0..frame.len()).step_by(CHUNK_BYTES_MAX).map(|from| {
            let to = frame.len().min(from + CHUNK_BYTES_MAX);
            Part { chunk: Chunk::Shared(frame.slice(from..to)), frames, ends_frame: to == frame.len() }
        });
        self.full.extend(parts);
    }

    /// Whether the connection has not taken yet what it was given, so that a PUSH which may give way does not join the queue.
    pub fn is_pressed(&self) -> bool {
        self.in_flight_since.is_some() || !self.full.is_empty() || self.holds()
    }

    fn holds(&self) -> bool {
        self.held.as_ref().is_some_and(|held| !held.is_empty())
    }

    /// Bytes that do not give way.
    fn firm_bytes(&self) -> usize {
        self.bytes - self.held.as_ref().map_or(0, |held| held.bytes())
    }

    /// Keeps a PUSH that may give way, at the cost of others. All together, `bytes` grows to `bytes_max` at most, of which
    /// `held_max` are for such PUSHes. `None`: even then there is no room for it.
    pub fn hold(&mut self, kept: Bytes, place: Option<u64>, bytes_max: usize, held_max: usize) -> Option<Displaced> {
        let firm = self.firm_bytes();
        if firm + kept.len() > bytes_max {
            return None;
        }
        let held = self.held.get_or_insert_default();
        if held.is_empty() {
            held.ahead = firm;
        }
        let displaced = held.put(kept, place, held_max.min(bytes_max - firm));
        self.bytes = firm + held.bytes();
        Some(displaced)
    }

    /// Moves what is held into the queue, a chunk's worth at a time, once all that was in front of it has left. What came later
    /// than the first of it gets its turn in between.
    fn release_some(&mut self) {
        let Some(held) = self.held.as_mut().filter(|held| !held.is_empty()) else { return };
        if self.mid_frame || (held.ahead > 0 && !self.full.is_empty()) {
            return;
        }
        if self.full.is_empty() {
            // The tail, which fits into a chunk, goes in front: most of the time one chunk takes all.
            self.release(CHUNK_BYTES_MAX.saturating_sub(self.tail.len()).max(1));
        } else {
            let (later, tail) = (std::mem::take(&mut self.full), self.take_tail());
            self.release(CHUNK_BYTES_MAX);
            self.rotate();
            self.full.extend(later);
            self.full.extend(tail);
        }
    }

    /// Moves the oldest of what is held to the end of the queue: frames while they begin within `bytes_max`.
    fn release(&mut self, bytes_max: usize) {
        let mut released = 0;
        while released < bytes_max
            && let Some(frame) = self.held.as_mut().and_then(|held| held.take())
        {
            released += frame.len();
            // A compressed one does not go into a batch.
            if frame.len() >= SHARE_BYTES_MIN || is_compressed(&frame) {
                self.append_large(&frame, 1);
            } else {
                self.append_small(&frame, 1);
            }
        }
        if let Some(held) = &mut self.held {
            held.ahead = released + 1;
        }
    }

    /// Moves all that is held into the queue, because a frame comes that must stay behind it.
    pub fn settle(&mut self) {
        self.release(usize::MAX);
    }

    /// Ends the chunk that is being filled.
    pub fn rotate(&mut self) {
        let tail = self.take_tail();
        self.full.extend(tail);
    }

    fn take_tail(&mut self) -> Option<Part> {
        if self.tail.is_empty() {
            return None;
        }
        let frames = std::mem::take(&mut self.tail_frames);
        Some(Part { chunk: Chunk::Owned(std::mem::take(&mut self.tail)), frames, ends_frame: true })
    }

    /// The next chunk to put in flight, if nothing is in flight and there is one.
    pub fn next(&mut self, now: Tick, form: Form, packer: &mut Packer, pool: &mut Pool) -> Option<Departure> {
        if self.in_flight_since.is_some() {
            return None;
        }
        self.release_some();
        let Part { mut chunk, frames, ends_frame } = self.full.pop_front().or_else(|| self.take_tail())?;
        self.mid_frame = !ends_frame;
        self.in_flight = chunk.as_slice().len();
        self.in_flight_since = Some(now);
        let mut is_batch = false;
        if let Chunk::Owned(bytes) = &mut chunk
            && frames > 1
            && form.batches
        {
            wrap_batch(bytes);
            is_batch = true;
        }
        let saved = if form.zstd && (frames == 1 || is_batch) { compress(&mut chunk, packer, pool) } else { 0 };
        Some(Departure { chunk, is_batch, saved })
    }

    /// The chunk in flight reached the kernel. Gives how many bytes less are queued or in flight.
    pub fn sent(&mut self, chunk: Chunk, pool: &mut Pool) -> usize {
        let sent = std::mem::take(&mut self.in_flight);
        self.in_flight_since = None;
        self.bytes -= sent;
        if let Some(held) = &mut self.held {
            held.ahead = held.ahead.saturating_sub(sent);
        }
        if let Chunk::Owned(buffer) = chunk {
            if self.tail.capacity() == 0 && self.bytes > 0 {
                self.tail = Pool::cleared(buffer);
            } else {
                pool.give(buffer);
            }
        }
        sent
    }

    /// Drops what waits behind the frame in flight, and says how many bytes that were.
    pub fn drop_waiting(&mut self) -> usize {
        let rest_of_frame = match self.full.iter().position(|part| part.ends_frame) {
            Some(last) if self.mid_frame => last + 1,
            Some(_) | None => 0,
        };
        let queued = self.full.drain(rest_of_frame..).map(|part| part.chunk.as_slice().len()).sum::<usize>();
        let waiting = queued + self.tail.len() + self.held.take().map_or(0, |held| held.bytes());
        self.tail.clear();
        self.tail_frames = 0;
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
mod tests;
