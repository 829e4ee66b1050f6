//! What operators do with volumes: verbs, the jobs that they become, what they answer.
//!
//! The agent's part, beside the paths in [`crate::agent`]:
//!
//! | method and path | request | answer |
//! | --- | --- | --- |
//! | `POST /v1/jobs?wait_ms=W` | [`JobRequest`] | [`JobStatus`], once it has ended or W has passed |
//! | `GET /v1/jobs` | | list of [`JobStatus`], newest first |
//! | `GET /v1/jobs/{id}?wait_ms=W` | | [`JobStatus`], once it has ended or W has passed |
//! | `DELETE /v1/jobs/{id}` | | [`JobStatus`]: it is told to end, and undoes what it began |
//! | `GET /v1/volumes/{id}/snapshots` | | list of [`SnapshotDetail`], oldest first |
//! | `GET /v1/volumes/{id}/archive?job=J&by=B&snapshot=S&since=S` | | an archive, as it is made |
//! | `POST /v1/archives?job=J&by=B&volume=V&name=N&epoch=E` | an archive | [`JobStatus`] |
//! | `GET /v1/trash` | | list of [`Trashed`] |
//!
//! A job has an id that its requester draws: the same request twice is one job. It runs to its
//! end whoever goes away, and can be cancelled where it takes long. An agent that ends takes its
//! jobs with it; the next one finishes or undoes what they had begun. The newest jobs that have
//! ended are remembered until the agent ends; the log has them all.
//!
//! A snapshot that an operator takes as `monday` is called `op-monday` by the storage, apart from
//! those of agents and of other tools, and may be named either way, or by its guid. Where none has
//! the name the answer says which one was meant, perhaps.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    ErrorBody,
    aside::AsideKey,
    name::{AppName, JobId, NodeName, SnapshotName, VolumeId, VolumeName},
    replication::ReplicationPolicy,
    volume::{Epoch, Guid, Role, Snapshot, VolumeStatus},
};

/// Most paths that a [`Loss`] or a [`Comparison`] names.
pub const PATHS_MAX: usize = 20;
/// Into how many parts a [`Digest`] divides a tree.
pub const DIGEST_PARTS: u32 = 1024;
/// How long a destroyed volume stays in the trash unless it is said otherwise, in ms.
pub const GRACE_MS: u64 = 24 * 3_600_000;
/// Longest stay in the trash, in ms: ten years.
pub const GRACE_MS_MAX: u64 = 3_652 * 24 * 3_600_000;

/// Begins the names of the snapshots that operators take.
pub const OPERATORS: &str = "op-";

/// Whether a snapshot is the one that somebody names.
#[must_use]
pub fn is_named(snapshot: &Snapshot, wanted: &str) -> bool {
    snapshot.name == wanted
        || snapshot.name.strip_prefix(OPERATORS) == Some(wanted)
        || snapshot.guid.to_string() == wanted
}

/// What people call a snapshot.
#[must_use]
pub fn called(snapshot: &str) -> &str {
    snapshot.strip_prefix(OPERATORS).unwrap_or(snapshot)
}

/// What is done with one copy of a volume by its agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Work {
    /// Takes a snapshot of a primary, which no retention destroys. Answers with [`Snapshot`].
    Snapshot {
        /// Its name.
        name: SnapshotName,
    },
    /// Destroys a snapshot, of a primary or of a replica; none of this name is success. The one
    /// from which the next increment starts is refused.
    DestroySnapshot {
        /// Its name.
        name: String,
    },
    /// Sets the limit of a primary, or takes it away; below what is used is refused. Replicas
    /// follow with the next stream. Directory storage writes it down and enforces nothing.
    Resize {
        /// The limit, in bytes.
        size_bytes: Option<u64>,
    },
    /// Makes a new volume of a snapshot, or of what is there now: a primary, mounted. On ZFS it
    /// shares what is the same. Answers with [`VolumeStatus`].
    Clone {
        /// The snapshot; without one a new one is taken.
        from: Option<String>,
        /// Identity of the new volume.
        id: VolumeId,
        /// Its name.
        name: VolumeName,
    },
    /// Says what [`Work::RollBack`] would take out of a primary. Answers with [`Loss`].
    Preview {
        /// The snapshot.
        to: String,
    },
    /// Makes a primary what it was at a snapshot. What it was until then is kept aside
    /// ([`crate::aside`]). Nobody may use it meanwhile. Answers with [`Loss`].
    RollBack {
        /// The snapshot.
        to: String,
    },
    /// Makes a primary what another volume of this node is, which goes up in it: the end of
    /// a restore. What it was until then is kept aside. Nobody may use either. Answers with
    /// [`VolumeStatus`].
    Replace {
        /// The other volume.
        with: VolumeId,
    },
    /// Unmounts it and puts it in the trash, with all snapshots; it is destroyed for good when
    /// the grace is over. Nobody may use it. A copy that is not there is success.
    Trash {
        /// How long it stays there, in ms.
        grace_ms: u64,
    },
    /// Takes it out of the trash again. Answers with [`VolumeStatus`].
    Undelete {
        /// Its name from now on; the one that it had if none is given.
        name: Option<VolumeName>,
    },
    /// Destroys it for good, be it in the trash or not. Nobody may use it. Volumes that share
    /// with it, such as clones, stay whole. A copy that is not there is success.
    Destroy,
    /// Reads a snapshot at low priority and says what is in it. Answers with [`Digest`].
    Digest {
        /// The snapshot.
        guid: Guid,
        /// How many of 1000 files have their content read; of all others only what is told
        /// of them without it.
        sample: u32,
        /// Which files those are.
        seed: u64,
        /// Parts of which each path is listed.
        #[serde(default)]
        list: Vec<u32>,
    },
}

