//! Bombs, lies and everything else that is not one small zstd frame.
#![forbid(unsafe_code)]

use super::super::{Frame, PushRef, checksum, decode, encode, is_compressed};
use super::*;

const LIMIT: u32 = 65_536;

/// A frame of this type with this body, flagged as compressed.
fn flagged(kind: FrameType, packed: &[u8]) -> Vec<u8> {
    let mut frame = super::super::header(kind as u8).to_vec();
    frame[4] = (FLAG_COMPRESSED >> 8) as u8;
    frame.extend_from_slice(packed);
    seal(&mut frame);
    frame
}

fn zstd(content: &[u8], says_its_size: bool) -> Vec<u8> {
    let mut context = CCtx::create();
    context.set_parameter(CParameter::ContentSizeFlag(says_its_size)).expect("a parameter of zstd");
    context.set_parameter(CParameter::ChecksumFlag(true)).expect("a parameter of zstd");
    let mut packed = Vec::with_capacity(zstd_safe::compress_bound(content.len()));
    context.compress2(&mut packed, content).expect("there is room");
    packed
}

/// A frame by hand: its header, and blocks that repeat one byte.
fn by_hand(header: &[u8], blocks: &[(u32, u8)]) -> Vec<u8> {
    let mut packed = MAGIC.to_vec();
    packed.extend_from_slice(header);
    for (at, (length, byte)) in blocks.iter().enumerate() {
        let is_last = u32::from(at + 1 == blocks.len());
        packed.extend_from_slice(&(length << 3 | 1 << 1 | is_last).to_le_bytes()[..3]);
        packed.push(*byte);
    }
    packed
}

fn push(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode(&Frame::Push(PushRef { channel: "user/bob", payload, ..PushRef::default() }), &mut frame);
    frame
}

/// What the body comes to, and that it cost no more than the limit.
fn unpack(packed: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut unpacker = Unpacker::default();
    let unpacked = unpacker.unpack(packed, LIMIT).map(<[u8]>::to_vec);
    assert!(unpacker.body.capacity() <= LIMIT as usize, "{} bytes were set aside", unpacker.body.capacity());
    unpacked
}

fn is_too_long(result: &Result<Vec<u8>, Malformed>) -> bool {
    matches!(result, Err(Malformed::DecompressedTooLong { limit: LIMIT }))
}

fn is_bad(result: &Result<Vec<u8>, Malformed>) -> bool {
    matches!(result, Err(Malformed::Compression { .. }))
}

#[test]
fn what_was_packed_is_unpacked() {
    let (mut packer, mut unpacker, mut out) = (Packer::default(), Unpacker::default(), Vec::new());
    for length in [1_000, 200, 40_000, 65_000] {
        let payload: Vec<u8> = b"hello ".iter().copied().cycle().take(length).collect();
        let frame = push(&payload);
        assert!(packer.pack(&frame, &mut out));
        assert!(out.len() < frame.len() / 2 && is_compressed(&out) && !is_compressed(&frame));
        let mut full_bytes = 0;
        let decoded = unpacker.decode_weighed(&out, LIMIT, &mut full_bytes).expect("it is whole");
        assert_eq!(full_bytes, frame.len());
        let Decoded::Frame { frame: Frame::Push(push), frame_bytes } = decoded else { panic!("{decoded:?}") };
        assert_eq!((push.payload, frame_bytes), (&payload[..], out.len()));
    }
}

#[test]
fn what_saves_little_is_left_as_it_is() {
    let mut noise = 1u64;
    let payload: Vec<u8> = std::iter::repeat_with(|| {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (noise >> 56) as u8
    })
    .take(10_000)
    .collect();
    let (mut packer, mut out) = (Packer::default(), Vec::new());
    for payload in [&payload[..], b"short", b""] {
        assert!(!packer.pack(&push(payload), &mut out));
    }
    // A refusal leaves nothing behind.
    assert!(packer.pack(&push(&[7; 1_000]), &mut out));
    assert!(Unpacker::default().decode(&out, LIMIT).is_ok());
}

