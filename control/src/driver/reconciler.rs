//! Carries out what [`crate::logic::reconcile`] plans: one action at a time for each app and
//! each edge, side by side, tried again with growing pauses while they fail.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use flocker_api::{
    ErrorBody, ErrorCode,
    gate::ResumeRequest,
    name::{AppName, EdgeName, NodeName},
    route::Transaction,
};
use tokio::{task::JoinSet, time::timeout};
use tracing::{info, warn};

use super::{
    context::{Claim, Context},
    control::Control,
    observer::ask_node,
    replace,
};
use crate::logic::{
    reconcile::{Action, AppAction, Plan, Settled, reconcile},
    report::Trouble,
    state::{AppRecord, Change, Conflict, Life},
};

/// The first pause between two attempts.
const RETRY_FIRST: Duration = Duration::from_millis(250);

/// Reconciles until it is dropped.
pub async fn run(control: Arc<Control>) {
    let context = Arc::clone(control.context());
    let mut commits = context.ledger.subscribe();
    let mut observations = context.observations.subscribe();
    let mut tasks = JoinSet::<Done>::new();
    let mut busy_edges = BTreeSet::new();
    loop {
        pass(&control, &mut tasks, &mut busy_edges);
        tokio::select! {
            Ok(()) = commits.changed() => {}
            Ok(()) = observations.changed() => {}
            Some(done) = tasks.join_next(), if !tasks.is_empty() => {
                if let Ok(Done::Edge(edge)) = done {
                    busy_edges.remove(&edge);
                }
            }
            // Attempts that wait for their time.
            () = tokio::time::sleep(RETRY_FIRST) => {}
        }
    }
}

enum Done {
    App,
    Edge(EdgeName),
}

/// Plans on what is known now, and begins what nobody is at yet.
fn pass(control: &Arc<Control>, tasks: &mut JoinSet<Done>, busy_edges: &mut BTreeSet<EdgeName>) {
    let context = control.context();
    // In this order: a table that was read before a move switched routes is of an older
    // generation, and what is planned on it is refused.
    let observed = context.observations.current();
    let state = context.ledger.state();
    let plan = reconcile(&state, &observed, &context.claims.touched());
    forget_overcome(context, &plan);
    context.reconciled().obstacles = plan.obstacles;
    for action in plan.actions {
        match &action {
            Action::App { app, .. } | Action::Settle { app, .. } | Action::Move { app, .. } => {
                let waits = is_waiting(context, |all| all.apps.get(app));
                let known = state.apps.get(app);
                let (Some(known), false) = (known, waits) else {
                    continue;
                };
                let Some(claim) = context.claims.take(app) else {
                    continue;
                };
                let task = at_app(Arc::clone(control), claim, Arc::clone(known), action);
                tasks.spawn(async move {
                    task.await;
                    Done::App
                });
            }
            Action::Routes { edge, .. } | Action::Resume { edge, .. } => {
                let waits = is_waiting(context, |all| all.edges.get(edge));
                if waits || !busy_edges.insert(edge.clone()) {
                    continue;
                }
                let (context, edge) = (Arc::clone(context), edge.clone());
                tasks.spawn(async move {
                    at_edge(&context, &edge, action).await;
                    Done::Edge(edge)
                });
            }
        }
    }
}

fn is_waiting(
    context: &Context,
    find: impl FnOnce(&crate::logic::report::Troubles) -> Option<&Trouble>,
) -> bool {
    let now_ms = context.clock.now_ms();
    find(&context.reconciled().troubles).is_some_and(|trouble| trouble.next_ms > now_ms)
}