impl Work {
    /// Its name in tables and logs.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Snapshot { .. } => "snapshot",
            Self::DestroySnapshot { .. } => "snapshot-rm",
            Self::Resize { .. } => "resize",
            Self::Clone { .. } => "clone",
            Self::Preview { .. } => "preview",
            Self::RollBack { .. } => "rollback",
            Self::Replace { .. } => "replace",
            Self::Trash { .. } => "trash",
            Self::Undelete { .. } => "undelete",
            Self::Destroy => "destroy",
            Self::Digest { .. } => "digest",
        }
    }
}

/// Asks an agent for a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobRequest {
    /// Its identity.
    pub id: JobId,
    /// The volume.
    pub volume: VolumeId,
    /// The epoch under which it is meant; an older one than the copy's is refused.
    pub epoch: Epoch,
    /// Who wants it, for the list of jobs and the log.
    #[serde(default)]
    pub by: String,
    /// What is to be done.
    pub work: Work,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Its identity.
    pub id: JobId,
    /// What it does: the verb's name in the command line.
    pub verb: String,
    /// The volume.
    pub volume: VolumeId,
    /// The volume's name, if it has one yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<VolumeName>,
    /// Who wanted it.
    pub by: String,
    /// How it stands.
    pub state: JobState,
    /// When it began, Unix time in ms.
    pub started_ms: u64,
    /// How long it took, or has taken so far, in ms.
    pub elapsed_ms: u64,
    /// How far it is, where it takes long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<JobProgress>,
    /// What it answers once it is done, by verb.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub result: Value,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
}

/// How a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It is at it.
    Running,
    /// It did what it should.
    Done,
    /// It did not; its error says why.
    Failed,
    /// Somebody ended it; what it had begun is undone.
    Cancelled,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobProgress {
    /// Bytes so far.
    pub bytes: u64,
    /// Of so many, where that is known beforehand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_expected: Option<u64>,
    /// How fast it has gone for the last seconds.
    pub bytes_per_second: u64,
    /// When it will be through at that rate, in ms from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<u64>,
}

/// A snapshot and what it costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotDetail {
    /// The snapshot.
    #[serde(flatten)]
    pub snapshot: Snapshot,
    /// When it was taken, Unix time in ms.
    pub created_ms: u64,
    /// Bytes that its destruction would free, as far as the storage tells.
    pub used_bytes: u64,
    /// Bytes that it refers to.
    pub referenced_bytes: u64,
}

/// A volume in the trash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trash {
    /// When it came there, Unix time in ms.
    pub at_ms: u64,
    /// When it is destroyed for good, Unix time in ms.
    pub until_ms: u64,
    /// Who put it there.
    pub by: String,
}

/// A copy of a volume in the trash of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trashed {
    /// Its identity.
    pub id: VolumeId,
    /// Its name.
    pub name: VolumeName,
    /// What this copy was.
    pub role: Role,
    /// Its epoch.
    pub epoch: Epoch,
    /// Bytes that it occupies.
    pub used_bytes: u64,
    /// Since when and until when.
    pub trash: Trash,
}

/// What a rollback takes out of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The snapshot that it goes back to.
    pub to: Snapshot,
    /// The snapshots since, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// How many files, directories and links differ.
    pub changes: u64,
    /// Bytes of the files that differ, as they are now.
    pub bytes: u64,
    /// The first of them.
    pub paths: Vec<String>,
    /// What keeps it, once it has been done; none where nothing was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aside: Option<AsideKey>,
}

/// What is in a snapshot, so that two can be compared without sending either.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// A sum over each of [`DIGEST_PARTS`] parts; a path belongs to the part that its name says.
    pub parts: Vec<u64>,
    /// Files, directories, links and whatever else there is.
    pub entries: u64,
    /// Files whose content was read.
    pub files_read: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// The paths of the parts that were to be listed, each with its own sum.
    pub listed: Vec<(String, u64)>,
}

