//! The route table: immutable, compiled for lookup, changed by transactions.
//!
//! It does not say where the current one is kept; see the driver. What hangs on a route (its
//! gate) is a type parameter: the table carries it from generation to generation and never
//! looks at it.

mod check;
mod shards;
mod sieve;
mod site;

use std::{collections::HashMap, net::SocketAddrV4, sync::Arc};

use flocker_api::{
    ErrorBody, ErrorCode,
    gate::Retarget,
    path::PREFIX_SEGMENTS_MAX,
    route::{Generation, Operation, Route, RouteKey, Transaction},
    upstream::{Upstream, UpstreamAddress},
};
use serde_json::json;

use check::{check_route, check_sites};
use shards::{Kind, Probe, Shards, link_bytes};
use sieve::Sieve;
use site::{Site, Tally};

use super::balance::{Answer, Set};

/// A route with what hangs on it.
#[derive(Debug, Clone)]
pub struct Entry<G> {
    /// The route.
    pub route: Route,
    /// Its gate; survives every change of the route.
    pub gate: G,
    /// Its upstreams, with what is known of them.
    pub set: Arc<Set>,
}

/// The routes of one generation. A lookup takes no lock and allocates nothing; a clone is
/// cheap, and a change shares what it does not touch.
#[derive(Debug)]
pub struct RouteTable<G> {
    generation: Generation,
    shards: Shards<Entry<G>>,
    /// Hosts with routes below paths; hashed like the routes.
    sites: Shards<Site>,
    /// Which hosts may be in there.
    sieve: Sieve,
}

// Derived, it would ask for `G: Clone`.
impl<G> Clone for RouteTable<G> {
    fn clone(&self) -> Self {
        Self {
            generation: self.generation,
            shards: self.shards.clone(),
            sites: self.sites.clone(),
            sieve: self.sieve.clone(),
        }
    }
}

/// Why a transaction was refused; the table is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// It was made against another generation.
    #[error("generation {against} is stale: generation {current} is current")]
    StaleGeneration {
        /// The generation it names.
        against: Generation,
        /// The table's.
        current: Generation,
    },
    /// It adds a route that exists.
    #[error("route {0} exists already")]
    AlreadyExists(RouteKey),
    /// It changes or removes a route that does not exist.
    #[error("there is no route {0}")]
    NotFound(RouteKey),
    /// A route that leads nowhere.
    #[error("route {0} has no upstream: name at least one ADDRESS:PORT")]
    NoUpstream(RouteKey),
    /// A route below a path whose requests the edge cannot read.
    #[error("route {0} is passed through undecrypted: its key takes no path")]
    PathOfPassthrough(RouteKey),
    /// A route below a path whose host says nothing of how TLS ends.
    #[error(
        "route {0} needs a route for the whole host with the same tls.terminate: TLS is agreed upon \
         before a path is known"
    )]
    NoTermination(RouteKey),
    /// A field that means nothing for this kind of route.
    #[error("route {key} has {field}: that is for {fits}")]
    Misfit {
        /// The route.
        key: RouteKey,
        /// The field.
        field: &'static str,
        /// What it is for.
        fits: &'static str,
    },
    /// An upstream that nothing can listen on.
    #[error("route {key} leads to {upstream}: give an address and a port other than 0")]
    Upstream {
        /// The route.
        key: RouteKey,
        /// The upstream.
        upstream: UpstreamAddress,
    },
    /// It drains an upstream that the route has not.
    #[error("route {key} has no upstream {upstream}")]
    UnknownUpstream {
        /// The route.
        key: RouteKey,
        /// The upstream.
        upstream: UpstreamAddress,
    },
    /// The same upstream twice.
    #[error("route {key} names upstream {upstream} twice")]
    DuplicateUpstream {
        /// The route.
        key: RouteKey,
        /// The upstream.
        upstream: UpstreamAddress,
    },
}

impl From<TransactionError> for ErrorBody {
    fn from(error: TransactionError) -> Self {
        let (code, details) = match &error {
            TransactionError::StaleGeneration { current, .. } => {
                (ErrorCode::StaleGeneration, json!({ "current": current }))
            }
            TransactionError::AlreadyExists(key) => {
                (ErrorCode::AlreadyExists, json!({ "key": key }))
            }
            TransactionError::NotFound(key) => (ErrorCode::NotFound, json!({ "key": key })),
            TransactionError::NoUpstream(key)
            | TransactionError::PathOfPassthrough(key)
            | TransactionError::NoTermination(key)
            | TransactionError::Misfit { key, .. }
            | TransactionError::Upstream { key, .. }
            | TransactionError::DuplicateUpstream { key, .. }
            | TransactionError::UnknownUpstream { key, .. } => {
                (ErrorCode::InvalidRequest, json!({ "key": key }))
            }
        };
        Self::from_error(code, &error).with_details(details)
    }
}

impl<G> Default for RouteTable<G> {
    fn default() -> Self {
        let (shards, sites) = shards::pair();
        Self {
            generation: Generation::default(),
            shards,
            sites,
            sieve: Sieve::default(),
        }
    }
}

