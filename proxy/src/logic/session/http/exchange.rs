//! One request with its response: two bodies that move independently of each other.
//!
//! Bodies of known length and bodies that end with the connection are left to the driver as
//! pipes; chunked ones come through here to be validated. It is long because both bodies and the
//! response's heads are decided by one state, and reading it in two places would hide the order.
//!
//! | who is waited for | how long | then |
//! | --- | --- | --- |
//! | the client, for the body, until a response begins | `body_timeout` and `body_rate`; `request_timeout` for all of it | 408 |
//! | the upstream, to take the body | `response_timeout` | 504 |
//! | the upstream, for its head, once it has the request | `response_timeout` | 504 |
//! | the client, to take the response | `body_timeout` and `body_rate` | closed |
//! | either, once a response has begun | `response_idle` | reset |
//!
//! A client that expects to be told to send its body is told by the edge when the upstream does
//! not say anything for `continue_timeout` (RFC 9110, section 10.1.1).

use std::time::Instant;

use super::{
    super::{Cx, Ending, Event, Side, Want, client_ip},
    Request,
    pace::Pace,
};
use crate::logic::{
    gate::Admission,
    http::{
        Body, Framing, Method, ResponseHead, Scheme, Verdict, Version, chunked::Validator,
        growth::Growth, origin::Origin, parse_response, write_downstream_head, write_upstream_head,
    },
};

/// Bytes read at a time of a chunked body.
const CHUNKED_READ: usize = 64 << 10;
/// Bytes read at a time while a response head is awaited; a small body comes with it.
const RESPONSE_READ: usize = 64 << 10;

/// Most interim responses to one request.
const INTERIM_MAX: u8 = 32;
/// How often an upstream may hand a request back before its client is told.
const REFUSALS_MAX: u8 = 3;

/// See the module.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) admission: Admission,
    pub(super) request: Request,
    /// Whether the client's connection may serve another request.
    pub(super) keep_downstream: bool,
    /// The gate's aim when the upstream was chosen.
    aim: u64,
    /// The upstream's connection has served before.
    pub(super) reused: bool,
    /// Bytes of head and body that are still in the session's `ahead`, in case they must be sent
    /// again; all that have been sent, or none.
    retained: usize,
    /// Most bytes of the body among them.
    retain: usize,
    sending: Sending,
    receiving: Receiving,
    /// The beginning of a response head.
    partial: Vec<u8>,
    growth: Growth,
    /// Interim responses so far.
    interim: u8,
    expecting: Expecting,
    /// Bytes that the body may still have.
    room: u64,
    keep_upstream: bool,
    /// When the request must be whole.
    whole_by: Instant,
    /// When anything has moved last.
    active: Instant,
    /// The present stretch of the client's body, then of the response.
    pace: Pace,
    until: Instant,
    /// The status of the response; 0 until its head is there.
    pub(super) status: u16,
}

/// What a request comes through.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hop<'h> {
    /// On the client's side.
    pub(super) scheme: Scheme,
    /// The subject of the client's certificate, if it was asked for one.
    pub(super) subject: Option<&'h str>,
    /// Whether the upstream's connection has served before.
    pub(super) reused: bool,
    /// Most bytes of its body.
    pub(super) body_bytes_max: u64,
    /// Most bytes of its body that are kept until a response begins.
    pub(super) retain: usize,
}

/// How far the request's body is.
#[derive(Debug)]
enum Sending {
    Length(u64),
    Chunked(Validator),
    Done,
    /// The upstream takes no more of it.
    Failed,
    /// The client sent nonsense, or too much: to be answered with this status.
    Refused(u16),
}

/// Whether the client waits to be told to send its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expecting {
    No,
    /// Until then the upstream may say it.
    Until(Instant),
    /// The edge has said it; the upstream's word is not passed on.
    Told,
}

/// How far the response is.
#[derive(Debug)]
enum Receiving {
    Head,
    Length(u64),
    Chunked(Validator),
    UntilClose,
    Done,
}

/// What becomes of an exchange after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It goes on.
    On,
    /// The response is complete.
    Complete,
    /// It has become a tunnel.
    Switched,
    /// The connection was stale; the request may be sent again.
    Again,
    /// Nothing of a response was passed on: answer this.
    Fail(u16),
    /// Part of a response was passed on, or nobody is there to be answered.
    Abort(Ending),
}

