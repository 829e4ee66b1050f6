//! What was written to datasets since their newest snapshots.

use flocker_api::{agent::StorageKind, name::VolumeId};

use super::{Zfs, zfs};
use crate::logic::schedule::Sight;

impl Zfs {
    /// One program for all of them, where there is a property that tells.
    pub(crate) async fn look(&self, volumes: &[(VolumeId, String)]) -> Vec<(VolumeId, Sight)> {
        let written = match self.capabilities.kind {
            StorageKind::OpenZfs => self.written(volumes).await,
            StorageKind::ZfsFuse | StorageKind::Directory => None,
        };
        let sight = |(id, _): &(VolumeId, String)| {
            let bytes = written.as_ref()?.iter().find(|(known, _)| known == id)?.1;
            Some((*id, Sight::Written(bytes)))
        };
        let blind = |(id, _): &(VolumeId, String)| (*id, Sight::Blind);
        volumes
            .iter()
            .map(|volume| sight(volume).unwrap_or_else(|| blind(volume)))
            .collect()
    }

    /// The property `written` counts what has reached the pool, so the pool is synced first.
    async fn written(&self, volumes: &[(VolumeId, String)]) -> Option<Vec<(VolumeId, u64)>> {
        let pool = self.parent.split('/').next().unwrap_or_default();
        super::command::run("zpool", &["sync", pool]).await.ok()?;
        let datasets: Vec<_> = volumes.iter().map(|(id, _)| self.dataset(*id)).collect();
        let mut arguments = vec!["get", "-Hp", "-o", "name,value", "written"];
        arguments.extend(datasets.iter().map(String::as_str));
        let text = zfs(&arguments).await.ok()?;
        let line = |line: &str| {
            let (name, value) = line.split_once('\t')?;
            let id = name.rsplit('/').next()?.parse().ok()?;
            Some((id, value.parse().ok()?))
        };
        Some(text.lines().filter_map(line).collect())
    }
}
