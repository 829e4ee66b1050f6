//! Gates: pause, quiesce, switch and resume the admission of routes.
//!
//! Every verb carries a [`Token`]. A gate remembers the newest token that it has seen and
//! refuses verbs with an older one, so that two operators, or a control service that comes
//! back from the dead, cannot undo one another's pauses.

use serde::{Deserialize, Serialize};

use crate::{
    route::{Generation, RouteKey},
    upstream::Upstream,
};

/// Fencing number of a pause.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Token(pub u64);

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Bounds of what one paused route may hold. Past them HTTP gets 503 with Retry-After,
/// everything else is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HoldLimits {
    /// How long the pause lasts without a resume, in ms; also the longest wait of anyone.
    /// The edge keeps this deadline by itself: when it passes, the parked are refused and
    /// the gate opens towards the upstreams that it has.
    pub hold_ms: u64,
    /// Most parked sessions and requests of the route.
    pub sessions: usize,
    /// Most bytes that the parked may have sent ahead, together.
    pub bytes: usize,
    /// Most parked sessions and requests from one client address.
    pub per_client: usize,
}

impl Default for HoldLimits {
    /// 30 s, 10,000 sessions, 64 MiB, 1,000 a client.
    fn default() -> Self {
        Self {
            hold_ms: 30_000,
            sessions: 10_000,
            bytes: 64 << 20,
            per_client: 1_000,
        }
    }
}

/// Stops admission on all workers before it is answered. `POST /v1/gates/pause`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PauseRequest {
    /// Without one the edge draws the next; then every key must be open.
    /// With one it must not be older than the newest that any of the gates has seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// The routes; all or none are paused.
    pub keys: Vec<RouteKey>,
    /// Bounds of the hold. Repeating a pause with the same token renews its deadline.
    #[serde(default)]
    pub limits: HoldLimits,
}

/// Answer to [`PauseRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseReply {
    /// The token with which to quiesce, switch and resume.
    pub token: Token,
}

/// Waits until nothing that was admitted before the pause is in flight.
/// `POST /v1/gates/quiesce`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuiesceRequest {
    /// The pause's token.
    pub token: Token,
    /// The routes.
    pub keys: Vec<RouteKey>,
    /// How long to wait, in ms.
    pub deadline_ms: u64,
}

/// Answer to [`QuiesceRequest`]; a resume during the wait ends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum QuiesceReply {
    /// Nothing is in flight.
    Quiesced {
        /// Established opaque sessions that were closed for it ([`crate::route::OnMove::Close`]).
        closed: u64,
    },
    /// The deadline passed first.
    Busy {
        /// What is left, a line per route.
        in_flight: Vec<InFlight>,
    },
    /// The pause ended while waiting: resumed, or lapsed at its own deadline.
    Ended,
}

/// What is still in flight on a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlight {
    /// The route.
    pub key: RouteKey,
    /// Sessions and requests.
    pub count: u64,
}

/// Retargets paused routes, all in one generation, and resumes them. `POST /v1/gates/switch`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchRequest {
    /// The pause's token.
    pub token: Token,
    /// New upstreams by route.
    pub changes: Vec<Retarget>,
    /// Whether the parked go at once.
    #[serde(default = "yes")]
    pub resume: bool,
}

fn yes() -> bool {
    true
}

/// One route's new upstreams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retarget {
    /// The route.
    pub key: RouteKey,
    /// Where it leads from now on.
    pub upstreams: Vec<Upstream>,
}

/// Opens paused gates; the parked go oldest first. `POST /v1/gates/resume`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumeRequest {
    /// The pause's token.
    pub token: Token,
    /// The routes.
    pub keys: Vec<RouteKey>,
}

/// Answer to [`SwitchRequest`] and [`ResumeRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeReply {
    /// The table's generation afterwards.
    pub generation: Generation,
    /// What the pause was like, a line per route.
    pub holds: Vec<HoldReport>,
}

/// What one pause of one route was like, as the edge saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldReport {
    /// The route.
    pub key: RouteKey,
    /// From the pause to the resume, in microseconds.
    pub paused_us: u64,
    /// Whether the pause had lapsed at its own deadline before the resume came.
    pub lapsed: bool,
    /// Sessions and requests that were parked at the resume.
    pub released: u64,
    /// The longest that one of them had waited, in microseconds.
    pub longest_wait_us: u64,
    /// Refused because of a limit or the deadline.
    pub refused: u64,
    /// Left by themselves.
    pub client_gone: u64,
}

/// State of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateState {
    /// Everything is admitted.
    Open,
    /// New arrivals are parked.
    Paused,
    /// Resumed; the parked are being let go, oldest first.
    Draining,
}

/// A gate as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateStatus {
    /// Its state.
    pub state: GateState,
    /// The newest token that it has seen.
    pub token: Token,
    /// Admitted and not yet done.
    pub in_flight: u64,
    /// Parked now.
    pub parked: u64,
    /// Bytes that the parked have sent ahead.
    pub parked_bytes: u64,
    /// How long the oldest has been parked, in ms.
    pub oldest_wait_ms: u64,
    /// When paused: time until the pause lapses, in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lapses_in_ms: Option<u64>,
    /// When paused: its limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<HoldLimits>,
}
