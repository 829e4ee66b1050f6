//! A cluster of real programs on loopback addresses, for one story.
//!
//! Directory storage and the process runtime: it needs no privileges, and what the stories
//! are about, programs that die and talk to one another, is the same.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use flocker_api::{
    ErrorBody,
    client::{Client, Endpoint},
    control::{
        AppPhase, AppStatus, ClusterStatus, DeployReply, DeployRequest, EdgeOutcome, MoveRequest,
        MoveStatus, SourceFile,
    },
    edge::RouteTable,
    route::{Operation, Route, Transaction},
};
use flocker_bench::testbed::{
    Folders, Logs, Testbed,
    plan::{Ground, Runtime, Storage},
    probe::Choice,
    ready,
};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

/// How long a call to control may take.
const CALL: Duration = Duration::from_secs(10);
/// How long anything may take that is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The notes app on n1, and nothing else.
pub(crate) const APPLICATION: &str = r#"
version: 1
applications:
  notes:
    image: "flocker/notes"
    ports: [{internal: 8081, external: 8080}]
    volume: {mountpoint: "/data"}
    x-flocker:
      routes: [{key: "http:notes.demo", port: 8081, body_bytes_max: 1048576}]
      stop: {signal: SIGTERM, grace: 10s}
      ready: {http: {port: 8081, path: /healthz, timeout: 30s}}
"#;

/// The same in a Compose file, in a generation of its own each time.
pub(crate) const COMPOSE: &str = r#"
services:
  notes:
    image: flocker/notes
    ports: ["8080:8081"]
    environment: {GENERATION: "${GENERATION}"}
    volumes: ["notes:/data"]
    stop_grace_period: 10s
    x-flocker:
      node: n1
      routes: [{key: "http:notes.demo", port: 8081}]
      ready: {http: {port: 8081, path: /healthz, timeout: 30s}}
volumes:
  notes: {driver: flocker}
"#;

/// Where it shall run.
pub(crate) const DEPLOYMENT: &str = "version: 1\nnodes: {n1: [notes], n2: []}\n";

pub(crate) struct Cluster {
    pub(crate) bed: Testbed,
    control: Client,
    /// Takes the output folder along when the story ends.
    _output: tempfile::TempDir,
}

impl Cluster {
    /// Tells a story on a cluster, and takes the cluster away however it ends.
    pub(crate) async fn story<S>(story: S) -> Result<()>
    where
        S: AsyncFnOnce(&Self) -> Result<()>,
    {
        let output = tempfile::tempdir()?;
        let programs = Path::new(env!("CARGO_BIN_EXE_flocker-bench"))
            .parent()
            .context("a program without a folder")?;
        let folders = Folders {
            config: Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../config")
                .canonicalize()?,
            programs: programs.to_owned(),
            output: output.path().to_owned(),
        };
        let choice = Choice {
            ground: Ground::Loopback,
            storage: Storage::Directory,
            runtime: Runtime::Process,
            because: Vec::new(),
        };
        let (mut bed, _) = Testbed::begin(&choice, folders)?;
        let up = bed.up().await;
        let control = Client::new(Endpoint::Tcp(bed.plan.control()), "control");
        let cluster = Self {
            bed,
            control,
            _output: output,
        };
        let told = match up {
            Ok(()) => story(&cluster).await,
            Err(error) => Err(error),
        };
        let told = told.map_err(|error| {
            let logs = cluster.logs();
            error.context(format!("the story ended early; the logs say:\n{logs}"))
        });
        let left = cluster.bed.down(Logs::Remove).await;
        told?;
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    }

    /// Tails of all logs.
    fn logs(&self) -> String {
        let mut text = String::new();
        for place in ["control", "n1", "n2"] {
            let Ok(entries) = std::fs::read_dir(self.bed.logs().join(place)) else {
                continue;
            };
            for entry in entries.flatten() {
                let log = std::fs::read_to_string(entry.path()).unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                text += &format!("--- {}\n", entry.path().display());
                for line in &lines[lines.len().saturating_sub(12)..] {
                    text += line;
                    text.push('\n');
                }
            }
        }
        text
    }

    pub(crate) async fn status(&self) -> Result<ClusterStatus, ErrorBody> {
        self.control.get("/v2/status", CALL).await
    }

    /// The app's route as each edge has it.
    pub(crate) async fn routes(&self) -> Result<Vec<Route>> {
        let edges: Vec<EdgeOutcome<RouteTable>> = self.control.get("/v2/routes", CALL).await?;
        let mut routes = Vec::new();
        for EdgeOutcome { edge, result } in edges {
            let table = result.map_err(|error| anyhow::anyhow!("{edge}: {error}"))?;
            let found = table.routes.into_iter().map(|status| status.route);
            routes.extend(found.filter(|route| route.key.to_string() == "http:notes.demo"));
        }
        Ok(routes)
    }

    /// Changes tables of all edges, as an operator does.
    pub(crate) async fn transact(&self, operations: Vec<Operation>) -> Result<()> {
        let request = Transaction {
            against: None,
            operations,
        };
        let edges: Vec<EdgeOutcome<serde_json::Value>> =
            self.control.post("/v2/routes", &request, CALL).await?;
        let mut failed = edges.into_iter().filter_map(|edge| edge.result.err());
        failed.next().map_or(Ok(()), |error| Err(error.into()))
    }

    pub(crate) async fn app(&self) -> Result<AppStatus, ErrorBody> {
        self.control.get("/v2/apps/notes", CALL).await
    }

