//! Which snapshots may go.
//!
//! Kept are: the newest of ours, as many as the policy says; one for each period of its grid;
//! what a peer has acknowledged last (the base of the next increment); the newest of the epoch
//! before the current one (the base of the first increment back, before the old primary has
//! acknowledged anything); and all that is not ours.

use std::collections::BTreeSet;

use flocker_api::{
    replication::{Keep, Period},
    volume::{Guid, Snapshot},
};

use super::label::Label;

/// Ours among the snapshots, oldest first.
fn ours(snapshots: &[Snapshot]) -> Vec<(&Snapshot, Label)> {
    let mut ours: Vec<(&Snapshot, Label)> = snapshots
        .iter()
        .filter_map(|s| s.name.parse().ok().map(|label| (s, label)))
        .collect();
    ours.sort_by_key(|(s, _)| s.createtxg);
    ours
}

fn window(keep: &Keep) -> usize {
    usize::try_from(keep.last.max(1)).unwrap_or(usize::MAX)
}

/// The snapshots that may be destroyed, oldest first.
#[must_use]
pub fn expendable(snapshots: &[Snapshot], acknowledged: &[Guid], keep: &Keep) -> Vec<Snapshot> {
    let ours = ours(snapshots);
    let Some((_, newest)) = ours.last() else {
        return Vec::new();
    };
    let before = ours
        .iter()
        .rev()
        .find(|(_, label)| label.epoch < newest.epoch)
        .map(|(s, _)| s.guid);
    let mut kept: BTreeSet<Guid> = acknowledged.iter().copied().collect();
    kept.extend(before);
    for period in &keep.grid {
        kept.extend(first_of_periods(&ours, *period));
    }
    let old = ours.len().saturating_sub(window(keep));
    ours[..old]
        .iter()
        .map(|(s, _)| *s)
        .filter(|s| !kept.contains(&s.guid))
        .cloned()
        .collect()
}

/// Whether a snapshot stays for being among the newest.
#[must_use]
pub fn is_in_window(snapshots: &[Snapshot], guid: Guid, keep: &Keep) -> bool {
    let ours = ours(snapshots);
    let mut newest = ours.iter().rev().take(window(keep));
    newest.any(|(s, _)| s.guid == guid)
}

/// The first snapshot in each of the newest periods: a later one would make it go, and then
/// none would ever grow old.
fn first_of_periods(ours: &[(&Snapshot, Label)], period: Period) -> Vec<Guid> {
    let length = period.every_ms.max(1).saturating_mul(1_000);
    let of = |label: &Label| label.micros / length;
    let newest = ours.iter().map(|(_, label)| of(label)).max().unwrap_or(0);
    let mut seen = BTreeSet::new();
    ours.iter()
        .filter(|(_, label)| of(label) + u64::from(period.count) > newest)
        .filter(|(_, label)| seen.insert(of(label)))
        .map(|(s, _)| s.guid)
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

    const KEEP: usize = 3;

    fn keep() -> Keep {
        Keep::default()
    }

    fn guids(snapshots: &[Snapshot]) -> Vec<u64> {
        snapshots.iter().map(|s| s.guid.0).collect()
    }

    #[test]
    fn the_newest_and_the_acknowledged_stay() {
        let all: Vec<_> = (1..=8).map(|g| snapshot(g, 1)).collect();
        assert_eq!(guids(&expendable(&all, &[Guid(2)], &keep())), [1, 3, 4, 5]);
        assert_eq!(guids(&expendable(&all[..3], &[], &keep())), [0_u64; 0]);
    }

    #[test]
    fn the_last_of_the_epoch_before_stays_as_the_base_of_the_way_back() {
        let mut all: Vec<_> = (1..=3).map(|g| snapshot(g, 1)).collect();
        all.extend((4..=9).map(|g| snapshot(g, 2)));
        assert_eq!(guids(&expendable(&all, &[], &keep())), [1, 2, 4, 5, 6]);
    }

    #[test]
    fn foreign_snapshots_stay_and_do_not_count() {
        let mut all: Vec<_> = (1..=4).map(|g| snapshot(g, 1)).collect();
        for (at, s) in all.iter_mut().enumerate() {
            if at != 1 {
                s.name = format!("daily-{at}");
            }
        }
        assert!(expendable(&all, &[], &keep()).is_empty());
    }

    #[test]
    fn a_grid_keeps_the_first_of_each_period() {
        let at = |seconds: u64| Snapshot {
            name: Label {
                epoch: Epoch(1),
                micros: seconds * 1_000_000,
            }
            .to_string(),
            guid: Guid(seconds),
            createtxg: seconds,
        };
        // Every 10 s for five minutes.
        let all: Vec<_> = (0..30).map(|n| at(n * 10)).collect();
        let minutes = Period {
            every_ms: 60_000,
            count: 3,
        };
        let keep = Keep {
            last: 2,
            grid: vec![minutes],
        };
        let gone = expendable(&all, &[], &keep);
        let kept: Vec<_> = all.iter().filter(|s| !gone.contains(s)).cloned().collect();
        assert_eq!(guids(&kept), [120, 180, 240, 280, 290]);
        // What is kept stays kept while time goes on, until its period is too old.
        let mut later = kept;
        later.extend((30..36).map(|n| at(n * 10)));
        let gone = expendable(&later, &[], &keep);
        let kept: Vec<_> = later
            .iter()
            .filter(|s| !gone.contains(s))
            .cloned()
            .collect();
        assert_eq!(guids(&kept), [180, 240, 300, 340, 350]);
    }

    #[test]
    fn the_window_is_the_newest_of_ours() {
        let all: Vec<_> = (1..=8).map(|g| snapshot(g, 1)).collect();
        assert!(is_in_window(&all, Guid(6), &keep()));
        assert!(!is_in_window(&all, Guid(5), &keep()));
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
            let gone = expendable(&all, &pins, &keep());
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
