//! Which driver to use: io_uring where it works, epoll where it does not, and then why, and what to type.
//!
//! No version is trusted. A ring is made, its operations are asked for, and then a connection is accepted, named and moved
//! between two rings, over loopback, by the reactor itself.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use io_uring::{Probe, opcode};
use nix::sys::resource::{Resource, getrlimit};

use super::{
    Backend as _, BlockingBackend as _, Event, Kind, Parcel, Peers, Setup, Sink, Wait,
    socket::{self, ListenOptions},
    uring::{Uring, build_ring},
};
use crate::{
    ids::{ConnId, ShardId},
    io::Tick,
    mesh::Bell,
};

/// Since when all that is needed is there; named in messages, never compared.
const KERNEL_NEEDED: &str = "6.7";
const DISABLED_PATH: &str = "/proc/sys/kernel/io_uring_disabled";
const GROUP_PATH: &str = "/proc/sys/kernel/io_uring_group";
/// The rehearsal takes less than a millisecond where it works.
const REHEARSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Why [`Kind::Glommio`] cannot be had in a build without it.
#[cfg(not(feature = "glommio"))]
pub(super) const WITHOUT_GLOMMIO: &str =
    "this program was built without glommio, which is a feature of its own; type: cargo build --release --features glommio";

/// What the user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// io_uring, or epoll where that does not work.
    Auto,
    Uring,
    Epoll,
    Glommio,
}

/// Picks the driver. Beside it, for [`Choice::Auto`], why it is not io_uring.
///
/// # Errors
/// io_uring or glommio was asked for and does not work here; the text says why, and what to type.
pub fn detect(choice: Choice) -> Result<(Kind, Option<String>), String> {
    match choice {
        Choice::Epoll => Ok((Kind::Epoll, None)),
        Choice::Uring => check().map(|()| (Kind::Uring, None)),
        Choice::Glommio => check_glommio().map(|()| (Kind::Glommio, None)),
        Choice::Auto => Ok(match check() {
            Ok(()) => (Kind::Uring, None),
            Err(reason) => (Kind::Epoll, Some(reason)),
        }),
    }
}

#[cfg(feature = "glommio")]
fn check_glommio() -> Result<(), String> {
    super::glommio::check()
}

#[cfg(not(feature = "glommio"))]
fn check_glommio() -> Result<(), String> {
    Err(WITHOUT_GLOMMIO.to_owned())
}

/// What the host says of itself.
pub(super) struct Host {
    release: String,
    /// `kernel.io_uring_disabled`; `None` before Linux 6.6.
    disabled: Option<String>,
    /// `kernel.io_uring_group`.
    group: Option<String>,
    /// `RLIMIT_MEMLOCK`, in bytes.
    pub(super) memlock: u64,
}

impl Host {
    pub(super) fn look() -> Host {
        let read = |path| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let release = nix::sys::utsname::uname().map_or_else(|_| "?".to_owned(), |name| name.release().to_string_lossy().into());
        let memlock = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft);
        Host { release, disabled: read(DISABLED_PATH), group: read(GROUP_PATH), memlock }
    }

    /// Why no ring could be made, for a driver that needs the kernel `needed`.
    pub(super) fn explain(&self, error: &io::Error, needed: &str) -> String {
        let release = &self.release;
        let cause = match (error.raw_os_error(), self.disabled.as_deref()) {
            (Some(libc::EPERM), Some("2")) => {
                "kernel.io_uring_disabled is 2, so that no process may use it; type: sysctl -w kernel.io_uring_disabled=0".to_owned()
            }
            (Some(libc::EPERM), Some("1")) => format!(
                "kernel.io_uring_disabled is 1, so that only members of the group kernel.io_uring_group (it is {}) and processes with \
                 CAP_SYS_ADMIN may use it; type: sysctl -w kernel.io_uring_group={} (this process's group), or, for all processes: \
                 sysctl -w kernel.io_uring_disabled=0",
                self.group.as_deref().unwrap_or("unknown"),
                nix::unistd::getegid(),
            ),
            (Some(libc::EPERM | libc::EACCES), _) => {
                "the kernel's own switch is not the cause, so it is a seccomp profile, as container runtimes have one by default, or a \
                 security module; start the container with --security-opt seccomp=PROFILE.json, where PROFILE.json is the runtime's default \
                 profile with io_uring_setup, io_uring_enter and io_uring_register allowed (to try: --security-opt seccomp=unconfined)"
                    .to_owned()
            }
            (Some(libc::ENOSYS), _) => format!(
                "Linux {release} has no such system call: it is older than 5.1, or built without CONFIG_IO_URING, or a sandbox answers in its \
                 place (gVisor does, and so do the seccomp profiles of some container runtimes; try --security-opt seccomp=unconfined). \
                 Linux {needed} or newer is needed"
            ),
            (Some(libc::EINVAL), _) => {
                format!("Linux {release} does not know the modes that are needed; Linux {needed} or newer is needed")
            }
            (Some(libc::ENOMEM), _) => format!(
                "there is no memory for a ring, or locked memory is limited (RLIMIT_MEMLOCK is {} bytes); type: ulimit -l unlimited, or set \
                 LimitMEMLOCK=infinity in the service's unit",
                self.memlock
            ),
            (Some(libc::EMFILE), _) => "the process is out of descriptors; raise the limit: ulimit -n".to_owned(),
            (Some(_) | None, _) => format!("this is not a known cause on Linux {release}"),
        };
        format!("io_uring is refused ({error}): {cause}")
    }

    /// What a ring that could be made does not know, for a driver that needs the kernel `needed`.
    pub(super) fn lacks(&self, operations: &[&str], needed: &str) -> String {
        format!("io_uring on Linux {} lacks {}; Linux {needed} or newer is needed", self.release, operations.join(", "))
    }
}

