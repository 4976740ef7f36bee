//! The gateway that runs are made against.
#![forbid(unsafe_code)]

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::program::weir;

/// A gateway on a port of its own, which ends with this value.
pub(crate) struct Gateway {
    pub(crate) child: Child,
    pub(crate) target: String,
    /// Where its metrics are, if it was started with `--metrics`.
    pub(crate) metrics: Option<String>,
}

impl Gateway {
    pub(crate) fn start(args: &[&str]) -> Gateway {
        Gateway::start_on("127.0.0.1:0", args).expect("the announcement")
    }

    /// Starts in the place of one that was killed. The kernel closes the sockets of an io_uring only some time after its process is gone.
    pub(crate) fn start_again_on(listen: &str, args: &[&str]) -> Gateway {
        let deadline = Instant::now() + Duration::from_secs(4);
        loop {
            match Gateway::start_on(listen, args) {
                Some(gateway) => return gateway,
                None => assert!(Instant::now() < deadline, "{listen} is free again"),
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// `None` if it ends instead of listening.
    fn start_on(listen: &str, args: &[&str]) -> Option<Gateway> {
        let mut child = Command::new(weir())
            .args(["serve", "--listen", listen])
            .args(args)
            .env("WEIR_DATA", "memory")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the gateway starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        let mut gateway = Gateway { child, target: String::new(), metrics: None };
        gateway.target = lines.next()?.strip_prefix("weir: listening on ")?.to_owned();
        if args.contains(&"--metrics") {
            let url = lines.next()?;
            gateway.metrics = Some(url.strip_prefix("weir: metrics on http://")?.strip_suffix("/metrics")?.to_owned());
        }
        Some(gateway)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
