//! The agent's HTTP API: parse, call the verb, answer. The table of paths is in
//! `flocker_api::agent`.
//!
//! A verb runs to its end even when its client goes away: what is half done is worse than
//! what nobody waits for, and the client that asks again finds it done.

#![expect(clippy::disallowed_methods, reason = "measures how long verbs take")]

/// Parses one part of a path, or the body, or answers with what is wrong with it.
macro_rules! parse {
    ($agent:expr, $verb:expr, $parsed:expr) => {
        match $parsed {
            Ok(value) => value,
            Err(error) => return $agent.refuse($verb, &error),
        }
    };
}
pub(super) use parse;

mod asides;

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State, rejection::BytesRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use flocker_api::{
    ErrorBody, ErrorCode,
    agent::{
        CreateContainer, CreateVolume, EpochRequest, LeaseRequest, LeaseStatus, NodeStatus,
        PreflightReply, PreflightRequest, ReplicateRequest, StopReply,
    },
    doctor::DoctorRequest,
    name::{AppName, VolumeId},
    replication::SetReplication,
    tls::Listener,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    admin_jobs,
    confirm::Confirmations,
    containers::Containers,
    doctor::{self, Patient},
    inside,
    jobs::Jobs,
    preflight,
};
use crate::metrics::{Metrics, Observed};

/// All that the API needs.
#[derive(Debug)]
pub struct Agent {
    pub(super) containers: Containers,
    pub(super) jobs: Jobs,
    metrics: Metrics,
    /// Where replication streams are taken.
    replication: SocketAddr,
    confirmations: Confirmations,
    /// Held by each verb that runs; gone when the agent is about to end.
    running: Mutex<Option<mpsc::Sender<()>>>,
}

pub(super) type Shared = State<Arc<Agent>>;
pub(super) type Body = Result<Bytes, BytesRejection>;

/// Serves the API until `shutdown` resolves, then waits for the verbs that run, for at most
/// `limit`.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(
    listener: Listener,
    containers: Containers,
    replication: SocketAddr,
    shutdown: impl Future<Output = ()> + Send + 'static,
    limit: Duration,
) -> std::io::Result<()> {
    let (sender, mut none_left) = mpsc::channel(1);
    let (node, _, limits, _, volumes) = containers.parts();
    let agent = Arc::new(Agent {
        metrics: Metrics::new(node.to_string(), volumes.rounds().clone()),
        replication,
        confirmations: Confirmations::default(),
        running: Mutex::new(Some(sender)),
        containers: containers.clone(),
        jobs: Jobs::default(),
    });
    agent.take_up().await;
    let app = router(Arc::clone(&agent), limits.body_bytes_max);
    let stop = {
        let agent = Arc::clone(&agent);
        async move {
            shutdown.await;
            agent.jobs.cancel_all();
            drop(agent.take_sender());
        }
    };
    let (stopping, stopped) = tokio::sync::oneshot::channel();
    let server = axum::serve(listener, app).with_graceful_shutdown(async move {
        stop.await;
        // Nobody waits for it when the server has failed.
        let _waiting = stopping.send(());
    });
    let verbs = async {
        if stopped.await.is_err() {
            return;
        }
        let ended = tokio::time::timeout(limit, none_left.recv()).await;
        if ended.is_err() {
            tracing::warn!(?limit, "verbs still run; they are cut off");
        }
    };
    // Answers may outlast their verbs, idle keep-alive connections may outlast both.
    tokio::select! {
        result = async { server.await } => result,
        () = async { verbs.await; tokio::time::sleep(Duration::from_millis(100)).await; } => Ok(()),
    }
}

