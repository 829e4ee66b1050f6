//! What verbs of operators decide: which snapshot is meant, and what names mean.
//!
//! | module | duty |
//! | --- | --- |
//! | [`clone_label`] | snapshots from which clones began |

pub mod clone_label;

use flocker_api::{
    name::{SnapshotName, VolumeId},
    volume::Snapshot,
    work::{OPERATORS, called, is_named},
};

use crate::error::VolumeError;

/// Most edits by which a name that was typed may differ from the one that was meant.
const EDITS_MAX: usize = 3;

/// The snapshot of this name or guid.
///
/// # Errors
/// When there is none; then with the one that may have been meant.
pub fn find_snapshot<'a>(
    id: VolumeId,
    snapshots: &'a [Snapshot],
    name: &str,
) -> Result<&'a Snapshot, VolumeError> {
    let wanted = name.strip_prefix('@').unwrap_or(name);
    let found = snapshots.iter().find(|s| is_named(s, wanted));
    found.ok_or_else(|| VolumeError::NoSnapshot {
        id,
        name: wanted.to_owned(),
        meant: meant(wanted, snapshots.iter().map(|s| called(&s.name))),
    })
}

/// The name that comes nearest, if one comes near.
pub fn meant<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let near = names
        .map(|name| (strsim::osa_distance(wanted, name), name))
        .min()?;
    let (edits, name) = near;
    (edits <= EDITS_MAX.min(wanted.len().div_ceil(2))).then(|| name.to_owned())
}

/// Whether an operator took it: no retention destroys it, and replicas get it too.
#[must_use]
pub fn is_operators(snapshot: &str) -> bool {
    let name = snapshot.strip_prefix(OPERATORS);
    name.is_some_and(|name| name.parse::<SnapshotName>().is_ok())
}

#[cfg(test)]
mod tests {
    use flocker_api::volume::Guid;

    use super::*;

    fn snapshots() -> Vec<Snapshot> {
        ["op-before-upgrade", "flocker-1-77", "op-monday"]
            .iter()
            .zip(1..)
            .map(|(name, n)| Snapshot {
                name: (*name).to_owned(),
                guid: Guid(n),
                createtxg: n,
            })
            .collect()
    }

    #[test]
    fn a_snapshot_is_found_by_name_or_guid_and_the_near_one_is_proposed() {
        let (id, all) = (VolumeId::random(), snapshots());
        for name in ["monday", "@monday", "op-monday", "0000000000000003"] {
            assert_eq!(find_snapshot(id, &all, name).unwrap().guid, Guid(3));
        }
        let text = |name| find_snapshot(id, &all, name).unwrap_err().to_string();
        assert!(text("before-upgrad").ends_with("did you mean 'before-upgrade'?"));
        assert!(text("mnoday").ends_with("did you mean 'monday'?"));
        assert!(text("x").ends_with("on this node"), "{}", text("x"));
    }

    #[test]
    fn what_operators_took_is_told_by_its_name() {
        for (name, theirs) in [
            ("op-monday", true),
            ("monday", false),
            ("flocker-1-77", false),
            ("op-", false),
            ("op-../x", false),
        ] {
            assert_eq!(is_operators(name), theirs, "{name}");
        }
    }
}
