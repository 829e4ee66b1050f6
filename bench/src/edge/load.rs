//! The load: one thread, epoll, many connections that each have an exchange at a time (HTTP/2:
//! several). In a closed loop each begins the next when the last is over; at a rate, exchanges
//! begin when they are due, and their latency counts from then, however late they got their turn.
//!
//! ```text
//!   due ──► backlog ──► free slot ──► begin ──► done: latency = now - due ──► free slot
//! ```
#![expect(
    clippy::disallowed_methods,
    reason = "a thread of its own that sends at moments of the clock"
)]

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use slab::Slab;

use super::{
    client::{Client, Talk},
    cpu,
    h2_client::H2Client,
    poller::{Poller, Ready},
};

/// What is read at a time.
const BUFFER_BYTES: usize = 256 << 10;
/// After so many failures it is of no use to go on.
const FAILURES_MAX: u64 = 20;
/// Latencies are kept up to a minute, with three digits.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// Connections of a load that holds them which are made at a time.
const HOLD_WINDOW: usize = 64;

/// When exchanges begin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pace {
    /// Each connection begins the next when the last is over.
    Closed,
    /// So many a second, come what may.
    PerSecond(f64),
}

/// What is done to whom.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) target: SocketAddr,
    /// Connections at a time.
    pub(super) connections: usize,
    pub(super) pace: Pace,
    /// Ends after so many exchanges.
    pub(super) limit: Option<u64>,
    /// Each connection has one exchange and then stays, silent.
    pub(super) hold: bool,
    pub(super) talk: Arc<Talk>,
}

/// A load under way; ends with the value.
pub(super) struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Histogram<u64>>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    ended: AtomicBool,
    /// Raised when latencies are to be counted anew.
    round: AtomicU64,
    tid: AtomicU32,
    done: AtomicU64,
    failed: AtomicU64,
    open: AtomicU64,
    first_failure: Mutex<Option<String>>,
}

