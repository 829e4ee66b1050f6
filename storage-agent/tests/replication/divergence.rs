//! Copies that have what their primary lacks: that is kept aside, and replication goes on.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use flocker_api::{
    ErrorCode,
    agent::CreateVolume,
    aside::{Aside, AsideCause, Resolve},
    name::VolumeId,
    volume::{Epoch, Role},
};
use flocker_storage_agent::driver::transport::TransferLimits;

use crate::{
    bed::{Bed, Dice, Node, fill},
    pools::{Lame, run},
    stories::code,
    tree::{Facts, assert_same, facts},
};

/// What is kept aside, as files.
fn content(node: &Node, aside: &Aside) -> Facts {
    let keeps = node.keeps();
    if !node.zfs() {
        let volumes = node.place(aside.volume);
        let root = volumes.parent().unwrap().parent().unwrap();
        let name = format!("{}.{}", aside.volume, aside.key);
        return facts(&root.join("asides").join(name).join("data"), keeps);
    }
    let dataset = format!("{}.{}", node.dataset(aside.volume), aside.key);
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("aside");
    run(
        "zfs",
        &[
            "set",
            &format!("mountpoint={}", path.to_str().unwrap()),
            &dataset,
        ],
    );
    run("zfs", &["mount", &dataset]);
    fs::write(path.join("more"), "x").expect_err("it is read-only");
    let found = facts(&path, keeps);
    run("zfs", &["unmount", &dataset]);
    run("zfs", &["set", "mountpoint=none", &dataset]);
    found
}

/// A volume that was on both nodes, and then is primary on `b`, while `a` has written on.
struct Parted {
    id: VolumeId,
    common: String,
    /// What `a` had written when it ended.
    tail: Facts,
}

async fn parted(bed: &mut Bed, dice: &mut Dice, snapshots: u64) -> Parted {
    bed.a.patience(TransferLimits::default()).await;
    bed.b.patience(TransferLimits::default()).await;
    let id = bed.a.create("notes").await;
    let root = bed.a.path(id).await;
    fill(&root, 30, 20_000, dice);
    let common = bed.a.replicate(id, 1, &bed.b).await.unwrap().snapshot.name;
    for round in 0..snapshots {
        fs::write(root.join("tail"), format!("{round}")).unwrap();
        bed.a.volumes.snapshot(id, Epoch(1)).await.unwrap();
    }
    fill(&root, 30, 20_000, dice);
    let tail = bed.a.facts(id).await;
    // The node is gone, and another one takes over.
    bed.b.volumes.promote(id, Epoch(2)).await.unwrap();
    fill(&bed.b.path(id).await, 30, 20_000, dice);
    Parted { id, common, tail }
}

/// What was written is kept whole, the copy equals the primary, and from here on all is well.
async fn is_healed(bed: &mut Bed, parted: &Parted) {
    let Parted { id, common, tail } = parted;
    let reply = bed.b.replicate(*id, 2, &bed.a).await.unwrap();
    assert!(!reply.full, "from the common snapshot");
    assert_same(
        &bed.b.facts(*id).await,
        &bed.a.replica_facts(*id).await,
        "healed",
    );
    let asides = bed.a.volumes.asides();
    assert_eq!(asides.len(), 1, "{asides:?}");
    let aside = &asides[0];
    assert_eq!((aside.cause, aside.epoch), (AsideCause::Diverged, Epoch(1)));
    assert_eq!(aside.common.as_ref().unwrap().name, *common);
    assert_eq!(
        (&aside.node, &aside.name),
        (&bed.a.name, &"notes".parse().unwrap())
    );
    assert!(aside.written_bytes > 10_000, "{aside:?}");
    assert_same(tail, &content(&bed.a, aside), "kept aside");
    // It counts as no volume, and the next agent knows it too.
    assert_eq!(bed.a.volumes.list().await.unwrap().len(), 1);
    bed.a.patience(TransferLimits::default()).await;
    assert_eq!(bed.a.volumes.asides(), asides);
    // Replication goes on, however long.
    for round in 0..6 {
        fs::write(bed.b.path(*id).await.join("round"), round.to_string()).unwrap();
        bed.b.replicate(*id, 2, &bed.a).await.unwrap();
    }
    bed.a.volumes.tidy(*id).await.unwrap();
    assert_same(tail, &content(&bed.a, aside), "kept aside");
    // Somebody says that it may go.
    for _ in 0..2 {
        bed.a.volumes.discard_aside(*id, aside.key).await.unwrap();
    }
    assert_eq!(bed.a.volumes.asides(), []);
    bed.is_made_good(&bed.b, &bed.a, *id, 2).await;
}

