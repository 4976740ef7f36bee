//! How the gateway begins, and what it says when it cannot: the reactor that the host allows, the port, the shell commands.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    net::TcpListener,
    process::{Command, Stdio},
    time::Duration,
};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use weir::limits::LISTEN_RETRY_MS;

use crate::harness::{Gateway, PATIENCE, Reactor, WEIR, lines_of, on_both_reactors, run_to_end, run_weir};

/// Runs `spawn` on a thread that may not set io_uring up, as in many containers. What it starts inherits that.
fn without_io_uring<T: Send>(spawn: impl FnOnce() -> T + Send) -> T {
    let arch = std::env::consts::ARCH.try_into().expect("seccomp knows this machine");
    let refused = SeccompAction::Errno(nix::libc::EPERM as u32);
    let rules = BTreeMap::from([(nix::libc::SYS_io_uring_setup, Vec::new())]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).expect("a valid filter");
    let program: BpfProgram = filter.try_into().expect("a valid program");
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            apply_filter(&program).expect("a process may restrict itself");
            spawn()
        });
        thread.join().expect("no panic")
    })
}

#[test]
fn a_container_that_refuses_io_uring_gets_epoll() {
    let gateway = without_io_uring(|| {
        let mut command = Gateway::command("auto");
        command.arg("--dev");
        Gateway::launch(command, None)
    });
    let mut peer = gateway.login("alice", "1");
    peer.check_alive();
    gateway.await_true("epoll to be picked", |gateway| gateway.log().contains("Epoll reactor"));
    let log = gateway.log();
    assert!(log.contains("io_uring is refused (Operation not permitted"), "it says what was refused: {log}");
    assert!(log.contains("seccomp=") || log.contains("sysctl -w kernel.io_uring"), "it says what to type: {log}");
}

#[test]
fn where_io_uring_is_refused_it_cannot_be_forced() {
    let output = without_io_uring(|| {
        let mut command = Gateway::command("uring");
        run_to_end(command.arg("--dev"))
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("io_uring is refused (Operation not permitted"), "{said}");
    assert!(said.contains("seccomp=") || said.contains("sysctl -w kernel.io_uring"), "{said}");
    assert!(output.stdout.is_empty(), "nothing listens");
}

#[cfg(not(feature = "glommio"))]
#[test]
fn a_build_without_glommio_says_how_to_get_it() {
    let output = run_weir(&["serve", "--dev", "--listen", "127.0.0.1:0", "--reactor", "glommio"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cargo build --release --features glommio"), "{said}");
    assert!(output.stdout.is_empty(), "nothing listens");
}

#[cfg(feature = "glommio")]
mod glommio {
    use super::*;

    #[test]
    fn is_picked_when_it_is_asked_for() {
        let gateway = Gateway::start(Reactor::Glommio, &[]);
        gateway.await_true("glommio to be picked", |gateway| gateway.log().contains("Glommio reactor"));
    }

    #[test]
    fn cannot_be_forced_where_io_uring_is_refused() {
        let output = without_io_uring(|| {
            let mut command = Gateway::command("glommio");
            run_to_end(command.arg("--dev"))
        });
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("io_uring is refused (Operation not permitted"), "{said}");
        assert!(said.contains("seccomp=") || said.contains("sysctl -w kernel.io_uring"), "{said}");
    }

    #[test]
    fn says_what_to_type_where_memory_may_not_be_locked() {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -l 64 && exec \"$0\" serve --dev --listen 127.0.0.1:0 --reactor glommio", WEIR]);
        let output = run_to_end(&mut command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("RLIMIT_MEMLOCK is 65536") && said.contains("ulimit -l 512"), "{said}");
    }
}

#[test]
fn a_host_that_allows_io_uring_gets_it() {
    let mut command = Gateway::command("auto");
    command.arg("--dev");
    let gateway = Gateway::launch(command, None);
    gateway.await_true("io_uring to be picked", |gateway| gateway.log().contains("Uring reactor"));
}

on_both_reactors! {
    fn a_second_gateway_on_the_port(reactor) {
        let gateway = Gateway::start(reactor, &[]);
        let addr = gateway.addr.to_string();
        let output = run_weir(&["serve", "--dev", "--listen", &addr, "--reactor", reactor.name()]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&addr) && said.contains("in use") && said.contains("ss -ltnp"), "{said}");
        gateway.login("alice", "1").check_alive();
    }

    fn a_port_that_another_program_has(reactor) {
        let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = other.local_addr().expect("an address").to_string();
        let output = run_weir(&["serve", "--dev", "--listen", &addr, "--reactor", reactor.name()]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&addr) && said.contains("in use") && said.contains("--listen"), "{said}");
    }

    /// A gateway that was killed takes a moment to give its port back.
    fn a_port_that_is_being_given_back(reactor) {
        let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = other.local_addr().expect("an address").to_string();
        let back = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(LISTEN_RETRY_MS / 2));
            drop(other);
        });
        let mut command = Command::new(WEIR);
        command.args(["serve", "--dev", "--data", "memory", "--listen", &addr, "--metrics", "127.0.0.1:0", "--reactor", reactor.name()]);
        let gateway = Gateway::launch(command, None);
        back.join().expect("no panic");
        assert_eq!(gateway.addr.to_string(), addr);
        gateway.login("alice", "1").check_alive();
    }

    fn an_address_that_is_not_ours(reactor) {
        // 192.0.2.0/24 is for documentation.
        let secret = "an end-to-end secret of more than 32 bytes";
        let output =
            run_weir(&["serve", "--listen", "192.0.2.1:7700", "--reactor", reactor.name(), "--auth-hs256-secret", secret]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("192.0.2.1:7700"), "{said}");
        assert!(!said.contains(secret), "{said}");
    }

    fn metrics_on_a_port_that_is_taken(reactor) {
        let gateway = Gateway::start(reactor, &[]);
        let addr = gateway.addr.to_string();
        let output =
            run_weir(&["serve", "--dev", "--listen", "127.0.0.1:0", "--metrics", &addr, "--reactor", reactor.name()]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&addr) && said.contains("metrics"), "{said}");
    }

    fn send_and_listen(reactor) {
        let gateway = Gateway::start(reactor, &["--shards", "4"]);
        let addr = gateway.addr.to_string();
        let mut command = Command::new(WEIR);
        command.args(["listen", "--as", "alice", "--group", "team", "--addr", &addr]);
        let mut listener = Guard(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("weir can be started"));
        let told = lines_of(listener.0.stderr.take().expect("it is piped"));
        let ready = told.recv_timeout(PATIENCE).expect("it says when it is ready");
        assert!(ready.contains("listening as alice"), "{ready}");
        let printed = lines_of(listener.0.stdout.take().expect("it is piped"));
        for (receiver, name, line) in [("--to", "alice", "alice <- bob: hi"), ("--group", "team", "group/team <- bob: hi")] {
            let output = run_weir(&["send", receiver, name, "--as", "bob", "--addr", &addr, "hi"]);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.contains("1 device"), "{said}");
            assert_eq!(printed.recv_timeout(PATIENCE).as_deref(), Ok(line));
        }
        let output = run_weir(&["send", "--to", "nobody", "--as", "bob", "--addr", &addr, "hi"]);
        assert_eq!(output.status.code(), Some(3));
    }
}

/// Ends the process with the test.
struct Guard(std::process::Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
