//! The clients at home here that somebody watches: by whom, what their devices do, and what was told of that.
//!
//! A change is told when it has lasted for the settling time. All wait equally long, so that a list in the order of the changes is
//! all it takes; a change that is overtaken by another goes to the end of it, or leaves it when all is as it was told.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use hashbrown::HashTable;
use slab::Slab;

use crate::{
    ids::{ConnId, ShardId},
    io::Tick,
    wire::body::Presence,
};

const NONE: u32 = u32::MAX;

/// A connection that watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watcher {
    pub shard: ShardId,
    pub conn: ConnId,
    /// Something could not be sent to its shard.
    pub owed: bool,
}

impl Watcher {
    fn key(&self) -> (ShardId, u64) {
        (self.shard, self.conn.to_bits())
    }
}

/// A client.
#[derive(Debug)]
struct Client {
    name: Box<str>,
    hash: u64,
    /// Those of one shard stand together.
    watchers: Vec<Watcher>,
    /// Devices that are online, or were told to be.
    devices: Vec<u32>,
    /// How many were told to be online.
    online: u32,
    /// When the last of them was told to have gone; 0: never.
    gone_ms: u64,
    /// The list of clients with watchers to whom something is owed holds this one.
    owes: bool,
    /// Tells the users of an index apart.
    ticket: u32,
}

/// A device of a watched client. It is in the list of changes if it is not as it was told.
#[derive(Debug)]
struct Device {
    client: u32,
    name: Box<str>,
    told: Presence,
    told_ms: u64,
    now: Presence,
    changed_at: Tick,
    previous: u32,
    next: u32,
}

impl Device {
    fn is_settling(&self) -> bool {
        self.now != self.told
    }
}

/// What watchers are told of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub device: Box<str>,
    pub presence: Presence,
    pub online: u32,
    pub since_ms: u64,
}

/// Too many connections watch the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// All of them.
#[derive(Debug)]
pub struct Watched {
    by_name: HashTable<u32>,
    clients: Slab<Client>,
    devices: Slab<Device>,
    /// The ends of the list of changes.
    first: u32,
    last: u32,
    settling: usize,
    /// Clients with watchers to whom something is owed, and when to try again.
    owing: VecDeque<(Tick, u32, u32)>,
    next_ticket: u32,
}

impl Default for Watched {
    fn default() -> Watched {
        Watched {
            by_name: HashTable::new(),
            clients: Slab::new(),
            devices: Slab::new(),
            first: NONE,
            last: NONE,
            settling: 0,
            owing: VecDeque::new(),
            next_ticket: 0,
        }
    }
}

impl Watched {
    /// How many clients are watched.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Devices that are known, and changes that are not told yet, together.
    pub fn held(&self) -> usize {
        self.devices.len() + self.settling + self.owing.len()
    }

    /// The client's index, if somebody watches it.
    pub fn find(&self, hash: u64, name: &str) -> Option<u32> {
        self.by_name.find(hash, |index| *self.clients[*index as usize].name == *name).copied()
    }

    /// Enters a client that nobody has watched so far. Its devices, and a watcher, must follow.
    pub fn open(&mut self, hash: u64, name: &str) -> u32 {
        let client = Client {
            name: name.into(),
            hash,
            watchers: Vec::new(),
            devices: Vec::new(),
            online: 0,
            gone_ms: 0,
            owes: false,
            ticket: self.next_ticket,
        };
        self.next_ticket = self.next_ticket.wrapping_add(1);
        let index = self.clients.insert(client) as u32;
        self.by_name.insert_unique(hash, index, |other| self.clients[*other as usize].hash);
        index
    }

    /// Enters a device that is online already.
    pub fn enter(&mut self, client: u32, device: &str, presence: Presence, since_ms: u64) {
        let index = self.devices.insert(Device {
            client,
            name: device.into(),
            told: presence,
            told_ms: since_ms,
            now: presence,
            changed_at: Tick::default(),
            previous: NONE,
            next: NONE,
        }) as u32;
        let client = &mut self.clients[client as usize];
        client.devices.push(index);
        client.online += 1;
    }

    /// Adds a watcher. One that is there already stays as it is.
    ///
    /// # Errors
    /// There are `max` others.
    pub fn watch(&mut self, client: u32, shard: ShardId, conn: ConnId, max: u32) -> Result<(), Full> {
        let watchers = &mut self.clients[client as usize].watchers;
        let watcher = Watcher { shard, conn, owed: false };
        if let Err(at) = watchers.binary_search_by_key(&watcher.key(), Watcher::key) {
            if watchers.len() >= max as usize {
                return Err(Full);
            }
            watchers.insert(at, watcher);
        }
        Ok(())
    }

    /// Takes a watcher out, and the client when it was the last one.
    pub fn unwatch(&mut self, client: u32, shard: ShardId, conn: ConnId) {
        let key = Watcher { shard, conn, owed: false }.key();
        let entry = &mut self.clients[client as usize];
        let Ok(at) = entry.watchers.binary_search_by_key(&key, Watcher::key) else { return };
        entry.watchers.remove(at);
        if entry.watchers.is_empty() {
            self.close(client);
        }
    }

    fn close(&mut self, client: u32) {
        let closed = self.clients.remove(client as usize);
        let entry = self.by_name.find_entry(closed.hash, |index| *index == client);
        entry.unwrap_or_else(|_| panic!("client {} is not in the table of watched ones", closed.name)).remove();
        for device in closed.devices {
            if self.devices[device as usize].is_settling() {
                self.unlink(device);
            }
            self.devices.remove(device as usize);
        }
    }

