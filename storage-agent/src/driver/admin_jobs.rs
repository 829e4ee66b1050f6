//! The part of the agent's HTTP API that is for operators: jobs, snapshots, the trash. The table
//! of paths is in `flocker_api::work`.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body as StreamBody,
    extract::{DefaultBodyLimit, Path, Query, State, rejection::QueryRejection},
    http::header,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use flocker_api::{
    ErrorBody, ErrorCode,
    name::{JobId, VolumeId, VolumeName},
    volume::Epoch,
    work::JobRequest,
};
use serde::Deserialize;

use super::{
    admin::{Agent, Body, Shared, body, parse, part},
    jobs::About,
    verbs::{self, archive::Into},
};

/// Longest wait for a job that one request may ask for.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The paths.
pub(super) fn routes() -> Router<Arc<Agent>> {
    Router::new()
        .route("/v1/jobs", get(list).post(begin))
        .route("/v1/jobs/{id}", get(one).delete(cancel))
        .route("/v1/volumes/{id}/snapshots", get(snapshots))
        .route("/v1/volumes/{id}/archive", get(send))
        .route(
            "/v1/archives",
            // As long as an archive is, there are never more than a few pieces of it here.
            post(receive).layer(DefaultBodyLimit::disable()),
        )
        .route("/v1/trash", get(trash))
}

/// How long the answer may wait for the job's end.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wait {
    #[serde(default)]
    wait_ms: u64,
}

impl Wait {
    fn time(&self) -> Duration {
        Duration::from_millis(self.wait_ms).min(WAIT_MAX)
    }
}

pub(super) fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, ErrorBody> {
    let Query(query) = query.map_err(|error| {
        let message = format!("the query is not valid: {}", error.body_text());
        ErrorBody::new(ErrorCode::InvalidRequest, message)
    })?;
    Ok(query)
}

async fn begin(
    State(agent): Shared,
    wait: Result<Query<Wait>, QueryRejection>,
    request: Body,
) -> Response {
    let wait = parse!(agent, "job", query(wait)).time();
    let request: JobRequest = parse!(agent, "job", body(request));
    let Some(held) = agent.sender() else {
        let body = ErrorBody::new(ErrorCode::Unavailable, "the agent is about to end");
        return agent.refuse("job", &body);
    };
    let about = About::of(&request);
    let containers = agent.containers.clone();
    let job = agent.jobs.begin(about, |job| async move {
        let done = verbs::run(containers, request, job).await;
        drop(held);
        done
    });
    agent
        .run("job", async move { Ok(job.ended(wait).await) })
        .await
}

async fn list(State(agent): Shared) -> Response {
    let jobs = agent.jobs.clone();
    agent.run("jobs", async move { Ok(jobs.list()) }).await
}

async fn one(
    State(agent): Shared,
    Path(id): Path<String>,
    wait: Result<Query<Wait>, QueryRejection>,
) -> Response {
    let id: JobId = parse!(agent, "job", part("job id", &id));
    let wait = parse!(agent, "job", query(wait)).time();
    let job = parse!(agent, "job", agent.jobs.find(id));
    agent
        .run("job", async move { Ok(job.ended(wait).await) })
        .await
}

async fn cancel(State(agent): Shared, Path(id): Path<String>) -> Response {
    let id: JobId = parse!(agent, "cancel-job", part("job id", &id));
    let job = parse!(agent, "cancel-job", agent.jobs.find(id));
    agent
        .run("cancel-job", async move {
            job.cancel().cancel();
            Ok(job.ended(Duration::from_secs(1)).await)
        })
        .await
}

async fn snapshots(State(agent): Shared, Path(id): Path<String>) -> Response {
    let id: VolumeId = parse!(agent, "snapshots", part("volume id", &id));
    let containers = agent.containers.clone();
    agent
        .run("snapshots", async move {
            Ok(containers.parts().4.snapshots(id).await?)
        })
        .await
}

/// Of which snapshot an archive is to be made, for whom.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Send {
    job: JobId,
    #[serde(default)]
    by: String,
    snapshot: Option<String>,
    since: Option<String>,
}

async fn send(
    State(agent): Shared,
    Path(id): Path<String>,
    wanted: Result<Query<Send>, QueryRejection>,
) -> Response {
    let id: VolumeId = parse!(agent, "send", part("volume id", &id));
    let wanted = parse!(agent, "send", query(wanted));
    let (_, _, _, _, volumes) = agent.containers.parts();
    let about = About {
        id: wanted.job,
        verb: "send",
        volume: id,
        name: None,
        by: wanted.by,
    };
    let (job, new) = agent.jobs.enter(about);
    if !new {
        let body = ErrorBody::new(ErrorCode::AlreadyExists, "an archive is made only once");
        return agent.refuse("send", &body);
    }
    let outgoing = volumes.outgoing(
        id,
        wanted.snapshot.as_deref(),
        wanted.since.as_deref(),
        &job,
    );
    match outgoing.await {
        Ok(outgoing) => {
            let archive = volumes.send_archive(outgoing, job);
            let kind = "application/octet-stream";
            (
                [(header::CONTENT_TYPE, kind)],
                StreamBody::from_stream(archive),
            )
                .into_response()
        }
        Err(error) => {
            let body = ErrorBody::from(error);
            job.end(Err(body.clone()));
            agent.refuse("send", &body)
        }
    }
}

/// What an archive is taken into, and for whom.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Receive {
    job: JobId,
    #[serde(default)]
    by: String,
    volume: VolumeId,
    name: VolumeName,
    epoch: Epoch,
}

async fn receive(
    State(agent): Shared,
    wanted: Result<Query<Receive>, QueryRejection>,
    archive: StreamBody,
) -> Response {
    let wanted = parse!(agent, "receive", query(wanted));
    parse!(agent, "receive", agent.containers.fence().permit());
    let (_, _, _, _, volumes) = agent.containers.parts();
    let about = About {
        id: wanted.job,
        verb: "receive",
        volume: wanted.volume,
        name: Some(wanted.name.clone()),
        by: wanted.by,
    };
    let (job, new) = agent.jobs.enter(about);
    if !new {
        let body = ErrorBody::new(ErrorCode::AlreadyExists, "an archive is taken only once");
        return agent.refuse("receive", &body);
    }
    let into = Into {
        volume: wanted.volume,
        name: wanted.name,
        epoch: wanted.epoch,
    };
    let (volumes, containers) = (volumes.clone(), agent.containers.clone());
    agent
        .run("receive", async move {
            let (id, epoch, bytes) = (into.volume, into.epoch, archive.into_data_stream());
            let work = async { Ok(volumes.receive_archive(&into, bytes, &job).await?) };
            // A volume that is there already must be nobody's now.
            let taken = match volumes.get(id).await {
                Ok(_) => containers.without_users(id, epoch, work).await,
                Err(_) => work.await,
            };
            job.end(taken.and_then(|status| {
                serde_json::to_value(status)
                    .map_err(|error| ErrorBody::new(ErrorCode::Internal, error.to_string()))
            }));
            Ok(job.status())
        })
        .await
}

async fn trash(State(agent): Shared) -> Response {
    let containers = agent.containers.clone();
    agent
        .run("trash", async move {
            Ok(containers.parts().4.in_trash().await?)
        })
        .await
}
