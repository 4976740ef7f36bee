//! A small blocking Weir client over `std::net`: for the shell commands, for tests, and as an example of the protocol.
//!
//! Requests wait for their answer; whatever else arrives meanwhile is kept for [`Client::next_event`]. The gateway's PINGs are
//! answered on the way. Nothing is sent in the background: who stays connected calls [`Client::ping`] in time.
#![forbid(unsafe_code)]

mod durable;
mod error;
mod event;
#[cfg(test)]
mod tests;
mod watch;

pub use error::{ClientError, code_text};
use event::Taken;
pub use event::{Event, Push};

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::limits::{BODY_BYTES_CEILING, COMPRESS_BYTES_MIN};
use crate::wire::{Decoded, Frame, FrameType, Packer, SendRef, Unpacker, body, decode, encode, wrap_batch};

/// How much is read from the socket at once.
const READ_BYTES: usize = 64 * 1024;

/// One connection to a gateway.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    /// Bytes of frames that are not complete yet.
    received: Vec<u8>,
    /// Whether LOGIN agreed upon compression.
    zstd: bool,
    packer: Packer,
    unpacker: Unpacker,
    /// Frames that came in a BATCH and were not looked at yet.
    taken: VecDeque<Taken>,
    /// Events that came while another one was awaited.
    events: VecDeque<Event>,
    /// The last code and text that announced a close.
    farewell: Option<(u32, String)>,
    next_msg_id: u64,
    /// How long requests wait for their answer.
    timeout: Duration,
    started: Instant,
    last_rtt_us: u32,
}

impl Client {
    /// Connects to the first of the host's addresses that answers. `timeout` is for each of them, and later for each request.
    ///
    /// # Errors
    /// The name is not known, or no address answers.
    pub fn connect(address: &str, timeout: Duration) -> Result<Client, ClientError> {
        let failed = |cause| ClientError::Connect { address: address.to_owned(), cause };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for candidate in address.to_socket_addrs().map_err(failed)? {
            match TcpStream::connect_timeout(&candidate, timeout) {
                Ok(stream) => return Client::over(stream, timeout).map_err(failed),
                Err(cause) => last = cause,
            }
        }
        Err(failed(last))
    }

