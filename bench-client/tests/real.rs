//! The real program against the real gateway.
#![forbid(unsafe_code)]

mod harness;
mod schema;

use std::{
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use harness::{assert_exact, bench, code, gateway::Gateway, program::weir, text};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use schema::Made;
use serde_json::Value;

/// Those of this build.
const REACTORS: &[&str] = if cfg!(feature = "glommio") { &["uring", "epoll", "glommio"] } else { &["uring", "epoll"] };
const SECRET: &str = "a secret of at least thirty-two bytes";

/// Runs bench-client against a gateway, and gives its exit status and its result.
fn result(gateway: &Gateway, args: &[&str]) -> (i32, Value) {
    harness::result(&gateway.target, args)
}

const UNLIMITED: [&str; 6] = ["--dev", "--shards", "3", "--limits-frames-per-second", "0", "--limits-bytes-per-second=0"];

#[test]
fn every_scenario_is_exact_on_each_reactor_and_its_result_is_as_documented() {
    for &reactor in REACTORS {
        let gateway = Gateway::start(&[&UNLIMITED[..], &["--reactor", reactor]].concat());
        let pid = gateway.child.id().to_string();
        let route = ["route", "--connections", "100", "--duration", "1s", "--reactor", reactor, "--server-pid", &pid];
        let (code, object) = result(&gateway, &route);
        assert_eq!(code, 0, "{object:#}");
        assert_exact(&object);
        schema::check(&object, Made { server_pid: true, ..Made::default() });
        assert_eq!(object["host"]["reactor"], reactor);
        assert_eq!((&object["target"], &object["address"]), (&Value::from("weir"), &Value::from(gateway.target.as_str())));
        assert_eq!(object["server_version"], env!("CARGO_PKG_VERSION"));
        let somaxconn = std::fs::read_to_string("/proc/sys/net/core/somaxconn").expect("a setting");
        assert_eq!(object["host"]["sysctls"]["net.core.somaxconn"], somaxconn.trim());
        assert!(object["server"]["cpu_ns_per_connection"].as_f64() > Some(1_000.0), "{object:#}");
        assert!(object["received"].as_u64() > Some(100));

        let fanout =
            ["fanout", "--members", "20", "--groups", "3", "--publishers", "2", "--duration", "1s", "--reactor", reactor];
        let (code, object) = result(&gateway, &fanout);
        assert_eq!(code, 0, "{object:#}");
        assert_exact(&object);
        schema::check(&object, Made::default());
        assert_eq!(object["expected"].as_u64(), object["sent"].as_u64().map(|sent| sent * 20));

        for scenario in [&["route", "--connections", "100", "--depth", "4"][..], &["fanout", "--members", "20", "--groups", "3"]]
        {
            let made = ["--durable", "--duration", "1s", "--reactor", reactor, "--server-pid", &pid];
            let (code, object) = result(&gateway, &[scenario, &made].concat());
            assert_eq!(code, 0, "{object:#}");
            assert_exact(&object);
            schema::check(&object, Made { server_pid: true, durable: true, ..Made::default() });
            let durable = &object["durable"];
            assert_eq!((&durable["accepted"], &durable["durability"]), (&object["sent"], &Value::from("memory")));
            assert!(durable["acknowledgements"].as_u64() > Some(0), "{object:#}");
        }

        let connect = ["connect", "--connections", "200", "--max-rate", "1000", "--duration", "500ms", "--reactor", reactor];
        let (code, object) = result(&gateway, &connect);
        assert_eq!(code, 0, "{object:#}");
        schema::check(&object, Made { ramp_rate: true, ..Made::default() });
        assert!((500.0..=1_300.0).contains(&object["connects_per_s"].as_f64().expect("a number")), "{object:#}");
    }
}

#[test]
fn absent_clients_find_their_messages_and_nobody_misses_any_in_a_storm() {
    for &reactor in REACTORS {
        let gateway = Gateway::start(&[&UNLIMITED[..], &["--reactor", reactor]].concat());
        let offline = ["offline", "--connections", "60", "--messages", "50", "--senders", "5", "--reactor", reactor];
        for groups in ["0", "4"] {
            let (code, object) = result(&gateway, &[&offline[..], &["--groups", groups]].concat());
            assert_eq!(code, 0, "{object:#}");
            assert_exact(&object);
            schema::check(&object, Made { durable: true, ..Made::default() });
            assert_eq!(object["received"], if groups == "0" { 60 * 50 } else { 60 * 100 });
            assert_eq!((&object["offline"]["looked"], &object["offline"]["came_again"]), (&Value::from(60), &Value::from(0)));
        }
        let storm = ["storm", "--connections", "200", "--duration", "2s", "--drop-after", "500ms", "--jitter-ms", "300"];
        let (code, object) = result(&gateway, &[&storm[..], &["--reactor", reactor]].concat());
        assert_eq!(code, 0, "{object:#}");
        assert_exact(&object);
        schema::check(&object, Made { durable: true, ..Made::default() });
        let storm = &object["storm"];
        assert_eq!((&storm["returned"], &object["dropped_connections"]), (&Value::from(200), &Value::from(0)));
        assert!((100_000..2_000_000).contains(&storm["back_us"]["p99"].as_u64().expect("a number")), "{object:#}");
    }
}

#[test]
fn the_open_loop_reports_its_lag() {
    let gateway = Gateway::start(&UNLIMITED);
    for scenario in [&["route", "--pattern", "random", "--connections", "50"][..], &["fanout", "--members", "20"]] {
        let (code, object) = result(&gateway, &[scenario, &["--rate", "500", "--duration", "1s"]].concat());
        schema::check(&object, Made { open_loop: true, ..Made::default() });
        assert!((450..=500).contains(&object["sent"].as_u64().expect("a number")), "{object:#}");
        // On a busy machine the client may have been late; then the run must say so.
        let number = |field: &str, percentile: &str| object[field][percentile].as_u64().expect("a number");
        let p999_max = 10_000.max(number("latency_us", "p999") / 10);
        let is_late = |lag: &str| number(lag, "p99") > 1_000 || number(lag, "p999") > p999_max;
        let was_late = is_late("schedule_lag_us") || is_late("turn_lag_us");
        assert_eq!(code, if was_late { 2 } else { 0 }, "{object:#}");
    }
}

#[test]
fn two_runs_share_a_gateway() {
    let gateway = Gateway::start(&UNLIMITED);
    let args = ["route", "--connections", "50", "--duration", "1s", "--client-prefix"];
    thread::scope(|scope| {
        let runs = ["one", "two"].map(|prefix| {
            let gateway = &gateway;
            scope.spawn(move || result(gateway, &[&args[..], &[prefix]].concat()))
        });
        for run in runs {
            let (code, object) = run.join().expect("a run");
            assert_eq!(code, 0, "{object:#}");
            assert_exact(&object);
        }
    });
}

#[test]
fn a_refused_send_makes_the_run_invalid_and_names_the_limit() {
    let gateway = Gateway::start(&["--dev", "--limits-frames-per-second", "20"]);
    let (code, object) = result(&gateway, &["route", "--connections", "10", "--depth", "4", "--duration", "500ms"]);
    assert_eq!(code, 2, "{object:#}");
    assert_eq!((&object["valid"], &object["lost"]), (&Value::Bool(false), &Value::from(0)));
    assert!(object["refusals"]["RATE_EXCEEDED"]["count"].as_u64() > Some(0));
    let reasons = object["invalid_reasons"].to_string();
    assert!(reasons.contains("--limits-frames-per-second"), "{reasons}");
    schema::check(&object, Made::default());
}

#[test]
fn tokens_are_made_from_the_secret() {
    let gateway = Gateway::start(&["--auth-hs256-secret", SECRET, "--data", "memory"]);
    let (code, object) =
        result(&gateway, &["fanout", "--members", "10", "--window", "1", "--duration", "300ms", "--hs256-secret", SECRET]);
    assert_eq!(code, 0, "{object:#}");
    assert_exact(&object);
    assert!(!object["host"]["command"].to_string().contains(SECRET), "the secret stays out of the result");

    let (code, object) = result(&gateway, &["route", "--connections", "10", "--duration", "300ms"]);
    assert_eq!(code, 2, "{object:#}");
    assert_eq!(object["failed_connects"], 10);
    assert!(object["invalid_reasons"].to_string().contains("TOKEN_MISSING"), "{object:#}");
    schema::check(&object, Made::default());
}

#[test]
fn a_gateway_that_dies_makes_the_run_fail() {
    let mut gateway = Gateway::start(&UNLIMITED);
    let target = gateway.target.clone();
    let args = ["route", "--connections", "100", "--duration", "4s", "--target", &target];
    let output = thread::scope(|scope| {
        let run = scope.spawn(|| bench(&args));
        thread::sleep(Duration::from_millis(1_500));
        gateway.child.kill().expect("a child");
        run.join().expect("a run")
    });
    // What was under way is lost, unless nothing was.
    assert!([1, 2].contains(&code(&output)), "{}", text(&output));
    assert!(text(&output).contains("connections ended before they should"), "{}", text(&output));
}

#[test]
fn a_gateway_that_is_killed_and_started_again_has_lost_nothing_that_it_accepted() {
    for scenario in [&["route", "--connections", "60", "--depth", "4"][..], &["fanout", "--members", "20", "--groups", "3"]] {
        // Each with its own: an unoptimized gateway takes seconds to open a log of some hundred thousand messages.
        let data = tempfile::tempdir().expect("a directory");
        let data = [&UNLIMITED[..], &["--data", data.path().to_str().expect("text")]].concat();
        let mut gateway = Gateway::start(&data);
        let target = gateway.target.clone();
        let file = tempfile::NamedTempFile::new().expect("a file");
        let json = file.path().to_str().expect("text");
        let made = ["--durable", "--reconnect", "--duration", "5s", "--target", &target, "--json", json];
        let output = thread::scope(|scope| {
            let run = scope.spawn(|| bench(&[scenario, &made].concat()));
            thread::sleep(Duration::from_millis(1_500));
            gateway.child.kill().expect("a child");
            gateway.child.wait().expect("a child");
            let again = Gateway::start_again_on(&target, &data);
            let output = run.join().expect("a run");
            drop(again);
            output
        });
        assert_eq!(code(&output), 0, "{}", text(&output));
        let object: Value = serde_json::from_str(&std::fs::read_to_string(json).expect("the result")).expect("JSON");
        assert_exact(&object);
        schema::check(&object, Made { durable: true, ..Made::default() });
        assert_eq!((&object["dropped_connections"], &object["returned_connections"]), (&Value::from(60), &Value::from(60)));
        assert_eq!(object["durable"]["durability"], "fsync");
        assert!(object["durable"]["resent"].as_u64() > Some(0), "{object:#}");
    }
}

#[test]
fn a_stop_signal_ends_the_demo_and_its_gateway() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut demo = Command::new(env!("CARGO_BIN_EXE_bench-client"));
        demo.args(["demo", "--weir"]).arg(weir()).stdout(Stdio::piped()).stderr(Stdio::null());
        let demo = demo.spawn().expect("it starts");
        thread::sleep(Duration::from_millis(2_500));
        kill(Pid::from_raw(demo.id() as i32), signal).expect("it runs");
        let asked = Instant::now();
        // The pipe ends when the last process that holds it has.
        let output = demo.wait_with_output().expect("a child");
        assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
        assert_eq!(code(&output), 2, "{}", text(&output));
        assert!(text(&output).contains("interrupted"), "{}", text(&output));
        assert!(text(&output).contains("The gateway stopped cleanly"), "{}", text(&output));
    }
}

