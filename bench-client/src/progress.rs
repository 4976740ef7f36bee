//! How a run is doing: one moving line on a terminal, a plain line each second elsewhere. On standard error, so that standard
//! output holds results only.
#![forbid(unsafe_code)]

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{fleet::Tally, table::grouped};

/// How often the moving line is drawn.
const DRAW: Duration = Duration::from_millis(100);
/// How often a plain line is written.
const LINE: Duration = Duration::from_secs(1);

/// What a run is at.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stage {
    Ramp { elapsed: Duration },
    Phase { elapsed: Duration, of: Duration },
    Drain { elapsed: Duration },
    Leave { elapsed: Duration },
}

/// Shows it.
pub(crate) struct Progress {
    scenario: &'static str,
    connections: u32,
    bar: Option<ProgressBar>,
    shown: Option<Instant>,
    /// When rates were last worked out, from which count, and what came out.
    rate: (Instant, u64, f64),
}

impl Progress {
    pub(crate) fn new(scenario: &'static str, connections: u32) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {bar:24} {wide_msg}").expect("the template is a constant");
            ProgressBar::new(1000).with_style(style)
        });
        Progress { scenario, connections, bar, shown: None, rate: (Instant::now(), 0, 0.0) }
    }

    /// Shows how things stand, if it is time to.
    pub(crate) fn show(&mut self, stage: Stage, tally: &Tally) {
        let every = if self.bar.is_some() { DRAW } else { LINE };
        if self.shown.is_some_and(|at| at.elapsed() < every) {
            return;
        }
        self.shown = Some(Instant::now());
        let counted = match stage {
            Stage::Ramp { .. } => tally.ready,
            Stage::Phase { .. } | Stage::Drain { .. } | Stage::Leave { .. } => tally.received,
        };
        let words = self.words(stage, tally, counted);
        match &self.bar {
            Some(bar) => {
                bar.set_position((self.share(stage, tally) * 1000.0) as u64);
                bar.set_message(words);
            }
            None => eprintln!("{words}"),
        }
    }

    /// Leaves the terminal as it was.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn share(&self, stage: Stage, tally: &Tally) -> f64 {
        match stage {
            Stage::Ramp { .. } => tally.ready as f64 / f64::from(self.connections),
            Stage::Phase { elapsed, of } => elapsed.as_secs_f64() / of.as_secs_f64(),
            Stage::Drain { .. } | Stage::Leave { .. } => 1.0,
        }
    }

    fn words(&mut self, stage: Stage, tally: &Tally, counted: u64) -> String {
        let rate = grouped(self.rate_of(counted) as u64);
        let (scenario, all) = (self.scenario, grouped(self.connections.into()));
        match stage {
            Stage::Ramp { elapsed } => {
                let (seconds, ready) = (elapsed.as_secs_f64(), grouped(tally.ready));
                format!("{scenario}  {seconds:5.1} s  connecting  {ready} of {all} logged in  {rate}/s  failed {}", tally.failed)
            }
            Stage::Phase { elapsed, of } if tally.sent + tally.received == 0 => {
                let (seconds, of) = (elapsed.as_secs_f64(), of.as_secs_f64());
                let up = grouped(tally.ready - tally.dropped);
                let (pings, pongs) = (grouped(tally.pings), grouped(tally.pongs));
                format!("{scenario}  {seconds:5.1} s of {of} s  {up} connected  {pings} heartbeats sent, {pongs} answered")
            }
            Stage::Phase { elapsed, of } => {
                let (seconds, of) = (elapsed.as_secs_f64(), of.as_secs_f64());
                let (received, faults) = (grouped(tally.received), tally.faults());
                let accepted = match tally.durable.accepted {
                    0 => String::new(),
                    accepted => format!("{} accepted  ", grouped(accepted)),
                };
                format!(
                    "{scenario}  {seconds:5.1} s of {of} s  {accepted}{received} received  {rate}/s  faults {faults}  refused {}",
                    tally.refused
                )
            }
            Stage::Drain { elapsed } => {
                let (seconds, received) = (elapsed.as_secs_f64(), grouped(tally.received));
                format!("{scenario}  {seconds:5.1} s  waiting for the last messages  {received} received")
            }
            Stage::Leave { elapsed } => format!("{scenario}  {:5.1} s  disconnecting", elapsed.as_secs_f64()),
        }
    }

    /// Counts a second since this was last asked, or before if that was just now.
    fn rate_of(&mut self, counted: u64) -> f64 {
        let (at, before, rate) = self.rate;
        let elapsed = at.elapsed();
        if counted < before {
            self.rate = (Instant::now(), counted, 0.0);
        } else if elapsed >= Duration::from_millis(500) {
            self.rate = (Instant::now(), counted, (counted - before) as f64 / elapsed.as_secs_f64());
        } else {
            return rate;
        }
        self.rate.2
    }
}
