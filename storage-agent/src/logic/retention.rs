//! Which snapshots may go.
//!
//! Kept are: the newest [`KEEP`] of ours, what a peer has acknowledged last (the base of the
//! next increment), the newest of the epoch before the current one (the base of the first
//! increment back, before the old primary has acknowledged anything), and all that is not ours.

use flocker_api::volume::{Guid, Snapshot};

use super::label::Label;

/// How many of the newest snapshots are kept on either side.
pub const KEEP: usize = 3;

/// The snapshots that may be destroyed, oldest first.
#[must_use]
pub fn expendable(snapshots: &[Snapshot], acknowledged: &[Guid]) -> Vec<Snapshot> {
    let mut ours: Vec<(&Snapshot, Label)> = snapshots
        .iter()
        .filter_map(|s| s.name.parse().ok().map(|label| (s, label)))
        .collect();
    ours.sort_by_key(|(s, _)| s.createtxg);
    let Some((_, newest)) = ours.last() else {
        return Vec::new();
    };
    let before = ours
        .iter()
        .rev()
        .find(|(_, label)| label.epoch < newest.epoch)
        .map(|(s, _)| s.guid);
    let old = ours.len().saturating_sub(KEEP);
    ours[..old]
        .iter()
        .map(|(s, _)| *s)
        .filter(|s| Some(s.guid) != before && !acknowledged.contains(&s.guid))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use flocker_api::volume::Epoch;
    use proptest::prelude::*;

    use super::*;

    fn snapshot(guid: u64, epoch: u64) -> Snapshot {
        Snapshot {
            name: Label {
                epoch: Epoch(epoch),
                micros: guid,
            }
            .to_string(),
            guid: Guid(guid),
            createtxg: guid,
        }
    }

    fn guids(snapshots: &[Snapshot]) -> Vec<u64> {
        snapshots.iter().map(|s| s.guid.0).collect()
    }

    #[test]
    fn the_newest_and_the_acknowledged_stay() {
        let all: Vec<_> = (1..=8).map(|g| snapshot(g, 1)).collect();
        assert_eq!(guids(&expendable(&all, &[Guid(2)])), [1, 3, 4, 5]);
        assert_eq!(guids(&expendable(&all[..3], &[])), [0_u64; 0]);
    }

    #[test]
    fn the_last_of_the_epoch_before_stays_as_the_base_of_the_way_back() {
        let mut all: Vec<_> = (1..=3).map(|g| snapshot(g, 1)).collect();
        all.extend((4..=9).map(|g| snapshot(g, 2)));
        assert_eq!(guids(&expendable(&all, &[])), [1, 2, 4, 5, 6]);
    }

    #[test]
    fn foreign_snapshots_stay_and_do_not_count() {
        let mut all: Vec<_> = (1..=4).map(|g| snapshot(g, 1)).collect();
        for (at, s) in all.iter_mut().enumerate() {
            if at != 1 {
                s.name = format!("daily-{at}");
            }
        }
        assert!(expendable(&all, &[]).is_empty());
    }

    proptest! {
        #[test]
        fn what_is_needed_never_goes(
            epochs in proptest::collection::vec(1_u64..4, 0..30),
            acknowledged in proptest::collection::vec(0_u64..30, 0..3),
        ) {
            let mut epochs = epochs;
            epochs.sort_unstable();
            let all: Vec<_> = (0..).zip(&epochs).map(|(g, e)| snapshot(g, *e)).collect();
            let pins: Vec<Guid> = acknowledged.iter().copied().map(Guid).collect();
            let gone = expendable(&all, &pins);
            for s in all.iter().rev().take(KEEP) {
                prop_assert!(!gone.contains(s));
            }
            for s in &gone {
                prop_assert!(!pins.contains(&s.guid));
            }
            // Bounded: what stays is at most the window, the pins and one of the epoch before.
            prop_assert!(all.len() - gone.len() <= KEEP + pins.len() + 1);
        }
    }
}
