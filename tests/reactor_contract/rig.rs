//! Reactors in threads of their own, each with a probe; and clients that never wait for ever.
#![forbid(unsafe_code)]

use std::{
    io::Read,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Barrier,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use weir::{
    ids::{ConnId, ShardId},
    io::{Chunk, Output},
    limits::RECEIVE_IDLE_MS_DEFAULT,
    mesh::{Port, mesh},
    reactor::{
        Clock, Envelope, Kind, Peers, Setup, run,
        socket::{ListenOptions, listen, local_addr},
    },
};

use crate::probe::{Behaviour, Note, Probe, Report, Seen};

/// Nothing in these tests takes this long, unless it never happens.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough for something wrong to show itself.
pub(crate) const A_WHILE: Duration = Duration::from_millis(60);

/// A driver, and how long it waits before it takes a connection for idle.
#[derive(Clone, Copy)]
pub(crate) struct Driver {
    pub(crate) kind: Kind,
    /// Of its module of tests.
    pub(crate) name: &'static str,
    pub(crate) idle_ms: u32,
}

pub(crate) const EPOLL: Driver = Driver { kind: Kind::Epoll, name: "epoll", idle_ms: 0 };
#[cfg(feature = "glommio")]
pub(crate) const GLOMMIO: Driver = Driver { kind: Kind::Glommio, name: "glommio", idle_ms: 0 };
pub(crate) const URING: Driver = Driver { kind: Kind::Uring, name: "uring", idle_ms: RECEIVE_IDLE_MS_DEFAULT };
/// Goes to and fro between polls and receives all the time.
pub(crate) const URING_SOON_IDLE: Driver = Driver { kind: Kind::Uring, name: "uring_soon_idle", idle_ms: 1 };
/// Knows no polls.
pub(crate) const URING_NEVER_IDLE: Driver = Driver { kind: Kind::Uring, name: "uring_never_idle", idle_ms: 0 };

/// What the reactors of a test are made with.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    pub(crate) reactors: u16,
    /// By reactor; the last one counts for all that follow.
    pub(crate) slots: [u32; 2],
    /// Messages that fit into a ring of the mesh.
    pub(crate) ring: usize,
    pub(crate) behaviour: Behaviour,
    /// Of reactor 0, if it differs from the others.
    pub(crate) first: Option<Behaviour>,
}

impl Default for Options {
    fn default() -> Self {
        Options { reactors: 1, slots: [64, 64], ring: 64, behaviour: Behaviour::default(), first: None }
    }
}

/// Reactors that run, and the test's own port of their mesh.
pub(crate) struct Rig {
    pub(crate) reactors: Vec<Reactor>,
    port: Port<Envelope<Note>>,
    clock: Clock,
}

pub(crate) struct Reactor {
    /// Where it listens.
    pub(crate) addr: SocketAddr,
    reports: Receiver<Report>,
    thread: Option<JoinHandle<()>>,
}

impl Rig {
    pub(crate) fn new(driver: Driver, options: Options) -> Rig {
        let count = options.reactors;
        let mut ports = mesh(count + 1, options.ring).expect("a mesh can be made");
        let port = ports.pop().expect("one for the test");
        let peers = Peers::new(count);
        let clock = Clock::start();
        let built = Arc::new(Barrier::new(usize::from(count) + 1));
        let reactors = ports.into_iter().enumerate().map(|(index, port)| {
            let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
            let listener = listen(any_port, ListenOptions { backlog: 4096, user_timeout_ms: 30_000 }).expect("listens");
            let addr = local_addr(&listener).expect("is bound");
            let setup = Setup {
                kind: driver.kind,
                slots: options.slots[index.min(1)],
                listener: Some(listener),
                peers: peers.clone(),
                receive_buffers: 64,
                receive_buffer_bytes: 4096,
                idle_ms: driver.idle_ms,
                stats: Arc::default(),
            };
            let (mut probe, reports) = Probe::new(options.first.filter(|_| index == 0).unwrap_or(options.behaviour));
            let built = Arc::clone(&built);
            let ready = move || {
                built.wait();
                Ok(())
            };
            let reactor = move || run(&mut probe, port, setup, clock, ready).expect("the reactor runs");
            let thread = thread::Builder::new().name(format!("reactor-{index}")).spawn(reactor).expect("a thread starts");
            Reactor { addr, reports, thread: Some(thread) }
        });
        let rig = Rig { reactors: reactors.collect(), port, clock };
        built.wait();
        rig
    }

    /// A single reactor with its defaults.
    pub(crate) fn single(driver: Driver, behaviour: Behaviour) -> Rig {
        Rig::new(driver, Options { behaviour, ..Options::default() })
    }

    pub(crate) fn now(&self) -> weir::io::Tick {
        self.clock.now()
    }

    /// Posts to a reactor.
    pub(crate) fn tell(&mut self, reactor: usize, note: Note) {
        let deadline = Instant::now() + PATIENCE;
        let mut envelope = Envelope::Message(note);
        while let Err(back) = self.port.post(ShardId(reactor as u16), envelope) {
            assert!(Instant::now() < deadline, "reactor {reactor} does not read its ring: {back:?}");
            self.port.publish();
            thread::yield_now();
            envelope = back;
        }
        self.port.publish();
    }

