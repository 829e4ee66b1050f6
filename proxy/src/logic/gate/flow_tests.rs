//! Who goes next: resumes, upstreams that come up late, and whoever leaves in between.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use flocker_api::gate::{HoldLimits, Token};
use proptest::prelude::*;

use super::{
    Admission, Bell, Call, Claim, Entry, Gate, Place, Seat, Stand, Visitor,
    pace::{TICK, WINDOW},
};

#[derive(Default)]
struct Calls {
    slots: Mutex<Vec<usize>>,
    watched: Mutex<bool>,
}

impl Bell for Calls {
    fn ring(&self) {}

    fn call(&self, calls: Vec<Call>) {
        let slots = calls.iter().map(|call| call.seat.slot);
        self.slots.lock().unwrap().extend(slots);
    }

    fn watch(&self, _gate: &Arc<Gate>) {
        *self.watched.lock().unwrap() = true;
    }
}

/// What a visitor has of the gate.
#[derive(Debug)]
enum Has {
    Place(Place),
    Stand(Admission, Stand),
    Upstream(Admission),
}

/// A gate, its visitors, and a worker that keeps its times.
struct Rig {
    gate: Arc<Gate>,
    calls: Arc<Calls>,
    now: Instant,
    tick_at: Option<Instant>,
    visitors: BTreeMap<usize, Has>,
    /// Whether connects succeed.
    is_up: bool,
    /// In the order in which they got through.
    connected: Vec<usize>,
    tries: usize,
}

impl Rig {
    fn new() -> Self {
        let calls = Arc::new(Calls::default());
        Self {
            gate: Arc::new(Gate::new(Arc::<Calls>::clone(&calls))),
            calls,
            now: crate::logic::test_clock(),
            tick_at: None,
            visitors: BTreeMap::new(),
            is_up: true,
            connected: Vec::new(),
            tries: 0,
        }
    }

    fn pause(&self) {
        let limits = HoldLimits {
            sessions: usize::MAX,
            per_client: usize::MAX,
            ..HoldLimits::default()
        };
        self.gate.pause(Token(1), limits, self.now).unwrap();
    }

    fn resume(&mut self) {
        self.gate.resume(Token(1), self.now).unwrap();
        self.gate.proceed(self.now);
        self.settle();
    }

    fn enter(&mut self, slot: usize) {
        let visitor = Visitor {
            seat: seat(slot),
            client: IpAddr::from([10, 0, 0, 1]),
            bytes: 0,
            ticket: None,
        };
        match self.gate.enter(visitor, self.now) {
            Entry::Admitted(admission) => self.admitted(slot, admission),
            Entry::Parked(place) => drop(self.visitors.insert(slot, Has::Place(place))),
            Entry::Refused(refusal) => panic!("{refusal}"),
        }
        self.settle();
    }

    fn admitted(&mut self, slot: usize, mut admission: Admission) {
        if admission.has_to_wait()
            && let Some(stand) = admission.queue_up(seat(slot), self.now)
        {
            self.visitors.insert(slot, Has::Stand(admission, stand));
            return;
        }
        self.connect(slot, admission);
    }

    fn connect(&mut self, slot: usize, mut admission: Admission) {
        self.tries += 1;
        let has = match self.is_up {
            true => {
                admission.connected(true, self.now);
                self.connected.push(slot);
                Has::Upstream(admission)
            }
            false => {
                let stand = admission.fall_back(seat(slot), self.now);
                Has::Stand(admission, stand)
            }
        };
        self.visitors.insert(slot, has);
    }

