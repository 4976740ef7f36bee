//! Accepting on the glommio reactor: a task beside the turns, which may accept as many connections as each turn allows.

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::poll_fn,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _, OwnedFd},
    rc::Rc,
    sync::Arc,
    task::{Poll, Waker},
};

use ::glommio::{
    Task,
    net::{AcceptedTcpStream, TcpListener, TcpStream},
    spawn_local,
};
use nix::{
    errno::Errno,
    sys::socket::{Shutdown, shutdown},
};
use socket2::SockRef;

use super::{Signals, errno_of, signals::look_at_rings};
use crate::{
    limits::ACCEPTS_PER_TURN,
    reactor::pause::{Pauses, is_of_one_connection},
    stats::ReactorStats,
};

/// The task, and what is known of accepting.
pub(super) struct Acceptor {
    task: Task<()>,
    shared: Rc<RefCell<Shared>>,
    /// Our own descriptor of the listener, because glommio's gives none. `None`: this reactor accepts nothing any more.
    listener: Option<OwnedFd>,
    pauses: Pauses,
}

/// What the task and the turns have in common.
#[derive(Default)]
struct Shared {
    /// What the task accepted, or failed with.
    arrived: VecDeque<Result<TcpStream, i32>>,
    /// How many connections the task may accept yet.
    credit: usize,
    stopped: bool,
    /// The task, while it waits for credit.
    waiting: Option<Waker>,
}

impl Acceptor {
    /// Starts the task, without credit.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub(super) fn new(listener: OwnedFd, signals: &Arc<Signals>, stats: Arc<ReactorStats>) -> io::Result<Acceptor> {
        // io_uring takes a non-blocking socket at its word: it would fail operations that have to wait.
        SockRef::from(&listener).set_nonblocking(false)?;
        let ours = listener.try_clone()?;
        // SAFETY: the descriptor is a listening socket's, and given up here.
        let listener = unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) };
        let shared = Rc::new(RefCell::new(Shared::default()));
        let task = spawn_local(accept_all(listener, Rc::clone(&shared), Arc::clone(signals)));
        Ok(Acceptor { task, shared, listener: Some(ours), pauses: Pauses::new(stats) })
    }

    /// How long a pause lasts yet, if there is one, in microseconds.
    pub(super) fn pause_left_us(&self) -> Option<u64> {
        self.pauses.left_us()
    }

    /// A connection has gone, and its descriptor with it.
    pub(super) fn end_pause(&mut self) {
        self.pauses.end();
    }

    /// The next connection that was accepted. A pause begins where the next cannot be.
    pub(super) fn next(&mut self) -> Option<TcpStream> {
        loop {
            let arrived = self.shared.borrow_mut().arrived.pop_front()?;
            match arrived {
                Ok(stream) => return Some(stream),
                Err(errno) => {
                    let errno = Errno::from_raw(errno);
                    if errno != Errno::EINTR && !is_of_one_connection(errno) {
                        self.pauses.begin(errno);
                    }
                }
            }
        }
    }

    /// Puts back a connection for which there is no slot.
    pub(super) fn keep(&mut self, stream: TcpStream) {
        self.pauses.note_full();
        self.shared.borrow_mut().arrived.push_front(Ok(stream));
    }

    /// Lets the task accept as many connections as there is room for; and always one, so that it shows when somebody waits.
    pub(super) fn go_on(&mut self, room: u32) {
        if self.pauses.lasts() {
            return;
        }
        let mut shared = self.shared.borrow_mut();
        shared.credit = if shared.arrived.is_empty() { (room as usize).clamp(1, ACCEPTS_PER_TURN) } else { 0 };
        if shared.credit > 0
            && let Some(task) = shared.waiting.take()
        {
            drop(shared);
            task.wake();
        }
    }

    /// Stops for good. An accept under way ends with an error.
    pub(super) fn stop(&mut self) {
        let Some(listener) = self.listener.take() else { return };
        let waiting = {
            let mut shared = self.shared.borrow_mut();
            shared.stopped = true;
            // As those that wait in the backlog, they end with the listener.
            shared.arrived.clear();
            shared.waiting.take()
        };
        // Fails only on a socket that does not listen.
        let _ = shutdown(listener.as_raw_fd(), Shutdown::Both);
        if let Some(task) = waiting {
            task.wake();
        }
    }

    /// Stops, and waits for the task: its accept would outlive it if it were dropped, and write to memory that is used for something else.
    pub(super) async fn end(mut self) {
        self.stop();
        self.task.await;
    }
}

impl Shared {
    /// Takes note of what an accept gave. Returns whether another is allowed.
    fn arrive(&mut self, outcome: Result<TcpStream, i32>) -> bool {
        if self.stopped {
            return false;
        }
        self.credit = if outcome.is_ok() { self.credit.saturating_sub(1) } else { 0 };
        self.arrived.push_back(outcome);
        self.credit > 0
    }
}

async fn accept_all(listener: TcpListener, shared: Rc<RefCell<Shared>>, signals: Arc<Signals>) {
    while has_credit(&shared).await {
        let accepted = listener.shared_accept().await;
        let outcome = accepted.map(AcceptedTcpStream::bind_to_executor).map_err(|error| errno_of(&error.into()));
        let goes_on = shared.borrow_mut().arrive(outcome);
        signals.notify();
        if !goes_on {
            // The turns give new credit at once, and together we could keep glommio from everything else.
            look_at_rings().await;
        }
    }
}

/// Waits for credit. False: no more is to be accepted.
async fn has_credit(shared: &RefCell<Shared>) -> bool {
    poll_fn(|context| {
        let mut shared = shared.borrow_mut();
        if shared.stopped {
            return Poll::Ready(false);
        }
        if shared.credit > 0 {
            return Poll::Ready(true);
        }
        shared.waiting = Some(context.waker().clone());
        Poll::Pending
    })
    .await
}
