//! Every bound of the gateway: fixed ones as constants, configurable ones with their defaults.
#![forbid(unsafe_code)]

/// A `client_id`, `device_id`, device class, group name or `agent` is at most this long, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// "group/" or "user/" and a name.
pub const CHANNEL_BYTES_MAX: usize = NAME_BYTES_MAX + 6;
/// A LOGIN body: its names and a token.
pub const LOGIN_BODY_BYTES_MAX: u32 = 16 * 1024;
/// The largest body that configuration may allow. One frame must fit many times into a connection's outbound budget.
pub const BODY_BYTES_CEILING: u32 = 16 * 1024 * 1024;
/// A body has at most this many Protobuf fields: a field of two bytes can cost its receiver an allocation.
pub const BODY_FIELDS_MAX: usize = 256;
/// A PUSH carries the sender's names, a sequence and a timestamp beside the payload, and a PAGE more: its body is at most this much
/// longer than that of the SEND.
pub const PUSH_EXTRA_BYTES_MAX: u32 = 512;
/// The default of `limits.max_body_bytes`.
pub const BODY_BYTES_DEFAULT: u32 = 64 * 1024;

/// Bodies from this size on are compressed for who can decompress: below it little is saved for 4 µs. Measured on messages like
/// those of a chat, at level 1: 256 bytes to 77 %, 512 to 62 % (5 µs), 4 KiB to 42 % (18 µs), 16 KiB to 37 % (60 µs).
pub const COMPRESS_BYTES_MIN: usize = 512;
/// zstd's level. The next ones cost more, and saved no more than one part in fifty.
pub const COMPRESS_LEVEL: i32 = 1;
/// A compressed body must be shorter by one part in so many; else it goes as it is.
pub const COMPRESS_SAVING_SHARE: usize = 8;
/// The largest window of a compressed body, in bytes: what every decoder should support (RFC 8878, section 3.1.1.1.2).
pub const WINDOW_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// A core's buffer for decompressed bodies is made smaller than this again by the next one that needs no more.
pub const UNPACKED_BYTES_KEPT: usize = 64 * 1024;

/// A page of a channel's history holds so many messages at most; with its other fields it stays within `BODY_FIELDS_MAX`.
pub const PAGE_MESSAGES_MAX: u32 = 200;

/// A token lists at most this many patterns in `join`, and as many in `write`.
pub const TOKEN_PATTERNS_MAX: usize = 64;
/// A later `exp` counts as this one: the end of the year 9999, which in microseconds still fits into 64 bits.
pub const TOKEN_EXPIRY_MS_MAX: u64 = 253_402_300_800_000;
/// An HS256 secret is at least as long as the hash (RFC 7518, section 3.2).
pub const HS256_SECRET_BYTES_MIN: usize = 32;

