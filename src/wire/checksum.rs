//! CRC-32C of a frame. Most frames are of some ninety bytes, where finding out how to begin costs a library more than the sum itself.
#![deny(unsafe_code)]

use super::{CRC_OFFSET, HEADER_BYTES};

/// From here on, a library that sums several streams at once is faster than one instruction after the other.
#[cfg(target_arch = "x86_64")]
const LONG_BYTES_MIN: usize = 512;

/// CRC-32C (RFC 3720, appendix B.4) over the header without its last field, then the body.
pub(super) fn checksum(frame: &[u8]) -> u32 {
    let (header, body) = (&frame[..CRC_OFFSET], &frame[HEADER_BYTES..]);
    #[cfg(target_arch = "x86_64")]
    if body.len() < LONG_BYTES_MIN && std::arch::is_x86_feature_detected!("sse4.2") {
        #[expect(unsafe_code, reason = "the processor's instruction for this sum, which not every x86-64 processor has")]
        // SAFETY: the processor was just asked whether it has the instructions of SSE 4.2; the function has no other condition.
        return unsafe { short(header, body) };
    }
    crc32c::crc32c_append(crc32c::crc32c(header), body)
}

/// By the CRC32 instruction, eight bytes at a time, wherever they begin.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn short(header: &[u8], body: &[u8]) -> u32 {
    !sum(sum(!0, header), body)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn sum(crc: u32, bytes: &[u8]) -> u32 {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u32, _mm_crc32_u64};

    let (words, rest) = bytes.as_chunks::<8>();
    let wide = words.iter().fold(u64::from(crc), |crc, word| _mm_crc32_u64(crc, u64::from_le_bytes(*word)));
    let (words, rest) = rest.as_chunks::<4>();
    let crc = words.iter().fold(wide as u32, |crc, word| _mm_crc32_u32(crc, u32::from_le_bytes(*word)));
    rest.iter().fold(crc, |crc, byte| _mm_crc32_u8(crc, *byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_every_length_and_place_it_is_the_sum_that_the_library_computes() {
        let bytes: Vec<u8> = (0..2_000u32).map(|at| (at * at / 8) as u8).collect();
        for length in (HEADER_BYTES..100).chain([500, 526, 527, 528, 529, 530, 1_900]) {
            for start in 0..9 {
                let frame = &bytes[start..start + length];
                let joined = [&frame[..CRC_OFFSET], &frame[HEADER_BYTES..]].concat();
                assert_eq!(checksum(frame), crc32c::crc32c(&joined), "{length} bytes from {start}");
            }
        }
    }

    #[test]
    fn the_sum_is_that_of_the_standard() {
        // 32 bytes of zeros behind a header that counts as the first 12 of them.
        assert_eq!(checksum(&[0; 36]), 0x8a91_36aa);
    }
}
