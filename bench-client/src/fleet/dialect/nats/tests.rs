//! The parser against every way in which bytes may come, and come wrong.
#![forbid(unsafe_code)]

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::fleet::dialect::pieces::{change, changes, check_pieces, cuts, hear};

/// Something that a server says: its bytes, and the event in words.
fn said() -> impl Strategy<Value = (Vec<u8>, String)> {
    let channel = prop_oneof!["user\\.[!-)+-=?-~]{1,40}", "group\\.[a-z0-9-]{1,40}"];
    let message = (channel, vec(any::<u8>(), 0..200), proptest::option::of("[!-~]{1,20}"), any::<bool>());
    let message = message.prop_map(|(channel, payload, reply, is_small)| {
        let operation = if is_small { "msg" } else { "MSG" };
        let reply = reply.map_or(String::new(), |reply| format!("{reply} "));
        let number = if channel.starts_with("user.") { 1 } else { 2 };
        let mut bytes = format!("{operation} {channel} {number} {reply}{}\r\n", payload.len()).into_bytes();
        bytes.extend_from_slice(&payload);
        bytes.extend_from_slice(b"\r\n");
        (bytes, format!("{:?}", Event::Message { channel: &channel, payload: &payload }))
    });
    let line = |text: &str, event: Event<'_>| (text.as_bytes().to_vec(), format!("{event:?}"));
    let info = ("[0-9.]{1,10}", any::<u64>()).prop_map(move |(version, payload_bytes_max)| {
        let text =
            format!("INFO {{\"server_id\":\"x\",\"version\":\"{version}\",\"max_payload\":{payload_bytes_max},\"a\":[1]}}\r\n");
        line(&text, Event::Hello { version, payload_bytes_max })
    });
    let refusal = "[ -&(-~]{1,60}".prop_filter("words", |words| words.trim() == words).prop_map(move |words| {
        let name = if words == "Stale Connection" { "Stale Connection" } else { REFUSAL };
        line(&format!("-ERR '{words}'\r\n"), Event::Refusal { name, words })
    });
    prop_oneof![
        4 => message,
        1 => info,
        1 => refusal,
        1 => Just(line("PING\r\n", Event::Ping)),
        1 => Just(line("pong \r\n", Event::Pong)),
        1 => Just(line("+OK\r\n", Event::Nothing)),
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
        (b"PINGS\r\n", "is this one?"),
        (b"HMSG user.b1 1 4 8\r\n", "is this one?"),
        (b"PING\n", "ends without CR"),
        (b"INFO {\"max_payload\":-1}\r\n", "INFO is not followed by an object"),
        (b"INFO\r\n", "INFO is not followed by an object"),
        (b"MSG user.b1 1\r\n", "not followed by a subject"),
        (b"MSG user.b1 1 reply 4 5\r\n", "not followed by a subject"),
        (b"MSG user.\xff 1 4\r\n", "no UTF-8"),
        (b"MSG user.b1 2 4\r\n", "does not have"),
        (b"MSG group.b-g1 1 4\r\n", "does not have"),
        (b"MSG other.b1 1 4\r\n", "does not have"),
        (b"MSG user.b1 1 four\r\n", "is not a number"),
        (b"MSG user.b1 1 +4\r\n", "is not a number"),
        (b"MSG user.b1 1 2\r\nabcd", "longer than MSG said"),
    ] {
        assert!(error(bytes).contains(words), "{}", error(bytes));
    }
}

#[test]
fn what_would_take_too_much_memory_is_refused_before_it_is_there() {
    let endless = [b"INFO {\"version\":\"".to_vec(), vec![b'1'; LINE_BYTES_MAX]].concat();
    assert!(error(&endless).contains("does not end within 16384 bytes"), "{}", error(&endless));
    let longest = format!("INFO {{\"version\":\"{}\"}}\r\n", "1".repeat(LINE_BYTES_MAX - 20));
    assert_eq!(longest.len(), LINE_BYTES_MAX + 1, "its LF is the byte behind the limit");
    assert!(error(longest.as_bytes()).contains("does not end"));
    let info = longest.replacen("11", "1", 1);
    assert_eq!(hear(parse, [info.as_bytes()]).events.len(), 1, "one byte less is a line");

    let most = PAYLOAD_BYTES_MAX;
    assert_eq!(parse(format!("MSG user.b1 1 {most}\r\n").as_bytes()), Ok(None));
    for length in [(most + 1).to_string(), u64::MAX.to_string(), "9".repeat(60)] {
        let words = error(format!("MSG user.b1 1 {length}\r\n").as_bytes());
        assert!(words.contains("is over the limit of 16777216"), "{words}");
    }
    let deep = format!("INFO {}\r\n", "[".repeat(LINE_BYTES_MAX / 2));
    assert!(error(deep.as_bytes()).contains("INFO is not followed by an object"));
}

#[test]
fn errors_that_something_can_be_done_about_have_names() {
    for (line, name) in [
        ("-ERR 'maximum connections exceeded'\r\n", "Maximum Connections Exceeded"),
        ("-ERR 'Stale Connection'\r\n", "Stale Connection"),
        ("-ERR 'Unknown Protocol Operation'\r\n", "-ERR"),
    ] {
        let words = line[6..].trim_end().trim_end_matches('\'').to_owned();
        assert_eq!(parse(line.as_bytes()), Ok(Some((Event::Refusal { name, words }, line.len()))));
    }
}

#[test]
fn a_client_says_what_the_protocol_asks_for() {
    let said = |put: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        put(&mut out);
        String::from_utf8(out).expect("text")
    };
    assert_eq!(said(&|out| put_subscribe("user.b7", out)), "SUB user.b7 1\r\n");
    assert_eq!(said(&|out| put_subscribe("group.b-g0", out)), "SUB group.b-g0 2\r\n");
    assert_eq!(said(&|out| put_publish("user.b7", b"a\r\nb", out)), "PUB user.b7 4\r\na\r\nb\r\n");
    let connect = said(&|out| put_connect("say \"b7\"", out));
    let options = connect.strip_prefix("CONNECT ").and_then(|rest| rest.strip_suffix("\r\n")).expect("a line");
    let options: serde_json::Value = serde_json::from_str(options).expect("an object");
    let told = ["verbose", "pedantic", "echo", "name"].map(|option| options[option].to_string());
    assert_eq!(told, ["false", "false", "true", "\"say \\\"b7\\\"\""]);
}
