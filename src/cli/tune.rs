//! `weir tune`.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use clap::Args;
use nix::sys::resource::{Resource, getrlimit};
use weir::host::{Journal, Kernel, Line, Outcome, SETTINGS_FILE, Tuner, parse};

use super::text::print;

/// The limit in sysctl/limits.conf.
const NOFILE_WANTED: u64 = 2_000_000;

/// Arguments of `weir tune`.
#[derive(Debug, Args)]
pub(super) struct TuneArgs {
    /// Only show what would be changed
    #[arg(long)]
    dry_run: bool,
    /// Restore what was there before the first `weir tune`
    #[arg(long)]
    undo: bool,
    /// Where to keep what was there [default: /var/lib/weir/tune.before for root, else under $XDG_STATE_HOME]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Another directory than /proc: for tests
    #[arg(long, value_name = "DIR", default_value = "/proc", hide = true)]
    proc: PathBuf,
}

pub(super) fn run(args: &TuneArgs) -> anyhow::Result<ExitCode> {
    let path = args.state.clone().map_or_else(default_state, Ok)?;
    let journal = Journal::open(&path).with_context(|| {
        format!("{} cannot be used, and without it nothing could be restored, so nothing was changed", path.display())
    })?;
    let mut tuner = Tuner::new(Kernel::at(&args.proc), journal);
    let mut report = Report::default();
    if args.undo {
        if tuner.journal().is_empty() {
            print(&format!("nothing to undo: {} lists no changes\n", path.display()))?;
            return Ok(ExitCode::SUCCESS);
        }
        for line in tuner.undo(args.dry_run) {
            report.add(&line)?;
        }
    } else {
        let wanted = parse(SETTINGS_FILE).map_err(|why| anyhow!("sysctl/60-weir.conf: {why}"))?;
        for wanted in &wanted {
            // Printed one by one: an interruption leaves a true record on the screen.
            report.add(&tuner.apply(wanted, args.dry_run))?;
        }
        print(&files_line())?;
    }
    print(&report.summary(args, &tuner))?;
    Ok(ExitCode::SUCCESS)
}

/// Where root, or anybody else, keeps state.
fn default_state() -> anyhow::Result<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/weir/tune.before"));
    }
    let folder = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let folder = folder.or_else(home).context("neither XDG_STATE_HOME nor HOME is set: give --state FILE")?;
    Ok(folder.join("weir/tune.before"))
}

/// The limit on open files belongs to processes, not to the kernel: it can only be shown.
fn files_line() -> String {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if hard >= NOFILE_WANTED => format!("already right  nofile: {hard}\n"),
        Ok((_, hard)) => format!(
            "left alone     nofile: {hard}: the hard limit of this shell, {NOFILE_WANTED} wanted. Copy sysctl/limits.conf to \
             /etc/security/limits.d/60-weir.conf and log in again, or use LimitNOFILE= in the unit; or start more shards (--shards)\n"
        ),
        Err(cause) => format!("refused        nofile: cannot be read: {cause}\n"),
    }
}

/// Counts, for the last lines.
#[derive(Debug, Default)]
struct Report {
    changed: usize,
    planned: usize,
    refused: usize,
    /// What an undo did not restore.
    left: usize,
}

impl Report {
    fn add(&mut self, line: &Line) -> std::io::Result<()> {
        match line.outcome {
            Outcome::Applied { .. } | Outcome::Rounded { .. } => self.changed += 1,
            Outcome::Planned { .. } => self.planned += 1,
            Outcome::Refused { .. } => self.refused += 1,
            Outcome::Absent | Outcome::ChangedSince { .. } => self.left += 1,
            Outcome::AlreadyRight { .. } | Outcome::Unfit { .. } => {}
        }
        print(&format!("{line}\n"))
    }

    fn summary(&self, args: &TuneArgs, tuner: &Tuner) -> String {
        let Report { changed, planned, refused, left } = self;
        if args.dry_run {
            return format!("{planned} would be changed, {refused} cannot be; nothing was touched\n");
        }
        let mut text = format!("{changed} changed, {refused} refused\n");
        let path = tuner.journal().path().display();
        if args.undo && refused + left > 0 {
            text +=
                &format!("what was not restored stays listed in {path}; to leave those settings as they are, remove that file\n");
        }
        if !args.undo && *changed > 0 {
            text += &format!(
                "what was there before is kept in {path}; `weir tune --undo` restores it. These values last until the next boot: \
                 to keep them, copy sysctl/60-weir.conf to /etc/sysctl.d/ and look at its lines that begin with `#:`\n"
            );
        }
        text
    }
}
