//! What can go wrong with a volume, and the error code with which it travels.

use std::time::Duration;

use flocker_api::{
    ErrorBody, ErrorCode,
    agent::StorageKind,
    aside::AsideKey,
    error::chain,
    name::{NodeName, VolumeId, VolumeName},
    tls::Identity,
    volume::{Epoch, Role, Snapshot},
};
use serde_json::json;

/// Why something cannot be done with a volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// No copy of it is on this node.
    #[error("volume {0} is not on this node")]
    NotFound(VolumeId),
    /// Nothing of this key is kept aside of the volume.
    #[error("nothing is kept aside as {1} of volume {0} on this node")]
    NoAside(VolumeId, AsideKey),
    /// Another volume has the name.
    #[error("volume name '{name}' is taken on this node by volume {id}")]
    NameTaken {
        /// The name.
        name: VolumeName,
        /// Who has it.
        id: VolumeId,
    },
    /// The request was made under an epoch that has passed.
    #[error("volume {id} is at epoch {current} on this node; the request came under {asked}")]
    StaleEpoch {
        /// The volume.
        id: VolumeId,
        /// The epoch of the request.
        asked: Epoch,
        /// The epoch of the copy.
        current: Epoch,
    },
    /// The copy here is no primary of that epoch.
    #[error(
        "volume {id} is {role} at epoch {epoch} on this node; it must be primary at the epoch of the request"
    )]
    NotPrimary {
        /// The volume.
        id: VolumeId,
        /// What the copy is.
        role: Role,
        /// Its epoch.
        epoch: Epoch,
    },
    /// The receiver of a stream is itself a primary.
    #[error("volume {id} is primary at epoch {epoch} on the receiving node; demote it first")]
    ReceiverIsPrimary {
        /// The volume.
        id: VolumeId,
        /// The receiver's epoch.
        epoch: Epoch,
    },
    /// Both sides have what the other lacks.
    #[error(
        "volume {id} has diverged: the receiver has {} that the sender lacks{}",
        names(theirs),
        common.as_ref().map_or_else(String::new, |c| format!(" after the newest common one, {}", c.name))
    )]
    Diverged {
        /// The volume.
        id: VolumeId,
        /// The newest snapshot of both, if there is one.
        common: Option<Snapshot>,
        /// What only the receiver has, oldest first.
        theirs: Vec<Snapshot>,
        /// What only the sender has, oldest first.
        ours: Vec<Snapshot>,
    },
    /// The receiver's copy has no snapshot by which to tell what it is a copy of.
    #[error(
        "volume {0} is on the receiving node without any snapshot, so that nothing tells what it is a copy of; destroyed there, it is sent anew"
    )]
    NoSnapshots(VolumeId),
    /// It has no snapshot of this name or guid.
    #[error("volume {id} has no snapshot '{name}' on this node{}", hint(meant.as_deref()))]
    NoSnapshot {
        /// The volume.
        id: VolumeId,
        /// What was asked for.
        name: String,
        /// What may have been meant.
        meant: Option<String>,
    },
    /// It has a snapshot of this name already.
    #[error("volume {id} has a snapshot '{name}' already")]
    SnapshotExists {
        /// The volume.
        id: VolumeId,
        /// The name.
        name: String,
    },
    /// What is asked for would break something else.
    #[error("{0}")]
    Refusal(String),
    /// Somebody ended it.
    #[error("it was cancelled")]
    Cancelled,
    /// It is in the trash of this node.
    #[error("volume {0} is in the trash of this node; undelete or destroy it there first")]
    InTrash(VolumeId),
    /// The policy of replication is none that can be kept.
    #[error("the replication policy cannot be kept: {0}")]
    Policy(String),
    /// The file system itself encrypts it, on this node or where it would go.
    #[error(
        "volume {0} is or would be encrypted by ZFS itself, and such volumes are neither moved nor replicated: their streams have corrupted data in every OpenZFS so far (openzfs/zfs#12594, #16351, #18739); encrypt the disks below the pool instead"
    )]
    Encrypted(VolumeId),
    /// The file system of this node is not to be used.
    #[error("{0}")]
    Unsupported(String),
    /// Something else is being done with it.
    #[error("volume {id} is busy: {reason}")]
    Busy {
        /// The volume.
        id: VolumeId,
        /// With what.
        reason: String,
    },
    /// The file system is still busy with something that was broken off; it passes.
    #[error("the file system is busy: {0}")]
    StorageBusy(String),
    /// The storage is full.
    #[error("no space is left: {0}")]
    NoSpace(String),
    /// The two nodes store volumes in ways that cannot be exchanged.
    #[error(
        "the receiving node stores volumes as {receiver:?}, the sending one as {sender:?}; both must be the same"
    )]
    StorageMismatch {
        /// The sender's storage.
        sender: StorageKind,
        /// The receiver's storage.
        receiver: StorageKind,
    },
    /// A sender says that it is another node than its certificate does.
    #[error("the sender calls itself node {claimed}, but its certificate is that of {identity}")]
    Impostor {
        /// What it says.
        claimed: NodeName,
        /// Whose certificate it has.
        identity: Identity,
    },
    /// The peer does not answer or has gone away.
    #[error("peer {peer}: {reason}")]
    Peer {
        /// Its address.
        peer: String,
        /// What happened.
        reason: String,
    },
    /// The peer refused, or its side of the transfer failed.
    #[error("peer {peer} answered: {}", body.message)]
    Refused {
        /// Its address.
        peer: String,
        /// Its answer.
        body: ErrorBody,
    },
    /// A stage took longer than it may.
    #[error("{what} took longer than {limit:?}")]
    Timeout {
        /// The stage.
        what: String,
        /// Its limit.
        limit: Duration,
    },
    /// The stream is not what its sender made.
    #[error("the stream is damaged: {0}")]
    Damaged(String),
    /// A program of the file system was killed.
    #[error("{0} was killed")]
    Killed(String),
    /// A program of the file system failed in a way that has no name here.
    #[error("{0}")]
    Command(String),
    /// Files cannot be read or written.
    #[error("{what}")]
    Io {
        /// Which, and doing what.
        what: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

fn hint(meant: Option<&str>) -> String {
    meant.map_or_else(String::new, |name| format!("; did you mean '{name}'?"))
}

fn names(snapshots: &[Snapshot]) -> String {
    match snapshots {
        [] => "no snapshot".to_owned(),
        [one] => format!("snapshot {}", one.name),
        [first, .., last] => format!(
            "{} snapshots ({} to {})",
            snapshots.len(),
            first.name,
            last.name
        ),
    }
}

impl VolumeError {
    /// An I/O error and what was being done.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        // A full disk is told apart, because it is answered differently than a broken one.
        if source.kind() == std::io::ErrorKind::StorageFull
            || source.kind() == std::io::ErrorKind::QuotaExceeded
        {
            return Self::NoSpace(format!("{}: {source}", what.into()));
        }
        Self::Io {
            what: what.into(),
            source,
        }
    }

    /// The code with which it travels.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound(_) | Self::NoSnapshot { .. } | Self::NoAside(..) => ErrorCode::NotFound,
            Self::Policy(_) => ErrorCode::InvalidRequest,
            Self::NameTaken { .. } | Self::SnapshotExists { .. } => ErrorCode::AlreadyExists,
            Self::StaleEpoch { .. } => ErrorCode::StaleEpoch,
            Self::NotPrimary { .. } => ErrorCode::NotPrimary,
            Self::Diverged { .. } | Self::NoSnapshots(_) => ErrorCode::Diverged,
            Self::Busy { .. } | Self::StorageBusy(_) | Self::ReceiverIsPrimary { .. } => {
                ErrorCode::Busy
            }
            Self::NoSpace(_) => ErrorCode::NoSpace,
            Self::Refusal(_)
            | Self::InTrash(_)
            | Self::StorageMismatch { .. }
            | Self::Impostor { .. }
            | Self::Encrypted(_)
            | Self::Unsupported(_) => ErrorCode::Precondition,
            Self::Peer { .. } | Self::Damaged(_) | Self::Killed(_) => ErrorCode::Unavailable,
            Self::Refused { body, .. } => body.code,
            Self::Timeout { .. } => ErrorCode::Timeout,
            Self::Cancelled => ErrorCode::Busy,
            Self::Command(_) | Self::Io { .. } => ErrorCode::Internal,
        }
    }
}

impl From<VolumeError> for ErrorBody {
    fn from(error: VolumeError) -> Self {
        let body = Self::new(error.code(), chain(&error));
        match error {
            VolumeError::StaleEpoch { asked, current, .. } => {
                body.with_details(json!({ "asked": asked, "current": current }))
            }
            VolumeError::NotPrimary { role, epoch, .. } => {
                body.with_details(json!({ "role": role, "epoch": epoch }))
            }
            VolumeError::Diverged {
                common,
                theirs,
                ours,
                ..
            } => body.with_details(
                json!({ "common": common, "only_receiver": theirs, "only_sender": ours }),
            ),
            VolumeError::Refused { body: theirs, .. } => body.with_details(theirs.details),
            _ => body,
        }
    }
}
