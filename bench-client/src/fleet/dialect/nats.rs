//! The client's side of the NATS protocol, without headers, JetStream and TLS
//! (<https://docs.nats.io/reference/reference-protocols/nats-protocol>).
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

use std::io::Write as _;

use ::weir::limits::BODY_BYTES_CEILING;
use serde::Deserialize;

use super::{Dialect, Event, Garbled, Parsed};

pub(crate) const PING: &[u8] = b"PING\r\n";
pub(crate) const PONG: &[u8] = b"PONG\r\n";

/// The longest line: INFO, which names the other servers of a cluster too.
const LINE_BYTES_MAX: usize = 16 * 1024;
/// The longest payload.
const PAYLOAD_BYTES_MAX: usize = BODY_BYTES_CEILING as usize;
/// What servers send.
const OPERATIONS: [&[u8]; 6] = [b"MSG", b"PING", b"PONG", b"+OK", b"-ERR", b"INFO"];
/// What `-ERR` says, as far as there is something to do about it.
const REFUSALS: [&str; 6] = [
    "Maximum Connections Exceeded",
    "Maximum Payload Violation",
    "Authorization Violation",
    "Authentication Timeout",
    "Stale Connection",
    "Slow Consumer",
];
/// All others.
const REFUSAL: &str = "-ERR";

/// What matters of INFO.
#[derive(Deserialize)]
#[serde(default)]
struct Info {
    version: String,
    max_payload: u64,
}

impl Default for Info {
    fn default() -> Info {
        Info { version: String::new(), max_payload: u64::MAX }
    }
}

/// Introduces a client, which wants no answers but to PING, and its own messages where it subscribed to their subject.
pub(crate) fn put_connect(client: &str, out: &mut Vec<u8>) {
    let options = serde_json::json!({
        "verbose": false,
        "pedantic": false,
        "echo": true,
        "protocol": 1,
        "lang": "rust",
        "version": env!("CARGO_PKG_VERSION"),
        "name": client,
    });
    write!(out, "CONNECT {options}\r\n").expect("a Vec takes everything");
}

/// Subscribes to a channel. A client has one of each kind, so that the kind makes the number of the subscription.
pub(crate) fn put_subscribe(channel: &str, out: &mut Vec<u8>) {
    let number = subscription_of(channel).expect("channels are named by the plan");
    write!(out, "SUB {channel} {number}\r\n").expect("a Vec takes everything");
}

/// Sends a message. Not inlined, so that what sends Weir's stays small.
#[inline(never)]
pub(crate) fn put_publish(channel: &str, payload: &[u8], out: &mut Vec<u8>) {
    write!(out, "PUB {channel} {}\r\n", payload.len()).expect("a Vec takes everything");
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

/// The number of the subscription that brings messages of a channel.
fn subscription_of(channel: &str) -> Option<&'static str> {
    match channel.split_once('.')? {
        ("user", _) => Some("1"),
        ("group", _) => Some("2"),
        (_, _) => None,
    }
}

/// Reads what is at the start of the bytes.
pub(crate) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let may_begin = |operation: &[u8]| operation.iter().zip(bytes).all(|(ours, theirs)| ours.eq_ignore_ascii_case(theirs));
    if !OPERATIONS.iter().any(|operation| may_begin(operation)) {
        return Err(Garbled::unknown(Dialect::Nats, bytes));
    }
    let Some(end) = bytes.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n') else {
        return if bytes.len() < LINE_BYTES_MAX { Ok(None) } else { Err(Garbled::LineTooLong { limit: LINE_BYTES_MAX }) };
    };
    let line = bytes[..end].strip_suffix(b"\r").ok_or_else(|| Garbled::wrong("a line ends without CR", &bytes[..end]))?;
    let blank = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let (operation, rest) = (&line[..blank], line[blank..].trim_ascii());
    let taken = end + 1;
    let is = |name: &[u8]| operation.eq_ignore_ascii_case(name);
    let event = if is(b"MSG") {
        return message(rest, bytes, taken);
    } else if is(b"PING") {
        Event::Ping
    } else if is(b"PONG") {
        Event::Pong
    } else if is(b"+OK") {
        Event::Nothing
    } else if is(b"-ERR") {
        refusal(rest)
    } else if is(b"INFO") {
        let info: Info = serde_json::from_slice(rest).map_err(|_| Garbled::wrong("INFO is not followed by an object", rest))?;
        Event::Hello { version: info.version, payload_bytes_max: info.max_payload }
    } else {
        return Err(Garbled::unknown(Dialect::Nats, line));
    };
    Ok(Some((event, taken)))
}

/// `MSG <subject> <subscription> [reply-to] <bytes>`, and the payload behind it.
fn message<'a>(args: &'a [u8], bytes: &'a [u8], start: usize) -> Parsed<'a> {
    let wrong = |what| Garbled::wrong(what, args);
    let text = str::from_utf8(args).map_err(|_| wrong("MSG is followed by what is no UTF-8"))?;
    let mut words = text.split_ascii_whitespace();
    let (channel, number, third, fourth) = (words.next(), words.next(), words.next(), words.next());
    let (Some(channel), Some(number), Some(length), None) = (channel, number, fourth.or(third), words.next()) else {
        return Err(wrong("MSG is not followed by a subject, a subscription and a length"));
    };
    if subscription_of(channel) != Some(number) {
        return Err(wrong("MSG names a subscription that this client does not have for such a subject"));
    }
    if !length.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(wrong("the length of MSG is not a number"));
    }
    let limit = PAYLOAD_BYTES_MAX;
    let Some(length) = length.parse::<usize>().ok().filter(|length| *length <= limit) else {
        return Err(Garbled::PayloadTooLong { bytes: length.parse().unwrap_or(u64::MAX), limit });
    };
    let end = start + length;
    let Some(tail) = bytes.get(end..).filter(|tail| tail.len() >= 2) else { return Ok(None) };
    if !tail.starts_with(b"\r\n") {
        return Err(wrong("a payload is longer than MSG said"));
    }
    Ok(Some((Event::Message { channel, payload: &bytes[start..end] }, end + 2)))
}

/// `-ERR '<words>'`.
fn refusal(rest: &[u8]) -> Event<'static> {
    let text = String::from_utf8_lossy(rest);
    let words = text.trim_matches('\'');
    let name = REFUSALS.into_iter().find(|known| words.eq_ignore_ascii_case(known)).unwrap_or(REFUSAL);
    Event::Refusal { name, words: words.to_owned() }
}
