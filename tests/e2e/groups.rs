//! Groups with members on all shards.
#![forbid(unsafe_code)]

use std::time::Duration;

use weir::wire::{ErrorCode, SendRef, body};

use crate::harness::{Bystanders, Frame, Gateway, Got, Peer, Reactor, on_both_reactors};

const MEMBERS: usize = 24;

fn members(gateway: &Gateway, group: &str) -> Vec<Peer> {
    let log_in = |index: usize| {
        let mut peer = gateway.login(&format!("member-{index}"), "1");
        peer.join(group);
        peer
    };
    (0..MEMBERS).map(log_in).collect()
}

fn leave(peer: &mut Peer, group: &str) {
    peer.send_frame(&Frame::Leave(body::Leave { group: group.to_owned() }));
    assert_eq!(peer.next(), Got::LeaveOk(group.to_owned()));
}

on_both_reactors! {
    fn all_but_the_sender(reactor) {
        let gateway = Gateway::start(reactor, &["--shards", "4"]);
        let mut members = members(&gateway, "team");
        for sender in 0..MEMBERS {
            let payload = format!("from {sender}").into_bytes();
            assert_eq!(members[sender].send_counted("group/team", 5, &payload), (MEMBERS as u32 - 1, 0));
            for (index, member) in members.iter_mut().enumerate().filter(|(index, _)| *index != sender) {
                match member.next() {
                    Got::Push { channel, from_client, client_msg_id: 5, payload: seen, .. } => {
                        assert_eq!((channel.as_str(), from_client), ("group/team", format!("member-{sender}")));
                        assert_eq!(seen, payload);
                    }
                    other => panic!("member {index} got {other:?}"),
                }
            }
        }
        for member in &mut members {
            member.check_alive();
        }
        gateway.await_value("group_members", MEMBERS as u64, |gateway| gateway.metric("group_members"));
    }

    fn the_sender_too_if_it_wants(reactor) {
        let gateway = Gateway::start(reactor, &["--shards", "4"]);
        let mut members = members(&gateway, "team");
        let send = SendRef { channel: "group/team", client_msg_id: 8, payload: b"x", include_sender: true, ..SendRef::default() };
        members[0].send_frame(&Frame::Send(send));
        for member in &mut members {
            assert_eq!(member.next_push(), ("member-0".to_owned(), 8, b"x".to_vec()));
        }
        // A sender that is no member gets nothing, whatever it asks for, but may write.
        let mut outsider = gateway.login("outsider", "1");
        outsider.send_frame(&Frame::Send(SendRef { client_msg_id: 9, receipt: true, ..send }));
        assert!(matches!(outsider.next(), Got::SendOk(ok) if ok.reached == MEMBERS as u32 && ok.dropped == 0));
        outsider.check_alive();
    }

    fn who_left_gets_nothing(reactor) {
        let gateway = Gateway::start(reactor, &["--shards", "4"]);
        let mut members = members(&gateway, "team");
        // Joining and leaving twice is answered like the first time.
        members[1].join("team");
        leave(&mut members[1], "team");
        leave(&mut members[1], "team");
        leave(&mut members[2], "another");
        assert_eq!(members[0].send_counted("group/team", 1, b"x"), (MEMBERS as u32 - 2, 0));
        members[1].check_alive();
        // A member whose connection ends leaves with it.
        drop(members.pop());
        gateway.await_value("group_members", MEMBERS as u64 - 2, |gateway| gateway.metric("group_members"));
        gateway.await_true("the group to forget it", |_| members[0].send_counted("group/team", 2, b"x").0 == MEMBERS as u32 - 3);
        for member in &mut members {
            leave(drain_pushes(member), "team");
        }
        gateway.await_value("group_members", 0, |gateway| gateway.metric("group_members"));
        assert_eq!(members[0].send_counted("group/team", 3, b"x"), (0, 0));
    }

    fn a_large_payload_to_many(reactor) {
        let gateway = Gateway::start(reactor, &["--shards", "4"]);
        let mut members = members(&gateway, "team");
        let payload: Vec<u8> = (0..60_000).map(|at| (at * 13 % 241) as u8).collect();
        for id in 1..=5 {
            assert_eq!(members[0].send_counted("group/team", id, &payload), (MEMBERS as u32 - 1, 0));
            for member in &mut members[1..] {
                let (from, seen, bytes) = member.next_push();
                assert_eq!((from.as_str(), seen, bytes.len()), ("member-0", id, payload.len()));
                assert!(bytes == payload, "unaltered");
            }
        }
    }

    fn one_sender_stays_in_order(reactor) {
        let gateway = Gateway::start(reactor, &["--shards", "4"]);
        let mut members = members(&gateway, "team");
        for id in 1..=300 {
            members[0].send("group/team", id, &vec![id as u8; if id % 10 == 0 { 6_000 } else { 40 }]);
        }
        for member in &mut members[1..] {
            for id in 1..=300 {
                assert_eq!(member.next_push().1, id);
            }
        }
    }

    fn too_many_groups(reactor) {
        let gateway = Gateway::start(reactor, &["--limits-groups-per-connection", "3"]);
        let bystanders = Bystanders::start(&gateway);
        let mut peer = gateway.login("joiner", "1");
        for group in ["a", "b", "c", "a"] {
            peer.join(group);
        }
        for refused in 1..=10 {
            peer.send_frame(&Frame::Join(body::Join { group: format!("more-{refused}"), cursor: None }));
            assert_eq!(peer.expect_refused(ErrorCode::TooManyGroups).in_reply_to, 0x20);
        }
        assert_eq!(gateway.refused(ErrorCode::TooManyGroups), 10);
        leave(&mut peer, "b");
        peer.join("d");
        gateway.await_value("group_members", 3, |gateway| gateway.metric("group_members"));
        bystanders.check();
    }

    fn names_of_groups_are_checked(reactor) {
        let gateway = Gateway::start(reactor, &[]);
        let mut peer = gateway.login("joiner", "1");
        let long = "n".repeat(65);
        for group in ["", &long, "a\nb", "\u{7f}"] {
            peer.send_frame(&Frame::Join(body::Join { group: group.to_owned(), cursor: None }));
            assert_eq!(peer.expect_refused(ErrorCode::BadName).in_reply_to, 0x20);
            peer.send_frame(&Frame::Leave(body::Leave { group: group.to_owned() }));
            assert_eq!(peer.expect_refused(ErrorCode::BadName).in_reply_to, 0x22);
        }
        assert_eq!(gateway.refused(ErrorCode::BadName), 8);
        peer.join(&"n".repeat(64));
        peer.join("Mittagspause ☕");
        peer.join("a/b");
    }
}

/// Takes what was queued for a member, so that the next frame is an answer.
fn drain_pushes(peer: &mut Peer) -> &mut Peer {
    while let Some(got) = peer.next_within(Duration::from_millis(20)) {
        assert!(matches!(got, Got::Push { .. }), "{got:?}");
    }
    peer
}
