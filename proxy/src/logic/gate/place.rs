//! What a visitor holds: an admission, or a place among the parked. Dropping either gives it
//! back, whatever else goes wrong.

use std::sync::Arc;

use super::{Answer, Gate, Phase, Refusal, crowd::Pass};
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
    pub(super) gate: Arc<Gate>,
    /// The upstream that it uses.
    lease: Option<Lease>,
    /// Most never had to wait.
    waited: Option<Box<Waited>>,
}

#[derive(Debug)]
struct Waited {
    /// Its place in the order of arrival.
    ticket: u64,
    /// What it goes with, if it was called.
    pass: Option<Pass>,
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

    /// It has no upstream any more.
    pub(super) fn give_up_lease(&mut self) {
        let lease = self.lease.take();
        self.give_back(lease);
    }

    fn give_back(&self, lease: Option<Lease>) {
        if lease.is_some() {
            drop(lease);
            self.gate.call_next();
        }
    }

    pub(super) fn new(gate: &Arc<Gate>, ticket: Option<u64>, pass: Option<Pass>) -> Self {
        Self {
            gate: Arc::clone(gate),
            lease: None,
            waited: ticket.map(|ticket| Box::new(Waited { ticket, pass })),
        }
    }

    /// Its place in the order of arrival, if it ever had to wait.
    pub(super) fn ticket(&self) -> Option<u64> {
        self.waited.as_ref().map(|waited| waited.ticket)
    }

    /// What it goes with, if it was called.
    pub(super) fn pass(&self) -> Option<Pass> {
        self.waited.as_ref()?.pass
    }

    pub(super) fn take_pass(&mut self) -> Option<Pass> {
        self.waited.as_mut()?.pass.take()
    }

    /// It waits with this ticket, or goes with this pass.
    pub(super) fn note(&mut self, ticket: u64, pass: Option<Pass>) {
        match &mut self.waited {
            Some(waited) => **waited = Waited { ticket, pass },
            None => self.waited = Some(Box::new(Waited { ticket, pass })),
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.give_up_lease();
        if let Some(pass) = self.take_pass() {
            self.gate.take_back(&mut self.gate.lock(), pass);
        }
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
            Some(Answer::Granted(pass)) => {
                self.settled = true;
                // Counted in when it was granted.
                Claim::Admitted(Admission::new(&self.gate, Some(self.ticket), pass))
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
        if let Some(Answer::Granted(pass)) = answer {
            if let Some(pass) = pass {
                self.gate.take_back(&mut inner, pass);
            }
            drop(inner);
            self.gate.count_out();
        }
    }
}
