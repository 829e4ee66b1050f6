//! The admin verbs of an edge that runs, one after the other.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use flocker_api::{
    client::{Client, Endpoint},
    edge::{EdgeStatus, TransactionReply},
    gate::{
        HoldLimits, PauseReply, PauseRequest, QuiesceReply, QuiesceRequest, ResumeReply, Retarget,
        SwitchRequest, Token,
    },
    route::{Operation, RouteKey, Transaction},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::testbed::stage;

/// How long one verb may take; a bulk change of a million routes is one.
const VERB: Duration = Duration::from_secs(120);
/// Longest quiesce.
const QUIESCE_MS: u64 = 5_000;

/// See the module.
pub(super) struct Verbs {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Verbs {
    /// By this admin socket.
    pub(super) fn at(socket: PathBuf) -> Result<Self> {
        Ok(Self {
            runtime: stage::runtime()?,
            client: Client::new(Endpoint::Unix(socket), "the edge"),
        })
    }

    pub(super) fn change(&self, operations: Vec<Operation>) -> Result<()> {
        let transaction = Transaction {
            against: None,
            operations,
        };
        let _reply: TransactionReply = self.post("/v1/routes", &transaction)?;
        Ok(())
    }

    pub(super) fn pause(&self, keys: &[RouteKey], limits: HoldLimits) -> Result<Token> {
        let request = PauseRequest {
            token: None,
            keys: keys.to_vec(),
            limits,
        };
        let reply: PauseReply = self.post("/v1/gates/pause", &request)?;
        Ok(reply.token)
    }

    pub(super) fn quiesce(&self, keys: &[RouteKey], token: Token) -> Result<()> {
        let request = QuiesceRequest {
            token,
            keys: keys.to_vec(),
            deadline_ms: QUIESCE_MS,
        };
        match self.post("/v1/gates/quiesce", &request)? {
            QuiesceReply::Quiesced { .. } => Ok(()),
            other => bail!("the routes did not become quiet: {other:?}"),
        }
    }

    pub(super) fn switch(&self, changes: Vec<Retarget>, token: Token) -> Result<()> {
        let request = SwitchRequest {
            token,
            changes,
            resume: true,
        };
        let _reply: ResumeReply = self.post("/v1/gates/switch", &request)?;
        Ok(())
    }

    /// Sessions and requests that are parked now.
    pub(super) fn parked(&self) -> Result<u64> {
        let status = self.client.get("/v1/status", VERB);
        let status: EdgeStatus = self.runtime.block_on(status)?;
        Ok(status.parked)
    }

    fn post<Q: Serialize + Sync, A: DeserializeOwned>(&self, path: &str, request: &Q) -> Result<A> {
        let answer = self.client.post(path, request, VERB);
        self.runtime
            .block_on(answer)
            .with_context(|| format!("the edge refuses {path}"))
    }
}
