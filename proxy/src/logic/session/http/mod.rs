//! An HTTP/1.x session: a downstream connection with one request after the other.
//!
//! ```text
//!            head              admitted              connected            101
//!   Reading ─────► admit ───────────────► Connecting ─────────► Exchange ─────► Tunnel
//!      ▲             │ ▲ ▲                 │ ▲    │                │  │
//!      │             ▼ │ └─ gate closed ───┘ └────┘ failed: again  │  │
//!      │           Parked                    ▲                     │  │
//!      │                                     └──── stale reuse ────┘  │
//!      └──────────────────── response complete ───────────────────────┘
//! ```
//!
//! Every request passes the gate of its route and is in flight until its response has been
//! read to the end. A request is sent again only if its body is empty and nothing came back: an
//! idempotent one on a connection that had served before, a safe one once on a new connection,
//! too. What an early response leaves
//! unread of a request closes the client's connection, and so does every doubt about framing.
//!
//! Answers of the edge: 404 no route; 503 parked too long or too many, or upstreams that refuse
//! for longer than the connect hold; 504 upstreams that do not answer; 502 upstreams that answer
//! nonsense or hang up; 408 clients that do not finish a head or body; and what
//! [`crate::logic::http`] rejects. A client that ends its stream while it is parked has left.

mod answers;
mod connecting;
mod exchange;
mod pace;
mod rules;
#[cfg(not(flocker_loom))]
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Instant};

use self::exchange::{Exchange, Turn};
use super::{
    Action, Admit, Cx, Ending, Event, Key, Secured, Side, Want, claim,
    dial::Dial,
    served,
    tunnel::{Course, Tunnel, tunnel_over},
    upstream_failed,
};
use crate::logic::{
    access::{Cause, Protocol, Visit, Words},
    gate::{Admission, Place},
    http::{RequestHead, Scheme, Verdict, growth::Growth, origin::RequestId, parse_request},
};

/// A buffer of at most this many bytes is kept while the connection is idle.
const IDLE_BUFFER: usize = 1024;
/// What an HTTP/2 client with prior knowledge begins with (RFC 9113, section 3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes read at a time while a head is awaited.
const HEAD_READ: usize = 8 << 10;

/// See the module.
#[derive(Debug)]
pub struct Session {
    scheme: Scheme,
    /// What the client speaks, for the log.
    protocol: Protocol,
    /// What is known of the TLS that it came through.
    secured: Option<Arc<Secured>>,
    /// Where the request at hand leads.
    key: Key,
    /// What the client sent and is not dealt with: a head, the beginning of a body, what it
    /// has pipelined.
    ahead: Vec<u8>,
    /// How far it has been looked at for a head.
    growth: Growth,
    state: State,
    /// Where the answer under way redirects to; empty if it does not.
    location: Vec<u8>,
    /// There may be another request in `ahead`.
    pipelined: bool,
    /// The edge is stopping: no further request on this connection.
    draining: bool,
    /// The request's, until it is over.
    visit: Option<Box<Visit>>,
    /// No request has come yet, so it may still be another protocol.
    fresh: bool,
}

#[derive(Debug)]
enum State {
    Reading {
        until: Instant,
    },
    Parked {
        place: Place,
        request: Request,
    },
    Connecting {
        admission: Admission,
        dial: Dial,
        request: Request,
    },
    Exchange(Box<Exchange>),
    Tunnel(Tunnel),
    /// Kept until the driver has delivered what is left: only then is it out of flight.
    Closed {
        _admission: Option<Admission>,
    },
}

/// A request whose head is at the beginning of [`Session::ahead`].
#[derive(Debug)]
struct Request {
    head: Box<RequestHead>,
    arrived: Instant,
    /// The id that was made for it.
    id: Option<RequestId>,
    /// What it says of its way is believed.
    trusted: bool,
    /// It has been sent again once, without knowing that it was not received.
    retried: bool,
    /// How often an upstream has handed it back.
    refusals: u8,
}

impl Session {
    /// A connection of which nothing has been read yet.
    #[must_use]
    pub fn new(scheme: Scheme, cx: &Cx<'_>) -> Self {
        Self::begin(scheme, cx.now + cx.limits.head_timeout)
    }

