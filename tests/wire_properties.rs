//! Properties of the frame codec: round trips, split points, bit flips, limits, and prost as the oracle of hot bodies.
#![forbid(unsafe_code)]

#[path = "wire_properties/compression.rs"]
mod compression;
#[path = "shared/oracle.rs"]
mod oracle;

use oracle::{accepted_ref, agree_with_prost, framed, is_refused_by_rule, push_ref, send_ref};
use proptest::{collection::vec, option::of as option, prelude::*};
use prost::Message;
use weir::{
    limits::BODY_FIELDS_MAX,
    wire::{BatchRef, Decoded, Frame, FrameType, HEADER_BYTES, Malformed, SendRef, body, decode, encode, wrap_batch},
};

const LIMIT: u32 = 16_384;

fn encoded(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(frame, &mut bytes);
    bytes
}

/// Texts of all lengths of UTF-8, empty ones too.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-z/]{1,70}", "\\PC{1,20}", "[\u{0}-\u{10ffff}]{1,4}"]
}

/// Numbers of all varint lengths.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), any::<u64>(), (0u32..64, any::<u64>()).prop_map(|(bits, number)| number >> bits)]
}

fn small() -> impl Strategy<Value = u32> {
    number().prop_map(|number| number as u32)
}

fn send_body() -> impl Strategy<Value = body::Send> {
    (text(), number(), any::<i32>(), vec(any::<u8>(), 0..300), any::<bool>(), any::<bool>(), text()).prop_map(
        |(channel, client_msg_id, class, payload, receipt, include_sender, key)| body::Send {
            channel,
            client_msg_id,
            class,
            payload,
            receipt,
            include_sender,
            key,
        },
    )
}

fn push_body() -> impl Strategy<Value = body::Push> {
    (text(), text(), text(), number(), vec(any::<u8>(), 0..300), number(), number(), text()).prop_map(
        |(channel, from_client, from_device, client_msg_id, payload, seq, timestamp, key)| body::Push {
            channel,
            from_client,
            from_device,
            client_msg_id,
            payload,
            seq,
            timestamp,
            key,
        },
    )
}

fn accepted_body() -> impl Strategy<Value = body::Accepted> {
    (number(), text(), number(), number(), any::<i32>(), any::<bool>()).prop_map(
        |(client_msg_id, channel, seq, timestamp, durability, duplicate)| body::Accepted {
            client_msg_id,
            channel,
            seq,
            timestamp,
            durability,
            duplicate,
        },
    )
}

/// A frame that owns its body.
#[derive(Clone, Debug)]
enum Owned {
    Cold(Frame<'static>),
    Send(body::Send),
    Push(body::Push),
    Accepted(body::Accepted),
    /// Encoded frames.
    Batch(Vec<u8>),
}

impl Owned {
    fn frame(&self) -> Frame<'_> {
        match self {
            Owned::Cold(frame) => frame.clone(),
            Owned::Send(send) => Frame::Send(send_ref(send)),
            Owned::Push(push) => Frame::Push(push_ref(push)),
            Owned::Batch(frames) => Frame::Batch(BatchRef::new(frames)),
            Owned::Accepted(accepted) => Frame::Accepted(accepted_ref(accepted)),
        }
    }
}

/// Every type.
fn any_frame() -> BoxedStrategy<Owned> {
    let batch = vec(any_single(), 1..4).prop_map(|frames| {
        let encoded = frames.iter().flat_map(|owned| encoded(&owned.frame()));
        Owned::Batch(encoded.collect())
    });
    prop_oneof![20 => any_single(), 1 => batch].boxed()
}