pub async fn a_returning_primary_keeps_its_tail_aside_and_catches_up(bed: &mut Bed) {
    let parted = parted(bed, &mut Dice(31), 2).await;
    bed.a.restart().await;
    bed.a.volumes.demote(parted.id, Epoch(2)).await.unwrap();
    is_healed(bed, &parted).await;
}

pub async fn writes_that_no_snapshot_has_are_kept_aside(bed: &mut Bed) {
    let parted = parted(bed, &mut Dice(32), 0).await;
    bed.a.restart().await;
    bed.a.volumes.demote(parted.id, Epoch(2)).await.unwrap();
    is_healed(bed, &parted).await;
}

/// Where somebody can write to a replica.
async fn opened(node: &Node, id: VolumeId) -> PathBuf {
    if !node.zfs() {
        return node.place(id).join("data");
    }
    let dataset = node.dataset(id);
    run("zfs", &["set", "readonly=off", &dataset]);
    run("zfs", &["mount", &dataset]);
    node.path(id).await
}

pub async fn a_touched_replica_heals_itself(bed: &mut Bed) {
    bed.a.patience(TransferLimits::default()).await;
    let (a, b) = (&bed.a, &bed.b);
    let id = a.create("notes").await;
    fs::write(a.path(id).await.join("kept"), "1").unwrap();
    a.replicate(id, 1, b).await.unwrap();
    let mounted = opened(b, id).await;
    fs::write(mounted.join("kept"), "spoilt").unwrap();
    fs::set_permissions(mounted.join("kept"), PermissionsExt::from_mode(0o600)).unwrap();
    let spoilt = facts(&mounted, b.keeps());
    // Also mounted still: the receiver unmounts it.
    fs::write(a.path(id).await.join("more"), "2").unwrap();
    assert!(!a.replicate(id, 1, b).await.unwrap().full);
    let asides = b.volumes.asides();
    assert_eq!(asides.len(), 1, "{asides:?}");
    assert_eq!(
        (asides[0].cause, asides[0].epoch),
        (AsideCause::Touched, Epoch(1))
    );
    // However long replication goes on, the snapshot on which it depends stays, until it goes.
    let common = asides[0].common.as_ref().unwrap().name.clone();
    for round in 0..6 {
        fs::write(a.path(id).await.join("round"), round.to_string()).unwrap();
        a.replicate(id, 1, b).await.unwrap();
    }
    b.volumes.tidy(id).await.unwrap();
    assert!(b.snapshots(id).await.contains(&common));
    assert_same(&spoilt, &content(b, &asides[0]), "kept aside");
    b.volumes.discard_aside(id, asides[0].key).await.unwrap();
    b.volumes.tidy(id).await.unwrap();
    assert!(!b.snapshots(id).await.contains(&common));
    bed.is_made_good(a, b, id, 1).await;
    let copy = b.volumes.get(id).await.unwrap();
    assert_eq!((copy.role, copy.epoch), (Role::Replica, Epoch(1)));
}

pub async fn a_replica_that_was_only_mounted_keeps_nothing_aside(bed: &mut Bed) {
    bed.a.patience(TransferLimits::default()).await;
    let (a, b) = (&bed.a, &bed.b);
    let id = a.create("notes").await;
    fs::write(a.path(id).await.join("kept"), "1").unwrap();
    a.replicate(id, 1, b).await.unwrap();
    let mounted = opened(b, id).await;
    assert_eq!(fs::read_to_string(mounted.join("kept")).unwrap(), "1");
    fs::write(a.path(id).await.join("more"), "2").unwrap();
    assert!(!a.replicate(id, 1, b).await.unwrap().full);
    assert_eq!(b.volumes.asides(), []);
    bed.is_made_good(a, b, id, 1).await;
}

