//! Drives moves: performs what the saga says is next and records what came of it.
//!
//! ```text
//!   replay journal -> next() -> perform -> commit [outcome, next step begun] -> next() ...
//! ```
//!
//! One commit lies between two steps: the outcome of the one and the beginning of the other
//! travel together, and the pivot's compare-and-set travels with its neighbours. While requests
//! are held only the pivot is synced: what else is forgotten in a crash is done again. Whoever
//! finds a step begun and no outcome does it again. Nothing is decided here: the order is [`crate::logic::migration`]'s.

mod actions;
mod gates;

pub(crate) use gates::stale_token;

use std::{sync::Arc, time::Duration};

use flocker_api::{ErrorBody, ErrorCode, control::MoveStep, gate::Token, name::MoveId};
use tracing::{info, warn};

use super::{
    context::Context,
    store::{Durability, StoreError},
};
use crate::logic::{
    migration::{Entry, Facts, Move, line_of},
    saga::{Event, Next, Steps as _, Way},
    state::{Change, Conflict, Primary, State},
};

/// How often a step is tried at once before its failure is recorded.
const QUICK_RETRIES: u32 = 3;

/// The first pause between two attempts.
const RETRY_FIRST: Duration = Duration::from_millis(50);

/// What a step came to.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// In a few words.
    detail: String,
    /// What it found.
    facts: Facts,
}

impl Outcome {
    fn said(detail: impl Into<String>) -> Self {
        Self {
            detail: detail.into(),
            facts: Facts::default(),
        }
    }
}

/// Drives a move until it has ended.
///
/// A store that fails is tried again: until it works, nobody else can do better.
pub async fn run(context: Arc<Context>, id: MoveId) {
    let mut executor = Executor {
        context: &context,
        id,
        attempts: 0,
    };
    loop {
        match executor.advance_once().await {
            Ok(Progressed::On) => executor.attempts = 0,
            Ok(Progressed::NotYet) => executor.wait().await,
            Ok(Progressed::Ended) => return,
            Err(error) => {
                let reason = flocker_api::error::chain(&error);
                warn!(%id, %reason, "the journal of a move cannot be written");
                executor.context.progress.trouble(id, reason);
                executor.wait().await;
            }
        }
    }
}

/// The changes that begin a move: its header and the beginning of its first step.
#[must_use]
pub fn begin(header: crate::logic::migration::Header) -> Vec<Change> {
    let at_ms = header.started_ms;
    let fresh = Move::new(header.clone());
    let mut changes = vec![Change::BeginMove {
        header: Box::new(header),
    }];
    changes.extend(journal(&fresh, fresh.follow_up(at_ms)));
    changes
}

enum Progressed {
    On,
    NotYet,
    Ended,
}

struct Executor<'a> {
    context: &'a Context,
    id: MoveId,
    /// Failed attempts at what is being tried.
    attempts: u32,
}

