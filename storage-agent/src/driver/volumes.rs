//! The node's volumes: every verb that the API offers on them, on whichever storage.

use std::{future::Future, path::PathBuf};

use flocker_api::{
    agent::{CreateVolume, ReplicateReply, ReplicateRequest, StorageStatus},
    name::{NodeName, VolumeId},
    volume::{Epoch, Snapshot, VolumeStatus},
};
use tokio::net::TcpListener;

use crate::error::VolumeError;

/// Where a node keeps its volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageConfig {
    /// Datasets `POOL/flocker/UUID` of a ZFS pool.
    Zfs {
        /// The pool; it must exist.
        pool: String,
        /// Volumes are mounted at `MOUNT_ROOT/NAME`.
        mount_root: PathBuf,
    },
    /// Copies of directory trees.
    Directory {
        /// Where they are kept; made if it does not exist.
        root: PathBuf,
        /// Where primaries appear by name; `ROOT/mounts` if not given.
        mount_root: Option<PathBuf>,
    },
}

/// The node's volumes. Cheap to clone; all clones are the same volumes.
#[derive(Debug, Clone)]
pub struct Volumes {}

fn absent<T>() -> Result<T, VolumeError> {
    Err(VolumeError::Command("not available".to_owned()))
}

#[expect(
    clippy::unused_async,
    clippy::missing_errors_doc,
    reason = "signatures first"
)]
impl Volumes {
    /// Opens the storage and learns what it can do.
    pub async fn open(_config: StorageConfig, _node: NodeName) -> Result<Self, VolumeError> {
        absent()
    }

    /// The storage's state.
    pub async fn status(&self) -> Result<StorageStatus, VolumeError> {
        absent()
    }

    /// Every copy of a volume on this node.
    pub async fn list(&self) -> Result<Vec<VolumeStatus>, VolumeError> {
        absent()
    }

    /// One copy.
    pub async fn get(&self, _id: VolumeId) -> Result<VolumeStatus, VolumeError> {
        absent()
    }

    /// Creates a volume as primary, mounted; answers with the one of this id if it is there.
    pub async fn create(&self, _request: CreateVolume) -> Result<VolumeStatus, VolumeError> {
        absent()
    }

    /// Destroys this node's copy with its snapshots; what is not there is success.
    pub async fn destroy(&self, _id: VolumeId, _epoch: Epoch) -> Result<(), VolumeError> {
        absent()
    }

    /// Takes a snapshot of a primary.
    pub async fn snapshot(&self, _id: VolumeId, _epoch: Epoch) -> Result<Snapshot, VolumeError> {
        absent()
    }

    /// Takes a snapshot and brings the peer's replica up to it.
    pub async fn replicate(
        &self,
        _id: VolumeId,
        _request: ReplicateRequest,
    ) -> Result<ReplicateReply, VolumeError> {
        absent()
    }

    /// Makes this copy the primary: writable, mounted fresh.
    pub async fn promote(&self, _id: VolumeId, _epoch: Epoch) -> Result<VolumeStatus, VolumeError> {
        absent()
    }

    /// Makes this copy a replica: unmounted, read-only.
    pub async fn demote(&self, _id: VolumeId, _epoch: Epoch) -> Result<VolumeStatus, VolumeError> {
        absent()
    }

    /// Where a volume is mounted now.
    pub async fn mount_path(&self, _id: VolumeId) -> Result<Option<PathBuf>, VolumeError> {
        absent()
    }

    /// Whether this copy is the primary of exactly this epoch, mounted and writable.
    pub async fn is_primary(&self, _id: VolumeId, _epoch: Epoch) -> Result<bool, VolumeError> {
        absent()
    }
}

/// Receives replication streams until `shutdown` resolves; running receives are then aborted.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve_replication(
    listener: TcpListener,
    _volumes: Volumes,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), VolumeError> {
    shutdown.await;
    drop(listener);
    Ok(())
}
