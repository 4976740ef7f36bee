//! What the log has taken, in plain lists: the truth that everything else is held against. No code of the gateway is in it.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

/// Who sent it, and the number that the sender gave it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub client: String,
    pub device: String,
    pub number: u64,
}

/// One message of a channel; its sequence is its place in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub key: Key,
    pub timestamp: u64,
    pub payload: Vec<u8>,
}

/// Everything that was ever appended. Nothing is taken out when the log forgets it.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    channels: BTreeMap<String, Vec<Kept>>,
    places: BTreeMap<Key, (String, u64)>,
    timestamps: BTreeSet<u64>,
    /// Channel, client, and the device of a received cursor.
    cursors: BTreeMap<(String, String, Option<String>), u64>,
}

impl Ledger {
    /// A message was appended: it must be new, and behind the newest.
    pub fn appended(&mut self, channel: &str, seq: u64, kept: Kept) {
        let list = self.channels.entry(channel.to_owned()).or_default();
        assert_eq!(seq, list.len() as u64 + 1, "{:?} got a place in {channel} that is not the next", kept.key);
        let newest = self.timestamps.last().copied().unwrap_or(0);
        assert!(kept.timestamp > newest, "{:?} has timestamp {}, and {newest} was given before", kept.key, kept.timestamp);
        let earlier = self.places.insert(kept.key.clone(), (channel.to_owned(), seq));
        assert!(earlier.is_none(), "{:?} is in the log twice: {earlier:?} and {channel} {seq}", kept.key);
        self.timestamps.insert(kept.timestamp);
        list.push(kept);
    }

    /// A message was there before.
    pub fn repeated(&self, channel: &str, seq: u64, timestamp: u64, key: &Key) {
        let kept = self.at(channel, seq).unwrap_or_else(|| panic!("{key:?} is not at {channel} {seq}, where it is said to be"));
        assert_eq!((&kept.key, kept.timestamp), (key, timestamp), "a repeat got another answer than the first one");
    }

    /// The sender used the number before, for something else.
    pub fn reused(&self, channel: &str, key: &Key, payload: &[u8]) {
        let (before, seq) = self.places.get(key).unwrap_or_else(|| panic!("{key:?} is new, and was taken for another"));
        let same = before == channel && self.at(before, *seq).is_some_and(|kept| kept.payload == payload);
        assert!(!same, "{key:?} is a repeat, and was taken for another message");
    }

    pub fn advanced(&mut self, cursor: (String, String, Option<String>), to: u64, at: u64) {
        let kept = self.cursors.entry(cursor).or_default();
        *kept = to.max(*kept);
        assert_eq!(*kept, at, "a cursor is not where it was moved to");
    }

    pub fn forgotten(&mut self, cursor: &(String, String, Option<String>)) {
        self.cursors.remove(cursor);
    }

    pub fn at(&self, channel: &str, seq: u64) -> Option<&Kept> {
        self.channels.get(channel)?.get(usize::try_from(seq.checked_sub(1)?).ok()?)
    }

    pub fn place(&self, key: &Key) -> Option<(&str, u64)> {
        self.places.get(key).map(|(channel, seq)| (&**channel, *seq))
    }

    /// The newest sequence of a channel.
    pub fn last(&self, channel: &str) -> u64 {
        self.channels.get(channel).map_or(0, |list| list.len() as u64)
    }

    /// Who has a received cursor, and where: channel, client, device.
    pub fn devices(&self) -> Vec<(String, String, String)> {
        let of_device = |(channel, client, device): &(String, String, Option<String>)| {
            Some((channel.clone(), client.clone(), device.clone()?))
        };
        self.cursors.keys().filter_map(of_device).collect()
    }

    pub fn channels(&self) -> impl Iterator<Item = (&str, &[Kept])> {
        self.channels.iter().map(|(name, list)| (&**name, &**list))
    }
}
