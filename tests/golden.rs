//! Holds the code to `proto/frame.md`: its test vectors, its worked example, its tables of types and codes.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use weir::wire::{
    AcceptedRef, BatchRef, Decoded, ErrorCode, Frame, FrameType, Malformed, PushRef, Retry, SendRef, Unpacker, body, decode,
    encode,
};

const PAGE: &str = include_str!("../proto/frame.md");
/// The limit that the page states for its vectors.
const MAX_BODY_BYTES: u32 = 65_536;

/// One paragraph of a `vectors` block.
struct Vector<'a> {
    name: &'a str,
    frame: Vec<u8>,
    /// Compression was agreed upon.
    zstd: bool,
    expect: Expect<'a>,
}

enum Expect<'a> {
    Frame { kind: FrameType, decode_only: bool, fields: Values },
    Skipped(u8),
    Incomplete(usize),
    Refused(&'a str),
}

/// Field values by name, in the order of the page.
#[derive(Default)]
struct Values(BTreeMap<String, Vec<String>>);

impl Values {
    fn all(&mut self, name: &str) -> Vec<String> {
        self.0.remove(name).unwrap_or_default()
    }

    fn one(&mut self, name: &str) -> Option<String> {
        let mut values = self.all(name);
        assert!(values.len() <= 1, "{name} is given {} times", values.len());
        values.pop()
    }

    fn text(&mut self, name: &str) -> String {
        self.one(name).map_or(String::new(), |json| unquote(&json))
    }

    fn texts(&mut self, name: &str) -> Vec<String> {
        self.all(name).iter().map(|json| unquote(json)).collect()
    }

    fn bytes(&mut self, name: &str) -> Vec<u8> {
        self.one(name).map_or(Vec::new(), |hex| unhex(&hex))
    }

    fn number<N: std::str::FromStr + Default>(&mut self, name: &str) -> N {
        self.one(name).map_or(N::default(), |text| text.parse().unwrap_or_else(|_| panic!("{name}: {text} is no number")))
    }

    fn optional(&mut self, name: &str) -> Option<u64> {
        self.one(name).map(|text| text.parse().unwrap_or_else(|_| panic!("{name}: {text} is no number")))
    }

    /// The messages `name.0`, `name.1`, …, each with its own fields.
    fn messages(&mut self, name: &str) -> Vec<Values> {
        let mut messages = Vec::new();
        loop {
            let prefix = format!("{name}.{}.", messages.len());
            let fields = self.0.extract_if(.., |key, _| key.starts_with(&prefix));
            let one: BTreeMap<_, _> = fields.map(|(key, values)| (key[prefix.len()..].to_owned(), values)).collect();
            if one.is_empty() {
                return messages;
            }
            messages.push(Values(one));
        }
    }

    fn flag(&mut self, name: &str) -> bool {
        self.one(name).is_some_and(|text| text == "true" || panic!("{name}: {text} is not `true`"))
    }
}

fn unquote(json: &str) -> String {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> =
        text.chars().filter(|c| *c != ' ').map(|c| c.to_digit(16).unwrap_or_else(|| panic!("{c:?} in hex"))).collect();
    assert!(digits.len().is_multiple_of(2), "half a byte in {text}");
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

/// All vectors of the page, the worked example's too.
fn vectors() -> Vec<Vector<'static>> {
    let blocks = PAGE.split("```vectors\n").skip(1).map(|rest| rest.split_once("\n```").expect("the block ends").0);
    let vectors: Vec<_> = blocks.flat_map(|block| block.split("\n\n")).map(parse).collect();
    let marked = PAGE.lines().filter(|line| line.starts_with("vector ")).count();
    assert_eq!(vectors.len(), marked, "a vector stands outside the blocks or is not set apart by an empty line");
    let names: BTreeSet<_> = vectors.iter().map(|vector| vector.name).collect();
    assert_eq!(names.len(), vectors.len(), "two vectors have one name");
    vectors
}

