//! What a gate tells of itself: to an operator, and to the process that goes on in its place.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use flocker_api::gate::{GateState, GateStatus, Token};

use super::{CLOSED, Gate, HOLD_MS_MAX, Inner, Ordering, Pause, Phase};

impl Gate {
    /// The gate for an operator.
    #[must_use]
    pub fn status(&self, now: Instant) -> GateStatus {
        self.look(|inner| self.status_of(inner, now))
    }

    fn status_of(&self, inner: &Inner, now: Instant) -> GateStatus {
        let (state, paused) = match inner.phase {
            Phase::Open | Phase::Removed => (GateState::Open, None),
            Phase::Draining { .. } => (GateState::Draining, None),
            Phase::Paused {
                deadline, limits, ..
            } => (GateState::Paused, Some((deadline, limits))),
        };
        GateStatus {
            state,
            token: inner.token,
            in_flight: self.in_flight(),
            parked: inner.parked.len() as u64,
            parked_bytes: inner.bytes as u64,
            oldest_wait_ms: millis(inner.oldest_wait(now)),
            lapses_in_ms: paused
                .map(|(deadline, _)| millis(deadline.saturating_duration_since(now))),
            limits: paused.map(|(_, limits)| limits),
        }
    }

    /// What another process must know of it, unless it was never paused: the newest token,
    /// and a pause that is under way.
    #[must_use]
    pub fn bequeath(&self, now: Instant) -> Option<(Token, Option<Pause>)> {
        self.look(|inner| inner.bequeath(now))
    }

    /// Goes on where the gate of another process was.
    pub fn inherit(self: &Arc<Self>, token: Token, paused: Option<&Pause>, now: Instant) {
        let mut inner = self.lock();
        inner.token = inner.token.max(token);
        if let Some(pause) = paused {
            let ms = Duration::from_millis;
            inner.phase = Phase::Paused {
                since: now.checked_sub(ms(pause.for_ms)).unwrap_or(now),
                deadline: now + ms(pause.left_ms.min(HOLD_MS_MAX)),
                limits: pause.limits,
            };
            self.word.fetch_or(CLOSED, Ordering::AcqRel);
            self.attend(&mut inner);
        }
    }
}

impl Inner {
    fn bequeath(&self, now: Instant) -> Option<(Token, Option<Pause>)> {
        if self.token == Token(0) {
            return None;
        }
        let paused = match self.phase {
            Phase::Paused {
                since,
                deadline,
                limits,
            } => Some(Pause {
                for_ms: millis(now.saturating_duration_since(since)),
                left_ms: millis(deadline.saturating_duration_since(now)),
                limits,
            }),
            Phase::Open | Phase::Draining { .. } | Phase::Removed => None,
        };
        Some((self.token, paused))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