/// What is no longer planned has been overcome.
fn forget_overcome(context: &Context, plan: &Plan) {
    let mut apps = BTreeSet::new();
    let mut edges = BTreeSet::new();
    for action in &plan.actions {
        match action {
            Action::App { app, .. } | Action::Settle { app, .. } | Action::Move { app, .. } => {
                apps.insert(app);
            }
            Action::Routes { edge, .. } | Action::Resume { edge, .. } => {
                edges.insert(edge);
            }
        }
    }
    let touched = context.claims.touched();
    let observed = context.observations.current();
    let state = context.ledger.state();
    let mut reconciled = context.reconciled();
    reconciled
        .troubles
        .edges
        .retain(|edge, _| edges.contains(edge));
    reconciled.troubles.apps.retain(|app, _| {
        // Nothing is planned either while the outcome of the last action was not observed.
        let node = state
            .primaries
            .get(app)
            .and_then(|at| observed.nodes.get(&at.node));
        let fresh = node.is_some_and(|seen| {
            seen.asked_ms >= touched.get(app).copied().unwrap_or(0.0) && seen.ok().is_some()
        });
        apps.contains(app) || !fresh
    });
}

async fn at_app(control: Arc<Control>, claim: Claim, known: Arc<AppRecord>, action: Action) {
    let context = control.context();
    let name = known.app.name();
    let state = context.ledger.state();
    let unchanged = state
        .apps
        .get(name)
        .is_some_and(|record| Arc::ptr_eq(record, &known));
    if !unchanged || state.move_of(name).is_some() {
        return;
    }
    let (result, node) = match action {
        Action::App { node, what, .. } => {
            let starts = matches!(what, AppAction::StartContainer(..));
            if starts {
                claim.starts();
            }
            let mut result = perform(context, name, &node, &what).await;
            if starts && result.is_ok() && !known.started {
                result = settle(context, name, Settled::Started).await;
            }
            let result = result.map_err(|error| {
                let message = format!("cannot {} on node {node}: {}", what.name(), error.message);
                ErrorBody { message, ..error }
            });
            (result, Some(node))
        }
        Action::Settle { how, .. } => (settle(context, name, how).await, None),
        Action::Move { to, .. } => (
            control
                .begin_claimed_move(name, &to)
                .await
                .map(drop)
                .map_err(Into::into),
            None,
        ),
        Action::Routes { .. } | Action::Resume { .. } => return,
    };
    note(context, result, |troubles, trouble| {
        if let Some(trouble) = trouble {
            let known = troubles.apps.entry(name.clone());
            again(known.or_insert_with(|| trouble.clone()), trouble, context);
        }
    });
    drop(claim);
    if let Some(node) = node {
        // The next action need not wait for the next poll.
        ask_node(context, &node).await;
    }
}

async fn perform(
    context: &Context,
    app: &AppName,
    node: &NodeName,
    what: &AppAction,
) -> Result<(), ErrorBody> {
    info!(%app, %node, action = what.name(), "reconcile");
    let peers = &context.peers;
    match what {
        AppAction::CreateVolume(request) => peers.create_volume(node, request).await.map(drop),
        AppAction::Promote(id, epoch) => peers.promote(node, *id, *epoch).await.map(drop),
        AppAction::Demote(id, epoch) => peers.demote(node, *id, *epoch).await.map(drop),
        AppAction::Replicate(id, request) => {
            peers.set_replication(node, *id, request).await.map(drop)
        }
        AppAction::CreateContainer(spec, epoch) => {
            peers.create_container(node, spec, *epoch).await.map(drop)
        }
        AppAction::StartContainer(spec, epoch) => peers.start(node, spec, *epoch).await.map(drop),
        AppAction::ReplaceContainer(app, epoch) => {
            replace::replace(context, app, node, *epoch).await
        }
        AppAction::RemoveContainer(spec, epoch) => {
            match peers.stop(node, spec, *epoch).await {
                Ok(_) => {}
                Err(error) if error.code == ErrorCode::NotFound => {}
                Err(error) => return Err(error),
            }
            match peers.remove_container(node, app, *epoch).await {
                Err(error) if error.code != ErrorCode::NotFound => Err(error),
                _ => Ok(()),
            }
        }
    }
}

