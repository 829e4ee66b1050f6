//! The sending side: brings a peer's replica up to a new snapshot.
//!
//! The snapshot is taken while the connection is made, both sides list what they have, and the
//! receiver starts its `receive`: each of these is a process or a round trip, and a move waits.
//! Each attempt asks the receiver what it has and plans anew; so an acknowledgement that was
//! lost is found on the next attempt, and nothing has to be remembered about a failed one.

use flocker_api::{
    agent::{Handshake, ReplicateReply, ReplicateRequest},
    name::NodeName,
    volume::Snapshot,
};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::{
    progress::Progress,
    storage::{LocalCopy, SendStream, Storage},
    transport::{Connection, FrameReader, Link, TransferLimits, connect, peer},
};
use crate::{
    error::VolumeError,
    logic::{
        plan::{Conflict, base},
        wire::{Ack, Begin, End, Frame, Hello, PROTOCOL},
    },
};

/// What a sender needs to know of its node.
#[derive(Clone, Copy)]
pub(crate) struct Replicator<'a> {
    pub(crate) node: &'a NodeName,
    pub(crate) storage: &'a Storage,
    pub(crate) link: &'a Link,
    pub(crate) progress: &'a Progress,
}

/// A stream that may begin, or needs not.
enum Opening {
    /// The receiver has the snapshot already.
    Present,
    /// It waits for data on top of this snapshot.
    Ready {
        connection: Box<Connection>,
        from: Option<Snapshot>,
    },
}

/// What one attempt moved.
struct Sent {
    bytes: u64,
    full: bool,
}

