//! Any bytes: decoding never panics, what decodes encodes to something that decodes to the same, and prost agrees on hot bodies.
#![no_main]
#![forbid(unsafe_code)]

#[path = "../../../shared/oracle.rs"]
mod oracle;

use libfuzzer_sys::fuzz_target;
use weir::wire::{Decoded, HEADER_BYTES, decode, encode};

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
