//! The generator: a thread with a timer that sends what is due, a task per request.
#![expect(
    clippy::disallowed_methods,
    reason = "measures: it is the one place of the load that reads clocks"
)]

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
};
use tokio::{sync::watch, task::LocalSet};

use super::{
    Connection, Kind, Mix, Outcome, Schedule, Target, Trace,
    connection::{Connected, Pool},
    http::Requests,
    ledger::Ledger,
    schedule::Due,
    timer::Timer,
};

/// Requests in flight at once; beyond, requests are not sent and the run does not count.
const IN_FLIGHT_MAX: usize = 20_000;

/// What load to make.
#[derive(Debug, Clone)]
pub struct LoadConfig {
    /// The edges, used in turn.
    pub targets: Vec<Target>,
    /// The Host of the requests.
    pub host: String,
    /// Requests per second, all edges together.
    pub rate: u32,
    /// How they differ.
    pub mix: Mix,
    /// A request without an answer for so long has failed.
    pub answer_max: Duration,
    /// How long answers are waited for after the load has been stopped.
    pub drain: Duration,
}

impl LoadConfig {
    /// The usual load on `targets`.
    #[must_use]
    pub fn new(targets: Vec<Target>, host: &str, rate: u32) -> Self {
        Self {
            targets,
            host: host.to_owned(),
            rate,
            mix: Mix::default(),
            answer_max: Duration::from_secs(60),
            drain: Duration::from_secs(10),
        }
    }
}

/// Why there is no load.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Nothing to send to.
    #[error("no edge to send requests to; name at least one, at most 255")]
    NoTarget,
    /// The thread, its runtime or its timer cannot be had.
    #[error("cannot start the load generator")]
    Start(#[source] io::Error),
    /// The generator's thread has panicked.
    #[error("the load generator has panicked")]
    Panicked,
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    stop: watch::Sender<bool>,
    thread: JoinHandle<Result<Trace, LoadError>>,
    progress: Arc<Progress>,
}

/// How far a load is, readable from other threads.
#[derive(Debug, Default)]
struct Progress {
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Load {
    /// Starts it.
    ///
    /// # Errors
    /// When there is no target or no thread to be had.
    pub fn start(config: LoadConfig) -> Result<Self, LoadError> {
        if config.targets.is_empty() || config.targets.len() > usize::from(u8::MAX) {
            return Err(LoadError::NoTarget);
        }
        let (stop, stopped) = watch::channel(false);
        let progress = Arc::new(Progress::default());
        let shared = Arc::clone(&progress);
        let thread = std::thread::Builder::new()
            .name("load".to_owned())
            .spawn(move || generate(config, stopped, shared))
            .map_err(LoadError::Start)?;
        Ok(Self {
            stop,
            thread,
            progress,
        })
    }

    /// Requests that have been answered as they should be, so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.progress.answered.load(Ordering::Relaxed)
    }

    /// Requests that have failed, so far.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.progress.failed.load(Ordering::Relaxed)
    }

    /// Sends nothing more, waits for outstanding answers, and gives the accounts.
    ///
    /// # Errors
    /// When the generator could not run.
    pub async fn stop(self) -> Result<Trace, LoadError> {
        // Its thread may have ended by itself, with an error that is returned below.
        let _ended = self.stop.send(true);
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await;
        match joined {
            Ok(Ok(result)) => result,
            _ => Err(LoadError::Panicked),
        }
    }
}

/// What all tasks of the generator share.
struct Shared {
    config: LoadConfig,
    requests: Requests,
    origin: Instant,
    ledger: RefCell<Ledger>,
    pools: Vec<RefCell<Pool>>,
    /// Highest acknowledged sequence number, and how many there are.
    acknowledged: Cell<(u64, u64)>,
    opened: Cell<u64>,
    progress: Arc<Progress>,
}

