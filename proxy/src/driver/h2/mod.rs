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
//! | [`flow`] | the bodies of a stream, one each way |
//! | [`server`] | a client's stream as the downstream of a session; a client's connection |

pub mod bell;
mod flow;
pub mod pipe;
pub mod server;

use std::io;

pub use server::Island;

use super::relay::Got;

/// A stream that stands in for a socket.
#[derive(Debug)]
pub enum Stream {
    /// Of a client.
    Server(Box<server::Stream>),
}

impl Stream {
    /// See [`super::relay::Stream::read`].
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; else the stream is lost.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Got> {
        match self {
            Self::Server(stream) => stream.read(buffer),
        }
    }

    /// See [`super::relay::Stream::write`].
    ///
    /// # Errors
    /// `WouldBlock` when there is no room; else nothing can be written any more.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Server(stream) => stream.write(bytes),
        }
    }

    /// Ends what is written, if nothing else has told its end.
    pub fn finish(&mut self) {
        match self {
            Self::Server(stream) => stream.finish(),
        }
    }

    /// Breaks it off, so that its peer sees no end.
    pub fn reset(&mut self) {
        match self {
            Self::Server(stream) => stream.reset(),
        }
    }

    /// Whether the peer has given it up, or its connection is lost.
    pub fn is_lost(&mut self) -> bool {
        match self {
            Self::Server(stream) => stream.is_lost(),
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
