//! A shard under a clock of its own: what goes in is said frame by frame, what comes out is decoded.
#![forbid(unsafe_code)]

mod batches;
mod cluster;
mod compressed;
mod durable;
mod frail;
mod gathered;
mod limits;
mod liveness;
mod members;
mod outages;
mod presence;
mod pressed;
mod pressure;

use std::collections::{HashMap, HashSet, VecDeque};

use frail::Frail;

use super::*;
use crate::{
    io::Chunk,
    session::{DeviceClass, HeartbeatRules, Policy},
    store::{Retention, Service},
    wire::{Decoded, ErrorCode, Frame, SendRef, Unpacker, body, decode, encode},
};

/// What a peer saw, as far as a test asks.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    /// A frame of this type.
    Frame(&'static str),
    SendOk {
        reached: u32,
        dropped: u32,
    },
    Push(u64),
    /// A durable PUSH, by its sequence.
    Durable(u64),
    Accepted {
        id: u64,
        seq: u64,
        duplicate: bool,
    },
    Cursors {
        received: u64,
        last: u64,
        unread: u64,
    },
    Gap {
        from: u64,
        to: u64,
        code: ErrorCode,
    },
    /// The sequences on a page of history, and where the next begins.
    Page(Vec<u64>, u64),
    /// An ERROR that the connection survives.
    Refused(ErrorCode),
    /// The last ERROR.
    Closing(ErrorCode),
    /// The shard ended its direction.
    Finished,
    Closed,
}

/// Keeps everything that a test can write.
const RETENTION: Retention = Retention {
    age_ms: u64::MAX / 2,
    messages: 1_000_000,
    bytes: 1 << 30,
    channels: u32::MAX,
    dedup_ms: 60_000,
    dedup_messages: 100_000,
};

/// Ordinary settings of a lone shard; a test changes what it is about.
pub(super) fn settings() -> Settings {
    Settings {
        id: ShardId(0),
        shards: 1,
        hash_key: (1, 2),
        rules: Arc::new(rules(0, 0)),
        limits: Limits {
            connections: 100,
            connections_per_address: 0,
            logins_per_second: 0,
            outbound_bytes_per_connection: 1 << 20,
            outbound_bytes_per_shard: 1 << 24,
            inbound_bytes_per_shard: 1 << 20,
            groups_per_connection: 10,
            memberships_per_shard: 1_000,
            devices_per_client: 100,
            watches_per_connection: 10,
            watches_per_shard: 1_000,
            watchers_per_client: 10,
            heartbeats_per_second: 1_000,
        },
        timeouts: Timeouts { login_ms: 5_000, frame_ms: 30_000, write_ms: 10_000, linger_ms: 2_000, settle_ms: 2_000 },
        goaway: GoawayRules { delay_min_ms: 0, delay_max_ms: 1_000, alternatives: Vec::new() },
    }
}

/// Rules with these limits of frames and bytes a second.
fn rules(frames: u32, bytes: u32) -> Rules {
    Rules {
        verifier: None,
        device_classes: vec![DeviceClass { name: "default".to_owned(), policy: Policy::AllowMany }],
        heartbeat: HeartbeatRules {
            interval_ms: 30_000,
            interval_min_ms: 30_000,
            interval_max_ms: 30_000,
            missed_max: 3,
            probe_timeout_ms: 10_000,
        },
        frames: Rate { per_second: frames },
        bytes: Rate { per_second: bytes },
        max_body_bytes: 64 * 1024,
        wall_at_start_us: 1_767_225_600_000_000,
    }
}

/// One shard and its peers. A peer takes what is sent to it at once, unless it is deaf.
struct Bench {
    shard: Shard,
    stats: Arc<ShardStats>,
    now: Tick,
    slots: u32,
    deaf: HashSet<ConnId>,
    held: HashMap<ConnId, Chunk>,
    seen: HashMap<ConnId, Vec<Seen>>,
    /// The beginning of a frame.
    partial: HashMap<ConnId, Vec<u8>>,
    /// Of all peers.
    unpacker: Unpacker,
    /// What was posted, and is not refused.
    posted: Vec<Batch>,
    /// The rings to other shards are full.
    refuse_posts: bool,
    store: Service<Frail>,
    /// Batches that the store has not answered.
    stored: VecDeque<Box<crate::store::Batch>>,
    /// The store answers nothing.
    store_stalls: bool,
    stopped: u32,
    stops_accepting: u32,
}

