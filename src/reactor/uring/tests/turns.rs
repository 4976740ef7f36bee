//! The driver turn by turn, without a thread: what must happen between two of its calls can be put there.

use std::{net::TcpListener, os::fd::AsFd};

use super::{
    super::{
        super::{Backend, BlockingBackend, Event, Sink, Wait},
        Uring,
        table::Flags,
    },
    *,
};
use crate::{limits::IDLE_CANCELS_PER_TURN, mesh::Bell};

/// What the driver told, in order.
#[derive(Default)]
struct Told {
    accepted: Vec<ConnId>,
    events: Vec<(ConnId, String)>,
    holds: bool,
}

impl Sink for Told {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Accepted { conn, .. } => self.accepted.push(conn),
            Event::Received { conn, bytes } => self.events.push((conn, String::from_utf8_lossy(bytes).into_owned())),
            Event::Sent { conn, .. } => self.events.push((conn, "sent".into())),
            Event::Eof { conn } => self.events.push((conn, "eof".into())),
            Event::Broken { conn, errno } => self.events.push((conn, format!("broken {errno}"))),
            other => panic!("{other:?}"),
        }
    }

    fn takes_bytes(&mut self) -> bool {
        !self.holds
    }
}

struct World {
    uring: Uring,
    told: Told,
    addr: SocketAddr,
    stats: Arc<ReactorStats>,
    clock: Clock,
}

impl World {
    fn new(buffers: u16, buffer_bytes: u32, idle_ms: u32) -> World {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let stats = Arc::<ReactorStats>::default();
        let setup = Setup {
            kind: Kind::Uring,
            slots: 1024,
            listener: Some(listener.into()),
            peers: Peers::new(1),
            receive_buffers: buffers,
            receive_buffer_bytes: buffer_bytes,
            idle_ms,
            stats: Arc::clone(&stats),
        };
        let uring = Uring::new(setup, ShardId(0), Bell::new().unwrap().as_fd()).unwrap();
        World { uring, told: Told::default(), addr, stats, clock: Clock::start() }
    }

    fn turn(&mut self) {
        self.uring.submit_and_wait(self.clock.now(), Wait::Micros(2_000)).unwrap();
        self.uring.dispatch(1024, &mut self.told);
    }

    fn turns_until(&mut self, what: &str, mut done: impl FnMut(&mut World) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !done(self) {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.told.events);
            self.turn();
        }
    }

    /// A connection that the machine keeps, and that has said something already.
    fn client(&mut self) -> (TcpStream, ConnId) {
        let mut stream = TcpStream::connect(self.addr).unwrap();
        let known = self.told.accepted.len();
        self.turns_until("it is accepted", |world| world.told.accepted.len() > known);
        let conn = self.told.accepted[known];
        self.uring.stay(conn);
        stream.write_all(b"hello").unwrap();
        self.turns_until("it is heard", |world| world.of(conn) == ["hello"]);
        (0..3).for_each(|_| self.turn());
        self.told.events.clear();
        (stream, conn)
    }

    fn of(&self, conn: ConnId) -> Vec<&str> {
        self.told.events.iter().filter(|(of, _)| *of == conn).map(|(_, what)| what.as_str()).collect()
    }
}

/// Dropping the stream resets it.
fn will_reset(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn last_words_come_before_the_reset_that_a_send_finds() {
    // In one buffer, and in many; waited for by a poll, by a multishot receive, and by one that never gives way.
    for words in ["last words".to_owned(), "many last words ".repeat(300)] {
        for (idle_ms, is_busy) in [(60_000, false), (60_000, true), (0, true)] {
            let mut world = World::new(64, 256, idle_ms);
            let (mut stream, conn) = world.client();
            for _ in 0..if is_busy { 3 } else { 0 } {
                stream.write_all(b"more").unwrap();
                world.turns_until("more is heard", |world| !world.told.events.is_empty());
                world.told.events.clear();
            }
            stream.write_all(words.as_bytes()).unwrap();
            will_reset(&stream);
            drop(stream);
            thread::sleep(Duration::from_millis(5));
            // The machine, which has not been told of it, sends in that turn.
            world.uring.send(conn, Chunk::Owned(b"too late".to_vec()));
            world.turns_until("it broke", |world| world.of(conn).iter().any(|what| what.starts_with("broken")));
            (0..5).for_each(|_| world.turn());
            let told = world.of(conn);
            assert_eq!(told[..told.len() - 1].concat(), words, "idle_ms {idle_ms}, busy {is_busy}");
            assert!(told.last().is_some_and(|last| last.starts_with("broken")), "once, and last: {told:?}");
        }
    }
}

#[test]
fn an_end_shows_while_others_hold_all_buffers() {
    for (idle_ms, resets) in [(0, false), (0, true), (60_000, false), (60_000, true)] {
        let mut world = World::new(2, 64, idle_ms);
        let (mut flood, _) = world.client();
        let (other, conn) = world.client();
        world.told.holds = true;
        flood.write_all(&[b'x'; 4096]).unwrap();
        (0..30).for_each(|_| world.turn());
        if resets {
            will_reset(&other);
        }
        drop(other);
        world.turns_until("its end shows", |world| !world.of(conn).is_empty());
        assert_eq!(world.of(conn), [if resets { "broken 104" } else { "eof" }], "idle_ms {idle_ms}");
    }
}

#[test]
fn a_send_that_fails_while_others_hold_all_buffers_is_told_behind_the_last_words() {
    for last_words in ["", "last words"] {
        let mut world = World::new(2, 64, 60_000);
        let (mut flood, _) = world.client();
        let (mut other, conn) = world.client();
        world.told.holds = true;
        flood.write_all(&[b'x'; 4096]).unwrap();
        (0..30).for_each(|_| world.turn());
        other.write_all(last_words.as_bytes()).unwrap();
        will_reset(&other);
        drop(other);
        thread::sleep(Duration::from_millis(5));
        world.uring.send(conn, Chunk::Owned(b"too late".to_vec()));
        (0..30).for_each(|_| world.turn());
        if !last_words.is_empty() {
            assert_eq!(world.of(conn), [""; 0], "bytes of it wait");
            world.told.holds = false;
        }
        world.turns_until("it broke", |world| world.of(conn).iter().any(|what| what.starts_with("broken")));
        let told = world.of(conn).concat();
        assert!(told.starts_with(last_words) && told[last_words.len()..].starts_with("broken"), "{told:?}");
    }
}

#[test]
fn those_that_fall_silent_together_give_way_a_few_in_each_turn() {
    let mut world = World::new(64, 256, 1_000);
    let mut clients: Vec<_> = (0..300).map(|_| world.client()).collect();
    let receives = |world: &mut World| {
        let slots = world.uring.table.part(0, 1024);
        slots.filter(|(_, slot)| slot.flags.has(Flags::RECEIVING) && !slot.flags.has(Flags::POLLING)).count()
    };
    world.turns_until("all are busy", |world| {
        for (stream, _) in &mut clients {
            stream.write_all(b"a").unwrap();
            world.turn();
        }
        receives(world) == 300
    });
    let mut idled = world.stats.receives_idled.get();
    world.turns_until("all are idle", |world| {
        let now = world.stats.receives_idled.get();
        assert!(now - idled <= IDLE_CANCELS_PER_TURN as u64, "{} in one turn", now - idled);
        idled = now;
        receives(world) == 0
    });
    // All are still heard.
    world.told.events.clear();
    clients.iter_mut().for_each(|(stream, _)| stream.write_all(b"b").unwrap());
    world.turns_until("all are heard", |world| world.told.events.iter().filter(|(_, what)| what == "b").count() == 300);
}
