//! The node's lease, and what its fence does by it: deadlines, without a clock.
//!
//! Time is the node's own, counted from its boot with suspended time included; what the wall
//! clock does means nothing here. A grant counts from a reading of this very clock that control
//! gives back, never from its arrival: one that lay unread while the node was frozen is spent.
//!
//! ```text
//!             enforced lease runs out              all proven gone
//! Guarding --------------------------> Fencing --------------------> Fenced
//!    ^                                  |   ^ not proven: once more    |
//!    |                                  +---+                          | a lease holds again
//!    +-----------------------------------------------------------------+
//! ```
//!
//! A fence that has begun is ended even if a lease comes meanwhile: half of the node is dead.
//! While it is fenced each tick looks again, for what was being started when the lease ran out.
//! The watchdog is petted as long as this is as it should be: a fence that does not succeed
//! leaves it to the watchdog to reset the machine.

use std::time::Duration;

use flocker_api::agent::{FencePhase, LeasePolicy, LeaseRequest};

/// A reading of the node's clock: time since its boot, suspended time included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub Duration);

impl Moment {
    /// A reading in ms.
    #[must_use]
    pub fn from_ms(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }

    /// The reading in ms.
    #[must_use]
    pub fn ms(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

/// What control has granted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Lease {
    /// Nothing since the node has booted, or nothing that a former agent left.
    #[default]
    Vacant,
    /// The node is confirmed.
    Granted {
        /// What happens when it runs out.
        policy: LeasePolicy,
        /// When the node must have begun to fence itself.
        until: Moment,
    },
}

/// Why a grant is no good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseRefusal {
    /// The stamp is another run's.
    #[error("the lease's stamp was read by another run of the agent; ask for a new one")]
    Stranger,
    /// The stamp says a time that has not come.
    #[error("the lease's stamp is {ahead:?} ahead of the node's clock")]
    Future {
        /// By how much.
        ahead: Duration,
    },
    /// It was too long on its way.
    #[error("the lease ran out {late:?} before it came; ask for a new stamp")]
    Late {
        /// By how much.
        late: Duration,
    },
    /// It leaves no time to fence.
    #[error(
        "a lease of {ttl:?} is too short: {margin:?} of it are kept for fencing, twice that is the least"
    )]
    Short {
        /// What was granted.
        ttl: Duration,
        /// What fencing may take.
        margin: Duration,
    },
}

impl Lease {
    /// The lease with a new grant; `margin` of it is kept for fencing.
    ///
    /// # Errors
    /// When the grant is no good.
    pub fn renew(
        self,
        request: &LeaseRequest,
        incarnation: uuid::Uuid,
        margin: Duration,
        now: Moment,
    ) -> Result<Self, LeaseRefusal> {
        if request.stamp.incarnation != incarnation {
            return Err(LeaseRefusal::Stranger);
        }
        let ttl = Duration::from_millis(request.ttl_ms);
        if ttl < margin * 2 {
            return Err(LeaseRefusal::Short { ttl, margin });
        }
        let stamp = Moment::from_ms(request.stamp.clock_ms);
        // The stamp was cut to whole ms, so it is never ahead of the clock that it was read from.
        if stamp > now {
            let ahead = stamp.0 - now.0;
            return Err(LeaseRefusal::Future { ahead });
        }
        let until = Moment(stamp.0 + ttl - margin);
        if until <= now {
            let late = now.0 - until.0;
            return Err(LeaseRefusal::Late { late });
        }
        // An older grant may come after a newer one; what was promised holds.
        let until = match self {
            Self::Granted { until: before, .. } => until.max(before),
            Self::Vacant => until,
        };
        Ok(Self::Granted {
            policy: request.policy,
            until,
        })
    }

    /// How much of it is left.
    #[must_use]
    pub fn remaining(self, now: Moment) -> Duration {
        match self {
            Self::Vacant => Duration::ZERO,
            Self::Granted { until, .. } => until.0.saturating_sub(now.0),
        }
    }

    /// Whether the node may run nothing any more.
    #[must_use]
    pub fn has_lapsed(self, now: Moment) -> bool {
        matches!(
            self,
            Self::Granted { policy: LeasePolicy::Enforced, until } if now >= until
        )
    }
}

/// What the fence shall do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orders {
    /// Kill, take away, and say whether it is proven.
    pub fence: bool,
    /// Tell the watchdog that all is well.
    pub pet: bool,
}

/// The fence.
#[derive(Debug, Default)]
pub struct Fence {
    phase: FencePhase,
    fences: u64,
}

impl Fence {
    /// What it is doing.
    #[must_use]
    pub fn phase(&self) -> FencePhase {
        self.phase
    }

    /// How often it has fenced.
    #[must_use]
    pub fn fences(&self) -> u64 {
        self.fences
    }

    /// Time has passed.
    pub fn tick(&mut self, lease: Lease, now: Moment) -> Orders {
        let lapsed = lease.has_lapsed(now);
        match (self.phase, lapsed) {
            (FencePhase::Guarding | FencePhase::Fenced, false) => {
                self.phase = FencePhase::Guarding;
                Orders {
                    fence: false,
                    pet: true,
                }
            }
            (FencePhase::Guarding, true) => {
                self.phase = FencePhase::Fencing;
                self.fences += 1;
                Orders {
                    fence: true,
                    pet: false,
                }
            }
            (FencePhase::Fencing, _) => Orders {
                fence: true,
                pet: false,
            },
            (FencePhase::Fenced, true) => Orders {
                fence: true,
                pet: true,
            },
        }
    }

    /// A fencing that was ordered has ended, `proven` or not.
    pub fn ended(&mut self, proven: bool) {
        self.phase = match proven {
            true => FencePhase::Fenced,
            false => FencePhase::Fencing,
        };
    }
}

#[cfg(test)]
mod tests;
