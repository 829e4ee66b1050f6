//! Sessions: one downstream connection each, as state machines without sockets or clock.
//!
//! A driver reports what happened ([`Event`]), a session answers with [`Action`]s and bytes to
//! write ([`Cx::write`]). What a session waits for is state that the driver reads after each
//! event: [`Session::wants`] says what to read from a side, [`Session::deadline`] when to send
//! [`Event::Timer`]. An opaque stretch (a tunnel, a body of known length) is asked for as
//! [`Want::Pipe`]: its bytes never come here, only their number.
//!
//! | machine | protocol |
//! | --- | --- |
//! | [`opaque`] | TCP, and TLS passed through after its SNI has been read |
//! | [`http`] | HTTP/1.x, and each stream of HTTP/2 |
//! | [`crate::logic::h2::carrier`] | an HTTP/2 connection, without its streams |

pub mod dial;
#[cfg(not(flocker_loom))]
#[cfg(test)]
mod h2_tests;
pub mod http;
pub mod opaque;
pub mod preface;
mod secured;
#[cfg(not(flocker_loom))]
#[cfg(test)]
mod tests;
mod tunnel;
mod way;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use flocker_api::{edge::ListenerKind, route::UpstreamProtocol, upstream::SendProxy};

pub(crate) use self::way::{
    Admit, Way, admit, claim, client_ip, failed, on_move, resolve, served, upstream_failed,
};
pub use self::{
    secured::{Agreed, Offer, Seal, Secured},
    way::Key,
};
use super::{
    access::{Cause, End, Protocol, Record, Visit},
    balance::Ejection,
    gate::{Call, Gate, Seat},
    h2::{
        H2Limits,
        carrier::{Carrier, Leave},
        trunk::{Standing, Trunk},
    },
    http::{HeadLimits, Scheme, origin::Origins, pages::Pages},
    proxy_header::Ends,
    table::RouteTable,
};
use crate::metrics::Counters;

/// The table that an edge serves.
pub type Table = RouteTable<Arc<Gate>>;

/// The two ends of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client's.
    Downstream = 0,
    /// The service's.
    Upstream = 1,
}

impl Side {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Downstream => Self::Upstream,
            Self::Upstream => Self::Downstream,
        }
    }
}

