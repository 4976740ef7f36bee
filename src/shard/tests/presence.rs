//! Watching clients, over several shards: what watchers are told, and when; limits; pressure; the end.
#![forbid(unsafe_code)]

use super::{
    cluster::{At, Cluster, Saw},
    *,
};
use crate::limits::{PRESENCE_AGAIN_MS, PRESENCE_PER_TURN};

const OFFLINE: i32 = body::Presence::Offline as i32;
const FOREGROUND: i32 = body::Presence::Foreground as i32;
const BACKGROUND: i32 = body::Presence::Background as i32;

/// As in `settings`.
const SETTLE_MS: u64 = 2_000;

fn names(clients: &[&str]) -> Vec<String> {
    clients.iter().map(|client| (*client).to_owned()).collect()
}

/// What was said, without the time: client, device, presence, how many are online.
fn short(presence: &body::PresenceOf) -> (&str, &str, i32, u32) {
    (&presence.client, &presence.device, presence.presence, presence.online)
}

impl Cluster {
    fn watch(&mut self, at: At, clients: &[&str]) -> Vec<body::PresenceOf> {
        let saw = self.ask(at, &Frame::Watch(body::Watch { clients: names(clients) }));
        saw.into_iter().map(|saw| if let Saw::Presence(presence) = saw { presence } else { panic!("{saw:?}") }).collect()
    }

    fn unwatch(&mut self, at: At, clients: &[&str]) -> Vec<Saw> {
        self.ask(at, &Frame::Unwatch(body::Unwatch { clients: names(clients) }))
    }

    fn state(&mut self, at: At, presence: i32) {
        assert_eq!(self.ask(at, &Frame::State(body::State { presence })), []);
    }

    /// Lets changes settle, and gives what the watcher was told.
    fn told(&mut self, at: At) -> Vec<body::PresenceOf> {
        self.advance(SETTLE_MS + 1);
        self.presences(at)
    }
}

#[test]
fn a_watcher_learns_who_comes_goes_and_changes_wherever_it_lives() {
    for shards in [1, 4] {
        for watcher_at in 0..usize::from(shards) {
            let mut cluster = Cluster::new(shards, |_| {});
            let me = cluster.name_at("me", watcher_at);
            let me = cluster.login(&me, "");
            let first = cluster.watch(me, &["bob"]);
            assert_eq!(first.iter().map(short).collect::<Vec<_>>(), [("bob", "", OFFLINE, 0)]);
            assert!(first[0].fresh && first[0].since_ms == 0);

            let came_ms = cluster.now.as_ms();
            let phone = cluster.login("bob", "phone");
            let told = cluster.told(me);
            assert_eq!(told.iter().map(short).collect::<Vec<_>>(), [("bob", "phone", FOREGROUND, 1)]);
            assert!(!told[0].fresh);
            assert_eq!(told[0].since_ms, 1_767_225_600_000 + came_ms, "when it came, not when it was told");

            let desk = cluster.login("bob", "desk");
            cluster.state(phone, BACKGROUND);
            let told = cluster.told(me);
            assert_eq!(
                told.iter().map(short).collect::<Vec<_>>(),
                [("bob", "desk", FOREGROUND, 2), ("bob", "phone", BACKGROUND, 2)]
            );

            cluster.leave(phone);
            assert_eq!(cluster.told(me).iter().map(short).collect::<Vec<_>>(), [("bob", "phone", OFFLINE, 1)]);
            cluster.leave(desk);
            assert_eq!(cluster.told(me).iter().map(short).collect::<Vec<_>>(), [("bob", "desk", OFFLINE, 0)]);
            assert_eq!(cluster.sum(|stats| stats.presence_changes.get()), 5);
        }
    }
}

