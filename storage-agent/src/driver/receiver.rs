//! The receiving side: a connection brings one stream after the other, each a session.
//!
//! A stream that was taken whole, and that makes what its sender says, is acknowledged. After
//! any other end the receiver looks at what it has and answers by that: a receive may have
//! ended well although its end was not seen.

use std::future::Future;

use flocker_api::{
    ErrorBody,
    agent::StorageKind,
    volume::{Guid, Snapshot},
};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{
    index::{Entry, next_createtxg},
    storage::{LocalCopy, ReceiveError, ReceiveSink, Stamp, Storage},
    transport::{Connection, FrameReader, FrameWriter, TransferLimits, peer},
    volumes::Volumes,
};
use crate::{
    error::VolumeError,
    logic::{
        aside::parting,
        label::Label,
        transfer::{Aftermath, admit, aftermath, genuine},
        verbs::is_operators,
        wire::{Accept, Ack, Begin, End, Frame, Hello, PROTOCOL},
        zstream::{self, Head},
    },
};

/// How long a sender may take to close after it was told what became of its stream.
const DRAIN_MAX: std::time::Duration = std::time::Duration::from_secs(5);

/// Serves one sender from its first frame to its last: one stream after the other.
pub(crate) async fn serve(mut connection: Connection, volumes: &Volumes) {
    let address = connection.reader.address;
    let mut after = After::Nothing;
    loop {
        let session = match connection.reader.next_message().await {
            Ok(Frame::Hello(hello)) => session(&mut connection, volumes, hello).await,
            Ok(other) => Err(out_of_turn(&connection.reader, &other)),
            // It had its stream, and has no other.
            Err(_) if after == After::Stream => break,
            Err(error) => Err(error),
        };
        match session {
            Ok(After::Stream) => after = After::Stream,
            Ok(After::Nothing) => break,
            Err(error) => {
                tracing::warn!(peer = %address, error = %flocker_api::error::chain(&error), "a stream was not taken");
                break;
            }
        }
    }
    // A close while something of the sender is unread, be it a heartbeat, would be a reset, and
    // might overtake the answer.
    connection.writer.close().await;
    connection.reader.drain(DRAIN_MAX).await;
}

/// What a session was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// A stream was taken; another may follow.
    Stream,
    /// Nothing was sent.
    Nothing,
}

async fn session(
    connection: &mut Connection,
    volumes: &Volumes,
    hello: Hello,
) -> Result<After, VolumeError> {
    if let Err(error) = genuine(connection.identity.as_ref(), &hello.handshake) {
        return refuse(&mut connection.writer, error, Frame::Refuse).await;
    }
    let entry = volumes.entry(hello.handshake.volume);
    let limits = volumes.limits();
    // Until here is the lock the sender's patience is asked for; after it, heartbeats tell it.
    let admitted = async {
        let lock =
            timeout(limits.lock, entry.lock.lock())
                .await
                .map_err(|_| VolumeError::Busy {
                    id: hello.handshake.volume,
                    reason: "something else is being done with it on the receiving node".to_owned(),
                })?;
        if hello.look {
            entry.forget();
        }
        let here = prepare(volumes, &entry, &hello, &connection.reader).await?;
        Ok((lock, here))
    }
    .await;
    let (_lock, here) = match admitted {
        Ok(admitted) => admitted,
        Err(error) => return refuse(&mut connection.writer, error, Frame::Refuse).await,
    };
    let accept = Accept {
        node: volumes.node().clone(),
        epoch: here.as_ref().map(|copy| copy.epoch),
        snapshots: here
            .as_ref()
            .map(|c| c.snapshots.clone())
            .unwrap_or_default(),
        takes: volumes.storage().features(),
        partial: here.as_ref().and_then(|copy| copy.partial.clone()),
    };
    connection.writer.send(&Frame::Accept(accept)).await?;
    let Some(begin) = begun(&mut connection.reader).await? else {
        return Ok(After::Nothing);
    };
    let received = receive(connection, volumes, &entry, here, (&hello, &begin)).await;
    match received {
        Ok((guid, now)) => {
            entry.keep_for_sender(hello.handshake.keep.clone());
            if now.is_some() {
                volumes.learn(hello.handshake.volume, &entry, now);
            }
            connection.writer.send(&Frame::Ack(Ack { guid })).await?;
            volumes.tidy_later(hello.handshake.volume);
            Ok(After::Stream)
        }
        Err(error) => refuse(&mut connection.writer, error, Frame::Nack).await,
    }
}