/// Every pair of shards has a ring, so that memory grows with the square of their number.
pub const SHARDS_MAX: u16 = 256;
/// Device classes that configuration may name.
pub const DEVICE_CLASSES_MAX: usize = 32;
/// Addresses that GOAWAY may name.
pub const ALTERNATIVES_MAX: usize = 16;
/// The longest of any configured time: a day, in milliseconds.
pub const TIME_MS_MAX: u32 = 86_400_000;
/// The resolution of all timers of connections, in milliseconds; so, too, the shortest deadline that configuration may set.
pub const TIMER_TICK_MS: u32 = 64;
/// The shortest heartbeat interval that configuration may allow, in milliseconds.
pub const HEARTBEAT_INTERVAL_MS_MIN: u32 = 100;
/// The default of `heartbeat.interval_ms`, and the default bounds between which it is tuned.
pub const HEARTBEAT_INTERVAL_MS_DEFAULT: u32 = 30_000;
pub const HEARTBEAT_INTERVAL_MIN_MS_DEFAULT: u32 = 10_000;
pub const HEARTBEAT_INTERVAL_MAX_MS_DEFAULT: u32 = 120_000;
/// Heartbeats a second that all connections of a core together are asked for: with more connections, each is asked less often.
pub const HEARTBEATS_PER_SECOND_PER_CORE: u32 = 2_000;
/// The default of `limits.connections_per_address`.
pub const CONNECTIONS_PER_ADDRESS_DEFAULT: u32 = 10_000;
/// The default of `limits.logins_per_second_per_shard`.
pub const LOGINS_PER_SECOND_PER_SHARD_DEFAULT: u32 = 20_000;
/// The default of `limits.frames_per_second`.
pub const FRAMES_PER_SECOND_DEFAULT: u32 = 5_000;
/// The default of `limits.bytes_per_second`.
pub const BYTES_PER_SECOND_DEFAULT: u32 = 8 * 1024 * 1024;
/// The largest such limit: a burst, and a debt as large, must fit into 32 bits.
pub const BYTES_PER_SECOND_MAX: u32 = 512 * 1024 * 1024;
/// A rate limit lets this many seconds' worth pass at once.
pub const RATE_BURST_S: u64 = 2;
/// The default of `limits.outbound_bytes_per_connection`.
pub const OUTBOUND_BYTES_PER_CONNECTION_DEFAULT: u64 = 1024 * 1024;
/// The default of `limits.outbound_bytes_per_shard`.
pub const OUTBOUND_BYTES_PER_SHARD_DEFAULT: u64 = 256 * 1024 * 1024;
/// The default of `limits.memberships_per_shard`: each costs 20 to 250 B, so 250 MB at most.
pub const MEMBERSHIPS_PER_SHARD_DEFAULT: u64 = 1_000_000;
/// The default of `limits.devices_per_client`. A message to a client is a PUSH for each of them.
pub const DEVICES_PER_CLIENT_DEFAULT: u32 = 64;
/// The default of `limits.groups_per_connection`.
pub const GROUPS_PER_CONNECTION_DEFAULT: u32 = 256;
/// The default of `limits.watches_per_connection`.
pub const WATCHES_PER_CONNECTION_DEFAULT: u32 = 256;
/// The default of `limits.watches_per_shard`: each costs 80 to 300 B, with the client's part at its home.
pub const WATCHES_PER_SHARD_DEFAULT: u64 = 1_000_000;
/// The default of `limits.watchers_per_client`, and the largest that may be configured: each change is told to all of them in one turn.
pub const WATCHERS_PER_CLIENT_DEFAULT: u32 = 1_000;
pub const WATCHERS_PER_CLIENT_MAX: u32 = 65_536;
/// The default of `presence.settle_ms`.
pub const PRESENCE_SETTLE_MS_DEFAULT: u32 = 2_000;
/// The largest value of any configured count or size; it leaves room for sums and products in 64 bits.
pub const COUNT_CEILING: u64 = 1 << 40;

const _: () = assert!(TOKEN_EXPIRY_MS_MAX < u64::MAX / 1_000);
const _: () = assert!(TIMER_TICK_MS <= HEARTBEAT_INTERVAL_MS_MIN);
const _: () = assert!(HEARTBEAT_INTERVAL_MS_MIN <= HEARTBEAT_INTERVAL_MIN_MS_DEFAULT);
const _: () = assert!(HEARTBEAT_INTERVAL_MIN_MS_DEFAULT <= HEARTBEAT_INTERVAL_MS_DEFAULT);
const _: () = assert!(HEARTBEAT_INTERVAL_MS_DEFAULT <= HEARTBEAT_INTERVAL_MAX_MS_DEFAULT);
const _: () = assert!(HEARTBEAT_INTERVAL_MAX_MS_DEFAULT <= TIME_MS_MAX);
const _: () = assert!(BODY_BYTES_DEFAULT as u64 <= OUTBOUND_BYTES_PER_CONNECTION_DEFAULT / 8);
const _: () = assert!(OUTBOUND_BYTES_PER_CONNECTION_DEFAULT <= OUTBOUND_BYTES_PER_SHARD_DEFAULT);
const _: () = assert!(BODY_BYTES_DEFAULT <= BYTES_PER_SECOND_DEFAULT);
const _: () = assert!(BYTES_PER_SECOND_MAX as u64 * RATE_BURST_S <= 1 << 31);
const _: () = assert!(BYTES_PER_SECOND_DEFAULT <= BYTES_PER_SECOND_MAX);
const _: () = assert!(OUTBOUND_BYTES_PER_SHARD_DEFAULT <= COUNT_CEILING);

