//! The turn of every reactor, and its order: reap, handle, drain the rings, tick, do what the machine asks for, submit.
#![forbid(unsafe_code)]

use std::{collections::HashMap, io, ops::ControlFlow};

use super::{Backend, BlockingBackend, Clock, Envelope, Event, Sink, Wait};
use crate::{
    ids::{ConnId, ShardId},
    io::{Input, Machine, Output, Tick},
    limits::{EVENTS_PER_TURN, MESSAGES_PER_TURN},
    mesh::Port,
    stats::ReactorStats,
};

/// A refused post is tried again after this long at the latest.
const REFUSED_POST_RETRY_US: u64 = 500;

/// A machine under its driver.
struct Driver<'a, M: Machine> {
    machine: &'a mut M,
    clock: Clock,
    now: Tick,
    /// What the machine said of connections whose move is under way.
    departing: HashMap<ConnId, (ShardId, M::Message)>,
    /// Parcels that wait for room in a ring. Bounded by the connections of the table.
    parcels: Vec<(ShardId, Envelope<M::Message>)>,
    /// Posts that found a ring full in this turn.
    refused: Vec<(ShardId, M::Message)>,
    /// Whether the backend holds bytes back because the machine was congested.
    holds_bytes: bool,
}

impl<M: Machine> Sink for Driver<'_, M> {
    fn event(&mut self, event: Event<'_>) {
        let input = match event {
            Event::Accepted { conn, peer } => {
                // A turn may be long, and what a new connection says in it must not seem older than what made its peer connect.
                self.now = self.clock.now();
                Input::Accepted { conn, peer }
            }
            Event::Connected { conn, token } => Input::Connected { conn, token },
            Event::ConnectFailed { token, errno } => Input::ConnectFailed { token, errno },
            Event::Received { conn, bytes } => Input::Received { conn, bytes },
            Event::Sent { conn, chunk } => Input::Sent { conn, chunk },
            Event::Eof { conn } => Input::Eof { conn },
            Event::Broken { conn, errno } => Input::Broken { conn, errno },
            Event::Closed { conn } => Input::Closed { conn },
            Event::Departed { conn, parcel } => {
                let (to, message) = self.departing.remove(&conn).expect("only departing connections depart");
                self.parcels.push((to, Envelope::Adopt { parcel, message }));
                return;
            }
            Event::MoveRefused { conn } => {
                let (_, message) = self.departing.remove(&conn).expect("only departing connections are refused");
                Input::MoveRefused { conn, message }
            }
        };
        self.machine.handle(self.now, input);
    }

    fn takes_bytes(&mut self) -> bool {
        let congested = self.machine.is_congested();
        self.holds_bytes |= congested;
        !congested
    }
}

impl<M: Machine> Driver<'_, M> {
    /// Takes what the peers sent: messages, and connections.
    fn drain(&mut self, backend: &mut impl Backend, port: &mut Port<Envelope<M::Message>>) {
        // What is left behind needs no mark: a port with messages in its rings does not fall asleep.
        port.receive(MESSAGES_PER_TURN, |from, envelope| {
            let input = match envelope {
                Envelope::Message(message) => Input::Posted { from, message },
                Envelope::Adopt { parcel, message } => match backend.adopt(parcel) {
                    Ok(conn) => Input::Adopted { conn, from, message },
                    Err(errno) => Input::AdoptFailed { from, message, errno },
                },
            };
            self.machine.handle(self.now, input);
        });
    }

    /// Posts the parcels; those that find their ring full stay, in order.
    fn post_parcels(&mut self, port: &mut Port<Envelope<M::Message>>) {
        for (to, envelope) in std::mem::take(&mut self.parcels) {
            if let Err(envelope) = port.post(to, envelope) {
                self.parcels.push((to, envelope));
            }
        }
    }

    /// Does what the machine asks for; breaks when that is to stop. Otherwise says whether posts were refused.
    fn perform(&mut self, backend: &mut impl Backend, port: &mut Port<Envelope<M::Message>>) -> ControlFlow<(), bool> {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Connect { token, from, to } => backend.connect(token, from, to),
                Output::Send { conn, chunk } => backend.send(conn, chunk),
                Output::Stay { conn } => backend.stay(conn),
                Output::Move { conn, to, message } => {
                    self.departing.insert(conn, (to, message));
                    backend.depart(conn, to);
                }
                Output::Finish { conn } => backend.finish(conn),
                Output::Close { conn } => backend.close(conn),
                Output::Post { to, message } => self.post(port, to, message),
                Output::StopAccepting => backend.stop_accepting(),
                Output::Stop => return ControlFlow::Break(()),
            }
        }
        let any_refused = !self.refused.is_empty();
        for (to, message) in self.refused.drain(..) {
            self.machine.handle(self.now, Input::PostRefused { to, message });
        }
        ControlFlow::Continue(any_refused)
    }

    fn post(&mut self, port: &mut Port<Envelope<M::Message>>, to: ShardId, message: M::Message) {
        // Behind a refused message every later one to the same port is refused too, even if the ring has room again: the
        // machine gets them back in the order in which it posted them.
        if self.refused.iter().any(|(refused, _)| *refused == to) {
            self.refused.push((to, message));
        } else if let Err(Envelope::Message(message)) = port.post(to, Envelope::Message(message)) {
            self.refused.push((to, message));
        }
    }
}

