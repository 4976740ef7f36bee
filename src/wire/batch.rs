//! BATCH: several frames in one, with one header and one checksum around them.
#![forbid(unsafe_code)]

use super::{Decoded, Frame, FrameType, HEADER_BYTES, Malformed, decode, header, seal};

/// The body of BATCH, borrowed: whole frames, one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRef<'a> {
    frames: &'a [u8],
}

impl<'a> BatchRef<'a> {
    /// Around encoded frames.
    pub fn new(frames: &'a [u8]) -> BatchRef<'a> {
        BatchRef { frames }
    }

    /// An empty one would be work that no rate limit sees.
    pub(super) fn decode(body: &'a [u8]) -> Result<BatchRef<'a>, Malformed> {
        if body.is_empty() { Err(Malformed::Batch { cause: "it is empty" }) } else { Ok(BatchRef::new(body)) }
    }

    /// The frames, encoded.
    pub fn bytes(&self) -> &'a [u8] {
        self.frames
    }

    /// Its frames in order, each with its own length. The first that is malformed is the last.
    pub fn frames(&self) -> Frames<'a> {
        Frames { rest: self.frames }
    }
}

/// The frames of a BATCH.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<(Frame<'a>, usize), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = std::mem::take(&mut self.rest);
        if bytes.is_empty() {
            return None;
        }
        // The batch's own length was checked against the limit.
        Some(match decode(bytes, u32::MAX) {
            Ok(Decoded::NeedMore { .. }) => Err(Malformed::Batch { cause: "its last frame is cut off" }),
            Ok(Decoded::Frame { frame: Frame::Batch(_), .. }) => Err(Malformed::Batch { cause: "it holds another BATCH" }),
            Ok(Decoded::Frame { frame, frame_bytes }) => {
                self.rest = &bytes[frame_bytes..];
                Ok((frame, frame_bytes))
            }
            Err(Malformed::Compression { .. }) => Err(Malformed::Batch { cause: "a frame in it is compressed by itself" }),
            Err(malformed) => Err(malformed),
        })
    }
}

/// Makes one BATCH of encoded frames.
pub fn wrap_batch(frames: &mut Vec<u8>) {
    frames.splice(0..0, header(FrameType::Batch as u8));
    debug_assert!(frames.len() > HEADER_BYTES, "a batch holds something");
    seal(frames);
}
