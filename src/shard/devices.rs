//! The devices that take part in durable delivery: where each stands in its channels, and how much may be on its way to it.
#![forbid(unsafe_code)]

use super::{
    Shard,
    connections::{NONE, Phase},
    reader::Reader,
};
use crate::{
    ids::ConnId,
    limits::WINDOW_MAX,
    session::{Target, check_channel},
    wire::FrameType,
};

/// A connection whose LOGIN asked for a window.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    /// Its place in its client's own channel.
    pub inbox: Reader,
    /// Pushed and not acknowledged, in all channels.
    pub unacked: u16,
    window: u16,
    /// A reader waits for room.
    pub is_blocked: bool,
}

const _: () = assert!(size_of::<Option<Device>>() <= 48, "what an idle device costs beside its connection");
const _: () = assert!(WINDOW_MAX <= u16::MAX as u32);

impl Device {
    /// With nothing under way. `window` is at most `WINDOW_MAX`.
    pub fn new(inbox: Reader, window: u32) -> Device {
        let window = u16::try_from(window).expect("LOGIN bounds the window");
        Device { inbox, unacked: 0, window, is_blocked: false }
    }

    /// How many more messages may be on their way.
    pub fn room(&self) -> u32 {
        u32::from(self.window.saturating_sub(self.unacked))
    }
}

/// Which channel of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `user/` and its own client.
    Inbox,
    /// A group, by its index on this shard.
    Group(u32),
}

impl Shard {
    /// The device behind a live connection, if it takes part.
    pub(super) fn device(&mut self, conn: ConnId) -> Option<&mut Device> {
        let index = self.connections.get(conn)?.device;
        if index == NONE { None } else { Some(&mut self.devices[index as usize]) }
    }

    /// A device's place in a channel, if it follows it.
    pub(super) fn reader(&mut self, conn: ConnId, place: Place) -> Option<&mut Reader> {
        match place {
            Place::Inbox => self.device(conn).map(|device| &mut device.inbox),
            Place::Group(group) => {
                let connection = self.connections.get(conn)?;
                let groups = &connection.extra.as_ref()?.groups;
                let membership = groups.iter().find(|membership| membership.group == group)?;
                self.local_groups.reader(*membership)
            }
        }
    }

    /// The place that a channel's name means for a connection, if it follows that channel.
    pub(super) fn place_of(&mut self, conn: ConnId, channel: &str) -> Option<Place> {
        let place = match check_channel(channel, FrameType::Received).ok()? {
            Target::User(client) if self.connections.get(conn)?.names.client() == client => Place::Inbox,
            Target::User(_) => return None,
            Target::Group(group) => Place::Group(self.local_groups.find(group)?),
        };
        self.reader(conn, place).map(|_| place)
    }

    /// The name of a channel that a live connection follows.
    pub(super) fn channel_at(&self, conn: ConnId, place: Place) -> String {
        match place {
            Place::Inbox => format!("user/{}", self.connections.at(conn.slot).names.client()),
            Place::Group(group) => format!("group/{}", self.local_groups.name(group)),
        }
    }

    /// Whether a connection is logged in, at home, and not about to end.
    pub(super) fn is_active(&self, conn: ConnId) -> bool {
        self.connections.get(conn).is_some_and(|connection| connection.phase == Phase::Active)
    }

    /// Whether a message of so many bytes may be queued on a connection without using up its budget or the shard's. One that is larger
    /// than the budget, because that was larger when the message was kept, waits until nothing else does.
    pub(super) fn has_outbound_room(&self, slot: u32, bytes: usize) -> bool {
        let limits = &self.settings.limits;
        let queued = self.queued_bytes(slot);
        (queued == 0 || queued + bytes <= limits.outbound_bytes_per_connection)
            && self.outbound_bytes + bytes <= limits.outbound_bytes_per_shard
    }

    /// Bytes that wait on a connection.
    pub(super) fn queued_bytes(&self, slot: u32) -> usize {
        match self.connections.at(slot).outbound {
            NONE => 0,
            index => self.outbounds[index as usize].bytes,
        }
    }

    /// The connection is active and takes part: enters its device, and asks the store where it stands.
    pub(super) fn enroll(&mut self, conn: ConnId, window: u32, cursor: Option<u64>) {
        if window == 0 {
            return;
        }
        let inbox = Reader::opening(cursor, self.next_ticket());
        let index = self.devices.insert(Device::new(inbox, window)) as u32;
        self.connections.at_mut(conn.slot).device = index;
        if self.storage.has_room() {
            self.open(conn, Place::Inbox);
        } else {
            self.rest(conn, Place::Inbox);
        }
    }

    /// The connection ends: what it acknowledged is saved, and its device forgotten. Its groups are left before.
    pub(super) fn discharge(&mut self, conn: ConnId) {
        let index = std::mem::replace(&mut self.connections.at_mut(conn.slot).device, NONE);
        if index == NONE {
            return;
        }
        let mut device = self.devices.remove(index as usize);
        if let Some(to) = device.inbox.take_unsaved() {
            self.save_last(conn, Place::Inbox, to);
        }
    }

    /// A reader has gone: what was on its way to it counts no longer.
    pub(super) fn release(&mut self, conn: ConnId, reader: &Reader) {
        if let Some(device) = self.device(conn) {
            device.unacked -= reader.unacked();
        }
        self.wake_readers(conn);
    }

    /// Room was made on a connection, by an acknowledgement or by bytes that left: readers that waited for it get in line.
    pub(super) fn wake_readers(&mut self, conn: ConnId) {
        let has_room = self.is_active(conn) && self.queued_bytes(conn.slot) <= self.catch_up_allowance();
        let Some(device) = self.device(conn).filter(|device| device.is_blocked && has_room && device.room() > 0) else { return };
        device.is_blocked = false;
        self.wake_reader(conn, Place::Inbox);
        let groups = self.connections.at(conn.slot).extra.as_ref().map_or(0, |extra| extra.groups.len());
        for index in 0..groups {
            let group = self.connections.at_mut(conn.slot).extra().groups[index].group;
            self.wake_reader(conn, Place::Group(group));
        }
    }
}
