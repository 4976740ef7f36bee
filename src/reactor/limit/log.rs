//! What a group was sent, once for all its members: memory that is used again from the beginning, and positions that only grow.
#![forbid(unsafe_code)]

/// The last bytes that were appended.
pub(super) struct Log {
    bytes: Box<[u8]>,
    /// The position behind the last byte.
    end: u64,
}

impl Log {
    /// A log of the last `capacity` bytes, at least one.
    pub(super) fn new(capacity: usize) -> Log {
        Log { bytes: vec![0; capacity.max(1)].into(), end: 0 }
    }

    /// The position behind the last byte.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// How many bytes can be appended so that all from `oldest` on stay.
    pub(super) fn room(&self, oldest: u64) -> usize {
        self.bytes.len() - (self.end - oldest) as usize
    }

    /// Appends `bytes`, over the oldest ones there are. The caller has asked for room.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        let at = self.index(self.end);
        let (head, tail) = bytes.split_at(bytes.len().min(self.bytes.len() - at));
        self.bytes[at..at + head.len()].copy_from_slice(head);
        self.bytes[..tail.len()].copy_from_slice(tail);
        self.end += bytes.len() as u64;
    }

    /// What follows `position`: all of it, or, where the memory begins again, the part before that.
    pub(super) fn after(&self, position: u64) -> &[u8] {
        let at = self.index(position);
        let length = (self.end - position).min((self.bytes.len() - at) as u64) as usize;
        &self.bytes[at..at + length]
    }

    fn index(&self, position: u64) -> usize {
        (position % self.bytes.len() as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reader_gets_every_byte_however_the_memory_is_used_again() {
        let mut log = Log::new(16);
        let (mut written, mut positions, mut read) = (Vec::new(), [0u64, 0], [Vec::new(), Vec::new()]);
        for step in 0..1_000usize {
            let oldest = positions[0].min(positions[1]);
            let bytes: Vec<u8> = (0..step % 7).map(|at| (step + at) as u8).take(log.room(oldest)).collect();
            log.append(&bytes);
            written.extend(bytes);
            for reader in 0..2 {
                // The second one is slower: it takes one byte at a time.
                let after = log.after(positions[reader]);
                let taken = if reader == 0 { after } else { &after[..after.len().min(1)] };
                read[reader].extend_from_slice(taken);
                positions[reader] += taken.len() as u64;
            }
        }
        assert!(written.len() > 500);
        for reader in 0..2 {
            while positions[reader] < log.end() {
                let after = log.after(positions[reader]);
                read[reader].extend_from_slice(after);
                positions[reader] += after.len() as u64;
            }
            assert_eq!(read[reader], written);
        }
    }
}