impl Replicator<'_> {
    fn limits(&self) -> &TransferLimits {
        &self.link.limits
    }

    /// Takes the snapshot `name` and brings the peer up to it. The caller holds the volume's
    /// lock and has checked that `copy` is the primary of the request's epoch; its snapshots
    /// need not be fresh.
    pub(crate) async fn run(
        &self,
        copy: &LocalCopy,
        request: &ReplicateRequest,
        name: &str,
    ) -> Result<ReplicateReply, VolumeError> {
        if request.peer == *self.node {
            return Err(peer(request.to, "it is this node itself"));
        }
        let progress = self.progress.begin(&request.peer, name);
        let begun = Instant::now();
        let taking = async {
            self.storage.snapshot(copy.id, name, copy.epoch).await?;
            Ok::<_, VolumeError>(begun.elapsed())
        };
        let (taken, mut opening) = tokio::join!(taking, self.open(copy, request, name, None));
        let snapshot_us = micros(taken?);
        let started = Instant::now();
        let mut to = None;
        let mut retries = self.limits().retries.iter();
        loop {
            let result = match opening {
                Ok(opening) => {
                    self.attempt(copy, opening, name, &mut to, &|bytes| progress.set(bytes))
                        .await
                }
                Err(error) => Err(error),
            };
            let error = match (result, &to) {
                (Ok(sent), Some(to)) => {
                    return Ok(ReplicateReply {
                        snapshot: to.clone(),
                        bytes: sent.bytes,
                        full: sent.full,
                        snapshot_us,
                        transfer_us: micros(started.elapsed()),
                    });
                }
                (Ok(_), None) => unreachable!("an attempt that ends well has found the snapshot"),
                (Err(error), _) => error,
            };
            let Some(pause) = retries.next().filter(|_| error.code().is_transient()) else {
                return Err(name_peer(error, &request.peer));
            };
            tracing::warn!(volume = %copy.id, peer = %request.peer, %error, "a transfer is tried again");
            sleep(*pause).await;
            to = match to {
                None => Some(self.storage.find_snapshot(copy.id, name).await?),
                known => known,
            };
            opening = self.open(copy, request, name, to.as_ref()).await;
        }
    }

    /// Connects, hears what the receiver has, plans, and tells it what will come.
    async fn open(
        &self,
        copy: &LocalCopy,
        request: &ReplicateRequest,
        name: &str,
        to: Option<&Snapshot>,
    ) -> Result<Opening, VolumeError> {
        let mut connection = connect(&request.peer, request.to, self.link).await?;
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
            },
        };
        connection.writer.send(&Frame::Hello(hello)).await?;
        let (answer, here) =
            tokio::join!(connection.reader.next_message(), self.storage.find(copy.id));
        let accept = match answer? {
            Frame::Accept(accept) => accept,
            other => return Err(unexpected(&connection.reader, other)),
        };
        let here = here?.ok_or(VolumeError::NotFound(copy.id))?;
        if here.standing() != copy.standing() {
            return Err(VolumeError::NotPrimary {
                id: copy.id,
                role: here.role,
                epoch: here.epoch,
            });
        }
        if accept.node != request.peer {
            let reason = format!("it is node {}, not {}", accept.node, request.peer);
            return Err(peer(request.to, reason));
        }
        if to.is_some_and(|to| accept.snapshots.iter().any(|s| s.guid == to.guid)) {
            return Ok(Opening::Present);
        }
        // The new snapshot may have been listed already; it is no base for itself.
        let mut ours = here.snapshots;
        ours.retain(|snapshot| snapshot.name != name);
        let from = base(&ours, &accept.snapshots).map_err(|c| diverged(copy, c))?;
        let begin = Begin {
            from: from.as_ref().map(|from| from.guid),
            to: name.to_owned(),
        };
        connection.writer.send(&Frame::Begin(begin)).await?;
        Ok(Opening::Ready {
            connection: Box::new(connection),
            from,
        })
    }

    async fn attempt(
        &self,
        copy: &LocalCopy,
        opening: Opening,
        name: &str,
        to: &mut Option<Snapshot>,
        moved: &(dyn Fn(u64) + Sync),
    ) -> Result<Sent, VolumeError> {
        let Opening::Ready {
            mut connection,
            from,
        } = opening
        else {
            return Ok(Sent {
                bytes: 0,
                full: false,
            });
        };
        let full = from.is_none();
        let from = from.as_ref().map(|from| from.name.as_str());
        let result = async {
            let stream = self.storage.send(copy.id, from, name)?;
            let finding = async {
                match to.take() {
                    Some(to) => Ok(to),
                    None => self.storage.find_snapshot(copy.id, name).await,
                }
            };
            let (bytes, found) =
                tokio::try_join!(self.stream(&mut connection, stream, moved), finding)?;
            let guid = found.guid;
            *to = Some(found);
            let end = Frame::End(End { guid, bytes });
            connection.writer.send(&end).await?;
            self.acknowledgement(&mut connection, guid).await?;
            Ok(Sent { bytes, full })
        }
        .await;
        if let Err(error) = &result {
            give_up(&mut connection, error).await;
        }
        result
    }

    /// Moves the stream, hearing meanwhile whether the receiver gives up.
    async fn stream(
        &self,
        connection: &mut Connection,
        mut stream: SendStream,
        moved: &(dyn Fn(u64) + Sync),
    ) -> Result<u64, VolumeError> {
        let Connection { reader, writer, .. } = connection;
        let mut bytes = 0;
        let mut heartbeat = interval(self.limits().heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                chunk = timeout(self.limits().stall, stream.next()) => {
                    let chunk = chunk.map_err(|_| VolumeError::Timeout {
                        what: "waiting for bytes of the stream".to_owned(),
                        limit: self.limits().stall,
                    })??;
                    let Some(chunk) = chunk else { break };
                    bytes += chunk.len() as u64;
                    writer.data(chunk).await?;
                    moved(bytes);
                }
                frame = reader.next() => match frame? {
                    Frame::Heartbeat => {}
                    other => return Err(unexpected(reader, other)),
                },
                _ = heartbeat.tick() => writer.send(&Frame::Heartbeat).await?,
            }
        }
        stream.finish().await?;
        Ok(bytes)
    }

    async fn acknowledgement(
        &self,
        connection: &mut Connection,
        guid: flocker_api::volume::Guid,
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

fn micros(duration: std::time::Duration) -> u64 {
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
