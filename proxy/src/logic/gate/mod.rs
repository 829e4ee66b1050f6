//! The gate of one route: who is admitted, who is parked, and what a pause was like.
//!
//! ```text
//!            pause                  resume                last parked released
//!   Open ───────────► Paused ───────────────► Draining ───────────────► Open
//!    ▲                 │  ▲                      │
//!    └──── deadline ───┘  └──────── pause ───────┘        any ── remove ──► Removed
//! ```
//!
//! * Open: [`Gate::enter`] is one compare-and-swap on a word that holds the count of what is in
//!   flight and a "closed" bit. Count and bit change in one total order, so a pause is a
//!   barrier: once [`Gate::pause`] has returned, no worker is admitted by that path.
//! * Paused: arrivals are parked in order, within the limits; the rest is refused.
//! * Draining: the parked are granted entry oldest first, at a [`pace`]; arrivals go behind them.
//!   The last grant opens the gate.
//!
//! Whoever is admitted and finds no upstream waits for one in the gate's `crowd`; who goes next
//! of either is decided in `flow`. The order is that of arrival at the gate, kept by tickets:
//! sessions are called in it, over all workers. Of those who are under way at the same time, one
//! may overtake another whose worker is busy, or whose connection is slower; nobody else does.
//!
//! A gate is state that sessions read. What changes for a parked session is kept here until
//! its worker asks ([`Place::claim`]); a [`Call`] only tells the worker to ask now. This module
//! sends nothing but through its [`Bell`], and reads no clock.

mod crowd;
mod flow;
#[cfg(not(flocker_loom))]
#[cfg(test)]
mod flow_tests;
mod line;
#[cfg(flocker_loom)]
#[cfg(test)]
mod loom;
pub mod pace;
mod place;
mod report;
mod terms;
#[cfg(not(flocker_loom))]
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::metrics::RouteStats;
use flocker_api::gate::{HoldLimits, Token};

#[cfg(flocker_loom)]
use ::loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};
#[cfg(not(flocker_loom))]
use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};

pub use self::{
    crowd::Stand,
    flow::Arrival,
    line::Turn,
    place::{Admission, Claim, Entry, Place},
    terms::{Bell, Call, GateError, HoldCounts, HoldSummary, Pause, Quiet, Refusal, Seat, Visitor},
};

/// The bit of [`Gate::word`] that stops admission; those below it and [`BUSY`] count what is in
/// flight.
const CLOSED: u64 = 1 << 63;

use self::{
    crowd::Pass,
    flow::{BUSY, Flow},
};

/// Longest hold, whatever is asked for: a day.
const HOLD_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// See the module.
pub struct Gate {
    /// [`CLOSED`], [`BUSY`] and the count of what is in flight.
    word: AtomicU64,
    /// Made when it is needed: of a million routes most are never paused.
    inner: Mutex<Option<Box<Inner>>>,
    /// Goes up with each retarget; connections to old upstreams are not kept past one.
    aim: AtomicU64,
    bell: Arc<dyn Bell>,
    line: line::Line,
    /// What is counted for the route.
    pub stats: RouteStats,
}

#[derive(Default)]
struct Inner {
    phase: Phase,
    token: Token,
    ticket_next: u64,
    /// By ticket, hence in the order of arrival.
    parked: BTreeMap<u64, Waiting>,
    /// Answers that have not been claimed yet.
    answers: HashMap<u64, Answer>,
    per_client: HashMap<IpAddr, usize>,
    bytes: usize,
    hold: HoldSummary,
    counts: HoldCounts,
    closed: u64,
    /// Most routes never need it.
    flow: Option<Box<Flow>>,
    /// When whoever ticks it will come.
    watched: Option<Instant>,
}

#[derive(Default)]
enum Phase {
    #[default]
    Open,
    Paused {
        since: Instant,
        deadline: Instant,
        limits: HoldLimits,
    },
    Draining {
        limits: HoldLimits,
    },
    Removed,
}

