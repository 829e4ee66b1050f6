//! The storage agent's API. Every verb can be repeated: what is already so is success.
//!
//! | method and path | request | answer |
//! | --- | --- | --- |
//! | `GET /v1/status` | | [`NodeStatus`] |
//! | `POST /v1/preflight` | [`PreflightRequest`] | [`PreflightReply`] |
//! | `POST /v1/volumes` | [`CreateVolume`] | [`VolumeStatus`] |
//! | `GET /v1/volumes/{id}` | | [`VolumeStatus`] |
//! | `DELETE /v1/volumes/{id}` | [`EpochRequest`] | `{}` |
//! | `POST /v1/volumes/{id}/snapshot` | [`EpochRequest`] | [`crate::volume::Snapshot`] |
//! | `POST /v1/volumes/{id}/replicate` | [`ReplicateRequest`] | [`ReplicateReply`] |
//! | `PUT /v1/volumes/{id}/replication` | [`crate::replication::SetReplication`] | [`VolumeStatus`] |
//! | `POST /v1/volumes/{id}/promote` | [`EpochRequest`] | [`VolumeStatus`] |
//! | `POST /v1/volumes/{id}/demote` | [`EpochRequest`] | [`VolumeStatus`] |
//! | `POST /v1/volumes/{id}/aside` | [`EpochRequest`] | [`crate::aside::SetAside`]: a replica as a whole, so that it is sent anew |
//! | `GET /v1/asides/{id}/{key}?paths=N` | | [`crate::aside::AsideDetails`] |
//! | `POST /v1/asides/{id}/{key}` | [`crate::aside::Resolve`] | [`crate::aside::Resolved`] |
//! | `POST /v1/containers/{app}/create` | [`CreateContainer`] | [`ContainerStatus`] |
//! | `POST /v1/containers/{app}/start` | [`EpochRequest`] | [`StartReply`] |
//! | `POST /v1/containers/{app}/pre-stop` | [`EpochRequest`] | `{}` |
//! | `POST /v1/containers/{app}/stop` | [`EpochRequest`] | [`StopReply`] |
//! | `GET /v1/containers/{app}/logs?after=C&tail=N&since_ms=T&wait_ms=W` | | [`crate::logs::LogReply`] |
//! | `POST /v1/containers/{app}/exec` | [`crate::exec::ExecRequest`] | [`crate::exec::ExecReply`] |
//! | `DELETE /v1/containers/{app}` | [`EpochRequest`] | `{}` |
//! | `GET /v1/lease` | | [`LeaseStatus`] |
//! | `PUT /v1/lease` | [`LeaseRequest`] | [`LeaseStatus`] |
//! | `POST /v1/doctor` | [`crate::doctor::DoctorRequest`] | [`crate::doctor::Diagnosis`] |
//! | `GET /metrics`, `/healthz` | | text |
//!
//! An epoch older than the volume's own is refused with `stale_epoch`; a start under an epoch
//! for which the volume is not the local primary with `not_primary`. A node whose enforced lease
//! has run out starts, creates and promotes nothing: `unavailable`.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    aside::Aside,
    container::{ContainerSpec, ContainerStatus},
    name::{NodeName, VolumeId, VolumeName},
    replication::Keep,
    volume::{Epoch, Role, Snapshot, VolumeStatus},
};

/// A node as its agent sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub node: NodeName,
    /// Version of the agent.
    pub version: String,
    /// The node's address, at which apps listen.
    pub address: IpAddr,
    /// Where the agent takes replication streams.
    pub replication: SocketAddr,
    /// Its storage.
    pub storage: StorageStatus,
    /// Its runtime.
    pub runtime: RuntimeStatus,
    /// Copies of volumes on it.
    pub volumes: Vec<VolumeStatus>,
    /// Our containers on it.
    pub containers: Vec<ContainerStatus>,
    /// Its lease, and whether it has fenced itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseStatus>,
    /// What it keeps of volumes that their primaries lack, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asides: Vec<Aside>,
}

/// A node's storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageStatus {
    /// What it is.
    pub kind: StorageKind,
    /// Version of the file system's programs, as they say it.
    pub version: String,
    /// What the probe found, by name: `resume`, `compressed`, `estimate`, `bookmarks`, ...
    pub capabilities: Vec<String>,
    /// Free bytes.
    pub available_bytes: u64,
    /// What is wrong with it, if anything is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What is known against its version, if anything is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
}

/// Kinds of storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StorageKind {
    /// OpenZFS in the kernel. Written `openzfs`.
    #[serde(rename = "openzfs")]
    OpenZfs,
    /// zfs-fuse in user space.
    ZfsFuse,
    /// Copies of a directory tree.
    Directory,
}

/// A node's container runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeStatus {
    /// What it is.
    pub kind: RuntimeKind,
    /// Its version.
    pub version: String,
    /// What is wrong with it, if anything is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Kinds of runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuntimeKind {
    /// A Docker Engine.
    Docker,
    /// Plain processes in cgroups of their own.
    Process,
}

/// Asks what would stand against running an app here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreflightRequest {
    /// The container.
    pub container: ContainerSpec,
    /// Bytes that its volumes occupy at the source.
    pub volume_bytes: u64,
    /// The volumes' epoch.
    pub epoch: Epoch,
    /// Whether nothing at all is to be changed: an image that is missing is not fetched.
    #[serde(default)]
    pub look_only: bool,
}

