//! What only this driver does. What all drivers do alike is in `tests/reactor_contract.rs`.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

mod turns;

use super::super::{Clock, Envelope, Kind, Peers, Setup, run, socket};
use crate::{
    ids::{ConnId, ShardId},
    io::{Chunk, Input, Machine, Output, Tick},
    limits::RECEIVE_IDLE_MS_DEFAULT,
    mesh,
    stats::ReactorStats,
};

/// Moves a connection to the shard that its first byte names, keeps it there, and echoes.
#[derive(Default)]
struct Echo {
    shard: u16,
    outputs: VecDeque<Output<Vec<u8>>>,
    unsettled: HashSet<ConnId>,
    /// Bytes to send, and whether some are in flight.
    backlog: HashMap<ConnId, (Vec<u8>, bool)>,
    refused: u32,
    stop_at: Option<Tick>,
}

impl Echo {
    fn echo(&mut self, conn: ConnId, bytes: &[u8]) {
        let (backlog, busy) = self.backlog.entry(conn).or_default();
        backlog.extend_from_slice(bytes);
        if !*busy && !backlog.is_empty() {
            *busy = true;
            self.outputs.push_back(Output::Send { conn, chunk: Chunk::Owned(std::mem::take(backlog)) });
        }
    }
}

impl Machine for Echo {
    type Message = Vec<u8>;

    fn handle(&mut self, now: Tick, input: Input<'_, Vec<u8>>) {
        match input {
            Input::Accepted { conn, peer } => {
                assert!(peer.is_loopback());
                self.unsettled.insert(conn);
            }
            Input::Received { conn, bytes } if bytes == b"stop" => {
                self.outputs.push_back(Output::Close { conn });
                self.stop_at = Some(Tick(now.0 + 20_000));
                (0..2).for_each(|to| self.outputs.push_back(Output::Post { to: ShardId(to), message: b"stop".to_vec() }));
            }
            Input::Received { conn, bytes } if self.unsettled.remove(&conn) => {
                let to = u16::from(bytes[0] - b'0');
                if to == self.shard {
                    self.outputs.push_back(Output::Stay { conn });
                    self.echo(conn, bytes);
                } else {
                    self.outputs.push_back(Output::Move { conn, to: ShardId(to), message: bytes.to_vec() });
                }
            }
            Input::Received { conn, bytes } => self.echo(conn, bytes),
            Input::Adopted { conn, from, message } => {
                assert_ne!(from.0, self.shard);
                self.echo(conn, &message);
            }
            Input::MoveRefused { conn, message } => {
                self.refused += 1;
                self.outputs.push_back(Output::Stay { conn });
                self.echo(conn, &message);
            }
            Input::Sent { conn, .. } => {
                self.backlog.get_mut(&conn).expect("was sent").1 = false;
                self.echo(conn, b"");
            }
            Input::Eof { conn } | Input::Broken { conn, .. } => self.outputs.push_back(Output::Close { conn }),
            Input::Closed { conn } => {
                self.backlog.remove(&conn);
            }
            Input::Posted { .. } => self.stop_at = Some(Tick(now.0 + 20_000)),
            Input::Connected { .. } | Input::ConnectFailed { .. } | Input::AdoptFailed { .. } | Input::PostRefused { .. } => {
                unreachable!("{input:?}")
            }
        }
    }

    fn handle_tick(&mut self, now: Tick) -> Option<Tick> {
        if self.stop_at.is_some_and(|at| at <= now) {
            self.outputs.push_back(Output::Stop);
        }
        self.stop_at
    }

    fn poll_output(&mut self) -> Option<Output<Vec<u8>>> {
        self.outputs.pop_front()
    }
}

/// Runs two shards, of which the second has `slots` slots and no listener, while `clients` uses the first one's address. Gives the machines.
fn with_two_shards(slots: u32, clients: impl FnOnce(SocketAddr)) -> Vec<Echo> {
    with_two_shards_idle(slots, RECEIVE_IDLE_MS_DEFAULT, &Arc::default(), clients)
}

/// The same with another time after which a connection is idle. `stats` are the second shard's.
fn with_two_shards_idle(slots: u32, idle_ms: u32, stats: &Arc<ReactorStats>, clients: impl FnOnce(SocketAddr)) -> Vec<Echo> {
    let ports = mesh::mesh::<Envelope<Vec<u8>>>(2, 1024).unwrap();
    let options = socket::ListenOptions { backlog: 4096, user_timeout_ms: 0 };
    let listener = socket::listen("127.0.0.1:0".parse().unwrap(), options).unwrap();
    let addr = socket::local_addr(&listener).unwrap();
    let mut listener = Some(listener);
    let (peers, clock, barrier) = (Peers::new(2), Clock::start(), Arc::new(Barrier::new(3)));
    let threads: Vec<_> = ports
        .into_iter()
        .map(|port| {
            let first = port.id().0 == 0;
            let listener = if first { listener.take() } else { None };
            let (peers, barrier) = (peers.clone(), Arc::clone(&barrier));
            let stats = if first { Arc::default() } else { Arc::clone(stats) };
            thread::spawn(move || {
                let slots = if first { 4096 } else { slots };
                let setup = Setup {
                    kind: Kind::Uring,
                    slots,
                    listener,
                    peers,
                    receive_buffers: 64,
                    receive_buffer_bytes: 2048,
                    idle_ms,
                    stats,
                };
                let mut machine = Echo { shard: port.id().0, ..Echo::default() };
                let ready = || {
                    barrier.wait();
                    Ok(())
                };
                run(&mut machine, port, setup, clock, ready).unwrap();
                machine
            })
        })
        .collect();
    barrier.wait();
    clients(addr);
    TcpStream::connect(addr).unwrap().write_all(b"stop").unwrap();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

fn echoed(stream: &mut TcpStream, bytes: &[u8]) {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, bytes);
}

