//! The shell commands, through the real binary.
#![forbid(unsafe_code)]

#[path = "cli/durable.rs"]
mod durable;

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use weir::session::token::{Verifier, VerifierOptions};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// Nothing here takes longer.
const DEADLINE: Duration = Duration::from_secs(20);

/// `weir` with these arguments, and none of the caller's own variables.
fn weir(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"WEIR_")) {
        command.env_remove(name);
    }
    command.env("RUST_BACKTRACE", "0").args(args);
    command
}

/// A process that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn spawn(command: &mut Command) -> Running {
        Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Standard output, line by line.
    fn lines(&mut self) -> Receiver<String> {
        lines_of(self.0.stdout.take().unwrap())
    }

    /// Waits until a line on standard error holds `text`.
    fn await_error_line(&mut self, text: &str) {
        let lines = lines_of(self.0.stderr.take().unwrap());
        while !next(&lines).contains(text) {}
    }
}

/// The lines of a pipe. A thread reads them, so that waiting for one can end.
fn lines_of(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            // Nobody may be waiting any more; the pipe is emptied all the same.
            let _ = sender.send(line);
        }
    });
    receiver
}

/// The next line, which must come in time.
fn next(lines: &Receiver<String>) -> String {
    lines.recv_timeout(DEADLINE).expect("another line")
}

/// Runs it to its end, which must come in time.
fn output(command: &mut Command, input: &str) -> Output {
    let mut running = Running::spawn(command);
    running.0.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let deadline = Instant::now() + DEADLINE;
    while running.0.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "{command:?} does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    let text = |pipe: &mut dyn Read| {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    };
    let stdout = text(running.0.stdout.as_mut().unwrap());
    let stderr = text(running.0.stderr.as_mut().unwrap());
    Output { status: running.0.wait().unwrap(), stdout, stderr }
}

/// Exit code, standard output, standard error.
fn run(command: &mut Command) -> (i32, String, String) {
    let output = output(command, "");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A gateway on a free port, and its address.
fn gateway(args: &[&str]) -> (Running, String) {
    let mut command = weir(&["serve", "--shards", "2", "--listen", "127.0.0.1:0"]);
    let mut running = Running::spawn(command.args(args).env("RUST_LOG", "off").env("WEIR_DATA", "memory"));
    let line = next(&running.lines());
    let address = line.strip_prefix("weir: listening on ").unwrap_or_else(|| panic!("no address in {line:?}"));
    (running, address.to_owned())
}

fn key(name: &str) -> String {
    format!("{}/tests/keys/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn an_unknown_key_is_an_error_with_a_suggestion() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weir.toml");
    fs::write(&file, "dev = true\n\n[limits]\nmax_body_byte = 1\n").unwrap();
    for command in ["serve", "config"] {
        let (code, out, err) = run(weir(&[command, "--config"]).arg(&file));
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        assert!(err.contains("weir.toml:4: ") && err.contains("did you mean `limits.max_body_bytes`?"), "{err}");
    }
    let (code, _, err) = run(weir(&["config", "--dev"]).env("WEIR_SHARD", "1"));
    assert!(code == 1 && err.contains("WEIR_SHARD is not known: did you mean `WEIR_SHARDS`?"), "{err}");
    let (code, _, err) = run(&mut weir(&["serve", "--dev", "--shard", "1"]));
    assert!(code == 2 && err.contains("'--shards'"), "{err}");
    let (code, _, err) = run(&mut weir(&["config", "--config", "/nowhere"]));
    assert!(code == 1 && err.contains("/nowhere cannot be read"), "{err}");
}

#[test]
fn flags_beat_variables_beat_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weir.toml");
    fs::write(&file, "dev = true\nshards = 2\n[timeouts]\nlogin_ms = 1000\nwrite_ms = 1000\n").unwrap();
    let mut command = weir(&["config", "--timeouts-login-ms", "3000"]);
    command.env("WEIR_CONFIG", &file).env("WEIR_TIMEOUTS_LOGIN_MS", "2000").env("WEIR_TIMEOUTS_WRITE_MS", "2000");
    let (code, out, err) = run(&mut command);
    assert_eq!(code, 0, "{err}");
    for line in
        ["login_ms = 3000 # --timeouts-login-ms", "write_ms = 2000 # WEIR_TIMEOUTS_WRITE_MS", "drain_ms = 10000 # default"]
    {
        assert!(out.lines().any(|seen| seen == line), "{line}\nis not in\n{out}");
    }
    assert!(out.contains(&format!("shards = 2 # {}:2\n", file.display())), "{out}");
    // What it prints can be used as a file.
    fs::write(&file, &out).unwrap();
    let (code, out, err) = run(weir(&["config", "--check", "--config"]).arg(&file));
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", ""));
}

