//! Connecting an upstream: one after the other of those that may serve, then all of them again
//! when the gate calls ([`crate::logic::gate::Stand`]), until the hold is over. An app that
//! restarts looks slow, not broken.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{ConnectFailure, Cx};
use crate::logic::{
    balance::Tried,
    gate::{Admission, Gate, Seat, Stand, Turn},
};

/// First pause between two rounds through a route's upstreams, for want of descriptors.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// Longest pause between two rounds.
const BACKOFF_MAX: Duration = Duration::from_millis(250);

/// The state of a connect.
#[derive(Debug)]
pub struct Dial {
    /// Which upstreams were tried in this round.
    pub tried: Tried,
    /// When to give up.
    until: Instant,
    backoff: Duration,
    /// When to go on, while pausing.
    pub again_at: Option<Instant>,
    /// Its place among those that wait for an upstream to come up.
    stand: Option<Box<Stand>>,
    /// It was called: a connection may have come free.
    called: bool,
    /// Its place in the line for an upstream that has room.
    turn: Option<Box<Turn>>,
}

/// What to do after a failed connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Try the next upstream.
    Now,
    /// Wait until [`Dial::again_at`].
    Wait,
    /// Tell the client.
    GiveUp,
}

impl Dial {
    /// A first attempt.
    #[must_use]
    pub fn new(now: Instant, hold: Duration) -> Self {
        Self {
            tried: Tried::default(),
            until: now + hold,
            backoff: BACKOFF_MIN,
            again_at: None,
            stand: None,
            called: false,
            turn: None,
        }
    }

    /// Waits with others, after [`Next::Wait`], until it is called or the hold is over.
    pub(crate) fn wait_with_others(
        &mut self,
        admission: &mut Admission,
        failure: ConnectFailure,
        cx: &Cx<'_>,
    ) {
        // In line, one is called. Want of descriptors is ours, and says nothing of the upstream.
        if matches!(failure, ConnectFailure::NoResources | ConnectFailure::Full) {
            return;
        }
        self.stand = Some(Box::new(admission.fall_back(cx.seat, cx.now)));
        self.again_at = Some(self.until);
    }

    /// Waits behind others that wait already, if there are any.
    pub(crate) fn queue_up(&mut self, admission: &mut Admission, cx: &Cx<'_>) -> bool {
        self.stand = admission.queue_up(cx.seat, cx.now).map(Box::new);
        self.again_at = self.stand.as_ref().map(|_| self.until);
        self.called = self.stand.is_none();
        self.stand.is_some()
    }

    /// Its turn has come.
    pub(crate) fn go(&mut self, admission: &mut Admission) {
        self.again_at = None;
        if let Some(stand) = self.stand.take() {
            stand.go(admission);
        }
        self.called = true;
    }

    /// Its timer has come: it waits no longer.
    pub(crate) fn go_uncalled(&mut self) {
        self.again_at = None;
        self.stand = None;
    }

    /// Stands in the line of a route whose upstreams are full; whoever stands there stays where
    /// he is.
    pub(crate) fn line_up(
        &mut self,
        gate: &Arc<Gate>,
        seat: Seat,
        most: usize,
        now: Instant,
    ) -> Next {
        if now >= self.until {
            return Next::GiveUp;
        }
        match &self.turn {
            Some(turn) => turn.again(),
            None => self.turn = gate.line_up(seat, most).map(Box::new),
        }
        if self.turn.is_none() {
            return Next::GiveUp;
        }
        self.again_at = Some((now + BACKOFF_MAX).min(self.until));
        Next::Wait
    }

    /// Whether it stands in a line.
    pub(crate) fn is_in_line(&self) -> bool {
        self.turn.is_some()
    }

    /// Whether a connection may have come free for it.
    pub(crate) fn was_called(&self) -> bool {
        self.called
    }

    /// Whether a call is for its place.
    pub(crate) fn is_called(&self, ticket: u64) -> bool {
        let turn = self.turn.as_ref().map(|turn| turn.ticket());
        let stand = self.stand.as_ref().map(|stand| stand.ticket());
        turn.or(stand) == Some(ticket)
    }

    /// It has an upstream to try.
    pub(crate) fn found(&mut self) {
        if let Some(turn) = self.turn.take() {
            turn.done();
        }
    }

    /// An attempt failed; there may be more upstreams that were not tried in this round.
    pub fn failed(&mut self, more: bool, failure: ConnectFailure, now: Instant) -> Next {
        if now >= self.until {
            return Next::GiveUp;
        }
        if more && failure != ConnectFailure::NoResources {
            return Next::Now;
        }
        // Time does not mend a certificate.
        if failure == ConnectFailure::Untrusted {
            return Next::GiveUp;
        }
        self.tried = Tried::default();
        self.called = false;
        // No use in waking after the hold: the last attempt is made at its end.
        self.again_at = Some((now + self.backoff).min(self.until));
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        Next::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_are_tried_in_turn_then_with_growing_pauses_until_the_hold_is_over() {
        let start = crate::logic::test_clock();
        let mut dial = Dial::new(start, Duration::from_millis(100));
        let mut now = start;
        assert_eq!(dial.failed(true, ConnectFailure::Refused, now), Next::Now);
        assert_eq!(dial.failed(false, ConnectFailure::Refused, now), Next::Wait);
        let mut pauses = vec![];
        loop {
            let at = dial.again_at.take().unwrap();
            pauses.push(at - now);
            now = at;
            if dial.failed(false, ConnectFailure::Refused, now) == Next::GiveUp {
                break;
            }
        }
        assert_eq!(now - start, Duration::from_millis(100));
        assert_eq!(pauses[0], BACKOFF_MIN);
        assert_eq!(pauses[1], BACKOFF_MIN * 2);
    }
}
