//! Properties of compressed frames: round trips, cuts, flips, and that nothing is ever longer than the limit.
#![forbid(unsafe_code)]

use crate::oracle;
use proptest::{collection::vec, prelude::*};
use weir::wire::{
    Decoded, Frame, FrameType, HEADER_BYTES, Malformed, Packer, PushRef, Unpacker, decode, encode, is_compressed, wrap_batch,
};

const LIMIT: u32 = 16_384;

fn push(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&Frame::Push(PushRef { channel: "user/bob", from_client: "alice", payload, ..PushRef::default() }), &mut bytes);
    bytes
}

fn packed(frame: &[u8]) -> Option<Vec<u8>> {
    let mut packed = Vec::new();
    Packer::default().pack(frame, &mut packed).then_some(packed)
}

/// Bytes that compress more or less well: runs and repetitions of a few words.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        (any::<u8>(), 0usize..600).prop_map(|(byte, count)| vec![byte; count]),
        ("[a-e ]{1,12}", 0usize..60).prop_map(|(word, count)| word.repeat(count).into_bytes()),
        vec(any::<u8>(), 0..80),
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// Whatever came of it: what decodes is within the limit, and an error says something.
fn bounded(unpacker: &mut Unpacker, bytes: &[u8]) {
    let mut full_bytes = 0;
    match unpacker.decode_weighed(bytes, LIMIT, &mut full_bytes) {
        Ok(Decoded::Frame { frame, frame_bytes }) => {
            assert!(frame_bytes <= bytes.len() && full_bytes <= HEADER_BYTES + LIMIT as usize);
            if let Frame::Batch(batch) = frame {
                assert!(batch.bytes().len() <= LIMIT as usize);
                for _ in batch.frames() {}
            }
        }
        Ok(Decoded::NeedMore { total_bytes }) => assert!(total_bytes > bytes.len()),
        Err(malformed) => assert!(!malformed.to_string().is_empty()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_packed_unpacks_to_itself(payload in payload(), wraps in any::<bool>()) {
        let mut frame = push(&payload);
        if wraps {
            wrap_batch(&mut frame);
        }
        if let Some(packed) = packed(&frame) {
            prop_assert!(packed.len() < frame.len() && is_compressed(&packed));
            let Ok(Decoded::Frame { frame: expected, frame_bytes }) = decode(&frame, LIMIT) else { panic!("it fits") };
            let mut unpacker = Unpacker::default();
            let whole = Decoded::Frame { frame: expected, frame_bytes: packed.len() };
            let mut full_bytes = 0;
            prop_assert_eq!(unpacker.decode_weighed(&packed, LIMIT, &mut full_bytes), Ok(whole));
            prop_assert_eq!(full_bytes, frame_bytes);
            // To who did not agree it is nothing but a refusal.
            let refused = matches!(decode(&packed, LIMIT), Err(Malformed::Compression { .. }));
            prop_assert!(refused);
            // One byte less than it needs is too long, and costs no more than was allowed.
            let limit = (frame_bytes - HEADER_BYTES - 1) as u32;
            let refused = unpacker.decode(&packed, limit).map(|_| ());
            prop_assert!(matches!(refused, Err(Malformed::DecompressedTooLong { .. } | Malformed::TooLong { .. })), "{:?}", refused);
        }
    }

    /// Up to the last byte it is incomplete; cut and sealed again it is no zstd frame.
    #[test]
    fn a_cut_is_noticed(payload in payload(), at in any::<prop::sample::Index>()) {
        if let Some(packed) = packed(&push(&payload)) {
            let cut = at.index(packed.len());
            let mut unpacker = Unpacker::default();
            let needs_more = matches!(unpacker.decode(&packed[..cut], LIMIT), Ok(Decoded::NeedMore { .. }));
            prop_assert!(needs_more);
            if cut >= HEADER_BYTES {
                let mut short = packed[..cut].to_vec();
                oracle::put_right(&mut short);
                let refused = matches!(unpacker.decode(&short, LIMIT), Err(Malformed::Compression { .. }));
                prop_assert!(refused);
            }
        }
    }

    /// A changed bit under a right checksum of the frame: whatever it comes to is bounded, and nothing panics.
    #[test]
    fn changed_bits_stay_bounded(payload in payload(), changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        if let Some(mut packed) = packed(&push(&payload)) {
            for (at, byte) in changes {
                let body = packed.len() - HEADER_BYTES;
                packed[HEADER_BYTES + at.index(body)] = byte;
            }
            oracle::put_right(&mut packed);
            bounded(&mut Unpacker::default(), &packed);
        }
    }

    /// Hand-made zstd frames: any header, any blocks of any declared size, with or without what they promise.
    #[test]
    fn hostile_zstd_frames_stay_bounded(
        descriptor in any::<u8>(),
        fields in vec(any::<u8>(), 0..14),
        blocks in vec((0u32..3, prop_oneof![0u32..200, 0u32..(1 << 21)], vec(any::<u8>(), 0..40)), 0..40),
    ) {
        let mut body = 0xfd2f_b528_u32.to_le_bytes().to_vec();
        body.push(descriptor);
        body.extend(fields);
        let count = blocks.len();
        for (at, (kind, size, bytes)) in blocks.into_iter().enumerate() {
            let is_last = u32::from(at + 1 == count);
            body.extend_from_slice(&(size << 3 | kind << 1 | is_last).to_le_bytes()[..3]);
            body.extend(bytes.into_iter().take(if kind == 1 { 1 } else { size as usize }));
        }
        for kind in [FrameType::Push, FrameType::Batch] {
            let mut frame = oracle::framed(kind as u8, &body);
            frame[4] = 0x01;
            oracle::put_right(&mut frame);
            bounded(&mut Unpacker::default(), &frame);
        }
    }

    /// One unpacker serves many: what one frame leaves behind, good or bad, is nothing to the next.
    #[test]
    fn one_unpacker_serves_all(payloads in vec((payload(), any::<Option<prop::sample::Index>>()), 1..6)) {
        let mut unpacker = Unpacker::default();
        for (payload, breaks) in payloads {
            let Some(packed) = packed(&push(&payload)) else { continue };
            if let Some(at) = breaks {
                let mut broken = packed.clone();
                let at = HEADER_BYTES + at.index(packed.len() - HEADER_BYTES);
                broken[at] ^= 0x55;
                oracle::put_right(&mut broken);
                bounded(&mut unpacker, &broken);
            }
            let came = unpacker.decode(&packed, LIMIT);
            let is_whole = matches!(came, Ok(Decoded::Frame { frame: Frame::Push(push), .. }) if push.payload == payload);
            prop_assert!(is_whole);
        }
    }
}
