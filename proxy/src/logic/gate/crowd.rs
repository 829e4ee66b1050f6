//! Those who are admitted and wait for an upstream of the route to come up.
//!
//! ```text
//!            one has failed                    one got through              nobody waits
//!    Up ─────────────────────► Down (probing) ─────────────────► Up, paced ──────────────► Up
//!                                ▲   │ failed                       │
//!                                └───┘◄─────────────────────────────┘ one has failed
//! ```
//!
//! Each of them trying for itself would be a storm of connects where there is nobody, and still
//! most would come late. So the oldest is called every few milliseconds and tries; once one got
//! through, the others are called oldest first, at the gate's [`super::pace`]. Arrivals stand
//! behind them. Everyone is in the order in which they came to the gate, parked before or not.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Admission, Gate, Inner, Seat};

/// Shortest time between two attempts.
pub(super) const PROBE_MIN: Duration = Duration::from_millis(10);
/// Longest time between two attempts.
const PROBE_MAX: Duration = Duration::from_millis(100);
/// An attempt is made each time the wait has grown by one part in so many.
const PROBE_PARTS: u32 = 50;
/// So many may try at once: a host that does not answer keeps them hanging.
const PROBES_MAX: usize = 4;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    /// By ticket, hence in the order of arrival.
    waiting: BTreeMap<u64, Seat>,
    /// Who was called and has not come yet; with nothing if the route is gone.
    called: HashMap<u64, Option<Pass>>,
    upstreams: Upstreams,
}

#[derive(Debug, Default)]
enum Upstreams {
    #[default]
    Up,
    Down {
        since: Instant,
        probe_at: Instant,
        probing: usize,
    },
}

/// What someone goes with who was called: its part in the pace is given back when it is answered
/// or gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pass {
    pub(super) went: Instant,
    pub(super) errand: Errand,
}

/// What it goes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Errand {
    /// To see whether anyone is there.
    Probe,
    /// For itself, and is not connected yet.
    Connect,
    /// For itself, and waits for an answer.
    Answer,
}

/// A place in the crowd; dropping it leaves.
#[derive(Debug)]
pub struct Stand {
    gate: Arc<Gate>,
    ticket: u64,
    gone: bool,
}

impl Crowd {
    /// Whether arrivals stand behind others.
    pub(super) fn is_busy(&self) -> bool {
        self.is_down() || !self.waiting.is_empty()
    }