#[test]
fn what_is_in_force_is_shown_though_it_cannot_serve() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weir.toml");
    let contradiction = ["--dev", "--heartbeat-interval-ms", "5000"];
    for (args, why) in
        [(&[][..], "weir serve --dev"), (&["--auth-hs256-secret", "short"], "needs at least 32"), (&contradiction, "is above")]
    {
        let (code, out, err) = run(weir(&["config"]).args(args));
        assert_eq!((code, err.as_str()), (0, ""));
        let remark: String = out.lines().take_while(|line| line.starts_with('#')).collect();
        assert!(remark.contains("`weir serve` would not start with this") && remark.contains(why), "{out}");
        assert!(out.contains("max_body_bytes = 65536 # default\n"), "{out}");
        let (code, out, err) = run(weir(&["config", "--check"]).args(args));
        assert!(code == 1 && out.is_empty() && err.contains(why), "{err}");
    }
    let (_, out, _) = run(&mut weir(&["config"]));
    fs::write(&file, &out).unwrap();
    let (code, out, err) = run(weir(&["config", "--check", "--dev", "--listen", "127.0.0.1:0", "--config"]).arg(&file));
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", ""), "it is a file like any other");
    let (code, out, err) = run(&mut weir(&["config", "--dev"]));
    assert!(code == 0 && err.is_empty() && !out.contains("would not start"), "{out}");
}

#[test]
fn what_cannot_serve_says_what_to_type() {
    let (code, _, err) = run(&mut weir(&["serve"]));
    assert!(code == 1 && err.contains("weir serve --dev") && err.contains("openssl rand -hex 32"), "{err}");
    let (code, _, err) = run(&mut weir(&["serve", "--dev", "--listen", "0.0.0.0:0"]));
    assert!(code == 1 && err.contains("developer mode lets anybody log in"), "{err}");
    let (code, _, err) = run(&mut weir(&["config", "--check", "--auth-hs256-secret", "short"]));
    assert!(code == 1 && err.contains("needs at least 32"), "{err}");
    let private = key("rsa_private.pem");
    let (code, _, err) = run(&mut weir(&["config", "--check", "--auth-rs256-public-key-file", &private]));
    assert!(code == 1 && err.contains("openssl pkey"), "{err}");
}

#[test]
fn secrets_are_not_printed() {
    let (code, out, err) = run(weir(&["config"]).env("WEIR_AUTH_HS256_SECRET", SECRET));
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("hs256_secret = \"(redacted)\" # WEIR_AUTH_HS256_SECRET") && !out.contains(SECRET), "{out}");
    for command in [["token", "--help"], ["serve", "--help"]] {
        let (_, out, _) = run(weir(&command).env("WEIR_AUTH_HS256_SECRET", SECRET).env("WEIR_TOKEN", SECRET));
        assert!(!out.contains(SECRET), "{out}");
    }
}

