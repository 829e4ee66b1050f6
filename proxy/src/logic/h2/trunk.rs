//! An upstream's HTTP/2 connection, shared by requests of one worker.
//!
//! ```text
//!   Connecting ── connected ──► Greeting ── SETTINGS ──► Open ── GOAWAY, drain ──► Leaving
//!      └── failed ──► closed        └── late ──► closed    ├── silent after a PING ──► closed
//!                                                          └── idle for too long ────► closed
//! ```
//!
//! Requests wait until the peer has said its SETTINGS: only then is it known that it speaks
//! HTTP/2, and until then a failure is one of the connect, after which nothing has been sent.
//! The driver counts the streams and feeds the h2 crate.

use std::time::{Duration, Instant};

use super::{
    super::session::{Action, ConnectFailure, Cx, Ending, Event, Side, Want},
    meter::Scanner,
};

/// Bytes read at a time.
const READ_BYTES: usize = 64 << 10;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// Limits of one shared connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrunkLimits {
    /// Most streams that we open on it; the peer may allow less.
    pub streams: usize,
    /// How long it is kept without streams.
    pub idle: Duration,
    /// After so long a silence, while there are streams, the peer is asked whether it is there,
    /// and has as long again to answer.
    pub ping: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Trunk {
    limits: TrunkLimits,
    state: State,
    heard: Scanner,
    streams: usize,
    /// The peer has said its SETTINGS, and the h2 crate is about to read them.
    greeted: bool,
    /// The h2 crate does not read: what it has to say is not taken off it.
    stuffed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Connecting {
        until: Instant,
    },
    Greeting {
        until: Instant,
    },
    Open {
        heard_at: Instant,
        pinged: bool,
        /// Since when it has no streams.
        idle_since: Instant,
    },
    Leaving {
        until: Instant,
    },
    Closed,
}

/// What the requests that wait for a connection are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Streams can be opened.
    Open,
    /// No further ones: another connection is needed.
    Leaving,
    /// It did not come about.
    Failed(ConnectFailure),
}

impl Trunk {
    /// A connection whose connect has been started and may take so long.
    #[must_use]
    pub fn new(limits: TrunkLimits, now: Instant, within: Duration) -> Self {
        Self {
            limits,
            state: State::Connecting {
                until: now + within,
            },
            heard: Scanner::new(0),
            streams: 0,
            greeted: false,
            stuffed: false,
        }
    }

    /// See [`super::super::session::Session::handle`].
    pub fn handle(&mut self, event: Event<'_>, cx: &mut Cx<'_>) {
        match (self.state, event) {
            (State::Closed, _) => {}
            (State::Connecting { until }, Event::Connected { .. }) => {
                self.state = State::Greeting { until };
            }
            (_, Event::ConnectFailed(failure)) => self.fail(failure, cx),
            (_, Event::Bytes(Side::Downstream, bytes)) => self.bytes(bytes, cx),
            (State::Connecting { until } | State::Greeting { until }, Event::Timer)
                if cx.now >= until =>
            {
                self.fail(ConnectFailure::TimedOut, cx);
            }
            (
                State::Connecting { .. } | State::Greeting { .. },
                Event::Eof(_) | Event::Broken(_) | Event::Unwritable(_),
            ) => self.fail(ConnectFailure::Refused, cx),
            (State::Open { .. }, Event::Timer) => self.look(cx),
            (State::Leaving { until }, Event::Timer) if cx.now >= until => self.close(cx),
            (State::Open { .. }, Event::Drain) => self.leave(cx),
            (_, Event::Eof(_) | Event::Broken(_) | Event::Unwritable(_)) => self.close(cx),
            _ => {}
        }
    }

