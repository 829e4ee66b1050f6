//! Names of the snapshots that the agent takes: `flocker-EPOCH-MICROSECONDS`.
//!
//! The epoch is in the name because the name is the one thing of a snapshot that travels with
//! a plain stream. Snapshots of any other name are somebody else's and are never destroyed.

use std::{fmt, str::FromStr};

use flocker_api::volume::Epoch;

/// The name of a snapshot of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label {
    /// The epoch in which it was taken.
    pub epoch: Epoch,
    /// Time since 1970 at which it was taken, in microseconds.
    pub micros: u64,
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "flocker-{}-{}", self.epoch, self.micros)
    }
}

/// The name is not one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a snapshot that an agent took")]
pub struct Foreign;

impl FromStr for Label {
    type Err = Foreign;

    fn from_str(name: &str) -> Result<Self, Foreign> {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|_| digits).ok_or(Foreign)
        };
        let (epoch, micros) = name
            .strip_prefix("flocker-")
            .and_then(|rest| rest.split_once('-'))
            .ok_or(Foreign)?;
        Ok(Self {
            epoch: Epoch(number(epoch)?),
            micros: number(micros)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_round_trip() {
        let label = Label {
            epoch: Epoch(7),
            micros: 1_790_000_000_000_000,
        };
        assert_eq!(label.to_string().parse(), Ok(label));
    }

    #[test]
    fn other_names_are_foreign() {
        for name in [
            "daily",
            "flocker-",
            "flocker-1",
            "flocker-1-",
            "flocker--1",
            "flocker-1-x",
            "flocker-+1-2",
            "flocker-1-99999999999999999999",
        ] {
            assert_eq!(name.parse::<Label>(), Err(Foreign), "{name}");
        }
    }
}
