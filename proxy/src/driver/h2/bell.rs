//! Wakers without a runtime: ringing one notes what is to be run, and the worker looks at the
//! notes before it goes to sleep. Only the worker's own thread ever rings.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

/// What is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A session: slot and serial number.
    Session(usize, u64),
}

/// The notes of one worker.
#[derive(Debug, Clone, Default)]
pub struct Bells(Arc<Mutex<Vec<Arc<Bell>>>>);

#[derive(Debug)]
struct Bell {
    target: Target,
    rung: AtomicBool,
    bells: Bells,
}

impl Bells {
    /// A waker for a target.
    #[must_use]
    pub fn waker(&self, target: Target) -> Waker {
        Waker::from(Arc::new(Bell {
            target,
            rung: AtomicBool::new(false),
            bells: self.clone(),
        }))
    }

    /// Takes all notes, oldest first.
    pub fn take(&self, targets: &mut Vec<Target>) {
        let mut rung = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for bell in rung.drain(..) {
            bell.rung.store(false, Ordering::Relaxed);
            targets.push(bell.target);
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::Relaxed) {
            let mut rung = self.bells.0.lock().unwrap_or_else(PoisonError::into_inner);
            rung.push(Arc::clone(self));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_noted_once_until_it_is_taken() {
        let bells = Bells::default();
        let first = bells.waker(Target::Session(1, 10));
        let second = bells.waker(Target::Session(2, 20));
        first.wake_by_ref();
        second.wake_by_ref();
        first.wake_by_ref();
        let mut targets = Vec::new();
        bells.take(&mut targets);
        assert_eq!(targets, [Target::Session(1, 10), Target::Session(2, 20)]);
        first.wake_by_ref();
        bells.take(&mut targets);
        assert_eq!(targets.len(), 3);
    }
}
