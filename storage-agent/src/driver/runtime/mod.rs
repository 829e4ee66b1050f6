//! The runtime seam: containers of ours on this node, by a Docker Engine or as plain processes.
//!
//! A runtime does what it is told and decides nothing; which verb is allowed when is in
//! `logic::container`. Both engines keep everything they must know after a restart of the
//! agent where the containers are (Docker's labels, a state file beside the process), and
//! neither ends a container because the agent ends.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use flocker_api::{
    ErrorBody, ErrorCode,
    agent::RuntimeStatus,
    container::{ContainerSpec, Probe},
    logs::{LogQuery, LogReply},
    name::{AppName, NodeName},
    volume::Epoch,
};

use crate::logic::container::Container;

pub mod docker;
mod pidfd;
pub mod process;

pub(crate) use pidfd::open as hold;

pub use docker::Docker;
pub use process::Process;

/// Most output that is kept of a hook or a probe run inside a container, in bytes.
pub const OUTPUT_BYTES_MAX: usize = 16 << 10;

/// How much of an app's output one answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBounds {
    /// Lines.
    pub lines: usize,
    /// Bytes, about.
    pub bytes: usize,
}

/// All that a runtime needs to make a container.
#[derive(Debug, Clone)]
pub struct Blueprint {
    /// What shall run.
    pub spec: ContainerSpec,
    /// The epoch under which it is made.
    pub epoch: Epoch,
    /// Where each volume of the spec, in its order, is mounted on the node when it is.
    pub volume_paths: Vec<PathBuf>,
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code; 128 + N for signal N; `None` when nobody of us could see it.
    pub exit_code: Option<i64>,
    /// Whether it had to be killed.
    pub killed: bool,
}

/// What a command run inside a container came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Its exit code.
    pub exit_code: i64,
    /// The end of what it wrote to standard output.
    pub stdout: Vec<u8>,
    /// The end of what it wrote to standard error.
    pub stderr: Vec<u8>,
    /// Whether there was more of either.
    pub truncated: bool,
}

impl Output {
    /// Both, for a message.
    #[must_use]
    pub fn text(&self) -> String {
        let out = String::from_utf8_lossy(&self.stdout);
        let errors = String::from_utf8_lossy(&self.stderr);
        format!("{out}{errors}")
    }
}

/// Why a runtime cannot do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The engine does not answer.
    #[error("the {engine} of {node} at {place} does not answer: {reason}")]
    Unreachable {
        /// What it is.
        engine: &'static str,
        /// The node.
        node: NodeName,
        /// Its socket or folder.
        place: String,
        /// In its own words.
        reason: String,
    },
    /// The engine refused.
    #[error("the {engine} of {node} cannot {action} the container of {app}: {reason}")]
    Refused {
        /// What it is.
        engine: &'static str,
        /// The node.
        node: NodeName,
        /// What it was told.
        action: &'static str,
        /// The app.
        app: AppName,
        /// In its own words.
        reason: String,
    },
    /// The image is not there.
    #[error("image {image} is not on {node}: {remedy}")]
    NoImage {
        /// The image.
        image: String,
        /// The node.
        node: NodeName,
        /// What would help.
        remedy: String,
    },
    /// The image is there and cannot be used.
    #[error("image {image} on {node} cannot be used: {reason}")]
    BadImage {
        /// The image.
        image: String,
        /// The node.
        node: NodeName,
        /// What is wrong with it.
        reason: String,
    },
    /// A container that is not ours has the name that ours would have.
    #[error("a container named {name} on {node} is not ours; rename or remove it")]
    Foreign {
        /// The name.
        name: String,
        /// The node.
        node: NodeName,
    },
    /// There is no container of the app.
    #[error("there is no container of {app} on {node}")]
    Gone {
        /// The app.
        app: AppName,
        /// The node.
        node: NodeName,
    },
    /// A command inside the container took too long.
    #[error("'{command}' in the container of {app} on {node} did not end within {limit:?}")]
    CommandTimeout {
        /// The command.
        command: String,
        /// The app.
        app: AppName,
        /// The node.
        node: NodeName,
        /// How long it might take.
        limit: Duration,
    },
    /// Processes of a container outlived SIGKILL.
    #[error("processes {pids:?} of {app} on {node} are still there {limit:?} after SIGKILL")]
    Unkillable {
        /// The app.
        app: AppName,
        /// The node.
        node: NodeName,
        /// What is left, as far as it is known.
        pids: Vec<i32>,
        /// How long was waited.
        limit: Duration,
    },
    /// The machine failed.
    #[error("cannot {action} {place}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        place: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl RuntimeError {
    /// For `map_err`: what was being done, and to what.
    pub(crate) fn io(
        action: &'static str,
        place: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let place = place.into().display().to_string();
        move |source| Self::Io {
            action,
            place,
            source,
        }
    }

    fn code(&self) -> ErrorCode {
        match self {
            Self::Unreachable { .. } => ErrorCode::Unavailable,
            Self::NoImage { .. } | Self::BadImage { .. } | Self::Foreign { .. } => {
                ErrorCode::Precondition
            }
            Self::Gone { .. } => ErrorCode::NotFound,
            Self::CommandTimeout { .. } | Self::Unkillable { .. } => ErrorCode::Timeout,
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                ErrorCode::NoSpace
            }
            Self::Refused { .. } | Self::Io { .. } => ErrorCode::Internal,
        }
    }
}

impl From<RuntimeError> for ErrorBody {
    fn from(error: RuntimeError) -> Self {
        Self::from_error(error.code(), &error)
    }
}