    /// Whoever was called goes; a watcher that was asked for comes.
    fn settle(&mut self) {
        loop {
            let called = std::mem::take(&mut *self.calls.slots.lock().unwrap());
            let watched = std::mem::take(&mut *self.calls.watched.lock().unwrap());
            if watched {
                self.tick_at = self.gate.tick(self.now);
            }
            if called.is_empty() && !watched {
                return;
            }
            for slot in called {
                match self.visitors.remove(&slot) {
                    Some(Has::Place(place)) => match place.claim() {
                        Claim::Admitted(admission) => self.admitted(slot, admission),
                        other => panic!("{other:?}"),
                    },
                    Some(Has::Stand(mut admission, stand)) => {
                        stand.go(&mut admission);
                        self.connect(slot, admission);
                    }
                    // It has left.
                    _ => {}
                }
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.tick_at.filter(|at| *at <= until) {
            self.now = at.max(self.now);
            self.tick_at = self.gate.tick(self.now);
            self.settle();
        }
        self.now = until;
    }

    fn answer(&mut self, slot: usize) {
        if let Some(Has::Upstream(mut admission)) = self.visitors.remove(&slot) {
            admission.answered(self.now);
        }
        self.settle();
    }

    fn leave(&mut self, slot: usize) {
        self.visitors.remove(&slot);
        self.settle();
    }
}

fn seat(slot: usize) -> Seat {
    Seat {
        worker: slot % 2,
        slot,
    }
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn answers_let_the_next_of_the_parked_go_in_their_order() {
    let mut rig = Rig::new();
    rig.pause();
    (0..30).for_each(|slot| rig.enter(slot));
    rig.resume();
    assert_eq!(rig.connected, (0..WINDOW).collect::<Vec<_>>());
    rig.answer(3);
    rig.answer(0);
    // One that leaves without an answer makes room, too.
    rig.leave(1);
    // And arrivals are behind those who are parked.
    rig.enter(30);
    for slot in 0..31 {
        rig.answer(slot);
    }
    rig.pass(MS);
    let mut order: Vec<usize> = (0..31).collect();
    assert_eq!(rig.connected, order);
    order.clear();
    assert_eq!(rig.gate.in_flight(), 0);
    rig.enter(31);
    assert_eq!(rig.connected.last(), Some(&31), "the gate is open");
}

#[test]
fn connections_that_have_served_before_are_no_burden() {
    let mut rig = Rig::new();
    rig.pause();
    (0..20).for_each(|slot| rig.enter(slot));
    rig.resume();
    if let Some(Has::Upstream(admission)) = rig.visitors.get_mut(&0) {
        // As if it had got one.
        admission.connected(false, rig.now);
    }
    rig.settle();
    assert_eq!(rig.connected.len(), WINDOW + 1);
}

#[test]
fn while_nobody_is_there_the_oldest_tries_every_few_ms() {
    let mut rig = Rig::new();
    rig.is_up = false;
    (0..1_000).for_each(|slot| rig.enter(slot));
    assert_eq!(rig.tries, 1, "whoever comes later waits behind");
    assert!(rig.gate.is_busy());
    rig.pass(MS * 500);
    assert!((40..=51).contains(&rig.tries), "{}", rig.tries);
    rig.pass(MS * 59_500);
    let tries = rig.tries;
    rig.pass(MS * 1_000);
    assert!((9..=11).contains(&(rig.tries - tries)), "later more rarely");

    rig.is_up = true;
    rig.pass(MS * 100);
    assert_eq!(rig.connected, (0..=WINDOW - 1).collect::<Vec<_>>());
    for slot in 0..1_000 {
        rig.answer(slot);
    }
    assert_eq!(rig.connected, (0..1_000).collect::<Vec<_>>());
    assert!(!rig.gate.is_busy());
    assert_eq!(rig.gate.in_flight(), 0);
}

#[test]
fn the_parked_of_a_resume_wait_for_the_upstream_with_the_others() {
    let mut rig = Rig::new();
    rig.is_up = false;
    (0..5).for_each(|slot| rig.enter(slot));
    rig.pause();
    (5..50).for_each(|slot| rig.enter(slot));
    rig.resume();
    rig.enter(50);
    assert!(!rig.gate.is_draining());
    rig.pass(MS * 480);
    rig.is_up = true;
    rig.pass(MS * 20);
    for slot in 0..51 {
        rig.answer(slot);
    }
    assert_eq!(rig.connected, (0..51).collect::<Vec<_>>());
}

#[test]
fn a_probe_that_leaves_is_replaced_and_one_that_hangs_is_not_waited_for() {
    let mut rig = Rig::new();
    rig.is_up = false;
    (0..10).for_each(|slot| rig.enter(slot));
    // The first is called and says nothing.
    rig.now = rig.tick_at.unwrap();
    rig.tick_at = rig.gate.tick(rig.now);
    assert_eq!(*rig.calls.slots.lock().unwrap(), [0]);
    rig.calls.slots.lock().unwrap().clear();
    let hanging = rig.visitors.remove(&0).unwrap();
    rig.pass(MS * 99);
    assert_eq!(rig.tries, 1);
    rig.pass(MS * 2);
    assert_eq!(rig.tries, 2, "another tries meanwhile");
    // And in the place of one that leaves, at once.
    drop(hanging);
    let tries = rig.tries;
    rig.settle();
    assert_eq!(rig.tries, tries + 1);
}

#[test]
fn when_all_who_waited_have_left_the_next_tries_for_itself() {
    let mut rig = Rig::new();
    rig.is_up = false;
    rig.enter(0);
    rig.enter(1);
    rig.leave(0);
    rig.leave(1);
    assert!(!rig.gate.is_busy());
    rig.is_up = true;
    rig.enter(2);
    assert_eq!(rig.connected, [2]);
}

#[test]
fn whoever_waits_at_a_route_that_goes_away_is_told() {
    let mut rig = Rig::new();
    rig.is_up = false;
    (0..3).for_each(|slot| rig.enter(slot));
    let called: Vec<_> = rig
        .gate
        .remove()
        .iter()
        .map(|call| call.seat.slot)
        .collect();
    assert_eq!(called, [0, 1, 2]);
    rig.visitors.clear();
    assert_eq!(rig.gate.in_flight(), 0);
}

#[test]
fn silence_lets_the_rest_go_in_time() {
    let mut rig = Rig::new();
    rig.pause();
    (0..200).for_each(|slot| rig.enter(slot));
    rig.resume();
    rig.pass(MS * 150);
    assert_eq!(rig.connected.len(), WINDOW);
    rig.pass(MS * 1_000);
    assert_eq!(rig.connected.len(), 200);
    assert!(!rig.gate.is_draining());
}

#[test]
fn a_deadline_is_kept_by_whoever_watches() {
    let mut rig = Rig::new();
    rig.pause();
    rig.enter(0);
    rig.settle();
    let limits = HoldLimits::default();
    let deadline = rig.now + Duration::from_millis(limits.hold_ms);
    assert_eq!(rig.tick_at, Some(deadline));
    assert_eq!(rig.gate.tick(deadline), None);
    assert!(rig.gate.has_lapsed());
    assert_eq!(*rig.calls.slots.lock().unwrap(), [0]);
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Enter,
    Answer(usize),
    Leave(usize),
    Up(bool),
    Pause,
    Resume,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Enter),
        4 => (0..40_usize).prop_map(Step::Answer),
        2 => (0..40_usize).prop_map(Step::Leave),
        1 => any::<bool>().prop_map(Step::Up),
        1 => Just(Step::Pause),
        2 => Just(Step::Resume),
        3 => (0..60_u64).prop_map(Step::Pass),
    ]
}

proptest! {
    #[test]
    fn nobody_is_forgotten_whatever_happens(steps in prop::collection::vec(step(), 1..200)) {
        let mut rig = Rig::new();
        let mut next = 0;
        for step in steps {
            let at = |rig: &Rig, index: usize| rig.visitors.keys().nth(index).copied();
            match step {
                Step::Enter => {
                    rig.enter(next);
                    next += 1;
                }
                Step::Answer(index) => {
                    if let Some(slot) = at(&rig, index)
                        && let Some(Has::Upstream(_)) = rig.visitors.get(&slot)
                    {
                        rig.answer(slot);
                    }
                }
                Step::Leave(index) => {
                    if let Some(slot) = at(&rig, index) {
                        rig.leave(slot);
                    }
                }
                Step::Up(up) => rig.is_up = up,
                Step::Pause => rig.pause(),
                Step::Resume => if rig.gate.is_closed() && !rig.gate.is_draining() {
                    rig.resume();
                },
                Step::Pass(ms) => rig.pass(MS * u32::try_from(ms).unwrap()),
            }
        }
        // All is well in the end: whoever is still there gets through and is answered.
        rig.is_up = true;
        if rig.gate.is_closed() && !rig.gate.is_draining() {
            rig.resume();
        }
        for _ in 0..next + 2 {
            let slots: Vec<usize> = rig.visitors.keys().copied().collect();
            for slot in slots {
                if let Some(Has::Upstream(_)) = rig.visitors.get(&slot) {
                    rig.answer(slot);
                }
            }
            rig.pass(MS * 200);
        }
        prop_assert!(rig.visitors.is_empty(), "{:?}", rig.visitors);
        prop_assert_eq!(rig.gate.in_flight(), 0);
        prop_assert!(!rig.gate.is_busy() && !rig.gate.is_closed());
        // Nothing is due any more.
        prop_assert_eq!(rig.gate.tick(rig.now + TICK), None);
        // And everything is given back: a whole window may go at the next resume.
        rig.connected.clear();
        rig.pause();
        (0..100).for_each(|slot| rig.enter(1_000 + slot));
        rig.resume();
        prop_assert_eq!(rig.connected.len(), WINDOW);
    }
}
