//! What the route of a request says of it before it comes to the gate: whether its path can be
//! read in one way, whether CONNECT or a body of this length is allowed, whether it is redirected.

use std::sync::Arc;

use super::{
    super::{Cx, Key, client_ip},
    Request, Session,
};
use crate::logic::{
    access::Cause,
    http::{
        Body, Method, RejectReason, RequestHead, Scheme,
        origin::request_id,
        path::{self, Doubt},
    },
};

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ruling {
    /// It goes to the gate.
    Admit,
    /// It is sent to `https` with this status.
    Redirect(u16),
    /// It is refused.
    Reject(RejectReason),
}

impl Session {
    /// A head is complete: on to the gate, or to an answer.
    pub(super) fn headed(&mut self, head: RequestHead, cx: &mut Cx<'_>) {
        self.fresh = false;
        if let Err(reason) = self.aim(&head, cx) {
            return self.reject(reason, Some(&head), cx);
        }
        self.arrived(Some(&head), cx);
        let request = self.identified(head, cx);
        let ruling = match self.key.find(cx.tables.current()) {
            Some(found) => {
                found.gate.stats.requests.inc();
                if let Some(visit) = &mut self.visit {
                    visit.routed(found.key, found.gate);
                }
                rule(found.route, &request.head, self.scheme)
            }
            None if request.head.method == Method::Connect => Ruling::Reject(RejectReason::Connect),
            None => Ruling::Admit,
        };
        match ruling {
            Ruling::Admit => self.admit(request, None, cx),
            Ruling::Redirect(status) => self.redirect(status, &request, cx),
            Ruling::Reject(reason) => {
                cx.counters.malformed.inc();
                self.blame(Cause::Policy);
                self.refuse(reason.status(), cx);
            }
        }
    }

    /// Gives a request an id, unless a trusted proxy has.
    fn identified(&mut self, head: RequestHead, cx: &Cx<'_>) -> Request {
        let origins = &cx.limits.policy.origins;
        let trusted = origins.trusts(client_ip(cx.client));
        let brought = trusted && request_id(head.lines(&self.ahead)).is_some();
        let id = (origins.request_ids && !brought).then(|| origins.ids.next());
        if let (Some(id), Some(visit)) = (&id, &mut self.visit)
            && let Some(words) = visit.words()
        {
            words.request_id = String::from_utf8_lossy(id).into_owned();
        }
        Request {
            head: Box::new(head),
            arrived: cx.now,
            id,
            trusted,
            retried: false,
            refusals: 0,
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
        if let Some(secured) = &self.secured
            && secured.is_misdirected(table, host, path)
        {
            return Err(RejectReason::Misdirected);
        }
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
}

fn rule(route: &flocker_api::route::Route, head: &RequestHead, scheme: Scheme) -> Ruling {
    if head.method == Method::Connect && !route.allow_connect {
        return Ruling::Reject(RejectReason::Connect);
    }
    if let (Scheme::Http, Some(redirect)) = (scheme, route.redirect_https) {
        return Ruling::Redirect(redirect.status());
    }
    match (head.body, route.body_bytes_max) {
        (Body::Length(length), Some(most)) if length > most => {
            Ruling::Reject(RejectReason::BodyTooLong)
        }
        _ => Ruling::Admit,
    }
}