/// The shortest listen backlog that a reactor should have: each connection that a full one drops costs its client a second.
pub const LISTEN_BACKLOG_MIN: u32 = 4096;
/// The longest that it makes use of, where net.core.somaxconn allows it; sysctl/60-weir.conf has the arithmetic.
pub const LISTEN_BACKLOG_MAX: u32 = 16 * 1024;
/// The default of `timeouts.receive_idle_ms`.
pub const RECEIVE_IDLE_MS_DEFAULT: u32 = 10_000;
/// Slots that an io_uring reactor looks at in one turn for connections that have become idle: some microseconds' work. To end the receive of
/// one takes one to three, so that it ends far fewer in one turn.
pub const IDLE_SLOTS_PER_TURN: u32 = 4_096;
pub const IDLE_CANCELS_PER_TURN: usize = 64;
/// Connections accepted in one turn of a reactor.
pub const ACCEPTS_PER_TURN: usize = 128;
/// Accepting pauses this long when descriptors or memory ran out, if no connection goes before.
pub const ACCEPT_PAUSE_MS: u64 = 100;
/// Bytes taken in one turn from a connection that may yet move.
pub const RECEIVE_STEP_BYTES: usize = 4 * 1024;
/// Bytes taken in one turn from a connection that stays; also the size of the one receive buffer of an epoll or glommio reactor.
pub const RECEIVE_TURN_BYTES: usize = 64 * 1024;

const _: () = assert!(LISTEN_BACKLOG_MIN <= LISTEN_BACKLOG_MAX);
const _: () = assert!(RECEIVE_STEP_BYTES <= RECEIVE_TURN_BYTES);
const _: () = assert!(LOGIN_BODY_BYTES_MAX <= BODY_BYTES_DEFAULT);
const _: () = assert!(BODY_BYTES_DEFAULT <= BODY_BYTES_CEILING);
// Two names, each with a key and a length of one byte, and some room for fields to come.
const _: () = assert!(2 * (NAME_BYTES_MAX + 2) + 64 <= PUSH_EXTRA_BYTES_MAX as usize);

/// Bytes that are held for a connection while it is admitted, or on its way home: LOGIN and what came behind it.
pub const HELD_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of unfinished frames that one shard holds. Beyond it the connection that adds to them is closed.
pub const INBOUND_BYTES_PER_SHARD: usize = 128 * 1024 * 1024;
/// The most descriptors that one reactor's table is made for, whatever the process may have: it costs 8 to 16 B of kernel memory each.
pub const SLOTS_PER_SHARD_MAX: u32 = 1 << 20;
/// Slots that are kept for connections on their way to another shard, or to a refusal: one in so many, and at least so many.
pub const SPARE_SLOTS_SHARE: u32 = 64;
pub const SPARE_SLOTS_MIN: u32 = 64;
/// Descriptors that the process needs besides connections and what each shard takes.
pub const SPARE_DESCRIPTORS: u32 = 64;
/// An epoll instance, a listener, a bell and a spare one for each shard.
pub const DESCRIPTORS_PER_SHARD: u32 = 4;
/// The size of a receive buffer.
pub const RECEIVE_BUFFER_BYTES: u32 = 4 * 1024;
/// Receive buffers of all shards together, and the bounds for one shard.
pub const RECEIVE_BUFFERS: u32 = 512;
pub const RECEIVE_BUFFERS_PER_SHARD_MIN: u32 = 128;
pub const RECEIVE_BUFFERS_PER_SHARD_MAX: u32 = 4 * 1024;
/// Batches that fit into the ring between two shards, for a small mesh; a large one has N² rings and takes smaller ones.
pub const RING_BATCHES_MAX: usize = 256;
pub const RING_BATCHES_MIN: usize = 16;

