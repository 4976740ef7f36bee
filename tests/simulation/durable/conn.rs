//! One connection of a device, as the device sees it.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};

use weir::wire::{ErrorCode, Frame, FrameType, Packer, Unpacker, encode, wrap_batch};

use super::shelf::Spot;
use crate::rng::Rng;

/// What a JOIN or LEAVE that was sent waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    JoinOk,
    LeaveOk,
}

/// A SYNC that waits for its PAGE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub channel: String,
    pub from: u64,
    pub limit: u32,
    /// What was known of the channel then.
    pub known: u64,
}

/// Something that must be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mistake {
    pub frame: FrameType,
    pub code: ErrorCode,
    /// Of a SEND.
    pub number: u64,
}

#[derive(Debug, Default)]
pub struct Conn {
    /// Index among the links.
    pub link: usize,
    pub opened_at: u64,
    /// Frames that were said since the last write.
    pub said: Vec<u8>,
    pub tx: VecDeque<u8>,
    pub rx: Vec<u8>,
    pub online: bool,
    /// LOGIN asked for these, and gets them.
    pub batches: bool,
    pub zstd: bool,
    pub packer: Packer,
    pub unpacker: Unpacker,
    /// What LOGIN asked for; 0: it takes no part.
    pub window: u32,
    pub interval_us: u64,
    pub last_write_at: u64,
    /// By channel, from LOGIN or JOIN on.
    pub spots: BTreeMap<String, Spot>,
    pub due: BTreeMap<String, VecDeque<Due>>,
    /// Members according to JOIN_OK and LEAVE_OK.
    pub members: BTreeMap<String, bool>,
    /// Durable messages of each channel that were sent and not accepted yet, in order.
    pub sent: BTreeMap<String, VecDeque<u64>>,
    /// SENDs of durable messages that wait for an answer, by their numbers.
    pub unanswered: BTreeMap<u64, u32>,
    pub syncs: Vec<Asked>,
    pub mistakes: Vec<Mistake>,
    /// READs that may still be refused.
    pub reads: u64,
    /// The last transient message of each sender and channel.
    pub passed: BTreeMap<(usize, String), u64>,
    pub paused_until: u64,
    pub ever_paused: bool,
    /// Why the gateway ends it.
    pub ending: Option<ErrorCode>,
    pub going: bool,
    pub closed_itself: bool,
}

impl Conn {
    pub fn put(&mut self, frame: &Frame<'_>) {
        encode(frame, &mut self.said);
    }

    /// Hands what was said to the stream, perhaps as one BATCH, perhaps compressed.
    pub fn flush(&mut self, rng: &mut Rng, max_body_bytes: u32) {
        let mut said = std::mem::take(&mut self.said);
        if self.online && self.batches && !said.is_empty() && said.len() <= max_body_bytes as usize && rng.chance(40) {
            wrap_batch(&mut said);
            let mut packed = Vec::new();
            if self.zstd && rng.chance(50) && self.packer.pack(&said, &mut packed) {
                said = packed;
            }
        }
        self.tx.extend(said);
    }

    /// Whether nothing waits to be written.
    pub fn is_silent(&self) -> bool {
        self.tx.is_empty() && self.said.is_empty()
    }

    /// Pushed and not acknowledged, in all channels.
    pub fn waiting(&self) -> usize {
        self.spots.values().map(|spot| spot.waiting.len()).sum()
    }

    pub fn is_member(&self, channel: &str) -> bool {
        self.members.get(channel).copied().unwrap_or(false)
    }

    /// Whether a JOIN or LEAVE of the group waits for its answer.
    pub fn is_due(&self, channel: &str) -> bool {
        self.due.get(channel).is_some_and(|due| !due.is_empty())
    }
}
