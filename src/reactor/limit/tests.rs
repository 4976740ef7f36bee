//! Every loop on both drivers, with clients that block.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    thread::{self, JoinHandle},
    time::Duration,
};

use super::*;
use crate::reactor::{
    probe::{Choice, detect},
    socket::{ListenOptions, listen, local_addr},
};

/// A loop on a thread of its own.
struct Served {
    addr: SocketAddr,
    /// Dropped to stop it.
    stop: io::PipeWriter,
    thread: JoinHandle<io::Result<Counts>>,
}

impl Served {
    fn start(kind: Kind, what: Loop, connections: u32) -> Served {
        let options = ListenOptions { backlog: 64, user_timeout_ms: 0 };
        let listener = listen("127.0.0.1:0".parse().unwrap(), options).expect("listens");
        let addr = local_addr(&listener).expect("is bound");
        let (stopped, stop) = io::pipe().expect("a pipe");
        let setup = Setup { kind, what, listener, connections, stop: OwnedFd::from(stopped) };
        Served { addr, stop, thread: thread::spawn(move || serve(setup, || Ok(()))) }
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.addr).expect("connects");
        client.set_nodelay(true).expect("an option");
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("an option");
        client.set_write_timeout(Some(Duration::from_secs(10))).expect("an option");
        client
    }

    /// A connection whose greeting came back.
    fn greet(&self, greeting: &[u8]) -> TcpStream {
        let mut client = self.connect();
        client.write_all(greeting).expect("it is there");
        assert_eq!(read(&mut client, greeting.len()), greeting);
        client
    }

    fn stop(self) -> Counts {
        drop(self.stop);
        self.thread.join().expect("no panic").expect("no error")
    }
}

fn read(client: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    client.read_exact(&mut bytes).expect("so many bytes come");
    bytes
}

/// Whether the other end closes, with or without a word.
fn is_closed(client: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match client.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

fn pattern(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 31 + at / 251 + seed) as u8).collect()
}

/// The drivers that work here.
fn kinds() -> Vec<Kind> {
    let mut kinds = vec![Kind::Epoll];
    if detect(Choice::Uring).is_ok() {
        kinds.push(Kind::Uring);
    }
    kinds
}

fn counts(accepted: u64, refused: u64, overrun: u64) -> Counts {
    Counts { accepted, refused, overrun, parked: 0, turns: 0 }
}

#[test]
fn what_is_sent_comes_back_whole_and_in_order_however_slowly_it_is_read() {
    for (kind, what) in kinds().into_iter().flat_map(|kind| [(kind, Loop::Echo), (kind, Loop::Accept)]) {
        let served = Served::start(kind, what, 8);
        let mut client = served.greet(b"hello");
        let mut neighbour = served.greet(b"neighbour");
        // More than the sockets hold, so that sends end in the middle and receive buffers run out.
        let sent = pattern(16 << 20, 1);
        let mut writer = client.try_clone().expect("a descriptor");
        let expected = sent.clone();
        let writing = thread::spawn(move || {
            writer.write_all(&sent).expect("it is taken");
            writer.shutdown(std::net::Shutdown::Write).expect("our end");
        });
        thread::sleep(Duration::from_millis(50));
        if what == Loop::Echo && kind == Kind::Epoll {
            neighbour.write_all(b"me too").expect("it is there");
            assert_eq!(read(&mut neighbour, 6), b"me too", "one that is not read blocks nobody else");
        }
        let came = read(&mut client, expected.len());
        assert!(came == expected, "{kind:?} {what:?}");
        assert!(is_closed(&mut client), "the echo ends when its peer has ended");
        writing.join().expect("no panic");
        neighbour.write_all(b"still here").expect("it is there");
        assert_eq!(read(&mut neighbour, 10), b"still here");
        let told = served.stop();
        assert_eq!(Counts { parked: 0, turns: 0, ..told }, counts(2, 0, 0), "{kind:?} {what:?}");
        assert_eq!(told.parked > 0, kind == Kind::Uring, "all receive buffers waited to be sent: {told:?}");
    }
}

