//! What operators do with volumes.

use std::fs;

use bytes::Bytes;
use flocker_api::{
    ErrorBody, ErrorCode,
    name::{JobId, VolumeId},
    volume::{Epoch, Snapshot, VolumeStatus},
    work::{Digest, JobRequest, Loss, Trashed, Work},
};
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;

use crate::{
    bed::{Bed, Dice, Node, fill},
    pools::{attempt, run, until},
    tree::assert_same,
};

/// Asks a node for something, by a person.
async fn ask<A: DeserializeOwned>(
    node: &Node,
    volume: VolumeId,
    epoch: u64,
    work: Work,
) -> Result<A, ErrorBody> {
    let request = JobRequest {
        id: JobId::random(),
        volume,
        epoch: Epoch(epoch),
        by: "ann".to_owned(),
        work,
    };
    let answer = node.volumes.work(request).await?;
    Ok(serde_json::from_value(answer).unwrap())
}

fn refusal<A: std::fmt::Debug>(answer: Result<A, ErrorBody>) -> ErrorBody {
    answer.expect_err("it must be refused")
}

async fn snapshot(node: &Node, id: VolumeId, name: &str) -> Result<Snapshot, ErrorBody> {
    let name = name.parse().unwrap();
    ask(node, id, 1, Work::Snapshot { name }).await
}

pub async fn operators_snapshots_stay_until_they_are_removed(bed: &mut Bed) {
    let (a, b) = (&bed.a, &bed.b);
    let id = a.create("notes").await;
    fs::write(a.path(id).await.join("f"), "one").unwrap();
    let taken = snapshot(a, id, "before-upgrade").await.unwrap();
    assert_eq!(taken.name, "op-before-upgrade");
    let twice = refusal(snapshot(a, id, "before-upgrade").await);
    assert_eq!(twice.code, ErrorCode::AlreadyExists);
    for round in 0..6 {
        fs::write(a.path(id).await.join("f"), format!("{round}")).unwrap();
        a.replicate_surely(id, 1, b).await;
        a.volumes.tidy(id).await.unwrap();
    }
    assert!(
        a.snapshots(id).await.contains(&taken.name),
        "it outlives retention"
    );
    assert!(
        b.snapshots(id).await.contains(&taken.name),
        "replicas have it, too"
    );
    let base = a.snapshots(id).await.pop().unwrap();
    let remove = |name: &str| Work::DestroySnapshot {
        name: name.to_owned(),
    };
    for node in [a, b] {
        let pinned = refusal(ask::<()>(node, id, 1, remove(&base)).await);
        assert!(
            pinned.message.contains("increment starts from it"),
            "{pinned}"
        );
    }
    for node in [b, a, a] {
        ask::<()>(node, id, 1, remove("before-upgrade"))
            .await
            .unwrap();
        assert!(!node.snapshots(id).await.contains(&taken.name));
    }
    bed.is_made_good(a, b, id, 1).await;
}

pub async fn a_limit_is_set_but_not_below_what_is_held(bed: &mut Bed) {
    let (a, b) = (&bed.a, &bed.b);
    let id = a.create("notes").await;
    fill(&a.path(id).await, 20, 60_000, &mut Dice(3));
    a.volumes.snapshot(id, Epoch(1)).await.unwrap();
    let resize = |size_bytes| Work::Resize { size_bytes };
    let small = refusal(ask::<VolumeStatus>(a, id, 1, resize(Some(1000))).await);
    assert_eq!(small.code, ErrorCode::Precondition, "{small}");
    let status: VolumeStatus = ask(a, id, 1, resize(Some(64 << 20))).await.unwrap();
    assert_eq!(status.size_bytes, Some(64 << 20));
    let old = refusal(ask::<VolumeStatus>(a, id, 0, resize(None)).await);
    assert_eq!(old.code, ErrorCode::StaleEpoch);
    a.replicate_surely(id, 1, b).await;
    assert_eq!(b.volumes.get(id).await.unwrap().size_bytes, Some(64 << 20));
    if a.zfs() {
        let file = a.path(id).await.join("large");
        let written = fs::write(&file, Dice(9).bytes(80 << 20));
        assert!(written.is_err(), "the limit holds");
        fs::remove_file(&file).unwrap();
    }
    let status: VolumeStatus = ask(a, id, 1, resize(None)).await.unwrap();
    assert_eq!(status.size_bytes, None);
}

