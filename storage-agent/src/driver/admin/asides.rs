//! The verbs on what is kept aside.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, Query, State},
    response::Response,
    routing::{get, post},
};
use flocker_api::{
    ErrorBody, ErrorCode,
    agent::EpochRequest,
    aside::{AsideKey, PATHS_MAX, Resolve},
    name::VolumeId,
};
use serde::Deserialize;

use super::{Agent, Body, Shared, body, part};

/// The routes of these verbs.
pub(super) fn routes() -> Router<Arc<Agent>> {
    Router::new()
        .route("/v1/volumes/{id}/aside", post(set_aside))
        .route("/v1/asides/{id}/{key}", get(details).post(resolve))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    paths: Option<usize>,
}

async fn details(
    State(agent): Shared,
    Path((id, key)): Path<(String, String)>,
    query: Result<Query<Wanted>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let (id, key) = parse!(agent, "aside", named(&id, &key));
    let wanted = query
        .map_err(|error| ErrorBody::new(ErrorCode::InvalidRequest, format!("the query: {error}")));
    let Query(wanted) = parse!(agent, "aside", wanted);
    let paths_max = wanted.paths.unwrap_or(PATHS_MAX);
    let containers = agent.containers.clone();
    agent
        .run("aside", async move {
            let volumes = containers.parts().4;
            Ok(volumes.aside_details(id, key, paths_max).await?)
        })
        .await
}

async fn resolve(
    State(agent): Shared,
    Path((id, key)): Path<(String, String)>,
    request: Body,
) -> Response {
    let (id, key) = parse!(agent, "resolve", named(&id, &key));
    let how: Resolve = parse!(agent, "resolve", body(request));
    let containers = agent.containers.clone();
    agent
        .run("resolve", async move {
            if matches!(how, Resolve::Keep { .. }) {
                // It becomes writable.
                containers.fence().permit()?;
            }
            Ok(containers.parts().4.resolve_aside(id, key, how).await?)
        })
        .await
}

async fn set_aside(State(agent): Shared, Path(id): Path<String>, request: Body) -> Response {
    let id: VolumeId = parse!(agent, "set-aside", part("volume id", &id));
    let EpochRequest { epoch } = parse!(agent, "set-aside", body(request));
    let containers = agent.containers.clone();
    agent
        .run("set-aside", async move {
            Ok(containers.parts().4.set_aside(id, epoch).await?)
        })
        .await
}

fn named(id: &str, key: &str) -> Result<(VolumeId, AsideKey), ErrorBody> {
    Ok((part("volume id", id)?, part("aside", key)?))
}
