//! Presence and the numbers of members: what each peer was told, and what is true. Half of the runs have it; its chance comes from
//! a source of its own, so that the other half is as it was.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use weir::wire::{Frame, FrameType, body};

use crate::{
    peer::{Habit, Peer},
    plan::{Plan, SECOND_US, SLACK_US},
    rng::Rng,
    world::World,
};

const OFFLINE: i32 = body::Presence::Offline as i32;
const FOREGROUND: i32 = body::Presence::Foreground as i32;
const BACKGROUND: i32 = body::Presence::Background as i32;

/// What a seed decides about it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ways {
    pub on: bool,
    pub settle_ms: u32,
    /// Peers change so often, and their queues are so short, that not all can be told.
    pub pressed: bool,
    /// A WATCH may be refused: one name at a time, and none before the last was answered.
    restricted: bool,
    /// A frame may be refused because of its rate; then whether an UNWATCH or a STATE was carried out is not known.
    rated: bool,
}

impl Ways {
    pub fn choose(plan: &mut Plan) {
        let mut rng = Rng::new(plan.hash_key.0);
        let (on, rated) = (rng.chance(50), plan.has_rate_limit());
        let pressed = on && rng.chance(50) && !rated && !plan.all_good && plan.payload_max < 10_000;
        let limits = &mut plan.limits;
        if pressed {
            limits.outbound_bytes_per_connection = 6 * 1024;
            plan.socket_bytes = rng.pick(&[200, 600]);
        }
        if rng.chance(20) {
            limits.watches_per_connection = rng.range(1, 4) as u32;
        }
        if rng.chance(20) {
            limits.watchers_per_client = rng.range(1, 4) as u32;
        }
        let restricted = rated || limits.watches_per_connection < 100 || limits.watchers_per_client < 100;
        let settle_ms = if pressed { rng.pick(&[0, 20]) } else { rng.pick(&[0, 50, 500, 1_000]) };
        plan.timeouts.settle_ms = settle_ms;
        plan.presence = Ways { on, settle_ms, pressed, restricted, rated };
    }
}

/// One client that a peer watches, or did.
#[derive(Debug, Default)]
struct Watch {
    on: bool,
    /// The place of the UNWATCH among the peer's frames.
    off_at: Option<u64>,
    times: u32,
    /// The answer has begun.
    begun: bool,
    /// How much of it is to come.
    rest: u32,
    known: BTreeMap<String, i32>,
}

/// A PRESENCE, and whether it was part of an answer.
#[derive(Debug)]
struct Heard {
    at: u64,
    answer: bool,
    said: body::PresenceOf,
}

/// What a peer did and heard.
#[derive(Debug)]
pub struct Book {
    rng: Rng,
    ways: Ways,
    watches: BTreeMap<String, Watch>,
    /// WATCHes without an answer, and whether the client was watched before.
    asked: BTreeMap<String, bool>,
    /// STATE, and its place among the peer's frames.
    state: Option<(bool, u64)>,
    ever_background: bool,
    heard: Vec<Heard>,
    /// How often what was told did not go on from what was told before.
    odd: u32,
    /// JOIN_OK that came when all was quiet.
    counted: Vec<(String, u32)>,
    counting: bool,
}

impl Book {
    pub fn new(plan: &Plan, id: usize) -> Book {
        Book {
            rng: Rng::new(plan.hash_key.1 ^ id as u64),
            ways: plan.presence,
            watches: BTreeMap::new(),
            asked: BTreeMap::new(),
            state: None,
            ever_background: false,
            heard: Vec::new(),
            odd: 0,
            counted: Vec::new(),
            counting: false,
        }
    }

