//! What lies in the database, byte by byte. Numbers in keys are big-endian, so that they sort; in values little-endian. Each value
//! begins with a CRC-32C of its key and the rest of it.
//!
//! | keyspace | key | value after the CRC |
//! |---|---|---|
//! | messages | channel (4), seq (8) | bytes of the channel up to and with it (8), body of a PUSH without channel |
//! | commits | number (8) | timestamp of its first message (8), next channel number (4), highest seq ever given (8), then for each message: fingerprint of sender and `client_msg_id` (8), channel (4), CRC of the content (4), seq (8) |
//! | state | `n`, name | channel (4), floor (8): the sequences up to here are over |
//! | state | `c`, channel (4), length of the client's name (1), client, `R` or `D` with device | where the cursor is (8) |
//! | state | `h`, channel (4), sequence (8) | up to here messages were lost to damage (8) |
//! | state | `m`, what | one number (8), or the key of the fingerprints (16) |
#![forbid(unsafe_code)]

use crate::{
    store::{CursorKind, message_bytes},
    wire::PushRef,
};

/// Bytes that are not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Damaged(pub String);

type Decoded<T> = Result<T, Damaged>;

const CRC_BYTES: usize = 4;

/// The key of a message.
pub(super) fn message_key(channel: u32, seq: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&channel.to_be_bytes());
    key[4..].copy_from_slice(&seq.to_be_bytes());
    key
}

/// Channel and sequence of a message's key.
pub(super) fn split_message_key(key: &[u8]) -> Decoded<(u32, u64)> {
    let mut fields = Fields { of: key, rest: key };
    let parts = (u32::from_be_bytes(fields.take()?), u64::from_be_bytes(fields.take()?));
    fields.end()?;
    Ok(parts)
}

/// The key of a commit.
pub(super) fn commit_key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// The number of a commit's key.
pub(super) fn split_commit_key(key: &[u8]) -> Decoded<u64> {
    key.try_into().map(u64::from_be_bytes).map_err(|_| Damaged(format!("the key of a commit has {} bytes", key.len())))
}

/// The key of a channel.
pub(super) fn channel_key(name: &str) -> Vec<u8> {
    [b"n", name.as_bytes()].concat()
}

/// The key of a cursor.
pub(super) fn cursor_key(channel: u32, client: &str, kind: CursorKind<'_>) -> Vec<u8> {
    let mut key = vec![b'c'];
    key.extend_from_slice(&channel.to_be_bytes());
    key.push(client.len() as u8);
    key.extend_from_slice(client.as_bytes());
    match kind {
        CursorKind::Read => key.push(b'R'),
        CursorKind::Received { device } => {
            key.push(b'D');
            key.extend_from_slice(device.as_bytes());
        }
    }
    key
}

/// The channel of a cursor's key.
pub(super) fn split_cursor_channel(key: &[u8]) -> Option<u32> {
    key.strip_prefix(b"c")?.first_chunk().map(|number| u32::from_be_bytes(*number))
}

/// The key of a hole that damage left in a channel.
pub(super) fn hole_key(channel: u32, from: u64) -> Vec<u8> {
    [b"h", &message_key(channel, from)[..]].concat()
}

/// The channel of a hole's key, and where it begins.
pub(super) fn split_hole_key(key: &[u8]) -> Decoded<(u32, u64)> {
    split_message_key(key.get(1..).unwrap_or_default())
}

/// Single numbers of the whole log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Messages with an older timestamp are over.
    Expired,
    /// Sequences up to here are not given (again) in any channel: a repair left them out.
    Base,
    /// The key of the fingerprints.
    FingerprintKey,
}

/// The key of such a number.
pub(super) fn mark_key(mark: Mark) -> &'static [u8] {
    match mark {
        Mark::Expired => b"mexpired",
        Mark::Base => b"mbase",
        Mark::FingerprintKey => b"mfingerprints",
    }
}

/// Puts the CRC in front of what was appended to `out` since `start`, where four bytes were left for it.
fn seal(key: &[u8], start: usize, out: &mut [u8]) {
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), &out[start + CRC_BYTES..]);
    out[start..start + CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
}

fn unseal<'a>(key: &'a [u8], value: &'a [u8]) -> Decoded<Fields<'a>> {
    let damaged = || Damaged(format!("the record {} has a wrong checksum", key.escape_ascii()));
    let (crc, rest) = value.split_first_chunk::<CRC_BYTES>().ok_or_else(damaged)?;
    if crc32c::crc32c_append(crc32c::crc32c(key), rest) != u32::from_le_bytes(*crc) {
        return Err(damaged());
    }
    Ok(Fields { of: key, rest })
}

