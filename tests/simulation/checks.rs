//! What must be true of connections: who may be closed, with which code and when, and what is left in the end.
#![forbid(unsafe_code)]

use weir::{io::Machine as _, session::Policy, shard::Residue, stats::Kind, wire::ErrorCode};

use crate::{
    peer::{Ending, Habit, Peer},
    plan::{CLASSES, SLACK_US},
    world::World,
};

fn is_same_device(a: &Peer, b: &Peer) -> bool {
    a.client == b.client && a.device == b.device
}

/// Whether the class's policy lets only one of the two be online.
fn share_class(a: &Peer, b: &Peer, policy: Policy) -> bool {
    a.client == b.client && a.device != b.device && a.class == b.class && CLASSES[a.class].1 == policy
}

/// Whether one of the two may be closed because of the other.
pub fn are_rivals(a: &Peer, b: &Peer) -> bool {
    is_same_device(a, b) || share_class(a, b, Policy::KeepNewest)
}

/// Whether it came long enough ago for every deadline to have passed.
fn is_old(world: &World, peer: &Peer) -> bool {
    peer.connect_at + SLACK_US < world.finale_at
}

/// Before the finale: every deadline that has passed must have fired.
pub fn deadlines(world: &World) {
    for peer in &world.peers {
        if matches!(peer.habit, Habit::Mute | Habit::Silent | Habit::Garbler(_)) && is_old(world, peer) {
            let rated = world.plan.has_rate_limit() && peer.habit == Habit::Garbler(ErrorCode::UnexpectedFrame);
            let waits = world.links[peer.id].holder.is_some() && world.plan.limits.connections < 10_000;
            assert!(peer.is_over() || waits || rated, "peer {} ({:?}) is still there", peer.id, peer.habit);
        }
    }
}

/// Before the finale: nobody keeps a chunk in flight for ever. (A peer that does not read still sends, so that more waits for it.)
pub fn stalls(world: &World) {
    let write_us = 1_000 * u64::from(2 * world.plan.timeouts.write_ms);
    for reactor in &world.reactors {
        let stuck = reactor.stuck(world.finale_at.saturating_sub(write_us + SLACK_US));
        assert!(stuck.is_none(), "peer {stuck:?} took no bytes until long after the write deadline, and is still there");
    }
}

/// Before the finale, when nobody is on the way any more: one session for each device, and for a class as its policy says.
pub fn rivals(world: &World) {
    let online = |peer: &&Peer| {
        let reads = peer.habit != Habit::Deaf && is_old(world, peer);
        reads && peer.login_ok_at.is_some() && peer.ending.is_none() && !peer.is_over() && !peer.closed_itself
    };
    for a in world.peers.iter().filter(online) {
        for b in world.peers[a.id + 1..].iter().filter(online) {
            let share = are_rivals(a, b) || share_class(a, b, Policy::RefuseNewest);
            assert!(!share, "peers {} and {} are both online, and only one of them may be", a.id, b.id);
        }
    }
}

/// A session's epoch is larger than that of every earlier one of its device.
fn epochs(world: &World) {
    for peer in &world.peers {
        let earlier = |other: &&Peer| {
            let before = other.login_ok_at.zip(peer.login_written_at).is_some_and(|(ok, written)| ok < written);
            before && is_same_device(peer, other)
        };
        for other in world.peers.iter().filter(earlier).filter(|_| peer.login_ok_at.is_some()) {
            assert!(other.epoch < peer.epoch, "peer {} has an epoch before that of peer {}, the earlier one", peer.id, other.id);
        }
    }
}

/// After everything.
pub fn end(world: &mut World) {
    epochs(world);
    for peer in &world.peers {
        if let Some(ending) = peer.ending {
            check_ending(world, peer, ending);
        }
        check_stay(world, peer);
        assert!(world.links[peer.id].closed_at.is_some() || !peer.connected, "peer {}: never closed", peer.id);
    }
    let linger_us = 1_000 * u64::from(world.plan.timeouts.linger_ms) + SLACK_US;
    for (id, link) in world.links.iter().enumerate() {
        let lingered_us = link.closed_at.zip(link.finished_at).map_or(0, |(closed, finished)| closed - finished);
        assert!(lingered_us <= linger_us, "peer {id} was waited for {lingered_us} us after the last frame");
    }
    let last_left = world.links.iter().filter_map(|link| link.closed_at).max().unwrap_or(0).max(world.finale_at);
    let deadline = last_left.min(world.finale_at + world.drain_within_us) + SLACK_US;
    for (id, reactor) in world.reactors.iter_mut().enumerate() {
        if world.plan.drain {
            let at = reactor.stopped_at.unwrap_or_else(|| panic!("shard {id} did not stop"));
            assert!(at <= deadline, "shard {id} stopped {} us late", at - deadline);
            assert!(reactor.shard.poll_output().is_none(), "shard {id} has something to say after Stop");
            continue;
        }
        assert_eq!(reactor.shard.residue(), Residue::default(), "shard {id} still holds something, and everybody has left");
        for (name, kind, _, value) in reactor.stats.plain() {
            assert!(kind == Kind::Counter || value == 0, "the gauge {name} of shard {id} is {value} and nobody is there");
        }
    }
}

