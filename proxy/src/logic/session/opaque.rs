//! A TCP session, or a TLS session that is passed through once its SNI is known.
//!
//! ```text
//!   (https) Sniffing ──┐          ┌───── the gate was closed before a byte was sent ─────┐
//!                      ▼          ▼                                                      │
//!   (tcp) ─────────► admit ──► Parked ──► Connecting ──► Relaying ──► Closed             │
//!                      └──────────────────►  │  ▲ │            └───────────────────────► │
//!                                            └──┘ └──────────────────────────────────────┘
//!                                        failed: again
//! ```
//!
//! Every state may go to Closed. A client that ends its stream while it is parked has left: its
//! place is free at once. What a quiesce finds before the first byte went either way is parked
//! again; what is established is closed, unless the route's `on_move` says to wait for it.

use std::{sync::Arc, time::Instant};

use super::{
    Action, Admit, Agreed, ConnectFailure, Cx, Ending, Event, Key, Offer, Reuse, Secured, Side,
    Want, Way, admit, claim,
    dial::{Dial, Next},
    failed, resolve,
    secured::{Alert, refusal},
    served,
    tunnel::{Course, Tunnel, tunnel_over},
};
use crate::logic::{
    access::{Cause, Phase, Protocol, Visit, Words},
    gate::{Admission, Arrival, Place},
    sniff::{
        SniffLimits,
        tls::{Sniff, Sniffer},
    },
};

/// See the module.
#[derive(Debug)]
pub struct Session {
    key: Key,
    /// What the client sent before there was an upstream (a ClientHello).
    ahead: Vec<u8>,
    /// Until it is over.
    visit: Option<Box<Visit>>,
    state: State,
}

#[derive(Debug)]
enum State {
    Sniffing {
        until: Instant,
        sniffer: Sniffer,
    },
    /// The driver shakes hands.
    Securing {
        until: Instant,
        offer: Box<Offer>,
    },
    Parked {
        place: Place,
    },
    Connecting {
        admission: Admission,
        dial: Dial,
    },
    Relaying(Tunnel),
    /// Kept until the driver has delivered what is left: only then is it out of flight.
    Closed {
        _admission: Option<Admission>,
    },
}

impl Session {
    /// A connection to a port or a link, of which the first byte need not be known.
    pub fn tcp(key: Key, cx: &mut Cx<'_>) -> Self {
        let mut session = Self {
            key,
            ahead: Vec::new(),
            visit: Some(cx.visit(Protocol::Tcp, cx.now)),
            state: State::Closed { _admission: None },
        };
        session.arrive(cx);
        session
    }

    /// A TLS connection of which nothing has been read yet.
    #[must_use]
    pub fn https(cx: &Cx<'_>) -> Self {
        Self {
            key: Key::Https(String::new()),
            ahead: Vec::new(),
            visit: Some(cx.visit(Protocol::Tls, cx.now)),
            state: State::Sniffing {
                until: cx.now + cx.limits.hello_timeout,
                sniffer: Sniffer::default(),
            },
        }
    }

    /// See [`super::Session::handle`].
    pub fn handle(&mut self, event: Event<'_>, cx: &mut Cx<'_>) {
        let state = std::mem::replace(&mut self.state, State::Closed { _admission: None });
        match (state, event) {
            (State::Sniffing { until, sniffer }, Event::Bytes(Side::Downstream, bytes)) => {
                self.ahead.extend_from_slice(bytes);
                self.sniff(until, sniffer, cx);
            }

            (State::Parked { place }, Event::Called(call)) if call.ticket == place.ticket() => {
                let verdict = claim(&self.key, place, self.ahead.len(), cx);
                self.admitted(verdict, cx);
            }
            // Dropping the place frees it.
            (
                State::Sniffing { .. } | State::Securing { .. },
                Event::Timer | Event::Drain | Event::Eof(_),
            )
            | (State::Parked { .. }, Event::Hangup(_)) => {
                self.blame(match event {
                    Event::Timer => Cause::ClientTimeout,
                    Event::Drain => Cause::Stop,
                    _ => Cause::Client,
                });
                self.end(None, Ending::Clean, cx);
            }

            (State::Connecting { admission, dial }, event) => {
                self.connecting(admission, dial, event, cx);
            }

            (State::Relaying(tunnel), event) => self.relaying(tunnel, event, cx),

            (state, Event::Broken(_)) => {
                drop(state);
                self.blame(Cause::Client);
                self.end(None, Ending::Clean, cx);
            }
            // Nothing to do: news that is not for this state, such as a call for a place that
            // has been given up.
            (state, _) => self.state = state,
        }
    }

