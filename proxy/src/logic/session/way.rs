//! The way of a session to an upstream: its key, the route that this leads to, the gate's answer,
//! the upstream that is next, and what to do when that one cannot be had.

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV4},
    sync::Arc,
};

use flocker_api::{
    route::{OnMove, Route, RouteKey, UpstreamProtocol},
    upstream::SendProxy,
};

use super::{
    ConnectFailure, Cx, Seal, Table,
    dial::{Dial, Next},
};
use crate::logic::{
    balance::{Lease, Pick, Set, Tried},
    gate::{Admission, Arrival, Claim, Entry, Gate, Place, Refusal, Visitor},
    http::Scheme,
};

/// What leads to a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// The port that was connected to.
    Tcp(u16),
    /// The loopback address that was connected to.
    Link(SocketAddrV4),
    /// The normal form of the SNI.
    Https(String),
    /// What a request names.
    Request {
        /// What it came through.
        scheme: Scheme,
        /// The normal form of its Host.
        host: String,
        /// The beginning of its path, see [`crate::logic::http::path::normalise`].
        path: String,
    },
}

impl Key {
    /// The route's gate and upstreams, and what becomes of its opaque sessions.
    pub(crate) fn find<'t>(&self, table: &'t Table) -> Option<Found<'t>> {
        let entry = match self {
            Self::Tcp(port) => table.lookup_tcp(*port),
            Self::Link(address) => table.lookup_link(*address),
            // What is passed through.
            Self::Https(host) => {
                let found = table.lookup_https(host, "");
                found.filter(|entry| entry.route.tls.is_passthrough())
            }
            Self::Request { scheme, host, path } => match scheme {
                Scheme::Http => table.lookup_http(host, path),
                Scheme::Https => {
                    let found = table.lookup_https(host, path);
                    found.filter(|entry| !entry.route.tls.is_passthrough())
                }
            },
        }?;
        Some(Found {
            key: &entry.route.key,
            route: &entry.route,
            gate: &entry.gate,
            set: &entry.set,
            on_move: entry.route.on_move,
            protocol: entry.route.upstream_protocol,
        })
    }
}

/// A route as the table has it.
pub(crate) struct Found<'t> {
    pub(crate) key: &'t RouteKey,
    pub(crate) route: &'t Route,
    pub(crate) gate: &'t Arc<Gate>,
    pub(crate) set: &'t Arc<Set>,
    pub(crate) on_move: OnMove,
    pub(crate) protocol: UpstreamProtocol,
}

/// A way to an upstream: whoever is admitted holds its lease.
#[derive(Debug)]
pub(crate) struct Way {
    pub(crate) admission: Admission,
    /// `None` while none of the route's upstreams may be tried.
    pub(crate) to: Option<SocketAddr>,
    /// How TLS is spoken there.
    pub(crate) seal: Option<Arc<Seal>>,
    /// Why not, then.
    pub(crate) failure: ConnectFailure,
    pub(crate) proxy: Option<SendProxy>,
    pub(crate) protocol: UpstreamProtocol,
}

/// What the gate of a key said.
#[derive(Debug)]
pub(crate) enum Admit {
    Go(Way),
    /// Others wait for an upstream to come up: behind them.
    Wait(Admission),
    Parked(Place),
    Refused,
    NoRoute,
    /// The route does not serve this client.
    Denied,
}

/// How often the table may change under us while we are admitted, before we give up.
const ADMIT_TRIES_MAX: usize = 16;

/// Passes the gate of `key`. The route is resolved again after the admission: what a pause
/// changed before it ended is seen by whoever is admitted after it. Whoever has been here before
/// keeps its place in the order of arrival.
pub(crate) fn admit(key: &Key, ahead: usize, arrival: Option<&Arrival>, cx: &mut Cx<'_>) -> Admit {
    let mut visitor = Visitor {
        seat: cx.seat,
        client: client_ip(cx.client),
        bytes: ahead,
        ticket: None,
    };
    for _ in 0..ADMIT_TRIES_MAX {
        let Some(found) = key.find(cx.tables.current()) else {
            return Admit::NoRoute;
        };
        if !found.set.serves(visitor.client) {
            return Admit::Denied;
        }
        let gate = Arc::clone(found.gate);
        visitor.ticket = arrival.and_then(|arrival| arrival.at(&gate));
        match gate.enter(visitor, cx.now) {
            Entry::Admitted(admission) if gate.is_busy() => return Admit::Wait(admission),
            Entry::Admitted(admission) => {
                if let Some(way) = resolve(key, admission, Tried::default(), false, cx) {
                    return Admit::Go(way);
                }
            }
            Entry::Parked(place) => return Admit::Parked(place),
            Entry::Refused(Refusal::Removed) => {}
            Entry::Refused(_) => return Admit::Refused,
        }
    }
    Admit::NoRoute
}

