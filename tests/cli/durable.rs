//! Messages that are kept: `weir send --durable`, and what `weir listen` makes of them.
#![forbid(unsafe_code)]

use super::*;

/// Sends and expects it to be kept. Gives what was printed.
fn keep(address: &str, args: &[&str]) -> String {
    let (code, out, err) = run(weir(&["send", "--durable", "--addr", address]).args(args));
    assert_eq!((code, err.as_str()), (0, "weir: this gateway keeps messages in memory only: a restart loses them\n"));
    out
}

fn listen(address: &str, args: &[&str]) -> Running {
    Running::spawn(weir(&["listen", "--addr", address]).args(args))
}

#[test]
fn a_durable_message_waits_for_who_listens() {
    let (_gateway, address) = gateway(&["--dev"]);
    assert_eq!(keep(&address, &["--to", "alice", "--as", "bob", "one"]), "user/alice 1\n");
    let lines =
        output(&mut weir(&["send", "--durable", "--to", "alice", "--as", "bob", "--addr", &address]), "two\nthree\n").stdout;
    assert_eq!(String::from_utf8(lines).unwrap(), "user/alice 2\nuser/alice 3\n");
    let mut phone = listen(&address, &["--as", "alice", "--device", "phone"]);
    let lines = phone.lines();
    for text in ["one", "two", "three"] {
        assert_eq!(next(&lines), format!("alice <- bob: {text}"));
    }
    keep(&address, &["--to", "alice", "--as", "bob", "live"]);
    assert_eq!(next(&lines), "alice <- bob: live");
    // What was printed is acknowledged a moment later: it may come once more, but not for ever.
    let deadline = Instant::now() + DEADLINE;
    for visit in 1.. {
        std::thread::sleep(Duration::from_millis(200));
        drop(phone);
        keep(&address, &["--to", "alice", "--as", "bob", &format!("visit {visit}")]);
        phone = listen(&address, &["--as", "alice", "--device", "phone"]);
        let line = next(&phone.lines());
        if line == format!("alice <- bob: visit {visit}") {
            break;
        }
        assert!(Instant::now() < deadline, "{line:?} comes again and again");
    }
    // Another device has a place of its own; one that takes no part gets what is sent while it listens, and nothing else.
    let mut laptop = listen(&address, &["--as", "alice", "--device", "laptop"]);
    assert_eq!(next(&laptop.lines()), "alice <- bob: one");
    let mut deaf = listen(&address, &["--as", "alice", "--window", "0"]);
    deaf.await_error_line("listening as alice");
    keep(&address, &["--to", "alice", "--as", "bob", "not for it"]);
    let (code, _, err) = run(&mut weir(&["send", "--to", "alice", "--as", "bob", "--addr", &address, "now"]));
    assert_eq!(code, 0, "{err}");
    assert_eq!(next(&deaf.lines()), "alice <- bob: now");
}

#[test]
fn a_group_is_listened_to_from_now_on_or_from_its_start() {
    let (_gateway, address) = gateway(&["--dev"]);
    for (text, printed) in [("one", "group/room 1\n"), ("two", "group/room 2\n")] {
        assert_eq!(keep(&address, &["--group", "room", text]), printed);
    }
    let mut late = listen(&address, &["--as", "alice", "--group", "room"]);
    late.await_error_line("listening as alice and the groups room");
    let mut early = listen(&address, &["--as", "alice", "--group", "room", "--from-start", "--json"]);
    let early = early.lines();
    let object = |line: String| serde_json::from_str::<serde_json::Value>(&line).expect("an object a line");
    for (seq, text) in [(1, "one"), (2, "two")] {
        let object = object(next(&early));
        assert_eq!((&object["channel"], &object["seq"], &object["payload"]), (&"group/room".into(), &seq.into(), &text.into()));
        assert!(object["timestamp"].as_u64() > Some(0), "{object}");
    }
    keep(&address, &["--group", "room", "three"]);
    assert_eq!(object(next(&early))["payload"], "three");
    assert_eq!(next(&late.lines()), "group/room <- weir-send: three");
}

/// More than the window, so that acknowledgements keep it flowing.
#[test]
fn a_long_history_flows_through_a_small_window() {
    let (_gateway, address) = gateway(&["--dev"]);
    let all: String = (1..=300).map(|number| format!("{number}\n")).collect();
    let sent = output(&mut weir(&["send", "--durable", "--to", "alice", "--addr", &address]), &all).stdout;
    assert!(String::from_utf8(sent).unwrap().ends_with("user/alice 300\n"));
    let mut listening = listen(&address, &["--as", "alice", "--window", "8"]);
    let lines = listening.lines();
    for number in 1..=300 {
        assert_eq!(next(&lines), format!("alice <- weir-send: {number}"));
    }
}

#[test]
fn a_message_sent_again_under_its_number_is_stored_once() {
    let (_gateway, address) = gateway(&["--dev"]);
    let again = ["--to", "alice", "--device", "shell", "--id", "7"];
    assert_eq!(keep(&address, &[&again[..], &["hi"]].concat()), "user/alice 1\n");
    assert_eq!(keep(&address, &[&again[..], &["hi"]].concat()), "user/alice 1 (it was there already)\n");
    let (code, out, err) = run(weir(&["send", "--durable", "--addr", &address]).args(again).arg("other"));
    assert!(code == 1 && out.is_empty() && err.contains("MESSAGE_ID_REUSED"), "{err}");
    // Without a number each message is a new one, though its words and its device are the same.
    for seq in [2, 3] {
        let printed = keep(&address, &["--to", "alice", "--device", "shell", "hi"]);
        assert_eq!(printed, format!("user/alice {seq}\n"));
    }
    let (code, _, err) = run(&mut weir(&["send", "--durable", "--to", "alice", "--id", "7", "hi"]));
    assert!(code == 2 && err.contains("--device"), "{err}");
    let (code, _, err) = run(&mut weir(&["send", "--to", "alice", "--id", "7", "--device", "shell", "hi"]));
    assert!(code == 2 && err.contains("--durable"), "{err}");
}

/// Nobody answers: the sender is told how to find out.
#[test]
fn a_message_that_was_not_answered_can_be_asked_for() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let script = std::thread::spawn(move || {
        let (mut stream, _) = silent.accept().unwrap();
        let ok = weir::wire::body::LoginOk { client_id: "weir-send".to_owned(), ..Default::default() };
        let mut bytes = Vec::new();
        weir::wire::encode(&weir::wire::Frame::LoginOk(ok), &mut bytes);
        stream.write_all(&bytes).unwrap();
        // LOGIN and the message; then the connection breaks.
        let _ = stream.read(&mut [0; 4096]);
        std::thread::sleep(Duration::from_millis(100));
    });
    let (code, out, err) = run(&mut weir(&["send", "--durable", "--to", "alice", "--device", "shell", "--addr", &address, "hi"]));
    script.join().unwrap();
    assert!(code == 1 && out.is_empty() && err.contains("send it again with --device shell --id "), "{err}");
}
