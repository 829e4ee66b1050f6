//! Starts apps again that have ended by themselves, as `logic::restart` says.
//!
//! It is the agent that does so and not the engine: before each start the lease, the epoch and
//! the role of the volumes are looked at, exactly as when control asks for it. Verbs and restarts
//! of one app take the same lock, and a stop takes the app out of here before it sends a signal:
//! so what control has stopped stays so.

#![expect(clippy::disallowed_methods, reason = "measures how long apps have run")]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use flocker_api::{
    ErrorBody, ErrorCode,
    container::{ContainerState, ContainerStatus, Health, Restart, RestartPolicy},
    name::AppName,
    volume::Epoch,
};
use tokio::task::AbortHandle;

use super::{
    containers::{Containers, Inner},
    health,
    runtime::RuntimeError,
};
use crate::logic::{
    container::{self, Container},
    restart::{self, History, Verdict},
};

/// Between two questions to an engine that does not answer.
const ENGINE_PAUSE: Duration = Duration::from_millis(500);

/// The apps of a node that are watched over.
#[derive(Debug, Default)]
pub(super) struct Supervisor {
    apps: Mutex<Apps>,
}

#[derive(Debug, Default)]
struct Apps {
    by_name: HashMap<AppName, Supervised>,
    /// Told to each watch, so that one whose app is in other hands by now knows it.
    serial: u64,
}

#[derive(Debug)]
struct Supervised {
    serial: u64,
    epoch: Epoch,
    policy: RestartPolicy,
    history: History,
    started: Instant,
    phase: Phase,
    watch: Option<AbortHandle>,
    /// Of its health check.
    examiner: Option<AbortHandle>,
    health: Option<Health>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Running,
    Waiting {
        until: Instant,
    },
    Left {
        reason: String,
    },
    /// It was stopped, or could not be started again: it is control's.
    Released,
}

impl Supervised {
    fn release(&mut self) {
        self.phase = Phase::Released;
        self.end_tasks();
    }

