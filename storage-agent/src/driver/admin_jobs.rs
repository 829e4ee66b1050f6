//! The part of the agent's HTTP API that is for operators: jobs, snapshots, the trash. The table
//! of paths is in `flocker_api::work`.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, Query, State, rejection::QueryRejection},
    response::Response,
    routing::get,
};
use flocker_api::{
    ErrorBody, ErrorCode,
    name::{JobId, VolumeId},
    work::JobRequest,
};
use serde::Deserialize;

use super::{
    admin::{Agent, Body, Shared, body, parse, part},
    jobs::About,
    verbs,
};

/// Longest wait for a job that one request may ask for.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The paths.
pub(super) fn routes() -> Router<Arc<Agent>> {
    Router::new()
        .route("/v1/jobs", get(list).post(begin))
        .route("/v1/jobs/{id}", get(one).delete(cancel))
        .route("/v1/volumes/{id}/snapshots", get(snapshots))
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

async fn trash(State(agent): Shared) -> Response {
    let containers = agent.containers.clone();
    agent
        .run("trash", async move {
            Ok(containers.parts().4.in_trash().await?)
        })
        .await
}
