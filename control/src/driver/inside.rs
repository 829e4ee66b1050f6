//! What is asked of an app's container through control: its output, a command run in it, a restart.

use std::time::Duration;

use flocker_api::{
    exec::{ExecReply, ExecRequest},
    logs::{AppLogReply, LogQuery},
    name::{AppName, NodeName},
};

use super::control::{CLAIM_WAIT, Control, refuse_moving};
use crate::{
    error::Refusal,
    logic::state::{AppRecord, Life, Primary},
};

impl Control {
    /// An app's output on the node where it is. A cursor of another node is one of the time before
    /// a move: then what the app wrote here is shown from its beginning.
    ///
    /// # Errors
    /// There is no such app, or its node does not answer.
    pub async fn app_logs(
        &self,
        name: &AppName,
        mut query: LogQuery,
    ) -> Result<AppLogReply, Refusal> {
        let (_, primary) = self.wanted_app(name)?;
        let node = primary.node;
        if let Some(after) = query.after.take() {
            query.after = match after.split_once('/') {
                Some((at, cursor)) if at == node.as_str() => Some(cursor.to_owned()),
                _ => None,
            };
            if query.after.is_none() {
                (query.tail, query.since_ms) = (None, Some(0));
            }
        }
        let answer = self.context().peers.logs(&node, name, &query).await;
        let mut reply = answer.map_err(|error| Refusal::Node {
            node: node.clone(),
            error,
        })?;
        reply.cursor = reply.cursor.map(|cursor| format!("{node}/{cursor}"));
        Ok(AppLogReply { node, reply })
    }

    /// Runs a command in an app's container.
    ///
    /// # Errors
    /// There is no such app, or its node refuses.
    pub async fn app_exec(
        &self,
        name: &AppName,
        request: &ExecRequest,
    ) -> Result<ExecReply, Refusal> {
        let (_, primary) = self.wanted_app(name)?;
        let node = primary.node;
        let answer = self.context().peers.exec(&node, name, request).await;
        answer.map_err(|error| Refusal::Node { node, error })
    }

    /// Stops an app's container and starts it again; answers when it is ready. What arrives
    /// meanwhile waits at the edges, which repeat connects that fail.
    ///
    /// # Errors
    /// There is no such app, it is being moved, or its node refuses.
    pub async fn restart_app(&self, name: &AppName) -> Result<Duration, Refusal> {
        self.wanted_app(name)?;
        let claim = self.context().claims.take_within(name, CLAIM_WAIT).await;
        let claim = claim.ok_or_else(|| Refusal::AppBusy(name.clone()))?;
        refuse_moving(&self.context().ledger.state(), name)?;
        let (record, Primary { node, epoch }) = self.wanted_app(name)?;
        claim.starts();
        let spec = &record.app.container;
        let peers = &self.context().peers;
        let failed = |node: &NodeName| {
            let node = node.clone();
            move |error| Refusal::Node { node, error }
        };
        peers
            .stop(&node, spec, epoch)
            .await
            .map_err(failed(&node))?;
        let started = peers.start(&node, spec, epoch).await;
        let reply = started.map_err(failed(&node))?;
        drop(claim);
        self.context().observations.poke_node(&node);
        Ok(Duration::from_micros(reply.ready_us))
    }

    /// An app that shall be there, and where.
    fn wanted_app(&self, name: &AppName) -> Result<(AppRecord, Primary), Refusal> {
        let state = self.context().ledger.state();
        let record = state
            .apps
            .get(name)
            .filter(|record| record.life == Life::Wanted);
        match (record, state.primaries.get(name)) {
            (Some(record), Some(primary)) => Ok((AppRecord::clone(record), primary.clone())),
            _ => Err(Refusal::UnknownApp(name.clone())),
        }
    }
}