/// Events that a reactor works through in one turn.
pub const EVENTS_PER_TURN: usize = 1024;
/// Entries of each of the three rings of a glommio executor: what it submits at once, and half of what it reaps at once.
pub const GLOMMIO_RING_ENTRIES: usize = 1024;
/// Three rings and an eventfd of glommio's; a listener and a bell, twice each; an accepted connection that waits for a slot, one on its
/// way to another shard, and two spare ones for each shard.
pub const GLOMMIO_DESCRIPTORS_PER_SHARD: u32 = 12;
/// Edges that the epoll reactor takes from the kernel in one turn.
pub const EDGES_PER_TURN: usize = 1024;
/// Messages taken from each peer in one turn.
pub const MESSAGES_PER_TURN: usize = 16;
/// Timers that fire in one turn at most; the rest wait for the next.
pub const TIMERS_PER_TURN: usize = 4096;
/// The move of a connection to its home that was refused is tried again so often: bytes may have come in between, or its home may be full for a moment.
pub const MOVES_AGAIN_MAX: u8 = 3;
/// The pause before that, unless bytes come.
pub const MOVE_AGAIN_MS: u32 = 20;
/// Messages to groups, with receipts, that may be under way from one home shard at a time.
pub const GROUP_RECEIPTS_MAX: usize = 65_536;
/// A change of the number of a group's members is told to its home, and by it to the other shards, after so long: once for all that
/// change meanwhile.
pub const MEMBERS_SETTLE_MS: u64 = 500;
/// Groups whose numbers are told in one turn.
pub const MEMBERS_PER_TURN: usize = 1024;
/// PRESENCE frames that a shard sends in one turn because of what has settled; the rest waits for the next.
pub const PRESENCE_PER_TURN: usize = 4096;
/// Watchers of one client that one entry of a batch names at most.
pub const WATCHERS_PER_ITEM_MAX: usize = 1024;
/// A PRESENCE was dropped: after so long it is looked whether there is room to say how things are.
pub const PRESENCE_AGAIN_MS: u64 = 100;
/// For so many clients a connection is told that at once.
pub const PRESENCE_AGAIN_STEP: usize = 16;
/// Scrapers of metrics served at a time; more wait.
pub const SCRAPERS_MAX: usize = 16;

/// Requests for the store travel in batches of at most this size,
pub const STORE_BATCH_BYTES_MAX: usize = 256 * 1024;
/// and so many of them at a time from one shard: what comes in meanwhile shares the next sync.
pub const STORE_BATCHES_IN_FLIGHT_MAX: usize = 4;
/// The same for requests that only read.
pub const STORE_READS_IN_FLIGHT_MAX: usize = 2;
/// Beyond this many bytes of requests that the store has not answered, a shard refuses durable messages.
pub const STORE_BACKLOG_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Idle batches that a shard keeps for reuse, and how much memory each may keep.
pub const POOLED_STORE_BATCHES_MAX: usize = 4;
pub const STORE_POOLED_BYTES_MAX: usize = 128 * 1024;
/// The largest window of unacknowledged durable messages that a device may ask for.
pub const WINDOW_MAX: u32 = 32_768;
/// Pages that one shard asks the store for at a time, for devices that are behind.
pub const PAGES_IN_FLIGHT_MAX: usize = 16;
/// What one such page holds at most.
pub const CATCH_UP_MESSAGES_MAX: u32 = 128;
pub const CATCH_UP_BYTES_MAX: u32 = 64 * 1024;
/// Pages of history under way for SYNCs of one shard; one for a connection.
pub const SYNCS_IN_FLIGHT_MAX: usize = 64;
/// What a page of history holds at most, whatever a body may; one message that is larger comes alone.
pub const HISTORY_BYTES_MAX: u32 = 64 * 1024;
/// An acknowledgement is saved after this long at the latest, together with those that follow it, in milliseconds.
pub const CURSOR_SAVE_MS: u64 = 500;
/// The store is asked again after this long when it could not answer for a device, in milliseconds.
pub const STORE_RETRY_MS: u64 = 1_000;
/// A message that would need one more channel than there may be is not sent again sooner, in milliseconds.
pub const CHANNEL_RETRY_MS: u32 = 60_000;
/// Cursors of groups that were left, and that the store has not forgotten yet, of one shard: each costs about 250 B. More stay with the
/// store.
pub const FORGETS_MAX: usize = 65_536;
/// Cursors saved, and devices put in line again, in one turn.
pub const CURSORS_PER_TURN: usize = 1024;

/// Damaged channels that the log speaks of, once each.
pub const STORE_DAMAGE_REPORTS_MAX: usize = 1024;
/// A port that another process holds is tried for so long: one that was killed may take a moment to give it back, in milliseconds.
pub const LISTEN_RETRY_MS: u64 = 1_000;

