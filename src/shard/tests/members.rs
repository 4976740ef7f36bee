//! The number of a group's members, over several shards: what JOIN_OK says, and what it costs.
#![forbid(unsafe_code)]

use super::{
    cluster::{At, Cluster, Saw},
    *,
};
use crate::limits::MEMBERS_SETTLE_MS;

/// Until a change here is known everywhere: it is told to the home, and by the home.
const KNOWN_MS: u64 = 2 * MEMBERS_SETTLE_MS + 1;

impl Cluster {
    /// JOIN; gives the number of members.
    fn join(&mut self, at: At, group: &str) -> u32 {
        match self.ask(at, &Frame::Join(body::Join { group: group.to_owned(), cursor: None }))[..] {
            [Saw::Joined(members)] => members,
            ref other => panic!("{other:?}"),
        }
    }

    fn part(&mut self, at: At, group: &str) {
        assert_eq!(self.ask(at, &Frame::Leave(body::Leave { group: group.to_owned() })), [Saw::Other("LEAVE_OK")]);
    }
}

#[test]
fn join_ok_says_how_many_there_are() {
    let mut cluster = Cluster::new(4, |_| {});
    let members: Vec<At> = (0..20).map(|number| cluster.login(&format!("c{number}"), "")).collect();
    // A shard that had none is told by the home at once; else the others count as of a moment ago.
    assert_eq!(cluster.join(members[0], "team"), 1);
    for (number, at) in members.iter().enumerate().skip(1) {
        cluster.advance(KNOWN_MS);
        assert_eq!(cluster.join(*at, "team"), number as u32 + 1);
    }
    cluster.advance(KNOWN_MS);
    assert_eq!(cluster.join(members[3], "team"), 20, "who is in it already is told as well");
    for at in &members[5..15] {
        cluster.part(*at, "team");
    }
    for at in &members[15..] {
        cluster.leave(*at);
    }
    cluster.advance(KNOWN_MS);
    assert_eq!(cluster.join(members[0], "team"), 5);
    for at in &members[..5] {
        cluster.part(*at, "team");
    }
    assert_eq!(cluster.join(members[7], "team"), 1);
    cluster.part(members[7], "team");
    cluster.advance(KNOWN_MS);
    let residue = |residue: &Residue| residue.recounts + residue.home_groups + residue.local_groups;
    assert_eq!(cluster.residues().iter().map(residue).sum::<usize>(), 0);
}

#[test]
fn a_shards_own_members_always_count() {
    let mut cluster = Cluster::new(2, |_| {});
    for home in 0..2 {
        let group = cluster.name_at("group", home);
        for number in 1..=10 {
            let client = cluster.name_at(&format!("c{home}-{number}-"), 0);
            let at = cluster.login(&client, "");
            assert_eq!(cluster.join(at, &group), number, "no time has passed");
        }
    }
}

#[test]
fn a_hundred_thousand_members_cost_a_few_items_now_and_then() {
    let (shards, count) = (4, 100_000_u32);
    let mut cluster = Cluster::new(shards, |settings| {
        settings.limits.connections = 200_000;
        settings.limits.memberships_per_shard = 200_000;
    });
    let members = cluster.login_many((0..count).map(|number| format!("c{number}")));
    let mut here = [0; 4];
    // All come within ten seconds.
    let before = cluster.items;
    for (number, some) in members.chunks(10_000).enumerate() {
        cluster.advance(1_000);
        for at in some {
            cluster.say(*at, &Frame::Join(body::Join { group: "stadium".to_owned(), cursor: None }));
        }
        cluster.advance(1);
        for at in some {
            here[at.0] += 1;
            let saw = cluster.take(*at);
            let [Saw::Joined(said)] = saw[..] else { panic!("{saw:?}") };
            assert!((here[at.0]..=10_000 * (number as u32 + 1)).contains(&said), "{said} in step {number}");
        }
    }
    cluster.advance(KNOWN_MS);
    // Each shard speaks to the home, and the home to each shard, twice a second.
    let most = |seconds: u64| 2 * 2 * u64::from(shards) * (seconds + 2);
    let items = cluster.items - before;
    assert!(items <= most(10), "{items} items between shards");
    for shard in 0..usize::from(shards) {
        let at = members.iter().copied().find(|at| at.0 == shard).expect("all shards have some");
        assert_eq!(cluster.join(at, "stadium"), count);
    }
    // A third goes, all at once.
    let before = cluster.items;
    for at in members.iter().step_by(3) {
        cluster.leave(*at);
    }
    cluster.advance(KNOWN_MS);
    assert!(cluster.items - before <= most(1));
    let left = count - count.div_ceil(3);
    assert_eq!(cluster.join(members[1], "stadium"), left);
    cluster.advance(10_000);
    assert!(cluster.items - before <= most(1), "nothing is said when nothing changes");
}

#[test]
fn what_a_full_mesh_could_not_take_is_told_later() {
    let mut cluster = Cluster::new(2, |settings| settings.limits.connections = 1_000);
    let group = cluster.name_at("group", 0);
    let (near, far) = (cluster.name_at("near", 0), cluster.name_at("far", 1));
    let far2 = cluster.name_at("other", 1);
    let (near, far_at, far2) = (cluster.login(&near, ""), cluster.login(&far, ""), cluster.login(&far2, ""));
    assert_eq!((cluster.join(far_at, &group), cluster.join(near, &group)), (1, 2));
    cluster.advance(KNOWN_MS);
    cluster.mesh_full = true;
    // Both ways are filled to the brim.
    for (from, to) in [(near, format!("user/{far}")), (far2, "user/".to_owned() + &cluster.name_at("near", 0))] {
        for id in 0..400 {
            cluster.ask(
                from,
                &Frame::Send(SendRef { channel: &to, client_msg_id: id, payload: &[0; 60_000], ..SendRef::default() }),
            );
        }
    }
    assert_eq!(cluster.join(far2, &group), 3);
    cluster.advance(4 * KNOWN_MS);
    assert_eq!(cluster.join(near, &group), 2, "it cannot know");
    cluster.mesh_full = false;
    cluster.advance(KNOWN_MS);
    cluster.take(near);
    assert_eq!(cluster.join(near, &group), 3);
}
