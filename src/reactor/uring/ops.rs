//! The operations, as submission entries, and how a completion says which one it ends.

use io_uring::{opcode, squeue, types};

use super::table::Direct;
use crate::{ids::ConnId, io::Chunk};

/// Which operation a completion ends; the top eight bits of `user_data`, above the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Op {
    Bell = 1,
    Accept,
    CancelAccept,
    Name,
    Receive,
    CancelReceive,
    Send,
    CancelSend,
    Install,
    Connect,
    Move,
    Finish,
    Close,
}

impl Op {
    const ALL: [Op; 13] = [
        Op::Bell,
        Op::Accept,
        Op::CancelAccept,
        Op::Name,
        Op::Receive,
        Op::CancelReceive,
        Op::Send,
        Op::CancelSend,
        Op::Install,
        Op::Connect,
        Op::Move,
        Op::Finish,
        Op::Close,
    ];

    /// The operation and the connection of a completion.
    pub(super) fn decode(user_data: u64) -> (Op, ConnId) {
        let code = (user_data >> 56) as usize;
        (Op::ALL[code - 1], ConnId::from_bits(user_data))
    }

    /// For an operation on `conn`.
    fn of(self, conn: ConnId) -> u64 {
        (self as u64) << 56 | conn.to_bits()
    }

    /// For an operation on no connection.
    fn alone(self) -> u64 {
        (self as u64) << 56
    }
}

/// Only this kernel constant of the two socket commands is missing in the crate.
const SOCKET_URING_OP_GETSOCKOPT: u32 = 2;
const SO_PEERNAME: u32 = 28;
/// The one group of receive buffers.
const BUFFER_GROUP: u16 = 0;
/// Let the kernel choose the index (`IORING_FILE_INDEX_ALLOC`).
const ANY_INDEX: i32 = -1;
/// The target ring gets no completion (`IORING_MSG_RING_CQE_SKIP`): it learns of the connection from the mesh.
const TARGET_SKIPS: u32 = 1;

fn fixed(direct: Direct) -> types::Fixed {
    types::Fixed(direct.index)
}

/// Completes each time the bell is rung. A multishot poll is edge-triggered: each write to the eventfd counts, though nobody reads it.
pub(super) fn bell(descriptor: i32) -> squeue::Entry {
    opcode::PollAdd::new(types::Fd(descriptor), libc::POLLIN as u32).multi(true).build().user_data(Op::Bell.alone())
}

/// Accepts into direct descriptors until it is cancelled or fails.
pub(super) fn accept_many(listener: i32) -> squeue::Entry {
    opcode::AcceptMulti::new(types::Fd(listener)).allocate_file_index(true).build().user_data(Op::Accept.alone())
}

/// Accepts one connection into a direct descriptor.
pub(super) fn accept_one(listener: i32) -> squeue::Entry {
    let anywhere = Some(types::DestinationSlot::auto_target());
    opcode::Accept::new(types::Fd(listener), std::ptr::null_mut(), std::ptr::null_mut())
        .file_index(anywhere)
        .build()
        .user_data(Op::Accept.alone())
}

pub(super) fn cancel_accept() -> squeue::Entry {
    opcode::AsyncCancel::new(Op::Accept.alone()).build().user_data(Op::CancelAccept.alone())
}

/// Writes the peer's address to `address`, which has room for `length` bytes: exactly those of the listener's family.
pub(super) fn name(direct: Direct, address: *mut libc::sockaddr_storage, length: u32) -> squeue::Entry {
    let set = opcode::SetSockOpt::new(fixed(direct), libc::SOL_SOCKET as u32, SO_PEERNAME, address.cast(), length);
    let mut entry = set.build().user_data(Op::Name.of(direct.conn));
    const _: () = assert!(size_of::<squeue::Entry>() == 64);
    // SAFETY: an entry is a `struct io_uring_sqe` (`repr(C)`, 64 bytes), whose `cmd_op` is the `u32` at byte 8. The crate can only build the
    // setting command; the getting one has the same fields in the same places (io_uring/cmd_net.c).
    unsafe { std::ptr::from_mut(&mut entry).cast::<u32>().add(2).write(SOCKET_URING_OP_GETSOCKOPT) };
    entry
}

/// Receives once.
pub(super) fn receive_one(direct: Direct) -> squeue::Entry {
    opcode::Recv::new(fixed(direct), std::ptr::null_mut(), 0)
        .buf_group(BUFFER_GROUP)
        .build()
        .flags(squeue::Flags::BUFFER_SELECT)
        .user_data(Op::Receive.of(direct.conn))
}

