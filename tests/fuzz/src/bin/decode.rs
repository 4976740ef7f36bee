//! Any bytes: decoding and decompressing never panic and stay within the limit, what decodes encodes to something that decodes to the same, and prost agrees on hot bodies.
#![no_main]
#![forbid(unsafe_code)]

#[path = "../../../shared/oracle.rs"]
mod oracle;

use libfuzzer_sys::fuzz_target;
use weir::wire::{Decoded, Frame, HEADER_BYTES, Packer, Unpacker, decode, encode};

const LIMIT: u32 = 65_536;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // The same bytes as a frame whose checksum is right, or hardly anything would ever get past it.
    if bytes.len() >= HEADER_BYTES {
        let mut frame = bytes.to_vec();
        frame[..3].copy_from_slice(b"WR\x01");
        oracle::put_right(&mut frame);
        check(&frame);
        oracle::agree_with_prost(&bytes[HEADER_BYTES..]);
    }
});

fn check(bytes: &[u8]) {
    let mut full_bytes = 0;
    match Unpacker::default().decode_weighed(bytes, LIMIT, &mut full_bytes) {
        Ok(Decoded::Frame { frame, frame_bytes }) => {
            assert!(frame_bytes <= bytes.len() && full_bytes <= HEADER_BYTES + LIMIT as usize);
            // A BATCH holds what decodes, up to the first frame that does not.
            if let Frame::Batch(batch) = &frame {
                let mut used = 0;
                for (frame, frame_bytes) in batch.frames().map_while(Result::ok) {
                    assert!(!matches!(frame, Frame::Batch(_)));
                    used += frame_bytes;
                }
                assert!(used <= batch.bytes().len());
            }
            // Compressed, it is the same frame.
            let (mut plain, mut packed) = (Vec::new(), Vec::new());
            encode(&frame, &mut plain);
            if Packer::default().pack(&plain, &mut packed) {
                let mut unpacker = Unpacker::default();
                let again = unpacker.decode(&packed, u32::MAX);
                assert_eq!(again, Ok(Decoded::Frame { frame, frame_bytes: packed.len() }));
            }
        }
        Ok(Decoded::NeedMore { total_bytes }) => assert!(total_bytes > bytes.len()),
        Err(malformed) => assert!(!malformed.to_string().is_empty()),
    }
    match decode(bytes, LIMIT) {
        Ok(Decoded::Frame { frame, frame_bytes }) => {
            assert!(frame_bytes <= bytes.len());
            let mut again = Vec::new();
            encode(&frame, &mut again);
            assert_eq!(decode(&again, u32::MAX), Ok(Decoded::Frame { frame, frame_bytes: again.len() }));
        }
        Ok(Decoded::NeedMore { total_bytes }) => assert!(total_bytes > bytes.len()),
        Err(malformed) => assert!(!malformed.to_string().is_empty()),
    }
}
