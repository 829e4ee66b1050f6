//! The part of the HTTP API that is about volumes and the agents' jobs.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path as UrlPath, Query, State, rejection::QueryRejection},
    routing::get,
};
use flocker_api::{
    name::{JobId, NodeName, VolumeName},
    work::{NewVolume, VolumeRequest},
};
use serde::{Deserialize, Serialize};

use super::{
    control::Control,
    server::{Answer, Failure, Shared, malformed, parse},
};

/// Longest wait for a job that one request may ask for.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// The paths.
pub(super) fn routes() -> Router<Arc<Control>> {
    Router::new()
        .route("/v2/volumes", get(volumes).post(create))
        .route("/v2/volumes/{name}", get(volume).post(work))
        .route("/v2/volumes/{name}/snapshots", get(snapshots))
        .route("/v2/trash", get(trash))
        .route("/v2/jobs", get(jobs))
        .route("/v2/nodes/{node}/jobs/{id}", get(job).delete(cancel))
}

fn from_path<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, Failure>
where
    T::Err: std::fmt::Display,
{
    let parsed = text.parse();
    parsed.map_err(|error| malformed(&format!("'{text}' is no {what}"), error))
}

async fn volumes(State(control): Shared) -> Json<impl Serialize> {
    Json(control.volumes())
}

async fn create(State(control): Shared, body: Bytes) -> Answer<impl Serialize> {
    let request: NewVolume = parse(&body)?;
    Ok(Json(control.create_volume(&request).await?))
}

async fn volume(State(control): Shared, UrlPath(name): UrlPath<String>) -> Answer<impl Serialize> {
    let name: VolumeName = from_path("volume", &name)?;
    Ok(Json(control.volume(&name)?))
}

async fn work(
    State(control): Shared,
    UrlPath(name): UrlPath<String>,
    body: Bytes,
) -> Answer<impl Serialize> {
    let name: VolumeName = from_path("volume", &name)?;
    let request: VolumeRequest = parse(&body)?;
    Ok(Json(control.volume_work(&name, request).await?))
}

async fn snapshots(
    State(control): Shared,
    UrlPath(name): UrlPath<String>,
) -> Answer<impl Serialize> {
    let name: VolumeName = from_path("volume", &name)?;
    Ok(Json(control.volume_snapshots(&name).await?))
}

async fn trash(State(control): Shared) -> Json<impl Serialize> {
    Json(control.trash().await)
}

async fn jobs(State(control): Shared) -> Json<impl Serialize> {
    Json(control.jobs().await)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wait {
    #[serde(default)]
    wait_ms: u64,
}

async fn job(
    State(control): Shared,
    UrlPath((node, id)): UrlPath<(String, String)>,
    wait: Result<Query<Wait>, QueryRejection>,
) -> Answer<impl Serialize> {
    let node: NodeName = from_path("node", &node)?;
    let id: JobId = from_path("job", &id)?;
    let Query(wait) = wait.map_err(|error| malformed("the query", error))?;
    let wait = Duration::from_millis(wait.wait_ms).min(WAIT_MAX);
    Ok(Json(control.job(&node, id, wait).await?))
}

async fn cancel(
    State(control): Shared,
    UrlPath((node, id)): UrlPath<(String, String)>,
) -> Answer<impl Serialize> {
    let node: NodeName = from_path("node", &node)?;
    let id: JobId = from_path("job", &id)?;
    Ok(Json(control.cancel_job(&node, id).await?))
}
