//! `diff` by the real program, between real results and what was made of them.
#![forbid(unsafe_code)]

mod harness;

use std::{fs, sync::OnceLock};

use harness::{bench, code, program::weir, text};
use serde_json::{Value, json};

/// A result of three short rounds.
fn measured() -> &'static Value {
    static RESULT: OnceLock<Value> = OnceLock::new();
    RESULT.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let [json, html] = ["bench.json", "bench.html"].map(|name| folder.path().join(name));
        let small = "--rounds 3 --duration 100ms --connections 20 --active 10 --logins 50 --only route-1,connect";
        let targets = "--targets limit-uring,weir-epoll --weir";
        let files = ["--json", json.to_str().expect("text"), "--html", html.to_str().expect("text")];
        let words = ["bench"].into_iter().chain(small.split(' ')).chain(targets.split(' '));
        let output = bench(&words.chain([weir().to_str().expect("text")]).chain(files).collect::<Vec<_>>());
        assert_eq!(code(&output), 0, "{}", text(&output));
        serde_json::from_str(&fs::read_to_string(json).expect("the result")).expect("JSON")
    })
}

/// The measured result with everything of a server's results multiplied.
fn times(target: &str, factor: f64) -> Value {
    let mut changed = measured().clone();
    for result in changed["results"].as_array_mut().expect("results").iter_mut().filter(|result| result["target"] == target) {
        for spread in ["server_cpu_ns_per_message", "server_cpu_ns_per_connection", "ratio_to_limit"] {
            for value in result[spread].as_object_mut().into_iter().flat_map(|spread| spread.values_mut()) {
                *value = json!(value.as_f64().expect("a number") * factor);
            }
        }
    }
    changed
}

/// The measured result with the gateway's messages sent by a schedule of so many a second, and so many times the latency.
fn scheduled(rate: f64, latency: f64) -> Value {
    let mut changed = measured().clone();
    let of_weir = |result: &&mut Value| result["scenario"] == "route-1" && result["target"] == "weir";
    let result = changed["results"].as_array_mut().expect("results").iter_mut().find(of_weir).expect("it was measured");
    (result["scenario"], result["depth"], result["ratio_to_limit"]) = (json!("route-70"), Value::Null, Value::Null);
    result["rate_per_s"] = json!({ "median": rate, "min": rate, "max": rate });
    for value in result["latency_us"]["p99"].as_object_mut().expect("a spread").values_mut() {
        *value = json!(value.as_f64().expect("a number") * latency);
    }
    changed
}

/// Runs `diff`, and gives its exit status and its words.
fn diff(before: &Value, after: &Value, args: &[&str]) -> (i32, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let [first, second] = [("before.json", before), ("after.json", after)].map(|(name, object)| {
        let path = folder.path().join(name);
        fs::write(&path, object.to_string()).expect("written");
        path.to_str().expect("text").to_owned()
    });
    let output = bench(&[&["diff", &first, &second], args].concat());
    (code(&output), text(&output))
}

#[test]
fn what_did_not_change_is_not_worse() {
    let (code, words) = diff(measured(), measured(), &[]);
    assert_eq!(code, 0, "{words}");
    assert!(words.contains("0 got worse and 0 better"), "{words}");
    for name in [
        "route-1            limit-uring",
        "route-1            weir-epoll",
        "connect            weir-epoll",
        "B per connection",
        "p99, µs",
    ] {
        assert!(words.contains(name), "{name}: {words}");
    }
}

#[test]
fn what_moved_beyond_its_spread_is_told_and_decides() {
    let (code, words) = diff(measured(), &times("weir", 1_000.0), &[]);
    // CPU and ratio, in both scenarios.
    assert_eq!((code, words.contains("4 got worse and 0 better"), words.contains("WORSE")), (1, true, true), "{words}");
    let (code, words) = diff(&times("weir", 1_000.0), measured(), &[]);
    assert_eq!((code, words.contains("0 got worse and 4 better")), (0, true), "{words}");
    // The machine is slower, and not the gateway.
    let (code, words) = diff(measured(), &times("limit", 1_000.0), &[]);
    assert_eq!((code, words.contains("0 got worse and 0 better"), words.contains("WORSE")), (0, true, true), "{words}");
    let mut short = times("weir", 1_000.0);
    short["results"].as_array_mut().expect("results").iter_mut().for_each(|result| result["valid_rounds"] = json!(2));
    let (code, words) = diff(measured(), &short, &[]);
    assert_eq!((code, words.contains("too few rounds")), (0, true), "{words}");
}

#[test]
fn a_lower_knee_is_worse_and_no_better_latency() {
    let before = scheduled(40_000.0, 1.0);
    let (code, words) = diff(&before, &scheduled(30_000.0, 0.001), &[]);
    assert_eq!((code, words.contains("1 got worse and 0 better")), (1, true), "{words}");
    assert!(words.contains("schedule, 1/s") && words.contains("those of 40,000 and of 30,000 messages a second"), "{words}");
    let (code, words) = diff(&before, &scheduled(50_000.0, 1_000.0), &[]);
    assert_eq!((code, words.contains("0 got worse and 1 better")), (0, true), "{words}");
    // As near as this, latencies are of the same thing.
    let (code, words) = diff(&before, &scheduled(39_000.0, 1_000.0), &[]);
    assert_eq!((code, words.contains("1 got worse and 0 better"), words.contains("not compared")), (1, true, false), "{words}");
}

