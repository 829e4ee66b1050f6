//! The h2 crate as an island: connections over pipes in memory, polled by a worker when bytes
//! arrive or a stream wakes; no runtime. What a stream says and hears is HTTP/1.1 (see
//! [`crate::logic::h2`]), so that to a session it is a connection like any other.
//!
//! ```text
//!   client ── socket, TLS ──► Pipe ──► h2 ──► server::Stream ──► session ──► upstream
//!                                      └────► server::Stream ──► session ──► upstream
//! ```
//!
//! | module | duty |
//! | --- | --- |
//! | [`pipe`] | the in-memory end that the h2 crate reads and writes |
//! | [`bell`] | wakers that name what is to be run next |
//! | `flow` | the bodies of a stream, one each way |
//! | [`server`] | a client's connection, and its streams as downstreams of sessions |
//! | [`client`] | an upstream's connection, and its streams as upstreams of sessions |

pub mod bell;
pub mod client;
mod flow;
pub mod pipe;
pub mod server;

use std::io;

use self::pipe::Pipe;
use super::relay::Got;

/// What stands between a connection and its streams.
pub enum Island {
    /// A client's connection.
    Server(server::Island),
    /// An upstream's.
    Client(client::Island),
}

impl Island {
    /// The worker's end.
    #[must_use]
    pub fn pipe(&self) -> &Pipe {
        match self {
            Self::Server(island) => island.pipe(),
            Self::Client(island) => island.pipe(),
        }
    }

    /// How many streams there are.
    #[must_use]
    pub fn streams(&self) -> usize {
        match self {
            Self::Server(island) => island.streams(),
            Self::Client(island) => island.streams(),
        }
    }
}

/// A stream that stands in for a socket.
#[derive(Debug)]
pub enum Stream {
    /// Of a client.
    Server(Box<server::Stream>),
    /// Of an upstream.
    Client(Box<client::Stream>),
}

impl Stream {
    /// See [`super::relay::Stream::read`].
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; else the stream is lost.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Got> {
        match self {
            Self::Server(stream) => stream.read(buffer),
            Self::Client(stream) => stream.read(buffer),
        }
    }

    /// See [`super::relay::Stream::write`].
    ///
    /// # Errors
    /// `WouldBlock` when there is no room; else nothing can be written any more.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Server(stream) => stream.write(bytes),
            Self::Client(stream) => stream.write(bytes),
        }
    }

    /// Ends what is written, if nothing else has told its end.
    pub fn finish(&mut self) {
        match self {
            Self::Server(stream) => stream.finish(),
            Self::Client(stream) => stream.finish(),
        }
    }

    /// Breaks it off, so that its peer sees no end.
    pub fn reset(&mut self) {
        match self {
            Self::Server(stream) => stream.reset(),
            Self::Client(stream) => stream.reset(),
        }
    }

    /// Whether a client has given it up, or its connection is lost. Of an upstream's stream
    /// only reading tells: what came before its end counts.
    pub fn is_lost(&mut self) -> bool {
        match self {
            Self::Server(stream) => stream.is_lost(),
            Self::Client(_) => false,
        }
    }

    /// See [`client::Stream::is_unprocessed`].
    #[must_use]
    pub fn is_unprocessed(&self) -> bool {
        match self {
            Self::Server(_) => false,
            Self::Client(stream) => stream.is_unprocessed(),
        }
    }
}

/// What the h2 crate says as what a socket would say.
fn lost(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error
            .into_io()
            .unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
