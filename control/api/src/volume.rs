//! Volumes: an app's dataset, its primary and replicas, its snapshots.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    name::{NodeName, VolumeId, VolumeName},
    replication::ReplicationStatus,
};

/// Fencing number of a volume; goes up by one each time its primary changes.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of the next primary.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identity of a snapshot, the same on every node that has received it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Guid(pub u64);

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A snapshot of a volume on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name, the part after `@`.
    pub name: String,
    /// Compared across nodes.
    pub guid: Guid,
    /// Order among the snapshots of one node (ZFS `createtxg`); never compared across nodes.
    pub createtxg: u64,
}

/// What a node's copy of a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The one writable copy.
    Primary,
    /// A read-only copy.
    Replica,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
        })
    }
}

/// A node's copy of a volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Its identity.
    pub id: VolumeId,
    /// Its name.
    pub name: VolumeName,
    /// What this copy is.
    pub role: Role,
    /// The newest epoch that this copy has seen.
    pub epoch: Epoch,
    /// Where it is mounted now; `None` when it is not.
    pub mounted_at: Option<PathBuf>,
    /// Bytes that it occupies, with its snapshots.
    pub used_bytes: u64,
    /// Its limit, if it has one.
    pub size_bytes: Option<u64>,
    /// Oldest first.
    pub snapshots: Vec<Snapshot>,
    /// A transfer that runs now, sending or receiving.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<TransferStatus>,
    /// How its replication goes, where it is a primary with a policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<ReplicationStatus>,
}

/// A running transfer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransferStatus {
    /// The node at the other end.
    pub peer: NodeName,
    /// The snapshot that is being transferred.
    pub snapshot: String,
    /// Bytes of the stream so far.
    pub bytes: u64,
    /// Bytes that the whole stream will have, where that is known beforehand.
    pub bytes_expected: Option<u64>,
    /// How fast it has gone for the last seconds.
    #[serde(default)]
    pub bytes_per_second: u64,
    /// When it will be through at that rate, in ms from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<u64>,
    /// Time since its start, in ms.
    pub elapsed_ms: u64,
}