/// Every type but BATCH. On the heap: an unoptimized build of these strategies overflows a test's stack.
fn any_single() -> BoxedStrategy<Owned> {
    let session = prop_oneof![
        ((text(), text(), text(), text(), text()), (any::<i32>(), small(), any::<bool>(), option(number()))).prop_map(
            |((client_id, device_id, device_class, token, agent), (compression, window, batches, cursor))| {
                Frame::Login(body::Login {
                    client_id,
                    device_id,
                    device_class,
                    token,
                    agent,
                    compression,
                    window,
                    batches,
                    cursor,
                })
            }
        ),
        (text(), number(), small(), small(), number(), any::<i32>(), small(), any::<bool>()).prop_map(
            |(client_id, session_epoch, heartbeat_interval_ms, max_body_bytes, server_time_ms, compression, window, batches)| {
                Frame::LoginOk(body::LoginOk {
                    client_id,
                    session_epoch,
                    heartbeat_interval_ms,
                    max_body_bytes,
                    server_time_ms,
                    compression,
                    window,
                    batches,
                })
            }
        ),
        (number(), small()).prop_map(|(sent_us, rtt_us)| Frame::Ping(body::Ping { sent_us, rtt_us })),
        (number(), small())
            .prop_map(|(sent_us, heartbeat_interval_ms)| Frame::Pong(body::Pong { sent_us, heartbeat_interval_ms })),
    ]
    .boxed();
    let groups = prop_oneof![
        (number(), small(), small())
            .prop_map(|(client_msg_id, reached, dropped)| { Frame::SendOk(body::SendOk { client_msg_id, reached, dropped }) }),
        (text(), option(number())).prop_map(|(group, cursor)| Frame::Join(body::Join { group, cursor })),
        (text(), small()).prop_map(|(group, members)| Frame::JoinOk(body::JoinOk { group, members })),
        text().prop_map(|group| Frame::Leave(body::Leave { group })),
        text().prop_map(|group| Frame::LeaveOk(body::LeaveOk { group })),
    ]
    .boxed();
    let channels = prop_oneof![
        (text(), number()).prop_map(|(channel, seq)| Frame::Received(body::Received { channel, seq })),
        (text(), number()).prop_map(|(channel, seq)| Frame::Read(body::Read { channel, seq })),
        (text(), number(), number(), small()).prop_map(|(channel, from, to, code)| Frame::Gap(body::Gap {
            channel,
            from,
            to,
            code
        })),
        (text(), number(), number(), number(), number(), number()).prop_map(|(channel, first, last, received, read, unread)| {
            Frame::Cursors(body::Cursors { channel, first, last, received, read, unread })
        }),
        (text(), number(), small()).prop_map(|(channel, from, limit)| Frame::Sync(body::Sync { channel, from, limit })),
        (text(), number(), number(), number(), number(), vec(push_body(), 0..4)).prop_map(
            |(channel, from, first, last, next, messages)| {
                Frame::Page(body::Page { channel, from, first, last, next, messages })
            }
        ),
    ]
    .boxed();
    let presence = prop_oneof![
        any::<i32>().prop_map(|presence| Frame::State(body::State { presence })),
        vec(text(), 0..5).prop_map(|clients| Frame::Watch(body::Watch { clients })),
        vec(text(), 0..5).prop_map(|clients| Frame::Unwatch(body::Unwatch { clients })),
        (text(), text(), any::<i32>(), small(), number(), any::<bool>()).prop_map(
            |(client, device, presence, online, since_ms, fresh)| {
                Frame::Presence(body::PresenceOf { client, device, presence, online, since_ms, fresh })
            }
        ),
    ]
    .boxed();
    let ends = prop_oneof![
        (small(), text(), text()).prop_map(|(code, message, by_device)| Frame::Kicked(body::Kicked { code, message, by_device })),
        (small(), text(), small(), small(), vec(text(), 0..5)).prop_map(
            |(code, message, delay_min_ms, delay_max_ms, alternatives)| {
                Frame::Goaway(body::Goaway { code, message, delay_min_ms, delay_max_ms, alternatives })
            }
        ),
        (small(), text(), any::<bool>(), small(), number(), small()).prop_map(
            |(code, message, closing, retry_after_ms, client_msg_id, in_reply_to)| {
                Frame::Error(body::Error { code, message, closing, retry_after_ms, client_msg_id, in_reply_to })
            }
        ),
        (0x50u8..=0xff).prop_map(|kind| Frame::Unknown { kind }),
    ]
    .boxed();
    prop_oneof![
        prop_oneof![session, groups, channels, presence, ends].prop_map(Owned::Cold),
        send_body().prop_map(Owned::Send),
        push_body().prop_map(Owned::Push),
        accepted_body().prop_map(Owned::Accepted),
    ]
    .boxed()
}

