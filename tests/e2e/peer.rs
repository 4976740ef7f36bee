//! A client as rude as a test needs it: every byte is written by hand, every frame that comes is shown.
#![forbid(unsafe_code)]

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

pub use weir::wire::Frame;
use weir::wire::{Decoded, ErrorCode, SendRef, body, decode, encode};

use super::PATIENCE;

/// What came.
#[derive(Clone, Debug, PartialEq)]
pub enum Got {
    LoginOk(body::LoginOk),
    Ping(body::Ping),
    Pong(body::Pong),
    SendOk(body::SendOk),
    Push {
        channel: String,
        from_client: String,
        from_device: String,
        client_msg_id: u64,
        payload: Vec<u8>,
        /// 0, and so is `timestamp`: it is not durable.
        seq: u64,
        timestamp: u64,
    },
    JoinOk(String),
    LeaveOk(String),
    Accepted(body::Accepted),
    Gap(body::Gap),
    Cursors(body::Cursors),
    Page(body::Page),
    Presence(body::PresenceOf),
    Kicked(body::Kicked),
    Goaway(body::Goaway),
    Error(body::Error),
    /// The stream ended in order.
    End,
    /// The stream was reset.
    Reset,
}

impl Got {
    fn of(frame: Frame<'_>) -> Got {
        match frame {
            Frame::LoginOk(body) => Got::LoginOk(body),
            Frame::Ping(body) => Got::Ping(body),
            Frame::Pong(body) => Got::Pong(body),
            Frame::SendOk(body) => Got::SendOk(body),
            Frame::Push(push) => Got::Push {
                channel: push.channel.to_owned(),
                from_client: push.from_client.to_owned(),
                from_device: push.from_device.to_owned(),
                client_msg_id: push.client_msg_id,
                payload: push.payload.to_vec(),
                seq: push.seq,
                timestamp: push.timestamp,
            },
            Frame::JoinOk(body) => Got::JoinOk(body.group),
            Frame::LeaveOk(body) => Got::LeaveOk(body.group),
            Frame::Kicked(body) => Got::Kicked(body),
            Frame::Goaway(body) => Got::Goaway(body),
            Frame::Error(body) => Got::Error(body),
            Frame::Accepted(accepted) => Got::Accepted(accepted.to_owned()),
            Frame::Gap(body) => Got::Gap(body),
            Frame::Cursors(body) => Got::Cursors(body),
            Frame::Page(body) => Got::Page(body),
            Frame::Presence(body) => Got::Presence(body),
            Frame::Login(_)
            | Frame::Send(_)
            | Frame::Received(_)
            | Frame::Read(_)
            | Frame::Sync(_)
            | Frame::Join(_)
            | Frame::Leave(_)
            | Frame::State(_)
            | Frame::Watch(_)
            | Frame::Unwatch(_)
            | Frame::Batch(_)
            | Frame::Unknown { .. } => {
                panic!("a gateway sent {frame:?}")
            }
        }
    }
}

/// What a LOGIN says.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoginFields<'a> {
    pub client: &'a str,
    pub device: &'a str,
    pub class: &'a str,
    pub token: &'a str,
    /// 0: no part in durable delivery.
    pub window: u32,
    pub cursor: Option<u64>,
}

impl LoginFields<'_> {
    /// As bytes.
    pub fn frame(&self) -> Vec<u8> {
        frame_bytes(&Frame::Login(body::Login {
            client_id: self.client.to_owned(),
            device_id: self.device.to_owned(),
            device_class: self.class.to_owned(),
            token: self.token.to_owned(),
            agent: "e2e".to_owned(),
            window: self.window,
            cursor: self.cursor,
            ..body::Login::default()
        }))
    }
}

/// One frame as bytes.
pub fn frame_bytes(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(frame, &mut bytes);
    bytes
}

/// A frame of any type and flags around any body, with a right length and checksum.
pub fn raw_frame(kind: u8, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x57, 0x52, 1, kind];
    bytes.extend(flags.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend((body.len() as u32).to_be_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), body);
    bytes.extend(crc.to_be_bytes());
    bytes.extend(body);
    bytes
}

/// One connection.
pub struct Peer {
    stream: TcpStream,
    received: Vec<u8>,
    taken: usize,
}

impl Peer {
    /// Connects, nothing more.
    pub fn connect(addr: SocketAddr) -> Peer {
        Peer::over(TcpStream::connect_timeout(&addr, PATIENCE).expect("the gateway listens"))
    }

    /// On a socket that the test made.
    pub fn over(stream: TcpStream) -> Peer {
        stream.set_nodelay(true).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Peer { stream, received: Vec::new(), taken: 0 }
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Writes any bytes.
    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the gateway takes bytes");
    }

