//! Ctrl-C and SIGTERM, taken in turn with everything else instead of in a handler.
#![forbid(unsafe_code)]

use std::cell::Cell;

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};

/// Both signals, blocked for this process's threads from here on. To be made before any thread, and after any child process
/// that does not [take them again](unblock): children inherit what is blocked.
pub(crate) struct Signals {
    fd: SignalFd,
    interrupted: Cell<bool>,
}

fn both() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM].into_iter().collect()
}

/// Lets both end this process again, as a program expects that is started next in its place.
pub(crate) fn unblock() -> nix::Result<()> {
    both().thread_unblock()
}

impl Signals {
    /// # Errors
    /// The process is out of descriptors.
    pub(crate) fn block() -> nix::Result<Signals> {
        let set = both();
        set.thread_block()?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Signals { fd, interrupted: Cell::new(false) })
    }

    /// Whether either came. The second one ends the process at once.
    pub(crate) fn interrupted(&self) -> bool {
        while let Ok(Some(_)) = self.fd.read_signal() {
            if self.interrupted.replace(true) {
                std::process::exit(130);
            }
        }
        self.interrupted.get()
    }
}
