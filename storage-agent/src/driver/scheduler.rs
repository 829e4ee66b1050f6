//! Drives [`crate::logic::schedule`]: its clock, its looks and rounds as tasks, and the sweep
//! that finds what was done behind the agent's back.

#![expect(
    clippy::disallowed_methods,
    reason = "the schedule's time is the time since the agent's start"
)]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use flocker_api::{
    ErrorBody,
    name::VolumeId,
    replication::{TargetStatus, VolumePolicy},
};
use tokio::sync::Notify;

use super::{
    rounds::Round,
    verbs,
    volumes::{Volumes, WeakVolumes},
};
use crate::logic::schedule::{Action, Event, Moment, Pace, Schedule};

/// Longest sleep, so that the end of the volumes is noticed.
const SLEEP_MAX: Duration = Duration::from_secs(5);
/// Shortest time between two sweeps.
const SWEEP: Duration = Duration::from_secs(5);
/// A sweep may take this share of the time: each is followed by so many times its length.
const SWEEP_SHARE: u32 = 40;

/// The schedule of a node's volumes and its clock.
#[derive(Debug)]
pub(crate) struct Scheduler {
    schedule: Mutex<Schedule>,
    /// What the schedule was told of each volume.
    policies: Mutex<HashMap<VolumeId, VolumePolicy>>,
    wake: Notify,
    started: Instant,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scheduler {
    pub(crate) fn new(pace: Pace) -> Self {
        Self {
            schedule: Mutex::new(Schedule::new(pace)),
            policies: Mutex::default(),
            wake: Notify::new(),
            started: Instant::now(),
        }
    }

    pub(crate) fn now(&self) -> Moment {
        self.started.elapsed()
    }

    pub(crate) fn has(&self, id: VolumeId) -> bool {
        locked(&self.schedule).has(id)
    }

    pub(crate) fn status(&self, id: VolumeId) -> Vec<TargetStatus> {
        locked(&self.schedule).status(id, self.now())
    }

    /// Whether the schedule was not told of this policy yet; from now on it counts as told.
    pub(crate) fn is_news(&self, id: VolumeId, policy: &VolumePolicy) -> bool {
        let known = locked(&self.policies).insert(id, policy.clone());
        known.as_ref() != Some(policy)
    }

    /// Whether the schedule was told of a policy; from now on it counts as gone.
    pub(crate) fn is_over(&self, id: VolumeId) -> bool {
        locked(&self.policies).remove(&id).is_some()
    }

    fn handle(&self, event: Event) -> Vec<Action> {
        locked(&self.schedule).handle(event, self.now())
    }

    fn sleep(&self) -> Duration {
        let now = self.now();
        let deadline = locked(&self.schedule).deadline(now);
        deadline.map_or(SLEEP_MAX, |at| at.saturating_sub(now).min(SLEEP_MAX))
    }
}

impl Volumes {
    /// Tells the schedule what happened and begins what it says.
    pub(super) fn happened(&self, event: Event) {
        for action in self.scheduler().handle(event) {
            let volumes = self.clone();
            tokio::spawn(async move { volumes.act(action).await });
        }
        self.scheduler().wake.notify_one();
    }

    async fn act(&self, action: Action) {
        match action {
            Action::Look(volumes) => {
                let at = self.scheduler().now();
                let found = self.look(volumes).await;
                let took = self.scheduler().now().saturating_sub(at);
                self.rounds().stage("look", took);
                self.happened(Event::Looked { at, found });
            }
            Action::Send {
                volume,
                target,
                take,
            } => {
                let round = self.round(volume, &target, take).await;
                let result = match round.map_err(ErrorBody::from) {
                    Ok(Round::Unchanged(at)) => {
                        self.rounds().unchanged();
                        self.happened(Event::Unchanged { volume, target, at });
                        return;
                    }
                    Ok(Round::Sent(reply, arrived)) => {
                        self.rounds().ended(Ok(&reply));
                        Ok(arrived)
                    }
                    Err(error) => {
                        self.rounds().ended(Err(&error));
                        tracing::warn!(%volume, %target, code = %error.code, %error, "a round failed");
                        Err(error)
                    }
                };
                self.happened(Event::Ended {
                    volume,
                    target,
                    result,
                });
            }
        }
    }
}

/// Starts what runs by itself for as long as the volumes are there.
pub(crate) fn start(volumes: &Volumes) {
    let scheduler = Arc::clone(volumes.scheduler());
    tokio::spawn(tick(scheduler, volumes.downgrade()));
    tokio::spawn(sweep(volumes.downgrade()));
    tokio::spawn(verbs::trash::watch(volumes.downgrade()));
}

async fn tick(scheduler: Arc<Scheduler>, volumes: WeakVolumes) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(scheduler.sleep()) => {}
            () = scheduler.wake.notified() => continue,
        }
        match volumes.upgrade() {
            Some(volumes) => volumes.happened(Event::Tick),
            None => return,
        }
    }
}

async fn sweep(volumes: WeakVolumes) {
    let mut pause = SWEEP;
    loop {
        tokio::time::sleep(pause).await;
        let Some(volumes) = volumes.upgrade() else {
            return;
        };
        let began = Instant::now();
        if let Err(error) = volumes.sweep().await {
            tracing::warn!(%error, "the volumes cannot be listed");
        }
        volumes.rounds().stage("sweep", began.elapsed());
        pause = SWEEP.max(began.elapsed() * SWEEP_SHARE);
    }
}