/// What is done with a volume through control, which knows where its copies are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum VolumeVerb {
    /// [`Work::Snapshot`] at the primary.
    Snapshot {
        /// Its name.
        name: SnapshotName,
    },
    /// [`Work::DestroySnapshot`] on every node, replicas first.
    DestroySnapshot {
        /// Its name.
        name: String,
    },
    /// [`Work::Resize`] at the primary.
    Resize {
        /// The limit, in bytes; none takes it away.
        size_bytes: Option<u64>,
    },
    /// [`Work::Clone`] at the primary.
    Clone {
        /// The snapshot; without one a new one is taken.
        from: Option<String>,
        /// Name of the new volume.
        name: VolumeName,
    },
    /// [`Work::Preview`] at the primary.
    Preview {
        /// The snapshot.
        to: String,
    },
    /// [`Work::RollBack`] at the primary.
    RollBack {
        /// The snapshot.
        to: String,
        /// Whether an app that uses it is stopped meanwhile; else that is refused.
        #[serde(default)]
        stop_app: bool,
    },
    /// Brings a snapshot of another node's copy to the primary's node, and makes it the volume's
    /// state ([`Work::Replace`]) or a volume of its own. Where the primary has the snapshot itself
    /// and it is to be the volume's state, nothing is sent ([`Work::RollBack`]).
    Restore {
        /// The node.
        from: NodeName,
        /// The snapshot; the newest if none is given.
        snapshot: Option<String>,
        /// Name of the volume that it becomes; none: what it is a copy of.
        name: Option<VolumeName>,
        /// As in [`VolumeVerb::RollBack`].
        #[serde(default)]
        stop_app: bool,
    },
    /// [`Work::Trash`], or [`Work::Destroy`] at once, on every node.
    Destroy {
        /// How long it stays in the trash, in ms; 0: it is destroyed at once.
        grace_ms: u64,
    },
    /// [`Work::Undelete`] on every node that has it in its trash.
    Undelete {
        /// Its name from now on.
        name: Option<VolumeName>,
    },
    /// Compares the content of primary and replica at their newest common snapshot. Answered by a
    /// job of control; [`Comparison`] is its result.
    Verify {
        /// The replica's node; the only one if there is but one.
        replica: Option<NodeName>,
        /// Of how many of 1000 files the content is read.
        sample: u32,
    },
}

/// Asks control to do something with a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRequest {
    /// Who wants it.
    #[serde(default)]
    pub by: String,
    /// What.
    #[serde(flatten)]
    pub verb: VolumeVerb,
}

/// Makes a volume that belongs to no app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewVolume {
    /// Its name, which no other volume of the cluster has.
    pub name: VolumeName,
    /// The node of its primary.
    pub node: NodeName,
    /// Its limit, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Where else it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<ReplicationPolicy>,
    /// Who wants it.
    #[serde(default)]
    pub by: String,
}

/// A job and its node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeJob {
    /// The node whose agent has it.
    pub node: NodeName,
    /// The job.
    #[serde(flatten)]
    pub job: JobStatus,
}

/// Something of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnNode<T> {
    /// The node.
    pub node: NodeName,
    /// What it has, or why it does not say.
    pub result: Result<T, ErrorBody>,
}

/// A volume of the cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VolumeReport {
    /// Its name.
    pub name: VolumeName,
    /// Its identity.
    pub id: VolumeId,
    /// The app that declares it, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
    /// The node of its primary, by the store.
    pub node: NodeName,
    /// Its epoch, by the store.
    pub epoch: Epoch,
    /// Where else it shall be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<ReplicationPolicy>,
    /// Its copies as their agents were last seen to have them, the primary first.
    pub copies: Vec<VolumeCopy>,
}

/// A node's copy of a volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VolumeCopy {
    /// The node.
    pub node: NodeName,
    /// The copy.
    #[serde(flatten)]
    pub volume: VolumeStatus,
}

/// What a comparison of two copies found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// The primary's node.
    pub primary: NodeName,
    /// The other.
    pub replica: NodeName,
    /// At which snapshot.
    pub snapshot: Snapshot,
    /// Files, directories and links of the primary.
    pub entries: u64,
    /// Files whose content was read, on each side.
    pub files_read: u64,
    /// Bytes that were read, on each side.
    pub bytes_read: u64,
    /// How many paths differ; 0: the copies are equal as far as they were read.
    pub differences: u64,
    /// The first of them.
    pub paths: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verb_travels_by_its_name() {
        let request = VolumeRequest {
            by: "ann".to_owned(),
            verb: VolumeVerb::Resize {
                size_bytes: Some(1 << 30),
            },
        };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(
            text,
            r#"{"by":"ann","verb":"resize","size_bytes":1073741824}"#
        );
        assert_eq!(
            serde_json::from_str::<VolumeRequest>(&text).unwrap(),
            request
        );
    }

    #[test]
    fn a_verb_that_does_not_exist_is_refused() {
        let text = r#"{"verb":"shrink"}"#;
        let error = serde_json::from_str::<Work>(text).unwrap_err().to_string();
        assert!(error.contains("unknown variant `shrink`"), "{error}");
    }
}
