//! Makes the container of an app that runs anew, where it is: its routes are paused meanwhile,
//! so that requests wait instead of failing.
//!
//! Nothing of it is in a journal: the app's record says that it is changed until all is done,
//! and each part can be done again. Before the first pause the record gets its token, so that
//! whoever finds a gate left paused knows whose it is. When the new container does not start,
//! the gates are opened all the same: a request that finds nobody to connect to waits at the
//! edge, too, and the starts that follow are the reconciler's.

use flocker_api::{
    ErrorBody, ErrorCode,
    agent::PreflightRequest,
    app::{App, OnBusy},
    control::{EdgeOutcome, route_keys},
    gate::{HoldLimits, PauseRequest, QuiesceReply, QuiesceRequest, ResumeRequest, Token},
    name::{EdgeName, NodeName},
    route::RouteKey,
    volume::Epoch,
};
use tracing::{info, warn};

use super::{context::Context, executor::stale_token};
use crate::logic::{
    links,
    state::{AppRecord, Change, Conflict, State},
};

/// Replaces the container of an app by one of its declaration.
///
/// # Errors
/// What stands against it; unless it had been stopped by then, the old container runs on.
pub(super) async fn replace(
    context: &Context,
    app: &App,
    node: &NodeName,
    epoch: Epoch,
) -> Result<(), ErrorBody> {
    let peers = &context.peers;
    // The image above all: it is fetched before anything stops.
    let request = PreflightRequest {
        container: app.container.clone(),
        volume_bytes: 0,
        look_only: false,
        epoch,
    };
    let problems = peers.preflight(node, &request).await?.problems;
    if !problems.is_empty() {
        return Err(ErrorBody::new(ErrorCode::Precondition, problems.join("; ")));
    }
    if let Err(error) = peers.pre_stop(node, app.name(), epoch).await {
        // Perhaps the very hook that is being put right.
        warn!(app = %app.name(), reason = %error.message, "pre-stop hook before a change");
    }
    let token = pause(context, app).await?;
    let renewed = match quiesce(context, app, token).await {
        Ok(()) => renew(context, app, node, epoch).await,
        Err(error) => Err(error),
    };
    resume(context, app, token).await;
    renewed?;
    settle(context, app).await
}

async fn renew(
    context: &Context,
    app: &App,
    node: &NodeName,
    epoch: Epoch,
) -> Result<(), ErrorBody> {
    let (peers, spec) = (&context.peers, &app.container);
    peers.stop(node, spec, epoch).await?;
    match peers.remove_container(node, app.name(), epoch).await {
        Err(error) if error.code != ErrorCode::NotFound => return Err(error),
        _ => {}
    }
    peers.create_container(node, spec, epoch).await?;
    peers.start(node, spec, epoch).await.map(drop)
}

/// Pauses the app's routes under a token that its record knows. An edge that does not answer,
/// or does not have them yet, holds nobody up.
async fn pause(context: &Context, app: &App) -> Result<Token, ErrorBody> {
    let mut token = draw(context, app, Token(0)).await?;
    let paused = pause_all(context, app, token).await;
    let errors = paused
        .iter()
        .filter_map(|outcome| outcome.result.as_ref().err());
    if let Some(newer) = errors.filter_map(stale_token).max() {
        token = draw(context, app, newer).await?;
        pause_all(context, app, token).await;
    }
    Ok(token)
}

async fn draw(context: &Context, app: &App, above: Token) -> Result<Token, ErrorBody> {
    let internal = |error| ErrorBody::from_error(ErrorCode::Internal, &error);
    let token = context.ledger.draw_token(above).await.map_err(internal)?;
    change(context, app, |record| record.pause = Some(token)).await?;
    Ok(token)
}

