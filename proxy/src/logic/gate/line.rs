//! Those of a route who are admitted and wait because its upstreams have as many as they may
//! have: a line, first come, first served. Whoever gives an upstream back calls the next.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{Call, Gate, Seat};

/// Where the tickets of lines begin: none is one of the parked.
const FIRST_TICKET: u64 = 1 << 62;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// So that nobody has to take the lock to see that nobody is there.
    len: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: BTreeMap<u64, Seat>,
    next: u64,
}

/// A place in the line; dropping it leaves. Whoever was called and does not go passes the call on.
#[derive(Debug)]
pub struct Turn {
    gate: Arc<Gate>,
    seat: Seat,
    ticket: u64,
    gone: bool,
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn noted<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        let outcome = change(&mut inner);
        self.len.store(inner.waiting.len(), Ordering::Release);
        outcome
    }
}

impl Gate {
    /// Whether anyone is in the line.
    #[must_use]
    pub fn has_line(&self) -> bool {
        self.line.len.load(Ordering::Acquire) > 0
    }

    /// How many are in the line.
    #[must_use]
    pub fn line_len(&self) -> usize {
        self.line.len.load(Ordering::Acquire)
    }

    /// Stands at the end of the line, unless as many stand there already.
    #[must_use]
    pub fn line_up(self: &Arc<Self>, seat: Seat, most: usize) -> Option<Turn> {
        let ticket = self.line.noted(|line| {
            if line.waiting.len() >= most {
                return None;
            }
            let ticket = FIRST_TICKET + line.next;
            line.next += 1;
            line.waiting.insert(ticket, seat);
            Some(ticket)
        })?;
        Some(Turn {
            gate: Arc::clone(self),
            seat,
            ticket,
            gone: false,
        })
    }

    /// Calls the first in the line: there is room.
    pub fn call_next(&self) {
        if !self.has_line() {
            return;
        }
        if let Some((ticket, seat)) = self.line.noted(|line| line.waiting.pop_first()) {
            self.bell.call(vec![Call { seat, ticket }]);
        }
    }
}

impl Turn {
    /// Its ticket; [`Call::ticket`] refers to it.
    #[must_use]
    pub fn ticket(&self) -> u64 {
        self.ticket
    }

    /// There was no room after all: back to where it stood.
    pub fn again(&self) {
        let (ticket, seat) = (self.ticket, self.seat);
        self.gate
            .line
            .noted(|line| line.waiting.insert(ticket, seat));
    }

    /// It has got what it waited for.
    pub fn done(mut self) {
        self.gone = true;
        self.leave();
    }

    /// Whether it still stood in the line.
    fn leave(&self) -> bool {
        let left = self
            .gate
            .line
            .noted(|line| line.waiting.remove(&self.ticket));
        left.is_some()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.gone && !self.leave() {
            self.gate.call_next();
        }
    }
}

#[cfg(not(flocker_loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::gate::Bell;

    #[derive(Default)]
    struct Calls(Mutex<Vec<usize>>);

    impl Bell for Calls {
        fn ring(&self) {}

        fn call(&self, calls: Vec<Call>) {
            let slots = calls.iter().map(|call| call.seat.slot);
            self.0.lock().unwrap().extend(slots);
        }
    }

    fn seat(slot: usize) -> Seat {
        Seat { worker: 0, slot }
    }

    #[test]
    fn the_line_is_bounded_and_in_order_and_a_call_is_never_lost() {
        let calls = Arc::new(Calls::default());
        let gate = Arc::new(Gate::new(Arc::clone(&calls) as Arc<dyn Bell>));
        let called = || -> Vec<usize> { std::mem::take(&mut *calls.0.lock().unwrap()) };
        let first = gate.line_up(seat(1), 3).unwrap();
        let second = gate.line_up(seat(2), 3).unwrap();
        let third = gate.line_up(seat(3), 3).unwrap();
        assert!(gate.line_up(seat(4), 3).is_none());

        gate.call_next();
        assert_eq!(called(), [1]);
        // There was no room after all.
        first.again();
        gate.call_next();
        assert_eq!(called(), [1]);
        // It leaves without having gone: the next is called in its place.
        drop(first);
        assert_eq!(called(), [2]);
        second.done();
        assert!(called().is_empty());
        // Leaving the line calls nobody.
        drop(third);
        assert!(called().is_empty());
        assert!(!gate.has_line());
    }
}
