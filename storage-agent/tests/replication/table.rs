//! The fault table: what may happen to a replication, each line a story.
//!
//! Cuts, flipped bits, lost acknowledgements, killed agents, a full or modified receiver and stale
//! epochs are told in `stories`. Each ends with equality or a conflict that says what it is about;
//! what was acknowledged stays, and nothing is left over.

use std::fs;

use flocker_api::{
    ErrorBody, ErrorCode,
    name::VolumeId,
    volume::{Epoch, Guid},
};
use flocker_storage_agent::{driver::transport::TransferLimits, error::VolumeError};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    bed::{Bed, Dice, Node, fill, impatient, on_a_small_disk},
    pools::{FileSystem, Pools, run, until},
    stories::{code, stuck},
};

/// A volume of which the replica has acknowledged a snapshot, and changes since.
async fn replicated(bed: &Bed, dice: &mut Dice) -> (VolumeId, String) {
    let id = bed.a.create("notes").await;
    let root = bed.a.path(id).await;
    fill(&root, 20, 30_000, dice);
    let acknowledged = bed.a.replicate(id, 1, &bed.b).await.unwrap().snapshot.name;
    // Long enough to be stopped in its middle.
    fs::write(root.join("big"), dice.bytes(16 << 20)).unwrap();
    (id, acknowledged)
}

/// The one process of a program that runs.
fn the(words: &[&str]) -> Pid {
    let found = Pools::running(words);
    assert_eq!(found.len(), 1, "{words:?} runs once");
    found[0]
}

pub async fn a_killed_program_is_made_good(bed: &mut Bed) {
    if bed.zfs().is_none() {
        return; // There are no programs.
    }
    let mut dice = Dice(21);
    let (id, _) = replicated(bed, &mut dice).await;
    for program in [["zfs", "send"], ["zfs", "receive"]] {
        let root = bed.a.path(id).await;
        fs::write(root.join("big"), dice.bytes(16 << 20)).unwrap();
        let before = bed.b.snapshots(id).await;
        let (sending, stall) = stuck(bed, id).await;
        kill_process(the(&program), Signal::KILL).unwrap();
        stall.go_on.notify_one();
        // The daemon of zfs-fuse goes on with a receive whose program is dead: then it is
        // found to have been successful.
        if let Err(error) = sending.await.unwrap() {
            assert!(error.code().is_transient(), "{program:?}: {error}");
        }
        let after = bed.b.snapshots(id).await;
        assert!(before.iter().all(|s| after.contains(s)), "{program:?}");
        bed.a.patience(TransferLimits::default()).await;
        bed.is_made_good(&bed.a, &bed.b, id, 1).await;
        bed.a.patience(impatient()).await;
    }
}

pub async fn a_stopped_program_is_noticed_and_made_good(bed: &mut Bed) {
    if bed.zfs().is_none() {
        return; // There are no programs.
    }
    let mut dice = Dice(22);
    let (id, acknowledged) = replicated(bed, &mut dice).await;
    let limits = TransferLimits {
        stall: std::time::Duration::from_secs(2),
        ..impatient()
    };
    bed.a.patience(limits).await;
    let (sending, stall) = stuck(bed, id).await;
    let sender = the(&["zfs", "send"]);
    kill_process(sender, Signal::STOP).unwrap();
    stall.go_on.notify_one();
    // By the sender itself, and not by a receiver that hears nothing but heartbeats.
    let noticed = sending.await.unwrap().unwrap_err();
    assert!(matches!(noticed, VolumeError::Timeout { .. }), "{noticed}");
    // It was killed, stopped though it was.
    until("it has ended", || {
        let left = Pools::running(&["zfs", "send"]);
        left.is_empty()
            .then_some(())
            .ok_or_else(|| format!("{left:?}"))
    });
    assert!(bed.b.snapshots(id).await.contains(&acknowledged));
    bed.a.patience(TransferLimits::default()).await;
    bed.is_made_good(&bed.a, &bed.b, id, 1).await;
}

pub async fn a_killed_daemon_is_made_good(bed: &mut Bed) {
    if bed.zfs() != Some(FileSystem::Fuse) {
        return; // Only zfs-fuse has one.
    }
    let mut dice = Dice(23);
    let (id, acknowledged) = replicated(bed, &mut dice).await;
    let (sending, stall) = stuck(bed, id).await;
    bed.pools.as_mut().unwrap().kill_daemon();
    stall.go_on.notify_one();
    assert!(sending.await.unwrap().is_err());
    assert!(bed.b.snapshots(id).await.contains(&acknowledged));
    // Nobody but control mounts after such a loss; here it is the test.
    bed.a.patience(TransferLimits::default()).await;
    bed.b.restart().await;
    bed.a.volumes.promote(id, Epoch(1)).await.unwrap();
    bed.is_made_good(&bed.a, &bed.b, id, 1).await;
}