    /// Has a reactor's probe ask for something.
    pub(crate) fn ask(&mut self, reactor: usize, output: Output<Note>) {
        self.tell(reactor, Note::Do(Box::new(output)));
    }

    /// Changes how a probe behaves; returns when it does.
    pub(crate) fn behave(&mut self, reactor: usize, behaviour: Behaviour) {
        self.tell(reactor, Note::Behave(behaviour));
        self.tell(reactor, Note::Number(u64::MAX));
        let from = self.port.id();
        self.reactors[reactor].expect(Seen::Number { from, number: u64::MAX });
    }

    pub(crate) fn send(&mut self, reactor: usize, conn: ConnId, bytes: &[u8]) {
        self.ask(reactor, Output::Send { conn, chunk: Chunk::Owned(bytes.to_vec()) });
    }

    /// Connects a client to a reactor's listener; gives the connection's id on that reactor too.
    pub(crate) fn client(&mut self, reactor: usize) -> (TcpStream, ConnId) {
        let client = connect(self.reactors[reactor].addr);
        let conn = self.reactors[reactor].accepted();
        (client, conn)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for reactor in 0..self.reactors.len() {
            if self.reactors[reactor].thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
                self.ask(reactor, Output::Stop);
            }
        }
        for reactor in &mut self.reactors {
            let thread = reactor.thread.take().expect("it is joined once");
            let deadline = Instant::now() + PATIENCE;
            while !thread.is_finished() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
            let result = if thread.is_finished() { thread.join() } else { panic_unless_panicking("a reactor did not stop") };
            if result.is_err() {
                let _ = panic_unless_panicking("a reactor's thread panicked");
            }
        }
    }
}

fn panic_unless_panicking(text: &str) -> thread::Result<()> {
    assert!(thread::panicking(), "{text}");
    Ok(())
}

impl Reactor {
    /// The first report, from now on, that `pick` takes; those before it are dropped.
    pub(crate) fn wait_for<T>(&mut self, what: &str, mut pick: impl FnMut(&Report) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut passed = Vec::new();
        loop {
            let report = match self.reports.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(report) => report,
                Err(RecvTimeoutError::Timeout) => panic!("waited {PATIENCE:?} for {what}, saw {}", summary(&passed)),
                Err(RecvTimeoutError::Disconnected) => panic!("the reactor ended before {what}; saw {}", summary(&passed)),
            };
            if let Some(found) = pick(&report) {
                return found;
            }
            passed.push(report);
        }
    }

    pub(crate) fn accepted(&mut self) -> ConnId {
        self.wait_for("Accepted", |report| match report.seen {
            Seen::Accepted { conn, .. } => Some(conn),
            _ => None,
        })
    }

    /// Waits until the reactor has seen exactly this.
    pub(crate) fn expect(&mut self, seen: Seen) {
        self.wait_for(&format!("{seen:?}"), |report| (report.seen == seen).then_some(()));
    }

    /// Collects `count` received bytes of a connection.
    pub(crate) fn received(&mut self, conn: ConnId, count: usize) -> Vec<u8> {
        let mut all = Vec::new();
        if count == 0 {
            return all;
        }
        self.wait_for(&format!("{count} bytes on {conn}"), |report| {
            if let Seen::Received { conn: from, bytes } = &report.seen
                && *from == conn
            {
                all.extend_from_slice(bytes);
            }
            (all.len() >= count).then_some(())
        });
        assert_eq!(all.len(), count, "more bytes came on {conn} than were sent");
        all
    }

    /// Everything reported within `during`.
    pub(crate) fn everything(&mut self, during: Duration) -> Vec<Report> {
        let deadline = Instant::now() + during;
        let mut reports = Vec::new();
        while let Ok(report) = self.reports.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            reports.push(report);
        }
        reports
    }

    /// Fails if anything is reported for a while.
    pub(crate) fn expect_silence(&mut self) {
        let reports = self.everything(A_WHILE);
        assert!(reports.is_empty(), "nothing should have happened, but: {}", summary(&reports));
    }
}

/// Reports, shortened.
fn summary(reports: &[Report]) -> String {
    let mut text = format!("{} reports", reports.len());
    for report in reports.iter().rev().take(8).rev() {
        let line = format!("{report:?}");
        text.push_str("\n  ");
        text.extend(line.chars().take(200));
    }
    text
}

/// A client that gives up after [`PATIENCE`].
pub(crate) fn connect(addr: SocketAddr) -> TcpStream {
    let client = TcpStream::connect_timeout(&addr, PATIENCE).expect("the reactor listens");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    client.set_write_timeout(Some(PATIENCE)).expect("a timeout can be set");
    client.set_nodelay(true).expect("an option can be set");
    client
}

/// Reads exactly `count` bytes.
pub(crate) fn read(client: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    client.read_exact(&mut bytes).unwrap_or_else(|error| panic!("the client waits for {count} bytes: {error}"));
    bytes
}

/// Reads until the end; gives what came before it.
pub(crate) fn read_to_end(client: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap_or_else(|error| panic!("the client waits for the end: {error}"));
    bytes
}

/// Bytes of which no stretch looks like another.
pub(crate) fn pattern(count: usize) -> Vec<u8> {
    (0..count as u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}
