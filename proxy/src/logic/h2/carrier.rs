//! A client's HTTP/2 connection: it carries streams, each a session of its own, and is itself
//! a session without a request.
//!
//! ```text
//!   Open ── drain, or without streams for too long ──► Leaving ── last stream ends ──► closed
//!    └──────────── flood, end, loss ───────────────────┴─────────────────────────────► closed
//! ```
//!
//! The driver feeds the bytes that this machine has heard of to the h2 crate, tells how many
//! streams there are, and sends what comes out. A connection lives for as long as it has
//! streams: their own deadlines bound them. What it receives besides does not prolong its life.

use std::time::{Duration, Instant};

use super::{
    super::session::{Action, Cx, Ending, Event, Side, Want},
    H2Limits,
    meter::{Flood, Meter},
};

/// Bytes read at a time.
const READ_BYTES: usize = 64 << 10;
/// How long a connection that was told to leave may stay without a stream: the client may
/// have sent a request before it heard of it.
const LEAVE: Duration = Duration::from_secs(1);

/// How a connection is to be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// GOAWAY: the streams that there are go on, others go elsewhere (6.8).
    Gracefully,
    /// GOAWAY with ENHANCE_YOUR_CALM, and the end.
    Flood(Flood),
}

/// See the module.
#[derive(Debug)]
pub struct Carrier {
    meter: Meter,
    state: State,
    streams: usize,
    /// The h2 crate does not read: its own answers are not taken off it.
    stuffed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open {
        /// When it is too old, while it has no streams.
        until: Instant,
    },
    Leaving {
        until: Instant,
    },
    Closed,
}

impl Carrier {
    /// A connection that has just begun.
    #[must_use]
    pub fn new(limits: &H2Limits, cx: &Cx<'_>) -> Self {
        Self {
            meter: Meter::new(limits.frames, cx.now),
            state: State::Open {
                until: cx.now + cx.limits.head_timeout,
            },
            streams: 0,
            stuffed: false,
        }
    }

    /// See [`super::super::session::Session::handle`].
    pub fn handle(&mut self, event: Event<'_>, cx: &mut Cx<'_>) {
        if self.state == State::Closed {
            return;
        }
        match event {
            Event::Bytes(Side::Downstream, bytes) => {
                let judged = self.meter.heard(bytes, cx.now);
                self.judged(judged, cx);
            }
            Event::Timer if self.streams == 0 => match self.state {
                State::Open { until } if cx.now >= until => self.leave(cx),
                State::Leaving { until } if cx.now >= until => self.close(cx),
                _ => {}
            },
            Event::Drain | Event::Retire => self.leave(cx),
            Event::Eof(_) | Event::Broken(_) | Event::Unwritable(_) => self.close(cx),
            _ => {}
        }
    }

    /// Bytes that are about to be sent to the client.
    pub fn said(&mut self, bytes: &[u8], cx: &mut Cx<'_>) {
        if self.state != State::Closed {
            let judged = self.meter.said(bytes, cx.now);
            self.judged(judged, cx);
        }
    }

    /// How many streams there are now, and how many bytes wait to be read by the h2 crate.
    pub fn streams(&mut self, count: usize, unread: usize, cx: &Cx<'_>) {
        self.stuffed = unread >= READ_BYTES;
        let ended = self.streams > 0 && count == 0;
        self.streams = count;
        match &mut self.state {
            State::Open { until } if ended => *until = cx.now + cx.limits.keep_alive,
            State::Leaving { until } if ended => *until = cx.now + LEAVE,
            _ => {}
        }
    }

    /// The h2 crate has nothing more to do: what it has written last is to be delivered.
    pub fn ended(&mut self, cx: &mut Cx<'_>) {
        if self.state != State::Closed {
            self.state = State::Closed;
            // The client may be sending still: a reset would eat the GOAWAY.
            cx.act(Action::Close(Ending::Linger));
        }
    }

    /// See [`super::super::session::Session::wants`].
    #[must_use]
    pub fn wants(&self, side: Side) -> Want {
        match (side, self.state) {
            (Side::Downstream, State::Open { .. } | State::Leaving { .. }) if !self.stuffed => {
                Want::Bytes(READ_BYTES)
            }
            _ => Want::Nothing,
        }
    }

    /// See [`super::super::session::Session::deadline`].
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Open { until } | State::Leaving { until } if self.streams == 0 => Some(until),
            _ => None,
        }
    }

    fn judged(&mut self, judged: Result<(), Flood>, cx: &mut Cx<'_>) {
        if let Err(flood) = judged {
            cx.counters.h2_floods.inc();
            self.state = State::Closed;
            cx.act(Action::Leave(Leave::Flood(flood)));
            cx.act(Action::Close(Ending::Linger));
        }
    }

    fn leave(&mut self, cx: &mut Cx<'_>) {
        if let State::Open { .. } = self.state {
            self.state = State::Leaving {
                until: cx.now + LEAVE,
            };
            cx.act(Action::Leave(Leave::Gracefully));
        }
    }

    fn close(&mut self, cx: &mut Cx<'_>) {
        self.state = State::Closed;
        cx.act(Action::Close(Ending::Clean));
    }
}
