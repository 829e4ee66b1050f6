//! Bases of increments that outlive their snapshots.
//!
//! What a peer has acknowledged is kept as a snapshot, for that can serve the way back as well.
//! Once it is older than what is kept anyway it is bookmarked besides: should somebody destroy it
//! for the space that it holds, the peer still gets an increment.

use flocker_api::{
    replication::Keep,
    volume::{Guid, Role},
};

use super::{index::Entry, storage::LocalCopy, volumes::Volumes};
use crate::{error::VolumeError, logic::retention::expendable};

impl Volumes {
    /// Bookmarks the pinned snapshots that only their pins keep, and drops the bookmarks of what
    /// is pinned no more.
    pub(super) async fn bookmark_bases(
        &self,
        entry: &Entry,
        copy: &LocalCopy,
        pins: &[Guid],
        keep: &Keep,
    ) -> Result<(), VolumeError> {
        if copy.role != Role::Primary {
            return Ok(());
        }
        let known = |guid| copy.bookmarks.iter().any(|b| b.guid == guid);
        for base in expendable(&copy.snapshots, &[], keep) {
            if pins.contains(&base.guid) && !known(base.guid) {
                entry.forget();
                self.storage().bookmark(copy.id, &base.name).await?;
            }
        }
        for bookmark in &copy.bookmarks {
            if !pins.contains(&bookmark.guid) {
                entry.forget();
                let destroyed = self.storage().destroy_bookmark(copy.id, &bookmark.name);
                destroyed.await?;
            }
        }
        Ok(())
    }
}