#[test]
fn who_greets_alike_has_what_the_other_one_sends_and_nobody_else_has() {
    for kind in kinds() {
        let served = Served::start(kind, Loop::Relay, 8);
        let mut pairs = ["one", "two"].map(|name| [(); 2].map(|()| served.greet(name.as_bytes())));
        let mut alone = served.greet(b"alone");
        alone.write_all(b"is anybody there?").expect("it is there");
        // More than the sockets hold, in both directions at once, and read late.
        for (at, pair) in pairs.iter_mut().enumerate() {
            let sent = [pattern(8 << 20, at), pattern(8 << 20, at + 10)];
            let writers = [0, 1].map(|side| {
                let (mut writer, bytes) = (pair[side].try_clone().expect("a descriptor"), sent[side].clone());
                thread::spawn(move || writer.write_all(&bytes).expect("it is taken"))
            });
            thread::sleep(Duration::from_millis(50));
            let readers = [0, 1].map(|side| {
                let (mut reader, expected) = (pair[side].try_clone().expect("a descriptor"), sent[1 - side].clone());
                thread::spawn(move || assert!(read(&mut reader, expected.len()) == expected, "{kind:?}, pair {at}, side {side}"))
            });
            writers.into_iter().chain(readers).for_each(|thread| thread.join().expect("no panic"));
        }
        // One that goes leaves the other one alone, and its greeting is free for two others.
        let [[first, mut left], [mut third, mut fourth]] = pairs;
        drop(first);
        left.write_all(b"are you still there?").expect("it is there");
        let mut fresh = [(); 2].map(|()| served.greet(b"one"));
        fresh[0].write_all(b"fresh").expect("it is there");
        assert_eq!(read(&mut fresh[1], 5), b"fresh");
        third.write_all(b"as before").expect("it is there");
        assert_eq!(read(&mut fourth, 9), b"as before");
        drop((third, fresh));
        for client in [&mut left, &mut alone] {
            client.set_read_timeout(Some(Duration::from_millis(50))).expect("an option");
            let error = client.read(&mut [0]).expect_err("nothing comes to who has no other one");
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
        }
        assert_eq!(Counts { parked: 0, turns: 0, ..served.stop() }, counts(7, 0, 0), "{kind:?}");
    }
}

#[test]
fn every_member_gets_what_any_member_sends_and_greetings_go_to_nobody_else() {
    for kind in kinds() {
        let served = Served::start(kind, Loop::Fanout, 8);
        let mut members: Vec<_> = (0..4).map(|member| served.greet(format!("I am {member}").as_bytes())).collect();
        let mut expected = Vec::new();
        // Twice around the log, and members that are read one after the other.
        for round in 0..20 {
            let bytes = pattern(crate::limits::LIMIT_LOG_BYTES / 10, round);
            let (publisher, sent) = (members[round % 4].try_clone().expect("a descriptor"), bytes.clone());
            let writing = thread::spawn(move || (&publisher).write_all(&sent).expect("it is taken"));
            for member in &mut members {
                assert!(read(member, bytes.len()) == bytes, "{kind:?}, round {round}");
            }
            writing.join().expect("no panic");
            expected.extend(bytes);
        }
        // One that goes is missed by nobody, and one that comes gets only what is sent from then on.
        drop(members.remove(1));
        let mut late = served.greet(b"late");
        members[0].write_all(b"to all").expect("it is there");
        for member in members.iter_mut().chain([&mut late]) {
            assert_eq!(read(member, 6), b"to all");
        }
        let told = served.stop();
        assert_eq!(Counts { parked: 0, turns: 0, ..told }, counts(5, 0, 0), "{kind:?}");
    }
}

#[test]
fn who_sends_to_a_member_that_never_reads_is_closed_and_counted() {
    for kind in kinds() {
        let served = Served::start(kind, Loop::Fanout, 8);
        let asleep = served.greet(b"asleep");
        let mut publisher = served.greet(b"publisher");
        let mut reader = publisher.try_clone().expect("a descriptor");
        let reading = thread::spawn(move || is_closed(&mut reader));
        // The sockets' buffers take some of it, the log takes a part, and then it is enough.
        let megabyte = pattern(1 << 20, 0);
        let failed = (0..64).any(|_| publisher.write_all(&megabyte).is_err());
        assert!(failed, "{kind:?}: 64 MiB wait for one that never reads");
        assert!(reading.join().expect("no panic"));
        drop(asleep);
        let mut other = served.greet(b"other");
        other.write_all(b"alone").expect("it is there");
        assert_eq!(read(&mut other, 5), b"alone");
        assert_eq!(Counts { parked: 0, turns: 0, ..served.stop() }, counts(3, 0, 1), "{kind:?}");
    }
}

#[test]
fn a_connection_beyond_the_limit_is_closed_and_counted_and_its_place_is_used_again() {
    for (kind, what) in
        kinds().into_iter().flat_map(|kind| [Loop::Echo, Loop::Relay, Loop::Fanout, Loop::Accept].map(|what| (kind, what)))
    {
        let served = Served::start(kind, what, 2);
        let first = served.greet(b"first");
        let second = served.greet(b"second");
        let mut third = served.connect();
        let _ = third.write_all(b"third");
        assert!(is_closed(&mut third), "{kind:?} {what:?}");
        drop((first, second));
        // The places become free some time after.
        let came = (0..200).any(|_| {
            let mut client = served.connect();
            let mut byte = [0];
            let came = client.write_all(b"x").is_ok() && client.read(&mut byte).is_ok_and(|count| count == 1);
            thread::sleep(Duration::from_millis(5));
            came
        });
        assert!(came, "{kind:?} {what:?}");
        assert!(served.stop().refused >= 1, "{kind:?} {what:?}");
    }
}