fn router(agent: Arc<Agent>, body_bytes_max: usize) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/preflight", post(preflight))
        .route("/v1/volumes", post(create_volume))
        .route("/v1/volumes/{id}", get(volume).delete(destroy_volume))
        .route("/v1/volumes/{id}/snapshot", post(snapshot))
        .route("/v1/volumes/{id}/replicate", post(replicate))
        .route("/v1/volumes/{id}/replication", put(set_replication))
        .route("/v1/volumes/{id}/promote", post(promote))
        .route("/v1/volumes/{id}/demote", post(demote))
        .route("/v1/containers/{app}", axum::routing::delete(remove))
        .route("/v1/containers/{app}/create", post(create))
        .route("/v1/containers/{app}/start", post(start))
        .route("/v1/containers/{app}/pre-stop", post(pre_stop))
        .route("/v1/containers/{app}/stop", post(stop))
        .route("/v1/containers/{app}/logs", get(inside::logs))
        .route("/v1/containers/{app}/exec", post(inside::exec))
        .merge(asides::routes())
        .route("/v1/doctor", post(examine))
        .route("/v1/lease", get(lease).put(renew))
        .merge(admin_jobs::routes())
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .fallback(async || {
            answer_error(&ErrorBody::new(
                ErrorCode::NotFound,
                "the agent's API has no such path",
            ))
        })
        .method_not_allowed_fallback(async || {
            let body = ErrorBody::new(ErrorCode::InvalidRequest, "this path has another method");
            (StatusCode::METHOD_NOT_ALLOWED, Json(body)).into_response()
        })
        .layer(DefaultBodyLimit::max(body_bytes_max))
        .with_state(agent)
}

impl Agent {
    /// Learns what a former agent has left: containers that run, primaries that do not.
    async fn take_up(&self) {
        let (_, _, _, _, volumes) = self.containers.parts();
        // Each look at the node's status sees to it again.
        if let Err(error) = self.containers.list().await {
            tracing::warn!(%error, "the fence does not know yet what runs");
        }
        if let Err(error) = self.confirmations.seal(volumes).await {
            let error = flocker_api::error::chain(&error);
            tracing::error!(error, "volumes were not set read-only");
        }
    }

    /// Takes a grant; what it confirms becomes writable if it is not.
    async fn renew(&self, request: &LeaseRequest) -> Result<LeaseStatus, ErrorBody> {
        let (_, _, _, _, volumes) = self.containers.parts();
        let fence = self.containers.fence();
        let status = fence.renew(request)?;
        // A fence that is still at it would take away again what is given now.
        if fence.permit().is_ok() {
            let owned = &request.volumes;
            self.confirmations
                .confirm(volumes, owned, status.fences)
                .await?;
        }
        Ok(status)
    }

    /// Runs a verb to its end, whoever goes away meanwhile.
    pub(super) async fn run<T, F>(self: Arc<Self>, verb: &'static str, work: F) -> Response
    where
        T: Serialize + Send + 'static,
        F: Future<Output = Result<T, ErrorBody>> + Send + 'static,
    {
        let Some(held) = self.sender() else {
            let body = ErrorBody::new(ErrorCode::Unavailable, "the agent is about to end");
            return self.refuse(verb, &body);
        };
        let began = Instant::now();
        let agent = Arc::clone(&self);
        let task = tokio::spawn(async move {
            let result = work.await;
            let took = began.elapsed();
            agent.metrics.verb(verb, took, &result);
            match &result {
                // Asked every second by whoever watches.
                Ok(_) if matches!(verb, "status" | "volume" | "lease" | "job" | "jobs") => {
                    tracing::debug!(verb, ?took, "done");
                }
                Ok(_) => tracing::info!(verb, ?took, "done"),
                Err(error) => tracing::warn!(verb, ?took, code = %error.code, %error, "failed"),
            }
            drop(held);
            result
        });
        match task.await {
            Ok(Ok(answer)) => Json(answer).into_response(),
            Ok(Err(error)) => answer_error(&error),
            Err(_) => {
                let message = format!("the verb '{verb}' broke; the agent's log says why");
                self.refuse(verb, &ErrorBody::new(ErrorCode::Internal, message))
            }
        }
    }

    pub(super) fn containers(&self) -> &Containers {
        &self.containers
    }

    /// Answers a question that is no verb.
    pub(super) fn answer<T: Serialize>(
        &self,
        verb: &'static str,
        result: Result<T, ErrorBody>,
    ) -> Response {
        match result {
            Ok(answer) => Json(answer).into_response(),
            Err(error) => self.refuse(verb, &error),
        }
    }

    pub(super) fn refuse(&self, verb: &'static str, error: &ErrorBody) -> Response {
        self.metrics.error(verb, error.code);
        answer_error(error)
    }

    pub(super) fn sender(&self) -> Option<mpsc::Sender<()>> {
        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn take_sender(&self) -> Option<mpsc::Sender<()>> {
        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

pub(super) fn answer_error(error: &ErrorBody) -> Response {
    let status =
        StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(error)).into_response()
}

pub(super) fn body<T: DeserializeOwned>(body: Body) -> Result<T, ErrorBody> {
    let invalid = |message: String| ErrorBody::new(ErrorCode::InvalidRequest, message);
    let bytes = body.map_err(|error| invalid(error.body_text()))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| invalid(format!("the body is not valid: {error}")))
}

pub(super) fn part<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, ErrorBody>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error| {
        let message = format!("'{text}' is no {what}: {error}");
        ErrorBody::new(ErrorCode::InvalidRequest, message)
    })
}

