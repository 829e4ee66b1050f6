//! Names and identifiers, each checked once where it enters.
//!
//! A name is 1 to [`NAME_BYTES_MAX`] bytes of lower-case letters, digits, `-`, `_` and `.`,
//! beginning with a letter or digit: safe in a path, a dataset property, a container name and
//! a metric label alike.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Longest name, in bytes: what fits a DNS label.
pub const NAME_BYTES_MAX: usize = 63;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a valid {kind} name: {reason}")]
pub struct InvalidName {
    /// What the name was meant for: "node", "app", "volume", "edge".
    pub kind: &'static str,
    /// The text as it came.
    pub text: String,
    /// What is wrong with it.
    pub reason: InvalidNameReason,
}

/// The rule that a name breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNameReason {
    /// The text is empty.
    #[error("it is empty")]
    Empty,
    /// The text is longer than [`NAME_BYTES_MAX`].
    #[error("it is longer than {NAME_BYTES_MAX} bytes")]
    TooLong,
    /// The first character is neither a letter nor a digit.
    #[error("it must begin with a lower-case letter or a digit")]
    Start,
    /// A character outside the allowed set.
    #[error("only a-z, 0-9, '-', '_' and '.' are allowed, not '{0}'")]
    Character(char),
}

fn check_name(text: &str) -> Result<(), InvalidNameReason> {
    let first = text.chars().next().ok_or(InvalidNameReason::Empty)?;
    if text.len() > NAME_BYTES_MAX {
        return Err(InvalidNameReason::TooLong);
    }
    if !(first.is_ascii_lowercase() || first.is_ascii_digit()) {
        return Err(InvalidNameReason::Start);
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    text.chars()
        .find(|c| !allowed(*c))
        .map_or(Ok(()), |c| Err(InvalidNameReason::Character(c)))
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                match check_name(text) {
                    Ok(()) => Ok(Self(text.to_owned())),
                    Err(reason) => Err(InvalidName { kind: $kind, text: text.to_owned(), reason }),
                }
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }
    };
}

name!(
    /// Name of a node: a host with one storage agent.
    NodeName,
    "node"
);
name!(
    /// Name of an app: a declared container.
    AppName,
    "app"
);
name!(
    /// Name of a volume; also the last part of its mount path on every node.
    VolumeName,
    "volume"
);
name!(
    /// Name of an edge: a running `flocker-proxy`.
    EdgeName,
    "edge"
);
name!(
    /// Name that an operator gives to a snapshot; those that agents take themselves begin with
    /// `flocker-`, which is theirs.
    SnapshotName,
    "snapshot"
);

name!(
    /// Name of a certificate in an edge's store.
    CertificateName,
    "certificate"
);
name!(
    /// Name of an authority whose signatures an edge believes.
    AuthorityName,
    "authority"
);

macro_rules! identifier {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(pub Uuid);

        impl $type {
            /// A new random identifier.
            #[must_use]
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $type {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                text.parse().map(Self)
            }
        }
    };
}

identifier!(
    /// Identity of a volume on every node; names and mount paths may change, this does not.
    VolumeId
);
identifier!(
    /// Identity of one move.
    MoveId
);
identifier!(
    /// Identity of one job of an agent; drawn by whoever asks for it, so that asking twice does
    /// not do twice.
    JobId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_round_trip() {
        for text in ["a", "n1", "notes", "db.main_2", "0-x"] {
            assert_eq!(text.parse::<AppName>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn bad_names_say_which_rule_they_break() {
        let reason = |text: &str| text.parse::<NodeName>().unwrap_err().reason;
        assert_eq!(reason(""), InvalidNameReason::Empty);
        assert_eq!(reason(&"a".repeat(64)), InvalidNameReason::TooLong);
        assert_eq!(reason("-a"), InvalidNameReason::Start);
        assert_eq!(reason("Node"), InvalidNameReason::Start);
        assert_eq!(reason("a/b"), InvalidNameReason::Character('/'));
    }

    #[test]
    fn a_bad_name_cannot_enter_by_json() {
        let error = serde_json::from_str::<VolumeName>("\"../etc\"")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("'../etc' is not a valid volume name"),
            "{error}"
        );
    }
}