/// Answer to [`PreflightRequest`]; no problem, no objection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreflightReply {
    /// What stands against it, in words that name the thing and its place.
    pub problems: Vec<String>,
}

/// Creates a volume, or answers with the one of this id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateVolume {
    /// Its identity.
    pub id: VolumeId,
    /// Its name; unique on the node.
    pub name: VolumeName,
    /// Its limit, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Its epoch.
    pub epoch: Epoch,
}

/// A verb that needs nothing but the epoch under which it is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochRequest {
    /// The epoch.
    pub epoch: Epoch,
}

/// Takes a snapshot if anything may have changed, and brings the replica up to it. Answered
/// when the replica has acknowledged the snapshot; progress is in [`VolumeStatus::transfer`].
/// A repeated request while one runs waits for that one first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicateRequest {
    /// The receiving node.
    pub peer: NodeName,
    /// Its [`NodeStatus::replication`] address.
    pub to: SocketAddr,
    /// The epoch of the sender.
    pub epoch: Epoch,
}

/// Answer to [`ReplicateRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicateReply {
    /// The snapshot that both sides now have.
    pub snapshot: Snapshot,
    /// Bytes of the stream; 0 when there was nothing to send.
    pub bytes: u64,
    /// Whether the whole volume was sent rather than an increment.
    pub full: bool,
    /// Time to take the snapshot, in microseconds.
    pub snapshot_us: u64,
    /// Time from the first byte to the acknowledgement, in microseconds.
    pub transfer_us: u64,
}

/// Makes an app's container without starting it. If one of another spec is there and does
/// not run, it is replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateContainer {
    /// What shall run.
    pub spec: ContainerSpec,
    /// The epoch under which it will be started.
    pub epoch: Epoch,
}

/// Answer to a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartReply {
    /// The container.
    pub container: ContainerStatus,
    /// Until its process ran, in microseconds.
    pub started_us: u64,
    /// Until its probe answered, in microseconds.
    pub ready_us: u64,
}

/// Answer to a stop: all writers of the app's volumes are proven gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopReply {
    /// Exit code, if the process ran and the runtime has told it by now; 128 + N for signal N.
    pub exit_code: Option<i64>,
    /// Whether it had to be killed after the grace.
    pub killed: bool,
    /// Until its process was gone, in microseconds.
    pub stopped_us: u64,
}

/// What a sender says of itself when it opens a replication stream, for the receiver's
/// epoch check (fields of the handshake frame).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handshake {
    /// The sending node.
    pub from: NodeName,
    /// The volume.
    pub volume: VolumeId,
    /// Its name.
    pub name: VolumeName,
    /// Its limit, in bytes.
    pub size_bytes: Option<u64>,
    /// The sender's epoch.
    pub epoch: Epoch,
    /// The sender's role; only a primary replicates.
    pub role: Role,
    /// Which snapshots the receiver shall keep.
    #[serde(default)]
    pub keep: Keep,
}

/// What a node does when its lease runs out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeasePolicy {
    /// It goes on: nobody takes over by himself, so stopping would help nobody.
    #[default]
    Advisory,
    /// It fences itself: kills its containers, makes its volumes read-only, unmounts them.
    Enforced,
}

/// A reading of a node's own clock. A grant counts from a reading and not from its arrival, so
/// one that was long on its way, or lay unread in a frozen node, grants nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseStamp {
    /// Which run of the agent read it: another run's reading is no good.
    pub incarnation: Uuid,
    /// Time since the node's boot, suspended time included, in ms (`CLOCK_BOOTTIME`).
    pub clock_ms: u64,
}

/// Confirms a node: until the stamp plus the ttl, less the agent's margin, it may run what it
/// runs. Whoever grants must take nothing over before the time of sending plus the ttl has passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    /// From a [`LeaseStatus`] that was asked for just before.
    pub stamp: LeaseStamp,
    /// How long the lease holds, in ms.
    pub ttl_ms: u64,
    /// What the node does when it runs out.
    pub policy: LeasePolicy,
    /// The volumes whose primary the node is, by the store. Those that were read-only since the
    /// agent started are made writable again.
    #[serde(default)]
    pub volumes: Vec<OwnedVolume>,
}

/// A volume whose primary a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnedVolume {
    /// Which.
    pub id: VolumeId,
    /// Under which epoch.
    pub epoch: Epoch,
}

/// A node's lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseStatus {
    /// The node's clock now, for the next grant.
    pub stamp: LeaseStamp,
    /// What it does when the lease runs out; `None` while nobody has granted one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<LeasePolicy>,
    /// How long the lease still holds, in ms; 0 when it has run out or there is none.
    pub remaining_ms: u64,
    /// What the node's fence is doing.
    pub fence: FencePhase,
    /// How often the node has fenced itself since the agent started.
    pub fences: u64,
}

/// What a node's fence is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FencePhase {
    /// It watches the lease.
    #[default]
    Guarding,
    /// The lease has run out: it kills containers and takes volumes away.
    Fencing,
    /// Nothing runs and nothing is writable.
    Fenced,
}
