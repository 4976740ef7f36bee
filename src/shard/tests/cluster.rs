//! Several shards with a mesh between them, under one clock. A peer is on its client's home shard from the start.
#![forbid(unsafe_code)]

use super::*;

/// A connection, with its shard.
pub(super) type At = (usize, ConnId);

/// What a peer saw, as far as a test asks.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Saw {
    Presence(body::PresenceOf),
    /// JOIN_OK with so many members.
    Joined(u32),
    Refused(ErrorCode),
    Other(&'static str),
}

struct Node {
    shard: Shard,
    stats: Arc<ShardStats>,
    slots: u32,
    deaf: HashSet<ConnId>,
    held: HashMap<ConnId, Chunk>,
    saw: HashMap<ConnId, Vec<Saw>>,
    partial: HashMap<ConnId, Vec<u8>>,
}

pub(super) struct Cluster {
    nodes: Vec<Node>,
    pub now: Tick,
    /// The rings have no room.
    pub mesh_full: bool,
    posts: VecDeque<(usize, ShardId, Message)>,
    /// Items that were carried between shards.
    pub items: u64,
}

impl Cluster {
    pub fn new(shards: u16, change: impl Fn(&mut Settings)) -> Cluster {
        let node = |id| {
            let mut settings = Settings { id: ShardId(id), shards, ..settings() };
            change(&mut settings);
            let stats = Arc::new(ShardStats::default());
            Node {
                shard: Shard::new(settings, Arc::clone(&stats)),
                stats,
                slots: 0,
                deaf: HashSet::new(),
                held: HashMap::new(),
                saw: HashMap::new(),
                partial: HashMap::new(),
            }
        };
        let nodes = (0..shards).map(node).collect();
        Cluster { nodes, now: Tick(1_000_000), mesh_full: false, posts: VecDeque::new(), items: 0 }
    }

    /// Where the client or group lives.
    pub fn home(&self, name: &str) -> usize {
        let shard = &self.nodes[0].shard;
        shard.home(shard.keyed.name(name)).index()
    }

    /// A name that starts so and lives there.
    pub fn name_at(&self, start: &str, home: usize) -> String {
        (0..).map(|number| format!("{start}{number}")).find(|name| self.home(name) == home).expect("each shard has its share")
    }

    /// Many sessions of different clients, which log in within one turn.
    pub fn login_many(&mut self, clients: impl Iterator<Item = String>) -> Vec<At> {
        let sessions: Vec<At> = clients.map(|client| self.begin_login(&client, "")).collect();
        self.settle();
        for at in &sessions {
            assert_eq!(self.take(*at), [Saw::Other("LOGIN_OK")]);
        }
        sessions
    }

    pub fn login(&mut self, client: &str, device: &str) -> At {
        let at = self.begin_login(client, device);
        self.settle();
        assert_eq!(self.take(at), [Saw::Other("LOGIN_OK")]);
        at
    }

    fn begin_login(&mut self, client: &str, device: &str) -> At {
        let home = self.home(client);
        let node = &mut self.nodes[home];
        let conn = ConnId { slot: node.slots, generation: 1 };
        node.slots += 1;
        node.shard.handle(self.now, Input::Accepted { conn, peer: [10, 0, 0, 1].into() });
        let login = body::Login { client_id: client.to_owned(), device_id: device.to_owned(), ..body::Login::default() };
        self.say((home, conn), &Frame::Login(login));
        (home, conn)
    }

    /// Says something, without a turn.
    pub fn say(&mut self, (node, conn): At, frame: &Frame<'_>) {
        let mut bytes = Vec::new();
        encode(frame, &mut bytes);
        self.nodes[node].shard.handle(self.now, Input::Received { conn, bytes: &bytes });
    }

    /// Says something, and gives what the peer saw since it was last asked.
    pub fn ask(&mut self, at: At, frame: &Frame<'_>) -> Vec<Saw> {
        self.say(at, frame);
        self.settle();
        self.take(at)
    }

    pub fn leave(&mut self, at: At) {
        self.input(at.0, Input::Broken { conn: at.1, errno: 104 });
    }

    pub fn take(&mut self, (node, conn): At) -> Vec<Saw> {
        self.nodes[node].saw.remove(&conn).unwrap_or_default()
    }

    /// What a peer saw, all of which must be PRESENCE.
    pub fn presences(&mut self, at: At) -> Vec<body::PresenceOf> {
        let only = |saw| if let Saw::Presence(presence) = saw { presence } else { panic!("{saw:?}") };
        self.take(at).into_iter().map(only).collect()
    }

