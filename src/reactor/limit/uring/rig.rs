//! One io_uring with the connections of a bare loop: what all loops do with them.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use io_uring::{cqueue, opcode, squeue, types};
use socket2::SockRef;

use super::super::Counts;
use crate::{
    limits::{RECEIVE_BUFFER_BYTES, RECEIVE_BUFFERS},
    reactor::{Wait, buffers::Buffers, uring::Ring},
};

/// The one group of receive buffers.
const BUFFER_GROUP: u16 = 0;

/// What a completion ends; the top eight bits of `user_data`, above the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Op {
    /// Nothing of this ring: a connection came from another one, and `user_data` is the address of its greeting.
    Arrive = 0,
    Stop,
    Accept,
    Receive,
    CancelReceive,
    Send,
    Depart,
    Close,
}

impl Op {
    const ALL: [Op; 8] = [Op::Arrive, Op::Stop, Op::Accept, Op::Receive, Op::CancelReceive, Op::Send, Op::Depart, Op::Close];

    fn of(self, slot: u32) -> u64 {
        (self as u64) << 56 | u64::from(slot)
    }

    pub(super) fn decode(user_data: u64) -> (Op, u32) {
        (Op::ALL[(user_data >> 56) as usize], user_data as u32)
    }
}

/// What is in flight on a connection.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    receiving: bool,
    /// A send or a move.
    sending: bool,
    /// It is to be closed as soon as nothing is in flight.
    ended: bool,
    /// It is being closed.
    closing: bool,
}

/// How a loop receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    /// Once, because the connection moves before it goes on.
    Once,
    /// Until the end.
    Many,
}

/// What a receive brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// Bytes, in a buffer that is to be given back.
    Bytes(u16),
    /// There is no more to come.
    End,
    /// Nothing that the loop has to know: no buffer was free, or the connection is being closed.
    Nothing,
}

/// The ring, its receive buffers, and its slots.
pub(super) struct Rig {
    // Dropped before the buffers, which its operations use.
    ring: Ring,
    pub(super) buffers: Buffers,
    slots: Vec<Slot>,
    /// Connections that found no receive buffer.
    parked: Vec<u32>,
    listener: Option<OwnedFd>,
    /// How it receives.
    receiving: Receiving,
    /// Our own descriptor, so that it outlives the poll on it.
    stop: OwnedFd,
    pub(super) counts: Counts,
}

impl Rig {
    /// Made on the thread that uses it.
    pub(super) fn new(listener: Option<OwnedFd>, connections: u32, stop: OwnedFd, receiving: Receiving) -> io::Result<Rig> {
        if let Some(listener) = &listener {
            // io_uring takes a non-blocking socket at its word: it would fail operations that have to wait.
            SockRef::from(listener).set_nonblocking(false)?;
        }
        let buffers = Buffers::new(RECEIVE_BUFFERS as u16, RECEIVE_BUFFER_BYTES)?;
        let ring = Ring::new(connections, Default::default())?;
        // SAFETY: the buffers are a later field of the same struct: they are dropped after the ring.
        unsafe { ring.register_buffers(buffers.ring_address(), buffers.count()) }?;
        let slots = vec![Slot::default(); connections as usize];
        let (parked, counts) = (Vec::new(), Counts::default());
        let mut rig = Rig { ring, buffers, slots, parked, listener, receiving, stop, counts };
        let events = (libc::POLLIN | libc::POLLHUP) as u32;
        rig.push(opcode::PollAdd::new(types::Fd(rig.stop.as_raw_fd()), events).build().user_data(Op::Stop.of(0)));
        rig.accept();
        Ok(rig)
    }

    /// The descriptor by which other rings reach this one.
    pub(super) fn descriptor(&self) -> i32 {
        self.ring.descriptor()
    }

    /// Hands over what was queued, and waits for a completion.
    pub(super) fn submit_and_wait(&mut self) -> io::Result<()> {
        for _ in 0..self.parked.len().min(self.buffers.free().into()) {
            let slot = self.parked.pop().expect("they were counted");
            self.receive(slot);
        }
        self.counts.turns += 1;
        self.ring.submit_and_wait(Wait::Forever)
    }

    pub(super) fn next_completion(&mut self) -> Option<cqueue::Entry> {
        self.ring.next_completion()
    }

