//! Compressed bodies: one zstd frame (RFC 8878) in place of the body.
//!
//! Decompressing is bounded from all sides before it begins and while it goes on: the output is written into one buffer that
//! has no more room than the limit, which also serves as the window, so that neither a false content size nor a large window
//! costs memory.
#![forbid(unsafe_code)]

use zstd_safe::{CCtx, CParameter, DCtx};

use super::{Decoded, FLAG_COMPRESSED, Found, FrameType, HEADER_BYTES, Malformed, decode_body, find, seal};
use crate::limits::{COMPRESS_LEVEL, COMPRESS_SAVING_SHARE, UNPACKED_BYTES_KEPT, WINDOW_BYTES_MAX};

/// How a zstd frame begins. A skippable frame has another magic number, and is no body.
const MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
/// `ZSTD_error_dstSize_tooSmall`; the numbers of zstd's errors are stable.
const NO_ROOM: usize = 70;

/// Compresses bodies. One serves a whole core, and takes its memory with the first.
#[derive(Default)]
pub struct Packer {
    context: Option<CCtx<'static>>,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").field("in_use", &self.context.is_some()).finish()
    }
}

impl Packer {
    /// Puts a whole frame into `out` with its body compressed. Returns false, and leaves anything in `out`, if that saves too little.
    pub fn pack(&mut self, frame: &[u8], out: &mut Vec<u8>) -> bool {
        let (header, body) = frame.split_at(HEADER_BYTES);
        let context = self.context.get_or_insert_with(|| {
            let mut context = CCtx::create();
            context.set_parameter(CParameter::CompressionLevel(COMPRESS_LEVEL)).expect("a level that zstd has");
            context
        });
        // Where there is no room for a larger result, zstd gives up by itself.
        out.clear();
        out.resize(HEADER_BYTES + body.len() - body.len() / COMPRESS_SAVING_SHARE, 0);
        let Ok(length) = context.compress2(&mut out[HEADER_BYTES..], body) else { return false };
        out.truncate(HEADER_BYTES + length);
        out[..HEADER_BYTES].copy_from_slice(header);
        let flags = u16::from_be_bytes([header[4], header[5]]) | FLAG_COMPRESSED;
        out[4..6].copy_from_slice(&flags.to_be_bytes());
        seal(out);
        true
    }
}

/// Reads frames of a peer that may compress. One serves a whole core, and takes its memory with the first compressed body.
#[derive(Default)]
pub struct Unpacker {
    context: Option<DCtx<'static>>,
    body: Vec<u8>,
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacker").field("buffer_bytes", &self.body.capacity()).finish()
    }
}

impl Unpacker {
    /// As [`super::decode`], but a body may be compressed; `max_body_bytes` holds for it before and after.
    ///
    /// # Errors
    /// [`Malformed`], on which the connection is answered with its code and closed.
    pub fn decode<'a>(&'a mut self, bytes: &'a [u8], max_body_bytes: u32) -> Result<Decoded<'a>, Malformed> {
        self.decode_weighed(bytes, max_body_bytes, &mut 0)
    }

    /// As `decode`; `full_bytes` becomes what a compressed frame takes up decompressed, header included, and stays for others.
    ///
    /// # Errors
    /// As `decode`.
    pub fn decode_weighed<'a>(
        &'a mut self,
        bytes: &'a [u8],
        max_body_bytes: u32,
        full_bytes: &mut usize,
    ) -> Result<Decoded<'a>, Malformed> {
        let (kind, flags, body, frame_bytes) = match find(bytes, max_body_bytes, FLAG_COMPRESSED)? {
            Found::NeedMore { total_bytes } => return Ok(Decoded::NeedMore { total_bytes }),
            Found::Frame { kind, flags, body, frame_bytes } => (kind, flags, body, frame_bytes),
        };
        // What is skipped is not looked into.
        let body = if flags & FLAG_COMPRESSED == 0 || FrameType::from_byte(kind).is_none() {
            body
        } else {
            let body = self.unpack(body, max_body_bytes)?;
            *full_bytes = HEADER_BYTES + body.len();
            body
        };
        let frame = decode_body(kind, flags, body)?;
        Ok(Decoded::Frame { frame, frame_bytes })
    }

    fn unpack(&mut self, packed: &[u8], max_body_bytes: u32) -> Result<&[u8], Malformed> {
        let malformed = |cause| Malformed::Compression { cause };
        let header = FrameHeader::read(packed).map_err(malformed)?;
        let limit = u64::from(max_body_bytes);
        if header.content_bytes.is_some_and(|content| content > limit) {
            return Err(Malformed::DecompressedTooLong { limit: max_body_bytes });
        }
        if header.window_bytes > WINDOW_BYTES_MAX {
            return Err(malformed("its window is larger than a body may ask for"));
        }
        if zstd_safe::find_frame_compressed_size(packed) != Ok(packed.len()) {
            return Err(malformed("it is not one whole zstd frame"));
        }
        let room = header.content_bytes.unwrap_or(limit) as usize;
        self.body.clear();
        if room <= UNPACKED_BYTES_KEPT {
            self.body.shrink_to(UNPACKED_BYTES_KEPT);
        }
        self.body.reserve_exact(room);
        let context = self.context.get_or_insert_with(DCtx::create);
        match context.decompress(&mut self.body, packed) {
            Ok(_) if self.body.len() as u64 > limit => Err(Malformed::DecompressedTooLong { limit: max_body_bytes }),
            Ok(_) => Ok(&self.body),
            Err(code) if code.wrapping_neg() == NO_ROOM && header.content_bytes.is_none() => {
                Err(Malformed::DecompressedTooLong { limit: max_body_bytes })
            }
            Err(code) => Err(malformed(zstd_safe::get_error_name(code))),
        }
    }
}

/// What a zstd frame says of itself (RFC 8878, section 3.1.1.1).
#[derive(Debug, PartialEq, Eq)]
struct FrameHeader {
    /// 0 when the content, as long as it says, is the window.
    window_bytes: u64,
    content_bytes: Option<u64>,
}

impl FrameHeader {
    fn read(bytes: &[u8]) -> Result<FrameHeader, &'static str> {
        const CUT: &str = "it is cut off";
        let rest = bytes.strip_prefix(&MAGIC).ok_or("it does not begin like a zstd frame")?;
        let (&descriptor, mut rest) = rest.split_first().ok_or(CUT)?;
        let mut number = |length: usize| -> Result<u64, &'static str> {
            let (taken, behind) = rest.split_at_checked(length).ok_or(CUT)?;
            rest = behind;
            Ok(taken.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte)))
        };
        let is_single = descriptor & 0x20 != 0;
        if descriptor & 0x08 != 0 {
            return Err("it sets a reserved bit");
        }
        let window_bytes = if is_single {
            0
        } else {
            let window = number(1)?;
            let base = 1u64 << (10 + (window >> 3));
            base + base / 8 * (window & 7)
        };
        if number([0, 1, 2, 4][usize::from(descriptor & 3)])? != 0 {
            return Err("it needs a dictionary");
        }
        let content_bytes = match (descriptor >> 6, is_single) {
            (0, false) => None,
            (0, true) => Some(number(1)?),
            (1, _) => Some(number(2)? + 256),
            (2, _) => Some(number(4)?),
            _ => Some(number(8)?),
        };
        Ok(FrameHeader { window_bytes, content_bytes })
    }
}

#[cfg(test)]
mod tests;
