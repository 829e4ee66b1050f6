//! Jobs of control itself: what takes more than one agent, and may take long. They are told of as
//! the agents' jobs are, and end with control.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use flocker_api::{
    ErrorBody,
    name::{JobId, NodeName, VolumeId, VolumeName},
    work::{JobProgress, JobState, JobStatus, NodeJob},
};
use serde_json::Value;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::{driver::context::Clock, logic::report::whole_ms};

/// How many that have ended are remembered.
const ENDED_MAX: usize = 100;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The jobs of control.
#[derive(Debug, Default)]
pub(crate) struct Errands {
    /// Oldest first.
    all: Mutex<Vec<Errand>>,
}

/// What an errand is about.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) verb: &'static str,
    pub(super) node: NodeName,
    pub(super) volume: VolumeId,
    pub(super) name: VolumeName,
    pub(super) by: String,
}

/// One of them. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Errand {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    node: NodeName,
    started: Instant,
    status: Mutex<JobStatus>,
    ended: watch::Sender<bool>,
    cancel: Notify,
}

impl Errands {
    /// A new one.
    pub(super) fn begin(&self, about: About, clock: &Clock) -> Errand {
        let errand = Errand {
            inner: Arc::new(Inner {
                node: about.node,
                started: Instant::now(),
                status: Mutex::new(JobStatus {
                    id: JobId::random(),
                    verb: about.verb.to_owned(),
                    volume: about.volume,
                    name: Some(about.name),
                    by: about.by,
                    state: JobState::Running,
                    started_ms: whole_ms(clock.now_ms()),
                    elapsed_ms: 0,
                    progress: None,
                    result: Value::Null,
                    error: None,
                }),
                ended: watch::Sender::new(false),
                cancel: Notify::new(),
            }),
        };
        let mut all = locked(&self.all);
        let ended = all.iter().filter(|one| *one.inner.ended.borrow()).count();
        let mut excess = (ended + 1).saturating_sub(ENDED_MAX);
        all.retain(|one| {
            let forget = excess > 0 && *one.inner.ended.borrow();
            excess -= usize::from(forget);
            !forget
        });
        all.push(errand.clone());
        errand
    }

    pub(super) fn find(&self, id: JobId) -> Option<Errand> {
        let all = locked(&self.all);
        all.iter().find(|one| one.id() == id).cloned()
    }

    /// Those at a node, newest first.
    pub(super) fn at(&self, node: &NodeName) -> Vec<JobStatus> {
        let all = locked(&self.all).clone();
        let here = all.into_iter().rev().filter(|one| one.inner.node == *node);
        here.map(|one| one.status().job).collect()
    }
}

impl Errand {
    fn id(&self) -> JobId {
        locked(&self.inner.status).id
    }

    /// How it stands.
    pub(super) fn status(&self) -> NodeJob {
        let mut job = locked(&self.inner.status).clone();
        if job.state == JobState::Running {
            let elapsed = self.inner.started.elapsed().as_millis();
            job.elapsed_ms = u64::try_from(elapsed).unwrap_or(u64::MAX);
        }
        NodeJob {
            node: self.inner.node.clone(),
            job,
        }
    }

    /// How it stands once it has ended, or after a wait.
    pub(super) async fn ended(&self, wait: Duration) -> NodeJob {
        let mut ended = self.inner.ended.subscribe();
        let over = async { drop(ended.wait_for(|ended| *ended).await) };
        // Either way it is told how it stands.
        drop(tokio::time::timeout(wait, over).await);
        self.status()
    }

    /// Tells it to end.
    pub(super) fn cancel(&self) {
        self.inner.cancel.notify_one();
    }

    /// How far it is.
    pub(super) fn progress(&self, progress: Option<JobProgress>) {
        locked(&self.inner.status).progress = progress;
    }

    /// Does the work; ends when it has, or when somebody cancels it.
    pub(super) async fn run(self, work: impl Future<Output = Result<Value, ErrorBody>>) {
        let (state, result, error) = tokio::select! {
            result = work => match result {
                Ok(result) => (JobState::Done, result, None),
                Err(error) => (JobState::Failed, Value::Null, Some(error)),
            },
            () = self.inner.cancel.notified() => {
                let message = "it was cancelled";
                let error = ErrorBody::new(flocker_api::ErrorCode::Busy, message);
                (JobState::Cancelled, Value::Null, Some(error))
            }
        };
        let elapsed = self.inner.started.elapsed().as_millis();
        {
            let mut status = locked(&self.inner.status);
            status.elapsed_ms = u64::try_from(elapsed).unwrap_or(u64::MAX);
            status.state = state;
            status.result = result;
            status.error = error;
            let (verb, by, name) = (&status.verb, &status.by, &status.name);
            let (node, name) = (&self.inner.node, name.as_ref().map(VolumeName::as_str));
            match &status.error {
                None => tracing::info!(verb, by, %node, volume = name, "done"),
                Some(error) => {
                    tracing::warn!(verb, by, %node, volume = name, %error, "failed");
                }
            }
        }
        self.inner.ended.send_replace(true);
    }
}