/// Every command of keeping aside is the last one that comes through.
pub async fn whatever_ends_in_between_is_finished(bed: &mut Bed) {
    if !bed.a.zfs() {
        return; // Told beside the code: directories have no programs.
    }
    let mut dice = Dice(33);
    for commands in 0.. {
        let parted = parted(bed, &mut dice, 1).await;
        bed.a.restart().await;
        bed.a.volumes.demote(parted.id, Epoch(2)).await.unwrap();
        let lame = Lame::after(bed.a.pool(), commands);
        let result = bed.b.replicate(parted.id, 2, &bed.a).await;
        let all = lame.spent().len() <= commands;
        drop(lame);
        bed.a.restart().await;
        if all {
            result.unwrap();
            assert!(commands > 8, "each command was the last one");
            return;
        }
        is_healed(bed, &parted).await;
        for node in [&bed.a, &bed.b] {
            node.volumes.destroy(parted.id, Epoch(2)).await.unwrap();
        }
    }
}

pub async fn what_is_kept_aside_outlives_its_volume(bed: &mut Bed) {
    let parted = parted(bed, &mut Dice(34), 1).await;
    let (a, id) = (&bed.a, parted.id);
    a.volumes.demote(id, Epoch(2)).await.unwrap();
    bed.b.replicate(id, 2, a).await.unwrap();
    // A second time, with another common snapshot: the one depends on the other.
    let mounted = opened(a, id).await;
    fs::write(mounted.join("by-hand"), "2").unwrap();
    bed.b.replicate(id, 2, a).await.unwrap();
    let asides = a.volumes.asides();
    assert_eq!(asides.len(), 2, "{asides:?}");
    let tails = [content(a, &asides[0]), content(a, &asides[1])];
    assert_same(&parted.tail, &tails[0], "kept aside");
    a.volumes.destroy(id, Epoch(2)).await.unwrap();
    bed.a.restart().await;
    let a = &bed.a;
    assert_eq!(a.volumes.list().await.unwrap(), []);
    for (aside, tail) in a.volumes.asides().iter().zip(&tails) {
        assert_same(tail, &content(a, aside), "without its volume");
    }
    for aside in a.volumes.asides() {
        a.volumes.discard_aside(id, aside.key).await.unwrap();
    }
    assert_eq!(a.volumes.asides(), []);
}

/// A tail of which every change is known, on `a`.
async fn known_tail(bed: &mut Bed) -> (VolumeId, Facts) {
    bed.a.patience(TransferLimits::default()).await;
    bed.b.patience(TransferLimits::default()).await;
    let id = bed.a.create("notes").await;
    let root = bed.a.path(id).await;
    fs::create_dir(root.join("old")).unwrap();
    for name in ["same", "longer", "gone", "old/inside"] {
        fs::write(root.join(name), "as it was").unwrap();
    }
    bed.a.replicate(id, 1, &bed.b).await.unwrap();
    fs::write(root.join("longer"), "longer than it was").unwrap();
    fs::remove_file(root.join("gone")).unwrap();
    fs::write(root.join("new"), "new").unwrap();
    fs::rename(root.join("old"), root.join("renamed")).unwrap();
    let tail = bed.a.facts(id).await;
    bed.b.volumes.promote(id, Epoch(2)).await.unwrap();
    bed.a.volumes.demote(id, Epoch(2)).await.unwrap();
    fs::write(bed.b.path(id).await.join("same"), "elsewhere").unwrap();
    bed.b.replicate(id, 2, &bed.a).await.unwrap();
    (id, tail)
}

pub async fn what_was_changed_is_told(bed: &mut Bed) {
    let (id, _) = known_tail(bed).await;
    let a = &bed.a;
    let key = a.volumes.asides()[0].key;
    for looks in 0..2 {
        let details = a.volumes.aside_details(id, key, 100).await.unwrap();
        let told: Vec<_> = details.changes.as_ref().unwrap().paths.iter().collect();
        let told: Vec<_> = told
            .iter()
            .map(|c| (c.path.as_str(), c.change.as_str()))
            .collect();
        let mut expected = vec![
            ("gone", "removed"),
            ("longer", "modified"),
            ("new", "created"),
        ];
        if a.zfs() {
            expected.push(("renamed", "renamed"));
        } else {
            expected.extend([("old", "removed"), ("old/inside", "removed")]);
            expected.extend([("renamed", "created"), ("renamed/inside", "created")]);
        }
        assert_eq!(told, expected, "look {looks}");
        let few = a
            .volumes
            .aside_details(id, key, 1)
            .await
            .unwrap()
            .changes
            .unwrap();
        assert_eq!(
            (few.paths.len(), few.total()),
            (1, details.changes.unwrap().total())
        );
    }
    // The looks leave nothing behind.
    bed.nothing_leaks(&bed.b, &bed.a, id).await;
}

