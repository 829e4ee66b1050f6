//! What to send: both sides' snapshots in, one step or a conflict with evidence out.
//!
//! Snapshots are compared across nodes by guid alone; `createtxg` orders those of one node.
//! However many snapshots the receiver is behind, one increment brings it to the newest.

use std::collections::HashSet;

use flocker_api::volume::Snapshot;

/// The one step that brings the receiver to the sender's newest snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The receiver has it.
    UpToDate {
        /// The newest snapshot of both.
        at: Snapshot,
    },
    /// The receiver has nothing.
    Full {
        /// The snapshot to send.
        to: Snapshot,
    },
    /// The receiver has an older one.
    Incremental {
        /// The newest common snapshot, under the sender's name.
        from: Snapshot,
        /// The snapshot to send.
        to: Snapshot,
    },
}

/// Why no step can be taken without losing something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conflict {
    /// The sender has no snapshot at all.
    NothingToSend,
    /// The receiver has snapshots, none of which the sender has.
    NoCommon {
        /// What the sender has, oldest first.
        ours: Vec<Snapshot>,
        /// What the receiver has, oldest first.
        theirs: Vec<Snapshot>,
    },
    /// After the newest common snapshot the receiver has some of its own.
    Diverged {
        /// The newest common snapshot.
        common: Snapshot,
        /// What the sender has after it, oldest first.
        ours: Vec<Snapshot>,
        /// What the receiver has after it, oldest first.
        theirs: Vec<Snapshot>,
    },
}

/// Where an increment would start: the newest common snapshot, or `None` for a full stream.
///
/// # Errors
/// When the receiver has what the sender lacks.
pub fn base(ours: &[Snapshot], theirs: &[Snapshot]) -> Result<Option<Snapshot>, Conflict> {
    let ours = ordered(ours);
    let theirs = ordered(theirs);
    if theirs.is_empty() {
        return Ok(None);
    }
    let known: HashSet<_> = theirs.iter().map(|s| s.guid).collect();
    let Some(at) = ours.iter().rposition(|s| known.contains(&s.guid)) else {
        return Err(Conflict::NoCommon { ours, theirs });
    };
    let common = ours[at].clone();
    let after = theirs
        .iter()
        .skip_while(|s| s.guid != common.guid)
        .skip(1)
        .cloned()
        .collect::<Vec<_>>();
    if after.is_empty() {
        Ok(Some(common))
    } else {
        Err(Conflict::Diverged {
            common,
            ours: ours[at + 1..].to_vec(),
            theirs: after,
        })
    }
}

/// The step that brings the receiver to the sender's newest snapshot.
///
/// # Errors
/// When there is nothing to send, or the receiver has what the sender lacks.
///
/// ```
/// use flocker_api::volume::{Guid, Snapshot};
/// use flocker_storage_agent::logic::plan::{Step, plan};
///
/// let snapshot = |guid, createtxg| Snapshot {
///     name: format!("s{guid}"),
///     guid: Guid(guid),
///     createtxg,
/// };
/// let (one, two) = (snapshot(1, 10), snapshot(2, 20));
/// let step = plan(&[one.clone(), two.clone()], &[snapshot(1, 77)]).unwrap();
/// assert_eq!(step, Step::Incremental { from: one, to: two });
/// ```
pub fn plan(ours: &[Snapshot], theirs: &[Snapshot]) -> Result<Step, Conflict> {
    let Some(to) = ours.iter().max_by_key(|s| s.createtxg).cloned() else {
        return Err(Conflict::NothingToSend);
    };
    Ok(match base(ours, theirs)? {
        None => Step::Full { to },
        Some(from) if from.guid == to.guid => Step::UpToDate { at: to },
        Some(from) => Step::Incremental { from, to },
    })
}

fn ordered(snapshots: &[Snapshot]) -> Vec<Snapshot> {
    let mut snapshots = snapshots.to_vec();
    snapshots.sort_by_key(|s| s.createtxg);
    snapshots
}

#[cfg(test)]
mod tests {
    use flocker_api::volume::Guid;
    use proptest::{prelude::*, sample::subsequence};

    use super::*;

    fn snapshot(guid: u64, createtxg: u64) -> Snapshot {
        Snapshot {
            name: format!("s{guid}"),
            guid: Guid(guid),
            createtxg,
        }
    }