#[test]
fn who_did_not_agree_takes_no_compressed_body() {
    let frame = flagged(FrameType::Ping, &zstd(b"\x08\x05", true));
    let refusal = decode(&frame, LIMIT).expect_err("it was not agreed upon");
    assert_eq!(refusal.code(), crate::wire::ErrorCode::BadCompression);
    // Other flags are refused with their own code, with this one too.
    let mut unknown = frame.clone();
    unknown[4] |= 0x02;
    for frame in [&unknown[..], &unknown[..HEADER_BYTES]] {
        assert_eq!(decode(frame, LIMIT), Err(Malformed::Flags { seen: 0x0300 }));
        assert_eq!(Unpacker::default().decode(frame, LIMIT).map(|_| ()), Err(Malformed::Flags { seen: 0x0300 }));
    }
}

#[test]
fn plain_frames_and_unknown_types_pass_as_they_are() {
    let mut unpacker = Unpacker::default();
    let frame = push(b"hello");
    let mut full_bytes = 7;
    assert_eq!(unpacker.decode_weighed(&frame, LIMIT, &mut full_bytes), decode(&frame, LIMIT));
    assert_eq!(full_bytes, 7);
    let mut unknown = flagged(FrameType::Ping, b"not zstd");
    unknown[3] = 0xf0;
    seal(&mut unknown);
    let skipped = Decoded::Frame { frame: Frame::Unknown { kind: 0xf0 }, frame_bytes: unknown.len() };
    assert_eq!(unpacker.decode(&unknown, LIMIT), Ok(skipped));
    assert!(unpacker.context.is_none());
}

#[test]
fn bombs_cost_no_more_than_the_limit() {
    let bomb = vec![0; 20 << 20];
    for says_its_size in [true, false] {
        let packed = zstd(&bomb, says_its_size);
        assert!(packed.len() < 10_000);
        assert!(is_too_long(&unpack(&packed)), "{:?}", unpack(&packed));
        // A bomb in a bomb is only bytes.
        let inner = unpack(&zstd(&packed, says_its_size)).expect("the inner one is small");
        assert_eq!(inner, packed);
    }
    for length in [LIMIT as usize, LIMIT as usize + 1] {
        let fits = length == LIMIT as usize;
        for says_its_size in [true, false] {
            let unpacked = unpack(&zstd(&bomb[..length], says_its_size));
            assert!(if fits { unpacked == Ok(vec![0; length]) } else { is_too_long(&unpacked) });
        }
    }
}

#[test]
fn a_size_that_is_a_lie_is_noticed() {
    // Single segment with an eight-byte content size, and one block of 1,000 bytes.
    let said = |size: u64| by_hand(&[&[0xe0][..], &size.to_le_bytes()].concat(), &[(1_000, b'x')]);
    assert_eq!(unpack(&said(1_000)), Ok(vec![b'x'; 1_000]));
    for size in [0, 999, 1_001, 50_000] {
        assert!(is_bad(&unpack(&said(size))), "{size}: {:?}", unpack(&said(size)));
    }
    for size in [u64::from(LIMIT) + 1, 1 << 32, u64::MAX] {
        assert!(is_too_long(&unpack(&said(size))));
    }
}

#[test]
fn many_blocks_of_any_size_end_at_the_limit() {
    // No content size; a window of 128 KiB, of 8 MiB.
    for window in [7 << 3, 13 << 3] {
        let header = [0x00, window];
        let whole = unpack(&by_hand(&header, &[(16_384, b'x'); 4]));
        assert_eq!(whole, Ok(vec![b'x'; 65_536]));
        for blocks in [vec![(1, b'x'); 65_537], vec![(16_384, b'x'); 5], vec![(131_072, b'x'); 1_000]] {
            assert!(is_too_long(&unpack(&by_hand(&header, &blocks))));
        }
        assert_eq!(unpack(&by_hand(&header, &vec![(0, b'x'); 20_000])), Ok(Vec::new()));
    }
}