#[test]
fn tokens_of_all_kinds_are_good_for_a_gateway() {
    let pem = |name| fs::read(key(name)).unwrap();
    let (rsa, ed) = (pem("rsa_public.pem"), pem("ed25519_public.pem"));
    let audiences = ["weir".to_owned()];
    let options = VerifierOptions {
        hs256_secret: Some(SECRET.as_bytes()),
        rs256_public_pem: Some(&rsa),
        eddsa_public_pem: Some(&ed),
        audiences: &audiences,
        leeway_s: 0,
    };
    let verifier = Verifier::new(options).unwrap();
    let rights = ["--join", "room/*", "--watch", "bob"];
    let args =
        [&["token", "--client", "alice", "--device-class", "phone", "--audience", "weir", "--ttl", "2m"], &rights[..]].concat();
    for key_args in
        [["--hs256-secret", SECRET], ["--private-key", &key("rsa_private.pem")], ["--private-key", &key("ed25519_private.pem")]]
    {
        let (code, out, err) = run(weir(&args).args(key_args));
        assert_eq!(code, 0, "{err}");
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let claims = verifier.verify(out.trim(), now_ms).unwrap();
        assert_eq!((claims.client_id.as_str(), claims.device_class.as_deref()), ("alice", Some("phone")));
        assert!(claims.join.allows("room/7") && !claims.write.allows("room/7"));
        assert!(claims.watch.allows("bob") && !claims.watch.allows("carol"));
        assert!((100_000..=120_000).contains(&(claims.expires_at_ms - now_ms)));
    }
    // A variable serves as well, and does not stand in the way of a flag.
    let named = run(weir(&["token", "--client", "alice"]).env("WEIR_AUTH_HS256_SECRET", SECRET));
    assert!(named.0 == 0 && named.1.starts_with("eyJ"), "{named:?}");
    let private = key("ed25519_private.pem");
    let both = run(weir(&["token", "--client", "alice", "--private-key", &private]).env("WEIR_AUTH_HS256_SECRET", "short"));
    assert!(both.0 == 0 && both.1.starts_with("eyJ"), "{both:?}");
    let (code, _, err) = run(&mut weir(&["token", "--client", "alice"]));
    assert!(code == 1 && err.contains("--hs256-secret-file"), "{err}");
    let (code, _, err) = run(&mut weir(&["token", "--client", "", "--hs256-secret", SECRET]));
    assert!(code == 1 && err.contains("1 to 64 bytes"), "{err}");
}

#[test]
fn send_tells_how_many_devices_it_reached() {
    let (_gateway, address) = gateway(&["--dev"]);
    let mut text = Running::spawn(&mut weir(&["listen", "--as", "alice", "--group", "room", "--addr", &address]));
    let mut json = Running::spawn(&mut weir(&["listen", "--as", "alice", "--json", "--addr", &address]));
    text.await_error_line("listening as alice");
    json.await_error_line("listening as alice");
    let (code, out, err) = run(&mut weir(&["send", "--to", "alice", "--as", "bob", "--addr", &address, "hi"]));
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", "alice: reached 2 devices\n"));
    let mut from_stdin = weir(&["send", "--group", "room", "--as", "bob", "--addr", &address]);
    let sent = output(&mut from_stdin, "one\ntwo \u{1b}[2J\n");
    assert_eq!(String::from_utf8(sent.stderr).unwrap(), "room: reached 1 device\nroom: reached 1 device\n");
    let lines = text.lines();
    for expected in ["alice <- bob: hi", "group/room <- bob: one", "group/room <- bob: two \\u{1b}[2J"] {
        assert_eq!(next(&lines), expected);
    }
    let object: serde_json::Value = serde_json::from_str(&next(&json.lines())).unwrap();
    assert_eq!(
        (&object["channel"], &object["from_client"], &object["payload"]),
        (&"user/alice".into(), &"bob".into(), &"hi".into())
    );
    let (code, _, err) = run(&mut weir(&["send", "--to", "nobody", "--addr", &address, "hi"]));
    assert!(code == 3 && err.contains("nobody is online there"), "{err}");
}

