//! Continuous replication's part of the volumes: policies, looks and rounds.
//!
//! When a round's time has come is [`crate::logic::schedule`]'s business; here one is done,
//! under the same lock as everything else that is done with a volume.

#![expect(
    clippy::disallowed_methods,
    reason = "how old a snapshot is follows from its name and the clock"
)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flocker_api::{
    agent::{ReplicateReply, ReplicateRequest, StorageKind},
    name::{NodeName, VolumeId},
    replication::{ReplicationStatus, SetReplication},
    volume::{Snapshot, VolumeStatus},
};
use tokio::time::timeout;

use super::{
    idle::Connections,
    index::{Entry, next_createtxg},
    replicator::{Begun, Replicator, What},
    storage::{LocalCopy, Stream},
    volumes::{Volumes, active_policy, next_label, primary},
};
use crate::{
    error::VolumeError,
    logic::{
        label::Label,
        schedule::{Arrived, Event, Moment, Sight},
        verbs::is_operators,
        wire::StreamFeatures,
    },
};

/// How a round ended that did not fail.
pub(super) enum Round {
    Sent(ReplicateReply, Arrived),
    /// Nothing had changed then.
    Unchanged(Moment),
}

impl Volumes {
    /// Says how a primary is replicated from now on; also after a restart of the agent.
    ///
    /// # Errors
    /// When this copy is not the primary of that epoch, or the policy is none.
    pub async fn set_replication(
        &self,
        id: VolumeId,
        request: SetReplication,
    ) -> Result<VolumeStatus, VolumeError> {
        if let Some(policy) = &request.policy {
            policy.check().map_err(VolumeError::Policy)?;
            if let Some(target) = policy.targets.iter().find(|t| t.peer == *self.node()) {
                let reason = format!("target {} is this node itself", target.peer);
                return Err(VolumeError::Policy(reason));
            }
        }
        let entry = self.entry(id);
        let _lock = entry.lock.lock().await;
        entry.forget();
        let copy = self.look_up(id, &entry).await?;
        let copy = copy.ok_or(VolumeError::NotFound(id))?;
        primary(&copy, request.epoch)?;
        let wanted = request.policy.is_some().then_some(&request);
        if copy.replication.as_ref() != wanted {
            self.storage().set_replication(id, wanted).await?;
        }
        let replication = wanted.cloned();
        let copy = LocalCopy {
            replication,
            ..copy
        };
        self.learn(id, &entry, Some(copy.clone()));
        Ok(self.status_of(copy))
    }

    /// How the replication of a copy goes, where it is a primary with a policy.
    pub(super) fn replication_of(&self, copy: &LocalCopy) -> Option<ReplicationStatus> {
        let policy = active_policy(copy)?;
        let mut known = self.scheduler().status(copy.id);
        let targets = policy.targets.iter().filter_map(|target| {
            let at = known.iter().position(|known| known.peer == target.peer)?;
            Some(known.swap_remove(at))
        });
        Some(ReplicationStatus {
            epoch: copy.epoch,
            targets: targets.collect(),
            policy: policy.clone(),
        })
    }

    /// Tells the schedule how a copy shall be replicated, if that is news.
    pub(super) fn reschedule(&self, copy: &LocalCopy) {
        match active_policy(copy) {
            Some(policy) => {
                if self.scheduler().is_news(copy.id, policy) {
                    self.happened(Event::Set {
                        volume: copy.id,
                        interval: Duration::from_millis(policy.interval_ms),
                        targets: policy.targets.iter().map(|t| t.peer.clone()).collect(),
                    });
                }
            }
            None => self.unschedule(copy.id),
        }
    }

    pub(super) fn unschedule(&self, volume: VolumeId) {
        if self.scheduler().is_over(volume) {
            self.happened(Event::Cleared { volume });
        }
    }

    /// Something else than a round is done with a volume.
    pub(super) fn touched(&self, volume: VolumeId) {
        if self.scheduler().has(volume) {
            self.happened(Event::Touched { volume });
        }
    }