impl Bench {
    fn new(change: impl FnOnce(&mut Settings)) -> Bench {
        let mut settings = settings();
        change(&mut settings);
        let stats = Arc::new(ShardStats::default());
        Bench {
            shard: Shard::new(settings, Arc::clone(&stats)),
            stats,
            now: Tick(1_000_000),
            slots: 0,
            deaf: HashSet::new(),
            held: HashMap::new(),
            seen: HashMap::new(),
            partial: HashMap::new(),
            unpacker: Unpacker::default(),
            posted: Vec::new(),
            refuse_posts: false,
            store: Service::new(Frail::new(RETENTION)),
            stored: VecDeque::new(),
            store_stalls: false,
            stopped: 0,
            stops_accepting: 0,
        }
    }

    /// A connection from 10.0.0.`address`.
    fn connect_from(&mut self, address: u8) -> ConnId {
        let conn = ConnId { slot: self.slots, generation: 1 };
        self.slots += 1;
        self.input(Input::Accepted { conn, peer: [10, 0, 0, address].into() });
        conn
    }

    fn connect(&mut self) -> ConnId {
        self.connect_from(1)
    }

    /// A session of a client.
    fn login(&mut self, client: &str) -> ConnId {
        let conn = self.connect();
        assert_eq!(self.try_login(conn, client), [Seen::Frame("LOGIN_OK")]);
        conn
    }

    fn try_login(&mut self, conn: ConnId, client: &str) -> Vec<Seen> {
        let login = body::Login { client_id: client.to_owned(), device_id: conn.to_string(), ..body::Login::default() };
        self.ask(conn, &Frame::Login(login))
    }

    fn input(&mut self, input: Input<'_, Message>) {
        self.shard.handle(self.now, input);
        self.turn();
    }

    /// Says something, and gives what the peer saw since it was last asked.
    fn ask(&mut self, conn: ConnId, frame: &Frame<'_>) -> Vec<Seen> {
        let mut bytes = Vec::new();
        encode(frame, &mut bytes);
        self.input(Input::Received { conn, bytes: &bytes });
        self.take(conn)
    }

    fn ping(&mut self, conn: ConnId) -> Vec<Seen> {
        self.ask(conn, &Frame::Ping(body::Ping { sent_us: 1, rtt_us: 0 }))
    }

    /// A SEND with a receipt.
    fn send(&mut self, conn: ConnId, channel: &str, client_msg_id: u64, payload: &[u8]) -> Vec<Seen> {
        let send = SendRef { channel, client_msg_id, payload, receipt: true, ..SendRef::default() };
        self.ask(conn, &Frame::Send(send))
    }

    fn take(&mut self, conn: ConnId) -> Vec<Seen> {
        self.seen.remove(&conn).unwrap_or_default()
    }

    /// Lets time pass, with a turn at each moment that the shard asked for.
    fn advance(&mut self, ms: u64) {
        let until = self.now.plus_ms(ms);
        while let Some(at) = self.turn().filter(|at| *at <= until) {
            self.now = at.max(Tick(self.now.0 + 1));
        }
        self.now = until;
        self.turn();
    }