impl<G: Clone> RouteTable<G> {
    /// An empty table of generation 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Its generation.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The same routes as another generation: one that another process had come to.
    #[must_use]
    pub fn at_generation(self, generation: Generation) -> Self {
        Self { generation, ..self }
    }

    /// Number of routes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All routes, in no order.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry<G>>> {
        self.shards.iter()
    }

    /// The route of exactly this key.
    #[must_use]
    pub fn get(&self, key: &RouteKey) -> Option<&Arc<Entry<G>>> {
        self.shards.get(key)
    }

    /// The route of a port.
    #[must_use]
    pub fn lookup_tcp(&self, port: u16) -> Option<&Arc<Entry<G>>> {
        self.shards.find(Probe::tcp(&port.to_be_bytes()))
    }

    /// The route of a link's address.
    #[must_use]
    pub fn lookup_link(&self, address: SocketAddrV4) -> Option<&Arc<Entry<G>>> {
        self.shards.find(Probe::link(&link_bytes(address)))
    }

    /// The route of a request in clear: of the exact host the one with the longest prefix of
    /// the path, else the same of the wildcard one label up. Both in normal form; see
    /// [`crate::logic::http::path`].
    #[must_use]
    pub fn lookup_http(&self, host: &str, path: &str) -> Option<&Arc<Entry<G>>> {
        self.lookup([Kind::Http, Kind::HttpBelow], host, path)
    }

    /// The same for a request that came through TLS.
    #[must_use]
    pub fn lookup_https(&self, host: &str, path: &str) -> Option<&Arc<Entry<G>>> {
        self.lookup([Kind::Https, Kind::HttpsBelow], host, path)
    }

    /// Whether requests in clear for this host are routed by their path, too.
    #[must_use]
    pub fn has_paths_http(&self, host: &str) -> bool {
        self.has_paths([Kind::Http, Kind::HttpBelow], host)
    }

    /// The same for requests that came through TLS.
    #[must_use]
    pub fn has_paths_https(&self, host: &str) -> bool {
        self.has_paths([Kind::Https, Kind::HttpsBelow], host)
    }

    fn lookup(&self, [exact, below]: [Kind; 2], host: &str, path: &str) -> Option<&Arc<Entry<G>>> {
        self.lookup_site(exact, host, path).or_else(|| {
            let (_, domain) = host.split_once('.')?;
            self.lookup_site(below, domain, path)
        })
    }

    fn lookup_site(&self, kind: Kind, host: &str, path: &str) -> Option<&Arc<Entry<G>>> {
        let probe = Probe::site(kind, host, "");
        let hash = self.shards.hash(probe);
        if !path.is_empty()
            && self.sieve.lets_through(hash)
            && let Some(site) = self.sites.find_hashed(hash, probe)
        {
            let mut ends = [0; PREFIX_SEGMENTS_MAX];
            let reached = segment_ends(path, &mut ends);
            for depth in site.depths(reached) {
                let end = ends.get(depth - 1).copied().unwrap_or_default();
                let prefix = path.get(..end).unwrap_or_default();
                let found = self.shards.find(Probe::site(kind, host, prefix));
                if found.is_some() {
                    return found;
                }
            }
        }
        self.shards.find_hashed(hash, probe)
    }

    fn has_paths(&self, [exact, below]: [Kind; 2], host: &str) -> bool {
        let has = |kind, host| self.sites.find(Probe::site(kind, host, "")).is_some();
        self.sites.len() > 0
            && (has(exact, host)
                || host
                    .split_once('.')
                    .is_some_and(|(_, domain)| has(below, domain)))
    }

    /// The table after a transaction; `make` makes the gates of new routes. A route that is
    /// removed and added again is a new one.
    ///
    /// # Errors
    /// The transaction is refused as a whole.
    pub fn apply(
        &self,
        transaction: &Transaction,
        mut make: impl FnMut(&RouteKey) -> G,
    ) -> Result<Self, TransactionError> {
        if let Some(against) = transaction.against
            && against != self.generation
        {
            return Err(TransactionError::StaleGeneration {
                against,
                current: self.generation,
            });
        }
        let mut draft = Draft::of(self);
        for operation in &transaction.operations {
            let key = operation.key();
            let there = draft.get(key);
            let entry = match (operation, there) {
                (Operation::Add { .. }, Some(_)) => {
                    return Err(TransactionError::AlreadyExists(key.clone()));
                }
                (
                    Operation::Set { .. } | Operation::Remove { .. } | Operation::Drain { .. },
                    None,
                ) => {
                    return Err(TransactionError::NotFound(key.clone()));
                }
                (Operation::Remove { .. }, Some(_)) => None,
                (Operation::Set { route } | Operation::Put { route }, Some(there)) => {
                    Some(there.changed(route.clone())?)
                }
                (Operation::Add { route } | Operation::Put { route }, None) => {
                    check_upstreams(&route.key, &route.upstreams)?;
                    check_route(route)?;
                    Some(Entry {
                        route: route.clone(),
                        gate: make(key),
                        set: Arc::new(Set::new(route, None)),
                    })
                }
                (
                    Operation::Drain {
                        upstream, drain, ..
                    },
                    Some(there),
                ) => Some(there.drained(upstream, *drain)?),
            };
            draft.changes.insert(key.clone(), entry.map(Arc::new));
        }
        let after = draft.commit();
        check_sites(&after, &transaction.operations)?;
        Ok(after)
    }

    /// The table with other upstreams of some routes, in one generation; gates stay.
    ///
    /// # Errors
    /// A route does not exist, or its new upstreams are impossible; nothing is changed.
    pub fn retarget(&self, changes: &[Retarget]) -> Result<Self, TransactionError> {
        let mut draft = Draft::of(self);
        for Retarget { key, upstreams } in changes {
            let there = draft
                .get(key)
                .ok_or_else(|| TransactionError::NotFound(key.clone()))?;
            let entry = there.changed(Route {
                upstreams: upstreams.clone(),
                ..there.route.clone()
            })?;
            draft.changes.insert(key.clone(), Some(Arc::new(entry)));
        }
        Ok(draft.commit())
    }

    /// The table after the names of a route were asked for again. It is of the same generation:
    /// nobody has changed a route. `None` if the route is not there any more.
    #[must_use]
    pub fn with_answers(&self, key: &RouteKey, answers: &[Answer]) -> Option<Self> {
        let there = self.get(key)?;
        let entry = Entry {
            set: Arc::new(there.set.with_answers(&there.route, answers)),
            route: there.route.clone(),
            gate: there.gate.clone(),
        };
        Some(Self {
            generation: self.generation,
            sites: self.sites.clone(),
            sieve: self.sieve.clone(),
            shards: self.shards.with(vec![(key.clone(), Some(Arc::new(entry)))]),
        })
    }
}

