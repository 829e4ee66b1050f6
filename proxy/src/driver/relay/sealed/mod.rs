//! A TLS session over a socket, as a stream of plain bytes.
//!
//! ```text
//!   Handshaking ──► Open ──► (peer has said goodbye: reads end) ──► (we have: writes end)
//! ```
//!
//! It keeps no buffer while nothing is under way: records are opened and sealed in a scratch
//! buffer of the thread, and only what cannot go on is kept, a record of which a part has
//! come, plain bytes that the reader had no room for, sealed ones that the kernel had no room
//! for. A peer that ends its socket without a close_notify has been cut off (RFC 8446, section
//! 6.1): that is an error, never an end.

mod engine;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    io::{self, Read, Write},
    net::Shutdown,
    sync::Arc,
};

use mio::net::TcpStream;
use rustls::{
    ClientConfig, CommonState, ServerConfig, client::UnbufferedClientConnection,
    pki_types::ServerName, server::UnbufferedServerConnection,
};

use self::engine::{Engine, Reached, Sealing, Sink};
use super::stream::Got;

/// Bytes of a thread's scratch buffer: the longest handshake message (64 KiB in rustls, which
/// leaves it in place until it is whole) and the longest read.
const SCRATCH_BYTES: usize = 160 << 10;
/// Most sealed bytes of one read: four records of full length.
const READ_BYTES: usize = 4 * RECORD_BYTES;
/// Most plain bytes that are sealed at once.
const WRITE_BYTES: usize = 64 << 10;
/// A record of full length with its header and what sealing adds (RFC 8446, section 5.2).
const RECORD_BYTES: usize = (16 << 10) + 256 + 5;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into());
}

/// See the module.
#[derive(Debug)]
pub struct Sealed {
    socket: TcpStream,
    engine: Engine,
    open: bool,
    /// The peer has said goodbye.
    peer_done: bool,
    /// We have.
    done: bool,
    /// The session is over; the engine must not be asked again, or it panics.
    failed: bool,
    /// What has come of a record or handshake message that is not whole yet.
    incoming: Vec<u8>,
    /// Plain bytes for which the reader had no room.
    plain: Backlog,
    /// Sealed bytes for which the kernel had no room.
    outgoing: Backlog,
}

/// Bytes that wait; without a buffer when there are none.
#[derive(Debug, Default)]
struct Backlog {
    bytes: Vec<u8>,
    gone: usize,
}

impl Backlog {
    fn len(&self) -> usize {
        self.bytes.len() - self.gone
    }

    fn waiting(&self) -> &[u8] {
        self.bytes.get(self.gone..).unwrap_or_default()
    }

    fn take(&mut self, count: usize) {
        self.gone += count;
        if self.gone >= self.bytes.len() {
            *self = Self::default();
        }
    }
}

impl Sealed {
    /// The edge's end of a client's connection of which `hello` has been read.
    ///
    /// # Errors
    /// The configuration is of no use.
    pub fn accept(
        socket: TcpStream,
        config: Arc<ServerConfig>,
        hello: Vec<u8>,
    ) -> Result<Self, rustls::Error> {
        let engine = Engine::Server(UnbufferedServerConnection::new(config)?);
        Ok(Self::new(socket, engine, hello))
    }

    /// The edge's end of a connection to an upstream.
    ///
    /// # Errors
    /// The configuration is of no use.
    pub fn connect(
        socket: TcpStream,
        config: Arc<ClientConfig>,
        server: ServerName<'static>,
    ) -> Result<Self, rustls::Error> {
        let engine = Engine::Client(UnbufferedClientConnection::new(config, server)?);
        Ok(Self::new(socket, engine, Vec::new()))
    }

    fn new(socket: TcpStream, engine: Engine, incoming: Vec<u8>) -> Self {
        Self {
            socket,
            engine,
            open: false,
            peer_done: false,
            done: false,
            failed: false,
            incoming,
            plain: Backlog::default(),
            outgoing: Backlog::default(),
        }
    }

