//! The files that results go to: whether they can be written is found out before anything starts, and not after a quarter of an hour.
#![forbid(unsafe_code)]

use std::{
    fs::{self, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::FileTypeExt as _,
    path::Path,
};

use anyhow::anyhow;

use crate::{
    args::{Command, LimitCommand},
    launch::Failure,
};

/// Refuses a command whose results could not be written. Leaves no file behind, and what is in one as it is.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn check(command: &Command) -> Result<(), Failure> {
    let outputs = outputs(command);
    if let [(first, path), (second, other)] = outputs[..]
        && path == other
        && !path.starts_with("/dev")
    {
        let words = format!("{first} and {second} both name {}: one would be written over the other", path.display());
        return Err(Failure::Usage(words));
    }
    for (option, path) in outputs {
        try_out(path).map_err(|cause| {
            let (name, advice) = (path.display(), advice(&cause, path));
            anyhow!("{option} {name} cannot be written: {cause}. Nothing was started, for its result would be lost: {advice}")
        })?;
    }
    Ok(())
}

/// Where this command puts what it finds.
fn outputs(command: &Command) -> Vec<(&'static str, &Path)> {
    let json = match command {
        Command::Connect(args) => &args.common.json,
        Command::Route(args) => &args.common.json,
        Command::Fanout(args) => &args.common.json,
        Command::Offline(args) => &args.common.json,
        Command::Storm(args) => &args.common.json,
        Command::Limit(args) => match &args.command {
            LimitCommand::Echo(args) | LimitCommand::Relay(args) => &args.common.json,
            LimitCommand::Fanout(args) => &args.common.json,
            LimitCommand::Accept(args) => &args.common.json,
            LimitCommand::Serve(_) => &None,
        },
        Command::Million(args) => &args.json,
        Command::Soak(args) => &args.json,
        Command::Bench(args) => return vec![("--json", &args.json), ("--html", &args.html)],
        Command::Diff(_) | Command::Exec(_) | Command::Demo(_) => &None,
    };
    json.iter().map(|path| ("--json", path.as_path())).collect()
}

fn try_out(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    match options.append(true).create_new(true).open(path) {
        // It is gone at once, so that nothing is left of a run that fails, however it ends.
        Ok(_) => return fs::remove_file(path),
        Err(cause) if cause.kind() != ErrorKind::AlreadyExists => return Err(cause),
        Err(_) => {}
    }
    match fs::metadata(path) {
        // Its reader would take our leaving for the end of the result.
        Ok(there) if there.file_type().is_fifo() => Ok(()),
        Ok(_) => options.create_new(false).open(path).map(drop),
        // A link to a file that is not there yet.
        Err(cause) if cause.kind() == ErrorKind::NotFound => {
            let folder = path.parent().unwrap_or(Path::new(""));
            try_out(&folder.join(fs::read_link(path)?))
        }
        Err(cause) => Err(cause),
    }
}

/// What to type.
fn advice(cause: &io::Error, path: &Path) -> String {
    match (cause.kind(), path.parent()) {
        (ErrorKind::NotFound, Some(folder)) if folder != Path::new("") => {
            format!("make its directory (mkdir -p {}), or name another file", folder.display())
        }
        (ErrorKind::IsADirectory, _) => "name a file in that directory".to_owned(),
        (ErrorKind::PermissionDenied, _) => "name a file in a directory that is yours, such as /tmp".to_owned(),
        _ => "name another file".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, process::Command};

    use clap::Parser as _;

    use super::*;
    use crate::args::Cli;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a directory");
        let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_is_changed_by_trying() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        try_out(&at("new.json")).expect("writable");
        assert!(names(folder.path()).is_empty());
        fs::write(at("old.json"), "before").expect("written");
        symlink("later.json", at("latest.json")).expect("linked");
        let made = Command::new("mkfifo").arg(at("pipe")).status().expect("it starts");
        assert!(made.success());
        for name in ["old.json", "latest.json", "pipe"] {
            try_out(&at(name)).unwrap_or_else(|cause| panic!("{name}: {cause}"));
        }
        assert_eq!(fs::read_to_string(at("old.json")).expect("there"), "before");
        assert_eq!(names(folder.path()), ["latest.json", "old.json", "pipe"]);
        assert!(fs::symlink_metadata(at("latest.json")).expect("there").is_symlink());
        try_out(Path::new("/dev/null")).expect("writable");
    }

    #[test]
    fn one_file_does_not_hold_two_results() {
        let refusal = |words: &str| {
            let cli = Cli::try_parse_from(words.split(' ')).expect("it is understood");
            check(&cli.command).err().map(|failure| format!("{failure:?}"))
        };
        let words = refusal("bench-client bench --json /tmp/both --html /tmp/both").expect("one would be lost");
        assert!(words.contains("--json and --html both name /tmp/both"), "{words}");
        assert_eq!(refusal("bench-client bench --json /dev/null --html /dev/null"), None);
    }

    #[test]
    fn what_cannot_be_written_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        symlink("nowhere/later.json", at("astray.json")).expect("linked");
        symlink("round.json", at("round.json")).expect("linked");
        fs::write(at("file"), "").expect("written");
        for (name, words) in [
            ("nowhere/x.json", "mkdir -p"),
            ("astray.json", "mkdir -p"),
            (".", "name a file in that directory"),
            ("round.json", "name another file"),
            ("file/x.json", "name another file"),
        ] {
            let cause = try_out(&at(name)).expect_err(name);
            assert!(advice(&cause, &at(name)).contains(words), "{name}: {cause}");
        }
        assert_eq!(names(folder.path()), ["astray.json", "file", "round.json"]);
    }
}
