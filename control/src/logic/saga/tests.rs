//! Properties of sagas: every journal that can be written leads to an end, in order.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    A,
    B,
    Pivot,
    C,
}

impl Steps for Step {
    const ALL: &'static [Self] = &[Self::A, Self::B, Self::Pivot, Self::C];
    const PIVOT: Self = Self::Pivot;
}

fn replay(journal: &[(Step, Event)]) -> Saga<Step> {
    let mut saga = Saga::default();
    for (step, event) in journal {
        saga.apply(Record {
            step: *step,
            event: *event,
        })
        .unwrap();
    }
    saga
}

#[test]
fn a_new_saga_begins_with_its_first_step() {
    assert_eq!(replay(&[]).next(), Next::Do(Step::A));
}

#[test]
fn a_running_step_is_done_again_after_recovery() {
    assert_eq!(replay(&[(Step::A, Event::Begun)]).next(), Next::Do(Step::A));
}

#[test]
fn failing_before_the_pivot_undoes_the_failed_step_first() {
    let mut journal = vec![
        (Step::A, Event::Begun),
        (Step::A, Event::Done),
        (Step::B, Event::Begun),
        (Step::B, Event::Failed),
    ];
    assert_eq!(replay(&journal).next(), Next::Undo(Step::B));
    journal.extend([(Step::B, Event::UndoBegun), (Step::B, Event::Undone)]);
    assert_eq!(replay(&journal).next(), Next::Undo(Step::A));
    journal.extend([(Step::A, Event::UndoBegun), (Step::A, Event::UndoFailed)]);
    assert_eq!(replay(&journal).next(), Next::Stuck(Step::A, Way::Back));
    journal.push((Step::A, Event::Undone));
    assert_eq!(replay(&journal).next(), Next::Undone);
}

#[test]
fn failing_after_the_pivot_is_tried_again_and_never_undone() {
    let mut journal = Vec::new();
    for step in [Step::A, Step::B, Step::Pivot] {
        journal.extend([(step, Event::Begun), (step, Event::Done)]);
    }
    journal.extend([(Step::C, Event::Begun), (Step::C, Event::Failed)]);
    let mut saga = replay(&journal);
    assert_eq!(saga.next(), Next::Stuck(Step::C, Way::Forward));
    for step in Step::ALL {
        let undo = Record {
            step: *step,
            event: Event::UndoBegun,
        };
        assert!(saga.apply(undo).is_err(), "{step:?}");
    }
    journal.push((Step::C, Event::Done));
    assert_eq!(replay(&journal).next(), Next::Done);
}

#[test]
fn steps_are_not_skipped() {
    let mut saga = Saga::<Step>::default();
    let skip = Record {
        step: Step::B,
        event: Event::Begun,
    };
    let error = saga.apply(skip).unwrap_err();
    assert_eq!(
        error.to_string(),
        "step B is Waiting and cannot be Begun now"
    );
    assert_eq!(saga, Saga::default());
}

/// What the journal would get next, if the attempt went as told.
fn follow(saga: &Saga<Step>, works: bool) -> Option<Vec<Record<Step>>> {
    let record = |step, event| Record { step, event };
    let outcome = |works, good, bad| if works { good } else { bad };
    match saga.next() {
        Next::Do(step) => {
            let mut records = Vec::new();
            if saga.status(step) == Status::Waiting {
                records.push(record(step, Event::Begun));
            }
            records.push(record(step, outcome(works, Event::Done, Event::Failed)));
            Some(records)
        }
        Next::Undo(step) => {
            let mut records = Vec::new();
            if saga.status(step) != Status::Undoing {
                records.push(record(step, Event::UndoBegun));
            }
            let event = outcome(works, Event::Undone, Event::UndoFailed);
            records.push(record(step, event));
            Some(records)
        }
        Next::Stuck(step, Way::Forward) => Some(vec![record(
            step,
            outcome(works, Event::Done, Event::Failed),
        )]),
        Next::Stuck(step, Way::Back) => Some(vec![record(
            step,
            outcome(works, Event::Undone, Event::UndoFailed),
        )]),
        Next::Done | Next::Undone => None,
    }
}

proptest! {
    /// Whatever fails, as long as attempts work in the end, the saga ends; it ends undone only
    /// if the pivot was never done, and every record on the way is legal.
    #[test]
    fn every_saga_ends(luck in proptest::collection::vec(any::<bool>(), 0..40)) {
        let mut saga = Saga::<Step>::default();
        let mut luck = luck.into_iter();
        for _ in 0..100 {
            let Some(records) = follow(&saga, luck.next().unwrap_or(true)) else { break };
            for record in records {
                prop_assert!(saga.apply(record).is_ok(), "{:?} {:?}", saga, record);
            }
        }
        prop_assert!(saga.is_ended());
        prop_assert_eq!(saga.next() == Next::Done, saga.is_past_pivot());
    }

    /// Arbitrary records are either refused without a trace or leave a saga that can go on.
    #[test]
    fn no_record_breaks_a_saga(records in proptest::collection::vec((0..4usize, 0..7usize), 0..60)) {
        let events = [
            Event::Begun, Event::Noted, Event::Done, Event::Failed,
            Event::UndoBegun, Event::Undone, Event::UndoFailed,
        ];
        let mut saga = Saga::<Step>::default();
        for (step, event) in records {
            let before = saga.clone();
            let record = Record { step: Step::ALL[step], event: events[event] };
            if saga.apply(record).is_err() {
                prop_assert_eq!(&before, &saga);
            }
            if before.is_past_pivot() {
                prop_assert!(saga.is_past_pivot(), "the pivot was undone by {:?}", record);
            }
        }
        for _ in 0..100 {
            let Some(records) = follow(&saga, true) else { break };
            for record in records {
                prop_assert!(saga.apply(record).is_ok());
            }
        }
        prop_assert!(saga.is_ended());
    }
}
