//! `weir log`, and what `weir serve` says of its data, through the real binary.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use weir::store::Write;

use crate::common::{NOW_MS, RETENTION, append, commit, folder, message, open, read_cursor};

fn weir(args: &[&str], dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"WEIR_")) {
        command.env_remove(name);
    }
    command.env("RUST_BACKTRACE", "0").args(args).arg("--data").arg(dir);
    command
}

/// Exit code, standard output, standard error.
fn run(args: &[&str], dir: &Path) -> (i32, String, String) {
    let Output { status, stdout, stderr } = weir(args, dir).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// Ten messages for bob, two for a group.
fn fill(dir: &Path) {
    let mut log = open(dir, RETENTION);
    for id in 1..=10 {
        commit(&mut log, NOW_MS + id, &[append("user/bob", message(id, format!("message {id}").as_bytes()))]);
    }
    let writes = [
        append("group/room/7", message(11, b"\xff\x00")),
        append("group/room/7", message(12, b"a \"quoted\" text")),
        Write::Advance { key: read_cursor("user/bob", "bob"), to: 4 },
    ];
    commit(&mut log, NOW_MS + 20, &writes);
}

struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const SERVE: [&str; 6] = ["serve", "--dev", "--shards", "1", "--listen", "127.0.0.1:0"];

fn serve(dir: &Path) -> Gateway {
    let mut child = weir(&SERVE, dir).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("weir: listening on "), "{line}");
    Gateway(child)
}

#[test]
fn a_log_is_inspected_verified_and_dumped() {
    let folder = folder();
    fill(folder.path());
    let (code, out, err) = run(&["log", "inspect"], folder.path());
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains(": 2 channels, 12 messages, ") && out.contains(" 1 cursors\ncommits 2 to 12, "), "{out}");
    assert!(out.contains("user/bob") && out.contains("2023-11-14T22:13:20.001Z"), "{out}");
    let (code, out, err) = run(&["log", "verify"], folder.path());
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("all is well: 2 channels, 12 messages, 1 cursors, 11 commits"), "{out}");
    let (code, out, _) = run(&["log", "dump", "user/bob", "--from", "4", "--limit", "2"], folder.path());
    let lines: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((code, lines.len()), (0, 2), "{out}");
    assert_eq!((&lines[0]["seq"], &lines[0]["payload"], &lines[1]["client_msg_id"]), (&4.into(), &"message 4".into(), &5.into()));
    assert_eq!(lines[0]["time"], "2023-11-14T22:13:20.004Z");
    let (_, out, _) = run(&["log", "dump", "group/room/7"], folder.path());
    assert!(out.contains("\"payload_hex\":\"ff00\"") && out.contains("a \\\"quoted\\\" text"), "{out}");
    let (code, _, err) = run(&["log", "dump", "group/other"], folder.path());
    assert!(code == 1 && err.contains("weir log inspect"), "{err}");
}

#[test]
fn what_is_wrong_with_the_directory_is_said_with_what_to_do() {
    let folder = folder();
    let dir = folder.path().join("data");
    for command in [&["log", "inspect"][..], &["log", "verify"], &["log", "dump", "user/a"], &["log", "repair"]] {
        let (code, _, err) = run(command, &dir);
        assert!(code == 1 && err.contains("there is no log in") && err.contains("--data DIR"), "{err}");
    }
    let gateway = serve(&dir);
    for command in [&SERVE[..], &["log", "inspect"], &["log", "verify"], &["log", "repair"]] {
        let (code, _, err) = run(command, &dir);
        assert!(code == 1 && err.contains("is in use by another weir process") && err.contains("--data DIR"), "{err}");
    }
    drop(gateway);
    assert_eq!(run(&["log", "verify"], &dir).0, 0, "a gateway that was killed");
    fs::write(dir.join("format"), "weir log 2\n").unwrap();
    for command in [&SERVE[..], &["log", "verify"], &["log", "repair"]] {
        let (code, _, err) = run(command, &dir);
        assert!(code == 1 && err.contains("weir log 2") && err.contains("the version that wrote it"), "{err}");
    }
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let (code, _, err) = run(&SERVE, &file);
    assert!(code == 1 && err.contains("is not a directory"), "{err}");
    let (code, _, err) = run(&SERVE, folder.path());
    assert!(code == 1 && err.contains("what is in it is not Weir's"), "{err}");
    let (code, _, err) = run(&SERVE, Path::new("/proc/nothing/here"));
    assert!(code == 1 && err.contains("/proc/nothing/here"), "{err}");
}

#[test]
fn a_damaged_log_is_refused_and_a_repair_lets_it_serve() {
    let folder = folder();
    let dir = folder.path().join("data");
    fill(&dir);
    // The last commits are gone: the journal ends earlier.
    let journal = fs::File::options().write(true).open(dir.join("log/0.jnl")).unwrap();
    let bytes = fs::read(dir.join("log/0.jnl")).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64;
    journal.set_len(used - 1).unwrap();
    for command in [&SERVE[..], &["log", "inspect"], &["log", "dump", "user/bob"]] {
        let (code, _, err) = run(command, &dir);
        assert!(code == 1 && err.contains("has lost messages that it had accepted: commit 12 is gone"), "{err}");
        assert!(err.contains("weir log verify --data ") && err.contains("weir log repair --data "), "{err}");
    }
    let (code, out, _) = run(&["log", "verify"], &dir);
    assert!(code == 1 && out.contains("commit 12 is gone") && out.contains("weir log repair"), "{out}");
    let (code, out, err) = run(&["log", "repair"], &dir);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("commit 12 is lost") && out.contains("is in order again"), "{out}");
    assert!(dir.join("before-repair-1/0.jnl").exists() && dir.join("before-repair-1/witness").exists());
    let (code, out, _) = run(&["log", "verify"], &dir);
    assert!(code == 0 && out.contains("1 channels, 10 messages"), "{out}");
    let (_, out, _) = run(&["log", "inspect"], &dir);
    assert!(out.contains("a repair left out the sequences up to 1048586"), "{out}");
    drop(serve(&dir));
}

