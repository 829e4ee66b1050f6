//! What must hold on every storage.

use std::{fs, path::Path, sync::Arc, time::Duration};

use flocker_api::{
    ErrorBody, ErrorCode,
    agent::{CreateVolume, ReplicateReply, ReplicateRequest},
    name::VolumeId,
    volume::{Epoch, Role},
};
use flocker_storage_agent::{driver::transport::TransferLimits, error::VolumeError};

use tokio::task::JoinHandle;

use crate::{
    bed::{Bed, Dice, Node, fill, impatient},
    faults::{Fault, Stall, stalling_wire, wire},
    pools::run,
    tree::{Facts, assert_same},
};

/// The end of a move: everything sent, the target promoted, the source made a replica.
async fn hand_over(id: VolumeId, from: &Node, to: &Node, epoch: u64) {
    from.replicate(id, epoch, to).await.unwrap();
    let before = from.facts(id).await;
    let next = Epoch(epoch + 1);
    to.volumes.promote(id, next).await.unwrap();
    from.volumes.demote(id, next).await.unwrap();
    assert_same(&before, &to.facts(id).await, "after a move");
    assert!(to.volumes.is_primary(id, next).await.unwrap());
    assert_eq!(from.volumes.mount_path(id).await.unwrap(), None);
}

pub async fn a_move_there_and_back_with_every_file_rewritten(bed: &mut Bed) {
    let mut dice = Dice(7);
    let (a, b) = (&bed.a, &bed.b);
    let id = a.create("notes").await;
    fill(&a.path(id).await, 120, 10_000, &mut dice);
    let reply = a.replicate(id, 1, b).await.unwrap();
    assert!(reply.full && reply.bytes > 0);
    let mut epoch = 1;
    for _ in 0..2 {
        for (from, to) in [(a, b), (b, a)] {
            let root = from.path(id).await;
            fill(&root, 120, 10_000, &mut dice);
            let reply = from.replicate(id, epoch, to).await.unwrap();
            assert!(!reply.full, "from the common snapshot, not anew");
            fill(&root, 120, 10_000, &mut dice);
            hand_over(id, from, to, epoch).await;
            epoch += 1;
        }
    }
    // What was handed over is nothing to be kept aside.
    assert_eq!((a.volumes.asides(), b.volumes.asides()), (vec![], vec![]));
}

pub fn code<T: std::fmt::Debug>(result: Result<T, VolumeError>) -> ErrorCode {
    ErrorBody::from(result.expect_err("it must be refused")).code
}

/// What a replica holds can be seen only by making it the primary.
async fn content_after_promotion(id: VolumeId, node: &Node, epoch: u64) -> Facts {
    node.volumes.promote(id, Epoch(epoch)).await.unwrap();
    node.facts(id).await
}

/// Breaks the wire at each tenth of a stream, full and incremental: each time the transfer
/// fails, nothing half-done is left, and the next one brings all of it.
async fn broken_at_each_tenth(bed: &mut Bed, fault: fn(u64) -> Fault) {
    let mut dice = Dice(11);
    let (a, b) = (&bed.a, &bed.b);
    for tenth in 0..10 {
        let id = a.create(&format!("v{tenth}")).await;
        let root = a.path(id).await;
        // A full stream of known size, to know where its tenths are.
        fill(&root, 20, 60_000, &mut dice);
        let bytes = fs_bytes(&root);
        let by = wire(b.address, fault(400 + bytes * tenth / 10)).await;
        let failed = a.replicate_by(id, 1, b, by).await;
        assert!(code(failed).is_transient(), "full, tenth {tenth}");
        assert!(b.snapshots(id).await.is_empty(), "full, tenth {tenth}");
        assert!(a.replicate_surely(id, 1, b).await.full);

        let before = b.snapshots(id).await;
        fill(&root, 20, 60_000, &mut dice);
        let bytes = fs_bytes(&root);
        let by = wire(b.address, fault(600 + bytes * tenth / 10)).await;
        let failed = a.replicate_by(id, 1, b, by).await;
        assert!(code(failed).is_transient(), "increment, tenth {tenth}");
        assert_eq!(b.snapshots(id).await, before, "increment, tenth {tenth}");
        assert!(!a.replicate_surely(id, 1, b).await.full);

        let expected = a.facts(id).await;
        assert_eq!(content_after_promotion(id, b, 2).await, expected);
        a.volumes.destroy(id, Epoch(1)).await.unwrap();
        b.volumes.destroy(id, Epoch(2)).await.unwrap();
        assert_eq!(b.volumes.list().await.unwrap(), []);
    }
}

