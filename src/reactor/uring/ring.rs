//! One io_uring: its set-up, and the one system call of a turn.

use std::{collections::VecDeque, io, os::fd::AsRawFd, sync::Arc, time::Duration};

use io_uring::{EnterFlags, IoUring, cqueue, squeue, types::CancelBuilder, types::Timespec};

use super::super::Wait;
use crate::limits::{URING_COMPLETIONS_MAX, URING_COMPLETIONS_MIN, URING_SUBMISSIONS};
use crate::stats::ReactorStats;

/// How long a ring that is dropped waits for its operations to be cancelled.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);

const REGISTER_RING_FDS: u32 = 20;
const UNREGISTER_RING_FDS: u32 = 21;

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct ResourceUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// `struct io_uring_getevents_arg`.
#[repr(C)]
struct WaitArgument {
    signal_mask: u64,
    signal_mask_bytes: u32,
    min_wait_us: u32,
    timeout: u64,
}

/// An io_uring with its descriptor registered, and a queue behind its submission queue.
pub(in super::super) struct Ring {
    ring: IoUring,
    /// The descriptor's number among this thread's registered rings; -1: not registered.
    registered: i32,
    /// What found the submission queue full, because the kernel would not take it.
    backlog: VecDeque<squeue::Entry>,
    /// How often the completion queue has overflowed, among others. Nothing is lost then, it only costs time.
    stats: Arc<ReactorStats>,
}

/// Makes an io_uring with the flags that the reactor needs.
pub(in super::super) fn build(submissions: u32, completions: u32) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_submit_all().setup_cqsize(completions);
    match builder.clone().setup_no_sqarray().build(submissions) {
        // An older kernel does not know the flag, which only saves some memory.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => builder.build(submissions),
        made => made,
    }
}

impl Ring {
    /// A ring with a table of `slots` direct descriptors.
    pub(in super::super) fn new(slots: u32, stats: Arc<ReactorStats>) -> io::Result<Ring> {
        let completions = slots.saturating_mul(2).clamp(URING_COMPLETIONS_MIN, URING_COMPLETIONS_MAX).next_power_of_two();
        let ring = build(URING_SUBMISSIONS, completions)?;
        ring.submitter().register_files_sparse(slots).map_err(|error| explain_table(slots, &error))?;
        // Only `shutdown` goes to a worker. A kernel before 5.15 does not know the call, and has its own bounds.
        let _ = ring.submitter().register_iowq_max_workers(&mut [1, 1]);
        let registered = register_descriptor(&ring);
        Ok(Ring { ring, registered, backlog: VecDeque::new(), stats })
    }

