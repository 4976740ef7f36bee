//! What leaves, in which order and in which chunks.
#![forbid(unsafe_code)]

use super::*;
use crate::wire::{Decoded, Frame, Unpacker, decode, encode};

fn push(outbound: &mut Outbound, frame: &mut Framed<'_>) {
    assert_eq!(outbound.push(frame, Form::default(), &mut Packer::default()), frame.len());
}

fn next(outbound: &mut Outbound) -> Option<Chunk> {
    outbound.next(Tick(1), Form::default(), &mut Packer::default(), &mut Pool::default()).map(|departure| departure.chunk)
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
    let form = Form { batches: true, zstd: false };
    // Alone, several, and a large one in the middle.
    for sizes in [&[10][..], &[10, 20, 30], &[10, 20, SHARE_BYTES_MIN, 30], &[4_000; 9]] {
        let frames: Vec<Vec<u8>> = sizes.iter().map(|size| frame(*size)).collect();
        for frame in &frames {
            push(&mut outbound, &mut Framed::new(frame));
        }
        let (mut came, mut batches) = (Vec::new(), 0);
        while let Some(Departure { chunk, is_batch, saved: 0 }) =
            outbound.next(Tick(1), form, &mut Packer::default(), &mut Pool::default())
        {
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

/// The frames of all that leaves, taken apart again.
fn frames_of(outbound: &mut Outbound, form: Form, packer: &mut Packer, pool: &mut Pool) -> (Vec<Vec<u8>>, usize) {
    let (mut stream, mut frames, mut unpacker) = (Vec::new(), Vec::new(), Unpacker::default());
    while let Some(Departure { chunk, .. }) = outbound.next(Tick(1), form, packer, pool) {
        stream.extend_from_slice(chunk.as_slice());
        outbound.sent(chunk, pool);
    }
    let mut again = |frame: &Frame<'_>| {
        frames.push(Vec::new());
        encode(frame, frames.last_mut().expect("it was just put there"));
    };
    let mut rest = &stream[..];
    while !rest.is_empty() {
        let decoded = unpacker.decode(rest, 1 << 20).expect("whole frames leave");
        let Decoded::Frame { frame, frame_bytes } = decoded else { panic!("a cut frame") };
        match frame {
            Frame::Batch(batch) => batch.frames().for_each(|frame| again(&frame.expect("whole frames leave").0)),
            frame => again(&frame),
        }
        rest = &rest[frame_bytes..];
    }
    (frames, stream.len())
}

#[test]
fn in_every_form_the_same_frames_leave() {
    let (mut pool, mut packer) = (Pool::default(), Packer::default());
    let sizes = [[10, 600, 20_000].as_slice(), &[600], &[1_000; 40], &[100_000, 5, 5_000, 700, 700], &[1; 2_000]];
    for form in [(false, false), (true, false), (false, true), (true, true)].map(|(batches, zstd)| Form { batches, zstd }) {
        for sizes in sizes {
            let mut outbound = Outbound::new(&mut pool);
            let frames: Vec<Vec<u8>> = sizes.iter().map(|size| frame(*size)).collect();
            let mut counted = 0;
            for frame in &frames {
                counted += outbound.push(&mut Framed::new(frame), form, &mut packer);
                assert_eq!(outbound.bytes, counted);
            }
            let (came, bytes) = frames_of(&mut outbound, form, &mut packer, &mut pool);
            assert!(came == frames, "{form:?} {sizes:?}");
            let plain: usize = frames.iter().map(Vec::len).sum();
            if form.zstd && (form.batches || sizes.len() == 1) {
                assert!(bytes < plain / 4, "{bytes} of {plain}");
            }
            assert!(outbound.is_empty());
            outbound.retire(&mut pool);
        }
    }
}

#[test]
fn a_large_frame_is_compressed_once_for_all_who_take_it_so() {
    let (mut pool, mut packer) = (Pool::default(), Packer::default());
    let large = frame(10_000);
    let mut framed = Framed::new(&large);
    let zstd = Form { zstd: true, ..Form::default() };
    let mut outbounds = [(); 3].map(|()| Outbound::new(&mut pool));
    let forms = [zstd, Form::default(), zstd];
    let lengths: Vec<usize> =
        outbounds.iter_mut().zip(forms).map(|(outbound, form)| outbound.push(&mut framed, form, &mut packer)).collect();
    assert!(lengths[0] < large.len() / 4 && lengths[1] == large.len() && lengths[2] == lengths[0]);
    let mut chunks = outbounds.iter_mut().zip(forms).map(|(outbound, form)| {
        let departure = outbound.next(Tick(1), form, &mut packer, &mut pool).expect("there is something");
        departure.chunk.as_slice().as_ptr()
    });
    let (first, second, third) = (chunks.next(), chunks.next(), chunks.next());
    assert!(first == third && first != second);
}

#[test]
fn a_compressed_frame_that_was_held_stays_out_of_batches() {
    let (mut pool, mut packer) = (Pool::default(), Packer::default());
    let form = Form { batches: true, zstd: true };
    let mut outbound = Outbound::new(&mut pool);
    let frames = [frame(10), frame(10_000), frame(20), frame(30)];
    outbound.push(&mut Framed::new(&frames[0]), form, &mut packer);
    let first = outbound.next(Tick(1), form, &mut packer, &mut pool).expect("there is something");
    for frame in &frames[1..] {
        let kept = Framed::of_class(frame, Pressure::DropOldest).keep(form, &mut packer);
        assert!(outbound.hold(kept, None, ROOM, ROOM).is_some());
    }
    outbound.sent(first.chunk, &mut pool);
    let (came, _) = frames_of(&mut outbound, form, &mut packer, &mut pool);
    assert!(came == frames[1..]);
}

#[test]
fn small_frames_leave_as_one_chunk_and_in_order() {
    let mut pool = Pool::default();
    let mut outbound = Outbound::new(&mut pool);
    for byte in 0..100u8 {
        push(&mut outbound, &mut Framed::new(&[byte; 30]));
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
        push(outbound, &mut Framed::new(b"before"));
        push(outbound, &mut framed);
        push(outbound, &mut Framed::new(b"after"));
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
            push(&mut outbound, &mut Framed::new(&frame));
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
        push(&mut outbound, &mut Framed::new(&large));
    }
    let first = next(&mut outbound).expect("there is something");
    assert_eq!(outbound.drop_waiting(), large.len());
    push(&mut outbound, &mut Framed::new(b"the last word"));
    outbound.sent(first, &mut pool);
    let (bytes, _) = drain(&mut outbound, &mut pool);
    assert_eq!(bytes, [&large[CHUNK_BYTES_MAX..], b"the last word"].concat());
}

const ROOM: usize = 1 << 20;

fn hold(outbound: &mut Outbound, frame: &[u8]) -> bool {
    assert!(outbound.is_pressed());
    let kept = Framed::of_class(frame, Pressure::DropOldest).keep(Form::default(), &mut Packer::default());
    outbound.hold(kept, None, ROOM, ROOM / 2).is_some()
}

/// The names of frames of 100 bytes each.
fn names(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(100).map(|frame| frame[0]).collect()
}

#[test]
fn what_is_held_leaves_behind_what_came_first_and_in_one_chunk_with_it() {
    let mut pool = Pool::default();
    let mut outbound = Outbound::new(&mut pool);
    push(&mut outbound, &mut Framed::new(&[0; 100]));
    let first = next(&mut outbound).expect("there is something");
    push(&mut outbound, &mut Framed::new(&[1; 100]));
    assert!(hold(&mut outbound, &[2; 100]) && hold(&mut outbound, &[4; 100]));
    assert_eq!(outbound.bytes, 400);
    outbound.sent(first, &mut pool);
    let (bytes, chunks) = drain(&mut outbound, &mut pool);
    assert_eq!((names(&bytes), chunks), (vec![1, 2, 4], 1));
    assert!(outbound.is_empty() && !outbound.is_pressed());
}

#[test]
fn a_long_queue_and_what_is_held_take_turns() {
    let mut pool = Pool::default();
    let mut outbound = Outbound::new(&mut pool);
    let chunk = CHUNK_BYTES_MAX / 100;
    for _ in 0..2 * chunk {
        push(&mut outbound, &mut Framed::new(&[0; 100]));
    }
    for _ in 0..chunk + chunk / 2 {
        assert!(hold(&mut outbound, &[2; 100]));
    }
    for _ in 0..2 * chunk {
        push(&mut outbound, &mut Framed::new(&[1; 100]));
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
    push(&mut outbound, &mut Framed::new(&large));
    let mut other = vec![2; 2 * CHUNK_BYTES_MAX];
    assert!(hold(&mut outbound, &other) && hold(&mut outbound, b"3"));
    push(&mut outbound, &mut Framed::new(&large));
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
        push(&mut outbound, &mut Framed::new(&[0; 100]));
    }
    assert!(hold(&mut outbound, &[1; 100]));
    outbound.settle();
    push(&mut outbound, &mut Framed::new(&[2; 100]));
    let (bytes, _) = drain(&mut outbound, &mut pool);
    assert!(names(&bytes).ends_with(&[0, 1, 2]));
}

#[test]
fn what_is_held_is_dropped_with_what_waits() {
    let mut pool = Pool::default();
    let mut outbound = Outbound::new(&mut pool);
    push(&mut outbound, &mut Framed::new(&[0; 100]));
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
    push(&mut outbound, &mut Framed::new(&vec![0; ROOM - 150]));
    assert!(hold(&mut outbound, &[1; 100]) && hold(&mut outbound, &[2; 100]));
    assert_eq!(outbound.bytes, ROOM - 50, "the first gave way");
    assert!(!hold(&mut outbound, &[3; 151]));
}

#[test]
fn buffers_are_used_again() {
    let mut pool = Pool::default();
    let mut outbound = Outbound::new(&mut pool);
    push(&mut outbound, &mut Framed::new(b"once"));
    let (_, _) = drain(&mut outbound, &mut pool);
    outbound.retire(&mut pool);
    assert_eq!(pool.0.len(), 1);
    assert!(Outbound::new(&mut pool).tail.capacity() >= 4);
}