struct Waiting {
    seat: Seat,
    client: IpAddr,
    bytes: usize,
    since: Instant,
}

#[derive(Clone, Copy)]
enum Answer {
    /// With this, if it goes at a pace.
    Granted(Option<Pass>),
    Refused(Refusal),
}

impl Gate {
    /// An open gate.
    #[must_use]
    pub fn new(bell: Arc<dyn Bell>) -> Self {
        Self {
            word: AtomicU64::new(0),
            inner: Mutex::new(None),
            aim: AtomicU64::new(0),
            bell,
            line: line::Line::default(),
            stats: RouteStats::default(),
        }
    }

    /// Admits, parks or refuses someone.
    pub fn enter(self: &Arc<Self>, visitor: Visitor, now: Instant) -> Entry {
        loop {
            if self.count_in() {
                return Entry::Admitted(Admission::new(self, visitor.ticket, None));
            }
            let mut inner = self.lock();
            match inner.phase {
                // Opened between the look at the word and the lock.
                Phase::Open => {}
                Phase::Removed => return Entry::Refused(Refusal::Removed),
                Phase::Paused { limits, .. } => return self.park(&mut inner, limits, visitor, now),
                Phase::Draining { limits } => {
                    return match self.park(&mut inner, limits, visitor, now) {
                        // While draining, to overtake is better than to be refused.
                        Entry::Refused(_) => Entry::Admitted(self.grant()),
                        other => other,
                    };
                }
            }
        }
    }

    fn park(
        self: &Arc<Self>,
        inner: &mut Inner,
        limits: HoldLimits,
        visitor: Visitor,
        now: Instant,
    ) -> Entry {
        let of_client = inner.per_client.get(&visitor.client).copied().unwrap_or(0);
        let refusal = if inner.parked.len() >= limits.sessions {
            Some(Refusal::Sessions)
        } else if inner.bytes.saturating_add(visitor.bytes) > limits.bytes {
            Some(Refusal::Bytes)
        } else if of_client >= limits.per_client {
            Some(Refusal::PerClient)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            if matches!(inner.phase, Phase::Paused { .. }) {
                inner.hold.refused += 1;
                inner.counts.refused_limit += 1;
            }
            return Entry::Refused(refusal);
        }
        let ticket = visitor.ticket.unwrap_or_else(|| inner.next_ticket());
        inner.bytes += visitor.bytes;
        *inner.per_client.entry(visitor.client).or_default() += 1;
        let waiting = Waiting {
            seat: visitor.seat,
            client: visitor.client,
            bytes: visitor.bytes,
            since: now,
        };
        inner.parked.insert(ticket, waiting);
        Entry::Parked(Place {
            gate: Arc::clone(self),
            ticket,
            settled: false,
        })
    }

    /// Stops admission: when this has returned, nobody is admitted any more. Repeated with the
    /// same token it renews the deadline; a newer token takes the pause over.
    ///
    /// # Errors
    /// Refuses a token older than the newest seen.
    pub fn pause(
        self: &Arc<Self>,
        token: Token,
        limits: HoldLimits,
        now: Instant,
    ) -> Result<(), GateError> {
        self.may_pause(token)?;
        let mut inner = self.lock();
        inner.token = token;
        let deadline = now + Duration::from_millis(limits.hold_ms.min(HOLD_MS_MAX));
        match &mut inner.phase {
            Phase::Paused {
                deadline: old_deadline,
                limits: old_limits,
                ..
            } => {
                *old_deadline = deadline;
                *old_limits = limits;
            }
            phase => {
                *phase = Phase::Paused {
                    since: now,
                    deadline,
                    limits,
                };
                inner.hold = HoldSummary::default();
                inner.closed = 0;
            }
        }
        self.word.fetch_or(CLOSED, Ordering::AcqRel);
        self.attend(&mut inner);
        Ok(())
    }

    /// Whether a pause with this token would be accepted.
    ///
    /// # Errors
    /// Refuses a token older than the newest seen.
    pub fn may_pause(&self, token: Token) -> Result<(), GateError> {
        let current = self.token();
        if token < current {
            return Err(GateError::StaleToken { current });
        }
        Ok(())
    }

