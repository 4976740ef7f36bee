//! What holds for every connection at any time. A probe checks each input against it, and panics where a reactor breaks it, so that
//! every case checks this beside its own subject.

use weir::{
    ids::ConnId,
    io::{Input, Output},
};

use crate::probe::Note;

/// How far one connection is, as its machine knows it.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// `None`: the slot is free.
    conn: Option<ConnId>,
    sending: bool,
    eof: bool,
    broken: bool,
    closing: bool,
    moving: bool,
    /// Input came for it in this turn, and it may yet move.
    stepped: bool,
    stays: bool,
}

/// All connections of one probe.
#[derive(Default)]
pub(crate) struct Checker {
    known: Vec<Known>,
    stepped: Vec<u32>,
}

impl Checker {
    fn begin(&mut self, conn: ConnId, stays: bool) {
        let slot = conn.slot as usize;
        if self.known.len() <= slot {
            self.known.resize(slot + 1, Known::default());
        }
        let known = &mut self.known[slot];
        // A connection that moved away ends without a word, its slot's next user tells.
        assert!(known.conn.is_none() || known.moving, "{conn} begins before {known:?} has ended");
        assert_ne!(known.conn, Some(conn), "an id is used a second time");
        *known = Known { conn: Some(conn), stays, stepped: !stays, ..Known::default() };
        self.stepped.push(conn.slot);
    }

    fn live(&mut self, conn: ConnId, what: &str) -> &mut Known {
        let known = self.known.get_mut(conn.slot as usize).filter(|known| known.conn == Some(conn));
        let known = known.unwrap_or_else(|| panic!("{what} for {conn}, which is not alive"));
        assert!(!known.closing, "{what} for {conn} after Close: {known:?}");
        assert!(!known.moving, "{what} for {conn} while it moves: {known:?}");
        assert!(!known.broken, "{what} for {conn} after Broken: {known:?}");
        known
    }

    /// Checks what a reactor says.
    pub(crate) fn input(&mut self, input: &Input<'_, Note>) {
        match input {
            Input::Accepted { conn, .. } => self.begin(*conn, false),
            Input::Connected { conn, .. } | Input::Adopted { conn, .. } => self.begin(*conn, true),
            Input::MoveRefused { conn, .. } => {
                let known = &mut self.known[conn.slot as usize];
                assert!(known.conn == Some(*conn) && known.moving, "MoveRefused for {conn}: {known:?}");
                known.moving = false;
            }
            Input::Received { conn, bytes } => {
                let known = self.live(*conn, "Received");
                assert!(!known.eof, "Received for {conn} after Eof");
                assert!(!bytes.is_empty(), "Received without bytes for {conn}");
                assert!(!known.stepped, "{conn} was received from before its machine had a say");
                known.stepped = !known.stays;
                self.stepped.push(conn.slot);
            }
            Input::Sent { conn, .. } => {
                let known = self.live(*conn, "Sent");
                assert!(std::mem::take(&mut known.sending), "Sent for {conn}, on which nothing was in flight");
            }
            Input::Eof { conn } => {
                let known = self.live(*conn, "Eof");
                assert!(!known.stepped, "the end of {conn} was received before its machine had a say");
                assert!(!std::mem::replace(&mut known.eof, true), "a second Eof for {conn}");
            }
            Input::Broken { conn, errno } => {
                assert_ne!(*errno, 0, "Broken for {conn} without an errno");
                self.live(*conn, "Broken").broken = true;
            }
            Input::Closed { conn } => {
                let known = &mut self.known[conn.slot as usize];
                assert!(known.conn == Some(*conn) && known.closing, "Closed for {conn}, which was not to be closed: {known:?}");
                *known = Known::default();
            }
            Input::ConnectFailed { .. } | Input::AdoptFailed { .. } | Input::Posted { .. } | Input::PostRefused { .. } => {}
        }
    }

    /// Takes note of what the machine asks for. False: it must not be asked for any more, because of what came meanwhile.
    pub(crate) fn output(&mut self, output: &Output<Note>) -> bool {
        let conn = match output {
            Output::Send { conn, .. }
            | Output::Stay { conn }
            | Output::Move { conn, .. }
            | Output::Finish { conn }
            | Output::Close { conn } => *conn,
            Output::Connect { .. } | Output::Post { .. } | Output::StopAccepting | Output::Stop => return true,
        };
        let Some(known) = self.known.get_mut(conn.slot as usize).filter(|known| known.conn == Some(conn)) else { return false };
        if known.closing || known.moving {
            return false;
        }
        match output {
            Output::Send { .. } => known.sending = true,
            Output::Stay { .. } => (known.stays, known.stepped) = (true, false),
            Output::Move { .. } => known.moving = true,
            Output::Close { .. } => known.closing = true,
            Output::Finish { .. } => {}
            Output::Connect { .. } | Output::Post { .. } | Output::StopAccepting | Output::Stop => {}
        }
        true
    }

    /// All outputs of a turn are taken: machines had their say.
    pub(crate) fn end_turn(&mut self) {
        for slot in self.stepped.drain(..) {
            self.known[slot as usize].stepped = false;
        }
    }
}
