//! What the `zfs` of this node is and can do.

use flocker_api::agent::StorageKind;

use super::command::run;
use crate::error::VolumeError;

/// What a `zfs` can do beyond the verbs that all have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Capabilities {
    pub(super) kind: StorageKind,
    /// As the programs say it.
    pub(super) version: String,
    /// Names as the API gives them.
    pub(super) names: &'static [&'static str],
    /// Flags of every `zfs send`. The set is fixed: a replica that has once received large
    /// blocks takes no stream without them.
    pub(super) send_flags: &'static [&'static str],
}

const OPENZFS: &[&str] = &["bookmarks", "compressed", "estimate", "holds", "resume"];

/// Asks the programs. Only OpenZFS knows `zfs version`; zfs-fuse says that it does not.
pub(super) async fn probe() -> Result<Capabilities, VolumeError> {
    match run("zfs", &["version"]).await {
        Ok(text) => Ok(Capabilities {
            kind: StorageKind::OpenZfs,
            version: text.lines().next().unwrap_or_default().to_owned(),
            names: OPENZFS,
            send_flags: &["-L", "-e", "-c"],
        }),
        Err(error) if error.error.to_string().contains("unrecognized command") => {
            Ok(Capabilities {
                kind: StorageKind::ZfsFuse,
                version: "zfs-fuse".to_owned(),
                names: &[],
                send_flags: &[],
            })
        }
        Err(error) => Err(error.into()),
    }
}
