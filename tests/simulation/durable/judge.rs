//! What must be true when it has been quiet for a long while, and when everybody has left.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use weir::{
    io::Machine as _,
    shard::Residue,
    stats::Kind,
    store::{CursorKey, CursorKind},
    wire::PushRef,
};

use super::{device::Device, model::Model, world::World};
use crate::{disk::Disk, store::FOREVER};

/// One device of each client, that says what was read.
pub fn readers(devices: &[Device]) -> Vec<usize> {
    let mut clients = BTreeSet::new();
    let takes = |device: &&Device| device.takes_part() && device.conn.as_ref().is_some_and(|conn| conn.online);
    devices.iter().filter(takes).filter(|device| clients.insert(device.client.clone())).map(|device| device.id).collect()
}

/// After the quiet: everything is where it belongs.
pub fn judge(world: &mut World) {
    let (disk, model, devices, plan) = world.truth();
    model.judge(&disk.ledger);
    log_holds_the_ledger(disk);
    if plan.retention == FOREVER {
        assert_eq!(model.gaps, 0, "there were GAPs, and nothing was ever removed");
    }
    let readers = readers(devices);
    for device in devices {
        has_everything(device, disk, model);
        if device.takes_part() {
            let reader = readers.iter().map(|id| &devices[*id]).find(|reader| reader.client == device.client);
            knows_what_was_read(device, reader.expect("somebody of this client is online"), disk);
        }
    }
}

/// What the log gives is what it took, as far as it kept it.
fn log_holds_the_ledger(disk: &mut Disk) {
    let ledger = disk.ledger.clone();
    for (channel, list) in ledger.channels() {
        let bounds = disk.bounds_now(channel);
        assert_eq!(bounds.last, list.len() as u64, "{channel} ends elsewhere");
        let mut page = Vec::new();
        disk.read_now(channel, 1, &mut page);
        let mut seq = bounds.first;
        let mut rest = &*page;
        while let Some((length, more)) = rest.split_first_chunk::<4>() {
            let (entry, more) = more.split_at(u32::from_le_bytes(*length) as usize);
            rest = more;
            let push = PushRef::decode_body(entry).expect("the log gives messages");
            let kept = ledger.at(channel, seq).expect("it is below the last");
            assert_eq!((push.seq, push.client_msg_id, push.timestamp), (seq, kept.key.number, kept.timestamp), "{channel} {seq}");
            assert!(push.payload == kept.payload, "{channel} {seq} was altered");
            seq += 1;
        }
        assert_eq!(seq, bounds.last + 1, "{channel} has a hole");
    }
}

/// A device that is there has all of its channels, and waits for no answer.
fn has_everything(device: &Device, disk: &mut Disk, model: &Model) {
    let me = device.id;
    let conn = device.conn.as_ref().filter(|conn| conn.online && conn.ending.is_none());
    let conn = conn.unwrap_or_else(|| panic!("device {me} could not come back\n{device:#?}"));
    assert!(conn.unanswered.is_empty(), "device {me}: no answer to {:?}", conn.unanswered);
    assert!(conn.syncs.is_empty(), "device {me}: no PAGE for {:?}", conn.syncs);
    assert!(conn.mistakes.is_empty(), "device {me}: {:?} were not refused", conn.mistakes);
    assert!(conn.due.values().all(|due| due.is_empty()), "device {me}: no answer to {:?}", conn.due);
    for channel in &device.wanted {
        assert!(conn.is_member(channel), "device {me} is not in {channel}");
    }
    if !device.takes_part() {
        assert!(conn.spots.is_empty());
        return;
    }
    for channel in device.wanted.iter().chain([&device.inbox()]) {
        let spot = conn.spots.get(channel).filter(|spot| spot.open);
        let spot = spot.unwrap_or_else(|| panic!("device {me} was never told where {channel} begins"));
        let last = disk.ledger.last(channel);
        // What lies at the end, and was never accepted, is owed to nobody.
        let owed = model.last_accepted(channel);
        assert!(spot.next > owed, "device {me} waits for {channel} {}, and {owed} was accepted\n{device:#?}", spot.next);
        assert_eq!(spot.acked, spot.next - 1, "device {me} has not acknowledged {channel}");
        let kind = CursorKind::Received { device: &device.name };
        let saved = disk.cursor_now(CursorKey { channel, client: &device.client, kind }).unwrap_or(0);
        assert!(saved <= last, "device {me}: the log has cursor {saved} in {channel}, and the newest is {last}");
        // What it said while the disk failed is not said again.
        let lost = |at: Option<u64>| at.is_some_and(|at| conn.opened_at <= at);
        let is_saved = saved == spot.acked || lost(model.outage_until) || lost(model.overloaded_at);
        assert!(is_saved, "device {me}: cursor {saved} in {channel}, it said {}", spot.acked);
    }
}

/// All devices of a client have been told what one of them has read.
fn knows_what_was_read(device: &Device, reader: &Device, disk: &mut Disk) {
    let (Some(conn), Some(theirs)) = (&device.conn, &reader.conn) else { return };
    for (channel, spot) in &conn.spots {
        let Some(read) = theirs.spots.get(channel).map(|spot| spot.next - 1) else { continue };
        let told = spot.told.as_ref().expect("it is open");
        let saved = disk.cursor_now(CursorKey { channel, client: &device.client, kind: CursorKind::Read }).unwrap_or(0);
        assert_eq!((told.read, saved), (read, read), "device {}: {channel} was read up to {read}: {told:?}", device.id);
    }
}

/// Everybody has left: nothing is held for anybody.
pub fn end(world: &mut World) {
    let Some(process) = &mut world.process else { panic!("the gateway is gone") };
    for (id, reactor) in process.reactors.iter_mut().enumerate() {
        assert!(reactor.shard.poll_output().is_none(), "shard {id} has something to say");
        assert_eq!(reactor.shard.residue(), Residue::default(), "shard {id} still holds something, and everybody has left");
        for (name, kind, _, value) in reactor.stats.plain() {
            assert!(kind == Kind::Counter || value == 0, "the gauge {name} of shard {id} is {value} and nobody is there");
        }
    }
    assert!(!process.store.is_busy(), "the store still works");
}
