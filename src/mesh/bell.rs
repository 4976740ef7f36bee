//! Waking a port that sleeps, and only then.
//!
//! The lost-wakeup protocol, proven in `tests/loom`: a port that wants to sleep raises its flag, fences, and looks at its
//! rings once more; a port that has published looks, after a fence, at the flag. One of the two sees the other.
#![forbid(unsafe_code)]

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering, fence};
use std::os::fd::{AsFd, BorrowedFd};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering, fence};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Says whether its port sleeps.
#[derive(Debug)]
pub struct SleepFlag(AtomicBool);

impl Default for SleepFlag {
    fn default() -> Self {
        SleepFlag(AtomicBool::new(false))
    }
}

impl SleepFlag {
    /// The port is about to sleep. It must look at its rings once more after this, and [`SleepFlag::lower`] if it found something.
    pub fn raise(&self) {
        // A plain store would do, by the rule that an atomic's swap reads its newest value. loom knows that rule only among
        // swaps; a swap here lets it follow, and costs nothing beside the fence and the sleep.
        self.0.swap(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The port is awake.
    pub fn lower(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// For a peer that has published: whether it has to ring. True once for each time the port fell asleep.
    pub fn must_ring(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}

/// An eventfd that wakes a reactor.
#[derive(Debug)]
pub struct Bell(EventFd);

impl Bell {
    /// # Errors
    /// The process is out of descriptors.
    pub fn new() -> nix::Result<Bell> {
        EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).map(Bell)
    }

    /// Wakes the port.
    pub fn ring(&self) {
        // Fails only when the counter would overflow, and then it is readable anyway.
        let _ = self.0.write(1);
    }

    /// Makes the bell silent until it is rung again.
    pub fn silence(&self) {
        // Fails only when it was silent.
        let _ = self.0.read();
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
