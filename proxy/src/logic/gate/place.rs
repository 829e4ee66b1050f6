//! What a visitor holds: an admission, or a place among the parked. Dropping either gives it
//! back, whatever else goes wrong.

use std::sync::Arc;

use super::{Answer, Gate, Phase, Refusal};
use crate::logic::balance::Lease;

/// Answer to [`Gate::enter`].
#[derive(Debug)]
pub enum Entry {
    /// Go on; drop the admission when done.
    Admitted(Admission),
    /// Wait to be called.
    Parked(Place),
    /// Go away.
    Refused(Refusal),
}

/// Answer to [`Place::claim`].
#[derive(Debug)]
pub enum Claim {
    /// Not yet.
    Waiting(Place),
    /// Go on.
    Admitted(Admission),
    /// Go away.
    Refused(Refusal),
}

/// Proof of being admitted; counted as in flight until dropped.
#[derive(Debug)]
pub struct Admission {
    gate: Arc<Gate>,
    /// The upstream that it uses.
    lease: Option<Lease>,
}

impl Admission {
    /// The gate that gave it.
    #[must_use]
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// The upstream that it uses now, if any.
    #[must_use]
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// The same with another upstream; the one before is given back.
    #[must_use]
    pub fn with_lease(mut self, lease: Option<Lease>) -> Self {
        let before = std::mem::replace(&mut self.lease, lease);
        self.give_back(before);
        self
    }

    fn give_back(&self, lease: Option<Lease>) {
        if lease.is_some() {
            drop(lease);
            self.gate.call_next();
        }
    }

    pub(super) fn new(gate: &Arc<Gate>) -> Self {
        Self {
            gate: Arc::clone(gate),
            lease: None,
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let lease = self.lease.take();
        self.give_back(lease);
        self.gate.count_out();
    }
}

/// A place among the parked; dropping it leaves.
#[derive(Debug)]
pub struct Place {
    pub(super) gate: Arc<Gate>,
    pub(super) ticket: u64,
    pub(super) settled: bool,
}

impl Place {
    /// Its number in the order of arrival; [`super::Call::ticket`] refers to it.
    #[must_use]
    pub fn ticket(&self) -> u64 {
        self.ticket
    }

    /// The gate.
    #[must_use]
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Asks for the gate's answer.
    #[must_use]
    pub fn claim(mut self) -> Claim {
        let answer = self.gate.lock().answers.remove(&self.ticket);
        match answer {
            None => Claim::Waiting(self),
            Some(Answer::Granted) => {
                self.settled = true;
                // Counted in when it was granted.
                Claim::Admitted(Admission::new(&self.gate))
            }
            Some(Answer::Refused(refusal)) => {
                self.settled = true;
                Claim::Refused(refusal)
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let mut inner = self.gate.lock();
        if let Some(waiting) = inner.parked.remove(&self.ticket) {
            inner.forget(&waiting);
            inner.hold.client_gone += 1;
            inner.counts.client_gone += 1;
            if inner.parked.is_empty() && matches!(inner.phase, Phase::Draining { .. }) {
                self.gate.open(&mut inner);
            }
            return;
        }
        let answer = inner.answers.remove(&self.ticket);
        drop(inner);
        if let Some(Answer::Granted) = answer {
            self.gate.count_out();
        }
    }
}
