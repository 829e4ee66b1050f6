//! The engine of a session: rustls without buffers, for either end.

use std::fmt;

use rustls::{
    client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};

pub(super) enum Engine {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server(_) => "Server(..)",
            Self::Client(_) => "Client(..)",
        })
    }
}

/// Where plain bytes go: into the reader's buffer, and what does not fit into the backlog.
pub(super) struct Sink<'a> {
    buffer: &'a mut [u8],
    pub(super) filled: usize,
    rest: &'a mut Vec<u8>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(buffer: &'a mut [u8], rest: &'a mut Vec<u8>) -> Self {
        Self {
            buffer,
            filled: 0,
            rest,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        let room = self.buffer.len() - self.filled;
        let (now, later) = bytes.split_at(room.min(bytes.len()));
        self.buffer[self.filled..self.filled + now.len()].copy_from_slice(now);
        self.filled += now.len();
        self.rest.extend_from_slice(later);
    }
}

/// How far the records at hand have led.
pub(super) enum Reached {
    /// There may be more to do.
    On,
    /// More of the peer's bytes are needed.
    Blocked,
    /// The handshake is done and there is nothing to read.
    Open,
    /// The peer has said goodbye.
    PeerDone,
}

/// What sealing came to.
pub(super) enum Sealing {
    /// So many bytes of the scratch buffer are to be sent.
    Done(usize),
    /// These go first; so many bytes of what has come are used up.
    First(Vec<u8>, usize),
    /// The session is over.
    Failed(&'static str),
}

impl Engine {
    pub(super) fn step(
        &mut self,
        bytes: &mut [u8],
        sink: &mut Sink<'_>,
        out: &mut Vec<u8>,
    ) -> (usize, Result<Reached, rustls::Error>) {
        match self {
            Self::Server(server) => advance(server.process_tls_records(bytes), sink, out),
            Self::Client(client) => advance(client.process_tls_records(bytes), sink, out),
        }
    }

    /// Whether it has something to send before it looks at what has come.
    pub(super) fn has_alert(&self) -> bool {
        match self {
            Self::Server(server) => server.wants_write(),
            Self::Client(client) => client.wants_write(),
        }
    }

    pub(super) fn seal(
        &mut self,
        bytes: &mut [u8],
        plain: Option<&[u8]>,
        scratch: &mut [u8],
        sink: &mut Sink<'_>,
    ) -> Sealing {
        match self {
            Self::Server(server) => seal(server.process_tls_records(bytes), plain, scratch, sink),
            Self::Client(client) => seal(client.process_tls_records(bytes), plain, scratch, sink),
        }
    }
}

/// Does what the engine asks for.
fn advance<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    sink: &mut Sink<'_>,
    out: &mut Vec<u8>,
) -> (usize, Result<Reached, rustls::Error>) {
    let mut discard = status.discard;
    let reached = match status.state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        discard += record.discard;
                        sink.push(record.payload);
                    }
                    Err(error) => return (discard, Err(error)),
                }
            }
            Ok(Reached::On)
        }
        Ok(ConnectionState::EncodeTlsData(mut message)) => {
            let needed = match message.encode(&mut []) {
                Err(EncodeError::InsufficientSize(size)) => size.required_size,
                _ => 0,
            };
            let start = out.len();
            out.resize(start + needed, 0);
            match message.encode(&mut out[start..]) {
                Ok(_) => Ok(Reached::On),
                Err(_) => Err(rustls::Error::General(
                    "a message has another size than it says".to_owned(),
                )),
            }
        }
        Ok(ConnectionState::TransmitTlsData(transmit)) => {
            // What was encoded is in the backlog, in order with all else.
            transmit.done();
            Ok(Reached::On)
        }
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Reached::Open),
        Ok(ConnectionState::PeerClosed) => Ok(Reached::PeerDone),
        // Closed, a handshake that waits, and early data, which is never agreed to.
        Ok(_) => Ok(Reached::Blocked),
    };
    (discard, reached)
}

/// Seals bytes, or a goodbye, if the engine is ready for it.
fn seal<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    plain: Option<&[u8]>,
    scratch: &mut [u8],
    sink: &mut Sink<'_>,
) -> Sealing {
    let discard = status.discard;
    match status.state {
        Ok(ConnectionState::WriteTraffic(mut traffic)) => {
            let sealed = match plain {
                Some(bytes) => traffic.encrypt(bytes, scratch),
                None => traffic.queue_close_notify(scratch),
            };
            match sealed {
                Ok(count) => Sealing::Done(count),
                Err(EncryptError::InsufficientSize(_)) => {
                    Sealing::Failed("the engine has more to say than there is room for")
                }
                Err(EncryptError::EncryptExhausted) => {
                    Sealing::Failed("the session's keys are used up")
                }
            }
        }
        state => {
            let mut answer = Vec::new();
            let status = UnbufferedStatus { discard, state };
            match advance(status, sink, &mut answer) {
                (discard, Ok(Reached::On | Reached::PeerDone)) => Sealing::First(answer, discard),
                _ => Sealing::Failed("the session is over"),
            }
        }
    }
}
