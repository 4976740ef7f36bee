//! The parser against every way in which bytes may come, and come wrong.
#![forbid(unsafe_code)]

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::fleet::dialect::pieces::{change, changes, check_pieces, cuts, hear};

/// Something that a server says: its bytes, and the event in words.
fn said() -> impl Strategy<Value = (Vec<u8>, String)> {
    let message = ("(user|group)/\\PC{1,60}", vec(any::<u8>(), 0..400), any::<bool>());
    let message = message.prop_map(|(topic, payload, is_retained)| {
        let mut bytes = Vec::new();
        put_publish(&topic, &payload, &mut bytes);
        bytes[0] |= u8::from(is_retained);
        (bytes, format!("{:?}", Event::Message { channel: &topic, payload: &payload }))
    });
    let packet = |bytes: &[u8], event: Event<'_>| Just((bytes.to_vec(), format!("{event:?}")));
    let refusal = |name, words: &str| Event::Refusal { name, words: words.into() };
    prop_oneof![
        6 => message,
        1 => packet(&[0x20, 2, 0, 0], Event::LoggedIn),
        1 => packet(&[0x20, 2, 0, 5], refusal("not authorized", "CONNACK with code 5")),
        1 => packet(&[0x90, 3, 0, 1, 0], Event::Joined),
        1 => packet(&[0x90, 4, 0, 1, 0, 0], Event::Joined),
        1 => packet(&[0x90, 4, 0, 1, 0, 0x80], refusal("subscription refused", "SUBACK with code 128")),
        1 => packet(&[0xd0, 0], Event::Pong),
        // Lengths may be written with more bytes than they need.
        1 => packet(&[0xd0, 0x80, 0x80, 0], Event::Pong),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_server_says_is_understood_in_any_pieces(said in vec(said(), 0..12), cuts in cuts()) {
        let bytes: Vec<u8> = said.iter().flat_map(|(bytes, _)| bytes.iter().copied()).collect();
        let heard = check_pieces(parse, &bytes, &cuts)?;
        let events: Vec<String> = said.into_iter().map(|(_, event)| event).collect();
        prop_assert_eq!((heard.events, heard.is_garbled), (events, false));
    }

    #[test]
    fn any_bytes_end_the_same_way_in_any_pieces(bytes in vec(any::<u8>(), 0..300), cuts in cuts()) {
        check_pieces(parse, &bytes, &cuts)?;
    }

    #[test]
    fn changed_bytes_end_the_same_way_in_any_pieces(said in vec(said(), 1..6), changes in changes(), cuts in cuts()) {
        let mut bytes: Vec<u8> = said.into_iter().flat_map(|(bytes, _)| bytes).collect();
        change(&mut bytes, &changes);
        check_pieces(parse, &bytes, &cuts)?;
    }
}

/// The error with which these bytes end.
fn error(bytes: &[u8]) -> String {
    assert!(hear(parse, bytes.chunks(1)).is_garbled, "{:?}", bytes.escape_ascii().to_string());
    parse(bytes).expect_err("garbled").to_string()
}

#[test]
fn each_kind_of_nonsense_is_told() {
    for (bytes, words) in [
        (&b"HTTP/1.1 400 Bad Request\r\n"[..], "is this one?"),
        (b"WR\x01\x32", "is this one?"),
        // Quality of service 1, and repeated: neither was asked for.
        (&[0x32, 6, 0, 1, b'a', 0, 1, b'x'], "is this one?"),
        (&[0x38, 4, 0, 1, b'a', b'x'], "is this one?"),
        // With flags that must be 0.
        (&[0xd1, 0], "is this one?"),
        (&[0x20, 3, 0, 0, 0], "a length that its type cannot have"),
        (&[0xd0, 1, 0], "a length that its type cannot have"),
        (&[0x90, 2, 0, 1], "a length that its type cannot have"),
        (&[0x90, 5, 0, 1, 0, 0, 0], "a length that its type cannot have"),
        (&[0x30, 0], "a length that its type cannot have"),
        (&[0x30, 0xff, 0xff, 0xff, 0xff, 0x7f], "more than four bytes"),
        (&[0x20, 2, 1, 0], "CONNACK holds what it cannot"),
        (&[0x20, 2, 0, 6], "CONNACK holds what it cannot"),
        (&[0x90, 3, 0, 2, 0], "SUBACK answers what was not asked for"),
        (&[0x90, 3, 0, 1, 1], "SUBACK answers what was not asked for"),
        (&[0x30, 4, 0, 3, b'a', b'b'], "longer than the packet"),
        (&[0x30, 3, 0, 1, 0xff], "no UTF-8"),
    ] {
        assert!(error(bytes).contains(words), "{bytes:x?}: {}", error(bytes));
    }
}

#[test]
fn what_would_take_too_much_memory_is_refused_before_it_is_there() {
    let head = |length| {
        let mut bytes = vec![PUBLISH];
        put_length(length, &mut bytes);
        bytes
    };
    assert_eq!(parse(&head(PACKET_BYTES_MAX)), Ok(None));
    for length in [PACKET_BYTES_MAX + 1, 268_435_455] {
        assert!(error(&head(length)).contains("is over the limit of 16777216"), "{}", error(&head(length)));
    }
}

#[test]
fn a_client_says_what_the_protocol_asks_for() {
    let said = |put: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        put(&mut out);
        out
    };
    assert_eq!(said(&|out| put_connect("b7", 30, out)), b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x1e\x00\x02b7");
    let topics = ["user/b7", "g"];
    assert_eq!(said(&|out| put_subscribe(topics.into_iter(), out)), b"\x82\x10\x00\x01\x00\x07user/b7\x00\x00\x01g\x00");
    assert_eq!(said(&|out| put_publish("user/b7", b"hi", out)), b"\x30\x0b\x00\x07user/b7hi");
    // The lengths at the edges of the table in section 2.2.3 of the specification.
    for (length, bytes) in [
        (0, &[0][..]),
        (127, &[0x7f]),
        (128, &[0x80, 1]),
        (16_383, &[0xff, 0x7f]),
        (16_384, &[0x80, 0x80, 1]),
        (2_097_151, &[0xff, 0xff, 0x7f]),
        (2_097_152, &[0x80, 0x80, 0x80, 1]),
    ] {
        assert_eq!(said(&|out| put_length(length, out)), bytes, "{length}");
    }
}
