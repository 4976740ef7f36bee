//! Results of whole runs in memory: as documented, and judged as they should be.
#![forbid(unsafe_code)]

use std::time::Duration;

use weir::{io::Tick, reactor::Kind};

use super::*;
use crate::{
    durable::{LineFaults, Receiving},
    fleet::{Outcome, Tally, count_cause},
    measure::MemoryGrowth,
    plan::example,
    run::{Leg, ServerUse},
    scenario::{
        FaultyChannel,
        mail::{Mail, Sending},
        storm::StormConfig,
    },
    stall::Owed,
};

#[path = "../tests/schema/mod.rs"]
mod schema;

fn config(scenario: &'static str) -> RunConfig {
    RunConfig {
        scenario,
        kind: Kind::Epoll,
        drain: Duration::from_secs(1),
        server_pid: None,
        leg: Leg {
            duration: Duration::from_secs(2),
            owed: Owed { deliveries_per_message: 1, ..Owed::default() },
            ends_when_done: false,
        },
        later: Vec::new(),
        goes_on_without_all: false,
    }
}

/// What came of a run, and what the books said.
struct Run {
    finished: Finished,
    settled: Settled,
}

/// A clean run of 1,000 messages, each of which took 200 µs and was sent 50 µs late.
fn run() -> Run {
    Run { finished: finished(), settled: Settled { expected: 1_000, ..Settled::default() } }
}

fn finished() -> Finished {
    let mut outcome = Outcome::new();
    outcome.tally = Tally { ready: 10, sent: 1_000, received: 1_000, received_in_phase: 900, ..Tally::default() };
    outcome.latency_us.record_n(200, 1_000).expect("in bounds");
    outcome.lag_us.record_n(50, 1_000).expect("in bounds");
    outcome.turn_lag_us.record_n(50, 1_000).expect("in bounds");
    Finished {
        outcome,
        ledgers: Vec::new(),
        started: Tick(0),
        sending_from: Some(Tick(0)),
        ramp: Duration::from_millis(20),
        phase: Duration::from_secs(2),
        legs: Vec::new(),
        memory: MemoryGrowth::default(),
        client_cpu_cores: 0.5,
        server: None,
        server_version: None,
        reasons: Vec::new(),
    }
}

fn report(load: Load, run: &Run) -> Report {
    Report::new(&example(10, 2), &config("route"), load, &run.finished, &run.settled)
}

/// The same of durable messages.
fn report_of_durable(run: &Run) -> Report {
    report_of("route", closed(), run)
}

fn report_of(scenario: &'static str, load: Load, run: &Run) -> Report {
    let receiving = Receiving { window: 256, ack_every: 32, ack_after_us: 50_000 };
    let plan = Plan { receiving: Some(receiving), ..example(10, 2) };
    let mut config = config(scenario);
    config.leg.owed.answers = true;
    Report::new(&plan, &config, load, &run.finished, &run.settled)
}

fn closed() -> Load {
    Load { pattern: Some("pairs"), depth: Some(1), ..Load::default() }
}

fn open() -> Load {
    Load { pattern: Some("pairs"), planned_rate_per_s: Some(500.0), ..Load::default() }
}

#[test]
fn a_clean_run_is_valid() {
    let report = report(closed(), &run());
    assert!(report.valid);
    assert_eq!((report.exit_code(), report.rate_per_s, report.connects_per_s), (0, 450.0, 500.0));
    let latency = report.latency_us.expect("messages came");
    assert_eq!((latency.p50, latency.max), (200, 200));
}

#[test]
fn every_fault_ends_in_1() {
    let faults: [fn(&mut Run); 6] = [
        |run| run.settled.lost = 1,
        |run| run.settled.contradicted = 1,
        |run| run.finished.outcome.tally.duplicated = 1,
        |run| run.finished.outcome.tally.reordered = 1,
        |run| run.finished.outcome.tally.misdelivered = 1,
        |run| run.finished.outcome.tally.corrupted = 1,
    ];
    for fault in faults {
        let mut run = run();
        fault(&mut run);
        for report in [report(closed(), &run), report_of_durable(&run)] {
            assert_eq!((report.exit_code(), report.valid), (1, false));
        }
    }
}

#[test]
fn every_fault_of_durable_messages_ends_in_1() {
    let faults: [fn(&mut Run); 11] = [
        |run| run.settled.reordered = 1,
        |run| run.settled.renumbered = 1,
        |run| run.settled.lost_sequences = 1,
        |run| run.finished.outcome.tally.durable.duplicated = 1,
        |run| run.finished.outcome.tally.durable.reordered = 1,
        |run| run.finished.outcome.tally.durable.unanswered = 1,
        |run| run.finished.outcome.tally.durable.misanswered = 1,
        |run| run.finished.outcome.tally.durable.back_in_time = 1,
        |run| run.finished.outcome.tally.durable.wrong_cursors = 1,
        |run| run.finished.outcome.tally.durable.refused_acknowledgements = 1,
        |run| run.finished.outcome.tally.reordered = 1,
    ];
    for fault in faults {
        let mut run = run();
        fault(&mut run);
        let report = report_of_durable(&run);
        assert_eq!((report.exit_code(), report.valid), (1, false));
    }
}