    /// The h2 crate has had its turn: how many streams there are now, and how many bytes wait to be read by the h2 crate.
    pub fn streams(&mut self, count: usize, unread: usize, cx: &mut Cx<'_>) {
        self.stuffed = unread >= READ_BYTES;
        if std::mem::take(&mut self.greeted) {
            cx.act(Action::Stand(Standing::Open));
        }
        let ended = self.streams > 0 && count == 0;
        if count > 0 && self.streams == 0 {
            // The silence of an idle connection says nothing.
            if let State::Open { heard_at, .. } = &mut self.state {
                *heard_at = cx.now;
            }
        }
        self.streams = count;
        if !ended {
            return;
        }
        match &mut self.state {
            State::Open { idle_since, .. } => *idle_since = cx.now,
            State::Leaving { .. } => self.close(cx),
            _ => {}
        }
    }

    /// No further streams: it leads where requests no longer go, or the edge stops.
    pub fn leave(&mut self, cx: &mut Cx<'_>) {
        if self.streams == 0 {
            return self.close(cx);
        }
        if let State::Open { .. } = self.state {
            cx.act(Action::Stand(Standing::Leaving));
            self.state = State::Leaving {
                until: cx.now + cx.limits.tcp_idle,
            };
        }
    }

    /// The h2 crate has nothing more to do.
    pub fn ended(&mut self, cx: &mut Cx<'_>) {
        match self.state {
            State::Connecting { .. } | State::Greeting { .. } => {
                self.fail(ConnectFailure::Refused, cx);
            }
            _ => self.close(cx),
        }
    }

    /// See [`super::super::session::Session::wants`].
    #[must_use]
    pub fn wants(&self, side: Side) -> Want {
        match (side, self.state) {
            (Side::Upstream, _) | (_, State::Connecting { .. } | State::Closed) => Want::Nothing,
            _ if self.stuffed => Want::Nothing,
            _ => Want::Bytes(READ_BYTES),
        }
    }

    /// See [`super::super::session::Session::deadline`].
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Connecting { until } | State::Greeting { until } | State::Leaving { until } => {
                Some(until)
            }
            State::Open { idle_since, .. } if self.streams == 0 => {
                Some(idle_since + self.limits.idle)
            }
            State::Open { heard_at, .. } => Some(heard_at + self.limits.ping),
            State::Closed => None,
        }
    }

    fn bytes(&mut self, mut bytes: &[u8], cx: &mut Cx<'_>) {
        if let State::Open {
            heard_at, pinged, ..
        } = &mut self.state
        {
            *heard_at = cx.now;
            *pinged = false;
        }
        while let Some(kind) = self.heard.next_kind(&mut bytes) {
            match (kind, self.state) {
                (SETTINGS, State::Greeting { .. }) => {
                    self.state = State::Open {
                        heard_at: cx.now,
                        pinged: false,
                        idle_since: cx.now,
                    };
                    self.greeted = true;
                }
                // 3.4: the peer's first frame is its SETTINGS. This is no HTTP/2.
                (_, State::Greeting { .. }) => return self.fail(ConnectFailure::Refused, cx),
                (GOAWAY, State::Open { .. }) => {
                    cx.act(Action::Stand(Standing::Leaving));
                    self.state = State::Leaving {
                        until: cx.now + cx.limits.tcp_idle,
                    };
                }
                _ => {}
            }
        }
    }

    /// It has been silent, or idle, for as long as it may be.
    fn look(&mut self, cx: &mut Cx<'_>) {
        let State::Open {
            heard_at,
            pinged,
            idle_since,
        } = &mut self.state
        else {
            return;
        };
        if self.streams == 0 {
            if cx.now >= *idle_since + self.limits.idle {
                self.close(cx);
            }
        } else if cx.now >= *heard_at + self.limits.ping {
            if *pinged {
                return self.close(cx);
            }
            *pinged = true;
            *heard_at = cx.now;
            cx.act(Action::Ping);
        }
    }

    fn fail(&mut self, failure: ConnectFailure, cx: &mut Cx<'_>) {
        cx.act(Action::Stand(Standing::Failed(failure)));
        self.state = State::Closed;
        cx.act(Action::Close(Ending::Clean));
    }

    fn close(&mut self, cx: &mut Cx<'_>) {
        if self.state != State::Closed {
            cx.act(Action::Stand(Standing::Leaving));
            self.state = State::Closed;
            cx.act(Action::Close(Ending::Clean));
        }
    }
}
