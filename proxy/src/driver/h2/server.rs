//! A client's HTTP/2 connection, and its streams as downstreams of sessions.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    ext::Protocol,
    server::{self, Connection, Handshake, SendResponse},
};
use http::{Request, Response, StatusCode};

use super::{
    flow::{Heard, Said},
    lost,
    pipe::Pipe,
};
use crate::{
    driver::relay::Got,
    logic::{
        h2::{H2Limits, Malformed, body::Unframer, request, response, websocket},
        http::{
            Framing, HEADERS_MAX, HeadLimits, Method, Scheme, Verdict, Version, parse_response,
            response::Asked,
        },
    },
};

/// Longest response head that a session may write: what it accepts from an upstream, and what
/// it adds.
const HEAD_BYTES_MAX: usize = 2 << 20;
/// Bytes that a stream may hold on their way to the client.
const SEND_BUFFER_BYTES: usize = 64 << 10;

/// A client's connection. It reads and writes a [`Pipe`], whose other end the worker has.
pub struct Island {
    state: State,
    pipe: Pipe,
    scheme: Scheme,
    waker: Waker,
    /// Held once more by each stream.
    streams: Arc<()>,
    /// What the streams' WebSocket keys are made of.
    keys: std::hash::RandomState,
}

enum State {
    Beginning(Box<Handshake<Pipe, Bytes>>),
    Open(Box<Connection<Pipe, Bytes>>),
    Ended,
}

/// What came of polling an [`Island`].
pub enum Polled {
    /// A request, which may be refused yet.
    Request(Box<Incoming>),
    /// Nothing more for now.
    Pending,
    /// It is over: what has been written last is to be delivered.
    Ended,
}

/// A request that has just come.
pub struct Incoming {
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    streams: Arc<()>,
    nonce: u128,
}

impl Island {
    /// A connection whose first bytes are the preface. `head_bytes` bounds a request's fields.
    #[must_use]
    pub fn new(limits: &H2Limits, head_bytes: usize, scheme: Scheme, waker: Waker) -> Self {
        let pipe = Pipe::default();
        let mut builder = server::Builder::new();
        builder
            .max_concurrent_streams(limits.streams)
            .initial_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window(limits.streams))
            .max_header_list_size(u32::try_from(head_bytes).unwrap_or(u32::MAX))
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .max_pending_accept_reset_streams(limits.frames.resets as usize)
            .enable_connect_protocol();
        Self {
            state: State::Beginning(Box::new(builder.handshake(pipe.clone()))),
            pipe,
            scheme,
            waker,
            streams: Arc::new(()),
            keys: std::hash::RandomState::new(),
        }
    }

    /// The worker's end.
    #[must_use]
    pub fn pipe(&self) -> &Pipe {
        &self.pipe
    }

    /// How its requests have come.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// How many streams there are.
    #[must_use]
    pub fn streams(&self) -> usize {
        Arc::strong_count(&self.streams) - 1
    }

    /// Has the client open no further streams.
    pub fn leave(&mut self) {
        match &mut self.state {
            State::Open(connection) => connection.graceful_shutdown(),
            State::Beginning(_) => self.state = State::Ended,
            State::Ended => {}
        }
    }

    /// Says that the client sends too much, and ends everything.
    pub fn break_off(&mut self) {
        // Its settings have to be said first.
        if let State::Beginning(_) = self.state
            && let Polled::Request(incoming) = self.poll()
        {
            incoming.refuse();
        }
        if let State::Open(connection) = &mut self.state {
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        }
    }

    /// Lets the connection go on.
    pub fn poll(&mut self) -> Polled {
        let mut cx = Context::from_waker(&self.waker);
        loop {
            match &mut self.state {
                State::Beginning(handshake) => match Pin::new(&mut **handshake).poll(&mut cx) {
                    Poll::Pending => return Polled::Pending,
                    Poll::Ready(Ok(connection)) => self.state = State::Open(Box::new(connection)),
                    Poll::Ready(Err(_)) => self.state = State::Ended,
                },
                State::Open(connection) => match connection.poll_accept(&mut cx) {
                    Poll::Pending => return Polled::Pending,
                    Poll::Ready(Some(Ok((request, respond)))) => {
                        let id = respond.stream_id().as_u32();
                        return Polled::Request(Box::new(Incoming {
                            request,
                            respond,
                            streams: Arc::clone(&self.streams),
                            nonce: random(&self.keys, id),
                        }));
                    }
                    Poll::Ready(Some(Err(_)) | None) => self.state = State::Ended,
                },
                State::Ended => return Polled::Ended,
            }
        }
    }
}

/// 16 bytes that nobody can foretell.
fn random(keys: &std::hash::RandomState, id: u32) -> u128 {
    use std::hash::BuildHasher;
    let (high, low) = (keys.hash_one((id, 0)), keys.hash_one((id, 1)));
    u128::from(high) << 64 | u128::from(low)
}

impl Incoming {
    /// Has the client ask again, elsewhere or later: nothing has been done about it (8.7).
    pub fn refuse(mut self) {
        self.respond.send_reset(Reason::REFUSED_STREAM);
    }

