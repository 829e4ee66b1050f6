//! What goes on inside containers, on demand: their output, and commands run in them.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Path, Query, State, rejection::QueryRejection},
    response::Response,
};
use flocker_api::{
    ErrorBody, ErrorCode,
    exec::{ExecReply, ExecRequest},
    logs::{LogQuery, LogReply},
    name::AppName,
};

use super::{
    admin::{Agent, Body, body, part},
    containers::Containers,
};
use crate::logic::container::Refusal;

impl Containers {
    /// An app's output.
    ///
    /// # Errors
    /// There is no container of it.
    pub async fn logs(&self, app: &AppName, mut query: LogQuery) -> Result<LogReply, ErrorBody> {
        let limits = &self.inner.limits;
        query.wait_ms = query.wait_ms.min(limits.log_wait_ms);
        Ok(self.inner.runtime.logs(app, &query, limits.logs()).await?)
    }

    /// Runs a command inside an app's container.
    ///
    /// # Errors
    /// The container does not run; the command cannot be started or takes too long.
    pub async fn exec(&self, app: &AppName, request: ExecRequest) -> Result<ExecReply, ErrorBody> {
        let ExecRequest {
            command,
            timeout_ms,
        } = request;
        if command.is_empty() {
            let message = "a command needs a program";
            return Err(ErrorBody::new(ErrorCode::InvalidRequest, message));
        }
        if !self.found(app).await?.runs() {
            let (app, node) = (app.clone(), self.inner.node.clone());
            return Err(Refusal::NotRunning { app, node }.into());
        }
        let limit = Duration::from_millis(timeout_ms);
        let bytes_max = self.inner.limits.exec_bytes_max;
        let output = self
            .inner
            .runtime
            .exec(app, &command, limit, bytes_max)
            .await?;
        Ok(ExecReply {
            exit_code: output.exit_code,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            truncated: output.truncated,
        })
    }
}

/// `GET /v1/containers/{app}/logs`. No verb: an agent that ends does not wait for who follows.
pub(super) async fn logs(
    State(agent): State<Arc<Agent>>,
    Path(app): Path<String>,
    query: Result<Query<LogQuery>, QueryRejection>,
) -> Response {
    let query = query
        .map_err(|error| ErrorBody::new(ErrorCode::InvalidRequest, format!("the query: {error}")));
    let asked = async {
        let Query(query) = query?;
        let app: AppName = part("app", &app)?;
        agent.containers().logs(&app, query).await
    };
    let asked = asked.await;
    agent.answer("logs", asked)
}

/// `POST /v1/containers/{app}/exec`.
pub(super) async fn exec(
    State(agent): State<Arc<Agent>>,
    Path(app): Path<String>,
    request: Body,
) -> Response {
    let parsed = part::<AppName>("app", &app).and_then(|app| Ok((app, body(request)?)));
    let (app, request): (AppName, ExecRequest) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return agent.answer::<()>("exec", Err(error)),
    };
    let containers = agent.containers().clone();
    agent
        .run("exec", async move { containers.exec(&app, request).await })
        .await
}