#[test]
fn a_gateway_that_dies_under_load_leaves_a_result_that_says_so() {
    let mut gateway = Gateway::start(&["--dev"]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    let (json, pid) = (file.path().to_str().expect("text"), gateway.child.id().to_string());
    let target = gateway.target.clone();
    let words = ["route", "--connections", "20", "--duration", "3s", "--drain", "500ms", "--server-pid", &pid, "--json", json];
    let output = thread::scope(|scope| {
        let run = scope.spawn(|| bench(&[&words[..], &["--target", &target]].concat()));
        thread::sleep(Duration::from_millis(1_500));
        gateway.child.kill().expect("it runs");
        gateway.child.wait().expect("a child");
        run.join().expect("a run")
    });
    assert!([1, 2].contains(&code(&output)), "{}", text(&output));
    let object: Value = serde_json::from_str(&std::fs::read_to_string(json).expect("the result")).expect("JSON");
    schema::check(&object, Made::default());
    assert!(object["valid"] == false && object["received"].as_u64() > Some(0), "{object:#}");
    assert_eq!(object["dropped_connections"], 20, "{object:#}");
    assert!(object["invalid_reasons"].to_string().contains("--server-pid ended before the run did"), "{object:#}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let gateway = Gateway::start(&["--dev"]);
    let words = ["connect", "--connections", "5", "--duration", "200ms", "--target", &gateway.target];
    let mut run = Command::new(env!("CARGO_BIN_EXE_bench-client"));
    let mut run = run.args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    drop(run.stdout.take());
    let output = run.wait_with_output().expect("a child");
    assert_eq!(code(&output), 0, "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_demo_that_is_killed_takes_its_gateway_with_it() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_bench-client"));
    demo.args(["demo", "--weir"]).arg(weir()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut demo = demo.spawn().expect("it starts");
    thread::sleep(Duration::from_millis(2_500));
    demo.kill().expect("it runs");
    let asked = Instant::now();
    // The pipe that both write their logs to ends when the last of them has.
    let output = demo.wait_with_output().expect("a child");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert!(String::from_utf8_lossy(&output.stderr).contains("INFO"), "its gateway did run: {output:?}");
}

#[test]
fn very_many_connections_hold_talk_drop_and_come_back() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let json = file.path().to_str().expect("text");
    let weir = weir().to_str().expect("text");
    let phases = ["--hold", "1s", "--route", "1s", "--broadcast", "1s", "--jitter-ms", "300", "--active", "50"];
    let output = bench(&[&["million", "--connections", "1500", "--weir", weir, "--json", json], &phases[..]].concat());
    assert_eq!(code(&output), 0, "{}", text(&output));
    assert!(text(&output).contains("1,500 clients on one gateway"), "{}", text(&output));
    let object: Value = serde_json::from_str(&std::fs::read_to_string(json).expect("the result")).expect("JSON");
    assert_exact(&object);
    schema::check(&object, Made::default());
    let count = |path: &str| object.pointer(path).and_then(Value::as_u64).expect("a count");
    assert_eq!((count("/storm/returned"), count("/ramp/failed_connects")), (1_500, 0));
    assert!(count("/route/sent") >= 50 && count("/route/received") == count("/route/sent"), "{object:#}");
    assert!(count("/broadcast/sent") >= 1 && count("/broadcast/received") == 1_500 * count("/broadcast/sent"), "{object:#}");
    assert_eq!(count("/received"), count("/route/received") + count("/broadcast/received"));
    let number = |path: &str| object.pointer(path).and_then(Value::as_f64).expect("a number");
    assert!(count("/alone/connections") == 1_000 && count("/alone/received") >= 50, "{object:#}");
    let ratio = number("/route/server_cpu_ns_per_message") / number("/alone/server_cpu_ns_per_message");
    assert!((number("/route_cpu_ratio") - ratio).abs() < 1e-9, "{object:#}");

    // More than any machine that runs tests has room for.
    let output = bench(&["million", "--connections", "4000000", "--reactor", "epoll", "--weir", weir]);
    assert_eq!(code(&output), 2, "{}", text(&output));
    assert!(text(&output).contains("cannot be done here: "), "{}", text(&output));
}

#[test]
fn a_long_run_is_judged_by_its_cycles() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let json = file.path().to_str().expect("text");
    let weir = weir().to_str().expect("text");
    let output = bench(&["soak", "--duration", "20s", "--weir", weir, "--json", json]);
    let object: Value = serde_json::from_str(&std::fs::read_to_string(json).expect("the result")).expect("JSON");
    schema::check(&object, Made::default());
    // On a busy machine nothing may be said of latency, and so short a run says little of memory; but nothing is lost.
    let cycles = object["cycles"].as_array().expect("cycles");
    assert_eq!(cycles.len(), 8, "{}", text(&output));
    for cycle in cycles {
        assert_eq!(cycle["faults"], 0, "{cycle:#}");
        assert!(cycle["received"].as_u64() > Some(1_000), "{cycle:#}");
        assert!(cycle["returned_connections"].as_u64() >= Some(200), "{cycle:#}");
    }
    assert!(!text(&output).contains("did not stop"), "{}", text(&output));
    let disturbed = cycles.iter().filter(|cycle| cycle["disturbed"].as_array().is_some_and(|parts| !parts.is_empty())).count();
    for words in [format!("{disturbed} of 8 cycles"), "MB an hour [".into(), "too short a time to judge by it".into()] {
        assert!(text(&output).contains(&words), "{words}: {}", text(&output));
    }
    let growth = |field: &str| object["growth"][field].as_f64().expect("a number");
    assert!(growth("low") <= growth("bytes_per_hour") && growth("bytes_per_hour") <= growth("high"), "{object:#}");

    let output = bench(&["soak", "--duration", "10s", "--cycle", "5s", "--weir", weir]);
    assert!(code(&output) == 64 && text(&output).contains("raise --duration"), "{}", text(&output));
}