/// Somebody asks what there is while a stream is being received: what he learns is of something
/// half done, and is not remembered.
pub async fn what_is_asked_during_a_receive_is_not_remembered(bed: &mut Bed) {
    let mut dice = Dice(6);
    let id = bed.a.create("notes").await;
    for full in [true, false] {
        fill(&bed.a.path(id).await, 40, 200_000, &mut dice);
        let (sending, stall) = stuck(bed, id).await;
        let half = bed.b.snapshots(id).await;
        bed.b.volumes.list().await.unwrap();
        stall.go_on.notify_one();
        sending.await.unwrap().unwrap();
        let all = bed.b.volumes.list().await.unwrap();
        let known: Vec<_> = all.iter().flat_map(|volume| &volume.snapshots).collect();
        assert_eq!(known.len(), half.len() + 1, "full: {full}, {known:?}");
    }
}

fn fs_bytes(root: &Path) -> u64 {
    let mut sum = 0;
    for entry in fs::read_dir(root).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        sum += if metadata.is_dir() {
            fs_bytes(&entry.path())
        } else {
            metadata.len()
        };
    }
    sum
}

pub async fn a_stream_cut_at_each_tenth_leaves_nothing_and_is_made_good(bed: &mut Bed) {
    broken_at_each_tenth(bed, Fault::Cut).await;
}

pub async fn a_flipped_bit_in_each_tenth_is_found_and_made_good(bed: &mut Bed) {
    broken_at_each_tenth(bed, Fault::Flip).await;
}

pub async fn a_cut_is_made_good_within_the_same_request(bed: &mut Bed) {
    let mut dice = Dice(5);
    bed.a.patience(TransferLimits::default()).await;
    let (a, b) = (&bed.a, &bed.b);
    let id = a.create("notes").await;
    fill(&a.path(id).await, 20, 50_000, &mut dice);
    let by = wire(b.address, Fault::Cut(100_000)).await;
    let reply = a.replicate_by(id, 1, b, by).await.unwrap();
    assert!(reply.full && reply.bytes > 100_000);
    assert_eq!(b.snapshots(id).await, a.snapshots(id).await);
}

pub async fn a_lost_acknowledgement_is_found_to_be_success(bed: &mut Bed) {
    let mut dice = Dice(3);
    bed.a.patience(TransferLimits::default()).await;
    let (a, b) = (&bed.a, &bed.b);
    let id = a.create("notes").await;
    fill(&a.path(id).await, 20, 5_000, &mut dice);
    for full in [true, false] {
        let by = wire(b.address, Fault::LoseAck).await;
        let ReplicateReply {
            bytes, snapshot, ..
        } = a.replicate_by(id, 1, b, by).await.unwrap();
        // Nothing was sent twice.
        assert_eq!(bytes, 0, "full: {full}");
        assert_eq!(b.snapshots(id).await.last(), Some(&snapshot.name));
        assert_eq!(b.snapshots(id).await, a.snapshots(id).await);
    }
}

/// A stream that stands still in its middle; it goes on when told to.
pub async fn stuck(
    bed: &Bed,
    id: VolumeId,
) -> (JoinHandle<Result<ReplicateReply, VolumeError>>, Arc<Stall>) {
    let (by, stall) = stalling_wire(bed.b.address, Fault::Stall(500_000)).await;
    let volumes = bed.a.volumes.clone();
    let request = ReplicateRequest {
        to: by,
        ..bed.a.request(1, &bed.b)
    };
    let sending = tokio::spawn(async move { volumes.replicate(id, request).await });
    tokio::time::timeout(impatient().stall, stall.stalled.notified())
        .await
        .expect("the stream gets that far");
    (sending, stall)
}

/// Either side ends in the middle of a stream, and begins again.
pub async fn either_side_killed_in_the_middle_is_made_good(bed: &mut Bed) {
    let mut dice = Dice(9);
    let id = bed.a.create("notes").await;
    for full in [true, false] {
        fill(&bed.a.path(id).await, 40, 200_000, &mut dice);
        // The receiver ends while it receives.
        bed.a.patience(impatient()).await;
        let (sending, _stall) = stuck(bed, id).await;
        let transfer = bed.a.volumes.get(id).await.unwrap().transfer.unwrap();
        assert!(transfer.bytes > 400_000, "{transfer:?}");
        bed.b.restart().await;
        assert!(code(sending.await.unwrap()).is_transient(), "full: {full}");

        // The sender ends while it sends.
        let (sending, _stall) = stuck(bed, id).await;
        sending.abort();
        assert!(sending.await.unwrap_err().is_cancelled());

        // The receiver may still be putting the rest away; that is waited for.
        bed.a.patience(TransferLimits::default()).await;
        let reply = bed.a.replicate(id, 1, &bed.b).await.unwrap();
        assert_eq!(reply.full, full);
    }
    let expected = bed.a.facts(id).await;
    assert_eq!(content_after_promotion(id, &bed.b, 2).await, expected);
}