/// What the receiver has is named, and stays: nothing tells what it is a copy of.
async fn is_a_conflict(bed: &Bed, id: VolumeId, known: &str) {
    let before = bed.b.snapshots(id).await;
    let body = ErrorBody::from(bed.a.replicate(id, 1, &bed.b).await.unwrap_err());
    assert_eq!(body.code, ErrorCode::Diverged, "{}", body.message);
    assert!(body.message.contains(known), "{}", body.message);
    assert_eq!(body.details["only_receiver"][0]["name"], known);
    assert_eq!(bed.b.snapshots(id).await, before);
}

/// A snapshot that only the receiver has, and in which nothing was written, is in nobody's way.
async fn goes_away(bed: &Bed, id: VolumeId, foreign: Guid) {
    let reply = bed.a.replicate(id, 1, &bed.b).await.unwrap();
    assert!(!reply.full, "from the common snapshot");
    let left = bed.b.volumes.get(id).await.unwrap().snapshots;
    assert!(left.iter().all(|s| s.guid != foreign), "{left:?}");
    assert_eq!(bed.b.volumes.asides(), [], "nothing was written");
}

/// A snapshot that somebody else takes of a node's copy.
async fn foreign_snapshot(node: &Node, id: VolumeId, name: &str) -> Guid {
    if node.zfs() {
        run(
            "zfs",
            &["snapshot", &format!("{}@{name}", node.dataset(id))],
        );
        return node
            .volumes
            .get(id)
            .await
            .unwrap()
            .snapshots
            .pop()
            .unwrap()
            .guid;
    }
    let newest = node.volumes.get(id).await.unwrap().snapshots.pop().unwrap();
    let snapshots = node.place(id).join("snapshots");
    let (from, to) = (snapshots.join(&newest.name), snapshots.join(name));
    let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
    run("cp", &["-a", from, to]);
    let record = serde_json::json!({
        "guid": Guid(newest.guid.0 ^ 1),
        "createtxg": newest.createtxg + 1,
    });
    fs::write(format!("{to}/snapshot.json"), record.to_string()).unwrap();
    // As the next sweep would find it.
    node.volumes.get(id).await.unwrap();
    Guid(newest.guid.0 ^ 1)
}

async fn destroy_snapshot(node: &Node, id: VolumeId, name: &str) {
    if node.zfs() {
        // With what was kept aside on top of it.
        let snapshot = format!("{}@{name}", node.dataset(id));
        run("zfs", &["destroy", "-R", &snapshot]);
    } else {
        fs::remove_dir_all(node.place(id).join("snapshots").join(name)).unwrap();
    }
}

pub async fn a_snapshot_that_only_the_receiver_has_is_in_nobodys_way(bed: &mut Bed) {
    let (id, acknowledged) = replicated(bed, &mut Dice(24)).await;
    let foreign = foreign_snapshot(&bed.b, id, "by-hand").await;
    goes_away(bed, id, foreign).await;
    assert!(bed.b.snapshots(id).await.contains(&acknowledged));
    bed.is_made_good(&bed.a, &bed.b, id, 1).await;
}

pub async fn a_snapshot_of_the_same_name_is_not_taken_for_ours(bed: &mut Bed) {
    let (id, _) = replicated(bed, &mut Dice(25)).await;
    let name = bed.a.volumes.snapshot(id, Epoch(1)).await.unwrap().name;
    let foreign = foreign_snapshot(&bed.b, id, &name).await;
    goes_away(bed, id, foreign).await;
    bed.is_made_good(&bed.a, &bed.b, id, 1).await;
}

pub async fn a_base_pruned_at_the_receiver_is_a_conflict_or_made_good(bed: &mut Bed) {
    let (id, older) = replicated(bed, &mut Dice(26)).await;
    bed.a.patience(TransferLimits::default()).await;
    let newer = bed.a.replicate(id, 1, &bed.b).await.unwrap().snapshot.name;
    // With an older one left it goes back to that, being nothing but a replica.
    destroy_snapshot(&bed.b, id, &newer).await;
    let reply = bed.a.replicate(id, 1, &bed.b).await.unwrap();
    assert!(!reply.full);
    bed.is_made_good(&bed.a, &bed.b, id, 1).await;
    assert!(bed.b.snapshots(id).await.contains(&older));
    // With none left nothing tells what it is a copy of.
    for name in bed.b.snapshots(id).await {
        destroy_snapshot(&bed.b, id, &name).await;
    }
    let result = bed.a.replicate(id, 1, &bed.b).await;
    if bed.zfs().is_none() {
        assert!(result.unwrap().full);
    } else {
        let body = ErrorBody::from(result.unwrap_err());
        assert_eq!(body.code, ErrorCode::Diverged, "{}", body.message);
    }
    bed.b.volumes.destroy(id, Epoch(1)).await.unwrap();
    bed.is_made_good(&bed.a, &bed.b, id, 1).await;
}