#[test]
fn the_answer_to_watch_is_how_things_are() {
    let mut cluster = Cluster::new(3, |_| {});
    let phone = cluster.login("bob", "phone");
    let login_ms = 1_767_225_600_000 + cluster.now.as_ms();
    cluster.advance(700);
    cluster.login("bob", "desk");
    cluster.state(phone, BACKGROUND);
    cluster.advance(700);
    let me = cluster.login("me", "");
    let mut told = cluster.watch(me, &["bob", "nobody"]);
    assert_eq!(told.iter().filter(|presence| presence.fresh).count(), 2, "once for each client");
    told.sort_by(|one, other| short(one).cmp(&short(other)));
    let seen: Vec<_> = told.iter().map(short).collect();
    assert_eq!(seen, [("bob", "desk", FOREGROUND, 2), ("bob", "phone", BACKGROUND, 2), ("nobody", "", OFFLINE, 0)]);
    assert_eq!((told[0].since_ms, told[1].since_ms), (login_ms + 700, login_ms), "since they logged in, as far as is known");
    assert_eq!(cluster.told(me), [], "nothing changed");
    // Once more: the same answer.
    let again = cluster.watch(me, &["bob"]);
    assert!(again.len() == 2 && again[0].fresh && !again[1].fresh);
    assert_eq!(cluster.sum(|stats| stats.watches.get()), 2);
}

#[test]
fn who_drops_and_returns_in_time_was_not_away() {
    let mut cluster = Cluster::new(2, |_| {});
    let (me, mut bob) = (cluster.login("me", ""), cluster.login("bob", "phone"));
    cluster.watch(me, &["bob"]);
    for _ in 0..20 {
        cluster.leave(bob);
        cluster.advance(SETTLE_MS - 100);
        bob = cluster.login("bob", "phone");
        cluster.advance(100);
    }
    assert_eq!(cluster.told(me), []);
    assert_eq!(cluster.sum(|stats| stats.presence_suppressed.get()), 20);
    // The newer connection of one device takes over: that is no news either.
    let newer = cluster.login("bob", "phone");
    assert_eq!(cluster.told(me), []);
    // One that comes only for a moment was not there.
    let other = cluster.login("bob", "desk");
    cluster.advance(100);
    cluster.leave(other);
    assert_eq!(cluster.told(me), []);
    cluster.leave(newer);
    assert_eq!(cluster.told(me).len(), 1);
}

#[test]
fn a_change_counts_from_when_it_was_last_overtaken() {
    let mut cluster = Cluster::new(2, |_| {});
    let (me, bob) = (cluster.login("me", ""), cluster.login("bob", "phone"));
    let carol = cluster.login("carol", "phone");
    cluster.watch(me, &["bob", "carol"]);
    cluster.state(bob, BACKGROUND);
    cluster.state(carol, BACKGROUND);
    cluster.advance(SETTLE_MS / 2);
    cluster.leave(carol);
    cluster.state(bob, FOREGROUND);
    cluster.state(bob, BACKGROUND);
    cluster.advance(SETTLE_MS / 2 + 1);
    assert_eq!(cluster.presences(me), [], "neither has lasted");
    let told = cluster.told(me);
    let mut seen: Vec<_> = told.iter().map(short).collect();
    seen.sort_unstable();
    assert_eq!(seen, [("bob", "phone", BACKGROUND, 1), ("carol", "phone", OFFLINE, 0)]);
}

#[test]
fn who_is_not_watched_costs_nothing() {
    let mut cluster = Cluster::new(4, |_| {});
    let me = cluster.login("me", "");
    cluster.watch(me, &["bob"]);
    let before = (cluster.items, cluster.residues());
    let others: Vec<At> = (0..50).map(|number| cluster.login(&format!("c{number}"), "phone")).collect();
    for at in &others {
        cluster.state(*at, BACKGROUND);
    }
    for at in others {
        cluster.leave(at);
    }
    cluster.advance(SETTLE_MS + 1);
    assert_eq!((cluster.items, cluster.residues()), before);
    assert_eq!(cluster.told(me), []);
}