    /// Queues an operation that uses no memory but this rig's.
    fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: of the entries made here only receives use memory, and that is the buffers', which are dropped after the ring. The
        // memory of sends is the promise of `send`'s callers.
        unsafe { self.ring.push(entry) };
    }

    fn accept(&mut self) {
        if let Some(listener) = &self.listener {
            let accept = opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd())).allocate_file_index(true);
            self.push(accept.build().user_data(Op::Accept.of(0)));
        }
    }

    /// A connection was accepted, or that failed. Gives its slot.
    pub(super) fn accepted(&mut self, result: i32, flags: u32) -> io::Result<Option<u32>> {
        if !cqueue::more(flags) {
            self.accept();
        }
        match result {
            0.. => {
                self.counts.accepted += 1;
                Ok(Some(result as u32))
            }
            _ => match -result {
                // The table is full: the kernel has closed it.
                libc::ENFILE => {
                    self.counts.refused += 1;
                    Ok(None)
                }
                libc::ECONNABORTED | libc::EPROTO | libc::EINTR | libc::EAGAIN => Ok(None),
                errno => Err(io::Error::from_raw_os_error(errno)),
            },
        }
    }

    /// Receives from `slot`.
    pub(super) fn receive(&mut self, slot: u32) {
        let state = &mut self.slots[slot as usize];
        if state.ended || std::mem::replace(&mut state.receiving, true) {
            return;
        }
        let socket = types::Fixed(slot);
        let receive = match self.receiving {
            Receiving::Many => opcode::RecvMulti::new(socket, BUFFER_GROUP).build(),
            Receiving::Once => {
                let receive = opcode::Recv::new(socket, std::ptr::null_mut(), 0).buf_group(BUFFER_GROUP).build();
                receive.flags(squeue::Flags::BUFFER_SELECT)
            }
        };
        self.push(receive.user_data(Op::Receive.of(slot)));
    }

    /// A receive was completed.
    pub(super) fn received(&mut self, slot: u32, result: i32, flags: u32) -> Received {
        let state = &mut self.slots[slot as usize];
        let over = !cqueue::more(flags);
        state.receiving &= !over;
        let ended = state.ended;
        let buffer = cqueue::buffer_select(flags);
        if let Some(id) = buffer {
            self.buffers.take(id, result.max(0) as u32);
            if result <= 0 || ended {
                self.buffers.give_back(id);
            }
        }
        if ended {
            self.close_when_still(slot);
            return Received::Nothing;
        }
        match (result, buffer) {
            (1.., Some(id)) => {
                if over && self.receiving == Receiving::Many {
                    self.receive(slot);
                }
                Received::Bytes(id)
            }
            (0.., _) => Received::End,
            (error, _) if -error == libc::ENOBUFS => {
                self.counts.parked += 1;
                self.parked.push(slot);
                Received::Nothing
            }
            (_, _) => {
                self.end(slot);
                Received::Nothing
            }
        }
    }

    /// Whether a send or a move is in flight.
    pub(super) fn is_sending(&self, slot: u32) -> bool {
        self.slots[slot as usize].sending
    }

    /// Whether the connection is being closed.
    pub(super) fn has_ended(&self, slot: u32) -> bool {
        self.slots[slot as usize].ended
    }

    /// Sends `bytes`, on which nothing is in flight.
    ///
    /// # Safety
    /// The bytes stay as they are until the completion, or until this rig is dropped.
    pub(super) unsafe fn send(&mut self, slot: u32, bytes: *const [u8]) {
        self.slots[slot as usize].sending = true;
        let send = opcode::Send::new(types::Fixed(slot), bytes.cast(), bytes.len() as u32);
        let send = send.flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL).build();
        self.push(send.user_data(Op::Send.of(slot)));
    }

    /// A send was completed. Gives how many bytes the kernel took; `None` when the connection is to be closed.
    pub(super) fn sent(&mut self, slot: u32, result: i32) -> Option<u32> {
        let state = &mut self.slots[slot as usize];
        state.sending = false;
        if state.ended || result < 0 {
            self.end(slot);
            return None;
        }
        Some(result as u32)
    }

    /// Installs the connection in the table of another ring, which gets `user_data` with its slot there.
    pub(super) fn depart(&mut self, slot: u32, ring: i32, user_data: u64) {
        self.slots[slot as usize].sending = true;
        let anywhere = types::DestinationSlot::auto_target();
        let depart = opcode::MsgRingSendFd::new(types::Fd(ring), types::Fixed(slot), anywhere, user_data);
        self.push(depart.build().user_data(Op::Depart.of(slot)));
    }

    /// A move ended, well or not: either way nothing more happens to the connection here.
    pub(super) fn departed(&mut self, slot: u32) {
        self.slots[slot as usize].sending = false;
        self.end(slot);
    }

    /// Closes a connection as soon as nothing is in flight.
    pub(super) fn end(&mut self, slot: u32) {
        let state = &mut self.slots[slot as usize];
        if !std::mem::replace(&mut state.ended, true) && state.receiving {
            let cancel = opcode::AsyncCancel::new(Op::Receive.of(slot)).build();
            self.push(cancel.user_data(Op::CancelReceive.of(slot)));
        }
        self.close_when_still(slot);
    }

    fn close_when_still(&mut self, slot: u32) {
        let state = &mut self.slots[slot as usize];
        if !state.receiving && !state.sending && !std::mem::replace(&mut state.closing, true) {
            self.push(opcode::Close::new(types::Fixed(slot)).build().user_data(Op::Close.of(slot)));
        }
    }

    /// A slot is free again.
    pub(super) fn closed(&mut self, slot: u32) {
        self.slots[slot as usize] = Slot::default();
        self.parked.retain(|parked| *parked != slot);
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Err(error) = self.ring.shut() {
            // The kernel may still write to the buffers: better to stop than to let it write into memory that is used for something else.
            log::error!("the operations of a bare loop cannot be ended: {error}");
            std::process::abort();
        }
    }
}