fn generate(
    config: LoadConfig,
    stopped: watch::Receiver<bool>,
    progress: Arc<Progress>,
) -> Result<Trace, LoadError> {
    raise_descriptor_limit();
    let client = format!("w{:08x}", uuid::Uuid::new_v4().as_fields().0);
    let began = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let shared = Rc::new(Shared {
        requests: Requests::new(&config.host, &client),
        origin: Instant::now(),
        ledger: RefCell::new(Ledger::new()),
        pools: config.targets.iter().map(|_| RefCell::default()).collect(),
        acknowledged: Cell::new((0, 0)),
        opened: Cell::new(0),
        progress,
        config,
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LoadError::Start)?;
    let local = LocalSet::new();
    runtime
        .block_on(local.run_until(send_all(&shared, stopped)))
        .map_err(LoadError::Start)?;
    // What is unanswered is dropped with its tasks, so that the accounts have one owner.
    drop(local);
    drop(runtime);
    let took = shared.origin.elapsed();
    let ledger = shared.ledger.replace(Ledger::new());
    let (samples, keeping) = ledger.close(took, thread_cpu());
    Ok(Trace {
        began_unix_ms: began.as_secs_f64() * 1e3,
        took,
        rate: shared.config.rate,
        edges: shared
            .config
            .targets
            .iter()
            .map(|t| t.name.clone())
            .collect(),
        client,
        samples,
        keeping,
        connections_opened: shared.opened.get(),
    })
}

/// Sends what is due until stopped, then waits for answers.
async fn send_all(shared: &Rc<Shared>, mut stopped: watch::Receiver<bool>) -> io::Result<()> {
    let timer = Timer::new(shared.config.rate)?;
    let mut schedule = Schedule::new(shared.config.rate, shared.config.mix);
    let (mut edge, mut sequence) = (0_u8, 0_u64);
    let edges = u8::try_from(shared.config.targets.len()).unwrap_or(u8::MAX);
    loop {
        tokio::select! {
            ticked = timer.tick() => ticked?,
            // An error means that nobody holds the load any more: it ends as well.
            _ = stopped.wait_for(|stopped| *stopped) => break,
        }
        while let Some(due) = schedule.next_due(shared.origin.elapsed()) {
            let write = due.kind == Kind::Write;
            sequence += u64::from(write);
            shared.issue(due, edge, if write { sequence } else { 0 });
            edge = (edge + 1) % edges;
        }
    }
    let end = shared.origin.elapsed() + shared.config.drain;
    while shared.ledger.borrow().in_flight() > 0 && shared.origin.elapsed() < end {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

impl Shared {
    /// Sends a request by a task of its own.
    fn issue(self: &Rc<Self>, due: Due, edge: u8, sequence: u64) {
        let mut ledger = self.ledger.borrow_mut();
        if ledger.in_flight() >= IN_FLIGHT_MAX {
            ledger.skip(due, edge, sequence);
            return;
        }
        let ticket = ledger.begin(due, edge, sequence, self.origin.elapsed());
        let shared = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let answer = shared.perform(due, usize::from(edge), sequence);
            let outcome = tokio::time::timeout(shared.config.answer_max, answer)
                .await
                .unwrap_or(Outcome::TimedOut);
            let counter = if outcome == Outcome::Answered {
                &shared.progress.answered
            } else {
                &shared.progress.failed
            };
            counter.fetch_add(1, Ordering::Relaxed);
            let now = shared.origin.elapsed();
            shared.ledger.borrow_mut().finish(ticket, outcome, now);
        });
    }

    async fn perform(&self, due: Due, edge: usize, sequence: u64) -> Outcome {
        let (highest, count) = self.acknowledged.get();
        let close = due.connection == Connection::New;
        // A read must show what had been acknowledged when it was sent.
        let (request, at_least) = match due.kind {
            Kind::Write => (self.requests.write(sequence, close), 0),
            Kind::Read if due.number.is_multiple_of(2) || highest == 0 => {
                (self.requests.count(close), count)
            }
            Kind::Read => (self.requests.last(close), highest),
        };
        let pooled = if close {
            None
        } else {
            self.pools[edge].borrow_mut().take()
        };
        let mut connected = match pooled {
            Some(connected) => connected,
            None => {
                self.opened.set(self.opened.get() + 1);
                match Connected::open(self.config.targets[edge].address).await {
                    Ok(connected) => connected,
                    Err(_) => return Outcome::ConnectFailed,
                }
            }
        };
        let (status, number, keep_alive) = match connected.exchange(&request).await {
            Ok(answer) => answer,
            Err(outcome) => return outcome,
        };
        if keep_alive && !close {
            self.pools[edge].borrow_mut().put(connected);
        }
        match (status, number) {
            (400.., _) => Outcome::Status(status),
            (_, None) => Outcome::Malformed,
            (_, Some(number)) if number < at_least => Outcome::Stale,
            _ => {
                if due.kind == Kind::Write {
                    let (highest, count) = self.acknowledged.get();
                    self.acknowledged.set((highest.max(sequence), count + 1));
                }
                Outcome::Answered
            }
        }
    }
}

/// CPU time of the calling thread.
fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// A pause makes thousands of requests wait, each on a connection.
pub(crate) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files; long pauses may meet it");
    }
}