    fn end_tasks(&mut self) {
        for task in [self.watch.take(), self.examiner.take()]
            .into_iter()
            .flatten()
        {
            task.abort();
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.end_tasks();
    }
}

impl Supervisor {
    /// A panic elsewhere leaves it whole, so a poisoned lock is still good.
    fn lock(&self) -> MutexGuard<'_, Apps> {
        self.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Containers {
    /// Watches over a container that runs, unless it is watched over already: one that an earlier
    /// agent started.
    pub(super) fn supervise(&self, container: &Container) {
        let known = |entry: &Supervised| entry.phase != Phase::Released;
        let apps = self.inner.supervisor.lock();
        let is_known = apps.by_name.get(&container.spec.app).is_some_and(known);
        drop(apps);
        if container.runs() && !is_known {
            self.supervise_anew(container);
        }
    }

    /// Watches over a container that was just started on demand.
    pub(super) fn supervise_anew(&self, container: &Container) {
        let name = container.spec.app.clone();
        let mut apps = self.inner.supervisor.lock();
        apps.serial += 1;
        let serial = apps.serial;
        let entry = Supervised {
            serial,
            epoch: container.epoch,
            policy: container.spec.restart,
            history: History::default(),
            started: Instant::now(),
            phase: Phase::Running,
            watch: None,
            examiner: None,
            health: None,
        };
        // The one before ends with its entry.
        apps.by_name.insert(name.clone(), entry);
        let watch = watch(Arc::downgrade(&self.inner), name.clone(), serial);
        let watch = tokio::spawn(watch).abort_handle();
        let examiner = container.spec.health.clone().map(|check| {
            let inner = Arc::downgrade(&self.inner);
            let examiner = health::examine(inner, name.clone(), check, Instant::now());
            tokio::spawn(examiner).abort_handle()
        });
        if let Some(entry) = apps.by_name.get_mut(&name) {
            entry.health = examiner.as_ref().map(|_| Health::Starting);
            entry.watch = Some(watch);
            entry.examiner = examiner;
        }
    }

    /// What an app's health check has found; since when it runs, if it does.
    pub(super) fn found_health(&self, app: &AppName, find: impl FnOnce(Instant) -> Option<Health>) {
        let mut apps = self.inner.supervisor.lock();
        let entry = apps.by_name.get_mut(app);
        if let Some(entry) = entry.filter(|entry| entry.phase == Phase::Running)
            && let Some(health) = find(entry.started)
        {
            entry.health = Some(health);
        }
    }

    /// An app is about to be stopped: it is not started again from here.
    pub(super) fn leave(&self, app: &AppName) {
        if let Some(entry) = self.inner.supervisor.lock().by_name.get_mut(app) {
            entry.release();
        }
    }

    /// An app is about to be removed.
    pub(super) fn forget(&self, app: &AppName) {
        self.inner.supervisor.lock().by_name.remove(app);
    }

    /// The status of a container with what is done about its end.
    pub(super) fn supervised(
        &self,
        container: &Container,
        status: ContainerStatus,
    ) -> ContainerStatus {
        let apps = self.inner.supervisor.lock();
        let entry = apps.by_name.get(&container.spec.app);
        let restart = match (&container.state, entry.map(|entry| &entry.phase)) {
            (ContainerState::Exited { .. }, Some(Phase::Waiting { until })) => {
                let left = until.saturating_duration_since(Instant::now());
                let in_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
                Some(Restart::Waiting { in_ms })
            }
            // Its watch has not been told yet.
            (ContainerState::Exited { .. }, Some(Phase::Running)) => {
                Some(Restart::Waiting { in_ms: 0 })
            }
            (ContainerState::Exited { .. }, Some(Phase::Left { reason })) => Some(Restart::Left {
                reason: reason.clone(),
            }),
            (ContainerState::Exited { code }, None) => {
                let code = container::known_exit(*code);
                let reason = restart::found_ended(container.spec.restart, code);
                reason.map(|reason| Restart::Left { reason })
            }
            _ => None,
        };
        ContainerStatus {
            restarts: entry.map_or(0, |entry| entry.history.restarts),
            health: entry
                .filter(|_| container.runs())
                .and_then(|entry| entry.health.clone()),
            restart,
            ..status
        }
    }
}

/// Watches over one app until it is stopped, left, or in other hands.
async fn watch(inner: Weak<Inner>, app: AppName, serial: u64) {
    let Some(mut runtime) = inner.upgrade().map(|inner| inner.runtime.clone()) else {
        return;
    };
    loop {
        let code = match runtime.ended(&app).await {
            Ok(code) => code,
            Err(RuntimeError::Gone { .. }) => return,
            // The engine is restarted, perhaps; containers may outlive that.
            Err(_) => {
                tokio::time::sleep(ENGINE_PAUSE).await;
                continue;
            }
        };
        let Some(containers) = inner.upgrade().map(|inner| Containers { inner }) else {
            return;
        };
        let Some(wait) = containers.saw_end(&app, serial, code).await else {
            return;
        };
        runtime = containers.inner.runtime.clone();
        drop(containers);
        tokio::time::sleep(wait).await;
        let Some(containers) = inner.upgrade().map(|inner| Containers { inner }) else {
            return;
        };
        if !containers.start_again(&app, serial).await {
            return;
        }
    }
}

impl Containers {
    /// An app has ended by itself. How long to wait before it is started again, if it is.
    async fn saw_end(&self, app: &AppName, serial: u64, code: Option<i64>) -> Option<Duration> {
        let _one_at_a_time = self.lock(app).await;
        // What the engine says now counts: it may have said so because it was itself ending.
        let found = self.inner.runtime.find(app).await;
        if matches!(&found, Ok(Some(found)) if found.runs()) {
            return Some(Duration::ZERO);
        }
        let fenced = self.inner.fence.permit().is_err();
        let backoff = self.inner.limits.backoff();
        let mut apps = self.inner.supervisor.lock();
        let entry = apps.by_name.get_mut(app);
        let entry = entry.filter(|entry| entry.serial == serial)?;
        if entry.phase != Phase::Running {
            return None;
        }
        if fenced {
            entry.phase = Phase::Released;
            return None;
        }
        let ran = entry.started.elapsed();
        match entry.history.ended(entry.policy, backoff, code, ran) {
            Verdict::Again(wait) => {
                tracing::warn!(%app, code, ?ran, ?wait, "it ended by itself and is started again");
                let until = Instant::now() + wait;
                entry.phase = Phase::Waiting { until };
                Some(wait)
            }
            Verdict::Leave(reason) => {
                tracing::warn!(%app, code, ?ran, reason, "it is left as it is");
                entry.phase = Phase::Left { reason };
                None
            }
        }
    }

    /// Starts an app again; whether it is still watched over.
    async fn start_again(&self, app: &AppName, serial: u64) -> bool {
        let _one_at_a_time = self.lock(app).await;
        let epoch = {
            let apps = self.inner.supervisor.lock();
            let entry = apps.by_name.get(app);
            match entry.filter(|entry| entry.serial == serial && entry.phase != Phase::Released) {
                Some(entry) => entry.epoch,
                None => return false,
            }
        };
        let started = match self.run(app, epoch).await {
            Ok(_) => self.guard(app).await,
            Err(error) => Err(error),
        };
        let mut apps = self.inner.supervisor.lock();
        let Some(entry) = apps.by_name.get_mut(app) else {
            return false;
        };
        match started {
            Ok(()) => {
                entry.started = Instant::now();
                entry.phase = Phase::Running;
                entry.health = entry.health.take().map(|_| Health::Starting);
                true
            }
            // The next look at its end counts this as one more run, which was short.
            Err(error) if error.code == ErrorCode::Internal => {
                tracing::warn!(%app, %error, "it could not be started again yet");
                entry.started = Instant::now();
                entry.phase = Phase::Running;
                true
            }
            Err(error) => {
                tracing::warn!(%app, %error, "it is not started again from here");
                entry.phase = Phase::Released;
                false
            }
        }
    }

    /// Has the fence know of an app that was just started.
    async fn guard(&self, app: &AppName) -> Result<(), ErrorBody> {
        let container = self.found(app).await?;
        self.inner.fence.watch(&container);
        // The lease may have run out between the first look and the watch.
        self.inner.fence.permit()
    }
}
