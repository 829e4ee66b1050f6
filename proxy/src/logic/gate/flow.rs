//! Who goes next, and when: one order and one pace for the parked of a resume and for those who
//! wait for an upstream, shared by the workers.
//!
//! Whoever is called goes with a pass, which comes back when it is answered, or gives up; then the
//! next is called. What comes of time alone (a deadline, a probe, the pace in a silence) is done
//! by [`Gate::tick`], which a worker calls when the gate has asked for it ([`super::Bell::watch`]).

use std::{sync::Arc, time::Instant};

use super::{
    Admission, Answer, Call, Gate, Inner, Ordering, Phase,
    crowd::{Crowd, Errand, Pass},
    pace::Pace,
};

/// The bit of [`Gate::word`] that says that arrivals stand behind others who wait for an upstream.
pub(super) const BUSY: u64 = 1 << 62;

/// What a gate needs once anyone was let go by it, or had to wait for an upstream.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) crowd: Crowd,
    pub(super) pace: Pace,
}

impl Flow {
    /// Calls everyone who waits for an upstream, out of any pace.
    pub(super) fn dismiss(&mut self) -> Vec<Call> {
        let mut calls = Vec::new();
        while let Some((ticket, seat)) = self.crowd.call_first(None) {
            calls.push(Call { seat, ticket });
        }
        calls
    }
}

impl Gate {
    /// Does what is due at this time, and says when to come again; `None` until the bell says so.
    pub fn tick(self: &Arc<Self>, now: Instant) -> Option<Instant> {
        self.lock().watched = Some(now);
        self.proceed(now);
        let mut inner = self.lock();
        inner.watched = inner.due();
        inner.watched
    }

    /// Does what is due at this time.
    pub fn proceed(self: &Arc<Self>, now: Instant) {
        let lapsed = self.lapse(now);
        if !lapsed.is_empty() {
            self.bell.call(lapsed);
        }
        let mut inner = self.lock();
        if let Some(flow) = &mut inner.flow {
            flow.pace.tick(now);
        }
        self.advance(&mut inner, now);
    }

    /// Nobody ticks it any more: whoever else can, shall.
    pub fn unwatched(self: &Arc<Self>) {
        let mut inner = self.lock();
        inner.watched = None;
        self.attend(&mut inner);
    }

    /// Has the gate ticked in time, if it is not already to be.
    pub(super) fn attend(self: &Arc<Self>, inner: &mut Inner) {
        let Some(due) = inner.due() else { return };
        if inner.watched.is_none_or(|at| due < at) {
            inner.watched = Some(due);
            self.bell.watch(self);
        }
    }

    /// Whether arrivals stand behind others who wait for an upstream.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.word.load(Ordering::Acquire) & BUSY != 0
    }

    pub(super) fn note_crowd(&self, inner: &Inner) {
        let busy = inner.flow.as_ref().is_some_and(|flow| flow.crowd.is_busy());
        match busy {
            true => self.word.fetch_or(BUSY, Ordering::AcqRel),
            false => self.word.fetch_and(!BUSY, Ordering::AcqRel),
        };
    }

    /// Calls whoever may go now, in the order of arrival. They are told under the lock, so that
    /// every worker hears of its own in that order.
    fn advance(self: &Arc<Self>, inner: &mut Inner, now: Instant) {
        let mut calls = Vec::new();
        if inner.is_down() {
            // Those who were parked wait for the upstream with the others, in their order.
            self.let_in(inner, usize::MAX, None, &mut calls);
            let probe = inner.flow(now).crowd.probe(now);
            calls.extend(probe.map(|(ticket, seat)| Call { seat, ticket }));
        } else if inner.waiting() > 0 {
            self.call_at_pace(inner, now, &mut calls);
        }
        self.note_crowd(inner);
        if !calls.is_empty() {
            self.bell.call(calls);
        }
        self.attend(inner);
    }

    fn call_at_pace(&self, inner: &mut Inner, now: Instant, calls: &mut Vec<Call>) {
        let pass = Pass {
            went: now,
            errand: Errand::Connect,
        };
        let waiting = inner.waiting();
        for _ in 0..inner.flow(now).pace.room(waiting, now) {
            let parked = inner.parked_first();
            let flow = inner.flow(now);
            flow.pace.went();
            let first = flow.crowd.first();
            if first.is_some_and(|first| parked.is_none_or(|parked| first < parked)) {
                let called = flow.crowd.call_first(Some(pass));
                calls.extend(called.map(|(ticket, seat)| Call { seat, ticket }));
            } else {
                self.let_in(inner, 1, Some(pass), calls);
            }
        }
    }

    /// Grants entry to the oldest of the parked, while the gate is draining. The last opens it.
    pub(super) fn let_in(
        &self,
        inner: &mut Inner,
        count: usize,
        pass: Option<Pass>,
        calls: &mut Vec<Call>,
    ) {
        let Phase::Draining { .. } = inner.phase else {
            return;
        };
        for _ in 0..count {
            let Some((ticket, waiting)) = inner.parked.pop_first() else {
                break;
            };
            inner.forget(&waiting);
            inner.counts.released += 1;
            inner.answers.insert(ticket, Answer::Granted(pass));
            self.word.fetch_add(1, Ordering::AcqRel);
            calls.push(Call {
                seat: waiting.seat,
                ticket,
            });
        }
        if inner.parked.is_empty() {
            self.open(inner);
        }
    }

    /// A pass comes back from someone who has shown nothing of the upstream.
    pub(super) fn take_back(self: &Arc<Self>, inner: &mut Inner, pass: Pass) {
        if let Some(flow) = &mut inner.flow {
            match pass.errand {
                Errand::Probe => flow.crowd.probe_lost(),
                Errand::Connect | Errand::Answer => {
                    flow.pace.gave_back(pass.errand == Errand::Answer);
                }
            }
        }
        self.note_crowd(inner);
        if inner.waiting() > 0 {
            // The next goes at once: whoever watches it knows the time.
            self.bell.watch(self);
        }
    }
}