#[test]
fn results_that_could_not_be_written_are_refused_before_anything_starts() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    let (astray, kept, new) = (path("nowhere/x.json"), path("kept.json"), path("new.json"));
    std::fs::write(&kept, "before").expect("written");
    for command in [
        &["connect"][..],
        &["route"],
        &["fanout"],
        &["offline"],
        &["storm"],
        &["limit", "echo"],
        &["limit", "relay"],
        &["limit", "fanout"],
        &["limit", "accept"],
        &["million", "--weir", "/nowhere/weir"],
        &["soak", "--weir", "/nowhere/weir"],
        &["bench", "--weir", "/nowhere/weir"],
        &["bench", "--json", &new, "--html", &astray],
    ] {
        let is_html = command.contains(&"--html");
        let args = if is_html { command.to_vec() } else { [command, &["--json", &astray]].concat() };
        let output = bench(&args);
        assert_eq!(code(&output), 2, "{args:?}: {}", text(&output));
        let words = format!("{} {astray} cannot be written", if is_html { "--html" } else { "--json" });
        assert!(text(&output).contains(&words) && text(&output).contains("mkdir -p"), "{args:?}: {}", text(&output));
    }
    // Nobody is there.
    for file in [&kept, &new] {
        assert_eq!(code(&bench(&["route", "--target", "127.0.0.1:1", "--json", file])), 2);
    }
    assert_eq!(std::fs::read_to_string(&kept).expect("there"), "before");
    assert!(!std::path::Path::new(&new).exists(), "an empty file of a run that failed");
}

