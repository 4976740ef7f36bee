//! Text in and out: durations, and output that survives a closed pipe and hostile payloads.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io::{self, Write as _};
use std::time::Duration;

/// Writes to standard output at once, so that a reader sees each line when it comes.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes a line to standard error. Nobody may be reading: `eprintln!` would panic.
pub(super) fn note(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// The text with control characters escaped: a message must not be able to drive the terminal of whoever reads it.
pub(super) fn printable(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for char in String::from_utf8_lossy(bytes).chars() {
        if char.is_control() { out.extend(char.escape_default()) } else { out.push(char) }
    }
    out
}

/// "90s", "30m", "12h", "7d", or a number of seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "" | "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3_600),
        "d" => Some(86_400),
        _ => None,
    };
    let total = seconds.and_then(|unit_s: u64| number.parse::<u64>().ok()?.checked_mul(unit_s)).filter(|total| *total > 0);
    total.map(Duration::from_secs).ok_or_else(|| "write a duration above zero such as 90s, 30m, 12h or 7d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("2m", 120), ("1h", 3_600), ("7d", 604_800)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "h", "1w", "1h30m", "-1s", "0s", "18446744073709551615d", "é"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn payloads_cannot_drive_the_terminal() {
        assert_eq!(printable("hé\u{1b}[2J\r\n\u{9b}".as_bytes()), "hé\\u{1b}[2J\\r\\n\\u{9b}");
        assert_eq!(printable(b"\xff"), "\u{fffd}");
    }
}
