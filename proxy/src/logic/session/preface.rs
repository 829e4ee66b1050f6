//! A connection from a proxy that says first for whom it connects: the PROXY header is looked at
//! in the kernel's buffer, and taken out of it only when it is whole. Then the session proper
//! begins, for the client that the header names.

use std::time::Instant;

use super::{Action, Cx, Ending, Event, Side, Want};
use crate::logic::proxy_header::{HEADER_BYTES_MAX, Header, parse};

/// See the module.
#[derive(Debug)]
pub struct Session {
    until: Instant,
}

impl Session {
    /// A connection of which nothing has been read yet; its header is to be there by then.
    #[must_use]
    pub fn new(until: Instant) -> Self {
        Self { until }
    }

    /// See [`super::Session::handle`].
    pub fn handle(&mut self, event: Event<'_>, cx: &mut Cx<'_>) {
        match event {
            Event::Peeked(bytes) => match parse(bytes) {
                Header::NeedMore => {}
                Header::Is { bytes, ends } => cx.act(Action::Introduce { skip: bytes, ends }),
                Header::Malformed(_) => {
                    cx.counters.proxy_headers_malformed.inc();
                    cx.act(Action::Close(Ending::Clean));
                }
            },
            Event::Timer if cx.now >= self.until => {
                cx.counters.proxy_headers_malformed.inc();
                cx.act(Action::Close(Ending::Clean));
            }
            // Proxies that only look whether we are there leave without a header.
            Event::Eof(_) | Event::Broken(_) | Event::Unwritable(_) | Event::Drain => {
                cx.act(Action::Close(Ending::Clean));
            }
            _ => {}
        }
    }

    /// See [`super::Session::wants`].
    #[must_use]
    pub fn wants(&self, side: Side) -> Want {
        match side {
            Side::Downstream => Want::Peek(HEADER_BYTES_MAX),
            Side::Upstream => Want::Nothing,
        }
    }

    /// See [`super::Session::deadline`].
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        Some(self.until)
    }
}
