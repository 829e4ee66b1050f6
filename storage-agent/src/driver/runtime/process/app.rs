//! One app: its record, and a hold on its process while there is one.

use std::{
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use rustix::process::{Pid, Signal};
use tokio::{process::Child, sync::watch, task::AbortHandle};

use super::{
    cgroup::Cgroup,
    log::Log,
    procfs,
    record::{Life, Record},
    spawn,
};
use crate::{
    driver::runtime::{RuntimeError, pidfd},
    logic::container::Container,
};

/// A container and what is known of its process.
#[derive(Debug)]
pub(super) struct App {
    pub(super) folder: PathBuf,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) record: watch::Sender<Record>,
    pub(super) log: Log,
    process: Mutex<Option<Handle>>,
}

/// A hold on a running process, safe from reuse of its id.
#[derive(Debug)]
struct Handle {
    pidfd: Arc<OwnedFd>,
    /// Who waits for its end.
    waiter: AbortHandle,
}

impl Drop for App {
    fn drop(&mut self) {
        // A runtime that is dropped must not write records any more: a later one may.
        if let Some(handle) = lock(&self.process).take() {
            handle.waiter.abort();
        }
    }
}

impl App {
    pub(super) fn new(folder: PathBuf, record: Record, cgroup: Option<Cgroup>) -> Self {
        Self {
            log: Log::new(&folder),
            folder,
            cgroup,
            record: watch::Sender::new(record),
            process: Mutex::new(None),
        }
    }

    /// Takes up its process, if its record says that it runs and it does.
    pub(super) fn adopt(self: &Arc<Self>, this_boot: &str) -> Result<(), RuntimeError> {
        let record = self.record.borrow().clone();
        let Life::Running {
            pid,
            start_ticks,
            boot_id,
        } = record.life
        else {
            return Ok(());
        };
        let app = &record.spec.app;
        let pidfd = (boot_id == this_boot)
            .then(|| open_pidfd(pid, start_ticks))
            .flatten();
        let Some(pidfd) = pidfd else {
            tracing::info!(%app, pid, "its process ended while no agent ran");
            return self.set_life(Life::Exited { pid, code: None });
        };
        tracing::info!(%app, pid, "adopted");
        let pidfd = Arc::new(pidfd);
        self.hold(
            Arc::clone(&pidfd),
            await_adopted(Arc::downgrade(self), pid, pidfd),
        );
        Ok(())
    }

    /// Takes up a process that was just started and lives like this.
    pub(super) fn take(
        self: &Arc<Self>,
        pid: i32,
        child: Child,
        running: Life,
    ) -> Result<(), RuntimeError> {
        // The child is ours and not yet waited for, so the id is still its own.
        let pidfd =
            pidfd::open(pid).map_err(RuntimeError::io("open the process of", &self.folder))?;
        let written = self.set_life(running);
        let waiter = await_child(Arc::downgrade(self), pid, child);
        self.hold(Arc::new(pidfd), waiter);
        written
    }

    fn hold(&self, pidfd: Arc<OwnedFd>, waiter: impl Future<Output = ()> + Send + 'static) {
        // Locked first: a process that ends at once must find its handle, to drop it.
        let mut process = lock(&self.process);
        let waiter = tokio::spawn(waiter).abort_handle();
        *process = Some(Handle { pidfd, waiter });
    }

    pub(super) fn container(&self) -> Container {
        let record = self.record.borrow();
        Container {
            spec: record.spec.clone(),
            epoch: record.epoch,
            state: record.life.state(),
            runtime_id: record
                .life
                .pid()
                .map_or_else(String::new, |pid| pid.to_string()),
            pid: match record.life {
                Life::Running { pid, .. } => Some(pid),
                Life::Created | Life::Exited { .. } => None,
            },
        }
    }

    /// Writes it down, then says so.
    pub(super) fn set_life(&self, life: Life) -> Result<(), RuntimeError> {
        let mut record = self.record.borrow().clone();
        record.life = life;
        let written = record.write(&self.folder);
        // What is known in memory must hold also where the disk is full.
        self.record.send_replace(record);
        written.map_err(RuntimeError::io("write the record in", &self.folder))
    }

    /// Its end, and the exit code if anyone saw it.
    pub(super) async fn ended(&self) -> Option<i64> {
        let mut record = self.record.subscribe();
        let ended = record
            .wait_for(|record| !matches!(record.life, Life::Running { .. }))
            .await;
        match ended.map(|record| record.life.clone()) {
            Ok(Life::Exited { code, .. }) => code,
            // The sender is ours, so it is there: only `Created` is left.
            _ => None,
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        let process = lock(&self.process);
        if let Some(handle) = process.as_ref() {
            // ESRCH: it has just ended, which its waiter is about to tell.
            let _ended = rustix::process::pidfd_send_signal(&handle.pidfd, signal);
        }
    }

    /// Every process of the app, the first one and what it forked.
    pub(super) fn processes(&self) -> Vec<i32> {
        if let Some(cgroup) = &self.cgroup {
            return cgroup.pids();
        }
        let record = self.record.borrow().clone();
        procfs::kin(
            record.life.pid(),
            &spawn::marker(&self.folder),
            &record.volume_paths,
        )
    }

    pub(super) fn kill(&self, left: &[i32]) {
        self.signal(Signal::KILL);
        if self.cgroup.as_ref().is_some_and(Cgroup::kill) {
            return;
        }
        for pid in left.iter().filter_map(|pid| Pid::from_raw(*pid)) {
            // ESRCH: it has ended by itself, which the next look will show.
            let _ended = rustix::process::kill_process(pid, Signal::KILL);
        }
    }

    fn set_exited(&self, pid: i32, code: Option<i64>) {
        drop(lock(&self.process).take());
        if let Err(error) = self.set_life(Life::Exited { pid, code }) {
            tracing::error!(
                error = flocker_api::error::chain(&error),
                "an exit is not on disk"
            );
        }
    }
}

/// Waits for a process that this agent started.
async fn await_child(app: Weak<App>, pid: i32, mut child: Child) {
    let code = child.wait().await.ok().and_then(spawn::exit_code);
    if let Some(app) = app.upgrade() {
        tracing::info!(app = %app.record.borrow().spec.app, pid, code, "its process ended");
        app.set_exited(pid, code);
    }
}

/// Waits for a process that an earlier agent started.
async fn await_adopted(app: Weak<App>, pid: i32, pidfd: Arc<OwnedFd>) {
    if let Err(error) = pidfd::ended(pidfd).await {
        tracing::error!(pid, %error, "an adopted process cannot be awaited");
        return;
    }
    if let Some(app) = app.upgrade() {
        tracing::info!(app = %app.record.borrow().spec.app, pid, "its adopted process ended");
        app.set_exited(pid, None);
    }
}

/// A hold on this very process, unless it is gone.
fn open_pidfd(pid: i32, start: u64) -> Option<OwnedFd> {
    let pidfd = pidfd::open(pid).ok()?;
    // Asked after the hold was taken: the answer is about what is held.
    (procfs::start_ticks(pid) == Some(start)).then_some(pidfd)
}

/// A panic elsewhere leaves maps and handles whole, so a poisoned lock is still good.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
