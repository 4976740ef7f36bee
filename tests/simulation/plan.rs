//! What one seed decides before the run begins: the shape of the gateway, its limits, and what its clients are like.
#![forbid(unsafe_code)]

use std::sync::Arc;

use weir::{
    ids::ShardId,
    session::{DeviceClass, HeartbeatRules, Policy, Rate, Rules},
    shard::{GoawayRules, Limits, Settings, Timeouts},
};

use crate::{presence::Ways, rng::Rng};

pub const SECOND_US: u64 = 1_000_000;
/// Everything that goes through the mesh, a sleeping shard or a coarse timer may take this long, and is still on time.
pub const SLACK_US: u64 = 2 * SECOND_US;
/// The wall clock when a run begins, in microseconds since the Unix epoch.
pub const WALL_US: u64 = 1_767_225_600_000_000;
/// Device classes in this order: allow many, keep newest, refuse newest.
pub const CLASSES: [(&str, Policy); 3] =
    [("many", Policy::AllowMany), ("newest", Policy::KeepNewest), ("oldest", Policy::RefuseNewest)];

pub struct Plan {
    pub shards: u16,
    /// Messages that fit into the ring between two shards.
    pub ring: usize,
    /// Connections that fit into one reactor's table.
    pub slots: usize,
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub heartbeat: HeartbeatRules,
    pub rates: (Rate, Rate),
    pub max_body_bytes: u32,
    pub hash_key: (u64, u64),
    /// The wall clock at tick 0, in microseconds.
    pub wall_us: u64,
    /// Names of clients, devices of each, groups.
    pub clients: u64,
    pub devices: u64,
    pub groups: u64,
    pub addresses: u64,
    /// Connections made over the whole run.
    pub peers: usize,
    /// When the first comes, and within which time the others.
    pub begin_us: u64,
    pub spread_us: u64,
    pub payload_max: u64,
    /// A peer's socket buffers take so many bytes.
    pub socket_bytes: usize,
    /// A shard comes back to work after this long, or, now and then, after a stall.
    pub turn_us: u64,
    pub stall_us: u64,
    /// Every peer is what a good client should be; then nothing may be missing and nobody may be turned away.
    pub all_good: bool,
    /// The gateway is stopped while clients are still there.
    pub drain: bool,
    /// Whom peers watch.
    pub presence: Ways,
}

impl Plan {
    pub fn new(rng: &mut Rng) -> Plan {
        let all_good = rng.chance(40);
        let crowded = !all_good && rng.chance(30);
        let heavy = rng.chance(10);
        let tight = !heavy && rng.chance(40);
        let limits = Limits {
            connections: if crowded { rng.range(4, 12) as u32 } else { 10_000 },
            connections_per_address: match rng.range(0, 3) {
                0 => 0,
                1 if !all_good => rng.range(1, 6) as u32,
                _ => 10_000,
            },
            logins_per_second: if !all_good && rng.chance(20) { rng.range(1, 20) as u32 } else { 0 },
            outbound_bytes_per_connection: if tight { 6 * 1024 } else { 64 * 1024 * 1024 },
            outbound_bytes_per_shard: if tight && rng.chance(50) { 24 * 1024 } else { 256 * 1024 * 1024 },
            inbound_bytes_per_shard: 64 * 1024 * 1024,
            memberships_per_shard: 1_000_000,
            devices_per_client: 64,
            watches_per_connection: 256,
            watches_per_shard: 1_000_000,
            watchers_per_client: 1_000,
            heartbeats_per_second: 1,
            groups_per_connection: if rng.chance(30) { 2 } else { 256 },
        };
        let interval_ms = rng.range(1_000, 3_000) as u32;
        // Not drawn, so that earlier seeds stay what they are.
        let limits = Limits { heartbeats_per_second: 1 + interval_ms % 8, ..limits };
        Plan {
            shards: rng.range(1, 4) as u16,
            ring: if rng.chance(70) { rng.range(1, 4) as usize } else { 64 },
            slots: if crowded { rng.range(4, 16) as usize } else { 64 },
            limits,
            timeouts: Timeouts {
                login_ms: rng.range(4_000, 6_000) as u32,
                frame_ms: 60_000,
                write_ms: 5_000,
                linger_ms: 1_500,
                settle_ms: 500,
            },
            heartbeat: HeartbeatRules {
                interval_ms,
                interval_min_ms: 500,
                interval_max_ms: 4_000,
                missed_max: rng.range(2, 3) as u32,
                probe_timeout_ms: 3_000,
            },
            rates: if !all_good && rng.chance(20) {
                (Rate { per_second: rng.range(3, 30) as u32 }, Rate { per_second: 64 * 1024 })
            } else {
                (Rate { per_second: 0 }, Rate { per_second: 0 })
            },
            max_body_bytes: 64 * 1024,
            hash_key: (rng.next(), rng.next()),
            wall_us: WALL_US,
            clients: rng.range(1, 8),
            devices: rng.range(1, 4),
            groups: rng.range(1, 5),
            addresses: rng.range(1, 8),
            peers: rng.range(4, 48) as usize,
            begin_us: rng.pick(&[0, 1_000, 200 * SECOND_US, 4_000 * SECOND_US]),
            spread_us: rng.pick(&[50_000, SECOND_US, 8 * SECOND_US]),
            payload_max: if heavy { 60_000 } else { rng.pick(&[8, 200, 1_200]) },
            socket_bytes: if heavy { 128 * 1024 } else { rng.pick(&[200, 600, 4_096, 64 * 1024]) },
            turn_us: rng.pick(&[50, 500, 3_000]),
            stall_us: if rng.chance(50) { rng.range(5_000, 60_000) } else { 0 },
            all_good,
            drain: rng.chance(40),
            presence: Ways::default(),
        }
    }

    pub fn settings(&self, id: u16) -> Settings {
        let device_classes = CLASSES.map(|(name, policy)| DeviceClass { name: name.to_owned(), policy });
        let rules = Rules {
            verifier: None,
            device_classes: device_classes.into(),
            heartbeat: self.heartbeat,
            frames: self.rates.0,
            bytes: self.rates.1,
            max_body_bytes: self.max_body_bytes,
            wall_at_start_us: self.wall_us,
        };
        Settings {
            id: ShardId(id),
            shards: self.shards,
            hash_key: self.hash_key,
            rules: Arc::new(rules),
            limits: self.limits,
            timeouts: self.timeouts,
            goaway: GoawayRules { delay_min_ms: 1, delay_max_ms: 100, alternatives: vec!["other:7400".to_owned()] },
        }
    }

    /// Whether a shard's outbound budget may be used up, which can end whoever holds more than its share then.
    pub fn has_small_budget(&self) -> bool {
        self.limits.outbound_bytes_per_shard < 1 << 20
    }

    pub fn has_rate_limit(&self) -> bool {
        self.rates.0.per_second > 0
    }

    /// Silence for so long brings a probe, at the latest.
    pub fn silence_max_us(&self) -> u64 {
        u64::from(self.heartbeat.interval_max_ms.max(self.heartbeat.interval_ms)) * u64::from(self.heartbeat.missed_max) * 1_000
    }
}