    /// What was written to volumes since their newest snapshots.
    pub(super) async fn look(&self, volumes: Vec<VolumeId>) -> Vec<(VolumeId, Sight)> {
        let mut found = Vec::new();
        let mut known = Vec::new();
        for id in volumes {
            let copy = self.look_up(id, &self.entry(id)).await;
            let newest = copy.ok().flatten().and_then(|copy| copy.newest().cloned());
            match newest {
                Some(newest) => known.push((id, newest.name)),
                None => found.push((id, Sight::Blind)),
            }
        }
        if !known.is_empty() {
            found.extend(self.storage().look(&known).await);
        }
        found
    }

    /// Brings one target up to date: to a new snapshot, or to the newest there is. Sends nothing
    /// where it turns out that nothing changed.
    pub(super) async fn round(
        &self,
        id: VolumeId,
        target: &NodeName,
        take: bool,
    ) -> Result<Round, VolumeError> {
        let entry = self.entry(id);
        let lock = timeout(self.limits().lock, entry.lock.lock()).await;
        let _lock = lock.map_err(|_| VolumeError::Busy {
            id,
            reason: "something else is being done with it".to_owned(),
        })?;
        let copy = self.look_up(id, &entry).await?;
        let copy = copy.ok_or(VolumeError::NotFound(id))?;
        if copy.encrypted {
            return Err(VolumeError::Encrypted(id));
        }
        let to = active_policy(&copy)
            .and_then(|policy| policy.targets.iter().find(|to| to.peer == *target))
            .cloned()
            .ok_or(VolumeError::NotPrimary {
                id,
                role: copy.role,
                epoch: copy.epoch,
            })?;
        let request = ReplicateRequest {
            peer: to.peer,
            to: to.to,
            epoch: copy.epoch,
        };
        let what = match copy.newest() {
            // One that an operator took is no base: what follows it is sent under a name of ours.
            Some(newest) if !take && newest.name.parse::<Label>().is_ok() => {
                What::Existing(newest.clone())
            }
            _ => match self.begin(&entry, &copy, target).await? {
                Ok(what) => what,
                Err(at) => return Ok(Round::Unchanged(at)),
            },
        };
        let reply = self
            .transfer(&entry, copy, &request, what, Connections::Kept)
            .await?;
        let arrived = Arrived {
            taken_at: self.taken_at(&reply.snapshot),
            snapshot: reply.snapshot.clone(),
        };
        Ok(Round::Sent(reply, arrived))
    }

    /// Begins a round with a new snapshot; or says since when nothing has changed.
    ///
    /// zfs-fuse does not tell what was written to a dataset, but its streams do: one between two
    /// snapshots of the same content has a beginning and an end and nothing between. So the
    /// stream is begun before the target is asked for anything, which then is spared the
    /// receive, three syncs of its pool.
    async fn begin(
        &self,
        entry: &Entry,
        copy: &LocalCopy,
        target: &NodeName,
    ) -> Result<Result<What, Moment>, VolumeError> {
        let name = next_label(copy.epoch);
        let current = |newest: &&Snapshot| entry.has(target, newest.guid);
        let blind = self.storage().kind() == StorageKind::ZfsFuse;
        let Some(base) = copy.newest().filter(current).filter(|_| blind) else {
            return Ok(Ok(What::New(name)));
        };
        let begun = self.compare(copy, base, name).await;
        if begun.is_err() {
            entry.forget();
        }
        begun
    }

