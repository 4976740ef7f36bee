//! The client's side of MQTT 3.1.1 at quality of service 0, without wills and retained messages
//! (<https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/mqtt-v3.1.1.html>).
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

use ::weir::limits::BODY_BYTES_CEILING;

use super::{Dialect, Event, Garbled, Parsed};

pub(crate) const PINGREQ: &[u8] = &[0xc0, 0];
pub(crate) const DISCONNECT: &[u8] = &[0xe0, 0];

/// The first byte of each packet: its type, and flags that are fixed for it.
const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const PUBLISH_RETAINED: u8 = 0x31;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
const PINGRESP: u8 = 0xd0;

/// The level that stands for 3.1.1.
const LEVEL: u8 = 4;
/// CONNECT's flag: neither side remembers a session.
const CLEAN_SESSION: u8 = 0x02;
/// A client subscribes once.
const SUBSCRIBE_ID: u16 = 1;
/// What SUBACK says of a subscription that is refused; 0 of one that is not.
const REFUSED: u8 = 0x80;
/// The longest payload.
const PAYLOAD_BYTES_MAX: usize = BODY_BYTES_CEILING as usize;
/// The longest packet: a payload, a topic and its length.
const PACKET_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + u16::MAX as usize + 2;
/// The bytes that say how long a packet is, at most.
const LENGTH_BYTES_MAX: usize = 4;
/// Why CONNACK refuses, by its code less 1.
const REFUSALS: [&str; 5] =
    ["unacceptable protocol version", "identifier rejected", "server unavailable", "bad user name or password", "not authorized"];

/// Introduces a client, which will not be silent for longer than `keep_alive_s`.
pub(crate) fn put_connect(client: &str, keep_alive_s: u16, out: &mut Vec<u8>) {
    out.push(CONNECT);
    put_length(10 + 2 + client.len(), out);
    put_text("MQTT", out);
    out.extend_from_slice(&[LEVEL, CLEAN_SESSION]);
    out.extend_from_slice(&keep_alive_s.to_be_bytes());
    put_text(client, out);
}

/// Subscribes to topics, at quality of service 0.
pub(crate) fn put_subscribe<'a>(topics: impl Iterator<Item = &'a str> + Clone, out: &mut Vec<u8>) {
    out.push(SUBSCRIBE);
    put_length(2 + topics.clone().map(|topic| 2 + topic.len() + 1).sum::<usize>(), out);
    out.extend_from_slice(&SUBSCRIBE_ID.to_be_bytes());
    for topic in topics {
        put_text(topic, out);
        out.push(0);
    }
}

/// Sends a message. Not inlined, so that what sends Weir's stays small.
#[inline(never)]
pub(crate) fn put_publish(topic: &str, payload: &[u8], out: &mut Vec<u8>) {
    out.push(PUBLISH);
    put_length(2 + topic.len() + payload.len(), out);
    put_text(topic, out);
    out.extend_from_slice(payload);
}

/// A length in groups of seven bits, the lowest first; all but the last with the highest bit set.
fn put_length(mut length: usize, out: &mut Vec<u8>) {
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

/// Names are far shorter than the 65,535 bytes that a text may have.
fn put_text(text: &str, out: &mut Vec<u8>) {
    let length = u16::try_from(text.len()).expect("names are short");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Reads what is at the start of the bytes.
pub(crate) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let Some(first) = bytes.first() else { return Ok(None) };
    let lengths = match *first {
        CONNACK => 2..=2,
        // A length and, empty as it may not be, a topic.
        PUBLISH | PUBLISH_RETAINED => 3..=PACKET_BYTES_MAX,
        SUBACK => 3..=4,
        PINGRESP => 0..=0,
        _ => return Err(Garbled::unknown(Dialect::Mqtt, bytes)),
    };
    let Some((length, start)) = length(bytes)? else { return Ok(None) };
    if length > PACKET_BYTES_MAX {
        return Err(Garbled::PayloadTooLong { bytes: length as u64, limit: PAYLOAD_BYTES_MAX });
    }
    if !lengths.contains(&length) {
        return Err(Garbled::wrong("a packet has a length that its type cannot have", &bytes[..start]));
    }
    let Some(body) = bytes.get(start..start + length) else { return Ok(None) };
    let event = match *first {
        CONNACK => connack(body)?,
        SUBACK => suback(body)?,
        PINGRESP => Event::Pong,
        _ => message(body)?,
    };
    Ok(Some((event, start + length)))
}

/// The length of the packet's body, and where that begins; `None` if they are not all there.
fn length(bytes: &[u8]) -> Result<Option<(usize, usize)>, Garbled> {
    let mut length = 0;
    for (at, byte) in bytes.iter().skip(1).take(LENGTH_BYTES_MAX).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((length, at + 2)));
        }
    }
    if bytes.len() > LENGTH_BYTES_MAX { Err(Garbled::wrong("a length has more than four bytes", bytes)) } else { Ok(None) }
}

fn connack(body: &[u8]) -> Result<Event<'static>, Garbled> {
    match body {
        [0, 0] => Ok(Event::LoggedIn),
        [0, code] if usize::from(*code) <= REFUSALS.len() => {
            Ok(Event::Refusal { name: REFUSALS[usize::from(*code) - 1], words: format!("CONNACK with code {code}") })
        }
        _ => Err(Garbled::wrong("CONNACK holds what it cannot, for a session that begins", body)),
    }
}

fn suback(body: &[u8]) -> Result<Event<'static>, Garbled> {
    match body.split_first_chunk() {
        Some((id, answers))
            if *id == SUBSCRIBE_ID.to_be_bytes() && answers.iter().all(|answer| [0, REFUSED].contains(answer)) =>
        {
            Ok(match answers.contains(&REFUSED) {
                false => Event::Joined,
                true => Event::Refusal { name: "subscription refused", words: "SUBACK with code 128".into() },
            })
        }
        _ => Err(Garbled::wrong("SUBACK answers what was not asked for", body)),
    }
}

fn message(body: &[u8]) -> Result<Event<'_>, Garbled> {
    let wrong = |what| Garbled::wrong(what, body);
    let (length, rest) = body.split_first_chunk().ok_or_else(|| wrong("PUBLISH has no topic"))?;
    let length = usize::from(u16::from_be_bytes(*length));
    let (topic, payload) =
        rest.split_at_checked(length).ok_or_else(|| wrong("the topic of PUBLISH is longer than the packet"))?;
    let topic = str::from_utf8(topic).map_err(|_| wrong("the topic of PUBLISH is no UTF-8"))?;
    Ok(Event::Message { channel: topic, payload })
}
