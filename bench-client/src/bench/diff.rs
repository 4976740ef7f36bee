//! `diff`: what two runs of the bench say of each other.
#![forbid(unsafe_code)]

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, bail};
use clap::ValueEnum as _;
use serde::Deserialize;
use serde_json::Value;

use super::{
    cases::Load,
    summary::{FORMAT, Spread},
    table::spread,
};
use crate::{
    args::{CaseName, DiffArgs},
    launch::Failure,
    table::grouped,
};

/// With fewer rounds nothing is known of the spread.
const ROUNDS_MIN: u32 = 3;
/// A smaller part than this is no change, however exact both sides are.
const CHANGE_MIN: f64 = 0.01;
/// The same of the rate of a schedule, which comes of one search that does not find the knee more exactly. At rates that differ by more, what
/// a message takes is not the same thing.
const RATE_CHANGE_MIN: f64 = 0.05;
/// What a kernel keeps of the memory for itself is another part at each boot, and smaller than this.
const MEMORY_CHANGE_MIN: f64 = 0.05;

/// What is read of a result of `bench`.
#[derive(Debug, Deserialize)]
struct Bench {
    host: Host,
    duration_s: f64,
    results: Vec<Outcome>,
}

#[derive(Debug, Deserialize)]
struct Host {
    kernel: String,
    cores: u32,
    cpu_model: String,
    memory_bytes: u64,
    git: String,
    load_average: f64,
    sysctls: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct Outcome {
    scenario: String,
    target: String,
    reactor: Option<String>,
    server_version: Option<String>,
    shards: Option<u32>,
    connections: u32,
    active: u32,
    depth: Option<u32>,
    window: Option<u32>,
    valid_rounds: u32,
    server_cpu_ns_per_message: Option<Spread>,
    server_cpu_ns_per_connection: Option<Spread>,
    user_bytes_per_connection: Option<Spread>,
    ratio_to_limit: Option<Spread>,
    rate_per_s: Option<Spread>,
    latency_us: Option<Latency>,
}

#[derive(Debug, Deserialize)]
struct Latency {
    p99: Spread,
}

impl Outcome {
    fn name(&self) -> String {
        let reactor = self.reactor.as_ref().map_or(String::new(), |reactor| format!("-{reactor}"));
        format!("{}{reactor}", self.target)
    }

    fn is_of(&self, other: &Outcome) -> bool {
        (&self.scenario, &self.target, &self.reactor) == (&other.scenario, &other.target, &other.reactor)
    }

    /// Clients, and what they do.
    fn load(&self) -> (u32, u32, Option<u32>, Option<u32>, Option<u32>) {
        (self.connections, self.active, self.depth, self.window, self.shards)
    }

    /// A loop is a measure of the machine, and not of a server.
    fn is_loop(&self) -> bool {
        self.target == "limit" || self.target == "echo"
    }

    /// The rate, where it is one that the server was found to keep up with.
    fn scheduled(&self) -> Option<Spread> {
        let case = CaseName::from_str(&self.scenario, false).ok()?;
        self.rate_per_s.filter(|_| matches!(case.load(), Load::Paced { .. }))
    }

    /// The rates of both, if they are too far apart to compare what a message takes.
    fn rates_apart(&self, other: &Outcome) -> Option<(f64, f64)> {
        let (before, after) = (self.scheduled()?.median, other.scheduled()?.median);
        ((after - before).abs() > RATE_CHANGE_MIN * before).then_some((before, after))
    }
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    Cpu,
    Ratio,
    Memory,
    Rate,
    P99,
}

impl Measure {
    const ALL: [Measure; 5] = [Measure::Cpu, Measure::Ratio, Measure::Memory, Measure::Rate, Measure::P99];
    /// What a slower machine does not change.
    const ACROSS_HOSTS: [Measure; 2] = [Measure::Ratio, Measure::Memory];

    fn name(self) -> &'static str {
        match self {
            Measure::Cpu => "server CPU, ns",
            Measure::Ratio => "times the limit",
            Measure::Memory => "B per connection",
            Measure::Rate => "schedule, 1/s",
            Measure::P99 => "p99, µs",
        }
    }

