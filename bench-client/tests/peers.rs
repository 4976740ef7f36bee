//! The real program against servers other than Weir: real ones, where they are installed, and for errors one that says what it is told.
#![forbid(unsafe_code)]

mod harness;
mod schema;

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use harness::{assert_exact, bench, code, result, text};
use schema::Made;
use serde_json::Value;
use tempfile::NamedTempFile;

/// A kind of server.
#[derive(Clone, Copy, Debug)]
struct Kind {
    scheme: &'static str,
    program: &'static str,
    /// The configuration in `bench-client/peers`, and the port in it.
    configuration: &'static str,
    port: &'static str,
}

const MQTT: Kind = Kind { scheme: "mqtt", program: "mosquitto", configuration: "mosquitto.conf", port: "11883" };
const NATS: Kind = Kind { scheme: "nats", program: "nats-server", configuration: "nats.conf", port: "14222" };

/// A server on a port of its own, which ends with this value.
struct Server {
    child: Child,
    target: String,
    _configuration: NamedTempFile,
}

impl Server {
    /// `None`, with a word about it, if it is not installed.
    fn start(kind: Kind) -> Option<Server> {
        let Some(program) = installed(kind.program) else {
            // Not by a macro, whose words are kept back when a test succeeds.
            let words = format!("skipped: {} is not installed; `make peers` installs it\n", kind.program);
            let _ = std::io::stderr().write_all(words.as_bytes());
            return None;
        };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        let text = std::fs::read_to_string(folder.join(kind.configuration)).expect("a configuration");
        assert!(text.contains(kind.port), "{text}");
        let address = free_address();
        let mut configuration = NamedTempFile::new().expect("a file");
        configuration.write_all(text.replace(kind.port, &address.port().to_string()).as_bytes()).expect("it is written");
        let mut child = Command::new(program)
            .arg("-c")
            .arg(configuration.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            assert_eq!(child.try_wait().expect("a child"), None, "{kind:?} runs with the configuration that is shipped");
            assert!(Instant::now() < deadline, "{kind:?} listens");
            thread::sleep(Duration::from_millis(20));
        }
        Some(Server { child, target: format!("{}://{address}", kind.scheme), _configuration: configuration })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a program is. Distributions keep servers out of the way of users.
fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")]);
    places.map(|place| place.join(program)).find(|program| program.is_file())
}

/// An address where nobody listens.
fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("a port")
}

fn every_scenario_is_exact(kind: Kind) {
    for reactor in ["uring", "epoll"] {
        let Some(server) = Server::start(kind) else { return };
        let pid = server.child.id().to_string();
        let exact = |args: &[&str]| {
            let (code, object) = result(&server.target, &[args, &["--reactor", reactor, "--server-pid", &pid]].concat());
            assert_eq!(code, 0, "{object:#}");
            assert_exact(&object);
            schema::check(&object, Made { server_pid: true, ..Made::default() });
            assert_eq!((&object["target"], &object["host"]["reactor"]), (&Value::from(kind.scheme), &Value::from(reactor)));
            assert!(object["server_version"].as_str().is_some_and(|version| version.contains('.')), "{object:#}");
            object
        };
        for args in [&["--depth", "4"][..], &["--pattern", "random", "--active", "30"], &["--payload", "5000"]] {
            let object = exact(&[&["route", "--connections", "100", "--duration", "500ms"], args].concat());
            assert!(object["received"].as_u64() > Some(100), "{object:#}");
            assert!(object["server"]["cpu_ns_per_message"].as_f64().is_some(), "{object:#}");
        }
        let fanout = ["fanout", "--members", "20", "--groups", "3", "--publishers", "2", "--duration", "500ms"];
        let object = exact(&fanout);
        // As many as of Weir: senders have their own messages too.
        assert_eq!(object["expected"].as_u64(), object["sent"].as_u64().map(|sent| sent * 20), "{object:#}");
        let object = exact(&["connect", "--connections", "200", "--duration", "500ms"]);
        assert_eq!((&object["failed_connects"], &object["dropped_connections"]), (&Value::from(0), &Value::from(0)));
    }
}

fn a_server_that_dies_makes_the_run_fail(kind: Kind) {
    let Some(mut server) = Server::start(kind) else { return };
    let target = server.target.clone();
    let args = ["route", "--connections", "50", "--duration", "4s", "--target", &target];
    let output = thread::scope(|scope| {
        let run = scope.spawn(|| bench(&args));
        thread::sleep(Duration::from_millis(1_500));
        server.child.kill().expect("a child");
        run.join().expect("a run")
    });
    // What was under way is lost, unless nothing was.
    assert!([1, 2].contains(&code(&output)), "{}", text(&output));
    assert!(text(&output).contains("connections ended before they should"), "{}", text(&output));
}

#[test]
fn every_scenario_is_exact_on_a_nats_server() {
    every_scenario_is_exact(NATS);
}

#[test]
fn every_scenario_is_exact_on_mosquitto() {
    every_scenario_is_exact(MQTT);
}

#[test]
fn a_nats_server_that_dies_makes_the_run_fail() {
    a_server_that_dies_makes_the_run_fail(NATS);
}

#[test]
fn a_mosquitto_that_dies_makes_the_run_fail() {
    a_server_that_dies_makes_the_run_fail(MQTT);
}

