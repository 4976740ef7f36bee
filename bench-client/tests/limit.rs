//! The bare loops under load, by the real program.
#![forbid(unsafe_code)]

mod harness;
mod schema;

use std::{
    fs,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use harness::{assert_exact, bench, code, measured, text};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use schema::Made;
use serde_json::Value;

/// Runs `limit`, and gives its exit status and its result.
fn limit(args: &[&str]) -> (i32, Value) {
    measured(&[&["limit"], args].concat())
}

/// The processes of loops that were started by a process.
fn loops_of(parent: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    children.split_whitespace().map(|pid| pid.parse().expect("a number")).collect()
}

fn is_there(pid: u32) -> bool {
    // A zombie has no memory, and an empty command line.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[test]
fn every_loop_is_exact_under_both_drivers_and_its_result_is_as_documented() {
    for (server, client) in [("uring", "uring"), ("epoll", "uring"), ("uring", "epoll"), ("epoll", "epoll")] {
        let drivers = ["--server-reactor", server, "--reactor", client, "--workers", "2", "--duration", "500ms"];
        let check = |object: &Value, made: Made| {
            schema::check(object, Made { server_pid: true, ..made });
            assert_eq!((&object["target"], &object["limit"]["reactor"]), (&"limit".into(), &server.into()), "{object:#}");
            assert_eq!(object["host"]["reactor"], client);
            assert_eq!((&object["limit"]["refused"], &object["limit"]["overrun"]), (&0.into(), &0.into()), "{object:#}");
            // One more than the clients: the first look.
            let connections = object["connections"].as_u64().expect("a number");
            assert_eq!(object["limit"]["accepted"], connections + 1, "{object:#}");
            assert_eq!(object["heartbeats"]["sent"], 0, "{object:#}");
            // Somebody's CPU was read, and it is not this program's own.
            let cpu = object["server"]["cpu_ns_per_connection"].as_f64().expect("a number");
            assert!((500.0..1e9).contains(&cpu), "{object:#}");
        };

        for scenario in ["echo", "relay"] {
            let args = [scenario, "--connections", "60", "--active", "20", "--depth", "4", "--payload", "64"];
            let (code, object) = limit(&[&args[..], &drivers].concat());
            assert_eq!(code, 0, "{object:#}");
            assert_exact(&object);
            check(&object, Made::default());
            assert!(object["received"].as_u64() > Some(100), "{object:#}");
            // Header, channel, number and payload: what Weir is sent for 64 bytes.
            assert!((90.0..100.0).contains(&object["bytes_per_send"].as_f64().expect("a number")), "{object:#}");
            assert!(object["server"]["cpu_ns_per_message"].as_f64() > Some(50.0), "{object:#}");
        }

        let (code, object) = limit(&[&["fanout", "--members", "50", "--window", "4"][..], &drivers].concat());
        assert_eq!(code, 0, "{object:#}");
        assert_exact(&object);
        check(&object, Made::default());
        assert_eq!(object["expected"].as_u64(), object["sent"].as_u64().map(|sent| sent * 50));

        let (code, object) = limit(&[&["accept", "--connections", "300"][..], &drivers].concat());
        assert_eq!(code, 0, "{object:#}");
        check(&object, Made::default());
        assert!(object["connects_per_s"].as_f64() > Some(100.0), "{object:#}");
    }
}

#[test]
fn messages_larger_than_any_buffer_and_a_schedule_go_through_too() {
    for server in ["uring", "epoll"] {
        let args = ["--server-reactor", server, "--duration", "500ms", "--payload", "20000"];
        for scenario in [
            &["echo", "--connections", "10", "--depth", "8"][..],
            &["relay", "--connections", "10", "--depth", "8"],
            &["fanout", "--members", "10", "--window", "8"],
        ] {
            let (code, object) = limit(&[scenario, &args].concat());
            assert_eq!(code, 0, "{object:#}");
            assert_exact(&object);
        }
        let (code, object) = limit(&["echo", "--connections", "20", "--rate", "500", "--duration", "1s"]);
        schema::check(&object, Made { open_loop: true, server_pid: true, ..Made::default() });
        // On a busy machine the client may have been late; then the run is not valid.
        assert!([0, 2].contains(&code) && object["lost"] == 0, "{object:#}");
    }
}

#[test]
fn latency_over_time_and_by_size_adds_up_to_what_was_received() {
    let part = ["--timeline", "100ms", "--duration", "600ms"];
    for scenario in [&["echo", "--connections", "30", "--depth", "2"][..], &["fanout", "--members", "20", "--window", "2"]] {
        let (code, object) = limit(&[scenario, &part, &["--workers", "2"]].concat());
        assert_eq!(code, 0, "{object:#}");
        schema::check(&object, Made { server_pid: true, timeline: true, ..Made::default() });
        let timeline = &object["timeline"];
        let list = |name: &str| -> Vec<u64> {
            timeline.pointer(name).and_then(Value::as_array).expect(name).iter().filter_map(Value::as_u64).collect()
        };
        assert_eq!(timeline["step_ms"], 100.0);
        let (received, p50, p99) = (list("/received"), list("/p50_us"), list("/p99_us"));
        assert!((1..=6).contains(&received.len()) && p50.len() == received.len() && p99.len() == received.len(), "{timeline:#}");
        assert!(p50.iter().zip(&p99).all(|(p50, p99)| p50 <= p99), "{timeline:#}");
        // The last messages arrive when the phase is over.
        let (all, in_steps) = (object["received"].as_u64().expect("a number"), received.iter().sum::<u64>());
        assert!(in_steps > 100 && in_steps <= all && in_steps > all / 2, "{object:#}");
        assert_eq!(list("/histogram/received").iter().sum::<u64>(), all, "{timeline:#}");
        let longest = *list("/histogram/up_to_us").last().expect("a class");
        assert!(longest >= object["latency_us"]["max"].as_u64().expect("a number"), "{object:#}");
    }
    let output = bench(&["limit", "echo", "--timeline", "1ms", "--duration", "2s"]);
    assert_eq!((code(&output), text(&output).contains("1000 are the most")), (64, true), "{}", text(&output));
}

#[test]
fn what_makes_no_sense_with_a_loop_is_refused_with_the_reason() {
    for (args, words) in [
        (&["echo", "--target", "127.0.0.1:7700"][..], "it starts the loop itself"),
        (&["fanout", "--server-pid", "1"], "it starts the loop itself"),
        (&["accept", "--token", "x"], "a loop knows no protocol"),
        (&["echo", "--compress"], "a loop knows no protocol"),
        (&["echo", "--durable"], "unexpected argument"),
        (&["echo", "--connections", "10", "--active", "11"], "--active 11 is more than"),
        (&["fanout", "--window", "65536", "--payload", "4096"], "lower --window or --payload"),
        (&[], "limit <COMMAND>"),
    ] {
        let output = bench(&[&["limit"], args].concat());
        assert_eq!(code(&output), 64, "{args:?}: {}", text(&output));
        assert!(text(&output).contains(words), "{args:?}: {}", text(&output));
    }
    let output = bench(&["limit", "echo", "--server-core", "4095"]);
    assert_eq!(code(&output), 2, "{}", text(&output));
    assert!(text(&output).contains("choose another with --server-core"), "{}", text(&output));
    let help = text(&bench(&["limit", "echo", "--help"]));
    assert!(help.contains("--server-core") && !help.contains("--target") && !help.contains("--token"), "{help}");
}

/// `limit echo` for half a minute, and its loop.
fn start() -> (Child, u32) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_bench-client"));
    program.args(["limit", "echo", "--connections", "20", "--duration", "30s"]).stdout(Stdio::null()).stderr(Stdio::piped());
    let program = program.spawn().expect("it starts");
    let deadline = Instant::now() + Duration::from_secs(20);
    let threads = || fs::read_dir(format!("/proc/{}/task", program.id())).map_or(0, Iterator::count);
    // It takes signals in good order once it has a second thread.
    while threads() < 2 {
        assert!(Instant::now() < deadline, "it starts its loop");
        thread::sleep(Duration::from_millis(10));
    }
    let loops = loops_of(program.id());
    assert_eq!(loops.len(), 1);
    thread::sleep(Duration::from_millis(500));
    assert!(is_there(loops[0]));
    (program, loops[0])
}

#[test]
fn no_loop_outlives_the_program_that_started_it() {
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let (mut program, its_loop) = start();
        kill(Pid::from_raw(program.id() as i32), signal).expect("it runs");
        let status = program.wait().expect("a child");
        assert_eq!(status.code(), (signal == Signal::SIGINT).then_some(2), "interrupted is not valid");
        let deadline = Instant::now() + Duration::from_secs(10);
        while is_there(its_loop) {
            assert!(Instant::now() < deadline, "{signal}: the loop {its_loop} goes on");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn a_loop_that_dies_gives_no_result() {
    let (program, its_loop) = start();
    kill(Pid::from_raw(its_loop as i32), Signal::SIGKILL).expect("it runs");
    let asked = Instant::now();
    let output = program.wait_with_output().expect("a child");
    assert!(asked.elapsed() < Duration::from_secs(25), "it does not wait for the end of its time");
    assert_eq!(code(&output), 2, "{}", text(&output));
    assert!(text(&output).contains("the loop ended with signal: 9"), "{}", text(&output));
}