impl Exchange {
    /// Sends the head, and what there is of the body.
    pub(super) fn begin(
        admission: Admission,
        request: Request,
        hop: Hop<'_>,
        ahead: &mut Vec<u8>,
        cx: &mut Cx<'_>,
    ) -> Self {
        let limits = cx.limits;
        let origin = Origin {
            client: client_ip(cx.client),
            scheme: hop.scheme,
            style: limits.policy.origins.style,
            trusted: request.trusted,
            request_id: request.id.as_ref(),
            subject: hop.subject,
        };
        let out = &mut *cx.out[Side::Upstream as usize];
        write_upstream_head(&request.head, ahead, &origin, out);
        let mut exchange = Self {
            aim: admission.gate().aim(),
            reused: hop.reused,
            retained: request.head.head_bytes,
            retain: hop.retain,
            sending: match request.head.body {
                Body::None => Sending::Done,
                Body::Length(length) => Sending::Length(length),
                Body::Chunked => Sending::Chunked(Validator::new()),
            },
            receiving: Receiving::Head,
            partial: Vec::new(),
            growth: Growth::default(),
            interim: 0,
            expecting: match request.head.expect_continue && request_has_body(&request) {
                true => Expecting::Until(cx.now + limits.continue_timeout),
                false => Expecting::No,
            },
            room: hop.body_bytes_max,
            keep_upstream: true,
            keep_downstream: request.head.keep_alive,
            whole_by: cx.now + limits.request_timeout,
            active: cx.now,
            pace: Pace::new(cx.now, 0),
            until: cx.now,
            status: 0,
            admission,
            request,
        };
        exchange.await_more(cx);
        if request_has_body(&exchange.request) {
            if exchange.retain == 0 {
                exchange.release(ahead);
            }
            let body = ahead.split_off(exchange.retained);
            if let Err(turn) = exchange.body(&body, ahead, cx) {
                // Answered at the next event; the upstream has seen a truncated body at most.
                exchange.sending = Sending::Refused(match turn {
                    Turn::Fail(status) => status,
                    _ => 400,
                });
                exchange.until = cx.now;
            }
        }
        exchange
    }

    pub(super) fn handle(
        &mut self,
        event: Event<'_>,
        ahead: &mut Vec<u8>,
        draining: bool,
        cx: &mut Cx<'_>,
    ) -> Turn {
        match event {
            Event::Bytes(Side::Upstream, bytes) => {
                self.active = cx.now;
                self.release(ahead);
                self.keep_downstream &= !draining;
                self.response(bytes, cx)
            }
            Event::Bytes(Side::Downstream, bytes) => {
                self.active = cx.now;
                match self.body(bytes, ahead, cx) {
                    Ok(()) => Turn::On,
                    Err(turn) => turn,
                }
            }
            Event::Piped { from, bytes } => {
                self.active = cx.now;
                self.piped(from, bytes, cx)
            }
            Event::Eof(Side::Upstream) => match self.receiving {
                Receiving::UntilClose => {
                    self.keep_upstream = false;
                    self.keep_downstream = false;
                    self.receiving = Receiving::Done;
                    Turn::Complete
                }
                _ => self.upstream_lost(cx),
            },
            Event::Broken(Side::Upstream) => self.upstream_lost(cx),
            Event::Unprocessed => self.unprocessed(cx),
            Event::Unwritable(Side::Upstream) => {
                // It may have answered before it closed: read on.
                self.keep_upstream = false;
                if !matches!(self.sending, Sending::Done) {
                    self.sending = Sending::Failed;
                    self.keep_downstream = false;
                    self.await_more(cx);
                }
                Turn::On
            }
            Event::Eof(Side::Downstream)
            | Event::Broken(Side::Downstream)
            | Event::Unwritable(Side::Downstream) => Turn::Abort(Ending::Clean),
            Event::Timer if cx.now >= self.until => self.timed_out(cx),
            _ => Turn::On,
        }
    }

