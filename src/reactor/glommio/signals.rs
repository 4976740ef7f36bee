//! What glommio wakes: connections by their ids, and with the first of them the task of the turns.
#![forbid(unsafe_code)]

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Poll, Wake, Waker},
    time::Duration,
};

use ::glommio::timer::Timer;

use crate::ids::ConnId;

/// Longer than any wait.
const NOT_SOON: Duration = Duration::from_secs(3_600);

/// What was woken since the last turn. Only one thread uses it; the lock is there because a waker could be sent to another.
#[derive(Default)]
pub(super) struct Signals(Mutex<State>);

#[derive(Default)]
struct State {
    woken: Vec<ConnId>,
    /// Something else than a connection is to be looked at.
    notified: bool,
    /// The task of the turns, while it waits.
    turns: Option<Waker>,
}

/// Stands for one connection.
struct ConnWaker {
    conn: ConnId,
    signals: Arc<Signals>,
}

impl Wake for ConnWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.signals.note(|state| state.woken.push(self.conn));
    }
}

impl Signals {
    /// What glommio is to wake for a connection.
    pub(super) fn waker(self: &Arc<Self>, conn: ConnId) -> Waker {
        Waker::from(Arc::new(ConnWaker { conn, signals: Arc::clone(self) }))
    }

    /// Begins a turn.
    pub(super) fn notify(&self) {
        self.note(|state| state.notified = true);
    }

    fn note(&self, note: impl FnOnce(&mut State)) {
        let mut state = self.state();
        note(&mut state);
        let turns = state.turns.take();
        drop(state);
        if let Some(turns) = turns {
            turns.wake();
        }
    }

    /// Moves the connections that were woken to `woken`.
    pub(super) fn take(&self, woken: &mut Vec<ConnId>) {
        let mut state = self.state();
        state.notified = false;
        woken.append(&mut state.woken);
    }

    /// Waits for a signal, but no longer than `limit`.
    pub(super) async fn wait(&self, limit: Option<Duration>) {
        let mut timer = limit.map(Timer::new);
        poll_fn(|context| {
            let is_late = timer.as_mut().is_some_and(|timer| Pin::new(timer).poll(context).is_ready());
            let mut state = self.state();
            if is_late || state.notified || !state.woken.is_empty() {
                state.turns = None;
                return Poll::Ready(());
            }
            state.turns = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics with the lock")
    }
}

/// Lets glommio submit and reap, and goes on at once. It does so only when no task can run, so that a task which wakes itself would keep
/// it from that for as long as its preemption timer runs; timers that are due are woken behind it.
pub(super) async fn look_at_rings() {
    let mut timer = Timer::new(NOT_SOON);
    let mut has_looked = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_looked, true) {
            return Poll::Ready(());
        }
        let _ = Pin::new(&mut timer).poll(context);
        timer.reset(Duration::ZERO);
        Poll::Pending
    })
    .await;
}