#[test]
fn windows_are_bounded() {
    for (window, fits) in [(13 << 3, true), (13 << 3 | 1, false), (31 << 3, false), (0xff, false)] {
        assert_eq!(unpack(&by_hand(&[0x00, window], &[(10, b'x')])).is_ok(), fits, "{window:#x}");
    }
}

#[test]
fn only_one_whole_frame_is_a_body() {
    let packed = zstd(&b"hello, gateway ".repeat(20), true);
    assert!(unpack(&packed).is_ok());
    for cut in 0..packed.len() {
        assert!(is_bad(&unpack(&packed[..cut])), "cut at {cut}");
    }
    assert!(is_bad(&unpack(&[&packed[..], b"!"].concat())));
    assert!(is_bad(&unpack(&packed.repeat(2))), "two frames");
    let skippable = [&0x184d_2a50_u32.to_le_bytes()[..], &[2, 0, 0, 0, 1, 1]].concat();
    assert!(is_bad(&unpack(&skippable)));
    assert!(is_bad(&unpack(&[&packed[..], &skippable].concat())));
    assert!(is_bad(&unpack(&by_hand(&[0x08, 7 << 3], &[(10, b'x')]))), "a reserved bit");
    assert!(is_bad(&unpack(&by_hand(&[0x01, 7 << 3, 5], &[(10, b'x')]))), "a dictionary");
    assert!(is_bad(&unpack(b"hello, gateway, this is no zstd")));
    // The checksum at the end is looked at.
    let mut changed = packed.clone();
    *changed.last_mut().expect("it is not empty") ^= 1;
    assert!(is_bad(&unpack(&changed)));
}

#[test]
fn headers_are_read_as_zstd_reads_them() {
    for length in [0usize, 1, 255, 256, 300, 65_791, 65_792, 70_000, 3 << 20] {
        for says_its_size in [true, false] {
            let packed = zstd(&vec![0; length], says_its_size);
            let header = FrameHeader::read(&packed).expect("zstd wrote it");
            let theirs = zstd_safe::get_frame_content_size(&packed).expect("zstd wrote it");
            assert_eq!(header.content_bytes, theirs, "{length}");
            assert_eq!(header.content_bytes, says_its_size.then_some(length as u64));
        }
    }
}

#[test]
fn a_large_buffer_is_given_back() {
    let mut unpacker = Unpacker::default();
    let large = zstd(&vec![0; 4 << 20], true);
    assert!(unpacker.unpack(&large, 16 << 20).is_ok());
    assert!(unpacker.body.capacity() >= 4 << 20);
    assert!(unpacker.unpack(&zstd(b"small", true), 16 << 20).is_ok());
    assert!(unpacker.body.capacity() <= UNPACKED_BYTES_KEPT);
}

#[test]
fn the_frame_around_a_packed_body_is_checked_as_ever() {
    let (mut frame, mut out) = (push(&[7; 1_000]), Vec::new());
    // What the sender set besides is kept.
    frame[4] = 0x80;
    seal(&mut frame);
    assert!(Packer::default().pack(&frame, &mut out));
    assert_eq!(out[4..6], [0x81, 0]);
    assert_eq!(u32::from_be_bytes([out[12], out[13], out[14], out[15]]), checksum(&out));
    let mut unpacker = Unpacker::default();
    assert_eq!(unpacker.decode(&out[..out.len() - 1], LIMIT), Ok(Decoded::NeedMore { total_bytes: out.len() }));
    let limit = (out.len() - HEADER_BYTES - 1) as u32;
    assert!(matches!(unpacker.decode(&out, limit), Err(Malformed::TooLong { .. })));
    *out.last_mut().expect("it is not empty") ^= 1;
    assert!(matches!(unpacker.decode(&out, LIMIT), Err(Malformed::Checksum { .. })));
}