    /// Takes over a connected socket.
    ///
    /// # Errors
    /// The socket is not usable.
    pub fn over(stream: TcpStream, timeout: Duration) -> io::Result<Client> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Client {
            stream,
            received: Vec::new(),
            zstd: false,
            packer: Packer::default(),
            unpacker: Unpacker::default(),
            taken: VecDeque::new(),
            events: VecDeque::new(),
            farewell: None,
            // A number must not come again while the gateway takes it for a retry.
            next_msg_id: SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, micros),
            timeout,
            started: Instant::now(),
            last_rtt_us: 0,
        })
    }

    /// The socket, for tests that need its options.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// LOGIN.
    ///
    /// # Errors
    /// Refused with the gateway's reason, closed, broken or timed out.
    pub fn login(&mut self, login: body::Login) -> Result<body::LoginOk, ClientError> {
        self.write_frame(&Frame::Login(login))?;
        self.answer("LOGIN_OK", FrameType::Login, |event| match event {
            Event::LoginOk(ok) => Ok(ok),
            other => Err(other),
        })
    }

    /// SEND without asking for an answer. Returns the message's id.
    ///
    /// # Errors
    /// The connection broke.
    pub fn send(&mut self, channel: &str, payload: &[u8]) -> Result<u64, ClientError> {
        self.send_frame(channel, payload, false)
    }

    /// SEND, and waits for how many devices it reached.
    ///
    /// # Errors
    /// Refused with the gateway's reason, closed, broken or timed out.
    pub fn send_with_receipt(&mut self, channel: &str, payload: &[u8]) -> Result<body::SendOk, ClientError> {
        let sent = self.send_frame(channel, payload, true)?;
        self.answer("SEND_OK", FrameType::Send, |event| match event {
            Event::SendOk(ok) if ok.client_msg_id == sent => Ok(ok),
            other => Err(other),
        })
    }

    fn send_frame(&mut self, channel: &str, payload: &[u8], receipt: bool) -> Result<u64, ClientError> {
        let client_msg_id = self.new_id();
        self.write_frame(&Frame::Send(SendRef { channel, client_msg_id, payload, receipt, ..SendRef::default() }))?;
        Ok(client_msg_id)
    }

    /// JOIN, and waits until the group's messages come here. Returns the number of members, as last counted.
    ///
    /// # Errors
    /// Refused with the gateway's reason, closed, broken or timed out.
    pub fn join(&mut self, group: &str) -> Result<u32, ClientError> {
        self.join_from(group, None)
    }

    /// LEAVE, and waits until no message of the group follows.
    ///
    /// # Errors
    /// Closed, broken or timed out.
    pub fn leave(&mut self, group: &str) -> Result<(), ClientError> {
        self.write_frame(&Frame::Leave(body::Leave { group: group.to_owned() }))?;
        self.answer("LEAVE_OK", FrameType::Leave, |event| match event {
            Event::LeaveOk(ok) if ok.group == group => Ok(()),
            other => Err(other),
        })
    }

    /// PING, and waits for its PONG. Returns the round trip and the heartbeat interval that the gateway wants from now on.
    ///
    /// # Errors
    /// Closed, broken or timed out.
    pub fn ping(&mut self) -> Result<(Duration, Duration), ClientError> {
        let sent_us = micros(self.started.elapsed());
        self.write_frame(&Frame::Ping(body::Ping { sent_us, rtt_us: self.last_rtt_us }))?;
        let interval_ms = self.answer("PONG", FrameType::Ping, |event| match event {
            Event::Pong(pong) if pong.sent_us == sent_us => Ok(pong.heartbeat_interval_ms),
            other => Err(other),
        })?;
        let rtt = self.started.elapsed().saturating_sub(Duration::from_micros(sent_us));
        self.last_rtt_us = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX);
        Ok((rtt, Duration::from_millis(interval_ms.into())))
    }

    /// The next event, or `None` when none came within `timeout`.
    ///
    /// # Errors
    /// Closed (after all events were handed out), broken, or not Weir's protocol.
    pub fn next_event(&mut self, timeout: Duration) -> Result<Option<Event>, ClientError> {
        match self.events.pop_front() {
            Some(event) => Ok(Some(event)),
            None => self.receive(Instant::now() + timeout),
        }
    }

    /// The next PUSH, or `None` when none came within `timeout`. Other events are dropped.
    ///
    /// # Errors
    /// As [`Client::next_event`].
    pub fn next_push(&mut self, timeout: Duration) -> Result<Option<Push>, ClientError> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.next_event(deadline.saturating_duration_since(Instant::now()))? {
                Some(Event::Push(push)) => return Ok(Some(push)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// Writes any bytes: for tests of what a gateway must refuse.
    ///
    /// # Errors
    /// The connection broke.
    pub fn write_raw(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.stream.write_all(bytes).map_err(ClientError::Broken)
    }

    /// Writes one frame.
    ///
    /// # Errors
    /// The connection broke.
    pub fn write_frame(&mut self, frame: &Frame<'_>) -> Result<(), ClientError> {
        let mut bytes = Vec::new();
        encode(frame, &mut bytes);
        self.write_whole(&bytes)
    }

    /// Writes several frames as one BATCH, which must not be longer than the gateway takes.
    ///
    /// # Errors
    /// The connection broke.
    pub fn write_batch(&mut self, frames: &[Frame<'_>]) -> Result<(), ClientError> {
        let mut bytes = Vec::new();
        for frame in frames {
            encode(frame, &mut bytes);
        }
        wrap_batch(&mut bytes);
        self.write_whole(&bytes)
    }

    fn write_whole(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let mut packed = Vec::new();
        let is_packed = self.zstd && bytes.len() >= COMPRESS_BYTES_MIN && self.packer.pack(bytes, &mut packed);
        let Err(cause) = self.stream.write_all(if is_packed { &packed } else { bytes }) else { return Ok(()) };
        // A gateway that closes says why first; that is worth more than "broken pipe".
        let deadline = Instant::now() + Duration::from_millis(200);
        while let Ok(Some(event)) = self.receive(deadline) {
            self.events.push_back(event);
        }
        match &self.farewell {
            Some((code, message)) => Err(ClientError::Closed { code: Some(*code), message: message.clone() }),
            None => Err(ClientError::Broken(cause)),
        }
    }

    /// Tells the gateway that nothing more will be sent.
    ///
    /// # Errors
    /// The connection broke.
    pub fn finish(&mut self) -> Result<(), ClientError> {
        self.stream.shutdown(Shutdown::Write).map_err(ClientError::Broken)
    }

    /// Waits for the event that `pick` takes; keeps the others.
    fn answer<T>(
        &mut self,
        awaited: &'static str,
        request: FrameType,
        mut pick: impl FnMut(Event) -> Result<T, Event>,
    ) -> Result<T, ClientError> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let event = self.receive(deadline)?.ok_or(ClientError::Timeout { waited: self.timeout, awaited })?;
            match pick(event) {
                Ok(answer) => return Ok(answer),
                Err(Event::Error(error)) if error.in_reply_to == request as u32 || error.closing => {
                    return Err(ClientError::Refused(error));
                }
                Err(other) => self.events.push_back(other),
            }
        }
    }

    /// The next event off the wire, or `None` at the deadline.
    fn receive(&mut self, deadline: Instant) -> Result<Option<Event>, ClientError> {
        loop {
            if let Some(event) = self.take_frame()? {
                return Ok(Some(event));
            }
            // A timeout of zero would mean none at all.
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left)).map_err(ClientError::Broken)?;
            let mut chunk = [0; READ_BYTES];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(self.closed()),
                Ok(count) => self.received.extend_from_slice(&chunk[..count]),
                Err(cause) => match cause.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut if Instant::now() < deadline => {}
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Ok(None),
                    io::ErrorKind::ConnectionReset if self.farewell.is_some() => return Err(self.closed()),
                    _ => return Err(ClientError::Broken(cause)),
                },
            }
        }
    }

    fn closed(&self) -> ClientError {
        let (code, message) = self.farewell.clone().map_or((None, String::new()), |(code, message)| (Some(code), message));
        ClientError::Closed { code, message }
    }

    /// The first frame of what was received, if it is complete. Answers PINGs, skips unknown frames.
    fn take_frame(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            let Some(taken) = self.taken.pop_front() else {
                if self.unpack()? {
                    continue;
                }
                return Ok(None);
            };
            match taken {
                Taken::Event(event) => {
                    self.note_farewell(&event);
                    return Ok(Some(event));
                }
                Taken::Ping(ping) => {
                    let pong = body::Pong { sent_us: ping.sent_us, heartbeat_interval_ms: 0 };
                    self.write_frame(&Frame::Pong(pong))?;
                }
                Taken::Skip => {}
                Taken::Misdirected(kind) => return Err(ClientError::Unexpected { kind: kind.name() }),
            }
        }
    }

    /// Takes the first frame off what was received, or all those of the BATCH that it is. Returns false if it is not complete.
    fn unpack(&mut self) -> Result<bool, ClientError> {
        let decoded = if self.zstd {
            self.unpacker.decode(&self.received, BODY_BYTES_CEILING)
        } else {
            decode(&self.received, BODY_BYTES_CEILING)
        };
        let frame_bytes = match decoded.map_err(ClientError::Malformed)? {
            Decoded::NeedMore { .. } => return Ok(false),
            Decoded::Frame { frame: Frame::LoginOk(ok), frame_bytes } => {
                // What comes behind it may be compressed.
                self.zstd = ok.compression() == body::Compression::Zstd;
                self.taken.push_back(Taken::Event(Event::LoginOk(ok)));
                frame_bytes
            }
            Decoded::Frame { frame: Frame::Batch(batch), frame_bytes } => {
                for frame in batch.frames() {
                    let (frame, _) = frame.map_err(ClientError::Malformed)?;
                    self.taken.push_back(Taken::of(frame));
                }
                frame_bytes
            }
            Decoded::Frame { frame, frame_bytes } => {
                self.taken.push_back(Taken::of(frame));
                frame_bytes
            }
        };
        self.received.drain(..frame_bytes);
        Ok(true)
    }

    fn note_farewell(&mut self, event: &Event) {
        self.farewell = match event {
            Event::Error(error) if error.closing => Some((error.code, error.message.clone())),
            Event::Kicked(kicked) => Some((kicked.code, kicked.message.clone())),
            Event::Goaway(goaway) => Some((goaway.code, goaway.message.clone())),
            Event::Error(_)
            | Event::LoginOk(_)
            | Event::Pong(_)
            | Event::SendOk(_)
            | Event::Push(_)
            | Event::JoinOk(_)
            | Event::LeaveOk(_)
            | Event::Accepted(_)
            | Event::Gap(_)
            | Event::Cursors(_)
            | Event::Page(_)
            | Event::Presence(_) => return,
        };
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