pub async fn a_clone_is_a_volume_of_its_own(bed: &mut Bed) {
    let (a, b) = (&bed.a, &bed.b);
    let id = a.create("notes").await;
    fill(&a.path(id).await, 20, 30_000, &mut Dice(3));
    let before = a.facts(id).await;
    snapshot(a, id, "monday").await.unwrap();
    fill(&a.path(id).await, 20, 30_000, &mut Dice(4));
    let clone = |from: Option<&str>, name: &str| Work::Clone {
        from: from.map(str::to_owned),
        id: VolumeId::random(),
        name: name.parse().unwrap(),
    };
    let typo = refusal(ask::<VolumeStatus>(a, id, 1, clone(Some("mondya"), "x")).await);
    assert!(typo.message.ends_with("did you mean 'monday'?"), "{typo}");
    let taken = refusal(ask::<VolumeStatus>(a, id, 1, clone(None, "notes")).await);
    assert_eq!(taken.code, ErrorCode::AlreadyExists, "{taken}");
    let old: VolumeStatus = ask(a, id, 1, clone(Some("monday"), "old")).await.unwrap();
    let new: VolumeStatus = ask(a, id, 1, clone(None, "new")).await.unwrap();
    assert_same(&before, &a.facts(old.id).await, "as it was on monday");
    assert_same(&a.facts(id).await, &a.facts(new.id).await, "as it is now");
    fs::write(a.path(new.id).await.join("more"), "x").unwrap();
    assert!(!a.path(id).await.join("more").exists());
    // Retention goes on where clones share, clones replicate, and outlive what they began from.
    for round in 0..5 {
        fs::write(a.path(id).await.join("f"), format!("{round}")).unwrap();
        a.replicate_surely(id, 1, b).await;
        a.volumes.tidy(id).await.unwrap();
    }
    assert!(
        a.snapshots(id).await.len() <= 6,
        "{:?}",
        a.snapshots(id).await
    );
    assert!(a.replicate_surely(new.id, 1, b).await.full);
    let (was_old, was_new) = (a.facts(old.id).await, a.facts(new.id).await);
    ask::<()>(a, id, 1, Work::Destroy).await.unwrap();
    assert_same(
        &was_old,
        &a.facts(old.id).await,
        "after the end of its origin",
    );
    assert_same(
        &was_new,
        &a.facts(new.id).await,
        "after the end of its origin",
    );
    fs::write(a.path(new.id).await.join("still"), "x").unwrap();
    assert!(!a.replicate_surely(new.id, 1, b).await.full);
    for clone in [old.id, new.id] {
        ask::<()>(a, clone, 1, Work::Destroy).await.unwrap();
    }
    assert!(a.volumes.list().await.unwrap().is_empty());
}