    /// Writes any bytes, as far as the gateway lets it.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Writes a frame.
    pub fn send_frame(&mut self, frame: &Frame<'_>) {
        self.write(&frame_bytes(frame));
    }

    /// Ends our direction.
    pub fn finish(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("the connection is open");
    }

    /// LOGIN, which must succeed.
    pub fn log_in(&mut self, login: &LoginFields<'_>) -> body::LoginOk {
        self.write(&login.frame());
        match self.next() {
            Got::LoginOk(ok) => ok,
            other => panic!("LOGIN was answered by {other:?}"),
        }
    }

    /// SEND without a receipt.
    pub fn send(&mut self, channel: &str, client_msg_id: u64, payload: &[u8]) {
        self.send_frame(&Frame::Send(SendRef { channel, client_msg_id, payload, ..SendRef::default() }));
    }

    /// SEND with a receipt, which must be the next frame that comes: (reached, dropped).
    pub fn send_counted(&mut self, channel: &str, client_msg_id: u64, payload: &[u8]) -> (u32, u32) {
        self.send_frame(&Frame::Send(SendRef { channel, client_msg_id, payload, receipt: true, ..SendRef::default() }));
        match self.next() {
            Got::SendOk(ok) if ok.client_msg_id == client_msg_id => (ok.reached, ok.dropped),
            other => panic!("SEND {client_msg_id} was answered by {other:?}"),
        }
    }

    /// JOIN, which must succeed.
    pub fn join(&mut self, group: &str) {
        self.send_frame(&Frame::Join(body::Join { group: group.to_owned(), cursor: None }));
        assert_eq!(self.next(), Got::JoinOk(group.to_owned()));
    }

    /// The next frame, or the end. Panics if none comes.
    pub fn next(&mut self) -> Got {
        self.next_within(PATIENCE).unwrap_or_else(|| panic!("nothing came within {PATIENCE:?}"))
    }

    /// The next PUSH: who sent it, which it is, and what it says.
    pub fn next_push(&mut self) -> (String, u64, Vec<u8>) {
        match self.next() {
            Got::Push { from_client, client_msg_id, payload, .. } => (from_client, client_msg_id, payload),
            other => panic!("not a PUSH: {other:?}"),
        }
    }

    /// The next frame, or the end, if it comes in time.
    pub fn next_within(&mut self, within: Duration) -> Option<Got> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(got) = self.decode_next() {
                return Some(got);
            }
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            self.stream.set_read_timeout(Some(left)).unwrap();
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Some(Got::End),
                Ok(count) => self.received.extend_from_slice(&chunk[..count]),
                Err(cause) => match cause.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {}
                    io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => return Some(Got::Reset),
                    _ => panic!("reading failed: {cause}"),
                },
            }
        }
    }

    fn decode_next(&mut self) -> Option<Got> {
        match decode(&self.received[self.taken..], u32::MAX).expect("a gateway sends whole and right frames") {
            Decoded::Frame { frame, frame_bytes } => {
                let got = Got::of(frame);
                self.taken += frame_bytes;
                Some(got)
            }
            Decoded::NeedMore { .. } => {
                self.received.drain(..self.taken);
                self.taken = 0;
                None
            }
        }
    }

    /// Everything up to the end of the stream, which must come.
    pub fn drain(&mut self) -> Vec<Got> {
        let mut all = Vec::new();
        loop {
            let got = self.next();
            let ended = matches!(got, Got::End | Got::Reset);
            all.push(got);
            if ended {
                return all;
            }
        }
    }

    /// The gateway must end this connection with an ERROR of this code as its last frame, and an orderly end behind it.
    pub fn expect_closed(&mut self, code: ErrorCode) -> body::Error {
        let all = self.drain();
        match &all[..] {
            [.., Got::Error(error), Got::End] if error.code == code.number() && error.closing => error.clone(),
            other => panic!("expected ERROR {} and the end, got {other:?}", code.name()),
        }
    }

    /// The next frame must be an ERROR of this code that the connection survives.
    pub fn expect_refused(&mut self, code: ErrorCode) -> body::Error {
        match self.next() {
            Got::Error(error) if error.code == code.number() && !error.closing => error,
            other => panic!("expected ERROR {} and no end, got {other:?}", code.name()),
        }
    }

    /// A PING comes back: the connection works, and nothing else was waiting.
    pub fn check_alive(&mut self) {
        self.send_frame(&Frame::Ping(body::Ping { sent_us: 77, rtt_us: 0 }));
        loop {
            match self.next() {
                Got::Pong(pong) => return assert_eq!(pong.sent_us, 77),
                // A probe, which that PING answers as well as a PONG would.
                Got::Ping(_) => {}
                other => panic!("PING was answered by {other:?}"),
            }
        }
    }
}
