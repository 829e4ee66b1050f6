//! Streams that go on where they broke off, and bases that outlive their snapshots.

use flocker_api::{name::VolumeId, volume::Snapshot};

use super::{
    Zfs,
    parse::{self, Failure},
    probe::Capability,
    unless, zfs,
};
use crate::{
    driver::storage::LocalCopy,
    error::VolumeError,
    logic::{
        resume::{Resumption, Unusable, usable, well_formed},
        wire::StreamFeatures,
    },
};

impl Zfs {
    /// What may be in streams that this node makes or takes.
    pub(crate) fn features(&self) -> StreamFeatures {
        self.capabilities.features()
    }

    /// Whether a receiver's token is good for going on with a stream of this volume.
    pub(crate) async fn resumption(
        &self,
        copy: &LocalCopy,
        token: &str,
        theirs: &[Snapshot],
    ) -> Option<Resumption> {
        if !self.capabilities.has(Capability::Resume) {
            return None;
        }
        match self.read_token(copy, token, theirs).await {
            Ok(resumption) => Some(resumption),
            Err(reason) => {
                tracing::info!(volume = %copy.id, %reason, "a stream begins anew");
                None
            }
        }
    }

    async fn read_token(
        &self,
        copy: &LocalCopy,
        text: &str,
        theirs: &[Snapshot],
    ) -> Result<Resumption, String> {
        if !well_formed(text) {
            return Err(Unusable::Malformed.to_string());
        }
        let told = zfs(&["send", "-nvP", "-t", text]).await;
        let told = told.map_err(|error| error.error.to_string())?;
        let token = parse::token(&told).ok_or_else(|| Unusable::Malformed.to_string())?;
        let (dataset, bases) = (self.dataset(copy.id), copy.bases(""));
        let to = usable(&token, &dataset, &copy.snapshots, &bases, theirs);
        Ok(Resumption {
            token: text.to_owned(),
            to: to.map_err(|reason| reason.to_string())?,
            from: token.from,
        })
    }

    /// Throws away what is kept of a stream that broke off. Without any snapshot the whole copy
    /// goes with it.
    pub(crate) async fn discard_partial(&self, id: VolumeId) -> Result<(), VolumeError> {
        match zfs(&["receive", "-A", &self.dataset(id)]).await {
            Err(error) if error.failure == Failure::NotFound => Ok(()),
            result => unless(Failure::NothingPartial, result),
        }
    }

    /// Keeps of a snapshot what the base of an increment needs.
    pub(crate) async fn bookmark(&self, id: VolumeId, name: &str) -> Result<(), VolumeError> {
        if !self.capabilities.has(Capability::Bookmarks) {
            return Ok(());
        }
        let dataset = self.dataset(id);
        let (snapshot, bookmark) = (format!("{dataset}@{name}"), format!("{dataset}#{name}"));
        let made = zfs(&["bookmark", &snapshot, &bookmark]).await;
        unless(Failure::Exists, made)
    }

    /// Destroys a bookmark; its name begins with its mark.
    pub(crate) async fn destroy_bookmark(
        &self,
        id: VolumeId,
        name: &str,
    ) -> Result<(), VolumeError> {
        let bookmark = format!("{}{name}", self.dataset(id));
        unless(Failure::NotFound, zfs(&["destroy", &bookmark]).await)
    }
}
