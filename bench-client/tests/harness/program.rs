//! The gateway's program.
#![forbid(unsafe_code)]

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::SystemTime,
};

/// The gateway's program, from the same build as this test. Testing the whole workspace builds it; testing this package alone does not.
pub(crate) fn weir() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let program = Path::new(env!("CARGO_BIN_EXE_bench-client")).with_file_name("weir");
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src");
        if modified(&program) < newest(&sources) {
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--quiet", "-p", "weir", "--bin", "weir"]).current_dir(env!("CARGO_MANIFEST_DIR"));
            if !cfg!(debug_assertions) {
                build.arg("--release");
            }
            assert!(build.status().expect("cargo runs").success(), "the gateway is built");
        }
        program
    })
}

/// When a file was last written, if it is there.
fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|metadata| metadata.modified()).ok()
}

/// When the newest file below a directory was last written.
fn newest(directory: &Path) -> Option<SystemTime> {
    let entries = std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    entries.map(|path| if path.is_dir() { newest(&path) } else { modified(&path) }).max().flatten()
}
