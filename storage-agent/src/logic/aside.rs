//! Keeping aside what only one copy has, so that the copy can go back to a snapshot.
//!
//! The copy's whole history is moved out of the way under another name, and a copy that ends with
//! the common snapshot takes its place. Nothing is copied and nothing is sent: on ZFS the
//! common snapshot is cloned, the clone promoted, and both renamed.
//!
//! ```text
//!                  what there is                                    steps that are left
//!   marked         UUID (with the note)                             Head Clone Promote ...
//!   cloned         UUID (note), UUID.fresh, made of UUID@common     Promote ...
//!   promoted       UUID (note) made of UUID.fresh@common            Hide Ready Part Return
//!   parted         UUID.KEY (note), UUID.fresh                      Return
//!   returned       UUID.KEY (note), UUID                            none
//! ```
//!
//! The note is written first, at once and as a whole, so whatever ends in between is finished
//! by the next start: each state shows by what there is, and each step may be repeated.

use flocker_api::{
    aside::{Aside, AsideCause, AsideKey, CommonSnapshot},
    name::{NodeName, VolumeId, VolumeName},
    volume::{Epoch, Guid, Snapshot},
};
use serde::{Deserialize, Serialize};

use super::label::Label;

/// What is written down about something that is kept aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// The volume: what bears the note under another name is a volume of its own by now.
    pub volume: VolumeId,
    /// Its name; the rest of it follows from that.
    pub key: AsideKey,
    /// The node on which it was written.
    pub node: NodeName,
    /// The volume's name.
    pub name: VolumeName,
    /// Where it parts from the volume; `None` for a whole copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub common: Option<CommonSnapshot>,
}

impl Note {
    /// What is kept aside by it.
    #[must_use]
    pub fn aside(self, sizes: Sizes, snapshots: Vec<String>) -> Aside {
        Aside {
            volume: self.volume,
            name: self.name,
            cause: self.key.cause,
            epoch: self.key.epoch,
            since_ms: self.key.micros / 1000,
            key: self.key,
            node: self.node,
            common: self.common,
            written_bytes: sizes.written,
            used_bytes: sizes.used,
            snapshots,
        }
    }
}

/// How much is kept aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes written after the common snapshot.
    pub written: u64,
    /// Bytes that it occupies.
    pub used: u64,
}

/// A step of keeping aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A snapshot of what was written last.
    Head,
    /// Another copy, of the common snapshot.
    Clone,
    /// The common snapshot and those before it go over to that copy.
    Promote,
    /// The copy that goes is read-only and mounted nowhere.
    Hide,
    /// The copy that comes can be mounted.
    Ready,
    /// The copy goes, under its own name.
    Part,
    /// The other one takes its place.
    Return,
}

/// What there is of a copy that is, or is to be, put aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The copy, in its place.
    pub copy: bool,
    /// The copy that shall take its place.
    pub fresh: Option<Fresh>,
}

/// How far the copy is that shall take the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fresh {
    /// It depends on the copy that goes.
    Cloned,
    /// The copy that goes depends on it.
    Promoted,
}

/// The steps that are left.
#[must_use]
pub fn steps(note: &Note, found: Found) -> &'static [Step] {
    const ALL: &[Step] = &[
        Step::Head,
        Step::Clone,
        Step::Promote,
        Step::Hide,
        Step::Ready,
        Step::Part,
        Step::Return,
    ];
    match (found.copy, found.fresh, note.common.is_some()) {
        (true, None, true) => ALL,
        (true, None, false) => &[Step::Head, Step::Hide, Step::Part],
        (true, Some(Fresh::Cloned), _) => &ALL[2..],
        (true, Some(Fresh::Promoted), _) => &ALL[3..],
        (false, Some(_), _) => &[Step::Return],
        (false, None, _) => &[],
    }
}

/// Why a copy has what its primary lacks, and under which epoch that was written.
///
/// `wrote` is the epoch under which the copy was last a primary, `now` the one that it has seen.
/// Who has since received a snapshot that a later primary took has written nothing of its own.
#[must_use]
pub fn cause(common: Option<&Snapshot>, wrote: Option<Epoch>, now: Epoch) -> (AsideCause, Epoch) {
    let Some(common) = common else {
        return (AsideCause::Unrelated, wrote.unwrap_or(now));
    };
    let taken = common.name.parse().ok().map(|label: Label| label.epoch);
    match wrote {
        Some(wrote) if taken.is_none_or(|taken| taken <= wrote) => (AsideCause::Diverged, wrote),
        _ => (AsideCause::Touched, now),
    }
}

/// Whether what a copy has after the common snapshot is worth keeping: so many bytes, so many
/// snapshots. Snapshots in which nothing was written are kept only where somebody goes back on
/// purpose: to a replica they are given by every program that snapshots whatever it finds.
#[must_use]
pub fn is_worth_keeping(cause: AsideCause, written_bytes: u64, snapshots: usize) -> bool {
    written_bytes > 0 || (cause == AsideCause::RolledBack && snapshots > 0)
}

/// The snapshots of a copy that are newer than `common`, oldest first.
#[must_use]
pub fn tail<'a>(snapshots: &'a [Snapshot], common: &Snapshot) -> Vec<&'a Snapshot> {
    let newer = snapshots.iter().filter(|s| s.createtxg > common.createtxg);
    let mut tail: Vec<_> = newer.collect();
    tail.sort_by_key(|s| s.createtxg);
    tail
}

