//! The one place that runs `zfs` and `zpool`.
//!
//! Each command runs in the C locale, under a deadline, and is killed when nobody waits for it
//! any more. Commands have been seen to hang; no caller may.

#![expect(
    clippy::disallowed_methods,
    reason = "this is where the file system's programs are started"
)]

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use tokio::{
    process::{Child, Command},
    time::timeout,
};

use super::parse::{Failure, classify};
use crate::error::VolumeError;

/// Longest run of a command that does not carry a stream.
pub(super) const COMMAND_MAX: Duration = Duration::from_secs(30);
/// Bytes of the pipes that carry streams.
const PIPE_BYTES: usize = 1 << 20;

/// A command that failed.
#[derive(Debug)]
pub(super) struct CommandError {
    pub(super) failure: Failure,
    pub(super) error: VolumeError,
}

impl From<CommandError> for VolumeError {
    fn from(error: CommandError) -> Self {
        error.error
    }
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

fn line(program: &str, arguments: &[&str]) -> String {
    let mut line = program.to_owned();
    for argument in arguments {
        line.push(' ');
        line.push_str(argument);
    }
    line
}

/// Runs a command to its end and gives what it printed.
pub(super) async fn run(program: &str, arguments: &[&str]) -> Result<String, CommandError> {
    let other = |error| CommandError {
        failure: Failure::Other,
        error,
    };
    let output = timeout(COMMAND_MAX, command(program, arguments).output())
        .await
        .map_err(|_| {
            other(VolumeError::Timeout {
                what: format!("'{}'", line(program, arguments)),
                limit: COMMAND_MAX,
            })
        })?
        .map_err(|source| other(VolumeError::io(format!("cannot run '{program}'"), source)))?;
    verdict(&line(program, arguments), &output)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command's end as a result.
pub(super) fn verdict(line: &str, output: &Output) -> Result<(), CommandError> {
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let failure = classify(&text);
    Err(CommandError {
        error: failure.error(line, text.trim(), output.status),
        failure,
    })
}

/// Starts a command whose output is a stream.
pub(super) fn spawn_source(program: &str, arguments: &[&str]) -> Result<Child, VolumeError> {
    let child = command(program, arguments)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|source| VolumeError::io(format!("cannot run '{program}'"), source))?;
    if let Some(pipe) = &child.stdout {
        widen(pipe);
    }
    Ok(child)
}

/// Starts a command whose input is a stream.
pub(super) fn spawn_sink(program: &str, arguments: &[&str]) -> Result<Child, VolumeError> {
    let child = command(program, arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|source| VolumeError::io(format!("cannot run '{program}'"), source))?;
    if let Some(pipe) = &child.stdin {
        widen(pipe);
    }
    Ok(child)
}

fn widen(pipe: impl std::os::fd::AsFd) {
    // A pipe of the usual size serves too, only slower; users have a limit on wide ones.
    if let Err(error) = rustix::pipe::fcntl_setpipe_size(pipe, PIPE_BYTES) {
        tracing::debug!(%error, "a stream's pipe keeps its size");
    }
}
