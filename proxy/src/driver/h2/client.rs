//! An upstream's HTTP/2 connection, and its streams as upstreams of sessions.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use h2::{
    Ping, PingPong, Reason,
    client::{self, Connection, ResponseFuture, SendRequest},
    ext::Protocol,
};
use http::uri;

use super::{
    flow::{Heard, Said},
    lost,
    pipe::Pipe,
};
use crate::{
    driver::relay::Got,
    logic::{
        h2::{
            H2Limits,
            body::Unframer,
            request::{self, Carried, Tunnel},
            response::{self, Opened, Question},
            websocket,
        },
        http::{HEADERS_MAX, HeadLimits, Method, Scheme, Verdict, parse_request},
    },
};

/// Longest request head that a session may write: what it accepts, and what it adds.
const HEAD_BYTES_MAX: usize = 2 << 20;
/// Bytes that a stream may hold on their way to the upstream.
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// What a session reads when its request cannot be sent over HTTP/2.
const NOT_POSSIBLE: &[u8] = b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\n\r\n";

type Beginning = Pin<
    Box<
        dyn Future<Output = Result<(SendRequest<Bytes>, Connection<Pipe, Bytes>), h2::Error>>
            + Send,
    >,
>;

/// An upstream's connection. It reads and writes a [`Pipe`], whose other end the worker has.
pub struct Island {
    state: State,
    sender: Option<SendRequest<Bytes>>,
    pipe: Pipe,
    waker: Waker,
    scheme: Scheme,
    /// Held once more by each stream.
    streams: Arc<()>,
    pings: Option<PingPong>,
}

enum State {
    Beginning(Beginning),
    Open(Box<Connection<Pipe, Bytes>>),
    Ended,
}

impl Island {
    /// A connection that is to begin and to have so many streams at most. `head_bytes` bounds
    /// a response's fields.
    #[must_use]
    pub fn new(
        limits: &H2Limits,
        streams: usize,
        head_bytes: usize,
        scheme: Scheme,
        waker: Waker,
    ) -> Self {
        let pipe = Pipe::default();
        let streams = u32::try_from(streams).unwrap_or(u32::MAX);
        let mut builder = client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(limits.stream_window)
            // Requests that are read slowly must not hold up the others.
            .initial_connection_window_size(limits.connection_window(streams))
            .max_header_list_size(u32::try_from(head_bytes).unwrap_or(u32::MAX))
            .max_send_buffer_size(SEND_BUFFER_BYTES);
        let end = pipe.clone();
        Self {
            state: State::Beginning(Box::pin(async move { builder.handshake(end).await })),
            sender: None,
            pipe,
            waker,
            scheme,
            streams: Arc::new(()),
            pings: None,
        }
    }

    /// The worker's end.
    #[must_use]
    pub fn pipe(&self) -> &Pipe {
        &self.pipe
    }

    /// How many streams there are.
    #[must_use]
    pub fn streams(&self) -> usize {
        Arc::strong_count(&self.streams) - 1
    }

    /// How many streams the peer allows.
    #[must_use]
    pub fn allowed(&self) -> usize {
        match &self.state {
            State::Open(connection) => connection.max_concurrent_send_streams(),
            State::Beginning(_) | State::Ended => 0,
        }
    }

    /// A stream for one request; `waker` runs its session. `None` before the beginning and
    /// after the end.
    #[must_use]
    pub fn open(&self, waker: Waker) -> Option<Stream> {
        Some(Stream {
            state: Phase::Request {
                sender: self.sender.clone()?,
                partial: Vec::new(),
            },
            scheme: self.scheme,
            unprocessed: false,
            waker,
            trunk: self.waker.clone(),
            counted: Some(Arc::clone(&self.streams)),
        })
    }

    /// Asks the peer whether it is there.
    pub fn ping(&mut self) {
        if let Some(pings) = &mut self.pings {
            // Fails only while one is under way.
            drop(pings.send_ping(Ping::opaque()));
        }
    }

