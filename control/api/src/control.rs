//! The control service's API.
//!
//! | method and path | request | answer |
//! | --- | --- | --- |
//! | `GET /v2/status` | | [`ClusterStatus`] |
//! | `GET /v2/nodes/{node}/doctor` | | [`crate::doctor::Diagnosis`] |
//! | `POST /v2/nodes/{node}/volumes/{id}/aside` | [`crate::agent::EpochRequest`] | [`crate::aside::SetAside`] |
//! | `GET /v2/nodes/{node}/asides/{id}/{key}?paths=N` | | [`crate::aside::AsideDetails`] |
//! | `POST /v2/nodes/{node}/asides/{id}/{key}` | [`crate::aside::Resolve`] | [`crate::aside::Resolved`] |
//! | `POST /v2/deploy` | [`DeployRequest`] | [`DeployReply`] |
//! | `GET /v2/apps/{app}` | | [`AppStatus`] |
//! | `DELETE /v2/apps/{app}` | | `{}` (its volumes are kept) |
//! | `GET /v2/apps/{app}/logs?after=C&tail=N&since_ms=T&wait_ms=W` | | [`crate::logs::AppLogReply`] |
//! | `POST /v2/apps/{app}/exec` | [`crate::exec::ExecRequest`] | [`crate::exec::ExecReply`] |
//! | `POST /v2/apps/{app}/restart` | | [`RestartReply`] |
//! | `POST /v2/moves` | [`MoveRequest`] | [`MoveStatus`] |
//! | `GET /v2/moves` | | list of [`MoveStatus`], newest first |
//! | `GET /v2/moves/{id}?after=R&wait_ms=W` | | [`MoveStatus`], once its revision is above R |
//! | `POST /v2/moves/{id}/abort` | | [`MoveStatus`]; `busy` past the pivot |
//! | `POST /v2/moves/explain` | [`MoveRequest`] | [`crate::explain::MoveExplanation`] |
//! | `PUT /v2/nodes/{node}/cordon` | [`crate::drain::Cordon`] | `{}` |
//! | `POST /v2/nodes/{node}/drain` | [`crate::drain::DrainNode`] | [`crate::drain::DrainStatus`] |
//! | `GET /v2/nodes/{node}/drain?after=R&wait_ms=W` | | [`crate::drain::DrainStatus`], once its revision is above R |
//! | `POST /v2/nodes/{node}/drain/abort` | | [`crate::drain::DrainStatus`] |
//! | `GET /v2/routes` | | list of [`EdgeOutcome`] of [`crate::edge::RouteTable`] |
//! | `POST /v2/routes` | [`crate::route::Transaction`] | list of [`EdgeOutcome`] of [`crate::edge::TransactionReply`] |
//! | `POST /v2/gates/{pause,quiesce,switch,resume}` | [`crate::gate`] | [`FanOut`] |
//! | `GET /v2/volumes` | | list of [`crate::work::VolumeReport`] |
//! | `POST /v2/volumes` | [`crate::work::NewVolume`] | [`crate::work::VolumeReport`] |
//! | `GET /v2/volumes/{name}` | | [`crate::work::VolumeReport`] |
//! | `POST /v2/volumes/{name}` | [`crate::work::VolumeRequest`] | list of [`crate::work::NodeJob`] |
//! | `GET /v2/volumes/{name}/snapshots` | | list of [`crate::work::OnNode`] of lists of [`crate::work::SnapshotDetail`] |
//! | `GET /v2/volumes/{name}/archive?node=N&snapshot=S&since=S&by=B` | | an archive, as it is made |
//! | `POST /v2/volumes/{name}/archive?node=N&by=B` | an archive | [`crate::work::NodeJob`] |
//! | `GET /v2/trash` | | list of [`crate::work::OnNode`] of lists of [`crate::work::Trashed`] |
//! | `GET /v2/jobs` | | list of [`crate::work::OnNode`] of lists of [`crate::work::JobStatus`] |
//! | `GET /v2/nodes/{node}/jobs/{id}?wait_ms=W` | | [`crate::work::NodeJob`], once it has ended or W has passed |
//! | `DELETE /v2/nodes/{node}/jobs/{id}` | | [`crate::work::NodeJob`]: it is told to end |
//! | `GET /metrics`, `/healthz`, `/readyz` | | text |

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use crate::deploy::{
    DeployChange, DeployReply, DeployRequest, Destination, FieldChange, PlanVersion, SourceFile,
};