    fn turn(&mut self) -> Option<Tick> {
        let wake_at = self.shard.handle_tick(self.now);
        let mut refused = Vec::new();
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Send { conn, chunk } if self.deaf.contains(&conn) => {
                    assert!(self.held.insert(conn, chunk).is_none(), "a second chunk in flight");
                }
                Output::Send { conn, chunk } => self.deliver(conn, chunk),
                Output::Finish { conn } => self.seen.entry(conn).or_default().push(Seen::Finished),
                Output::Close { conn } => {
                    self.held.remove(&conn);
                    self.seen.entry(conn).or_default().push(Seen::Closed);
                    self.shard.handle(self.now, Input::Closed { conn });
                }
                Output::Post { to, message } if self.refuse_posts && !matches!(message, Message::Store(_)) => {
                    refused.push((to, message));
                }
                Output::Post { message: Message::Batch(batch), .. } => self.posted.push(*batch),
                Output::Post { message: Message::Store(batch), .. } => self.stored.push_back(batch),
                Output::Stay { .. } => {}
                Output::StopAccepting => self.stops_accepting += 1,
                Output::Stop => self.stopped += 1,
                other @ (Output::Connect { .. } | Output::Move { .. } | Output::Post { .. }) => panic!("{other:?}"),
            }
        }
        for (to, message) in refused {
            self.shard.handle(self.now, Input::PostRefused { to, message });
        }
        if self.stored.is_empty() || self.store_stalls {
            return wake_at;
        }
        self.serve()
    }

    /// The store answers what it was asked so far.
    fn serve(&mut self) -> Option<Tick> {
        let wall_ms = self.shard.settings.rules.wall_ms(self.now);
        self.store.serve(wall_ms, self.stored.iter_mut().map(|batch| &mut **batch));
        for batch in std::mem::take(&mut self.stored) {
            let from = self.shard.store();
            self.shard.handle(self.now, Input::Posted { from, message: Message::Store(batch) });
        }
        self.turn()
    }

    fn deliver(&mut self, conn: ConnId, chunk: Chunk) {
        let seen = self.seen.entry(conn).or_default();
        let bytes = self.partial.entry(conn).or_default();
        bytes.extend_from_slice(chunk.as_slice());
        while let Ok(Decoded::Frame { frame, frame_bytes }) = self.unpacker.decode(bytes, u32::MAX) {
            seen.push(as_seen(&frame));
            if let Frame::Batch(batch) = frame {
                seen.extend(batch.frames().map(|frame| as_seen(&frame.expect("a gateway sends whole frames").0)));
            }
            bytes.drain(..frame_bytes);
        }
        self.shard.handle(self.now, Input::Sent { conn, chunk });
    }

    /// From now on the peer reads nothing.
    fn deafen(&mut self, conn: ConnId) {
        self.deaf.insert(conn);
    }

    /// It reads again.
    fn undeafen(&mut self, conn: ConnId) {
        self.deaf.remove(&conn);
        if let Some(chunk) = self.held.remove(&conn) {
            self.deliver(conn, chunk);
        }
        self.turn();
    }

    /// It reads one chunk and no more.
    fn undeafen_once(&mut self, conn: ConnId) {
        if let Some(chunk) = self.held.remove(&conn) {
            self.deliver(conn, chunk);
        }
        self.turn();
    }

    fn closed_with(&self, code: ErrorCode) -> u64 {
        self.stats.closed.of(code).get()
    }
}

fn as_seen(frame: &Frame<'_>) -> Seen {
    let code = |number| ErrorCode::from_number(number).expect("a code of the page");
    match frame {
        Frame::SendOk(ok) => Seen::SendOk { reached: ok.reached, dropped: ok.dropped },
        Frame::Push(push) if push.seq > 0 => Seen::Durable(push.seq),
        Frame::Push(push) => Seen::Push(push.client_msg_id),
        Frame::Accepted(accepted) => {
            Seen::Accepted { id: accepted.client_msg_id, seq: accepted.seq, duplicate: accepted.duplicate }
        }
        Frame::Cursors(cursors) => Seen::Cursors { received: cursors.received, last: cursors.last, unread: cursors.unread },
        Frame::Gap(gap) => Seen::Gap { from: gap.from, to: gap.to, code: code(gap.code) },
        Frame::Page(page) => Seen::Page(page.messages.iter().map(|message| message.seq).collect(), page.next),
        Frame::Error(error) if error.closing => Seen::Closing(code(error.code)),
        Frame::Error(error) => Seen::Refused(code(error.code)),
        other => Seen::Frame(crate::wire::FrameType::from_byte(other.kind()).expect("a known type").name()),
    }
}
