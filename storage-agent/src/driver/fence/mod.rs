//! The node's fence: a thread that does nothing else, and the lease by which it acts.
//!
//! It shares no lock with anything: the lease and the list of what to kill are read from cells
//! that a writer replaces whole, and what is mounted the kernel says. It runs no future, waits
//! for no file system and for no program without a deadline. So neither a blocked async runtime,
//! nor a volume that hangs, nor a Docker Engine that does not answer keeps it from killing.
//!
//! An enforced lease is written down before it counts, so that an agent that is started again
//! within the same boot keeps the deadline of the one before.

#![expect(
    clippy::disallowed_methods,
    reason = "the fence has a thread and a clock of its own"
)]

mod act;
pub(super) mod mounts;
mod watchdog;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use arc_swap::ArcSwap;
use flocker_api::{
    ErrorBody, ErrorCode,
    agent::{FencePhase, LeasePolicy, LeaseRequest, LeaseStamp, LeaseStatus},
    name::{AppName, NodeName},
};
use rustix::{
    thread::clock_nanosleep_absolute,
    time::{ClockId, Timespec, clock_gettime},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use self::{
    act::{Ground, Target},
    watchdog::Watchdog,
};
use super::volumes::StorageConfig;
use crate::logic::{
    container::Container,
    fence::{self as logic, Lease, LeaseRefusal, Moment},
};

/// Between two looks at the deadline. Much less than the margin, and nothing to a processor.
const TICK: Duration = Duration::from_millis(100);

/// What the fence needs to know.
#[derive(Debug, Clone)]
pub struct FenceConfig {
    /// The node.
    pub node: NodeName,
    /// Where its volumes are.
    pub storage: StorageConfig,
    /// Where an enforced lease is written down.
    pub lease: PathBuf,
    /// The watchdog device that is petted while all is well.
    pub watchdog: Option<PathBuf>,
    /// How much of a lease is kept for fencing.
    pub margin: Duration,
    /// How long killed processes may take to vanish.
    pub kill: Duration,
}

/// The node's fence. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct Fence {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    node: NodeName,
    incarnation: Uuid,
    margin: Duration,
    file: PathBuf,
    boot_id: String,
    lease: ArcSwap<Lease>,
    targets: ArcSwap<Vec<Arc<Target>>>,
    /// Held by whoever changes one of the two; the thread never takes it.
    changing: Mutex<()>,
    phase: AtomicU8,
    fences: AtomicU64,
    watchdog: bool,
    /// When the thread last looked.
    beat_ms: AtomicU64,
    ending: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// An enforced lease on disk.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    boot_id: String,
    until_ms: u64,
}