/// Resolves a key for someone who is admitted and has tried some upstreams, or has stood in line
/// for one and was called; `None` when its gate is not the route's any more.
pub(crate) fn resolve(
    key: &Key,
    admission: Admission,
    tried: Tried,
    called: bool,
    cx: &mut Cx<'_>,
) -> Option<Way> {
    let (client, now) = (client_ip(cx.client), cx.now);
    let found = key.find(cx.tables.current())?;
    if !Arc::ptr_eq(found.gate, admission.gate()) {
        return None;
    }
    // First given back, or its load would count against itself.
    let admission = admission.with_lease(None);
    let proxy = found.set.send_proxy;
    // Those in line come first.
    let behind = !called && found.set.is_limited() && found.gate.has_line();
    let (lease, failure) = match behind {
        true => (None, ConnectFailure::Full),
        false => match found.set.pick(client, tried, now) {
            Pick::To(lease) => (Some(lease), ConnectFailure::Refused),
            Pick::Full => (None, ConnectFailure::Full),
            Pick::Nobody => (None, ConnectFailure::Refused),
        },
    };
    Some(Way {
        to: lease.as_ref().map(Lease::address),
        seal: Seal::of(found.route),
        failure,
        proxy,
        protocol: found.protocol,
        admission: admission.with_lease(lease),
    })
}

/// What to do after a connect has failed, for someone who is admitted.
pub(crate) fn failed(
    key: &Key,
    admission: &Admission,
    dial: &mut Dial,
    failure: ConnectFailure,
    cx: &mut Cx<'_>,
) -> Next {
    if failure == ConnectFailure::Full {
        return line_up(key, admission, dial, cx);
    }
    cx.counters.connect_failures.inc();
    if failure != ConnectFailure::NoResources {
        upstream_failed(admission, cx);
    }
    if let Some(lease) = admission.lease() {
        dial.tried.add(lease.place());
    }
    let (tried, now) = (dial.tried, cx.now);
    let found = key.find(cx.tables.current());
    let more = found.is_some_and(|found| found.set.has_more(tried, now));
    dial.failed(more, failure, now)
}

/// Waits in the route's line for an upstream that has room.
fn line_up(key: &Key, admission: &Admission, dial: &mut Dial, cx: &mut Cx<'_>) -> Next {
    let (seat, client, now) = (cx.seat, client_ip(cx.client), cx.now);
    let Some(found) = key.find(cx.tables.current()) else {
        return Next::GiveUp;
    };
    let next = dial.line_up(admission.gate(), seat, found.set.pending_max, now);
    // One may have been given back before we stood in line, and nobody was called for it.
    if next == Next::Wait
        && let Pick::To(lease) = found.set.pick(client, Tried::default(), now)
    {
        drop(lease);
        admission.gate().call_next();
    }
    if next == Next::GiveUp {
        cx.counters.upstreams_full.inc();
    }
    next
}

/// The upstream of whoever is admitted has served.
pub(crate) fn served(admission: &Admission) {
    if let Some(lease) = admission.lease() {
        lease.succeeded();
    }
}

/// An upstream has failed a client, for what its connection or its answer was like.
pub(crate) fn upstream_failed(admission: &Admission, cx: &mut Cx<'_>) {
    let Some(lease) = admission.lease() else {
        return;
    };
    if lease.failed(&cx.limits.ejection, cx.now).is_some() {
        cx.counters.ejections.inc();
    }
}

/// Asks a gate for its answer to a parked session.
pub(crate) fn claim(key: &Key, place: Place, ahead: usize, cx: &mut Cx<'_>) -> Admit {
    match place.claim() {
        Claim::Waiting(place) => Admit::Parked(place),
        Claim::Refused(_) => Admit::Refused,
        Claim::Admitted(admission) if admission.has_to_wait() => Admit::Wait(admission),
        Claim::Admitted(admission) => match resolve(key, admission, Tried::default(), false, cx) {
            Some(way) => Admit::Go(way),
            None => admit(key, ahead, None, cx),
        },
    }
}

/// What becomes of the opaque sessions of a key's route.
pub(crate) fn on_move(key: &Key, cx: &mut Cx<'_>) -> OnMove {
    key.find(cx.tables.current())
        .map_or(OnMove::Close, |found| found.on_move)
}

/// The address by which a client is counted: an IPv4 client of an IPv6 socket is the same one.
pub(crate) fn client_ip(client: SocketAddr) -> IpAddr {
    client.ip().to_canonical()
}