    fn connecting(
        &mut self,
        mut admission: Admission,
        mut dial: Dial,
        event: Event<'_>,
        cx: &mut Cx<'_>,
    ) {
        match event {
            Event::Connected { .. } => {
                admission.connected(true, cx.now);
                served(&admission);
                cx.out[Side::Upstream as usize].append(&mut self.ahead);
                self.ahead = Vec::new();
                if let Some(visit) = &mut self.visit {
                    visit.connected(cx.now, Phase::Data);
                }
                self.state = State::Relaying(Tunnel::new(admission, cx));
                return;
            }
            Event::ConnectFailed(failure) => {
                return self.connect_failed(admission, dial, failure, cx);
            }
            Event::Timer => {
                dial.go_uncalled();
                return self.connect_again(admission, dial, cx);
            }
            Event::Called(call) if dial.is_called(call.ticket) => {
                dial.go(&mut admission);
                return self.connect_again(admission, dial, cx);
            }
            Event::Quiesce(gate) if Arc::ptr_eq(gate, admission.gate()) => {
                cx.act(Action::DropUpstream);
                let arrival = admission.arrival();
                drop((admission, dial));
                return self.admit(arrival.as_ref(), cx);
            }
            Event::Broken(_) => {
                drop(admission);
                self.blame(Cause::Client);
                return self.end(None, Ending::Clean, cx);
            }
            _ => {}
        }
        self.state = State::Connecting { admission, dial };
    }

    fn relaying(&mut self, mut tunnel: Tunnel, event: Event<'_>, cx: &mut Cx<'_>) {
        match tunnel.handle(event, &self.key, cx) {
            Course::On => self.state = State::Relaying(tunnel),
            Course::End(ending) => {
                if let Some(visit) = &mut self.visit {
                    tunnel_over(visit, &event, ending);
                }
                self.end(Some(tunnel.into_admission()), ending, cx);
            }
            // A ClientHello has been sent, so there is no way back for TLS.
            Course::Untouched if matches!(self.key, Key::Tcp(_)) => {
                cx.act(Action::DropUpstream);
                let arrival = tunnel.admission().arrival();
                drop(tunnel);
                self.admit(arrival.as_ref(), cx);
            }
            Course::Untouched => {
                tunnel.admission().gate().count_closed();
                self.blame(Cause::Move);
                self.end(Some(tunnel.into_admission()), Ending::Linger, cx);
            }
        }
    }

    /// See [`super::Session::wants`].
    #[must_use]
    pub fn wants(&self, side: Side) -> Want {
        match (&self.state, side) {
            (State::Sniffing { .. }, Side::Downstream) => Want::Bytes(4096),
            (State::Relaying(tunnel), side) => tunnel.wants(side),
            _ => Want::Nothing,
        }
    }

