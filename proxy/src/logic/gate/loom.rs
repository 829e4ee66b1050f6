//! The gate under every interleaving of its threads; `make loom` runs it. The flag is of our own
//! because tokio has no sockets under `--cfg loom`.

use std::{net::IpAddr, sync::Arc, time::Instant};

use flocker_api::gate::{HoldLimits, Token};
use loom::{cell::UnsafeCell, model::Builder, thread};

use super::{Bell, Claim, Entry, Gate, Quiet, Seat, Visitor};

/// Every interleaving with at most this many preemptions: what is wrong shows with few.
const PREEMPTIONS_MAX: usize = 3;

fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS_MAX);
    builder.check(run);
}

struct Silent;

impl Bell for Silent {
    fn ring(&self) {}
}

fn gate() -> Arc<Gate> {
    Arc::new(Gate::new(Arc::new(Silent)))
}

fn visitor(slot: usize) -> Visitor {
    Visitor {
        seat: Seat { worker: 0, slot },
        client: IpAddr::from([127, 0, 0, 1]),
        bytes: 0,
        ticket: None,
    }
}

/// What the gate protects: an app's data, read by whoever is admitted, written by whoever has
/// quiesced. Loom fails on any unordered access.
struct Data(UnsafeCell<u32>);

// SAFETY: in a model, loom itself checks each access.
#[expect(unsafe_code, reason = "a cell that loom watches is shared on purpose")]
unsafe impl Sync for Data {}

impl Data {
    fn read(&self) {
        self.0.with(|_| ());
    }

    fn write(&self) {
        self.0.with_mut(|_| ());
    }
}

#[test]
fn a_pause_is_a_barrier() {
    let now = crate::logic::test_clock();
    model(move || {
        let gate = gate();
        let data = Arc::new(Data(UnsafeCell::new(0)));
        let workers: Vec<_> = (0..2)
            .map(|slot| {
                let (gate, data) = (Arc::clone(&gate), Arc::clone(&data));
                thread::spawn(move || {
                    if let Entry::Admitted(admission) = gate.enter(visitor(slot), now) {
                        data.read();
                        drop(admission);
                    }
                })
            })
            .collect();
        gate.pause(Token(1), HoldLimits::default(), now).unwrap();
        if gate.quiet(Token(1)) == Quiet::Yes {
            data.write();
        }
        for worker in workers {
            worker.join().unwrap();
        }
    });
}

#[test]
fn whoever_is_released_sees_what_was_done_before_the_resume() {
    let now = crate::logic::test_clock();
    model(move || {
        let gate = gate();
        let data = Arc::new(Data(UnsafeCell::new(0)));
        gate.pause(Token(1), HoldLimits::default(), now).unwrap();
        let worker = {
            let (gate, data) = (Arc::clone(&gate), Arc::clone(&data));
            thread::spawn(move || visit(&gate, &data, now))
        };
        data.write();
        gate.resume(Token(1), now).unwrap();
        let called = gate.release(8).len();
        let place = worker.join().unwrap();
        // Parked before the release: called. After it: admitted at once, or not missed by the
        // next release.
        match place.map(super::Place::claim) {
            None => assert_eq!(called, 0),
            Some(Claim::Admitted(_)) => assert_eq!(called, 1),
            Some(Claim::Waiting(place)) => {
                assert_eq!(gate.release(8).len(), 1);
                assert!(matches!(place.claim(), Claim::Admitted(_)));
            }
            Some(Claim::Refused(refusal)) => panic!("{refusal}"),
        }
        assert_eq!(gate.in_flight(), 0);
        assert!(!gate.is_closed());
    });
}

fn visit(gate: &Arc<Gate>, data: &Data, now: Instant) -> Option<super::Place> {
    match gate.enter(visitor(0), now) {
        Entry::Admitted(_admission) => {
            data.read();
            None
        }
        Entry::Parked(place) => Some(place),
        Entry::Refused(refusal) => panic!("{refusal}"),
    }
}

#[test]
fn a_client_that_leaves_while_it_is_released_leaves_nothing_behind() {
    let now = crate::logic::test_clock();
    model(move || {
        let gate = gate();
        gate.pause(Token(1), HoldLimits::default(), now).unwrap();
        let Entry::Parked(place) = gate.enter(visitor(0), now) else {
            panic!("a paused gate parks");
        };
        let leaver = thread::spawn(move || drop(place));
        gate.resume(Token(1), now).unwrap();
        drop(gate.release(1));
        leaver.join().unwrap();
        drop(gate.release(1));
        assert_eq!(gate.in_flight(), 0);
        assert!(!gate.is_closed());
    });
}
