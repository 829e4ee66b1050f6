//! The move of an app to another node: its steps in one table, and what each step found.
//!
//! ```text
//!   preflight  precopy  prepare  pause  stop  final_delta | PIVOT | promote  start  switch  cleanup
//!   -------- the app serves at the source --------        |       |
//!                            ----------- requests are held --------------------------
//!   <------------------- undone, last first ------------- |       | --- only forward --->
//! ```
//!
//! Until the pivot the source's copy is the truth and stays writable, so undoing is starting
//! the container again and letting the parked requests go. The pivot is one compare-and-set in
//! the store; it does no I/O elsewhere and is recorded in the same commit. From then on the
//! source's container is stopped for good and only the target may start one.
//!
//! This module knows the order and the bookkeeping. `driver::executor` performs the actions.

use std::{net::SocketAddr, time::Duration};

use flocker_api::{
    ErrorBody,
    app::App,
    control::{MoveStep, RoundStatus},
    gate::Token,
    name::{MoveId, NodeName},
    volume::Epoch,
};
use serde::{Deserialize, Serialize};

use super::saga::{Event, IllegalRecord, Next, Record, Saga, Status, Steps};

impl Steps for MoveStep {
    const ALL: &'static [Self] = &Self::ALL;
    const PIVOT: Self = Self::Pivot;
}

/// What is done for a step, or to undo it. Each can be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Find everything that can be known to fail.
    CheckBothSides,
    /// Send the volumes, round by round.
    CopyAhead,
    /// Make the container at the target, run the pre-stop hook.
    PrepareTarget,
    /// Pause the routes on all edges and wait until nothing is in flight.
    PauseRoutes,
    /// Stop the container at the source.
    StopSource,
    /// Send what was written since the last round.
    SendFinalDelta,
    /// Compare and set the primary in the store.
    SwapPrimary,
    /// Make the target's copies writable.
    PromoteTarget,
    /// Start the container at the target.
    StartTarget,
    /// Lead the routes of all edges to the target and let the parked go.
    SwitchRoutes,
    /// Remove the old container, make the old copies replicas.
    TidySource,
    /// Remove the container at the target.
    RemoveAtTarget,
    /// Let the parked go to the source, once the app runs there: whether it was stopped may be
    /// among what the store forgot.
    ResumeRoutes,
    /// Start the container at the source again.
    StartSource,
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// The step.
    pub step: MoveStep,
    /// What it does.
    pub action: Action,
    /// How that is undone; `None` where nothing needs to be.
    pub undo: Option<Action>,
    /// Whether requests are held while it is done.
    pub paused: bool,
    /// Whether the store may forget for a while that it is done. It is then done again after a
    /// crash, which costs less than a sync that everyone who is held would wait for.
    pub lazy: bool,
}

const fn line(
    step: MoveStep,
    action: Action,
    undo: Option<Action>,
    paused: bool,
    lazy: bool,
) -> Line {
    Line {
        step,
        action,
        undo,
        paused,
        lazy,
    }
}

/// The move. The order is that of [`MoveStep::ALL`].
#[rustfmt::skip]
pub const TABLE: [Line; 11] = [
    //   step                  action                  undo                          paused lazy
    line(MoveStep::Preflight,  Action::CheckBothSides, None,                         false, false),
    // The replica is kept: it makes the next attempt cheaper.
    line(MoveStep::Precopy,    Action::CopyAhead,      None,                         false, false),
    line(MoveStep::Prepare,    Action::PrepareTarget,  Some(Action::RemoveAtTarget), false, false),
    line(MoveStep::Pause,      Action::PauseRoutes,    Some(Action::ResumeRoutes),   true,  true),
    line(MoveStep::Stop,       Action::StopSource,     Some(Action::StartSource),    true,  true),
    line(MoveStep::FinalDelta, Action::SendFinalDelta, None,                         true,  false),
    line(MoveStep::Pivot,      Action::SwapPrimary,    None,                         true,  false),
    line(MoveStep::Promote,    Action::PromoteTarget,  None,                         true,  true),
    line(MoveStep::Start,      Action::StartTarget,    None,                         true,  true),
    line(MoveStep::Switch,     Action::SwitchRoutes,   None,                         true,  false),
    line(MoveStep::Cleanup,    Action::TidySource,     None,                         false, false),
];

