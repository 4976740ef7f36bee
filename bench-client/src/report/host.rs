//! Where a result comes from: what can be told of the machine, of its settings, and of this program.
#![forbid(unsafe_code)]

use std::{collections::BTreeMap, path::Path};

use nix::sys::resource::{Resource, getrlimit};
use serde::Serialize;
use weir::{
    host::{Kernel, SETTINGS_FILE, parse},
    reactor::Kind,
};

/// The one that may forbid io_uring.
const IO_URING_DISABLED: &str = "kernel.io_uring_disabled";

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Host {
    pub(crate) kernel: String,
    pub(crate) cores: u32,
    pub(crate) open_files: u64,
    pub(crate) sysctls: BTreeMap<String, String>,
    pub(crate) git: &'static str,
    pub(crate) command: String,
    pub(crate) reactor: &'static str,
}

impl Host {
    /// This machine, this program and how it was called.
    pub(crate) fn here(kind: Kind) -> Host {
        let kernel =
            nix::sys::utsname::uname().map_or_else(|_| "unknown".into(), |name| name.release().to_string_lossy().into_owned());
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        let (open_files, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0));
        Host {
            kernel,
            cores,
            open_files,
            sysctls: sysctls(),
            git: env!("BENCH_GIT"),
            command: command_line(std::env::args()),
            reactor: kind.name(),
        }
    }
}

/// The values in force of all settings that `weir tune` knows, and of the one that may forbid io_uring; those that this kernel does not
/// have, or does not show, are left out.
fn sysctls() -> BTreeMap<String, String> {
    let kernel = Kernel::at(Path::new("/proc"));
    let wanted = parse(SETTINGS_FILE).expect("the file is part of the program, and its tests read it");
    let keys = wanted.into_iter().map(|wanted| wanted.key).chain([IO_URING_DISABLED.to_owned()]);
    keys.filter_map(|key| kernel.read(&key).ok().flatten().map(|value| (key, value))).collect()
}

/// The command, without what must stay secret and without the directory of the program.
pub(super) fn command_line(args: impl Iterator<Item = String>) -> String {
    let mut words = Vec::new();
    let mut is_secret = false;
    for (at, arg) in args.enumerate() {
        let name = arg.split('=').next().unwrap_or_default();
        let hides = name == "--token" || name == "--hs256-secret";
        let word = match (at, is_secret) {
            (0, _) => arg.rsplit('/').next().unwrap_or_default().to_owned(),
            (_, true) => "…".to_owned(),
            (_, false) if hides && arg.contains('=') => format!("{name}=…"),
            (_, false) => arg.clone(),
        };
        is_secret = hides && !arg.contains('=');
        words.push(word);
    }
    words.join(" ")
}