    /// Lends the watchers out, so that they can be walked over while the rest of the shard changes. Nobody may begin or
    /// cease to watch until `return_watchers`.
    pub fn take_watchers(&mut self, client: u32) -> Vec<Watcher> {
        std::mem::take(&mut self.clients[client as usize].watchers)
    }

    /// Puts back what `take_watchers` gave.
    pub fn return_watchers(&mut self, client: u32, watchers: Vec<Watcher>) {
        self.clients[client as usize].watchers = watchers;
    }

    /// How many connections watch the client.
    pub fn watchers(&self, client: u32) -> usize {
        self.clients[client as usize].watchers.len()
    }

    /// The client's name and its hash.
    pub fn name(&self, client: u32) -> (&str, u64) {
        let client = &self.clients[client as usize];
        (&client.name, client.hash)
    }

    /// A device came, went or changed. Returns true if a change before this one will never be told.
    pub fn changed(&mut self, client: u32, device: &str, to: Presence, at: Tick) -> bool {
        let known = &self.clients[client as usize].devices;
        let found = known.iter().copied().find(|index| *self.devices[*index as usize].name == *device);
        let Some(index) = found else {
            self.appear(client, device, to, at);
            return false;
        };
        let entry = &mut self.devices[index as usize];
        if entry.now == to {
            return false;
        }
        let overtakes = entry.is_settling();
        if overtakes {
            self.unlink(index);
        }
        let entry = &mut self.devices[index as usize];
        (entry.now, entry.changed_at) = (to, at);
        if entry.is_settling() {
            self.link(index);
        } else if entry.told == Presence::Offline {
            self.forget(index);
        }
        overtakes
    }

    /// A device that was not known.
    fn appear(&mut self, client: u32, device: &str, to: Presence, at: Tick) {
        if to == Presence::Offline {
            return;
        }
        let index = self.devices.insert(Device {
            client,
            name: device.into(),
            told: Presence::Offline,
            told_ms: 0,
            now: to,
            changed_at: at,
            previous: NONE,
            next: NONE,
        }) as u32;
        self.clients[client as usize].devices.push(index);
        self.link(index);
    }

    fn forget(&mut self, device: u32) -> Device {
        let removed = self.devices.remove(device as usize);
        self.clients[removed.client as usize].devices.retain(|other| *other != device);
        removed
    }

    /// Appends to the list of changes.
    fn link(&mut self, device: u32) {
        let last = std::mem::replace(&mut self.last, device);
        let entry = &mut self.devices[device as usize];
        (entry.previous, entry.next) = (last, NONE);
        if last == NONE {
            self.first = device;
        } else {
            self.devices[last as usize].next = device;
        }
        self.settling += 1;
    }

    fn unlink(&mut self, device: u32) {
        let Device { previous, next, .. } = self.devices[device as usize];
        if previous == NONE {
            self.first = next;
        } else {
            self.devices[previous as usize].next = next;
        }
        if next == NONE {
            self.last = previous;
        } else {
            self.devices[next as usize].previous = previous;
        }
        self.settling -= 1;
    }

    /// When the next change settles.
    pub fn next_settled(&self, settle_ms: u32) -> Option<Tick> {
        (self.first != NONE).then(|| self.devices[self.first as usize].changed_at.plus_ms(settle_ms.into()))
    }

    /// The next change that has settled, with the client that is concerned: it counts as told from now on.
    pub fn settled(&mut self, now: Tick, settle_ms: u32, wall_ms: impl Fn(Tick) -> u64) -> Option<(u32, Told)> {
        self.next_settled(settle_ms).filter(|at| *at <= now)?;
        let index = self.first;
        self.unlink(index);
        let device = &mut self.devices[index as usize];
        let since_ms = wall_ms(device.changed_at);
        let was = std::mem::replace(&mut device.told, device.now);
        device.told_ms = since_ms;
        let (client, presence) = (device.client, device.now);
        let entry = &mut self.clients[client as usize];
        let name = if presence == Presence::Offline {
            entry.online -= 1;
            entry.gone_ms = since_ms;
            self.forget(index).name
        } else {
            entry.online += u32::from(was == Presence::Offline);
            device.name.clone()
        };
        let online = self.clients[client as usize].online;
        Some((client, Told { device: name, presence, online, since_ms }))
    }

    /// All that was told of the client's devices; something even if none is online.
    pub fn all(&self, client: u32) -> Vec<Told> {
        let client = &self.clients[client as usize];
        let online = client.online;
        let devices = client.devices.iter().map(|index| &self.devices[*index as usize]);
        let mut all: Vec<Told> = devices
            .filter(|device| device.told != Presence::Offline)
            .map(|device| Told { device: device.name.clone(), presence: device.told, online, since_ms: device.told_ms })
            .collect();
        if all.is_empty() {
            all.push(Told { device: Box::default(), presence: Presence::Offline, online, since_ms: client.gone_ms });
        }
        all
    }

    /// Some watchers of the client have `owed` set: to be tried again at this time, which is later than all before it.
    pub fn owe(&mut self, client: u32, at: Tick) {
        let entry = &mut self.clients[client as usize];
        if !entry.owes {
            entry.owes = true;
            self.owing.push_back((at, client, entry.ticket));
        }
    }

    /// The next client some of whose watchers are to be tried again.
    pub fn owed(&mut self, now: Tick) -> Option<u32> {
        while let Some(&(at, client, ticket)) = self.owing.front() {
            if at > now {
                return None;
            }
            self.owing.pop_front();
            // Others may have its place by now.
            if let Some(entry) = self.clients.get_mut(client as usize).filter(|entry| entry.ticket == ticket) {
                entry.owes = false;
                return Some(client);
            }
        }
        None
    }

    /// When that is.
    pub fn next_owed(&self) -> Option<Tick> {
        self.owing.front().map(|(at, ..)| *at)
    }
}