pub async fn epochs_fence(bed: &mut Bed) {
    let (a, b) = (&bed.a, &bed.b);
    let id = a.create("notes").await;
    fs::write(a.path(id).await.join("one"), "1").unwrap();
    a.replicate(id, 1, b).await.unwrap();
    // An old primary that does not know of the new one.
    b.volumes.promote(id, Epoch(2)).await.unwrap();
    assert_eq!(code(a.replicate(id, 1, b).await), ErrorCode::StaleEpoch);
    // Two primaries of one epoch: the receiver does not give way.
    a.volumes.promote(id, Epoch(2)).await.unwrap();
    assert_eq!(code(a.replicate(id, 2, b).await), ErrorCode::Busy);
    a.volumes.demote(id, Epoch(2)).await.unwrap();
    // Verbs of a past epoch, and of one that has not come.
    for epoch in [0, 1] {
        let epoch = Epoch(epoch);
        assert_eq!(
            code(b.volumes.promote(id, epoch).await),
            ErrorCode::StaleEpoch
        );
        assert_eq!(
            code(b.volumes.demote(id, epoch).await),
            ErrorCode::StaleEpoch
        );
        assert_eq!(
            code(b.volumes.destroy(id, epoch).await),
            ErrorCode::StaleEpoch
        );
        assert_eq!(
            code(b.volumes.snapshot(id, epoch).await),
            ErrorCode::StaleEpoch
        );
        assert!(!b.volumes.is_primary(id, epoch).await.unwrap());
    }
    assert_eq!(
        code(b.volumes.snapshot(id, Epoch(3)).await),
        ErrorCode::NotPrimary
    );
    assert_eq!(code(a.replicate(id, 2, b).await), ErrorCode::NotPrimary);
    assert!(b.volumes.is_primary(id, Epoch(2)).await.unwrap());
    // The epoch survives the agent.
    bed.b.restart().await;
    let status = bed.b.volumes.get(id).await.unwrap();
    assert_eq!((status.role, status.epoch), (Role::Primary, Epoch(2)));
}

pub async fn verbs_can_be_repeated(bed: &mut Bed) {
    let (a, b) = (&bed.a, &bed.b);
    let request = CreateVolume {
        id: VolumeId::random(),
        name: "notes".parse().unwrap(),
        size_bytes: Some(100 << 20),
        epoch: Epoch(1),
    };
    let id = request.id;
    let first = a.volumes.create(request.clone()).await.unwrap();
    assert_eq!(first.size_bytes, Some(100 << 20));
    fs::write(a.path(id).await.join("kept"), "1").unwrap();
    let again = a.volumes.create(request.clone()).await.unwrap();
    assert_eq!(again.mounted_at, first.mounted_at);
    assert!(a.path(id).await.join("kept").exists());
    let other = CreateVolume {
        id: VolumeId::random(),
        ..request
    };
    assert_eq!(
        code(a.volumes.create(other).await),
        ErrorCode::AlreadyExists
    );

    a.replicate(id, 1, b).await.unwrap();
    assert_eq!(b.volumes.get(id).await.unwrap().size_bytes, Some(100 << 20));
    for _ in 0..2 {
        a.volumes.demote(id, Epoch(2)).await.unwrap();
        b.volumes.promote(id, Epoch(2)).await.unwrap();
    }
    assert!(b.path(id).await.join("kept").exists());
    for _ in 0..2 {
        a.volumes.destroy(id, Epoch(2)).await.unwrap();
        assert_eq!(code(a.volumes.get(id).await), ErrorCode::NotFound);
    }
    // What is in the way of a first receive is named.
    let taken = a.create("notes").await;
    let body = ErrorBody::from(b.replicate(id, 2, a).await.unwrap_err());
    assert_eq!(body.code, ErrorCode::AlreadyExists);
    assert!(
        body.message.contains(&taken.to_string()),
        "{}",
        body.message
    );
}

