//! The keyed hash that decides where everything lives.
#![forbid(unsafe_code)]

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher13;

use crate::ids::ShardId;

/// SipHash-1-3 with a secret key, so that no client can choose its shard or make names collide.
#[derive(Clone, Copy, Debug)]
pub struct Keyed {
    key: (u64, u64),
}

impl Keyed {
    /// All shards of a gateway take the same key.
    pub fn new(key0: u64, key1: u64) -> Keyed {
        Keyed { key: (key0, key1) }
    }

    /// Of a client or a group.
    pub fn name(&self, name: &str) -> u64 {
        self.hash(name.as_bytes())
    }

    /// Of what a later message of the same channel and key replaces.
    pub fn place(&self, channel: &str, key: &str) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        hasher.write(channel.as_bytes());
        // A byte that names do not hold.
        hasher.write(&[0]);
        hasher.write(key.as_bytes());
        hasher.finish()
    }

    /// Of a peer's address; never 0. IPv6 addresses count by /64, the smallest block that one host is given (RFC 6177).
    pub fn address(&self, address: IpAddr) -> u64 {
        let hash = match address.to_canonical() {
            IpAddr::V4(address) => self.hash(&address.octets()),
            IpAddr::V6(address) => self.hash(&address.octets()[..8]),
        };
        hash.max(1)
    }

    fn hash(&self, bytes: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        hasher.write(bytes);
        hasher.finish()
    }
}

/// The shard where the owner of this hash lives.
pub fn home(hash: u64, shards: u16) -> ShardId {
    // The upper bits: the directory's table uses the lower ones.
    ShardId((((hash >> 32) * u64::from(shards)) >> 32) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_spread_evenly() {
        let keyed = Keyed::new(3, 4);
        for shards in [1, 2, 3, 4, 60] {
            let mut counts = vec![0u32; usize::from(shards)];
            for client in 0..60_000 {
                counts[home(keyed.name(&format!("c{client}")), shards).index()] += 1;
            }
            let expected = 60_000 / u32::from(shards);
            assert!(counts.iter().all(|count| count.abs_diff(expected) < expected / 5), "{shards}: {counts:?}");
        }
    }

    #[test]
    fn neighbours_in_one_ipv6_block_count_together() {
        let keyed = Keyed::new(3, 4);
        let address = |text: &str| keyed.address(text.parse().expect("an address"));
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:1"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:10.0.0.1"), address("10.0.0.1"));
    }
}
