//! The result for a reader: a line for each run while they go on, and a table for each scenario at the end.
#![forbid(unsafe_code)]

use super::summary::{Outcome, Run, Spread};
use crate::{
    args::{CaseName, TargetName},
    table::{grouped, micros},
};

/// Tells how a run went, on standard error.
pub(super) fn tell(round: u32, rounds: u32, case: CaseName, target: TargetName, run: &Run) {
    let cpu = ["/server/cpu_ns_per_message", "/server/cpu_ns_per_connection"].iter().find_map(|path| run.number(path));
    let words = match (run.is_valid(), cpu) {
        (true, Some(cpu)) => format!("{} ns", grouped(cpu as u64)),
        (true, None) => "no CPU was measured".to_owned(),
        (false, _) => run.failure.clone().unwrap_or_else(|| "NOT VALID, the result says why".to_owned()),
    };
    eprintln!("round {round} of {rounds}  {:<19}{:<14}{words}", case.name(), target.name());
}

/// Prints all tables.
pub(super) fn print(outcomes: &[Outcome]) {
    let mut last = None;
    for outcome in outcomes {
        if last != Some(&outcome.scenario) {
            let unit = if outcome.server_cpu_ns_per_connection.is_some() { "login" } else { "delivery" };
            say!("\n{}: {}", outcome.scenario, outcome.title);
            say!(
                "  {:<14}{:>32}{:>22}{:>22}{:>12}{:>12}",
                "",
                format!("server CPU per {unit}, ns"),
                "times the limit",
                if outcome.ratio_to_echo.is_some() { "times the echo" } else { "" },
                if unit == "login" { "B each" } else { "p50" },
                if unit == "login" { "logins/s" } else { "p99" }
            );
            last = Some(&outcome.scenario);
        }
        print_row(outcome);
    }
    let problems = outcomes.iter().flat_map(|outcome| outcome.problems.iter().map(move |problem| (outcome, problem)));
    for (at, (outcome, problem)) in problems.enumerate() {
        if at == 0 {
            say!("\nNot all runs are valid; these are in no number above:");
        }
        say!("  {} {}, {problem}", outcome.scenario, outcome.target_name());
    }
}

fn print_row(outcome: &Outcome) {
    let cpu = outcome.cpu().map_or_else(|| "–".to_owned(), |cpu| spread(&cpu, |ns| grouped(ns.round() as u64)));
    let ratio = |ratio: Option<Spread>| ratio.map(|ratio| spread(&ratio, |ratio| format!("{ratio:.2}")));
    let (limit, echo) = (ratio(outcome.ratio_to_limit), ratio(outcome.ratio_to_echo));
    let [limit, echo] = [limit.unwrap_or_else(|| "–".to_owned()), echo.unwrap_or_default()];
    let [first, second] = match (&outcome.latency_us, &outcome.user_bytes_per_connection, &outcome.rate_per_s) {
        (Some(latency), _, _) => [latency.p50, latency.p99].map(|spread| micros(spread.median as u64)),
        (None, Some(bytes), Some(rate)) => [format!("{:.0}", bytes.median), grouped(rate.median as u64)],
        (None, _, _) => ["–".to_owned(), "–".to_owned()],
    };
    say!("  {:<14}{cpu:>32}{limit:>22}{echo:>22}{first:>12}{second:>12}", outcome.target_name());
}

/// The median, and the range behind it.
pub(super) fn spread(spread: &Spread, number: impl Fn(f64) -> String) -> String {
    format!("{} [{}, {}]", number(spread.median), number(spread.min), number(spread.max))
}
