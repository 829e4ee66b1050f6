//! Connecting an upstream: one after the other of those that may serve, then all of them again
//! after a pause that grows, until the hold is over. An app that restarts looks slow, not broken.
//! Who waits for the same route takes turns ([`super::crowd`]).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{ConnectFailure, Cx, crowd::Ticket};
use crate::logic::{
    balance::Tried,
    gate::{Gate, Seat, Turn},
};

/// First pause between two rounds through a route's upstreams.
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
    /// Its mark among those that wait for the same route.
    pub ticket: Option<Ticket>,
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
            ticket: None,
            turn: None,
        }
    }

    /// Waits with others, after [`Next::Wait`]: the one that has tried last tries soon again.
    pub(crate) fn wait_with_others(
        &mut self,
        gate: &Arc<Gate>,
        failure: ConnectFailure,
        cx: &mut Cx<'_>,
    ) {
        // In line, one is called. Without descriptors a quick attempt would only take one from another session.
        if matches!(failure, ConnectFailure::NoResources | ConnectFailure::Full) {
            return;
        }
        let (ticket, soon) = cx.crowds.failed(gate, cx.seat.slot, self.ticket, cx.now);
        self.ticket = Some(ticket);
        self.again_at = self.again_at.map(|at| at.min(soon));
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

    /// Whether a call is for its place in the line.
    pub(crate) fn is_called(&self, ticket: u64) -> bool {
        let turn = self.turn.as_ref();
        turn.is_some_and(|turn| turn.ticket() == ticket)
    }

    /// It has an upstream to try.
    pub(crate) fn found(&mut self) {
        if let Some(turn) = self.turn.take() {
            turn.done();
        }
    }

    /// Another has got through: it is no longer among those that wait.
    pub(crate) fn woken(&mut self) {
        self.again_at = None;
        self.ticket = None;
    }

    /// Its timer has come: whether to try, or to leave it to another and wait on.
    pub(crate) fn may_try(&mut self, gate: &Arc<Gate>, cx: &mut Cx<'_>) -> bool {
        let over = cx.now >= self.until;
        if over || self.ticket.is_none() || cx.crowds.may_try(gate, cx.now) {
            self.again_at = None;
            return true;
        }
        self.again_at = Some((cx.now + self.backoff).min(self.until));
        false
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
