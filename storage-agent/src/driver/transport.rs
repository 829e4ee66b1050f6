//! The one place that makes connections between agents.
//!
//! A connection carries the frames of [`crate::logic::wire`] over mutual TLS or, where the node
//! has no certificate, over plain TCP. With TLS each side knows the other by its certificate:
//! the sender connects to exactly the node it means, and the receiver holds what a sender says
//! of itself against who it is.

use std::{
    collections::HashMap,
    io,
    io::IoSlice,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use flocker_api::{
    name::NodeName,
    tls::{Credentials, Expected, Identity, Role, Stream},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split},
    net::TcpStream,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::idle::Idle;
use crate::{
    error::VolumeError,
    logic::bucket::Bucket,
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
    /// Bytes that all streams to one peer may have in a second; 0: as many as go.
    pub link_rate: u64,
    /// Bytes that one stream may have in a second; 0: as many as go.
    pub volume_rate: u64,
    /// Bytes that are read in a second for a comparison.
    pub verify_bytes_per_second: u64,
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
            link_rate: 0,
            volume_rate: 0,
            verify_bytes_per_second: 64 << 20,
        }
    }
}

/// How a node reaches its peers.
#[derive(Debug, Clone, Default)]
pub struct Link {
    /// Deadlines.
    pub limits: TransferLimits,
    /// By which both sides prove who they are; without them streams go over plain TCP.
    pub tls: Option<Credentials>,
    /// What all streams to each peer share.
    pub buckets: Buckets,
    /// Connections that rounds of replication use again.
    pub idle: Idle,
}

/// The rate of each link; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Buckets {
    links: Arc<Mutex<HashMap<NodeName, Shared>>>,
}

type Shared = Arc<Mutex<Bucket>>;

impl Link {
    /// A connection that is kept, if there is one.
    pub(crate) fn kept(&self, node: &NodeName, to: SocketAddr) -> Option<Connection> {
        let mut connection = self.idle.take(node, to, self.idle_max())?;
        connection.writer.buckets = self.buckets(node);
        Some(connection)
    }

    /// Keeps a connection of ours on which a stream has ended well.
    pub(crate) fn keep(&self, connection: Connection) {
        let to = connection.reader.address;
        self.idle.keep(to, connection, self.idle_max());
    }

    /// Well before the peer, who hears nothing meanwhile, hangs up.
    fn idle_max(&self) -> Duration {
        self.limits.silence / 2
    }

    /// What a stream to `node` is held to: the link's bucket, and one of its own.
    fn buckets(&self, node: &NodeName) -> Vec<Shared> {
        let now = monotonic();
        let bucket = |rate| Arc::new(Mutex::new(Bucket::new(rate, now)));
        let TransferLimits {
            link_rate,
            volume_rate,
            ..
        } = self.limits;
        let mut buckets = Vec::new();
        if link_rate > 0 {
            let links = self.buckets.links.lock();
            let mut links = links.unwrap_or_else(PoisonError::into_inner);
            let link = links
                .entry(node.clone())
                .or_insert_with(|| bucket(link_rate));
            buckets.push(Arc::clone(link));
        }
        if volume_rate > 0 {
            buckets.push(bucket(volume_rate));
        }
        buckets
    }
}

/// Time since this program first asked for it; goes only forward.
fn monotonic() -> Duration {
    static BEGUN: OnceLock<Instant> = OnceLock::new();
    BEGUN.get_or_init(Instant::now).elapsed()
}

/// Both halves of a connection.
pub(crate) struct Connection {
    pub(crate) reader: FrameReader,
    pub(crate) writer: FrameWriter,
    /// Who the peer is by its certificate; `None` over plain TCP.
    pub(crate) identity: Option<Identity>,
    /// When it was made.
    pub(crate) made: Instant,
}

/// Connects to the agent of `node` at `to`.
pub(crate) async fn connect(
    node: &NodeName,
    to: SocketAddr,
    link: &Link,
) -> Result<Connection, VolumeError> {
    let limits = &link.limits;
    let connecting = async {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &link.tls else {
            return Ok((Stream::Plain(stream), None));
        };
        let identity = Identity::new(Role::Node, node.as_str());
        let expected = Expected::Named(identity.clone());
        let stream = tls.connect(stream, &expected).await?;
        Ok((stream.into(), Some(identity)))
    };
    let (mut stream, identity) = timeout(limits.connect, connecting)
        .await
        .map_err(|_| VolumeError::Timeout {
            what: format!("connecting to {to}"),
            limit: limits.connect,
        })?
        .map_err(|source: io::Error| peer(to, format!("cannot connect: {source}")))?;
    stream.widen();
    let mut connection = over(stream, identity, to, limits, CancellationToken::new());
    connection.writer.buckets = link.buckets(node);
    Ok(connection)
}

/// Connects to the agent of `node` and hangs up again; how long it took.
pub(crate) async fn reach(
    node: &NodeName,
    to: SocketAddr,
    link: &Link,
) -> Result<Duration, VolumeError> {
    let begun = Instant::now();
    let mut connection = connect(node, to, link).await?;
    connection.writer.close().await;
    Ok(begun.elapsed())
}

/// Makes a connection of a stream that stands; `stop` ends its reading.
pub(crate) fn over(
    stream: Stream,
    identity: Option<Identity>,
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
            heartbeat: limits.heartbeat,
            buckets: Vec::new(),
        },
        identity,
        made: Instant::now(),
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
    stream: ReadHalf<Stream>,
    buffer: BytesMut,
    pub(crate) address: SocketAddr,
    silence: Duration,
    /// When the peer last said something; kept over dropped calls of `next`.
    heard: Instant,
    /// Cancelled when this agent ends: then as if the peer had gone.
    stop: CancellationToken,
}

impl FrameReader {
    /// The peer had nothing to say until now.
    pub(crate) fn begin_anew(&mut self) {
        self.heard = Instant::now();
    }

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
    stream: WriteHalf<Stream>,
    address: SocketAddr,
    stall: Duration,
    heartbeat: Duration,
    /// What its data is held to.
    buckets: Vec<Shared>,
}

impl FrameWriter {
    pub(crate) async fn send(&mut self, frame: &Frame) -> Result<(), VolumeError> {
        let mut bytes = BytesMut::new();
        encode(frame, &mut bytes);
        self.write(bytes.freeze(), Bytes::new()).await
    }

    /// Sends a data frame without copying what it carries.
    pub(crate) async fn data(&mut self, payload: Bytes) -> Result<(), VolumeError> {
        self.wait_for_turn(payload.len()).await?;
        let header = Bytes::copy_from_slice(&data_header(&payload));
        self.write(header, payload).await
    }

    /// Waits until so many bytes may go, and tells the peer meanwhile that this side lives.
    async fn wait_for_turn(&mut self, bytes: usize) -> Result<(), VolumeError> {
        let now = monotonic();
        let waits = self.buckets.iter().map(|bucket| {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.take(bytes, now)
        });
        let mut wait = waits.max().unwrap_or_default();
        while !wait.is_zero() {
            let part = wait.min(self.heartbeat);
            sleep(part).await;
            wait -= part;
            if !wait.is_zero() {
                self.send(&Frame::Heartbeat).await?;
            }
        }
        Ok(())
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
    stream: &mut WriteHalf<Stream>,
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