#[test]
fn what_durable_messages_allow_is_no_fault() {
    let mut run = run();
    let durable = &mut run.finished.outcome.tally.durable;
    (durable.repeated, durable.resent, durable.accepted_before, durable.leftovers, durable.gaps) = (5, 4, 3, 2, 1);
    assert_eq!(report_of_durable(&run).exit_code(), 0);
    // What retention removed is no loss, but not what was asked for either.
    run.settled.gone = 7;
    let report = report_of_durable(&run);
    assert_eq!(report.exit_code(), 2);
    assert!(report.invalid_reasons[0].contains("7 messages were older"), "{:?}", report.invalid_reasons);
}

#[test]
fn what_is_no_fault_of_the_gateway_ends_in_2_with_the_reason() {
    type Spoil = fn(&mut Finished);
    let settled = run().settled;
    let spoilers: [(Spoil, &str); 5] = [
        (|finished| finished.outcome.tally.failed = 2, "2 of 10 clients could not log in"),
        (|finished| finished.outcome.tally.dropped = 3, "3 connections ended before they should"),
        (|finished| finished.outcome.tally.refused = 4, "refused 4 of 1000 messages"),
        (|finished| finished.outcome.tally.is_backlogged = true, "the queue of this client was full"),
        (|finished| finished.reasons.push("interrupted after 1 s".into()), "interrupted"),
    ];
    for (spoil, words) in spoilers {
        let mut run = Run { finished: finished(), settled: settled.clone() };
        spoil(&mut run.finished);
        let report = report(closed(), &run);
        assert_eq!((report.exit_code(), report.valid), (2, false));
        assert!(report.invalid_reasons[0].contains(words), "{:?}", report.invalid_reasons);
    }
}

#[test]
fn a_late_client_calls_its_own_open_loop_invalid() {
    assert_eq!(report(open(), &run()).exit_code(), 0);
    let mut late = run();
    late.finished.outcome.lag_us.record_n(1_500, 20).expect("in bounds");
    let report_of_late = report(open(), &late);
    assert_eq!(report_of_late.exit_code(), 2);
    assert!(report_of_late.invalid_reasons[0].contains("this client was the bottleneck"));
    // The closed loop has no schedule to be late for.
    assert_eq!(report(closed(), &late).exit_code(), 0);
}

#[test]
fn a_worker_that_only_receives_late_makes_the_open_loop_invalid() {
    let mut late = run();
    late.finished.outcome.turn_lag_us.record_n(1_500, 20).expect("in bounds");
    let late = report(open(), &late);
    assert_eq!(late.exit_code(), 2);
    assert!(late.invalid_reasons[0].contains("1 % of its turns"), "{:?}", late.invalid_reasons);
}

#[test]
fn a_few_very_late_sends_count_unless_they_are_small_beside_the_latency() {
    // 9 of 1,009: the 99th percentile knows nothing of them.
    let late_by = |us: u64, latency_us: u64| {
        let mut late = run();
        late.finished.outcome.lag_us.record_n(us, 9).expect("in bounds");
        late.finished.outcome.latency_us.record_n(latency_us, 9).expect("in bounds");
        report(open(), &late)
    };
    assert_eq!(late_by(9_000, 9_000).exit_code(), 0);
    let late = late_by(2_000_000, 2_000_000);
    assert_eq!(late.exit_code(), 2);
    assert!(late.invalid_reasons[0].contains("0.1 % of its sends"), "{:?}", late.invalid_reasons);
    assert_eq!(late_by(20_000, 190_000).exit_code(), 2);
    assert_eq!(late_by(20_000, 210_000).exit_code(), 0);
}

