//! Watching other clients: what is told, when, to whom, and what is refused.
#![forbid(unsafe_code)]

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use weir::{
    client::Client,
    wire::{ErrorCode, body},
};

use crate::{
    harness::{Bystanders, Frame, Gateway, Got, LoginFields, PATIENCE, Peer, Reactor, WEIR, lines_of, on_both_reactors},
    logins::{granted, with_keys},
};

const OFFLINE: i32 = body::Presence::Offline as i32;
const FOREGROUND: i32 = body::Presence::Foreground as i32;
const BACKGROUND: i32 = body::Presence::Background as i32;

/// Short, so that the tests are.
const SETTLE: &[&str] = &["--shards", "4", "--presence-settle-ms", "300"];
const SETTLE_TIME: Duration = Duration::from_millis(300);

fn watch(peer: &mut Peer, clients: &[&str]) {
    peer.send_frame(&Frame::Watch(body::Watch { clients: clients.iter().map(|client| (*client).to_owned()).collect() }));
}

fn unwatch(peer: &mut Peer, clients: &[&str]) {
    peer.send_frame(&Frame::Unwatch(body::Unwatch { clients: clients.iter().map(|client| (*client).to_owned()).collect() }));
}

fn next(peer: &mut Peer) -> body::PresenceOf {
    match peer.next() {
        Got::Presence(presence) => presence,
        other => panic!("not a PRESENCE: {other:?}"),
    }
}

/// The next PRESENCE must say this: client, device, presence, how many are online.
fn expect(peer: &mut Peer, client: &str, device: &str, presence: i32, online: u32) -> body::PresenceOf {
    let seen = next(peer);
    assert_eq!((&*seen.client, &*seen.device, seen.presence, seen.online), (client, device, presence, online), "{seen:?}");
    seen
}

