//! What the `zfs` of this node is and can do, found out by trying.
//!
//! Each ability is asked of the programs and of the pool as it will be used, on a snapshot made
//! for that: a version says neither what was patched in nor which features a pool has.

use std::collections::BTreeSet;

use flocker_api::agent::StorageKind;

use super::{
    command::{CommandError, run},
    parse::{Failure, estimate},
    version::{Judgement, judge},
};
use crate::{error::VolumeError, logic::wire::StreamFeatures};

/// What some can and some cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Capability {
    /// A bookmark as the base of an increment.
    Bookmarks,
    /// Blocks are sent as they are compressed.
    Compressed,
    /// Blocks that are part of their pointers are sent so.
    Embedded,
    /// How long a stream will be is known before it is made.
    Estimate,
    /// Listings as JSON.
    Json,
    /// Blocks above 128 KiB are sent whole.
    LargeBlocks,
    /// A broken stream goes on where it ended.
    Resume,
}

impl Capability {
    fn name(self) -> &'static str {
        match self {
            Self::Bookmarks => "bookmarks",
            Self::Compressed => "compressed",
            Self::Embedded => "embedded",
            Self::Estimate => "estimate",
            Self::Json => "json",
            Self::LargeBlocks => "large-blocks",
            Self::Resume => "resume",
        }
    }
}

/// What a `zfs` can do beyond the verbs that all have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Capabilities {
    pub(super) kind: StorageKind,
    /// As the programs say it.
    pub(super) version: String,
    /// What people should know about it.
    pub(super) doubt: Option<String>,
    /// Everything below the pool's `flocker` is encrypted by ZFS.
    pub(super) encrypted: bool,
    found: BTreeSet<Capability>,
}

impl Capabilities {
    pub(super) fn has(&self, capability: Capability) -> bool {
        self.found.contains(&capability)
    }

    /// Names as the API gives them.
    pub(super) fn names(&self) -> Vec<String> {
        self.found.iter().map(|c| c.name().to_owned()).collect()
    }

    /// What may be in streams that this node makes or takes.
    pub(super) fn features(&self) -> StreamFeatures {
        StreamFeatures {
            compressed: self.has(Capability::Compressed),
            embedded: self.has(Capability::Embedded),
            large_blocks: self.has(Capability::LargeBlocks),
        }
    }
}

async fn zfs(arguments: &[&str]) -> Result<String, CommandError> {
    run("zfs", arguments).await
}

/// Which file system answers, and whether anything may be kept on it. Only OpenZFS knows
/// `zfs version`; zfs-fuse says that it does not.
pub(super) async fn identify() -> Result<Capabilities, VolumeError> {
    let nothing = |kind, version: &str, doubt| Capabilities {
        kind,
        version: version.to_owned(),
        doubt,
        encrypted: false,
        found: BTreeSet::new(),
    };
    match zfs(&["version"]).await {
        Ok(text) => {
            let doubt = match judge(&text) {
                Judgement::Sound => None,
                Judgement::Doubtful(doubt) => Some(doubt),
                Judgement::Refused(reason) => return Err(VolumeError::Unsupported(reason)),
            };
            let version = text.lines().next().unwrap_or_default();
            Ok(nothing(StorageKind::OpenZfs, version, doubt))
        }
        Err(error) if error.error.to_string().contains("unrecognized command") => {
            Ok(nothing(StorageKind::ZfsFuse, "zfs-fuse", None))
        }
        Err(error) => Err(error.into()),
    }
}

/// Tries what there is to try, on `parent`, which is empty but for volumes.
pub(super) async fn probe(
    capabilities: &mut Capabilities,
    pool: &str,
    parent: &str,
) -> Result<(), VolumeError> {
    let label = format!("probe-{}", uuid::Uuid::new_v4().simple());
    let snapshot = format!("{parent}@{label}");
    zfs(&["snapshot", &snapshot]).await?;
    let bookmark = format!("{parent}#{label}");
    let found = attempts(pool, parent, &snapshot, &bookmark).await;
    if found.contains(&Capability::Bookmarks) {
        zfs(&["destroy", &bookmark]).await?;
    }
    match zfs(&["destroy", &snapshot]).await {
        Err(error) if error.failure != Failure::NotFound => return Err(error.into()),
        _ => {}
    }
    capabilities.found = found;
    if let Ok(text) = zfs(&["get", "-Hp", "-o", "value", "encryption", parent]).await {
        capabilities.encrypted = !matches!(text.trim(), "off" | "-");
    }
    Ok(())
}

async fn attempts(
    pool: &str,
    parent: &str,
    snapshot: &str,
    bookmark: &str,
) -> BTreeSet<Capability> {
    let mut found = BTreeSet::new();
    let dry = zfs(&["send", "-nP", snapshot]).await;
    if dry.is_ok_and(|text| estimate(&text).is_some()) {
        found.insert(Capability::Estimate);
    }
    let features = features(pool).await;
    let sends = [
        ("-L", Capability::LargeBlocks, "feature@large_blocks"),
        ("-c", Capability::Compressed, "feature@lz4_compress"),
        ("-e", Capability::Embedded, "feature@embedded_data"),
    ];
    for (flag, capability, feature) in sends {
        let sent =
            features.contains(feature) && zfs(&["send", "-nP", flag, snapshot]).await.is_ok();
        if sent {
            found.insert(capability);
        }
    }
    if zfs(&["bookmark", snapshot, bookmark]).await.is_ok() {
        found.insert(Capability::Bookmarks);
    }
    // There is nothing to abort: who knows the verb says that.
    let abort = zfs(&["receive", "-A", parent]).await;
    if features.contains("feature@extensible_dataset")
        && abort.is_err_and(|error| error.failure == Failure::NothingPartial)
    {
        found.insert(Capability::Resume);
    }
    let json = zfs(&["get", "-j", "-p", "guid", parent]).await;
    if json.is_ok_and(|text| text.trim_start().starts_with('{')) {
        found.insert(Capability::Json);
    }
    found
}

/// The features that a pool has, in use or not.
async fn features(pool: &str) -> BTreeSet<String> {
    let text = run(
        "zpool",
        &["get", "-Hp", "-o", "property,value", "all", pool],
    )
    .await;
    let text = text.unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once('\t'))
        .filter(|(name, value)| {
            name.starts_with("feature@") && matches!(*value, "enabled" | "active")
        })
        .map(|(name, _)| name.to_owned())
        .collect()
}
