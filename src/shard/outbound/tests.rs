//! What leaves, in which order and in which chunks.
#![forbid(unsafe_code)]

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
    let first = outbound.next(Tick(1)).expect("there is something");
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
    assert_eq!(turns, [0, 2, 1, 2], "behind what came first, and in turn with what came later");
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
    let first = outbound.next(Tick(1)).expect("there is something");
    assert!(hold(&mut outbound, &[1; 100]));
    assert_eq!((outbound.drop_waiting(), outbound.bytes), (100, 100));
    outbound.sent(first, &mut pool);
    assert!(outbound.next(Tick(1)).is_none() && outbound.is_empty());
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