pub async fn the_trash_outlives_the_agent_and_is_emptied_in_time(bed: &mut Bed) {
    let a = &mut bed.a;
    let id = a.create("notes").await;
    fill(&a.path(id).await, 5, 5_000, &mut Dice(3));
    let before = a.facts(id).await;
    let grace_ms = 3_600_000;
    let trash = Work::Trash { grace_ms };
    let trashed: Option<Trashed> = ask(a, id, 1, trash.clone()).await.unwrap();
    let trashed = trashed.unwrap();
    assert_eq!(trashed.trash.until_ms - trashed.trash.at_ms, grace_ms);
    assert_eq!(trashed.trash.by, "ann");
    a.restart().await;
    assert!(a.volumes.list().await.unwrap().is_empty());
    assert!(a.volumes.get(id).await.is_err());
    // Its name is free, and then it can come back under another only.
    let other = a.create("notes").await;
    let undelete = |name: Option<&str>| Work::Undelete {
        name: name.map(|name| name.parse().unwrap()),
    };
    let taken = refusal(ask::<VolumeStatus>(a, id, 1, undelete(None)).await);
    assert_eq!(taken.code, ErrorCode::AlreadyExists, "{taken}");
    let back: VolumeStatus = ask(a, id, 1, undelete(Some("again"))).await.unwrap();
    assert_eq!(back.name.as_str(), "again");
    assert_same(&before, &a.facts(id).await, "out of the trash");
    ask::<Option<Trashed>>(a, other, 1, trash.clone())
        .await
        .unwrap();
    ask::<Option<Trashed>>(a, id, 1, trash).await.unwrap();
    let until = trashed.trash.until_ms;
    a.volumes.empty_trash(until - 1).await.unwrap();
    let again: VolumeStatus = ask(a, id, 1, undelete(None)).await.unwrap();
    assert_eq!(again.name.as_str(), "again");
    a.volumes.empty_trash(until + 600_000).await.unwrap();
    let gone = refusal(ask::<VolumeStatus>(a, other, 1, undelete(None)).await);
    assert_eq!(gone.code, ErrorCode::NotFound);
    assert_same(&before, &a.facts(id).await, "which was taken out in time");
}

pub async fn a_preview_says_what_a_rollback_would_lose(bed: &mut Bed) {
    let a = &bed.a;
    let id = a.create("notes").await;
    let root = a.path(id).await;
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("d/kept"), "x").unwrap();
    fs::write(root.join("changed"), "x").unwrap();
    snapshot(a, id, "monday").await.unwrap();
    fs::write(root.join("changed"), "twelve bytes").unwrap();
    fs::write(root.join("d/new"), "four").unwrap();
    a.volumes.snapshot(id, Epoch(1)).await.unwrap();
    let to = "monday".to_owned();
    let loss: Loss = ask(a, id, 1, Work::Preview { to }).await.unwrap();
    assert_eq!((loss.changes, loss.bytes), (2, 16));
    assert_eq!(loss.paths, ["changed", "d/new"]);
    assert_eq!(loss.snapshots.len(), 1);
    bed.nothing_leaks(a, a, id).await;
}

pub async fn a_digest_finds_a_planted_difference(bed: &mut Bed) {
    let (a, b) = (&bed.a, &bed.b);
    let id = a.create("notes").await;
    fill(&a.path(id).await, 60, 20_000, &mut Dice(5));
    let reply = a.replicate_surely(id, 1, b).await;
    let digest = |sample, list| Work::Digest {
        guid: reply.snapshot.guid,
        sample,
        seed: 7,
        list,
    };
    let ours: Digest = ask(a, id, 1, digest(1000, Vec::new())).await.unwrap();
    let theirs: Digest = ask(b, id, 1, digest(1000, Vec::new())).await.unwrap();
    assert_eq!(ours, theirs);
    assert!(ours.bytes_read > 0 && ours.files_read > 10, "{ours:?}");
    let part: Digest = ask(a, id, 1, digest(100, Vec::new())).await.unwrap();
    assert!(part.files_read < ours.files_read / 2, "a sample is a part");
    bed.nothing_leaks(a, b, id).await;
    if !a.zfs() {
        // Where a snapshot can be written to, one byte of it is; the time is put back.
        let tree = b.place(id).join("snapshots").join(&reply.snapshot.name);
        let file = first_file(&tree.join("tree"));
        let metadata = fs::metadata(&file).unwrap();
        let mut content = fs::read(&file).unwrap();
        content[0] ^= 1;
        fs::write(&file, content).unwrap();
        let opened = fs::File::options().write(true).open(&file).unwrap();
        opened.set_modified(metadata.modified().unwrap()).unwrap();
        let theirs: Digest = ask(b, id, 1, digest(1000, Vec::new())).await.unwrap();
        let parts = ours.parts.iter().zip(&theirs.parts).zip(0_u32..);
        let differ: Vec<_> = parts.filter(|((a, b), _)| a != b).map(|(_, n)| n).collect();
        assert_eq!(differ.len(), 1);
        let ours: Digest = ask(a, id, 1, digest(1000, differ.clone())).await.unwrap();
        let theirs: Digest = ask(b, id, 1, digest(1000, differ)).await.unwrap();
        let listed = ours
            .listed
            .iter()
            .filter(|one| !theirs.listed.contains(one));
        let listed: Vec<_> = listed.map(|(path, _)| path.clone()).collect();
        assert!(
            file.ends_with(&listed[0]) && listed.len() == 1,
            "{listed:?}"
        );
    }
}