on_both_reactors! {
    fn devices_come_change_and_go(reactor) {
        let gateway = Gateway::start(reactor, SETTLE);
        // Watchers on all shards, most likely.
        let mut watchers: Vec<Peer> = (0..8).map(|number| gateway.login(&format!("watcher-{number}"), "1")).collect();
        for watcher in &mut watchers {
            watch(watcher, &["bob"]);
            assert!(expect(watcher, "bob", "", OFFLINE, 0).fresh);
        }
        gateway.await_value("watches", 8, |gateway| gateway.metric("watches"));
        let mut phone = gateway.login("bob", "phone");
        for watcher in &mut watchers {
            let came = expect(watcher, "bob", "phone", FOREGROUND, 1);
            assert!(came.since_ms > 1_700_000_000_000 && !came.fresh, "{came:?}");
        }
        phone.send_frame(&Frame::State(body::State { presence: BACKGROUND }));
        let desk = gateway.login("bob", "desk");
        for watcher in &mut watchers {
            expect(watcher, "bob", "phone", BACKGROUND, 1);
            expect(watcher, "bob", "desk", FOREGROUND, 2);
        }
        // Who comes later is told how things are.
        let mut late = gateway.login("late", "1");
        watch(&mut late, &["bob"]);
        let first = next(&mut late);
        let second = next(&mut late);
        assert!(first.fresh && !second.fresh && first.online == 2 && second.online == 2 && first.device != second.device);
        drop(desk);
        for watcher in watchers.iter_mut().chain([&mut late]) {
            expect(watcher, "bob", "desk", OFFLINE, 1);
        }
        drop(phone);
        for watcher in &mut watchers {
            expect(watcher, "bob", "phone", OFFLINE, 0);
            watcher.check_alive();
        }
        drop(watchers);
        drop(late);
        gateway.await_value("watched clients", 0, |gateway| gateway.metric("watched_clients") + gateway.metric("watches"));
    }

    fn a_device_that_returns_in_time_was_not_away(reactor) {
        let gateway = Gateway::start(reactor, &["--shards", "4", "--presence-settle-ms", "1500"]);
        let mut watcher = gateway.login("watcher", "1");
        let mut bob = gateway.login("bob", "phone");
        watch(&mut watcher, &["bob"]);
        expect(&mut watcher, "bob", "phone", FOREGROUND, 1);
        for _ in 0..20 {
            drop(bob);
            bob = gateway.login("bob", "phone");
        }
        assert_eq!(watcher.next_within(Duration::from_secs(2)), None);
        assert!(gateway.metric("presence_suppressed_total") > 0);
        assert_eq!(gateway.metric("presence_changes_total"), 0);
        drop(bob);
        expect(&mut watcher, "bob", "phone", OFFLINE, 0);
    }

    fn nothing_comes_behind_unwatch(reactor) {
        let gateway = Gateway::start(reactor, SETTLE);
        let mut watcher = gateway.login("watcher", "1");
        watch(&mut watcher, &["bob", "carol"]);
        (0..2).for_each(|_| drop(next(&mut watcher)));
        unwatch(&mut watcher, &["bob", "nobody"]);
        let (_bob, carol) = (gateway.login("bob", "phone"), gateway.login("carol", "phone"));
        expect(&mut watcher, "carol", "phone", FOREGROUND, 1);
        unwatch(&mut watcher, &[]);
        watcher.check_alive();
        drop(carol);
        assert_eq!(watcher.next_within(3 * SETTLE_TIME), None);
    }

    fn limits_and_bad_input(reactor) {
        let flags = ["--shards", "2", "--limits-watches-per-connection", "3", "--limits-watchers-per-client", "2"];
        let gateway = Gateway::start(reactor, &flags);
        let bystanders = Bystanders::start(&gateway);
        let mut one = gateway.login("one", "1");
        watch(&mut one, &["a", "b", "c", "d"]);
        assert_eq!(one.expect_refused(ErrorCode::TooManyWatches).in_reply_to, 0x41);
        watch(&mut one, &["a", "b", "c"]);
        (0..3).for_each(|_| drop(next(&mut one)));
        let mut two = gateway.login("two", "1");
        watch(&mut two, &["a"]);
        expect(&mut two, "a", "", OFFLINE, 0);
        let mut three = gateway.login("three", "1");
        watch(&mut three, &["a"]);
        let error = three.expect_refused(ErrorCode::TooManyWatches);
        assert!(error.in_reply_to == 0x41 && error.message.contains("\"a\""), "{error:?}");
        drop(two);
        gateway.await_value("watches", 3, |gateway| gateway.metric("watches"));
        watch(&mut three, &["a"]);
        expect(&mut three, "a", "", OFFLINE, 0);
        let long = "n".repeat(65);
        for name in ["", &long, "a\nb"] {
            watch(&mut three, &[name]);
            assert_eq!(three.expect_refused(ErrorCode::BadName).in_reply_to, 0x41);
            unwatch(&mut three, &[name]);
            assert_eq!(three.expect_refused(ErrorCode::BadName).in_reply_to, 0x42);
        }
        for presence in [OFFLINE, 3, -1] {
            three.send_frame(&Frame::State(body::State { presence }));
            assert_eq!(three.expect_refused(ErrorCode::BadState).in_reply_to, 0x40);
        }
        assert_eq!(gateway.refused(ErrorCode::TooManyWatches), 2);
        bystanders.check();
    }

    fn a_token_says_who_may_be_watched(reactor) {
        let gateway = with_keys(reactor, &[]);
        let login = |client, alter: fn(&mut weir::session::token::Grant)| {
            let mut peer = gateway.connect();
            peer.log_in(&LoginFields { client, device: "1", token: &granted(client, alter), ..LoginFields::default() });
            peer
        };
        let mut boss = login("boss", |grant| grant.watch = vec!["team-*".to_owned()]);
        watch(&mut boss, &["team-1"]);
        expect(&mut boss, "team-1", "", OFFLINE, 0);
        watch(&mut boss, &["team-2", "other"]);
        assert_eq!(boss.expect_refused(ErrorCode::ReadForbidden).in_reply_to, 0x41);
        let mut other = login("other", |_| {});
        watch(&mut other, &["team-1"]);
        other.expect_refused(ErrorCode::ReadForbidden);
        // Nobody needs a right to say what he does himself.
        other.send_frame(&Frame::State(body::State { presence: BACKGROUND }));
        other.check_alive();
    }

    fn the_shell_command_tells_in_lines(reactor) {
        let gateway = Gateway::start(reactor, SETTLE);
        let address = gateway.addr.to_string();
        let mut command = Command::new(WEIR);
        command.args(["watch", "bob", "carol", "--as", "me", "--addr", &address]).env_remove("WEIR_ADDR").env_remove("WEIR_TOKEN");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be started");
        let lines = lines_of(child.stdout.take().expect("it is piped"));
        let line = || lines.recv_timeout(PATIENCE).expect("a line comes");
        let mut first = [line(), line()];
        first.sort();
        assert_eq!(first, ["bob: nobody is online", "carol: nobody is online"]);
        let bob = gateway.login("bob", "phone");
        assert_eq!(line(), "bob: phone is in the foreground; 1 device is online");
        drop(bob);
        assert_eq!(line(), "bob: phone has gone; nobody is online");
        child.kill().expect("it is our child");
        child.wait().expect("it is our child");
    }

    fn join_ok_counts_members(reactor) {
        let gateway = Gateway::start(reactor, &["--shards", "4"]);
        let _members: Vec<Peer> = (0..30).map(|number| {
            let mut peer = gateway.login(&format!("member-{number}"), "1");
            peer.join("team");
            peer
        }).collect();
        let mut asks = Client::connect(&gateway.addr.to_string(), PATIENCE).expect("the gateway listens");
        asks.login(body::Login { client_id: "asks".to_owned(), ..body::Login::default() }).expect("anybody may log in");
        gateway.await_true("all to be counted", |_| asks.join("team").expect("anybody may join") == 31);
    }
}
