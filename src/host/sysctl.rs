//! Kernel settings: the file that lists them, what is better than what, and the directory they are read from and written to.
#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};

/// `sysctl/60-weir.conf`: every value with its arithmetic.
pub const SETTINGS_FILE: &str = include_str!("../../sysctl/60-weir.conf");

/// What makes a number of a setting good enough to be left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Better {
    /// Larger ones are as good.
    Larger,
    /// Smaller ones are as good.
    Smaller,
    /// No other one.
    Exact,
}

/// A setting with its value from the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// "net.core.somaxconn".
    pub key: String,
    /// One or more numbers.
    pub numbers: Vec<u64>,
}

/// What stands before a setting that depends on the host. For sysctl.d(5) it is a comment: a file that is copied to /etc/sysctl.d
/// must not set what `weir tune` would only set after a look at the machine.
const HOST_DEPENDENT: &str = "#:";

/// Reads a file in the form of sysctl.d(5), and the settings in its comments that begin with `#:`.
///
/// # Errors
/// The first line that is neither a comment nor "key = numbers".
pub fn parse(text: &str) -> Result<Vec<Wanted>, String> {
    let lines = text.lines().map(|line| line.trim().strip_prefix(HOST_DEPENDENT).unwrap_or(line).trim());
    let lines = lines.enumerate().map(|(index, line)| (index + 1, line));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with(['#', ';']));
    lines
        .map(|(number, line)| {
            let wanted = line.split_once('=').and_then(|(key, value)| {
                let numbers = numbers(value)?;
                Some(Wanted { key: key.trim().to_owned(), numbers })
            });
            wanted.ok_or_else(|| format!("line {number}: {line:?} is not \"key = numbers\""))
        })
        .collect()
}

/// The numbers in a value; `None` if there are none, or something else is among them.
fn numbers(value: &str) -> Option<Vec<u64>> {
    let numbers: Vec<u64> = value.split_whitespace().map(|number| number.parse().ok()).collect::<Option<_>>()?;
    (!numbers.is_empty()).then_some(numbers)
}

impl Wanted {
    /// The value to set when the kernel has `current`: each number the better one of the two. `None` when `current` is not numbers.
    pub fn merged(&self, current: &str) -> Option<Vec<u64>> {
        let current = numbers(current).filter(|current| current.len() == self.numbers.len())?;
        let merge = |(index, (wanted, current)): (usize, (u64, u64))| match self.better(index) {
            Better::Larger => wanted.max(current),
            Better::Smaller => wanted.min(current),
            Better::Exact => wanted,
        };
        Some(self.numbers.iter().copied().zip(current).enumerate().map(merge).collect())
    }

    fn better(&self, index: usize) -> Better {
        match (self.key.as_str(), index) {
            // A million sockets share the memory: the sizes at first count, and only the last one may be larger.
            ("net.ipv4.tcp_rmem" | "net.ipv4.tcp_wmem", 0 | 1) => Better::Exact,
            ("net.ipv4.ip_local_port_range" | "net.ipv4.tcp_tw_reuse", _) => Better::Exact,
            ("net.ipv4.tcp_fin_timeout", _) => Better::Smaller,
            _ => Better::Larger,
        }
    }

    /// The memory that the value lets the kernel use at most, in bytes, where that is what it says.
    pub fn memory_bytes(&self) -> Option<u64> {
        const PAGE_BYTES: u64 = 4096;
        (self.key == "net.ipv4.tcp_mem").then(|| self.numbers.last().map_or(0, |pages| pages * PAGE_BYTES))
    }
}

/// As the kernel takes it.
pub(super) fn text(numbers: &[u64]) -> String {
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
}

/// The kernel's settings, under /proc.
#[derive(Clone, Debug)]
pub struct Kernel {
    proc: PathBuf,
    /// What a kernel makes of a value that is written: some round, some have bounds of their own.
    #[cfg(test)]
    pub(super) makes_of: Option<fn(&str) -> String>,
}

impl Kernel {
    /// The settings under `proc`: "/proc", or a directory like it.
    pub fn at(proc: &Path) -> Kernel {
        Kernel {
            proc: proc.to_owned(),
            #[cfg(test)]
            makes_of: None,
        }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.proc.join("sys").join(key.replace('.', "/"))
    }

    /// The value of a setting, white space normalised; `None` if this kernel does not have it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self, key: &str) -> io::Result<Option<String>> {
        match std::fs::read_to_string(self.path(key)) {
            Ok(text) => Ok(Some(text.split_whitespace().collect::<Vec<_>>().join(" "))),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(cause),
        }
    }

    /// Sets a value.
    ///
    /// # Errors
    /// The kernel, or whoever stands before it, refuses.
    pub fn write(&self, key: &str, value: &str) -> io::Result<()> {
        use std::io::Write as _;
        #[cfg(test)]
        let value = &self.makes_of.map_or_else(|| value.to_owned(), |makes_of| makes_of(value));
        // Not created: a setting exists or it does not. One write is one change.
        std::fs::OpenOptions::new().write(true).truncate(true).open(self.path(key))?.write_all(format!("{value}\n").as_bytes())
    }

    /// The machine's memory in bytes, if it can be told.
    pub fn memory_bytes(&self) -> Option<u64> {
        let text = std::fs::read_to_string(self.proc.join("meminfo")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    }
}
