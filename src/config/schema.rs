//! Every setting, once.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::LazyLock;

use super::value::{Bounds, DeviceClasses, Raw, ReactorChoice, Secret, Typed};
use crate::limits::{
    BODY_BYTES_CEILING, BODY_BYTES_DEFAULT, BYTES_PER_SECOND_DEFAULT, BYTES_PER_SECOND_MAX, CONNECTIONS_PER_ADDRESS_DEFAULT,
    COUNT_CEILING, DEVICES_PER_CLIENT_DEFAULT, FRAMES_PER_SECOND_DEFAULT, GROUPS_PER_CONNECTION_DEFAULT,
    HEARTBEAT_INTERVAL_MAX_MS_DEFAULT, HEARTBEAT_INTERVAL_MIN_MS_DEFAULT, HEARTBEAT_INTERVAL_MS_DEFAULT,
    HEARTBEAT_INTERVAL_MS_MIN, LOGIN_BODY_BYTES_MAX, LOGINS_PER_SECOND_PER_SHARD_DEFAULT, MEMBERSHIPS_PER_SHARD_DEFAULT,
    OUTBOUND_BYTES_PER_CONNECTION_DEFAULT, OUTBOUND_BYTES_PER_SHARD_DEFAULT, PRESENCE_SETTLE_MS_DEFAULT, RECEIVE_IDLE_MS_DEFAULT,
    SHARDS_MAX, STORE_CACHE_BYTES_DEFAULT, STORE_CACHED_CHANNELS_DEFAULT, STORE_CHANNEL_BYTES_DEFAULT,
    STORE_CHANNEL_MESSAGES_DEFAULT, STORE_CHANNELS_DEFAULT, STORE_DEDUP_MESSAGES_DEFAULT, STORE_DEDUP_MESSAGES_MAX,
    STORE_DEDUP_WINDOW_S_DEFAULT, STORE_MEMTABLE_BYTES_DEFAULT, STORE_MEMTABLE_BYTES_MIN, STORE_RESERVE_BYTES_DEFAULT,
    STORE_RETENTION_AGE_S_DEFAULT, TIME_MS_MAX, TIMER_TICK_MS, WATCHERS_PER_CLIENT_DEFAULT, WATCHERS_PER_CLIENT_MAX,
    WATCHES_PER_CONNECTION_DEFAULT, WATCHES_PER_SHARD_DEFAULT,
};

/// One setting: its names, and how to read and write it.
pub struct Setting {
    /// The key in the file, with its table: "limits.max_body_bytes".
    pub key: &'static str,
    /// The flag, without the dashes in front: "limits-max-body-bytes".
    pub flag: String,
    /// The variable: "WEIR_LIMITS_MAX_BODY_BYTES".
    pub variable: String,
    /// What it means, with its unit.
    pub help: &'static str,
    /// What stands for the value in the help.
    pub placeholder: &'static str,
    /// The value must not be shown.
    pub secret: bool,
    /// The flag may stand without a value.
    pub switch: bool,
    pub(super) read: fn(&mut Config, &Raw) -> Result<(), String>,
    pub(super) to_toml: fn(&Config) -> String,
}

impl Setting {
    fn named<T: Typed>(key: &'static str, help: &'static str, read: Reader, to_toml: Writer) -> Setting {
        Setting {
            key,
            flag: key.replace(['.', '_'], "-"),
            variable: format!("WEIR_{}", key.replace('.', "_").to_uppercase()),
            help: help.trim(),
            placeholder: T::PLACEHOLDER,
            secret: T::SECRET,
            switch: T::SWITCH,
            read,
            to_toml,
        }
    }
}

type Reader = fn(&mut Config, &Raw) -> Result<(), String>;
type Writer = fn(&Config) -> String;