pub async fn old_snapshots_go_and_the_common_one_stays(bed: &mut Bed) {
    let (a, b) = (&bed.a, &bed.b);
    let id = a.create("notes").await;
    for round in 0..6 {
        fs::write(a.path(id).await.join("round"), round.to_string()).unwrap();
        a.replicate(id, 1, b).await.unwrap();
    }
    // Later ones never reach the receiver.
    for _ in 0..5 {
        a.volumes.snapshot(id, Epoch(1)).await.unwrap();
    }
    for node in [a, b] {
        node.volumes.tidy(id).await.unwrap();
    }
    let (ours, theirs) = (a.snapshots(id).await, b.snapshots(id).await);
    assert_eq!((ours.len(), theirs.len()), (4, 3));
    assert_eq!(ours.first(), theirs.last(), "the newest common one");
    // What was acknowledged is known to the next agent, too.
    bed.a.restart().await;
    let (a, b) = (&bed.a, &bed.b);
    for _ in 0..3 {
        a.volumes.snapshot(id, Epoch(1)).await.unwrap();
    }
    a.volumes.tidy(id).await.unwrap();
    assert_eq!(a.snapshots(id).await.first(), theirs.last());
    assert!(!a.replicate(id, 1, b).await.unwrap().full);

    // A new primary keeps the base of the way back, however many snapshots it takes.
    b.volumes.promote(id, Epoch(2)).await.unwrap();
    a.volumes.demote(id, Epoch(2)).await.unwrap();
    for _ in 0..6 {
        b.volumes.snapshot(id, Epoch(2)).await.unwrap();
    }
    b.volumes.tidy(id).await.unwrap();
    assert_eq!(b.snapshots(id).await.len(), 4);
    assert!(!b.replicate(id, 2, a).await.unwrap().full);
}

pub async fn a_dead_or_wrong_peer_is_named(bed: &mut Bed) {
    let (a, b) = (&bed.a, &bed.b);
    let id = a.create("notes").await;
    // A port that nobody listens at any more.
    let nobody = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let body = ErrorBody::from(a.replicate_by(id, 1, b, nobody).await.unwrap_err());
    assert_eq!(body.code, ErrorCode::Unavailable);
    assert!(
        body.message.contains(&nobody.to_string()),
        "{}",
        body.message
    );
    // One that is not who it should be.
    let body = ErrorBody::from(a.replicate_by(id, 1, b, a.address).await.unwrap_err());
    assert!(body.code.is_transient(), "{body:?}");
    // One that takes connections and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let by = silent.local_addr().unwrap();
    let started = tokio::time::Instant::now();
    let result = a.replicate_by(id, 1, b, by).await;
    assert_eq!(code(result), ErrorCode::Timeout);
    assert!(started.elapsed() < Duration::from_secs(60));
}

pub async fn noise_on_the_replication_port_harms_nobody(bed: &mut Bed) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (a, b) = (&bed.a, &bed.b);
    for noise in [&b"GET / HTTP/1.1\r\nhost: n2\r\n\r\n"[..], &[0xff; 64]] {
        let mut stream = tokio::net::TcpStream::connect(b.address).await.unwrap();
        stream.write_all(noise).await.unwrap();
        let mut rest = Vec::new();
        // It is answered by a close, be it a hard one.
        stream.read_to_end(&mut rest).await.ok();
    }
    let id = a.create("notes").await;
    a.replicate(id, 1, b).await.unwrap();
}

pub async fn a_full_receiver_is_told_apart_and_nothing_is_left(bed: &mut Bed) {
    if bed.zfs().is_none() {
        return; // Directories share their disk with whoever tests.
    }
    bed.a.patience(TransferLimits::default()).await;
    let (a, b) = (&bed.a, &bed.b);
    let id = a.create("notes").await;
    fs::write(a.path(id).await.join("big"), Dice(2).bytes(64 << 20)).unwrap();
    // Never mounted: to destroy or unmount it at once may find it busy on zfs-fuse.
    let dataset = format!("{}/hog", b.pool());
    let free = run("zfs", &["get", "-Hp", "-o", "value", "available", b.pool()]);
    let free: u64 = free.trim().parse().unwrap();
    let reservation = format!("reservation={}", free - (40 << 20));
    let hog = ["create", "-o", "canmount=off", "-o", &reservation, &dataset];
    run("zfs", &hog);
    let body = ErrorBody::from(a.replicate(id, 1, b).await.unwrap_err());
    assert_eq!(body.code, ErrorCode::NoSpace, "{}", body.message);
    assert!(b.snapshots(id).await.is_empty());
    run("zfs", &["set", "reservation=none", &dataset]);
    assert!(a.replicate(id, 1, b).await.unwrap().full);
}
