//! The table of a shard's connections, indexed by the slots that the reactor gives out.
#![forbid(unsafe_code)]

use super::{Arrival, groups::Membership, watching::Watching};
use crate::{
    ids::ConnId,
    io::Tick,
    session::{Form, Identity, Names, Rights, Session},
    wire::body::Presence,
};

/// Index that stands for none.
pub const NONE: u32 = u32::MAX;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No connection.
    Vacant,
    /// Its address is being counted; bytes wait.
    Admitting,
    /// LOGIN is awaited.
    Anonymous,
    /// Logged in, and its move home was refused: to be tried again.
    Homing,
    /// Logged in, at home.
    Active,
    /// Ending: what is queued leaves, nothing is read any more.
    Flushing,
    /// Our direction is shut; waiting for the peer to end its own.
    Lingering,
    /// `Output::Close` is on its way.
    Closing,
}

impl Phase {
    /// Whether nothing more is read, and nothing more is said than what is queued.
    pub fn is_ending(self) -> bool {
        match self {
            Phase::Vacant | Phase::Admitting | Phase::Anonymous | Phase::Homing | Phase::Active => false,
            Phase::Flushing | Phase::Lingering | Phase::Closing => true,
        }
    }
}

/// The PING that a silent connection gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Something was heard since the last one.
    None,
    /// In the queue, behind what the peer has not taken yet.
    Queued,
    /// It has left.
    Out,
}

/// What few connections have. Null while idle.
#[derive(Debug, Default)]
pub struct Extra {
    /// The beginning of a frame, or whatever came before the connection was admitted or home.
    pub partial: Vec<u8>,
    /// When that beginning came.
    pub partial_since: Tick,
    /// What goes home with the connection, in `Phase::Homing`.
    pub arrival: Option<Box<Arrival>>,
    pub groups: Vec<Membership>,
    /// Null if it watches nobody.
    pub watching: Option<Box<Watching>>,
}

impl Extra {
    fn is_empty(&self) -> bool {
        self.partial.is_empty() && self.arrival.is_none() && self.groups.is_empty() && self.watching.is_none()
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    pub generation: u32,
    pub phase: Phase,
    pub class: u8,
    /// How frames may be sent to it.
    pub form: Form,
    pub probe: Probe,
    /// GOAWAY was sent.
    pub going: bool,
    /// The shard's list of slow connections holds this one.
    pub watched: bool,
    /// The shard's list of unfinished frames holds this one.
    pub unfinished: bool,
    /// The peer ended its direction: there is nothing to linger for.
    pub peer_done: bool,
    /// As the client said by STATE.
    pub background: bool,
    /// When bytes last came, or the connection itself, in milliseconds of the shared clock, modulo 2^32.
    pub heard_ms: u32,
    /// The next connection of the same client.
    pub next_device: u32,
    /// Index into the shard's outbound queues.
    pub outbound: u32,
    /// Index into the shard's devices, if it takes part in durable delivery.
    pub device: u32,
    /// The keyed hash of the peer's address; 0 when it is not counted.
    pub address: u64,
    pub epoch: u64,
    pub names: Names,
    pub rights: Option<Box<Rights>>,
    pub session: Option<Session>,
    pub extra: Option<Box<Extra>>,
}

const _: () = assert!(size_of::<Connection>() <= 128, "two cache lines");

impl Connection {
    fn vacant() -> Connection {
        Connection {
            generation: 0,
            phase: Phase::Vacant,
            class: 0,
            form: Form::default(),
            probe: Probe::None,
            going: false,
            watched: false,
            unfinished: false,
            peer_done: false,
            background: false,
            heard_ms: 0,
            next_device: NONE,
            outbound: NONE,
            device: NONE,
            address: 0,
            epoch: 0,
            names: Names::default(),
            rights: None,
            session: None,
            extra: None,
        }
    }

    /// Puts on what LOGIN established.
    pub fn identify(&mut self, identity: Identity, epoch: u64, session: Session) {
        self.names = identity.names;
        self.class = identity.class;
        self.form = identity.form;
        self.rights = identity.rights;
        self.epoch = epoch;
        self.session = Some(session);
    }

    /// What watchers are told of a session.
    pub fn presence(&self) -> Presence {
        if self.background { Presence::Background } else { Presence::Foreground }
    }

    /// The rare part, made if need be.
    pub fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// Drops the rare part if nothing is in it.
    pub fn trim(&mut self) {
        if self.extra.as_ref().is_some_and(|extra| extra.is_empty()) {
            self.extra = None;
        }
    }
}

/// All connections.
#[derive(Debug, Default)]
pub struct Connections {
    slots: Vec<Connection>,
    count: u32,
}

impl Connections {
    /// Enters a connection under the id that the reactor gave it.
    pub fn insert(&mut self, conn: ConnId, phase: Phase, heard_ms: u32) -> &mut Connection {
        let index = conn.slot as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, Connection::vacant);
        }
        let connection = &mut self.slots[index];
        assert_eq!(connection.phase, Phase::Vacant, "the reactor gave out slot {} twice", conn.slot);
        *connection = Connection { generation: conn.generation, phase, heard_ms, ..Connection::vacant() };
        self.count += 1;
        connection
    }

    /// Takes a connection out.
    pub fn remove(&mut self, conn: ConnId) -> Connection {
        let connection = self.get_mut(conn).expect("only live connections are removed");
        let removed = std::mem::replace(connection, Connection::vacant());
        self.count -= 1;
        removed
    }

    /// The connection with this id, if it still lives.
    pub fn get_mut(&mut self, conn: ConnId) -> Option<&mut Connection> {
        let connection = self.slots.get_mut(conn.slot as usize)?;
        (connection.generation == conn.generation && connection.phase != Phase::Vacant).then_some(connection)
    }

    /// The connection with this id, if it still lives.
    pub fn get(&self, conn: ConnId) -> Option<&Connection> {
        let connection = self.slots.get(conn.slot as usize)?;
        (connection.generation == conn.generation && connection.phase != Phase::Vacant).then_some(connection)
    }

    /// The connection in a slot that is known to be taken.
    pub fn at(&self, slot: u32) -> &Connection {
        &self.slots[slot as usize]
    }

    /// The connection in a slot that is known to be taken.
    pub fn at_mut(&mut self, slot: u32) -> &mut Connection {
        &mut self.slots[slot as usize]
    }

    /// The id of the connection in a slot, if one lives there.
    pub fn id_at(&self, slot: u32) -> Option<ConnId> {
        let connection = self.slots.get(slot as usize)?;
        (connection.phase != Phase::Vacant).then_some(ConnId { slot, generation: connection.generation })
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// One more than the highest slot that was ever taken.
    pub fn slots(&self) -> u32 {
        self.slots.len() as u32
    }
}