fn parse(paragraph: &'static str) -> Vector<'static> {
    let (mut name, mut frame, mut expect, mut decode_only, mut zstd) = (None, None, None, false, false);
    let mut fields = Values::default();
    for line in paragraph.lines() {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        match key {
            "vector" => assert!(name.replace(value).is_none(), "{paragraph}"),
            "frame" => assert!(frame.replace(unhex(value)).is_none(), "{paragraph}"),
            "decode-only" => decode_only = true,
            "zstd" => zstd = true,
            "type" | "skipped" | "incomplete" | "refused" => assert!(expect.replace((key, value)).is_none(), "{paragraph}"),
            field => fields.0.entry(field.to_owned()).or_default().push(value.to_owned()),
        }
    }
    let expect = match expect.unwrap_or_else(|| panic!("nothing is expected of\n{paragraph}")) {
        ("type", value) => {
            let kind = FrameType::ALL.iter().copied().find(|kind| kind.name() == value);
            Expect::Frame { kind: kind.unwrap_or_else(|| panic!("no type {value}")), decode_only, fields }
        }
        ("skipped", value) => Expect::Skipped(u8::from_str_radix(value.trim_start_matches("0x"), 16).expect("a type byte")),
        ("incomplete", value) => Expect::Incomplete(value.parse().expect("a number of bytes")),
        (_, code) => Expect::Refused(code),
    };
    Vector { name: name.expect("a name"), frame: frame.expect("a frame"), zstd, expect }
}

/// Builds the frame that the fields describe, and hands it to `check`.
fn with_frame(kind: FrameType, mut values: Values, check: impl FnOnce(&Frame<'_>)) {
    let v = &mut values;
    let (channel, payload) = (v.text("channel"), v.bytes("payload"));
    let key = v.text("key");
    let inner = v.all("inner").iter().flat_map(|hex| unhex(hex)).collect::<Vec<u8>>();
    let (from_client, from_device) = (v.text("from_client"), v.text("from_device"));
    let frame = match kind {
        FrameType::Login => Frame::Login(body::Login {
            client_id: v.text("client_id"),
            device_id: v.text("device_id"),
            device_class: v.text("device_class"),
            token: v.text("token"),
            agent: v.text("agent"),
            compression: v.number("compression"),
            window: v.number("window"),
            batches: v.flag("batches"),
            cursor: v.optional("cursor"),
        }),
        FrameType::LoginOk => Frame::LoginOk(body::LoginOk {
            client_id: v.text("client_id"),
            session_epoch: v.number("session_epoch"),
            heartbeat_interval_ms: v.number("heartbeat_interval_ms"),
            max_body_bytes: v.number("max_body_bytes"),
            server_time_ms: v.number("server_time_ms"),
            compression: v.number("compression"),
            window: v.number("window"),
            batches: v.flag("batches"),
        }),
        FrameType::Ping => Frame::Ping(body::Ping { sent_us: v.number("sent_us"), rtt_us: v.number("rtt_us") }),
        FrameType::Pong => {
            Frame::Pong(body::Pong { sent_us: v.number("sent_us"), heartbeat_interval_ms: v.number("heartbeat_interval_ms") })
        }
        FrameType::Send => Frame::Send(SendRef {
            channel: &channel,
            client_msg_id: v.number("client_msg_id"),
            class: v.number("class"),
            payload: &payload,
            receipt: v.flag("receipt"),
            include_sender: v.flag("include_sender"),
            key: &key,
        }),
        FrameType::SendOk => Frame::SendOk(body::SendOk {
            client_msg_id: v.number("client_msg_id"),
            reached: v.number("reached"),
            dropped: v.number("dropped"),
        }),
        FrameType::Push => Frame::Push(PushRef {
            channel: &channel,
            from_client: &from_client,
            from_device: &from_device,
            client_msg_id: v.number("client_msg_id"),
            payload: &payload,
            seq: v.number("seq"),
            timestamp: v.number("timestamp"),
            key: &key,
        }),
        FrameType::Accepted => Frame::Accepted(AcceptedRef {
            client_msg_id: v.number("client_msg_id"),
            channel: &channel,
            seq: v.number("seq"),
            timestamp: v.number("timestamp"),
            durability: v.number("durability"),
            duplicate: v.flag("duplicate"),
        }),
        FrameType::Received => Frame::Received(body::Received { channel: channel.clone(), seq: v.number("seq") }),
        FrameType::Read => Frame::Read(body::Read { channel: channel.clone(), seq: v.number("seq") }),
        FrameType::Gap => {
            Frame::Gap(body::Gap { channel: channel.clone(), from: v.number("from"), to: v.number("to"), code: v.number("code") })
        }
        FrameType::Batch => Frame::Batch(BatchRef::new(&inner)),
        FrameType::Cursors => Frame::Cursors(body::Cursors {
            channel: channel.clone(),
            first: v.number("first"),
            last: v.number("last"),
            received: v.number("received"),
            read: v.number("read"),
            unread: v.number("unread"),
        }),
        FrameType::Sync => Frame::Sync(body::Sync { channel: channel.clone(), from: v.number("from"), limit: v.number("limit") }),
        FrameType::Page => Frame::Page(body::Page {
            channel: channel.clone(),
            from: v.number("from"),
            first: v.number("first"),
            last: v.number("last"),
            next: v.number("next"),
            messages: v.messages("messages").into_iter().map(stored).collect(),
        }),
        FrameType::State => Frame::State(body::State { presence: v.number("presence") }),
        FrameType::Watch => Frame::Watch(body::Watch { clients: v.texts("clients") }),
        FrameType::Unwatch => Frame::Unwatch(body::Unwatch { clients: v.texts("clients") }),
        FrameType::Presence => Frame::Presence(body::PresenceOf {
            client: v.text("client"),
            device: v.text("device"),
            presence: v.number("presence"),
            online: v.number("online"),
            since_ms: v.number("since_ms"),
            fresh: v.flag("fresh"),
        }),
        FrameType::Join => Frame::Join(body::Join { group: v.text("group"), cursor: v.optional("cursor") }),
        FrameType::JoinOk => Frame::JoinOk(body::JoinOk { group: v.text("group"), members: v.number("members") }),
        FrameType::Leave => Frame::Leave(body::Leave { group: v.text("group") }),
        FrameType::LeaveOk => Frame::LeaveOk(body::LeaveOk { group: v.text("group") }),
        FrameType::Kicked => {
            Frame::Kicked(body::Kicked { code: v.number("code"), message: v.text("message"), by_device: v.text("by_device") })
        }
        FrameType::Goaway => Frame::Goaway(body::Goaway {
            code: v.number("code"),
            message: v.text("message"),
            delay_min_ms: v.number("delay_min_ms"),
            delay_max_ms: v.number("delay_max_ms"),
            alternatives: v.texts("alternatives"),
        }),
        FrameType::Error => Frame::Error(body::Error {
            code: v.number("code"),
            message: v.text("message"),
            closing: v.flag("closing"),
            retry_after_ms: v.number("retry_after_ms"),
            client_msg_id: v.number("client_msg_id"),
            in_reply_to: v.number("in_reply_to"),
        }),
    };
    assert!(values.0.is_empty(), "{} has no fields {:?}", kind.name(), values.0.keys());
    check(&frame);
}

/// A message of a PAGE.
fn stored(mut v: Values) -> body::Push {
    let push = body::Push {
        channel: v.text("channel"),
        from_client: v.text("from_client"),
        from_device: v.text("from_device"),
        client_msg_id: v.number("client_msg_id"),
        payload: v.bytes("payload"),
        seq: v.number("seq"),
        timestamp: v.number("timestamp"),
        key: v.text("key"),
    };
    assert!(v.0.is_empty(), "a message has no fields {:?}", v.0.keys());
    push
}

/// Decodes as after a LOGIN that agreed upon compression, or did not, and looks into a BATCH.
fn decode_whole<'a>(bytes: &'a [u8], zstd: bool, unpacker: &'a mut Unpacker) -> Result<Decoded<'a>, Malformed> {
    let decoded = if zstd { unpacker.decode(bytes, MAX_BODY_BYTES)? } else { decode(bytes, MAX_BODY_BYTES)? };
    if let Decoded::Frame { frame: Frame::Batch(batch), .. } = &decoded {
        batch.frames().try_for_each(|frame| frame.map(|_| ()))?;
    }
    Ok(decoded)
}

#[test]
fn every_vector_holds() {
    let mut unpacker = Unpacker::default();
    for Vector { name, frame: bytes, zstd, expect } in vectors() {
        let decoded = decode_whole(&bytes, zstd, &mut unpacker);
        match expect {
            Expect::Frame { kind, decode_only, fields } => with_frame(kind, fields, |frame| {
                let whole = Decoded::Frame { frame: frame.clone(), frame_bytes: bytes.len() };
                assert_eq!(decoded.as_ref(), Ok(&whole), "{name}");
                let mut encoded = Vec::new();
                encode(frame, &mut encoded);
                assert_eq!(encoded != bytes, decode_only, "{name}: encoded to {encoded:02x?}");
            }),
            Expect::Skipped(kind) => {
                let whole = Decoded::Frame { frame: Frame::Unknown { kind }, frame_bytes: bytes.len() };
                assert_eq!(decoded, Ok(whole), "{name}");
            }
            Expect::Incomplete(total_bytes) => assert_eq!(decoded, Ok(Decoded::NeedMore { total_bytes }), "{name}"),
            Expect::Refused(code) => {
                let malformed = decoded.expect_err(name);
                assert_eq!(malformed.code().name(), code, "{name}: {malformed}");
            }
        }
    }
}

#[test]
fn the_vectors_leave_nothing_out() {
    let mut of_type: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut refused, mut skipped, mut incomplete) = (BTreeSet::new(), 0, 0);
    for Vector { expect, .. } in vectors() {
        match expect {
            Expect::Frame { kind, .. } => *of_type.entry(kind.name()).or_default() += 1,
            Expect::Skipped(_) => skipped += 1,
            Expect::Incomplete(_) => incomplete += 1,
            Expect::Refused(code) => _ = refused.insert(code),
        }
    }
    for kind in FrameType::ALL {
        assert!(of_type.get(kind.name()).is_some_and(|count| *count >= 2), "fewer than two vectors for {}", kind.name());
    }
    // Every code that `decode` can give: those of `Malformed::code`.
    let codes = [
        "BAD_MAGIC",
        "UNSUPPORTED_VERSION",
        "UNSUPPORTED_FLAGS",
        "FRAME_TOO_LONG",
        "BAD_CHECKSUM",
        "UNKNOWN_TYPE",
        "BAD_BODY",
        "BAD_BATCH",
        "BAD_COMPRESSION",
        "DECOMPRESSED_TOO_LONG",
    ];
    assert_eq!(refused, BTreeSet::from(codes));
    assert!(skipped >= 2 && incomplete >= 2);
}

/// The cells of the rows of one table, without the two rows of its head.
fn table(head: &str) -> Vec<Vec<&'static str>> {
    let rows = PAGE.split_once(head).unwrap_or_else(|| panic!("the page has no table {head}")).1;
    let rows = rows.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[test]
fn the_table_of_types_is_the_code() {
    let page: Vec<_> = table("| type | name | direction |").iter().map(|row| (row[0], row[1])).collect();
    let code: Vec<_> = FrameType::ALL.iter().map(|kind| (format!("`{:#04x}`", *kind as u8), kind.name())).collect();
    assert_eq!(page, code.iter().map(|(byte, name)| (byte.as_str(), *name)).collect::<Vec<_>>());
    for byte in 0..=u8::MAX {
        let known = FrameType::ALL.iter().copied().find(|kind| *kind as u8 == byte);
        assert_eq!(FrameType::from_byte(byte), known);
    }
}

#[test]
fn the_table_of_codes_is_the_code() {
    let page: Vec<_> = table("| code | name | meaning |").iter().map(|row| (row[0], row[1], row[4])).collect();
    let row = |code: &ErrorCode| {
        let retry = match code.retry() {
            Retry::Never => "never",
            Retry::WithNewToken => "new token",
            Retry::Later => "later",
            Retry::OnDemand => "on demand",
        };
        (code.number().to_string(), code.name(), retry)
    };
    let code: Vec<_> = ErrorCode::ALL.iter().map(row).collect();
    assert_eq!(page, code.iter().map(|(number, name, retry)| (number.as_str(), *name, *retry)).collect::<Vec<_>>());
    for code in ErrorCode::ALL {
        assert_eq!(ErrorCode::from_number(code.number()), Some(*code));
    }
    assert_eq!(ErrorCode::from_number(0), None);
}

/// The rows of every body's table name the fields of `weir.proto` with their numbers.
#[test]
fn the_fields_are_those_of_the_proto_file() {
    let proto = include_str!("../proto/weir.proto");
    let mut checked = 0;
    for message in proto.split("\nmessage ").skip(1) {
        let (name, rest) = message.split_once(" {").expect("a message has a body");
        for line in rest.split("\n}").next().expect("a message ends").lines().map(str::trim) {
            let words: Vec<_> = line.trim_end_matches(';').split(' ').collect();
            let [.., _, field, "=", number] = words[..] else { continue };
            assert!(!line.starts_with("//"), "{line}");
            assert!(PAGE.contains(&format!("{number} `{field}`")), "{name}.{field} = {number} is not on the page");
            checked += 1;
        }
    }
    assert!(checked >= 40, "only {checked} fields found in weir.proto");
}