#[test]
fn unwatch_ends_it_at_once_and_leaves_nothing_behind() {
    let mut cluster = Cluster::new(3, |_| {});
    let (me, bob) = (cluster.login("me", ""), cluster.login("bob", "phone"));
    let empty = cluster.residues();
    let clients = ["bob", "c1", "c2", "c3", "c4"];
    cluster.watch(me, &clients);
    cluster.state(bob, BACKGROUND);
    assert_eq!(cluster.unwatch(me, &["bob", "never"]), []);
    assert_eq!(cluster.told(me), [], "it had not settled");
    assert_eq!(cluster.sum(|stats| stats.watches.get()), 4);
    assert_eq!(cluster.unwatch(me, &[]), []);
    cluster.login("c1", "phone");
    assert_eq!(cluster.told(me), []);
    assert_eq!(cluster.sum(|stats| stats.watches.get() + stats.watched_clients.get()), 0);
    // As well with the end of the connection, also while something settles.
    cluster.watch(me, &clients);
    cluster.state(bob, FOREGROUND);
    cluster.leave(me);
    cluster.login("me", "");
    for (residue, empty) in cluster.residues().into_iter().zip(empty) {
        let watching = |residue: Residue| (residue.watches, residue.watched_clients, residue.owed);
        assert_eq!(watching(residue), watching(empty));
    }
}

#[test]
fn a_connection_watches_so_many_and_no_more() {
    let mut cluster = Cluster::new(2, |settings| settings.limits.watches_per_connection = 3);
    let me = cluster.login("me", "");
    let ask = |cluster: &mut Cluster, clients: &[&str]| cluster.ask(me, &Frame::Watch(body::Watch { clients: names(clients) }));
    assert_eq!(ask(&mut cluster, &["a", "b", "c", "d"]), [Saw::Refused(ErrorCode::TooManyWatches)]);
    assert_eq!(cluster.sum(|stats| stats.watches.get()), 0, "all of it is refused");
    assert_eq!(ask(&mut cluster, &["a", "b", "a", "c", "b"]).len(), 5);
    assert_eq!(ask(&mut cluster, &["d"]), [Saw::Refused(ErrorCode::TooManyWatches)]);
    assert_eq!(ask(&mut cluster, &["a"]).len(), 1, "that one it watches already");
    cluster.unwatch(me, &["b"]);
    assert_eq!(ask(&mut cluster, &["d"]).len(), 1);
    assert_eq!(cluster.sum(|stats| stats.refused.of(ErrorCode::TooManyWatches).get()), 2);
}

#[test]
fn a_client_is_watched_by_so_many_and_no_more() {
    let mut cluster = Cluster::new(2, |settings| settings.limits.watchers_per_client = 2);
    let watchers: Vec<At> = (0..3).map(|number| cluster.login(&format!("w{number}"), "")).collect();
    let far = cluster.name_at("late", 1 - cluster.home("bob"));
    let late = cluster.login(&far, "");
    for at in &watchers[..2] {
        cluster.watch(*at, &["bob"]);
    }
    for at in [watchers[2], late] {
        let saw = cluster.ask(at, &Frame::Watch(body::Watch { clients: names(&["bob", "carol"]) }));
        assert_eq!(saw.iter().filter(|saw| **saw == Saw::Refused(ErrorCode::TooManyWatches)).count(), 1, "{saw:?}");
        assert_eq!(saw.iter().filter(|saw| matches!(saw, Saw::Presence(_))).count(), 1, "carol is watched: {saw:?}");
    }
    assert_eq!(cluster.sum(|stats| stats.watches.get()), 4);
    cluster.leave(watchers[0]);
    assert_eq!(cluster.watch(late, &["bob"]).len(), 1);
    cluster.login("bob", "phone");
    assert_eq!(cluster.told(late).len(), 1);
    assert_eq!(cluster.presences(watchers[2]), []);
}

#[test]
fn a_refusal_on_its_way_does_not_end_a_later_watch() {
    let mut cluster = Cluster::new(2, |settings| settings.limits.watchers_per_client = 1);
    let far = cluster.name_at("late", 1 - cluster.home("bob"));
    let (first, late) = (cluster.login("first", ""), cluster.login(&far, ""));
    cluster.watch(first, &["bob"]);
    cluster.mesh_full = true;
    let watch = Frame::Watch(body::Watch { clients: names(&["bob"]) });
    // Both are on their way when the place becomes free behind the first.
    assert_eq!(cluster.ask(late, &watch), []);
    assert_eq!(cluster.unwatch(late, &["bob"]), []);
    assert_eq!(cluster.ask(late, &watch), []);
    cluster.mesh_full = false;
    cluster.advance(1);
    assert_eq!(cluster.take(late), [Saw::Refused(ErrorCode::TooManyWatches), Saw::Refused(ErrorCode::TooManyWatches)]);
    cluster.leave(first);
    assert_eq!(cluster.watch(late, &["bob"]).len(), 1);
    cluster.login("bob", "phone");
    assert_eq!(cluster.told(late).len(), 1);
}

