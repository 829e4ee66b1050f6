//! The compare-and-set, tokens and journals against a naive model.

use proptest::prelude::*;

use super::*;

fn app() -> App {
    let text = r#"{"container":{"app":"notes","image":"notes"},"volume_sizes":[],"routes":[]}"#;
    serde_json::from_str(text).unwrap()
}

fn name() -> AppName {
    "notes".parse().unwrap()
}

fn at(node: &str, epoch: u64) -> Primary {
    Primary {
        node: node.parse().unwrap(),
        epoch: Epoch(epoch),
    }
}

fn placed() -> State {
    let mut state = State::default();
    let record = Box::new(AppRecord::new(app()));
    state.apply(&Change::PutApp { record }).unwrap();
    let place = Change::PlacePrimary {
        app: name(),
        primary: at("n1", 1),
    };
    state.apply(&place).unwrap();
    state
}

fn header(started_ms: f64) -> Header {
    Header {
        id: MoveId::random(),
        app: app(),
        from: "n1".parse().unwrap(),
        to: "n2".parse().unwrap(),
        epoch: Epoch(1),
        started_ms,
    }
}

#[test]
fn a_primary_is_placed_once() {
    let mut state = placed();
    let again = Change::PlacePrimary {
        app: name(),
        primary: at("n2", 9),
    };
    state.apply(&again).unwrap();
    assert_eq!(state.primaries[&name()], at("n1", 1));
}

#[test]
fn of_two_swaps_from_the_same_primary_one_wins() {
    let mut state = placed();
    let swap = |to: &str| Change::SwapPrimary {
        app: name(),
        from: at("n1", 1),
        to: at(to, 2),
    };
    state.apply(&swap("n2")).unwrap();
    let error = state.apply(&swap("n3")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the primary of app 'notes' is not n1 at epoch 1"
    );
    assert_eq!(state.primaries[&name()], at("n2", 2));
}

#[test]
fn an_app_is_in_one_move_at_a_time() {
    let mut state = placed();
    let first = header(0.0);
    let id = first.id;
    let header_of = |header| Change::BeginMove {
        header: Box::new(header),
    };
    state.apply(&header_of(first)).unwrap();
    let error = state.apply(&header_of(header(1.0))).unwrap_err();
    assert_eq!(error, Conflict::Moving { app: name(), id });
}

#[test]
fn a_journal_is_appended_to_and_never_rewritten() {
    let mut state = placed();
    let header = header(0.0);
    let id = header.id;
    let header = Box::new(header);
    state.apply(&Change::BeginMove { header }).unwrap();
    let line = |sequence, event| Change::Journal {
        id,
        sequence,
        entry: Box::new(Entry::new(0.0, MoveStep::Preflight, event)),
    };
    use crate::logic::saga::Event;
    state.apply(&line(0, Event::Begun)).unwrap();
    let taken = Conflict::Sequence { id, sequence: 0 };
    assert_eq!(state.apply(&line(0, Event::Done)), Err(taken));
    let before = state.clone();
    assert!(matches!(
        state.apply(&line(1, Event::Undone)),
        Err(Conflict::Record { .. })
    ));
    assert_eq!(state, before);
}

#[test]
fn old_moves_are_forgotten_but_not_the_last_of_an_app() {
    let mut state = placed();
    for started_ms in 0..ENDED_MOVES_MAX + 3 {
        // An empty journal is not ended; a failed preflight is.
        let header = header(started_ms as f64);
        let id = header.id;
        use crate::logic::saga::Event;
        let events = [Event::Begun, Event::Failed, Event::UndoBegun, Event::Undone];
        let entries = events.map(|event| Entry::new(0.0, MoveStep::Preflight, event));
        state.restore_move(header, entries.to_vec()).unwrap();
        if started_ms == 0 {
            let record = state.apps.get_mut(&name()).unwrap();
            Arc::make_mut(record).last_move = Some(id);
        }
    }
    assert_eq!(state.forgettable().len(), 2);
}

proptest! {
    /// Whatever order swaps come in, the epoch only grows and changes hands by the rule.
    #[test]
    fn epochs_only_grow(swaps in proptest::collection::vec((0..3u8, 0..4u64, 0..3u8), 0..40)) {
        let mut state = placed();
        let mut model = at("n1", 1);
        for (from, epoch, to) in swaps {
            let from = at(&format!("n{from}"), epoch);
            let to = at(&format!("n{to}"), epoch + 1);
            let swap = Change::SwapPrimary { app: name(), from: from.clone(), to: to.clone() };
            let swapped = state.apply(&swap).is_ok();
            prop_assert_eq!(swapped, from == model);
            if swapped {
                model = to;
            }
            prop_assert_eq!(&state.primaries[&name()], &model);
        }
    }

    #[test]
    fn tokens_only_grow(tokens in proptest::collection::vec(0..20u64, 0..40)) {
        let mut state = State::default();
        for token in tokens.into_iter().map(Token) {
            let newest = state.token;
            let drawn = state.apply(&Change::DrawToken { token }).is_ok();
            prop_assert_eq!(drawn, token > newest);
            prop_assert_eq!(state.token, newest.max(token));
        }
    }
}