impl Load {
    pub(super) fn start(plan: Plan) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut calling = Calling::new(plan, Arc::clone(&shared)).context("cannot make a load")?;
        let thread = std::thread::Builder::new().name("load".to_owned());
        let thread = thread.spawn(move || {
            calling.run();
            calling.shared.ended.store(true, Ordering::Relaxed);
            calling.latencies
        });
        Ok(Self {
            shared,
            thread: Some(thread.context("cannot start a load")?),
        })
    }

    /// Exchanges that are over and good.
    pub(super) fn done(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }

    pub(super) fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// Connections that are open.
    pub(super) fn open(&self) -> u64 {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// It has reached its limit, or given up.
    pub(super) fn has_ended(&self) -> bool {
        self.shared.ended.load(Ordering::Relaxed)
    }

    pub(super) fn first_failure(&self) -> Option<String> {
        let failure = &self.shared.first_failure;
        failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Time on a core, in ns.
    pub(super) fn cpu_ns(&self) -> u64 {
        cpu::thread_ns(self.shared.tid.load(Ordering::Relaxed))
    }

    /// From now on latencies count.
    pub(super) fn count_latencies(&self) {
        self.shared.round.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends it; the latencies that were counted, in ns.
    pub(super) fn stop(mut self) -> Result<Histogram<u64>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it was started")?;
        thread
            .join()
            .map_err(|_| anyhow::anyhow!("the load has panicked"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// A connection of either kind.
enum Caller {
    One(Box<Client>),
    Many(Box<H2Client>),
}

/// What a connection has to say after an event.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// When the exchanges that are over were due.
    pub(super) done: Vec<Instant>,
    /// When those were due that have to begin anew, elsewhere.
    pub(super) again: Vec<Instant>,
    /// It is over.
    pub(super) closed: bool,
    /// It takes no further exchange.
    pub(super) last: bool,
}

struct Calling {
    plan: Plan,
    shared: Arc<Shared>,
    poller: Poller,
    callers: Slab<Caller>,
    /// Room for an exchange: on this connection, or on a new one.
    free: Vec<Option<usize>>,
    backlog: VecDeque<Instant>,
    began: Instant,
    scheduled: u64,
    begun: u64,
    round: u64,
    latencies: Histogram<u64>,
    buffer: Vec<u8>,
}

impl Calling {
    fn new(plan: Plan, shared: Arc<Shared>) -> Result<Self> {
        let slots = match plan.hold {
            true => HOLD_WINDOW.min(plan.connections),
            false => plan.connections,
        };
        Ok(Self {
            poller: Poller::new()?,
            shared,
            callers: Slab::new(),
            free: vec![None; slots],
            backlog: VecDeque::new(),
            began: Instant::now(),
            scheduled: 0,
            begun: 0,
            round: 0,
            latencies: Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)?,
            buffer: vec![0; BUFFER_BYTES],
            plan,
        })
    }

    fn run(&mut self) {
        self.shared.tid.store(cpu::this_thread(), Ordering::Relaxed);
        self.began = Instant::now();
        let mut ready = Ready::new();
        while !self.is_over() {
            self.begin_what_is_due();
            if self.poller.wait(&mut ready).is_err() {
                return;
            }
            let round = self.shared.round.load(Ordering::Relaxed);
            if round != self.round {
                self.round = round;
                self.latencies.reset();
            }
            for (key, readable) in ready.keys.drain(..) {
                self.event(key, readable);
            }
        }
    }

    fn is_over(&self) -> bool {
        let done = self.shared.done.load(Ordering::Relaxed);
        self.shared.stop.load(Ordering::Relaxed)
            || self.shared.failed.load(Ordering::Relaxed) >= FAILURES_MAX
            || self.plan.limit.is_some_and(|limit| done >= limit)
    }

    fn may_begin(&self) -> bool {
        let most = match self.plan.hold {
            true => Some(self.plan.connections as u64),
            false => self.plan.limit,
        };
        most.is_none_or(|most| self.begun < most)
    }

    fn begin_what_is_due(&mut self) {
        let now = Instant::now();
        match self.plan.pace {
            Pace::Closed => {
                while self.may_begin()
                    && let Some(slot) = self.free.pop()
                {
                    self.begin(slot, Instant::now());
                    if self.is_over() {
                        return;
                    }
                }
            }
            Pace::PerSecond(rate) => {
                let mut due = self.due(rate);
                while due <= now {
                    self.backlog.push_back(due);
                    self.scheduled += 1;
                    due = self.due(rate);
                }
                while self.may_begin()
                    && !self.backlog.is_empty()
                    && let Some(slot) = self.free.pop()
                    && let Some(due) = self.backlog.pop_front()
                {
                    self.begin(slot, due);
                }
                // Without it the next wait ends only with an answer.
                let _late = self
                    .poller
                    .alarm(due.saturating_duration_since(Instant::now()));
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 exchanges")]
    fn due(&self, rate: f64) -> Instant {
        self.began + Duration::from_secs_f64(self.scheduled as f64 / rate)
    }

    fn begin(&mut self, slot: Option<usize>, due: Instant) {
        self.begun += 1;
        let key = match slot {
            Some(key) => key,
            None => match self.connect(due) {
                Ok(key) => key,
                Err(error) => return self.fail(&error.into(), 1),
            },
        };
        let mut said = Said::default();
        let result = match self.callers.get_mut(key) {
            Some(Caller::One(client)) => client.begin(due, &self.poller, key, &mut said),
            Some(Caller::Many(client)) => client.begin(due, &self.poller, key),
            None => Ok(()),
        };
        self.conclude(key, result, &said);
    }

    fn connect(&mut self, due: Instant) -> io::Result<usize> {
        let entry = self.callers.vacant_entry();
        let key = entry.key();
        let talk = Arc::clone(&self.plan.talk);
        if let Some(streams) = talk.h2_streams {
            let client = H2Client::connect(self.plan.target, talk, &self.poller, key)?;
            entry.insert(Caller::Many(Box::new(client)));
            // One is begun at once; the others are free.
            self.free
                .extend(std::iter::repeat_n(Some(key), streams.saturating_sub(1)));
        } else {
            let client = Client::connect(self.plan.target, talk, due, &self.poller, key)?;
            entry.insert(Caller::One(Box::new(client)));
        }
        self.shared.open.fetch_add(1, Ordering::Relaxed);
        Ok(key)
    }

    fn event(&mut self, key: usize, readable: bool) {
        let mut said = Said::default();
        let (buffer, poller) = (&mut self.buffer, &self.poller);
        let result = match self.callers.get_mut(key) {
            Some(Caller::One(client)) => client.event(readable, buffer, poller, key, &mut said),
            Some(Caller::Many(client)) => client.event(readable, buffer, poller, key, &mut said),
            None => return,
        };
        self.conclude(key, result, &said);
    }

    fn conclude(&mut self, key: usize, result: Result<()>, said: &Said) {
        if !said.done.is_empty() {
            let now = Instant::now();
            for due in &said.done {
                let ns = now.saturating_duration_since(*due).as_nanos();
                self.latencies
                    .saturating_record(u64::try_from(ns).unwrap_or(u64::MAX));
            }
            self.shared
                .done
                .fetch_add(said.done.len() as u64, Ordering::Relaxed);
            match (self.plan.hold, said.closed || said.last) {
                (true, _) => self.free.push(None),
                (false, false) => {
                    self.free
                        .extend(std::iter::repeat_n(Some(key), said.done.len()));
                }
                // The slot is free once the connection is gone.
                (false, true) => {}
            }
        }
        if said.last {
            self.free.retain(|slot| *slot != Some(key));
        }
        for due in &said.again {
            self.begun -= 1;
            if self.plan.pace != Pace::Closed {
                self.backlog.push_front(*due);
            }
        }
        match result {
            Ok(()) if said.closed => self.remove(key),
            Ok(()) => {}
            Err(error) => {
                let open = self.callers.get(key).map_or(0, Caller::open);
                self.fail(&error, open.max(1));
                self.remove(key);
            }
        }
    }

    /// A connection is gone: its room is free for a new one.
    fn remove(&mut self, key: usize) {
        if self.callers.try_remove(key).is_some() {
            self.free.retain(|slot| *slot != Some(key));
            self.shared.open.fetch_sub(1, Ordering::Relaxed);
            if !self.plan.hold {
                self.free.push(None);
            }
        }
    }

    fn fail(&mut self, error: &anyhow::Error, count: u64) {
        // Others may begin in their place.
        self.begun = self.begun.saturating_sub(count);
        self.shared.failed.fetch_add(count, Ordering::Relaxed);
        let mut first = self
            .shared
            .first_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| format!("{error:#}"));
    }
}

impl Caller {
    /// Exchanges under way.
    fn open(&self) -> u64 {
        match self {
            Self::One(client) => u64::from(client.is_busy()),
            Self::Many(client) => client.open(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::{client::Answer, origin::Origin, origin::Speech};

    /// Runs until it ends by itself, at most 20 s.
    fn run(speech: Speech, talk: Talk, pace: Pace, limit: u64) -> (u64, u64, Option<String>, u64) {
        let origin = Origin::start("127.0.0.1:0".parse().unwrap(), speech).unwrap();
        let load = Load::start(Plan {
            target: origin.address(),
            connections: 4,
            pace,
            limit: Some(limit),
            hold: false,
            talk: Arc::new(talk),
        });
        let load = load.unwrap();
        for _ in 0..2_000 {
            if !load.has_ended() {
                std::thread::park_timeout(Duration::from_millis(10));
            }
        }
        let (done, failed, failure) = (load.done(), load.failed(), load.first_failure());
        (done, failed, failure, load.stop().unwrap().len())
    }

    fn messages(once: bool) -> Talk {
        Talk {
            request: vec![b'x'; 512],
            answer: Answer::Bytes(300),
            once,
            ..Talk::default()
        }
    }

    #[test]
    fn a_load_ends_at_its_limit_and_counts_every_exchange() {
        for once in [false, true] {
            for pace in [Pace::Closed, Pace::PerSecond(1e6)] {
                let speech = Speech::Exchange(512, vec![b'y'; 300]);
                let (done, failed, failure, latencies) = run(speech, messages(once), pace, 50);
                assert_eq!(
                    (done, failed, failure, latencies),
                    (50, 0, None, 50),
                    "{pace:?}"
                );
            }
        }
    }

    #[test]
    fn an_answer_that_is_not_what_was_expected_is_a_failure() {
        let speech = || Speech::Exchange(512, vec![b'y'; 301]);
        let (done, failed, failure, _) = run(speech(), messages(false), Pace::Closed, 50);
        assert_eq!(done, 0);
        assert!(failed >= 1, "{failed}");
        assert_eq!(failure.as_deref(), Some("301 bytes in place of 300"));
        let http = Talk {
            answer: Answer::Http(200),
            ..messages(false)
        };
        let (.., failure, _) = run(speech(), http, Pace::Closed, 50);
        assert_eq!(failure.as_deref(), Some("no HTTP: invalid HTTP version"));
    }

    #[test]
    fn nobody_there_is_a_failure() {
        let gone = Origin::start("127.0.0.1:0".parse().unwrap(), Speech::Sink).unwrap();
        let target = gone.address();
        drop(gone);
        let load = Load::start(Plan {
            target,
            connections: 1,
            pace: Pace::Closed,
            limit: Some(5),
            hold: false,
            talk: Arc::new(messages(false)),
        });
        let load = load.unwrap();
        for _ in 0..2_000 {
            if !load.has_ended() {
                std::thread::park_timeout(Duration::from_millis(10));
            }
        }
        assert_eq!((load.done(), load.failed()), (0, FAILURES_MAX));
    }
}
