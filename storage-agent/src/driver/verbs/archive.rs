//! Archives: volumes to a file or a pipe, and back.
//!
//! An archive is made of a snapshot and taken into a volume that is there only once the archive
//! has been read to its end and found whole. Neither side holds more of it than a few pieces.

use std::{collections::VecDeque, io, time::Duration};

use bytes::Bytes;
use flocker_api::{
    ErrorBody,
    agent::StorageKind,
    error::chain,
    name::{VolumeId, VolumeName},
    volume::{Epoch, Role, Snapshot, VolumeStatus},
};
use futures_util::{Stream, StreamExt as _};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    driver::{
        index::Pin,
        jobs::{Job, now_ms},
        storage::{ReceiveSink, Stamp, Stream as Wanted},
        volumes::{Volumes, fresh, next_label, primary},
    },
    error::VolumeError,
    logic::{
        archive::{Head, Item, Reader, Writer},
        verbs::find_snapshot,
        wire::StreamFeatures,
    },
};

/// Pieces that wait between the maker and whoever reads.
const QUEUE: usize = 4;

/// What an archive is taken into.
#[derive(Debug, Clone)]
pub(crate) struct Into {
    pub(crate) volume: VolumeId,
    pub(crate) name: VolumeName,
    pub(crate) epoch: Epoch,
}

/// An archive that is about to be made.
#[derive(Debug)]
pub(crate) struct Outgoing {
    head: Head,
    _pins: Vec<Pin>,
}

fn damaged(error: &dyn std::error::Error) -> VolumeError {
    VolumeError::Damaged(format!("the archive: {}", chain(error)))
}

impl Volumes {
    /// Finds out what is to be in an archive. Without a snapshot it is what is there now, or the
    /// newest that a replica has.
    pub(crate) async fn outgoing(
        &self,
        id: VolumeId,
        snapshot: Option<&str>,
        since: Option<&str>,
        job: &Job,
    ) -> Result<Outgoing, VolumeError> {
        let entry = self.entry(id);
        let _lock = entry.lock.lock().await;
        let mut copy = self.copy(id).await?;
        job.named(&copy.name);
        if copy.encrypted {
            return Err(VolumeError::Encrypted(id));
        }
        if snapshot.is_none() && copy.role == Role::Primary {
            primary(&copy, copy.epoch)?;
            entry.forget();
            let label = next_label(copy.epoch);
            self.storage().snapshot(id, &label, copy.epoch).await?;
            self.touched(id);
            self.tidy_later(id);
            copy = self.copy(id).await?;
        }
        let to = match snapshot {
            Some(name) => find_snapshot(id, &copy.snapshots, name)?.clone(),
            None => copy.newest().cloned().ok_or(VolumeError::NoSnapshots(id))?,
        };
        let from = since.map(|name| find_snapshot(id, &copy.snapshots, name));
        let from: Option<Snapshot> = from.transpose()?.cloned();
        if let Some(from) = from.as_ref().filter(|from| from.createtxg >= to.createtxg) {
            return Err(VolumeError::Refusal(format!(
                "snapshot '{}' is not older than '{}'",
                from.name, to.name
            )));
        }
        let pins = [Some(&to), from.as_ref()].into_iter().flatten();
        let pins = pins.map(|snapshot| entry.pin(&snapshot.name)).collect();
        let stream = Wanted {
            from: from.as_ref().map(|from| from.name.as_str()),
            to: &to.name,
            takes: StreamFeatures::default(),
            token: None,
        };
        let bytes_expected = self.storage().estimate(id, &stream).await;
        job.expect(bytes_expected);
        Ok(Outgoing {
            head: Head {
                storage: self.storage().kind(),
                volume: id,
                name: copy.name,
                node: self.node().clone(),
                size_bytes: copy.size_bytes,
                snapshot: to,
                from,
                made_ms: now_ms(),
                bytes_expected,
            },
            _pins: pins,
        })
    }

    /// An archive of a volume, as no job.
    ///
    /// # Errors
    /// When there is no such volume or snapshot.
    pub async fn export(
        &self,
        id: VolumeId,
        snapshot: Option<&str>,
        since: Option<&str>,
    ) -> Result<impl Stream<Item = Result<Bytes, io::Error>> + Send + use<>, VolumeError> {
        let job = Job::alone("send", id);
        let outgoing = self.outgoing(id, snapshot, since, &job).await?;
        Ok(self.send_archive(outgoing, job))
    }

