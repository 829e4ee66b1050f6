//! The seam between volumes and what stores them: ZFS, or directories.
//!
//! A storage does what it is told, under a lock that its caller holds per volume; who may do
//! what, and when, is decided above it.
//!
//! It is long because the whole seam is in one place: a short method for each thing that a storage
//! does.

use std::path::PathBuf;

use bytes::Bytes;
use flocker_api::{
    agent::{CreateVolume, StorageKind, StorageStatus},
    name::{VolumeId, VolumeName},
    replication::SetReplication,
    volume::{Epoch, Guid, Role, Snapshot, VolumeStatus},
    work::{SnapshotDetail, Trash},
};

use super::{directory::Directory, fence::mounts::mounted_below, zfs::Zfs};
use crate::{
    error::VolumeError,
    logic::{
        resume::Resumption,
        schedule::Sight,
        transfer::Standing,
        wire::StreamFeatures,
        zstream::{self, Head},
    },
};

/// A copy of a volume on this node, as its storage has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalCopy {
    pub(crate) id: VolumeId,
    pub(crate) name: VolumeName,
    pub(crate) role: Role,
    pub(crate) epoch: Epoch,
    /// The epoch under which a replica was last a primary, if it was one.
    pub(crate) wrote: Option<Epoch>,
    pub(crate) size_bytes: Option<u64>,
    pub(crate) used_bytes: u64,
    pub(crate) mounted_at: Option<PathBuf>,
    /// Oldest first.
    pub(crate) snapshots: Vec<Snapshot>,
    /// What is left of snapshots that are gone: bases of increments, and nothing else. Their
    /// names begin with `#`.
    pub(crate) bookmarks: Vec<Snapshot>,
    /// Encrypted by the file system itself.
    pub(crate) encrypted: bool,
    /// A stream that broke off is kept in part; the token by which its sender goes on with it.
    pub(crate) partial: Option<String>,
    /// What peers have acknowledged, as far as it has been written down.
    pub(crate) acknowledged: Vec<Guid>,
    /// How it shall be replicated while it is the primary of the epoch in there.
    pub(crate) replication: Option<SetReplication>,
    /// Since when it is in the trash, if it is.
    pub(crate) trash: Option<Trash>,
    /// The snapshot of another volume with which it shares, and which cannot go before it.
    pub(crate) origin: Option<(VolumeId, String)>,
}

/// A snapshot that can be read as files. It has to be put away again.
#[derive(Debug)]
pub(crate) struct Peek {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// What keeps it there, if anything does.
    pub(crate) dataset: Option<String>,
}

impl LocalCopy {
    pub(crate) fn standing(&self) -> Standing {
        Standing {
            role: self.role,
            epoch: self.epoch,
        }
    }

    /// The epoch under which this node last wrote to it.
    pub(crate) fn wrote_under(&self) -> Option<Epoch> {
        match self.role {
            Role::Primary => Some(self.epoch),
            Role::Replica => self.wrote,
        }
    }

    /// What an increment can start from, but for the snapshot that it shall bring.
    pub(crate) fn bases(&self, but: &str) -> Vec<Snapshot> {
        let snapshots = self.snapshots.iter().filter(|s| s.name != but);
        let gone = self.bookmarks.iter();
        let gone = gone.filter(|b| self.snapshots.iter().all(|s| s.guid != b.guid));
        snapshots.chain(gone).cloned().collect()
    }

    pub(crate) fn newest(&self) -> Option<&Snapshot> {
        self.snapshots.last()
    }

    pub(crate) fn status(self) -> VolumeStatus {
        VolumeStatus {
            id: self.id,
            name: self.name,
            role: self.role,
            epoch: self.epoch,
            mounted_at: self.mounted_at,
            used_bytes: self.used_bytes,
            size_bytes: self.size_bytes,
            snapshots: self.snapshots,
            transfer: None,
            replication: None,
        }
    }
}

/// What a replica is stamped with: the sender's word on the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) id: VolumeId,
    pub(crate) name: VolumeName,
    pub(crate) size_bytes: Option<u64>,
    pub(crate) epoch: Epoch,
}

/// A storage.
#[derive(Debug)]
pub(crate) enum Storage {
    Zfs(Zfs),
    Directory(Directory),
}

