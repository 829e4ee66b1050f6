//! The words in which a gate and its visitors speak.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::Gate;

use flocker_api::gate::{HoldLimits, Token};
use serde::{Deserialize, Serialize};

/// Where a parked session lives, so that it can be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// Its worker.
    pub worker: usize,
    /// Its slot there.
    pub slot: usize,
}

/// Someone who wants in.
#[derive(Debug, Clone, Copy)]
pub struct Visitor {
    /// Where to call it.
    pub seat: Seat,
    /// Its client's address.
    pub client: IpAddr,
    /// Bytes that it has sent ahead and that we keep for it.
    pub bytes: usize,
    /// Its place in the order of arrival, if it has waited at this gate before.
    pub ticket: Option<u64>,
}

/// Tells a worker that the gate has an answer for one of its sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Whom to tell.
    pub seat: Seat,
    /// The ticket that was answered.
    pub ticket: u64,
}

/// Why someone was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// As many are parked as the limits allow.
    #[error("too many are parked at the route")]
    Sessions,
    /// The parked have sent as many bytes as the limits allow.
    #[error("the parked of the route have sent too many bytes")]
    Bytes,
    /// As many of this client are parked as the limits allow.
    #[error("too many of this client are parked at the route")]
    PerClient,
    /// The pause lasted longer than its deadline.
    #[error("the route was paused for longer than its deadline")]
    Deadline,
    /// The route was removed.
    #[error("the route was removed")]
    Removed,
}

/// Why a verb was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// A newer token has been seen.
    #[error("token {current} is newer")]
    StaleToken {
        /// The newest seen.
        current: Token,
    },
    /// Not paused, or not by this token.
    #[error("it is not paused by token {asked}; the newest token is {current}")]
    NotPaused {
        /// The token of the verb.
        asked: Token,
        /// The newest seen.
        current: Token,
    },
}

/// A pause under way, as another process must know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Since when, in ms.
    pub for_ms: u64,
    /// When it lapses, in ms from now.
    pub left_ms: u64,
    /// Its limits.
    pub limits: HoldLimits,
}

/// What one pause was like; becomes a `HoldReport`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HoldSummary {
    /// From the pause to the resume (or the lapse).
    pub paused: Duration,
    /// Whether it lapsed.
    pub lapsed: bool,
    /// Parked at the resume.
    pub released: u64,
    /// The longest that one of them had waited.
    pub longest_wait: Duration,
    /// Refused for a limit or the deadline.
    pub refused: u64,
    /// Left by themselves.
    pub client_gone: u64,
}

/// What became of everyone who was ever parked at the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HoldCounts {
    /// Let go.
    pub released: u64,
    /// Refused for a limit.
    pub refused_limit: u64,
    /// Refused at the deadline or because the route went away.
    pub refused_deadline: u64,
    /// Left by themselves.
    pub client_gone: u64,
}

/// Told when a waiting quiesce should look again: nothing is in flight, or the pause ended.
pub trait Bell: Send + Sync {
    /// Called from any thread, must not block, may be called without need.
    fn ring(&self);

    /// Tells sessions that they have been answered, or that it is their turn.
    fn call(&self, _calls: Vec<Call>) {}

    /// Has the gate ticked by someone who keeps to the times that [`Gate::tick`] answers.
    fn watch(&self, _gate: &Arc<Gate>) {}
}

/// How far a quiesce is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quiet {
    /// Nothing is in flight.
    Yes,
    /// This many are.
    No(u64),
    /// The pause is over.
    Ended,
}