    /// Lets the connection go on; whether it has ended.
    pub fn poll(&mut self) -> bool {
        let mut cx = Context::from_waker(&self.waker);
        loop {
            match &mut self.state {
                State::Beginning(handshake) => match handshake.as_mut().poll(&mut cx) {
                    Poll::Pending => return false,
                    Poll::Ready(Ok((sender, mut connection))) => {
                        self.sender = Some(sender);
                        self.pings = connection.ping_pong();
                        self.state = State::Open(Box::new(connection));
                    }
                    Poll::Ready(Err(_)) => self.state = State::Ended,
                },
                State::Open(connection) => match Pin::new(&mut **connection).poll(&mut cx) {
                    Poll::Pending => {
                        // Looked at only so that the next one can be sent.
                        let pong = self.pings.as_mut().map(|pings| pings.poll_pong(&mut cx));
                        if let Some(Poll::Ready(Err(_))) = pong {
                            self.pings = None;
                        }
                        return false;
                    }
                    Poll::Ready(_) => self.state = State::Ended,
                },
                State::Ended => {
                    self.sender = None;
                    return true;
                }
            }
        }
    }
}

/// A stream to an upstream. An HTTP/1.1 request is written to it, and the response read.
#[derive(Debug)]
pub struct Stream {
    state: Phase,
    scheme: Scheme,
    /// The peer says that it has not begun with the request.
    unprocessed: bool,
    waker: Waker,
    /// Lets the connection go on.
    trunk: Waker,
    counted: Option<Arc<()>>,
}

#[derive(Debug)]
enum Phase {
    /// Its head has not been written yet.
    Request {
        sender: SendRequest<Bytes>,
        partial: Vec<u8>,
    },
    Response {
        response: ResponseFuture,
        question: Question,
        /// Interim heads.
        interim: Heard,
        said: Said,
    },
    Body {
        heard: Heard,
        said: Said,
    },
    /// Answered in the upstream's place.
    Impossible(Heard),
    Lost,
}

