//! The edge that is tried: the program itself, with a configuration of the trial's, on loopback.
#![expect(
    clippy::disallowed_methods,
    reason = "starts the program that is tried"
)]

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use flocker_api::{
    ErrorBody,
    client::{Client, Endpoint},
    edge::{EdgeStatus, TransactionReply},
    gate::{
        HoldLimits, PauseReply, PauseRequest, QuiesceReply, QuiesceRequest, ResumeReply,
        ResumeRequest, Retarget, SwitchRequest, Token,
    },
    route::{Operation, Route, RouteKey, Transaction},
};
use serde::{Serialize, de::DeserializeOwned};
use tempfile::TempDir;

use crate::testbed::ready;

/// How long one verb may take.
const VERB: Duration = Duration::from_secs(60);
/// How long the edge may take to start.
const START: Duration = Duration::from_secs(20);
/// Longest quiesce.
const QUIESCE_MS: u64 = 5_000;

/// A running edge; ends with the value.
pub(super) struct Edge {
    child: Child,
    /// Its files; they go with the value.
    _directory: TempDir,
    client: Client,
    ip: IpAddr,
    port: u16,
}

impl Edge {
    /// Starts it. `extra` is more of its configuration.
    pub(super) async fn start(program: &Path, workers: usize, extra: &str) -> Result<Self> {
        let directory = tempfile::tempdir().context("no temporary directory")?;
        let socket = directory.path().join("edge.sock");
        let (ip, port) = address()?;
        let config = format!(
            "name = \"trial\"\nworkers = {workers}\n\
             [listen]\nhttp = [\"{ip}:{port}\"]\nhttps = [\"{ip}:{}\"]\ntcp = [\"{ip}\"]\n\
             [admin]\nsocket = \"{}\"\n{extra}\n",
            port + 1,
            socket.display()
        );
        let path = directory.path().join("edge.toml");
        fs::write(&path, config).context("cannot write the edge's configuration")?;
        let child = Command::new(program)
            .arg("--config")
            .arg(&path)
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let edge = Self {
            child,
            _directory: directory,
            client: Client::new(Endpoint::Unix(socket), "the edge"),
            ip,
            port,
        };
        ready::until("the edge", START, || async {
            let status: Result<EdgeStatus, ErrorBody> = edge.client.get("/v1/status", VERB).await;
            status.map(|_| ()).map_err(|error| anyhow::anyhow!(error))
        })
        .await?;
        Ok(edge)
    }

    pub(super) fn http(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }

    pub(super) fn https(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port + 1)
    }

    /// A port of its own for a `tcp` route.
    pub(super) fn tcp(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port + 2)
    }

    /// Memory of the program, in KiB: what is its alone (Private_* of proc_pid_smaps(5)).
    pub(super) fn memory_kib(&self) -> Result<u64> {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let private = text.lines().filter(|line| line.starts_with("Private_"));
        Ok(private
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum())
    }

    /// Time that the program has run, on all cores (proc_pid_stat(5): utime and stime, in ticks of
    /// 10 ms).
    pub(super) fn cpu(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        // The name before them is in parentheses and may have spaces.
        let after = text.rsplit(')').next().unwrap_or_default();
        let fields: Vec<u64> = after
            .split_whitespace()
            .filter_map(|field| field.parse().ok())
            .collect();
        // Without the state, which is a letter: fields 4 onwards; 14 and 15 are wanted.
        let ticks = fields.iter().skip(10).take(2).sum::<u64>();
        Ok(Duration::from_millis(10 * ticks))
    }

    pub(super) async fn put(&self, routes: Vec<Route>) -> Result<()> {
        let operations = routes.into_iter().map(|route| Operation::Put { route });
        let transaction = Transaction {
            against: None,
            operations: operations.collect(),
        };
        let _reply: TransactionReply = self.post("/v1/routes", &transaction).await?;
        Ok(())
    }

    pub(super) async fn pause(&self, keys: &[RouteKey], limits: HoldLimits) -> Result<Token> {
        let request = PauseRequest {
            token: None,
            keys: keys.to_vec(),
            limits,
        };
        let reply: PauseReply = self.post("/v1/gates/pause", &request).await?;
        Ok(reply.token)
    }

    pub(super) async fn quiesce(&self, keys: &[RouteKey], token: Token) -> Result<()> {
        let request = QuiesceRequest {
            token,
            keys: keys.to_vec(),
            deadline_ms: QUIESCE_MS,
        };
        match self.post("/v1/gates/quiesce", &request).await? {
            QuiesceReply::Quiesced { .. } => Ok(()),
            other => bail!("the routes did not become quiet: {other:?}"),
        }
    }

    pub(super) async fn switch(&self, changes: Vec<Retarget>, token: Token) -> Result<ResumeReply> {
        let request = SwitchRequest {
            token,
            changes,
            resume: true,
        };
        self.post("/v1/gates/switch", &request).await
    }

    pub(super) async fn resume(&self, keys: &[RouteKey], token: Token) -> Result<ResumeReply> {
        let keys = keys.to_vec();
        self.post("/v1/gates/resume", &ResumeRequest { token, keys })
            .await
    }

    /// Sessions and requests that are parked now.
    pub(super) async fn parked(&self) -> Result<u64> {
        let status: EdgeStatus = self.client.get("/v1/status", VERB).await?;
        Ok(status.parked)
    }

    /// Downstream connections that are open now.
    pub(super) async fn sessions(&self) -> Result<u64> {
        let status: EdgeStatus = self.client.get("/v1/status", VERB).await?;
        Ok(status.sessions)
    }

    async fn post<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        path: &str,
        request: &Q,
    ) -> Result<A> {
        Ok(self.client.post(path, request, VERB).await?)
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        // Gone already is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A loopback address of this process's own, and a port that is free on it.
fn address() -> Result<(IpAddr, u16)> {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let ip = IpAddr::from(Ipv4Addr::new(127, 128 | (high & 63), middle, low.max(1)));
    // Nobody else uses this address, so any port will do; the kernel is asked all the same.
    let probe = std::net::TcpListener::bind((ip, 0)).context("no port on loopback")?;
    let port = probe.local_addr().context("no port on loopback")?.port();
    Ok((ip, port.clamp(1024, u16::MAX - 16)))
}