    fn is_better_when_less(self) -> bool {
        match self {
            Measure::Cpu | Measure::Ratio | Measure::Memory | Measure::P99 => true,
            Measure::Rate => false,
        }
    }

    /// A smaller part than this is no change.
    fn change_min(self) -> f64 {
        match self {
            Measure::Cpu | Measure::Ratio | Measure::Memory | Measure::P99 => CHANGE_MIN,
            Measure::Rate => RATE_CHANGE_MIN,
        }
    }

    /// Whether it depends on how many messages come in a second.
    fn is_of_a_rate(self) -> bool {
        match self {
            Measure::Cpu | Measure::P99 => true,
            Measure::Ratio | Measure::Memory | Measure::Rate => false,
        }
    }

    fn of(self, outcome: &Outcome) -> Option<Spread> {
        match self {
            Measure::Cpu => outcome.server_cpu_ns_per_message.or(outcome.server_cpu_ns_per_connection),
            // That of the loop itself is 1.
            Measure::Ratio => outcome.ratio_to_limit.filter(|_| !outcome.is_loop()),
            Measure::Memory => outcome.user_bytes_per_connection,
            Measure::Rate => outcome.scheduled(),
            Measure::P99 => outcome.latency_us.as_ref().map(|latency| latency.p99),
        }
    }

    fn format(self, value: f64) -> String {
        match self {
            Measure::Ratio => format!("{value:.2}"),
            Measure::Cpu | Measure::Memory | Measure::Rate | Measure::P99 if value < 0.0 => format!("{value:.0}"),
            Measure::Cpu | Measure::Memory | Measure::Rate | Measure::P99 => grouped(value.round() as u64),
        }
    }
}

/// What is concluded from two spreads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Better,
    Worse,
    /// The ranges of the rounds overlap, or nearly nothing changed.
    Same,
    TooFewRounds,
}

impl Verdict {
    fn of(measure: Measure, before: &Spread, after: &Spread, rounds: u32) -> Verdict {
        let change = (after.median - before.median).abs();
        let (less, more) =
            if measure.is_better_when_less() { (Verdict::Better, Verdict::Worse) } else { (Verdict::Worse, Verdict::Better) };
        match () {
            () if rounds < ROUNDS_MIN => Verdict::TooFewRounds,
            () if change <= measure.change_min() * before.median.abs() => Verdict::Same,
            () if after.max < before.min => less,
            () if after.min > before.max => more,
            () => Verdict::Same,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Verdict::Better => "better",
            Verdict::Worse => "WORSE",
            Verdict::Same => "",
            Verdict::TooFewRounds => "too few rounds",
        }
    }
}

/// Runs `diff`. Gives the exit code.
///
/// # Errors
/// They cannot be compared.
pub(crate) fn diff(args: &DiffArgs) -> Result<u8, Failure> {
    let (before, after) = (read(&args.before)?, read(&args.after)?);
    let differences = hosts_differ(&before.host, &after.host);
    if !differences.is_empty() && !args.across_hosts {
        return Err(anyhow::anyhow!(
            "the hosts differ: {}. What one takes says little of the other; to compare what is taken relative to each host's own limit, \
             add --across-hosts",
            differences.join("; ")
        )
        .into());
    }
    let measures = if differences.is_empty() { &Measure::ALL[..] } else { &Measure::ACROSS_HOSTS };
    let compared = compare(&before.results, &after.results, measures).context("they cannot be compared")?;
    let lines: Vec<String> = notes(&before, &after, &differences).into_iter().chain(compared.lines).collect();
    say!("{}", lines.join("\n"));
    Ok(u8::from(compared.worse > 0))
}

fn read(path: &Path) -> anyhow::Result<Bench> {
    let text = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let other = || format!("{} is no result of `bench-client bench` (bench.json)", path.display());
    let object: Value = serde_json::from_str(&text).with_context(other)?;
    let format = object["format"].as_u64().with_context(other)?;
    if format != u64::from(FORMAT) {
        bail!("{} has the form {format}, and this program reads {FORMAT}: use the bench-client that wrote it", path.display());
    }
    serde_json::from_value(object).with_context(other)
}