impl Fence {
    /// Takes up what a former agent of this boot has left, and starts the thread.
    ///
    /// # Errors
    /// When the watchdog cannot be opened or the thread cannot be started.
    pub fn start(config: FenceConfig) -> io::Result<Self> {
        let watchdog = config.watchdog.as_deref().map(Watchdog::open).transpose()?;
        let boot_id = super::runtime::process::boot_id();
        let lease = read(&config.lease, &boot_id);
        let shared = Arc::new(Shared {
            node: config.node,
            incarnation: Uuid::new_v4(),
            margin: config.margin,
            file: config.lease,
            boot_id,
            lease: ArcSwap::from_pointee(lease),
            targets: ArcSwap::default(),
            changing: Mutex::default(),
            phase: AtomicU8::new(0),
            fences: AtomicU64::new(0),
            watchdog: watchdog.is_some(),
            beat_ms: AtomicU64::new(now().ms()),
            ending: AtomicBool::new(false),
            thread: Mutex::default(),
        });
        let ground = Ground::of(&config.storage);
        let thread = std::thread::Builder::new()
            .name("fence".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || run(&shared, &ground, config.kill, watchdog)
            })?;
        *lock(&shared.thread) = Some(thread);
        Ok(Self { shared })
    }

    /// Ends the thread, and tells the watchdog that this is in order.
    pub fn end(&self) {
        self.shared.ending.store(true, Ordering::Release);
        if let Some(thread) = lock(&self.shared.thread).take()
            && thread.join().is_err()
        {
            tracing::error!("the fence broke");
        }
    }

    /// The lease as it is now.
    #[must_use]
    pub fn status(&self) -> LeaseStatus {
        let shared = &self.shared;
        let now = now();
        let lease = **shared.lease.load();
        LeaseStatus {
            stamp: LeaseStamp {
                incarnation: shared.incarnation,
                clock_ms: now.ms(),
            },
            policy: match lease {
                Lease::Vacant => None,
                Lease::Granted { policy, .. } => Some(policy),
            },
            remaining_ms: ms(lease.remaining(now)),
            fence: shared.phase(),
            fences: shared.fences.load(Ordering::Acquire),
        }
    }

    /// Whether a watchdog device stands behind it.
    #[must_use]
    pub fn has_watchdog(&self) -> bool {
        self.shared.watchdog
    }

    /// How long ago the thread last looked.
    #[must_use]
    pub fn silence(&self) -> Duration {
        let beat = Moment::from_ms(self.shared.beat_ms.load(Ordering::Acquire));
        now().0.saturating_sub(beat.0)
    }

    /// Takes a grant.
    ///
    /// # Errors
    /// When it is no good.
    pub fn renew(&self, request: &LeaseRequest) -> Result<LeaseStatus, ErrorBody> {
        let shared = &self.shared;
        let _one_at_a_time = lock(&shared.changing);
        let before = **shared.lease.load();
        let lease = before
            .renew(request, shared.incarnation, shared.margin, now())
            .map_err(|refusal| refused(&refusal))?;
        shared.write_down(lease);
        shared.lease.store(Arc::new(lease));
        Ok(self.status())
    }

    /// Whether anything may be started or made writable here.
    ///
    /// # Errors
    /// When the lease has run out, or the node is fencing itself.
    pub fn permit(&self) -> Result<(), ErrorBody> {
        let lapsed = self.shared.lease.load().has_lapsed(now());
        if !lapsed && self.shared.phase() == FencePhase::Guarding {
            return Ok(());
        }
        let message = format!(
            "the lease of node {} has run out: nothing is started or made writable on it until control confirms it again",
            self.shared.node
        );
        Err(ErrorBody::new(ErrorCode::Unavailable, message))
    }

    /// An app runs: the fence must know its process to kill it.
    pub fn watch(&self, container: &Container) {
        let _one_at_a_time = lock(&self.shared.changing);
        let mut targets = self.others(&container.spec.app);
        targets.extend(self.target(container));
        self.shared.targets.store(Arc::new(targets));
    }

    /// These containers were found. One that the fence knows and that lives is kept all the
    /// same: the list may have been read before its start.
    pub fn sync(&self, containers: &[Container]) {
        let _one_at_a_time = lock(&self.shared.changing);
        let known = self.shared.targets.load();
        let living = known.iter().filter(|target| target.lives());
        let mut targets: Vec<_> = living.cloned().collect();
        for container in containers {
            let known = |target: &Arc<Target>| Some(target.pid()) == container.pid;
            if !targets.iter().any(known) {
                targets.extend(self.target(container));
            }
        }
        self.shared.targets.store(Arc::new(targets));
    }

    fn others(&self, app: &AppName) -> Vec<Arc<Target>> {
        let targets = self.shared.targets.load();
        let others = targets.iter().filter(|target| target.app() != app);
        others.cloned().collect()
    }

    fn target(&self, container: &Container) -> Option<Arc<Target>> {
        let pid = container.pid?;
        match Target::open(container.spec.app.clone(), pid) {
            Ok(target) => Some(Arc::new(target)),
            // It has ended already.
            Err(error) => {
                tracing::debug!(node = %self.shared.node, pid, %error, "not watched");
                None
            }
        }
    }
}