    pub(crate) async fn deploy(
        &self,
        application: &str,
        deployment: &str,
    ) -> Result<DeployReply, ErrorBody> {
        let file = |name: &str, text: &str| SourceFile {
            name: name.to_owned(),
            text: text.to_owned(),
        };
        let request = DeployRequest {
            files: vec![
                file("application.yml", application),
                file("deployment.yml", deployment),
            ],
            ..DeployRequest::default()
        };
        self.control.post("/v2/deploy", &request, CALL).await
    }

    /// Deploys the Compose file and waits until it serves through every edge.
    pub(crate) async fn deploy_generation(&self, generation: u32) -> Result<DeployReply> {
        let value = generation.to_string();
        let request = DeployRequest {
            files: vec![SourceFile {
                name: "compose.yml".to_owned(),
                text: COMPOSE.to_owned(),
            }],
            variables: [("GENERATION".to_owned(), value)].into(),
            ..DeployRequest::default()
        };
        let reply = self.control.post("/v2/deploy", &request, CALL).await?;
        self.wait_serving().await?;
        Ok(reply)
    }

    /// Deploys notes and waits until it serves through every edge.
    pub(crate) async fn deploy_notes(&self) -> Result<()> {
        self.deploy(APPLICATION, DEPLOYMENT).await?;
        self.wait_serving().await
    }

    /// Waits until notes serves, and through every edge.
    pub(crate) async fn wait_serving(&self) -> Result<()> {
        ready::until("notes", PATIENCE, || async {
            let app = self.app().await?;
            if app.phase != AppPhase::Serving {
                bail!("it is {:?}: {:?}", app.phase, app.reason);
            }
            for edge in self.edges() {
                let (status, _) = request(edge, "GET /notes/count", "").await?;
                ensure!(status == 200, "{edge} answers {status}");
            }
            Ok(())
        })
        .await
    }

    pub(crate) fn edges(&self) -> Vec<SocketAddr> {
        self.bed.plan.edges().iter().map(|edge| edge.http).collect()
    }

    pub(crate) async fn begin_move(&self, app: &str, to: &str) -> Result<MoveStatus, ErrorBody> {
        let name = |error: String| ErrorBody::new(flocker_api::ErrorCode::InvalidRequest, error);
        let request = MoveRequest {
            app: app.parse().map_err(|error| name(format!("{error}")))?,
            to: to.parse().map_err(|error| name(format!("{error}")))?,
        };
        self.control.post("/v2/moves", &request, CALL).await
    }

    pub(crate) async fn move_status(
        &self,
        id: impl std::fmt::Display,
    ) -> Result<MoveStatus, ErrorBody> {
        self.control.get(&format!("/v2/moves/{id}"), CALL).await
    }

    /// Waits until a move has ended, whichever way; control may be away in between.
    pub(crate) async fn wait_ended(&self, begun: &MoveStatus) -> Result<MoveStatus> {
        let ended = std::cell::RefCell::new(None);
        ready::until("the end of the move", PATIENCE, || async {
            let status = self.move_status(begun.id).await?;
            ensure!(
                status.ended_ms.is_some(),
                "it is {:?}: {:?}",
                status.state,
                status.reason
            );
            ended.replace(Some(status));
            Ok(())
        })
        .await?;
        ended.into_inner().context("a move without an end")
    }

    pub(crate) async fn kill(&self, place: &str, name: &str) -> Result<()> {
        self.bed.place(place)?.stop(name, Signal::KILL).await?;
        Ok(())
    }

    /// Begins to write notes through all edges in turn.
    pub(crate) fn load(&self) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(write_notes(self.edges(), Arc::clone(&stop)));
        Load { stop, task }
    }

    /// Every note that was acknowledged is in the journal, once.
    pub(crate) async fn check_journal(&self, written: &Written) -> Result<()> {
        let edge = self.edges()[0];
        let (status, journal) = request(edge, "GET /notes", "").await?;
        ensure!(status == 200, "the journal cannot be read: {status}");
        let kept: Vec<u64> = journal
            .lines()
            .filter_map(|line| line.strip_prefix("story "))
            .filter_map(|rest| rest.split_whitespace().next()?.parse().ok())
            .collect();
        let unique: BTreeSet<u64> = kept.iter().copied().collect();
        let lost: Vec<_> = written.acknowledged.difference(&unique).collect();
        ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        ensure!(unique.len() == kept.len(), "something was written twice");
        Ok(())
    }
}

/// A writer that runs.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Written>,
}

/// What a writer has done.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) acknowledged: BTreeSet<u64>,
    pub(crate) failed: Vec<String>,
}

impl Load {
    pub(crate) async fn end(self) -> Result<Written> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.task.await?)
    }
}

/// One note after the other, each over a connection of its own through the next edge.
async fn write_notes(edges: Vec<SocketAddr>, stop: Arc<AtomicBool>) -> Written {
    let mut written = Written::default();
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    for (sequence, edge) in (1..).zip(edges.iter().cycle()) {
        pace.tick().await;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        match request(*edge, "POST /notes", &format!("story {sequence}")).await {
            Ok((201, _)) => {
                written.acknowledged.insert(sequence);
            }
            Ok((status, body)) => written.failed.push(format!("{sequence}: {status} {body}")),
            Err(error) => written.failed.push(format!("{sequence}: {error:#}")),
        }
    }
    written
}

/// One request to the notes app through an edge, on a connection of its own.
pub(crate) async fn request(edge: SocketAddr, line: &str, body: &str) -> Result<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(edge).await?;
        let head = format!(
            "{line} HTTP/1.1\r\nHost: notes.demo\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .with_context(|| format!("{edge} answers '{answer}'"))?;
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        anyhow::Ok((status, body.to_owned()))
    };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .with_context(|| format!("{edge} does not answer"))?
}