    /// The same; its first head is to be there by then.
    #[must_use]
    pub fn begin(scheme: Scheme, until: Instant) -> Self {
        Self {
            scheme,
            protocol: Protocol::Http1,
            secured: None,
            key: Key::Tcp(0),
            ahead: Vec::new(),
            state: State::Reading { until },
            growth: Growth::default(),
            location: Vec::new(),
            pipelined: false,
            draining: false,
            visit: None,
            fresh: true,
        }
    }

    /// The same session, as a stream of an HTTP/2 connection: the log says so.
    #[must_use]
    pub fn of_http2(self) -> Self {
        Self {
            protocol: Protocol::Http2,
            ..self
        }
    }

    /// The same session, with what is known of the TLS that it came through.
    #[must_use]
    pub fn with_secured(self, secured: Option<Arc<Secured>>) -> Self {
        Self { secured, ..self }
    }

    /// What is known of the TLS that it came through.
    #[must_use]
    pub fn secured(&self) -> Option<&Arc<Secured>> {
        self.secured.as_ref()
    }

    /// See [`super::Session::handle`].
    pub fn handle(&mut self, event: Event<'_>, cx: &mut Cx<'_>) {
        self.step(event, cx);
        // One after the other, and not one within the other: a client may have pipelined
        // thousands that the edge answers by itself.
        while std::mem::take(&mut self.pipelined) {
            self.parse(cx);
        }
    }

    fn step(&mut self, event: Event<'_>, cx: &mut Cx<'_>) {
        if let Event::Drain | Event::Retire = event {
            self.draining = true;
        }
        let state = std::mem::replace(&mut self.state, State::Closed { _admission: None });
        match (state, event) {
            (State::Reading { until }, event) => self.reading(until, event, cx),

            (State::Parked { place, request }, Event::Called(call))
                if call.ticket == place.ticket() =>
            {
                let verdict = claim(&self.key, place, self.ahead.len(), cx);
                if let Admit::Go(_) = verdict {
                    let waited = cx.now.saturating_duration_since(request.arrived);
                    cx.counters.hold_time.observe(waited);
                }
                self.admitted(verdict, request, cx);
            }
            // Dropping the place frees it.
            (State::Parked { .. }, Event::Hangup(Side::Downstream)) => {
                self.blame(Cause::Client);
                self.close(None, Ending::Clean, cx);
            }

            (
                State::Connecting {
                    admission, request, ..
                },
                Event::Connected { reused },
            ) => self.connected(admission, request, reused, cx),
            (
                State::Connecting {
                    admission,
                    dial,
                    request,
                },
                event,
            ) => self.connecting(admission, dial, request, event, cx),

            (State::Exchange(mut exchange), event) => {
                let turn = exchange.handle(event, &mut self.ahead, self.draining, cx);
                if exchange.status > 0 {
                    exchange.admission.answered(cx.now);
                }
                if exchange.status > 0
                    && let Some(visit) = &mut self.visit
                {
                    visit.responded(cx.now, exchange.status);
                }
                self.turn(exchange, turn, cx);
            }
            (State::Tunnel(mut tunnel), event) => match tunnel.handle(event, &self.key, cx) {
                Course::On => self.state = State::Tunnel(tunnel),
                Course::End(ending) => {
                    if let Some(visit) = &mut self.visit {
                        tunnel_over(visit, &event, ending);
                    }
                    self.close(Some(tunnel.into_admission()), ending, cx);
                }
                Course::Untouched => {
                    tunnel.admission().gate().count_closed();
                    self.blame(Cause::Move);
                    self.close(Some(tunnel.into_admission()), Ending::Linger, cx);
                }
            },

            (state, Event::Broken(Side::Downstream) | Event::Unwritable(Side::Downstream)) => {
                drop(state);
                self.close(None, Ending::Clean, cx);
            }
            // Nothing to do: news that is not for this state, such as a call for a place that
            // has been given up.
            (state, _) => self.state = state,
        }
    }

    /// See [`super::Session::wants`].
    #[must_use]
    pub fn wants(&self, side: Side) -> Want {
        match (&self.state, side) {
            (State::Reading { .. }, Side::Downstream) => Want::BytesAfterFlush(HEAD_READ),
            (State::Exchange(exchange), side) => exchange.wants(side),
            (State::Tunnel(tunnel), side) => tunnel.wants(side),
            _ => Want::Nothing,
        }
    }