/// In what two hosts differ so that their numbers cannot be compared.
fn hosts_differ(before: &Host, after: &Host) -> Vec<String> {
    let facts = [
        ("kernel", before.kernel.clone(), after.kernel.clone()),
        ("cores", before.cores.to_string(), after.cores.to_string()),
        ("CPU", before.cpu_model.clone(), after.cpu_model.clone()),
    ];
    let differ = facts.into_iter().filter(|(_, before, after)| before != after);
    let mut words: Vec<String> = differ.map(|(what, before, after)| format!("{what} {before} and {after}")).collect();
    let [least, most] = [before.memory_bytes.min(after.memory_bytes), before.memory_bytes.max(after.memory_bytes)];
    if (most - least) as f64 > MEMORY_CHANGE_MIN * most as f64 {
        words.push(format!("memory {} MB and {} MB", grouped(before.memory_bytes >> 20), grouped(after.memory_bytes >> 20)));
    }
    words
}

/// What else is not the same, and what makes numbers doubtful.
fn notes(before: &Bench, after: &Bench, differences: &[String]) -> Vec<String> {
    let mut notes = Vec::new();
    if !differences.is_empty() {
        notes.push(format!("the hosts differ: {}; only what is relative to them is compared", differences.join("; ")));
    }
    let (old, new) = (&before.host, &after.host);
    if old.git != new.git {
        notes.push(format!("revision {} and {}", old.git, new.git));
    }
    if before.duration_s != after.duration_s {
        notes.push(format!("runs of {} s and of {} s", before.duration_s, after.duration_s));
    }
    for (when, host) in [("before", old), ("after", new)] {
        if host.load_average > 0.5 {
            notes.push(format!("{when}, other work was running (load average {})", host.load_average));
        }
    }
    for key in old.sysctls.keys().chain(new.sysctls.keys().filter(|key| !old.sysctls.contains_key(*key))) {
        let [before, after] = [old, new].map(|host| host.sysctls.get(key).map_or("unknown", String::as_str));
        if before != after {
            notes.push(format!("{key} {before} and {after}"));
        }
    }
    notes
}

/// What became of everything.
struct Compared {
    lines: Vec<String>,
    worse: u32,
}

/// Compares each scenario and target.
///
/// # Errors
/// There is nothing that both have, or only loops, where servers were measured.
fn compare(before: &[Outcome], after: &[Outcome], measures: &[Measure]) -> anyhow::Result<Compared> {
    let mut lines = vec![String::new(), format!("{:<51}{:>30}{:>30}{:>8}", "", "before", "after", "ratio")];
    let (mut others, mut verdicts, mut failed) = (Vec::new(), Vec::new(), 0);
    for old in before {
        let name = format!("{:<19}{}", old.scenario, old.name());
        let Some(new) = after.iter().find(|new| new.is_of(old)) else {
            others.push(format!("{name}: only in the first"));
            continue;
        };
        if old.load() != new.load() {
            others.push(format!("{name}: not the same load, {} and {} connections", old.connections, new.connections));
            continue;
        }
        if old.valid_rounds > 0 && new.valid_rounds == 0 {
            failed += u32::from(!old.is_loop());
            others.push(format!("{name}: WORSE: no run was valid in the second; its \"problems\" say why"));
            continue;
        }
        if old.server_version != new.server_version {
            let [old, new] = [old, new].map(|outcome| outcome.server_version.as_deref().unwrap_or("unknown"));
            others.push(format!("{name}: version {old} and {new}"));
        }
        let apart = old.rates_apart(new);
        let comparable = measures.iter().filter(|measure| apart.is_none() || !measure.is_of_a_rate());
        let rows: Vec<_> = comparable.filter_map(|measure| row(*measure, old, new)).collect();
        if let Some((before, after)) = apart {
            let [before, after] = [before, after].map(|rate| grouped(rate.round() as u64));
            others.push(format!(
                "{name}: CPU and p99 are not compared, for they are those of {before} and of {after} messages a second"
            ));
        }
        if rows.is_empty() {
            others.push(format!("{name}: nothing was measured on both sides"));
        }
        for (at, (words, verdict)) in rows.into_iter().enumerate() {
            lines.push(format!("{:<33}{words}", if at == 0 { name.as_str() } else { "" }));
            verdicts.push((verdict, old.is_loop()));
        }
    }
    let only_after = after.iter().filter(|new| !before.iter().any(|old| new.is_of(old)));
    others.extend(only_after.map(|new| format!("{:<19}{}: only in the second", new.scenario, new.name())));
    if verdicts.is_empty() && failed == 0 {
        bail!("the two have nothing in common: {}", others.join("; "));
    }
    let has_servers = before.iter().chain(after).any(|outcome| !outcome.is_loop());
    if has_servers && failed == 0 && verdicts.iter().all(|(_, is_loop)| *is_loop) {
        bail!("the two have no server in common, only the bare loops: {}", others.join("; "));
    }
    let count = |wanted| verdicts.iter().filter(|verdict| **verdict == (wanted, false)).count() as u32;
    let (worse, better) = (count(Verdict::Worse) + failed, count(Verdict::Better));
    lines.extend(others);
    lines.push(format!(
        "\nBeyond the spread of their rounds, {worse} got worse and {better} better, without the loops, which are a measure of the machine."
    ));
    Ok(Compared { lines, worse })
}