    pub(super) fn is_down(&self) -> bool {
        matches!(self.upstreams, Upstreams::Down { .. })
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn first(&self) -> Option<u64> {
        self.waiting.first_key_value().map(|(ticket, _)| *ticket)
    }

    /// Takes the oldest out, which is called to go with this.
    pub(super) fn call_first(&mut self, pass: Option<Pass>) -> Option<(u64, Seat)> {
        let (ticket, seat) = self.waiting.pop_first()?;
        self.called.insert(ticket, pass);
        Some((ticket, seat))
    }

    /// One has failed. A probe says when the next may go.
    pub(super) fn failed(&mut self, errand: Option<Errand>, now: Instant) {
        match &mut self.upstreams {
            Upstreams::Up => {
                self.upstreams = Upstreams::Down {
                    since: now,
                    probe_at: now + PROBE_MIN,
                    probing: 0,
                };
            }
            Upstreams::Down {
                since,
                probe_at,
                probing,
            } => {
                if errand == Some(Errand::Probe) {
                    *probing = probing.saturating_sub(1);
                    let age = now.saturating_duration_since(*since);
                    *probe_at = now + (age / PROBE_PARTS).clamp(PROBE_MIN, PROBE_MAX);
                }
            }
        }
    }

    /// A probe has come to nothing: another may go at once.
    pub(super) fn probe_lost(&mut self) {
        if let Upstreams::Down {
            probe_at,
            probing,
            since,
        } = &mut self.upstreams
        {
            *probing = probing.saturating_sub(1);
            *probe_at = *since;
        }
        self.settle();
    }

    /// One got through. Whether nobody had before.
    pub(super) fn came_up(&mut self) -> bool {
        let was_down = self.is_down();
        self.upstreams = Upstreams::Up;
        was_down
    }

    /// Calls whoever shall try now.
    pub(super) fn probe(&mut self, now: Instant) -> Option<(u64, Seat)> {
        let Upstreams::Down {
            probe_at, probing, ..
        } = &mut self.upstreams
        else {
            return None;
        };
        if now < *probe_at || *probing >= PROBES_MAX || self.waiting.is_empty() {
            return None;
        }
        *probing += 1;
        // Unless it fails before.
        *probe_at = now + PROBE_MAX;
        self.call_first(Some(Pass {
            went: now,
            errand: Errand::Probe,
        }))
    }

    /// When to look again whether someone shall try.
    pub(super) fn due(&self) -> Option<Instant> {
        match &self.upstreams {
            Upstreams::Down {
                probe_at, probing, ..
            } if *probing < PROBES_MAX && !self.waiting.is_empty() => Some(*probe_at),
            _ => None,
        }
    }

    /// When nobody is left who could find out, arrivals try for themselves again.
    fn settle(&mut self) {
        if let Upstreams::Down { probing: 0, .. } = self.upstreams
            && self.waiting.is_empty()
        {
            self.upstreams = Upstreams::Up;
        }
    }
}

impl Gate {
    fn stand(
        self: &Arc<Self>,
        inner: &mut Inner,
        ticket: Option<u64>,
        seat: Seat,
        now: Instant,
    ) -> Stand {
        let ticket = ticket.unwrap_or_else(|| inner.next_ticket());
        inner.flow(now).crowd.waiting.insert(ticket, seat);
        self.note_crowd(inner);
        self.attend(inner);
        Stand {
            gate: Arc::clone(self),
            ticket,
            gone: false,
        }
    }
}

impl Admission {
    /// It has tried, in vain: it waits with others, oldest first.
    #[must_use]
    pub fn fall_back(&mut self, seat: Seat, now: Instant) -> Stand {
        self.give_up_lease();
        let (ticket, pass) = (self.ticket(), self.take_pass());
        let mut inner = self.gate.lock();
        let flow = inner.flow(now);
        if let Some(pass) = pass.filter(|pass| pass.errand != Errand::Probe) {
            flow.pace.gave_back(pass.errand == Errand::Answer);
        }
        flow.crowd.failed(pass.map(|pass| pass.errand), now);
        let stand = self.gate.stand(&mut inner, ticket, seat, now);
        drop(inner);
        self.note(stand.ticket, None);
        stand
    }

    /// It has just come: it stands behind those who wait for an upstream, if there are any.
    #[must_use]
    pub fn queue_up(&mut self, seat: Seat, now: Instant) -> Option<Stand> {
        let mut inner = self.gate.lock();
        if !inner.flow(now).crowd.is_busy() {
            return None;
        }
        let stand = self.gate.stand(&mut inner, self.ticket(), seat, now);
        drop(inner);
        self.note(stand.ticket, None);
        Some(stand)
    }
}

impl Stand {
    /// Its ticket; [`super::Call::ticket`] refers to it.
    #[must_use]
    pub fn ticket(&self) -> u64 {
        self.ticket
    }

    /// It was called, and goes.
    pub fn go(mut self, admission: &mut Admission) {
        let mut inner = self.gate.lock();
        let pass = match &mut inner.flow {
            Some(flow) => flow.crowd.called.remove(&self.ticket),
            None => None,
        };
        drop(inner);
        self.gone = pass.is_some();
        admission.note(self.ticket, pass.flatten());
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        let mut inner = self.gate.lock();
        let Some(flow) = &mut inner.flow else { return };
        if flow.crowd.waiting.remove(&self.ticket).is_some() {
            flow.crowd.settle();
            self.gate.note_crowd(&inner);
        } else if let Some(Some(pass)) = flow.crowd.called.remove(&self.ticket) {
            self.gate.take_back(&mut inner, pass);
        }
    }
}
