//! Continuous replication: what is wanted of it, and how it goes.
//!
//! An app declares a [`ReplicationPolicy`]. Control turns it into a [`VolumePolicy`] for the
//! node that has the primary, with the addresses at which the others take streams; that
//! node's agent keeps to it until it is told otherwise, also when control is away.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{
    ErrorBody,
    name::NodeName,
    volume::{Epoch, Snapshot},
};

/// Shortest interval, in ms.
pub const INTERVAL_MS_MIN: u64 = 1_000;
/// Most snapshots that one line of [`Keep`] may ask for.
pub const KEEP_MAX: u32 = 1_000;
/// Most lines of a grid.
pub const GRID_MAX: usize = 8;

/// On which nodes an app's volumes are kept, and how far behind a copy may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicationPolicy {
    /// Nodes that have a copy. The one that has the primary needs no second, so after a move
    /// between two of them the copies are sent the other way.
    pub nodes: Vec<NodeName>,
    /// Time between two snapshots of a volume that changes, in ms.
    pub interval_ms: u64,
    /// Which snapshots are kept.
    #[serde(default)]
    pub keep: Keep,
}

/// Which snapshots of a volume are kept, on every node that has a copy. What replication
/// itself needs is kept besides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keep {
    /// So many of the newest.
    pub last: u32,
    /// Besides, one for each of the newest periods of these lengths.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub grid: Vec<Period>,
}

impl Default for Keep {
    /// The newest three.
    fn default() -> Self {
        Self {
            last: 3,
            grid: Vec::new(),
        }
    }
}

/// One line of a grid: "one for each of the last 24 hours".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Period {
    /// Length of a period, in ms.
    pub every_ms: u64,
    /// How many periods.
    pub count: u32,
}

/// Sets the policy of a volume at its primary; without one, replication ends. An epoch other
/// than the primary's own is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetReplication {
    /// The epoch of the primary.
    pub epoch: Epoch,
    /// The policy.
    #[serde(default)]
    pub policy: Option<VolumePolicy>,
}

/// What the agent of a primary does for a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumePolicy {
    /// Who gets a copy.
    pub targets: Vec<Target>,
    /// Time between two snapshots while it changes, in ms.
    pub interval_ms: u64,
    /// Which snapshots are kept.
    #[serde(default)]
    pub keep: Keep,
}

impl VolumePolicy {
    /// What is wrong with it, if anything is.
    ///
    /// # Errors
    /// In words that name the field and what would be right.
    pub fn check(&self) -> Result<(), String> {
        if self.interval_ms < INTERVAL_MS_MIN {
            return Err(format!(
                "interval_ms is {}; it must be at least {INTERVAL_MS_MIN}",
                self.interval_ms
            ));
        }
        for (at, target) in self.targets.iter().enumerate() {
            if self.targets[..at].iter().any(|t| t.peer == target.peer) {
                return Err(format!("targets name {} twice", target.peer));
            }
        }
        self.keep.check()
    }
}

impl Keep {
    /// What is wrong with it, if anything is.
    ///
    /// # Errors
    /// In words that name the field and what would be right.
    pub fn check(&self) -> Result<(), String> {
        let counted = |what: &str, count: u32| match count {
            1..=KEEP_MAX => Ok(()),
            _ => Err(format!(
                "{what} is {count}; it must be from 1 to {KEEP_MAX}"
            )),
        };
        counted("keep.last", self.last)?;
        if self.grid.len() > GRID_MAX {
            let lines = self.grid.len();
            return Err(format!(
                "keep.grid has {lines} lines; at most {GRID_MAX} are allowed"
            ));
        }
        for period in &self.grid {
            counted("count in keep.grid", period.count)?;
            if period.every_ms < INTERVAL_MS_MIN {
                return Err(format!(
                    "every_ms in keep.grid is {}; it must be at least {INTERVAL_MS_MIN}",
                    period.every_ms
                ));
            }
        }
        Ok(())
    }
}

/// A node that gets a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The node.
    pub peer: NodeName,
    /// Where its agent takes streams.
    pub to: SocketAddr,
}

/// How the replication of a primary goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicationStatus {
    /// The epoch for which the policy was set.
    pub epoch: Epoch,
    /// The policy.
    pub policy: VolumePolicy,
    /// How far each target is; in the order of the policy.
    pub targets: Vec<TargetStatus>,
}

/// How far one target is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// The node.
    pub peer: NodeName,
    /// What is done with it now.
    pub state: TargetState,
    /// The cursor: the newest snapshot that it has acknowledged since this agent started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<Snapshot>,
    /// How old its copy is, in ms: what would be lost if the primary were. Not known before
    /// its first acknowledgement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_ms: Option<u64>,
    /// Bytes that have been written since, as far as the storage tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<u64>,
    /// Rounds that were acknowledged since this agent started.
    pub rounds: u64,
    /// Why the last attempt failed, while none has been well since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
}

/// What is done with a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetState {
    /// It has what there is, or its time has not come.
    Idle,
    /// Its time has come; it waits for its turn.
    Due,
    /// A stream is on its way.
    Sending,
    /// The last attempt failed; it is tried again.
    Failing,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> VolumePolicy {
        VolumePolicy {
            targets: vec![Target {
                peer: "n2".parse().unwrap(),
                to: "10.0.0.2:7411".parse().unwrap(),
            }],
            interval_ms: 1_000,
            keep: Keep::default(),
        }
    }

    #[test]
    fn a_policy_is_checked_field_by_field() {
        assert_eq!(policy().check(), Ok(()));
        type Spoil = fn(&mut VolumePolicy);
        let cases: [(Spoil, &str); 5] = [
            (|p| p.interval_ms = 999, "interval_ms is 999"),
            (
                |p| p.targets.extend(p.targets.clone()),
                "targets name n2 twice",
            ),
            (|p| p.keep.last = 0, "keep.last is 0"),
            (
                |p| {
                    p.keep.grid = vec![Period {
                        every_ms: 1,
                        count: 1,
                    }];
                },
                "every_ms in keep.grid is 1",
            ),
            (
                |p| {
                    p.keep.grid = vec![Period {
                        every_ms: 60_000,
                        count: 1_001,
                    }];
                },
                "count in keep.grid is 1001",
            ),
        ];
        for (spoil, expected) in cases {
            let mut policy = policy();
            spoil(&mut policy);
            let message = policy.check().unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let text = r#"{"targets":[],"interval_ms":5000}"#;
        let read: VolumePolicy = serde_json::from_str(text).unwrap();
        assert_eq!(read.keep, Keep::default());
        let none: SetReplication = serde_json::from_str(r#"{"epoch":3}"#).unwrap();
        assert_eq!(none.policy, None);
    }
}
