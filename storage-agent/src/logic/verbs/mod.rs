//! What verbs of operators decide: which snapshot is meant, and what names mean.
//!
//! | module | duty |
//! | --- | --- |
//! | [`clone_label`] | snapshots from which clones began |

pub mod clone_label;

use flocker_api::{name::VolumeId, volume::Snapshot};

use super::label::Label;
use crate::error::VolumeError;

/// Begins the names that agents give to snapshots.
pub const RESERVED: [&str; 2] = ["flocker-", "clone-"];

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
    let found = snapshots
        .iter()
        .find(|s| s.name == wanted || s.guid.to_string() == wanted);
    found.ok_or_else(|| VolumeError::NoSnapshot {
        id,
        name: wanted.to_owned(),
        meant: meant(wanted, snapshots.iter().map(|s| s.name.as_str())),
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

/// Refuses the names that agents use themselves.
///
/// # Errors
/// Says which beginnings are taken.
pub fn check_free_name(name: &str) -> Result<(), VolumeError> {
    if RESERVED.iter().any(|reserved| name.starts_with(reserved)) {
        return Err(VolumeError::Refusal(format!(
            "snapshot name '{name}' begins with '{}', which is for snapshots that agents take themselves",
            RESERVED
                .iter()
                .find(|r| name.starts_with(**r))
                .unwrap_or(&"")
        )));
    }
    Ok(())
}

/// Whether an operator took it: no retention destroys it, and replicas get it too.
#[must_use]
pub fn is_operators(snapshot: &Snapshot) -> bool {
    snapshot.name.parse::<Label>().is_err() && clone_label::volume(&snapshot.name).is_none()
}

#[cfg(test)]
mod tests {
    use flocker_api::volume::Guid;

    use super::*;

    fn snapshots() -> Vec<Snapshot> {
        ["before-upgrade", "flocker-1-77", "monday"]
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
        for name in ["monday", "@monday", "0000000000000003"] {
            assert_eq!(find_snapshot(id, &all, name).unwrap().guid, Guid(3));
        }
        let text = |name| find_snapshot(id, &all, name).unwrap_err().to_string();
        assert!(text("before-upgrad").ends_with("did you mean 'before-upgrade'?"));
        assert!(text("mnoday").ends_with("did you mean 'monday'?"));
        assert!(text("x").ends_with("on this node"), "{}", text("x"));
    }

    #[test]
    fn names_of_agents_are_theirs() {
        assert!(check_free_name("flocker-1-2").is_err());
        assert!(check_free_name("before-flocker-1").is_ok());
        let operators: Vec<_> = snapshots().into_iter().filter(is_operators).collect();
        assert_eq!(operators.len(), 2);
    }
}