use crate::{
    ErrorBody,
    agent::NodeStatus,
    app::App,
    container::ContainerStatus,
    gate::Token,
    name::{AppName, EdgeName, MoveId, NodeName},
    route::{Generation, RouteKey},
    volume::Epoch,
};

/// The whole cluster on one page.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Version of the control service.
    pub version: String,
    /// What is not well, worst first. Empty: all is well.
    pub problems: Vec<Problem>,
    /// Its nodes.
    pub nodes: Vec<NodeSummary>,
    /// Its edges.
    pub edges: Vec<EdgeSummary>,
    /// Its apps.
    pub apps: Vec<AppStatus>,
}

/// Something that is not as it should be, and what happens about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What it concerns: `node n1`, `app notes`, `edge n1-a`, `move ...`.
    pub subject: String,
    /// What is wrong, and why.
    pub message: String,
    /// What happens next, or what to do.
    pub next: String,
    /// Since when, Unix time in ms.
    pub since_ms: u64,
}

/// A node as control knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeSummary {
    /// Its name.
    pub name: NodeName,
    /// Address of its agent.
    pub agent: SocketAddr,
    /// What its agent last said, or why it says nothing.
    pub status: Result<NodeStatus, ErrorBody>,
    /// When that was, Unix time in ms.
    pub observed_ms: u64,
    /// Whether it gets no apps.
    #[serde(default)]
    pub cordoned: bool,
}

/// An edge as control knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeSummary {
    /// Its name.
    pub name: EdgeName,
    /// Address of its admin API, or path of its socket.
    pub admin: String,
    /// Generation of its table, or why it says nothing.
    pub generation: Result<Generation, ErrorBody>,
    /// When that was, Unix time in ms.
    pub observed_ms: u64,
}

/// An app as control knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppStatus {
    /// As declared, its volumes' ids filled in.
    pub app: App,
    /// Where its primary is.
    pub node: NodeName,
    /// Epoch of its volumes.
    pub epoch: Epoch,
    /// What it is doing.
    pub phase: AppPhase,
    /// Why it waits or what failed, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its current or last move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_move: Option<MoveId>,
    /// Its container, as its node last said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerStatus>,
}

/// Answer to a restart that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartReply {
    /// From its start until its probe answered, in ms.
    pub ready_ms: u64,
}

/// What an app is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppPhase {
    /// Being made or started.
    Starting,
    /// Runs and its routes lead to it.
    Serving,
    /// Being moved.
    Moving,
    /// Has ended by itself, well, and its restart policy leaves it so.
    Ended,
    /// Cannot be made to run; the reason says why.
    Failed,
    /// Its node does not answer.
    Unknown,
}

/// Moves an app to another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveRequest {
    /// The app.
    pub app: AppName,
    /// Where it shall be.
    pub to: NodeName,
}

/// The steps of a move, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveStep {
    /// Everything that can be known to fail is found before anything changes.
    Preflight,
    /// Snapshot and send while the app serves, until the last delta is small.
    Precopy,
    /// Container made at the target, pre-stop hook run.
    Prepare,
    /// Routes paused on all edges, in-flight requests ended.
    Pause,
    /// Container stopped at the source, its writers proven gone.
    Stop,
    /// Last snapshot sent and acknowledged.
    FinalDelta,
    /// The primary changes in the store. Only forward from here.
    Pivot,
    /// The target's copy becomes writable.
    Promote,
    /// Container started at the target, ready.
    Start,
    /// Routes of all edges switched and resumed.
    Switch,
    /// The source's container removed, its copy a replica.
    Cleanup,
}