/// No type was forgotten.
#[test]
fn any_frame_makes_every_type() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut frame = || any_frame().new_tree(&mut runner).expect("a strategy without filters").current().frame().kind();
    let seen: std::collections::BTreeSet<u8> = (0..2000).map(|_| frame()).collect();
    for kind in FrameType::ALL {
        assert!(seen.contains(&(*kind as u8)), "no {}", kind.name());
    }
}

/// Fields as an attacker would write them: known and unknown numbers, any wire type, repeated, and cut short at times.
fn hostile_body() -> impl Strategy<Value = Vec<u8>> {
    let varint = |number: u64| {
        let mut bytes = Vec::new();
        prost::encoding::encode_varint(number, &mut bytes);
        bytes
    };
    let field = (prop_oneof![8 => 0u64..8, 1 => number()], 0u64..8, number(), vec(any::<u8>(), 0..12), 0u8..20).prop_map(
        move |(tag, wire, number, bytes, lie)| {
            let mut field = varint(tag << 3 | wire);
            match wire {
                0 => field.extend(varint(number)),
                1 => field.extend(number.to_le_bytes()),
                2 => {
                    let length = if lie == 0 { number } else { bytes.len() as u64 };
                    field.extend(varint(length));
                    let readable: Vec<u8> = bytes.iter().map(|byte| byte & 0x7f).collect();
                    field.extend(if lie < 16 { readable } else { bytes });
                }
                5 => field.extend((number as u32).to_le_bytes()),
                _ => {}
            }
            field
        },
    );
    (vec(field, 0..6), 0usize..40).prop_map(|(fields, cut)| {
        let mut body = fields.concat();
        if cut < 3 {
            body.truncate(body.len().saturating_sub(cut));
        }
        body
    })
}

/// The frames of a BATCH, each encoded again.
fn in_batch(bytes: &[u8]) -> Vec<Result<Vec<u8>, Malformed>> {
    let Ok(Decoded::Frame { frame: Frame::Batch(batch), frame_bytes }) = decode(bytes, u32::MAX) else { panic!("no batch") };
    assert_eq!(frame_bytes, bytes.len());
    let again = |(frame, length): (Frame<'_>, usize)| {
        let again = encoded(&frame);
        // Bodies of unknown types are not kept.
        assert!(again.len() == length || matches!(frame, Frame::Unknown { .. }));
        again
    };
    batch.frames().map(|frame| frame.map(again)).collect()
}