    fn side(guids: &[u64], first_txg: u64) -> Vec<Snapshot> {
        (first_txg..)
            .zip(guids)
            .map(|(txg, guid)| snapshot(*guid, txg))
            .collect()
    }

    #[test]
    fn an_empty_receiver_gets_everything() {
        let ours = side(&[1, 2], 5);
        assert_eq!(
            plan(&ours, &[]),
            Ok(Step::Full {
                to: ours[1].clone()
            })
        );
    }

    #[test]
    fn a_sender_without_snapshots_has_nothing_to_send() {
        assert_eq!(plan(&[], &[]), Err(Conflict::NothingToSend));
        assert_eq!(plan(&[], &side(&[1], 1)), Err(Conflict::NothingToSend));
    }

    #[test]
    fn strangers_are_a_conflict_that_shows_both_sides() {
        let (ours, theirs) = (side(&[1, 2], 5), side(&[8, 9], 1));
        assert_eq!(
            plan(&ours, &theirs),
            Err(Conflict::NoCommon { ours, theirs })
        );
    }

    #[test]
    fn a_receiver_with_a_tail_of_its_own_is_a_conflict_that_shows_the_tail() {
        let (ours, theirs) = (side(&[1, 2, 3], 5), side(&[1, 2, 9], 1));
        assert_eq!(
            plan(&ours, &theirs),
            Err(Conflict::Diverged {
                common: ours[1].clone(),
                ours: vec![ours[2].clone()],
                theirs: vec![theirs[2].clone()],
            })
        );
        // The same where the sender has nothing newer: the receiver is ahead.
        assert!(matches!(
            plan(&ours[..2], &theirs),
            Err(Conflict::Diverged { ours, .. }) if ours.is_empty()
        ));
    }

    proptest! {
        /// The model: one history, of which both sides kept some snapshots. The receiver
        /// applies the step; afterwards it is where the sender is, and only one step was needed.
        #[test]
        fn one_step_reaches_the_newest(
            (history, kept_here, kept_there) in (2_usize..20).prop_flat_map(|n| {
                let history: Vec<u64> = (100..100 + n as u64).collect();
                (
                    Just(history.clone()),
                    subsequence(history.clone(), 1..=n),
                    subsequence(history, 0..=n),
                )
            }),
            shuffle_seed in any::<u64>(),
        ) {
            let mut ours = side(&kept_here, 1_000);
            let newest = *kept_here.last().unwrap();
            // The receiver never is ahead in this model.
            let kept_there: Vec<u64> = kept_there.into_iter().filter(|g| *g <= newest).collect();
            let mut theirs = side(&kept_there, 3);
            let rotate = usize::try_from(shuffle_seed % 7).unwrap();
            let (a, b) = (ours.len(), theirs.len());
            ours.rotate_left(rotate % a);
            if b > 0 { theirs.rotate_left(rotate % b); }

            let common = kept_here.iter().rev().find(|g| kept_there.contains(g));
            match plan(&ours, &theirs) {
                Ok(Step::Full { to }) => {
                    prop_assert!(kept_there.is_empty());
                    prop_assert_eq!(to.guid.0, newest);
                }
                Ok(Step::UpToDate { at }) => {
                    prop_assert_eq!(at.guid.0, newest);
                    prop_assert_eq!(kept_there.last(), Some(&newest));
                }
                Ok(Step::Incremental { from, to }) => {
                    // A real receiver takes an increment only on its newest snapshot.
                    prop_assert_eq!(Some(&from.guid.0), kept_there.last());
                    prop_assert!(kept_here.contains(&from.guid.0));
                    prop_assert_eq!(to.guid.0, newest);
                    prop_assert_ne!(from.guid, to.guid);
                }
                Err(Conflict::NoCommon { .. }) => {
                    prop_assert!(common.is_none() && !kept_there.is_empty());
                }
                Err(Conflict::Diverged { common: c, theirs: tail, .. }) => {
                    prop_assert_eq!(Some(&c.guid.0), common);
                    let tail: Vec<u64> = tail.iter().map(|s| s.guid.0).collect();
                    let expected: Vec<u64> =
                        kept_there.iter().copied().filter(|g| *g > c.guid.0).collect();
                    prop_assert!(!tail.is_empty());
                    prop_assert_eq!(tail, expected);
                }
                Err(Conflict::NothingToSend) => prop_assert!(false, "the sender has snapshots"),
            }
            prop_assert!(!history.is_empty());
        }
    }
}
