//! State and observations as the API shows them. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use flocker_api::{
    app::App,
    aside::{Aside, AsideCause},
    container::{ContainerState, ContainerStatus, Restart},
    control::{
        AppPhase, AppStatus, MoveState, MoveStatus, MoveStep, Problem, StepState, StepStatus,
    },
    name::{AppName, EdgeName, NodeName},
    volume::Role,
};

use super::{
    migration::{Entry, Move},
    reconcile::{Observed, Obstacle, Order, Seen, lacking},
    saga::{Event, Next, Status},
    state::{AppRecord, Life, Primary, State},
};

/// What a running move is doing, beyond what its journal says.
#[derive(Debug, Clone, Default)]
pub struct Doing {
    /// Revision of its record.
    pub revision: u64,
    /// What its running step is doing.
    pub detail: String,
    /// Why a step that is tried again does not succeed.
    pub trouble: Option<String>,
}

/// What the reconciler tries in vain.
#[derive(Debug, Clone, PartialEq)]
pub struct Trouble {
    /// Why it does not succeed.
    pub message: String,
    /// Since when, Unix time in ms.
    pub since_ms: f64,
    /// When it is tried again, Unix time in ms.
    pub next_ms: f64,
    /// Attempts so far.
    pub attempts: u32,
}

/// What the reconciler tries in vain, by app and by edge.
#[derive(Debug, Clone, Default)]
pub struct Troubles {
    /// By app.
    pub apps: BTreeMap<AppName, Trouble>,
    /// By edge.
    pub edges: BTreeMap<EdgeName, Trouble>,
}

/// Unix time of the API: whole milliseconds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturating is right for a time"
)]
#[must_use]
pub fn whole_ms(ms: f64) -> u64 {
    ms as u64
}

/// A move as the API shows it.
#[must_use]
pub fn move_status(the_move: &Move, doing: &Doing, now_ms: f64) -> MoveStatus {
    let header = the_move.header();
    let facts = the_move.facts();
    let hold = facts.hold;
    let state = match the_move.saga().next() {
        Next::Do(_) => MoveState::Running,
        Next::Undo(_) => MoveState::Undoing,
        Next::Done => MoveState::Done,
        Next::Undone => MoveState::Undone,
        Next::Stuck(..) => MoveState::Stuck,
    };
    let ended = the_move.is_ended().then(|| the_move.journal().last());
    let steps = MoveStep::ALL
        .iter()
        .map(|step| step_status(the_move, *step, doing, now_ms));
    MoveStatus {
        id: header.id,
        revision: doing.revision,
        app: header.app.name().clone(),
        from: header.from.clone(),
        to: header.to.clone(),
        state,
        reason: reason(the_move, state, doing),
        started_ms: whole_ms(header.started_ms),
        ended_ms: ended.flatten().map(|entry| whole_ms(entry.at_ms)),
        steps: steps.collect(),
        rounds: facts.rounds.clone(),
        final_delta: facts.final_delta.clone(),
        token: facts.token,
        paused_at_ms: facts.paused_at_ms,
        pause_ms: hold.map(|hold| hold.pause_ms),
        longest_wait_ms: hold.map(|hold| hold.longest_wait_ms),
        app_stop_ms: facts.app_stop_ms,
        app_start_ms: facts.app_start_ms,
        held: hold.map_or(0, |hold| hold.held),
        refused: hold.map_or(0, |hold| hold.refused),
    }
}

fn step_status(the_move: &Move, step: MoveStep, doing: &Doing, now_ms: f64) -> StepStatus {
    let entries = || {
        the_move
            .journal()
            .iter()
            .filter(move |entry| entry.record.step == step)
    };
    let at = |events: &[Event]| {
        let mut found = entries().filter(|entry| events.contains(&entry.record.event));
        found.next().map(|entry| entry.at_ms)
    };
    let status = the_move.saga().status(step);
    let failed = at(&[Event::Failed]).is_some() && status != Status::Done;
    let state = match status {
        Status::Waiting => StepState::Waiting,
        Status::Running => StepState::Running,
        _ if failed => StepState::Failed,
        Status::Done | Status::Undoing | Status::UndoFailed => StepState::Done,
        Status::Failed => StepState::Failed,
        Status::Undone => StepState::Undone,
    };
    let begun = at(&[Event::Begun]);
    let ended = at(&[Event::Done]).or_else(|| at(&[Event::Failed]));
    let detail = entries()
        .rev()
        .map(|entry| &entry.detail)
        .find(|detail| !detail.is_empty());
    let live = matches!(status, Status::Running) && !doing.detail.is_empty();
    StepStatus {
        step,
        state,
        started_ms: begun.map(whole_ms),
        elapsed_ms: begun.map(|begun| ended.unwrap_or(now_ms) - begun),
        detail: if live {
            doing.detail.clone()
        } else {
            detail.cloned().unwrap_or_default()
        },
    }
}