    pub(super) fn wants(&self, side: Side) -> Want {
        match side {
            Side::Downstream => match self.sending {
                // What may have to be sent again has to be seen.
                Sending::Length(_) if self.retains() => Want::Bytes(CHUNKED_READ),
                Sending::Length(left) => Want::Pipe(Some(left)),
                Sending::Chunked(_) => Want::Bytes(CHUNKED_READ),
                Sending::Done | Sending::Failed | Sending::Refused(_) => Want::Nothing,
            },
            Side::Upstream => match self.receiving {
                Receiving::Head => Want::Bytes(RESPONSE_READ),
                Receiving::Length(left) => Want::Pipe(Some(left)),
                Receiving::Chunked(_) => Want::Bytes(CHUNKED_READ),
                Receiving::UntilClose => Want::Pipe(None),
                Receiving::Done => Want::Nothing,
            },
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.until
    }

    /// Whether the whole request has been passed on.
    pub(super) fn is_sent(&self) -> bool {
        matches!(self.sending, Sending::Done)
    }

    /// Whether the upstream's connection is as good as new and still leads where the route does.
    pub(super) fn may_keep_upstream(&self) -> bool {
        self.keep_upstream && self.is_sent() && self.admission.gate().aim() == self.aim
    }

    /// Takes the request's head out of `ahead`: it will not be sent again.
    pub(super) fn release(&mut self, ahead: &mut Vec<u8>) {
        if self.retained == ahead.len() {
            ahead.clear();
        } else {
            ahead.drain(..self.retained);
        }
        self.retained = 0;
    }

    /// Whether bytes of the body are kept to be sent again.
    fn retains(&self) -> bool {
        self.retained > 0
    }

    /// Keeps bytes of the body, or gives up what is kept when it becomes too much.
    fn keep(&mut self, body: &[u8], ahead: &mut Vec<u8>) {
        if self.retained == 0 || body.is_empty() {
            return;
        }
        let kept = self.retained - self.request.head.head_bytes + body.len();
        match kept <= self.retain {
            true => {
                ahead.extend_from_slice(body);
                self.retained += body.len();
            }
            false => self.release(ahead),
        }
    }

    /// Passes on bytes of the request's body; what comes after it goes to `ahead`.
    fn body(&mut self, bytes: &[u8], ahead: &mut Vec<u8>, cx: &mut Cx<'_>) -> Result<(), Turn> {
        let (taken, done) = match &mut self.sending {
            Sending::Length(left) => {
                let taken = usize::try_from(*left).map_or(bytes.len(), |n| n.min(bytes.len()));
                *left -= taken as u64;
                (taken, *left == 0)
            }
            Sending::Chunked(validator) => match validator.advance(bytes) {
                Ok(progress) => (progress.consumed, progress.finished),
                Err(_) => {
                    cx.counters.malformed.inc();
                    return Err(match self.receiving {
                        Receiving::Head => Turn::Fail(400),
                        _ => Turn::Abort(Ending::Clean),
                    });
                }
            },
            Sending::Done | Sending::Failed | Sending::Refused(_) => (0, false),
        };
        match self.room.checked_sub(taken as u64) {
            Some(room) => self.room = room,
            None => {
                return Err(match self.receiving {
                    Receiving::Head => Turn::Fail(413),
                    _ => Turn::Abort(Ending::Linger),
                });
            }
        }
        cx.write(Side::Upstream, &bytes[..taken]);
        self.keep(&bytes[..taken], ahead);
        ahead.extend_from_slice(&bytes[taken..]);
        self.client_sent(taken as u64, done, cx);
        Ok(())
    }

    /// The client has sent so much of its body.
    fn client_sent(&mut self, bytes: u64, done: bool, cx: &Cx<'_>) {
        if bytes > 0 && matches!(self.expecting, Expecting::Until(_)) {
            // It did not wait.
            self.expecting = Expecting::No;
        }
        if matches!(self.receiving, Receiving::Head) {
            self.pace.add(bytes);
        }
        if done {
            self.sending = Sending::Done;
            self.await_more(cx);
        }
    }

    fn piped(&mut self, from: Side, bytes: u64, cx: &Cx<'_>) -> Turn {
        match (from, &mut self.sending, &mut self.receiving) {
            (Side::Downstream, Sending::Length(left), _) => {
                *left = left.saturating_sub(bytes);
                let done = *left == 0;
                self.client_sent(bytes, done, cx);
                Turn::On
            }
            (Side::Upstream, _, Receiving::Length(left)) => {
                *left = left.saturating_sub(bytes);
                self.pace.add(bytes);
                match *left {
                    0 => self.complete(0),
                    _ => Turn::On,
                }
            }
            (Side::Upstream, _, Receiving::UntilClose) => {
                self.pace.add(bytes);
                Turn::On
            }
            _ => Turn::On,
        }
    }

    /// Bytes of the response: heads first.
    fn response(&mut self, bytes: &[u8], cx: &mut Cx<'_>) -> Turn {
        if !matches!(self.receiving, Receiving::Head) {
            return self.response_body(bytes, cx);
        }
        if self.partial.is_empty() {
            return self.heads(bytes, cx);
        }
        let mut whole = std::mem::take(&mut self.partial);
        whole.extend_from_slice(bytes);
        if !self.growth.is_worth_parsing(&whole, cx.limits.head_bytes) {
            self.partial = whole;
            return Turn::On;
        }
        self.heads(&whole, cx)
    }

    /// Any number of interim responses, then the one that counts.
    fn heads(&mut self, mut bytes: &[u8], cx: &mut Cx<'_>) -> Turn {
        let limits = cx.limits.head();
        let asked = self.request.head.asked();
        loop {
            if bytes.is_empty() {
                return Turn::On;
            }
            let head = match parse_response(bytes, &asked, &limits) {
                Verdict::NeedMore => {
                    self.partial = bytes.to_vec();
                    self.growth = Growth::default();
                    self.growth.is_worth_parsing(bytes, limits.head_bytes);
                    return Turn::On;
                }
                Verdict::Reject(_) => {
                    cx.counters.upstream_errors.inc();
                    return Turn::Fail(502);
                }
                Verdict::Head(head) => head,
            };
            let (head_bytes, rest) = bytes.split_at(head.head_bytes);
            let out = &mut *cx.out[Side::Downstream as usize];
            if head.is_interim {
                self.interim += 1;
                if self.interim > INTERIM_MAX {
                    cx.counters.upstream_errors.inc();
                    return Turn::Fail(502);
                }
                let told = head.status == 100 && self.expecting == Expecting::Told;
                if asked.version == Version::Http11 && !told {
                    write_downstream_head(&head, head_bytes, &asked, true, out);
                }
                if head.status == 100 {
                    self.expecting = Expecting::Told;
                }
                bytes = rest;
                continue;
            }
            // RFC 9110, section 7.8: not before the request is whole; what is left of its body
            // would be taken for the new protocol.
            if head.switching && !self.is_sent() {
                cx.counters.upstream_errors.inc();
                return Turn::Fail(502);
            }
            self.admission.gate().stats.answered(head.status);
            self.status = head.status;
            if head.switching {
                write_downstream_head(&head, head_bytes, &asked, true, out);
                cx.write(Side::Downstream, rest);
                return Turn::Switched;
            }
            self.keep_upstream &= head.keep_alive;
            self.keep_downstream &= self.is_sent() && head.framing != Framing::UntilClose;
            // What a client has sent ahead of a tunnel that it does not get is no request.
            self.keep_downstream &= asked.method != Method::Connect;
            write_downstream_head(&head, head_bytes, &asked, self.keep_downstream, out);
            return self.final_head(&head, rest, cx);
        }
    }

    fn final_head(&mut self, head: &ResponseHead, rest: &[u8], cx: &mut Cx<'_>) -> Turn {
        self.receiving = match head.framing {
            Framing::None => return self.complete(rest.len()),
            Framing::Length(length) => Receiving::Length(length),
            Framing::Chunked => Receiving::Chunked(Validator::new()),
            Framing::UntilClose => Receiving::UntilClose,
        };
        self.pace = Pace::new(cx.now, cx.pending[Side::Downstream as usize]);
        self.await_more(cx);
        match rest.is_empty() {
            true => Turn::On,
            false => self.response_body(rest, cx),
        }
    }

    fn response_body(&mut self, bytes: &[u8], cx: &mut Cx<'_>) -> Turn {
        let (taken, done) = match &mut self.receiving {
            Receiving::Length(left) => {
                let taken = usize::try_from(*left).map_or(bytes.len(), |n| n.min(bytes.len()));
                *left -= taken as u64;
                (taken, *left == 0)
            }
            Receiving::Chunked(validator) => match validator.advance(bytes) {
                Ok(progress) => (progress.consumed, progress.finished),
                Err(_) => {
                    cx.counters.upstream_errors.inc();
                    return Turn::Abort(Ending::Reset(Side::Downstream));
                }
            },
            Receiving::UntilClose => (bytes.len(), false),
            Receiving::Head | Receiving::Done => (0, false),
        };
        cx.write(Side::Downstream, &bytes[..taken]);
        self.pace.add(taken as u64);
        match done {
            true => self.complete(bytes.len() - taken),
            false => Turn::On,
        }
    }

    /// The response is whole; `surplus` bytes came after it, which nobody asked for.
    fn complete(&mut self, surplus: usize) -> Turn {
        self.keep_upstream &= surplus == 0;
        self.receiving = Receiving::Done;
        Turn::Complete
    }

    fn upstream_lost(&mut self, cx: &mut Cx<'_>) -> Turn {
        let method = self.request.head.method;
        let untouched = matches!(self.receiving, Receiving::Head)
            && self.partial.is_empty()
            && self.interim == 0;
        // A connection that had served before was closed for its age, as like as not; on a new
        // one the upstream broke off, and may have begun.
        let harmless = match self.reused {
            true => method.is_idempotent(),
            false => method.is_safe() && !self.request.retried,
        };
        let again = self.retained > 0 && self.is_sent() && harmless;
        if untouched && again {
            return Turn::Again;
        }
        cx.counters.upstream_errors.inc();
        match self.receiving {
            Receiving::Head => Turn::Fail(502),
            _ => Turn::Abort(Ending::Reset(Side::Downstream)),
        }
    }

    /// The upstream has not begun with the request (RFC 9113, section 8.7), so it may go
    /// elsewhere whatever its method, if all that was sent of it is still here.
    fn unprocessed(&mut self, cx: &mut Cx<'_>) -> Turn {
        if self.retained == 0 || self.request.refusals >= REFUSALS_MAX {
            return self.upstream_lost(cx);
        }
        self.request.refusals += 1;
        Turn::Again
    }

    fn timed_out(&mut self, cx: &mut Cx<'_>) -> Turn {
        match (&self.receiving, &self.sending) {
            (Receiving::Head, Sending::Refused(status)) => Turn::Fail(*status),
            (Receiving::Head, Sending::Done | Sending::Failed) => self.head_overdue(cx),
            (Receiving::Head, _) => self.body_overdue(cx),
            _ => self.response_overdue(cx),
        }
    }

    fn head_overdue(&mut self, cx: &mut Cx<'_>) -> Turn {
        if cx.now < self.active + cx.limits.response_timeout {
            self.await_more(cx);
            return Turn::On;
        }
        cx.counters.upstream_errors.inc();
        Turn::Fail(504)
    }

    /// The client has not sent all of its body.
    fn body_overdue(&mut self, cx: &mut Cx<'_>) -> Turn {
        let limits = cx.limits;
        if let Expecting::Until(until) = self.expecting
            && cx.now >= until
        {
            cx.write(Side::Downstream, b"HTTP/1.1 100 Continue\r\n\r\n");
            self.expecting = Expecting::Told;
            self.pace = Pace::new(cx.now, 0);
        }
        if cx.now >= self.whole_by {
            return Turn::Fail(408);
        }
        let waiting = cx.pending[Side::Upstream as usize];
        if waiting > 0 {
            // It is the upstream that takes none of it.
            if cx.now >= self.active + limits.response_timeout {
                cx.counters.upstream_errors.inc();
                return Turn::Fail(504);
            }
            self.pace = Pace::new(cx.now, 0);
        } else if cx.now >= self.pace.ends(limits.body_timeout) {
            if self.pace.sent_too_little(cx.now, limits.body_rate) {
                return Turn::Fail(408);
            }
            self.pace = Pace::new(cx.now, 0);
        }
        self.await_more(cx);
        Turn::On
    }

    fn response_overdue(&mut self, cx: &mut Cx<'_>) -> Turn {
        let limits = cx.limits;
        let waiting = cx.pending[Side::Downstream as usize];
        if cx.now >= self.pace.ends(limits.body_timeout) {
            if self.pace.took_too_little(cx.now, waiting, limits.body_rate) {
                return Turn::Abort(Ending::Clean);
            }
            self.pace = Pace::new(cx.now, waiting);
        }
        if cx.now >= self.active + limits.response_idle {
            return Turn::Abort(Ending::Reset(Side::Downstream));
        }
        self.await_more(cx);
        Turn::On
    }

    /// Sets when to look again, by who is waited for.
    fn await_more(&mut self, cx: &Cx<'_>) {
        let limits = cx.limits;
        self.until = match (&self.receiving, &self.sending) {
            (Receiving::Head, Sending::Refused(_)) => cx.now,
            (Receiving::Head, Sending::Done | Sending::Failed) => {
                self.active + limits.response_timeout
            }
            (Receiving::Head, _) => {
                let until = self.pace.ends(limits.body_timeout).min(self.whole_by);
                match self.expecting {
                    Expecting::Until(told) => until.min(told),
                    Expecting::No | Expecting::Told => until,
                }
            }
            _ => {
                let idle = self.active + limits.response_idle;
                self.pace.ends(limits.body_timeout).min(idle)
            }
        };
    }
}

fn request_has_body(request: &Request) -> bool {
    request.head.body != Body::None
}