/// The database's own file of four bytes, without which nothing opens.
#[test]
fn a_lost_version_file_costs_nothing_else() {
    let folder = folder();
    let dir = folder.path().join("data");
    fill(&dir);
    let version = dir.join("log/version");
    let is = fs::read(&version).unwrap();
    let remove = |version: &Path| fs::remove_file(version).unwrap();
    let damage: [&dyn Fn(&Path); 4] =
        [&remove, &|version| fs::write(version, "").unwrap(), &|version| fs::write(version, "FJL\x02").unwrap(), &|version| {
            fs::remove_file(version).unwrap();
            fs::create_dir(version).unwrap();
        }];
    for (number, damage) in damage.into_iter().enumerate() {
        damage(&version);
        for command in [&SERVE[..], &["log", "inspect"], &["log", "dump", "user/bob"]] {
            let (code, _, err) = run(command, &dir);
            assert!(code == 1 && err.contains("log/version: ") && err.contains("the database's format"), "{number}: {err}");
            assert!(err.contains("weir log repair --data "), "{number}: {err}");
        }
        let (code, out, _) = run(&["log", "verify"], &dir);
        assert!(code == 1 && out.contains("log/version: ") && out.contains("weir log repair --data "), "{number}: {out}");
        let (code, out, err) = run(&["log", "repair"], &dir);
        assert!(code == 0 && out.contains("written again") && out.contains("nothing is lost"), "{number}: {out}{err}");
        assert_eq!(fs::read(&version).unwrap(), is);
        let (code, out, _) = run(&["log", "verify"], &dir);
        assert!(code == 0 && out.contains("all is well: 2 channels, 12 messages"), "{number}: {out}");
        let (_, out, _) = run(&["log", "inspect"], &dir);
        assert!(!out.contains("a repair left out"), "{number}: sequences go on as before: {out}");
    }
    // With other damage too, the other repairs follow.
    remove(&version);
    let journal = fs::File::options().write(true).open(dir.join("log/0.jnl")).unwrap();
    let used = fs::read(dir.join("log/0.jnl")).unwrap().iter().rposition(|byte| *byte != 0).unwrap() as u64;
    journal.set_len(used - 1).unwrap();
    let (code, out, err) = run(&["log", "repair"], &dir);
    assert!(code == 0 && out.contains("written again") && out.contains("commit 12 is lost"), "{out}{err}");
    // Without the database there is nothing to be written again.
    fs::remove_dir_all(dir.join("log")).unwrap();
    let (code, _, err) = run(&SERVE, &dir);
    assert!(code == 1 && err.contains("data/log: the database is missing") && err.contains("backup"), "{err}");
}

/// A child of the last holder has a copy of the lock until it runs its own program.
#[test]
fn a_lock_that_is_about_to_be_let_go_is_waited_for() {
    let folder = folder();
    let dir = folder.path().join("data");
    fill(&dir);
    let held = File::open(dir.join("lock")).unwrap();
    held.lock().unwrap();
    let begun = Instant::now();
    let (code, _, err) = run(&["log", "verify"], &dir);
    assert!(code == 1 && err.contains("is in use"), "{err}");
    assert!(begun.elapsed() < Duration::from_secs(5), "nobody waits long for a gateway that goes on: {:?}", begun.elapsed());
    let (asked, asks) = mpsc::channel();
    let holder = thread::spawn(move || {
        asks.recv().unwrap();
        thread::sleep(Duration::from_millis(50));
        drop(held);
    });
    let begun = Instant::now();
    asked.send(()).unwrap();
    drop(open(&dir, RETENTION));
    assert!(begun.elapsed() >= Duration::from_millis(45), "it was held for 50 ms: {:?}", begun.elapsed());
    holder.join().unwrap();
}

/// Copies leave empty files out.
#[test]
fn a_copy_without_the_lock_file_is_ours() {
    let folder = folder();
    let dir = folder.path().join("data");
    fill(&dir);
    for command in [&["log", "verify"][..], &["log", "inspect"], &["log", "repair"]] {
        fs::remove_file(dir.join("lock")).unwrap();
        let (code, out, err) = run(command, &dir);
        assert!(code == 0 && dir.join("lock").exists(), "{out}{err}");
    }
    fs::remove_file(dir.join("lock")).unwrap();
    let gateway = serve(&dir);
    let (code, _, err) = run(&["log", "verify"], &dir);
    assert!(code == 1 && err.contains("is in use"), "it is locked again: {err}");
    drop(gateway);
    fs::remove_file(dir.join("lock")).unwrap();
    fs::remove_file(dir.join("format")).unwrap();
    let (code, _, err) = run(&SERVE, &dir);
    assert!(code == 1 && err.contains("what is in it is not Weir's"), "{err}");
}