pub async fn what_is_kept_can_become_a_volume(bed: &mut Bed) {
    let (id, tail) = known_tail(bed).await;
    let a = &bed.a;
    let key = a.volumes.asides()[0].key;
    let how = Resolve::Keep {
        name: "notes".parse().unwrap(),
    };
    assert_eq!(
        code(a.volumes.resolve_aside(id, key, how).await),
        ErrorCode::AlreadyExists
    );
    let how = Resolve::Keep {
        name: "notes-before".parse().unwrap(),
    };
    let kept = a.volumes.resolve_aside(id, key, how.clone()).await.unwrap();
    let kept = kept.volume.unwrap();
    assert_eq!(
        (kept.role, kept.epoch, kept.name.as_str()),
        (Role::Primary, Epoch(1), "notes-before")
    );
    assert_same(&tail, &a.facts(kept.id).await, "a volume of its own");
    fs::write(a.path(kept.id).await.join("more"), "it can be written to").unwrap();
    assert_eq!(a.volumes.asides(), []);
    assert_eq!(
        code(a.volumes.resolve_aside(id, key, how).await),
        ErrorCode::NotFound
    );
    // Neither is in the other's way, nor are they after a restart.
    fs::write(bed.b.path(id).await.join("same"), "again").unwrap();
    assert!(!bed.b.replicate(id, 2, &bed.a).await.unwrap().full);
    assert!(bed.a.replicate(kept.id, 1, &bed.b).await.unwrap().full);
    bed.a.restart().await;
    assert_eq!(
        (
            bed.a.volumes.asides(),
            bed.a.volumes.list().await.unwrap().len()
        ),
        (vec![], 2)
    );
    for volume in [id, kept.id] {
        for node in [&bed.a, &bed.b] {
            node.volumes.destroy(volume, Epoch(2)).await.unwrap();
        }
    }
}

/// A replica that has nothing in common with its primary stays until somebody decides.
pub async fn an_unrelated_copy_is_put_aside_when_somebody_says_so(bed: &mut Bed) {
    bed.a.patience(TransferLimits::default()).await;
    bed.b.patience(TransferLimits::default()).await;
    let (a, b) = (&bed.a, &bed.b);
    let id = a.create("notes").await;
    fs::write(a.path(id).await.join("mine"), "1").unwrap();
    a.volumes.snapshot(id, Epoch(1)).await.unwrap();
    // Another volume of that identity: it was never a copy of this one.
    let request = CreateVolume {
        id,
        name: "notes".parse().unwrap(),
        size_bytes: None,
        epoch: Epoch(1),
    };
    b.volumes.create(request).await.unwrap();
    fs::write(b.path(id).await.join("other"), "2").unwrap();
    b.volumes.snapshot(id, Epoch(1)).await.unwrap();
    let unrelated = b.facts(id).await;
    assert_eq!(
        code(b.volumes.set_aside(id, Epoch(1)).await),
        ErrorCode::Busy
    );
    b.volumes.demote(id, Epoch(1)).await.unwrap();
    assert_eq!(code(a.replicate(id, 1, b).await), ErrorCode::Diverged);
    assert_eq!(b.volumes.asides(), [], "nobody has decided");
    assert_eq!(
        code(b.volumes.set_aside(id, Epoch(0)).await),
        ErrorCode::StaleEpoch
    );
    let aside = b
        .volumes
        .set_aside(id, Epoch(1))
        .await
        .unwrap()
        .aside
        .unwrap();
    assert_eq!((aside.cause, &aside.common), (AsideCause::Unrelated, &None));
    assert!(a.replicate(id, 1, b).await.unwrap().full);
    assert_same(&unrelated, &content(b, &aside), "kept aside");
    let details = b.volumes.aside_details(id, aside.key, 10).await.unwrap();
    assert_eq!(details.changes, None, "nothing to compare with");
    b.volumes.discard_aside(id, aside.key).await.unwrap();
    bed.is_made_good(a, b, id, 1).await;
}
