//! The agent's jobs: work that may take long, with an identity, progress and an end that is
//! remembered.
//!
//! A job runs as a task of its own, whoever asked for it and went away. What it does is its
//! caller's business; here is only what can be told of it, and how it is cancelled.

#![expect(
    clippy::disallowed_methods,
    reason = "when a job began is shown to people"
)]

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use flocker_api::{
    ErrorBody, ErrorCode,
    name::{JobId, VolumeId, VolumeName},
    work::{JobProgress, JobRequest, JobState, JobStatus},
};
use serde_json::Value;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::logic::rate::{Rate, eta};

/// How many jobs that have ended are remembered.
const ENDED_MAX: usize = 200;

/// Unix time in ms.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, whole_ms)
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a job is about.
#[derive(Debug, Clone)]
pub(crate) struct About {
    pub(crate) id: JobId,
    pub(crate) verb: &'static str,
    pub(crate) volume: VolumeId,
    pub(crate) name: Option<VolumeName>,
    pub(crate) by: String,
}

impl About {
    /// What a request is about.
    pub(crate) fn of(request: &JobRequest) -> Self {
        Self {
            id: request.id,
            verb: request.work.verb(),
            volume: request.volume,
            name: None,
            by: request.by.clone(),
        }
    }
}

/// A job, for whoever does it. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    about: Mutex<About>,
    started: Instant,
    started_ms: u64,
    progress: Mutex<Option<Moving>>,
    cancel: CancellationToken,
    ended: watch::Sender<Option<Ended>>,
}

#[derive(Debug, Default)]
struct Moving {
    bytes: u64,
    expected: Option<u64>,
    rate: Rate,
}

#[derive(Debug, Clone)]
struct Ended {
    state: JobState,
    after: Duration,
    result: Value,
    error: Option<ErrorBody>,
}

impl Job {
    fn new(about: About) -> Self {
        Self {
            inner: Arc::new(Inner {
                about: Mutex::new(about),
                started: Instant::now(),
                started_ms: now_ms(),
                progress: Mutex::default(),
                cancel: CancellationToken::new(),
                ended: watch::Sender::new(None),
            }),
        }
    }

    /// One that is in no list.
    pub(crate) fn of(request: &JobRequest) -> Self {
        Self::new(About::of(request))
    }

    /// One that nobody asked for by an id.
    pub(crate) fn alone(verb: &'static str, volume: VolumeId) -> Self {
        Self::new(About {
            id: JobId::random(),
            verb,
            volume,
            name: None,
            by: String::new(),
        })
    }

    /// Cancelled when somebody ends the job.
    pub(crate) fn cancel(&self) -> &CancellationToken {
        &self.inner.cancel
    }

    /// Who wanted it.
    pub(crate) fn by(&self) -> String {
        let by = locked(&self.inner.about).by.clone();
        if by.is_empty() {
            "somebody".to_owned()
        } else {
            by
        }
    }

    /// The volume's name is known now.
    pub(crate) fn named(&self, name: &VolumeName) {
        locked(&self.inner.about).name = Some(name.clone());
    }

    /// How many bytes it will move.
    pub(crate) fn expect(&self, bytes: Option<u64>) {
        locked(&self.inner.progress)
            .get_or_insert_default()
            .expected = bytes;
    }

    /// It has moved some more bytes.
    pub(crate) fn moved(&self, more: u64) {
        let mut progress = locked(&self.inner.progress);
        let moving = progress.get_or_insert_default();
        moving.bytes += more;
        let (at, bytes) = (self.inner.started.elapsed(), moving.bytes);
        moving.rate.mark(at, bytes);
    }

    /// How it stands.
    pub(crate) fn status(&self) -> JobStatus {
        let inner = &self.inner;
        let about = locked(&inner.about).clone();
        let ended = inner.ended.borrow().clone();
        let elapsed = ended
            .as_ref()
            .map_or_else(|| inner.started.elapsed(), |ended| ended.after);
        let progress = locked(&inner.progress).as_ref().map(|moving| {
            let per_second = moving.rate.per_second(elapsed, moving.bytes);
            let left = moving.expected.filter(|_| ended.is_none());
            JobProgress {
                bytes: moving.bytes,
                bytes_expected: moving.expected,
                bytes_per_second: per_second,
                eta_ms: left
                    .and_then(|all| eta(moving.bytes, all, per_second))
                    .map(whole_ms),
            }
        });
        let (state, result, error) = match ended {
            Some(ended) => (ended.state, ended.result, ended.error),
            None => (JobState::Running, Value::Null, None),
        };
        JobStatus {
            id: about.id,
            verb: about.verb.to_owned(),
            volume: about.volume,
            name: about.name,
            by: about.by,
            state,
            started_ms: inner.started_ms,
            elapsed_ms: whole_ms(elapsed),
            progress,
            result,
            error,
        }
    }

    /// How it stands once it has ended, or after a wait.
    pub(crate) async fn ended(&self, wait: Duration) -> JobStatus {
        let mut ended = self.inner.ended.subscribe();
        let over = async { drop(ended.wait_for(Option::is_some).await) };
        // Either way it is told how it stands.
        drop(tokio::time::timeout(wait, over).await);
        self.status()
    }

