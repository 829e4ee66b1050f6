//! The route table: immutable, compiled for lookup, changed by transactions.
//!
//! It does not say where the current one is kept; see the driver. What hangs on a route (its
//! gate) is a type parameter: the table carries it from generation to generation and never
//! looks at it.

mod shards;

use std::{collections::HashMap, sync::Arc};

use flocker_api::{
    ErrorBody, ErrorCode,
    gate::Retarget,
    route::{Generation, Operation, Route, RouteKey, Transaction},
    upstream::{Upstream, UpstreamAddress},
};
use serde_json::json;

use shards::{Probe, Shards};

/// A route with what hangs on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<G> {
    /// The route.
    pub route: Route,
    /// Its gate; survives every change of the route.
    pub gate: G,
}

/// The routes of one generation. A lookup takes no lock and allocates nothing; a clone is
/// cheap, and a change shares what it does not touch.
#[derive(Debug, Clone)]
pub struct RouteTable<G> {
    generation: Generation,
    shards: Shards<G>,
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
    /// An upstream that nothing can listen on.
    #[error("route {key} leads to {upstream}: give an address and a port other than 0")]
    Upstream {
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
            | TransactionError::Upstream { key, .. }
            | TransactionError::DuplicateUpstream { key, .. } => {
                (ErrorCode::InvalidRequest, json!({ "key": key }))
            }
        };
        Self::from_error(code, &error).with_details(details)
    }
}

impl<G> Default for RouteTable<G> {
    fn default() -> Self {
        Self {
            generation: Generation::default(),
            shards: Shards::default(),
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
        self.shards.find(Probe::of(key))
    }

    /// The route of a port.
    #[must_use]
    pub fn lookup_tcp(&self, port: u16) -> Option<&Arc<Entry<G>>> {
        self.shards.find(Probe::Tcp(port))
    }

    /// The route of a host in normal form: the exact one, else the wildcard one label up.
    #[must_use]
    pub fn lookup_http(&self, host: &str) -> Option<&Arc<Entry<G>>> {
        self.shards.find(Probe::Http(host)).or_else(|| {
            let (_, domain) = host.split_once('.')?;
            self.shards.find(Probe::HttpBelow(domain))
        })
    }

    /// The same for the server name of a TLS connection.
    #[must_use]
    pub fn lookup_https(&self, host: &str) -> Option<&Arc<Entry<G>>> {
        self.shards.find(Probe::Https(host)).or_else(|| {
            let (_, domain) = host.split_once('.')?;
            self.shards.find(Probe::HttpsBelow(domain))
        })
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
                (Operation::Set { .. } | Operation::Remove { .. }, None) => {
                    return Err(TransactionError::NotFound(key.clone()));
                }
                (Operation::Remove { .. }, Some(_)) => None,
                (Operation::Set { route } | Operation::Put { route }, Some(there)) => {
                    Some((route, there.gate.clone()))
                }
                (Operation::Add { route } | Operation::Put { route }, None) => {
                    Some((route, make(key)))
                }
            };
            let entry = match entry {
                Some((route, gate)) => {
                    check_upstreams(&route.key, &route.upstreams)?;
                    let route = route.clone();
                    Some(Arc::new(Entry { route, gate }))
                }
                None => None,
            };
            draft.changes.insert(key.clone(), entry);
        }
        Ok(draft.commit())
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
            check_upstreams(key, upstreams)?;
            let entry = Entry {
                route: Route {
                    upstreams: upstreams.clone(),
                    ..there.route.clone()
                },
                gate: there.gate.clone(),
            };
            draft.changes.insert(key.clone(), Some(Arc::new(entry)));
        }
        Ok(draft.commit())
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
        RouteTable {
            generation: self.table.generation.next(),
            shards: self.table.shards.with(self.changes.into_iter().collect()),
        }
    }
}

fn check_upstreams(key: &RouteKey, upstreams: &[Upstream]) -> Result<(), TransactionError> {
    if upstreams.is_empty() {
        return Err(TransactionError::NoUpstream(key.clone()));
    }
    for (at, upstream) in upstreams.iter().enumerate() {
        let (key, address) = (key.clone(), upstream.address.clone());
        let possible = upstream.socket().is_some_and(|socket| {
            socket.port() != 0 && !socket.ip().is_unspecified() && !socket.ip().is_multicast()
        });
        if !possible {
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
