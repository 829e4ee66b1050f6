//! The gate in scripts, and against a naive model under random verbs.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use flocker_api::gate::{GateState, HoldLimits, Token};
use proptest::prelude::*;

use super::{
    Admission, Bell, Call, Claim, Entry, Gate, GateError, Place, Quiet, Refusal, Seat, Visitor,
};

#[derive(Default)]
struct Rings(AtomicU64);

impl Bell for Rings {
    fn ring(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn gate() -> (Arc<Gate>, Arc<Rings>) {
    let rings = Arc::new(Rings::default());
    let bell = Arc::clone(&rings);
    (Arc::new(Gate::new(bell)), rings)
}

fn visitor(slot: usize, client: u8, bytes: usize) -> Visitor {
    Visitor {
        seat: Seat { worker: 0, slot },
        client: IpAddr::from([10, 0, 0, client]),
        bytes,
        ticket: None,
    }
}

fn admitted(entry: Entry) -> Admission {
    match entry {
        Entry::Admitted(admission) => admission,
        other => panic!("{other:?}"),
    }
}

fn parked(entry: Entry) -> Place {
    match entry {
        Entry::Parked(place) => place,
        other => panic!("{other:?}"),
    }
}

fn refused(entry: Entry) -> Refusal {
    match entry {
        Entry::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

fn limits() -> HoldLimits {
    HoldLimits {
        hold_ms: 1_000,
        sessions: 3,
        bytes: 100,
        per_client: 2,
    }
}

fn clock() -> (Instant, impl Fn(u64) -> Instant) {
    let start = crate::logic::test_clock();
    (start, move |ms| start + Duration::from_millis(ms))
}

#[test]
fn a_pause_parks_in_order_and_a_resume_lets_go_in_order() {
    let (gate, rings) = gate();
    let (t0, at) = clock();
    let early = admitted(gate.enter(visitor(0, 1, 0), t0));
    gate.pause(Token(7), limits(), t0).unwrap();
    let first = parked(gate.enter(visitor(1, 1, 10), at(10)));
    let second = parked(gate.enter(visitor(2, 2, 20), at(20)));
    assert_eq!(gate.quiet(Token(7)), Quiet::No(1));
    drop(early);
    assert_eq!(rings.0.load(Ordering::Relaxed), 1, "the last one out rings");
    assert_eq!(gate.quiet(Token(7)), Quiet::Yes);
    let status = gate.status(at(30));
    assert_eq!(status.state, GateState::Paused);
    assert_eq!((status.parked, status.parked_bytes), (2, 30));
    assert_eq!(
        (status.oldest_wait_ms, status.lapses_in_ms),
        (20, Some(970))
    );

    let hold = gate.resume(Token(7), at(50)).unwrap();
    assert_eq!(hold.paused, Duration::from_millis(50));
    assert_eq!((hold.released, hold.refused, hold.client_gone), (2, 0, 0));
    assert_eq!(hold.longest_wait, Duration::from_millis(40));
    assert_eq!(gate.status(at(50)).state, GateState::Draining);

    let late = parked(gate.enter(visitor(3, 3, 0), at(51)));
    let slots = |calls: Vec<Call>| calls.iter().map(|call| call.seat.slot).collect::<Vec<_>>();
    assert_eq!(slots(gate.release(1)), [1]);
    let Claim::Waiting(second) = second.claim() else {
        panic!("its turn has not come");
    };
    assert_eq!(slots(gate.release(9)), [2, 3]);
    assert_eq!(gate.status(at(52)).state, GateState::Open);
    assert_eq!(gate.in_flight(), 3, "granted is in flight");
    for place in [first, second, late] {
        assert!(matches!(place.claim(), Claim::Admitted(_)));
    }
    assert_eq!(gate.in_flight(), 0);
}

#[test]
fn limits_refuse_by_reason_and_whoever_leaves_makes_room_at_once() {
    let (gate, _) = gate();
    let (t0, _) = clock();
    gate.pause(Token(1), limits(), t0).unwrap();
    let a = parked(gate.enter(visitor(1, 1, 60), t0));
    let b = parked(gate.enter(visitor(2, 1, 0), t0));
    assert_eq!(
        refused(gate.enter(visitor(3, 1, 0), t0)),
        Refusal::PerClient
    );
    assert_eq!(refused(gate.enter(visitor(3, 2, 41), t0)), Refusal::Bytes);
    let c = parked(gate.enter(visitor(3, 2, 40), t0));
    assert_eq!(refused(gate.enter(visitor(4, 3, 0), t0)), Refusal::Sessions);
    drop(a);
    let d = parked(gate.enter(visitor(4, 1, 60), t0));
    drop((b, c, d));
    let hold = gate.resume(Token(1), t0).unwrap();
    assert_eq!((hold.released, hold.refused, hold.client_gone), (0, 3, 4));
    let status = gate.status(t0);
    assert_eq!((status.parked, status.parked_bytes), (0, 0));
    assert_eq!(status.state, GateState::Open);
}

#[test]
fn at_the_deadline_the_parked_are_refused_and_the_gate_opens() {
    let (gate, rings) = gate();
    let (t0, at) = clock();
    gate.pause(Token(1), limits(), t0).unwrap();
    let place = parked(gate.enter(visitor(1, 1, 0), t0));
    assert_eq!(gate.deadline(), Some(at(1_000)));
    assert!(gate.lapse(at(999)).is_empty());
    assert_eq!(gate.lapse(at(1_000)).len(), 1);
    assert!(matches!(place.claim(), Claim::Refused(Refusal::Deadline)));
    assert_eq!(gate.quiet(Token(1)), Quiet::Ended);
    assert!(
        rings.0.load(Ordering::Relaxed) > 0,
        "a waiting quiesce hears of it"
    );
    let again = admitted(gate.enter(visitor(2, 1, 0), at(1_001)));
    drop(again);
    let hold = gate.resume(Token(1), at(5_000)).unwrap();
    assert!(hold.lapsed);
    assert_eq!((hold.refused, hold.paused), (1, Duration::from_secs(1)));
}

#[test]
fn a_repeated_pause_renews_the_deadline_and_keeps_the_parked() {
    let (gate, _) = gate();
    let (t0, at) = clock();
    gate.pause(Token(1), limits(), t0).unwrap();
    let place = parked(gate.enter(visitor(1, 1, 0), t0));
    gate.pause(Token(1), limits(), at(900)).unwrap();
    assert!(gate.lapse(at(1_500)).is_empty());
    // A newer token takes the pause over, with what is parked.
    gate.pause(Token(2), limits(), at(1_500)).unwrap();
    assert_eq!(
        gate.resume(Token(1), at(1_600)),
        Err(GateError::StaleToken { current: Token(2) })
    );
    assert_eq!(gate.resume(Token(2), at(1_600)).unwrap().released, 1);
    gate.release(1);
    assert!(matches!(place.claim(), Claim::Admitted(_)));
}

#[test]
fn a_hold_without_end_ends() {
    let (gate, _) = gate();
    let (t0, at) = clock();
    let endless = HoldLimits {
        hold_ms: u64::MAX,
        ..limits()
    };
    gate.pause(Token(1), endless, t0).unwrap();
    assert_eq!(gate.deadline(), Some(at(super::HOLD_MS_MAX)));
}

#[test]
fn tokens_fence() {
    let (gate, _) = gate();
    let (t0, _) = clock();
    let never = GateError::NotPaused {
        asked: Token(0),
        current: Token(0),
    };
    assert_eq!(gate.resume(Token(0), t0), Err(never));
    gate.pause(Token(5), limits(), t0).unwrap();
    let stale = GateError::StaleToken { current: Token(5) };
    assert_eq!(gate.pause(Token(4), limits(), t0), Err(stale));
    assert_eq!(gate.resume(Token(4), t0), Err(stale));
    assert!(matches!(
        gate.resume(Token(6), t0),
        Err(GateError::NotPaused { .. })
    ));
    let report = gate.resume(Token(5), t0).unwrap();
    assert_eq!(
        gate.resume(Token(5), t0),
        Ok(report),
        "repeated, it says the same"
    );
}

#[test]
fn a_pause_while_draining_keeps_the_rest() {
    let (gate, _) = gate();
    let (t0, _) = clock();
    gate.pause(Token(1), limits(), t0).unwrap();
    let places: Vec<_> = (1..=3)
        .map(|n| parked(gate.enter(visitor(n.into(), n, 0), t0)))
        .collect();
    gate.resume(Token(1), t0).unwrap();
    gate.release(1);
    gate.pause(Token(2), limits(), t0).unwrap();
    assert!(gate.release(9).is_empty());
    assert_eq!(
        gate.quiet(Token(2)),
        Quiet::No(1),
        "the released one is in flight"
    );
    drop(places);
    assert_eq!(gate.quiet(Token(2)), Quiet::Yes);
}

#[test]
fn a_removed_route_refuses_everyone() {
    let (gate, _) = gate();
    let (t0, _) = clock();
    gate.pause(Token(1), limits(), t0).unwrap();
    let place = parked(gate.enter(visitor(1, 1, 0), t0));
    assert_eq!(gate.remove().len(), 1);
    assert!(matches!(place.claim(), Claim::Refused(Refusal::Removed)));
    assert_eq!(refused(gate.enter(visitor(2, 1, 0), t0)), Refusal::Removed);
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Enter { client: u8, bytes: usize },
    Leave(usize),
    Finish(usize),
    Pause(u64),
    Resume(u64),
    Release(usize),
    Wait(u64),
    ClaimAll,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3u8, 0..50usize).prop_map(|(client, bytes)| Step::Enter { client, bytes }),
        1 => (0..8usize).prop_map(Step::Leave),
        2 => (0..8usize).prop_map(Step::Finish),
        1 => (1..5u64).prop_map(Step::Pause),
        1 => (1..5u64).prop_map(Step::Resume),
        1 => (0..3usize).prop_map(Step::Release),
        1 => (0..1_500u64).prop_map(Step::Wait),
        1 => Just(Step::ClaimAll),
    ]
}

/// What a gate must be, written as plainly as can be.
#[derive(Default)]
struct Model {
    token: u64,
    /// The deadline, when paused.
    paused: Option<Instant>,
    draining: bool,
    /// Ticket, client, bytes.
    parked: VecDeque<(u64, u8, usize)>,
    granted: u64,
    inside: u64,
}

impl Model {
    fn lets_in(&self) -> bool {
        self.paused.is_none() && !self.draining
    }

    fn is_full_for(&self, client: u8, bytes: usize) -> bool {
        let limits = limits();
        self.parked.len() >= limits.sessions
            || self.parked.iter().map(|p| p.2).sum::<usize>() + bytes > limits.bytes
            || self.parked.iter().filter(|p| p.1 == client).count() >= limits.per_client
    }

    fn settle(&mut self) {
        self.draining &= !self.parked.is_empty();
    }
}

/// A gate and its model side by side.
struct Pair {
    gate: Arc<Gate>,
    model: Model,
    now: Instant,
    places: Vec<Place>,
    inside: Vec<Admission>,
}

impl Pair {
    fn new() -> Self {
        Self {
            gate: gate().0,
            model: Model::default(),
            now: clock().0,
            places: Vec::new(),
            inside: Vec::new(),
        }
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Enter { client, bytes } => self.enter(client, bytes),
            Step::Leave(index) => self.leave(index),
            Step::Finish(index) if index < self.inside.len() => {
                drop(self.inside.remove(index));
                self.model.inside -= 1;
            }
            Step::Finish(_) => {}
            Step::Pause(token) => {
                let outcome = self.gate.pause(Token(token), limits(), self.now);
                assert_eq!(outcome.is_ok(), token >= self.model.token);
                if outcome.is_ok() {
                    self.model.token = token;
                    self.model.draining = false;
                    self.model.paused = Some(self.now + Duration::from_millis(limits().hold_ms));
                }
            }
            Step::Resume(token) => {
                let outcome = self.gate.resume(Token(token), self.now);
                assert_eq!(outcome.is_ok(), token == self.model.token);
                if outcome.is_ok() && self.model.paused.take().is_some() {
                    self.model.draining = true;
                    self.model.settle();
                }
            }
            Step::Release(count) => self.release(count),
            Step::Wait(ms) => {
                self.now += Duration::from_millis(ms);
                let refused = self.gate.lapse(self.now).len();
                match self.model.paused {
                    Some(deadline) if self.now >= deadline => {
                        assert_eq!(refused, self.model.parked.len());
                        self.model.parked.clear();
                        self.model.paused = None;
                    }
                    _ => assert_eq!(refused, 0),
                }
            }
            Step::ClaimAll => self.claim_all(),
        }
    }

    fn enter(&mut self, client: u8, bytes: usize) {
        let full = self.model.is_full_for(client, bytes);
        match self.gate.enter(visitor(0, client, bytes), self.now) {
            Entry::Admitted(admission) => {
                assert!(self.model.lets_in() || (self.model.draining && full));
                self.model.inside += 1;
                self.inside.push(admission);
            }
            Entry::Parked(place) => {
                assert!(!self.model.lets_in() && !full);
                self.model.parked.push_back((place.ticket(), client, bytes));
                self.places.push(place);
            }
            Entry::Refused(_) => assert!(self.model.paused.is_some() && full),
        }
    }

    fn leave(&mut self, index: usize) {
        if index >= self.places.len() {
            return;
        }
        let place = self.places.remove(index);
        let ticket = place.ticket();
        let before = self.gate.in_flight();
        drop(place);
        let waiting = self.model.parked.len();
        self.model.parked.retain(|parked| parked.0 != ticket);
        if self.model.parked.len() == waiting {
            // Granted or refused and not claimed: a grant is given back.
            self.model.granted -= before - self.gate.in_flight();
        } else {
            self.model.settle();
        }
    }

    fn release(&mut self, count: usize) {
        let calls = self.gate.release(count);
        if !self.model.draining {
            assert!(calls.is_empty());
            return;
        }
        let mut oldest = Vec::new();
        for _ in 0..count {
            oldest.extend(self.model.parked.pop_front().map(|parked| parked.0));
        }
        let called: Vec<_> = calls.iter().map(|call| call.ticket).collect();
        assert_eq!(called, oldest, "oldest first");
        self.model.granted += called.len() as u64;
        self.model.settle();
    }

    fn claim_all(&mut self) {
        for place in std::mem::take(&mut self.places) {
            let ticket = place.ticket();
            let waits = self.model.parked.iter().any(|parked| parked.0 == ticket);
            match place.claim() {
                Claim::Waiting(place) => {
                    assert!(waits);
                    self.places.push(place);
                }
                Claim::Admitted(admission) => {
                    assert!(!waits);
                    self.model.granted -= 1;
                    self.model.inside += 1;
                    self.inside.push(admission);
                }
                Claim::Refused(refusal) => {
                    assert!(!waits);
                    assert_eq!(refusal, Refusal::Deadline);
                }
            }
        }
    }

    fn check(&self) {
        let status = self.gate.status(self.now);
        let state = match (&self.model.paused, self.model.draining) {
            (Some(_), _) => GateState::Paused,
            (None, true) => GateState::Draining,
            (None, false) => GateState::Open,
        };
        assert_eq!(status.state, state);
        assert_eq!(status.parked, self.model.parked.len() as u64);
        let bytes: usize = self.model.parked.iter().map(|parked| parked.2).sum();
        assert_eq!(status.parked_bytes, bytes as u64);
        assert_eq!(status.in_flight, self.model.inside + self.model.granted);
    }
}

proptest! {
    #[test]
    fn random_verbs_keep_the_gate_like_its_model(
        steps in proptest::collection::vec(step(), 1..200)
    ) {
        let mut pair = Pair::new();
        for step in steps {
            pair.apply(step);
            pair.check();
        }
        pair.places.clear();
        pair.inside.clear();
        prop_assert_eq!(pair.gate.in_flight(), 0);
        prop_assert_eq!(pair.gate.status(pair.now).parked, 0);
    }
}