#[test]
fn watches_beyond_the_shards_limit_are_refused() {
    let mut cluster = Cluster::new(1, |settings| settings.limits.watches_per_shard = 3);
    let (one, other) = (cluster.login("one", ""), cluster.login("other", ""));
    cluster.watch(one, &["a", "b"]);
    let watch = Frame::Watch(body::Watch { clients: names(&["a", "b"]) });
    assert_eq!(cluster.ask(other, &watch), [Saw::Refused(ErrorCode::Overloaded)]);
    cluster.leave(one);
    assert_eq!(cluster.watch(other, &["a", "b"]).len(), 2);
}

/// The last word on each device, as a client keeps it.
fn learn(known: &mut HashMap<String, i32>, told: &[body::PresenceOf]) {
    for presence in told {
        if presence.fresh {
            known.clear();
        }
        if presence.presence == OFFLINE {
            known.remove(&presence.device);
        } else {
            known.insert(presence.device.clone(), presence.presence);
        }
    }
}

#[test]
fn who_does_not_read_misses_events_and_learns_the_truth_later() {
    for shards in [1, 2] {
        let mut cluster = Cluster::new(shards, |settings| {
            settings.limits.outbound_bytes_per_connection = 400;
            settings.timeouts.write_ms = 1_000_000;
        });
        let me = cluster.login("me", "");
        let mut known = HashMap::new();
        learn(&mut known, &cluster.watch(me, &["bob", "carol"]));
        cluster.deafen(me);
        let mut devices: Vec<At> = (0..20).map(|number| cluster.login("bob", &format!("device-{number}"))).collect();
        cluster.advance(SETTLE_MS + 1);
        let dropped = cluster.sum(|stats| stats.dropped_presence.get());
        assert!(dropped >= 10, "{dropped}");
        for at in devices.drain(4..) {
            cluster.leave(at);
        }
        cluster.state(devices[0], BACKGROUND);
        cluster.advance(SETTLE_MS + 1);
        // Nothing is asked for while there is no room.
        let again = cluster.sum(|stats| stats.presence_again.get());
        cluster.advance(10 * PRESENCE_AGAIN_MS);
        assert_eq!(cluster.sum(|stats| stats.presence_again.get()), again);
        cluster.undeafen(me);
        cluster.advance(2 * PRESENCE_AGAIN_MS);
        learn(&mut known, &cluster.presences(me));
        let mut truth: Vec<_> = known.into_iter().collect();
        truth.sort_unstable();
        let is = |number, presence| (format!("device-{number}"), presence);
        assert_eq!(truth, [is(0, BACKGROUND), is(1, FOREGROUND), is(2, FOREGROUND), is(3, FOREGROUND)]);
        assert_eq!(cluster.residues().iter().map(|residue| residue.owed).sum::<usize>(), 0);
    }
}