impl Inner {
    pub(super) fn flow(&mut self, now: Instant) -> &mut Flow {
        self.flow.get_or_insert_with(|| {
            Box::new(Flow {
                crowd: Crowd::default(),
                pace: Pace::new(now),
            })
        })
    }

    fn is_down(&self) -> bool {
        self.flow.as_ref().is_some_and(|flow| flow.crowd.is_down())
    }

    pub(super) fn next_ticket(&mut self) -> u64 {
        let ticket = self.ticket_next;
        self.ticket_next += 1;
        ticket
    }

    fn parked_first(&self) -> Option<u64> {
        match self.phase {
            Phase::Draining { .. } => self.parked.first_key_value().map(|(ticket, _)| *ticket),
            Phase::Open | Phase::Paused { .. } | Phase::Removed => None,
        }
    }

    /// Who would be called if there were room.
    fn waiting(&self) -> usize {
        let parked = match self.phase {
            Phase::Draining { .. } => self.parked.len(),
            Phase::Open | Phase::Paused { .. } | Phase::Removed => 0,
        };
        parked + self.flow.as_ref().map_or(0, |flow| flow.crowd.len())
    }

    /// When something is to be done by time.
    fn due(&self) -> Option<Instant> {
        let deadline = match self.phase {
            Phase::Paused { deadline, .. } => Some(deadline),
            Phase::Open | Phase::Draining { .. } | Phase::Removed => None,
        };
        let flow = self.flow.as_ref();
        let probe = flow.and_then(|flow| flow.crowd.due());
        let paced = !self.is_down() && self.waiting() > 0;
        let look = flow.filter(|_| paced).map(|flow| flow.pace.look_at());
        [deadline, probe, look].into_iter().flatten().min()
    }
}

impl Admission {
    /// Whether it was let in to wait for an upstream with others.
    #[must_use]
    pub fn has_to_wait(&self) -> bool {
        self.pass().is_none() && self.gate.is_busy()
    }

    /// It has a connection. `fresh` says that this is a new one, which the upstream may not have
    /// accepted yet.
    pub fn connected(&mut self, fresh: bool, now: Instant) {
        if self.pass().is_none() && !self.gate.is_busy() {
            return;
        }
        let gate = Arc::clone(&self.gate);
        let mut inner = gate.lock();
        let flow = inner.flow(now);
        if flow.crowd.came_up() {
            flow.pace.begin(now);
        }
        if let (Some(ticket), Some(mut pass)) = (self.ticket(), self.take_pass()) {
            if pass.errand == Errand::Probe {
                flow.pace.went();
                pass.errand = Errand::Connect;
            }
            match fresh {
                true => {
                    if pass.errand == Errand::Connect {
                        flow.pace.connected();
                    }
                    pass.errand = Errand::Answer;
                    self.note(ticket, Some(pass));
                }
                false => flow.pace.gave_back(pass.errand == Errand::Answer),
            }
        }
        gate.advance(&mut inner, now);
    }

    /// The upstream has said something: it has accepted the connection.
    pub fn answered(&mut self, now: Instant) {
        let Some(pass) = self.take_pass() else {
            return;
        };
        let mut inner = self.gate.lock();
        let took = now.saturating_duration_since(pass.went);
        inner.flow(now).pace.answered(took, now);
        self.gate.advance(&mut inner, now);
    }

    /// Its place in the order of arrival, in case it has to wait again.
    #[must_use]
    pub fn arrival(&self) -> Option<Arrival> {
        self.ticket().map(|ticket| Arrival {
            gate: Arc::clone(&self.gate),
            ticket,
        })
    }
}

/// When someone came to a gate where it had to wait.
#[derive(Debug)]
pub struct Arrival {
    gate: Arc<Gate>,
    ticket: u64,
}

impl Arrival {
    /// Its ticket, if it is of this gate.
    #[must_use]
    pub fn at(&self, gate: &Arc<Gate>) -> Option<u64> {
        Arc::ptr_eq(&self.gate, gate).then_some(self.ticket)
    }
}