    /// See [`super::Session::deadline`].
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Sniffing { until, .. } | State::Securing { until, .. } => Some(*until),
            State::Connecting { dial, .. } => dial.again_at,
            State::Relaying(tunnel) => Some(tunnel.deadline()),
            State::Parked { .. } | State::Closed { .. } => None,
        }
    }

    /// The server name of a ClientHello that has been read.
    pub(super) fn server_name(&self) -> Option<&str> {
        match &self.key {
            Key::Https(name) if !name.is_empty() => Some(name),
            _ => None,
        }
    }

    /// See [`super::Session::delivered`].
    pub fn delivered(&mut self) {
        self.state = State::Closed { _admission: None };
    }

    /// While it connects or relays.
    #[must_use]
    pub fn admission(&self) -> Option<&Admission> {
        match &self.state {
            State::Connecting { admission, .. } => Some(admission),
            State::Relaying(tunnel) => Some(tunnel.admission()),
            State::Sniffing { .. }
            | State::Securing { .. }
            | State::Parked { .. }
            | State::Closed { .. } => None,
        }
    }

    /// See [`super::Session::is_parked`].
    #[must_use]
    pub fn is_parked(&self) -> bool {
        matches!(self.state, State::Parked { .. })
    }

    fn sniff(&mut self, until: Instant, mut sniffer: Sniffer, cx: &mut Cx<'_>) {
        let limits = SniffLimits {
            hello_bytes: cx.limits.hello_bytes,
        };
        match sniffer.sniff(&self.ahead, &limits) {
            Sniff::NeedMore => self.state = State::Sniffing { until, sniffer },
            Sniff::Sni(host) => {
                self.key = Key::Https(host.as_str().to_owned());
                match Offer::find(cx.tables.current(), host.as_str()) {
                    Some(offer) => {
                        let offer = Box::new(offer);
                        self.state = State::Securing { until, offer };
                        cx.act(Action::Terminate);
                    }
                    None => self.arrive(cx),
                }
            }
            Sniff::NoSni => self.refuse(Alert::UnrecognizedName, cx),
            Sniff::Malformed(reason) => self.refuse(Alert::of(reason), cx),
        }
    }

    /// Ends with what leads nowhere.
    fn refuse(&mut self, alert: Alert, cx: &mut Cx<'_>) {
        cx.counters.malformed.inc();
        self.blame(Cause::Policy);
        refusal(&self.ahead, alert, cx.out[Side::Downstream as usize]);
        self.end(None, Ending::Linger, cx);
    }

    /// What is to be offered to the client, and its ClientHello; once, after
    /// [`Action::Terminate`].
    pub fn offer(&mut self) -> Option<(&Offer, Vec<u8>)> {
        match &self.state {
            State::Securing { offer, .. } => Some((offer, std::mem::take(&mut self.ahead))),
            _ => None,
        }
    }

    /// The handshake is done: what is known of the connection. Hosts and terms are those that
    /// the ClientHello was read for here, whatever certificate TLS has chosen by it.
    pub(super) fn secured(&mut self, agreed: &Agreed) -> Option<Secured> {
        let state = std::mem::replace(&mut self.state, State::Closed { _admission: None });
        match state {
            State::Securing { offer, .. } => Some(Secured {
                offer: *offer,
                agreed: agreed.clone(),
            }),
            state => {
                self.state = state;
                None
            }
        }
    }

    fn arrive(&mut self, cx: &mut Cx<'_>) {
        let words = cx.access.wanted.then(|| Words {
            host: match &self.key {
                Key::Https(name) => name.clone(),
                _ => String::new(),
            },
            ..Words::default()
        });
        if let Some(visit) = &mut self.visit {
            visit.headed(cx.now, words);
        }
        if let Some(found) = self.key.find(cx.tables.current()) {
            found.gate.stats.requests.inc();
            if let Some(visit) = &mut self.visit {
                visit.routed(found.key, found.gate);
            }
        }
        self.admit(None, cx);
    }

    fn admit(&mut self, arrival: Option<&Arrival>, cx: &mut Cx<'_>) {
        let verdict = admit(&self.key, self.ahead.len(), arrival, cx);
        self.admitted(verdict, cx);
    }

    fn admitted(&mut self, verdict: Admit, cx: &mut Cx<'_>) {
        match verdict {
            Admit::Parked(place) => {
                if let Some(visit) = &mut self.visit {
                    visit.parked(cx.now);
                }
                self.state = State::Parked { place };
            }
            Admit::Go(way) => {
                let dial = Dial::new(cx.now, cx.limits.connect_hold);
                self.connect(way, dial, cx);
            }
            Admit::Wait(mut admission) => {
                let mut dial = Dial::new(cx.now, cx.limits.connect_hold);
                match dial.queue_up(&mut admission, cx) {
                    true => self.state = State::Connecting { admission, dial },
                    false => self.connect_again(admission, dial, cx),
                }
            }
            Admit::Refused => {
                cx.counters.refused.inc();
                self.blame(Cause::Gate);
                if let Some(found) = self.key.find(cx.tables.current()) {
                    found.gate.stats.failed.inc();
                }
                self.end(None, Ending::Clean, cx);
            }
            Admit::Denied => {
                cx.counters.denied.inc();
                self.blame(Cause::Policy);
                self.end(None, Ending::Clean, cx);
            }
            Admit::NoRoute => {
                cx.counters.no_route.inc();
                if let Key::Https(_) = self.key {
                    refusal(
                        &self.ahead,
                        Alert::UnrecognizedName,
                        cx.out[Side::Downstream as usize],
                    );
                }
                self.blame(Cause::Policy);
                self.end(None, Ending::Clean, cx);
            }
        }
    }

    fn connect(&mut self, way: Way, mut dial: Dial, cx: &mut Cx<'_>) {
        let Some(to) = way.to else {
            return self.connect_failed(way.admission, dial, way.failure, cx);
        };
        dial.found();
        if let Some(visit) = &mut self.visit {
            visit.connecting(cx.now, to);
        }
        cx.act(Action::Connect {
            to,
            seal: way.seal,
            protocol: way.protocol,
            reuse: Reuse::Never,
            within: cx.limits.connect_timeout,
            proxy: way.proxy,
        });
        self.state = State::Connecting {
            admission: way.admission,
            dial,
        };
    }

    fn connect_failed(
        &mut self,
        mut admission: Admission,
        mut dial: Dial,
        failure: ConnectFailure,
        cx: &mut Cx<'_>,
    ) {
        match failed(&self.key, &admission, &mut dial, failure, cx) {
            Next::Now => self.connect_again(admission, dial, cx),
            Next::Wait => {
                dial.wait_with_others(&mut admission, failure, cx);
                self.state = State::Connecting { admission, dial };
            }
            Next::GiveUp => {
                cx.counters.upstream_errors.inc();
                admission.gate().stats.failed.inc();
                self.blame(failure.cause());
                self.end(Some(admission), Ending::Clean, cx);
            }
        }
    }

    /// Nothing was sent yet, so the gate is asked again: it may have been closed meanwhile.
    fn connect_again(&mut self, admission: Admission, dial: Dial, cx: &mut Cx<'_>) {
        if admission.gate().is_closed() {
            let arrival = admission.arrival();
            drop((admission, dial));
            return self.admit(arrival.as_ref(), cx);
        }
        let arrival = admission.arrival();
        match resolve(&self.key, admission, dial.tried, dial.is_in_line(), cx) {
            Some(way) => self.connect(way, dial, cx),
            None => self.admit(arrival.as_ref(), cx),
        }
    }

    fn blame(&mut self, cause: Cause) {
        if let Some(visit) = &mut self.visit {
            visit.blame(cause);
        }
    }

    fn end(&mut self, admission: Option<Admission>, ending: Ending, cx: &mut Cx<'_>) {
        cx.end(self.visit.take());
        self.ahead = Vec::new();
        self.state = State::Closed {
            _admission: admission,
        };
        cx.act(Action::Close(ending));
    }
}