impl Shared {
    fn phase(&self) -> FencePhase {
        match self.phase.load(Ordering::Acquire) {
            0 => FencePhase::Guarding,
            1 => FencePhase::Fencing,
            _ => FencePhase::Fenced,
        }
    }

    fn publish(&self, fence: &logic::Fence) {
        let phase = match fence.phase() {
            FencePhase::Guarding => 0,
            FencePhase::Fencing => 1,
            FencePhase::Fenced => 2,
        };
        self.fences.store(fence.fences(), Ordering::Release);
        self.phase.store(phase, Ordering::Release);
    }

    /// Leaves the deadline to the next agent. Without the file that one would begin without a
    /// lease, as after a boot; so a failure is worth a warning and not the node's life.
    fn write_down(&self, lease: Lease) {
        let written = match lease {
            Lease::Granted {
                policy: LeasePolicy::Enforced,
                until,
            } => write(&self.file, &self.boot_id, until),
            _ => match fs::remove_file(&self.file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        };
        if let Err(error) = written {
            tracing::warn!(file = %self.file.display(), %error, "the lease is not written down");
        }
    }
}

/// The thread.
fn run(shared: &Shared, ground: &Ground, kill: Duration, mut watchdog: Option<Watchdog>) {
    let mut fence = logic::Fence::default();
    while !shared.ending.load(Ordering::Acquire) {
        let now = now();
        shared.beat_ms.store(now.ms(), Ordering::Release);
        let before = fence.phase();
        let orders = fence.tick(**shared.lease.load(), now);
        shared.publish(&fence);
        if before != fence.phase() {
            tracing::warn!(node = %shared.node, phase = ?fence.phase(), "the fence");
        }
        if orders.fence {
            let before = fence.phase();
            let targets = shared.targets.load_full();
            let proven = act::fence(&targets, ground, kill);
            fence.ended(proven);
            shared.publish(&fence);
            if before != fence.phase() {
                tracing::warn!(node = %shared.node, phase = ?fence.phase(), "the fence");
            }
        }
        if let (true, Some(watchdog)) = (orders.pet, &mut watchdog) {
            watchdog.pet();
        }
        sleep_until(Moment(now.0 + TICK));
    }
    if let Some(watchdog) = watchdog {
        watchdog.close();
    }
}

/// The clock that goes on while the machine is suspended, and that nobody can set
/// (`clock_getres(2)`, `CLOCK_BOOTTIME`).
fn now() -> Moment {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Moment(Duration::new(seconds, nanos))
}

fn sleep_until(moment: Moment) {
    let request = Timespec {
        tv_sec: i64::try_from(moment.0.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(moment.0.subsec_nanos()),
    };
    // A signal wakes it early, which does no harm.
    let _woken = clock_nanosleep_absolute(ClockId::Boottime, &request);
}

fn refused(refusal: &LeaseRefusal) -> ErrorBody {
    let code = match refusal {
        LeaseRefusal::Short { .. } => ErrorCode::InvalidRequest,
        LeaseRefusal::Stranger | LeaseRefusal::Future { .. } | LeaseRefusal::Late { .. } => {
            ErrorCode::Precondition
        }
    };
    ErrorBody::new(code, refusal.to_string())
}

/// The lease of a former agent, if it was of this boot.
fn read(file: &Path, boot_id: &str) -> Lease {
    let record = fs::read(file).ok();
    let record = record.and_then(|text| serde_json::from_slice::<Record>(&text).ok());
    match record {
        Some(record) if record.boot_id == boot_id => Lease::Granted {
            policy: LeasePolicy::Enforced,
            until: Moment::from_ms(record.until_ms),
        },
        _ => Lease::Vacant,
    }
}

fn write(file: &Path, boot_id: &str, until: Moment) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let next = file.with_extension("next");
    let record = Record {
        boot_id: boot_id.to_owned(),
        until_ms: until.ms(),
    };
    fs::write(&next, serde_json::to_vec(&record)?)?;
    fs::rename(next, file)
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A panic of a writer leaves whole values, so a poisoned lock is still good.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