#[test]
fn hosts_are_not_compared_without_a_word() {
    let bytes = measured()["host"]["memory_bytes"].as_u64().expect("a number");
    for (field, value, told) in [
        ("kernel", json!("2.2.14"), "and 2.2.14"),
        ("cores", json!(4096), "and 4096"),
        ("cpu_model", json!("Z80"), "and Z80"),
        ("memory_bytes", json!(bytes * 3 / 4), "memory "),
    ] {
        let mut other = times("weir", 1_000.0);
        other["host"][field] = value;
        let (code, words) = diff(measured(), &other, &[]);
        assert_eq!(code, 2, "{words}");
        assert!(words.contains(told) && words.contains("--across-hosts"), "{words}");
        let (code, words) = diff(measured(), &other, &["--across-hosts"]);
        // What is relative to the host's own limit.
        assert_eq!((code, words.contains("2 got worse and 0 better")), (1, true), "{words}");
        assert!(words.contains(told) && !words.contains("server CPU, ns") && !words.contains("p99"), "{words}");
    }
    // Another boot of the same machine.
    let mut other = measured().clone();
    other["host"]["memory_bytes"] = json!(bytes * 97 / 100);
    let (code, words) = diff(measured(), &other, &[]);
    assert_eq!(code, 0, "{words}");
    (other["host"]["git"], other["host"]["sysctls"]["net.core.somaxconn"]) = (json!("another"), json!("1"));
    let (code, words) = diff(measured(), &other, &[]);
    assert_eq!(code, 0, "{words}");
    assert!(words.contains("and another") && words.contains("net.core.somaxconn"), "{words}");
}

#[test]
fn what_only_one_has_is_named_and_nothing_in_common_is_an_error() {
    let mut part = measured().clone();
    part["results"].as_array_mut().expect("results").retain(|result| result["scenario"] == "connect");
    let (code, words) = diff(measured(), &part, &[]);
    assert_eq!((code, words.contains("weir-epoll: only in the first")), (0, true), "{words}");
    let (code, words) = diff(&part, measured(), &[]);
    assert_eq!((code, words.contains("weir-epoll: only in the second")), (0, true), "{words}");
    part["results"].as_array_mut().expect("results").iter_mut().for_each(|result| result["connections"] = json!(51));
    let (code, words) = diff(measured(), &part, &[]);
    assert_eq!((code, words.contains("not the same load, 50 and 51 connections")), (2, true), "{words}");
}

#[test]
fn other_files_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let good = write("good.json", &measured().to_string());
    let newer = write("newer.json", &json!({ "format": 2 }).to_string());
    let other = write("other.json", "{\"scenario\": \"route\"}");
    let half = write("half.json", "{\"format\": 1");
    let empty = write("empty.json", "{\"format\": 1}");
    for (file, words) in [
        ("/nowhere/bench.json", "cannot be read"),
        (newer.as_str(), "has the form 2"),
        (&other, "is no result of `bench-client bench`"),
        (&half, "is no result of `bench-client bench`"),
        (&empty, "missing field"),
    ] {
        for pair in [[&good, file], [file, &good]] {
            let output = bench(&["diff", pair[0], pair[1]]);
            assert_eq!(code(&output), 2, "{}", text(&output));
            assert!(text(&output).contains(words) && text(&output).contains(file), "{}", text(&output));
        }
    }
    assert_eq!(code(&bench(&["diff", &good])), 64);
}

#[test]
fn a_server_whose_runs_all_failed_got_worse() {
    let mut failed = measured().clone();
    let results = failed["results"].as_array_mut().expect("results");
    for result in results.iter_mut().filter(|result| result["target"] == "weir") {
        result["valid_rounds"] = json!(0);
        for number in ["server_cpu_ns_per_message", "server_cpu_ns_per_connection", "ratio_to_limit", "latency_us", "rate_per_s"]
        {
            result[number] = Value::Null;
        }
    }
    let (status, words) = diff(measured(), &failed, &[]);
    assert_eq!(status, 1, "{words}");
    assert!(words.contains("WORSE: no run was valid in the second") && words.contains("2 got worse"), "{words}");
}

#[test]
fn loops_alone_are_no_comparison_of_servers() {
    let mut loops = measured().clone();
    loops["results"].as_array_mut().expect("results").retain(|result| result["target"] != "weir");
    for (before, after) in [(measured(), &loops), (&loops, measured())] {
        let (status, words) = diff(before, after, &[]);
        assert_eq!(status, 2, "{words}");
        assert!(words.contains("no server in common, only the bare loops"), "{words}");
    }
    assert_eq!(diff(&loops, &loops, &[]).0, 0);
}
