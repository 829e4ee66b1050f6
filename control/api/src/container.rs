//! Containers: what shall run, and what does.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    name::{AppName, VolumeId, VolumeName},
    volume::Epoch,
};

/// Everything that a runtime needs to make an app's container.
///
/// The container sees these variables besides its own: `FLOCKER_APP`, `FLOCKER_NODE`,
/// `FLOCKER_ADDRESS` (the node's address, on which its ports are to listen) and
/// `FLOCKER_VOLUME` (where it finds its first volume).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerSpec {
    /// The app that it runs.
    pub app: AppName,
    /// Image: `repository[:tag]` for Docker, a name in the image folder for processes.
    pub image: String,
    /// Replaces the image's own command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Environment variables.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// TCP ports on which the app listens at its node's address.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// Volumes and where the container finds them.
    #[serde(default)]
    pub volumes: Vec<Mount>,
    /// Memory limit, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Relative CPU weight, 1024 being usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<u32>,
    /// How it is asked to end.
    #[serde(default)]
    pub stop: StopPolicy,
    /// How one knows that it serves; without a probe it does once it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Probe>,
    /// Command run inside the container shortly before a planned stop (a CHECKPOINT, say).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_stop: Option<Vec<String>>,
}

/// A volume inside a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// The volume.
    pub volume: VolumeId,
    /// Its name.
    pub name: VolumeName,
    /// Absolute path inside the container.
    pub mountpoint: PathBuf,
}

/// How an app is asked to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StopPolicy {
    /// Name of the signal: `SIGTERM`, `SIGINT` for PostgreSQL.
    pub signal: String,
    /// How long it may take before it is killed, in ms.
    pub grace_ms: u64,
}

impl Default for StopPolicy {
    /// `SIGTERM`, 10 s, as Docker has it.
    fn default() -> Self {
        Self {
            signal: "SIGTERM".to_owned(),
            grace_ms: 10_000,
        }
    }
}

/// How one knows that an app serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Probe {
    /// The port takes connections.
    Tcp {
        /// Port at the node's address.
        port: u16,
        /// How long the app may take, in ms.
        timeout_ms: u64,
    },
    /// `GET path` answers 2xx.
    Http {
        /// Port at the node's address.
        port: u16,
        /// Path, beginning with `/`.
        path: String,
        /// How long the app may take, in ms.
        timeout_ms: u64,
    },
    /// The command, run inside the container, exits with 0.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
        /// How long the app may take, in ms.
        timeout_ms: u64,
    },
}

/// Life of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ContainerState {
    /// Made, not started yet.
    Created,
    /// Its process runs.
    Running,
    /// Its process has ended.
    Exited {
        /// Exit code; 128 + N for signal N; -1 when nobody could see it.
        code: i64,
    },
}

/// A container of ours on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// The app that it runs.
    pub app: AppName,
    /// Its life.
    #[serde(flatten)]
    pub state: ContainerState,
    /// Its image.
    pub image: String,
    /// The epoch under which it was made.
    pub epoch: Epoch,
    /// Where its ports are to be found.
    pub addresses: Vec<SocketAddr>,
    /// The runtime's own name for it (container id, process id).
    pub runtime_id: String,
}
