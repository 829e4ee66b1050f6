//! Commands run inside the running container of an app.

use serde::{Deserialize, Serialize};

/// Runs a command inside an app's container, and waits for its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Program and arguments.
    pub command: Vec<String>,
    /// How long it may take, in ms; then it is given up.
    pub timeout_ms: u64,
}

/// Answer to [`ExecRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecReply {
    /// Its exit code; 128 + N for signal N; -1 when it is not known.
    pub exit_code: i64,
    /// What it wrote to standard output. What is no UTF-8 is replaced.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
    /// Whether there was more of either than an answer holds: then it is its end.
    #[serde(default)]
    pub truncated: bool,
}
