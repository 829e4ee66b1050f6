//! What apps write to their standard output and error, as agents and control pass it on.
//!
//! A reply is bounded. Whoever wants to follow asks again with the cursor of the last reply and a
//! time to wait for something new; so no stream is ever cut by a restart of what it runs through.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::name::NodeName;

/// Which lines of an app's output are wanted; the query of `GET .../logs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogQuery {
    /// Only those after this cursor of an earlier reply, the oldest first.
    pub after: Option<String>,
    /// Without a cursor: only so many, the newest.
    pub tail: Option<usize>,
    /// Only those since this Unix time, in ms.
    pub since_ms: Option<u64>,
    /// How long to wait for a first line when there is none yet, in ms.
    pub wait_ms: u64,
}

impl LogQuery {
    /// As the query of a URL, with its `?`; empty if nothing is asked for in particular.
    #[must_use]
    pub fn in_url(&self) -> String {
        let mut query = String::new();
        let mut push = |key: &str, value: &dyn std::fmt::Display| {
            let separator = if query.is_empty() { '?' } else { '&' };
            // Writing to a string does not fail.
            let _written = write!(query, "{separator}{key}={value}");
        };
        if let Some(after) = &self.after {
            push("after", after);
        }
        if let Some(tail) = self.tail {
            push("tail", &tail);
        }
        if let Some(since_ms) = self.since_ms {
            push("since_ms", &since_ms);
        }
        if self.wait_ms > 0 {
            push("wait_ms", &self.wait_ms);
        }
        query
    }
}

/// Where a line was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of an app's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it was written, Unix time in ms; `None` where the runtime does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<u64>,
    /// Where it was written; `None` where both go the same way (plain processes).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<LogStream>,
    /// Without its end of line. What is no UTF-8 is replaced.
    pub text: String,
}

/// Answer to a [`LogQuery`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogReply {
    /// The lines, oldest first.
    pub lines: Vec<LogLine>,
    /// Where to go on; of letters, digits and `.:-` only. `None` while nothing was ever written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Whether there is more after these lines than one reply holds.
    #[serde(default)]
    pub more: bool,
}

/// Answer of control to a [`LogQuery`]: that of the agent of the app's node. The cursor is
/// control's own: it goes on where the app has gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppLogReply {
    /// The node.
    pub node: NodeName,
    /// Its answer.
    #[serde(flatten)]
    pub reply: LogReply,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_only_what_is_asked_for() {
        assert_eq!(LogQuery::default().in_url(), "");
        let query = LogQuery {
            after: Some("n1:7".to_owned()),
            wait_ms: 10,
            ..LogQuery::default()
        };
        assert_eq!(query.in_url(), "?after=n1:7&wait_ms=10");
    }
}
