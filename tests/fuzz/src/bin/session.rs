//! Any frames at any times: a session never panics, and what it refuses it refuses consistently.
#![no_main]
#![forbid(unsafe_code)]

#[path = "../said.rs"]
mod said;

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use said::{CLASSES, Said};
use weir::{
    io::Tick,
    limits::{BYTES_PER_SECOND_MAX, PAGE_MESSAGES_MAX},
    session::{
        Action, DeviceClass, HeartbeatRules, Policy, Rate, Refusal, Rules, Session, Target, check_channel, check_first_frame,
        check_login, check_name, check_optional_name,
        token::{Verifier, VerifierOptions},
    },
    wire::{ErrorCode, Frame, FrameType, body::DeliveryClass, encode},
};

#[derive(Arbitrary, Debug)]
struct Case {
    with_tokens: bool,
    frames_per_second: u16,
    bytes_per_second: u32,
    heartbeat_ms: u16,
    steps: Vec<(u32, Said)>,
}

static RULES: LazyLock<[Rules; 2]> = LazyLock::new(|| {
    let secret = [7; 32];
    let options = VerifierOptions { hs256_secret: Some(&secret), ..VerifierOptions::default() };
    [None, Some(Verifier::new(options).expect("the secret is long enough"))].map(|verifier| Rules {
        verifier,
        device_classes: CLASSES.map(|name| DeviceClass { name: name.to_owned(), policy: Policy::AllowMany }).into(),
        heartbeat: HEARTBEAT,
        frames: Rate { per_second: 0 },
        bytes: Rate { per_second: 0 },
        max_body_bytes: 65_536,
        wall_at_start_us: 1_767_225_600_000_000,
    })
});

const HEARTBEAT: HeartbeatRules = HeartbeatRules {
    interval_ms: 30_000,
    interval_min_ms: 100,
    interval_max_ms: 120_000,
    missed_max: 3,
    probe_timeout_ms: 10_000,
};

fuzz_target!(|case: Case| {
    let login_rules = &RULES[usize::from(case.with_tokens)];
    let rules = Rules {
        verifier: None,
        device_classes: Vec::new(),
        heartbeat: HeartbeatRules { interval_ms: u32::from(case.heartbeat_ms).clamp(100, 120_000), ..HEARTBEAT },
        frames: Rate { per_second: u32::from(case.frames_per_second) },
        bytes: Rate { per_second: case.bytes_per_second % (BYTES_PER_SECOND_MAX + 1) },
        max_body_bytes: 65_536,
        wall_at_start_us: login_rules.wall_at_start_us,
    };
    let mut now = Tick(0);
    let mut session = Session::new(&rules, now);
    for (elapsed_us, said) in &case.steps {
        now = Tick(now.0 + u64::from(*elapsed_us));
        said.with_frame(|frame| first(now, frame.clone(), login_rules));
        said.with_frame(|frame| later(now, frame, &mut session, &rules));
    }
});

/// Before LOGIN_OK everything that is not a good LOGIN ends the connection.
fn first(now: Tick, frame: Frame<'_>, rules: &Rules) {
    let is_login = matches!(frame, Frame::Login(_));
    match check_first_frame(frame) {
        Err(refusal) => assert!(!is_login && refusal.closing && refusal.code == ErrorCode::UnexpectedFrame),
        Ok(login) => match check_login(now, &login, rules) {
            Err(refusal) => assert!(refusal.closing && !refusal.message.is_empty(), "{refusal:?}"),
            Ok(identity) => {
                assert!(rules.verifier.is_none(), "a made-up token was taken");
                assert!(check_name(identity.names.client()).is_ok() && identity.names.client() == login.client_id);
                assert!(check_optional_name(identity.names.device()).is_ok() && identity.names.device() == login.device_id);
                assert!(usize::from(identity.class) < rules.device_classes.len());
            }
        },
    }
}

fn later(now: Tick, frame: Frame<'_>, session: &mut Session, rules: &Rules) {
    let kind = frame.kind();
    let mut bytes = Vec::new();
    encode(&frame, &mut bytes);
    let id = if let Frame::Send(send) = &frame { send.client_msg_id } else { 0 };
    match session.handle(now, frame, bytes.len(), rules, None) {
        Ok(action) => fits(&action, kind, rules),
        Err(refusal) => consistent(&refusal, kind, id, rules),
    }
    let interval_ms = session.heartbeat.interval_ms;
    assert!((rules.heartbeat.interval_min_ms..=rules.heartbeat.interval_max_ms).contains(&interval_ms));
}

fn fits(action: &Action<'_>, kind: u8, rules: &Rules) {
    let expected = match action {
        Action::Nothing => FrameType::Pong,
        Action::Pong(pong) => {
            assert!(pong.heartbeat_interval_ms >= rules.heartbeat.interval_min_ms);
            FrameType::Ping
        }
        Action::Send { target, send } | Action::Append { target, send } => {
            let (Target::User(name) | Target::Group(name)) = target;
            assert!(check_name(name).is_ok(), "{name:?}");
            let durable = send.known_class() == Some(DeliveryClass::Durable);
            assert_eq!(durable, matches!(action, Action::Append { .. }));
            FrameType::Send
        }
        Action::Received(received) => {
            assert!(check_channel(&received.channel, FrameType::Received).is_ok());
            FrameType::Received
        }
        Action::Read(read) => {
            assert!(check_channel(&read.channel, FrameType::Read).is_ok());
            FrameType::Read
        }
        Action::Sync(sync) => {
            assert!(check_channel(&sync.channel, FrameType::Sync).is_ok());
            assert!(sync.from > 0 && (1..=PAGE_MESSAGES_MAX).contains(&sync.limit));
            FrameType::Sync
        }
        Action::State { .. } => FrameType::State,
        Action::Watch(watch) => {
            assert!(watch.clients.iter().all(|client| check_name(client).is_ok()));
            FrameType::Watch
        }
        Action::Unwatch(unwatch) => {
            assert!(unwatch.clients.iter().all(|client| check_name(client).is_ok()));
            FrameType::Unwatch
        }
        Action::Join { group, .. } => {
            assert!(check_name(group).is_ok());
            FrameType::Join
        }
        Action::Leave { group } => {
            assert!(check_name(group).is_ok());
            FrameType::Leave
        }
        Action::Unknown => return assert_eq!(FrameType::from_byte(kind), None),
    };
    assert_eq!(FrameType::from_byte(kind), Some(expected));
}

fn consistent(refusal: &Refusal, kind: u8, id: u64, rules: &Rules) {
    assert!(!refusal.message.is_empty());
    let limited = rules.frames.per_second > 0 || rules.bytes.per_second > 0;
    assert!(limited || refusal.code != ErrorCode::RateExceeded);
    if refusal.closing {
        assert!(
            matches!(refusal.code, ErrorCode::UnexpectedFrame | ErrorCode::RateExceeded | ErrorCode::BadBatch),
            "{refusal:?}"
        );
    } else {
        assert_eq!((refusal.in_reply_to, refusal.client_msg_id), (kind, id), "{refusal:?}");
        assert!(refusal.code != ErrorCode::RateExceeded || refusal.retry_after_ms > 0);
    }
}