impl<G: Clone> Entry<G> {
    /// The same route, changed.
    fn changed(&self, route: Route) -> Result<Self, TransactionError> {
        check_upstreams(&route.key, &route.upstreams)?;
        check_route(&route)?;
        Ok(Self {
            set: Arc::new(Set::new(&route, Some(&self.set))),
            gate: self.gate.clone(),
            route,
        })
    }

    /// The same route with one of its upstreams taken out or put back.
    fn drained(&self, upstream: &UpstreamAddress, drain: bool) -> Result<Self, TransactionError> {
        let mut route = self.route.clone();
        let found = route.upstreams.iter_mut().find(|u| u.address == *upstream);
        let found = found.ok_or_else(|| TransactionError::UnknownUpstream {
            key: route.key.clone(),
            upstream: upstream.clone(),
        })?;
        found.drain = drain;
        self.changed(route)
    }
}

/// A table with changes that are not in it yet.
struct Draft<'t, G> {
    table: &'t RouteTable<G>,
    /// The entry that a key has afterwards.
    changes: HashMap<RouteKey, Option<Arc<Entry<G>>>>,
}

impl<'t, G: Clone> Draft<'t, G> {
    fn of(table: &'t RouteTable<G>) -> Self {
        Self {
            table,
            changes: HashMap::new(),
        }
    }

    fn get(&self, key: &RouteKey) -> Option<&Arc<Entry<G>>> {
        match self.changes.get(key) {
            Some(entry) => entry.as_ref(),
            None => self.table.get(key),
        }
    }

    fn commit(self) -> RouteTable<G> {
        let mut tally = Tally::default();
        for (key, after) in &self.changes {
            let before = self.table.get(key).is_some();
            tally.add(key, i64::from(after.is_some()) - i64::from(before));
        }
        let (sites, sieve) = tally.apply(&self.table.sites, &self.table.sieve);
        RouteTable {
            generation: self.table.generation.next(),
            sites,
            sieve,
            shards: self.table.shards.with(self.changes.into_iter().collect()),
        }
    }
}

/// Where the first segments of a path in normal form end; how many there are.
fn segment_ends(path: &str, ends: &mut [usize; PREFIX_SEGMENTS_MAX]) -> usize {
    let borders = memchr::memchr_iter(b'/', path.as_bytes()).skip(1);
    let mut count = 0;
    for (slot, end) in ends.iter_mut().zip(borders.chain([path.len()])) {
        *slot = end;
        count += 1;
    }
    count
}

fn check_upstreams(key: &RouteKey, upstreams: &[Upstream]) -> Result<(), TransactionError> {
    if upstreams.is_empty() {
        return Err(TransactionError::NoUpstream(key.clone()));
    }
    for (at, upstream) in upstreams.iter().enumerate() {
        let (key, address) = (key.clone(), upstream.address.clone());
        let impossible = upstream.socket().is_some_and(|socket| {
            socket.port() == 0 || socket.ip().is_unspecified() || socket.ip().is_multicast()
        });
        if impossible {
            return Err(TransactionError::Upstream {
                key,
                upstream: address,
            });
        }
        let mut others = upstreams.iter().take(at);
        if others.any(|other| other.address == address) {
            return Err(TransactionError::DuplicateUpstream {
                key,
                upstream: address,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
