//! Whether glommio can work here. Asked before it is, because it panics or ends the process where it cannot.
#![forbid(unsafe_code)]

use std::io;

use ::glommio::{GlommioError, LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement};
use io_uring::{IoUring, Probe, opcode};

use super::signals::look_at_rings;
use crate::{limits::GLOMMIO_RING_ENTRIES, reactor::probe::Host};

/// Since when all that glommio needs is there; named in messages, never compared.
const KERNEL_NEEDED: &str = "5.8";
/// glommio makes no executor below this limit of locked memory.
const MEMLOCK_BYTES_MIN: u64 = 512 * 1024;

/// An executor for the calling thread, which has been pinned already.
///
/// # Errors
/// The kernel refuses what it is made of; the text says what to type.
pub(super) fn executor() -> io::Result<LocalExecutor> {
    let memlock = Host::look().memlock;
    if memlock < MEMLOCK_BYTES_MIN {
        return Err(io::Error::other(format!(
            "glommio wants to be allowed {MEMLOCK_BYTES_MIN} bytes of locked memory, and RLIMIT_MEMLOCK is {memlock} bytes; type: \
             ulimit -l {}, or set LimitMEMLOCK={MEMLOCK_BYTES_MIN} in the service's unit",
            MEMLOCK_BYTES_MIN / 1024
        )));
    }
    LocalExecutorBuilder::new(Placement::Unbound)
        .ring_depth(GLOMMIO_RING_ENTRIES)
        // For files, of which there are none: as little memory as it takes, and no thread for calls that block.
        .io_memory(0)
        .blocking_thread_pool_placement(PoolPlacement::Custom(Vec::new()))
        .make()
        .map_err(|error| match error {
            GlommioError::IoError(error) => io::Error::new(error.kind(), Host::look().explain(&error, KERNEL_NEEDED)),
            error => error.into(),
        })
}

/// Whether glommio works on this host, for the calling process.
///
/// # Errors
/// It does not; the text says why, and what to type.
pub(in crate::reactor) fn check() -> Result<(), String> {
    let host = Host::look();
    let missing = missing_operations().map_err(|error| host.explain(&error, KERNEL_NEEDED))?;
    if !missing.is_empty() {
        return Err(host.lacks(&missing, KERNEL_NEEDED));
    }
    executor().map_err(|error| error.to_string())?.run(look_at_rings());
    Ok(())
}

/// Those that glommio asks for, whether it uses them or not.
fn missing_operations() -> io::Result<Vec<&'static str>> {
    let needed = [
        ("NOP", opcode::Nop::CODE),
        ("READV", opcode::Readv::CODE),
        ("WRITEV", opcode::Writev::CODE),
        ("FSYNC", opcode::Fsync::CODE),
        ("READ_FIXED", opcode::ReadFixed::CODE),
        ("WRITE_FIXED", opcode::WriteFixed::CODE),
        ("POLL_ADD", opcode::PollAdd::CODE),
        ("POLL_REMOVE", opcode::PollRemove::CODE),
        ("SENDMSG", opcode::SendMsg::CODE),
        ("RECVMSG", opcode::RecvMsg::CODE),
        ("TIMEOUT", opcode::Timeout::CODE),
        ("TIMEOUT_REMOVE", opcode::TimeoutRemove::CODE),
        ("ACCEPT", opcode::Accept::CODE),
        ("LINK_TIMEOUT", opcode::LinkTimeout::CODE),
        ("CONNECT", opcode::Connect::CODE),
        ("FALLOCATE", opcode::Fallocate::CODE),
        ("OPENAT", opcode::OpenAt::CODE),
        ("CLOSE", opcode::Close::CODE),
        ("STATX", opcode::Statx::CODE),
        ("READ", opcode::Read::CODE),
        ("WRITE", opcode::Write::CODE),
        ("SEND", opcode::Send::CODE),
        ("RECV", opcode::Recv::CODE),
    ];
    let ring = IoUring::new(8)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    Ok(needed.into_iter().filter(|(_, code)| !probe.is_supported(*code)).map(|(name, _)| name).collect())
}