    /// See [`super::Session::deadline`].
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Reading { until } => Some(*until),
            State::Connecting { dial, .. } => dial.again_at,
            State::Exchange(exchange) => Some(exchange.deadline()),
            State::Tunnel(tunnel) => Some(tunnel.deadline()),
            State::Parked { .. } | State::Closed { .. } => None,
        }
    }

    /// See [`super::Session::delivered`].
    pub fn delivered(&mut self) {
        self.state = State::Closed { _admission: None };
    }

    /// While it connects, or is an exchange or a tunnel.
    #[must_use]
    pub fn admission(&self) -> Option<&Admission> {
        match &self.state {
            State::Connecting { admission, .. } => Some(admission),
            State::Exchange(exchange) => Some(&exchange.admission),
            State::Tunnel(tunnel) => Some(tunnel.admission()),
            State::Reading { .. } | State::Parked { .. } | State::Closed { .. } => None,
        }
    }

    /// See [`super::Session::is_parked`].
    #[must_use]
    pub fn is_parked(&self) -> bool {
        matches!(self.state, State::Parked { .. })
    }

    fn reading(&mut self, until: Instant, event: Event<'_>, cx: &mut Cx<'_>) {
        self.state = State::Reading { until };
        match event {
            Event::Bytes(Side::Downstream, bytes) => {
                if self.ahead.is_empty() {
                    self.state = State::Reading {
                        until: cx.now + cx.limits.head_timeout,
                    };
                }
                self.ahead.extend_from_slice(bytes);
                self.parse(cx);
            }
            Event::Timer | Event::Drain if self.ahead.is_empty() => {
                self.close(None, Ending::Clean, cx);
            }
            Event::Timer if cx.now >= until => {
                self.arrived(None, cx);
                self.blame(Cause::ClientTimeout);
                self.refuse(408, cx);
            }
            Event::Eof(_) | Event::Broken(_) | Event::Unwritable(_) => {
                self.close(None, Ending::Clean, cx);
            }
            _ => {}
        }
    }

    /// See [`super::Session::take_ahead`].
    pub(super) fn take_ahead(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.ahead)
    }

    /// Looks for a head at the beginning of what the client has sent.
    fn parse(&mut self, cx: &mut Cx<'_>) {
        if self.fresh && self.scheme == Scheme::Http {
            let count = self.ahead.len().min(H2_PREFACE.len());
            if self.ahead[..count] == H2_PREFACE[..count] {
                if count == H2_PREFACE.len() {
                    cx.act(Action::Carry);
                }
                // Its first line alone would be no request.
                return;
            }
        }
        let limits = cx.limits.head();
        if !self.growth.is_worth_parsing(&self.ahead, limits.head_bytes) {
            return;
        }
        match parse_request(&self.ahead, self.scheme, &limits) {
            Verdict::NeedMore => {}
            Verdict::Reject(reason) => self.reject(reason, None, cx),
            Verdict::Head(head) => self.headed(head, cx),
        }
    }

    /// A head has come to its end, or will not.
    fn arrived(&mut self, head: Option<&RequestHead>, cx: &mut Cx<'_>) {
        let State::Reading { until } = self.state else {
            return;
        };
        let began = until.checked_sub(cx.limits.head_timeout);
        let mut visit = cx.visit(self.protocol, began.unwrap_or(cx.now));
        let words = cx.access.wanted.then(|| {
            let mut words = match head {
                Some(head) => {
                    let bytes = &self.ahead[..head.head_bytes];
                    Words::of_head(bytes, head.path(bytes), head.host.as_str())
                }
                None => Words::default(),
            };
            if let Some(secured) = &self.secured {
                words.tls.clone_from(&secured.agreed.suite);
            }
            words
        });
        visit.headed(cx.now, words);
        self.visit = Some(visit);
    }

    fn blame(&mut self, cause: Cause) {
        if let Some(visit) = &mut self.visit {
            visit.blame(cause);
        }
    }

    fn turn(&mut self, mut exchange: Box<Exchange>, turn: Turn, cx: &mut Cx<'_>) {
        tell_upstream(&exchange, turn, cx);
        match turn {
            Turn::On => self.state = State::Exchange(exchange),
            Turn::Complete => {
                if let Some(visit) = &mut self.visit {
                    visit.over();
                }
                let taken = cx.now.saturating_duration_since(exchange.request.arrived);
                cx.counters.request_time.observe(taken);
                cx.act(match exchange.may_keep_upstream() {
                    true => Action::Keep,
                    false => Action::DropUpstream,
                });
                match exchange.keep_downstream && !self.draining {
                    true => self.next(cx),
                    false => {
                        // A client that does not expect the end may have sent more.
                        let expected = !exchange.request.head.keep_alive;
                        let over = exchange.is_sent() && self.ahead.is_empty();
                        let ending = match expected && over {
                            true => Ending::Clean,
                            false => Ending::Linger,
                        };
                        self.close(None, ending, cx);
                    }
                }
            }
            Turn::Switched => {
                cx.out[Side::Upstream as usize].append(&mut self.ahead);
                self.ahead = Vec::new();
                self.state = State::Tunnel(Tunnel::new(exchange.admission, cx));
            }
            Turn::Again => self.send_again(*exchange, cx),
            Turn::Fail(status) => {
                self.blame(match status {
                    408 => Cause::ClientTimeout,
                    502 => Cause::Upstream,
                    504 => Cause::UpstreamTimeout,
                    _ => Cause::Policy,
                });
                cx.act(Action::DropUpstream);
                exchange.release(&mut self.ahead);
                let sent = exchange.is_sent();
                let Exchange {
                    admission, request, ..
                } = *exchange;
                if !sent {
                    // What is left of the body would be taken for the next request.
                    self.ahead = Vec::new();
                }
                self.fail_after(status, &request, admission.gate(), sent, cx);
            }
            Turn::Abort(ending) => {
                self.blame(match ending {
                    Ending::Reset(Side::Downstream) => Cause::Upstream,
                    _ => Cause::Client,
                });
                cx.act(Action::DropUpstream);
                self.close(None, ending, cx);
            }
        }
    }

    /// Nothing came back: on a new connection.
    fn send_again(&mut self, exchange: Exchange, cx: &mut Cx<'_>) {
        cx.counters.retries.inc();
        if let Some(visit) = &mut self.visit {
            visit.again();
        }
        cx.act(Action::DropUpstream);
        let mut dial = Dial::new(cx.now, cx.limits.connect_hold);
        let Exchange {
            admission,
            mut request,
            reused,
            ..
        } = exchange;
        request.retried |= !reused;
        if !reused {
            // On a new connection it is the upstream that has failed: another one, if there is.
            upstream_failed(&admission, cx);
            if let Some(lease) = admission.lease().filter(|lease| lease.has_others()) {
                dial.tried.add(lease.place());
            }
        }
        self.connect_again(admission, dial, request, cx);
    }

    /// Waits for the next request, or goes on with one that has been pipelined.
    fn next(&mut self, cx: &mut Cx<'_>) {
        self.growth = Growth::default();
        cx.end(self.visit.take());
        if self.ahead.is_empty() {
            if self.ahead.capacity() > IDLE_BUFFER {
                self.ahead = Vec::new();
            }
            self.state = State::Reading {
                until: cx.now + cx.limits.keep_alive,
            };
        } else {
            self.state = State::Reading {
                until: cx.now + cx.limits.head_timeout,
            };
            self.pipelined = true;
        }
    }

    fn close(&mut self, admission: Option<Admission>, ending: Ending, cx: &mut Cx<'_>) {
        if let Some(visit) = &mut self.visit
            && !visit.is_settled()
        {
            visit.blame(Cause::Client);
        }
        cx.end(self.visit.take());
        self.ahead = Vec::new();
        self.state = State::Closed {
            _admission: admission,
        };
        cx.act(Action::Close(ending));
    }
}

/// Tells the balance how an exchange went. An application's own errors (500) are no sign that
/// another upstream would have done better; those of gateways are.
fn tell_upstream(exchange: &Exchange, turn: Turn, cx: &mut Cx<'_>) {
    let admission = &exchange.admission;
    match turn {
        Turn::Complete if matches!(exchange.status, 502..=504) => upstream_failed(admission, cx),
        Turn::Complete | Turn::Switched => served(admission),
        Turn::Fail(502 | 504) | Turn::Abort(Ending::Reset(Side::Downstream)) => {
            upstream_failed(admission, cx);
        }
        Turn::On | Turn::Again | Turn::Fail(_) | Turn::Abort(_) => {}
    }
}
