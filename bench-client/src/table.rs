//! The result for a reader: a table on standard output.
#![forbid(unsafe_code)]

use crate::{
    measure::Percentiles,
    report::{DurableReport, Report},
};

/// A number with its thousands set apart.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Microseconds, in the unit that suits them.
pub(crate) fn micros(us: u64) -> String {
    match us {
        0..10_000 => format!("{us} µs"),
        10_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

/// The lines of a table, each a label and its text.
pub(crate) fn rows(report: &Report) -> Vec<(String, String)> {
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut row = |label: &str, text: String| rows.push((label.to_owned(), text));
    row(
        "target",
        format!(
            "{} ({} connections, {} workers, {})",
            report.server_name(),
            grouped(report.connections.into()),
            report.workers,
            report.host.reactor
        ),
    );
    if let Some(limit) = &report.load.limit {
        let parked = if limit.counts.parked > 0 {
            format!(", {} receives waited for a buffer", grouped(limit.counts.parked))
        } else {
            String::new()
        };
        row("loop", format!("{} on core {}, {} turns{parked}", limit.reactor, limit.core, grouped(limit.counts.turns)));
    }
    let ceiling = report.load.max_connects_per_s.map_or(String::new(), |max| format!(", of {} at most", grouped(max as u64)));
    row("connected", format!("{} per second{ceiling}", grouped(report.connects_per_s as u64)));
    if report.failed_connects + report.retried_connects + report.dropped_connections > 0 {
        let (failed, retried, dropped) = (report.failed_connects, report.retried_connects, report.dropped_connections);
        row("connections", format!("{failed} failed, {retried} attempts repeated, {dropped} dropped"));
    }
    if report.heartbeats.sent > 0 {
        let (sent, answered) = (grouped(report.heartbeats.sent), grouped(report.heartbeats.answered));
        let rtt =
            report.heartbeats.rtt_us.map_or(String::new(), |rtt| format!(", p50 {}, p99 {}", micros(rtt.p50), micros(rtt.p99)));
        row("heartbeats", format!("{sent} sent, {answered} answered{rtt}"));
    }
    if report.sent > 0 {
        let bytes = report.bytes_per_send.map_or(String::new(), |bytes| format!(" of {bytes:.0} bytes"));
        row("sent", format!("{} messages{bytes} in {:.1} s", grouped(report.sent), report.duration_s));
        row(
            "received",
            format!(
                "{} of {} deliveries, {} per second",
                grouped(report.received),
                grouped(report.expected),
                grouped(report.rate_per_s as u64)
            ),
        );
        // Rare enough to be told only where it happened.
        let contradicted = match report.contradicted {
            0 => String::new(),
            count => format!(", {count} refused and yet delivered"),
        };
        row(
            "faults",
            format!(
                "{} lost, {} duplicated, {} reordered, {} misdelivered, {} corrupted{contradicted}",
                report.lost, report.duplicated, report.reordered, report.misdelivered, report.corrupted
            ),
        );
    }
    if let Some(durable) = &report.durable {
        durable_rows(durable, &mut row);
        // Those that were for good make the run not valid, and are told there.
        let refusals = report.refusals.iter().map(|(code, cause)| format!("{} × {code}", grouped(cause.count)));
        if !report.refusals.is_empty() {
            row("refusals", refusals.collect::<Vec<_>>().join(", "));
        }
    }
    if let Some(offline) = &report.load.offline {
        let (messages, clients) = (grouped(offline.messages.into()), grouped(report.connections.into()));
        row("absent", format!("{messages} messages for each of {clients} clients and {} groups", grouped(offline.groups.into())));
        row(
            "fetched",
            format!(
                "{} in {:.2} s, {} per second",
                grouped(report.received),
                offline.replay_s,
                grouped(report.rate_per_s as u64)
            ),
        );
        row(
            "came again",
            format!("{} messages, when {} clients looked once more", grouped(offline.came_again), grouped(offline.looked)),
        );
    }
    if let Some(storm) = &report.load.storm {
        let (dropped, returned, rate) =
            (grouped(storm.dropped.into()), grouped(storm.returned), grouped(storm.logins_per_s as u64));
        let repeated = grouped(storm.repeated_logins);
        row("storm", format!("{returned} of {dropped} came back, {rate} logins per second, {repeated} attempts repeated"));
        if let Some(back) = &storm.back_us {
            row("back after", percentiles(back));
        }
    }
    let lags = [("schedule lag", report.schedule_lag_us.flatten()), ("turn lag", report.turn_lag_us.flatten())];
    for (label, lag) in [("latency", report.latency_us)].into_iter().chain(lags) {
        if let Some(p) = lag {
            row(label, percentiles(&p));
        }
    }
    if let Some(server) = &report.server {
        let per_connection =
            server.cpu_ns_per_connection.map_or(String::new(), |ns| format!("{} ns CPU per connection, ", grouped(ns as u64)));
        // Without messages the connections are what was measured.
        let per_delivery =
            server.cpu_ns_per_message.map_or(per_connection, |ns| format!("{} ns CPU per delivery, ", grouped(ns as u64)));
        let per_accepted = server.cpu_ns_per_accepted.flatten();
        let per_delivery = match per_accepted {
            Some(ns) => format!("{per_delivery}{} ns per accepted message, ", grouped(ns as u64)),
            None => per_delivery,
        };
        let (cores, bytes) = (server.cpu_cores, server.user_bytes_per_connection);
        row("server", format!("{per_delivery}{cores:.2} cores, {bytes:.0} B of memory per connection"));
    }
    row("this client", format!("{:.2} cores", report.client_cpu_cores));
    row("result", verdict(report));
    rows
}

/// What there is to say of durable messages. What is rare is told only where it happened.
fn durable_rows(durable: &DurableReport, row: &mut impl FnMut(&str, String)) {
    let (accepted, rate) = (grouped(durable.accepted), grouped(durable.accepted_per_s as u64));
    row("accepted", format!("{accepted}, {rate} per second, {}", durable.durability.unwrap_or("none")));
    if let Some(p) = &durable.accepted_us {
        row("to ACCEPTED", percentiles(p));
    }
    let by = &durable.by_sequence;
    let sound = format!("{} lost, {} duplicated, {} reordered", by.lost, by.duplicated, by.reordered);
    row("by sequence", format!("{sound}, in {} of {} channels", grouped(durable.faulty_channels), grouped(durable.channels)));
    for (channel, by) in &durable.faults_by_channel {
        row("", format!("{channel}: {} lost, {} duplicated, {} reordered", by.lost, by.duplicated, by.reordered));
    }
    let rare = [
        (durable.unanswered, "unanswered"),
        (durable.misanswered, "answered wrongly"),
        (durable.renumbered, "streams under other sequences than ACCEPTED named"),
        (durable.back_in_time, "back in time"),
        (durable.wrong_cursors, "wrong CURSORS"),
        (durable.refused_acknowledgements, "acknowledgements refused"),
        (durable.resent, "sent again"),
        (durable.accepted_before, "accepted before"),
        (durable.repeated, "repeated"),
        (durable.leftovers, "of earlier runs"),
        (durable.gaps, "GAPs"),
        (durable.gone, "gone"),
    ];
    let told: Vec<_> =
        rare.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{} {what}", grouped(*count))).collect();
    if !told.is_empty() {
        row("durable", told.join(", "));
    }
}

fn percentiles(p: &Percentiles) -> String {
    let text = [("p50", p.p50), ("p90", p.p90), ("p99", p.p99), ("p99.9", p.p999), ("max", p.max)];
    text.map(|(name, us)| format!("{name} {}", micros(us))).join(", ")
}

fn verdict(report: &Report) -> String {
    if report.faults() > 0 {
        return "FAULTY: not every message was received once, by the right client, in order, unaltered".into();
    }
    if !report.valid {
        return "NOT VALID, see below".into();
    }
    if report.sent == 0 {
        return "valid: every client logged in and stayed".into();
    }
    "exact: every message was received once, by the right client, in order, unaltered".into()
}

/// Prints the table, and below it what is wrong.
pub(crate) fn print(report: &Report) {
    say!("\n{} on {}, kernel {}, {} cores", report.scenario, report.address, report.host.kernel, report.host.cores);
    for (label, text) in rows(report) {
        say!("  {label:<14}{text}");
    }
    print_problems(report);
}

/// Prints what is wrong with a run, if anything is.
pub(crate) fn print_problems(report: &Report) {
    for reason in &report.invalid_reasons {
        say!("  not valid: {reason}");
    }
    for example in &report.fault_examples {
        say!("  fault: {example}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (60_000, "60,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
