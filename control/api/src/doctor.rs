//! What a node finds when it examines itself, and what to do about it.

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::name::NodeName;

/// Has a node examine itself, and whether it reaches these peers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DoctorRequest {
    /// The other nodes.
    pub peers: Vec<PeerAddress>,
}

/// Where a node takes replication streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerAddress {
    /// The node.
    pub node: NodeName,
    /// The address.
    pub to: SocketAddr,
}

/// What a node has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// The node.
    pub node: NodeName,
    /// Its wall clock, Unix time in ms.
    pub clock_ms: u64,
    /// Everything that was looked at.
    pub findings: Vec<Finding>,
}

impl Diagnosis {
    /// The worst of it.
    #[must_use]
    pub fn level(&self) -> Level {
        let levels = self.findings.iter().map(|finding| finding.level);
        levels.max().unwrap_or(Level::Ok)
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// How it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do, where something is to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    /// It is as it should be.
    #[must_use]
    pub fn ok(check: &str, found: impl Into<String>) -> Self {
        Self {
            check: check.to_owned(),
            level: Level::Ok,
            found: found.into(),
            remedy: None,
        }
    }

    /// It works, and should be seen to.
    #[must_use]
    pub fn warn(check: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            level: Level::Warn,
            remedy: Some(remedy.into()),
            ..Self::ok(check, found)
        }
    }

    /// It does not work.
    #[must_use]
    pub fn fail(check: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            level: Level::Fail,
            ..Self::warn(check, found, remedy)
        }
    }
}

/// How something is, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and should be seen to.
    Warn,
    /// It does not work.
    Fail,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        })
    }
}

/// For people: a line for each finding, and one for what to do.
impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(
                f,
                "{:<5} {:<13} {}",
                finding.level, finding.check, finding.found
            )?;
            if let Some(remedy) = &finding.remedy {
                writeln!(f, "{:<19} -> {remedy}", "")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnosis_is_as_bad_as_its_worst_finding() {
        let mut diagnosis = Diagnosis {
            node: "n1".parse().unwrap(),
            clock_ms: 0,
            findings: vec![Finding::ok("pool", "tank is ONLINE")],
        };
        assert_eq!(diagnosis.level(), Level::Ok);
        let full = Finding::fail("space", "tank is 97 % full", "free some");
        diagnosis.findings.insert(0, full);
        assert_eq!(diagnosis.level(), Level::Fail);
        let text = "\
fail  space         tank is 97 % full
                    -> free some
ok    pool          tank is ONLINE
";
        assert_eq!(diagnosis.to_string(), text);
    }
}