fn first_file(root: &std::path::Path) -> std::path::PathBuf {
    let mut entries: Vec<_> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    let full = |path: &std::path::PathBuf| {
        path.is_file() && !path.is_symlink() && fs::metadata(path).unwrap().len() > 0
    };
    let file = entries.iter().find(|path| full(path)).cloned();
    file.unwrap_or_else(|| {
        let directories = entries.iter().filter(|path| path.is_dir());
        directories.map(|path| first_file(path)).next().unwrap()
    })
}

pub async fn a_rollback_keeps_what_it_takes_and_replicas_follow(bed: &mut Bed) {
    let (a, b) = (&bed.a, &bed.b);
    let id = a.create("notes").await;
    let root = a.path(id).await;
    fill(&root, 20, 30_000, &mut Dice(3));
    snapshot(a, id, "monday").await.unwrap();
    let monday = a.facts(id).await;
    a.replicate_surely(id, 1, b).await;
    fill(&root, 20, 30_000, &mut Dice(4));
    a.replicate_surely(id, 1, b).await;
    fs::write(root.join("never-sent"), "four").unwrap();
    let to = |name: &str| Work::RollBack {
        to: name.to_owned(),
    };
    let typo = refusal(ask::<Loss>(a, id, 1, to("mnday")).await);
    assert!(typo.message.ends_with("did you mean 'monday'?"), "{typo}");
    let old = refusal(ask::<Loss>(a, id, 0, to("monday")).await);
    assert_eq!(old.code, ErrorCode::StaleEpoch);
    let loss: Loss = ask(a, id, 1, to("monday")).await.unwrap();
    assert!(loss.changes > 1 && loss.bytes > 4, "{loss:?}");
    assert!(loss.paths.len() <= 20);
    assert_same(&monday, &a.facts(id).await, "as on monday");
    assert!(a.volumes.is_primary(id, Epoch(1)).await.unwrap());
    let asides = a.volumes.asides();
    assert_eq!(asides.len(), 1);
    assert_eq!(Some(asides[0].key), loss.aside);
    // The replica has what the primary has no more: it keeps that aside and goes on.
    fs::write(a.path(id).await.join("after"), "x").unwrap();
    let reply = a.replicate_surely(id, 1, b).await;
    assert!(!reply.full, "from the common snapshot");
    assert_same(&a.facts(id).await, &b.replica_facts(id).await, "afterwards");
    for node in [a, b] {
        for aside in node.volumes.asides() {
            node.volumes.discard_aside(id, aside.key).await.unwrap();
        }
    }
    ask::<()>(
        a,
        id,
        1,
        Work::DestroySnapshot {
            name: "monday".to_owned(),
        },
    )
    .await
    .unwrap();
    bed.is_made_good(a, b, id, 1).await;
}

/// All pieces of an archive.
async fn archive(node: &Node, id: VolumeId, of: Option<&str>, since: Option<&str>) -> Vec<u8> {
    let pieces = node.volumes.export(id, of, since).await.unwrap();
    let pieces: Vec<_> = pieces.map(|piece| piece.unwrap().to_vec()).collect().await;
    pieces.concat()
}

async fn take(
    node: &Node,
    id: VolumeId,
    name: &str,
    bytes: &[u8],
) -> Result<VolumeStatus, ErrorBody> {
    let pieces: Vec<_> = bytes
        .chunks(50_000)
        .map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece)))
        .collect();
    let pieces = futures_util::stream::iter(pieces);
    let taken = node
        .volumes
        .import(id, name.parse().unwrap(), Epoch(1), pieces);
    Ok(taken.await?)
}