#[test]
fn results_are_as_documented() {
    let json = |report: &Report| serde_json::to_value(report).expect("JSON");
    schema::check(&json(&report(closed(), &run())), schema::Made::default());
    schema::check(&json(&report(open(), &run())), schema::Made { open_loop: true, ..Default::default() });

    let mut busy_run = run();
    let busy = &mut busy_run.finished;
    busy.server = Some(ServerUse {
        cpu: Duration::from_millis(4),
        cpu_of_ramp: Duration::from_micros(200),
        cpu_since_start: Duration::ZERO,
        cpu_cores: 0.1,
        grown_bytes: -4_096,
    });
    busy.outcome.rtt_us.record(90).expect("in bounds");
    busy.outcome.tally.refused = 1;
    count_cause(&mut busy.outcome.refusals, "RATE_EXCEEDED", "too fast");
    count_cause(&mut busy.outcome.endings, "SUPERSEDED", "another one came");
    let busy = report(closed(), &busy_run);
    assert_eq!(
        busy.server.map(|server| (server.cpu_ns_per_message, server.cpu_ns_per_connection, server.user_bytes_per_connection)),
        Some((Some(4_000.0), Some(20_000.0), -409.6))
    );
    schema::check(&json(&busy), schema::Made { server_pid: true, ..Default::default() });
    assert!(busy.invalid_reasons[0].contains("--limits-frames-per-second"), "{:?}", busy.invalid_reasons);

    let mut durable = busy_run;
    let outcome = &mut durable.finished.outcome;
    (outcome.tally.durable.accepted, outcome.tally.durable.accepted_in_phase, outcome.durability) = (1_000, 800, Some(2));
    outcome.accepted_us.record_n(700, 1_000).expect("in bounds");
    let faults = LineFaults { duplicated: 1, reordered: 2 };
    durable.settled.faulty.push(FaultyChannel { name: "user/b7".into(), lost: 3, faults });
    let durable = report_of_durable(&durable);
    let told = durable.durable.as_ref().expect("it is durable");
    assert_eq!((told.durability, told.accepted_per_s, told.accepted_us.map(|us| us.p99)), (Some("fsync"), 400.0, Some(700)));
    assert_eq!(durable.server.map(|server| server.cpu_ns_per_accepted), Some(Some(Some(4_000.0))));
    schema::check(&json(&durable), schema::Made { server_pid: true, durable: true, ..Default::default() });

    let offline = Load { depth: Some(4), offline: Some(OfflineReport::default()), ..Load::default() };
    let outcome = Outcome::new();
    let config = StormConfig {
        mail: Mail { senders: 1, receivers: 0, groups: 0 },
        sending: Sending { each: None, depth: 1, rate: None },
        drop_after_us: 1,
        jitter_ms: 1,
    };
    let storm = Load { depth: Some(4), storm: Some(StormReport::new(&config, &outcome)), ..Load::default() };
    for (scenario, load) in [("offline", offline), ("storm", storm)] {
        let report = report_of(scenario, load, &run());
        schema::check(&json(&report), schema::Made { durable: true, ..Default::default() });
    }

    let nothing = Run { finished: Finished { outcome: Outcome::new(), ..finished() }, settled: Settled::default() };
    schema::check(&json(&report(open(), &nothing)), schema::Made { open_loop: true, ..Default::default() });
    schema::check(&json(&report_of_durable(&nothing)), schema::Made { durable: true, ..Default::default() });
}

#[test]
fn who_was_asked_to_come_back_and_did_is_forgiven() {
    let mut run = run();
    (run.finished.outcome.tally.dropped, run.finished.outcome.tally.returned) = (8, 8);
    let reconnecting = Load { reconnects: true, ..closed() };
    assert_eq!(report_of("route", reconnecting.clone(), &run).exit_code(), 0);
    assert_eq!(report_of("route", closed(), &run).exit_code(), 2);
    run.finished.outcome.tally.returned = 7;
    assert_eq!(report_of("route", reconnecting, &run).exit_code(), 2);
}

#[test]
fn a_storm_is_judged_by_who_came_back_and_not_by_the_lag() {
    let storm = |returned: u64| {
        let mut run = run();
        run.finished.outcome.lag_us.record_n(900_000, 500).expect("in bounds");
        run.finished.outcome.return_us.record_n(250_000, returned).expect("in bounds");
        let config = StormConfig {
            mail: Mail { senders: 2, receivers: 8, groups: 0 },
            sending: Sending { each: None, depth: 1, rate: Some(500.0) },
            drop_after_us: 1_000_000,
            jitter_ms: 100,
        };
        let storm = StormReport::new(&config, &run.finished.outcome);
        report_of("storm", Load { planned_rate_per_s: Some(500.0), storm: Some(storm), ..Load::default() }, &run)
    };
    let (all, some) = (storm(8), storm(7));
    assert_eq!((all.exit_code(), some.exit_code()), (0, 2));
    assert!(some.invalid_reasons[0].contains("1 of 8 clients did not drop and come back"), "{:?}", some.invalid_reasons);
    assert!((31.9..=32.1).contains(&all.load.storm.expect("a storm").logins_per_s));
}

#[test]
fn secrets_stay_out_of_the_command() {
    let args = ["/some/where/bench-client", "route", "--token", "abc", "--hs256-secret=def", "--depth", "2"];
    let command = host::command_line(args.iter().map(|arg| (*arg).to_owned()));
    assert_eq!(command, "bench-client route --token … --hs256-secret=… --depth 2");
}