/// What a session wants of a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Leave its bytes in the kernel.
    Nothing,
    /// Up to this many bytes, as [`Event::Bytes`].
    Bytes(usize),
    /// The same, but not before all that was written to this side is delivered: whoever does
    /// not read our answers has no further requests read.
    BytesAfterFlush(usize),
    /// A look at up to this many bytes, as [`Event::Peeked`]; they are left in the kernel.
    Peek(usize),
    /// Relay to the other side: this many bytes, or until its end.
    Pipe(Option<u64>),
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// Bytes were read, because of [`Want::Bytes`].
    Bytes(Side, &'a [u8]),
    /// What the client has sent so far, because of [`Want::Peek`].
    Peeked(&'a [u8]),
    /// A side will send nothing more; all that it had sent has been reported or relayed.
    Eof(Side),
    /// A side has announced its end, though perhaps not all of its bytes have been read.
    Hangup(Side),
    /// A side's connection is lost.
    Broken(Side),
    /// The upstream's connection is lost, and its peer has said that it has not begun with the
    /// request: it may be sent again whatever its method.
    Unprocessed,
    /// Nothing more can be written to a side; what it has sent can still be read.
    Unwritable(Side),
    /// The upstream is connected.
    Connected {
        /// It has served before.
        reused: bool,
    },
    /// The upstream could not be connected, or no TLS spoken with it.
    ConnectFailed(ConnectFailure),
    /// Bytes were relayed, because of [`Want::Pipe`].
    Piped {
        /// Where from.
        from: Side,
        /// How many.
        bytes: u64,
    },
    /// TLS is spoken with the client.
    Secured(&'a Agreed),
    /// A gate has answered.
    Called(Call),
    /// A gate is being quiesced: what is opaque and established shall end.
    Quiesce(&'a Arc<Gate>),
    /// The edge is about to stop: end when it is convenient.
    Drain,
    /// Another process takes new connections: serve what comes, but ask for no more of it.
    Retire,
    /// The deadline has passed.
    Timer,
}

/// Why a connect failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectFailure {
    /// Nobody listens there, or the host or network is unreachable.
    Refused,
    /// No answer in time.
    TimedOut,
    /// It speaks no TLS, or its certificate is not to be trusted.
    Untrusted,
    /// We have no descriptor, port or memory for it.
    NoResources,
    /// The upstreams have as many sessions and requests as they may have.
    Full,
}

impl ConnectFailure {
    /// What it is called in the access log.
    #[must_use]
    pub(crate) fn cause(self) -> Cause {
        match self {
            Self::Refused | Self::Untrusted => Cause::Upstream,
            Self::TimedOut => Cause::UpstreamTimeout,
            Self::NoResources | Self::Full => Cause::Resources,
        }
    }
}

/// What the driver shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Connect the upstream side; replaces the one there is.
    Connect {
        /// Where to.
        to: SocketAddr,
        /// How TLS is spoken with it; `None` in clear.
        seal: Option<Arc<Seal>>,
        /// What is spoken with it.
        protocol: UpstreamProtocol,
        /// Whether an idle connection will do.
        reuse: Reuse,
        /// How long it may take.
        within: Duration,
        /// The PROXY header that it begins with; then nobody else may use it.
        proxy: Option<SendProxy>,
    },
    /// The client's PROXY header is so long and tells of these ends: take it out and begin.
    Introduce {
        /// Its bytes.
        skip: usize,
        /// The client and what it connected to.
        ends: Option<Ends>,
    },
    /// Speak TLS with the client, see [`Session::offer`]; then [`Event::Secured`].
    Terminate,
    /// Keep the upstream connection for others, and have none.
    Keep,
    /// Close the upstream connection, and have none. What was to be written to it is dropped.
    DropUpstream,
    /// The client speaks HTTP/2: what it has sent ([`Session::take_ahead`]) is the beginning
    /// of a connection that carries streams.
    Carry,
    /// Have the client open no further streams on this connection.
    Leave(Leave),
    /// Tell those that wait for this shared connection how it stands.
    Stand(Standing),
    /// Ask the peer of this shared connection whether it is there.
    Ping,
    /// End the stream towards a side, after what is to be written to it.
    Finish(Side),
    /// Deliver what is to be written, for a bounded time, then close both sides.
    Close(Ending),
}

/// Whether an idle connection will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// A new one is needed.
    Never,
    /// Any will do.
    Any,
    /// One that has been seen to be alive just now.
    Checked,
}

/// How a session is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// In order.
    Clean,
    /// In order, but the client may still be sending: read on for a while, so that a reset
    /// does not eat what we have written.
    Linger,
    /// By a reset of this side, because the other was reset.
    Reset(Side),
}

/// Gives the current table.
pub trait Tables {
    /// The table that is served now.
    fn current(&mut self) -> &Table;
}

/// Limits and timeouts of sessions.
#[derive(Debug, Clone)]
pub struct SessionLimits {
    /// Longest request or response head, in bytes.
    pub head_bytes: usize,
    /// Most header lines of a head.
    pub headers: usize,
    /// Longest request target, in bytes.
    pub target_bytes: usize,
    /// Longest time from the first byte of a request head to its last.
    pub head_timeout: Duration,
    /// Longest wait for the next request on a kept connection.
    pub keep_alive: Duration,
    /// How long a whole request may take to arrive.
    pub request_timeout: Duration,
    /// A client must move so much of a body, see [`SessionLimits::body_rate`], in each stretch
    /// of this length.
    pub body_timeout: Duration,
    /// Least bytes of a body that a client must send, or take, in a second of `body_timeout`.
    pub body_rate: u64,
    /// How long a client that asked to be told to send its body waits for the upstream's word
    /// before the edge says it.
    pub continue_timeout: Duration,
    /// Longest silence of an upstream within a response.
    pub response_idle: Duration,
    /// Longest wait for a response head.
    pub response_timeout: Duration,
    /// Longest time of one connect.
    pub connect_timeout: Duration,
    /// How long connects are repeated before a client is told, at an open gate.
    pub connect_hold: Duration,
    /// Longest time in which an opaque session may be silent.
    pub tcp_idle: Duration,
    /// Longest ClientHello, in bytes.
    pub hello_bytes: usize,
    /// Longest wait for a whole ClientHello.
    pub hello_timeout: Duration,
    /// Of HTTP/2 connections.
    pub h2: H2Limits,
    /// Longest wait for a whole PROXY header.
    pub proxy_header_timeout: Duration,
    /// When upstreams that fail clients are left alone.
    pub ejection: Ejection,
    /// What an operator has said of HTTP.
    pub policy: Arc<Policy>,
}

