//! Why control refuses a request, in words that a person would use.

use flocker_api::{
    ErrorBody, ErrorCode,
    control::PlanVersion,
    name::{AppName, MoveId, NodeName, VolumeName},
};

use crate::{driver::store::StoreError, logic::state::Conflict};

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No such app.
    #[error("there is no app '{0}'")]
    UnknownApp(AppName),
    /// No such move.
    #[error("there is no move {0}")]
    UnknownMove(MoveId),
    /// No such volume.
    #[error("there is no volume '{name}'{}", meant.as_ref().map_or_else(String::new, |name| format!("; did you mean '{name}'?")))]
    UnknownVolume {
        /// What was asked for.
        name: VolumeName,
        /// What may have been meant.
        meant: Option<String>,
    },
    /// Another volume has the name.
    #[error("there is a volume '{name}' already, on node {node}")]
    VolumeExists {
        /// The name.
        name: VolumeName,
        /// Where the other is.
        node: NodeName,
    },
    /// An app uses the volume.
    #[error("volume '{volume}' is used by app '{app}'; {what}")]
    VolumeInUse {
        /// The volume.
        volume: VolumeName,
        /// The app.
        app: AppName,
        /// What to do.
        what: &'static str,
    },
    /// An agent refuses, or does not answer.
    #[error("{0}")]
    Agent(ErrorBody),
    /// No such node.
    #[error("there is no node '{node}'; the nodes are {}", list(known))]
    UnknownNode {
        /// The node.
        node: NodeName,
        /// The ones that there are.
        known: Vec<NodeName>,
    },
    /// The app is where it shall be.
    #[error("app '{app}' is on node '{node}' already")]
    AlreadyThere {
        /// The app.
        app: AppName,
        /// Where it is.
        node: NodeName,
    },
    /// The app is being moved.
    #[error("app '{app}' is being moved (move {id}); wait until it has ended")]
    AlreadyMoving {
        /// The app.
        app: AppName,
        /// The move.
        id: MoveId,
    },
    /// Its container is being made, started or removed.
    #[error("app '{0}' is being made or changed right now; try again in a moment")]
    AppBusy(AppName),
    /// No drain of the node.
    #[error("node '{0}' was not drained since control was started")]
    NoDrain(NodeName),
    /// The node gets no apps.
    #[error("node '{node}' is cordoned and gets no apps; see: flockerctl node uncordon {node}")]
    Cordoned {
        /// The node.
        node: NodeName,
    },
    /// The move can only go forward.
    #[error("move {id} of app '{app}' is past its pivot and can only go forward, to node '{to}'")]
    PastPivot {
        /// The move.
        id: MoveId,
        /// The app.
        app: AppName,
        /// Its target.
        to: NodeName,
    },
    /// The move is over.
    #[error("move {id} of app '{app}' has ended already")]
    MoveEnded {
        /// The move.
        id: MoveId,
        /// The app.
        app: AppName,
    },
    /// The app is being deleted.
    #[error("app '{0}' is being deleted")]
    Deleting(AppName),
    /// One of the nodes of a move does not answer.
    #[error("cannot move app '{app}' to node '{to}': {error}")]
    NodeDown {
        /// The app.
        app: AppName,
        /// The target.
        to: NodeName,
        /// What its agent, or its client, says.
        error: ErrorBody,
    },
    /// A node does not do what was asked of it.
    #[error("node '{node}': {error}")]
    Node {
        /// The node.
        node: NodeName,
        /// What its agent, or its client, says.
        error: ErrorBody,
    },
    /// The files cannot be deployed.
    #[error("{}", .0.join("\n"))]
    Files(Vec<String>),
    /// A plan that was made before something else changed.
    #[error("what the plan was made for has changed since; plan again")]
    StalePlan {
        /// The version that is current.
        current: PlanVersion,
    },
    /// The request is malformed.
    #[error("{0}")]
    Malformed(String),
    /// The store does not work.
    #[error("the change could not be stored: {}", flocker_api::error::chain(.0))]
    Store(#[from] StoreError),
}

fn list(names: &[NodeName]) -> String {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    names.join(", ")
}

impl Refusal {
    /// What kind of error it is, for programs.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownApp(_)
            | Self::UnknownMove(_)
            | Self::UnknownVolume { .. }
            | Self::UnknownNode { .. }
            | Self::NoDrain(_) => ErrorCode::NotFound,
            Self::AlreadyThere { .. } | Self::VolumeExists { .. } => ErrorCode::AlreadyExists,
            Self::VolumeInUse { .. } | Self::Cordoned { .. } | Self::MoveEnded { .. } => {
                ErrorCode::Precondition
            }
            Self::AlreadyMoving { .. }
            | Self::AppBusy(_)
            | Self::PastPivot { .. }
            | Self::Deleting(_)
            | Self::Store(StoreError::Conflict(Conflict::Moving { .. })) => ErrorCode::Busy,
            Self::Agent(error) | Self::NodeDown { error, .. } | Self::Node { error, .. } => {
                error.code
            }
            Self::StalePlan { .. } => ErrorCode::StalePlan,
            Self::Files(_) | Self::Malformed(_) => ErrorCode::InvalidRequest,
            Self::Store(_) => ErrorCode::Internal,
        }
    }
}

impl From<Refusal> for ErrorBody {
    fn from(refusal: Refusal) -> Self {
        let body = Self::new(refusal.code(), refusal.to_string());
        match refusal {
            Refusal::StalePlan { current } => {
                body.with_details(serde_json::json!({ "current": current }))
            }
            _ => body,
        }
    }
}