    /// Whether a resume, switch or quiesce with this token would be accepted: the gate is paused
    /// by it, or was and nothing newer has come since.
    ///
    /// # Errors
    /// Says which token is current.
    pub fn may_resume(&self, token: Token) -> Result<(), GateError> {
        let current = self.token();
        if token < current {
            return Err(GateError::StaleToken { current });
        }
        // A gate that was never paused knows no token.
        if token > current || current == Token(0) {
            return Err(GateError::NotPaused {
                asked: token,
                current,
            });
        }
        Ok(())
    }

    /// Ends the pause; the parked are let go from the next [`Gate::proceed`] on. Repeated, it reports the
    /// same pause again.
    ///
    /// # Errors
    /// See [`Gate::may_resume`].
    pub fn resume(&self, token: Token, now: Instant) -> Result<HoldSummary, GateError> {
        self.may_resume(token)?;
        let mut inner = self.lock();
        if let Phase::Paused { since, limits, .. } = inner.phase {
            inner.phase = Phase::Draining { limits };
            inner.hold.paused = now.saturating_duration_since(since);
            inner.hold.released = inner.parked.len() as u64;
            inner.hold.longest_wait = inner.oldest_wait(now);
            inner.flow(now).pace.begin(now);
            if inner.parked.is_empty() {
                self.open(&mut inner);
            }
            self.bell.ring();
        }
        Ok(inner.hold)
    }

    /// Grants entry to the `count` oldest of the parked, at no pace, and says whom to call. The
    /// last grant opens the gate. Does nothing unless the gate is draining.
    pub fn release(&self, count: usize) -> Vec<Call> {
        let mut calls = Vec::new();
        self.let_in(&mut self.lock(), count, None, &mut calls);
        calls
    }

    /// Ends the pause if its deadline has passed: the parked are refused, the gate opens.
    pub fn lapse(&self, now: Instant) -> Vec<Call> {
        let mut inner = self.lock();
        let Phase::Paused {
            since, deadline, ..
        } = inner.phase
        else {
            return Vec::new();
        };
        if now < deadline {
            return Vec::new();
        }
        inner.hold.paused = now.saturating_duration_since(since);
        inner.hold.lapsed = true;
        inner.hold.longest_wait = inner.oldest_wait(now);
        let calls = inner.refuse_all(Refusal::Deadline);
        self.open(&mut inner);
        self.bell.ring();
        calls
    }