/// Who was good to the end stays to the end, and learns that the gateway stops.
fn check_stay(world: &World, peer: &Peer) {
    if peer.login_ok_at.is_some() && peer.risk_at >= world.finale_at {
        let late = peer.login_ok_at.is_some_and(|at| at >= world.finale_at) && peer.ending.is_some();
        let kicked = peer.ending.is_some_and(|ending| ending.kicked);
        let told = !world.plan.drain || peer.going_at.is_some() || late || kicked || !peer.read_all;
        assert!(told, "peer {} was not told that the gateway stops\n{peer:#?}", peer.id);
        let cut = peer.ended_at.is_some_and(|at| at < world.finale_at);
        assert!(!cut, "peer {} was cut off\n{peer:#?}", peer.id);
    }
    if world.plan.all_good && is_old(world, peer) {
        assert!(peer.login_ok_at.is_some(), "peer {} did nothing wrong and could not log in", peer.id);
        for (group, membership) in &peer.groups {
            assert!(!membership.has_due() || peer.risk_at < world.finale_at, "peer {}: no answer about {group}", peer.id);
        }
    }
}

fn check_ending(world: &World, peer: &Peer, ending: Ending) {
    let Ending { code, kicked, at } = ending;
    let me = peer.id;
    let limits = &world.plan.limits;
    let is_new = peer.login_ok_at.is_none();
    let others = || world.peers.iter().filter(|other| other.id != me);
    let newer = |other: &Peer| {
        let written = other.login_written_at.is_some_and(|written| written <= at);
        // Without an epoch of one's own: not somebody who was in before one's LOGIN left.
        let later = match peer.login_ok_at {
            Some(_) => other.epoch > peer.epoch || other.login_ok_at.is_none(),
            None => other.login_ok_at.is_none_or(|ok| peer.login_written_at.is_some_and(|mine| ok >= mine)),
        };
        written && later
    };
    let due_us = at.saturating_sub(peer.connect_at);
    let right = match code {
        ErrorCode::Superseded => kicked && others().any(|other| is_same_device(peer, other) && newer(other)),
        ErrorCode::ReplacedByDevice => {
            kicked && others().any(|other| share_class(peer, other, Policy::KeepNewest) && newer(other))
        }
        ErrorCode::DeviceRefused => {
            let stands = |other: &Peer| {
                let gone = world.links[other.id].closed_at.is_some_and(|closed| closed + SLACK_US < peer.connect_at);
                other.login_written_at.is_some_and(|written| written <= at) && !gone
            };
            !kicked && is_new && others().any(|other| share_class(peer, other, Policy::RefuseNewest) && stands(other))
        }
        ErrorCode::LoginTimeout => {
            let limit_us = u64::from(world.plan.timeouts.login_ms) * 1_000;
            let in_time = peer.login_written_at.is_some_and(|written| written + SLACK_US < peer.connect_at + limit_us);
            let late = limits.connections >= 10_000 && due_us > limit_us + SLACK_US;
            !kicked && is_new && !in_time && due_us >= limit_us && !late
        }
        ErrorCode::IdleTimeout => {
            let silent_us = at.saturating_sub(peer.last_write_at);
            let probe_us = u64::from(world.plan.heartbeat.probe_timeout_ms) * 1_000;
            let least_us = u64::from(world.plan.heartbeat.interval_min_ms * world.plan.heartbeat.missed_max) * 1_000 + probe_us;
            let most_us = world.plan.silence_max_us() + probe_us + SLACK_US;
            // What it wrote may have waited for a place in a full table.
            let heard_at = peer.last_write_at.max(peer.login_ok_at.unwrap_or(at));
            !kicked && peer.habit == Habit::Silent && silent_us >= least_us && at - heard_at <= most_us
        }
        // Or its share of a budget that others have used up.
        ErrorCode::SlowConsumer => !kicked && (peer.ever_paused || world.plan.has_small_budget()),
        ErrorCode::RateExceeded => !kicked && world.plan.has_rate_limit(),
        ErrorCode::TooManyFromAddress => {
            let address = world.links[me].address;
            let present = others().filter(|other| {
                let link = &world.links[other.id];
                let gone = link.closed_at.is_some_and(|closed| closed + SLACK_US < peer.connect_at);
                link.address == address && other.connected && other.connect_at <= at && !gone
            });
            !kicked && is_new && limits.connections_per_address > 0 && present.count() >= limits.connections_per_address as usize
        }
        ErrorCode::TooManyConnections => !kicked && is_new && limits.connections < 10_000,
        ErrorCode::LoginRateExceeded => !kicked && is_new && limits.logins_per_second > 0,
        ErrorCode::GoingAway => !kicked && world.plan.drain && at >= world.finale_at,
        other => !kicked && peer.habit == Habit::Garbler(other) && peer.garbage_at.is_some_and(|sent| sent <= at),
    };
    assert!(
        right,
        "peer {me} ({:?}, class {}) was closed for no reason: {ending:?}, connected at {}",
        peer.habit, peer.class, peer.connect_at
    );
}
