//! The sending side: brings a peer's replica up to a new snapshot.
//!
//! The snapshot is taken while the connection is made and the receiver starts its `receive`:
//! each of these is a process or a round trip, and a move waits. Both sides plan on what they
//! know, so that a round is three programs: `snapshot`, `send`, `receive`; which guid was made
//! is read off the stream. Each attempt asks the receiver what it has and plans anew; so an
//! acknowledgement that was lost is found on the next attempt. After a failure both look at
//! what is really there.

use std::time::Duration;

use flocker_api::{
    ErrorCode,
    agent::{Handshake, ReplicateReply, ReplicateRequest, StorageKind},
    name::NodeName,
    volume::{Guid, Snapshot},
};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};

use super::{
    idle::Connections,
    index::next_createtxg,
    progress::Progress,
    storage::{LocalCopy, SendStream, Storage, Stream},
    transport::{Connection, FrameReader, Link, TransferLimits, connect, peer},
    volumes::active_policy,
};
use crate::{
    error::VolumeError,
    logic::{
        plan::{Conflict, base},
        resume::Resumption,
        wire::{Accept, Ack, Begin, End, Frame, Hello, PROTOCOL, StreamFeatures},
        zstream::{self, Head},
    },
};

/// What a sender needs to know of its node.
#[derive(Clone, Copy)]
pub(crate) struct Replicator<'a> {
    pub(crate) node: &'a NodeName,
    pub(crate) storage: &'a Storage,
    pub(crate) link: &'a Link,
    pub(crate) connections: Connections,
    pub(crate) progress: &'a Progress,
}

/// A stream that may begin, or needs not.
enum Opening {
    /// The receiver has the snapshot already.
    Present(Guid),
    /// It waits for data on top of this snapshot.
    Ready {
        connection: Box<Connection>,
        from: Option<Snapshot>,
        takes: StreamFeatures,
        /// It goes on with a stream that broke off, which may bring an older snapshot.
        resumption: Option<Resumption>,
    },
}

impl Opening {
    fn resumes(&self) -> bool {
        matches!(
            self,
            Self::Ready {
                resumption: Some(_),
                ..
            }
        )
    }
}

/// What a peer is brought up to.
pub(crate) enum What {
    /// A snapshot of this name, which is taken first.
    New(String),
    /// One that is there.
    Existing(Snapshot),
    /// One that was just taken, and is being sent already.
    Begun(Begun),
}

impl What {
    /// The snapshot's name, itself where it is there, and its stream where that is begun.
    fn parts(self) -> (String, Option<Snapshot>, Option<Begun>) {
        match self {
            Self::New(name) => (name, None, None),
            Self::Existing(snapshot) => (snapshot.name.clone(), Some(snapshot), None),
            Self::Begun(begun) => (begun.to.name.clone(), Some(begun.to.clone()), Some(begun)),
        }
    }
}

/// A stream that was begun before anybody was asked what the receiver has.
pub(crate) struct Begun {
    pub(crate) to: Snapshot,
    /// What it starts from.
    pub(crate) from: Guid,
    pub(crate) stream: SendStream,
    /// How long the snapshot took.
    pub(crate) snapshot_took: Duration,
}

/// Whether both sides look at what they have before they plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    No,
    First,
}

/// Whether what is kept of a broken stream may be gone on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resume {
    May,
    /// It was tried, and the receiver would not have it.
    Not,
}

/// What attempts have moved.
#[derive(Default)]
struct Sent {
    bytes: u64,
    full: bool,
    /// The snapshot that the receiver has now.
    reached: Option<Guid>,
}