/// Batches that are sent even though the turn goes on: keeps entries of the ring from growing without end.
pub const RING_BATCH_BYTES_MAX: usize = 64 * 1024;
/// Beyond this many bytes that wait on one shard for room in its rings to the others, its connections are no longer read.
pub const RING_BACKLOG_BYTES_HIGH: usize = 1024 * 1024;
/// Beyond this many, messages are dropped and counted.
pub const RING_BACKLOG_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Idle batches that a shard keeps for reuse.
pub const POOLED_BATCHES_MAX: usize = 64;
/// A send buffer that grew larger is given back to the allocator instead of the pool.
pub const POOLED_BUFFER_BYTES_MAX: usize = 4 * 1024;
/// So many idle send buffers are kept.
pub const POOLED_BUFFERS_MAX: usize = 1024;

/// Submissions to io_uring that fit before one more system call is made. More would only cost memory.
pub const URING_SUBMISSIONS: u32 = 1024;
/// Completions that fit before the kernel has to keep them aside, between these bounds; two for each connection.
pub const URING_COMPLETIONS_MIN: u32 = 4096;
pub const URING_COMPLETIONS_MAX: u32 = 32_768;
/// What a member of a bare fan-out loop may be behind, in bytes.
pub const LIMIT_LOG_BYTES: usize = 4 * 1024 * 1024;
/// With this share of the direct descriptors left on io_uring, within these bounds, connections are accepted one by one. A burst that the
/// multishot accept takes before it is cancelled has to fit in.
pub const URING_HEADROOM_SHARE: u32 = 8;
pub const URING_HEADROOM_MIN: u32 = 64;
pub const URING_HEADROOM_MAX: u32 = 4096;

/// Batches that the store's thread takes from each shard for one commit: as many as a ring holds.
pub const STORE_BATCHES_PER_TURN: usize = RING_BATCHES_MAX;
/// The longest turn of the store's thread is shown for so long, and for twice that at most, in milliseconds: most scrapers come more often.
pub const STORE_PEAK_MS: u64 = 60_000;
/// Reading for shards is interrupted after so long, in microseconds: what was written goes before.
pub const STORE_READ_STEP_US: u64 = 2_000;
/// A turn of the store that takes so long is told in the log, in microseconds.
pub const STORE_SLOW_TURN_US: u64 = 1_000_000;
/// The store looks so often for what retention is done with, in milliseconds; between two looks it works in bounded steps.
pub const STORE_EXPIRE_INTERVAL_MS: u64 = 1_000;
/// Between two such steps while there are requests, in milliseconds.
pub const STORE_EXPIRE_STEP_MS: u64 = 10;
/// Replies of the store that found their ring full are sent again after this long, in milliseconds; so often, too, the store looks whether
/// the log is ready for what is to be written.
pub const STORE_LOOK_MS: u64 = 1;

/// The defaults of `[store]`: see their help.
pub const STORE_CACHE_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;
pub const STORE_MEMTABLE_BYTES_DEFAULT: u64 = 256 * 1024 * 1024;
pub const STORE_CACHED_CHANNELS_DEFAULT: u32 = 100_000;
pub const STORE_DEDUP_MESSAGES_DEFAULT: u32 = 2_000_000;
pub const STORE_DEDUP_WINDOW_S_DEFAULT: u32 = 86_400;
pub const STORE_RETENTION_AGE_S_DEFAULT: u32 = 604_800;
pub const STORE_CHANNEL_MESSAGES_DEFAULT: u64 = 1_000_000;
pub const STORE_CHANNEL_BYTES_DEFAULT: u64 = 256 * 1024 * 1024;
/// Each takes about 100 B of the disk, and is kept.
pub const STORE_CHANNELS_DEFAULT: u32 = 10_000_000;
pub const STORE_RESERVE_BYTES_DEFAULT: u64 = 1024 * 1024 * 1024;
/// The least memory for what is not in tables yet: one commit may bring several megabytes.
pub const STORE_MEMTABLE_BYTES_MIN: u64 = 16 * 1024 * 1024;
/// The most messages that retries are recognized by: what their places are counted with has 32 bits, and each costs 32 to 56 B.
pub const STORE_DEDUP_MESSAGES_MAX: u32 = 1 << 28;

