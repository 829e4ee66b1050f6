//! Names of the snapshots from which clones began: `clone-UUID`, the UUID being the clone's.
//!
//! They go with their clone, and with nothing else.

use flocker_api::name::VolumeId;

const PREFIX: &str = "clone-";

/// The name for a clone of this identity.
#[must_use]
pub fn name(clone: VolumeId) -> String {
    format!("{PREFIX}{clone}")
}

/// The clone of which this name speaks.
#[must_use]
pub fn volume(name: &str) -> Option<VolumeId> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_none() {
        let id = VolumeId::random();
        assert_eq!(volume(&name(id)), Some(id));
        assert_eq!(volume("clone-of-monday"), None);
    }
}
