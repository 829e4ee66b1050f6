//! When an app that was started serves: by its own probe, its image's, or because it runs.

use std::{net::SocketAddr, time::Duration};

use flocker_api::{
    ErrorBody, ErrorCode,
    container::{ContainerSpec, ContainerState, Probe},
    name::AppName,
};
use serde_json::json;

use super::{
    containers::Containers,
    probe,
    runtime::{OUTPUT_BYTES_MAX, Output, RuntimeError},
};
use crate::logic::container;

impl Containers {
    /// Waits for the probe to answer, for the app to end, or for the time to be over.
    pub(super) async fn await_ready(&self, spec: &ContainerSpec) -> Result<(), ErrorBody> {
        let of_image = match &spec.ready {
            Some(_) => None,
            None => self.inner.runtime.image_probe(&spec.image).await,
        };
        let Some(probe) = spec.ready.as_ref().or(of_image.as_ref()) else {
            return self.check_runs(spec).await;
        };
        let (Probe::Tcp { timeout_ms, .. }
        | Probe::Http { timeout_ms, .. }
        | Probe::Exec { timeout_ms, .. }) = probe;
        let limit = Duration::from_millis(*timeout_ms);
        let mut reason = "it was not probed yet".to_owned();
        let ready = async {
            let pause = Duration::from_millis(self.inner.limits.probe_interval_ms);
            while let Err(error) = self.probe(spec, probe).await {
                reason = error;
                tokio::time::sleep(pause).await;
            }
        };
        tokio::select! {
            () = ready => Ok(()),
            ended = self.inner.runtime.ended(&spec.app) => Err(self.ended_early(spec, ended?).await),
            () = tokio::time::sleep(limit) => {
                let message = format!(
                    "{} on {} was not ready within {limit:?}: {reason}",
                    spec.app, self.inner.node
                );
                let output = self.last_lines(spec).await;
                Err(ErrorBody::new(ErrorCode::Timeout, message)
                    .with_details(json!({ "output": output })))
            }
        }
    }

    async fn check_runs(&self, spec: &ContainerSpec) -> Result<(), ErrorBody> {
        match self.found(&spec.app).await?.state {
            ContainerState::Exited { code } => {
                Err(self.ended_early(spec, container::known_exit(code)).await)
            }
            _ => Ok(()),
        }
    }

    async fn ended_early(&self, spec: &ContainerSpec, code: Option<i64>) -> ErrorBody {
        let output = self.last_lines(spec).await;
        let code_text = code.map_or_else(|| "an unknown code".to_owned(), |code| code.to_string());
        let message = format!(
            "{} on {} ended with {code_text} before it was ready; its last lines: {}",
            spec.app,
            self.inner.node,
            if output.is_empty() { "(none)" } else { &output }
        );
        ErrorBody::new(ErrorCode::Internal, message)
            .with_details(json!({ "exit_code": code, "output": output }))
    }

    async fn last_lines(&self, spec: &ContainerSpec) -> String {
        let lines = self.inner.limits.log_lines;
        self.inner.runtime.last_lines(&spec.app, lines).await
    }

    async fn probe(&self, spec: &ContainerSpec, probe: &Probe) -> Result<(), String> {
        let attempt = self.inner.limits.probe_attempt();
        let at = |port: u16| SocketAddr::new(self.inner.address, port);
        match probe {
            Probe::Tcp { port, .. } => probe::tcp(at(*port), attempt)
                .await
                .map_err(|error| format!("port {}: {error}", at(*port))),
            Probe::Http { port, path, .. } => probe::http(at(*port), path, attempt)
                .await
                .map_err(|error| format!("http://{}{path}: {error}", at(*port))),
            Probe::Exec { command, .. } => match self.hook(&spec.app, command, attempt).await {
                Ok(output) if output.exit_code == 0 => Ok(()),
                Ok(output) => Err(format!(
                    "'{}' ended with {}: {}",
                    command.join(" "),
                    output.exit_code,
                    output.text().trim_end()
                )),
                Err(error) => Err(flocker_api::error::chain(&error)),
            },
        }
    }

    /// Runs a small command inside an app's container.
    pub(super) async fn hook(
        &self,
        app: &AppName,
        command: &[String],
        limit: Duration,
    ) -> Result<Output, RuntimeError> {
        let runtime = &self.inner.runtime;
        runtime.exec(app, command, limit, OUTPUT_BYTES_MAX).await
    }
}