/// Receives once what is there already; fails with `EAGAIN` when nothing is.
pub(super) fn receive_rest(direct: Direct) -> squeue::Entry {
    opcode::Recv::new(fixed(direct), std::ptr::null_mut(), 0)
        .buf_group(BUFFER_GROUP)
        .flags(libc::MSG_DONTWAIT)
        .build()
        .flags(squeue::Flags::BUFFER_SELECT)
        .user_data(Op::Receive.of(direct.conn))
}

/// Completes when there is something to receive, or the end, and leaves it where it is; needs no shared buffer. `waits`: until then.
pub(super) fn peek(direct: Direct, byte: *mut u8, waits: bool) -> squeue::Entry {
    let flags = libc::MSG_PEEK | if waits { 0 } else { libc::MSG_DONTWAIT };
    opcode::Recv::new(fixed(direct), byte, 1).flags(flags).build().user_data(Op::Receive.of(direct.conn))
}

/// Completes when there is something to receive, or the end; holds less of the kernel's memory meanwhile than a receive.
pub(super) fn poll(direct: Direct) -> squeue::Entry {
    opcode::PollAdd::new(fixed(direct), libc::POLLIN as u32).build().user_data(Op::Receive.of(direct.conn))
}

/// Receives until the end.
pub(super) fn receive_many(direct: Direct) -> squeue::Entry {
    opcode::RecvMulti::new(fixed(direct), BUFFER_GROUP).build().user_data(Op::Receive.of(direct.conn))
}

/// Completes only when there was nothing to cancel.
pub(super) fn cancel_receive(conn: ConnId) -> squeue::Entry {
    let entry = opcode::AsyncCancel::new(Op::Receive.of(conn)).build();
    entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(Op::CancelReceive.of(conn))
}

/// Sends what lies behind the first `done` bytes of `chunk`. The kernel goes on by itself after a partial send.
pub(super) fn send(direct: Direct, chunk: &Chunk, done: usize) -> squeue::Entry {
    let bytes = &chunk.as_slice()[done..];
    // A longer chunk is sent in parts: the result is an `i32`.
    let length = bytes.len().min(1 << 30) as u32;
    opcode::Send::new(fixed(direct), bytes.as_ptr(), length)
        .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
        .build()
        .user_data(Op::Send.of(direct.conn))
}

/// Completes only when there was nothing to cancel.
pub(super) fn cancel_send(conn: ConnId) -> squeue::Entry {
    let entry = opcode::AsyncCancel::new(Op::Send.of(conn)).build();
    entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(Op::CancelSend.of(conn))
}

/// Makes direct descriptors of `descriptors`, whose places get the indices.
pub(super) fn install(descriptors: *mut i32, count: usize) -> squeue::Entry {
    opcode::FilesUpdate::new(descriptors, count as u32).offset(ANY_INDEX).build().user_data(Op::Install.alone())
}

pub(super) fn connect(direct: Direct, address: *const libc::sockaddr, length: libc::socklen_t) -> squeue::Entry {
    opcode::Connect::new(fixed(direct), address, length).build().user_data(Op::Connect.of(direct.conn))
}

/// Installs the connection in another ring's table. The result is its index there.
pub(super) fn depart(direct: Direct, ring: i32) -> squeue::Entry {
    opcode::MsgRingSendFd::new(types::Fd(ring), fixed(direct), types::DestinationSlot::auto_target(), 0)
        .opcode_flags(TARGET_SKIPS)
        .build()
        .user_data(Op::Move.of(direct.conn))
}

pub(super) fn finish(direct: Direct) -> squeue::Entry {
    opcode::Shutdown::new(fixed(direct), libc::SHUT_WR).build().user_data(Op::Finish.of(direct.conn))
}

pub(super) fn close(direct: Direct) -> squeue::Entry {
    opcode::Close::new(fixed(direct)).build().user_data(Op::Close.of(direct.conn))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_tells_operation_and_connection() {
        let conn = ConnId { slot: u32::MAX - 1, generation: ConnId::GENERATIONS - 1 };
        for (index, op) in Op::ALL.into_iter().enumerate() {
            assert_eq!(op as usize, index + 1);
            assert_eq!(Op::decode(op.of(conn)), (op, conn));
        }
    }
}
