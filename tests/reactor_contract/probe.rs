//! A machine that is driven by a test: it reports what it is told, and asks for what it is told to ask for.
#![forbid(unsafe_code)]

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::mpsc::{Receiver, Sender, channel},
};

use weir::{
    ids::{ConnId, ShardId},
    io::{Chunk, Input, Machine, Output, Tick},
};

use crate::checker::Checker;

/// What travels in the mesh of a test.
#[derive(Debug)]
pub(crate) enum Note {
    /// From the test: ask the reactor for this.
    Do(Box<Output<Note>>),
    /// From the test: several of them, in one turn.
    DoAll(Vec<Output<Note>>),
    /// From the test: behave so from now on.
    Behave(Behaviour),
    /// From the test: ask to be woken in so many microseconds, and report it.
    TickIn(u64),
    /// Between reactors: a number, to be reported.
    Number(u64),
    /// With a connection that moves: the bytes that came before it did.
    Bytes(Vec<u8>),
}

/// What a probe does of its own accord.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Behaviour {
    /// Accepted connections stay at once.
    pub(crate) stays: bool,
    /// What is received is sent back; what comes while a chunk is in flight is sent as one chunk behind it.
    pub(crate) echoes: bool,
    /// A connection whose peer sends no more, or that broke, is closed once all is sent.
    pub(crate) closes: bool,
    /// No bytes are taken, until a tick that was asked for.
    pub(crate) congested: bool,
    /// Accepted connections move there when their first bytes have come.
    pub(crate) moves_to: Option<ShardId>,
}

/// An input, with its bytes, to be looked at by the test.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Accepted {
        conn: ConnId,
        peer: IpAddr,
    },
    Connected {
        conn: ConnId,
        token: u32,
    },
    ConnectFailed {
        token: u32,
        errno: i32,
    },
    Adopted {
        conn: ConnId,
        from: ShardId,
        bytes: Vec<u8>,
    },
    AdoptFailed {
        from: ShardId,
        bytes: Vec<u8>,
        errno: i32,
    },
    MoveRefused {
        conn: ConnId,
        bytes: Vec<u8>,
    },
    Received {
        conn: ConnId,
        bytes: Vec<u8>,
    },
    Sent {
        conn: ConnId,
        bytes: usize,
    },
    Eof {
        conn: ConnId,
    },
    Broken {
        conn: ConnId,
        errno: i32,
    },
    Closed {
        conn: ConnId,
    },
    Number {
        from: ShardId,
        number: u64,
    },
    PostRefused {
        to: ShardId,
        number: u64,
    },
    /// The time at which `handle_tick` was due.
    Ticked {
        due: Tick,
    },
}

/// What a probe saw, when, and in which turn.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) turn: u64,
    pub(crate) now: Tick,
    pub(crate) seen: Seen,
}

/// A connection of an echoing probe.
#[derive(Default)]
struct Echo {
    /// `None` once the slot's connection ended.
    conn: Option<ConnId>,
    in_flight: bool,
    waiting: Vec<u8>,
    ends: bool,
    /// Moves away with what waits.
    moves: bool,
}

pub(crate) struct Probe {
    reports: Sender<Report>,
    turn: u64,
    outputs: VecDeque<Output<Note>>,
    behaviour: Behaviour,
    echoes: Vec<Echo>,
    due: Option<Tick>,
    checker: Checker,
}

impl Probe {
    /// A probe, and what it will report.
    pub(crate) fn new(behaviour: Behaviour) -> (Probe, Receiver<Report>) {
        let (reports, receiver) = channel();
        (
            Probe {
                reports,
                turn: 0,
                outputs: VecDeque::new(),
                behaviour,
                echoes: Vec::new(),
                due: None,
                checker: Checker::default(),
            },
            receiver,
        )
    }

    fn report(&self, now: Tick, seen: Seen) {
        // The test may have ended already, and does not listen any more.
        let _ = self.reports.send(Report { turn: self.turn, now, seen });
    }

    fn echo(&mut self, conn: ConnId) -> &mut Echo {
        let slot = conn.slot as usize;
        if self.echoes.len() <= slot {
            self.echoes.resize_with(slot + 1, Echo::default);
        }
        &mut self.echoes[slot]
    }

    fn begin(&mut self, conn: ConnId) {
        *self.echo(conn) = Echo { conn: Some(conn), ..Echo::default() };
    }

