//! Connecting on the glommio reactor. glommio's own connect makes the socket itself, bound to no address; so the call is made here, and
//! glommio says when it has ended.
#![forbid(unsafe_code)]

use std::{
    io,
    net::{IpAddr, SocketAddr},
    task::Poll,
};

use nix::errno::Errno;

use super::{Done, Glommio, errno_of, stream_of};
use crate::{
    ids::ConnId,
    reactor::{socket, table::Phase},
};

impl Glommio {
    /// Opens a connection as far as the kernel waits for the peer.
    pub(super) fn try_connect(&mut self, token: u32, from: Option<IpAddr>, to: SocketAddr) -> io::Result<()> {
        let fd = socket::outgoing(from, to)?;
        socket::start_connect(&fd, to)?;
        if !self.table.take_room() {
            return Err(Errno::ENFILE.into());
        }
        let conn = self.insert(stream_of(fd), Phase::Connecting, token);
        self.go_on_connecting(conn);
        Ok(())
    }

    /// Whether a connection that is being made is made. Until then no byte can be sent, not even none.
    pub(super) fn go_on_connecting(&mut self, conn: ConnId) {
        let Some(entry) = self.table.get(conn) else { return };
        let token = entry.number;
        match entry.open().poll_send(&[]) {
            Poll::Pending => {}
            Poll::Ready(Ok(_)) => {
                entry.phase = Phase::Open;
                self.done.push_back(Done::Connected { conn, token });
            }
            Poll::Ready(Err(error)) => {
                self.done.push_back(Done::ConnectFailed { token, errno: errno_of(&error) });
                self.remove(conn);
            }
        }
    }
}