#[test]
fn a_gateway_with_a_key_wants_a_token_that_fits() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, format!("{SECRET}\n")).unwrap();
    let secret = secret.to_str().unwrap();
    let (_gateway, address) = gateway(&["--auth-hs256-secret-file", secret]);
    let (code, _, err) = run(&mut weir(&["send", "--to", "alice", "--as", "bob", "--addr", &address, "hi"]));
    assert!(code == 1 && err.contains("TOKEN_MISSING (2001)") && err.contains("weir token --client"), "{err}");
    let token = |args: &[&str]| {
        let (code, out, err) = run(weir(&["token", "--hs256-secret-file", secret]).args(args));
        assert_eq!(code, 0, "{err}");
        out.trim().to_owned()
    };
    let (alice, bob) = (token(&["--client", "alice", "--join", "room/*"]), token(&["--client", "bob", "--write", "room/7"]));
    let (code, _, err) =
        run(weir(&["listen", "--as", "alice", "--group", "lobby", "--addr", &address]).env("WEIR_TOKEN", &alice));
    assert!(code == 1 && err.contains("JOIN_FORBIDDEN") && err.contains("--join GROUP"), "{err}");
    let mut listening = Running::spawn(weir(&["listen", "--group", "room/7", "--addr", &address]).env("WEIR_TOKEN", &alice));
    listening.await_error_line("listening as alice");
    let (code, _, err) = run(&mut weir(&["send", "--group", "room/7", "--token", &bob, "--addr", &address, "hi"]));
    assert_eq!((code, err.as_str()), (0, "room/7: reached 1 device\n"));
    let (code, _, err) = run(&mut weir(&["send", "--group", "room/8", "--token", &bob, "--addr", &address, "hi"]));
    assert!(code == 1 && err.contains("WRITE_FORBIDDEN") && err.contains("--write GROUP"), "{err}");
    let (code, _, err) = run(&mut weir(&["listen", "--as", "eve", "--token", &bob, "--addr", &address]));
    assert!(code == 1 && err.contains("IDENTITY_MISMATCH"), "{err}");
    assert_eq!(next(&listening.lines()), "group/room/7 <- bob: hi");
}

/// Waits for the end of a process, which must come in time. Returns how it ended: "exit status: 0", "signal: 6 (SIGABRT)".
fn ended(running: &mut Running) -> String {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = running.0.try_wait().unwrap() {
            return status.to_string();
        }
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_gateway_outlives_who_reads_its_output() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = probe.local_addr().unwrap().to_string();
    drop(probe);
    let mut command = weir(&["serve", "--dev", "--shards", "1", "--listen", &address]);
    // Both closed: the log has nobody to read it either.
    command.stdin(Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer);
    let mut gateway = Running(command.spawn().unwrap());
    let deadline = Instant::now() + DEADLINE;
    loop {
        let (code, _, err) = run(&mut weir(&["send", "--to", "nobody", "--addr", &address, "hi"]));
        if code == 3 {
            break;
        }
        assert!(gateway.0.try_wait().unwrap().is_none(), "the gateway has ended");
        assert!(Instant::now() < deadline, "{err}");
        std::thread::sleep(Duration::from_millis(20));
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(gateway.0.id() as i32), nix::sys::signal::SIGTERM).unwrap();
    assert_eq!(ended(&mut gateway), "exit status: 0");
}

#[test]
fn commands_end_quietly_when_nobody_reads() {
    let (_gateway, address) = gateway(&["--dev"]);
    let mut listening = Running::spawn(&mut weir(&["listen", "--as", "alice", "--addr", &address]));
    listening.await_error_line("listening as alice");
    // As `head -1` does when it has its line.
    drop(listening.0.stdout.take());
    let sent = run(&mut weir(&["send", "--to", "alice", "--addr", &address, "hi"]));
    assert_eq!(sent.0, 0, "{}", sent.2);
    assert_eq!(ended(&mut listening), "exit status: 0");
    for args in [&["config", "--dev"][..], &["tune", "--dry-run"], &["send", "--to", "nobody", "--addr", &address, "hi"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = weir(args);
        command.stdin(Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer);
        let expected = if args[0] == "send" { "exit status: 3" } else { "exit status: 0" };
        assert_eq!(ended(&mut Running(command.spawn().unwrap())), expected, "{args:?}");
    }
}

#[test]
fn nobody_listening_is_explained() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for args in [["send", "--to", "alice", "hi"], ["listen", "--as", "alice", "--json"]] {
        let (code, _, err) = run(weir(&args).args(["--addr", &free]));
        assert!(code == 1 && err.contains("weir serve --dev"), "{err}");
    }
}