#[test]
fn a_connection_moves_to_a_ring_that_sleeps() {
    with_two_shards(4096, |addr| {
        for round in 0..20 {
            // Long enough for both reactors to wait in the kernel without a deadline.
            thread::sleep(Duration::from_millis(20));
            let mut stream = TcpStream::connect(addr).unwrap();
            let start = Instant::now();
            echoed(&mut stream, b"1 over there");
            assert!(start.elapsed() < Duration::from_secs(1), "round {round} took {:?}", start.elapsed());
            echoed(&mut stream, &vec![b'x'; 100_000]);
        }
    });
}

#[test]
fn many_connections_move_at_once() {
    with_two_shards(4096, |addr| {
        let mut streams: Vec<_> = (0..1000).map(|_| TcpStream::connect(addr).unwrap()).collect();
        streams.iter_mut().enumerate().for_each(|(index, stream)| write!(stream, "{} {index:05}", index % 2).unwrap());
        for (index, stream) in streams.iter_mut().enumerate() {
            let mut back = [0; 7];
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            stream.read_exact(&mut back).unwrap();
            assert_eq!(String::from_utf8_lossy(&back), format!("{} {index:05}", index % 2));
        }
        drop(streams);
    });
}

#[test]
fn a_move_to_a_full_table_is_refused() {
    let machines = with_two_shards(3, |addr| {
        let mut streams: Vec<_> = (0..5).map(|_| TcpStream::connect(addr).unwrap()).collect();
        streams.iter_mut().for_each(|stream| echoed(stream, b"1"));
        streams.iter_mut().for_each(|stream| echoed(stream, b"still here"));
    });
    assert_eq!(machines[0].refused, 2);
}

#[test]
fn connections_beyond_the_buffers_are_all_served() {
    // 64 buffers, and 500 connections that all have 20 of them to receive.
    with_two_shards(4096, |addr| {
        let threads: Vec<_> = (0..10)
            .map(|part| {
                thread::spawn(move || {
                    let mut streams: Vec<_> = (0..50).map(|_| TcpStream::connect(addr).unwrap()).collect();
                    let bytes: Vec<u8> = (0..40_960_u32).map(|at| (at / 7 + part) as u8).collect();
                    streams.iter_mut().for_each(|stream| echoed(stream, if part % 2 == 0 { b"0" } else { b"1" }));
                    streams.iter_mut().for_each(|stream| stream.write_all(&bytes).unwrap());
                    for stream in &mut streams {
                        let mut back = vec![0; bytes.len()];
                        stream.read_exact(&mut back).unwrap();
                        assert!(back == bytes);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn connections_that_fall_silent_are_waited_for_by_polls_and_served_at_once() {
    let stats = Arc::<ReactorStats>::default();
    let idled = || stats.receives_idled.get();
    with_two_shards_idle(4096, 200, &stats, |addr| {
        let mut streams: Vec<_> = (0..100).map(|_| TcpStream::connect(addr).unwrap()).collect();
        for round in 1..=3 {
            // In a row, so that a look comes between them in few connections only: the others get receives.
            for stream in &mut streams {
                ["1", "one", "two", "three"].iter().for_each(|word| echoed(stream, word.as_bytes()));
            }
            let deadline = Instant::now() + Duration::from_secs(10);
            while idled() < 80 * round {
                assert!(Instant::now() < deadline, "{} receives gave way until round {round}", idled());
                thread::sleep(Duration::from_millis(10));
            }
        }
        // An end, too, shows on a poll.
        streams[0].shutdown(Shutdown::Write).unwrap();
        streams[0].set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(streams[0].read(&mut [0; 1]).unwrap(), 0);
    });
}

#[test]
fn nothing_is_lost_between_polls_and_receives() {
    let stats = Arc::<ReactorStats>::default();
    // Every millisecond some receives give way, while bytes come at about that pace.
    with_two_shards_idle(4096, 1, &stats, |addr| {
        let threads: Vec<_> = (0..8_u64)
            .map(|part| {
                thread::spawn(move || {
                    let mut streams: Vec<_> = (0..25).map(|_| TcpStream::connect(addr).unwrap()).collect();
                    streams.iter_mut().for_each(|stream| echoed(stream, if part % 2 == 0 { b"0" } else { b"1" }));
                    for round in 0..400 {
                        let index = (round * 7 + part) as usize % streams.len();
                        echoed(&mut streams[index], &vec![round as u8; 1 + (round as usize % 3) * 3_000]);
                        if round % 5 == 0 {
                            thread::sleep(Duration::from_micros(500 * (round % 4)));
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert!(stats.receives_idled.get() > 100, "only {} receives gave way", stats.receives_idled.get());
}

#[test]
fn a_table_above_the_limit_of_open_files_says_what_to_do() {
    let (soft, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    // The kernel has a bound of its own, 2^20, for those who have no limit.
    let slots = u32::try_from(soft).unwrap_or(u32::MAX).min(1 << 20) + 1;
    let port = mesh::mesh::<Envelope<Vec<u8>>>(1, 16).unwrap().pop().unwrap();
    let peers = Peers::new(1);
    let setup = Setup {
        kind: Kind::Uring,
        slots,
        listener: None,
        peers,
        receive_buffers: 1,
        receive_buffer_bytes: 64,
        idle_ms: 0,
        stats: Arc::default(),
    };
    let error = run(&mut Echo::default(), port, setup, Clock::start(), || Ok(())).expect_err("the table is too large");
    let text = error.to_string();
    assert!(
        text.contains("--shards") && text.contains(&format!("ulimit -n {slots}")) && text.contains(&soft.to_string()),
        "{text}"
    );
}