pub async fn an_archive_is_the_volume_and_damage_is_found(bed: &mut Bed) {
    let (a, b) = (&bed.a, &bed.b);
    let id = a.create("notes").await;
    fill(&a.path(id).await, 15, 20_000, &mut Dice(3));
    snapshot(a, id, "monday").await.unwrap();
    let monday = a.facts(id).await;
    let whole = archive(a, id, Some("monday"), None).await;
    fill(&a.path(id).await, 15, 20_000, &mut Dice(4));
    snapshot(a, id, "tuesday").await.unwrap();
    let tuesday = a.facts(id).await;
    let more = archive(a, id, Some("tuesday"), Some("monday")).await;
    assert!(
        a.volumes
            .export(id, Some("monday"), Some("tuesday"))
            .await
            .is_err()
    );
    // Cut at each tenth and just before its end, flipped at random places: refused, nothing left.
    let mut dice = Dice(9);
    let length = whole.len();
    let cuts = (0..10)
        .map(|tenth| length * tenth / 10)
        .chain([length - 1, length - 40]);
    let mut spoiled: Vec<_> = cuts.map(|end| whole[..end].to_vec()).collect();
    for _ in 0..8 {
        let mut bytes = whole.clone();
        let at = usize::try_from(dice.roll(length as u64)).unwrap();
        bytes[at] ^= 1 << dice.roll(8);
        spoiled.push(bytes);
    }
    spoiled.push([whole.as_slice(), b"x"].concat());
    let copy = VolumeId::random();
    for bytes in spoiled {
        refusal(take(b, copy, "copy", &bytes).await);
        assert!(b.volumes.get(copy).await.is_err(), "nothing is left");
    }
    refusal(take(b, copy, "copy", &more).await);
    take(b, copy, "copy", &whole).await.unwrap();
    assert_same(&monday, &b.facts(copy).await, "as on monday");
    let taken = refusal(take(b, VolumeId::random(), "copy", &whole).await);
    assert_eq!(taken.code, ErrorCode::AlreadyExists);
    let mut flipped = more.clone();
    flipped[more.len() / 2] ^= 4;
    refusal(take(b, copy, "copy", &flipped).await);
    assert_same(&monday, &b.facts(copy).await, "still as on monday");
    take(b, copy, "copy", &more).await.unwrap();
    assert_same(&tuesday, &b.facts(copy).await, "as on tuesday");
    refusal(take(b, copy, "copy", &more).await);
    fs::write(b.path(copy).await.join("alive"), "x").unwrap();
}

pub async fn a_restore_brings_what_a_copy_has(bed: &mut Bed) {
    let (a, b) = (&bed.a, &bed.b);
    let id = a.create("notes").await;
    fill(&a.path(id).await, 15, 20_000, &mut Dice(3));
    a.replicate_surely(id, 1, b).await;
    let good = a.facts(id).await;
    let archived = archive(b, id, None, None).await;
    fill(&a.path(id).await, 15, 20_000, &mut Dice(4));
    let brought = VolumeId::random();
    take(a, brought, "brought", &archived).await.unwrap();
    let replace = Work::Replace { with: brought };
    let status: VolumeStatus = ask(a, id, 1, replace).await.unwrap();
    assert_eq!((status.id, status.name.as_str()), (id, "notes"));
    assert_same(&good, &a.facts(id).await, "as the copy had it");
    assert!(
        a.volumes.get(brought).await.is_err(),
        "it went up in the volume"
    );
    assert_eq!(a.volumes.asides().len(), 1, "what it was is kept");
    fs::write(a.path(id).await.join("after"), "x").unwrap();
    let reply = a.replicate_surely(id, 1, b).await;
    assert!(!reply.full, "the copy goes on from what it gave");
    assert_same(&a.facts(id).await, &b.replica_facts(id).await, "afterwards");
}

