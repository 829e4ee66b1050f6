//! The edge's admin API, apart from the gate verbs ([`crate::gate`]).
//!
//! | method and path | request | answer |
//! | --- | --- | --- |
//! | `GET /v1/status` | | [`EdgeStatus`] |
//! | `GET /v1/routes` | | [`RouteTable`] |
//! | `GET /v1/routes/{key}`, the key as [`crate::route::RouteKey::in_url`] writes it | | [`RouteStatus`] |
//! | `POST /v1/routes` | [`crate::route::Transaction`] | [`TransactionReply`] |
//! | `POST /v1/gates/{pause,quiesce,switch,resume}` | [`crate::gate`] | |
//! | `GET /v1/log`, `PUT /v1/log` | - , [`LogFilter`] | [`LogFilter`] |
//! | `POST /v1/reload` | | [`ReloadReply`] |
//! | `POST /v1/drain` | [`DrainRequest`] | `null`; then it stops |
//! | `POST /v1/upgrade` | [`UpgradeRequest`] | [`UpgradeReply`] |
//! | `GET /metrics`, `/healthz`, `/readyz` | | text |

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    gate::GateStatus,
    name::EdgeName,
    route::{Generation, Route},
    upstream::UpstreamAddress,
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
    /// Its process.
    #[serde(default)]
    pub pid: u32,
    /// Whether it is to stop, or has handed over, and only serves what it has.
    #[serde(default)]
    pub draining: bool,
    /// The processes before an upgrade that still serve what they had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub predecessors: Vec<Predecessor>,
}

/// A process that has handed over and still serves what it had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Predecessor {
    /// Its process.
    pub pid: u32,
    /// Downstream connections now.
    pub sessions: u64,
    /// Parked sessions and requests now.
    pub parked: u64,
}

/// What is logged: a level, or targets with levels (`flocker_proxy=debug`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogFilter {
    /// The filter.
    pub filter: String,
}

/// Stops the edge once nothing is in flight. `POST /v1/drain`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainRequest {
    /// When to cut what is left, in ms after the notice; else the configured limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// How long to go on accepting while `/readyz` already says no, in ms.
    pub notice_ms: u64,
}

/// Hands the edge over to a new process. `POST /v1/upgrade`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpgradeRequest {
    /// The program; else the one that runs, as it is on disk now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binary: Option<PathBuf>,
}

/// Answer to [`UpgradeRequest`], once the new process serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeReply {
    /// The new process.
    pub pid: u32,
}

/// What reading the configuration again has changed. `POST /v1/reload`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReply {
    /// The table's generation afterwards.
    pub generation: Generation,
    /// What counts from now on, a line each.
    pub changes: Vec<String>,
    /// What counts after an upgrade only, a line each.
    pub later: Vec<String>,
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
    /// Opaque, at a loopback address; opened for a `link:` route.
    Link,
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
    /// Its upstreams, address by address. Only where one route is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<UpstreamStatus>,
    /// The names among them that have no answer now. Only where one route is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unresolved: Vec<UnresolvedName>,
}

/// One address of a route's upstreams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamStatus {
    /// The address.
    pub address: SocketAddr,
    /// The name that led to it, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<UpstreamAddress>,
    /// Its share.
    pub weight: u16,
    /// Whether it serves.
    pub state: UpstreamState,
    /// Why it does not: the last check's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When ejected: for how much longer, in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejected_for_ms: Option<u64>,
    /// Sessions and requests that it has now.
    pub in_flight: u64,
    /// Sessions and requests that it was chosen for.
    pub requests: u64,
    /// Of these, those that it failed.
    pub failed: u64,
    /// How often it was ejected.
    pub ejections: u64,
}

/// Whether an upstream serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamState {
    /// It serves.
    Up,
    /// It serves a growing share, since it has just come.
    Starting,
    /// Its health checks fail.
    Down,
    /// It has failed clients, and is left alone for a while.
    Ejected,
    /// The operator has taken it out.
    Draining,
}

/// A name that could not be resolved; its last answer, if there was one, is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnresolvedName {
    /// The name, with its port.
    pub name: UpstreamAddress,
    /// Why.
    pub error: String,
}

/// Answer to a [`crate::route::Transaction`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionReply {
    /// The generation that the change made.
    pub generation: Generation,
}
