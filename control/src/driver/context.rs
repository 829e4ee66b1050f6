//! What the parts of control share: the ledger, the peers, the clock, live progress, metrics.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use flocker_api::name::{AppName, MoveId};
use tokio::{sync::watch, time::Instant};

use super::{
    drain::Drains,
    ledger::Ledger,
    observer::Observations,
    peers::{Peers, Wire},
    store::{Store, StoreError},
    volumes::errands::Errands,
};
use crate::{
    config::{Limits, Topology},
    logic::{
        reconcile::{Obstacle, Touched},
        report::{Doing, Troubles, whole_ms},
    },
    metrics::Metrics,
};

/// What the parts of control share.
#[derive(Debug)]
pub struct Context {
    pub(crate) ledger: Ledger,
    pub(crate) peers: Peers,
    pub(crate) topology: Topology,
    pub(crate) limits: Limits,
    pub(crate) clock: Clock,
    pub(crate) progress: Progress,
    pub(crate) observations: Observations,
    pub(crate) claims: Claims,
    pub(crate) drains: Drains,
    pub(crate) metrics: Metrics,
    pub(crate) errands: Errands,
    pub(crate) reconciled: Mutex<Reconciled>,
}

impl Context {
    /// Reads the store and reaches the peers over `wire`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn new(
        store: Arc<dyn Store>,
        wire: Arc<dyn Wire>,
        topology: Topology,
        limits: Limits,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            ledger: Ledger::open(store)?,
            peers: Peers::new(wire, &topology, limits.clone()),
            observations: Observations::new(&topology),
            topology,
            limits,
            progress: Progress::new(&clock),
            claims: Claims::new(&clock),
            drains: Drains::new(clock.now_ms()),
            clock,
            reconciled: Mutex::default(),
            metrics: Metrics::default(),
            errands: Errands::default(),
        })
    }

    pub(crate) fn reconciled(&self) -> MutexGuard<'_, Reconciled> {
        self.reconciled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the reconciler's last pass left.
#[derive(Debug, Default)]
pub(crate) struct Reconciled {
    pub(crate) troubles: Troubles,
    pub(crate) obstacles: Vec<Obstacle>,
}

/// Unix time that never goes backwards: read once, counted on by the monotonic clock.
#[derive(Debug, Clone)]
pub struct Clock {
    start: Instant,
    start_ms: f64,
}

impl Clock {
    /// A clock that showed this Unix time, in ms, just now.
    #[must_use]
    pub fn starting_at(start_ms: f64) -> Self {
        Self {
            start: Instant::now(),
            start_ms,
        }
    }

    /// A clock of the machine's time.
    #[must_use]
    pub fn system() -> Self {
        let now = jiff::Timestamp::now();
        Self::starting_at(now.as_duration().as_secs_f64() * 1e3)
    }

    /// Unix time, in ms.
    #[must_use]
    pub fn now_ms(&self) -> f64 {
        self.start_ms + self.start.elapsed().as_secs_f64() * 1e3
    }
}

/// What running moves are doing, beyond what their journals say.
#[derive(Debug)]
pub struct Progress {
    live: Mutex<BTreeMap<MoveId, Doing>>,
    /// Also the newest revision. It begins at the Unix time in ms, so that revisions go up
    /// across restarts of control too.
    revision: watch::Sender<u64>,
}

impl Progress {
    fn new(clock: &Clock) -> Self {
        Self {
            live: Mutex::default(),
            revision: watch::Sender::new(whole_ms(clock.now_ms())),
        }
    }

    /// Tells of each change of any move.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// What a move is doing now.
    pub(crate) fn of(&self, id: MoveId) -> Doing {
        let known = self.lock().get(&id).cloned();
        known.unwrap_or_else(|| Doing {
            revision: 1,
            ..Doing::default()
        })
    }

    /// The journal of a move has got more lines; what was said of the step before is over.
    pub(crate) fn advanced(&self, id: MoveId) {
        self.change(id, |live| {
            live.detail.clear();
            live.trouble = None;
        });
    }

    /// The running step of a move does this now.
    pub(crate) fn doing(&self, id: MoveId, detail: impl Into<String>) {
        self.change(id, |live| live.detail = detail.into());
    }

    /// The running step of a move does not succeed.
    pub(crate) fn trouble(&self, id: MoveId, trouble: String) {
        if self.of(id).trouble.as_deref() != Some(&trouble) {
            self.change(id, |live| live.trouble = Some(trouble));
        }
    }

    fn change(&self, id: MoveId, change: impl FnOnce(&mut Doing)) {
        self.revision.send_modify(|revision| {
            *revision += 1;
            let mut moves = self.lock();
            let live = moves.entry(id).or_default();
            live.revision = *revision;
            change(live);
        });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<MoveId, Doing>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Apps at which someone is at work outside of a move, so that nobody else begins to be; and
/// when that last ended, because what was observed earlier does not show it.
#[derive(Debug, Clone)]
pub struct Claims {
    clock: Clock,
    inner: Arc<Mutex<ClaimsInner>>,
}

#[derive(Debug, Default)]
struct ClaimsInner {
    taken: BTreeSet<AppName>,
    /// Those of the taken whose container is being started.
    starting: BTreeSet<AppName>,
    touched: Touched,
}

impl Claims {
    fn new(clock: &Clock) -> Self {
        Self {
            clock: clock.clone(),
            inner: Arc::default(),
        }
    }

    /// Takes an app, unless someone has it.
    pub(crate) fn take(&self, app: &AppName) -> Option<Claim> {
        let taken = self.lock().taken.insert(app.clone());
        taken.then(|| Claim {
            claims: self.clone(),
            app: app.clone(),
        })
    }

    /// Takes an app as soon as nobody has it, but waits no longer than that.
    pub(crate) async fn take_within(&self, app: &AppName, wait: Duration) -> Option<Claim> {
        let deadline = Instant::now() + wait;
        loop {
            let claim = self.take(app);
            if claim.is_some() || Instant::now() >= deadline {
                return claim;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The apps whose container is being started and has not said yet that it is ready.
    pub(crate) fn starting(&self) -> BTreeSet<AppName> {
        self.lock().starting.clone()
    }

    /// Something was done for an app just now.
    pub(crate) fn touch(&self, app: &AppName) {
        let now_ms = self.clock.now_ms();
        self.lock().touched.insert(app.clone(), now_ms);
    }

    /// When something was last done for each app.
    pub(crate) fn touched(&self) -> Touched {
        self.lock().touched.clone()
    }

    fn lock(&self) -> MutexGuard<'_, ClaimsInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An app that is taken; dropping it lets go.
#[derive(Debug)]
pub struct Claim {
    claims: Claims,
    app: AppName,
}

impl Claim {
    /// Says that its app is being started, until the claim is let go.
    pub(crate) fn starts(&self) {
        self.claims.lock().starting.insert(self.app.clone());
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.touch(&self.app);
        let mut inner = self.claims.lock();
        inner.starting.remove(&self.app);
        inner.taken.remove(&self.app);
    }
}
