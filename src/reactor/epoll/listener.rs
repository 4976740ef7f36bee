//! Accepting on the epoll reactor: until the backlog is empty, with a pause where descriptors or memory run out.
#![forbid(unsafe_code)]

use std::{
    net::IpAddr,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::errno::Errno;
use socket2::Socket;

use crate::{limits::ACCEPT_PAUSE_MS, stats::ReactorStats};

/// A pause is logged at most this often.
const PAUSE_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// A listening socket and what is known of its backlog.
pub(super) struct Listener {
    socket: Socket,
    /// The kernel may have a connection for us. Edge-triggered: it will not say so again.
    pending: bool,
    paused_until: Option<Instant>,
    /// Connections wait because the table is full.
    full: bool,
    /// Pauses since the last one that was logged.
    pauses: u64,
    logged_at: Option<Instant>,
    stats: Arc<ReactorStats>,
}

impl Listener {
    pub(super) fn new(fd: OwnedFd, stats: Arc<ReactorStats>) -> Listener {
        Listener { socket: fd.into(), pending: true, paused_until: None, full: false, pauses: 0, logged_at: None, stats }
    }

    /// The kernel says that connections came.
    pub(super) fn note_edge(&mut self) {
        self.pending = true;
    }

    /// Whether it is worth asking for a connection now.
    pub(super) fn is_due(&mut self) -> bool {
        if self.paused_until.is_some_and(|until| until <= Instant::now()) {
            self.paused_until = None;
        }
        self.pending && self.paused_until.is_none()
    }

    /// How long the pause lasts yet, if there is one, in microseconds.
    pub(super) fn pause_left_us(&self) -> Option<u64> {
        self.paused_until.map(|until| until.saturating_duration_since(Instant::now()).as_micros() as u64 + 1)
    }

    /// A connection has gone, and its descriptor with it.
    pub(super) fn end_pause(&mut self) {
        self.paused_until = None;
        self.full = false;
    }

    /// Connections must wait until a slot is free.
    pub(super) fn note_full(&mut self) {
        if !std::mem::replace(&mut self.full, true) {
            self.log("this shard's table is full", "raise the limit of connections per shard, or the number of shards");
        }
    }

    /// The next connection. `None`: no more now, or a pause has begun.
    pub(super) fn accept(&mut self) -> Option<(OwnedFd, IpAddr)> {
        while self.is_due() {
            match self.socket.accept4(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) {
                Ok((socket, addr)) => {
                    // A connection without an address would not be of this listener's family: it cannot be served.
                    let Some(addr) = addr.as_socket() else { continue };
                    return Some((socket.into(), addr.ip().to_canonical()));
                }
                Err(error) => match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
                    Errno::EAGAIN => self.pending = false,
                    Errno::EINTR => {}
                    // accept(2): errors of the one connection that is taken from the backlog with them.
                    Errno::ECONNABORTED
                    | Errno::EPROTO
                    | Errno::ENETDOWN
                    | Errno::ENOPROTOOPT
                    | Errno::EHOSTDOWN
                    | Errno::ENONET
                    | Errno::EHOSTUNREACH
                    | Errno::EOPNOTSUPP
                    | Errno::ENETUNREACH
                    | Errno::ETIMEDOUT => {}
                    errno => self.pause(errno),
                },
            }
        }
        None
    }

    /// Stops accepting for a while, because trying again at once would fail again.
    pub(super) fn pause(&mut self, errno: Errno) {
        self.paused_until = Some(Instant::now() + Duration::from_millis(ACCEPT_PAUSE_MS));
        let advice = match errno {
            Errno::EMFILE => "raise the process's limit (LimitNOFILE= in its unit, or ulimit -n)",
            Errno::ENFILE => "raise the host's limit (sysctl fs.file-max)",
            Errno::ENOSPC => "raise the host's limit of epoll registrations (sysctl fs.epoll.max_user_watches)",
            _ => "look at the host's memory and at sysctl net.ipv4.tcp_mem",
        };
        self.log(errno.desc(), advice);
    }

    fn log(&mut self, cause: &str, advice: &str) {
        let now = Instant::now();
        self.pauses += 1;
        self.stats.accept_pauses.add(1);
        if self.logged_at.is_none_or(|at| now - at >= PAUSE_LOG_INTERVAL) {
            let pauses = std::mem::take(&mut self.pauses);
            log::warn!("accepting pauses, new clients wait: {cause} ({pauses} times since this was last said); {advice}");
            self.logged_at = Some(now);
        }
    }
}
