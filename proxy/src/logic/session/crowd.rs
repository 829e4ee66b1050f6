//! Sessions of one worker that wait for the same route's upstreams to come up.
//!
//! Each of them trying for itself would be a storm of connects where there is nobody, and still
//! most would come late. So one tries every few milliseconds, whoever's timer finds that nobody
//! has for a while, and the others wait; the first that gets through wakes two more, and each of
//! those two more, oldest first: the app's accept queue fills no faster than it is emptied.
//!
//! A crowd is advice about when to try. Whoever leaves without a word costs the others at most
//! their own pause ([`super::dial`]).

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::logic::gate::Gate;

/// Shortest time between two attempts of one worker at one route.
const PROBE_MIN: Duration = Duration::from_millis(10);
/// Longest time between two attempts.
const PROBE_MAX: Duration = Duration::from_millis(100);
/// An attempt is made each time the wait has grown by one part in so many.
const PROBE_PARTS: u32 = 50;
/// So many are woken by one that got through.
const WOKEN_BY_ONE: usize = 2;

/// A session's mark in a crowd; never 0.
pub type Ticket = u64;

/// Someone who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiter {
    /// Its slot.
    pub slot: usize,
    /// Its mark.
    pub ticket: Ticket,
}

/// The crowds of a worker, by route.
#[derive(Debug, Default)]
pub struct Crowds {
    crowds: HashMap<usize, Crowd>,
    tickets: Ticket,
    /// Who shall try now, with the crowd that it belongs to.
    woken: VecDeque<(usize, Waiter)>,
}

#[derive(Debug)]
struct Crowd {
    since: Instant,
    /// When the next attempt may be made.
    free_at: Instant,
    /// Marks up to this one are of an earlier crowd.
    born: Ticket,
    waiting: VecDeque<Waiter>,
}

impl Crowd {
    fn pause(&self, now: Instant) -> Duration {
        let age = now.saturating_duration_since(self.since);
        (age / PROBE_PARTS).clamp(PROBE_MIN, PROBE_MAX)
    }
}

/// A gate is one route's for as long as anyone waits for it: its address is a name.
fn name(gate: &Arc<Gate>) -> usize {
    Arc::as_ptr(gate).addr()
}

impl Crowds {
    /// Someone has tried just now and failed. Answers its mark, the one it had or a new one, and
    /// when to look again.
    pub fn failed(
        &mut self,
        gate: &Arc<Gate>,
        slot: usize,
        ticket: Option<Ticket>,
        now: Instant,
    ) -> (Ticket, Instant) {
        let crowd = self.crowds.entry(name(gate)).or_insert_with(|| Crowd {
            since: now,
            free_at: now,
            born: self.tickets,
            waiting: VecDeque::new(),
        });
        let again_at = now + crowd.pause(now);
        crowd.free_at = again_at;
        let known = ticket.filter(|ticket| *ticket > crowd.born);
        let ticket = known.unwrap_or_else(|| {
            self.tickets += 1;
            let ticket = self.tickets;
            crowd.waiting.push_back(Waiter { slot, ticket });
            ticket
        });
        (ticket, again_at)
    }

    /// Whether someone whose timer has come may try: nobody else has for a while.
    pub fn may_try(&mut self, gate: &Arc<Gate>, now: Instant) -> bool {
        let Some(crowd) = self.crowds.get_mut(&name(gate)) else {
            return true;
        };
        let free = now >= crowd.free_at;
        if free {
            crowd.free_at = now + crowd.pause(now);
        }
        free
    }

    /// Someone got through: the oldest are woken.
    pub fn connected(&mut self, gate: &Arc<Gate>) {
        if !self.crowds.is_empty() {
            for _ in 0..WOKEN_BY_ONE {
                self.wake(name(gate));
            }
        }
    }

    fn wake(&mut self, name: usize) {
        let Some(crowd) = self.crowds.get_mut(&name) else {
            return;
        };
        if let Some(waiter) = crowd.waiting.pop_front() {
            self.woken.push_back((name, waiter));
        }
        if crowd.waiting.is_empty() {
            self.crowds.remove(&name);
        }
    }

    /// The next that shall try. `waits` says whether it still does: if not, another is woken in
    /// its place.
    pub fn next_woken(&mut self, mut waits: impl FnMut(Waiter) -> bool) -> Option<Waiter> {
        while let Some((name, waiter)) = self.woken.pop_front() {
            if waits(waiter) {
                return Some(waiter);
            }
            self.wake(name);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::{gate::Bell, test_clock};

    struct Silent;

    impl Bell for Silent {
        fn ring(&self) {}
    }

    fn gate() -> Arc<Gate> {
        Arc::new(Gate::new(Arc::new(Silent)))
    }

    fn woken(crowds: &mut Crowds, gone: &[usize]) -> Vec<usize> {
        let mut slots = Vec::new();
        while let Some(waiter) = crowds.next_woken(|waiter| !gone.contains(&waiter.slot)) {
            slots.push(waiter.slot);
        }
        slots
    }

    #[test]
    fn one_of_many_tries_at_a_time() {
        let (mut crowds, gate, start) = (Crowds::default(), gate(), test_clock());
        for slot in 0..1000 {
            let (_, again_at) = crowds.failed(&gate, slot, None, start);
            assert_eq!(again_at, start + PROBE_MIN);
        }
        let mut tries = 0;
        for _ in 0..1000 {
            tries += usize::from(crowds.may_try(&gate, start + PROBE_MIN));
        }
        assert_eq!(tries, 1);
        assert!(!crowds.may_try(&gate, start + PROBE_MIN + Duration::from_millis(9)));
        assert!(crowds.may_try(&gate, start + PROBE_MIN * 2));
    }

    #[test]
    fn the_longer_the_wait_the_rarer_the_attempts() {
        let (mut crowds, gate, start) = (Crowds::default(), gate(), test_clock());
        let (ticket, _) = crowds.failed(&gate, 0, None, start);
        for (age_ms, pause_ms) in [(400, 10), (2_000, 40), (60_000, 100)] {
            let now = start + Duration::from_millis(age_ms);
            let (same, again_at) = crowds.failed(&gate, 0, Some(ticket), now);
            assert_eq!(
                (same, again_at - now),
                (ticket, Duration::from_millis(pause_ms))
            );
        }
    }

    #[test]
    fn who_gets_through_wakes_the_two_oldest_that_are_still_there() {
        let (mut crowds, gate, start) = (Crowds::default(), gate(), test_clock());
        for slot in 0..6 {
            crowds.failed(&gate, slot, None, start);
        }
        crowds.connected(&gate);
        assert_eq!(woken(&mut crowds, &[0, 2]), [1, 3]);
        crowds.connected(&gate);
        assert_eq!(woken(&mut crowds, &[]), [4, 5]);
        // The crowd is gone, and with it the rule that one tries at a time.
        assert!(crowds.may_try(&gate, start) && crowds.may_try(&gate, start));
        assert!(crowds.crowds.is_empty());
    }

    #[test]
    fn routes_do_not_wait_for_one_another() {
        let (mut crowds, start) = (Crowds::default(), test_clock());
        let (one, other) = (gate(), gate());
        crowds.failed(&one, 1, None, start);
        assert!(crowds.may_try(&other, start));
        crowds.connected(&other);
        assert!(woken(&mut crowds, &[]).is_empty());
    }
}