/// The table's line of a step.
#[must_use]
pub fn line_of(step: MoveStep) -> &'static Line {
    &TABLE[step as usize]
}

/// What a move is about; fixed when it begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Its identity.
    pub id: MoveId,
    /// The app as it was declared then.
    pub app: App,
    /// Where it was.
    pub from: NodeName,
    /// Where it shall be.
    pub to: NodeName,
    /// The epoch of the source.
    pub epoch: Epoch,
    /// When it began, Unix time in ms.
    pub started_ms: f64,
}

/// Where a node's parts are found; learnt in preflight so that the pause need not ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddresses {
    /// Where apps listen.
    pub apps: std::net::IpAddr,
    /// Where the agent takes replication streams.
    pub replication: SocketAddr,
}

/// What steps found, kept in the journal. A later value replaces an earlier one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// Pre-copy rounds; these add up.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rounds: Vec<RoundStatus>,
    /// The final delta.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_delta: Option<RoundStatus>,
    /// The source's addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<NodeAddresses>,
    /// The target's addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<NodeAddresses>,
    /// Token of the pause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// When the first edge was paused, Unix time in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_at_ms: Option<f64>,
    /// The app's own stop, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_stop_ms: Option<f64>,
    /// The app's own start, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_start_ms: Option<f64>,
    /// What the edges saw of the pause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// Whether someone has asked for it to be given up.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub aborted: bool,
}

impl Facts {
    fn merge(&mut self, newer: &Self) {
        self.rounds.extend(newer.rounds.iter().cloned());
        replace(&mut self.final_delta, newer.final_delta.as_ref());
        replace(&mut self.source, newer.source.as_ref());
        replace(&mut self.target, newer.target.as_ref());
        replace(&mut self.token, newer.token.as_ref());
        replace(&mut self.paused_at_ms, newer.paused_at_ms.as_ref());
        replace(&mut self.app_stop_ms, newer.app_stop_ms.as_ref());
        replace(&mut self.app_start_ms, newer.app_start_ms.as_ref());
        replace(&mut self.hold, newer.hold.as_ref());
        self.aborted |= newer.aborted;
    }
}

fn replace<T: Clone>(value: &mut Option<T>, newer: Option<&T>) {
    if let Some(newer) = newer {
        *value = Some(newer.clone());
    }
}

/// The pause as the edges saw it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    /// The longest pause of any edge, in ms.
    pub pause_ms: f64,
    /// The longest wait of any request, in ms.
    pub longest_wait_ms: f64,
    /// Requests and sessions that were held.
    pub held: u64,
    /// Of these, refused.
    pub refused: u64,
}

/// A line of a move's journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When, Unix time in ms.
    pub at_ms: f64,
    /// What happened to which step.
    #[serde(flatten)]
    pub record: Record<MoveStep>,
    /// What was done, in a few words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
    /// What was found.
    #[serde(default)]
    pub facts: Facts,
}

impl Entry {
    /// An entry that says no more than its record.
    #[must_use]
    pub fn new(at_ms: f64, step: MoveStep, event: Event) -> Self {
        Self {
            at_ms,
            record: Record { step, event },
            detail: String::new(),
            error: None,
            facts: Facts::default(),
        }
    }

    /// The same with why it failed.
    #[must_use]
    pub fn because(mut self, error: ErrorBody) -> Self {
        self.error = Some(error);
        self
    }

    /// The same with what was found.
    #[must_use]
    pub fn with(mut self, detail: impl Into<String>, facts: Facts) -> Self {
        self.detail = detail.into();
        self.facts = facts;
        self
    }
}

/// A move: its header and its journal, replayed.
#[derive(Debug, Clone, PartialEq)]
pub struct Move {
    header: Header,
    journal: Vec<Entry>,
    saga: Saga<MoveStep>,
    facts: Facts,
}

