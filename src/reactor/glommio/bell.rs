//! Hears the bell of the reactor's port: a task that always reads it, as a file.

use std::{
    cell::{Cell, RefCell},
    io,
    os::fd::{BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd},
    rc::Rc,
    sync::Arc,
};

use ::glommio::{Task, io::BufferedFile, spawn_local};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::Signals;

/// An eventfd is read as one number of so many bytes.
const NUMBER_BYTES: usize = 8;

/// The task, and what it says.
pub(super) struct BellTask {
    task: Task<()>,
    bell: OwnedFd,
    ends: Rc<Cell<bool>>,
    failure: Rc<RefCell<Option<io::Error>>>,
}

impl BellTask {
    pub(super) fn start(bell: BorrowedFd<'_>, signals: &Arc<Signals>) -> io::Result<BellTask> {
        // io_uring takes a non-blocking file at its word: the read would fail while the bell is silent. Nobody else reads this bell.
        fcntl(bell, FcntlArg::F_SETFL(OFlag::empty()))?;
        let (bell, read) = (bell.try_clone_to_owned()?, bell.try_clone_to_owned()?);
        // SAFETY: the descriptor is open, and given up here.
        let file = unsafe { BufferedFile::from_raw_fd(read.into_raw_fd()) };
        let (ends, failure) = (Rc::new(Cell::new(false)), Rc::new(RefCell::new(None)));
        let task = spawn_local(hear(file, Arc::clone(signals), Rc::clone(&ends), Rc::clone(&failure)));
        Ok(BellTask { task, bell, ends, failure })
    }

    /// # Errors
    /// The bell cannot be heard any more.
    pub(super) fn check(&self) -> io::Result<()> {
        self.failure.borrow_mut().take().map_or(Ok(()), Err)
    }

    /// Ends the task. Its read would outlive it if it were dropped, and write to memory that is used for something else.
    pub(super) async fn end(self) {
        self.ends.set(true);
        // Fails only when the bell was rung so often that it is readable anyway.
        let _ = nix::unistd::write(&self.bell, &1u64.to_ne_bytes());
        self.task.await;
    }
}

async fn hear(file: BufferedFile, signals: Arc<Signals>, ends: Rc<Cell<bool>>, failure: Rc<RefCell<Option<io::Error>>>) {
    while !ends.get() {
        if let Err(error) = file.read_at(0, NUMBER_BYTES).await {
            *failure.borrow_mut() = Some(error.into());
            signals.notify();
            break;
        }
        signals.notify();
    }
    // Fails only for a descriptor that is none.
    let _ = file.close().await;
}