    async fn compare(
        &self,
        copy: &LocalCopy,
        base: &Snapshot,
        name: String,
    ) -> Result<Result<What, Moment>, VolumeError> {
        let (storage, at) = (self.storage(), self.scheduler().now());
        storage.snapshot(copy.id, &name, copy.epoch).await?;
        let snapshot_took = self.scheduler().now().saturating_sub(at);
        let mut stream = storage.send(
            copy.id,
            &Stream {
                from: Some(&base.name),
                to: &name,
                takes: StreamFeatures::default(),
                token: None,
            },
        )?;
        let limit = self.limits().stall;
        let first = timeout(limit, stream.peek()).await;
        let first = first.map_err(|_| VolumeError::Timeout {
            what: "waiting for the first bytes of the stream".to_owned(),
            limit,
        })??;
        match first {
            Some((head, true)) if head.from == Some(base.guid) => {
                stream.finish().await?;
                storage.destroy_snapshot(copy.id, &name).await?;
                Ok(Err(at))
            }
            Some((head, false)) if head.from == Some(base.guid) => {
                let to = Snapshot {
                    name,
                    guid: head.to,
                    createtxg: next_createtxg(&copy.snapshots),
                };
                Ok(Ok(What::Begun(Begun {
                    to,
                    from: base.guid,
                    stream,
                    snapshot_took,
                })))
            }
            // Whatever that is: the usual way finds out.
            _ => {
                let snapshot = storage.find_snapshot(copy.id, &name).await?;
                Ok(Ok(What::Existing(snapshot)))
            }
        }
    }

    /// Sends a snapshot and remembers what came of it. The caller holds the lock.
    pub(super) async fn transfer(
        &self,
        entry: &Entry,
        copy: LocalCopy,
        request: &ReplicateRequest,
        what: What,
        connections: Connections,
    ) -> Result<ReplicateReply, VolumeError> {
        let id = copy.id;
        let replicator = Replicator {
            node: self.node(),
            storage: self.storage(),
            link: self.link(),
            connections,
            progress: &entry.progress,
        };
        let missing = self.missing_named(entry, &copy, request, &replicator);
        for snapshot in missing.await {
            let sent = replicator.run(copy.clone(), request, What::Existing(snapshot));
            match sent.await {
                Ok(reply) => entry.hear(request.peer.clone(), reply.snapshot.guid),
                Err(error) => {
                    entry.forget();
                    return Err(error);
                }
            }
        }
        let reply = replicator.run(copy, request, what).await;
        // Also after a failure: each attempt leaves a snapshot.
        self.tidy_later(id);
        match &reply {
            Ok(reply) => {
                entry.learn_snapshot(reply.snapshot.clone());
                entry.hear(request.peer.clone(), reply.snapshot.guid);
            }
            Err(_) => entry.forget(),
        }
        reply
    }

    /// Snapshots that operators took since the one at which a peer stands: it gets each of them by
    /// an increment of its own, so that it can be rolled back and restored to as well.
    async fn missing_named(
        &self,
        entry: &Entry,
        copy: &LocalCopy,
        request: &ReplicateRequest,
        replicator: &Replicator<'_>,
    ) -> Vec<Snapshot> {
        let named = copy.snapshots.iter().filter(|s| is_operators(&s.name));
        let Some(newest) = named.clone().next_back() else {
            return Vec::new();
        };
        let stands_at = |guid| copy.snapshots.iter().find(|s| s.guid == guid);
        let heard = entry.heard_of(&request.peer).and_then(stands_at);
        if heard.is_some_and(|at| at.createtxg >= newest.createtxg) {
            return Vec::new();
        }
        // What fails here fails again in a moment, and is told then.
        let Ok(theirs) = replicator.look_there(copy, request).await else {
            return Vec::new();
        };
        let common = copy.snapshots.iter().rev();
        let mut common = common.filter(|ours| theirs.iter().any(|s| s.guid == ours.guid));
        let common = common.next().map(|common| common.createtxg);
        if common.is_none() && !theirs.is_empty() {
            return Vec::new();
        }
        named
            .filter(|s| common.is_none_or(|common| s.createtxg > common))
            .cloned()
            .collect()
    }

    /// When a snapshot was taken, by its name; one of another name, just now.
    fn taken_at(&self, snapshot: &Snapshot) -> Duration {
        let now = self.scheduler().now();
        let Ok(label) = snapshot.name.parse::<Label>() else {
            return now;
        };
        let taken = UNIX_EPOCH + Duration::from_micros(label.micros);
        let age = SystemTime::now().duration_since(taken).unwrap_or_default();
        now.saturating_sub(age)
    }
}
