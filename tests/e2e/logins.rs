//! Who may log in: names, tokens of each kind, and the rights that they carry.
#![forbid(unsafe_code)]

use std::{
    fs,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use weir::{
    session::token::{Grant, Signer},
    wire::{ErrorCode, SendRef, body},
};

use crate::harness::{Bystanders, Frame, Gateway, Got, LoginFields, Peer, Reactor, on_both_reactors, run_weir};

const SECRET: &str = "an end-to-end secret of more than 32 bytes";

fn key(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(name).to_str().expect("UTF-8").to_owned()
}

/// A gateway that knows a key of each kind.
pub fn with_keys(reactor: Reactor, flags: &[&str]) -> Gateway {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    fs::write(&secret, format!("{SECRET}\n")).expect("a file");
    let (rsa, ed25519) = (key("rsa_public.pem"), key("ed25519_public.pem"));
    let keys = [
        "--auth-hs256-secret-file",
        secret.to_str().expect("UTF-8"),
        "--auth-rs256-public-key-file",
        &rsa,
        "--auth-eddsa-public-key-file",
        &ed25519,
    ];
    Gateway::start_with_keys(reactor, Some(folder), &[&keys, flags].concat())
}

/// What `weir token` prints.
fn token(args: &[&str]) -> String {
    let output = run_weir(&[&["token"], args].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("a token is text").trim().to_owned()
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// A token with any times and audience, signed with the gateway's secret.
pub fn granted(client: &str, alter: impl FnOnce(&mut Grant)) -> String {
    let mut grant = Grant {
        client_id: client.to_owned(),
        issued_at_s: None,
        not_before_s: None,
        expires_at_s: now_s() + 600,
        audience: Vec::new(),
        device_class: None,
        join: Vec::new(),
        write: Vec::new(),
        watch: Vec::new(),
    };
    alter(&mut grant);
    Signer::from_secret(SECRET.as_bytes()).expect("long enough").sign(&grant).expect("a valid grant")
}

/// The bystanders have tokens too.
pub fn bystanders(gateway: &Gateway) -> Bystanders {
    Bystanders::start_as(gateway, |client| {
        LoginFields { client, device: "1", token: &granted(client, |_| {}), ..LoginFields::default() }.frame()
    })
}

fn refused(gateway: &Gateway, login: &LoginFields<'_>, code: ErrorCode) -> body::Error {
    let before = gateway.closed(code);
    let mut peer = gateway.connect();
    peer.write(&login.frame());
    let error = peer.expect_closed(code);
    gateway.await_value(code.name(), before + 1, |gateway| gateway.closed(code));
    error
}

fn logged_in(gateway: &Gateway, token: &str) -> Peer {
    let mut peer = gateway.connect();
    peer.log_in(&LoginFields { token, ..LoginFields::default() });
    peer
}

on_both_reactors! {
    fn tokens_of_each_kind(reactor) {
        let gateway = with_keys(reactor, &[]);
        let secret = gateway.file("secret");
        let (rsa, ed25519) = (key("rsa_private.pem"), key("ed25519_private.pem"));
        let signers = [
            ("hs", ["--hs256-secret-file", secret.to_str().expect("UTF-8")]),
            ("rs", ["--private-key", &rsa]),
            ("ed", ["--private-key", &ed25519]),
        ];
        for (client, signer) in signers {
            let token = token(&[&["--client", client], &signer[..]].concat());
            for named in ["", client] {
                let mut peer = gateway.connect();
                let ok = peer.log_in(&LoginFields { client: named, device: "1", token: &token, ..LoginFields::default() });
                assert_eq!(ok.client_id, client, "the token says who it is");
                peer.send(&format!("user/{client}"), 1, b"x");
                assert_eq!(peer.next_push(), (client.to_owned(), 1, b"x".to_vec()));
            }
            let other = LoginFields { client: "mallory", token: &token, ..LoginFields::default() };
            let error = refused(&gateway, &other, ErrorCode::IdentityMismatch);
            assert!(error.message.contains("mallory"), "{error:?}");
        }
    }

    fn tokens_that_are_not_good(reactor) {
        let gateway = with_keys(reactor, &["--auth-audience", "weir.example", "--auth-leeway-s", "0"]);
        let bystanders = Bystanders::start_as(&gateway, |client| {
            let token = granted(client, |grant| grant.audience = vec!["weir.example".to_owned()]);
            LoginFields { client, device: "1", token: &token, ..LoginFields::default() }.frame()
        });
        let good = |grant: &mut Grant| grant.audience = vec!["other".to_owned(), "weir.example".to_owned()];
        let valid = granted("alice", good);
        logged_in(&gateway, &valid).check_alive();
        let (head, signature) = valid.rsplit_once('.').expect("three parts");
        let claims = head.split_once('.').expect("two parts").1;
        let (rsa, ed25519) = (key("rsa_other_private.pem"), key("ed25519_other_private.pem"));
        let expired = granted("alice", |grant| {
            good(grant);
            grant.expires_at_s = now_s() - 1;
        });
        let early = granted("alice", |grant| {
            good(grant);
            grant.not_before_s = Some(now_s() + 60);
        });
        let cases = [
            ("none at all", String::new(), ErrorCode::TokenMissing),
            ("expired", expired, ErrorCode::TokenExpired),
            ("not yet valid", early, ErrorCode::TokenExpired),
            ("no audience", granted("alice", |_| {}), ErrorCode::TokenInvalid),
            ("another audience", granted("alice", |grant| grant.audience = vec!["other".to_owned()]), ErrorCode::TokenInvalid),
            ("no token", "hello".to_owned(), ErrorCode::TokenInvalid),
            ("no signature", format!("{head}."), ErrorCode::TokenInvalid),
            ("a changed signature", format!("{head}.{}{signature}", if signature.starts_with('A') { "B" } else { "A" }), ErrorCode::TokenInvalid),
            // {"alg":"none","typ":"JWT"}
            ("alg none", format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}."), ErrorCode::TokenInvalid),
            ("alg none, signed", format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.{signature}"), ErrorCode::TokenInvalid),
            // {"alg":"RS256","typ":"JWT"}
            ("another algorithm than signed", format!("eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.{claims}.{signature}"), ErrorCode::TokenInvalid),
            ("another secret", token(&["--client", "alice", "--audience", "weir.example", "--hs256-secret", "another secret of more than 32 bytes..."]), ErrorCode::TokenInvalid),
            ("another RSA key", token(&["--client", "alice", "--audience", "weir.example", "--private-key", &rsa]), ErrorCode::TokenInvalid),
            ("another Ed25519 key", token(&["--client", "alice", "--audience", "weir.example", "--private-key", &ed25519]), ErrorCode::TokenInvalid),
        ];
        for (name, token, code) in &cases {
            println!("{name}");
            let error = refused(&gateway, &LoginFields { client: "alice", token, ..LoginFields::default() }, *code);
            assert!(token.is_empty() || !error.message.contains(signature), "{error:?} does not repeat what may be a secret");
        }
        bystanders.check();
    }

    /// Rights are for groups; a request beyond them is refused, and the connection lives on.
    fn rights_to_groups(reactor) {
        let gateway = with_keys(reactor, &[]);
        let secret = gateway.file("secret");
        let secret = secret.to_str().expect("UTF-8");
        let args = ["--client", "alice", "--hs256-secret-file", secret, "--join", "lobby", "--join", "room/*", "--write", "room/1"];
        let mut alice = logged_in(&gateway, &token(&args));
        let mut bob = logged_in(&gateway, &granted("bob", |grant| grant.join = vec!["room/*".to_owned()]));
        for group in ["lobby", "room/1", "room/2"] {
            alice.join(group);
        }
        bob.join("room/1");
        for group in ["lobby/x", "rooms", "board"] {
            alice.send_frame(&Frame::Join(body::Join { group: group.to_owned(), cursor: None }));
            assert_eq!(alice.expect_refused(ErrorCode::JoinForbidden).in_reply_to, 0x20, "{group}");
        }
        assert_eq!(alice.send_counted("group/room/1", 1, b"allowed"), (1, 0));
        assert_eq!(bob.next_push(), ("alice".to_owned(), 1, b"allowed".to_vec()));
        for (id, group) in [(2, "lobby"), (3, "room/2"), (4, "board")] {
            alice.send(&format!("group/{group}"), id, b"not allowed");
            let error = alice.expect_refused(ErrorCode::WriteForbidden);
            assert_eq!((error.client_msg_id, error.in_reply_to), (id, 0x10), "{group}");
        }
        bob.send("group/room/1", 5, b"bob may only listen");
        bob.expect_refused(ErrorCode::WriteForbidden);
        assert_eq!(bob.send_counted("user/alice", 6, b"but talk to alice"), (1, 0));
        assert_eq!(alice.next_push().1, 6);
        assert_eq!((gateway.refused(ErrorCode::JoinForbidden), gateway.refused(ErrorCode::WriteForbidden)), (3, 4));
    }

    fn device_classes(reactor) {
        let gateway = with_keys(reactor, &["--device-classes", "phone=keep_newest,web=allow_many"]);
        let bystanders = bystanders(&gateway);
        let bound = granted("alice", |grant| grant.device_class = Some("phone".to_owned()));
        let free = granted("alice", |_| {});
        let fields = |class, token| LoginFields { client: "alice", device: "1", class, token, ..LoginFields::default() };
        for (class, token) in [("", &bound), ("phone", &bound), ("web", &free), ("default", &free), ("", &free)] {
            gateway.connect().log_in(&fields(class, token));
        }
        refused(&gateway, &fields("web", &bound), ErrorCode::IdentityMismatch);
        let error = refused(&gateway, &fields("toaster", &free), ErrorCode::UnknownDeviceClass);
        assert!(error.message.contains("phone") && error.message.contains("web"), "{error:?} tells which there are");
        let unknown = granted("alice", |grant| grant.device_class = Some("toaster".to_owned()));
        refused(&gateway, &fields("", &unknown), ErrorCode::UnknownDeviceClass);
        bystanders.check();
    }

    fn names(reactor) {
        let gateway = Gateway::start(reactor, &[]);
        let bystanders = Bystanders::start(&gateway);
        let (longest, too_long) = ("n".repeat(64), "n".repeat(65));
        for client in ["a", "with space", "a/b", "Zoë", &longest] {
            let mut peer = gateway.connect();
            let ok = peer.log_in(&LoginFields { client, device: &longest, ..LoginFields::default() });
            assert_eq!(ok.client_id, client);
            peer.send(&format!("user/{client}"), 1, b"to myself");
            assert_eq!(peer.next_push(), (client.to_owned(), 1, b"to myself".to_vec()));
        }
        for client in ["", &too_long, "a\nb", "\0", "\u{7f}", "\u{85}"] {
            refused(&gateway, &LoginFields { client, ..LoginFields::default() }, ErrorCode::BadName);
        }
        for bad in [&too_long, "a\tb"] {
            refused(&gateway, &LoginFields { client: "alice", device: bad, ..LoginFields::default() }, ErrorCode::BadName);
            refused(&gateway, &LoginFields { client: "alice", class: bad, ..LoginFields::default() }, ErrorCode::BadName);
        }
        bystanders.check();
    }

    /// In developer mode a token is not looked at; what was never logged in cannot be reached.
    fn developer_mode_needs_no_token(reactor) {
        let gateway = Gateway::start(reactor, &[]);
        let mut peer = gateway.connect();
        peer.log_in(&LoginFields { client: "anybody", token: "not.a.token", ..LoginFields::default() });
        peer.send_frame(&Frame::Send(SendRef { channel: "group/any", client_msg_id: 1, receipt: true, ..SendRef::default() }));
        assert!(matches!(peer.next(), Got::SendOk(ok) if ok.reached == 0));
    }
}
