//! One request with its response: two bodies that move independently of each other.
//!
//! Bodies of known length and bodies that end with the connection are left to the driver as
//! pipes; chunked ones come through here to be validated.

use std::time::Instant;

use super::{
    super::{Cx, Ending, Event, Side, Want, client_ip},
    Request,
};
use crate::logic::{
    gate::Admission,
    http::{
        Body, Framing, HeadLimits, ResponseHead, Scheme, Verdict, Version, chunked::Validator,
        parse_response, request::Forwarded, write_downstream_head, write_upstream_head,
    },
};

/// Bytes read at a time of a chunked body.
const CHUNKED_READ: usize = 64 << 10;
/// Bytes read at a time while a response head is awaited; a small body comes with it.
const RESPONSE_READ: usize = 64 << 10;

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
    reused: bool,
    /// Bytes of the head that are still in the session's `ahead`, in case it must be sent again.
    retained: usize,
    sending: Sending,
    receiving: Receiving,
    /// The beginning of a response head.
    partial: Vec<u8>,
    keep_upstream: bool,
    until: Instant,
    /// The status of the response; 0 until its head is there.
    pub(super) status: u16,
}

/// How far the request's body is.
#[derive(Debug)]
enum Sending {
    Length(u64),
    Chunked(Validator),
    Done,
    /// The upstream takes no more of it.
    Failed,
    /// The client sent nonsense.
    Malformed,
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
        scheme: Scheme,
        reused: bool,
        ahead: &mut Vec<u8>,
        cx: &mut Cx<'_>,
    ) -> Self {
        let forwarded = Forwarded {
            client: client_ip(cx.client),
            scheme,
        };
        let out = &mut *cx.out[Side::Upstream as usize];
        write_upstream_head(&request.head, ahead, &forwarded, out);
        let mut exchange = Self {
            aim: admission.gate().aim(),
            reused,
            retained: request.head.head_bytes,
            sending: match request.head.body {
                Body::None => Sending::Done,
                Body::Length(length) => Sending::Length(length),
                Body::Chunked => Sending::Chunked(Validator::new()),
            },
            receiving: Receiving::Head,
            partial: Vec::new(),
            keep_upstream: true,
            keep_downstream: request.head.keep_alive,
            until: cx.now,
            status: 0,
            admission,
            request,
        };
        exchange.touch(cx);
        if request_has_body(&exchange.request) {
            exchange.release(ahead);
            let body = std::mem::take(ahead);
            if exchange.body(&body, ahead, cx).is_err() {
                // Answered at the next event; the upstream has seen a truncated body at most.
                exchange.sending = Sending::Malformed;
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
                self.touch(cx);
                self.release(ahead);
                self.keep_downstream &= !draining;
                self.response(bytes, cx)
            }
            Event::Bytes(Side::Downstream, bytes) => {
                self.touch(cx);
                match self.body(bytes, ahead, cx) {
                    Ok(()) => Turn::On,
                    Err(turn) => turn,
                }
            }
            Event::Piped { from, bytes } => {
                let turn = self.piped(from, bytes);
                self.touch(cx);
                turn
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
            Event::Unwritable(Side::Upstream) => {
                // It may have answered before it closed: read on.
                self.keep_upstream = false;
                if !matches!(self.sending, Sending::Done) {
                    self.sending = Sending::Failed;
                    self.keep_downstream = false;
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
                Sending::Length(left) => Want::Pipe(Some(left)),
                Sending::Chunked(_) => Want::Bytes(CHUNKED_READ),
                Sending::Done | Sending::Failed | Sending::Malformed => Want::Nothing,
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
            Sending::Done | Sending::Failed | Sending::Malformed => (0, false),
        };
        cx.write(Side::Upstream, &bytes[..taken]);
        ahead.extend_from_slice(&bytes[taken..]);
        if done {
            self.sending = Sending::Done;
        }
        Ok(())
    }

    fn piped(&mut self, from: Side, bytes: u64) -> Turn {
        match (from, &mut self.sending, &mut self.receiving) {
            (Side::Downstream, Sending::Length(left), _) => {
                *left = left.saturating_sub(bytes);
                if *left == 0 {
                    self.sending = Sending::Done;
                }
                Turn::On
            }
            (Side::Upstream, _, Receiving::Length(left)) => {
                *left = left.saturating_sub(bytes);
                match *left {
                    0 => self.complete(0),
                    _ => Turn::On,
                }
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
        self.heads(&whole, cx)
    }

    /// Any number of interim responses, then the one that counts.
    fn heads(&mut self, mut bytes: &[u8], cx: &mut Cx<'_>) -> Turn {
        let limits = HeadLimits {
            head_bytes: cx.limits.head_bytes,
            headers: cx.limits.headers,
            ..HeadLimits::default()
        };
        let asked = self.request.head.asked();
        loop {
            if bytes.is_empty() {
                return Turn::On;
            }
            let head = match parse_response(bytes, &asked, &limits) {
                Verdict::NeedMore => {
                    self.partial = bytes.to_vec();
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
                if asked.version == Version::Http11 {
                    write_downstream_head(&head, head_bytes, &asked, true, out);
                }
                bytes = rest;
                continue;
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
        let untouched = matches!(self.receiving, Receiving::Head) && self.partial.is_empty();
        let again = self.reused
            && self.retained > 0
            && self.is_sent()
            && self.request.head.method.is_idempotent();
        if untouched && again {
            return Turn::Again;
        }
        cx.counters.upstream_errors.inc();
        match self.receiving {
            Receiving::Head => Turn::Fail(502),
            _ => Turn::Abort(Ending::Reset(Side::Downstream)),
        }
    }

    fn timed_out(&mut self, cx: &mut Cx<'_>) -> Turn {
        match (&self.receiving, &self.sending) {
            (Receiving::Head, Sending::Done | Sending::Failed) => {
                cx.counters.upstream_errors.inc();
                Turn::Fail(504)
            }
            (Receiving::Head, Sending::Malformed) => Turn::Fail(400),
            (Receiving::Head, _) => Turn::Fail(408),
            _ => Turn::Abort(Ending::Reset(Side::Downstream)),
        }
    }

    fn touch(&mut self, cx: &Cx<'_>) {
        let patience = match (&self.receiving, &self.sending) {
            (Receiving::Head, Sending::Done | Sending::Failed) => cx.limits.response_timeout,
            _ => cx.limits.body_timeout,
        };
        self.until = cx.now + patience;
    }
}

fn request_has_body(request: &Request) -> bool {
    request.head.body != Body::None
}
