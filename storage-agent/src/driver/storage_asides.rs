//! The part of the storage seam that keeps aside what only one copy has.

use flocker_api::{
    agent::CreateVolume,
    aside::{Aside, Changes},
    name::VolumeId,
};

use super::storage::{LocalCopy, Storage};
use crate::{error::VolumeError, logic::aside::Note};

impl Storage {
    /// Keeps what a copy, which is not mounted, has after the common snapshot of the note, and
    /// takes the copy back to that; nothing is kept where nothing was written. A copy that has no
    /// common snapshot is kept as a whole, and is then not here any more.
    pub(crate) async fn keep_aside(
        &self,
        copy: &LocalCopy,
        note: &Note,
    ) -> Result<Option<Aside>, VolumeError> {
        match self {
            Self::Zfs(zfs) => zfs.keep_aside(copy, note).await,
            Self::Directory(directory) => directory.keep_aside(copy, note).await,
        }
    }

    /// Whether a replica was written to since its newest snapshot, where only a look can tell: a
    /// dataset that was refuses what it is to receive.
    pub(crate) async fn is_touched(&self, copy: &LocalCopy) -> Result<bool, VolumeError> {
        match self {
            Self::Zfs(_) => Ok(false),
            Self::Directory(directory) => directory.is_touched(copy).await,
        }
    }

    /// Everything that is kept aside on this node.
    pub(crate) async fn asides(&self) -> Result<Vec<Aside>, VolumeError> {
        match self {
            Self::Zfs(zfs) => zfs.asides().await,
            Self::Directory(directory) => directory.asides().await,
        }
    }

    /// Finishes what an end in between has left of [`Self::keep_aside`].
    pub(crate) async fn finish_asides(&self) -> Result<Vec<VolumeId>, VolumeError> {
        match self {
            Self::Zfs(zfs) => zfs.finish_asides().await,
            Self::Directory(directory) => directory.finish_asides().await,
        }
    }

    /// How what is kept aside differs from the snapshot that it has in common with its volume, as
    /// long as that is there. At most so many paths are told.
    pub(crate) async fn aside_changes(
        &self,
        aside: &Aside,
        paths_max: usize,
    ) -> Result<Option<Changes>, VolumeError> {
        match self {
            Self::Zfs(zfs) => zfs.aside_changes(aside, paths_max).await,
            Self::Directory(directory) => directory.aside_changes(aside, paths_max).await,
        }
    }

    /// Makes of what is kept aside a volume of its own: a primary, mounted.
    pub(crate) async fn keep_as_volume(
        &self,
        aside: &Aside,
        request: &CreateVolume,
    ) -> Result<(), VolumeError> {
        match self {
            Self::Zfs(zfs) => zfs.keep_as_volume(aside, request).await,
            Self::Directory(directory) => directory.keep_as_volume(aside, request).await,
        }
    }

    /// Destroys what is kept aside; what is not there is success.
    pub(crate) async fn discard_aside(&self, aside: &Aside) -> Result<(), VolumeError> {
        match self {
            Self::Zfs(zfs) => zfs.discard_aside(aside).await,
            Self::Directory(directory) => directory.discard_aside(aside).await,
        }
    }
}
