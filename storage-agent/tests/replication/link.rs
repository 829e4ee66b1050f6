//! What a link is held to, what is told of it meanwhile, and what a doctor finds.

use std::{fs, time::Duration};

use flocker_api::doctor::{DoctorRequest, Level};
use flocker_storage_agent::driver::{
    doctor::{Patient, examine},
    transport::TransferLimits,
    volumes::StorageConfig,
};
use tokio::time::Instant;

use crate::bed::Bed;

const MIB: u64 = 1 << 20;

/// More than the second's worth that goes at once has to wait for its turn.
pub async fn a_transfer_keeps_to_its_rate_and_tells_it(bed: &mut Bed) {
    // Of the two the slower one counts.
    let limits = TransferLimits {
        link_rate: 2 * MIB,
        volume_rate: 3 * MIB,
        ..TransferLimits::default()
    };
    bed.a.patience(limits).await;
    let id = bed.a.create("notes").await;
    // Nothing that would compress.
    let mut state = 1u64;
    let noise: Vec<u8> = (0..6 * MIB)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_be_bytes()[0]
        })
        .collect();
    fs::write(bed.a.path(id).await.join("noise"), noise).unwrap();
    let begun = Instant::now();
    let transfer = async {
        let reply = bed.a.replicate(id, 1, &bed.b).await.unwrap();
        assert!(reply.bytes >= 6 * MIB);
        begun.elapsed()
    };
    let told = async {
        loop {
            let status = bed.a.volumes.get(id).await.unwrap().transfer;
            if let Some(status) = status.filter(|status| status.bytes > 4 * MIB) {
                return status;
            }
        }
    };
    let (took, told) = tokio::join!(transfer, told);
    assert!(took >= Duration::from_millis(1_900), "{took:?}");
    assert_eq!(told.peer.as_str(), "b");
    let rate = told.bytes_per_second;
    assert!(rate > 0 && rate < 5 * MIB, "{told:?}");
}

/// A node on a real file system has nothing broken, and knows its pool by name.
pub async fn a_sound_node_is_found_sound(bed: &mut Bed) {
    let a = &bed.a;
    a.create("notes").await;
    let config = a.config();
    let patient = Patient {
        node: &a.name,
        storage: &config,
        volumes: &a.volumes,
        runtime: None,
        fence: None,
    };
    let diagnosis = examine(&patient, &DoctorRequest::default()).await;
    // How full the machine's own disk is, is not this node's doing.
    let theirs =
        |check: &str| check == "space" && matches!(config, StorageConfig::Directory { .. });
    let mut findings = diagnosis.findings.iter();
    let broken = findings.find(|one| one.level == Level::Fail && !theirs(&one.check));
    assert_eq!(broken, None, "{diagnosis}");
    if let StorageConfig::Zfs { pool, .. } = &config {
        let found = diagnosis.findings.iter().find(|one| one.check == "pool");
        assert_eq!(found.unwrap().found, format!("{pool} is ONLINE"));
        let space = diagnosis.findings.iter().find(|one| one.check == "space");
        assert_eq!(space.unwrap().level, Level::Ok, "{diagnosis}");
    }
}
