//! Accepting: into direct descriptors, then asking for the peer's address, which a multishot accept cannot give.
//!
//! The kernel accepts first and looks for a direct descriptor afterwards, so that a full table costs a peer its connection. With few of
//! them left the multishot accept is therefore replaced by single ones, each made only when there is one for it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use socket2::{Domain, SockRef};

use super::{
    super::{Event, Sink},
    Uring, ops,
    table::Phase,
};
use crate::{
    ids::ConnId,
    limits::{ACCEPT_PAUSE_MS, URING_HEADROOM_MAX, URING_HEADROOM_MIN, URING_HEADROOM_SHARE},
};

/// The listener, and what is known of accepting.
pub(super) struct Acceptor {
    /// `None`: this reactor accepts nothing, or nothing any more.
    listener: Option<OwnedFd>,
    /// How long the addresses of its peers are.
    address_bytes: u32,
    /// Where the kernel writes addresses that were asked for.
    names: slab::Slab<Box<libc::sockaddr_storage>>,
    /// Direct descriptors that a multishot accept leaves alone.
    headroom: u32,
    state: State,
    /// The listener is to be closed when no accept is in flight.
    stopped: bool,
    /// Not before then.
    retry_at: Option<Instant>,
}

/// What is in flight on the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    One,
    Many,
    Cancelling,
}

impl Acceptor {
    pub(super) fn new(listener: Option<OwnedFd>, slots: u32) -> io::Result<Acceptor> {
        let mut address_bytes = 0;
        if let Some(listener) = &listener {
            let listener = SockRef::from(listener);
            // io_uring takes a non-blocking socket at its word: it would fail operations that have to wait.
            listener.set_nonblocking(false)?;
            address_bytes = match listener.domain()? {
                Domain::IPV6 => size_of::<libc::sockaddr_in6>() as u32,
                _ => size_of::<libc::sockaddr_in>() as u32,
            };
        }
        let headroom = (slots / URING_HEADROOM_SHARE).clamp(URING_HEADROOM_MIN, URING_HEADROOM_MAX);
        let names = slab::Slab::new();
        Ok(Acceptor { listener, address_bytes, names, headroom, state: State::Idle, stopped: false, retry_at: None })
    }

    /// Stops for good. Returns whether an accept has to be cancelled.
    pub(super) fn stop(&mut self) -> bool {
        self.stopped = true;
        match self.state {
            State::Idle => {
                self.listener = None;
                false
            }
            State::Cancelling => false,
            State::One | State::Many => {
                self.state = State::Cancelling;
                true
            }
        }
    }

    /// There is room again.
    pub(super) fn slot_freed(&mut self) {
        self.retry_at = None;
    }
}

impl Uring {
    /// Makes the accept that is due. Returns after how many microseconds one will be, if that is a matter of time.
    pub(super) fn keep_accepting(&mut self) -> Option<u64> {
        let acceptor = &mut self.acceptor;
        let descriptor = acceptor.listener.as_ref()?.as_raw_fd();
        let free = self.table.free();
        match acceptor.state {
            State::Many if free <= acceptor.headroom => {
                acceptor.state = State::Cancelling;
                self.push(ops::cancel_accept());
                None
            }
            State::Many | State::One | State::Cancelling => None,
            // The next close wakes us.
            State::Idle if free == 0 => None,
            State::Idle => {
                if let Some(at) = acceptor.retry_at {
                    let left = at.saturating_duration_since(Instant::now());
                    if !left.is_zero() {
                        return Some(left.as_micros() as u64 + 1);
                    }
                    acceptor.retry_at = None;
                }
                let many = free > acceptor.headroom;
                acceptor.state = if many { State::Many } else { State::One };
                self.push(if many { ops::accept_many(descriptor) } else { ops::accept_one(descriptor) });
                None
            }
        }
    }

    /// A connection was accepted, or accepting failed.
    pub(super) fn accepted(&mut self, result: i32, more: bool) -> usize {
        let acceptor = &mut self.acceptor;
        if !more {
            acceptor.state = State::Idle;
            if acceptor.stopped {
                acceptor.listener = None;
            }
        }
        let Ok(index) = u32::try_from(result) else {
            match -result {
                // Cancelled by us, or the peer gave up: the next may be fine.
                libc::ECANCELED | libc::ECONNABORTED | libc::EPROTO | libc::EINTR | libc::EAGAIN => {}
                errno => {
                    self.stats.accept_pauses.add(1);
                    self.stats.accepts_dropped.add(u64::from(errno == libc::ENFILE));
                    let error = io::Error::from_raw_os_error(errno);
                    let cause = match errno {
                        libc::ENFILE => {
                            ": its table of descriptors is full, and a connection was dropped (or fs.file-max is reached)"
                        }
                        _ => "",
                    };
                    log::warn!("shard {} accepts no connection for {ACCEPT_PAUSE_MS} ms: {error}{cause}", self.shard);
                    acceptor.retry_at = Some(Instant::now() + Duration::from_millis(ACCEPT_PAUSE_MS));
                }
            }
            return 0;
        };
        if acceptor.stopped {
            let direct = self.table.occupy(index, Phase::Vacating, 0);
            self.push(ops::close(direct));
            return 0;
        }
        // SAFETY: all-zero bytes are a valid `sockaddr_storage`.
        let key = acceptor.names.insert(Box::new(unsafe { std::mem::zeroed() }));
        let (address, length) = (std::ptr::from_mut(acceptor.names[key].as_mut()), acceptor.address_bytes);
        let direct = self.table.occupy(index, Phase::Naming, key as u32);
        self.push(ops::name(direct, address, length));
        0
    }

    /// The peer's address is known.
    pub(super) fn named(&mut self, conn: ConnId, result: i32, sink: &mut impl Sink) -> usize {
        let slot = self.table.get(conn).expect("a connection outlives its operations");
        let address = self.acceptor.names.remove(slot.cargo as usize);
        match ip_of(&address) {
            Some(peer) if result >= 0 => {
                slot.phase = Phase::Stepping;
                sink.event(Event::Accepted { conn, peer });
                self.resume(conn);
                1
            }
            // It is gone already.
            Some(_) | None => {
                slot.phase = Phase::Vacating;
                let direct = slot.direct(conn);
                self.push(ops::close(direct));
                0
            }
        }
    }
}

/// The address in what the kernel wrote; an IPv4 one as such, whatever the listener's family.
fn ip_of(address: &libc::sockaddr_storage) -> Option<IpAddr> {
    let start = std::ptr::from_ref(address);
    match i32::from(address.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is a `sockaddr_in`, which a `sockaddr_storage` has the size and alignment for.
            let address = unsafe { &*start.cast::<libc::sockaddr_in>() };
            Some(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that it is a `sockaddr_in6`, which a `sockaddr_storage` has the size and alignment for.
            let address = unsafe { &*start.cast::<libc::sockaddr_in6>() };
            Some(Ipv6Addr::from(address.sin6_addr.s6_addr).to_canonical())
        }
        _ => None,
    }
}