    /// The stream as the downstream of a session; `waker` runs that session.
    ///
    /// # Errors
    /// The request is malformed, and has been answered.
    pub fn open(mut self, waker: Waker) -> Result<Stream, Malformed> {
        let (parts, body) = self.request.into_parts();
        let protocol = parts.extensions.get::<Protocol>().map(Protocol::as_str);
        let mut head = Vec::new();
        let nonce = protocol.map_or_else(String::new, |_| websocket::key(self.nonce));
        let ended = body.is_end_stream();
        match request::write_http1(&parts, protocol, ended, &nonce, &mut head) {
            Ok(carried) => Ok(Stream {
                asked: Asked {
                    method: match protocol {
                        // What it is in HTTP/1.1.
                        Some(_) => Method::Get,
                        None => method(&parts.method),
                    },
                    version: Version::Http11,
                    upgrade: protocol.is_some(),
                },
                heard: Heard::new(head, Some(body), carried),
                answer: Answer::Due {
                    respond: self.respond,
                    partial: Vec::new(),
                },
                waker,
                _counted: self.streams,
            }),
            Err(reason) => {
                let mut response = Response::new(());
                *response.status_mut() = match reason {
                    // RFC 8441 has no word for it; RFC 9220, section 3 has.
                    Malformed::Protocol => StatusCode::NOT_IMPLEMENTED,
                    _ => StatusCode::BAD_REQUEST,
                };
                // Fails only if the client is gone.
                drop(self.respond.send_response(response, true));
                Err(reason)
            }
        }
    }
}

fn method(method: &http::Method) -> Method {
    match *method {
        http::Method::HEAD => Method::Head,
        http::Method::GET => Method::Get,
        http::Method::CONNECT => Method::Connect,
        _ => Method::Other,
    }
}

/// A client's stream. It is read as an HTTP/1.1 request and written an HTTP/1.1 response.
#[derive(Debug)]
pub struct Stream {
    asked: Asked,
    heard: Heard,
    answer: Answer,
    waker: Waker,
    _counted: Arc<()>,
}

#[derive(Debug)]
enum Answer {
    /// Its head has not been written yet.
    Due {
        respond: SendResponse<Bytes>,
        partial: Vec<u8>,
    },
    Body(Said),
    /// Broken off.
    Lost,
}

impl Stream {
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Got> {
        self.heard
            .read(buffer, &mut Context::from_waker(&self.waker))
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut done = 0;
        while let Answer::Due { .. } = &self.answer {
            if done == bytes.len() {
                return Ok(done);
            }
            done += self.head(&bytes[done..])?;
        }
        let Answer::Body(said) = &mut self.answer else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        said.write_after(done, bytes, &mut Context::from_waker(&self.waker))
    }

    /// Reads a head that the session has written, interim or final.
    fn head(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Answer::Due { respond, partial } = &mut self.answer else {
            return Ok(0);
        };
        let before = partial.len();
        let whole = match before {
            0 => bytes,
            _ => {
                partial.extend_from_slice(bytes);
                &*partial
            }
        };
        let limits = HeadLimits {
            head_bytes: HEAD_BYTES_MAX,
            headers: HEADERS_MAX,
            ..HeadLimits::default()
        };
        let head = match parse_response(whole, &self.asked, &limits) {
            Verdict::Head(head) => head,
            Verdict::NeedMore => {
                if before == 0 {
                    partial.extend_from_slice(bytes);
                }
                return Ok(bytes.len());
            }
            Verdict::Reject(_) => return Err(io::ErrorKind::InvalidData.into()),
        };
        let message = response::to_h2(&head, whole).map_err(|_error| io::ErrorKind::InvalidData)?;
        let used = head.head_bytes - before;
        partial.clear();
        if head.is_interim {
            respond.send_informational(message).map_err(lost)?;
            return Ok(used);
        }
        let unframer = match head.switching {
            true => Unframer::tunnel(),
            false => Unframer::of_response(head.framing),
        };
        let ended = !head.switching && head.framing == Framing::None;
        let stream = respond.send_response(message, ended).map_err(lost)?;
        self.answer = Answer::Body(Said::new(stream, unframer, ended));
        Ok(used)
    }

    pub(super) fn finish(&mut self) {
        if let Answer::Body(said) = &mut self.answer {
            said.finish();
        }
    }

    pub(super) fn reset(&mut self) {
        match std::mem::replace(&mut self.answer, Answer::Lost) {
            Answer::Due { mut respond, .. } => respond.send_reset(Reason::INTERNAL_ERROR),
            Answer::Body(mut said) if !said.is_ended() => {
                said.stream.send_reset(Reason::INTERNAL_ERROR);
            }
            Answer::Body(_) | Answer::Lost => {}
        }
    }

    pub(super) fn is_lost(&mut self) -> bool {
        let mut cx = Context::from_waker(&self.waker);
        let polled = match &mut self.answer {
            Answer::Due { respond, .. } => respond.poll_reset(&mut cx),
            Answer::Body(said) => said.stream.poll_reset(&mut cx),
            Answer::Lost => return true,
        };
        polled.is_ready()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // A whole answer to a request that is still being sent: the h2 crate tells the client
        // to stop, without an error (8.1). Everything else that is not whole is one.
        self.reset();
    }
}
