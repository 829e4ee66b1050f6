//! From the gate to a connection: admission, connects in turn, and back to the gate when it has
//! closed meanwhile. Nothing of the request has been sent yet.

use std::sync::Arc;

use flocker_api::route::UpstreamProtocol;

use super::{
    super::{
        Action, Admit, ConnectFailure, Cx, Ending, Event, Reuse, Side, Way, admit,
        dial::{Dial, Next},
        failed, resolve,
    },
    Request, Session, State,
    exchange::{Exchange, Hop},
};
use crate::logic::{
    access::{Cause, Phase},
    gate::{Admission, Arrival},
};

impl Session {
    pub(super) fn admit(&mut self, request: Request, arrival: Option<&Arrival>, cx: &mut Cx<'_>) {
        let verdict = admit(&self.key, self.ahead.len(), arrival, cx);
        self.admitted(verdict, request, cx);
    }

    pub(super) fn admitted(&mut self, verdict: Admit, request: Request, cx: &mut Cx<'_>) {
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
            Admit::Wait(mut admission) => {
                let mut dial = Dial::new(cx.now, cx.limits.connect_hold);
                match dial.queue_up(&mut admission, cx) {
                    true => {
                        self.state = State::Connecting {
                            admission,
                            dial,
                            request,
                        };
                    }
                    false => self.connect_again(admission, dial, request, cx),
                }
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
            Admit::Denied => {
                cx.counters.denied.inc();
                self.blame(Cause::Policy);
                self.answer(403, &request, true, cx);
            }
            Admit::NoRoute => {
                cx.counters.no_route.inc();
                self.blame(Cause::Policy);
                self.answer(404, &request, true, cx);
            }
        }
    }

    fn connect(
        &mut self,
        way: Way,
        mut dial: Dial,
        request: Request,
        reuse: Reuse,
        cx: &mut Cx<'_>,
    ) {
        let Some(to) = way.to else {
            return self.connect_failed(way.admission, dial, request, way.failure, cx);
        };
        dial.found();
        if let Some(visit) = &mut self.visit {
            visit.connecting(cx.now, to);
        }
        cx.act(Action::Connect {
            to,
            seal: way.seal,
            protocol: way.protocol,
            // A connection that speaks of one client serves no other.
            reuse: way.proxy.map_or(reuse, |_| Reuse::Never),
            within: cx.limits.connect_timeout,
            proxy: way.proxy,
        });
        self.state = State::Connecting {
            admission: way.admission,
            dial,
            request,
        };
    }

    pub(super) fn connected(
        &mut self,
        mut admission: Admission,
        request: Request,
        reused: bool,
        cx: &mut Cx<'_>,
    ) {
        admission.connected(!reused, cx.now);
        let found = self.key.find(cx.tables.current());
        let route = found.map(|found| found.route);
        let most = route.and_then(|route| route.body_bytes_max);
        let speaks_h2 = route.is_some_and(|route| route.upstream_protocol == UpstreamProtocol::H2);
        let hop = Hop {
            scheme: self.scheme,
            subject: self.secured.as_ref().and_then(|secured| secured.subject()),
            reused,
            body_bytes_max: most.unwrap_or(u64::MAX),
            retain: match speaks_h2 {
                true => cx.limits.h2.replay_bytes,
                false => 0,
            },
        };
        let exchange = Exchange::begin(admission, request, hop, &mut self.ahead, cx);
        if let Some(visit) = &mut self.visit {
            visit.connected(cx.now, Phase::Response);
        }
        self.state = State::Exchange(Box::new(exchange));
    }

    pub(super) fn connecting(
        &mut self,
        mut admission: Admission,
        mut dial: Dial,
        request: Request,
        event: Event<'_>,
        cx: &mut Cx<'_>,
    ) {
        match event {
            Event::ConnectFailed(failure) => {
                return self.connect_failed(admission, dial, request, failure, cx);
            }
            Event::Timer => {
                dial.go_uncalled();
                return self.connect_again(admission, dial, request, cx);
            }
            Event::Called(call) if dial.is_called(call.ticket) => {
                dial.go(&mut admission);
                return self.connect_again(admission, dial, request, cx);
            }
            // Nothing has been sent, so it can wait at the gate as well.
            Event::Quiesce(gate) if Arc::ptr_eq(gate, admission.gate()) => {
                cx.act(Action::DropUpstream);
                let arrival = admission.arrival();
                drop((admission, dial));
                return self.admit(request, arrival.as_ref(), cx);
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
        mut admission: Admission,
        mut dial: Dial,
        request: Request,
        failure: ConnectFailure,
        cx: &mut Cx<'_>,
    ) {
        match failed(&self.key, &admission, &mut dial, failure, cx) {
            Next::Now => self.connect_again(admission, dial, request, cx),
            Next::Wait => {
                dial.wait_with_others(&mut admission, failure, cx);
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
                    ConnectFailure::Untrusted => 502,
                    ConnectFailure::Refused
                    | ConnectFailure::NoResources
                    | ConnectFailure::Full => 503,
                };
                self.fail(status, &request, admission.gate(), true, cx);
            }
        }
    }

    /// Nothing was sent yet, so the gate is asked again: it may have been closed meanwhile.
    pub(super) fn connect_again(
        &mut self,
        admission: Admission,
        dial: Dial,
        request: Request,
        cx: &mut Cx<'_>,
    ) {
        if admission.gate().is_closed() {
            let arrival = admission.arrival();
            drop((admission, dial));
            return self.admit(request, arrival.as_ref(), cx);
        }
        // Whoever was called may well get the connection that has just come free.
        let reuse = match dial.was_called() {
            true => Reuse::Checked,
            false => Reuse::Never,
        };
        let arrival = admission.arrival();
        match resolve(&self.key, admission, dial.tried, dial.is_in_line(), cx) {
            Some(way) => self.connect(way, dial, request, reuse, cx),
            None => self.admit(request, arrival.as_ref(), cx),
        }
    }
}