    /// Perhaps a frame, which will be the `place`th of the peer.
    pub fn act(&mut self, place: u64, plan: &Plan) -> Option<Frame<'static>> {
        if !self.ways.on || !self.rng.chance(if self.ways.pressed { 85 } else { 40 }) {
            return None;
        }
        let names = if self.ways.restricted { 1 } else { self.rng.range(1, 3) };
        // One more than there are: somebody who never comes.
        let mut clients: Vec<String> = (0..names).map(|_| format!("client-{}", self.rng.range(1, plan.clients + 1))).collect();
        match self.rng.range(0, if self.ways.pressed { 29 } else { 9 }) {
            0..=4 if !self.ways.restricted || self.asked.is_empty() => {
                for client in &clients {
                    let watch = self.watches.entry(client.clone()).or_default();
                    self.asked.entry(client.clone()).or_insert(watch.on);
                    *watch = Watch { on: true, off_at: None, times: watch.times + 1, ..std::mem::take(watch) };
                }
                Some(Frame::Watch(body::Watch { clients }))
            }
            5 | 6 if !self.ways.rated && self.asked.is_empty() => {
                if self.rng.chance(30) {
                    clients.clear();
                }
                for (client, watch) in self.watches.iter_mut().filter(|(_, watch)| watch.on) {
                    if clients.is_empty() || clients.contains(client) {
                        *watch = Watch { off_at: Some(place), times: watch.times, ..Watch::default() };
                    }
                }
                Some(Frame::Unwatch(body::Unwatch { clients }))
            }
            7..=29 => {
                let background = self.rng.chance(50);
                self.state = Some((background, place));
                self.ever_background |= background;
                let presence = if background { BACKGROUND } else { FOREGROUND };
                Some(Frame::State(body::State { presence }))
            }
            _ => None,
        }
    }

    /// A frame was refused.
    pub fn refused(&mut self, kind: FrameType) {
        match kind {
            FrameType::Watch => {
                assert!(self.ways.restricted, "a WATCH was refused that is fine");
                let (client, was_on) = self.asked.pop_first().expect("a refusal of a WATCH that was not sent");
                let watch = self.watches.get_mut(&client).expect("it was asked for");
                if !was_on {
                    *watch = Watch { times: watch.times, ..Watch::default() };
                }
            }
            FrameType::State => assert!(self.ways.rated, "a STATE was refused that is fine"),
            other => panic!("a refusal of {other:?}"),
        }
    }

    /// PRESENCE. `processed` is as in `Peer`.
    pub fn heard(&mut self, me: usize, at: u64, processed: u64, said: body::PresenceOf) {
        let watch = self.watches.get_mut(&said.client).filter(|watch| watch.times > 0);
        let watch = watch.unwrap_or_else(|| panic!("peer {me} never watched: {said:?}"));
        let is_late = watch.off_at.is_some_and(|place| place < processed);
        assert!(!is_late, "peer {me} heard of a client behind the answer to a frame behind UNWATCH: {said:?}");
        if watch.on {
            assert!(watch.begun || said.fresh || watch.times > 1, "peer {me}: the answer does not begin with `fresh`: {said:?}");
            if said.fresh {
                (watch.begun, watch.rest) = (true, said.online);
                watch.known.clear();
                self.asked.remove(&said.client);
            }
        }
        // What was under way when it was unwatched is not looked at.
        let counts = watch.on && watch.begun;
        let answer = said.fresh || !counts || watch.rest > 0;
        if counts {
            let before = if said.presence == OFFLINE {
                watch.known.remove(&said.device).or((said.online == 0 && said.fresh).then_some(FOREGROUND))
            } else {
                let before = watch.known.insert(said.device.clone(), said.presence);
                (before != Some(said.presence)).then_some(FOREGROUND)
            };
            self.odd += u32::from(before.is_none());
            watch.rest = watch.rest.saturating_sub(1);
            self.odd += u32::from(watch.rest == 0 && watch.known.len() != said.online as usize);
        }
        self.heard.push(Heard { at, answer, said });
    }

    /// JOIN_OK.
    pub fn joined(&mut self, group: &str, members: u32, plan_peers: usize) {
        assert!((1..=plan_peers as u32).contains(&members), "{group} has {members} members?");
        if self.counting {
            self.counted.push((group.to_owned(), members));
        }
    }
}

/// Logged in for long, doing what it should, and nothing is on its way to it.
fn is_settled(world: &World, peer: &Peer) -> bool {
    let link = &world.links[peer.id];
    let long = peer.login_ok_at.is_some_and(|at| at + SLACK_US + SECOND_US < world.finale_at);
    let there = peer.ending.is_none() && !peer.is_over() && !peer.closed_itself && link.closed_at.is_none();
    long && there && peer.habit == Habit::Good && link.down.is_empty() && !peer.has_part_of_a_frame() && peer.has_all_answers()
}