/// Remembers what was observed to be so.
async fn settle(context: &Context, app: &AppName, how: Settled) -> Result<(), ErrorBody> {
    let decide = |state: &crate::logic::state::State| {
        let known = state
            .apps
            .get(app)
            .ok_or_else(|| Conflict::NoApp(app.clone()))?;
        let mut record = AppRecord::clone(known);
        match how {
            Settled::Made(volumes) => record.made.extend(volumes),
            Settled::Unchanged => record.changed = false,
            Settled::Started => record.started = true,
            Settled::RoutesGone(keys) => record.retired.retain(|key| !keys.contains(key)),
            Settled::Deleted => {
                record.life = Life::Deleted;
                record.retired.clear();
            }
        }
        let record = Box::new(record);
        Ok::<_, super::store::StoreError>(vec![Change::PutApp { record }])
    };
    let stored = context.ledger.transact(decide).await;
    stored
        .map(drop)
        .map_err(|error| ErrorBody::from_error(ErrorCode::Internal, &error))
}

/// Carries out a transaction. What an edge refuses of one app must not keep the others from
/// theirs, so then each operation goes alone.
async fn change_routes(
    context: &Context,
    edge: &EdgeName,
    transaction: Transaction,
) -> Result<(), ErrorBody> {
    let refused = match context.peers.transact(edge, &transaction).await {
        Err(error) if error.code == ErrorCode::InvalidRequest => error,
        result => return result.map(drop),
    };
    if transaction.operations.len() == 1 {
        return Err(refused);
    }
    let mut against = transaction.against;
    for operation in transaction.operations {
        let alone = Transaction {
            against,
            operations: vec![operation],
        };
        match context.peers.transact(edge, &alone).await {
            Ok(reply) => against = against.and(Some(reply.generation)),
            Err(error) if error.code == ErrorCode::InvalidRequest => {}
            Err(error) => return Err(error),
        }
    }
    Err(refused)
}

async fn at_edge(context: &Context, edge: &EdgeName, action: Action) {
    let result = match action {
        Action::Routes { transaction, .. } => {
            info!(%edge, operations = transaction.operations.len(), "reconcile routes");
            change_routes(context, edge, transaction).await
        }
        Action::Resume { token, keys, .. } => {
            info!(%edge, %token, "reconcile a gate that was left paused");
            let request = ResumeRequest { token, keys };
            context.peers.resume(edge, &request).await.map(drop)
        }
        Action::App { .. } | Action::Settle { .. } | Action::Move { .. } => return,
    };
    // The table has changed since it was read: it is read again, that is all.
    let result = match result {
        Err(error)
            if matches!(
                error.code,
                ErrorCode::StaleGeneration | ErrorCode::NotPaused
            ) =>
        {
            Ok(())
        }
        result => result.map_err(|error| ErrorBody {
            message: format!("cannot bring the routes up to date: {}", error.message),
            ..error
        }),
    };
    note(context, result, |troubles, trouble| match trouble {
        Some(trouble) => {
            let known = troubles
                .edges
                .entry(edge.clone())
                .or_insert_with(|| trouble.clone());
            again(known, trouble, context);
        }
        None => {
            troubles.edges.remove(edge);
        }
    });
    let mut observations = context.observations.subscribe();
    context.observations.poke_edge(edge);
    // Plans on the old table would only be refused.
    drop(timeout(context.limits.poll, observations.changed()).await);
}

fn note(
    context: &Context,
    result: Result<(), ErrorBody>,
    change: impl FnOnce(&mut crate::logic::report::Troubles, Option<Trouble>),
) {
    let outcome = if result.is_ok() { "done" } else { "failed" };
    context.metrics.reconciled(outcome);
    let now_ms = context.clock.now_ms();
    let trouble = result.err().map(|error| {
        warn!(reason = %error.message, "reconcile");
        Trouble {
            message: error.message,
            since_ms: now_ms,
            next_ms: now_ms,
            attempts: 0,
        }
    });
    change(&mut context.reconciled().troubles, trouble);
}

/// One more failed attempt.
fn again(known: &mut Trouble, newest: Trouble, context: &Context) {
    let pause = RETRY_FIRST * 2u32.saturating_pow(known.attempts.min(16));
    let pause = pause.min(context.limits.retry_max);
    known.attempts += 1;
    known.message = newest.message;
    known.next_ms = newest.next_ms + pause.as_secs_f64() * 1e3;
}
