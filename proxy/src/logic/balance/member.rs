//! What is known of one upstream address of a route: its load, its health, its failures. Shared
//! by all workers and by every table that names it.
//!
//! ```text
//!                 checks: `fall` bad ones            failures in a row
//!        ┌─► Up ─────────────────────► Down     Up ─────────────────────► Ejected
//!        │   ▲                          │        ▲                          │
//!   first┤   └──── `rise` good ones ────┘        └──── its time is over ────┘
//!  check └─► Down                        (active)                       (passive)
//! ```
//!
//! Both may be the case at once; either is enough to be passed over. Whoever comes back from
//! either starts slowly, if the route says so.

use std::{
    net::SocketAddr,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::metrics::Counter;

/// The full weight of an upstream of weight 1.
pub(super) const WEIGHT_ONE: u64 = 1024;
/// The least share of its weight that a starting upstream has, in percent: without any it would
/// never be tried.
const START_PERCENT: u64 = 10;
/// In [`Member::serves_since`]: from the first look on.
const FROM_FIRST_LOOK: u64 = u64::MAX;

const HEALTH_UNKNOWN: u8 = 0;
const HEALTH_UP: u8 = 1;
const HEALTH_DOWN: u8 = 2;

/// When an upstream that fails clients is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ejection {
    /// Failures in a row that eject; 0 never does.
    pub failures: u32,
    /// The first ejection's time; each one after it is twice as long.
    pub base: Duration,
    /// The longest ejection; after as long without one, the first is short again.
    pub max: Duration,
    /// Most of a route's upstreams that may be ejected at once, in percent; one of several
    /// always may.
    pub share_percent: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Member {
    address: SocketAddr,
    in_flight: AtomicU32,
    /// Consecutive failures of clients.
    failures: AtomicU32,
    ejections: AtomicU32,
    health: AtomicU8,
    /// In ms of [`ms`]; 0 if it never was.
    ejected_until: AtomicU64,
    /// When it began to serve, in ms of [`ms`]; 0 is long ago.
    serves_since: AtomicU64,
    /// How far it is in the round.
    pub(super) pass: AtomicU64,
    checks: OnceLock<Box<Mutex<Checks>>>,
    pub(super) requests: Counter,
    pub(super) failed: Counter,
    pub(super) ejected: Counter,
}

#[derive(Debug, Default)]
struct Checks {
    /// Answers in a row that speak against the present opinion.
    against: u32,
    reason: Option<String>,
}

/// Milliseconds on a clock of the process, so that a time fits an atomic. Never 0.
fn ms(now: Instant) -> u64 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    /// Times before the first are as good.
    const FIRST_MS: u64 = 1 << 40;
    let first = *FIRST.get_or_init(|| now);
    let whole = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4);
    match now.checked_duration_since(first) {
        Some(later) => FIRST_MS.saturating_add(whole(later)),
        None => FIRST_MS
            .saturating_sub(whole(first.duration_since(now)))
            .max(1),
    }
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}

impl Member {
    pub(super) fn new(address: SocketAddr, starts: bool) -> Self {
        Self {
            address,
            in_flight: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            health: AtomicU8::new(HEALTH_UNKNOWN),
            ejected_until: AtomicU64::new(0),
            serves_since: AtomicU64::new(if starts { FROM_FIRST_LOOK } else { 0 }),
            pass: AtomicU64::new(0),
            checks: OnceLock::new(),
            requests: Counter::default(),
            failed: Counter::default(),
            ejected: Counter::default(),
        }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sessions and requests that it has now.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// One more, unless it has as many as it may have; 0 is no limit.
    pub(super) fn enter(&self, most: u32) -> bool {
        if most == 0 {
            self.in_flight.fetch_add(1, Ordering::Relaxed);
        } else {
            let next = |has: u32| (has < most).then_some(has + 1);
            let order = Ordering::Relaxed;
            if self.in_flight.fetch_update(order, order, next).is_err() {
                return false;
            }
        }
        self.requests.inc();
        true
    }

    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether a check has ever had an answer.
    #[must_use]
    pub fn is_checked(&self) -> bool {
        self.health.load(Ordering::Relaxed) != HEALTH_UNKNOWN
    }

    /// Whether its checks fail.
    pub(super) fn is_down(&self) -> bool {
        self.health.load(Ordering::Relaxed) == HEALTH_DOWN
    }

    /// For how much longer it is ejected.
    pub(super) fn ejected_for(&self, now: Instant) -> Option<Duration> {
        let until = self.ejected_until.load(Ordering::Relaxed);
        let left = until.saturating_sub(ms(now));
        (left > 0).then(|| Duration::from_millis(left))
    }

    pub(super) fn is_usable(&self, now: Instant) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        !self.is_down() && (until == 0 || until <= ms(now))
    }

