//! Nodes that get no new apps, and nodes that all apps leave.

use serde::{Deserialize, Serialize};

use crate::name::{AppName, MoveId, NodeName};

/// Says whether a node may get apps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cordon {
    /// True: no app is placed on it or moved there. Those that it has stay.
    pub cordoned: bool,
}

/// Has all apps of a node move away, and cordons it. Repeated while that goes on, it changes
/// nothing and answers how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainNode {
    /// How many apps move at once.
    pub concurrency: usize,
    /// The only nodes that they may go to, if any are named.
    pub to: Vec<NodeName>,
}

impl Default for DrainNode {
    /// Two at once, anywhere.
    fn default() -> Self {
        Self {
            concurrency: 2,
            to: Vec::new(),
        }
    }
}

/// How far the drain of a node is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrainStatus {
    /// The node.
    pub node: NodeName,
    /// Goes up with every change of this record.
    pub revision: u64,
    /// How far.
    pub state: DrainState,
    /// Its apps, in the order in which they go: what others need before those that need it.
    pub apps: Vec<DrainedApp>,
    /// When it began, Unix time in ms.
    pub started_ms: u64,
    /// When it ended, Unix time in ms.
    pub ended_ms: Option<u64>,
}

/// How far a drain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainState {
    /// Apps are moving.
    Running,
    /// It was given up: moves before their pivot are being undone, the others end.
    Aborting,
    /// No app is left on the node.
    Done,
    /// It has ended, and some apps are still there.
    Incomplete,
}

/// An app of a node that is drained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrainedApp {
    /// The app.
    pub app: AppName,
    /// Where it goes, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<NodeName>,
    /// How far it is.
    pub state: DrainedState,
    /// Its move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub move_id: Option<MoveId>,
    /// Why it is still there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long its move took, in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// How long its requests were held, in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_ms: Option<f64>,
}

/// How far an app of a drained node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainedState {
    /// Its turn has not come.
    Waiting,
    /// It is being moved.
    Moving,
    /// It is on another node.
    Moved,
    /// It is where it was; the reason says why.
    Stays,
}
