//! One connection, as its worker remembers it. A million of them must fit, so what is rare is kept elsewhere.
#![forbid(unsafe_code)]

use weir::ids::ConnId;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Not asked for yet, or waiting for another attempt.
    Waiting,
    /// The reactor was asked to connect.
    Connecting,
    /// LOGIN was sent.
    LoggingIn,
    /// JOIN was sent.
    Joining,
    /// The gateway has yet to say where its durable channels stand.
    Settling,
    /// Logged in, and in its group if the scenario has one.
    Ready,
    /// To be ended from our side as soon as nothing is in flight.
    Finishing,
    /// Our direction is ended; the gateway has yet to end its own.
    Finished,
    /// The reactor was asked to close. With `again`, another attempt follows.
    Closing { again: bool },
    /// Gone for good.
    Gone,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) conn: ConnId,
    /// Frames that wait until the chunk in flight is sent. Its buffer belongs to the worker's pool.
    pub(crate) out: Vec<u8>,
    /// The beginning of a frame whose end has not come. Its buffer belongs to the worker's pool.
    pub(crate) partial: Vec<u8>,
    /// When anything was last sent; before `Ready`, when this attempt began; while `Closing`, how long to wait before the next one.
    pub(crate) last_sent_ms: u32,
    /// The heartbeat interval that the gateway announced.
    pub(crate) interval_ms: u32,
    /// The last round trip measured; 0 before the first.
    pub(crate) rtt_us: u32,
    /// When the first PING was sent that has no PONG: the low bits of the clock, where PONGs do not say it.
    pub(crate) pinged_us: u32,
    pub(crate) state: State,
    /// Attempts to connect that failed.
    pub(crate) attempts: u8,
    /// PINGs since the last PONG.
    pub(crate) pings_unanswered: u8,
    /// A chunk is with the reactor.
    pub(crate) in_flight: bool,
    /// In the list of links that have something to send.
    pub(crate) is_dirty: bool,
    /// It was `Ready` before.
    pub(crate) was_ready: bool,
}

// The budget for a million idle connections on one machine that also carries the gateway.
const _: () = assert!(size_of::<Link>() <= 80);

impl Link {
    pub(crate) fn new() -> Link {
        Link {
            conn: ConnId { slot: u32::MAX, generation: 0 },
            out: Vec::new(),
            partial: Vec::new(),
            last_sent_ms: 0,
            interval_ms: 0,
            rtt_us: 0,
            pinged_us: 0,
            state: State::Waiting,
            attempts: 0,
            pings_unanswered: 0,
            in_flight: false,
            is_dirty: false,
            was_ready: false,
        }
    }

    /// Whether frames of the gateway matter: it is connected, and was not given up.
    pub(crate) fn listens(&self) -> bool {
        match self.state {
            State::LoggingIn | State::Joining | State::Settling | State::Ready | State::Finishing | State::Finished => true,
            State::Waiting | State::Connecting | State::Closing { .. } | State::Gone => false,
        }
    }

    /// Whether frames may be sent on it.
    pub(crate) fn may_send(&self) -> bool {
        match self.state {
            State::LoggingIn | State::Joining | State::Settling | State::Ready | State::Finishing => true,
            State::Waiting | State::Connecting | State::Finished | State::Closing { .. } | State::Gone => false,
        }
    }

    /// Whether it is on its way to `Ready`.
    pub(crate) fn is_arriving(&self) -> bool {
        match self.state {
            State::Connecting | State::LoggingIn | State::Joining | State::Settling => true,
            State::Waiting | State::Ready | State::Finishing | State::Finished | State::Closing { .. } | State::Gone => false,
        }
    }
}
