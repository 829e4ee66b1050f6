//! What only OpenZFS can: streams that go on where they broke off, bookmarks, its own encryption.
//!
//! On other storages the stories end at once; `scripts/openzfs-guest` is where they are told.

use std::{fs, io::Write};

use flocker_api::{ErrorBody, ErrorCode, agent::StorageKind, name::VolumeId, volume::Epoch};
use flocker_storage_agent::driver::transport::TransferLimits;

use crate::{
    bed::{Bed, Dice, Node},
    faults::{Fault, wire},
    pools::{FileSystem, attempt, run},
    stories::{code, stuck},
};

const BIG: u64 = 6 << 20;

fn is_openzfs(bed: &Bed) -> bool {
    bed.zfs() == Some(FileSystem::OpenZfs)
}

/// What is kept of a broken stream at a node.
fn token(node: &Node, id: VolumeId) -> Option<String> {
    let get = [
        "get",
        "-Hp",
        "-o",
        "value",
        "receive_resume_token",
        &node.dataset(id),
    ];
    attempt("zfs", &get).ok()?;
    let token = run("zfs", &get).trim().to_owned();
    (token != "-").then_some(token)
}

async fn grow(node: &Node, id: VolumeId, dice: &mut Dice) {
    let path = node.path(id).await.join(format!("f{}", dice.roll(1 << 30)));
    fs::write(path, dice.bytes(BIG)).unwrap();
}

pub async fn capabilities_are_found_by_trying(bed: &mut Bed) {
    let status = bed.a.volumes.status().await.unwrap();
    let found: Vec<_> = status.capabilities.iter().map(String::as_str).collect();
    match bed.zfs() {
        None | Some(FileSystem::Fuse) => assert!(found.is_empty(), "{found:?}"),
        Some(FileSystem::OpenZfs) => {
            assert_eq!(status.kind, StorageKind::OpenZfs);
            let least = [
                "bookmarks",
                "compressed",
                "embedded",
                "estimate",
                "large-blocks",
                "resume",
            ];
            for capability in least {
                assert!(found.contains(&capability), "{capability} of {found:?}");
            }
            let json =
                status.version.starts_with("zfs-2.3") || status.version.starts_with("zfs-2.4");
            assert_eq!(found.contains(&"json"), json, "{}", status.version);
            // What was tried leaves nothing behind.
            let left = run(
                "zfs",
                &["list", "-H", "-t", "all", "-o", "name", "-r", bed.a.pool()],
            );
            assert!(!left.contains("probe"), "{left}");
        }
    }
}

pub async fn a_broken_stream_goes_on_where_it_ended(bed: &mut Bed) {
    if !is_openzfs(bed) {
        return;
    }
    let mut dice = Dice(31);
    let id = bed.a.create("notes").await;
    for full in [true, false] {
        let (a, b) = (&bed.a, &bed.b);
        grow(a, id, &mut dice).await;
        let before = b.snapshots(id).await;
        // Twice: what is kept of the second is more than of the first.
        for at in [BIG / 3, BIG / 3] {
            let by = wire(b.address, Fault::Cut(at)).await;
            assert!(code(a.replicate_by(id, 1, b, by).await).is_transient());
            assert!(token(b, id).is_some(), "full: {full}");
            assert_eq!(b.snapshots(id).await, before);
        }
        // What is missing of the old one, and then what is new.
        fs::write(a.path(id).await.join("late"), "1").unwrap();
        let reply = a.replicate(id, 1, b).await.unwrap();
        assert_eq!(reply.full, full);
        // Of what came before each break a MiB may be lost, which 2.1 gathers before it writes.
        assert!(
            reply.bytes < BIG / 6 * 5,
            "{} bytes were sent again",
            reply.bytes
        );
        assert_eq!(token(b, id), None);
        bed.is_made_good(a, b, id, 1).await;
    }
    // Within one request, too.
    bed.a.patience(TransferLimits::default()).await;
    grow(&bed.a, id, &mut dice).await;
    let by = wire(bed.b.address, Fault::Cut(BIG / 2)).await;
    let reply = bed.a.replicate_by(id, 1, &bed.b, by).await.unwrap();
    assert!(!reply.full && reply.bytes < BIG, "{reply:?}");
    bed.is_made_good(&bed.a, &bed.b, id, 1).await;
}

pub async fn how_long_a_stream_will_be_is_known(bed: &mut Bed) {
    if !is_openzfs(bed) {
        return;
    }
    let id = bed.a.create("notes").await;
    grow(&bed.a, id, &mut Dice(33)).await;
    let (sending, stall) = stuck(bed, id).await;
    let transfer = bed.a.volumes.get(id).await.unwrap().transfer.unwrap();
    let expected = transfer.bytes_expected.unwrap();
    assert!((BIG..BIG + BIG / 10).contains(&expected), "{transfer:?}");
    stall.go_on.notify_one();
    let reply = sending.await.unwrap().unwrap();
    assert!(reply.bytes.abs_diff(expected) < BIG / 10, "{reply:?}");
}

pub async fn a_token_that_is_of_no_use_is_thrown_away(bed: &mut Bed) {
    if !is_openzfs(bed) {
        return;
    }
    let mut dice = Dice(32);
    let (a, b) = (&bed.a, &bed.b);
    let id = a.create("notes").await;
    for full in [true, false] {
        grow(a, id, &mut dice).await;
        let by = wire(b.address, Fault::Cut(BIG / 2)).await;
        assert!(a.replicate_by(id, 1, b, by).await.is_err());
        assert!(token(b, id).is_some());
        // The snapshot that was being sent is gone.
        let lost = a.snapshots(id).await.pop().unwrap();
        run("zfs", &["destroy", &format!("{}@{lost}", a.dataset(id))]);
        let reply = a.replicate(id, 1, b).await.unwrap();
        assert_eq!(reply.full, full);
        assert!(reply.bytes > BIG, "{} bytes are not all", reply.bytes);
        assert_eq!(token(b, id), None);
        bed.is_made_good(a, b, id, 1).await;
    }
    // Nor is it in the way of a promotion.
    grow(a, id, &mut dice).await;
    let by = wire(b.address, Fault::Cut(BIG / 2)).await;
    assert!(a.replicate_by(id, 1, b, by).await.is_err());
    a.volumes.demote(id, Epoch(2)).await.unwrap();
    b.volumes.promote(id, Epoch(2)).await.unwrap();
    assert_eq!(token(b, id), None);
}

pub async fn what_zfs_encrypts_is_not_moved(bed: &mut Bed) {
    if !is_openzfs(bed) {
        return;
    }
    let (a, b) = (&bed.a, &bed.b);
    let mut key = tempfile::NamedTempFile::new().unwrap();
    key.write_all(b"correct horse").unwrap();
    let id = VolumeId::random();
    let location = format!("keylocation=file://{}", key.path().display());
    let options = [
        "encryption=on",
        "keyformat=passphrase",
        &location,
        "canmount=noauto",
        "flocker:name=secret",
        "flocker:state=primary@1",
    ];
    let mut arguments = vec!["create"];
    for option in options {
        arguments.extend(["-o", option]);
    }
    let dataset = a.dataset(id);
    arguments.push(&dataset);
    run("zfs", &arguments);
    let body = ErrorBody::from(a.replicate(id, 1, b).await.unwrap_err());
    assert_eq!(body.code, ErrorCode::Precondition);
    assert!(
        body.message.contains("encrypted by ZFS itself"),
        "{}",
        body.message
    );
    assert!(b.snapshots(id).await.is_empty());
}
