//! The part of the HTTP API that is about volumes and the agents' jobs.

use std::{io, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path as UrlPath, Query, State, rejection::QueryRejection},
    http::header,
    response::{IntoResponse as _, Response},
    routing::get,
};
use flocker_api::{
    name::{JobId, NodeName, VolumeName},
    work::{NewVolume, VolumeRequest},
};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{
    control::Control,
    server::{Answer, Failure, Shared, malformed, parse},
    volumes::archive::Wanted,
};

/// Longest wait for a job that one request may ask for.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// Pieces of an archive that wait for the node that takes it.
const QUEUE: usize = 4;

/// The paths.
pub(super) fn routes() -> Router<Arc<Control>> {
    Router::new()
        .route("/v2/volumes", get(volumes).post(create))
        .route("/v2/volumes/{name}", get(volume).post(work))
        .route("/v2/volumes/{name}/snapshots", get(snapshots))
        .route(
            "/v2/volumes/{name}/archive",
            get(send).post(receive).layer(DefaultBodyLimit::disable()),
        )
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Send {
    node: Option<NodeName>,
    snapshot: Option<String>,
    since: Option<String>,
    #[serde(default)]
    by: String,
}

async fn send(
    State(control): Shared,
    UrlPath(name): UrlPath<String>,
    wanted: Result<Query<Send>, QueryRejection>,
) -> Result<Response, Failure> {
    let name: VolumeName = from_path("volume", &name)?;
    let Query(wanted) = wanted.map_err(|error| malformed("the query", error))?;
    let wanted = Wanted {
        node: wanted.node,
        snapshot: wanted.snapshot,
        since: wanted.since,
        by: wanted.by,
    };
    let archive = control.send_archive(&name, &wanted).await?;
    let pieces = futures_util::stream::unfold(archive, |mut archive| async move {
        let piece = archive.next().await.transpose()?;
        Some((piece, archive))
    });
    let kind = "application/octet-stream";
    Ok(([(header::CONTENT_TYPE, kind)], Body::from_stream(pieces)).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Receive {
    node: Option<NodeName>,
    #[serde(default)]
    by: String,
}

async fn receive(
    State(control): Shared,
    UrlPath(name): UrlPath<String>,
    wanted: Result<Query<Receive>, QueryRejection>,
    body: Body,
) -> Answer<impl Serialize> {
    let name: VolumeName = from_path("volume", &name)?;
    let Query(wanted) = wanted.map_err(|error| malformed("the query", error))?;
    let (sender, pieces) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let mut body = body.into_data_stream();
        while let Some(piece) = body.next().await {
            // Nobody takes more when the node has refused.
            if sender.send(piece.map_err(io::Error::other)).await.is_err() {
                return;
            }
        }
    });
    let received = control.receive_archive(&name, wanted.node.as_ref(), &wanted.by, pieces);
    Ok(Json(received.await?))
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
