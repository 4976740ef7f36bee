//! Accepted connections before they stay, and accepting at its limits.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use weir::{io::Output, reactor::Kind};

use crate::{
    probe::{Behaviour, Seen},
    rig::{A_WHILE, Driver, Options, PATIENCE, Rig, connect, pattern, read},
    transfer::{ECHO, STAY},
};

pub(crate) fn receives_step_by_step_until_stay(driver: Driver) {
    let mut rig = Rig::single(driver, Behaviour::default());
    let (mut client, conn) = rig.client(0);
    // In pieces: the machine that has not decided gets the next one all the same, and the checker sees that it had its say between.
    for piece in [&b"LO"[..], b"GI", b"N"] {
        client.write_all(piece).expect("sends");
        assert_eq!(rig.reactors[0].received(conn, piece.len()), piece);
    }
    // At once: no more than one step in a turn.
    let all = pattern(300_000);
    client.write_all(&all[..100_000]).expect("sends");
    let mut turns = Vec::new();
    let mut got = Vec::new();
    rig.reactors[0].wait_for("100,000 bytes", |report| {
        if let Seen::Received { bytes, .. } = &report.seen {
            turns.push(report.turn);
            got.extend_from_slice(bytes);
        }
        (got.len() >= 100_000).then_some(())
    });
    assert!(turns.is_sorted_by(|a, b| a < b), "two steps in one turn: {turns:?}");
    rig.ask(0, Output::Stay { conn });
    client.write_all(&all[100_000..]).expect("sends");
    got.extend(rig.reactors[0].received(conn, 200_000));
    assert!(got == all, "the bytes differ");
}

pub(crate) fn pauses_at_a_full_table_and_goes_on(driver: Driver) {
    let mut rig = Rig::new(driver, Options { slots: [2, 2], behaviour: STAY, ..Options::default() });
    let (_first, first) = rig.client(0);
    let (_second, second) = rig.client(0);
    let mut third = connect(rig.reactors[0].addr);
    third.write_all(b"early").expect("the kernel takes it");
    rig.reactors[0].expect_silence();
    for conn in [first, second] {
        rig.ask(0, Output::Close { conn });
        rig.reactors[0].expect(Seen::Closed { conn });
        if conn == first {
            let conn = rig.reactors[0].accepted();
            assert_eq!(rig.reactors[0].received(conn, 5), b"early");
        }
    }
    rig.client(0);
}

pub(crate) fn stops_accepting_and_keeps_connections(driver: Driver) {
    let mut rig = Rig::single(driver, ECHO);
    let (mut client, _) = rig.client(0);
    rig.ask(0, Output::StopAccepting);
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect_timeout(&rig.reactors[0].addr, PATIENCE).is_ok() {
        assert!(Instant::now() < deadline, "connects are not refused after StopAccepting");
        thread::sleep(Duration::from_millis(1));
    }
    client.write_all(b"still here").expect("sends");
    assert_eq!(read(&mut client, 10), b"still here");
}

/// Set for the process that runs out of descriptors, lest the other cases do.
const CHILD: &str = "WEIR_CONTRACT_CHILD";
/// Descriptors that process has left for connections.
const FREE: usize = 5;
const ANNOUNCED: &str = "listens on ";

pub(crate) fn pauses_without_descriptors_and_goes_on(driver: Driver) {
    if std::env::var_os(CHILD).is_some() {
        return serve_with_few_descriptors(driver);
    }
    let module = driver.name;
    let mut child = Command::new(std::env::current_exe().expect("this program has a path"))
        .args(["--exact", "--nocapture", &format!("{module}::pauses_without_descriptors_and_goes_on")])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut output = BufReader::new(child.stdout.take().expect("piped")).lines();
    let announced = output.find_map(|line| Some(line.ok()?.split_once(ANNOUNCED)?.1.to_owned()));
    let addr: SocketAddr = announced.expect("the child says where it listens").parse().expect("an address");

    let mut clients: Vec<TcpStream> = (0..20).map(|_| connect(addr)).collect();
    for client in &mut clients {
        client.write_all(b"x").expect("the kernel takes it");
    }
    thread::sleep(A_WHILE);
    let mut byte = [0];
    let mut waiting = Vec::new();
    clients.retain(|mut client| {
        client.set_nonblocking(true).expect("may be set");
        let served = match client.read(&mut byte) {
            Ok(count) => count == 1,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        };
        client.set_nonblocking(false).expect("may be set");
        if !served {
            waiting.push(client.try_clone().expect("a descriptor is free"));
        }
        served
    });
    // Direct descriptors are no descriptors of the process: io_uring serves all at once.
    assert!(driver.kind == Kind::Uring || !waiting.is_empty(), "the descriptors were enough for all");
    assert!(driver.kind == Kind::Uring || clients.len() == FREE, "{} of {FREE} descriptors were used", clients.len());
    // Each one that goes makes room for one that waits.
    for mut client in waiting {
        clients.pop();
        assert_eq!(read(&mut client, 1), b"x");
        clients.push(client);
    }
    drop(child.stdin.take());
    assert!(child.wait().expect("it can be waited for").success(), "the child's own checks failed");
}

/// Echoes until its input ends; has [`FREE`] descriptors left.
fn serve_with_few_descriptors(driver: Driver) {
    let rig = Rig::single(driver, ECHO);
    // The kernel gives the lowest free number, and the limit is one for numbers.
    let is_free = |number: &u64| std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_err();
    let limit = (0..).filter(is_free).nth(FREE).expect("there are numbers enough");
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("is readable");
    setrlimit(Resource::RLIMIT_NOFILE, limit, hard).expect("may be lowered");
    println!("\n{ANNOUNCED}{}", rig.reactors[0].addr);
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