/// Takes a value apart.
struct Fields<'a> {
    /// The key, for a message to a person.
    of: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        let (field, rest) = self
            .rest
            .split_first_chunk()
            .ok_or_else(|| Damaged(format!("the record {} is too short", self.of.escape_ascii())))?;
        self.rest = rest;
        Ok(*field)
    }

    fn u32(&mut self) -> Decoded<u32> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    fn u64(&mut self) -> Decoded<u64> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    fn end(&self) -> Decoded<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(Damaged(format!("the record {} is too long", self.of.escape_ascii()))) }
    }
}

/// A stored message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    /// The bytes of all messages that the channel ever had, up to and with this one.
    pub total: u64,
    /// As it stands in a page.
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Encodes `message`, which has its sequence and timestamp.
    pub(super) fn encode(key: &[u8; 12], total: u64, message: &PushRef<'_>) -> Vec<u8> {
        let mut value = Vec::with_capacity(CRC_BYTES + 8 + 48 + message_bytes(message) as usize);
        value.extend_from_slice(&[0; CRC_BYTES]);
        value.extend_from_slice(&total.to_le_bytes());
        message.encode_body(&mut value);
        seal(key, 0, &mut value);
        value
    }

    pub(super) fn decode(key: &'a [u8], value: &'a [u8]) -> Decoded<Message<'a>> {
        let mut fields = unseal(key, value)?;
        Ok(Message { total: fields.u64()?, body: fields.rest })
    }

    /// The message itself.
    pub(super) fn push(&self) -> Decoded<PushRef<'a>> {
        PushRef::decode_body(self.body).map_err(|why| Damaged(format!("a stored message cannot be read: {why}")))
    }
}

/// What a commit says of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub fingerprint: u64,
    pub channel: u32,
    /// Of sender, `client_msg_id` and payload.
    pub content_crc: u32,
    pub seq: u64,
}

/// A commit, without its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Commit {
    /// Of its first message; the others' follow one by one. Without messages: the last one before.
    pub timestamp: u64,
    pub next_channel: u32,
    pub seq_max: u64,
}

const COMMIT_BYTES: usize = CRC_BYTES + 8 + 4 + 8;
const ENTRY_BYTES: usize = 8 + 4 + 4 + 8;

impl Commit {
    /// Encodes it with its entries.
    pub(super) fn encode(&self, key: &[u8; 8], entries: &[Entry]) -> Vec<u8> {
        let mut value = Vec::with_capacity(COMMIT_BYTES + ENTRY_BYTES * entries.len());
        value.extend_from_slice(&[0; CRC_BYTES]);
        value.extend_from_slice(&self.timestamp.to_le_bytes());
        value.extend_from_slice(&self.next_channel.to_le_bytes());
        value.extend_from_slice(&self.seq_max.to_le_bytes());
        for entry in entries {
            value.extend_from_slice(&entry.fingerprint.to_le_bytes());
            value.extend_from_slice(&entry.channel.to_le_bytes());
            value.extend_from_slice(&entry.content_crc.to_le_bytes());
            value.extend_from_slice(&entry.seq.to_le_bytes());
        }
        seal(key, 0, &mut value);
        value
    }

    /// How many entries a commit's value has, as far as its length tells.
    pub(super) fn count(value: &[u8]) -> usize {
        value.len().saturating_sub(COMMIT_BYTES) / ENTRY_BYTES
    }

    /// Decodes it; its entries go to `entries`, in order.
    pub(super) fn decode(key: &[u8], value: &[u8], entries: &mut Vec<Entry>) -> Decoded<Commit> {
        let mut fields = unseal(key, value)?;
        let commit = Commit { timestamp: fields.u64()?, next_channel: fields.u32()?, seq_max: fields.u64()? };
        while !fields.rest.is_empty() {
            entries.push(Entry {
                fingerprint: fields.u64()?,
                channel: fields.u32()?,
                content_crc: fields.u32()?,
                seq: fields.u64()?,
            });
        }
        Ok(commit)
    }
}

/// A channel's number, and up to where it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Channel {
    pub number: u32,
    pub floor: u64,
}

impl Channel {
    pub(super) fn encode(&self, key: &[u8]) -> Vec<u8> {
        let mut value = vec![0; CRC_BYTES];
        value.extend_from_slice(&self.number.to_le_bytes());
        value.extend_from_slice(&self.floor.to_le_bytes());
        seal(key, 0, &mut value);
        value
    }

    pub(super) fn decode(key: &[u8], value: &[u8]) -> Decoded<Channel> {
        let mut fields = unseal(key, value)?;
        let channel = Channel { number: fields.u32()?, floor: fields.u64()? };
        fields.end()?;
        Ok(channel)
    }
}

/// Encodes a cursor, or a mark that is one number.
pub(super) fn encode_number(key: &[u8], number: u64) -> Vec<u8> {
    let mut value = vec![0; CRC_BYTES];
    value.extend_from_slice(&number.to_le_bytes());
    seal(key, 0, &mut value);
    value
}

/// Decodes a cursor, or a mark that is one number.
pub(super) fn decode_number(key: &[u8], value: &[u8]) -> Decoded<u64> {
    let mut fields = unseal(key, value)?;
    let number = fields.u64()?;
    fields.end()?;
    Ok(number)
}