#[test]
fn nobody_home_and_wrong_use_are_told_apart() {
    let output = bench(&["route", "--target", "127.0.0.1:1"]);
    assert_eq!(code(&output), 2);
    assert!(text(&output).contains("is the gateway running?"), "{}", text(&output));
    for (args, words) in [
        (&["route", "--payload", "8"][..], "smallest payload is 32 bytes"),
        (&["route", "--connections", "10", "--active", "11"], "--active 11 is more than"),
        (&["fanout", "--connections", "10", "--groups", "3"], "same number of members"),
        (&["route", "--target", "nonsense"], "HOST:PORT"),
        (&["route", "--target", "ftp://127.0.0.1:1"], "only weir"),
        (&["dance"], "unrecognized subcommand"),
        (&["storm", "--duration", "2s"], "lower --drop-after"),
        (&["offline", "--groups", "11", "--connections", "10"], "11 groups are more than 10 clients"),
        (&["route", "--reconnect"], "--durable"),
        (&["route", "--pattern", "across"], "--metrics <IP:PORT>"),
        (&["route", "--metrics", "127.0.0.1:1"], "with --pattern across only"),
        (
            &["route", "--pattern", "across", "--metrics", "127.0.0.1:1", "--target", "nats://127.0.0.1:1"],
            "only weir:// has shards",
        ),
    ] {
        let output = bench(args);
        assert_eq!(code(&output), 64, "{args:?}");
        assert!(text(&output).contains(words), "{args:?}: {}", text(&output));
    }
    assert_eq!(code(&bench(&["--help"])), 0);
    // Each names the page that describes its result.
    for command in ["million", "soak", "bench"] {
        assert!(text(&bench(&[command, "--help"])).contains(&format!("bench-client/schema-{command}.md")), "{command}");
    }
}
