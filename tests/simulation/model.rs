//! What must be true of messages, whatever the gateway does inside: plain lists, filled by the peers, judged at the end.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use crate::{peer::Peer, plan::SLACK_US};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    User(String),
    Group(String),
}

impl Target {
    pub fn channel(&self) -> String {
        match self {
            Target::User(name) => format!("user/{name}"),
            Target::Group(name) => format!("group/{name}"),
        }
    }
}

/// One SEND.
pub struct Sent {
    pub sender: usize,
    /// Its place among the sender's frames.
    pub frame: u64,
    pub target: Target,
    pub length: usize,
    pub receipt: bool,
    pub include_sender: bool,
    /// When its last byte left the peer.
    pub written_at: Option<u64>,
    /// SEND_OK: when, reached, dropped.
    pub answer: Option<(u64, u32, u32)>,
    /// An ERROR came instead.
    pub refused: bool,
    pub receivers: BTreeSet<usize>,
}

#[derive(Default)]
pub struct Model {
    /// By `client_msg_id`.
    pub sent: BTreeMap<u64, Sent>,
}

/// `client_msg_id` of a peer's message.
pub fn message_id(sender: usize, number: u64) -> u64 {
    sender as u64 * 1_000_000 + number
}

/// Who sent it, which number it has, and bytes that follow from both.
pub fn payload(id: u64, length: usize) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    let mut state = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// What the gateway says of all its shards together.
pub struct Totals {
    pub pushes: u64,
    pub dropped: u64,
    pub dropped_mesh: u64,
    /// Who reads slowly is soon too slow.
    pub has_small_budget: bool,
}

impl Model {
    /// A PUSH reached `peer`.
    pub fn delivered(&mut self, peer: &Peer, push: &weir::wire::PushRef<'_>, peers: &[(String, String)]) {
        let id = push.client_msg_id;
        let me = peer.id;
        let sent = self.sent.get_mut(&id).unwrap_or_else(|| panic!("peer {me} got message {id}, which nobody sent"));
        assert!(sent.written_at.is_some(), "peer {me} got message {id} before it was sent");
        assert!(!sent.refused, "peer {me} got message {id}, which was refused");
        assert!(push.payload == payload(id, sent.length), "message {id} was altered on its way to peer {me}");
        assert_eq!(push.channel, sent.target.channel(), "message {id} names another channel at peer {me}");
        let (client, device) = &peers[sent.sender];
        assert_eq!((push.from_client, push.from_device), (&**client, &**device), "message {id} names another sender");
        match &sent.target {
            Target::User(client) => assert_eq!(*client, peer.client, "peer {me} got message {id}, which is for {client}"),
            Target::Group(group) => {
                assert!(peer.is_member(group), "peer {me} got message {id} of group {group} and is not in it (now)");
                assert!(sent.include_sender || sent.sender != me, "peer {me} got its own message {id} of {group}");
            }
        }
        assert!(sent.receivers.insert(me), "peer {me} got message {id} twice");
    }

    /// Judges all messages, when nothing more can arrive. `end` is when the peers were told to leave.
    pub fn judge(&self, peers: &[Peer], end: u64, totals: &Totals) {
        let (mut received, mut missing, mut open, mut lossy) = (0u64, 0u64, 0u64, false);
        for (id, sent) in &self.sent {
            let Some(written_at) = sent.written_at else { continue };
            let sender = &peers[sent.sender];
            // What was sent just before the end may be handled after it.
            let in_time = sender.processed > sent.frame && written_at + SLACK_US < end;
            let processed = sent.answer.is_some() || in_time;
            let bound = sent.answer.map_or(end, |(at, ..)| at);
            let got = sent.receivers.len() as u64;
            let (mut sure, mut possible, mut unread, mut lost) = (0, 0, 0, 0);
            for peer in peers.iter().filter(|peer| can_get(sent, peer)) {
                let has = sent.receivers.contains(&peer.id);
                possible += 1;
                unread += u64::from(!has && !peer.read_all);
                lossy |= !peer.read_all;
                // Who did not read to the end may have been ended as too slow, and never knew.
                let may_be_ended = totals.has_small_budget && !peer.read_all;
                if processed && !sent.refused && !may_be_ended && must_get(sent, peer, written_at, bound) {
                    sure += 1;
                    lost += u64::from(!has && peer.read_all);
                }
            }
            assert!(got <= possible, "message {id}: {got} receivers, and only {possible} could be");
            if let Some((_, reached, dropped)) = sent.answer {
                let (reached, dropped) = (u64::from(reached), u64::from(dropped));
                assert!(sent.receipt, "SEND_OK for message {id}, which asked for none");
                assert!(reached >= got, "message {id}: SEND_OK says {reached} devices, and {got} got it");
                assert!(
                    reached <= got + unread,
                    "message {id}: SEND_OK says {reached} devices, and {got} got it, {unread} may have"
                );
                assert!(reached + dropped >= sure, "message {id}: {sure} devices, SEND_OK says {reached} and {dropped} dropped");
                assert!(dropped >= lost, "message {id}: {lost} are missing, SEND_OK says {dropped} were dropped");
                assert!(dropped <= possible - got + totals.dropped_mesh, "message {id}: {dropped} dropped, {possible} possible");
            } else if sent.receipt && processed && !sent.refused && sender.risk_at >= end {
                panic!("message {id}: no SEND_OK came to peer {}, which stayed and asked for it", sent.sender);
            }
            if lost > totals.dropped + totals.dropped_mesh {
                let who: Vec<_> =
                    peers.iter().filter(|p| can_get(sent, p) && !sent.receivers.contains(&p.id)).map(|p| p.id).collect();
                panic!("message {id} from peer {} to {:?} is missing at some of {who:?}", sent.sender, sent.target);
            }
            received += got;
            missing += lost;
            open += possible - got;
        }
        let dropped = totals.dropped;
        assert!(
            missing <= dropped || totals.dropped_mesh > 0,
            "{missing} deliveries are missing, {dropped} were counted as dropped"
        );
        assert!(dropped <= open, "{dropped} deliveries were counted as dropped, only {open} can have been");
        assert!(received <= totals.pushes, "{received} deliveries, and only {} were queued", totals.pushes);
        assert!(lossy || received == totals.pushes, "{} deliveries were queued, {received} came", totals.pushes);
    }
}

/// Whether the peer may have been a receiver at the moment when the gateway handled the message.
fn can_get(sent: &Sent, peer: &Peer) -> bool {
    if peer.login_written_at.is_none() || peer.gone_at.zip(sent.written_at).is_some_and(|(ended, written)| ended < written) {
        return false;
    }
    match &sent.target {
        Target::User(client) => *client == peer.client,
        Target::Group(group) => peer.ever_joined(group) && (sent.include_sender || sent.sender != peer.id),
    }
}

/// Whether the peer certainly was: online and a member from before the message was sent until it certainly was handled.
fn must_get(sent: &Sent, peer: &Peer, written_at: u64, bound: u64) -> bool {
    if peer.login_ok_at.is_none_or(|at| at >= written_at) || peer.risk_at <= bound || !can_get(sent, peer) {
        return false;
    }
    match &sent.target {
        Target::User(_) => true,
        Target::Group(group) => peer.was_member(group, written_at, bound),
    }
}
