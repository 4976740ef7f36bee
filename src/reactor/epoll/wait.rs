//! Waiting in the kernel, in microseconds where it can.

use std::os::fd::AsRawFd;

use nix::{errno::Errno, sys::epoll::EpollTimeout};

use super::Epoll;
use crate::reactor::Wait;

impl Epoll {
    /// Waits in the kernel; returns the number of edges.
    pub(super) fn wait(&mut self, wait: Wait) -> nix::Result<usize> {
        let timeout = match wait {
            Wait::No => EpollTimeout::ZERO,
            Wait::Forever => EpollTimeout::NONE,
            Wait::Micros(micros) if self.waits_finely => match self.wait_micros(micros) {
                Err(Errno::ENOSYS | Errno::EPERM) => {
                    self.waits_finely = false;
                    log::debug!("this kernel or its seccomp filter has no epoll_pwait2: timers are late by up to 1 ms");
                    return Ok(0);
                }
                result => return result,
            },
            Wait::Micros(micros) => EpollTimeout::try_from(micros.div_ceil(1_000)).unwrap_or(EpollTimeout::MAX),
        };
        self.poll.wait(&mut self.edges, timeout)
    }

    /// `epoll_pwait2`, by its number: C libraries older than Linux 5.11 do not know it.
    fn wait_micros(&mut self, micros: u64) -> nix::Result<usize> {
        let timeout = libc::timespec { tv_sec: (micros / 1_000_000) as i64, tv_nsec: (micros % 1_000_000 * 1_000) as i64 };
        // SAFETY: the pointers outlive the call; `EpollEvent` is a transparent `libc::epoll_event`, the kernel writes at most
        // as many of them as it is told there are, and reads no signal mask (a null pointer).
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.poll.0.as_raw_fd(),
                self.edges.as_mut_ptr().cast::<libc::epoll_event>(),
                self.edges.len() as libc::c_int,
                &raw const timeout,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        Errno::result(count).map(|count| count as usize)
    }
}
