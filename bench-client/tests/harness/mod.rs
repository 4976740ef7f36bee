//! Runs of the real program.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "each program of tests uses a part of this folder")]
pub(crate) mod gateway;
#[allow(dead_code, reason = "each program of tests uses a part of this folder")]
pub(crate) mod program;

use std::{
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// Runs bench-client; a run that does not end in time is ended.
pub(crate) fn bench(args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_bench-client");
    let mut command = Command::new(program);
    // Meant for a gateway of the user's own, which would not start with it. Those that bench-client starts do.
    command.args(args).env("WEIR_SHARDS", "none").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let deadline = Instant::now() + Duration::from_secs(180);
    while child.try_wait().expect("a child").is_none() {
        if Instant::now() > deadline {
            child.kill().expect("a child");
            panic!("bench-client {args:?} did not end: {:?}", child.wait_with_output());
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().expect("a child")
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs bench-client, and gives its exit status and its result.
pub(crate) fn measured(args: &[&str]) -> (i32, Value) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("text");
    let output = bench(&[args, &["--json", path]].concat());
    let json = std::fs::read_to_string(path).expect("the result");
    let object = serde_json::from_str(&json).unwrap_or_else(|cause| panic!("{cause}: {}", text(&output)));
    (code(&output), object)
}

/// The same against a target.
#[allow(dead_code, reason = "each program of tests uses a part of this file")]
pub(crate) fn result(target: &str, args: &[&str]) -> (i32, Value) {
    measured(&[args, &["--target", target]].concat())
}

#[allow(dead_code, reason = "each program of tests uses a part of this file")]
pub(crate) fn assert_exact(object: &Value) {
    assert_eq!(object["valid"], true, "{object:#}");
    assert_eq!(object["received"], object["expected"]);
    for fault in ["lost", "duplicated", "reordered", "misdelivered", "corrupted", "refused"] {
        assert_eq!(object[fault], 0, "{fault}");
    }
}
