//! What a node keeps aside of a volume: writes that its primary does not have.
//!
//! They come of a primary whose last writes were on no other node when another one took its
//! place, of a replica that somebody wrote to, or of a volume that was rolled back. An aside is
//! never mounted writable, never replicated and never destroyed but by somebody's word.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    name::{NodeName, VolumeId, VolumeName},
    volume::{Epoch, Guid},
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
