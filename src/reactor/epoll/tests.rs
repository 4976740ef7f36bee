//! What only this driver does. What all drivers do alike is in `tests/reactor_contract.rs`.

use std::{
    io::{self, Write},
    net::TcpListener,
    os::fd::AsFd,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{super::Kind, *};
use crate::mesh::Bell;

/// Connections with their tokens; fails at bytes of one that it does not know.
#[derive(Default)]
struct Told {
    connected: HashMap<ConnId, u32>,
    greeted: usize,
}

impl Sink for Told {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Connected { conn, token } => assert!(self.connected.insert(conn, token).is_none()),
            Event::Received { conn, bytes } => {
                assert!(self.connected.contains_key(&conn), "{conn} has {bytes:?} and is not connected");
                self.greeted += 1;
            }
            Event::Sent { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    fn takes_bytes(&mut self) -> bool {
        true
    }
}

#[test]
fn bytes_come_behind_connected_however_much_ends_in_one_turn() -> io::Result<()> {
    let (server, bell) = (TcpListener::bind("127.0.0.1:0")?, Bell::new()?);
    let setup = Setup {
        kind: Kind::Epoll,
        slots: 64,
        listener: None,
        peers: Peers::new(1),
        receive_buffers: 1,
        receive_buffer_bytes: 64,
        idle_ms: 0,
        stats: Arc::default(),
    };
    let mut epoll = Epoll::new(setup, ShardId(0), bell.as_fd())?;
    let (mut told, mut peers) = (Told::default(), Vec::new());
    let deadline = Instant::now() + Duration::from_secs(10);
    for wave in 1..=2 {
        // The second wave comes behind the ends of these sends.
        for conn in told.connected.keys() {
            epoll.send(*conn, Chunk::Owned(b"hello".to_vec()));
        }
        for token in 0..8 {
            epoll.connect(token, None, server.local_addr()?);
            let (mut peer, _) = server.accept()?;
            peer.write_all(b"welcome")?;
            peers.push(peer);
        }
        while told.greeted < 8 * wave {
            assert!(Instant::now() < deadline, "{} of {} connections were greeted", told.greeted, 8 * wave);
            epoll.submit_and_wait(Tick(0), Wait::Micros(10_000))?;
            epoll.dispatch(2, &mut told);
        }
    }
    Ok(())
}
