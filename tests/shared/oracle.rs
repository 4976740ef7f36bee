//! prost as the oracle of the hot bodies, for property tests and the fuzzer.
#![forbid(unsafe_code)]

use prost::{
    Message,
    encoding::{DecodeContext, WireType, decode_key, skip_field},
};
use weir::{
    limits::BODY_FIELDS_MAX,
    wire::{AcceptedRef, Decoded, Frame, FrameType, Malformed, PushRef, SendRef, body, decode, encode},
};

/// A frame around any body: a real frame's header with length and checksum put right.
pub fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&Frame::Unknown { kind }, &mut bytes);
    bytes.extend_from_slice(body);
    put_right(&mut bytes);
    bytes
}

/// Makes length and checksum of a frame fit its bytes.
pub fn put_right(frame: &mut [u8]) {
    let body_bytes = u32::try_from(frame.len() - 16).expect("tests make short bodies");
    frame[8..12].copy_from_slice(&body_bytes.to_be_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&frame[..12]), &frame[16..]);
    frame[12..16].copy_from_slice(&crc.to_be_bytes());
}

pub fn send_ref(send: &body::Send) -> SendRef<'_> {
    SendRef {
        channel: &send.channel,
        client_msg_id: send.client_msg_id,
        class: send.class,
        payload: &send.payload,
        receipt: send.receipt,
        include_sender: send.include_sender,
        key: &send.key,
    }
}

pub fn push_ref(push: &body::Push) -> PushRef<'_> {
    PushRef {
        channel: &push.channel,
        from_client: &push.from_client,
        from_device: &push.from_device,
        client_msg_id: push.client_msg_id,
        payload: &push.payload,
        seq: push.seq,
        timestamp: push.timestamp,
        key: &push.key,
    }
}

pub fn accepted_ref(accepted: &body::Accepted) -> AcceptedRef<'_> {
    AcceptedRef {
        client_msg_id: accepted.client_msg_id,
        channel: &accepted.channel,
        seq: accepted.seq,
        timestamp: accepted.timestamp,
        durability: accepted.durability,
        duplicate: accepted.duplicate,
    }
}

/// What Weir refuses and prost takes: a group, or too many fields. Walks with prost's own tools.
pub fn is_refused_by_rule(mut body: &[u8]) -> bool {
    let mut fields = 0;
    while !body.is_empty() {
        fields += 1;
        let Ok((tag, wire)) = decode_key(&mut body) else { return false };
        if wire == WireType::StartGroup || fields > BODY_FIELDS_MAX {
            return true;
        }
        if skip_field(wire, tag, &mut body, DecodeContext::default()).is_err() {
            return false;
        }
    }
    false
}

/// Panics unless prost and Weir agree on a body of SEND, of PUSH and of ACCEPTED: both refuse it, or both read the same.
pub fn agree_with_prost(body: &[u8]) {
    let theirs = body::Send::decode(body);
    agree(FrameType::Send, body, theirs.as_ref().ok().map(|send| Frame::Send(send_ref(send))));
    let theirs = body::Push::decode(body);
    agree(FrameType::Push, body, theirs.as_ref().ok().map(|push| Frame::Push(push_ref(push))));
    let theirs = body::Accepted::decode(body);
    agree(FrameType::Accepted, body, theirs.as_ref().ok().map(|accepted| Frame::Accepted(accepted_ref(accepted))));
}

fn agree(kind: FrameType, body: &[u8], theirs: Option<Frame<'_>>) {
    let bytes = framed(kind as u8, body);
    let ours = decode(&bytes, u32::MAX);
    match theirs.filter(|_| !is_refused_by_rule(body)) {
        Some(frame) => assert_eq!(ours, Ok(Decoded::Frame { frame, frame_bytes: bytes.len() })),
        None => assert!(matches!(ours, Err(Malformed::Body { .. })), "taken as {ours:?}"),
    }
}
