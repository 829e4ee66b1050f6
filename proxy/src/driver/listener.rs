//! Bound sockets: one per address and worker, all with SO_REUSEPORT, so that the kernel
//! spreads connections and no worker wakes for another.

use std::{io, net::SocketAddr};

use flocker_api::edge::ListenerKind;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel completes before we take them.
const BACKLOG: i32 = 4096;

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (port {}): {source}; free the port or choose another address", address.port())]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// Why.
    pub source: io::Error,
}

/// A listening socket for one worker.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: std::net::TcpListener,
    /// Its address.
    pub address: SocketAddr,
    /// How its connections are read.
    pub kind: ListenerKind,
}

/// Binds an address once for each worker.
///
/// # Errors
/// Names the address.
pub fn bind(
    address: SocketAddr,
    kind: ListenerKind,
    workers: usize,
) -> Result<Vec<Listener>, BindError> {
    // Among its own workers a port may be shared, with another program's it may not: a first
    // socket without SO_REUSEPORT finds out, because then every other holder stands in its way.
    let mut sockets: Vec<Listener> = Vec::with_capacity(workers);
    probe(address).map_err(|source| BindError { address, source })?;
    for _ in 0..workers {
        // Port 0 is chosen once, then shared by all workers.
        let address = sockets.first().map_or(address, |first| first.address);
        let socket = open(address).map_err(|source| BindError { address, source })?;
        let address = socket
            .local_addr()
            .map_err(|source| BindError { address, source })?;
        sockets.push(Listener {
            socket,
            address,
            kind,
        });
    }
    Ok(sockets)
}

/// One more socket of an address that is ours already.
///
/// # Errors
/// Names the address.
pub fn share(address: SocketAddr, kind: ListenerKind) -> Result<Listener, BindError> {
    let socket = open(address).map_err(|source| BindError { address, source })?;
    Ok(Listener {
        socket,
        address,
        kind,
    })
}

fn probe(address: SocketAddr) -> io::Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

fn open(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Inherited by what is accepted, which spares a call for each connection.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_a_port_and_strangers_do_not() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let sockets = bind(any, ListenerKind::Tcp, 3).unwrap();
        let address = sockets[0].address;
        assert!(sockets.iter().all(|socket| socket.address == address));

        let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = stranger.local_addr().unwrap();
        let message = bind(taken, ListenerKind::Tcp, 1).unwrap_err().to_string();
        assert!(message.contains(&taken.to_string()), "{message}");
    }
}