impl Stream {
    /// Whether the peer has said that it has not begun with the request, so that it may be
    /// sent elsewhere whatever its method (RFC 9113, sections 6.8 and 8.7).
    #[must_use]
    pub fn is_unprocessed(&self) -> bool {
        self.unprocessed
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Got> {
        let waker = self.waker.clone();
        match self.step(buffer, &mut Context::from_waker(&waker)) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                self.state = Phase::Lost;
                Err(error)
            }
            outcome => outcome,
        }
    }

    fn step(&mut self, buffer: &mut [u8], cx: &mut Context<'_>) -> io::Result<Got> {
        if let Phase::Response { .. } = self.state {
            self.response(cx)?;
        }
        match &mut self.state {
            Phase::Request { .. } => Err(io::ErrorKind::WouldBlock.into()),
            Phase::Response { interim, .. } => interim.read(buffer, cx),
            Phase::Body { heard, .. } | Phase::Impossible(heard) => heard.read(buffer, cx),
            Phase::Lost => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    /// Looks for the head of the response.
    fn response(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Phase::Response {
            response,
            question,
            interim,
            ..
        } = &mut self.state
        else {
            return Ok(());
        };
        let malformed = |_error| io::Error::from(io::ErrorKind::InvalidData);
        let mut head = Vec::new();
        while let Poll::Ready(Some(Ok(message))) = response.poll_informational(cx) {
            let (parts, ()) = message.into_parts();
            response::write_http1(&parts, question, false, &mut head).map_err(malformed)?;
        }
        let message = match Pin::new(response).poll(cx) {
            Poll::Pending => {
                interim.stage(&head);
                return Ok(());
            }
            Poll::Ready(Ok(message)) => message,
            Poll::Ready(Err(error)) => {
                self.unprocessed = error.reason() == Some(Reason::REFUSED_STREAM)
                    || (error.is_go_away() && error.is_remote());
                return Err(lost(error));
            }
        };
        let (parts, body) = message.into_parts();
        let ended = body.is_end_stream();
        let carried =
            response::write_http1(&parts, question, ended, &mut head).map_err(malformed)?;
        interim.stage(&head);
        let Phase::Response { interim, said, .. } = std::mem::replace(&mut self.state, Phase::Lost)
        else {
            return Ok(());
        };
        let heard = interim.with_body(body, carried);
        self.state = Phase::Body { heard, said };
        Ok(())
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut done = 0;
        while let Phase::Request { .. } = &self.state {
            if done == bytes.len() {
                return Ok(done);
            }
            done += self.head(&bytes[done..])?;
        }
        let said = match &mut self.state {
            Phase::Response { said, .. } | Phase::Body { said, .. } => said,
            // Nobody wants it.
            Phase::Impossible(_) => return Ok(bytes.len()),
            Phase::Request { .. } | Phase::Lost => return Err(io::ErrorKind::BrokenPipe.into()),
        };
        said.write_after(done, bytes, &mut Context::from_waker(&self.waker))
    }

    /// Reads the head that the session has written.
    fn head(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Phase::Request { sender, partial } = &mut self.state else {
            return Ok(0);
        };
        let before = partial.len();
        partial.extend_from_slice(bytes);
        let limits = HeadLimits {
            head_bytes: HEAD_BYTES_MAX,
            headers: HEADERS_MAX,
            ..HeadLimits::default()
        };
        let head = match parse_request(partial, self.scheme, &limits) {
            Verdict::Head(head) => head,
            Verdict::NeedMore => return Ok(bytes.len()),
            Verdict::Reject(_) => return Err(io::ErrorKind::InvalidData.into()),
        };
        let used = head.head_bytes - before;
        let scheme = match self.scheme {
            Scheme::Http => uri::Scheme::HTTP,
            Scheme::Https => uri::Scheme::HTTPS,
        };
        let extended = sender.is_extended_connect_protocol_enabled();
        let outgoing = request::to_h2(&head, partial, scheme).ok().filter(|out| {
            let is_websocket = matches!(out.tunnel, Some(Tunnel::WebSocket { .. }));
            extended || !is_websocket
        });
        let Some(mut outgoing) = outgoing else {
            let answer = Heard::new(NOT_POSSIBLE.to_vec(), None, Carried::None);
            self.state = Phase::Impossible(answer);
            return Ok(used);
        };
        if let Some(Tunnel::WebSocket { .. }) = outgoing.tunnel {
            let extensions = outgoing.request.extensions_mut();
            extensions.insert(Protocol::from_static("websocket"));
        }
        let unframer = match outgoing.tunnel {
            Some(_) => Unframer::tunnel(),
            None => Unframer::of_request(outgoing.body),
        };
        let ended = unframer.is_done();
        let sent = sender.send_request(outgoing.request, ended);
        let (response, stream) = match sent {
            Ok(sent) => sent,
            Err(error) => {
                // Nothing has gone out.
                self.unprocessed = true;
                self.state = Phase::Lost;
                return Err(lost(error));
            }
        };
        self.state = Phase::Response {
            response,
            question: Question {
                is_head: head.method == Method::Head,
                tunnel: outgoing.tunnel.map(|tunnel| match tunnel {
                    Tunnel::WebSocket { key } => Opened::WebSocket {
                        accept: websocket::accept(&key),
                    },
                    Tunnel::Connect => Opened::Connect,
                }),
            },
            interim: Heard::new(Vec::new(), None, Carried::None),
            said: Said::new(stream, unframer, ended),
        };
        Ok(used)
    }

    pub(super) fn finish(&mut self) {
        if let Phase::Response { said, .. } | Phase::Body { said, .. } = &mut self.state {
            said.finish();
        }
    }

    pub(super) fn reset(&mut self) {
        // The h2 crate cancels what is not whole when its handles go.
        self.state = Phase::Lost;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.state = Phase::Lost;
        self.counted = None;
        self.trunk.wake_by_ref();
    }
}
