//! `weir log`: looks into the messages that a stopped gateway has stored, checks them, and repairs them.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::json;
use weir::limits::{STORE_CACHE_BYTES_DEFAULT, STORE_DEDUP_MESSAGES_DEFAULT, STORE_MEMTABLE_BYTES_DEFAULT};
use weir::store::disk::{ChannelInfo, Inspection, Look, Options, Verified, free_bytes, repair, verify};
use weir::store::{Clock, Retention};
use weir::wire::PushRef;

use super::text::{print, printable};

/// Arguments of `weir log`.
#[derive(Debug, Args)]
pub(super) struct LogArgs {
    #[command(subcommand)]
    command: LogCommand,
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    /// Say what is stored: channels, messages, bytes, cursors, commits
    Inspect {
        #[command(flatten)]
        data: DataArgs,
        /// List so many channels, those with the most bytes first
        #[arg(long, value_name = "NUMBER", default_value_t = 20)]
        channels: usize,
    },
    /// Read everything and say what is wrong with it; the exit status is 1 if anything is
    Verify {
        #[command(flatten)]
        data: DataArgs,
    },
    /// Print a channel's messages, one JSON object a line
    Dump {
        #[command(flatten)]
        data: DataArgs,
        /// The channel, such as user/alice or group/room/7
        channel: String,
        /// Begin with this sequence
        #[arg(long, value_name = "SEQ", default_value_t = 0)]
        from: u64,
        /// Print so many messages at most
        #[arg(long, value_name = "NUMBER", default_value_t = u64::MAX, hide_default_value = true)]
        limit: u64,
    },
    /// Make a damaged log usable again, without what is gone. What was there is set aside
    Repair {
        #[command(flatten)]
        data: DataArgs,
    },
}

#[derive(Debug, Args)]
struct DataArgs {
    /// Where the gateway keeps its messages. It must be stopped
    #[arg(long = "data", value_name = "DIR", env = "WEIR_DATA", default_value = "weir-data")]
    dir: PathBuf,
}

pub(super) fn run(args: &LogArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        LogCommand::Inspect { data, channels } => {
            let inspection = Look::open(&data.dir)?.inspect(*channels)?;
            print(&inspected(data, &inspection))?;
        }
        LogCommand::Verify { data } => {
            let verified = verify(&data.dir)?;
            print(&verified_text(data, &verified))?;
            if !verified.findings.is_empty() {
                return Ok(ExitCode::from(super::FAILED));
            }
        }
        LogCommand::Dump { data, channel, from, limit } => dump(data, channel, *from, *limit)?,
        LogCommand::Repair { data } => {
            let repaired = repair(&data.dir, &options())?;
            let mut text: String = repaired.steps.iter().map(|step| format!("{step}\n")).collect();
            text += &format!(
                "{} is in order again; what was there before is in {}\n",
                data.dir.display(),
                repaired.set_aside.display()
            );
            print(&text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Enough for a repair.
fn options() -> Options {
    Options {
        retention: Retention {
            age_ms: u64::MAX,
            messages: u64::MAX,
            bytes: u64::MAX,
            channels: u32::MAX,
            dedup_ms: u64::MAX,
            dedup_messages: STORE_DEDUP_MESSAGES_DEFAULT,
        },
        cache_bytes: STORE_CACHE_BYTES_DEFAULT,
        memtable_bytes: STORE_MEMTABLE_BYTES_DEFAULT,
        cached_channels: 1,
        reserve_bytes: 0,
        free_bytes: Box::new(free_bytes),
    }
}

fn inspected(data: &DataArgs, seen: &Inspection) -> String {
    let mut out = format!(
        "{}: {} channels, {} messages, {} bytes of names and payloads, {} cursors\ncommits {} to {}, {:.1} MB on the disk\n",
        data.dir.display(),
        seen.channels,
        seen.messages,
        seen.bytes,
        seen.cursors,
        seen.commits.0,
        seen.commits.1,
        seen.disk_bytes as f64 / 1e6
    );
    if seen.lost > 0 {
        out += &format!("a repair left out the sequences up to {}: those of messages that were lost\n", seen.lost);
    }
    if !seen.largest.is_empty() {
        out += &format!(
            "\n{:<40} {:>12} {:>14} {:>12} {:>12}  {:<24} {:<24}\n",
            "channel", "messages", "bytes", "first", "last", "oldest", "newest"
        );
    }
    for ChannelInfo { name, messages, bytes, first, last, oldest, newest } in &seen.largest {
        let (name, oldest, newest) = (printable(name.as_bytes()), time(*oldest), time(*newest));
        out += &format!("{name:<40} {messages:>12} {bytes:>14} {first:>12} {last:>12}  {oldest:<24} {newest:<24}\n");
    }
    let more = seen.channels.saturating_sub(seen.largest.len() as u64);
    if more > 0 {
        out += &format!("and {more} channels more: --channels {} lists all\n", seen.channels);
    }
    out
}

fn verified_text(data: &DataArgs, verified: &Verified) -> String {
    let dir = data.dir.display();
    let Verified { channels, messages, cursors, commits, findings } = verified;
    if findings.is_empty() {
        return format!("{dir}: all is well: {channels} channels, {messages} messages, {cursors} cursors, {commits} commits\n");
    }
    let list: String = findings.iter().map(|finding| format!("- {}\n", printable(finding.as_bytes()))).collect();
    format!("{dir}: not all is well:\n{list}To go on without what is gone: weir log repair --data {dir}\n")
}

fn dump(data: &DataArgs, channel: &str, from: u64, limit: u64) -> anyhow::Result<()> {
    let look = Look::open(&data.dir)?;
    let (mut left, mut printed) = (limit, Ok(()));
    let known = look.dump(channel, from, |message| {
        if left == 0 {
            return false;
        }
        left -= 1;
        printed = print(&line(channel, message));
        printed.is_ok()
    })?;
    printed?;
    if !known {
        bail!("there is no channel {channel:?}: they are called user/NAME or group/NAME, and `weir log inspect` lists them");
    }
    Ok(())
}

fn line(channel: &str, message: &PushRef<'_>) -> String {
    let mut object = json!({
        "channel": channel,
        "seq": message.seq,
        "timestamp": message.timestamp,
        "time": time(message.timestamp),
        "from_client": message.from_client,
        "from_device": message.from_device,
        "client_msg_id": message.client_msg_id,
    });
    match std::str::from_utf8(message.payload) {
        Ok(text) => object["payload"] = text.into(),
        Err(_) => object["payload_hex"] = message.payload.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
    }
    format!("{object}\n")
}

/// UTC, as in 2026-11-20T09:30:00.125Z; a dash where there is none.
fn time(timestamp: u64) -> String {
    if timestamp == 0 {
        return "-".to_owned();
    }
    let ms = Clock::wall_ms(timestamp);
    let (days, ms_of_day) = (ms / 86_400_000, ms % 86_400_000);
    // Days to a date: Howard Hinnant, "chrono-compatible low-level date algorithms", civil_from_days.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hours, minutes, seconds, ms) =
        (ms_of_day / 3_600_000, ms_of_day / 60_000 % 60, ms_of_day / 1_000 % 60, ms_of_day % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (ms, expected) in [
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
            (1_735_689_599_999, "2024-12-31T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(time(Clock::of_wall_ms(ms)), expected);
        }
        assert_eq!(time(0), "-");
    }
}