    pub fn control(&mut self, control: Control) {
        for node in 0..self.nodes.len() {
            self.input(node, Input::Posted { from: ShardId(99), message: Message::Control(control) });
        }
    }

    pub fn deafen(&mut self, (node, conn): At) {
        self.nodes[node].deaf.insert(conn);
    }

    pub fn undeafen(&mut self, (node, conn): At) {
        self.nodes[node].deaf.remove(&conn);
        if let Some(chunk) = self.nodes[node].held.remove(&conn) {
            self.nodes[node].deliver(self.now, conn, chunk);
        }
        self.settle();
    }

    pub fn sum(&self, read: fn(&ShardStats) -> u64) -> u64 {
        self.nodes.iter().map(|node| read(&node.stats)).sum()
    }

    pub fn residues(&self) -> Vec<Residue> {
        self.nodes.iter().map(|node| node.shard.residue()).collect()
    }

    fn input(&mut self, node: usize, input: Input<'_, Message>) {
        self.nodes[node].shard.handle(self.now, input);
        self.settle();
    }

    /// Lets time pass, with a turn at each moment that a shard asked for.
    pub fn advance(&mut self, ms: u64) {
        let until = self.now.plus_ms(ms);
        while let Some(at) = self.settle().filter(|at| *at <= until) {
            self.now = at.max(Tick(self.now.0 + 1));
        }
        self.now = until;
        self.settle();
    }

    /// One turn of one shard; what it posts stays on its way.
    pub fn turn_of(&mut self, from: usize) {
        let (_, posts) = self.nodes[from].turn(self.now);
        self.posts.extend(posts.into_iter().map(|(to, message)| (from, to, message)));
    }

    /// Turns until nothing is on its way any more. Gives when a shard wants to be called again.
    fn settle(&mut self) -> Option<Tick> {
        loop {
            let mut wake_at = None;
            for from in 0..self.nodes.len() {
                let (at, posts) = self.nodes[from].turn(self.now);
                wake_at = [wake_at, at].into_iter().flatten().min();
                self.posts.extend(posts.into_iter().map(|(to, message)| (from, to, message)));
            }
            if self.posts.is_empty() {
                return wake_at;
            }
            for (from, to, message) in std::mem::take(&mut self.posts) {
                if self.mesh_full {
                    self.nodes[from].shard.handle(self.now, Input::PostRefused { to, message });
                    continue;
                }
                if let Message::Batch(batch) = &message {
                    self.items += batch.items.len() as u64;
                }
                self.nodes[to.index()].shard.handle(self.now, Input::Posted { from: ShardId(from as u16), message });
            }
            if self.mesh_full {
                return wake_at;
            }
        }
    }
}

impl Node {
    fn turn(&mut self, now: Tick) -> (Option<Tick>, Vec<(ShardId, Message)>) {
        let wake_at = self.shard.handle_tick(now);
        let mut posts = Vec::new();
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Send { conn, chunk } if self.deaf.contains(&conn) => {
                    assert!(self.held.insert(conn, chunk).is_none(), "a second chunk in flight");
                }
                Output::Send { conn, chunk } => self.deliver(now, conn, chunk),
                Output::Close { conn } => self.shard.handle(now, Input::Closed { conn }),
                Output::Post { to, message } => posts.push((to, message)),
                Output::Stay { .. } | Output::StopAccepting | Output::Stop | Output::Finish { .. } => {}
                other @ (Output::Connect { .. } | Output::Move { .. }) => panic!("{other:?}"),
            }
        }
        (wake_at, posts)
    }

    fn deliver(&mut self, now: Tick, conn: ConnId, chunk: Chunk) {
        let saw = self.saw.entry(conn).or_default();
        let bytes = self.partial.entry(conn).or_default();
        bytes.extend_from_slice(chunk.as_slice());
        while let Ok(Decoded::Frame { frame, frame_bytes }) = decode(bytes, u32::MAX) {
            saw.push(match frame {
                Frame::Presence(presence) => Saw::Presence(presence),
                Frame::JoinOk(ok) => Saw::Joined(ok.members),
                Frame::Error(error) => Saw::Refused(ErrorCode::from_number(error.code).expect("a code of the page")),
                other => Saw::Other(crate::wire::FrameType::from_byte(other.kind()).expect("a known type").name()),
            });
            bytes.drain(..frame_bytes);
        }
        self.shard.handle(now, Input::Sent { conn, chunk });
    }
}