impl SessionLimits {
    /// Those of heads.
    #[must_use]
    pub fn head(&self) -> HeadLimits {
        HeadLimits {
            head_bytes: self.head_bytes,
            target_bytes: self.target_bytes,
            headers: self.headers,
            ..HeadLimits::default()
        }
    }
}

/// What an operator has said of HTTP, limits apart.
#[derive(Debug)]
pub struct Policy {
    /// What is told of the client, and whose word is taken.
    pub origins: Origins,
    /// Pages in place of the edge's own.
    pub pages: Pages,
}

/// What a session may use while it handles an event.
pub struct Cx<'a> {
    /// The time.
    pub now: Instant,
    /// The tables.
    pub tables: &'a mut dyn Tables,
    /// Where it lives.
    pub seat: Seat,
    /// The client.
    pub client: SocketAddr,
    /// Limits.
    pub limits: &'a SessionLimits,
    /// Counters of the worker.
    pub counters: &'a Counters,
    /// To be written, by side.
    pub out: [&'a mut Vec<u8>; 2],
    /// To be done, in order, after what is to be written has been handed over.
    pub actions: &'a mut Vec<Action>,
    /// Bytes on their way to each side before this event.
    pub pending: [usize; 2],
    /// What is handed over of those that are over.
    pub access: Access<'a>,
}

/// Where visits begin and end.
pub struct Access<'a> {
    /// Whether they are written.
    pub wanted: bool,
    /// Those that are over.
    pub records: &'a mut Vec<Record>,
    /// Bytes that the connection had moved to each side before this event.
    pub moved: [u64; 2],
}

impl Cx<'_> {
    /// Appends to what is to be written to a side.
    pub fn write(&mut self, side: Side, bytes: &[u8]) {
        self.out[side as usize].extend_from_slice(bytes);
    }

    /// A visit that began at this time.
    #[must_use]
    pub fn visit(&self, protocol: Protocol, began: Instant) -> Box<Visit> {
        Box::new(Visit::new(protocol, began, self.moved()))
    }

    /// Ends a visit.
    pub fn end(&mut self, visit: Option<Box<Visit>>) {
        let Some(visit) = visit else { return };
        let end = End {
            now: self.now,
            client: self.client,
            moved: self.moved(),
        };
        self.access.records.extend(visit.end(&end));
    }

    /// Bytes that the connection has moved to each side, with what is to be written.
    fn moved(&self) -> [u64; 2] {
        [0, 1].map(|side: usize| self.access.moved[side] + self.out[side].len() as u64)
    }

    /// Orders an action.
    pub fn act(&mut self, action: Action) {
        self.actions.push(action);
    }
}

/// One downstream connection.
#[derive(Debug)]
pub enum Session {
    /// TCP or passed-through TLS.
    Opaque(Box<opaque::Session>),
    /// HTTP/1.x, or a stream of HTTP/2.
    Http(Box<http::Session>),
    /// HTTP/2, as far as it is no stream's.
    Carrier(Box<Carrier>),
    /// From a proxy that has not said yet for whom it connects.
    Preface(preface::Session),
    /// An upstream's HTTP/2 connection; its peer is on the downstream side.
    Trunk(Box<Trunk>),
}

impl Session {
    /// The session of a client that has come to a listener.
    pub fn arrive(kind: ListenerKind, at: SocketAddr, cx: &mut Cx<'_>) -> Self {
        match kind {
            ListenerKind::Tcp => {
                let key = Key::Tcp(at.port());
                Self::Opaque(Box::new(opaque::Session::tcp(key, cx)))
            }
            ListenerKind::Link => {
                let key = match at {
                    SocketAddr::V4(at) => Key::Link(at),
                    // Links have addresses of the old kind alone.
                    SocketAddr::V6(at) => Key::Tcp(at.port()),
                };
                Self::Opaque(Box::new(opaque::Session::tcp(key, cx)))
            }
            ListenerKind::Https => Self::Opaque(Box::new(opaque::Session::https(cx))),
            ListenerKind::Http => Self::Http(Box::new(http::Session::new(Scheme::Http, cx))),
        }
    }