    /// Sends what waits, or closes what has ended, as this probe behaves.
    fn go_on(&mut self, conn: ConnId) {
        let Behaviour { echoes, closes, moves_to, .. } = self.behaviour;
        let echo = self.echo(conn);
        if echo.conn != Some(conn) || echo.in_flight {
            return;
        }
        if echo.moves
            && let Some(to) = moves_to
        {
            let message = Note::Bytes(echo.waiting.clone());
            self.outputs.push_back(Output::Move { conn, to, message });
        } else if echoes && !echo.waiting.is_empty() {
            echo.in_flight = true;
            let chunk = Chunk::Owned(std::mem::take(&mut echo.waiting));
            self.outputs.push_back(Output::Send { conn, chunk });
        } else if closes && echo.ends {
            echo.conn = None;
            self.outputs.push_back(Output::Close { conn });
        }
    }

    fn obey(&mut self, now: Tick, from: ShardId, note: Note) {
        match note {
            Note::Do(output) => self.outputs.push_back(*output),
            Note::DoAll(outputs) => self.outputs.extend(outputs),
            Note::Behave(behaviour) => self.behaviour = behaviour,
            Note::TickIn(micros) => self.due = Some(Tick(now.0 + micros)),
            Note::Number(number) => self.report(now, Seen::Number { from, number }),
            Note::Bytes(bytes) => panic!("{} bytes were posted without a connection", bytes.len()),
        }
    }
}

fn bytes_of(note: Note) -> Vec<u8> {
    match note {
        Note::Bytes(bytes) => bytes,
        note @ (Note::Do(_) | Note::DoAll(_) | Note::Behave(_) | Note::TickIn(_) | Note::Number(_)) => {
            panic!("a connection moved with {note:?}")
        }
    }
}

impl Machine for Probe {
    type Message = Note;

    fn handle(&mut self, now: Tick, input: Input<'_, Note>) {
        self.checker.input(&input);
        let seen = match input {
            Input::Accepted { conn, peer } => {
                self.begin(conn);
                self.echo(conn).moves = self.behaviour.moves_to.is_some();
                if self.behaviour.stays {
                    self.outputs.push_back(Output::Stay { conn });
                }
                Seen::Accepted { conn, peer }
            }
            Input::Connected { conn, token } => {
                self.begin(conn);
                Seen::Connected { conn, token }
            }
            Input::Adopted { conn, from, message } => {
                self.begin(conn);
                let bytes = bytes_of(message);
                self.echo(conn).waiting.extend_from_slice(&bytes);
                self.go_on(conn);
                Seen::Adopted { conn, from, bytes }
            }
            Input::Received { conn, bytes } => {
                self.echo(conn).waiting.extend_from_slice(bytes);
                self.go_on(conn);
                Seen::Received { conn, bytes: bytes.to_vec() }
            }
            Input::Sent { conn, chunk } => {
                self.echo(conn).in_flight = false;
                self.go_on(conn);
                Seen::Sent { conn, bytes: chunk.as_slice().len() }
            }
            Input::Eof { conn } => {
                self.echo(conn).ends = true;
                self.go_on(conn);
                Seen::Eof { conn }
            }
            Input::Broken { conn, errno } => {
                let echo = self.echo(conn);
                (echo.in_flight, echo.ends) = (false, true);
                echo.waiting.clear();
                self.go_on(conn);
                Seen::Broken { conn, errno }
            }
            Input::Closed { conn } => Seen::Closed { conn },
            Input::ConnectFailed { token, errno } => Seen::ConnectFailed { token, errno },
            Input::AdoptFailed { from, message, errno } => Seen::AdoptFailed { from, bytes: bytes_of(message), errno },
            Input::MoveRefused { conn, message } => Seen::MoveRefused { conn, bytes: bytes_of(message) },
            Input::Posted { from, message } => return self.obey(now, from, message),
            Input::PostRefused { to, message } => {
                let Note::Number(number) = message else { panic!("only numbers are posted between probes, not {message:?}") };
                self.outputs.push_back(Output::Post { to, message: Note::Number(number) });
                Seen::PostRefused { to, number }
            }
        };
        self.report(now, seen);
    }

    fn handle_tick(&mut self, now: Tick) -> Option<Tick> {
        self.turn += 1;
        if let Some(due) = self.due.take_if(|due| *due <= now) {
            self.behaviour.congested = false;
            self.report(now, Seen::Ticked { due });
        }
        self.due
    }

    fn poll_output(&mut self) -> Option<Output<Note>> {
        while let Some(output) = self.outputs.pop_front() {
            if self.checker.output(&output) {
                return Some(output);
            }
        }
        self.checker.end_turn();
        None
    }

    fn is_congested(&self) -> bool {
        self.behaviour.congested
    }
}