/// Why a move waits, failed or was undone.
fn reason(the_move: &Move, state: MoveState, doing: &Doing) -> Option<String> {
    let said = |entry: &Entry| {
        let error = entry.error.as_ref()?;
        Some(format!("{}: {}", entry.record.step.name(), error.message))
    };
    let mut journal = the_move.journal().iter();
    let (first, last) = (
        journal.find_map(said),
        the_move.journal().iter().rev().find_map(said),
    );
    match state {
        MoveState::Done => None,
        MoveState::Running => doing.trouble.clone(),
        MoveState::Undone => first,
        MoveState::Undoing | MoveState::Stuck => {
            let now = doing.trouble.clone().or(last);
            match (first, now) {
                (Some(first), Some(now)) if !first.ends_with(&now) => {
                    Some(format!("{first}; now: {now}"))
                }
                (first, now) => first.or(now),
            }
        }
    }
}

/// An app as the API shows it; `None` when it is deleted. `starting`: the apps that were told
/// to start and have not said yet that they are ready.
#[must_use]
pub fn app_status(
    state: &State,
    observed: &Observed,
    troubles: &Troubles,
    starting: &BTreeSet<AppName>,
    name: &AppName,
) -> Option<AppStatus> {
    let record = state
        .apps
        .get(name)
        .filter(|record| record.life != Life::Deleted)?;
    let primary = state.primaries.get(name)?;
    let (phase, reason) = phase(state, observed, troubles, starting, record, primary);
    Some(AppStatus {
        app: App::clone(&record.app),
        node: primary.node.clone(),
        epoch: primary.epoch,
        phase,
        reason,
        last_move: record.last_move,
        container: observed
            .nodes
            .get(&primary.node)
            .and_then(Seen::ok)
            .and_then(|node| node.containers.iter().find(|one| one.app == *name))
            .cloned(),
    })
}

fn phase(
    state: &State,
    observed: &Observed,
    troubles: &Troubles,
    being_started: &BTreeSet<AppName>,
    record: &AppRecord,
    primary: &Primary,
) -> (AppPhase, Option<String>) {
    let name = record.app.name();
    if let Some(the_move) = state.move_of(name) {
        let to = &the_move.header().to;
        return (AppPhase::Moving, Some(format!("on its way to node {to}")));
    }
    if record.life == Life::Deleting {
        return (AppPhase::Starting, Some("it is being deleted".to_owned()));
    }
    if let Some(trouble) = troubles.apps.get(name) {
        return (AppPhase::Failed, Some(trouble.message.clone()));
    }
    let Some(seen) = observed.nodes.get(&primary.node) else {
        let message = format!("node {} is not in the configuration", primary.node);
        return (AppPhase::Failed, Some(message));
    };
    let node = match &seen.answer {
        Ok(node) => node,
        Err(error) => return (AppPhase::Unknown, Some(error.message.clone())),
    };
    let starting = |reason: &str| (AppPhase::Starting, Some(reason.to_owned()));
    let mut containers = node.containers.iter();
    let container = containers.find(|container| container.app == *name);
    let order = Order::new(state);
    if record.changed {
        return match order.unsettled(record) {
            Some(other) => starting(&format!("it changes after app {other}, which it needs")),
            None => starting("its container is being made anew"),
        };
    }
    let runs = container.is_some_and(|one| one.state == ContainerState::Running);
    if let Some(other) = order.awaited(observed, record).filter(|_| !runs) {
        return starting(&format!("it waits for app {other}, which it needs"));
    }
    if let Some(found) = container.and_then(ended_by_itself) {
        return found;
    }
    match container.map(|container| &container.state) {
        None => return starting("its volumes and its container are being made"),
        Some(ContainerState::Created) => return starting("its container is being started"),
        Some(ContainerState::Exited { code }) => {
            return starting(&format!(
                "its container exited with {code} and is started again"
            ));
        }
        Some(ContainerState::Running) if being_started.contains(name) => {
            return starting("its container runs and is not ready yet");
        }
        Some(ContainerState::Running) => {}
    }
    let missing = observed.edges.iter().find(|(_, edge)| {
        edge.ok().is_some_and(|report| {
            lacking(state, record, node.address, report)
                .next()
                .is_some()
        })
    });
    match missing {
        Some((edge, _)) => starting(&format!("edge {edge} does not have its routes yet")),
        None => (AppPhase::Serving, None),
    }
}

/// The phase of an app that has ended without having been asked to.
fn ended_by_itself(container: &ContainerStatus) -> Option<(AppPhase, Option<String>)> {
    let ContainerState::Exited { code } = container.state else {
        return None;
    };
    Some(match container.restart.as_ref()? {
        Restart::Waiting { in_ms } => {
            let reason = format!(
                "its container exited with {code}; its node starts it again in {:.1} s (restart {})",
                Duration::from_millis(*in_ms).as_secs_f64(),
                container.restarts.max(1)
            );
            (AppPhase::Starting, Some(reason))
        }
        Restart::Left { reason } if code == 0 => (AppPhase::Ended, Some(reason.clone())),
        Restart::Left { reason } => (AppPhase::Failed, Some(reason.clone())),
    })
}