impl Replicator<'_> {
    fn limits(&self) -> &TransferLimits {
        &self.link.limits
    }

    /// Brings the peer up to a snapshot. The caller holds the volume's lock and has checked
    /// that `copy` is the primary of the request's epoch. Its snapshots need not be what the
    /// storage has: an attempt that fails by that is repeated once after a look.
    pub(crate) async fn run(
        &self,
        copy: LocalCopy,
        request: &ReplicateRequest,
        what: What,
    ) -> Result<ReplicateReply, VolumeError> {
        if request.peer == *self.node {
            return Err(peer(request.to, "it is this node itself"));
        }
        let mut copy = copy;
        let (name, mut to, mut begun) = what.parts();
        let took = begun.as_ref().map(|begun| begun.snapshot_took);
        let progress = self.progress.begin(&request.peer, &name);
        let moved = |bytes| progress.set(bytes);
        let asked = Instant::now();
        let taking = async {
            let taken = match &to {
                None => self.storage.snapshot(copy.id, &name, copy.epoch).await?,
                Some(_) => None,
            };
            Ok::<_, VolumeError>((taken, took.unwrap_or_else(|| asked.elapsed())))
        };
        let opened = self.open(&copy, request, &name, to.as_ref(), Look::No, Resume::May);
        let (taken, mut opening) = tokio::join!(taking, opened);
        let (taken, snapshot_took) = taken?;
        to = to.or(taken);
        let started = Instant::now();
        let (mut look, mut resume, mut sent) = (Look::No, Resume::May, Sent::default());
        let mut retries = self.limits().retries.iter();
        loop {
            let resumes = opening.as_ref().is_ok_and(Opening::resumes);
            let attempt = self.attempt(&copy, opening, &name, &mut to, begun.take(), &moved);
            match attempt.await {
                Ok(more) => {
                    sent.bytes += more.bytes;
                    sent.full |= more.full;
                    if let Some(to) = to.take_if(|to| more.reached == Some(to.guid)) {
                        return Ok(ReplicateReply {
                            snapshot: to,
                            bytes: sent.bytes,
                            full: sent.full,
                            snapshot_us: micros(snapshot_took),
                            transfer_us: micros(started.elapsed()),
                        });
                    }
                }
                Err(error) => {
                    if resumes && matches!(error, VolumeError::Refused { .. }) {
                        resume = Resume::Not;
                    }
                    if look == Look::No && may_be_outdated(&error) {
                        tracing::debug!(volume = %copy.id, %error, "another attempt, on what is really there");
                    } else if let Some(pause) =
                        retries.next().filter(|_| error.code().is_transient())
                    {
                        tracing::warn!(volume = %copy.id, peer = %request.peer, %error, "a transfer is tried again");
                        sleep(*pause).await;
                    } else {
                        return Err(name_peer(error, &request.peer));
                    }
                }
            }
            look = Look::First;
            copy = self.look(&copy).await?;
            to = match to {
                None => Some(self.storage.find_snapshot(copy.id, &name).await?),
                known => known,
            };
            opening = self
                .open(&copy, request, &name, to.as_ref(), look, resume)
                .await;
        }
    }

    /// The copy as the storage has it, which must still be what it was.
    async fn look(&self, copy: &LocalCopy) -> Result<LocalCopy, VolumeError> {
        let here = self.storage.find(copy.id).await?;
        let here = here.ok_or(VolumeError::NotFound(copy.id))?;
        if here.standing() != copy.standing() {
            return Err(VolumeError::NotPrimary {
                id: copy.id,
                role: here.role,
                epoch: here.epoch,
            });
        }
        Ok(here)
    }

    /// What the receiver has; nothing is sent to it.
    pub(crate) async fn look_there(
        &self,
        copy: &LocalCopy,
        request: &ReplicateRequest,
    ) -> Result<Vec<Snapshot>, VolumeError> {
        let (mut connection, accept) = self.introduce(copy, request, Look::No).await?;
        connection.writer.close().await;
        Ok(accept.snapshots)
    }

    /// Says what is to be sent, and hears what the receiver has.
    async fn introduce(
        &self,
        copy: &LocalCopy,
        request: &ReplicateRequest,
        look: Look,
    ) -> Result<(Connection, Accept), VolumeError> {
        let hello = Hello {
            protocol: PROTOCOL,
            storage: self.storage.kind(),
            handshake: Handshake {
                from: self.node.clone(),
                volume: copy.id,
                name: copy.name.clone(),
                size_bytes: copy.size_bytes,
                epoch: copy.epoch,
                role: copy.role,
                keep: active_policy(copy)
                    .map(|policy| policy.keep.clone())
                    .unwrap_or_default(),
            },
            look: look == Look::First,
        };
        let (connection, answer) = self.greet(request, &Frame::Hello(hello)).await?;
        let accept = match answer {
            Frame::Accept(accept) => accept,
            other => return Err(unexpected(&connection.reader, other)),
        };
        if accept.node != request.peer {
            let reason = format!("it is node {}, not {}", accept.node, request.peer);
            return Err(peer(request.to, reason));
        }
        Ok((connection, accept))
    }

    /// Connects, hears what the receiver has, plans, and tells it what will come.
    async fn open(
        &self,
        copy: &LocalCopy,
        request: &ReplicateRequest,
        name: &str,
        to: Option<&Snapshot>,
        look: Look,
        resume: Resume,
    ) -> Result<Opening, VolumeError> {
        let (mut connection, accept) = self.introduce(copy, request, look).await?;
        if let Some(to) = to.filter(|to| accept.snapshots.iter().any(|s| s.guid == to.guid)) {
            return Ok(Opening::Present(to.guid));
        }
        // The new snapshot may have been listed already; it is no base for itself.
        let bases = copy.bases(name);
        let (from, aside) = match base(&bases, &accept.snapshots) {
            Ok(from) => (from, Vec::new()),
            // Both have just looked at what they have: the receiver shall keep its tail aside.
            Err(Conflict::Diverged { common, theirs, .. }) if look == Look::First => {
                let tail = theirs.iter().map(|s| s.guid).collect();
                (Some(common), tail)
            }
            Err(conflict) => return Err(diverged(copy, conflict)),
        };
        let token = accept.partial.as_deref();
        let token = token.filter(|_| resume == Resume::May && aside.is_empty());
        let resumption = match token {
            Some(token) => {
                let theirs = &accept.snapshots;
                self.storage.resumption(copy, token, theirs).await
            }
            None => None,
        };
        let begin = match &resumption {
            Some(resumption) => Begin {
                from: resumption.from,
                to: resumption.to.name.clone(),
                resumes: true,
                aside,
            },
            None => Begin {
                from: from.as_ref().map(|from| from.guid),
                to: name.to_owned(),
                resumes: false,
                aside,
            },
        };
        connection.writer.send(&Frame::Begin(begin)).await?;
        Ok(Opening::Ready {
            connection: Box::new(connection),
            from,
            takes: accept.takes,
            resumption,
        })
    }

    /// A connection on which the receiver has answered.
    async fn greet(
        &self,
        request: &ReplicateRequest,
        hello: &Frame,
    ) -> Result<(Connection, Frame), VolumeError> {
        let kept = match self.connections {
            Connections::Kept => self.link.kept(&request.peer, request.to),
            Connections::New => None,
        };
        if let Some(mut connection) = kept {
            match ask(&mut connection, hello).await {
                Ok(answer) => return Ok((connection, answer)),
                // It may have hung up just now; nothing has come of a greeting yet.
                Err(error) => tracing::debug!(%error, "a connection that was kept is of no use"),
            }
        }
        let mut connection = connect(&request.peer, request.to, self.link).await?;
        let answer = ask(&mut connection, hello).await?;
        Ok((connection, answer))
    }

    async fn attempt(
        &self,
        copy: &LocalCopy,
        opening: Result<Opening, VolumeError>,
        name: &str,
        to: &mut Option<Snapshot>,
        begun: Option<Begun>,
        moved: &(dyn Fn(u64) + Sync),
    ) -> Result<Sent, VolumeError> {
        let (mut connection, from, takes, resumption) = match opening? {
            Opening::Present(guid) => {
                return Ok(Sent {
                    reached: Some(guid),
                    ..Sent::default()
                });
            }
            Opening::Ready {
                connection,
                from,
                takes,
                resumption,
            } => (connection, from, takes, resumption),
        };
        let stream = Stream {
            from: from.as_ref().map(|from| from.name.as_str()),
            to: name,
            takes,
            token: resumption.as_ref().map(|r| r.token.as_str()),
        };
        let base = from.as_ref().map(|from| from.guid);
        let full = match &resumption {
            Some(resumption) => resumption.from.is_none(),
            None => from.is_none(),
        };
        let result = async {
            let fits = |begun: &Begun| resumption.is_none() && base == Some(begun.from);
            let sending = match begun.filter(fits) {
                Some(begun) => begun.stream,
                None => self.storage.send(copy.id, &stream)?,
            };
            let estimating = async {
                // Of an increment nobody sees the progress, and a move would wait for this.
                let expected = match full || resumption.is_some() {
                    true => self.storage.estimate(copy.id, &stream).await,
                    false => None,
                };
                self.progress.expect(expected);
                Ok(())
            };
            let streaming = self.stream(&mut connection, sending, moved);
            let ((bytes, head), ()) = tokio::try_join!(streaming, estimating)?;
            let found = match (&resumption, to.take()) {
                (Some(resumption), known) => {
                    *to = known;
                    resumption.to.clone()
                }
                (None, Some(to)) => to,
                (None, None) => self.made(copy, name, head).await?,
            };
            let guid = found.guid;
            if resumption.is_none() {
                *to = Some(found);
            }
            let end = Frame::End(End { guid, bytes });
            connection.writer.send(&end).await?;
            self.acknowledgement(&mut connection, guid).await?;
            Ok(Sent {
                bytes,
                full,
                reached: Some(guid),
            })
        }
        .await;
        match &result {
            Err(error) => give_up(&mut connection, error).await,
            Ok(_) => self.part(*connection),
        }
        result
    }

    /// The connection has served.
    fn part(&self, connection: Connection) {
        if self.connections == Connections::Kept {
            self.link.keep(connection);
        }
    }

    /// The snapshot that was just taken and sent: its stream has said what it is.
    async fn made(
        &self,
        copy: &LocalCopy,
        name: &str,
        head: Option<Head>,
    ) -> Result<Snapshot, VolumeError> {
        match head {
            Some(head) => Ok(Snapshot {
                name: name.to_owned(),
                guid: head.to,
                createtxg: next_createtxg(&copy.snapshots),
            }),
            None => self.storage.find_snapshot(copy.id, name).await,
        }
    }

    /// Moves the stream, hearing meanwhile whether the receiver gives up.
    async fn stream(
        &self,
        connection: &mut Connection,
        mut stream: SendStream,
        moved: &(dyn Fn(u64) + Sync),
    ) -> Result<(u64, Option<Head>), VolumeError> {
        let Connection { reader, writer, .. } = connection;
        let (mut bytes, mut head) = (0, None);
        let mut heartbeat = interval(self.limits().heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let limit = self.limits().stall;
        // Counts on over heartbeats.
        let mut stalled = Instant::now() + limit;
        loop {
            tokio::select! {
                chunk = timeout_at(stalled, stream.next()) => {
                    let chunk = chunk.map_err(|_| VolumeError::Timeout {
                        what: "waiting for bytes of the stream".to_owned(),
                        limit,
                    })??;
                    let Some(chunk) = chunk else { break };
                    if bytes == 0 && self.storage.kind() != StorageKind::Directory {
                        head = zstream::head(&chunk);
                    }
                    bytes += chunk.len() as u64;
                    writer.data(chunk).await?;
                    moved(bytes);
                    stalled = Instant::now() + limit;
                }
                frame = reader.next() => match frame? {
                    Frame::Heartbeat => {}
                    other => return Err(unexpected(reader, other)),
                },
                _ = heartbeat.tick() => writer.send(&Frame::Heartbeat).await?,
            }
        }
        stream.finish().await?;
        Ok((bytes, head))
    }

    async fn acknowledgement(
        &self,
        connection: &mut Connection,
        guid: Guid,
    ) -> Result<(), VolumeError> {
        let Connection { reader, writer, .. } = connection;
        let waiting = async {
            let mut heartbeat = interval(self.limits().heartbeat);
            loop {
                tokio::select! {
                    frame = reader.next() => match frame? {
                        Frame::Heartbeat => {}
                        Frame::Ack(Ack { guid: acknowledged }) if acknowledged == guid => return Ok(()),
                        other => return Err(unexpected(reader, other)),
                    },
                    _ = heartbeat.tick() => writer.send(&Frame::Heartbeat).await?,
                }
            }
        };
        timeout(self.limits().stall, waiting)
            .await
            .map_err(|_| VolumeError::Timeout {
                what: "waiting for the receiver's acknowledgement".to_owned(),
                limit: self.limits().stall,
            })?
    }
}