    /// The server name that the client's TLS has asked for, if it is known.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        match self {
            Self::Opaque(session) => session.server_name(),
            Self::Http(session) => session.secured()?.server_name(),
            Self::Carrier(_) | Self::Preface(_) | Self::Trunk(_) => None,
        }
    }

    /// The protocol that TLS has agreed on with the client, if it ends here.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Http(session) => session.secured()?.agreed.protocol.as_deref(),
            Self::Opaque(_) | Self::Carrier(_) | Self::Preface(_) | Self::Trunk(_) => None,
        }
    }

    /// Handles an event.
    pub fn handle(&mut self, event: Event<'_>, cx: &mut Cx<'_>) {
        if let (Self::Opaque(session), Event::Secured(agreed)) = (&mut *self, event) {
            if let Some(secured) = session.secured(agreed) {
                let until = cx.now + cx.limits.head_timeout;
                let session = http::Session::begin(Scheme::Https, until);
                *self = Self::Http(Box::new(session.with_secured(Some(Arc::new(secured)))));
            }
            return;
        }
        match self {
            Self::Opaque(session) => session.handle(event, cx),
            Self::Http(session) => session.handle(event, cx),
            Self::Carrier(carrier) => carrier.handle(event, cx),
            Self::Preface(session) => session.handle(event, cx),
            Self::Trunk(trunk) => trunk.handle(event, cx),
        }
    }

    /// See [`opaque::Session::offer`].
    pub fn offer(&mut self) -> Option<(&Offer, Vec<u8>)> {
        match self {
            Self::Opaque(session) => session.offer(),
            Self::Http(_) | Self::Carrier(_) | Self::Preface(_) | Self::Trunk(_) => None,
        }
    }

    /// What to read from a side.
    #[must_use]
    pub fn wants(&self, side: Side) -> Want {
        match self {
            Self::Opaque(session) => session.wants(side),
            Self::Http(session) => session.wants(side),
            Self::Carrier(carrier) => carrier.wants(side),
            Self::Preface(session) => session.wants(side),
            Self::Trunk(trunk) => trunk.wants(side),
        }
    }

    /// When to send [`Event::Timer`].
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Opaque(session) => session.deadline(),
            Self::Http(session) => session.deadline(),
            Self::Carrier(carrier) => carrier.deadline(),
            Self::Preface(session) => session.deadline(),
            Self::Trunk(trunk) => trunk.deadline(),
        }
    }

    /// Everything is delivered and the upstream is closed: it is out of flight, even if the
    /// client's connection stays for a while.
    pub fn delivered(&mut self) {
        match self {
            Self::Opaque(session) => session.delivered(),
            Self::Http(session) => session.delivered(),
            Self::Carrier(_) | Self::Preface(_) | Self::Trunk(_) => {}
        }
    }

    /// Whether it is parked at a gate.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        match self {
            Self::Opaque(session) => session.is_parked(),
            Self::Http(session) => session.is_parked(),
            Self::Carrier(_) | Self::Preface(_) | Self::Trunk(_) => false,
        }
    }

    /// Whether it is admitted at this gate: whether a quiesce concerns it.
    #[must_use]
    pub fn is_admitted_at(&self, gate: &Arc<Gate>) -> bool {
        let admission = match self {
            Self::Opaque(session) => session.admission(),
            Self::Http(session) => session.admission(),
            Self::Carrier(_) | Self::Preface(_) | Self::Trunk(_) => None,
        };
        admission.is_some_and(|admission| Arc::ptr_eq(admission.gate(), gate))
    }

    /// Takes what has been read of the client and not dealt with, after [`Action::Carry`].
    #[must_use]
    pub fn take_ahead(&mut self) -> Vec<u8> {
        match self {
            Self::Http(session) => session.take_ahead(),
            Self::Opaque(_) | Self::Carrier(_) | Self::Preface(_) | Self::Trunk(_) => Vec::new(),
        }
    }
}
