//! The move scenario: an app is moved from node to node while it is used.
//!
//! ```text
//! load on -> warm up -> flockerctl move -> settle -> flockerctl move -> settle -> load off
//!         -> read everything back -> Run
//! ```
//!
//! It drives a running cluster and starts nothing but `flockerctl`; who puts the cluster up is
//! not its business. What is judged, and how, is [`crate::report`]'s.
#![expect(
    clippy::disallowed_methods,
    reason = "drives a cluster: starts flockerctl and waits for events against deadlines"
)]

mod cli;

use std::{
    collections::HashSet,
    fmt,
    net::SocketAddr,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    str::FromStr,
    time::{Duration, Instant},
};

use flocker_api::{
    ErrorBody,
    client::{Client, Endpoint},
    control::{ClusterStatus, MoveStatus},
    name::{AppName, NodeName},
};

pub use cli::{LoadArgs, MoveArgs, ReportFiles, perform};

use crate::load::{
    self, CheckError, Load, LoadConfig, LoadError, Target, Trace, Writer, WriterConfig,
};

/// How long control may take to answer a question.
const CONTROL_MAX: Duration = Duration::from_secs(10);
/// How long the app may take to answer the first requests of a load.
const WARM_UP_MAX: Duration = Duration::from_secs(30);
/// How long a move may take.
const MOVE_MAX: Duration = Duration::from_secs(150);

/// What is moved, and so what load it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// Our small HTTP service, under open-loop load of reads and writes.
    Notes,
    /// PostgreSQL, with one writer.
    Postgres,
}

impl Workload {
    /// Name of its app.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Notes => "notes",
            Self::Postgres => "postgres",
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "notes" => Ok(Self::Notes),
            "postgres" => Ok(Self::Postgres),
            _ => Err(format!(
                "'{text}' is no app of this scenario: write notes or postgres"
            )),
        }
    }
}

/// A running cluster, as a client sees it.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its edges: name and address of the plain HTTP listener.
    pub edges: Vec<Target>,
    /// Port of PostgreSQL's `tcp` route at the edges' addresses.
    pub postgres_port: u16,
    /// Host of notes' `http` route.
    pub host: String,
    /// Its control service.
    pub control: Endpoint,
    /// The program that moves apps.
    pub flockerctl: PathBuf,
}

/// What to do with one app.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The app.
    pub workload: Workload,
    /// How often it is moved: there, back, there, ...
    pub moves: u32,
    /// Requests, or rows, per second.
    pub rate: u32,
    /// Load before the first move.
    pub warm_up: Duration,
    /// Load after each move.
    pub settle: Duration,
    /// Whether `flockerctl` shows its steps.
    pub show: bool,
}

impl Plan {
    /// The usual plan: 2,000 requests/s for notes, 50 rows/s for PostgreSQL.
    #[must_use]
    pub fn new(workload: Workload) -> Self {
        Self {
            workload,
            moves: 2,
            rate: match workload {
                Workload::Notes => 2000,
                Workload::Postgres => 50,
            },
            warm_up: Duration::from_secs(3),
            settle: Duration::from_secs(3),
            show: true,
        }
    }
}

/// What came of a plan.
#[derive(Debug)]
pub struct Run {
    /// The app.
    pub workload: Workload,
    /// Its moves, in order.
    pub moves: Vec<MoveStatus>,
    /// Why there are fewer than planned, or why the last did not end well.
    pub failure: Option<String>,
    /// Every request.
    pub trace: Trace,
    /// Numbers of the writes that the app has kept, read back after the load.
    pub kept: HashSet<u64>,
}