/// Whether io_uring does all that the reactor needs.
fn check() -> Result<(), String> {
    let host = Host::look();
    let ring = build_ring(8, 16).map_err(|error| host.explain(&error, KERNEL_NEEDED))?;
    let missing = missing_operations(&ring).map_err(|error| host.explain(&error, KERNEL_NEEDED))?;
    if !missing.is_empty() {
        return Err(host.lacks(&missing, KERNEL_NEEDED));
    }
    drop(ring);
    rehearse().map_err(|error| {
        format!(
            "io_uring is there on Linux {}, but a trial connection over loopback failed: {error}. Linux {KERNEL_NEEDED} or newer is needed, and \
             a seccomp profile must not restrict its operations",
            host.release
        )
    })
}

fn missing_operations(ring: &io_uring::IoUring) -> io::Result<Vec<&'static str>> {
    let needed = [
        ("POLL_ADD", opcode::PollAdd::CODE),
        ("ACCEPT", opcode::AcceptMulti::CODE),
        ("URING_CMD", opcode::SetSockOpt::CODE),
        ("RECV", opcode::RecvMulti::CODE),
        ("SEND", opcode::Send::CODE),
        ("ASYNC_CANCEL", opcode::AsyncCancel::CODE),
        ("FILES_UPDATE", opcode::FilesUpdate::CODE),
        ("CONNECT", opcode::Connect::CODE),
        ("MSG_RING", opcode::MsgRingSendFd::CODE),
        ("SHUTDOWN", opcode::Shutdown::CODE),
        ("CLOSE", opcode::Close::CODE),
    ];
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    Ok(needed.into_iter().filter(|(_, code)| !probe.is_supported(*code)).map(|(name, _)| name).collect())
}

/// What the rehearsal has seen.
#[derive(Default)]
struct Seen {
    accepted: Option<ConnId>,
    departed: Option<Parcel>,
    received: Vec<u8>,
    failed: Option<String>,
}

impl Sink for Seen {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Accepted { conn, peer } if peer.is_loopback() => self.accepted = Some(conn),
            Event::Departed { parcel, .. } => self.departed = Some(parcel),
            Event::Received { bytes, .. } => self.received.extend_from_slice(bytes),
            Event::Accepted { .. }
            | Event::MoveRefused { .. }
            | Event::Connected { .. }
            | Event::ConnectFailed { .. }
            | Event::Sent { .. }
            | Event::Eof { .. }
            | Event::Broken { .. }
            | Event::Closed { .. } => self.failed = Some(format!("{event:?}")),
        }
    }

    fn takes_bytes(&mut self) -> bool {
        true
    }
}

/// Accepts a connection on one ring, moves it to another, and receives from it there.
fn rehearse() -> io::Result<()> {
    let listener = socket::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), ListenOptions { backlog: 1, user_timeout_ms: 0 })?;
    let addr = socket::local_addr(&listener)?;
    let bell = Bell::new()?;
    let peers = Peers::new(2);
    let make = |listener, shard| {
        let peers = peers.clone();
        let setup = Setup {
            kind: Kind::Uring,
            slots: 4,
            listener,
            peers,
            receive_buffers: 2,
            receive_buffer_bytes: 64,
            idle_ms: 0,
            stats: Default::default(),
        };
        Uring::new(setup, ShardId(shard), bell.as_fd())
    };
    let mut here = make(Some(listener), 0)?;
    let mut there = make(None, 1)?;
    here.submit_and_wait(Tick(0), Wait::No)?;
    let mut client = TcpStream::connect_timeout(&addr, REHEARSAL_TIMEOUT)?;

    let mut seen = Seen::default();
    turn_until(&mut here, &mut seen, "accept it and learn its address", |seen| seen.accepted.is_some())?;
    here.depart(seen.accepted.expect("was awaited"), ShardId(1));
    turn_until(&mut here, &mut seen, "move it to another ring", |seen| seen.departed.is_some())?;
    there.adopt(seen.departed.take().expect("was awaited")).map_err(io::Error::from_raw_os_error)?;
    io::Write::write_all(&mut client, b"weir")?;
    turn_until(&mut there, &mut seen, "receive from it", |seen| seen.received == b"weir")
}