/// What is not well, worst first.
#[must_use]
pub fn problems(
    state: &State,
    observed: &Observed,
    troubles: &Troubles,
    obstacles: &[Obstacle],
    moves: &[MoveStatus],
    now_ms: f64,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for stuck in moves
        .iter()
        .filter(|the_move| the_move.state == MoveState::Stuck)
    {
        problems.push(Problem {
            subject: format!("move {} of app {}", stuck.id, stuck.app),
            message: stuck.reason.clone().unwrap_or_default(),
            next: "it is tried again until it works".to_owned(),
            since_ms: stuck.started_ms,
        });
    }
    for obstacle in obstacles {
        problems.push(Problem {
            subject: format!("app {}", obstacle.app),
            message: obstacle.message.clone(),
            next: obstacle.next.clone(),
            since_ms: whole_ms(now_ms),
        });
    }
    for (name, seen) in &observed.nodes {
        problems.extend(node_problems(state, name, seen));
    }
    for (name, seen) in &observed.edges {
        if let Err(error) = &seen.answer {
            problems.push(Problem {
                subject: format!("edge {name}"),
                message: error.message.clone(),
                next: "it is asked again; it gets its routes when it answers".to_owned(),
                since_ms: whole_ms(seen.since_ms),
            });
        }
    }
    let apps = troubles
        .apps
        .iter()
        .map(|(name, trouble)| (format!("app {name}"), trouble));
    let edges = troubles
        .edges
        .iter()
        .map(|(name, trouble)| (format!("edge {name}"), trouble));
    for (subject, trouble) in apps.chain(edges) {
        let wait_s = ((trouble.next_ms - now_ms) / 1e3).max(0.0);
        problems.push(Problem {
            subject,
            message: trouble.message.clone(),
            next: format!("attempt {} in {wait_s:.1} s", trouble.attempts + 1),
            since_ms: whole_ms(trouble.since_ms),
        });
    }
    problems
}

/// Nothing is lost, but only a person can know whether it is of any worth. What was rolled back on
/// purpose is nobody's problem.
fn aside_problem(node: &NodeName, aside: &Aside) -> Option<Problem> {
    let bytes = aside.written_bytes;
    let (volume, epoch) = (&aside.name, aside.epoch);
    let message = match aside.cause {
        AsideCause::Diverged => format!(
            "what was written to volume '{volume}' under epoch {epoch} and reached no other node is kept aside: {bytes} bytes"
        ),
        AsideCause::Touched => {
            format!(
                "what somebody wrote to a replica of volume '{volume}' is kept aside: {bytes} bytes"
            )
        }
        AsideCause::RolledBack => return None,
        AsideCause::Unrelated => format!(
            "a copy of volume '{volume}' that has nothing in common with its primary is kept aside: {bytes} bytes"
        ),
    };
    Some(Problem {
        subject: format!("node {node}"),
        message,
        next: format!("a person decides: flockerctl volume resolve {volume} --node {node}"),
        since_ms: aside.since_ms,
    })
}

fn node_problems(
    state: &State,
    name: &NodeName,
    seen: &Seen<flocker_api::agent::NodeStatus>,
) -> Vec<Problem> {
    let subject = format!("node {name}");
    let problem = |message: &str, next: String| Problem {
        subject: subject.clone(),
        message: message.to_owned(),
        next,
        since_ms: whole_ms(seen.since_ms),
    };
    let node = match &seen.answer {
        Err(error) => {
            let here = state.primaries.iter().filter(|(app, at)| {
                at.node == *name
                    && state
                        .apps
                        .get(*app)
                        .is_some_and(|app| app.life == Life::Wanted)
            });
            let here: Vec<_> = here.map(|(app, _)| app.as_str()).collect();
            let next = if here.is_empty() {
                "it is asked again".to_owned()
            } else {
                format!("it is asked again; its apps: {}", here.join(", "))
            };
            return vec![problem(&error.message, next)];
        }
        Ok(node) => node,
    };
    let mut problems = Vec::new();
    for message in [&node.storage.problem, &node.runtime.problem]
        .into_iter()
        .flatten()
    {
        problems.push(problem(message, "its agent keeps trying".to_owned()));
    }
    let asides = node
        .asides
        .iter()
        .filter_map(|aside| aside_problem(name, aside));
    problems.extend(asides);
    for volume in &node.volumes {
        let owner = state.apps.values().find(|record| {
            record
                .app
                .container
                .volumes
                .iter()
                .any(|mount| mount.volume == volume.id)
        });
        let at = owner.and_then(|record| state.primaries.get(record.app.name()));
        if at.is_some_and(|at| {
            at.node != *name && volume.role == Role::Primary && volume.epoch >= at.epoch
        }) {
            let message = format!(
                "volume '{}' is primary at epoch {} here, against the store",
                volume.name, volume.epoch
            );
            problems.push(problem(
                &message,
                "look which copy is right before anything else".to_owned(),
            ));
        }
    }
    problems
}
