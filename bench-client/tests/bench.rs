//! `bench` by the real program: few clients, short runs, one round.
#![forbid(unsafe_code)]

mod harness;
mod schema;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use harness::{bench, code, program::weir, text};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use schema::Made;
use serde_json::Value;

const SMALL: &str = "--rounds 1 --duration 300ms --connections 40 --active 20 --members 30 --logins 100";

/// Small, but for what is asked for otherwise.
fn small<'a>(args: &[&'a str]) -> Vec<&'a str> {
    let defaults = SMALL.split(' ').collect::<Vec<_>>();
    let weir = ["--weir", weir().to_str().expect("text")];
    let options = defaults.chunks(2).chain([&weir[..]]).filter(|option| !args.contains(&option[0]));
    ["bench"].iter().chain(options.flatten()).chain(args).copied().collect()
}

/// Runs `bench` in a folder of its own, and gives its exit status, its result and its words.
fn measured(folder: &Path, args: &[&str]) -> (i32, Value, String) {
    let json = folder.join("bench.json");
    let html = folder.join("bench.html");
    let files = ["--json", json.to_str().expect("text"), "--html", html.to_str().expect("text")];
    let output = bench(&small(&[&files, args].concat()));
    let object = serde_json::from_str(&fs::read_to_string(&json).expect("the result")).expect("JSON");
    (code(&output), object, text(&output))
}

fn results(object: &Value) -> &Vec<Value> {
    object["results"].as_array().expect("results")
}

fn number(result: &Value, path: &str) -> f64 {
    result.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} of {result:#}"))
}

#[test]
fn every_scenario_is_measured_by_turns_and_the_result_is_as_documented() {
    let folder = tempfile::tempdir().expect("a folder");
    let scenarios = ["route-1", "route-16", "route-1-across", "fanout-16", "fanout-64", "connect"];
    let only = scenarios.join(",");
    let (code, object, words) = measured(folder.path(), &["--targets", "limit-uring,weir-uring,weir-epoll", "--only", &only]);
    assert_eq!(code, 0, "{words}");
    schema::check(&object, Made::default());
    let all = results(&object);
    let targets = [("limit", "uring"), ("weir", "uring"), ("weir", "epoll")];
    let wanted = scenarios.iter().flat_map(|scenario| targets.map(|(target, reactor)| [*scenario, target, reactor]));
    let found = all.iter().map(|result| ["scenario", "target", "reactor"].map(|field| result[field].as_str().expect("text")));
    assert_eq!(found.collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
    for result in all {
        let is_connect = result["scenario"] == "connect";
        let cpu = if is_connect { "/server_cpu_ns_per_connection" } else { "/server_cpu_ns_per_message" };
        assert!(number(result, &format!("{cpu}/median")) > 10.0, "{result:#}");
        assert_eq!(number(result, &format!("{cpu}/min")), number(result, &format!("{cpu}/max")));
        assert_eq!((&result["problems"], &result["valid_rounds"]), (&Value::Array(Vec::new()), &Value::from(1)));
        assert_eq!((result["user_bytes_per_connection"].is_null(), result["latency_us"].is_null()), (!is_connect, is_connect));
        let of_loop = all.iter().find(|other| other["scenario"] == result["scenario"]).expect("the loop is the first");
        let ratio = number(result, &format!("{cpu}/median")) / number(of_loop, &format!("{cpu}/median"));
        assert!((number(result, "/ratio_to_limit/median") - ratio).abs() < 1e-9, "{result:#}");
        let report = &result["runs"][0]["report"];
        schema::check(report, Made { server_pid: true, timeline: !is_connect, ..Made::default() });
        assert_eq!((&report["target"], &report["workers"]), (&result["target"], &Value::from(1)));
        assert!(report["host"]["command"].as_str().is_some_and(|command| !command.contains("secret")), "{report:#}");
        assert_eq!(report["received"], result["counts"]["received"]);
        if result["target"] == "weir" && report["scenario"] == "route" {
            let pattern = if result["scenario"] == "route-1-across" { "across" } else { "pairs" };
            assert_eq!(report["pattern"], pattern, "{report:#}");
        }
    }
    // The server of two shards was one.
    for (scenario, shards) in [("route-1", 1), ("route-1-across", 2)] {
        let found = all.iter().filter(|result| result["scenario"] == scenario).map(|result| result["shards"].as_u64());
        assert_eq!(found.collect::<Vec<_>>(), [None, Some(shards), Some(shards)], "{scenario}");
    }
    let page = fs::read_to_string(folder.path().join("bench.html")).expect("the page");
    let held = page.split("id=\"data\">").nth(1).and_then(|rest| rest.split("</script>").next()).expect("the result is in it");
    assert_eq!(serde_json::from_str::<Value>(held).expect("JSON"), object);
    assert!(words.contains("server CPU per delivery, ns") && words.contains("server CPU per login, ns"), "{words}");
}

#[test]
fn a_schedule_leaves_room_below_what_the_server_reached() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, object, words) =
        measured(folder.path(), &["--targets", "limit-uring,limit-epoll,echo-uring,weir-epoll", "--only", "route-70"]);
    schema::check(&object, Made::default());
    let [result] = &results(&object)[..] else { panic!("loops have no such run: {object:#}") };
    let Some(knee) = result["runs"][0]["knee_per_s"].as_f64() else {
        // A machine that runs other tests may be late for any schedule.
        assert!(code == 2 && words.contains("this machine is too busy"), "{code}: {words}");
        return;
    };
    assert!(knee > 100.0, "{knee}");
    let report = &result["runs"][0]["report"];
    schema::check(report, Made { server_pid: true, timeline: true, open_loop: true, ..Made::default() });
    assert!((number(report, "/planned_rate_per_s") - 0.7 * knee).abs() < 1.0, "{report:#}");
    assert_eq!((&report["depth"], &report["lost"], &report["duplicated"]), (&Value::Null, &0.into(), &0.into()));
    assert_eq!(result["ratio_to_limit"], Value::Null);
    // The same.
    assert!(code == 0 || code == 2 && words.contains("this client was the bottleneck"), "{code}: {words}");
}

