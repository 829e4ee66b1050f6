//! Deadlines of one worker: a heap with at most one live entry per session.
//!
//! Most deadlines only move later (each request of a kept connection moves it), so an entry
//! that fires too early is pushed again; nothing is ever searched or removed.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

/// What fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// A session's deadline: slot and serial number.
    Session(usize, u64),
    /// Time to look through the idle upstream connections.
    Sweep,
    /// Accepting was suspended for want of descriptors.
    Accept,
    /// A gate's time, by its name.
    Gate(usize),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Timers(BinaryHeap<Reverse<(Instant, Alarm)>>);

impl Timers {
    /// Fires `alarm` at `at`.
    pub fn set(&mut self, at: Instant, alarm: Alarm) {
        self.0.push(Reverse((at, alarm)));
    }

    /// The next that is due.
    pub fn pop(&mut self, now: Instant) -> Option<Alarm> {
        match self.0.peek() {
            Some(Reverse((at, _))) if *at <= now => self.0.pop().map(|Reverse((_, alarm))| alarm),
            _ => None,
        }
    }

    /// Time until the next is due.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        self.0
            .peek()
            .map(|Reverse((at, _))| at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_fire_in_order_and_not_before_their_time() {
        let start = crate::logic::test_clock();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::default();
        timers.set(at(20), Alarm::Sweep);
        timers.set(at(10), Alarm::Session(1, 1));
        assert_eq!(timers.wait(start), Some(Duration::from_millis(10)));
        assert_eq!(timers.pop(at(9)), None);
        assert_eq!(timers.pop(at(30)), Some(Alarm::Session(1, 1)));
        assert_eq!(timers.pop(at(30)), Some(Alarm::Sweep));
        assert_eq!(timers.wait(at(30)), None);
    }
}