    /// It is over.
    pub(crate) fn end(&self, result: Result<Value, ErrorBody>) {
        let about = locked(&self.inner.about).clone();
        let after = self.inner.started.elapsed();
        let cancelled = self.inner.cancel.is_cancelled();
        let (volume, verb, by, job) = (about.volume, about.verb, about.by, about.id);
        let (state, result, error) = match result {
            Ok(result) => {
                tracing::info!(%job, verb, %volume, by, ?after, "a job is done");
                (JobState::Done, result, None)
            }
            Err(error) if cancelled => {
                tracing::warn!(%job, verb, %volume, by, ?after, "a job was cancelled");
                (JobState::Cancelled, Value::Null, Some(error))
            }
            Err(error) => {
                tracing::warn!(%job, verb, %volume, by, ?after, code = %error.code, %error, "a job failed");
                (JobState::Failed, Value::Null, Some(error))
            }
        };
        self.inner.ended.send_replace(Some(Ended {
            state,
            after,
            result,
            error,
        }));
    }

    fn has_ended(&self) -> bool {
        self.inner.ended.borrow().is_some()
    }
}

/// The jobs of an agent. Cheap to clone; all clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Jobs {
    /// Oldest first.
    all: Arc<Mutex<Vec<(JobId, Job)>>>,
}

impl Jobs {
    /// The job of this identity, made if there is none; and whether it was made.
    pub(crate) fn enter(&self, about: About) -> (Job, bool) {
        let mut all = locked(&self.all);
        if let Some((_, job)) = all.iter().find(|(id, _)| *id == about.id) {
            return (job.clone(), false);
        }
        let ended = all.iter().filter(|(_, job)| job.has_ended()).count();
        let mut excess = (ended + 1).saturating_sub(ENDED_MAX);
        all.retain(|(_, job)| {
            let forget = excess > 0 && job.has_ended();
            excess -= usize::from(forget);
            !forget
        });
        let id = about.id;
        let job = Job::new(about);
        all.push((id, job.clone()));
        (job, true)
    }

    /// Begins a job as a task of its own, unless there is one of this identity.
    pub(crate) fn begin<F>(&self, about: About, work: impl FnOnce(Job) -> F) -> Job
    where
        F: Future<Output = Result<Value, ErrorBody>> + Send + 'static,
    {
        let (job, new) = self.enter(about);
        if new {
            let (work, ending) = (work(job.clone()), job.clone());
            tokio::spawn(async move {
                let guard = EndsAnyway(ending);
                let result = work.await;
                guard.0.end(result);
            });
        }
        job
    }

    /// A job.
    pub(crate) fn find(&self, id: JobId) -> Result<Job, ErrorBody> {
        let all = locked(&self.all);
        let found = all.iter().find(|(known, _)| *known == id);
        let found = found.map(|(_, job)| job.clone());
        found.ok_or_else(|| {
            let message = format!("this node's agent knows no job {id}");
            ErrorBody::new(ErrorCode::NotFound, message)
        })
    }

    /// All of them, newest first.
    pub(crate) fn list(&self) -> Vec<JobStatus> {
        let all = locked(&self.all).clone();
        all.iter().rev().map(|(_, job)| job.status()).collect()
    }

    /// Tells all that run to end.
    pub(crate) fn cancel_all(&self) {
        for (_, job) in locked(&self.all).iter() {
            job.cancel().cancel();
        }
    }
}

/// A job whose work broke has ended, too.
struct EndsAnyway(Job);

impl Drop for EndsAnyway {
    fn drop(&mut self) {
        if !self.0.has_ended() {
            let message = "the job broke; the agent's log says why";
            self.0
                .end(Err(ErrorBody::new(ErrorCode::Internal, message)));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn about() -> About {
        About {
            id: JobId::random(),
            verb: "clone",
            volume: VolumeId::random(),
            name: None,
            by: "ann".to_owned(),
        }
    }

    #[tokio::test]
    async fn the_same_request_twice_is_one_job() {
        let (jobs, about) = (Jobs::default(), about());
        let work = |job: Job| async move {
            job.expect(Some(10));
            job.moved(10);
            Ok(json!(7))
        };
        let one = jobs.begin(about.clone(), work);
        let status = one.ended(Duration::from_secs(5)).await;
        assert_eq!((status.state, status.result), (JobState::Done, json!(7)));
        assert_eq!(status.progress.map(|p| p.bytes), Some(10));
        let two = jobs.begin(about, work);
        assert_eq!(two.status().started_ms, status.started_ms);
        assert_eq!(jobs.list().len(), 1);
    }

    #[tokio::test]
    async fn a_cancelled_job_says_so() {
        let jobs = Jobs::default();
        let job = jobs.begin(about(), |job| async move {
            job.cancel().cancelled().await;
            Err(ErrorBody::new(ErrorCode::Busy, "it was cancelled"))
        });
        assert_eq!(job.status().state, JobState::Running);
        jobs.cancel_all();
        let status = job.ended(Duration::from_secs(5)).await;
        assert_eq!(status.state, JobState::Cancelled);
    }

    #[tokio::test]
    async fn a_job_that_breaks_ends() {
        let jobs = Jobs::default();
        let job = jobs.begin(about(), |_| async { panic!("as the test wants it") });
        let status = job.ended(Duration::from_secs(5)).await;
        assert_eq!(status.state, JobState::Failed);
    }

    #[tokio::test]
    async fn only_ended_jobs_are_forgotten() {
        let jobs = Jobs::default();
        let running = jobs.enter(about()).0;
        for _ in 0..2 * ENDED_MAX {
            jobs.enter(about()).0.end(Ok(Value::Null));
        }
        assert_eq!(jobs.list().len(), ENDED_MAX + 1);
        let status = running.status();
        assert!(jobs.find(status.id).is_ok());
    }
}