pub async fn a_base_pruned_at_the_sender_is_a_conflict_or_made_good(bed: &mut Bed) {
    let (id, acknowledged) = replicated(bed, &mut Dice(27)).await;
    // Older than what is kept in any case.
    for _ in 0..5 {
        bed.a.volumes.snapshot(id, Epoch(1)).await.unwrap();
    }
    bed.a.volumes.tidy(id).await.unwrap();
    assert!(bed.a.snapshots(id).await.contains(&acknowledged));
    destroy_snapshot(&bed.a, id, &acknowledged).await;
    if bed.zfs() == Some(FileSystem::OpenZfs) {
        // A bookmark of it is left, and serves as well.
        let reply = bed.a.replicate(id, 1, &bed.b).await.unwrap();
        assert!(!reply.full);
        return bed.is_made_good(&bed.a, &bed.b, id, 1).await;
    }
    is_a_conflict(bed, id, &acknowledged).await;
    bed.b.volumes.destroy(id, Epoch(1)).await.unwrap();
    bed.is_made_good(&bed.a, &bed.b, id, 1).await;
}

pub async fn two_senders_at_once_take_turns_or_are_refused(bed: &mut Bed) {
    let mut dice = Dice(28);
    let (id, _) = replicated(bed, &mut dice).await;
    // Twice the same: one after the other.
    let (one, two) = tokio::join!(
        bed.a.replicate(id, 1, &bed.b),
        bed.a.replicate(id, 1, &bed.b)
    );
    assert_ne!(one.unwrap().snapshot.guid, two.unwrap().snapshot.guid);
    // Another agent on the same storage, while one sends: refused, and the first unharmed.
    fs::write(bed.a.path(id).await.join("big"), dice.bytes(16 << 20)).unwrap();
    let other = bed.a.twin().await;
    let (sending, stall) = stuck(bed, id).await;
    let refused = other.replicate(id, bed.a.request(1, &bed.b)).await;
    assert_eq!(code(refused), ErrorCode::Busy);
    stall.go_on.notify_one();
    sending.await.unwrap().unwrap();
    bed.is_made_good(&bed.a, &bed.b, id, 1).await;
}

/// A snapshot from the future, as a clock leaves it behind that was ahead and was put back.
pub async fn a_clock_that_was_ahead_does_no_harm(bed: &mut Bed) {
    let (id, acknowledged) = replicated(bed, &mut Dice(29)).await;
    let future = "flocker-1-99999999999999999";
    rename_snapshot(&bed.a, id, &acknowledged, future);
    for _ in 0..6 {
        bed.is_made_good(&bed.a, &bed.b, id, 1).await;
        let newest = bed.a.snapshots(id).await.pop().unwrap();
        assert_ne!(
            newest, future,
            "order is that of the pool, not of the names"
        );
    }
    let kept = bed.a.snapshots(id).await;
    assert!(!kept.contains(&future.to_owned()), "{kept:?}");
}

fn rename_snapshot(node: &Node, id: VolumeId, from: &str, to: &str) {
    if node.zfs() {
        let dataset = node.dataset(id);
        run(
            "zfs",
            &[
                "rename",
                &format!("{dataset}@{from}"),
                &format!("{dataset}@{to}"),
            ],
        );
    } else {
        let snapshots = node.place(id).join("snapshots");
        fs::rename(snapshots.join(from), snapshots.join(to)).unwrap();
    }
}

#[test]
fn a_full_disk_is_told_apart_and_nothing_is_left() {
    let name = "table::a_full_disk_is_told_apart_and_nothing_is_left";
    on_a_small_disk(name, 64, |bed| Box::pin(a_full_disk(bed)));
}

async fn a_full_disk(bed: &mut Bed) {
    let (id, acknowledged) = replicated(bed, &mut Dice(30)).await;
    let big = bed.a.path(id).await.join("too-big");
    fs::write(&big, Dice(31).bytes(70 << 20)).unwrap();
    let refused = bed.a.replicate(id, 1, &bed.b).await;
    assert_eq!(code(refused), ErrorCode::NoSpace);
    assert_eq!(bed.b.snapshots(id).await, [acknowledged]);
    fs::remove_file(&big).unwrap();
    bed.is_made_good(&bed.a, &bed.b, id, 1).await;
}