/// All settings, in the order of the file: the top level first, then table by table.
pub static SETTINGS: LazyLock<Vec<Setting>> = LazyLock::new(|| {
    let mut all = Vec::new();
    Config::describe(&mut all);
    Auth::describe(&mut all);
    Heartbeat::describe(&mut all);
    Timeouts::describe(&mut all);
    Limits::describe(&mut all);
    Presence::describe(&mut all);
    Store::describe(&mut all);
    Goaway::describe(&mut all);
    // In TOML a table ends the top level.
    let classes = all.iter().position(|setting| setting.key == "device_classes").expect("it is a field of Config");
    let classes = all.remove(classes);
    all.push(classes);
    all
});

/// Defines a struct, its defaults, and what `SETTINGS` says about each field. `as "auth."` is how its keys start, `at` its place in
/// [`Config`], and `tables` are fields that are structs of settings themselves.
macro_rules! settings {
    (
        $(#[doc = $about:literal])+
        $name:ident as $prefix:literal at |$config:ident| $place:expr => {
            $($(#[doc = $help:literal])+ $field:ident: $type:ty = $default:expr, $bounds:expr;)+
            $(tables { $($(#[doc = $table_help:literal])+ $table:ident: $table_type:ty,)+ })?
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $($(#[doc = $help])+ pub $field: $type,)+
            $($($(#[doc = $table_help])+ pub $table: $table_type,)+)?
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $($field: $default,)+ $($($table: Default::default(),)+)? }
            }
        }

        impl $name {
            fn describe(all: &mut Vec<Setting>) {
                $(all.push(Setting::named::<$type>(
                    concat!($prefix, stringify!($field)),
                    concat!($($help),+),
                    |$config, raw| {
                        $place.$field = <$type as Typed>::read(raw, &$bounds)?;
                        Ok(())
                    },
                    |$config| $place.$field.to_toml(),
                ));)+
            }
        }
    };
}

const NONE: Bounds = Bounds::NONE;

/// A deadline, not shorter than the timers can tell.
const DEADLINE: Bounds = Bounds {
    min: TIMER_TICK_MS as u64,
    max: TIME_MS_MAX as u64,
    zero: None,
    why: "timers tick every 64 ms, and a deadline over a day protects nothing",
};

const DELAY: Bounds = Bounds { min: 0, max: TIME_MS_MAX as u64, zero: None, why: "nobody waits longer than a day" };

const INTERVAL: Bounds = Bounds {
    min: HEARTBEAT_INTERVAL_MS_MIN as u64,
    max: TIME_MS_MAX as u64,
    zero: None,
    why: "shorter ones are a load of their own, and routers on the way forget connections that are silent for long",
};

const fn limit(zero: &'static str) -> Bounds {
    Bounds { min: 1, max: COUNT_CEILING, zero: Some(zero), why: "larger numbers limit nothing" }
}

const fn limit_u32(zero: &'static str) -> Bounds {
    Bounds { max: u32::MAX as u64, ..limit(zero) }
}

settings! {
    /// The whole configuration.
    Config as "" at |config| config => {
        /// Where clients connect: address and port. Default 0.0.0.0:7700, in developer mode 127.0.0.1:7700. Port 0 takes a free one.
        listen: SocketAddr = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 7700)), NONE;
        /// How many shards there are. 0: one for each core that this process may use.
        shards: u16 = 0, Bounds {
            min: 1,
            max: SHARDS_MAX as u64,
            zero: Some("one per core"),
            why: "every pair of shards has a ring of its own, and memory grows with the square",
        };
        /// What drives the sockets: auto takes io_uring where the kernel allows it, else epoll. glommio must have been built in.
        reactor: ReactorChoice = ReactorChoice::Auto, NONE;
        /// Developer mode: LOGIN needs no token, and the gateway listens on loopback only.
        dev: bool = false, NONE;
        /// Where messages are kept: a directory, or "memory", which a restart empties. Default weir-data, in developer mode memory.
        data: String = "weir-data".to_owned(), NONE;
        /// Where Prometheus finds the metrics: address and port. Empty: nowhere.
        metrics: Option<SocketAddr> = None, NONE;
        /// What this gateway is called in logs and metrics. Default: the host's name.
        node: String = String::new(), NONE;
        /// What happens when a second device of a class logs in for the same client: allow_many, keep_newest or refuse_newest
        /// for each class. Replaces the built-in classes as a whole; "default" is always there, for a LOGIN that names no class.
        device_classes: DeviceClasses = DeviceClasses::default(), NONE;
        tables {
            /// Who may log in.
            auth: Auth,
            /// How the gateway learns that a client is gone.
            heartbeat: Heartbeat,
            /// How long things may take.
            timeouts: Timeouts,
            /// How much anybody may use.
            limits: Limits,
            /// What watchers learn of clients.
            presence: Presence,
            /// How much is kept of durable messages, and what that may cost.
            store: Store,
            /// What clients are told when the gateway stops.
            goaway: Goaway,
        }
    }
}

settings! {
    /// Who may log in: the keys that tokens are verified with. Several kinds may be configured at once.
    Auth as "auth." at |config| config.auth => {
        /// The secret of HS256 tokens: at least 32 bytes of text.
        hs256_secret: Secret = Secret::default(), NONE;
        /// A file with the secret of HS256 tokens; white space at its end does not count.
        hs256_secret_file: String = String::new(), NONE;
        /// A PEM file with the RSA public key of RS256 tokens.
        rs256_public_key_file: String = String::new(), NONE;
        /// A PEM file with the Ed25519 public key of EdDSA tokens.
        eddsa_public_key_file: String = String::new(), NONE;
        /// A token must name one of these in its claim `aud`. Empty: `aud` is not looked at.
        audience: Vec<String> = Vec::new(), NONE;
        /// How far the clocks of token issuers may be off, in seconds.
        leeway_s: u32 = 30, Bounds { min: 0, max: 3_600, zero: None, why: "an expired token must not stay good for long" };
    }
}

settings! {
    /// How the gateway learns that a client is gone.
    Heartbeat as "heartbeat." at |config| config.heartbeat => {
        /// The heartbeat interval that a new connection is told, in milliseconds; of very many connections, a longer one.
        interval_ms: u32 = HEARTBEAT_INTERVAL_MS_DEFAULT, INTERVAL;
        /// The shortest interval that the gateway asks for, on a good path, in milliseconds.
        interval_min_ms: u32 = HEARTBEAT_INTERVAL_MIN_MS_DEFAULT, INTERVAL;
        /// The longest interval that the gateway asks for, on a slow or lossy path or of very many connections, in milliseconds.
        interval_max_ms: u32 = HEARTBEAT_INTERVAL_MAX_MS_DEFAULT, INTERVAL;
        /// After this many silent intervals the gateway probes the client.
        missed_max: u32 = 3, Bounds { min: 1, max: 100, zero: None, why: "one lost packet must not close a connection, and a dead one must not stay" };
        /// How long a probe may go unanswered before the connection is closed, in milliseconds.
        probe_timeout_ms: u32 = 10_000, DEADLINE;
    }
}

settings! {
    /// How long things may take.
    Timeouts as "timeouts." at |config| config.timeouts => {
        /// From connecting to a complete LOGIN, in milliseconds.
        login_ms: u32 = 5_000, DEADLINE;
        /// From the first byte of a frame to its last, in milliseconds.
        frame_ms: u32 = 30_000, DEADLINE;
        /// How long 16 KiB may take to leave before the client counts as a slow consumer, in milliseconds.
        write_ms: u32 = 10_000, DEADLINE;
        /// TCP_USER_TIMEOUT: how long sent data may stay unacknowledged before the kernel drops the connection, in milliseconds. 0: the kernel's own rule.
        tcp_user_timeout_ms: u32 = 30_000, Bounds {
            min: 1_000,
            max: TIME_MS_MAX as u64,
            zero: Some("the kernel's own rule"),
            why: "a single retransmission takes up to a second",
        };
        /// How long a closing connection may take to read its last frame, in milliseconds.
        linger_ms: u32 = 1_000, DEADLINE;
        /// A connection that sends nothing for this long, in milliseconds, or twice as long at most, is waited for by a poll instead of a
        /// receive on io_uring: 256 bytes of the kernel's memory instead of 864, and a little more CPU for its next bytes. 0: never.
        receive_idle_ms: u32 = RECEIVE_IDLE_MS_DEFAULT, Bounds {
            min: TIMER_TICK_MS as u64,
            max: TIME_MS_MAX as u64,
            zero: Some("never"),
            why: "to look for idle connections all the time costs more than it spares",
        };
        /// From SIGTERM to the end of the process, in milliseconds.
        drain_ms: u32 = 10_000, DEADLINE;
        /// The earliest time after GOAWAY at which clients are asked to connect again, in milliseconds.
        goaway_delay_min_ms: u32 = 500, DELAY;
        /// The latest such time, in milliseconds. Each client picks one in between, so that they do not all come at once.
        goaway_delay_max_ms: u32 = 5_000, DELAY;
    }
}

settings! {
    /// How much anybody may use. Each limit that is reached is counted.
    Limits as "limits." at |config| config.limits => {
        /// The largest frame body that clients may send, in bytes.
        max_body_bytes: u32 = BODY_BYTES_DEFAULT, Bounds {
            min: LOGIN_BODY_BYTES_MAX as u64,
            max: BODY_BYTES_CEILING as u64,
            zero: None,
            why: "a LOGIN with its token must fit, and a frame is held in memory whole",
        };
        /// Connections of one shard. 0: as many as the descriptor table allows.
        connections_per_shard: u32 = 0, limit_u32("as many as the descriptor table allows");
        /// Connections from one IP address, on all shards. 0: no limit.
        connections_per_address: u32 = CONNECTIONS_PER_ADDRESS_DEFAULT, limit_u32("no limit");
        /// Logins that one shard takes in a second. 0: no limit.
        logins_per_second_per_shard: u32 = LOGINS_PER_SECOND_PER_SHARD_DEFAULT, limit_u32("no limit");
        /// Frames that one connection may send in a second; two seconds' worth may come at once. 0: no limit.
        frames_per_second: u32 = FRAMES_PER_SECOND_DEFAULT, limit_u32("no limit");
        /// Bytes that one connection may send in a second; two seconds' worth may come at once. 0: no limit.
        bytes_per_second: u32 = BYTES_PER_SECOND_DEFAULT, Bounds { max: BYTES_PER_SECOND_MAX as u64, ..limit("no limit") };
        /// Bytes that may wait to be sent on one connection. 0: no limit but the shard's.
        outbound_bytes_per_connection: u64 = OUTBOUND_BYTES_PER_CONNECTION_DEFAULT, limit("no limit but the shard's");
        /// Bytes that may wait to be sent on all connections of one shard. 0: no limit.
        outbound_bytes_per_shard: u64 = OUTBOUND_BYTES_PER_SHARD_DEFAULT, limit("no limit");
        /// Groups that one connection may be in at a time. 0: no limit.
        groups_per_connection: u32 = GROUPS_PER_CONNECTION_DEFAULT, limit_u32("no limit");
        /// Memberships of the sessions of one shard in groups, all together. 0: no limit.
        memberships_per_shard: u64 = MEMBERSHIPS_PER_SHARD_DEFAULT, limit("no limit");
        /// Devices that one client may have connected at a time. 0: no limit.
        devices_per_client: u32 = DEVICES_PER_CLIENT_DEFAULT, limit_u32("no limit");
        /// Clients that one connection may watch at a time. 0: no limit.
        watches_per_connection: u32 = WATCHES_PER_CONNECTION_DEFAULT, limit_u32("no limit");
        /// Clients that the sessions of one shard may watch, all together. 0: no limit.
        watches_per_shard: u64 = WATCHES_PER_SHARD_DEFAULT, limit("no limit");
        /// Connections that may watch one client at a time.
        watchers_per_client: u32 = WATCHERS_PER_CLIENT_DEFAULT, Bounds {
            min: 1,
            max: WATCHERS_PER_CLIENT_MAX as u64,
            zero: None,
            why: "each change of a client is told to all who watch it, in one go",
        };
    }
}

settings! {
    /// What watchers learn of clients.
    Presence as "presence." at |config| config.presence => {
        /// How long a device must have come, gone or changed before watchers are told, in milliseconds.
        settle_ms: u32 = PRESENCE_SETTLE_MS_DEFAULT, DELAY;
    }
}

settings! {
    /// How much is kept of durable messages, and what that may cost in memory and on the disk.
    Store as "store." at |config| config.store => {
        /// How long a message is kept, in seconds.
        retention_age_s: u32 = STORE_RETENTION_AGE_S_DEFAULT, Bounds { min: 1, max: u32::MAX as u64, zero: None, why: "what is kept for no time is not kept" };
        /// How many messages one channel keeps: the newest. 0: no limit.
        channel_messages_max: u64 = STORE_CHANNEL_MESSAGES_DEFAULT, limit("no limit");
        /// How many bytes one channel keeps, of payloads and senders' names: the newest. 0: no limit.
        channel_bytes_max: u64 = STORE_CHANNEL_BYTES_DEFAULT, limit("no limit");
        /// How many channels there may be; beyond it, a message to a new one is refused with STORE_FULL. 0: no limit.
        channels_max: u32 = STORE_CHANNELS_DEFAULT, limit_u32("no limit");
        /// A message that is sent again is recognized for this long, in seconds,
        dedup_window_s: u32 = STORE_DEDUP_WINDOW_S_DEFAULT, Bounds { min: 1, max: u32::MAX as u64, zero: None, why: "a sender that lost its connection must be able to ask again" };
        /// and among so many newest messages of all channels. Each costs 24 B of memory, 8 to 16 B for the index, and 24 B for each
        /// commit: 64 MB to 130 MB by default.
        dedup_messages: u32 = STORE_DEDUP_MESSAGES_DEFAULT, Bounds { min: 1, max: STORE_DEDUP_MESSAGES_MAX as u64, zero: None, why: "each costs memory, and without any a retry would be stored twice" };
        /// Memory for what is not in tables yet, in bytes. Small messages take up to twice as much of the process as is counted here.
        memtable_bytes: u64 = STORE_MEMTABLE_BYTES_DEFAULT, Bounds { min: STORE_MEMTABLE_BYTES_MIN, max: COUNT_CEILING, zero: None, why: "a few commits must fit, and each part that is full becomes a table" };
        /// Memory for blocks of tables that were read, in bytes.
        cache_bytes: u64 = STORE_CACHE_BYTES_DEFAULT, Bounds { min: 1024 * 1024, max: COUNT_CEILING, zero: None, why: "the newest messages are read again and again" };
        /// Channels whose place is kept in memory, about 200 B each. Any other is found on the disk when it is used.
        cached_channels: u32 = STORE_CACHED_CHANNELS_DEFAULT, Bounds { min: 1, max: u32::MAX as u64 / 2, zero: None, why: "a channel that is not found there takes two searches" };
        /// Bytes of the disk that are left free: when fewer are, durable messages are refused with STORE_FULL. 0: none.
        reserve_bytes: u64 = STORE_RESERVE_BYTES_DEFAULT, limit("none");
    }
}

settings! {
    /// What clients are told when the gateway stops.
    Goaway as "goaway." at |config| config.goaway => {
        /// Other gateways to try, each as host:port. Empty: the same address again.
        alternatives: Vec<String> = Vec::new(), NONE;
    }
}
