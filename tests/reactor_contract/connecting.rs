//! Outgoing connections.

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, TcpListener},
};

use weir::io::Output;

use crate::{
    probe::Seen,
    rig::{Driver, Options, Rig, read},
    transfer::STAY,
};

fn failure(rig: &mut Rig, expected: u32) -> i32 {
    rig.reactors[0].wait_for("ConnectFailed", |report| match report.seen {
        Seen::ConnectFailed { token, errno } if token == expected => Some(errno),
        _ => None,
    })
}

pub(crate) fn connects(driver: Driver) {
    let mut rig = Rig::single(driver, STAY);
    let server = TcpListener::bind("127.0.0.1:0").expect("listens");
    let to = server.local_addr().expect("is bound");
    rig.ask(0, Output::Connect { token: 77, from: None, to });
    let (mut peer, _) = server.accept().expect("accepts");
    let conn = rig.reactors[0].wait_for("Connected", |report| match report.seen {
        Seen::Connected { conn, token: 77 } => Some(conn),
        _ => None,
    });
    peer.set_read_timeout(Some(crate::rig::PATIENCE)).expect("a timeout can be set");
    rig.send(0, conn, b"hello");
    assert_eq!(read(&mut peer, 5), b"hello");
    peer.write_all(b"welcome").expect("sends");
    assert_eq!(rig.reactors[0].received(conn, 7), b"welcome");
}

pub(crate) fn connects_from_a_given_address(driver: Driver) {
    let mut rig = Rig::new(driver, Options { reactors: 2, behaviour: STAY, ..Options::default() });
    let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 7));
    let to = rig.reactors[1].addr;
    rig.ask(0, Output::Connect { token: 1, from: Some(from), to });
    let seen = rig.reactors[1].wait_for("Accepted", |report| match report.seen {
        Seen::Accepted { peer, .. } => Some(peer),
        _ => None,
    });
    assert_eq!(seen, from);
}

pub(crate) fn reports_a_refused_connect(driver: Driver) {
    let mut rig = Rig::single(driver, STAY);
    let closed = TcpListener::bind("127.0.0.1:0").expect("listens").local_addr().expect("is bound");
    rig.ask(0, Output::Connect { token: 5, from: None, to: closed });
    assert_eq!(failure(&mut rig, 5), libc::ECONNREFUSED);
    rig.reactors[0].expect_silence();
}

pub(crate) fn reports_an_address_that_is_not_ours(driver: Driver) {
    let mut rig = Rig::single(driver, STAY);
    let to = rig.reactors[0].addr;
    // TEST-NET-1: nobody's address.
    rig.ask(0, Output::Connect { token: 6, from: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))), to });
    assert_eq!(failure(&mut rig, 6), libc::EADDRNOTAVAIL);
}

pub(crate) fn reports_a_connect_without_room(driver: Driver) {
    let mut rig = Rig::new(driver, Options { slots: [1, 1], behaviour: STAY, ..Options::default() });
    let server = TcpListener::bind("127.0.0.1:0").expect("listens");
    let (_client, conn) = rig.client(0);
    let to = server.local_addr().expect("is bound");
    rig.ask(0, Output::Connect { token: 8, from: None, to });
    failure(&mut rig, 8);
    rig.ask(0, Output::Close { conn });
    rig.reactors[0].expect(Seen::Closed { conn });
    rig.ask(0, Output::Connect { token: 9, from: None, to });
    rig.reactors[0].wait_for("Connected", |report| matches!(report.seen, Seen::Connected { token: 9, .. }).then_some(()));
}
