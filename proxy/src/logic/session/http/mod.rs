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
//! read to the end. A request is sent again only if its body is empty, its method idempotent,
//! and nothing came back on a connection that had served before. What an early response leaves
//! unread of a request closes the client's connection, and so does every doubt about framing.
//!
//! Answers of the edge: 404 no route; 503 parked too long or too many, or upstreams that refuse
//! for longer than the connect hold; 504 upstreams that do not answer; 502 upstreams that answer
//! nonsense or hang up; 408 clients that do not finish a head or body; and what
//! [`crate::logic::http`] rejects. A client that ends its stream while it is parked has left.

mod exchange;

use std::{sync::Arc, time::Instant};

use self::exchange::{Exchange, Turn};
use super::{
    Action, Admit, ConnectFailure, Cx, Ending, Event, Key, Reuse, Side, Want, Way, admit, claim,
    crowd::Ticket,
    dial::{Dial, Next},
    failed, resolve, served,
    tunnel::{Course, Tunnel, tunnel_over},
    upstream_failed,
};
use crate::logic::{
    access::{Cause, Phase, Protocol, Visit, Words},
    gate::{Admission, Gate, Place},
    http::{
        HeadLimits, Method, RejectReason, RequestHead, Scheme, Verdict, parse_request,
        path::{self, Doubt},
        reply::{Reply, write_reply},
    },
};

