//! Apps and deployments as people declare them, after all file formats have been read.

use serde::{Deserialize, Serialize};

use crate::{
    container::ContainerSpec,
    name::{AppName, NodeName},
    options::RouteOptions,
    replication::ReplicationPolicy,
    route::{OnMove, RouteKey},
};

/// A declared app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct App {
    /// Its container.
    pub container: ContainerSpec,
    /// Limits of its volumes, in bytes, in the order of [`ContainerSpec::volumes`].
    pub volume_sizes: Vec<Option<u64>>,
    /// What leads to it.
    pub routes: Vec<AppRoute>,
    /// How it is moved.
    #[serde(default)]
    pub move_policy: MovePolicy,
    /// Where else its volumes are kept, if anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<ReplicationPolicy>,
    /// Apps that are started, changed and moved before it. Those of its links count besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<Dependency>,
}

impl App {
    /// An app without volumes, routes and wishes.
    #[must_use]
    pub fn new(container: ContainerSpec) -> Self {
        Self {
            container,
            volume_sizes: Vec::new(),
            routes: Vec::new(),
            move_policy: MovePolicy::default(),
            replication: None,
            depends_on: Vec::new(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &AppName {
        &self.container.app
    }
}

/// An app that another one needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dependency {
    /// The app that is needed.
    pub app: AppName,
    /// What is awaited of it before the first start of the app that needs it.
    #[serde(default)]
    pub condition: DependencyCondition,
}

/// What is awaited of an app that another one needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DependencyCondition {
    /// Its process runs.
    Started,
    /// Its probe has answered.
    #[default]
    Ready,
}

/// A route that leads to one of the app's ports, wherever the app runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppRoute {
    /// What it matches.
    pub key: RouteKey,
    /// The app's port at its node's address.
    pub port: u16,
    /// Fate of established opaque sessions when the app moves.
    #[serde(default)]
    pub on_move: OnMove,
    /// What else the app declares of it; any other option is each edge's own.
    #[serde(default, skip_serializing_if = "RouteOptions::is_empty")]
    pub options: RouteOptions,
}

/// How an app is moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MovePolicy {
    /// Most pre-copy rounds.
    pub rounds_max: u32,
    /// The estimated last delta, in ms, below which pre-copy ends.
    pub final_delta_ms: u64,
    /// The estimated last delta, in ms, above which the move is given up before the pause.
    pub final_delta_ms_max: u64,
    /// Longest hold of any request, in ms.
    pub hold_ms: u64,
    /// How long requests that are in flight at the pause may take to end, in ms.
    pub quiesce_ms: u64,
    /// What happens when some have not ended by then.
    pub on_busy: OnBusy,
}

impl Default for MovePolicy {
    /// 5 rounds, 300 ms, 5 s, 30 s, 5 s, abort.
    fn default() -> Self {
        Self {
            rounds_max: 5,
            final_delta_ms: 300,
            final_delta_ms_max: 5_000,
            hold_ms: 30_000,
            quiesce_ms: 5_000,
            on_busy: OnBusy::Abort,
        }
    }
}

/// What a move does when requests in flight do not end in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBusy {
    /// The move is undone; the app goes on at the source.
    #[default]
    Abort,
    /// The app is stopped; these requests fail.
    Proceed,
}

/// What shall run where. Apps that it does not name are left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    /// Apps with the node that each shall run on.
    pub apps: Vec<Placement>,
}

/// One app and its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// The app. Volume ids that are nil are drawn when it is deployed for the first time.
    pub app: App,
    /// The node. `None`: it stays where it is.
    #[serde(default)]
    pub node: Option<NodeName>,
}
