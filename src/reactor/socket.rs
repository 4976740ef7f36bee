//! Sockets before they belong to a reactor: the listener, whose options accepted connections inherit, and outgoing ones.
#![forbid(unsafe_code)]

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::limits::{LISTEN_BACKLOG_MAX, LISTEN_BACKLOG_MIN};

/// What bounds the backlog of every listener of the host.
const SOMAXCONN_PATH: &str = "/proc/sys/net/core/somaxconn";

/// What a listener is made with.
#[derive(Clone, Copy, Debug)]
pub struct ListenOptions {
    /// Connections that may wait to be accepted; [`listen_backlog`] tells.
    pub backlog: u32,
    /// A connection is given up when sent bytes stay unacknowledged for this long (`TCP_USER_TIMEOUT`); 0 leaves it to the kernel.
    pub user_timeout_ms: u32,
}

/// A listening socket. Several may listen on one address (`SO_REUSEPORT`): the kernel spreads the connections over them.
///
/// # Errors
/// The address is not ours, in use or reserved; the message says which and what to look at.
pub fn listen(addr: SocketAddr, options: ListenOptions) -> io::Result<OwnedFd> {
    let build = || {
        let socket = stream(addr)?;
        if addr.is_ipv6() && addr.ip().is_unspecified() {
            // "[::]" means both families, whatever net.ipv6.bindv6only says.
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        if options.user_timeout_ms > 0 {
            socket.set_tcp_user_timeout(Some(Duration::from_millis(options.user_timeout_ms.into())))?;
        }
        socket.bind(&addr.into())?;
        socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
        Ok(OwnedFd::from(socket))
    };
    build().map_err(|error: io::Error| {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => format!("; to see who listens there: ss -ltnp 'sport = :{}'", addr.port()),
            io::ErrorKind::AddrNotAvailable => "; to see this host's addresses: ip -brief address".to_owned(),
            io::ErrorKind::PermissionDenied => {
                "; ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE".to_owned()
            }
            _ => String::new(),
        };
        io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}{advice}"))
    })
}

/// The address a socket is bound to; tells the port after listening on port 0.
///
/// # Errors
/// The descriptor is no bound internet socket.
pub fn local_addr(socket: impl AsFd) -> io::Result<SocketAddr> {
    let addr = SockRef::from(&socket.as_fd()).local_addr()?;
    addr.as_socket().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not an internet socket"))
}

/// A socket that is ready to connect to `to`, from the address `from` if one is given.
///
/// # Errors
/// The process is out of descriptors, or `from` is not an address of this host.
pub fn outgoing(from: Option<IpAddr>, to: SocketAddr) -> io::Result<OwnedFd> {
    let socket = stream(to)?;
    if let Some(from) = from {
        // Without this the kernel picks the port here, unique for `from` alone, and runs out after some 28,000 of them; with
        // it the port is picked by `connect`, unique for both ends together.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    Ok(socket.into())
}

/// Starts to connect a socket of [`outgoing`]. The socket becomes writable when that has ended, well or not.
///
/// # Errors
/// It failed at once: no route, or no port left.
pub(super) fn start_connect(socket: impl AsFd, to: SocketAddr) -> io::Result<()> {
    match SockRef::from(&socket.as_fd()).connect(&to.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        result => result,
    }
}

/// A TCP socket that never blocks, is not inherited by programs we start, and sends what it is given at once.
fn stream(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// The backlog to listen with: as long as this host allows, within bounds. Logs a warning when the kernel would cut it.
pub fn listen_backlog() -> u32 {
    match fs::read_to_string(SOMAXCONN_PATH) {
        Ok(text) => {
            let (backlog, warning) = backlog_for(&text);
            if let Some(warning) = warning {
                log::warn!("{warning}");
            }
            backlog
        }
        Err(error) => {
            let backlog = LISTEN_BACKLOG_MIN;
            log::warn!("cannot read {SOMAXCONN_PATH}, so the listen backlog may be below the {backlog} asked for: {error}");
            backlog
        }
    }
}

/// The backlog under the kernel's bound (the text of its file), and a warning if that is below what a gateway should have.
fn backlog_for(somaxconn: &str) -> (u32, Option<String>) {
    let Ok(somaxconn) = somaxconn.trim().parse::<u32>() else { return (LISTEN_BACKLOG_MIN, None) };
    let backlog = somaxconn.clamp(LISTEN_BACKLOG_MIN, LISTEN_BACKLOG_MAX);
    let warning = (somaxconn < backlog).then(|| {
        format!(
            "net.core.somaxconn is {somaxconn}, so the listen backlog is {somaxconn} and not {backlog}: when more clients than that \
             connect at once, each one above waits a second or longer; type: sysctl -w net.core.somaxconn={backlog}"
        )
    });
    (backlog, warning)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: ListenOptions = ListenOptions { backlog: LISTEN_BACKLOG_MIN, user_timeout_ms: 12_345 };

    #[test]
    fn accepted_sockets_inherit_the_listeners_options() {
        let listener = Socket::from(listen("127.0.0.1:0".parse().unwrap(), OPTIONS).expect("listens"));
        listener.set_nonblocking(false).expect("may block in this test");
        let addr = local_addr(&listener).expect("is bound");
        let _client = std::net::TcpStream::connect(addr).expect("connects");
        let (accepted, _) = listener.accept().expect("accepts");
        assert!(accepted.tcp_nodelay().expect("has the option"));
        assert_eq!(accepted.tcp_user_timeout().expect("has the option"), Some(Duration::from_millis(12_345)));
    }

    #[test]
    fn several_listeners_share_a_port() {
        let first = listen("127.0.0.1:0".parse().unwrap(), OPTIONS).expect("listens");
        let addr = local_addr(&first).expect("is bound");
        listen(addr, OPTIONS).expect("listens beside the first");
    }

    #[test]
    fn an_address_in_use_says_how_to_find_its_user() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").expect("listens");
        let addr = other.local_addr().expect("is bound");
        let error = listen(addr, OPTIONS).expect_err("the other listener does not share its port");
        assert!(error.to_string().contains(&format!("ss -ltnp 'sport = :{}'", addr.port())), "{error}");
    }

    #[test]
    fn the_backlog_is_as_long_as_the_host_allows() {
        for (somaxconn, backlog) in
            [("4096\n", 4_096), ("8192\n", 8_192), ("16384\n", 16_384), ("4294967295\n", 16_384), ("?", 4_096)]
        {
            assert_eq!(backlog_for(somaxconn), (backlog, None), "{somaxconn}");
        }
    }

    #[test]
    fn a_short_somaxconn_is_worth_a_warning() {
        let (backlog, warning) = backlog_for("128\n");
        assert_eq!(backlog, 4_096);
        let warning = warning.expect("128 is too short");
        assert!(warning.contains("sysctl -w net.core.somaxconn=4096"), "{warning}");
    }
}
