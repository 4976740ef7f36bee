//! The real binary: started, killed, and stopped.
#![forbid(unsafe_code)]

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::world::await_true;

/// How long a start or a stop may take, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `weir serve`.
pub struct Gateway {
    child: Child,
    log: PathBuf,
}

impl Gateway {
    /// Starts one over `data`, whose words go to a file behind those of its predecessors. Does not wait for it.
    pub fn spawn(reactor: &str, data: &str, log: &Path) -> (Gateway, Ready) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"WEIR_")) {
            command.env_remove(name);
        }
        let words = File::options().create(true).append(true).open(log).expect("the log can be written");
        command.args(["serve", "--dev", "--shards", "3", "--listen", "127.0.0.1:0", "--reactor", reactor, "--data", data]);
        command.args(["--limits-frames-per-second", "0", "--limits-bytes-per-second", "0", "--timeouts-drain-ms", "2000"]);
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(words);
        let mut child = command.spawn().expect("weir can be started");
        let stdout = child.stdout.take().expect("it is piped");
        let (address_tx, address) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(found) = line.strip_prefix("weir: listening on ").and_then(|address| address.parse().ok()) {
                    // Nobody may be waiting.
                    let _ = address_tx.send(found);
                }
            }
        });
        (Gateway { child, log: log.to_owned() }, Ready(address))
    }

    /// Starts one and waits until it listens.
    pub fn start(reactor: &str, data: &str, log: &Path) -> (Gateway, SocketAddr) {
        let (mut gateway, ready) = Gateway::spawn(reactor, data, log);
        match ready.0.recv_timeout(PATIENCE) {
            Ok(address) => (gateway, address),
            Err(_) => {
                let status = gateway.child.try_wait().expect("it is our child");
                panic!("the gateway does not come up ({status:?}); it said:\n{}", gateway.said())
            }
        }
    }

    /// The end of what it and its predecessors said.
    pub fn said(&self) -> String {
        let all = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = all.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// How it ended on its own account, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }

    /// SIGTERM, and waits for its orderly end.
    pub fn stop(mut self) -> ExitStatus {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).expect("it is our child");
        let mut status = None;
        await_true(PATIENCE, || {
            status = self.ended();
            status.is_some()
        });
        status.unwrap_or_else(|| panic!("the gateway does not end; it said:\n{}", self.said()))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where it will listen.
pub struct Ready(mpsc::Receiver<SocketAddr>);