    /// Takes an archive, as no job; whether an app uses the volume is not looked at.
    ///
    /// # Errors
    /// When it is damaged, or does not fit.
    pub async fn import<E: std::error::Error>(
        &self,
        volume: VolumeId,
        name: VolumeName,
        epoch: Epoch,
        bytes: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<VolumeStatus, VolumeError> {
        let into = Into {
            volume,
            name,
            epoch,
        };
        let job = Job::alone("receive", volume);
        self.receive_archive(&into, bytes, &job).await
    }

    /// Makes an archive; it comes out in pieces. An error in it cuts it off.
    pub(crate) fn send_archive(
        &self,
        outgoing: Outgoing,
        job: Job,
    ) -> impl Stream<Item = Result<Bytes, io::Error>> + Send + use<> {
        let (sender, pieces) = mpsc::channel(QUEUE);
        let volumes = self.clone();
        tokio::spawn(async move {
            let making = volumes.make_archive(&outgoing, &job, &sender);
            let made = tokio::select! {
                made = making => made,
                () = job.cancel().cancelled() => Err(VolumeError::Cancelled),
            };
            if let Err(error) = &made {
                // It may be that nobody reads any more.
                drop(sender.send(Err(io::Error::other(chain(error)))).await);
            }
            job.end(
                made.map(|()| serde_json::Value::Null)
                    .map_err(ErrorBody::from),
            );
        });
        futures_util::stream::unfold(pieces, |mut pieces| async move {
            let piece = pieces.recv().await?;
            Some((piece, pieces))
        })
    }

    async fn make_archive(
        &self,
        outgoing: &Outgoing,
        job: &Job,
        to: &mpsc::Sender<Result<Bytes, io::Error>>,
    ) -> Result<(), VolumeError> {
        let head = &outgoing.head;
        let put = |bytes: Bytes| async move {
            let gone =
                || VolumeError::io("nobody reads the archive", io::ErrorKind::BrokenPipe.into());
            to.send(Ok(bytes)).await.map_err(|_| gone())
        };
        let mut writer = Writer::default();
        put(writer.head(head)).await?;
        let stream = Wanted {
            from: head.from.as_ref().map(|from| from.name.as_str()),
            to: &head.snapshot.name,
            takes: StreamFeatures::default(),
            token: None,
        };
        let mut stream = self.storage().send(head.volume, &stream)?;
        while let Some(piece) = stream.next().await? {
            job.moved(piece.len() as u64);
            put(writer.data(&piece)).await?;
        }
        stream.finish().await?;
        put(writer.end()).await
    }

    /// Takes an archive into a new volume, or an increment into one that is as it was then.
    pub(crate) async fn receive_archive<E: std::error::Error>(
        &self,
        into: &Into,
        bytes: impl Stream<Item = Result<Bytes, E>> + Send,
        job: &Job,
    ) -> Result<VolumeStatus, VolumeError> {
        let entry = self.entry(into.volume);
        let _lock = entry.lock.lock().await;
        entry.forget();
        job.named(&into.name);
        let mut source = Source {
            bytes: std::pin::pin!(bytes),
            reader: Reader::default(),
            items: VecDeque::new(),
            stall: self.limits().stall,
        };
        let head = match source.next().await? {
            Item::Head(head) => *head,
            Item::Data(_) | Item::End => return Err(VolumeError::Damaged("no head".to_owned())),
        };
        job.expect(head.bytes_expected);
        self.check_kind(head.storage)?;
        let taken = match &head.from {
            None => self.take_whole(into, &head, &mut source, job).await,
            Some(from) => {
                self.take_increment(into, &head, from, &mut source, job)
                    .await
            }
        };
        entry.forget();
        taken?;
        let copy = self.copy(into.volume).await?;
        self.storage().promote(&copy, into.epoch).await?;
        self.get(into.volume).await
    }

    fn check_kind(&self, made_by: StorageKind) -> Result<(), VolumeError> {
        let here = self.storage().kind();
        let tree = |kind| kind == StorageKind::Directory;
        if tree(here) == tree(made_by) {
            return Ok(());
        }
        Err(VolumeError::StorageMismatch {
            sender: made_by,
            receiver: here,
        })
    }

    async fn take_whole<B, E>(
        &self,
        into: &Into,
        head: &Head,
        source: &mut Source<'_, B>,
        job: &Job,
    ) -> Result<(), VolumeError>
    where
        B: Stream<Item = Result<Bytes, E>> + Send,
        E: std::error::Error,
    {
        let copies = self.storage().list_all().await?;
        let taken = |other: &&crate::driver::storage::LocalCopy| {
            other.id == into.volume || (other.name == into.name && other.trash.is_none())
        };
        if let Some(other) = copies.iter().find(taken) {
            return Err(VolumeError::NameTaken {
                name: into.name.clone(),
                id: other.id,
            });
        }
        let stamp = Stamp {
            id: into.volume,
            name: into.name.clone(),
            size_bytes: head.size_bytes,
            epoch: into.epoch,
        };
        let storage = self.storage();
        let sink = storage.receive_new(&stamp, &head.snapshot.name).await?;
        let arrived = async {
            take(source, sink, &into.name, job).await?;
            storage.settle_new(into.volume).await?;
            self.check_arrived(into.volume, head).await?;
            storage.stamp(None, &stamp).await
        };
        let arrived = arrived.await;
        if arrived.is_err() {
            storage.drop_new(into.volume).await?;
        }
        arrived
    }

    async fn check_arrived(&self, id: VolumeId, head: &Head) -> Result<(), VolumeError> {
        let arrived = self
            .storage()
            .find_snapshot(id, &head.snapshot.name)
            .await?;
        if arrived.guid == head.snapshot.guid {
            return Ok(());
        }
        Err(VolumeError::Damaged(format!(
            "the archive has snapshot {}, it says {}",
            arrived.guid, head.snapshot.guid
        )))
    }

    async fn take_increment<B, E>(
        &self,
        into: &Into,
        head: &Head,
        from: &Snapshot,
        source: &mut Source<'_, B>,
        job: &Job,
    ) -> Result<(), VolumeError>
    where
        B: Stream<Item = Result<Bytes, E>> + Send,
        E: std::error::Error,
    {
        let copy = self.copy(into.volume).await?;
        fresh(&copy, into.epoch)?;
        let newest = copy.newest().filter(|newest| newest.guid == from.guid);
        let Some(newest) = newest.cloned() else {
            return Err(VolumeError::Refusal(format!(
                "the archive is an increment on snapshot {} ({}), which is not the newest of volume {}",
                from.name, from.guid, copy.name
            )));
        };
        let storage = self.storage();
        storage.unmount(&copy).await?;
        if storage.is_touched(&copy).await? {
            storage.mount(&copy).await?;
            return Err(changed(&copy.name));
        }
        let stamp = Stamp {
            id: copy.id,
            name: copy.name.clone(),
            size_bytes: copy.size_bytes,
            epoch: copy.epoch,
        };
        let sink = storage.receive(&stamp, Some(from.guid), &head.snapshot.name)?;
        let arrived = async {
            take(source, sink, &into.name, job).await?;
            self.check_arrived(copy.id, head).await?;
            storage.refresh(copy.id).await
        };
        let arrived = arrived.await;
        if arrived.is_err() {
            let now = storage.find(copy.id).await?;
            let now = now.ok_or(VolumeError::NotFound(copy.id))?;
            if now.partial.is_some() {
                storage.discard_partial(copy.id).await?;
            }
            if now.newest().is_some_and(|now| now.guid != newest.guid) {
                storage.rewind(&now, &newest.name).await?;
            }
            storage.mount(&now).await?;
        }
        arrived
    }
}

fn changed(name: &VolumeName) -> VolumeError {
    VolumeError::Refusal(format!(
        "volume {name} was changed since the snapshot on which the archive is an increment"
    ))
}

/// Passes the stream of an archive on. Where the archive is damaged the taker sees an early end,
/// and undoes what it did.
async fn take<B, E>(
    source: &mut Source<'_, B>,
    mut sink: ReceiveSink,
    name: &VolumeName,
    job: &Job,
) -> Result<(), VolumeError>
where
    B: Stream<Item = Result<Bytes, E>> + Send,
    E: std::error::Error,
{
    let passing = async {
        loop {
            let item = tokio::select! {
                item = source.next() => item?,
                () = job.cancel().cancelled() => return Err(VolumeError::Cancelled),
            };
            match item {
                Item::Data(piece) => {
                    job.moved(piece.len() as u64);
                    if sink.write(piece).await.is_err() {
                        // It has ended; its end says why.
                        return Ok(false);
                    }
                }
                Item::End => return source.over().await.map(|()| true),
                Item::Head(_) => {
                    return Err(VolumeError::Damaged("the archive has two heads".to_owned()));
                }
            }
        }
    };
    let passed = passing.await;
    let ended = sink.finish().await;
    match (passed?, ended) {
        (_, Err(error)) if error.touched => Err(changed(name)),
        (_, Err(error)) => Err(error.error),
        (true, Ok(())) => Ok(()),
        (false, Ok(())) => Err(VolumeError::Damaged(
            "the file system ended before the archive did".to_owned(),
        )),
    }
}

/// An archive that comes in.
struct Source<'a, B> {
    bytes: std::pin::Pin<&'a mut B>,
    reader: Reader,
    items: VecDeque<Item>,
    stall: Duration,
}