/// One measure on both sides, if both have it.
fn row(measure: Measure, old: &Outcome, new: &Outcome) -> Option<(String, Verdict)> {
    let (before, after) = (measure.of(old)?, measure.of(new)?);
    let verdict = Verdict::of(measure, &before, &after, old.valid_rounds.min(new.valid_rounds));
    let ratio = if before.median > 0.0 { format!("{:.2}", after.median / before.median) } else { "–".to_owned() };
    let [was, is] = [before, after].map(|both| spread(&both, |value| measure.format(value)));
    let words = format!("{:<18}{was:>30}{is:>30}{ratio:>8}  {}", measure.name(), verdict.name());
    Some((words.trim_end().to_owned(), verdict))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(median: f64, min: f64, max: f64) -> Spread {
        Spread { median, min, max }
    }

    #[test]
    fn a_change_is_one_when_the_ranges_of_the_rounds_do_not_touch() {
        let before = spread(100.0, 90.0, 110.0);
        for (after, verdict) in [
            (spread(100.0, 90.0, 110.0), Verdict::Same),
            (spread(120.0, 110.0, 130.0), Verdict::Same),
            (spread(120.0, 111.0, 130.0), Verdict::Worse),
            (spread(80.0, 70.0, 90.0), Verdict::Same),
            (spread(80.0, 70.0, 89.0), Verdict::Better),
        ] {
            assert_eq!(Verdict::of(Measure::Cpu, &before, &after, 3), verdict, "{after:?}");
            assert_eq!(Verdict::of(Measure::Cpu, &before, &after, 2), Verdict::TooFewRounds);
        }
        let exact = |value: f64| spread(value, value, value);
        let between = |measure, before, after| Verdict::of(measure, &exact(before), &exact(after), 5);
        assert_eq!(between(Measure::Memory, 1_000.0, 1_010.0), Verdict::Same, "one part in a hundred is nothing");
        assert_eq!(between(Measure::Memory, 1_000.0, 1_011.0), Verdict::Worse);
        assert_eq!(between(Measure::Memory, -8.0, -8.0), Verdict::Same);
        // A knee is not found more exactly than that, and a higher one is a better one.
        assert_eq!(between(Measure::Rate, 1_000.0, 950.0), Verdict::Same);
        assert_eq!(between(Measure::Rate, 1_000.0, 949.0), Verdict::Worse);
        assert_eq!(between(Measure::Rate, 1_000.0, 1_051.0), Verdict::Better);
    }
}