impl MoveStep {
    /// All of them, in order.
    pub const ALL: [Self; 11] = [
        Self::Preflight,
        Self::Precopy,
        Self::Prepare,
        Self::Pause,
        Self::Stop,
        Self::FinalDelta,
        Self::Pivot,
        Self::Promote,
        Self::Start,
        Self::Switch,
        Self::Cleanup,
    ];

    /// Its name in reports, the same as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Precopy => "precopy",
            Self::Prepare => "prepare",
            Self::Pause => "pause",
            Self::Stop => "stop",
            Self::FinalDelta => "final_delta",
            Self::Pivot => "pivot",
            Self::Promote => "promote",
            Self::Start => "start",
            Self::Switch => "switch",
            Self::Cleanup => "cleanup",
        }
    }
}

/// How far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveState {
    /// Steps are being done.
    Running,
    /// A step failed before the pivot; the done ones are being undone.
    Undoing,
    /// The app serves at the target.
    Done,
    /// The app serves at the source, as before.
    Undone,
    /// Neither forward nor back until a person or a node helps; it is tried again.
    Stuck,
}

/// How far one step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Not begun.
    Waiting,
    /// Being done.
    Running,
    /// Done.
    Done,
    /// Failed; the move's reason says why.
    Failed,
    /// Undone again.
    Undone,
}

/// One step of a move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepStatus {
    /// Which.
    pub step: MoveStep,
    /// How far.
    pub state: StepState,
    /// When it began, Unix time in ms.
    pub started_ms: Option<u64>,
    /// How long it took, or has taken so far, in ms.
    pub elapsed_ms: Option<f64>,
    /// What it is doing or has done, in a few words: "round 2, 0.4 MiB in 96 ms".
    #[serde(default)]
    pub detail: String,
}

/// One pre-copy round or the final delta.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundStatus {
    /// Bytes of the stream.
    pub bytes: u64,
    /// Time to take the snapshot, in ms.
    pub snapshot_ms: f64,
    /// Time to transfer, in ms.
    pub transfer_ms: f64,
    /// Whether the whole volume was sent.
    pub full: bool,
}

/// A move: what it has done, what it found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MoveStatus {
    /// Its identity.
    pub id: MoveId,
    /// Goes up with every change of this record.
    pub revision: u64,
    /// The app.
    pub app: AppName,
    /// Where it was.
    pub from: NodeName,
    /// Where it shall be.
    pub to: NodeName,
    /// How far.
    pub state: MoveState,
    /// Why it waits, failed or was undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it began, Unix time in ms.
    pub started_ms: u64,
    /// When it ended, Unix time in ms.
    pub ended_ms: Option<u64>,
    /// Its steps, in order.
    pub steps: Vec<StepStatus>,
    /// Pre-copy rounds.
    pub rounds: Vec<RoundStatus>,
    /// The final delta.
    pub final_delta: Option<RoundStatus>,
    /// Token of its pause.
    pub token: Option<Token>,
    /// When its first edge was paused, Unix time in ms.
    pub paused_at_ms: Option<f64>,
    /// The pause as the edges saw it: the longest among them, in ms.
    pub pause_ms: Option<f64>,
    /// The longest wait of any request, as the edges saw it, in ms.
    pub longest_wait_ms: Option<f64>,
    /// The app's own stop, in ms.
    pub app_stop_ms: Option<f64>,
    /// The app's own start until it was ready, in ms.
    pub app_start_ms: Option<f64>,
    /// Requests and sessions that were held.
    pub held: u64,
    /// Of these, refused because of a limit or the deadline.
    pub refused: u64,
}

/// One edge's answer to something that was asked of all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeOutcome<T> {
    /// The edge.
    pub edge: EdgeName,
    /// Its answer, or why there is none.
    pub result: Result<T, ErrorBody>,
}

/// What all edges answered to a gate verb.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FanOut<T> {
    /// The token under which it was done.
    pub token: Token,
    /// Edge by edge.
    pub edges: Vec<EdgeOutcome<T>>,
}

/// Keys of the routes of an app, for gate verbs.
#[must_use]
pub fn route_keys(app: &App) -> Vec<RouteKey> {
    app.routes.iter().map(|route| route.key.clone()).collect()
}