/// A stream that is being made. Dropping it ends its maker.
#[derive(Debug)]
pub(crate) enum SendStream {
    Zfs(Box<super::zfs::Sending>),
    Directory(super::directory::Sending),
}

impl SendStream {
    /// The next bytes; `None` at the end. Can be dropped and called again.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, VolumeError> {
        match self {
            Self::Zfs(stream) => stream.next().await,
            Self::Directory(stream) => stream.next().await,
        }
    }

    /// What the stream makes, and whether it brings nothing: the files are what they were.
    /// `None` where a stream does not tell that by its first bytes.
    pub(crate) async fn peek(&mut self) -> Result<Option<(Head, bool)>, VolumeError> {
        match self {
            Self::Zfs(stream) => {
                let (bytes, whole) = stream.peek().await?;
                Ok(zstream::head(bytes).map(|head| (head, whole)))
            }
            Self::Directory(_) => Ok(None),
        }
    }

    /// Whether the maker ended well; only then is the stream whole.
    pub(crate) async fn finish(self) -> Result<(), VolumeError> {
        match self {
            Self::Zfs(stream) => stream.finish().await,
            Self::Directory(_) => Ok(()),
        }
    }
}

/// A stream that is being taken in.
#[derive(Debug)]
pub(crate) enum ReceiveSink {
    Zfs(Box<super::zfs::Receiving>),
    Directory(super::directory::Receiving),
}

/// A stream to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stream<'a> {
    /// The snapshot or bookmark that the receiver has; `None` for a full stream.
    pub(crate) from: Option<&'a str>,
    /// The snapshot to send.
    pub(crate) to: &'a str,
    /// What the receiver takes.
    pub(crate) takes: StreamFeatures,
    /// The token of the stream that it goes on with, if it does.
    pub(crate) token: Option<&'a str>,
}

/// Why a stream was not taken.
#[derive(Debug)]
pub(crate) struct ReceiveError {
    /// The copy was modified since its newest snapshot.
    pub(crate) touched: bool,
    pub(crate) error: VolumeError,
}

impl ReceiveSink {
    /// Passes bytes on. An error says only that the taker has ended: [`Self::finish`] knows why.
    pub(crate) async fn write(&mut self, bytes: Bytes) -> std::io::Result<()> {
        match self {
            Self::Zfs(sink) => sink.write(&bytes).await,
            Self::Directory(sink) => sink.write(bytes).await,
        }
    }

    /// Ends the stream and waits for the taker. Where the stream was not whole this is how a
    /// receive is aborted: the taker sees an early end and undoes what it did.
    pub(crate) async fn finish(self) -> Result<(), ReceiveError> {
        match self {
            Self::Zfs(sink) => sink.finish().await,
            Self::Directory(sink) => sink.finish().await,
        }
    }
}

macro_rules! each {
    ($self:ident, $storage:ident => $call:expr) => {
        match $self {
            Self::Zfs($storage) => $call.await,
            Self::Directory($storage) => $call.await,
        }
    };
}

impl Storage {
    pub(crate) fn kind(&self) -> StorageKind {
        match self {
            Self::Zfs(zfs) => zfs.kind(),
            Self::Directory(_) => StorageKind::Directory,
        }
    }

    pub(crate) async fn status(&self) -> StorageStatus {
        each!(self, s => s.status())
    }

    /// What is known against this version of the file system, if anything is.
    pub(crate) fn doubt(&self) -> Option<&str> {
        match self {
            Self::Zfs(zfs) => zfs.doubt(),
            Self::Directory(_) => None,
        }
    }

    /// Every copy that is not in the trash.
    pub(crate) async fn list(&self) -> Result<Vec<LocalCopy>, VolumeError> {
        let mut copies = self.list_all().await?;
        copies.retain(|copy| copy.trash.is_none());
        Ok(copies)
    }

    /// Every copy, those in the trash too.
    pub(crate) async fn list_all(&self) -> Result<Vec<LocalCopy>, VolumeError> {
        each!(self, s => s.list())
    }

    /// A copy that is not in the trash.
    pub(crate) async fn find(&self, id: VolumeId) -> Result<Option<LocalCopy>, VolumeError> {
        let copy = self.find_any(id).await?;
        Ok(copy.filter(|copy| copy.trash.is_none()))
    }