impl Executor<'_> {
    /// Does the next thing and records what came of it.
    async fn advance_once(&mut self) -> Result<Progressed, StoreError> {
        let state = self.context.ledger.state();
        let Some(the_move) = state.moves.get(&self.id) else {
            return Err(Conflict::NoMove(self.id).into());
        };
        match the_move.saga().next() {
            Next::Do(step) => {
                let result = match the_move.is_aborted() {
                    true => Err(aborted(the_move)),
                    false => self.try_step(the_move, step).await,
                };
                let entry = match result {
                    Ok(outcome) => self.done(step, Event::Done, outcome),
                    Err(error) => self.failed(the_move, step, Event::Failed, error),
                };
                self.record(entry).await?;
                Ok(Progressed::On)
            }
            Next::Undo(step) => {
                let result = self.try_undo(the_move, step).await;
                let entry = match result {
                    Ok(outcome) => self.done(step, Event::Undone, outcome),
                    Err(error) => self.failed(the_move, step, Event::UndoFailed, error),
                };
                self.record(entry).await?;
                Ok(Progressed::On)
            }
            Next::Stuck(step, way) => {
                let (result, event) = match way {
                    Way::Forward => (self.perform(the_move, step).await, Event::Done),
                    Way::Back => (self.perform_undo(the_move, step).await, Event::Undone),
                };
                match result {
                    Ok(outcome) => {
                        self.record(self.done(step, event, outcome)).await?;
                        Ok(Progressed::On)
                    }
                    Err(error) => {
                        self.context.progress.trouble(self.id, error.message);
                        Ok(Progressed::NotYet)
                    }
                }
            }
            Next::Done => Ok(self.ended(the_move, "done")),
            Next::Undone => Ok(self.ended(the_move, "undone")),
        }
    }

    /// Performs a step. From the pivot on there is no way back, so what may be a hiccup is
    /// tried again at once.
    async fn try_step(&self, the_move: &Move, step: MoveStep) -> Result<Outcome, ErrorBody> {
        if the_move.saga().is_past_pivot() {
            return self.quickly(|| self.perform(the_move, step)).await;
        }
        if may_be_cut_off(step) {
            return tokio::select! {
                biased;
                () = self.until_aborted() => Err(aborted(the_move)),
                performed = self.in_time(the_move, step) => performed,
            };
        }
        self.in_time(the_move, step).await
    }

    /// Returns when someone has asked for the move to be given up.
    async fn until_aborted(&self) {
        let mut changes = self.context.progress.subscribe();
        loop {
            changes.borrow_and_update();
            let state = self.context.ledger.state();
            let found = state.moves.get(&self.id);
            if found.is_some_and(|found| found.is_aborted()) {
                return;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Performs a step, but holds requests no longer than leaves time for the way back.
    async fn in_time(&self, the_move: &Move, step: MoveStep) -> Result<Outcome, ErrorBody> {
        let Some(budget) = the_move.time_to_turn_back(step, self.now_ms()) else {
            return self.perform(the_move, step).await;
        };
        let performed = tokio::time::timeout(budget, self.perform(the_move, step)).await;
        performed.unwrap_or_else(|_| Err(hold_exceeded(the_move, step)))
    }

    async fn try_undo(&self, the_move: &Move, step: MoveStep) -> Result<Outcome, ErrorBody> {
        self.quickly(|| self.perform_undo(the_move, step)).await
    }

    async fn quickly<F: Future<Output = Result<Outcome, ErrorBody>>>(
        &self,
        attempt: impl Fn() -> F,
    ) -> Result<Outcome, ErrorBody> {
        let mut pause = RETRY_FIRST;
        for _ in 1..QUICK_RETRIES {
            match attempt().await {
                Err(error) if error.code.is_transient() => {
                    self.context.progress.trouble(self.id, error.message);
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                result => return result,
            }
        }
        attempt().await
    }

    fn done(&self, step: MoveStep, event: Event, outcome: Outcome) -> Entry {
        Entry::new(self.now_ms(), step, event).with(outcome.detail, outcome.facts)
    }

    fn failed(&self, the_move: &Move, step: MoveStep, event: Event, error: ErrorBody) -> Entry {
        let app = the_move.header().app.name();
        warn!(id = %self.id, %app, step = step.name(), ?event, reason = %error.message, "a step of a move failed");
        Entry::new(self.now_ms(), step, event).because(error)
    }

    /// Commits an entry with all that follows from it.
    async fn record(&self, entry: Entry) -> Result<(), StoreError> {
        let now_ms = self.now_ms();
        // What was observed until now shows less than this entry knows; whoever sees the commit
        // must see that too.
        self.touch_app();
        let durability = match entry.record.event {
            Event::Done if line_of(entry.record.step).lazy => Durability::Lazy,
            _ => Durability::Synced,
        };
        let ledger = &self.context.ledger;
        let with_pivot = |state: &State| self.changes(state, entry.clone(), now_ms, None);
        let committed = match ledger.transact_as(durability, with_pivot).await {
            Err(StoreError::Conflict(conflict @ Conflict::Primary { .. })) => {
                let error = ErrorBody::from_error(ErrorCode::StaleEpoch, &conflict);
                let without =
                    |state: &State| self.changes(state, entry.clone(), now_ms, Some(error));
                ledger.transact(without).await?
            }
            committed => committed?,
        };
        if let Some(the_move) = committed.moves.get(&self.id) {
            let app = the_move.header().app.name();
            let (step, event) = (entry.record.step, entry.record.event);
            info!(id = %self.id, %app, step = step.name(), ?event, detail = entry.detail, "move");
            if event == Event::Done {
                self.context
                    .metrics
                    .step_took(step, took_seconds(the_move, step));
            }
        }
        self.context.progress.advanced(self.id);
        Ok(())
    }

    /// An entry, the pivot if it is next, and the records that follow by themselves.
    /// `refused`: why the pivot is known to fail.
    fn changes(
        &self,
        state: &State,
        entry: Entry,
        now_ms: f64,
        refused: Option<ErrorBody>,
    ) -> Result<Vec<Change>, StoreError> {
        let found = state.moves.get(&self.id).ok_or(Conflict::NoMove(self.id))?;
        let mut next = Move::clone(found);
        let mut entries = Vec::new();
        let mut changes = Vec::new();
        push(&mut next, &mut entries, entry)?;
        if next.saga().next() == Next::Do(MoveStep::PIVOT) {
            push(
                &mut next,
                &mut entries,
                Entry::new(now_ms, MoveStep::PIVOT, Event::Begun),
            )?;
            let late = next.time_to_turn_back(MoveStep::PIVOT, now_ms) == Some(Duration::ZERO);
            let refused = refused.or_else(|| next.is_aborted().then(|| aborted(&next)));
            let refused = refused.or_else(|| late.then(|| hold_exceeded(&next, MoveStep::PIVOT)));
            let entry = match refused {
                Some(error) => Entry::new(now_ms, MoveStep::PIVOT, Event::Failed).because(error),
                None => {
                    changes.push(swap_primary(&next));
                    Entry::new(now_ms, MoveStep::PIVOT, Event::Done)
                }
            };
            push(&mut next, &mut entries, entry)?;
        }
        for mut entry in next.follow_up(now_ms) {
            if entry.record.step == MoveStep::Pause && entry.record.event == Event::Begun {
                let token = Token(state.token.0 + 1);
                entry.facts.token = Some(token);
                changes.push(Change::DrawToken { token });
            }
            push(&mut next, &mut entries, entry)?;
        }
        changes.extend(journal(found, entries));
        Ok(changes)
    }

    fn ended(&self, the_move: &Move, outcome: &'static str) -> Progressed {
        let pause_ms = the_move.facts().hold.map(|hold| hold.pause_ms);
        self.context.metrics.move_ended(outcome, pause_ms);
        let header = the_move.header();
        let app = header.app.name();
        self.context.claims.touch(app);
        self.context.observations.poke_node(&header.from);
        self.context.observations.poke_node(&header.to);
        for edge in self.context.peers.edges() {
            self.context.observations.poke_edge(edge);
        }
        info!(id = %self.id, %app, outcome, pause_ms, "a move has ended");
        Progressed::Ended
    }

    fn touch_app(&self) {
        let state = self.context.ledger.state();
        if let Some(the_move) = state.moves.get(&self.id) {
            self.context.claims.touch(the_move.header().app.name());
        }
    }

    async fn wait(&mut self) {
        let pause = RETRY_FIRST * 2u32.saturating_pow(self.attempts.min(16));
        self.attempts += 1;
        tokio::time::sleep(pause.min(self.context.limits.retry_max)).await;
    }

    fn now_ms(&self) -> f64 {
        self.context.clock.now_ms()
    }
}

fn push(next: &mut Move, entries: &mut Vec<Entry>, entry: Entry) -> Result<(), StoreError> {
    let id = next.header().id;
    next.apply(entry.clone())
        .map_err(|source| Conflict::Record { id, source })?;
    entries.push(entry);
    Ok(())
}

/// Entries as the next lines of a move's journal.
pub(super) fn journal(the_move: &Move, entries: Vec<Entry>) -> impl Iterator<Item = Change> {
    let id = the_move.header().id;
    let next = the_move.journal().len();
    (next..)
        .zip(entries)
        .map(move |(sequence, entry)| Change::Journal {
            id,
            sequence: sequence as u64,
            entry: Box::new(entry),
        })
}

fn swap_primary(the_move: &Move) -> Change {
    let header = the_move.header();
    Change::SwapPrimary {
        app: header.app.name().clone(),
        from: Primary {
            node: header.from.clone(),
            epoch: header.epoch,
        },
        to: Primary {
            node: header.to.clone(),
            epoch: the_move.next_epoch(),
        },
    }
}

/// Whether a step may be left in the middle when its move is aborted: those that may take long,
/// and of which nothing can come late that its undo, or the reconciler, does not meet.
fn may_be_cut_off(step: MoveStep) -> bool {
    matches!(
        step,
        MoveStep::Preflight | MoveStep::Precopy | MoveStep::FinalDelta
    )
}

fn aborted(the_move: &Move) -> ErrorBody {
    let header = the_move.header();
    let message = format!(
        "the move of app '{}' was aborted; it stays on {}",
        header.app.name(),
        header.from
    );
    ErrorBody::new(ErrorCode::Precondition, message)
}

fn hold_exceeded(the_move: &Move, step: MoveStep) -> ErrorBody {
    let header = the_move.header();
    let message = format!(
        "{} of app '{}' would keep requests waiting beyond its hold of {} ms; a third of it is \
         kept for going back",
        step.name(),
        header.app.name(),
        header.app.move_policy.hold_ms
    );
    ErrorBody::new(ErrorCode::Timeout, message)
}

fn took_seconds(the_move: &Move, step: MoveStep) -> f64 {
    let at = |event| {
        let mut lines = the_move.journal().iter();
        let line = lines.find(|line| line.record.step == step && line.record.event == event);
        line.map(|line| line.at_ms)
    };
    match (at(Event::Begun), at(Event::Done)) {
        (Some(begun), Some(done)) => (done - begun) / 1e3,
        _ => 0.0,
    }
}

impl Executor<'_> {
    async fn perform(&self, the_move: &Move, step: MoveStep) -> Result<Outcome, ErrorBody> {
        self.act(the_move, line_of(step).action).await
    }

    async fn perform_undo(&self, the_move: &Move, step: MoveStep) -> Result<Outcome, ErrorBody> {
        match line_of(step).undo {
            Some(action) => self.act(the_move, action).await,
            None => Ok(Outcome::default()),
        }
    }
}
