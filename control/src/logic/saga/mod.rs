//! The generic part of a saga: a straight line of steps, each with an undo, and one pivot.
//!
//! The journal is a list of [`Record`]s. A [`Saga`] is nothing but the journal replayed, so
//! recovery *is* replaying: whoever holds the journal knows what to do next. Nothing here
//! performs a step or knows what it does.
//!
//! ```text
//!              Begun            Done
//!   Waiting ----------> Running ------> Done
//!                          |  Failed     |
//!                          v             | UndoBegun (never past the pivot)
//!                        Failed ---------+
//!       past the pivot:  |  ^            v         Undone
//!         Done ------> Done `-Failed   Undoing --------------> Undone
//!                                        |  UndoFailed           ^
//!                                        v                       | Undone
//!                                    UndoFailed -----------------+
//! ```
//!
//! Before the pivot a failed step turns the saga round: the steps that were begun are undone,
//! last first. From the pivot on a failed step is tried again until it is done. A failed undo
//! is tried again too. A step that is tried again writes no record until the outcome changes,
//! so that days of trying do not fill the journal.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The steps of one kind of saga.
pub trait Steps: Copy + Eq + fmt::Debug + 'static {
    /// All of them, in order.
    const ALL: &'static [Self];
    /// Once this one is done there is no way back.
    const PIVOT: Self;
}

/// What happened to a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// It is about to be done.
    Begun,
    /// Something worth keeping was found while it is being done.
    Noted,
    /// It is done.
    Done,
    /// It could not be done.
    Failed,
    /// It is about to be undone.
    UndoBegun,
    /// It is undone.
    Undone,
    /// It could not be undone yet.
    UndoFailed,
}

/// One line of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record<S> {
    /// The step.
    pub step: S,
    /// What happened to it.
    pub event: Event,
}

/// Where a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Not begun.
    Waiting,
    /// Begun, its outcome unknown.
    Running,
    /// Done.
    Done,
    /// Failed; perhaps half done.
    Failed,
    /// Being undone.
    Undoing,
    /// Its undo failed and is tried again.
    UndoFailed,
    /// Undone.
    Undone,
}

/// Which way a step is being taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Done.
    Forward,
    /// Undone.
    Back,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next<S> {
    /// Do this step (again, if it is running: the outcome of the last attempt is unknown).
    Do(S),
    /// Undo this step (again, if it is being undone).
    Undo(S),
    /// All steps are done.
    Done,
    /// All steps that were begun are undone.
    Undone,
    /// This step failed and there is no other way than to try it again.
    Stuck(S, Way),
}

/// A record that cannot follow the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("step {step:?} is {status:?} and cannot be {event:?} now")]
pub struct IllegalRecord<S: fmt::Debug> {
    /// The step.
    pub step: S,
    /// Where it stands.
    pub status: Status,
    /// The event that does not fit.
    pub event: Event,
}

/// A journal, replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saga<S> {
    /// In the order of [`Steps::ALL`].
    statuses: Vec<(S, Status)>,
}

impl<S: Steps> Default for Saga<S> {
    fn default() -> Self {
        let waiting = S::ALL.iter().map(|step| (*step, Status::Waiting));
        Self {
            statuses: waiting.collect(),
        }
    }
}

impl<S: Steps> Saga<S> {
    /// Where a step stands.
    #[must_use]
    pub fn status(&self, step: S) -> Status {
        self.statuses[index_of(step)].1
    }

    /// Whether the pivot is behind us.
    #[must_use]
    pub fn is_past_pivot(&self) -> bool {
        self.status(S::PIVOT) == Status::Done
    }

    /// Whether nothing is left to be done.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self.next(), Next::Done | Next::Undone)
    }

    /// Takes one more record of the journal.
    ///
    /// # Errors
    /// When the record cannot follow the ones before it; then nothing has changed.
    pub fn apply(&mut self, record: Record<S>) -> Result<(), IllegalRecord<S>> {
        let Record { step, event } = record;
        let index = index_of(step);
        let status = self.statuses[index].1;
        let place = if index > index_of(S::PIVOT) {
            Place::AfterPivot
        } else {
            Place::BeforePivot
        };
        let next = next_status(status, event, place).filter(|_| self.is_in_turn(step, event));
        match next {
            Some(next) => {
                self.statuses[index].1 = next;
                Ok(())
            }
            None => Err(IllegalRecord {
                step,
                status,
                event,
            }),
        }
    }

    /// What comes next.
    #[must_use]
    pub fn next(&self) -> Next<S> {
        let find = |wanted: Status| {
            let mut found = self.statuses.iter().filter(|(_, status)| *status == wanted);
            found.next().map(|(step, _)| *step)
        };
        if let Some(step) = find(Status::UndoFailed) {
            return Next::Stuck(step, Way::Back);
        }
        if let Some(step) = find(Status::Undoing) {
            return Next::Undo(step);
        }
        if self.is_past_pivot() {
            if let Some(step) = find(Status::Failed) {
                return Next::Stuck(step, Way::Forward);
            }
        } else if find(Status::Failed).is_some() || find(Status::Undone).is_some() {
            return self.last_begun().map_or(Next::Undone, Next::Undo);
        }
        find(Status::Running)
            .or_else(|| find(Status::Waiting))
            .map_or(Next::Done, Next::Do)
    }

    /// The rule across steps: forward in order, back in reverse order.
    fn is_in_turn(&self, step: S, event: Event) -> bool {
        match event {
            Event::Begun => self.next() == Next::Do(step),
            Event::UndoBegun => self.next() == Next::Undo(step),
            Event::Noted | Event::Done | Event::Failed | Event::Undone | Event::UndoFailed => true,
        }
    }

    /// The last step that was begun and is not undone.
    fn last_begun(&self) -> Option<S> {
        let touched = |status: Status| !matches!(status, Status::Waiting | Status::Undone);
        let mut begun = self.statuses.iter().filter(|(_, status)| touched(*status));
        begun.next_back().map(|(step, _)| *step)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    BeforePivot,
    AfterPivot,
}

fn index_of<S: Steps>(step: S) -> usize {
    S::ALL
        .iter()
        .position(|other| *other == step)
        .expect("ALL holds every step")
}

/// The legal transitions of one step. Everything that is not listed is illegal.
fn next_status(status: Status, event: Event, place: Place) -> Option<Status> {
    use Place::{AfterPivot, BeforePivot};
    match (status, event, place) {
        (Status::Waiting, Event::Begun, _) | (Status::Running, Event::Noted, _) => {
            Some(Status::Running)
        }
        (Status::Running, Event::Done, _) | (Status::Failed, Event::Done, AfterPivot) => {
            Some(Status::Done)
        }
        (Status::Running, Event::Failed, _) | (Status::Failed, Event::Failed, AfterPivot) => {
            Some(Status::Failed)
        }
        (Status::Done | Status::Failed, Event::UndoBegun, BeforePivot) => Some(Status::Undoing),
        (Status::Undoing | Status::UndoFailed, Event::Undone, BeforePivot) => Some(Status::Undone),
        (Status::Undoing | Status::UndoFailed, Event::UndoFailed, BeforePivot) => {
            Some(Status::UndoFailed)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