/// A directory like /proc with two settings.
fn fake_proc(folder: &Path) {
    fs::create_dir_all(folder.join("sys/net/core")).unwrap();
    fs::create_dir_all(folder.join("sys/fs")).unwrap();
    fs::write(folder.join("sys/net/core/somaxconn"), "4096\n").unwrap();
    fs::write(folder.join("sys/fs/file-max"), "9223372036854775807\n").unwrap();
}

#[test]
fn tune_can_be_undone() {
    let folder = tempfile::tempdir().unwrap();
    fake_proc(folder.path());
    let state = folder.path().join("state/tune.before");
    let tune = |args: &[&str]| {
        let (code, out, err) = run(weir(&["tune"]).args(args).arg("--proc").arg(folder.path()).arg("--state").arg(&state));
        assert_eq!((code, err.as_str()), (0, ""));
        out
    };
    let somaxconn = || fs::read_to_string(folder.path().join("sys/net/core/somaxconn")).unwrap();
    let out = tune(&["--dry-run"]);
    assert!(out.contains("would change   net.core.somaxconn: 4096 -> 16384\n"), "{out}");
    assert!(!state.exists() && somaxconn() == "4096\n");
    let out = tune(&[]);
    assert!(out.contains("applied        net.core.somaxconn: 4096 -> 16384\n"), "{out}");
    assert!(out.contains("already right  fs.file-max: 9223372036854775807\n"), "{out}");
    assert!(
        out.contains("net.netfilter.nf_conntrack_max: not on this kernel") && out.contains("1 changed, 0 refused\n"),
        "{out}"
    );
    assert!(state.exists() && somaxconn() == "16384\n");
    let out = tune(&["--undo"]);
    assert!(out.contains("applied        net.core.somaxconn: 16384 -> 4096\n"), "{out}");
    assert!(!state.exists() && somaxconn() == "4096\n");
    assert!(tune(&["--undo"]).contains("nothing to undo"));
}

#[test]
fn a_dry_run_on_this_machine_touches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("tune.before");
    let before = fs::read_to_string("/proc/sys/net/core/somaxconn");
    let (code, out, err) = run(weir(&["tune", "--dry-run", "--state"]).arg(&state));
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("net.core.somaxconn") && out.ends_with("nothing was touched\n"), "{out}");
    assert!(!state.exists());
    assert_eq!(before.ok(), fs::read_to_string("/proc/sys/net/core/somaxconn").ok());
}

/// Runs a make target with a `weir` that only tells its arguments, as the user with this number, and without cargo.
fn make(target: &str, user: &str, built: bool) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let script = |path: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    script("bin/id", &format!("echo {user}"));
    if built {
        script("release/weir", "echo weir \"$@\"");
    }
    let path = format!("{}:{}", folder.path().join("bin").display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("make");
    command.args(["--no-print-directory", target, "CARGO=false"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let (code, out, err) = run(command.env("PATH", path).env("CARGO_TARGET_DIR", folder.path()).env_remove("MAKEFLAGS"));
    let folder = folder.path().display().to_string();
    (code, out.replace(&folder, "TARGET"), err.replace(&folder, "TARGET"))
}

#[test]
fn make_tune_runs_what_was_built_and_builds_nothing_as_root() {
    assert_eq!(make("tune", "0", true), (0, "weir tune\n".into(), String::new()));
    assert_eq!(make("untune", "0", true), (0, "weir tune --undo\n".into(), String::new()));
    let (code, out, err) = make("tune", "0", false);
    assert!(code == 2 && out.is_empty() && err.contains("run `make build` first"), "{out}{err}");
    let (code, out, err) = make("tune", "1000", true);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(out, "weir tune --dry-run\nOnly root may change it. Type: sudo TARGET/release/weir tune\n");
    let (_, out, _) = make("untune", "1000", true);
    assert!(out.ends_with("sudo TARGET/release/weir tune --undo\n"), "{out}");
    let (code, out, _) = make("tune", "1000", false);
    assert!(code == 2 && out.contains("false build --release"), "who may build does: {out}");
}