#[test]
fn what_a_nats_server_refuses_is_told() {
    let Some(server) = Server::start(NATS) else { return };
    let args = ["route", "--connections", "10", "--duration", "300ms"];
    let (code, object) = result(&server.target, &[&args[..], &["--payload", "2000000"]].concat());
    assert_eq!((code, &object["failed_connects"]), (2, &Value::from(10)), "{object:#}");
    assert!(object["invalid_reasons"].to_string().contains("is over the 1048576 bytes"), "{object:#}");
    schema::check(&object, Made::default());
}

/// Something that listens, says to each connection what is written for its number (to the last ones what is written last), and then
/// nothing more.
fn says(lines: &[&[u8]]) -> SocketAddr {
    let lines: Vec<Vec<u8>> = lines.iter().map(|line| line.to_vec()).collect();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    let count = AtomicUsize::new(0);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let number = count.fetch_add(1, Ordering::Relaxed);
            let _ = stream.write_all(&lines[number.min(lines.len() - 1)]);
            thread::spawn(move || while stream.read(&mut [0; 1024]).is_ok_and(|count| count > 0) {});
        }
    });
    address
}

/// What bench-client makes of such a server.
fn told(scheme: &str, lines: &[&[u8]]) -> (i32, String) {
    let target = format!("{scheme}://{}", says(lines));
    let output = bench(&["route", "--connections", "4", "--workers", "1", "--duration", "300ms", "--target", &target]);
    (code(&output), text(&output))
}

#[test]
fn servers_that_speak_otherwise_are_told_before_any_client_comes() {
    for (scheme, line, words) in [
        ("nats", &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "are nothing that a server says in nats://"),
        ("nats", b"PING\r\n", "does not say who it is"),
        ("nats", b"INFO {\"version\":", "says nothing within 3 s"),
        ("nats", b"-ERR 'Authorization Violation'\r\n", "it refuses: Authorization Violation"),
        ("mqtt", b"INFO {}\r\n", "are nothing that a server says in mqtt://"),
        ("mqtt", b"\xd0\x00", "does not answer a CONNECT"),
        ("mqtt", b"\x20\x02\x00", "says nothing within 3 s"),
        ("mqtt", b"\x20\x02\x00\x05", "it refuses: not authorized"),
    ] {
        let (code, text) = told(scheme, &[line]);
        assert_eq!(code, 2, "{text}");
        assert!(text.contains(words) && text.contains(&format!("does not speak {scheme}")), "{text}");
    }
}

#[test]
fn garbled_bytes_end_the_connection_that_they_came_on_and_are_counted() {
    const INFO: &[u8] = b"INFO {\"version\":\"2.9.10\"}\r\n";
    let (code, text) = told("nats", &[INFO, b"INFO {\"version\":\"2.9.10\"}\r\nMSG user.b0 1 \x00\r\n"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("4 of 4 clients could not log in: 4 × malformed bytes"), "{text}");
    assert!(text.contains("FAULTY"), "{text}");

    let (code, text) = told("nats", &[INFO, b"INFO {}\r\n-ERR 'maximum connections exceeded'\r\n"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("4 × Maximum Connections Exceeded") && text.contains("raise max_connections"), "{text}");

    const CONNACK: &[u8] = b"\x20\x02\x00\x00";
    let (code, text) = told("mqtt", &[CONNACK, b"\x20\x02\x00\x00\x30\x04\x00\x09ab"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("4 of 4 clients could not log in: 4 × malformed bytes (the topic of PUBLISH is longer"), "{text}");
    assert!(text.contains("FAULTY"), "{text}");

    let (code, text) = told("mqtt", &[CONNACK, b"\x20\x02\x00\x05"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("4 × not authorized (CONNACK with code 5) → let clients in without a name"), "{text}");

    let (code, text) = told("mqtt", &[CONNACK, b"\x20\x02\x00\x00\x90\x03\x00\x01\x80"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("4 × subscription refused"), "{text}");
}

#[test]
fn what_only_weir_has_is_refused_for_others() {
    let only_weir = [
        (&["route", "--durable"][..], "durable messages"),
        (&["fanout", "--durable"], "durable messages"),
        (&["connect", "--receive-window", "8"], "--receive-window"),
        (&["offline"], "offline"),
        (&["storm"], "storm"),
        (&["route", "--batches"], "--batches"),
        (&["route", "--compress"], "--compress"),
        (&["route", "--token", "x"], "--token"),
        (&["route", "--hs256-secret", "a secret of at least thirty-two bytes"], "--hs256-secret"),
    ];
    let refused = |args: &[&str], scheme: &str, words: &str| {
        let output = bench(&[args, &["--target", &format!("{scheme}://127.0.0.1:1")]].concat());
        assert_eq!(code(&output), 64, "{args:?}: {}", text(&output));
        assert!(text(&output).contains(words), "{args:?}: {}", text(&output));
    };
    for scheme in ["nats", "mqtt"] {
        only_weir.iter().for_each(|(args, words)| refused(args, scheme, words));
    }
    for (scheme, prefixes) in [("nats", &["a.b", "a b", "*", "a>"][..]), ("mqtt", &["a+", "#b"])] {
        prefixes.iter().for_each(|prefix| refused(&["route", "--client-prefix", prefix], scheme, "has a meaning of its own"));
    }
    for (scheme, command) in
        [("nats", "nats-server -c bench-client/peers/nats.conf"), ("mqtt", "mosquitto -c bench-client/peers/mosquitto.conf")]
    {
        let output = bench(&["route", "--target", &format!("{scheme}://127.0.0.1:1")]);
        assert_eq!(code(&output), 2);
        assert!(text(&output).contains(command), "{}", text(&output));
    }
}