/// Takes the stream; the guid of the snapshot that is here now, and the copy if it is known.
async fn receive(
    connection: &mut Connection,
    volumes: &Volumes,
    entry: &Entry,
    here: Option<LocalCopy>,
    (hello, begin): (&Hello, &Begin),
) -> Result<(Guid, Option<LocalCopy>), VolumeError> {
    let progress = entry.progress.begin(&hello.handshake.from, &begin.to);
    let here = part(volumes, entry, here, begin, &mut connection.writer).await?;
    let receiving = Receiving {
        volumes,
        entry,
        storage: volumes.storage(),
        limits: volumes.limits(),
        hello,
        begin,
        here: here.as_ref(),
    };
    // What is known holds again once it is known how this ends.
    entry.forget();
    let received = receiving
        .run(connection, &|bytes| progress.set(bytes))
        .await;
    // Whoever asked meanwhile has learnt of something half done.
    entry.forget();
    received
}

/// What the sender is about to send, if anything.
async fn begun(reader: &mut FrameReader) -> Result<Option<Begin>, VolumeError> {
    let begin = match reader.next_message().await {
        Ok(Frame::Begin(begin)) => begin,
        Ok(other) => return Err(out_of_turn(reader, &other)),
        // The sender found nothing to send, or thought better of it.
        Err(VolumeError::Peer { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    if begin.to.parse::<Label>().is_err() && !is_operators(&begin.to) {
        let reason = format!("'{}' is no name of a snapshot", begin.to);
        return Err(peer(reader.address, reason));
    }
    Ok(Some(begin))
}

/// Checks that the sender may send, and makes the copy ready to take it.
async fn prepare(
    volumes: &Volumes,
    entry: &Entry,
    hello: &Hello,
    reader: &FrameReader,
) -> Result<Option<LocalCopy>, VolumeError> {
    if hello.protocol != PROTOCOL {
        let reason = format!(
            "it speaks protocol {}, this node {PROTOCOL}",
            hello.protocol
        );
        return Err(peer(reader.address, reason));
    }
    let storage = volumes.storage();
    volumes.finish_unfinished().await?;
    let here = volumes.look_up(hello.handshake.volume, entry).await?;
    let standing = here.as_ref().map(LocalCopy::standing);
    admit(&hello.handshake, hello.storage, storage.kind(), standing)?;
    if here.is_none() {
        let copies = storage.list_all().await?;
        let id = hello.handshake.volume;
        if copies.iter().any(|c| c.id == id && c.trash.is_some()) {
            return Err(VolumeError::InTrash(id));
        }
        let mut copies = copies.iter().filter(|copy| copy.trash.is_none());
        if let Some(other) = copies.find(|c| c.name == hello.handshake.name) {
            return Err(VolumeError::NameTaken {
                name: other.name.clone(),
                id: other.id,
            });
        }
    }
    if let Some(copy) = &here
        && copy.mounted_at.is_some()
    {
        entry.forget();
        storage.unmount(copy).await?;
    }
    Ok(here)
}

/// Keeps aside what the copy has and its sender lacks, as far as both know of it by now.
async fn part(
    volumes: &Volumes,
    entry: &Entry,
    here: Option<LocalCopy>,
    begin: &Begin,
    writer: &mut FrameWriter,
) -> Result<Option<LocalCopy>, VolumeError> {
    let Some(copy) = here else {
        return Ok(None);
    };
    let id = copy.id;
    let storage = volumes.storage();
    let parting = async {
        let (common, touched) = if begin.aside.is_empty() {
            // Whether a dataset was written to is told by the receive itself.
            (copy.newest().cloned(), storage.is_touched(&copy).await?)
        } else {
            let common = parting(&copy.snapshots, begin.from, &begin.aside);
            let common = common.map_err(|error| VolumeError::Busy {
                id,
                reason: error.to_string(),
            })?;
            (Some(common), true)
        };
        if !touched {
            return Ok(Some(copy));
        }
        volumes
            .put_aside(entry, &copy, common.as_ref(), None)
            .await?;
        storage.find(id).await
    };
    alive(volumes.limits(), writer, parting).await
}

async fn refuse(
    writer: &mut FrameWriter,
    error: VolumeError,
    frame: fn(ErrorBody) -> Frame,
) -> Result<After, VolumeError> {
    let text = flocker_api::error::chain(&error);
    let body = ErrorBody::from(error);
    let code = body.code;
    writer.send(&frame(body)).await?;
    Err(VolumeError::Refused {
        peer: "this node".to_owned(),
        body: ErrorBody::new(code, text),
    })
}

fn out_of_turn(reader: &FrameReader, frame: &Frame) -> VolumeError {
    peer(
        reader.address,
        format!("it said {} out of turn", frame.kind()),
    )
}

/// How a stream ended, as far as the frames tell.
enum Ended {
    /// Whole; and what its first bytes say that it makes, where they say it.
    Whole(End, Option<Head>),
    /// The taker would not have more of it.
    Taker,
}

struct Receiving<'a> {
    volumes: &'a Volumes,
    entry: &'a Entry,
    storage: &'a Storage,
    limits: &'a TransferLimits,
    hello: &'a Hello,
    begin: &'a Begin,
    here: Option<&'a LocalCopy>,
}

impl Receiving<'_> {
    async fn run(
        &self,
        connection: &mut Connection,
        moved: &(dyn Fn(u64) + Sync),
    ) -> Result<(Guid, Option<LocalCopy>), VolumeError> {
        let handshake = &self.hello.handshake;
        let stamp = Stamp {
            id: handshake.volume,
            name: handshake.name.clone(),
            size_bytes: handshake.size_bytes,
            epoch: handshake.epoch,
        };
        self.make_way().await?;
        let mut sink = self
            .storage
            .receive(&stamp, self.begin.from, &self.begin.to)?;
        let ended = self.take(connection, &mut sink, moved).await;
        // Closes the taker's input: the end of a whole stream, the abort of any other.
        let finished = self.alive(&mut connection.writer, sink.finish()).await;
        let to = match (ended?, &finished) {
            // What was taken whole is what the stream itself says that it makes.
            (Ended::Whole(end, Some(head)), Ok(()))
                if head.to == end.guid && head.from == self.begin.from =>
            {
                self.storage.stamp(self.here, &stamp).await?;
                return Ok((end.guid, self.grown(&stamp, end.guid)));
            }
            (Ended::Whole(end, _), _) => Some(end.guid),
            (Ended::Taker, Err(_)) => None,
            (Ended::Taker, Ok(())) => {
                return Err(VolumeError::Damaged(
                    "the receiver ended before the stream did".to_owned(),
                ));
            }
        };
        let settled = self.settle(&stamp, to, finished);
        let guid = self.alive(&mut connection.writer, settled).await?;
        Ok((guid, None))
    }

    /// The copy as it now is, where it was known before.
    fn grown(&self, stamp: &Stamp, guid: Guid) -> Option<LocalCopy> {
        let mut copy = self.here?.clone();
        copy.snapshots.push(Snapshot {
            name: self.begin.to.clone(),
            guid,
            createtxg: next_createtxg(&copy.snapshots),
        });
        copy.mounted_at = None;
        copy.partial = None;
        copy.name = stamp.name.clone();
        copy.size_bytes = stamp.size_bytes;
        copy.epoch = stamp.epoch;
        Some(copy)
    }

    /// Makes way for a stream that begins anew. Refuses a copy of which nothing tells what it is
    /// a copy of; directories need not know.
    async fn make_way(&self) -> Result<(), VolumeError> {
        let Some(copy) = self.here else {
            return Ok(());
        };
        if copy.partial.is_some() {
            if self.begin.resumes {
                return Ok(());
            }
            return self.storage.discard_partial(copy.id).await;
        }
        if copy.snapshots.is_empty() && self.storage.kind() != StorageKind::Directory {
            return Err(VolumeError::NoSnapshots(copy.id));
        }
        Ok(())
    }

    /// Passes the stream on until its end.
    async fn take(
        &self,
        connection: &mut Connection,
        sink: &mut ReceiveSink,
        moved: &(dyn Fn(u64) + Sync),
    ) -> Result<Ended, VolumeError> {
        let Connection { reader, writer, .. } = connection;
        let (mut bytes, mut head) = (0, None);
        loop {
            let message = timeout(self.limits.stall, reader.next_message());
            let message = self.alive(writer, message).await;
            let message = message.map_err(|_| VolumeError::Timeout {
                what: "waiting for bytes of the stream".to_owned(),
                limit: self.limits.stall,
            })??;
            match message {
                Frame::Data(data) => {
                    if bytes == 0 && self.storage.kind() != StorageKind::Directory {
                        head = zstream::head(&data);
                    }
                    bytes += data.len() as u64;
                    if let Err(error) = self.alive(writer, sink.write(data)).await {
                        tracing::debug!(%error, "the taker has ended");
                        return Ok(Ended::Taker);
                    }
                    moved(bytes);
                }
                Frame::End(end) if end.bytes == bytes => return Ok(Ended::Whole(end, head)),
                Frame::End(end) => {
                    return Err(VolumeError::Damaged(format!(
                        "it ended after {bytes} bytes; its sender counted {}",
                        end.bytes
                    )));
                }
                Frame::Nack(body) => {
                    return Err(VolumeError::Refused {
                        peer: reader.address.to_string(),
                        body,
                    });
                }
                other => return Err(out_of_turn(reader, &other)),
            }
        }
    }

    /// Looks at what is here now, and decides by that.
    async fn settle(
        &self,
        stamp: &Stamp,
        to: Option<Guid>,
        finished: Result<(), ReceiveError>,
    ) -> Result<Guid, VolumeError> {
        let now = self.storage.find(stamp.id).await?;
        let snapshots = now
            .as_ref()
            .map(|copy| copy.snapshots.as_slice())
            .unwrap_or_default();
        let touched = finished.as_ref().is_err_and(|error| error.touched);
        let standing = now.as_ref().or(self.here).map(LocalCopy::standing);
        let verdict = standing.map_or(Aftermath::Failed, |standing| {
            aftermath(
                standing,
                snapshots,
                stamp.epoch,
                self.begin.from,
                to,
                touched,
            )
        });
        match (verdict, to, finished) {
            (Aftermath::Received, Some(guid), _) => {
                self.storage.stamp(self.here, stamp).await?;
                Ok(guid)
            }
            (Aftermath::KeepAside(common), _, _) => {
                let copy = now.ok_or(VolumeError::NotFound(stamp.id))?;
                let kept = self
                    .volumes
                    .put_aside(self.entry, &copy, Some(&common), None);
                let reason = match kept.await? {
                    Some(aside) => format!(
                        "the replica had writes of its own, which are kept aside as {}; it went back to {}",
                        aside.key, common.name
                    ),
                    None => format!("the replica went back to {}", common.name),
                };
                Err(VolumeError::Busy {
                    id: stamp.id,
                    reason,
                })
            }
            (_, _, Err(failed)) => Err(failed.error),
            (_, _, Ok(())) => Err(VolumeError::Damaged(
                "the stream was taken, yet its snapshot is not here".to_owned(),
            )),
        }
    }

    async fn alive<T>(&self, writer: &mut FrameWriter, waiting: impl Future<Output = T>) -> T {
        alive(self.limits, writer, waiting).await
    }
}

/// Waits for something while telling the sender that this side is alive. A sender that is
/// gone is noticed by whoever reads next; what is waited for is seen through either way.
async fn alive<T>(
    limits: &TransferLimits,
    writer: &mut FrameWriter,
    waiting: impl Future<Output = T>,
) -> T {
    let mut heartbeat = interval(limits.heartbeat);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeat.reset();
    tokio::pin!(waiting);
    let mut heard = true;
    loop {
        tokio::select! {
            biased;
            done = &mut waiting => return done,
            _ = heartbeat.tick(), if heard => {
                heard = writer.send(&Frame::Heartbeat).await.is_ok();
            }
        }
    }
}