    /// When [`Gate::lapse`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.look(|inner| match inner.phase {
            Phase::Paused { deadline, .. } => Some(deadline),
            Phase::Open | Phase::Draining { .. } | Phase::Removed => None,
        })
    }

    /// The route is gone: the parked are refused, and whoever comes with an old table too.
    pub fn remove(&self) -> Vec<Call> {
        let mut inner = self.lock();
        let mut calls = inner.refuse_all(Refusal::Removed);
        // Those who wait for an upstream see for themselves that it is gone.
        if let Some(flow) = &mut inner.flow {
            calls.append(&mut flow.dismiss());
        }
        inner.phase = Phase::Removed;
        self.word.fetch_or(CLOSED, Ordering::AcqRel);
        self.bell.ring();
        calls
    }

    /// The route leads elsewhere now.
    pub fn retarget(&self) {
        self.aim.fetch_add(1, Ordering::AcqRel);
    }

    /// Changes with each retarget.
    #[must_use]
    pub fn aim(&self) -> u64 {
        self.aim.load(Ordering::Acquire)
    }

    /// How far the quiesce of this token's pause is.
    #[must_use]
    pub fn quiet(&self, token: Token) -> Quiet {
        let inner = self.lock();
        match inner.phase {
            Phase::Paused { .. } if inner.token == token => match self.in_flight() {
                0 => Quiet::Yes,
                count => Quiet::No(count),
            },
            _ => Quiet::Ended,
        }
    }

    /// Whether arrivals are parked.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.word.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Admitted and not yet done.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.word.load(Ordering::Acquire) & !(CLOSED | BUSY)
    }

    /// Counts an established session that was closed for this pause's quiesce.
    pub fn count_closed(&self) {
        self.lock().closed += 1;
    }

    /// Sessions closed for the quiesce of this pause.
    #[must_use]
    pub fn closed(&self) -> u64 {
        self.look(|inner| inner.closed)
    }

    /// Whether the latest pause ended at its own deadline.
    #[must_use]
    pub fn has_lapsed(&self) -> bool {
        self.look(|inner| inner.hold.lapsed)
    }

    /// Whether the parked are being let go.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.look(|inner| matches!(inner.phase, Phase::Draining { .. }))
    }

    /// The newest token seen.
    #[must_use]
    pub fn token(&self) -> Token {
        self.look(|inner| inner.token)
    }

    /// What became of everyone who was ever parked.
    #[must_use]
    pub fn counts(&self) -> HoldCounts {
        self.look(|inner| inner.counts)
    }

    /// Counts one in unless the gate is closed.
    fn count_in(&self) -> bool {
        let mut seen = self.word.load(Ordering::Acquire);
        while seen & CLOSED == 0 {
            match self.word.compare_exchange_weak(
                seen,
                seen + 1,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return true,
                Err(newer) => seen = newer,
            }
        }
        false
    }

    fn grant(self: &Arc<Self>) -> Admission {
        self.word.fetch_add(1, Ordering::AcqRel);
        Admission::new(self, None, None)
    }

    fn count_out(&self) {
        let before = self.word.fetch_sub(1, Ordering::AcqRel);
        if before & !BUSY == CLOSED + 1 {
            self.bell.ring();
        }
    }

    fn open(&self, inner: &mut Inner) {
        inner.phase = Phase::Open;
        self.word.fetch_and(!CLOSED, Ordering::AcqRel);
    }

    fn lock(&self) -> Locked<'_> {
        let mut guard = self.lock_as_is();
        if guard.is_none() {
            *guard = Some(Box::default());
        }
        Locked(guard)
    }

    /// Looks at what there is, without making it.
    fn look<A>(&self, at: impl FnOnce(&Inner) -> A) -> A {
        match self.lock_as_is().as_deref() {
            Some(inner) => at(inner),
            None => at(&Inner::default()),
        }
    }

    fn lock_as_is(&self) -> MutexGuard<'_, Option<Box<Inner>>> {
        // A panic while it is held is a broken invariant of ours; the counters are still
        // better than no route at all.
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What is behind the lock; it has been made.
struct Locked<'g>(MutexGuard<'g, Option<Box<Inner>>>);

impl Deref for Locked<'_> {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        self.0.as_deref().expect("made when it was locked")
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Inner {
        self.0.as_deref_mut().expect("made when it was locked")
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate")
            .field("closed", &self.is_closed())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn oldest_wait(&self, now: Instant) -> Duration {
        self.parked
            .first_key_value()
            .map_or(Duration::ZERO, |(_, waiting)| {
                now.saturating_duration_since(waiting.since)
            })
    }

    fn forget(&mut self, waiting: &Waiting) {
        self.bytes -= waiting.bytes;
        if let Some(count) = self.per_client.get_mut(&waiting.client) {
            *count -= 1;
            if *count == 0 {
                self.per_client.remove(&waiting.client);
            }
        }
    }

    fn refuse_all(&mut self, refusal: Refusal) -> Vec<Call> {
        let parked = std::mem::take(&mut self.parked);
        let mut calls = Vec::with_capacity(parked.len());
        for (ticket, waiting) in parked {
            self.forget(&waiting);
            self.answers.insert(ticket, Answer::Refused(refusal));
            self.hold.refused += 1;
            self.counts.refused_deadline += 1;
            calls.push(Call {
                seat: waiting.seat,
                ticket,
            });
        }
        calls
    }
}