#[test]
fn rounds_go_back_and_forth_and_what_is_not_there_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, object, words) = measured(folder.path(), &["--rounds", "2", "--only", "route-16"]);
    assert_eq!(code, 0, "{words}");
    schema::check(&object, Made::default());
    let places = |result: &Value| [0, 1].map(|run| result["runs"][run]["place"].as_u64().expect("a number"));
    let all = results(&object);
    let count = all.len() as u64;
    for (at, result) in (1..).zip(all) {
        assert_eq!(places(result), [at, 2 * count + 1 - at], "{result:#}");
    }
    let missing = object["not_measured"].as_array().expect("a list");
    assert_eq!(missing.len() + all.len(), 8, "each of the known servers is in one of the lists: {words}");
    for missing in missing {
        let (target, reason) = (missing["target"].as_str().expect("text"), missing["reason"].as_str().expect("text"));
        assert!(words.contains(&format!("without {target}: {reason}")), "{words}");
        let advice = match target {
            "nats" | "mqtt" => "type: make peers",
            "weir-glommio" => "--features glommio",
            "limit-uring" | "echo-uring" | "weir-uring" => "io_uring",
            other => panic!("{other} is everywhere"),
        };
        assert!(reason.contains(advice), "{reason}");
    }
}

#[test]
fn a_run_that_fails_is_told_and_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let false_weir = folder.path().join("weir");
    let script = "#!/bin/sh\ntrap 'exit 0' TERM\necho 'weir: listening on 127.0.0.1:1'\nwhile :; do sleep 0.05; done\n";
    fs::write(&false_weir, script).expect("written");
    fs::set_permissions(&false_weir, fs::Permissions::from_mode(0o755)).expect("allowed");
    let args = ["--targets", "limit-epoll,weir-epoll", "--only", "route-1", "--weir", false_weir.to_str().expect("text")];
    let (code, object, words) = measured(folder.path(), &args);
    assert_eq!(code, 2, "{words}");
    schema::check(&object, Made::default());
    let [of_loop, of_weir] = &results(&object)[..] else { panic!("two results: {object:#}") };
    assert_eq!(
        (&of_loop["valid_rounds"], &of_loop["ratio_to_limit"]),
        (&1.into(), &Value::Null),
        "it is not the one on io_uring"
    );
    assert_eq!((&of_weir["rounds"], &of_weir["valid_rounds"]), (&1.into(), &0.into()));
    assert_eq!((&of_weir["server_cpu_ns_per_message"], &of_weir["runs"][0]["report"]), (&Value::Null, &Value::Null));
    let problem = of_weir["problems"][0].as_str().expect("a problem");
    assert!(problem.starts_with("round 1: ") && problem.contains("cannot connect to 127.0.0.1:1"), "{problem}");
    assert!(words.contains(problem), "{words}");
}

#[test]
fn what_cannot_be_measured_is_refused_with_the_reason() {
    for (args, status, words) in [
        (&["--active", "41"][..], 64, "--active 41 is more than"),
        (&["--rounds", "0"], 64, "1..="),
        (&["--only", "dance"], 64, "route-1-across"),
        (&["--targets", "rabbit"], 64, "limit-uring"),
        (&["--logins", "1000000", "--targets", "limit-epoll"], 64, "ulimit -Hn"),
        (&["--targets", "weir-glommio", "--weir", "/bin/false"], 2, "weir-glommio cannot be measured: the gateway did not start"),
        (&["--targets", "weir-epoll", "--weir", "/nowhere/weir"], 2, "cannot be started"),
    ] {
        let output = bench(&small(&[&["--json", "/dev/null", "--html", "/dev/null"], args].concat()));
        assert_eq!(code(&output), status, "{args:?}: {}", text(&output));
        assert!(text(&output).contains(words), "{args:?}: {}", text(&output));
    }
}

#[test]
fn an_interrupted_bench_leaves_no_server_behind() {
    let weir = weir().to_str().expect("text");
    let mut program = Command::new(env!("CARGO_BIN_EXE_bench-client"));
    program.args([
        "bench",
        "--json",
        "/dev/null",
        "--html",
        "/dev/null",
        "--targets",
        "weir-epoll",
        "--only",
        "route-1",
        "--duration",
        "30s",
    ]);
    program.args(["--connections", "40", "--active", "20", "--weir", weir]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut program = program.spawn().expect("it starts");
    let children = || -> Vec<String> {
        let path = format!("/proc/{0}/task/{0}/children", program.id());
        fs::read_to_string(path).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while children().len() < 2 {
        assert!(Instant::now() < deadline, "server and load run");
        thread::sleep(Duration::from_millis(10));
    }
    let children = children();
    kill(Pid::from_raw(program.id() as i32), Signal::SIGTERM).expect("it runs");
    assert_eq!(program.wait().expect("a child").code(), Some(2));
    for child in children {
        assert!(!Path::new("/proc").join(&child).exists(), "{child} is still there");
    }
}
