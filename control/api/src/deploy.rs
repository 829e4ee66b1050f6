//! Deployments: the files, the plan that control makes of them, and what is done.
//!
//! `POST /v2/deploy` with [`DeployRequest::dry_run`] answers with a plan and its
//! [`PlanVersion`]; the same request with [`DeployRequest::against`] carries out that plan or,
//! if something has changed in between, is refused with `stale_plan`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::name::{AppName, NodeName, VolumeName};

/// A file as it came, for errors that name file and line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// Its name, as the user wrote it.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// What a plan was made against: another version means that apps were declared, removed or
/// moved since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PlanVersion(pub Uuid);

/// Deploys files that declare apps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeployRequest {
    /// The files; which is which is seen from what they hold.
    pub files: Vec<SourceFile>,
    /// Environment files that Compose files name; each name is the path in the file, relative
    /// to where the name of the file itself is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_files: Vec<SourceFile>,
    /// Values of the variables that Compose files name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    /// Where new apps go that the files place nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Remove apps that the files do not declare. Their volumes are kept.
    #[serde(default)]
    pub prune: bool,
    /// Only plan.
    #[serde(default)]
    pub dry_run: bool,
    /// Only if this is still the version of the state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<PlanVersion>,
}

/// Answer to [`DeployRequest`]: the plan, which control carries out unless it only planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployReply {
    /// What the plan was made against.
    pub version: PlanVersion,
    /// What is not yet as declared, in the order in which it is done.
    pub changes: Vec<DeployChange>,
    /// Where each declared app shall run, in the same order.
    pub apps: Vec<Destination>,
}

/// A declared app and the node on which it shall run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// The app.
    pub app: AppName,
    /// The node.
    pub node: NodeName,
}

/// What a deployment changes of one app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum DeployChange {
    /// A new app.
    Create {
        /// The app.
        app: AppName,
        /// Its node.
        node: NodeName,
        /// What is declared of it.
        #[serde(default)]
        fields: Vec<FieldChange>,
    },
    /// Its declaration changed.
    Change {
        /// The app.
        app: AppName,
        /// What of it.
        #[serde(default)]
        fields: Vec<FieldChange>,
        /// Whether its container is made anew for it.
        #[serde(default)]
        restarts: bool,
    },
    /// It shall run on another node.
    Move {
        /// The app.
        app: AppName,
        /// Where it is.
        from: NodeName,
        /// Where it shall be.
        to: NodeName,
    },
    /// It is removed, because no file declares it.
    Remove {
        /// The app.
        app: AppName,
        /// Where it is.
        node: NodeName,
        /// Its volumes, which are kept.
        volumes: Vec<VolumeName>,
    },
}

impl DeployChange {
    /// The app that it concerns.
    #[must_use]
    pub fn app(&self) -> &AppName {
        match self {
            Self::Create { app, .. }
            | Self::Change { app, .. }
            | Self::Move { app, .. }
            | Self::Remove { app, .. } => app,
        }
    }
}

/// One field of a declaration, before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Which: `image`, `environment.MODE`, `routes.http:notes.demo`.
    pub field: String,
    /// What it was; `None`: it was not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What it is; `None`: it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}