async fn status(State(agent): Shared) -> Response {
    let containers = agent.containers.clone();
    let replication = agent.replication;
    agent
        .run("status", async move {
            let (node, address, _, _, volumes) = containers.parts();
            let runtime = containers.runtime_status().await;
            // A runtime that does not answer has said so in its own status.
            let found = match runtime.problem {
                None => containers.list().await?,
                Some(_) => Vec::new(),
            };
            Ok(NodeStatus {
                node: node.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                address,
                replication,
                storage: volumes.status().await?,
                runtime,
                volumes: volumes.list().await?,
                containers: found,
                lease: Some(containers.fence().status()),
                asides: volumes.asides(),
            })
        })
        .await
}

async fn preflight(State(agent): Shared, request: Body) -> Response {
    let request: PreflightRequest = parse!(agent, "preflight", body(request));
    let containers = agent.containers.clone();
    agent
        .run("preflight", async move {
            let problems = preflight::check(&containers, &request).await;
            Ok(PreflightReply { problems })
        })
        .await
}

async fn examine(State(agent): Shared, request: Body) -> Response {
    let request: DoctorRequest = parse!(agent, "doctor", body(request));
    let containers = agent.containers.clone();
    agent
        .run("doctor", async move {
            let (node, _, _, _, volumes) = containers.parts();
            let patient = Patient {
                node,
                storage: containers.storage(),
                volumes,
                runtime: Some(containers.runtime_status().await),
                fence: Some(containers.fence()),
            };
            Ok(doctor::examine(&patient, &request).await)
        })
        .await
}

async fn lease(State(agent): Shared) -> Response {
    Json(agent.containers.fence().status()).into_response()
}

async fn renew(State(agent): Shared, request: Body) -> Response {
    let request: LeaseRequest = parse!(agent, "lease", body(request));
    let work = Arc::clone(&agent);
    agent
        .run("lease", async move { work.renew(&request).await })
        .await
}

async fn create_volume(State(agent): Shared, request: Body) -> Response {
    let request: CreateVolume = parse!(agent, "create-volume", body(request));
    let containers = agent.containers.clone();
    agent
        .run("create-volume", async move {
            containers.fence().permit()?;
            Ok(containers.parts().4.create(request).await?)
        })
        .await
}

async fn volume(State(agent): Shared, Path(id): Path<String>) -> Response {
    let id: VolumeId = parse!(agent, "volume", part("volume id", &id));
    let containers = agent.containers.clone();
    agent
        .run(
            "volume",
            async move { Ok(containers.parts().4.get(id).await?) },
        )
        .await
}

async fn destroy_volume(State(agent): Shared, Path(id): Path<String>, request: Body) -> Response {
    let id: VolumeId = parse!(agent, "destroy", part("volume id", &id));
    let EpochRequest { epoch } = parse!(agent, "destroy", body(request));
    let containers = agent.containers.clone();
    agent
        .run("destroy", async move {
            let work = async { Ok(containers.parts().4.destroy(id, epoch).await?) };
            containers.without_users(id, epoch, work).await?;
            Ok(json!({}))
        })
        .await
}

async fn snapshot(State(agent): Shared, Path(id): Path<String>, request: Body) -> Response {
    let id: VolumeId = parse!(agent, "snapshot", part("volume id", &id));
    let EpochRequest { epoch } = parse!(agent, "snapshot", body(request));
    let containers = agent.containers.clone();
    agent
        .run("snapshot", async move {
            Ok(containers.parts().4.snapshot(id, epoch).await?)
        })
        .await
}

async fn replicate(State(agent): Shared, Path(id): Path<String>, request: Body) -> Response {
    let id: VolumeId = parse!(agent, "replicate", part("volume id", &id));
    let request: ReplicateRequest = parse!(agent, "replicate", body(request));
    let containers = agent.containers.clone();
    let counted = Arc::clone(&agent);
    agent
        .run("replicate", async move {
            let reply = containers.parts().4.replicate(id, request).await?;
            counted.metrics.transfer(&reply);
            Ok(reply)
        })
        .await
}