impl<B, E> Source<'_, B>
where
    B: Stream<Item = Result<Bytes, E>> + Send,
    E: std::error::Error,
{
    /// The next item.
    async fn next(&mut self) -> Result<Item, VolumeError> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return Ok(item);
            }
            if !self.more().await? {
                return Err(self.reader.finish().map_or_else(
                    |error| damaged(&error),
                    |()| VolumeError::Damaged("the archive has no stream".to_owned()),
                ));
            }
        }
    }

    /// Reads on; whether there was more.
    async fn more(&mut self) -> Result<bool, VolumeError> {
        let piece = timeout(self.stall, self.bytes.next()).await;
        let piece = piece.map_err(|_| VolumeError::Timeout {
            what: "waiting for bytes of the archive".to_owned(),
            limit: self.stall,
        })?;
        let Some(piece) = piece else {
            return Ok(false);
        };
        let piece = piece.map_err(|error| damaged(&error))?;
        self.reader.feed(&piece);
        while let Some(item) = self.reader.item().map_err(|error| damaged(&error))? {
            self.items.push_back(item);
        }
        Ok(true)
    }

    /// Nothing may follow the end.
    async fn over(&mut self) -> Result<(), VolumeError> {
        while self.more().await? {}
        self.reader.finish().map_err(|error| damaged(&error))
    }
}
