//! What leaves, in which order and in which chunks.
#![forbid(unsafe_code)]

use super::*;
use crate::wire::{Decoded, Frame, decode, encode};

fn next(outbound: &mut Outbound) -> Option<Chunk> {
    outbound.next(Tick(1), Form::default()).map(|departure| departure.chunk)
}

fn drain(outbound: &mut Outbound, pool: &mut Pool) -> (Vec<u8>, usize) {
    let (mut bytes, mut chunks) = (Vec::new(), 0);
    while let Some(chunk) = next(outbound) {
        assert!(next(outbound).is_none(), "one chunk in flight at a time");
        bytes.extend_from_slice(chunk.as_slice());
        chunks += 1;
        outbound.sent(chunk, pool);
    }
    (bytes, chunks)
}

/// A whole frame with a body of so many bytes.
fn frame(length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&Frame::Push(PushRef { payload: &vec![0; length], ..PushRef::default() }), &mut bytes);
    bytes
}

#[test]
fn what_is_coalesced_is_one_batch_for_who_takes_batches() {
    let mut pool = Pool::default();
    let mut outbound = Outbound::new(&mut pool);
    let form = Form { batches: true };
    // Alone, several, and a large one in the middle.
    for sizes in [&[10][..], &[10, 20, 30], &[10, 20, SHARE_BYTES_MIN, 30], &[4_000; 9]] {
        let frames: Vec<Vec<u8>> = sizes.iter().map(|size| frame(*size)).collect();
        for frame in &frames {
            outbound.push(&mut Framed::new(frame));
        }
        let (mut came, mut batches) = (Vec::new(), 0);
        while let Some(Departure { chunk, is_batch }) = outbound.next(Tick(1), form) {
            batches += usize::from(is_batch);
            assert!(chunk.as_slice().len() <= CHUNK_BYTES_MAX + HEADER_BYTES);
            let mut rest = chunk.as_slice();
            while let Ok(Decoded::Frame { frame, frame_bytes }) = decode(rest, 1 << 20) {
                match frame {
                    Frame::Batch(batch) => {
                        assert!(is_batch && batch.frames().count() > 1 && batch.frames().all(|frame| frame.is_ok()));
                        came.extend_from_slice(batch.bytes());
                    }
                    _ => came.extend_from_slice(&rest[..frame_bytes]),
                }
                rest = &rest[frame_bytes..];
            }
            assert!(rest.is_empty());
            outbound.sent(chunk, &mut pool);
        }
        assert_eq!(came, frames.concat());
        assert_eq!(batches, [0, 1, 1, 2][sizes.len().ilog2() as usize], "{sizes:?}");
        assert!(outbound.is_empty());
    }
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
        while let Some(chunk) = next(&mut outbound) {
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
    let first = next(&mut outbound).expect("there is something");
    assert_eq!(outbound.drop_waiting(), large.len());
    outbound.push(&mut Framed::new(b"the last word"));
    outbound.sent(first, &mut pool);
    let (bytes, _) = drain(&mut outbound, &mut pool);
    assert_eq!(bytes, [&large[CHUNK_BYTES_MAX..], b"the last word"].concat());
}

const ROOM: usize = 1 << 20;

fn hold(outbound: &mut Outbound, frame: &[u8]) -> bool {
    assert!(outbound.is_pressed());
    outbound.hold(&mut Framed::of_class(frame, Pressure::DropOldest), None, ROOM, ROOM / 2).is_some()
}

/// The names of frames of 100 bytes each.
fn names(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(100).map(|frame| frame[0]).collect()
}

#[test]
fn what_is_held_leaves_behind_what_came_first_and_in_one_chunk_with_it() {
    let mut pool = Pool::default();
    let mut outbound = Outbound::new(&mut pool);
    outbound.push(&mut Framed::new(&[0; 100]));
    let first = next(&mut outbound).expect("there is something");
    outbound.push(&mut Framed::new(&[1; 100]));
    assert!(hold(&mut outbound, &[2; 100]) && hold(&mut outbound, &[3; 100]));
    assert_eq!(outbound.bytes, 400);
    outbound.sent(first, &mut pool);
    let (bytes, chunks) = drain(&mut outbound, &mut pool);
    assert_eq!((names(&bytes), chunks), (vec![1, 2, 3], 1));
    assert!(outbound.is_empty() && !outbound.is_pressed());
}

#[test]
fn a_long_queue_and_what_is_held_take_turns() {
    let mut pool = Pool::default();
    let mut outbound = Outbound::new(&mut pool);
    let chunk = CHUNK_BYTES_MAX / 100;
    for _ in 0..2 * chunk {
        outbound.push(&mut Framed::new(&[0; 100]));
    }
    for _ in 0..chunk + chunk / 2 {
        assert!(hold(&mut outbound, &[2; 100]));
    }
    for _ in 0..2 * chunk {
        outbound.push(&mut Framed::new(&[1; 100]));
    }
    let (bytes, _) = drain(&mut outbound, &mut pool);
    let mut turns = names(&bytes);
    turns.dedup();
    assert_eq!(bytes.len(), (5 * chunk + chunk / 2) * 100);
    assert_eq!(turns, [0, 2, 1, 2, 1], "behind what came first, and in turn with what came later");
}

#[test]
fn what_is_held_does_not_part_a_large_frame() {
    let mut pool = Pool::default();
    let mut outbound = Outbound::new(&mut pool);
    let large = vec![1; 3 * CHUNK_BYTES_MAX];
    outbound.push(&mut Framed::new(&large));
    let mut other = vec![2; 2 * CHUNK_BYTES_MAX];
    assert!(hold(&mut outbound, &other) && hold(&mut outbound, b"3"));
    outbound.push(&mut Framed::new(&large));
    other.push(b'3');
    let (bytes, _) = drain(&mut outbound, &mut pool);
    let kinds: Vec<u8> = bytes.chunk_by(|a, b| a == b).map(|run| run[0]).collect();
    assert_eq!(bytes.len(), 2 * large.len() + other.len());
    assert!(kinds == [1, 2, 3u8 + b'0', 1] || kinds == [1, 2, 1, 3u8 + b'0'], "{kinds:?}");
}

#[test]
fn what_must_stay_behind_settles_what_is_held() {
    let mut pool = Pool::default();
    let mut outbound = Outbound::new(&mut pool);
    for _ in 0..2 * CHUNK_BYTES_MAX / 100 {
        outbound.push(&mut Framed::new(&[0; 100]));
    }
    assert!(hold(&mut outbound, &[1; 100]));
    outbound.settle();
    outbound.push(&mut Framed::new(&[2; 100]));
    let (bytes, _) = drain(&mut outbound, &mut pool);
    assert!(names(&bytes).ends_with(&[0, 1, 2]));
}

#[test]
fn what_is_held_is_dropped_with_what_waits() {
    let mut pool = Pool::default();
    let mut outbound = Outbound::new(&mut pool);
    outbound.push(&mut Framed::new(&[0; 100]));
    let first = next(&mut outbound).expect("there is something");
    assert!(hold(&mut outbound, &[1; 100]));
    assert_eq!((outbound.drop_waiting(), outbound.bytes), (100, 100));
    outbound.sent(first, &mut pool);
    assert!(next(&mut outbound).is_none() && outbound.is_empty());
}

#[test]
fn there_may_be_no_room_even_without_what_is_held() {
    let mut pool = Pool::default();
    let mut outbound = Outbound::new(&mut pool);
    outbound.push(&mut Framed::new(&vec![0; ROOM - 150]));
    assert!(hold(&mut outbound, &[1; 100]) && hold(&mut outbound, &[2; 100]));
    assert_eq!(outbound.bytes, ROOM - 50, "the first gave way");
    assert!(!hold(&mut outbound, &[3; 151]));
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
