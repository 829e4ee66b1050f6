//! The one place that makes connections between agents.
//!
//! A connection carries the frames of [`crate::logic::wire`] over any `Stream`: plain TCP
//! today; a TLS stream is another implementor, made in `connect` and `accept` and nowhere
//! else.

use std::{io, io::IoSlice, net::SocketAddr, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{
        AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf, split,
    },
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    error::VolumeError,
    logic::wire::{DATA_BYTES_MAX, Frame, data_header, decode, encode},
};

/// Deadlines of a transfer's stages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferLimits {
    /// Until a connection stands.
    pub connect: Duration,
    /// Between two frames of the peer, heartbeats included.
    pub silence: Duration,
    /// Between two heartbeats of ours.
    pub heartbeat: Duration,
    /// Without a byte of the stream moved, or the acknowledgement.
    pub stall: Duration,
    /// Until the volume is free, where something else is done with it.
    pub lock: Duration,
    /// Pauses before a failed transfer is tried again; their number is that of the retries.
    pub retries: Vec<Duration>,
}

impl Default for TransferLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            silence: Duration::from_secs(10),
            heartbeat: Duration::from_secs(2),
            stall: Duration::from_secs(120),
            lock: Duration::from_secs(5),
            retries: [100, 400, 1000].map(Duration::from_millis).to_vec(),
        }
    }
}

/// What frames travel over.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for S {}

/// Both halves of a connection.
pub(crate) struct Connection {
    pub(crate) reader: FrameReader,
    pub(crate) writer: FrameWriter,
}

/// Connects to the agent at `to`.
pub(crate) async fn connect(
    to: SocketAddr,
    limits: &TransferLimits,
) -> Result<Connection, VolumeError> {
    let stream = timeout(limits.connect, TcpStream::connect(to))
        .await
        .map_err(|_| VolumeError::Timeout {
            what: format!("connecting to {to}"),
            limit: limits.connect,
        })?
        .map_err(|source| peer(to, format!("cannot connect: {source}")))?;
    accept(stream, to, limits, CancellationToken::new())
}

/// Makes a connection of one that a listener has accepted; `stop` ends its reading.
pub(crate) fn accept(
    stream: TcpStream,
    peer_address: SocketAddr,
    limits: &TransferLimits,
    stop: CancellationToken,
) -> Result<Connection, VolumeError> {
    stream.set_nodelay(true).map_err(|source| {
        peer(
            peer_address,
            format!("cannot set up the connection: {source}"),
        )
    })?;
    Ok(over(Box::new(stream), peer_address, limits, stop))
}

fn over(
    stream: Box<dyn Stream>,
    address: SocketAddr,
    limits: &TransferLimits,
    stop: CancellationToken,
) -> Connection {
    let (reader, writer) = split(stream);
    Connection {
        reader: FrameReader {
            stream: reader,
            buffer: BytesMut::new(),
            address,
            silence: limits.silence,
            heard: Instant::now(),
            stop,
        },
        writer: FrameWriter {
            stream: writer,
            address,
            stall: limits.stall,
        },
    }
}

/// An error of the peer's side.
pub(crate) fn peer(address: SocketAddr, reason: impl Into<String>) -> VolumeError {
    VolumeError::Peer {
        peer: address.to_string(),
        reason: reason.into(),
    }
}

/// Takes frames.
pub(crate) struct FrameReader {
    stream: ReadHalf<Box<dyn Stream>>,
    buffer: BytesMut,
    pub(crate) address: SocketAddr,
    silence: Duration,
    /// When the peer last said something; kept over dropped calls of `next`.
    heard: Instant,
    /// Cancelled when this agent ends: then as if the peer had gone.
    stop: CancellationToken,
}

impl FrameReader {
    /// The next frame. Can be dropped and called again: what was read is kept.
    pub(crate) async fn next(&mut self) -> Result<Frame, VolumeError> {
        loop {
            if let Some(frame) =
                decode(&mut self.buffer).map_err(|e| VolumeError::Damaged(e.to_string()))?
            {
                return Ok(frame);
            }
            self.buffer.reserve(DATA_BYTES_MAX);
            let deadline = self.heard + self.silence;
            let read = tokio::select! {
                () = self.stop.cancelled() => {
                    return Err(peer(self.address, "this agent is about to end"));
                }
                read = timeout_at(deadline, self.stream.read_buf(&mut self.buffer)) => read,
            };
            let read = read
                .map_err(|_| VolumeError::Timeout {
                    what: format!("waiting for peer {} to say anything", self.address),
                    limit: self.silence,
                })?
                .map_err(|source| peer(self.address, source.to_string()))?;
            if read == 0 {
                return Err(peer(self.address, "it closed the connection"));
            }
            self.heard = Instant::now();
        }
    }

    /// The next frame that is no heartbeat.
    pub(crate) async fn next_message(&mut self) -> Result<Frame, VolumeError> {
        loop {
            match self.next().await? {
                Frame::Heartbeat => {}
                frame => return Ok(frame),
            }
        }
    }

    /// Reads and forgets until the peer closes, for at most `limit`, so that what was last
    /// written to it is not lost to a reset.
    pub(crate) async fn drain(&mut self, limit: Duration) {
        if self.stop.is_cancelled() {
            return;
        }
        let drained = timeout(limit, async {
            loop {
                self.buffer.clear();
                self.buffer.reserve(DATA_BYTES_MAX);
                match self.stream.read_buf(&mut self.buffer).await {
                    Ok(read) if read > 0 => {}
                    _ => return,
                }
            }
        });
        if drained.await.is_err() {
            tracing::debug!(peer = %self.address, "it did not close in time");
        }
    }
}

/// Gives frames.
pub(crate) struct FrameWriter {
    stream: WriteHalf<Box<dyn Stream>>,
    address: SocketAddr,
    stall: Duration,
}

impl FrameWriter {
    pub(crate) async fn send(&mut self, frame: &Frame) -> Result<(), VolumeError> {
        let mut bytes = BytesMut::new();
        encode(frame, &mut bytes);
        self.write(bytes.freeze(), Bytes::new()).await
    }

    /// Sends a data frame without copying what it carries.
    pub(crate) async fn data(&mut self, payload: Bytes) -> Result<(), VolumeError> {
        let header = Bytes::copy_from_slice(&data_header(&payload));
        self.write(header, payload).await
    }

    async fn write(&mut self, head: Bytes, body: Bytes) -> Result<(), VolumeError> {
        let stream = &mut self.stream;
        timeout(self.stall, write_both(stream, head, body))
            .await
            .map_err(|_| VolumeError::Timeout {
                what: format!("writing to peer {}", self.address),
                limit: self.stall,
            })?
            .map_err(|source| peer(self.address, source.to_string()))
    }

    /// Closes this direction.
    pub(crate) async fn close(&mut self) {
        if let Err(error) = self.stream.shutdown().await {
            tracing::debug!(peer = %self.address, %error, "it closed first");
        }
    }
}

async fn write_both(
    stream: &mut WriteHalf<Box<dyn Stream>>,
    mut head: Bytes,
    mut body: Bytes,
) -> io::Result<()> {
    while head.has_remaining() || body.has_remaining() {
        let written = stream
            .write_vectored(&[IoSlice::new(&head), IoSlice::new(&body)])
            .await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let of_head = written.min(head.len());
        head.advance(of_head);
        body.advance(written - of_head);
    }
    stream.flush().await
}