    /// A copy, be it in the trash or not.
    pub(crate) async fn find_any(&self, id: VolumeId) -> Result<Option<LocalCopy>, VolumeError> {
        each!(self, s => s.find(id))
    }

    /// Those of these paths at which nothing of ours is mounted any more: the fence mounts
    /// nothing, but takes away. Asks the kernel, not the file system's programs.
    pub(crate) fn taken_away(&self, paths: &[PathBuf]) -> Vec<PathBuf> {
        match self {
            Self::Zfs(_) => {
                let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
                let mounted = mounted_below(&text, "");
                let gone = |path: &&PathBuf| !mounted.iter().any(|(_, place)| place == *path);
                paths.iter().filter(gone).cloned().collect()
            }
            Self::Directory(_) => {
                let gone = |path: &&PathBuf| std::fs::read_link(path).is_err();
                paths.iter().filter(gone).cloned().collect()
            }
        }
    }

    /// Fills in what [`Self::find`] leaves out because it takes long.
    pub(crate) async fn measure(&self, copy: LocalCopy) -> Result<LocalCopy, VolumeError> {
        match self {
            Self::Zfs(_) => Ok(copy),
            Self::Directory(directory) => Ok(LocalCopy {
                used_bytes: directory.used_bytes(copy.id).await?,
                ..copy
            }),
        }
    }

    /// A new primary, mounted.
    pub(crate) async fn create(&self, request: &CreateVolume) -> Result<(), VolumeError> {
        each!(self, s => s.create(request))
    }

    /// Unmounts and destroys with all snapshots.
    pub(crate) async fn destroy(&self, copy: &LocalCopy) -> Result<(), VolumeError> {
        each!(self, s => s.destroy(copy))
    }

    /// Takes a snapshot; answers with it where that costs nothing.
    pub(crate) async fn snapshot(
        &self,
        id: VolumeId,
        name: &str,
        epoch: Epoch,
    ) -> Result<Option<Snapshot>, VolumeError> {
        each!(self, s => s.snapshot(id, name, epoch))
    }

    /// One snapshot by name.
    pub(crate) async fn find_snapshot(
        &self,
        id: VolumeId,
        name: &str,
    ) -> Result<Snapshot, VolumeError> {
        each!(self, s => s.find_snapshot(id, name))
    }

    /// Destroys several at once; one that is gone already is success.
    pub(crate) async fn destroy_snapshots(
        &self,
        id: VolumeId,
        names: &[String],
    ) -> Result<(), VolumeError> {
        match self {
            Self::Zfs(zfs) => zfs.destroy_snapshots(id, names).await,
            Self::Directory(directory) => {
                for name in names {
                    directory.destroy_snapshot(id, name).await?;
                }
                Ok(())
            }
        }
    }

    pub(crate) async fn destroy_snapshot(
        &self,
        id: VolumeId,
        name: &str,
    ) -> Result<(), VolumeError> {
        each!(self, s => s.destroy_snapshot(id, name))
    }

    /// Writable, mounted fresh, primary of that epoch.
    pub(crate) async fn promote(&self, copy: &LocalCopy, epoch: Epoch) -> Result<(), VolumeError> {
        each!(self, s => s.promote(copy, epoch))
    }

    /// Unmounted, which proves that nobody uses it; read-only; replica at that epoch.
    pub(crate) async fn demote(&self, copy: &LocalCopy, epoch: Epoch) -> Result<(), VolumeError> {
        each!(self, s => s.demote(copy, epoch))
    }

    /// Read-only at its next mount, whoever mounts it. A directory is mounted by the agent only.
    pub(crate) async fn seal(&self, id: VolumeId) -> Result<(), VolumeError> {
        match self {
            Self::Zfs(zfs) => zfs.seal(id).await,
            Self::Directory(_) => Ok(()),
        }
    }

    pub(crate) async fn mount(&self, copy: &LocalCopy) -> Result<(), VolumeError> {
        each!(self, s => s.mount(copy))
    }

    pub(crate) async fn unmount(&self, copy: &LocalCopy) -> Result<(), VolumeError> {
        each!(self, s => s.unmount(copy))
    }