/// The routes that an edge has of those that lead to the app, as it said last: links only one
/// edge of each node has, and new ones come when the app is there.
fn keys_at(context: &Context, app: &App, edge: &EdgeName) -> Vec<RouteKey> {
    let observed = context.observations.current();
    let report = observed.edges.get(edge).and_then(|seen| seen.last.clone());
    let app = links::with_links(&context.ledger.state(), app);
    let known = |key: &RouteKey| {
        report
            .as_ref()
            .is_some_and(|report| report.routes.contains_key(key))
    };
    route_keys(&app).into_iter().filter(known).collect()
}

async fn pause_all(context: &Context, app: &App, token: Token) -> Vec<EdgeOutcome<()>> {
    let peers = &context.peers;
    let pause = |edge| async move {
        let request = PauseRequest {
            token: Some(token),
            keys: keys_at(context, app, &edge),
            limits: HoldLimits {
                hold_ms: app.move_policy.hold_ms,
                ..HoldLimits::default()
            },
        };
        if request.keys.is_empty() {
            return Ok(());
        }
        peers.pause(&edge, &request).await.map(drop)
    };
    let outcomes = peers.on_all_edges(pause).await;
    for EdgeOutcome { edge, result } in &outcomes {
        if let Err(error) = result {
            info!(%edge, reason = %error.message, "pause for a change");
        }
    }
    outcomes
}

/// Waits until nothing that was admitted before is in flight.
async fn quiesce(context: &Context, app: &App, token: Token) -> Result<(), ErrorBody> {
    let peers = &context.peers;
    let quiesced = peers.on_all_edges(|edge| async move {
        let request = QuiesceRequest {
            token,
            keys: keys_at(context, app, &edge),
            deadline_ms: app.move_policy.quiesce_ms,
        };
        if request.keys.is_empty() {
            return Ok(None);
        }
        peers.quiesce(&edge, &request).await.map(Some)
    });
    let mut busy = Vec::new();
    for EdgeOutcome { edge, result } in quiesced.await {
        if let Ok(Some(QuiesceReply::Busy { in_flight })) = result {
            let left = in_flight.iter();
            busy.extend(left.map(|left| format!("{} on {} at edge {edge}", left.count, left.key)));
        }
    }
    if busy.is_empty() || app.move_policy.on_busy == OnBusy::Proceed {
        return Ok(());
    }
    let message = format!(
        "after {} ms requests are still in flight: {}; it is tried again; raise move.quiesce, \
         or set move.on_busy to proceed, which lets them fail",
        app.move_policy.quiesce_ms,
        busy.join(", ")
    );
    Err(ErrorBody::new(ErrorCode::Busy, message))
}

/// Opens the gates. One that cannot be reached is left to the reconciler, which knows the token.
async fn resume(context: &Context, app: &App, token: Token) {
    let peers = &context.peers;
    let resumed = peers.on_all_edges(|edge| async move {
        let keys = keys_at(context, app, &edge);
        if keys.is_empty() {
            return Ok(());
        }
        let request = ResumeRequest { token, keys };
        peers.resume(&edge, &request).await.map(drop)
    });
    for EdgeOutcome { edge, result } in resumed.await {
        if let Err(error) = result {
            info!(%edge, reason = %error.message, "resume after a change");
        }
    }
}

/// The app is as it was declared, unless it was declared anew meanwhile.
async fn settle(context: &Context, app: &App) -> Result<(), ErrorBody> {
    change(context, app, |record| {
        if record.app.container == app.container {
            record.changed = false;
            record.started = true;
        }
    })
    .await
}

async fn change(
    context: &Context,
    app: &App,
    change: impl FnOnce(&mut AppRecord),
) -> Result<(), ErrorBody> {
    let decide = |state: &State| {
        let known = state.apps.get(app.name());
        let known = known.ok_or_else(|| Conflict::NoApp(app.name().clone()))?;
        let mut record = AppRecord::clone(known);
        change(&mut record);
        let record = Box::new(record);
        Ok::<_, super::store::StoreError>(vec![Change::PutApp { record }])
    };
    let stored = context.ledger.transact(decide).await;
    stored
        .map(drop)
        .map_err(|error| ErrorBody::from_error(ErrorCode::Internal, &error))
}