/// The turns of one machine, but for the waiting between them, which is its driver's.
pub(super) struct Turns<'a, M: Machine> {
    driver: Driver<'a, M>,
    stats: &'a ReactorStats,
    /// How long the driver may wait before the next turn, and whether the port was declared asleep meanwhile.
    wait: Wait,
    asleep: bool,
}

impl<'a, M: Machine> Turns<'a, M> {
    pub(super) fn new(machine: &'a mut M, clock: Clock, stats: &'a ReactorStats) -> Turns<'a, M> {
        let driver = Driver {
            machine,
            clock,
            now: clock.now(),
            departing: HashMap::new(),
            parcels: Vec::new(),
            refused: Vec::new(),
            holds_bytes: false,
        };
        Turns { driver, stats, wait: Wait::No, asleep: false }
    }

    /// Begins a turn: how long the driver may wait for its events. [`Turns::go_on`] must follow.
    pub(super) fn begin(&mut self, port: &mut Port<Envelope<M::Message>>) -> Wait {
        // 1. reap
        self.asleep = self.wait != Wait::No && port.sleep();
        if self.asleep { self.wait } else { Wait::No }
    }

    /// Works through the turn, when the driver has waited. Breaks when the machine says `Stop`.
    pub(super) fn go_on(
        &mut self,
        backend: &mut impl Backend,
        port: &mut Port<Envelope<M::Message>>,
        waited: io::Result<()>,
    ) -> io::Result<ControlFlow<()>> {
        if self.asleep {
            port.wake();
        }
        waited?;
        let driver = &mut self.driver;
        driver.now = driver.clock.now();
        // 2. handle each
        driver.holds_bytes = false;
        let more = backend.dispatch(EVENTS_PER_TURN, driver);
        // Connections go before messages, so that messages cannot keep them from a full ring for ever.
        driver.post_parcels(port);
        // 3. drain rings
        driver.drain(backend, port);
        // 4. tick
        let mut wake_at = driver.machine.handle_tick(driver.now);
        // 5. poll outputs
        let flow = driver.perform(backend, port);
        self.stats.wakes.add(port.publish() as u64);
        self.stats.turns.add(1);
        let ControlFlow::Continue(retries) = flow else { return Ok(ControlFlow::Break(())) };
        // 6. submit, at the top of the next turn
        if retries || !driver.parcels.is_empty() {
            let retry = Tick(driver.now.0 + REFUSED_POST_RETRY_US);
            wake_at = Some(wake_at.map_or(retry, |at| at.min(retry)));
        }
        // Bytes held back are due as soon as the machine takes them, which no event of the backend will tell.
        let due = more || driver.holds_bytes && !driver.machine.is_congested();
        self.wait = match wake_at {
            _ if due => Wait::No,
            None => Wait::Forever,
            Some(at) => match at.micros_since(driver.clock.now()) {
                0 => Wait::No,
                micros => Wait::Micros(micros),
            },
        };
        Ok(ControlFlow::Continue(()))
    }
}

/// Drives `machine` until it says `Stop`.
pub(super) fn drive<M: Machine>(
    machine: &mut M,
    backend: &mut impl BlockingBackend,
    port: &mut Port<Envelope<M::Message>>,
    clock: Clock,
    stats: &ReactorStats,
) -> io::Result<()> {
    let mut turns = Turns::new(machine, clock, stats);
    loop {
        let wait = turns.begin(port);
        let waited = backend.submit_and_wait(turns.driver.now, wait);
        if turns.go_on(backend, port, waited)?.is_break() {
            return Ok(());
        }
    }
}