    /// Finishes or undoes what an agent that was killed had begun.
    pub(crate) async fn recover(&self) -> Result<(), VolumeError> {
        each!(self, s => s.recover())
    }

    /// Sets or takes away the limit.
    pub(crate) async fn resize(
        &self,
        id: VolumeId,
        size_bytes: Option<u64>,
    ) -> Result<(), VolumeError> {
        each!(self, s => s.resize(id, size_bytes))
    }

    /// Snapshots with what they cost, oldest first.
    pub(crate) async fn details(
        &self,
        copy: &LocalCopy,
    ) -> Result<Vec<SnapshotDetail>, VolumeError> {
        each!(self, s => s.details(copy))
    }

    /// A new primary that begins as a snapshot of a copy, mounted.
    pub(crate) async fn clone_to(
        &self,
        copy: &LocalCopy,
        snapshot: &str,
        new: &CreateVolume,
    ) -> Result<(), VolumeError> {
        each!(self, s => s.clone_to(copy, snapshot, new))
    }

    /// Puts an unmounted copy into the trash, or takes it out, under that name.
    pub(crate) async fn set_trash(
        &self,
        copy: &LocalCopy,
        trash: Option<&Trash>,
        name: &VolumeName,
    ) -> Result<(), VolumeError> {
        each!(self, s => s.set_trash(copy, trash, name))
    }

    /// Writes down that an unmounted copy is about to become another volume, which is being put
    /// aside: [`Self::recover`] sees it through, or undoes it.
    pub(crate) async fn will_become(
        &self,
        with: &LocalCopy,
        volume: &LocalCopy,
    ) -> Result<(), VolumeError> {
        each!(self, s => s.will_become(with, volume))
    }

    /// What is in an unmounted copy is its newest snapshot from now on. Datasets need not be told.
    pub(crate) async fn refresh(&self, id: VolumeId) -> Result<(), VolumeError> {
        match self {
            Self::Zfs(_) => Ok(()),
            Self::Directory(directory) => directory.refresh(id).await,
        }
    }

    /// Back to a snapshot of an unmounted copy; the newer ones are destroyed.
    pub(crate) async fn rewind(&self, copy: &LocalCopy, to: &str) -> Result<(), VolumeError> {
        each!(self, s => s.rewind(copy, to))
    }

    /// Takes a stream into what is no volume yet.
    pub(crate) async fn receive_new(
        &self,
        stamp: &Stamp,
        to: &str,
    ) -> Result<ReceiveSink, VolumeError> {
        match self {
            Self::Zfs(zfs) => zfs
                .receive_new(stamp.id)
                .map(|s| ReceiveSink::Zfs(Box::new(s))),
            Self::Directory(directory) => {
                directory.expect_new(stamp.id).await?;
                Ok(ReceiveSink::Directory(directory.receive(stamp, None, to)))
            }
        }
    }

    /// What has arrived becomes a volume.
    pub(crate) async fn settle_new(&self, id: VolumeId) -> Result<(), VolumeError> {
        each!(self, s => s.settle_new(id))
    }

    /// What has arrived goes, be it a volume already.
    pub(crate) async fn drop_new(&self, id: VolumeId) -> Result<(), VolumeError> {
        each!(self, s => s.drop_new(id))
    }

    /// Bytes of what is in it now, without its snapshots.
    pub(crate) async fn referenced_bytes(&self, copy: &LocalCopy) -> Result<u64, VolumeError> {
        each!(self, s => s.referenced_bytes(copy.id))
    }

    /// Whether clones share with what they began from, which must stay for as long.
    pub(crate) fn shares(&self) -> bool {
        matches!(self, Self::Zfs(_))
    }

    /// Destroys the snapshots from which clones began that are no more.
    pub(crate) async fn drop_orphans(&self) -> Result<(), VolumeError> {
        match self {
            Self::Zfs(zfs) => zfs.drop_orphans().await,
            Self::Directory(_) => Ok(()),
        }
    }

    /// Makes a snapshot readable as files.
    pub(crate) async fn peek(&self, id: VolumeId, snapshot: &str) -> Result<Peek, VolumeError> {
        each!(self, s => s.peek(id, snapshot))
    }

