//! Keepers: helper processes that start the programs of a bed and end them all.
//!
//! A keeper is this program again, run as `flocker-bench keeper`. It starts programs when
//! told to on its standard input and tells of their ends on its standard output. When its
//! input ends, for whatever reason, it ends everything that ever came from it. So a bed is
//! gone when its `flocker-bench` is gone, be it by return, panic or `kill -9`.
//!
//! ```text
//! flocker-bench ──stdin: Request lines──▶ keeper ──▶ zfs-fuse, dockerd, agents, edges, ...
//!               ◀─stdout: Reply lines────
//! ```
//!
//! In namespaces of its own a keeper is the init of a PID namespace: when it ends, the
//! kernel kills all that is left in there, and network, mounts and pools go with it.
//! Without privileges it is a subreaper: what its children leave behind becomes its own
//! child and is killed by it.

mod handle;
mod helper;

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

pub use handle::{Exit, Keeper, Space};
pub use helper::run;

/// Something to start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Program {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Variables added to the environment.
    pub environment: BTreeMap<String, String>,
    /// File that takes its output.
    pub log: PathBuf,
    /// File that is its input, if it has one.
    pub input: Option<PathBuf>,
}

impl Program {
    /// A program and its arguments; its output goes to `log`.
    pub fn new<S: Into<String>>(
        argv: impl IntoIterator<Item = S>,
        log: impl Into<PathBuf>,
    ) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            environment: BTreeMap::new(),
            log: log.into(),
            input: None,
        }
    }

    /// The same with a file as its input.
    #[must_use]
    pub fn with_input(mut self, input: impl Into<PathBuf>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// The same with a variable in its environment.
    #[must_use]
    pub fn with_env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.insert(name.to_owned(), value.into());
        self
    }
}

/// A line to a keeper.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    /// Comes back in the reply.
    id: u64,
    verb: Verb,
}

/// What a keeper can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verb {
    /// Start it; answered with [`Outcome::Started`].
    Start(Program),
    /// Answered with [`Outcome::Exited`] once the process has ended.
    Wait { pid: i32 },
    /// Send a signal; after `grace_ms`, kill. Answered when it is gone.
    Stop {
        pid: i32,
        signal: i32,
        grace_ms: u64,
    },
}

/// A line from a keeper.
#[derive(Debug, Serialize, Deserialize)]
struct Reply {
    id: u64,
    outcome: Outcome,
}

/// How a request ended.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// It runs; the pid as the keeper sees it.
    Started { pid: i32 },
    /// It has ended; 128 + N for signal N.
    Exited { code: i32 },
    /// It could not be done.
    Failed { message: String },
}