/// Encodes the key of the fingerprints.
pub(super) fn encode_fingerprint_key(secret: [u8; 16]) -> Vec<u8> {
    let mut value = vec![0; CRC_BYTES];
    value.extend_from_slice(&secret);
    seal(mark_key(Mark::FingerprintKey), 0, &mut value);
    value
}

/// Decodes the key of the fingerprints.
pub(super) fn decode_fingerprint_key(value: &[u8]) -> Decoded<[u8; 16]> {
    let mut fields = unseal(mark_key(Mark::FingerprintKey), value)?;
    let secret = fields.take()?;
    fields.end()?;
    Ok(secret)
}

/// The CRC of what must be the same when a `client_msg_id` comes again.
pub(super) fn content_crc(message: &PushRef<'_>) -> u32 {
    let mut crc = 0;
    // A separator that no name contains keeps "ab", "c" and "a", "bc" apart.
    for part in [message.from_client.as_bytes(), &[0], message.from_device.as_bytes(), &[0]] {
        crc = crc32c::crc32c_append(crc, part);
    }
    crc = crc32c::crc32c_append(crc, &message.client_msg_id.to_le_bytes());
    crc32c::crc32c_append(crc, message.payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push() -> PushRef<'static> {
        PushRef {
            from_client: "alice",
            from_device: "phone",
            client_msg_id: 7,
            payload: b"hello",
            seq: 3,
            timestamp: 99,
            ..PushRef::default()
        }
    }

    #[test]
    fn records_come_back_and_tell_any_flipped_bit() {
        let key = message_key(5, 3);
        let message = Message::encode(&key, 1234, &push());
        let decoded = Message::decode(&key, &message).unwrap();
        assert_eq!((decoded.total, decoded.push().unwrap()), (1234, push()));

        let entries = [
            Entry { fingerprint: 1, channel: 2, content_crc: 3, seq: 4 },
            Entry { fingerprint: u64::MAX, channel: u32::MAX, content_crc: 0, seq: u64::MAX },
        ];
        let header = Commit { timestamp: 8, next_channel: 9, seq_max: 10 };
        let commit = header.encode(&commit_key(77), &entries);
        let mut seen = Vec::new();
        assert_eq!(Commit::decode(&commit_key(77), &commit, &mut seen), Ok(header));
        assert_eq!(seen, entries);

        let name = channel_key("group/a");
        let channel = Channel { number: 6, floor: 11 };
        let encoded = channel.encode(&name);
        assert_eq!(Channel::decode(&name, &encoded), Ok(channel));
        assert_eq!(decode_number(b"k", &encode_number(b"k", 12)), Ok(12));
        assert_eq!(decode_fingerprint_key(&encode_fingerprint_key([9; 16])), Ok([9; 16]));

        for bit in 0..message.len() * 8 {
            let mut flipped = message.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Message::decode(&key, &flipped).is_err(), "bit {bit}");
        }
        for length in 0..encoded.len() {
            assert!(Channel::decode(&name, &encoded[..length]).is_err(), "{length} bytes");
        }
        assert!(Message::decode(&message_key(5, 4), &message).is_err(), "a record at another's place");
    }

    #[test]
    fn keys_sort_as_their_numbers() {
        let keys = [(0, u64::MAX), (1, 0), (1, 255), (1, 256), (2, 1), (u32::MAX, 5)];
        let encoded: Vec<_> = keys.iter().map(|(channel, seq)| message_key(*channel, *seq)).collect();
        assert!(encoded.is_sorted());
        for ((channel, seq), key) in keys.iter().zip(&encoded) {
            assert_eq!(split_message_key(key), Ok((*channel, *seq)));
        }
        assert!(split_message_key(&[0; 11]).is_err() && split_message_key(&[0; 13]).is_err());
        assert_eq!(split_commit_key(&commit_key(5)), Ok(5));
    }

    #[test]
    fn cursors_of_different_names_have_different_keys() {
        let received = |client, device| cursor_key(1, client, CursorKind::Received { device });
        assert_ne!(received("ab", "c"), received("a", "bc"));
        assert_ne!(received("a", ""), cursor_key(1, "a", CursorKind::Read));
        assert_ne!(cursor_key(1, "aD", CursorKind::Read), received("a", "R"));
    }

    #[test]
    fn content_is_sender_number_and_payload() {
        let crc = content_crc(&push());
        for other in [
            PushRef { from_client: "bob", ..push() },
            PushRef { from_client: "alicep", from_device: "hone", ..push() },
            PushRef { client_msg_id: 8, ..push() },
            PushRef { payload: b"hullo", ..push() },
        ] {
            assert_ne!(content_crc(&other), crc);
        }
        assert_eq!(content_crc(&PushRef { seq: 0, timestamp: 0, ..push() }), crc);
    }
}
