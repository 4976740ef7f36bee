//! Starts the real binary, watches it from outside, and ends it by its process id.
#![forbid(unsafe_code)]

mod bystanders;
mod follower;
mod peer;

pub use bystanders::Bystanders;
pub use follower::Durable;
pub use peer::{Frame, Got, LoginFields, Peer, frame_bytes, raw_frame};

use std::{
    fs,
    io::{BufRead as _, BufReader, Read, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use weir::wire::ErrorCode;

/// Nothing that a test awaits may take longer. Generous: the machine may be busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// The test binary is the gateway's own, built from this tree.
pub const WEIR: &str = env!("CARGO_BIN_EXE_weir");

/// Which driver the gateway of a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reactor {
    Uring,
    Epoll,
    #[cfg(feature = "glommio")]
    Glommio,
}

impl Reactor {
    /// As `--reactor` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Reactor::Uring => "uring",
            Reactor::Epoll => "epoll",
            #[cfg(feature = "glommio")]
            Reactor::Glommio => "glommio",
        }
    }
}

/// Makes each case a test on each reactor: `case::uring` and `case::epoll`, and `case::glommio` in a build that has it.
macro_rules! on_both_reactors {
    ($($(#[$about:meta])* fn $case:ident($reactor:ident) $body:block)+) => {
        $(
            $(#[$about])*
            mod $case {
                use super::*;

                fn run($reactor: Reactor) $body

                #[test]
                fn uring() {
                    run(Reactor::Uring);
                }

                #[test]
                fn epoll() {
                    run(Reactor::Epoll);
                }

                #[cfg(feature = "glommio")]
                #[test]
                fn glommio() {
                    run(Reactor::Glommio);
                }
            }
        )+
    };
}
pub(crate) use on_both_reactors;

/// A running `weir serve`.
pub struct Gateway {
    child: Child,
    pub addr: SocketAddr,
    metrics: SocketAddr,
    stderr: Arc<Mutex<String>>,
    folder: Option<tempfile::TempDir>,
}

impl Gateway {
    /// In developer mode, on two shards.
    pub fn start(reactor: Reactor, flags: &[&str]) -> Gateway {
        let has_shards = flags.contains(&"--shards");
        let shards: &[&str] = if has_shards { &[] } else { &["--shards", "2"] };
        let mut command = Gateway::command(reactor.name());
        command.arg("--dev").args(shards).args(flags);
        Gateway::launch(command, None)
    }

    /// With tokens instead, on two shards. `folder` lives as long as the gateway.
    pub fn start_with_keys(reactor: Reactor, folder: Option<tempfile::TempDir>, flags: &[&str]) -> Gateway {
        let mut command = Gateway::command(reactor.name());
        command.args(["--shards", "2"]).args(flags);
        Gateway::launch(command, folder)
    }

    /// `weir serve` on free ports of loopback, without what the environment might say.
    pub fn command(reactor: &str) -> Command {
        let mut command = Command::new(WEIR);
        for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WEIR_")) {
            command.env_remove(variable);
        }
        // Unless flags say otherwise.
        command.env("RUST_LOG", "info").env("WEIR_DATA", "memory");
        command.args(["serve", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--reactor", reactor]);
        command
    }

    /// Runs a command of `Gateway::command`, and waits until it announced its addresses.
    pub fn launch(mut command: Command, folder: Option<tempfile::TempDir>) -> Gateway {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("weir can be started");
        let stderr = Arc::new(Mutex::new(String::new()));
        let (kept, mut from) = (Arc::clone(&stderr), child.stderr.take().expect("it is piped"));
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut chunk) {
                kept.lock().unwrap().push_str(&String::from_utf8_lossy(&chunk[..count]));
            }
        });
        let lines = lines_of(child.stdout.take().expect("it is piped"));
        let mut announced = |before: &str, behind: &str| -> SocketAddr {
            let line = lines.recv_timeout(PATIENCE).unwrap_or_else(|_| {
                let _ = child.kill();
                let _ = child.wait();
                panic!("no line {before:?} came; the gateway said:\n{}", stderr.lock().unwrap())
            });
            let address = line.strip_prefix(before).and_then(|rest| rest.strip_suffix(behind));
            address
                .and_then(|address| address.parse().ok())
                .unwrap_or_else(|| panic!("{line:?} is not {before:?} and an address"))
        };
        let addr = announced("weir: listening on ", "");
        let metrics = announced("weir: metrics on http://", "/metrics");
        Gateway { child, addr, metrics, stderr, folder }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A file in the gateway's folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.as_ref().expect("this gateway has a folder").path().join(name)
    }

    /// What it wrote to standard error so far.
    pub fn log(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Connects, nothing more.
    pub fn connect(&self) -> Peer {
        Peer::connect(self.addr)
    }

    /// Connects and logs in.
    pub fn login(&self, client: &str, device: &str) -> Peer {
        let mut peer = self.connect();
        peer.log_in(&LoginFields { client, device, ..LoginFields::default() });
        peer
    }

    /// Asks the process to stop.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.pid() as i32);
        nix::sys::signal::kill(pid, signal).expect("the gateway runs");
    }

    /// How it ended.
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status;
            }
            assert!(Instant::now() < deadline, "it still runs after {within:?}; it said:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether the process is there.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }

    /// Resident memory, in bytes.
    pub fn rss_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the gateway runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("processes have it");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// The page of metrics.
    pub fn scrape(&self) -> String {
        let mut stream = TcpStream::connect_timeout(&self.metrics, PATIENCE).expect("the metrics are served");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).expect("the metrics are text");
        page
    }

    /// A number, summed over all shards: "logins_total".
    pub fn metric(&self, name: &str) -> u64 {
        self.sum(&format!("weir_{name}{{"), "")
    }

    /// Connections closed with this code so far.
    pub fn closed(&self, code: ErrorCode) -> u64 {
        self.sum("weir_closed_total{", &format!("code=\"{}\"", code.name()))
    }

    /// Requests refused with this code so far, their connections living on.
    pub fn refused(&self, code: ErrorCode) -> u64 {
        self.sum("weir_refused_total{", &format!("code=\"{}\"", code.name()))
    }

    fn sum(&self, start: &str, with: &str) -> u64 {
        let page = self.scrape();
        let lines: Vec<&str> = page.lines().filter(|line| line.starts_with(start) && line.contains(with)).collect();
        assert!(!lines.is_empty(), "no metric {start}…{with} in\n{page}");
        lines.iter().map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().expect("counters are whole numbers")).sum()
    }

    /// Waits until a number is there: counters are read behind the events that they count.
    pub fn await_value(&self, what: &str, expected: u64, read: impl Fn(&Gateway) -> u64) {
        let mut seen = 0;
        self.await_true(&format!("{what} to be {expected}"), |gateway| {
            seen = read(gateway);
            seen == expected
        });
    }

    /// Waits until something holds.
    pub fn await_true(&self, what: &str, mut holds: impl FnMut(&Gateway) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(
                Instant::now() < deadline,
                "waited in vain for {what}; the gateway said:\n{}\n{}",
                self.log(),
                self.nonzero()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// For messages of failed tests.
    fn nonzero(&self) -> String {
        let page = self.scrape();
        let lines = page.lines().filter(|line| line.starts_with("weir_") && !line.ends_with(" 0"));
        lines.collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the gateway said:\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines that a process writes, so that they can be awaited with a deadline.
pub fn lines_of(pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (lines_tx, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if lines_tx.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Runs a weir command to its end.
pub fn run_weir(args: &[&str]) -> Output {
    run_to_end(Command::new(WEIR).args(args).env_remove("WEIR_ADDR").env_remove("WEIR_TOKEN"))
}

/// Runs a command that says little to its end, which must come.
pub fn run_to_end(command: &mut Command) -> Output {
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("it can be started");
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().expect("it is our child").is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("it should have ended: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("it has ended")
}