fn turn_until(uring: &mut Uring, seen: &mut Seen, what: &str, done: impl Fn(&Seen) -> bool) -> io::Result<()> {
    let deadline = Instant::now() + REHEARSAL_TIMEOUT;
    loop {
        uring.submit_and_wait(Tick(0), Wait::Micros(10_000))?;
        uring.dispatch(16, seen);
        if done(seen) {
            return Ok(());
        }
        if let Some(event) = &seen.failed {
            return Err(io::Error::other(format!("it was to {what}, and the event was {event}")));
        }
        if Instant::now() > deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("it did not {what}")));
        }
    }
}

#[cfg(test)]
#[allow(unsafe_code, reason = "the tests refuse a system call to their own thread")]
mod tests {
    use super::*;

    type Detected = Result<(Kind, Option<String>), String>;

    /// Makes `io_uring_setup` fail with `errno` on this thread, by a seccomp filter.
    fn refuse_io_uring(errno: i32) {
        // if (number == io_uring_setup) return errno; else allow
        let load = libc::sock_filter { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: 0 };
        let number = libc::SYS_io_uring_setup as u32;
        let test = libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: 0, jf: 1, k: number };
        let give = |k| libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k };
        let mut filter = [load, test, give(libc::SECCOMP_RET_ERRNO | errno as u32), give(libc::SECCOMP_RET_ALLOW)];
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: the program and its filter live until both calls, which only read them, have returned.
        let outcome = unsafe {
            assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, std::ptr::from_ref(&program))
        };
        assert_eq!(outcome, 0, "{}", io::Error::last_os_error());
    }

    /// What is detected when anything goes, and when io_uring must be.
    fn on_a_thread_without_io_uring(errno: i32) -> (Detected, Detected) {
        let run = move || {
            refuse_io_uring(errno);
            (detect(Choice::Auto), detect(Choice::Uring))
        };
        std::thread::spawn(run).join().expect("no panic")
    }

    #[test]
    fn a_container_that_refuses_io_uring_gets_epoll_and_the_reason() {
        let (auto, forced) = on_a_thread_without_io_uring(libc::EPERM);
        let Ok((Kind::Epoll, Some(reason))) = auto else { panic!("{auto:?}") };
        assert_eq!(forced, Err(reason.clone()));
        // A host with the switch on gives its own reason for the same error, which is right there.
        let expected = match Host::look().disabled.as_deref() {
            Some("1" | "2") => "kernel.io_uring_disabled",
            Some(_) | None => "--security-opt seccomp=",
        };
        assert!(reason.contains(expected), "{reason}");
    }

    #[test]
    fn a_kernel_without_io_uring_gets_epoll_and_the_versions() {
        let (auto, forced) = on_a_thread_without_io_uring(libc::ENOSYS);
        let Ok((Kind::Epoll, Some(reason))) = auto else { panic!("{auto:?}") };
        assert!(reason.contains(KERNEL_NEEDED) && reason.contains(&Host::look().release), "{reason}");
        assert_eq!(forced, Err(reason));
    }

    #[test]
    fn each_refusal_says_what_to_type() {
        let host = |disabled: &str| Host {
            release: "6.9.1".to_owned(),
            disabled: Some(disabled.to_owned()),
            group: Some("-1".to_owned()),
            memlock: 65_536,
        };
        let cases = [
            ("2", libc::EPERM, "sysctl -w kernel.io_uring_disabled=0"),
            ("1", libc::EPERM, "sysctl -w kernel.io_uring_group="),
            ("0", libc::EPERM, "--security-opt seccomp=PROFILE.json"),
            ("0", libc::EINVAL, "Linux 6.9.1 does not know"),
            ("0", libc::ENOMEM, "RLIMIT_MEMLOCK is 65536 bytes"),
        ];
        for (disabled, errno, expected) in cases {
            let text = host(disabled).explain(&io::Error::from_raw_os_error(errno), KERNEL_NEEDED);
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn detection_and_the_reactor_agree() {
        match detect(Choice::Auto) {
            Ok((Kind::Uring, None)) => assert_eq!(detect(Choice::Uring), Ok((Kind::Uring, None))),
            Ok((Kind::Epoll, Some(reason))) => assert_eq!(detect(Choice::Uring), Err(reason)),
            other => panic!("{other:?}"),
        }
        assert_eq!(detect(Choice::Epoll), Ok((Kind::Epoll, None)));
    }
}