/// Why a plan could not be carried out. A move that fails is no such reason: it is reported.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// Control does not say what is asked for.
    #[error("control at {endpoint} does not answer as it should")]
    Control {
        /// Where it is.
        endpoint: Endpoint,
        /// What it said.
        #[source]
        source: ErrorBody,
    },
    /// The app is not there.
    #[error("control knows no app '{0}'; deploy it before it is moved")]
    NoApp(Workload),
    /// There is nowhere to go.
    #[error("no node but {at} answers, so '{app}' cannot be moved")]
    NoOtherNode {
        /// The app.
        app: Workload,
        /// Where it is.
        at: NodeName,
    },
    /// No answers before the first move.
    #[error(
        "'{app}' has answered none of the load's requests for {WARM_UP_MAX:?}; {failed} failed"
    )]
    NoAnswers {
        /// The app.
        app: Workload,
        /// Requests that have failed so far.
        failed: u64,
    },
    /// The load cannot run.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// What was written cannot be read back.
    #[error("cannot check what '{app}' has kept")]
    Check {
        /// The app.
        app: Workload,
        /// Why.
        #[source]
        source: CheckError,
    },
    /// `flockerctl` cannot be started.
    #[error("cannot run {program}")]
    Flockerctl {
        /// Its path.
        program: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Moves an app as planned, under load.
///
/// # Errors
/// When load, moves or the check afterwards could not be *attempted*; what they found is in
/// the [`Run`].
pub async fn run(cluster: &Cluster, plan: &Plan) -> Result<Run, ScenarioError> {
    let app = plan.workload;
    let load = Running::start(cluster, plan)?;
    load.warm_up(app, plan.warm_up).await?;
    let mut moves = Vec::new();
    let mut failure = None;
    for number in 1..=plan.moves {
        let to = other_node(cluster, app).await?;
        let status = flockerctl_move(cluster, plan, &to).await?;
        let moved = newest_move(cluster, app).await?;
        let known = |id| moves.iter().any(|m: &MoveStatus| m.id == id);
        match moved {
            Some(moved) if !known(moved.id) => moves.push(moved),
            _ => failure = Some(format!("move {number} of '{app}' was not begun")),
        }
        if !status.is_some_and(|status| status.success()) && failure.is_none() {
            failure = Some(ended(number, app, status));
        }
        tokio::time::sleep(plan.settle).await;
        if failure.is_some() {
            break;
        }
    }
    let trace = load.stop().await?;
    let kept = read_back(cluster, app, &trace.client).await?;
    Ok(Run {
        workload: app,
        moves,
        failure,
        trace,
        kept,
    })
}

fn ended(number: u32, app: Workload, status: Option<ExitStatus>) -> String {
    match status {
        Some(status) => format!("move {number} of '{app}': flockerctl ended with {status}"),
        None => format!("move {number} of '{app}' did not end within {MOVE_MAX:?}"),
    }
}

/// The load that an app gets.
enum Running {
    Requests(Load),
    Rows(Writer),
}

impl Running {
    fn start(cluster: &Cluster, plan: &Plan) -> Result<Self, LoadError> {
        match plan.workload {
            Workload::Notes => {
                let config = LoadConfig::new(cluster.edges.clone(), &cluster.host, plan.rate);
                Load::start(config).map(Self::Requests)
            }
            Workload::Postgres => Writer::start(WriterConfig {
                targets: cluster.postgres(),
                rate: plan.rate,
                answer_max: Duration::from_secs(60),
            })
            .map(Self::Rows),
        }
    }

    fn answered(&self) -> u64 {
        match self {
            Self::Requests(load) => load.answered(),
            Self::Rows(writer) => writer.answered(),
        }
    }

    fn failed(&self) -> u64 {
        match self {
            Self::Requests(load) => load.failed(),
            Self::Rows(_) => 0,
        }
    }

    /// Waits for first answers, and then for the load to have run for a while.
    async fn warm_up(&self, app: Workload, warm_up: Duration) -> Result<(), ScenarioError> {
        let end = Instant::now() + WARM_UP_MAX;
        while self.answered() == 0 {
            if Instant::now() > end {
                let failed = self.failed();
                return Err(ScenarioError::NoAnswers { app, failed });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(warm_up).await;
        Ok(())
    }

    async fn stop(self) -> Result<Trace, LoadError> {
        match self {
            Self::Requests(load) => load.stop().await,
            Self::Rows(writer) => writer.stop().await,
        }
    }
}

impl Cluster {
    fn client(&self) -> Client {
        Client::new(self.control.clone(), "control")
    }

    fn control_error(&self, source: ErrorBody) -> ScenarioError {
        ScenarioError::Control {
            endpoint: self.control.clone(),
            source,
        }
    }

    /// The cluster's own picture of itself.
    ///
    /// # Errors
    /// When control does not answer.
    pub async fn status(&self) -> Result<ClusterStatus, ScenarioError> {
        let status = self.client().get("/v2/status", CONTROL_MAX).await;
        status.map_err(|source| self.control_error(source))
    }

    /// The edges, at PostgreSQL's port; one of each node before the next, so that a lost
    /// session goes on through the other node.
    fn postgres(&self) -> Vec<Target> {
        let at = |edge: &Target| Target {
            name: edge.name.clone(),
            address: SocketAddr::new(edge.address.ip(), self.postgres_port),
        };
        let half = self.edges.len().div_ceil(2);
        let (front, back) = self.edges.split_at(half);
        let back = back.iter().map(Some).chain([None]);
        front
            .iter()
            .zip(back)
            .flat_map(|(front, back)| [Some(front), back])
            .flatten()
            .map(at)
            .collect()
    }
}

/// The first node that answers and where the app is not.
async fn other_node(cluster: &Cluster, app: Workload) -> Result<NodeName, ScenarioError> {
    let status = cluster.status().await?;
    let at = status
        .apps
        .iter()
        .find(|known| known.app.name().as_str() == app.name())
        .map(|known| known.node.clone())
        .ok_or(ScenarioError::NoApp(app))?;
    let other = status
        .nodes
        .iter()
        .find(|node| node.name != at && node.status.is_ok());
    match other {
        Some(node) => Ok(node.name.clone()),
        None => Err(ScenarioError::NoOtherNode { app, at }),
    }
}

/// Runs `flockerctl move`; `None` when it did not end in time.
async fn flockerctl_move(
    cluster: &Cluster,
    plan: &Plan,
    to: &NodeName,
) -> Result<Option<ExitStatus>, ScenarioError> {
    let shown = || {
        if plan.show {
            Stdio::inherit()
        } else {
            Stdio::null()
        }
    };
    let mut child = tokio::process::Command::new(&cluster.flockerctl)
        .arg("--control")
        .arg(cluster.control.to_string())
        .args(["move", plan.workload.name(), "--to", to.as_str()])
        .stdin(Stdio::null())
        .stdout(shown())
        .stderr(shown())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| ScenarioError::Flockerctl {
            program: cluster.flockerctl.clone(),
            source,
        })?;
    match tokio::time::timeout(MOVE_MAX, child.wait()).await {
        Ok(status) => status
            .map(Some)
            .map_err(|source| ScenarioError::Flockerctl {
                program: cluster.flockerctl.clone(),
                source,
            }),
        Err(_) => Ok(None),
    }
}

async fn newest_move(
    cluster: &Cluster,
    app: Workload,
) -> Result<Option<MoveStatus>, ScenarioError> {
    let moves: Result<Vec<MoveStatus>, ErrorBody> =
        cluster.client().get("/v2/moves", CONTROL_MAX).await;
    let moves = moves.map_err(|source| cluster.control_error(source))?;
    let is_app = |name: &AppName| name.as_str() == app.name();
    Ok(moves.into_iter().find(|moved| is_app(&moved.app)))
}

/// Reads what the app has kept, through an edge, as any client would.
async fn read_back(
    cluster: &Cluster,
    app: Workload,
    client: &str,
) -> Result<HashSet<u64>, ScenarioError> {
    let kept = match (app, cluster.edges.first(), cluster.postgres().first()) {
        (Workload::Notes, Some(edge), _) => {
            load::journal_of_notes(edge.address, &cluster.host, client).await
        }
        (Workload::Postgres, _, Some(edge)) => load::rows_of_postgres(edge.address, client).await,
        _ => return Err(LoadError::NoTarget.into()),
    };
    kept.map_err(|source| ScenarioError::Check { app, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(edges: &[&str]) -> Cluster {
        Cluster {
            edges: edges
                .iter()
                .zip(1_u8..)
                .map(|(name, last)| Target {
                    name: (*name).to_owned(),
                    address: SocketAddr::from(([127, 0, 0, last], 80)),
                })
                .collect(),
            postgres_port: 5432,
            host: "notes.demo".to_owned(),
            control: "127.0.0.1:1".parse().unwrap(),
            flockerctl: PathBuf::from("flockerctl"),
        }
    }

    #[test]
    fn a_lost_session_goes_on_through_the_other_node() {
        let order = |edges: &[&str]| {
            let postgres = cluster(edges).postgres();
            assert!(postgres.iter().all(|edge| edge.address.port() == 5432));
            postgres
                .into_iter()
                .map(|edge| edge.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            order(&["n1-a", "n1-b", "n2-a", "n2-b"]),
            ["n1-a", "n2-a", "n1-b", "n2-b"]
        );
        assert_eq!(order(&["a", "b", "c"]), ["a", "c", "b"]);
        assert_eq!(order(&["a"]), ["a"]);
        assert!(order(&[]).is_empty());
    }
}
