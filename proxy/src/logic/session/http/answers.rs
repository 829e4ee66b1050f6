//! The edge's own answers: what a client is told in place of the upstream's response, and what
//! becomes of its connection then.

use super::{
    super::{Cx, Ending, Side},
    Request, Session,
};
use crate::logic::{
    access::Cause,
    gate::Gate,
    http::{
        Body, Method, RejectReason, RequestHead,
        accept::Accept,
        pages::About,
        reply::{Reply, write_reply},
    },
};

/// The client is told to come again after this long, in s.
const RETRY_AFTER_S: u32 = 1;

impl Session {
    /// Refuses what is malformed, or not allowed.
    pub(super) fn reject(
        &mut self,
        reason: RejectReason,
        head: Option<&RequestHead>,
        cx: &mut Cx<'_>,
    ) {
        cx.counters.malformed.inc();
        self.arrived(head, cx);
        self.blame(Cause::Policy);
        self.refuse(reason.status(), cx);
    }

    /// Answers a request whose head is still in `ahead`, and counts it as failed.
    pub(super) fn fail(
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
    pub(super) fn fail_after(
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
            self.reply(status, Some(request), false, cx);
            self.next(cx);
        } else {
            self.reply(status, Some(request), true, cx);
            self.close(None, Ending::Linger, cx);
        }
    }

    /// Answers in place of the upstream; the connection goes on if nothing is in doubt.
    pub(super) fn answer(
        &mut self,
        status: u16,
        request: &Request,
        in_ahead: bool,
        cx: &mut Cx<'_>,
    ) {
        let whole = request.head.body == Body::None;
        if !(whole && request.head.keep_alive && !self.draining) {
            self.reply(status, Some(request), true, cx);
            return self.close(None, Ending::Linger, cx);
        }
        if in_ahead {
            self.ahead.drain(..request.head.head_bytes);
        }
        self.reply(status, Some(request), false, cx);
        self.next(cx);
    }

    /// Answers something that is no request, and closes.
    pub(super) fn refuse(&mut self, status: u16, cx: &mut Cx<'_>) {
        self.reply(status, None, true, cx);
        self.close(None, Ending::Linger, cx);
    }

    /// Sends a client that came in clear to the same URL of `https`.
    pub(super) fn redirect(&mut self, status: u16, request: &Request, cx: &mut Cx<'_>) {
        let mut location = b"https://".to_vec();
        location.extend_from_slice(request.head.host.as_str().as_bytes());
        let at = location.len();
        request.head.write_path(&self.ahead, &mut location);
        if location.get(at) != Some(&b'/') {
            // `OPTIONS *` asks for no path.
            location.truncate(at);
            location.push(b'/');
        }
        self.location = location;
        self.answer(status, request, true, cx);
    }

    fn reply(&mut self, status: u16, request: Option<&Request>, close: bool, cx: &mut Cx<'_>) {
        let policy = &cx.limits.policy;
        let location = std::mem::take(&mut self.location);
        let found = self.key.find(cx.tables.current());
        let about = About {
            status,
            set: found.and_then(|found| found.route.error_pages.as_deref()),
            accept: request.map_or_else(Accept::default, |request| request.head.accept),
            request_id: request
                .and_then(|request| request.id.as_ref())
                .map_or(&[], |id| &id[..]),
        };
        let reply = Reply {
            about,
            retry_after_s: (status == 503).then_some(RETRY_AFTER_S),
            location: (!location.is_empty()).then_some(&location[..]),
            close,
            head_only: request.is_some_and(|request| request.head.method == Method::Head),
        };
        if let Some(visit) = &mut self.visit {
            visit.answered(status);
        }
        write_reply(&reply, &policy.pages, cx.out[Side::Downstream as usize]);
    }
}
