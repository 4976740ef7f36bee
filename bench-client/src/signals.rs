//! Ctrl-C and SIGTERM, taken in turn with everything else instead of in a handler.
#![forbid(unsafe_code)]

use std::cell::Cell;

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};

/// Both signals, blocked for this process's threads from here on. To be made before any thread, and after any child process that is not
/// [let through](Signals::let_through): children inherit what is blocked.
pub(crate) struct Signals {
    set: SigSet,
    fd: SignalFd,
    interrupted: Cell<bool>,
}

impl Signals {
    /// # Errors
    /// The process is out of descriptors.
    pub(crate) fn block() -> nix::Result<Signals> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGINT);
        set.add(Signal::SIGTERM);
        set.thread_block()?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Signals { set, fd, interrupted: Cell::new(false) })
    }

    /// Lets both through for as long as a child is started, so that they can end it: children inherit what is blocked. What comes
    /// just then ends this process.
    pub(crate) fn let_through<T>(&self, start: impl FnOnce() -> T) -> T {
        // What waits already is no reason to die.
        self.interrupted();
        self.set.thread_unblock().expect("the set is one that was blocked");
        let started = start();
        self.set.thread_block().expect("it was blocked before");
        started
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
