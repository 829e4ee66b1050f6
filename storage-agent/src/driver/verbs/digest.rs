//! What is in a snapshot, read by a thread of low priority that keeps to a rate.

use std::{collections::BTreeSet, path::Path, time::Duration};

use flocker_api::{
    name::VolumeId,
    volume::Guid,
    work::{DIGEST_PARTS, Digest},
};
use tokio::{runtime::Handle, sync::oneshot, time::Instant};

use super::scan::{Facts, Keeps, Visit, path_sum, scan};
use crate::{
    driver::{jobs::Job, volumes::Volumes},
    error::VolumeError,
    logic::bucket::Bucket,
};

/// Most paths that are listed.
const LISTED_MAX: usize = 20_000;
/// Of how many files `sample` speaks.
const SAMPLE_OF: u64 = 1_000;
/// As nice as can be (nice(2)); the scheduler of the disk follows it (ioprio_set(2)).
const NICE: i32 = 19;

/// Sums up a tree.
struct Summing {
    digest: Digest,
    sample: u64,
    seed: u64,
    list: BTreeSet<u32>,
    pace: Bucket,
    started: Instant,
    runtime: Handle,
    job: Job,
}

impl Visit for Summing {
    fn wants(&mut self, path: &Path) -> bool {
        path_sum(self.seed, path) % SAMPLE_OF < self.sample
    }

    fn pace(&mut self, bytes: u64) -> Result<(), VolumeError> {
        self.job.moved(bytes);
        self.digest.bytes_read += bytes;
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let wait = self.pace.take(bytes, self.started.elapsed());
        if wait > Duration::ZERO {
            let waiting = tokio::time::timeout(wait, self.job.cancel().cancelled());
            // Woken early when it is cancelled, which is looked at next.
            drop(self.runtime.block_on(waiting));
        }
        match self.job.cancel().is_cancelled() {
            true => Err(VolumeError::Cancelled),
            false => Ok(()),
        }
    }

    fn take(&mut self, path: &Path, facts: Facts) -> Result<(), VolumeError> {
        let part = path_sum(0, path) % u64::from(DIGEST_PARTS);
        let part = u32::try_from(part).expect("a remainder is below its divisor");
        let sums = &mut self.digest.parts;
        if let Some(sum) = usize::try_from(part)
            .ok()
            .and_then(|part| sums.get_mut(part))
        {
            *sum = sum.wrapping_add(facts.sum);
        }
        self.digest.entries += 1;
        self.digest.files_read += u64::from(facts.read.is_some());
        if self.list.contains(&part) && self.digest.listed.len() < LISTED_MAX {
            let path = path.to_string_lossy().into_owned();
            self.digest.listed.push((path, facts.sum));
        }
        match self.job.cancel().is_cancelled() {
            true => Err(VolumeError::Cancelled),
            false => Ok(()),
        }
    }
}

impl Volumes {
    /// Reads a snapshot and says what is in it.
    pub(crate) async fn digest(
        &self,
        id: VolumeId,
        guid: Guid,
        sample: u32,
        seed: u64,
        list: &[u32],
        job: &Job,
    ) -> Result<Digest, VolumeError> {
        let entry = self.entry(id);
        let (copy, snapshot, _pin) = {
            let _lock = entry.lock.lock().await;
            let copy = self.copy(id).await?;
            let snapshot = copy.snapshots.iter().find(|s| s.guid == guid).cloned();
            let snapshot = snapshot.ok_or_else(|| VolumeError::NoSnapshot {
                id,
                name: guid.to_string(),
                meant: None,
            })?;
            let pin = entry.pin(&snapshot.name);
            (copy, snapshot, pin)
        };
        job.named(&copy.name);
        let details = self.storage().details(&copy).await?;
        let detail = details.iter().find(|detail| detail.snapshot.guid == guid);
        job.expect(detail.map(|detail| detail.referenced_bytes * u64::from(sample) / SAMPLE_OF));
        let peek = self.storage().peek(id, &snapshot.name).await?;
        let summing = Summing {
            digest: Digest {
                parts: vec![0; usize::try_from(DIGEST_PARTS).unwrap_or_default()],
                entries: 0,
                files_read: 0,
                bytes_read: 0,
                listed: Vec::new(),
            },
            sample: sample.into(),
            seed,
            list: list.iter().copied().collect(),
            pace: Bucket::new(self.limits().verify_bytes_per_second, Duration::ZERO),
            started: Instant::now(),
            runtime: Handle::current(),
            job: job.clone(),
        };
        let summed = sum_up(&peek.path, Keeps::of(self.storage().kind()), summing).await;
        self.put_away(&peek).await;
        summed
    }
}

/// Reads a tree in a thread of its own, whose priority is no other's business.
async fn sum_up(root: &Path, keeps: Keeps, mut summing: Summing) -> Result<Digest, VolumeError> {
    let (sender, summed) = oneshot::channel();
    let root = root.to_owned();
    let thread = std::thread::Builder::new().name("digest".to_owned());
    let started = thread.spawn(move || {
        if let Err(error) = rustix::process::nice(NICE) {
            tracing::debug!(%error, "a digest is made at the usual priority");
        }
        let scanned = scan(&root, keeps, &mut summing);
        // Nobody waits any more when the agent ends.
        drop(sender.send(scanned.map(|()| summing.digest)));
    });
    started.map_err(|source| VolumeError::io("cannot start a thread", source))?;
    summed
        .await
        .map_err(|_| VolumeError::Command("a digest broke; the agent's log says why".to_owned()))?
}