/// One of the engines.
#[derive(Debug, Clone)]
pub enum Runtime {
    /// A Docker Engine.
    Docker(Docker),
    /// Plain processes.
    Process(Process),
}

/// Calls the same method of whichever engine it is.
macro_rules! engine {
    ($runtime:expr, $engine:ident => $call:expr) => {
        match $runtime {
            Runtime::Docker($engine) => $call,
            Runtime::Process($engine) => $call,
        }
    };
}

impl Runtime {
    /// What it is, and what is wrong with it.
    pub async fn status(&self) -> RuntimeStatus {
        engine!(self, engine => engine.status().await)
    }

    /// Our containers on this node.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn list(&self) -> Result<Vec<Container>, RuntimeError> {
        engine!(self, engine => engine.list().await)
    }

    /// The app's container.
    ///
    /// # Errors
    /// The engine does not answer, or a foreign container has its name.
    pub async fn find(&self, app: &AppName) -> Result<Option<Container>, RuntimeError> {
        engine!(self, engine => engine.find(app).await)
    }

    /// Checks that the image is there and can be used.
    ///
    /// # Errors
    /// It is not, or cannot.
    pub async fn check_image(&self, image: &str) -> Result<(), RuntimeError> {
        engine!(self, engine => engine.check_image(image).await)
    }

    /// Has an image come that is not there, where the engine can.
    ///
    /// # Errors
    /// It is not there and does not come.
    pub async fn fetch_image(&self, image: &str, limit: Duration) -> Result<(), RuntimeError> {
        match self {
            Self::Docker(docker) => docker.fetch_image(image, limit).await,
            Self::Process(process) => process.check_image(image).await,
        }
    }

    /// By which the image itself says that one sees whether it serves, if it does.
    pub async fn image_probe(&self, image: &str) -> Option<Probe> {
        match self {
            Self::Docker(docker) => docker.image_probe(image).await,
            Self::Process(_) => None,
        }
    }

    /// Makes a container; none of this app may be there.
    ///
    /// # Errors
    /// The image is missing, or the engine refuses.
    pub async fn create(&self, blueprint: &Blueprint) -> Result<(), RuntimeError> {
        engine!(self, engine => engine.create(blueprint).await)
    }

    /// Starts the app's container. Answers when its process runs.
    ///
    /// # Errors
    /// There is none, or the engine refuses.
    pub async fn start(&self, app: &AppName) -> Result<(), RuntimeError> {
        engine!(self, engine => engine.start(app).await)
    }

    /// Waits until the app's container does not run.
    ///
    /// # Errors
    /// There is none, or the engine does not answer.
    pub async fn ended(&self, app: &AppName) -> Result<Option<i64>, RuntimeError> {
        engine!(self, engine => engine.ended(app).await)
    }

    /// Ends the app's container: by its signal, after the grace by SIGKILL. Answers when all
    /// of its processes are gone, also when it did not run in the first place.
    ///
    /// # Errors
    /// There is none, the engine does not answer, or something outlived SIGKILL.
    pub async fn stop(&self, container: &Container) -> Result<Ended, RuntimeError> {
        engine!(self, engine => engine.stop(container).await)
    }

    /// Removes the app's container, which does not run.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn remove(&self, app: &AppName) -> Result<(), RuntimeError> {
        engine!(self, engine => engine.remove(app).await)
    }

    /// Runs a command inside the app's running container; keeps the end of what it writes.
    ///
    /// # Errors
    /// The container does not run, the command cannot be started or takes too long.
    pub async fn exec(
        &self,
        app: &AppName,
        command: &[String],
        limit: Duration,
        bytes_max: usize,
    ) -> Result<Output, RuntimeError> {
        engine!(self, engine => engine.exec(app, command, limit, bytes_max).await)
    }

    /// What the app's container wrote.
    ///
    /// # Errors
    /// There is none, or the engine does not answer.
    pub async fn logs(
        &self,
        app: &AppName,
        query: &LogQuery,
        bounds: LogBounds,
    ) -> Result<LogReply, RuntimeError> {
        engine!(self, engine => engine.logs(app, query, bounds).await)
    }

    /// The last lines that the app's container wrote since its last start.
    pub async fn last_lines(&self, app: &AppName, lines: usize) -> String {
        engine!(self, engine => engine.last_lines(app, lines).await)
    }
}

/// The last so many lines of a text.
fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Appends, keeping only the last so many bytes; whether some were dropped.
fn append_bounded(kept: &mut Vec<u8>, more: &[u8], most: usize) -> bool {
    kept.extend_from_slice(more);
    let excess = kept.len().saturating_sub(most);
    kept.drain(..excess);
    excess > 0
}

/// As `KEY=value`.
fn assignments(variables: &BTreeMap<String, String>) -> Vec<String> {
    variables.iter().map(|(k, v)| format!("{k}={v}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_the_last_lines() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a\n", 2), "a");
        assert_eq!(tail("", 2), "");
    }

    #[test]
    fn kept_output_is_bounded_and_is_the_end() {
        let mut kept = Vec::new();
        assert!(!append_bounded(
            &mut kept,
            &[b'a'; OUTPUT_BYTES_MAX - 1],
            OUTPUT_BYTES_MAX
        ));
        assert!(append_bounded(
            &mut kept,
            &[b'b'; OUTPUT_BYTES_MAX - 1],
            OUTPUT_BYTES_MAX
        ));
        assert_eq!(kept.len(), OUTPUT_BYTES_MAX);
        assert_eq!((kept[0], kept[1]), (b'a', b'b'));
    }
}
