//! Drains nodes: begins the moves that `logic::drain` says are next, and follows them.
//!
//! The cordon is in the store; the drain itself is not: each of its moves is a saga that ends by
//! itself, and whoever asked for the drain asks again when control was restarted.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use flocker_api::{
    control::{MoveRequest, MoveState},
    drain::{DrainNode, DrainState, DrainStatus, DrainedApp, DrainedState},
    name::{AppName, NodeName},
};
use tokio::{sync::watch, time::timeout};
use tracing::{info, warn};

use super::control::Control;
use crate::{
    error::Refusal,
    logic::{
        drain,
        report::whole_ms,
        state::{Change, State},
    },
};

/// Longest wait for something to happen before it is looked what did.
const LOOK: Duration = Duration::from_secs(1);

/// The drains that run or have run since control was started, the newest of each node.
#[derive(Debug)]
pub(crate) struct Drains {
    by_node: Mutex<BTreeMap<NodeName, DrainStatus>>,
    /// Also the newest revision; begins at the Unix time in ms, so that it goes up over restarts.
    revision: watch::Sender<u64>,
}

impl Drains {
    pub(crate) fn new(now_ms: f64) -> Self {
        Self {
            by_node: Mutex::default(),
            revision: watch::Sender::new(whole_ms(now_ms)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeName, DrainStatus>> {
        self.by_node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, node: &NodeName) -> Option<DrainStatus> {
        self.lock().get(node).cloned()
    }

    /// Changes the drain of a node; says so if that changed anything.
    fn change(&self, node: &NodeName, change: impl FnOnce(&mut DrainStatus)) {
        let mut drains = self.lock();
        let Some(status) = drains.get_mut(node) else {
            return;
        };
        let before = status.clone();
        change(status);
        if *status != before {
            self.revision.send_modify(|revision| {
                *revision += 1;
                status.revision = *revision;
            });
        }
    }
}

impl Control {
    /// Says whether a node may get apps.
    ///
    /// # Errors
    /// There is none of this name.
    pub async fn cordon(&self, node: &NodeName, cordoned: bool) -> Result<(), Refusal> {
        self.check_node(node)?;
        let decide = |state: &State| {
            let node = node.clone();
            Ok::<_, Refusal>(match state.cordoned.contains(&node) == cordoned {
                true => Vec::new(),
                false => vec![Change::Cordon { node, cordoned }],
            })
        };
        self.context().ledger.transact(decide).await.map(drop)
    }

    /// Has all apps of a node move away.
    ///
    /// # Errors
    /// There is none of this name, or of those that apps may go to.
    pub async fn drain(
        self: &Arc<Self>,
        node: &NodeName,
        request: DrainNode,
    ) -> Result<DrainStatus, Refusal> {
        for named in request.to.iter().chain([node]) {
            self.check_node(named)?;
        }
        self.cordon(node, true).await?;
        let context = self.context();
        let state = context.ledger.state();
        let apps = drain::apps_of(&state, node).into_iter();
        let apps = apps.map(|app| DrainedApp {
            app,
            to: None,
            state: DrainedState::Waiting,
            move_id: None,
            reason: None,
            took_ms: None,
            pause_ms: None,
        });
        let drains = &context.drains;
        {
            let mut by_node = drains.lock();
            if let Some(running) = by_node.get(node).filter(|status| runs(status)) {
                return Ok(running.clone());
            }
            let status = DrainStatus {
                node: node.clone(),
                revision: *drains.revision.borrow(),
                state: DrainState::Running,
                apps: apps.collect(),
                started_ms: whole_ms(context.clock.now_ms()),
                ended_ms: None,
            };
            info!(%node, apps = status.apps.len(), "a drain begins");
            by_node.insert(node.clone(), status);
        }
        drains.change(node, |status| status.revision += 1);
        self.spawn(run(Arc::clone(self), node.clone(), request));
        self.drain_status(node, 0, Duration::ZERO).await
    }

    /// The drain of a node, once its revision is above `after` or when `wait` has passed.
    ///
    /// # Errors
    /// There is none since control was started.
    pub async fn drain_status(
        &self,
        node: &NodeName,
        after: u64,
        wait: Duration,
    ) -> Result<DrainStatus, Refusal> {
        self.check_node(node)?;
        let drains = &self.context().drains;
        let mut changes = drains.revision.subscribe();
        let newer = async {
            loop {
                changes.borrow_and_update();
                let status = drains.get(node);
                let status = status.ok_or_else(|| Refusal::NoDrain(node.clone()))?;
                if status.revision > after || changes.changed().await.is_err() {
                    return Ok(status);
                }
            }
        };
        match timeout(wait, newer).await {
            Ok(status) => status,
            Err(_) => drains
                .get(node)
                .ok_or_else(|| Refusal::NoDrain(node.clone())),
        }
    }

    /// Gives up the drain of a node: moves before their pivot are undone, the others end, and the
    /// node stays cordoned.
    ///
    /// # Errors
    /// There is none that runs.
    pub async fn abort_drain(&self, node: &NodeName) -> Result<DrainStatus, Refusal> {
        let drains = &self.context().drains;
        let mut moves = Vec::new();
        drains.change(node, |status| {
            if status.state == DrainState::Running {
                status.state = DrainState::Aborting;
            }
            for one in &mut status.apps {
                match one.state {
                    DrainedState::Waiting => {
                        one.state = DrainedState::Stays;
                        one.reason = Some("the drain was aborted".to_owned());
                    }
                    DrainedState::Moving => moves.extend(one.move_id),
                    DrainedState::Moved | DrainedState::Stays => {}
                }
            }
        });
        for id in moves {
            // One that is past its pivot, or over, ends by itself.
            if let Err(refusal) = self.abort_move(id).await {
                info!(%id, %refusal, "a move of an aborted drain goes on");
            }
        }
        self.drain_status(node, 0, Duration::ZERO).await
    }
}

fn runs(status: &DrainStatus) -> bool {
    matches!(status.state, DrainState::Running | DrainState::Aborting)
}

/// Drains a node until nothing of it waits or moves.
async fn run(control: Arc<Control>, node: NodeName, request: DrainNode) {
    let context = Arc::clone(control.context());
    let mut changes = context.progress.subscribe();
    // A control that has just started knows no node yet.
    let mut observations = context.observations.subscribe();
    while context
        .observations
        .current()
        .nodes
        .values()
        .any(|seen| seen.observed_ms == 0.0)
    {
        drop(timeout(LOOK, observations.changed()).await);
    }
    loop {
        changes.borrow_and_update();
        follow(&control, &node);
        let Some(status) = context.drains.get(&node) else {
            return;
        };
        if status.state == DrainState::Running {
            let state = context.ledger.state();
            for app in drain::next(&state, &status.apps, request.concurrency.max(1)) {
                begin(&control, &node, &request, &app).await;
            }
        }
        let busy =
            |one: &DrainedApp| matches!(one.state, DrainedState::Waiting | DrainedState::Moving);
        let Some(status) = context.drains.get(&node) else {
            return;
        };
        if !status.apps.iter().any(busy) {
            return end(&control, &node);
        }
        // Whatever it was, it is looked at.
        drop(timeout(LOOK, changes.changed()).await);
    }
}

/// Takes over how far the moves are.
fn follow(control: &Control, node: &NodeName) {
    let moves: BTreeMap<_, _> = control
        .moves()
        .into_iter()
        .map(|status| (status.id, status))
        .collect();
    control.context().drains.change(node, |status| {
        for one in &mut status.apps {
            let found = one.move_id.and_then(|id| moves.get(&id));
            let Some(found) = found.filter(|_| one.state == DrainedState::Moving) else {
                continue;
            };
            one.reason.clone_from(&found.reason);
            one.pause_ms = found.pause_ms;
            let took = found
                .ended_ms
                .map(|ended| ended.saturating_sub(found.started_ms));
            match found.state {
                MoveState::Running | MoveState::Undoing | MoveState::Stuck => {}
                MoveState::Done => (one.state, one.took_ms) = (DrainedState::Moved, took),
                MoveState::Undone => (one.state, one.took_ms) = (DrainedState::Stays, took),
            }
        }
    });
}

async fn begin(control: &Control, node: &NodeName, request: &DrainNode, app: &AppName) {
    let context = control.context();
    let state = context.ledger.state();
    let observed = context.observations.current();
    let mut taken = BTreeMap::new();
    if let Some(status) = context.drains.get(node) {
        let moving = status
            .apps
            .iter()
            .filter(|one| one.state == DrainedState::Moving);
        for to in moving.filter_map(|one| one.to.clone()) {
            *taken.entry(to).or_insert(0) += 1;
        }
    }
    let set = |change: &dyn Fn(&mut DrainedApp)| {
        context.drains.change(node, |status| {
            status
                .apps
                .iter_mut()
                .filter(|one| one.app == *app)
                .for_each(change);
        });
    };
    let stays = |reason: String| {
        set(&|one| {
            one.state = DrainedState::Stays;
            one.reason = Some(reason.clone());
        });
    };
    let Some(record) = state.apps.get(app) else {
        return stays("it was removed".to_owned());
    };
    // Someone else has moved it already, or is about to.
    if let Some(the_move) = state.move_of(app) {
        let id = the_move.header().id;
        return set(&|one| (one.state, one.move_id) = (DrainedState::Moving, Some(id)));
    }
    if state.primaries.get(app).is_none_or(|at| at.node != *node) {
        return set(&|one| one.state = DrainedState::Moved);
    }
    let chosen = drain::choose(&state, &observed, &record.app, node, &request.to, &taken);
    let to = match chosen {
        Ok(to) => to,
        Err(why) => return stays(why),
    };
    let request = MoveRequest {
        app: app.clone(),
        to: to.clone(),
    };
    match control.begin_move(&request).await {
        Ok(status) => set(&|one| {
            one.state = DrainedState::Moving;
            one.to = Some(to.clone());
            one.move_id = Some(status.id);
        }),
        Err(refusal) => {
            warn!(%app, %refusal, "an app of a drained node stays");
            stays(refusal.to_string());
        }
    }
}

fn end(control: &Control, node: &NodeName) {
    let context = control.context();
    let now_ms = whole_ms(context.clock.now_ms());
    context.drains.change(node, |status| {
        let left = status
            .apps
            .iter()
            .any(|one| one.state != DrainedState::Moved);
        status.state = match left {
            true => DrainState::Incomplete,
            false => DrainState::Done,
        };
        status.ended_ms = Some(now_ms);
        info!(%node, ended = ?status.state, "a drain has ended");
    });
}
