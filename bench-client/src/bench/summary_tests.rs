//! What is concluded from many runs.
#![forbid(unsafe_code)]

use serde_json::json;

use super::*;

const SIZE: Size = Size { connections: 100, active: 20, members: 30, logins: 40 };

fn run(round: u32, ns: f64) -> Run {
    let report = json!({
        "valid": true, "sent": 10, "expected": 10, "received": 10, "lost": 0, "rate_per_s": 5.0, "client_cpu_cores": 0.5,
        "latency_us": { "p50": 100, "p99": 200, "p999": 300 }, "invalid_reasons": [],
        "server": { "cpu_ns_per_message": ns, "cpu_ns_per_connection": ns * 10.0, "user_bytes_per_connection": 99.0 },
    });
    Run { round, exit_status: Some(0), report: Some(report), ..Run::default() }
}

fn outcome(runs: Vec<Run>, limit: &[Run]) -> Outcome {
    let echo = [run(1, 50.0)];
    Outcome::new(CaseName::Route16, TargetName::WeirEpoll, &SIZE, runs, Loops { limit, echo: &echo })
}

#[test]
fn the_median_is_the_middle_one_or_between_the_two_middle_ones() {
    assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
    assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
    assert_eq!(Spread::of([]), None);
}

#[test]
fn ratios_are_taken_in_each_round() {
    // A machine that gets slower over the rounds: each ratio is 2, that of the medians is another.
    let limit = [run(1, 100.0), run(2, 200.0), run(3, 900.0)];
    let outcome = outcome(vec![run(1, 200.0), run(2, 400.0), run(3, 1_800.0)], &limit);
    assert_eq!(outcome.ratio_to_limit, Some(Spread { median: 2.0, min: 2.0, max: 2.0 }));
    assert_eq!(outcome.ratio_to_echo.map(|ratio| ratio.median), Some(4.0), "it was there in one round");
    assert_eq!(outcome.server_cpu_ns_per_message, Some(Spread { median: 400.0, min: 200.0, max: 1_800.0 }));
    assert_eq!((outcome.server_cpu_ns_per_connection, outcome.user_bytes_per_connection), (None, None));
    assert_eq!((outcome.depth, outcome.window, outcome.shards), (Some(16), None, Some(1)));
    assert_eq!((exit_code(std::slice::from_ref(&outcome)), outcome.target_name()), (0, "weir-epoll".into()));
}

#[test]
fn logins_are_measured_by_connection() {
    let limit = [run(1, 10.0)];
    let outcome =
        Outcome::new(CaseName::Connect, TargetName::Nats, &SIZE, vec![run(1, 30.0)], Loops { limit: &limit, echo: &[] });
    assert_eq!(outcome.server_cpu_ns_per_message, None);
    assert_eq!(outcome.server_cpu_ns_per_connection.map(|cpu| cpu.median), Some(300.0));
    assert_eq!(outcome.user_bytes_per_connection.map(|bytes| bytes.median), Some(99.0));
    assert_eq!((outcome.ratio_to_limit.map(|ratio| ratio.median), outcome.ratio_to_echo), (Some(3.0), None));
    assert_eq!((outcome.connections, outcome.reactor, outcome.target_name()), (40, None, "nats".into()));
}

#[test]
fn what_went_wrong_is_told_and_kept_and_counts_in_no_median() {
    let lost = |mut run: Run| {
        let report = run.report.as_mut().expect("a report");
        (report["lost"], report["received"], report["valid"]) = (3.into(), 7.into(), false.into());
        run.exit_status = Some(1);
        run
    };
    let invalid = |mut run: Run| {
        let report = run.report.as_mut().expect("a report");
        (report["invalid_reasons"], report["valid"]) = (json!(["5 of 10 clients could not log in"]), false.into());
        run.exit_status = Some(2);
        run
    };
    let failed = Run { round: 3, failure: Some("it did not start".into()), ..Run::default() };
    let limit = [run(1, 100.0), invalid(run(2, 1.0)), run(3, 100.0), run(4, 100.0)];
    let outcome = outcome(vec![lost(run(1, 9e9)), run(2, 150.0), failed, run(4, 250.0)], &limit);
    assert_eq!((outcome.rounds, outcome.valid_rounds, outcome.runs.len()), (4, 2, 4));
    assert_eq!(outcome.server_cpu_ns_per_message, Some(Spread { median: 200.0, min: 150.0, max: 250.0 }));
    // The loop of the second round is no measure either.
    assert_eq!(outcome.ratio_to_limit, Some(Spread { median: 2.5, min: 2.5, max: 2.5 }));
    assert_eq!((outcome.counts.lost, outcome.counts.received, outcome.counts.expected), (3, 27, 30));
    assert_eq!(outcome.problems, ["round 1: 3 of 10 deliveries lost", "round 3: it did not start"]);
    let of_loop =
        Outcome::new(CaseName::Route16, TargetName::LimitUring, &SIZE, limit.to_vec(), Loops { limit: &limit, echo: &[] });
    assert_eq!(of_loop.problems, ["round 2: 5 of 10 clients could not log in"]);
    assert_eq!((exit_code(std::slice::from_ref(&of_loop)), exit_code(&[of_loop, outcome])), (2, 1));
}