async fn set_replication(State(agent): Shared, Path(id): Path<String>, request: Body) -> Response {
    let id: VolumeId = parse!(agent, "set-replication", part("volume id", &id));
    let request: SetReplication = parse!(agent, "set-replication", body(request));
    let containers = agent.containers.clone();
    agent
        .run("set-replication", async move {
            Ok(containers.parts().4.set_replication(id, request).await?)
        })
        .await
}

async fn promote(State(agent): Shared, Path(id): Path<String>, request: Body) -> Response {
    let id: VolumeId = parse!(agent, "promote", part("volume id", &id));
    let EpochRequest { epoch } = parse!(agent, "promote", body(request));
    let containers = agent.containers.clone();
    agent
        .run("promote", async move {
            containers.fence().permit()?;
            Ok(containers.parts().4.promote(id, epoch).await?)
        })
        .await
}

async fn demote(State(agent): Shared, Path(id): Path<String>, request: Body) -> Response {
    let id: VolumeId = parse!(agent, "demote", part("volume id", &id));
    let EpochRequest { epoch } = parse!(agent, "demote", body(request));
    let containers = agent.containers.clone();
    agent
        .run("demote", async move {
            let work = async { Ok(containers.parts().4.demote(id, epoch).await?) };
            containers.without_users(id, epoch, work).await
        })
        .await
}

async fn create(State(agent): Shared, Path(app): Path<String>, request: Body) -> Response {
    let app: AppName = parse!(agent, "create", part("app", &app));
    let request: CreateContainer = parse!(agent, "create", body(request));
    let containers = agent.containers.clone();
    agent
        .run(
            "create",
            async move { containers.create(&app, request).await },
        )
        .await
}

async fn start(State(agent): Shared, Path(app): Path<String>, request: Body) -> Response {
    let app: AppName = parse!(agent, "start", part("app", &app));
    let EpochRequest { epoch } = parse!(agent, "start", body(request));
    let containers = agent.containers.clone();
    agent
        .run("start", async move { containers.start(&app, epoch).await })
        .await
}

async fn pre_stop(State(agent): Shared, Path(app): Path<String>, request: Body) -> Response {
    let app: AppName = parse!(agent, "pre-stop", part("app", &app));
    let EpochRequest { epoch } = parse!(agent, "pre-stop", body(request));
    let containers = agent.containers.clone();
    agent
        .run("pre-stop", async move {
            containers.pre_stop(&app, epoch).await?;
            Ok(json!({}))
        })
        .await
}

async fn stop(State(agent): Shared, Path(app): Path<String>, request: Body) -> Response {
    let app: AppName = parse!(agent, "stop", part("app", &app));
    let EpochRequest { epoch } = parse!(agent, "stop", body(request));
    let containers = agent.containers.clone();
    let counted = Arc::clone(&agent);
    agent
        .run("stop", async move {
            let reply: StopReply = containers.stop(&app, epoch).await?;
            if reply.killed {
                counted.metrics.killed();
            }
            Ok(reply)
        })
        .await
}

async fn remove(State(agent): Shared, Path(app): Path<String>, request: Body) -> Response {
    let app: AppName = parse!(agent, "remove", part("app", &app));
    let EpochRequest { epoch } = parse!(agent, "remove", body(request));
    let containers = agent.containers.clone();
    agent
        .run("remove", async move {
            containers.remove(&app, epoch).await?;
            Ok(json!({}))
        })
        .await
}

async fn metrics(State(agent): Shared) -> Response {
    let (_, _, limits, _, volumes) = agent.containers.parts();
    let limit = Duration::from_millis(limits.scrape_ms);
    let (all, status, containers) = tokio::join!(
        tokio::time::timeout(limit, volumes.list()),
        tokio::time::timeout(limit, volumes.status()),
        tokio::time::timeout(limit, agent.containers.list()),
    );
    let storage = status.ok().and_then(Result::ok);
    let observed = Observed {
        volumes: all.ok().and_then(Result::ok),
        available_bytes: storage.as_ref().map(|status| status.available_bytes),
        problem: storage.and_then(|status| status.problem),
        containers: containers.ok().and_then(Result::ok),
        lease: Some(agent.containers.fence().status()),
        kept_for_others: volumes.kept_for_others(),
        asides: volumes.asides(),
        aside_counts: volumes.aside_counts(),
    };
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    (
        [(header::CONTENT_TYPE, kind)],
        agent.metrics.text(&observed),
    )
        .into_response()
}