    /// Its weight now, in 1024ths: a part of it while it starts.
    pub(super) fn weight(&self, weight: u16, slow_start: Duration, now: Instant) -> u64 {
        let full = u64::from(weight) * WEIGHT_ONE;
        let percent = self.start_percent(slow_start, now);
        (full * percent / 100).max(1)
    }

    /// Whether it has less than its whole weight yet.
    pub(super) fn is_starting(&self, slow_start: Duration, now: Instant) -> bool {
        self.start_percent(slow_start, now) < 100
    }

    fn start_percent(&self, slow_start: Duration, now: Instant) -> u64 {
        let mut since = self.serves_since.load(Ordering::Relaxed);
        let until = self.ejected_until.load(Ordering::Relaxed);
        if slow_start.is_zero() || (since == 0 && until == 0) {
            return 100;
        }
        let now = ms(now);
        if since == FROM_FIRST_LOOK {
            // Whichever worker looks first.
            let first = Ordering::Relaxed;
            let was = self.serves_since.compare_exchange(since, now, first, first);
            since = was.err().unwrap_or(now);
        }
        let served = now.saturating_sub(since.max(until));
        let percent = served.saturating_mul(100) / whole_ms(slow_start).max(1);
        percent.clamp(START_PERCENT, 100)
    }

    /// A client was served.
    pub(super) fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// A client was failed; whether that is once too often.
    pub(super) fn failed(&self, ejection: &Ejection) -> bool {
        self.failed.inc();
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        ejection.failures > 0 && failures >= ejection.failures
    }

    /// Leaves it alone for a while: longer each time.
    pub(super) fn eject(&self, ejection: &Ejection, now: Instant) -> Duration {
        let (at, longest) = (ms(now), whole_ms(ejection.max));
        let until = self.ejected_until.load(Ordering::Relaxed);
        if until != 0 && at.saturating_sub(until) > longest {
            self.ejections.store(0, Ordering::Relaxed);
        }
        let times = self.ejections.fetch_add(1, Ordering::Relaxed).min(20);
        let long = whole_ms(ejection.base)
            .saturating_mul(1 << times)
            .min(longest);
        self.failures.store(0, Ordering::Relaxed);
        self.ejected_until
            .store(at.saturating_add(long), Ordering::Relaxed);
        self.ejected.inc();
        Duration::from_millis(long)
    }

    /// A check has had its answer; says so if that changes the opinion: whether it is up now.
    pub fn checked(
        &self,
        answer: Result<(), String>,
        (rise, fall): (u32, u32),
        now: Instant,
    ) -> Option<bool> {
        let checks = self.checks.get_or_init(Box::default);
        let mut checks = checks.lock().unwrap_or_else(PoisonError::into_inner);
        let good = answer.is_ok();
        checks.reason = answer.err();
        let before = self.health.load(Ordering::Relaxed);
        let enough = match (before, good) {
            (HEALTH_UNKNOWN, _) => 1,
            (HEALTH_DOWN, true) => rise,
            (HEALTH_UP, false) => fall,
            _ => {
                checks.against = 0;
                return None;
            }
        };
        checks.against += 1;
        if checks.against < enough {
            return None;
        }
        checks.against = 0;
        if before == HEALTH_DOWN {
            self.serves_since.store(ms(now), Ordering::Relaxed);
        }
        let after = if good { HEALTH_UP } else { HEALTH_DOWN };
        self.health.store(after, Ordering::Relaxed);
        (before != HEALTH_UNKNOWN || !good).then_some(good)
    }

    /// Nobody checks it any more.
    pub(super) fn forget_checks(&self) {
        if self.health.load(Ordering::Relaxed) == HEALTH_UNKNOWN {
            return;
        }
        self.health.store(HEALTH_UNKNOWN, Ordering::Relaxed);
        if let Some(checks) = self.checks.get() {
            *checks.lock().unwrap_or_else(PoisonError::into_inner) = Checks::default();
        }
    }

    /// What the last check said, if it was bad.
    pub(super) fn reason(&self) -> Option<String> {
        let checks = self.checks.get()?;
        let checks = checks.lock().unwrap_or_else(PoisonError::into_inner);
        checks.reason.clone()
    }
}