/// The snapshot to which a copy goes back so that it can take an increment from `from`, and
/// whether what its sender knows of its tail is just what it is.
///
/// # Errors
/// When the copy has not got the snapshot, or has another tail than the sender has seen.
pub fn parting(
    snapshots: &[Snapshot],
    from: Option<Guid>,
    seen: &[Guid],
) -> Result<Snapshot, Unforeseen> {
    let common = snapshots.iter().find(|s| Some(s.guid) == from);
    let common = common.ok_or(Unforeseen)?;
    let mut tail: Vec<Guid> = tail(snapshots, common).iter().map(|s| s.guid).collect();
    let mut seen = seen.to_vec();
    tail.sort_unstable();
    seen.sort_unstable();
    if tail == seen {
        Ok(common.clone())
    } else {
        Err(Unforeseen)
    }
}

/// A copy is not what its sender has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the copy has changed since its sender looked at it")]
pub struct Unforeseen;

#[cfg(test)]
mod tests {
    use super::*;

    fn note(common: bool) -> Note {
        Note {
            volume: VolumeId::random(),
            key: "diverged-3-17".parse().unwrap(),
            node: "n1".parse().unwrap(),
            name: "notes".parse().unwrap(),
            common: common.then(|| CommonSnapshot {
                name: "flocker-3-1".to_owned(),
                guid: Guid(5),
            }),
        }
    }

    /// A world in which each step is carried out on names alone.
    fn carry_out(found: &mut Found, step: Step, parted: &mut bool) {
        match step {
            Step::Head | Step::Hide | Step::Ready => assert!(found.copy),
            Step::Clone => found.fresh = Some(Fresh::Cloned),
            Step::Promote => found.fresh = Some(Fresh::Promoted),
            Step::Part => {
                assert!(!*parted, "nothing is parted twice");
                (found.copy, *parted) = (false, true);
            }
            Step::Return => (found.copy, found.fresh) = (true, None),
        }
    }

    #[test]
    fn whatever_ends_in_between_is_finished() {
        for whole in [false, true] {
            let note = note(!whole);
            for killed_after in 0..7 {
                let mut found = Found {
                    copy: true,
                    fresh: None,
                };
                let mut parted = false;
                for step in steps(&note, found).iter().take(killed_after) {
                    carry_out(&mut found, *step, &mut parted);
                }
                // A copy in its place that has the note is not done yet; one without is.
                if !(parted && found.copy) {
                    for step in steps(&note, found) {
                        carry_out(&mut found, *step, &mut parted);
                    }
                }
                assert!(parted && found.fresh.is_none(), "after {killed_after}");
                assert_eq!(found.copy, !whole, "after {killed_after}");
            }
        }
    }

    #[test]
    fn notes_round_trip() {
        for note in [note(true), note(false)] {
            let text = serde_json::to_string(&note).unwrap();
            // What a user property of any ZFS takes (ZAP_OLDMAXVALUELEN).
            assert!(text.len() < 1024);
            assert_eq!(serde_json::from_str::<Note>(&text).unwrap(), note);
        }
    }

    #[test]
    fn the_cause_is_told_by_who_took_the_common_snapshot() {
        let taken = |name: &str| Snapshot {
            name: name.to_owned(),
            guid: Guid(1),
            createtxg: 1,
        };
        let (mine, later) = (taken("flocker-3-1"), taken("flocker-4-1"));
        let wrote = Some(Epoch(3));
        assert_eq!(
            cause(Some(&mine), wrote, Epoch(4)),
            (AsideCause::Diverged, Epoch(3))
        );
        // Taken before it became primary, and never one since.
        let before = taken("flocker-2-1");
        assert_eq!(
            cause(Some(&before), wrote, Epoch(4)),
            (AsideCause::Diverged, Epoch(3))
        );
        assert_eq!(
            cause(Some(&later), wrote, Epoch(4)),
            (AsideCause::Touched, Epoch(4))
        );
        assert_eq!(
            cause(Some(&mine), None, Epoch(4)),
            (AsideCause::Touched, Epoch(4))
        );
        assert_eq!(
            cause(None, wrote, Epoch(4)),
            (AsideCause::Unrelated, Epoch(3))
        );
    }

    #[test]
    fn a_copy_parts_with_just_what_its_sender_has_seen() {
        let snapshot = |guid| Snapshot {
            name: format!("s{guid}"),
            guid: Guid(guid),
            createtxg: guid,
        };
        let all = [snapshot(1), snapshot(2), snapshot(3)];
        let parted = |from, seen: &[u64]| {
            let seen: Vec<Guid> = seen.iter().copied().map(Guid).collect();
            parting(&all, Some(Guid(from)), &seen)
        };
        assert_eq!(parted(1, &[3, 2]), Ok(all[0].clone()));
        assert_eq!(parted(3, &[]), Ok(all[2].clone()));
        assert_eq!(parted(1, &[2]), Err(Unforeseen), "one more has come");
        assert_eq!(parted(2, &[3, 4]), Err(Unforeseen), "one is gone");
        assert_eq!(parted(9, &[]), Err(Unforeseen), "the base is gone");
        assert_eq!(parting(&all, None, &[]), Err(Unforeseen));
    }

    #[test]
    fn the_tail_is_what_is_newer() {
        let snapshot = |guid| Snapshot {
            name: format!("s{guid}"),
            guid: Guid(guid),
            createtxg: guid,
        };
        let all = [snapshot(3), snapshot(1), snapshot(2)];
        assert_eq!(tail(&all, &all[1]), [&all[2], &all[0]]);
        assert!(tail(&all, &all[0]).is_empty());
    }
}