/// When the database fails with less than this free on the disk, it is for want of room: a journal takes as much.
pub const STORE_FREE_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// Parts of `store.memtable_bytes` that may wait to be written to tables; one more is being filled.
pub const STORE_SEALED_MEMTABLES_MAX: usize = 3;
/// What a block of a table of messages holds, in bytes.
pub const STORE_BLOCK_BYTES: u32 = 16 * 1024;
/// So many new tables of messages are merged with the older ones at a time.
pub const STORE_LEVEL0_TABLES: u8 = 8;
/// Tables that are not merged yet; beyond it commits wait for the database.
pub const STORE_LEVEL0_RUNS_MAX: usize = 18;
/// What is to be written waits no longer than this for a database that does not keep up, in milliseconds; then it is refused.
pub const STORE_HOLD_MS_MAX: u64 = 1_000;
/// Whoever has nothing else to do, such as a repair, waits so long; it looks so often.
pub const STORE_GATE_MS_MAX: u64 = 10_000;
pub const STORE_GATE_LOOK_MS: u64 = 1;
/// Journals beyond this size make the database write what keeps them. They are of 64 MB each, and go as memtables are written to tables.
pub const STORE_JOURNALS_BYTES: u64 = 256 * 1024 * 1024;
/// Table files that the database keeps open.
pub const STORE_CACHED_FILES: usize = 128;
/// Descriptors of the store: those, journals, files that are being written, the folder's lock, and the witness.
pub const STORE_DESCRIPTORS: u32 = STORE_CACHED_FILES as u32 + 64;
/// Commits that fell out of the window of de-duplication, removed with each new one.
pub const STORE_COMMITS_REMOVED_MAX: u64 = 16;
/// A channel's floor is stored when it has risen by a 16th of what the channel holds, between these bounds.
pub const STORE_FLOOR_STEP_MIN: u64 = 16;
pub const STORE_FLOOR_STEP_MAX: u64 = 1024;
/// Channels that one step of expiry looks at.
pub const STORE_WALK_CHANNELS: usize = 32;
/// How often all channels are looked at while a message grows as old as it may, and how often at most, in milliseconds.
pub const STORE_WALKS_PER_AGE: u64 = 64;
pub const STORE_WALK_MS_MIN: u64 = 1_000;
/// After a failure the log is opened again so often, in milliseconds.
pub const STORE_REOPEN_MS: u64 = 1_000;
/// Once it is open, what it holds in memory has so long to get to the disk.
pub const STORE_SETTLE_MS_MAX: u64 = 10_000;
/// What a repair adds to the highest sequence that is known, so that none is given twice: more than can have been given in the time for which
/// the witness may be behind after a loss of power.
pub const STORE_REPAIR_JUMP: u64 = 1 << 20;

const _: () = assert!(STORE_MEMTABLE_BYTES_MIN <= STORE_MEMTABLE_BYTES_DEFAULT);
const _: () = assert!(STORE_DEDUP_MESSAGES_DEFAULT <= STORE_DEDUP_MESSAGES_MAX);
// The database waits for ever at 4 and 20.
const _: () = assert!((STORE_LEVEL0_TABLES as usize) < STORE_LEVEL0_RUNS_MAX);
const _: () = assert!(STORE_SEALED_MEMTABLES_MAX < 4 && STORE_LEVEL0_RUNS_MAX < 20);

const _: () = assert!(RING_BATCH_BYTES_MAX < RING_BACKLOG_BYTES_HIGH && RING_BACKLOG_BYTES_HIGH < RING_BACKLOG_BYTES_MAX);

/// Frames from this size on are shared between their receivers instead of copied.
pub const SHARE_BYTES_MIN: usize = 4 * 1024;
/// A chunk is not larger than this. It is what must reach the kernel within the write deadline: 1.6 kB/s by default.
pub const CHUNK_BYTES_MAX: usize = 16 * 1024;
/// So many bytes of answers may wait for any connection, even if the shard's budget is used up.
pub const ANSWERS_BYTES_MIN: usize = 4 * 1024;
/// PUSHes that may give way to later ones wait in this number for one connection, and take this share of its outbound budget at most.
pub const HELD_PUSHES_MAX: usize = 256;
pub const HELD_PUSHES_SHARE: usize = 4;
/// A queue of so few bytes is not watched for its write deadline while it is in flight whole.
pub const UNWATCHED_BYTES_MAX: usize = 4 * 1024;
