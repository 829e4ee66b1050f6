//! The edge's admin API, apart from the gate verbs ([`crate::gate`]).
//!
//! | method and path | request | answer |
//! | --- | --- | --- |
//! | `GET /v1/status` | | [`EdgeStatus`] |
//! | `GET /v1/routes` | | [`RouteTable`] |
//! | `GET /v1/routes/{key}`, the key as [`crate::route::RouteKey::in_url`] writes it | | [`RouteStatus`] |
//! | `POST /v1/routes` | [`crate::route::Transaction`] | [`TransactionReply`] |
//! | `POST /v1/gates/{pause,quiesce,switch,resume}` | [`crate::gate`] | |
//! | `GET /metrics`, `/healthz`, `/readyz` | | text |

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{
    gate::GateStatus,
    name::EdgeName,
    route::{Generation, Route},
};

/// The edge as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeStatus {
    /// Its name.
    pub name: EdgeName,
    /// Version of the program.
    pub version: String,
    /// Since when it runs, in s.
    pub uptime_s: u64,
    /// Generation of its table.
    pub generation: Generation,
    /// Number of routes.
    pub routes: u64,
    /// Downstream connections now.
    pub sessions: u64,
    /// Parked sessions and requests now.
    pub parked: u64,
    /// Worker threads.
    pub workers: usize,
    /// What it listens on.
    pub listeners: Vec<ListenerStatus>,
}

/// One bound address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// The address.
    pub address: SocketAddr,
    /// How its connections are read.
    pub kind: ListenerKind,
}

/// How a listener reads its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenerKind {
    /// Opaque; opened for a `tcp:PORT` route.
    Tcp,
    /// HTTP/1.1 in clear, routed by Host.
    Http,
    /// TLS, routed by SNI.
    Https,
}

/// The whole table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTable {
    /// Its generation.
    pub generation: Generation,
    /// The routes, by key.
    pub routes: Vec<RouteStatus>,
}

/// A route with its gate and counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteStatus {
    /// The route.
    pub route: Route,
    /// Its gate.
    pub gate: GateStatus,
    /// Requests (HTTP) or sessions (others) since the route exists.
    pub requests: u64,
    /// Of these, answered by the edge itself with an error, or closed without an answer.
    pub failed: u64,
}

/// Answer to a [`crate::route::Transaction`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionReply {
    /// The generation that the change made.
    pub generation: Generation,
}