/// Never came, or is long gone for the gateway too.
fn is_gone(world: &World, peer: &Peer) -> bool {
    let closed = world.links[peer.id].closed_at;
    !peer.connected || closed.is_some_and(|at| at + SLACK_US + SECOND_US < world.finale_at)
}

/// Some time before the finale, when nobody does anything any more: members ask how many they are.
pub fn count(world: &mut World) {
    if !world.plan.presence.on || world.plan.has_rate_limit() {
        return;
    }
    let now = world.now();
    for id in 0..world.peers.len() {
        let peer = &world.peers[id];
        let live = peer.login_ok_at.is_some() && peer.ending.is_none() && !peer.is_over() && !peer.closed_itself;
        if live && peer.habit == Habit::Good {
            let peer = &mut world.peers[id];
            peer.book.counting = true;
            peer.join_again();
            peer.next_at = peer.next_at.min(now);
        }
    }
}

/// Before the finale: the last word that each watcher has on each device is the truth.
pub fn truth(world: &World) {
    for peer in world.peers.iter().filter(|peer| is_settled(world, peer)) {
        assert!(peer.book.asked.is_empty(), "peer {}: no answer to WATCH: {:?}", peer.id, peer.book.asked);
        for (client, watch) in peer.book.watches.iter().filter(|(_, watch)| watch.on) {
            check_watch(world, peer, client, watch);
        }
        for (group, members) in &peer.book.counted {
            check_count(world, peer, group, *members);
        }
    }
}

fn check_watch(world: &World, watcher: &Peer, client: &str, watch: &Watch) {
    let devices: BTreeSet<&str> =
        world.peers.iter().filter(|peer| peer.client == client).map(|peer| peer.device.as_str()).collect();
    for device in devices {
        let known = watch.known.get(device).copied();
        let all = || world.peers.iter().filter(|peer| peer.client == client && peer.device == device);
        if all().all(|peer| is_gone(world, peer)) {
            let of = format!("{client}'s device {device:?}");
            assert_eq!(known, None, "peer {} takes {of} for online, which is gone", watcher.id);
        }
        let Some(online) = all().find(|peer| is_settled(world, peer)) else { continue };
        let id = (watcher.id, online.id);
        assert!(known.is_some(), "peer {} takes peer {} for offline, which is online\n{watch:?}", id.0, id.1);
        let is_sure = !online.book.ways.rated && online.book.state.is_none_or(|(_, place)| place < online.processed);
        let presence = if online.book.state.is_some_and(|(background, _)| background) { BACKGROUND } else { FOREGROUND };
        assert!(!is_sure || known == Some(presence), "peer {} takes peer {} for {known:?}, not {presence}", id.0, id.1);
    }
}

fn check_count(world: &World, asker: &Peer, group: &str, members: u32) {
    let joined = || world.peers.iter().filter(|peer| peer.ever_joined(group) && !is_gone(world, peer));
    if joined().all(|peer| is_settled(world, peer) && peer.groups[group].is_known()) {
        let count = joined().filter(|peer| peer.is_member(group)).count();
        assert_eq!(members as usize, count, "peer {} was told another number of members of {group}", asker.id);
    }
}

/// After everything: all that was said may have been true.
pub fn judge(world: &World) {
    let settle_us = u64::from(world.plan.presence.settle_ms) * 1_000;
    for peer in &world.peers {
        let Book { odd, heard, .. } = &peer.book;
        assert_eq!(*odd, 0, "peer {}: presence did not go on from what it was\n{heard:#?}", peer.id);
        for Heard { at, answer, said } in heard {
            let since_us = (said.since_ms * 1_000).saturating_sub(world.plan.wall_us);
            assert!(since_us <= *at, "peer {} heard of the future: {said:?}", peer.id);
            let settled = *answer || since_us + settle_us <= *at;
            assert!(settled, "peer {} was told at {at} of what had not lasted: {said:?}", peer.id);
            let been = |other: &&Peer| {
                let is_it = other.client == said.client && other.device == said.device;
                let came = other.login_written_at.is_some_and(|written| *answer || written + settle_us <= *at);
                is_it && came && (said.presence != BACKGROUND || other.book.ever_background)
            };
            let nobody = said.presence == OFFLINE && said.fresh && said.device.is_empty();
            assert!(nobody || world.peers.iter().any(|other| been(&other)), "peer {} heard what never was: {said:?}", peer.id);
        }
    }
}