    /// Registers the buffer ring at `address` as group 0.
    ///
    /// # Safety
    /// The memory of `count` entries at `address` outlives this ring.
    pub(in super::super) unsafe fn register_buffers(&self, address: u64, count: u16) -> io::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.ring.submitter().register_buf_ring_with_flags(address, count, 0, 0) }
    }

    /// The descriptor by which other rings reach this one.
    pub(in super::super) fn descriptor(&self) -> i32 {
        self.ring.as_raw_fd()
    }

    /// Queues one operation.
    ///
    /// # Safety
    /// Memory that the entry points to stays valid and unmoved until its completion.
    pub(in super::super) unsafe fn push(&mut self, entry: squeue::Entry) {
        if self.backlog.is_empty() {
            // SAFETY: the caller's promise.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            // Full. Its error shows again at the next turn, if it lasts.
            let _ = self.enter(0, 0, None);
            // SAFETY: the caller's promise.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
        }
        self.backlog.push_back(entry);
    }

    /// The next completion. There is none left only when the kernel keeps none aside either.
    pub(in super::super) fn next_completion(&mut self) -> Option<cqueue::Entry> {
        let completion = self.ring.completion().next();
        if completion.is_none() && self.ring.submission().cq_overflow() {
            self.stats.completions_overflowed.add(1);
            let overflows = self.stats.completions_overflowed.get();
            if overflows.is_power_of_two() {
                log::warn!("the completion queue has overflowed {overflows} times: nothing is lost, but turns are slow");
            }
            // An error that lasts shows at the next turn.
            let _ = self.enter(0, EnterFlags::GETEVENTS.bits(), None);
            return self.ring.completion().next();
        }
        completion
    }

    /// Hands everything queued to the kernel, lets it finish what is ready, and waits for a completion as long as `wait` says.
    pub(in super::super) fn submit_and_wait(&mut self, wait: Wait) -> io::Result<()> {
        self.refill();
        let submission = self.ring.submission();
        let (idle, task_work, overflow) = (submission.is_empty(), submission.taskrun(), submission.cq_overflow());
        drop(submission);
        let wait = if self.backlog.is_empty() && self.ring.completion().is_empty() { wait } else { Wait::No };
        let get_events = EnterFlags::GETEVENTS.bits();
        let outcome = match wait {
            // With deferred task work, completions appear in a call that asks for them and nowhere else.
            Wait::No if idle && !task_work && !overflow => Ok(()),
            Wait::No => self.enter(0, get_events, None),
            Wait::Micros(micros) => self.enter(1, get_events, Some(Timespec::from(Duration::from_micros(micros)))),
            Wait::Forever => self.enter(1, get_events, None),
        };
        match outcome.as_ref().map_err(io::Error::raw_os_error) {
            // Time is up; a signal; completions must be reaped before more is taken; no memory for a request right now.
            Err(Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)) => Ok(()),
            Ok(()) | Err(_) => outcome,
        }
    }

    /// Moves the backlog into the submission queue as far as it has room.
    fn refill(&mut self) {
        while let Some(entry) = self.backlog.front() {
            // SAFETY: whoever pushed the entry promised that its memory stays valid until its completion.
            if unsafe { self.ring.submission().push(entry) }.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }

    fn enter(&mut self, at_least: u32, flags: u32, timeout: Option<Timespec>) -> io::Result<()> {
        let submit = self.ring.submission().len();
        let (descriptor, flags) = match self.registered {
            -1 => (self.ring.as_raw_fd(), flags),
            index => (index, flags | EnterFlags::REGISTERED_RING.bits()),
        };
        let timeout = timeout.as_ref().map_or(0, |timeout| std::ptr::from_ref(timeout) as u64);
        let argument = WaitArgument { signal_mask: 0, signal_mask_bytes: 0, min_wait_us: 0, timeout };
        // SAFETY: the descriptor is this ring's. `argument` has the kernel's layout, and it and the timeout it points to live until the
        // call returns. The first `submit` entries of the queue were written by `push`.
        let outcome = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                descriptor,
                submit,
                at_least,
                flags | EnterFlags::EXT_ARG.bits(),
                std::ptr::from_ref(&argument),
                size_of::<WaitArgument>(),
            )
        };
        if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Ends everything that is in flight. When this fails, the kernel may still use memory of operations.
    pub(in super::super) fn shut(&mut self) -> io::Result<()> {
        self.backlog.clear();
        // Entries that were never handed in are now: what they point to is still there, and they are cancelled with the rest.
        let _ = self.enter(0, 0, None);
        let cancelled = self.ring.submitter().register_sync_cancel(Some(Timespec::from(CANCEL_TIMEOUT)), CancelBuilder::any());
        // The registered descriptor holds the ring open, and the table its sockets.
        if self.registered >= 0 {
            let mut update = ResourceUpdate { offset: self.registered as u32, reserved: 0, data: 0 };
            let _ = register(&self.ring, UNREGISTER_RING_FDS, &mut update);
            self.registered = -1;
        }
        let _ = self.ring.submitter().unregister_files();
        match cancelled {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// Saves the look-up of the descriptor in each call. Without it everything works, only slower.
fn register_descriptor(ring: &IoUring) -> i32 {
    let mut update = ResourceUpdate { offset: u32::MAX, reserved: 0, data: ring.as_raw_fd() as u64 };
    match register(ring, REGISTER_RING_FDS, &mut update) {
        Ok(1) => update.offset as i32,
        Ok(_) | Err(_) => -1,
    }
}

fn register(ring: &IoUring, operation: u32, update: &mut ResourceUpdate) -> io::Result<i64> {
    // SAFETY: both operations that come here take one `io_uring_rsrc_update`, whose layout `ResourceUpdate` has, and only during the call.
    let outcome =
        unsafe { libc::syscall(libc::SYS_io_uring_register, ring.as_raw_fd(), operation, std::ptr::from_mut(update), 1) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(outcome) }
}

fn explain_table(slots: u32, error: &io::Error) -> io::Error {
    let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap_or((0, 0));
    let text = match error.raw_os_error() {
        Some(libc::EMFILE) => format!(
            "a table of {slots} direct descriptors is larger than the limit of open files, which is {soft} (at most {hard}), and a \
             reactor cannot hold more connections than that: spread them over more reactors (--shards), or raise the limit (ulimit -n {slots}, \
             or LimitNOFILE={slots} in the service's unit)"
        ),
        _ => format!("cannot register a table of {slots} direct descriptors: {error}"),
    };
    io::Error::new(error.kind(), text)
}
