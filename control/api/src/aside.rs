//! What a node keeps aside of a volume: writes that its primary does not have.
//!
//! They come of a primary whose last writes were on no other node when another one took its
//! place, of a replica that somebody wrote to, or of a volume that was rolled back. An aside is
//! never mounted writable, never replicated and never destroyed but by somebody's word.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    name::{NodeName, VolumeId, VolumeName},
    volume::{Epoch, Guid, VolumeStatus},
};

/// Why something was put aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AsideCause {
    /// The node was primary, and what it wrote last had reached no one when another node became
    /// primary.
    Diverged,
    /// Somebody wrote to a replica.
    Touched,
    /// The volume was taken back to an older snapshot on purpose.
    RolledBack,
    /// Nothing tells what the copy is a copy of: it was put aside as a whole.
    Unrelated,
}

impl AsideCause {
    /// The word by which it is told.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Diverged => "diverged",
            Self::Touched => "touched",
            Self::RolledBack => "rolledback",
            Self::Unrelated => "unrelated",
        }
    }
}

impl fmt::Display for AsideCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Which of a volume's asides on a node: `CAUSE-EPOCH-MICROSECONDS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AsideKey {
    /// Why it was put aside.
    pub cause: AsideCause,
    /// The epoch under which it was written.
    pub epoch: Epoch,
    /// When it was put aside, in microseconds since 1970, by the node's clock.
    pub micros: u64,
}

impl fmt::Display for AsideKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.cause, self.epoch, self.micros)
    }
}

impl From<AsideKey> for String {
    fn from(key: AsideKey) -> Self {
        key.to_string()
    }
}

/// The text is no [`AsideKey`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' names nothing that is kept aside; CAUSE-EPOCH-MICROSECONDS would")]
pub struct InvalidAsideKey(pub String);

impl FromStr for AsideKey {
    type Err = InvalidAsideKey;

    fn from_str(text: &str) -> Result<Self, InvalidAsideKey> {
        let invalid = || InvalidAsideKey(text.to_owned());
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|_| digits).ok_or_else(invalid)
        };
        let mut parts = text.split('-');
        let (Some(cause), Some(epoch), Some(micros), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(invalid());
        };
        let causes = [
            AsideCause::Diverged,
            AsideCause::Touched,
            AsideCause::RolledBack,
            AsideCause::Unrelated,
        ];
        let cause = causes.into_iter().find(|known| known.as_str() == cause);
        Ok(Self {
            cause: cause.ok_or_else(invalid)?,
            epoch: Epoch(number(epoch)?),
            micros: number(micros)?,
        })
    }
}

impl TryFrom<String> for AsideKey {
    type Error = InvalidAsideKey;

    fn try_from(text: String) -> Result<Self, InvalidAsideKey> {
        text.parse()
    }
}

/// A snapshot by which an aside hangs together with its volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommonSnapshot {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub guid: Guid,
}

/// What a node keeps aside of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aside {
    /// The volume.
    pub volume: VolumeId,
    /// The volume's name when it was put aside.
    pub name: VolumeName,
    /// Which of them.
    pub key: AsideKey,
    /// Why it was put aside.
    pub cause: AsideCause,
    /// The epoch under which it was written.
    pub epoch: Epoch,
    /// When it was put aside, in ms since 1970, by the node's clock.
    pub since_ms: u64,
    /// The node on which it was written.
    pub node: NodeName,
    /// The newest snapshot that it has in common with the volume: it is what was written after
    /// that. `None` where there is none, and it is a whole copy.
    pub common: Option<CommonSnapshot>,
    /// Bytes written after the common snapshot.
    pub written_bytes: u64,
    /// Bytes that it occupies.
    pub used_bytes: u64,
    /// Its snapshots, oldest first; the last is its state when it was put aside.
    pub snapshots: Vec<String>,
}

/// Most paths of an aside that are told in one answer.
pub const PATHS_MAX: usize = 10_000;

/// An aside, and how it differs from the snapshot that it has in common with its volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsideDetails {
    /// The aside.
    pub aside: Aside,
    /// What was changed; `None` where there is nothing to compare with: it is a whole copy, or
    /// its volume is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Changes>,
}

/// What was changed in a tree of files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Paths that are new.
    pub created: u64,
    /// Files and links with other content, and what has another owner or mode.
    pub modified: u64,
    /// Paths that are gone.
    pub removed: u64,
    /// What has another path; where a directory has, what is in it is not counted again. Found
    /// on ZFS only: elsewhere they are removed and created.
    pub renamed: u64,
    /// The first of them, by path.
    pub paths: Vec<ChangedPath>,
}

impl Changes {
    /// How many paths were changed.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.created + self.modified + self.removed + self.renamed
    }
}

/// A path that was changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChangedPath {
    /// The path below the volume's root; what is no UTF-8 in it is replaced.
    pub path: String,
    /// In which way.
    pub change: PathChange,
    /// The path that it had before, if it was renamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// In which way a path was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathChange {
    /// It is new.
    Created,
    /// It has other content, owner or mode.
    Modified,
    /// It is gone.
    Removed,
    /// It had another path.
    Renamed,
}

impl PathChange {
    /// The word by which it is told.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Modified => "modified",
            Self::Removed => "removed",
            Self::Renamed => "renamed",
        }
    }
}

/// What shall become of an aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case", deny_unknown_fields)]
pub enum Resolve {
    /// It is destroyed for good.
    Discard,
    /// It becomes a volume of its own, on the node where it is: mounted, primary, epoch 1.
    Keep {
        /// The name of that volume; unique on the node.
        name: VolumeName,
    },
}

/// What has become of an aside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resolved {
    /// The volume that it has become, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeStatus>,
}

/// What was put aside, if anything was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// It.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aside: Option<Aside>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip() {
        for cause in ["diverged", "touched", "rolledback", "unrelated"] {
            let text = format!("{cause}-7-1790000000000000");
            let key: AsideKey = text.parse().unwrap();
            assert_eq!(key.to_string(), text);
            assert_eq!(key.epoch, Epoch(7));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "diverged",
            "diverged-1",
            "diverged-1-x",
            "other-1-2",
            "touched-1-2-3",
            "touched--2",
        ] {
            assert!(text.parse::<AsideKey>().is_err(), "{text}");
        }
    }
}