impl Move {
    /// A move of which nothing has been done yet.
    #[must_use]
    pub fn new(header: Header) -> Self {
        Self {
            header,
            journal: Vec::new(),
            saga: Saga::default(),
            facts: Facts::default(),
        }
    }

    /// What it is about.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its journal, oldest first.
    #[must_use]
    pub fn journal(&self) -> &[Entry] {
        &self.journal
    }

    /// What its steps found so far.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Where its steps stand.
    #[must_use]
    pub fn saga(&self) -> &Saga<MoveStep> {
        &self.saga
    }

    /// Whether nothing is left to be done.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.saga.is_ended()
    }

    /// Whether it is to be given up and still can be.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.facts.aborted && !self.saga.is_past_pivot()
    }

    /// The line by which it is given up at the next occasion; `None` where it is on its way back,
    /// over, or past the pivot.
    #[must_use]
    pub fn abort(&self, at_ms: f64) -> Option<Entry> {
        match self.saga.next() {
            Next::Do(step) if !self.saga.is_past_pivot() && !self.facts.aborted => {
                let facts = Facts {
                    aborted: true,
                    ..Facts::default()
                };
                Some(Entry::new(at_ms, step, Event::Noted).with("it shall be given up", facts))
            }
            _ => None,
        }
    }

    /// The epoch of the target.
    #[must_use]
    pub fn next_epoch(&self) -> Epoch {
        self.header.epoch.next()
    }

    /// Takes one more entry of the journal.
    ///
    /// # Errors
    /// When it cannot follow the ones before it; then nothing has changed.
    pub fn apply(&mut self, entry: Entry) -> Result<(), IllegalRecord<MoveStep>> {
        self.saga.apply(entry.record)?;
        self.facts.merge(&entry.facts);
        self.journal.push(entry);
        Ok(())
    }

    /// When the hold of the paused requests runs out, Unix time in ms; `None` before the pause.
    #[must_use]
    pub fn hold_ends_ms(&self) -> Option<f64> {
        let begun = self.journal.iter().find(|entry| {
            entry.record.step == MoveStep::Pause && entry.record.event == Event::Begun
        })?;
        let hold = Duration::from_millis(self.header.app.move_policy.hold_ms);
        Some(begun.at_ms + hold.as_secs_f64() * 1e3)
    }

    /// How long a step before the pivot may still hold requests, so that enough of the hold is
    /// left for starting the app again at the source. `None` when nothing is held.
    #[must_use]
    pub fn time_to_turn_back(&self, step: MoveStep, now_ms: f64) -> Option<Duration> {
        if !line_of(step).paused || self.saga.is_past_pivot() {
            return None;
        }
        let hold_ms =
            Duration::from_millis(self.header.app.move_policy.hold_ms).as_secs_f64() * 1e3;
        let ends = self.hold_ends_ms().unwrap_or(now_ms + hold_ms) - hold_ms / 3.0;
        Some(Duration::try_from_secs_f64((ends - now_ms) / 1e3).unwrap_or(Duration::ZERO))
    }

    /// The records that follow by themselves: the next step is begun, undos that do nothing
    /// are passed over. They belong into the same commit as the record that they follow.
    ///
    /// Stops before the pivot, which is its own commit's business.
    ///
    /// # Panics
    /// If the saga refused what it names as next, which its tests show that it does not.
    #[must_use]
    pub fn follow_up(&self, at_ms: f64) -> Vec<Entry> {
        let mut saga = self.saga.clone();
        let mut entries = Vec::new();
        let mut push = |saga: &mut Saga<MoveStep>, step, event| {
            let entry = Entry::new(at_ms, step, event);
            saga.apply(entry.record)
                .expect("next() names only what is legal");
            entries.push(entry);
        };
        loop {
            match saga.next() {
                Next::Do(step) if step != MoveStep::PIVOT => {
                    if saga.status(step) == Status::Waiting {
                        push(&mut saga, step, Event::Begun);
                    }
                    return entries;
                }
                Next::Undo(step) => {
                    if saga.status(step) != Status::Undoing {
                        push(&mut saga, step, Event::UndoBegun);
                    }
                    if line_of(step).undo.is_some() {
                        return entries;
                    }
                    push(&mut saga, step, Event::Undone);
                }
                Next::Do(_) | Next::Done | Next::Undone | Next::Stuck(..) => return entries,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let app = r#"{"container":{"app":"notes","image":"notes"},"volume_sizes":[],"routes":[]}"#;
        Header {
            id: MoveId::random(),
            app: serde_json::from_str(app).unwrap(),
            from: "n1".parse().unwrap(),
            to: "n2".parse().unwrap(),
            epoch: Epoch(1),
            started_ms: 0.0,
        }
    }

    /// Drives the move's journal without doing anything; `fails` fails.
    fn drive(fails: Option<MoveStep>) -> Move {
        let mut the_move = Move::new(header());
        loop {
            for entry in the_move.follow_up(0.0) {
                the_move.apply(entry).unwrap();
            }
            let entries = match the_move.saga().next() {
                Next::Do(step) if Some(step) == fails && step != MoveStep::PIVOT => {
                    vec![(step, Event::Failed)]
                }
                Next::Do(MoveStep::Pivot) => {
                    vec![
                        (MoveStep::Pivot, Event::Begun),
                        (MoveStep::Pivot, Event::Done),
                    ]
                }
                Next::Do(step) | Next::Stuck(step, super::super::saga::Way::Forward) => {
                    vec![(step, Event::Done)]
                }
                Next::Undo(step) | Next::Stuck(step, super::super::saga::Way::Back) => {
                    vec![(step, Event::Undone)]
                }
                Next::Done | Next::Undone => return the_move,
            };
            for (step, event) in entries {
                the_move.apply(Entry::new(0.0, step, event)).unwrap();
            }
        }
    }

    #[test]
    fn the_table_is_in_the_order_of_the_steps() {
        let order: Vec<_> = TABLE.iter().map(|line| line.step).collect();
        assert_eq!(order, MoveStep::ALL);
    }

    #[test]
    fn nothing_is_undone_past_the_pivot() {
        for line in &TABLE {
            assert!(line.step < MoveStep::PIVOT || line.undo.is_none());
        }
    }

    #[test]
    fn a_move_without_trouble_does_all_steps() {
        let the_move = drive(None);
        assert_eq!(the_move.saga().next(), Next::Done);
    }

    #[test]
    fn a_failing_step_before_the_pivot_undoes_all_that_were_begun_last_first() {
        let the_move = drive(Some(MoveStep::FinalDelta));
        assert_eq!(the_move.saga().next(), Next::Undone);
        let undone = the_move
            .journal()
            .iter()
            .filter_map(|entry| (entry.record.event == Event::Undone).then_some(entry.record.step));
        let mut expected = MoveStep::ALL[..=5].to_vec();
        expected.reverse();
        assert_eq!(undone.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_failing_step_after_the_pivot_is_done_in_the_end() {
        assert_eq!(drive(Some(MoveStep::Start)).saga().next(), Next::Done);
    }

    #[test]
    fn a_third_of_the_hold_is_kept_for_the_way_back() {
        let mut the_move = Move::new(header());
        for step in &MoveStep::ALL[..3] {
            the_move
                .apply(Entry::new(0.0, *step, Event::Begun))
                .unwrap();
            the_move.apply(Entry::new(0.0, *step, Event::Done)).unwrap();
        }
        assert_eq!(the_move.time_to_turn_back(MoveStep::Prepare, 0.0), None);
        the_move
            .apply(Entry::new(1_000.0, MoveStep::Pause, Event::Begun))
            .unwrap();
        let left = |now| the_move.time_to_turn_back(MoveStep::Stop, now).unwrap();
        assert_eq!(left(1_000.0), Duration::from_secs(20));
        assert_eq!(left(16_000.0), Duration::from_secs(5));
        assert_eq!(left(30_000.0), Duration::ZERO);
    }
}