/// Whether an attempt may have failed because something was done behind the agents' backs.
fn may_be_outdated(error: &VolumeError) -> bool {
    matches!(
        error.code(),
        ErrorCode::Diverged | ErrorCode::Internal | ErrorCode::NotFound
    )
}

async fn ask(connection: &mut Connection, hello: &Frame) -> Result<Frame, VolumeError> {
    connection.writer.send(hello).await?;
    connection.reader.next_message().await
}

/// Tells the receiver why nothing more comes. It may be gone already.
async fn give_up(connection: &mut Connection, error: &VolumeError) {
    let body = flocker_api::ErrorBody::new(error.code(), error.to_string());
    if let Err(error) = connection.writer.send(&Frame::Nack(body)).await {
        tracing::debug!(%error, "the receiver does not hear the reason");
    }
    connection.writer.close().await;
}

/// A frame that is no answer: a refusal, or against the protocol.
fn unexpected(reader: &FrameReader, frame: Frame) -> VolumeError {
    match frame {
        Frame::Refuse(body) | Frame::Nack(body) => VolumeError::Refused {
            peer: reader.address.to_string(),
            body,
        },
        other => peer(
            reader.address,
            format!("it said {} out of turn", other.kind()),
        ),
    }
}

fn diverged(copy: &LocalCopy, conflict: Conflict) -> VolumeError {
    let (common, ours, theirs) = match conflict {
        Conflict::NothingToSend => (None, Vec::new(), Vec::new()),
        Conflict::NoCommon { ours, theirs } => (None, ours, theirs),
        Conflict::Diverged {
            common,
            ours,
            theirs,
        } => (Some(common), ours, theirs),
    };
    VolumeError::Diverged {
        id: copy.id,
        common,
        theirs,
        ours,
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
/// Adds the node's name to an error that knows only its address.
fn name_peer(error: VolumeError, node: &NodeName) -> VolumeError {
    let named = |address: String| format!("{node} ({address})");
    match error {
        VolumeError::Peer { peer, reason } => VolumeError::Peer {
            peer: named(peer),
            reason,
        },
        VolumeError::Refused { peer, body } => VolumeError::Refused {
            peer: named(peer),
            body,
        },
        other => other,
    }
}