/// The client is told to come again after this long, in s.
const RETRY_AFTER_S: u32 = 1;
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
    /// Where the request at hand leads.
    key: Key,
    /// What the client sent and is not dealt with: a head, the beginning of a body, what it
    /// has pipelined.
    ahead: Vec<u8>,
    state: State,
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
            key: Key::Tcp(0),
            ahead: Vec::new(),
            state: State::Reading { until },
            draining: false,
            visit: None,
            fresh: true,
        }
    }

    /// See [`super::Session::handle`].
    pub fn handle(&mut self, event: Event<'_>, cx: &mut Cx<'_>) {
        if let Event::Drain = event {
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

    /// See [`super::Session::ticket`].
    #[must_use]
    pub fn ticket(&self) -> Option<Ticket> {
        match &self.state {
            State::Connecting { dial, .. } => dial.again_at.and(dial.ticket),
            _ => None,
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
                self.refuse(408, false, cx);
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
        let limits = HeadLimits {
            head_bytes: cx.limits.head_bytes,
            headers: cx.limits.headers,
            ..HeadLimits::default()
        };
        match parse_request(&self.ahead, self.scheme, &limits) {
            Verdict::NeedMore => {}
            Verdict::Reject(reason) => self.reject(reason, None, cx),
            Verdict::Head(head) => {
                self.fresh = false;
                if let Err(reason) = self.aim(&head, cx) {
                    return self.reject(reason, Some(&head), cx);
                }
                let request = Request {
                    head: Box::new(head),
                    arrived: cx.now,
                };
                self.arrived(Some(&request.head), cx);
                if let Some(found) = self.key.find(cx.tables.current()) {
                    found.gate.stats.requests.inc();
                    if let Some(visit) = &mut self.visit {
                        visit.routed(found.key, found.gate);
                    }
                }
                self.admit(request, cx);
            }
        }
    }

    /// A head has come to its end, or will not.
    fn arrived(&mut self, head: Option<&RequestHead>, cx: &mut Cx<'_>) {
        let State::Reading { until } = self.state else {
            return;
        };
        let began = until.checked_sub(cx.limits.head_timeout);
        let mut visit = cx.visit(Protocol::Http1, began.unwrap_or(cx.now));
        let words = cx.access.wanted.then(|| match head {
            Some(head) => {
                let bytes = &self.ahead[..head.head_bytes];
                Words::of_head(bytes, head.path(bytes), head.host.as_str())
            }
            None => Words::default(),
        });
        visit.headed(cx.now, words);
        self.visit = Some(visit);
    }

    fn blame(&mut self, cause: Cause) {
        if let Some(visit) = &mut self.visit {
            visit.blame(cause);
        }
    }

    /// Sets the key by which a request is routed.
    fn aim(&mut self, head: &RequestHead, cx: &mut Cx<'_>) -> Result<(), RejectReason> {
        if !matches!(self.key, Key::Request { .. }) {
            self.key = Key::Request {
                scheme: self.scheme,
                host: String::new(),
                path: String::new(),
            };
        }
        let Key::Request { scheme, host, path } = &mut self.key else {
            return Ok(());
        };
        host.clear();
        host.push_str(head.host.as_str());
        let target = head.path(&self.ahead);
        path::normalise(target, path);
        let table = cx.tables.current();
        let decides = match scheme {
            Scheme::Http => table.has_paths_http(host),
            Scheme::Https => table.has_paths_https(host),
        };
        if !decides {
            return Ok(());
        }
        let lookup = |path: &str| match scheme {
            Scheme::Http => table.lookup_http(host, path),
            Scheme::Https => table.lookup_https(host, path),
        };
        match path::doubt(target) {
            Doubt::None => Ok(()),
            Doubt::Other(other) => {
                let gate = |path: &str| lookup(path).map(|entry| Arc::as_ptr(&entry.gate));
                match gate(path) == gate(&other) {
                    true => Ok(()),
                    false => Err(RejectReason::Path),
                }
            }
            Doubt::Hopeless => Err(RejectReason::Path),
        }
    }

    fn reject(&mut self, reason: RejectReason, head: Option<&RequestHead>, cx: &mut Cx<'_>) {
        cx.counters.malformed.inc();
        self.arrived(head, cx);
        self.blame(Cause::Policy);
        self.refuse(reason.status(), false, cx);
    }

    fn admit(&mut self, request: Request, cx: &mut Cx<'_>) {
        let verdict = admit(&self.key, self.ahead.len(), cx);
        self.admitted(verdict, request, cx);
    }

    fn admitted(&mut self, verdict: Admit, request: Request, cx: &mut Cx<'_>) {
        match verdict {
            Admit::Parked(place) => {
                if let Some(visit) = &mut self.visit {
                    visit.parked(cx.now);
                }
                self.state = State::Parked { place, request };
            }
            Admit::Go(way) => {
                let dial = Dial::new(cx.now, cx.limits.connect_hold);
                // A connection that its server is just closing costs an idempotent request a
                // second try; for the others it pays to look first.
                let reuse = match request.head.method.is_idempotent() {
                    true => Reuse::Any,
                    false => Reuse::Checked,
                };
                self.connect(way, dial, request, reuse, cx);
            }
            Admit::Refused => {
                cx.counters.refused.inc();
                self.blame(Cause::Gate);
                if let Some(found) = self.key.find(cx.tables.current()) {
                    found.gate.stats.failed.inc();
                    found.gate.stats.answered(503);
                }
                self.answer(503, &request, true, cx);
            }
            Admit::NoRoute => {
                cx.counters.no_route.inc();
                self.blame(Cause::Policy);
                self.answer(404, &request, true, cx);
            }
        }
    }

    fn connect(&mut self, way: Way, dial: Dial, request: Request, reuse: Reuse, cx: &mut Cx<'_>) {
        let Some(to) = way.to else {
            let failure = ConnectFailure::Refused;
            return self.connect_failed(way.admission, dial, request, failure, cx);
        };
        if let Some(visit) = &mut self.visit {
            visit.connecting(cx.now, to);
        }
        cx.act(Action::Connect {
            to,
            reuse,
            within: cx.limits.connect_timeout,
        });
        self.state = State::Connecting {
            admission: way.admission,
            dial,
            request,
        };
    }

    fn connected(&mut self, admission: Admission, request: Request, reused: bool, cx: &mut Cx<'_>) {
        if !reused {
            cx.crowds.connected(admission.gate());
        }
        let exchange =
            Exchange::begin(admission, request, self.scheme, reused, &mut self.ahead, cx);
        if let Some(visit) = &mut self.visit {
            visit.connected(cx.now, Phase::Response);
        }
        self.state = State::Exchange(Box::new(exchange));
    }

    fn connecting(
        &mut self,
        admission: Admission,
        mut dial: Dial,
        request: Request,
        event: Event<'_>,
        cx: &mut Cx<'_>,
    ) {
        match event {
            Event::ConnectFailed(failure) => {
                return self.connect_failed(admission, dial, request, failure, cx);
            }
            Event::Wake(ticket) if dial.ticket == Some(ticket) => {
                dial.woken();
                return self.connect_again(admission, dial, request, cx);
            }
            Event::Timer if dial.may_try(admission.gate(), cx) => {
                return self.connect_again(admission, dial, request, cx);
            }
            // Nothing has been sent, so it can wait at the gate as well.
            Event::Quiesce(gate) if Arc::ptr_eq(gate, admission.gate()) => {
                cx.act(Action::DropUpstream);
                drop(admission);
                return self.admit(request, cx);
            }
            Event::Broken(Side::Downstream) | Event::Unwritable(Side::Downstream) => {
                cx.act(Action::DropUpstream);
                drop(admission);
                self.blame(Cause::Client);
                return self.close(None, Ending::Clean, cx);
            }
            _ => {}
        }
        self.state = State::Connecting {
            admission,
            dial,
            request,
        };
    }

    fn connect_failed(
        &mut self,
        admission: Admission,
        mut dial: Dial,
        request: Request,
        failure: ConnectFailure,
        cx: &mut Cx<'_>,
    ) {
        match failed(&self.key, &admission, &mut dial, failure, cx) {
            Next::Now => self.connect_again(admission, dial, request, cx),
            Next::Wait => {
                dial.wait_with_others(admission.gate(), failure, cx);
                self.state = State::Connecting {
                    admission,
                    dial,
                    request,
                };
            }
            Next::GiveUp => {
                cx.counters.upstream_errors.inc();
                self.blame(failure.cause());
                let status = match failure {
                    ConnectFailure::TimedOut => 504,
                    ConnectFailure::Refused | ConnectFailure::NoResources => 503,
                };
                self.fail(status, &request, admission.gate(), true, cx);
            }
        }
    }

    /// Nothing was sent yet, so the gate is asked again: it may have been closed meanwhile.
    fn connect_again(
        &mut self,
        admission: Admission,
        dial: Dial,
        request: Request,
        cx: &mut Cx<'_>,
    ) {
        if admission.gate().is_closed() {
            drop(admission);
            return self.admit(request, cx);
        }
        match resolve(&self.key, admission, dial.tried, cx) {
            Some(way) => self.connect(way, dial, request, Reuse::Never, cx),
            None => self.admit(request, cx),
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
            Turn::Again => {
                cx.counters.retries.inc();
                if let Some(visit) = &mut self.visit {
                    visit.again();
                }
                cx.act(Action::DropUpstream);
                let dial = Dial::new(cx.now, cx.limits.connect_hold);
                let Exchange {
                    admission, request, ..
                } = *exchange;
                self.connect_again(admission, dial, request, cx);
            }
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

    /// Answers a request whose head is still in `ahead`, and counts it as failed.
    fn fail(
        &mut self,
        status: u16,
        request: &Request,
        gate: &Gate,
        in_ahead: bool,
        cx: &mut Cx<'_>,
    ) {
        gate.stats.failed.inc();
        gate.stats.answered(status);
        self.answer(status, request, in_ahead, cx);
    }

    /// The same after the request has been taken out of `ahead`.
    fn fail_after(
        &mut self,
        status: u16,
        request: &Request,
        gate: &Gate,
        sent: bool,
        cx: &mut Cx<'_>,
    ) {
        gate.stats.failed.inc();
        gate.stats.answered(status);
        if sent && request.head.keep_alive && !self.draining {
            self.reply(status, Some(request.head.method), false, cx);
            self.next(cx);
        } else {
            self.reply(status, Some(request.head.method), true, cx);
            self.close(None, Ending::Linger, cx);
        }
    }

    /// Answers in place of the upstream; the connection goes on if nothing is in doubt.
    fn answer(&mut self, status: u16, request: &Request, in_ahead: bool, cx: &mut Cx<'_>) {
        use crate::logic::http::Body;
        let whole = request.head.body == Body::None;
        if !(whole && request.head.keep_alive && !self.draining) {
            self.reply(status, Some(request.head.method), true, cx);
            return self.close(None, Ending::Linger, cx);
        }
        if in_ahead {
            self.ahead.drain(..request.head.head_bytes);
        }
        self.reply(status, Some(request.head.method), false, cx);
        self.next(cx);
    }

    /// Answers something that is no request, and closes.
    fn refuse(&mut self, status: u16, head_only: bool, cx: &mut Cx<'_>) {
        let method = head_only.then_some(Method::Head);
        self.reply(status, method, true, cx);
        self.close(None, Ending::Linger, cx);
    }

    fn reply(&mut self, status: u16, method: Option<Method>, close: bool, cx: &mut Cx<'_>) {
        let reply = Reply {
            status,
            message: message(status),
            retry_after_s: (status == 503).then_some(RETRY_AFTER_S),
            close,
            head_only: method == Some(Method::Head),
        };
        if let Some(visit) = &mut self.visit {
            visit.answered(status);
        }
        write_reply(&reply, cx.out[Side::Downstream as usize]);
    }

    /// Waits for the next request, or goes on with one that has been pipelined.
    fn next(&mut self, cx: &mut Cx<'_>) {
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
            self.parse(cx);
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

/// What a person sees who meets one of our answers.
fn message(status: u16) -> &'static str {
    match status {
        400 => "the request is malformed",
        404 => "no route leads from this host",
        408 => "the request did not arrive in time",
        413 => "the body is too long",
        414 => "the request target is too long",
        417 => "the expectation cannot be met",
        421 => "this host is not served on this connection",
        431 => "the request head is too long",
        501 => "this is not implemented",
        502 => "the service gave no valid answer",
        503 => "the service is not available now",
        504 => "the service did not answer in time",
        505 => "this HTTP version is not served",
        _ => "the request failed",
    }
}