/// A valid body with a few bytes changed, inserted or removed.
fn mutated(body: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    (body, vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..4)).prop_map(|(mut body, changes)| {
        for (at, byte, how) in changes {
            if body.is_empty() {
                body.push(byte);
            }
            let at = at.index(body.len());
            match how {
                0 => body[at] = byte,
                1 => body.insert(at, byte),
                _ => _ = body.remove(at),
            }
        }
        body
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_encoded_decodes_to_itself(owned in any_frame()) {
        let bytes = encoded(&owned.frame());
        let whole = Decoded::Frame { frame: owned.frame(), frame_bytes: bytes.len() };
        prop_assert_eq!(decode(&bytes, LIMIT), Ok(whole));
    }

    /// A stream of frames, cut anywhere: up to its last byte a frame is incomplete and says truly how much it needs.
    #[test]
    fn every_split_point_gives_need_more_and_then_the_frame(frames in vec(any_frame(), 1..4)) {
        let mut stream = Vec::new();
        let mut ends = Vec::new();
        for owned in &frames {
            encode(&owned.frame(), &mut stream);
            ends.push(stream.len());
        }
        let mut start = 0;
        for (owned, end) in frames.iter().zip(ends) {
            for cut in start..end {
                let header_is_there = cut - start >= HEADER_BYTES;
                let total_bytes = if header_is_there { end - start } else { HEADER_BYTES };
                prop_assert_eq!(decode(&stream[start..cut], LIMIT), Ok(Decoded::NeedMore { total_bytes }));
            }
            for cut in end..=stream.len() {
                let whole = Decoded::Frame { frame: owned.frame(), frame_bytes: end - start };
                prop_assert_eq!(decode(&stream[start..cut], LIMIT), Ok(whole));
            }
            start = end;
        }
    }

    /// Frame by frame, a batch holds what was put in; cut anywhere, or with another one inside, it is refused at that place.
    #[test]
    fn a_batch_is_its_frames(frames in vec(any_single(), 1..6), cut in any::<prop::sample::Index>()) {
        let mut batch = Vec::new();
        let ends: Vec<usize> = frames.iter().map(|owned| { encode(&owned.frame(), &mut batch); batch.len() }).collect();
        let whole = batch.clone();
        wrap_batch(&mut batch);
        let taken = in_batch(&batch);
        prop_assert_eq!(taken.len(), frames.len());
        for ((taken, owned), end) in taken.iter().zip(&frames).zip(&ends) {
            let expected = encoded(&owned.frame());
            prop_assert_eq!(taken, &Ok(expected), "up to {}", end);
        }
        let cut = cut.index(whole.len());
        let mut short = whole[..cut].to_vec();
        if cut > 0 {
            wrap_batch(&mut short);
            let taken = in_batch(&short);
            let in_front = ends.iter().filter(|end| **end <= cut).count();
            let is_cut = !ends.contains(&cut);
            prop_assert_eq!(taken.len(), in_front + usize::from(is_cut));
            prop_assert!(taken[..in_front].iter().all(Result::is_ok));
            prop_assert_eq!(is_cut, matches!(taken.last(), Some(Err(Malformed::Batch { .. }))));
        }
        let mut outer = [whole, batch].concat();
        wrap_batch(&mut outer);
        let taken = in_batch(&outer);
        prop_assert_eq!(taken.len(), frames.len() + 1);
        prop_assert!(matches!(taken.last(), Some(Err(Malformed::Batch { .. }))), "{:?}", taken.last());
    }

    /// No single bit of a frame can change without notice, the reserved ones included.
    #[test]
    fn every_bit_flip_is_noticed(owned in any_frame()) {
        let mut bytes = encoded(&owned.frame());
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let decoded = decode(&bytes, LIMIT);
            let noticed = matches!(decoded, Err(_) | Ok(Decoded::NeedMore { .. }));
            prop_assert!(noticed, "bit {} of byte {}: {:?}", bit % 8, bit / 8, decoded);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn any_bytes_are_decoded_without_panic(mut bytes in vec(any::<u8>(), 0..64), honest in any::<bool>()) {
        if honest && bytes.len() >= 3 {
            bytes[..3].copy_from_slice(b"WR\x01");
        }
        if let Ok(Decoded::Frame { frame: Frame::Batch(batch), .. }) = decode(&bytes, LIMIT) {
            for _ in batch.frames() {}
        }
    }

    #[test]
    fn any_body_of_any_type_is_decoded_without_panic(kind in any::<u8>(), body in hostile_body()) {
        let bytes = framed(kind, &body);
        let decoded = decode(&bytes, LIMIT);
        let whole = matches!(decoded, Ok(Decoded::Frame { frame_bytes, .. }) if frame_bytes == bytes.len());
        let is_batch = kind == FrameType::Batch as u8;
        let is_refused = matches!(decoded, Err(Malformed::Body { .. })) || is_batch && matches!(decoded, Err(Malformed::Batch { .. }));
        prop_assert!(whole || is_refused, "{:?}", decoded);
    }

    #[test]
    fn send_is_encoded_as_prost_does(send in send_body()) {
        prop_assert_eq!(&encoded(&Frame::Send(send_ref(&send)))[HEADER_BYTES..], send.encode_to_vec());
    }

    #[test]
    fn push_is_encoded_as_prost_does(push in push_body()) {
        prop_assert_eq!(&encoded(&Frame::Push(push_ref(&push)))[HEADER_BYTES..], push.encode_to_vec());
    }

    /// The header alone refuses a body over the limit; one within it is waited for.
    #[test]
    fn the_limit_is_checked_before_the_body_comes(body_bytes in any::<u32>(), limit in any::<u32>(), owned in any_frame()) {
        let mut header = encoded(&owned.frame());
        header.truncate(HEADER_BYTES);
        header[8..12].copy_from_slice(&body_bytes.to_be_bytes());
        let decoded = decode(&header, limit);
        if body_bytes > limit {
            prop_assert_eq!(decoded, Err(Malformed::TooLong { body_bytes, limit }));
        } else if body_bytes > 0 {
            prop_assert_eq!(decoded, Ok(Decoded::NeedMore { total_bytes: HEADER_BYTES + body_bytes as usize }));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_bodies_are_read_as_prost_reads_them(body in hostile_body()) {
        agree_with_prost(&body);
    }

    #[test]
    fn mutated_bodies_are_read_as_prost_reads_them(
        body in mutated(prop_oneof![
            send_body().prop_map(|send| send.encode_to_vec()),
            push_body().prop_map(|push| push.encode_to_vec()),
            accepted_body().prop_map(|accepted| accepted.encode_to_vec()),
        ]),
    ) {
        agree_with_prost(&body);
    }
}

/// The oracle tests mean nothing if their bodies are always refused, or never.
#[test]
fn the_oracle_sees_bodies_of_both_kinds() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let (mut taken, mut refused, mut by_rule) = (0, 0, 0);
    for _ in 0..2000 {
        let body = hostile_body().new_tree(&mut runner).expect("a strategy without filters").current();
        match (body::Send::decode(&body[..]).is_ok(), is_refused_by_rule(&body)) {
            (true, false) => taken += 1,
            (_, true) => by_rule += 1,
            (false, false) => refused += 1,
        }
    }
    assert!(taken > 100 && refused > 100 && by_rule > 100, "taken {taken}, refused {refused}, refused by rule {by_rule}");
}

/// All but BATCH.
fn protobuf_types() -> impl Iterator<Item = FrameType> {
    FrameType::ALL.iter().copied().filter(|kind| *kind != FrameType::Batch)
}

#[test]
fn the_rules_beyond_prost_are_decided() {
    // Last value wins, for texts and for numbers.
    let body = [&[0x0a, 1, b'a'][..], &[0x10, 1], &[0x0a, 1, b'b'], &[0x10, 2]].concat();
    let expected = SendRef { channel: "b", client_msg_id: 2, ..SendRef::default() };
    let bytes = framed(0x10, &body);
    assert_eq!(decode(&bytes, LIMIT), Ok(Decoded::Frame { frame: Frame::Send(expected), frame_bytes: bytes.len() }));
    // A text that is not UTF-8 is refused even if a later one replaces it.
    assert!(decode(&framed(0x10, &[0x0a, 1, 0xff, 0x0a, 1, b'b']), LIMIT).is_err());
    // A group is refused in every type, and prost would have taken it.
    let group = [0x83, 0x01, 0x84, 0x01];
    assert!(body::Send::decode(&group[..]).is_ok());
    for kind in protobuf_types() {
        assert!(matches!(decode(&framed(kind as u8, &group), LIMIT), Err(Malformed::Body { .. })), "{}", kind.name());
    }
    // So is a body of very many fields: a GOAWAY's alternatives would cost 24 bytes for 2.
    for kind in protobuf_types() {
        let many = [0x82, 0x01, 0].repeat(BODY_FIELDS_MAX + 1);
        assert!(matches!(decode(&framed(kind as u8, &many), LIMIT), Err(Malformed::Body { .. })), "{}", kind.name());
    }
}
