//! `zfs send` and `zfs receive` as streams.

use std::{process::Output, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, ChildStdin, ChildStdout},
    time::timeout,
};

use super::{
    command::{COMMAND_MAX, CommandError, spawn_sink, spawn_source, verdict},
    parse::Failure,
};
use crate::{
    driver::storage::ReceiveError,
    error::VolumeError,
    logic::{wire::DATA_BYTES_MAX, zstream},
};

/// Longest time for a receive to end after its stream has: it may still have to write.
const RECEIVE_END_MAX: Duration = Duration::from_secs(120);

/// A running `zfs send`.
#[derive(Debug)]
pub(crate) struct Sending {
    child: Child,
    output: ChildStdout,
    buffer: BytesMut,
}

impl Sending {
    pub(super) fn spawn(arguments: &[&str]) -> Result<Self, VolumeError> {
        let mut child = spawn_source("zfs", arguments)?;
        let output = child
            .stdout
            .take()
            .expect("its output was asked to be a pipe");
        Ok(Self {
            child,
            output,
            buffer: BytesMut::new(),
        })
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, VolumeError> {
        if self.buffer.is_empty() {
            self.read().await?;
        }
        let bytes = self.buffer.split().freeze();
        Ok((!bytes.is_empty()).then_some(bytes))
    }

    async fn read(&mut self) -> Result<usize, VolumeError> {
        self.buffer.reserve(DATA_BYTES_MAX);
        let mut window = BufMut::limit(&mut self.buffer, DATA_BYTES_MAX);
        let read = self.output.read_buf(&mut window).await;
        read.map_err(|source| VolumeError::io("cannot read from zfs send", source))
    }

    /// The first bytes of a stream of which nothing was taken yet, and whether they are all of
    /// it. Nothing is lost: [`Self::next`] gives them again.
    pub(crate) async fn peek(&mut self) -> Result<(&[u8], bool), VolumeError> {
        while zstream::is_empty(self.buffer.len() as u64) {
            if self.read().await? == 0 {
                return Ok((&self.buffer, true));
            }
        }
        Ok((&self.buffer, false))
    }

    pub(crate) async fn finish(self) -> Result<(), VolumeError> {
        let Self { child, output, .. } = self;
        drop(output);
        end("zfs send", child, COMMAND_MAX).await?;
        Ok(())
    }
}

async fn end(line: &str, child: Child, limit: Duration) -> Result<(), CommandError> {
    let output: Output = timeout(limit, child.wait_with_output())
        .await
        .map_err(|_| CommandError {
            failure: Failure::Other,
            error: VolumeError::Timeout {
                what: format!("the end of '{line}'"),
                limit,
            },
        })?
        .map_err(|source| CommandError {
            failure: Failure::Other,
            error: VolumeError::io(format!("cannot wait for '{line}'"), source),
        })?;
    verdict(line, &output)
}

/// A running `zfs receive`.
///
/// It is aborted by closing its input and never by killing it: the daemon of zfs-fuse goes on
/// with a receive whose program has been killed, and the dataset stays busy meanwhile.
#[derive(Debug)]
pub(crate) struct Receiving {
    child: Child,
    input: ChildStdin,
}

impl Receiving {
    pub(super) fn spawn(arguments: &[&str]) -> Result<Self, VolumeError> {
        let mut child = spawn_sink("zfs", arguments)?;
        let input = child
            .stdin
            .take()
            .expect("its input was asked to be a pipe");
        Ok(Self { child, input })
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.input.write_all(bytes).await
    }

    pub(crate) async fn finish(self) -> Result<(), ReceiveError> {
        let Self { child, input } = self;
        drop(input);
        end("zfs receive", child, RECEIVE_END_MAX)
            .await
            .map_err(|error| ReceiveError {
                touched: error.failure == Failure::Touched,
                error: error.error,
            })
    }
}
