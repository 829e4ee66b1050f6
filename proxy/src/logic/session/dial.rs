//! Connecting an upstream: its addresses in turn, then all of them again after a pause that
//! grows, until the hold is over. An app that restarts looks slow, not broken.

use std::time::{Duration, Instant};

use super::ConnectFailure;

/// First pause between two rounds through a route's addresses.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// Longest pause between two rounds.
const BACKOFF_MAX: Duration = Duration::from_millis(250);

/// The state of a connect.
#[derive(Debug, Clone, Copy)]
pub struct Dial {
    /// Failed attempts so far; also which of the addresses is next.
    pub attempt: usize,
    /// When to give up.
    until: Instant,
    backoff: Duration,
    /// When to go on, while pausing.
    pub again_at: Option<Instant>,
}

/// What to do after a failed connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Try the next address.
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
            attempt: 0,
            until: now + hold,
            backoff: BACKOFF_MIN,
            again_at: None,
        }
    }

    /// An attempt failed on a route with this many upstreams.
    pub fn failed(&mut self, upstreams: usize, failure: ConnectFailure, now: Instant) -> Next {
        self.attempt += 1;
        if now >= self.until {
            return Next::GiveUp;
        }
        let round_over = self.attempt.is_multiple_of(upstreams.max(1));
        if !round_over && failure != ConnectFailure::NoResources {
            return Next::Now;
        }
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
    fn addresses_are_tried_in_turn_then_with_growing_pauses_until_the_hold_is_over() {
        let start = crate::logic::test_clock();
        let mut dial = Dial::new(start, Duration::from_millis(100));
        let mut now = start;
        assert_eq!(dial.failed(2, ConnectFailure::Refused, now), Next::Now);
        assert_eq!(dial.failed(2, ConnectFailure::Refused, now), Next::Wait);
        let mut pauses = vec![];
        loop {
            let at = dial.again_at.take().unwrap();
            pauses.push(at - now);
            now = at;
            if dial.failed(1, ConnectFailure::Refused, now) == Next::GiveUp {
                break;
            }
        }
        assert_eq!(now - start, Duration::from_millis(100));
        assert_eq!(pauses[0], BACKOFF_MIN);
        assert_eq!(pauses[1], BACKOFF_MIN * 2);
    }
}