    /// Puts away what was made readable.
    pub(crate) async fn unpeek(&self, peek: &Peek) -> Result<(), VolumeError> {
        match self {
            Self::Zfs(zfs) => zfs.unpeek(peek).await,
            Self::Directory(_) => Ok(()),
        }
    }

    /// Keeps of a snapshot what the base of an increment needs, where that can be done.
    pub(crate) async fn bookmark(&self, id: VolumeId, name: &str) -> Result<(), VolumeError> {
        match self {
            Self::Zfs(zfs) => zfs.bookmark(id, name).await,
            Self::Directory(_) => Ok(()),
        }
    }

    /// Destroys a bookmark.
    pub(crate) async fn destroy_bookmark(
        &self,
        id: VolumeId,
        name: &str,
    ) -> Result<(), VolumeError> {
        match self {
            Self::Zfs(zfs) => zfs.destroy_bookmark(id, name).await,
            Self::Directory(_) => Ok(()),
        }
    }

    /// Whether a receiver's token is good for going on with a stream of this volume.
    pub(crate) async fn resumption(
        &self,
        copy: &LocalCopy,
        token: &str,
        theirs: &[Snapshot],
    ) -> Option<Resumption> {
        match self {
            Self::Zfs(zfs) => zfs.resumption(copy, token, theirs).await,
            Self::Directory(_) => None,
        }
    }

    /// Throws away what is kept of a stream that broke off.
    pub(crate) async fn discard_partial(&self, id: VolumeId) -> Result<(), VolumeError> {
        match self {
            Self::Zfs(zfs) => zfs.discard_partial(id).await,
            Self::Directory(_) => Ok(()),
        }
    }

    /// What may be in a stream that this storage takes.
    pub(crate) fn features(&self) -> StreamFeatures {
        match self {
            Self::Zfs(zfs) => zfs.features(),
            Self::Directory(_) => StreamFeatures::default(),
        }
    }

    /// How long a stream will be, where that is known before it is made.
    pub(crate) async fn estimate(&self, id: VolumeId, stream: &Stream<'_>) -> Option<u64> {
        match self {
            Self::Zfs(zfs) => zfs.estimate(id, stream).await,
            Self::Directory(_) => None,
        }
    }

    /// Writes down what peers have acknowledged.
    pub(crate) async fn set_acknowledged(
        &self,
        id: VolumeId,
        guids: &[Guid],
    ) -> Result<(), VolumeError> {
        each!(self, s => s.set_acknowledged(id, guids))
    }

    /// Writes down how it shall be replicated.
    pub(crate) async fn set_replication(
        &self,
        id: VolumeId,
        replication: Option<&SetReplication>,
    ) -> Result<(), VolumeError> {
        each!(self, s => s.set_replication(id, replication))
    }

    /// What was written to volumes since these snapshots of theirs, which are their newest.
    pub(crate) async fn look(&self, volumes: &[(VolumeId, String)]) -> Vec<(VolumeId, Sight)> {
        each!(self, s => s.look(volumes))
    }

    /// Makes a received copy what its sender says that the volume is; sets only what differs.
    pub(crate) async fn stamp(
        &self,
        here: Option<&LocalCopy>,
        stamp: &Stamp,
    ) -> Result<(), VolumeError> {
        each!(self, s => s.stamp(here, stamp))
    }

    pub(crate) fn send(
        &self,
        id: VolumeId,
        stream: &Stream<'_>,
    ) -> Result<SendStream, VolumeError> {
        match self {
            Self::Zfs(zfs) => zfs.send(id, stream).map(|s| SendStream::Zfs(Box::new(s))),
            Self::Directory(directory) => {
                let sending = directory.send(id, stream.from, stream.to);
                Ok(SendStream::Directory(sending))
            }
        }
    }

    pub(crate) fn receive(
        &self,
        stamp: &Stamp,
        from: Option<Guid>,
        to: &str,
    ) -> Result<ReceiveSink, VolumeError> {
        match self {
            Self::Zfs(zfs) => zfs.receive(stamp.id).map(|s| ReceiveSink::Zfs(Box::new(s))),
            Self::Directory(directory) => {
                Ok(ReceiveSink::Directory(directory.receive(stamp, from, to)))
            }
        }
    }
}