/// What an agent that was killed between the commands of a verb leaves, each the state after one
/// of them: the next start undoes it, or finishes it.
pub async fn a_start_finishes_or_undoes_what_was_begun(bed: &mut Bed) {
    let a = &mut bed.a;
    let id = a.create("notes").await;
    fill(&a.path(id).await, 5, 5_000, &mut Dice(3));
    snapshot(a, id, "monday").await.unwrap();
    let gone = VolumeId::random();
    leave_pieces(a, id, gone);
    a.restart().await;
    assert_eq!(
        a.snapshots(id).await.len(),
        1,
        "{:?}",
        a.snapshots(id).await
    );
    assert_eq!(a.volumes.list().await.unwrap().len(), 1);
    if a.zfs() {
        let parent = format!("{}/flocker", a.pool());
        let text = run(
            "zfs",
            &[
                "list",
                "-H",
                "-r",
                "-o",
                "name",
                "-t",
                "filesystem",
                &parent,
            ],
        );
        assert_eq!(text.lines().count(), 2, "{text}");
    } else {
        let volumes = a.place(id).parent().unwrap().to_owned();
        assert_eq!(fs::read_dir(volumes).unwrap().count(), 1);
    }
}

/// A clone whose snapshot was taken, a snapshot that is being read, an archive that arrives.
fn leave_pieces(a: &Node, id: VolumeId, gone: VolumeId) {
    if a.zfs() {
        let (dataset, pool) = (a.dataset(id), a.pool().to_owned());
        run("zfs", &["snapshot", &format!("{dataset}@clone-{gone}")]);
        let monday = format!("{dataset}@op-monday");
        for left in [format!("look.{gone}"), format!("{gone}.arriving")] {
            let left = format!("{pool}/flocker/{left}");
            run("zfs", &["clone", "-o", "mountpoint=none", &monday, &left]);
        }
    } else {
        let volumes = a.place(id).parent().unwrap().to_owned();
        fs::create_dir_all(volumes.join(format!("{gone}.making/data"))).unwrap();
        let arriving = volumes.join(gone.to_string());
        fs::create_dir_all(arriving.join("snapshots/x/tree")).unwrap();
        fs::write(arriving.join("arriving.json"), "null").unwrap();
    }
}

/// The same where a volume is to be replaced: as long as it is there nothing was begun; once it has
/// been put aside the other one takes its place.
pub async fn a_start_sees_a_restore_through_or_undoes_it(bed: &mut Bed) {
    let a = &mut bed.a;
    let id = a.create("notes").await;
    fill(&a.path(id).await, 5, 5_000, &mut Dice(3));
    snapshot(a, id, "monday").await.unwrap();
    let whole = archive(a, id, Some("monday"), None).await;
    let facts = a.facts(id).await;
    let other = VolumeId::random();
    take(a, other, "brought", &whole).await.unwrap();
    let mark = |node: &Node| {
        if node.zfs() {
            let becomes = format!(
                r#"flocker:becomes={{"id":"{id}","name":"notes","epoch":1,"size_bytes":null,"replication":null}}"#
            );
            run("zfs", &["set", &becomes, &node.dataset(other)]);
        } else {
            let record = node.place(id).join("volume.json");
            fs::copy(record, node.place(other).join("becomes.json")).unwrap();
        }
    };
    mark(a);
    a.restart().await;
    assert_eq!(a.volumes.list().await.unwrap().len(), 2, "it is undone");
    mark(a);
    if a.zfs() {
        let (dataset, away) = (a.dataset(id), format!("{}/away", a.pool()));
        run("zfs", &["unmount", &dataset]);
        // The unmount may still go on.
        until("it is moved away", || {
            attempt("zfs", &["rename", &dataset, &away])
        });
        run("zfs", &["unmount", &a.dataset(other)]);
    } else {
        fs::remove_dir_all(a.place(id)).unwrap();
    }
    a.restart().await;
    assert!(a.volumes.get(other).await.is_err(), "it is finished");
    a.volumes.promote(id, Epoch(1)).await.unwrap();
    assert_same(&facts, &a.facts(id).await, "which was brought");
}