    /// The socket underneath.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Whether the handshake is done.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Sealed bytes that the kernel does not have yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.outgoing.len()
    }

    /// What was agreed upon in the handshake.
    #[must_use]
    pub fn state(&self) -> &CommonState {
        match &self.engine {
            Engine::Server(server) => server,
            Engine::Client(client) => client,
        }
    }

    /// Goes on with the handshake as far as the socket allows; whether it is done.
    ///
    /// # Errors
    /// It has failed; the peer has been told why if it could be.
    pub fn handshake(&mut self) -> io::Result<bool> {
        if !self.open {
            // What is at hand first: a hello that was read by others, or nothing, upon which a
            // client says hello.
            let mut bytes = std::mem::take(&mut self.incoming);
            let mut nothing = [];
            let opened = self.open_records(&mut bytes, &mut nothing);
            self.incoming = bytes.get(opened?.0..).unwrap_or_default().to_vec();
        }
        while !self.open {
            self.flush()?;
            match self.receive(&mut []) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.flush()?;
        Ok(self.open)
    }

    /// Reads plain bytes.
    ///
    /// # Errors
    /// `WouldBlock`; `UnexpectedEof` if the peer was cut off; `InvalidData` if it does not
    /// speak TLS as it should.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Got> {
        if self.plain.len() > 0 {
            let count = self.plain.len().min(buffer.len());
            buffer[..count].copy_from_slice(&self.plain.waiting()[..count]);
            self.plain.take(count);
            return Ok(Got { count, more: true });
        }
        loop {
            if self.peer_done {
                return Ok(Got {
                    count: 0,
                    more: false,
                });
            }
            let got = self.receive(buffer)?;
            if got.count > 0 || self.peer_done {
                let more = got.more || self.plain.len() > 0 || self.peer_done;
                return Ok(Got { more, ..got });
            }
            if !got.more {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
    }

    /// One read of the socket, and all records that it completes.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Got> {
        SCRATCH.with_borrow_mut(|scratch| {
            let kept = self.incoming.len();
            let most = (buffer.len() + 512).clamp(RECORD_BYTES, READ_BYTES);
            let Some((before, after)) = scratch.split_at_mut_checked(kept) else {
                return Err(invalid("a handshake message is too long"));
            };
            let room = most.min(after.len());
            if room == 0 {
                return Err(invalid("a handshake message is too long"));
            }
            let count = self.socket.read(&mut after[..room])?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            before.copy_from_slice(&self.incoming);
            let bytes = &mut scratch[..kept + count];
            let (used, filled) = self.open_records(bytes, buffer)?;
            self.incoming.clear();
            match bytes.get(used..) {
                Some(rest) if !rest.is_empty() && !self.peer_done => {
                    self.incoming.extend_from_slice(rest);
                }
                _ => self.incoming = Vec::new(),
            }
            Ok(Got {
                count: filled,
                more: count == room,
            })
        })
    }

    /// Opens the whole records in `bytes`: how many bytes that used up, and how many plain
    /// ones went to `buffer`. What there is to answer is sent.
    fn open_records(&mut self, bytes: &mut [u8], buffer: &mut [u8]) -> io::Result<(usize, usize)> {
        let mut sink = Sink::new(buffer, &mut self.plain.bytes);
        if self.failed {
            return Err(invalid("the session is over"));
        }
        let mut used = 0;
        let mut failure = None;
        loop {
            let rest = bytes.get_mut(used..).unwrap_or_default();
            let (discard, reached) = self.engine.step(rest, &mut sink, &mut self.outgoing.bytes);
            used += discard;
            match reached {
                Ok(Reached::On) => {}
                Ok(Reached::PeerDone) => self.peer_done = true,
                // A server may speak before the client has finished (RFC 8446, section 4.4.4);
                // it is not open before that.
                Ok(Reached::Open | Reached::Blocked) => break,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        if failure.is_some() {
            self.failed = true;
            // It has its alert to give, and looks at no bytes for that.
            while self.engine.has_alert() {
                let out = &mut self.outgoing.bytes;
                if self.engine.step(&mut [], &mut sink, out).1.is_err() {
                    break;
                }
            }
        }
        let filled = sink.filled;
        self.open = self.open || !self.state().is_handshaking();
        match failure {
            None => {
                self.flush()?;
                Ok((used, filled))
            }
            Some(error) => {
                // The alert goes as far as there is room; the session is lost either way.
                drop(self.flush());
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }

    /// Seals and writes what it can of `bytes`.
    ///
    /// # Errors
    /// `WouldBlock`, or nothing can be written any more.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        if self.outgoing.len() > 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let bytes = &bytes[..bytes.len().min(WRITE_BYTES)];
        SCRATCH.with_borrow_mut(|scratch| {
            let sealed = self.seal(Some(bytes), scratch)?;
            self.send(&scratch[..sealed])
        })?;
        Ok(bytes.len())
    }

    /// Writes sealed bytes and keeps what the kernel does not take.
    fn send(&mut self, sealed: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        while sent < sealed.len() && self.outgoing.len() == 0 {
            match self.socket.write(&sealed[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.outgoing.bytes.extend_from_slice(&sealed[sent..]);
        Ok(())
    }

    /// Seals bytes, or a goodbye, into `scratch`.
    fn seal(&mut self, bytes: Option<&[u8]>, scratch: &mut [u8]) -> io::Result<usize> {
        if self.failed {
            return Err(invalid("the session is over"));
        }
        loop {
            let mut sink = Sink::new(&mut [], &mut self.plain.bytes);
            // With the beginning of a record that has come, lest its place is lost.
            let step = self
                .engine
                .seal(&mut self.incoming, bytes, scratch, &mut sink);
            match step {
                Sealing::Done(count) => return Ok(count),
                // An answer of the engine's own (a key update) goes first.
                Sealing::First(answer, discard) => {
                    self.incoming.drain(..discard);
                    self.send(&answer)?;
                }
                Sealing::Failed(reason) => {
                    self.failed = true;
                    return Err(invalid(reason));
                }
            }
        }
    }

    /// Gives the kernel what is pending.
    ///
    /// # Errors
    /// Nothing can be written any more.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.outgoing.len() > 0 {
            match self.socket.write(self.outgoing.waiting()) {
                Ok(count) => self.outgoing.take(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Says goodbye; whether the kernel has it. It does not end the socket.
    pub fn part(&mut self) -> bool {
        if self.open && !self.done {
            self.done = true;
            // Whoever cannot be told any more is told by the end of the socket.
            drop(SCRATCH.with_borrow_mut(|scratch| {
                let sealed = self.seal(None, scratch)?;
                self.send(&scratch[..sealed])
            }));
        }
        self.flush().is_err() || self.outgoing.len() == 0
    }

    /// Says goodbye, then ends what is written.
    pub fn finish(&mut self) {
        if self.part() {
            // Fails only if the peer is gone already, which reading tells as well.
            drop(self.socket.shutdown(Shutdown::Write));
        }
    }

    /// Whether nothing but the session's own messages has come on an idle connection.
    pub fn is_silent(&mut self) -> bool {
        if self.plain.len() > 0 {
            return false;
        }
        let mut byte = [0; 1];
        matches!(
            self.read(&mut byte),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock
        )
    }
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
