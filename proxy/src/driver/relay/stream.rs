//! What is under a [`super::Conn`]: a socket, or what stands in for one.
//!
//! A stream may hold bytes that it has taken and the kernel has not (sealed records, for
//! example). Whoever asks whether everything is delivered asks [`Stream::pending`] as well, and
//! a writable event leads to [`Stream::flush`]. Only a bare socket can be spliced.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    time::Duration,
};

use mio::net::TcpStream;

use super::{Sealed, outq};
use crate::driver::h2;

/// See the module.
#[derive(Debug)]
pub enum Stream {
    /// A TCP socket as it is.
    Tcp(TcpStream),
    /// A stream of a shared HTTP/2 connection.
    H2(h2::Stream),
    /// A TLS session over one.
    Tls(Box<Sealed>),
    /// Nothing: it is lost.
    Gone,
}

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Got {
    /// Bytes; 0 is the end.
    pub count: usize,
    /// Another read may find something at once; otherwise an event will tell.
    pub more: bool,
}

impl Stream {
    /// Reads into `buffer`.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; else the connection is lost.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Got> {
        match self {
            Self::Tcp(socket) => {
                let count = socket.read(buffer)?;
                // A short read has emptied the socket; what comes later is a new edge.
                let more = count == buffer.len();
                Ok(Got { count, more })
            }
            Self::H2(stream) => stream.read(buffer),
            Self::Tls(sealed) => sealed.read(buffer),
            Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Takes what it can of `bytes`; what it has taken may still be [`Self::pending`].
    ///
    /// # Errors
    /// `WouldBlock` when there is no room; else nothing can be written any more.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write(bytes),
            Self::H2(stream) => stream.write(bytes),
            Self::Tls(sealed) => sealed.write(bytes),
            Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Bytes that were taken and that the kernel does not have yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        match self {
            Self::Tcp(_) | Self::H2(_) | Self::Gone => 0,
            Self::Tls(sealed) => sealed.pending(),
        }
    }

    /// Gives the kernel what is pending, as far as it has room.
    ///
    /// # Errors
    /// Nothing can be written any more.
    pub fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(_) | Self::H2(_) | Self::Gone => Ok(()),
            Self::Tls(sealed) => sealed.flush(),
        }
    }

    /// Ends what is written, after what is pending. To be asked again after a writable event
    /// while bytes are pending.
    pub fn finish(&mut self) {
        match self {
            // Fails only if the peer is gone already, which reading tells as well.
            Self::Tcp(socket) => drop(socket.shutdown(Shutdown::Write)),
            Self::H2(stream) => stream.finish(),
            Self::Tls(sealed) => sealed.finish(),
            Self::Gone => {}
        }
    }

    /// Says goodbye to a peer as far as there is room, because the stream is about to be
    /// closed.
    pub fn part(&mut self) {
        match self {
            Self::H2(stream) => stream.finish(),
            Self::Tcp(_) | Self::Gone => {}
            Self::Tls(sealed) => drop(sealed.part()),
        }
    }

    /// Whether nothing has come on an idle connection; an end would be something.
    pub fn is_silent(&mut self) -> bool {
        match self {
            Self::Tcp(socket) => {
                let mut byte = [0; 1];
                matches!(
                    socket.peek(&mut byte),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock
                )
            }
            // Never idle: it ends with its exchange.
            Self::H2(_) | Self::Gone => false,
            Self::Tls(sealed) => sealed.is_silent(),
        }
    }

    /// The socket, if bytes may go to it and come from it as they are (splice).
    #[must_use]
    pub fn bare(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(socket) => Some(socket),
            Self::Tls(_) | Self::H2(_) | Self::Gone => None,
        }
    }

    /// Puts TLS over a bare socket.
    ///
    /// # Errors
    /// It cannot be; the stream is lost then.
    pub fn seal<E>(&mut self, with: impl FnOnce(TcpStream) -> Result<Sealed, E>) -> Result<(), E> {
        let socket = match std::mem::replace(self, Self::Gone) {
            Self::Tcp(socket) => socket,
            other => {
                *self = other;
                return Ok(());
            }
        };
        *self = Self::Tls(Box::new(with(socket)?));
        Ok(())
    }

    /// The TLS session, if it is one.
    pub fn sealed(&mut self) -> Option<&mut Sealed> {
        match self {
            Self::Tcp(_) | Self::H2(_) | Self::Gone => None,
            Self::Tls(sealed) => Some(sealed),
        }
    }

    /// The socket underneath, if there is one.
    #[must_use]
    pub fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(socket) => Some(socket),
            Self::Tls(sealed) => Some(sealed.socket()),
            Self::H2(_) | Self::Gone => None,
        }
    }

    /// How a connect under way came out.
    ///
    /// # Errors
    /// It failed.
    pub fn connected(&self) -> io::Result<()> {
        match self.socket().map(TcpStream::take_error) {
            None | Some(Ok(None)) => Ok(()),
            Some(Ok(Some(error)) | Err(error)) => Err(error),
        }
    }

    /// Bytes that the kernel has taken from us and the peer has not acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> u32 {
        self.socket()
            .and_then(|socket| outq::bytes(socket).ok())
            .unwrap_or(0)
    }

    /// Has the close that follows reset the connection, so that the peer sees a break and no
    /// end.
    pub fn reset(&mut self) {
        if let Self::H2(stream) = self {
            stream.reset();
        }
        if let Some(socket) = self.socket() {
            // Fails only on a socket that is gone already.
            drop(socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO)));
        }
    }

    /// A stream of a shared connection, which no readiness is reported of: its own waker
    /// tells, and this takes stock. `None` for what epoll watches.
    pub fn shared(&mut self) -> Option<&mut h2::Stream> {
        match self {
            Self::H2(stream) => Some(stream),
            Self::Tcp(_) | Self::Tls(_) | Self::Gone => None,
        }
    }
}