#[test]
fn a_full_mesh_drops_events_and_the_truth_comes_when_there_is_room() {
    let mut cluster = Cluster::new(2, |settings| {
        settings.limits.devices_per_client = 100;
        settings.limits.connections = 1_000;
    });
    let (here, there) = (cluster.name_at("here", 0), cluster.name_at("there", 1));
    let (watcher, filler) = (cluster.login(&here, ""), cluster.name_at("filler", 1));
    let filler = cluster.login(&filler, "");
    let mut known = HashMap::new();
    learn(&mut known, &cluster.watch(watcher, &[&there]));
    cluster.mesh_full = true;
    // The backlog from the watched client's home to the watcher's shard is filled to the brim.
    let to = format!("user/{here}");
    for id in 0..400 {
        cluster
            .ask(filler, &Frame::Send(SendRef { channel: &to, client_msg_id: id, payload: &[0; 60_000], ..SendRef::default() }));
    }
    let phone = cluster.login(&there, "phone");
    let _desk = cluster.login(&there, "desk");
    cluster.advance(SETTLE_MS + 1);
    cluster.state(phone, BACKGROUND);
    cluster.advance(SETTLE_MS + 1);
    assert!(cluster.sum(|stats| stats.dropped_presence.get()) >= 3);
    assert_eq!(cluster.presences(watcher), []);
    cluster.mesh_full = false;
    cluster.advance(2 * PRESENCE_AGAIN_MS);
    let told: Vec<body::PresenceOf> = cluster
        .take(watcher)
        .into_iter()
        .filter_map(|saw| if let Saw::Presence(told) = saw { Some(told) } else { None })
        .collect();
    learn(&mut known, &told);
    let mut truth: Vec<_> = known.into_iter().collect();
    truth.sort_unstable();
    assert_eq!(truth, [("desk".to_owned(), FOREGROUND), ("phone".to_owned(), BACKGROUND)]);
    assert_eq!(cluster.residues().iter().map(|residue| residue.owed).sum::<usize>(), 0);
}

#[test]
fn a_storm_of_reconnects_is_no_news_and_a_great_departure_is_told_in_steps() {
    let clients = 3_000;
    let mut cluster = Cluster::new(2, |settings| {
        settings.limits.connections = 10_000;
        settings.limits.watches_per_connection = 10_000;
        settings.limits.watches_per_shard = 100_000;
        settings.limits.outbound_bytes_per_connection = 1 << 24;
    });
    let all: Vec<String> = (0..clients).map(|number| format!("c{number}")).collect();
    let mut sessions: Vec<At> = all.iter().map(|client| cluster.login(client, "phone")).collect();
    let watchers: Vec<At> = (0..6).map(|number| cluster.login(&format!("watcher{number}"), "")).collect();
    for &watcher in &watchers {
        for some in all.chunks(200) {
            let told = cluster.watch(watcher, &some.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(told.len(), some.len());
        }
    }
    for at in &mut sessions {
        cluster.leave(*at);
    }
    cluster.advance(SETTLE_MS - 500);
    for (client, at) in all.iter().zip(&mut sessions) {
        *at = cluster.login(client, "phone");
    }
    cluster.advance(2 * SETTLE_MS);
    for watcher in &watchers {
        assert_eq!(cluster.presences(*watcher), []);
    }
    assert_eq!(cluster.sum(|stats| stats.presence_suppressed.get()), clients);
    for at in &sessions {
        cluster.leave(*at);
    }
    cluster.now = cluster.now.plus_ms(SETTLE_MS + 1);
    let before = cluster.sum(|stats| stats.presence_changes.get());
    cluster.turn_of(0);
    let told = cluster.sum(|stats| stats.presence_changes.get()) - before;
    // Each is told to six, and counts as one itself.
    assert_eq!(told as usize, PRESENCE_PER_TURN.div_ceil(7));
    cluster.advance(1);
    for watcher in &watchers {
        assert_eq!(cluster.presences(*watcher).len(), clients as usize);
    }
    assert_eq!(cluster.sum(|stats| stats.presence_changes.get()), clients);
}

#[test]
fn nobody_is_told_that_all_go_when_the_gateway_stops() {
    let mut cluster = Cluster::new(2, |settings| settings.timeouts.settle_ms = 50);
    let me = cluster.login("me", "");
    let others: Vec<At> = (0..10).map(|number| cluster.login(&format!("c{number}"), "")).collect();
    let all: Vec<String> = (0..10).map(|number| format!("c{number}")).collect();
    cluster.watch(me, &all.iter().map(String::as_str).collect::<Vec<_>>());
    cluster.control(Control::Drain { within_ms: 10_000 });
    assert_eq!(cluster.take(me), [Saw::Other("GOAWAY")]);
    for at in others {
        cluster.leave(at);
    }
    cluster.advance(1_000);
    assert_eq!(cluster.take(me), []);
}
