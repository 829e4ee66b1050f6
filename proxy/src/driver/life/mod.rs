//! The process from its start to its end.
//!
//! ```text
//!   start ──► serving ──► stopping ──► end       SIGTERM, SIGINT, drain
//!               │  ▲ └──► retired ───► end       upgrade: another process took over
//!               └──┘ reload                      SIGHUP, reload
//! ```
//!
//! One loop takes signals and orders of the admin API, one at a time.

mod log;
mod reload;

use std::{
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::net::UnixListener as StdUnixListener},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use flocker_api::{
    ErrorBody, ErrorCode,
    client::{Client, Endpoint},
    edge::{DrainRequest, ReloadReply, UpgradeReply},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
    time::{interval, sleep, timeout},
};

pub use self::log::{InvalidFilter, Log};
use super::{
    admin_sockets::{Admin, AdminError, Inherited},
    edge::{Edge, Sockets, StartError},
    notify::Notify,
    takeover::{Elder, Heir, Inheritance, InheritedListener, TakeoverError},
    tls,
};
use crate::config::Config;

/// Longest drain beyond the configured limit before the process ends regardless.
const DRAIN_MARGIN: Duration = Duration::from_secs(2);
/// Orders that wait.
const ORDERS: usize = 16;
/// Longest wait for the last lines of the access log.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// With what a process starts.
#[derive(Debug)]
pub struct Start {
    /// Its configuration.
    pub config: Config,
    /// Where it was read.
    pub config_path: PathBuf,
    /// What it logs.
    pub log: Log,
    /// The program, to be started again.
    pub binary: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// The process from which it takes over.
    pub elder: Option<Elder>,
}

/// Why a process ends other than in order.
#[derive(Debug, thiserror::Error)]
pub enum LifeError {
    /// The kernel gives no thread or signal.
    #[error("cannot start the runtime of the admin API")]
    Runtime(#[source] io::Error),
    /// The old process is gone before it has told everything.
    #[error("cannot take over from the old process")]
    Elder(#[source] io::Error),
    /// The edge cannot start.
    #[error(transparent)]
    Edge(#[from] StartError),
    /// The admin API cannot be offered.
    #[error(transparent)]
    Admin(#[from] AdminError),
}

/// What the admin API orders.
#[derive(Debug)]
pub enum Order {
    /// Hand over to a new process.
    Upgrade {
        /// The program; else the same.
        binary: Option<PathBuf>,
        /// Who asked.
        reply: oneshot::Sender<Result<UpgradeReply, ErrorBody>>,
    },
    /// Stop when what is in flight is over.
    Drain {
        /// How.
        request: DrainRequest,
        /// Who asked.
        reply: oneshot::Sender<()>,
    },
    /// Read the configuration again.
    Reload {
        /// Who asked.
        reply: oneshot::Sender<Result<ReloadReply, ErrorBody>>,
    },
}

/// What the admin API knows of the process.
#[derive(Debug)]
pub struct Front {
    /// Orders to the loop.
    pub orders: mpsc::Sender<Order>,
    /// What is logged.
    pub log: Log,
    /// Who has taken over.
    successor: Mutex<Option<Client>>,
}

impl Front {
    /// Whom to ask in place of this process, once another has taken over.
    #[must_use]
    pub fn successor(&self) -> Option<Client> {
        self.successor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn succeeded_by(&self, client: Client) {
        *self
            .successor
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(client);
    }
}

/// Runs the edge until it has stopped.
///
/// # Errors
/// Names what cannot be started; an old process serves on then.
pub fn run(start: Start) -> Result<(), LifeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(LifeError::Runtime)?;
    let ended = runtime.block_on(async {
        let elder = start.elder;
        let begun = Life::begin(
            start.config,
            start.config_path,
            start.log,
            (start.binary, start.arguments),
            elder.as_ref(),
        )
        .await;
        match (begun, &elder) {
            (Ok(life), _) => {
                drop(elder);
                Ok(life.serve().await)
            }
            (Err(error), Some(elder)) => {
                elder.fail(flocker_api::error::chain(&error));
                Err(error)
            }
            (Err(error), None) => Err(error),
        }
    })?;
    if ended {
        tracing::info!("stopped");
    } else {
        tracing::warn!("stopped before everything in flight had ended");
    }
    runtime.shutdown_background();
    Ok(())
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A running process.
struct Life {
    config: Config,
    config_path: PathBuf,
    program: (PathBuf, Vec<OsString>),
    edge: Arc<Edge>,
    threads: Vec<JoinHandle<()>>,
    front: Arc<Front>,
    orders: mpsc::Receiver<Order>,
    admin: Admin,
    signals: Signals,
    hangup: Signal,
    notify: Notify,
}

/// How serving ended.
enum Ending {
    /// To stop within this time, after saying for some time that it will.
    Stop { notice: Duration, within: Duration },
    /// Another process serves.
    Retired,
}

impl Life {
    async fn begin(
        config: Config,
        config_path: PathBuf,
        log: Log,
        program: (PathBuf, Vec<OsString>),
        elder: Option<&Elder>,
    ) -> Result<Self, LifeError> {
        let signals = Signals::new().map_err(LifeError::Runtime)?;
        let hangup = signal(SignalKind::hangup()).map_err(LifeError::Runtime)?;
        let inherited = elder.map(Elder::inherit).transpose();
        let inherited = inherited.map_err(LifeError::Elder)?;
        let (inheritance, sockets, for_admin) = sort(inherited, &config.admin_socket);
        if let Some(filter) = inheritance.as_ref().and_then(|all| all.log.as_deref())
            && let Err(error) = log.set(filter)
        {
            tracing::warn!(filter, %error, "what the old process logged is not understood");
        }
        let admin = Admin::bind(&config, for_admin).await?;
        let (edge, threads) = Edge::start(
            config.clone(),
            inheritance
                .as_ref()
                .map(|inheritance| (inheritance, sockets)),
        )?;
        edge.keep_inherited_deadlines();
        tokio::spawn(tls::verbs::watch(Arc::clone(&edge)));
        if let Some(elder) = elder {
            let predecessors = elder.ready().map_err(LifeError::Elder)?;
            edge.predecessors().extend(predecessors);
            if let Err(error) = elder.taken() {
                tracing::info!(%error, "the old process has gone already");
            }
        }
        let (sender, orders) = mpsc::channel(ORDERS);
        let front = Arc::new(Front {
            orders: sender,
            log,
            successor: Mutex::new(None),
        });
        Ok(Self {
            config,
            config_path,
            program,
            edge,
            threads,
            front,
            orders,
            admin,
            signals,
            hangup,
            notify: Notify::from_environment(),
        })
    }

    /// Serves to the end; says whether all that was in flight had ended.
    async fn serve(mut self) -> bool {
        self.admin.serve(&self.edge, &self.front);
        tracing::info!(
            name = %self.config.name,
            pid = std::process::id(),
            workers = self.config.workers,
            listeners = self.edge.status().listeners.len(),
            generation = %self.edge.table().generation(),
            "serving"
        );
        self.notify.ready("serving");
        match self.until_the_end().await {
            Ending::Stop { notice, within } => self.stop(notice, within).await,
            Ending::Retired => {
                let within = self.config.upgrade_drain;
                self.end(within).await
            }
        }
    }

    async fn until_the_end(&mut self) -> Ending {
        let mut watchdog = self.notify.watchdog().map(interval);
        loop {
            tokio::select! {
                () = self.signals.stop() => {
                    return Ending::Stop {
                        notice: Duration::ZERO,
                        within: self.config.drain,
                    };
                }
                _ = self.hangup.recv() => {
                    // Said in the log; nobody waits for an answer.
                    drop(self.reload());
                }
                () = tick(&mut watchdog) => {
                    let edge = Arc::clone(&self.edge);
                    let alive = tokio::task::spawn_blocking(move || edge.is_alive()).await;
                    if alive.unwrap_or(false) {
                        self.notify.alive();
                    }
                }
                Some(order) = self.orders.recv() => {
                    if let Some(ending) = self.obey(order).await {
                        return ending;
                    }
                }
            }
        }
    }

    async fn obey(&mut self, order: Order) -> Option<Ending> {
        match order {
            Order::Drain { request, reply } => {
                let within = request.deadline_ms.map(Duration::from_millis);
                answer(reply, ());
                Some(Ending::Stop {
                    notice: Duration::from_millis(request.notice_ms),
                    within: within.unwrap_or(self.config.drain),
                })
            }
            Order::Reload { reply } => {
                let reloaded = self.reload();
                answer(reply, reloaded);
                None
            }
            Order::Upgrade { binary, reply } => {
                let binary = binary.unwrap_or_else(|| self.program.0.clone());
                match self.upgrade(binary).await {
                    Ok(pid) => {
                        answer(reply, Ok(UpgradeReply { pid }));
                        Some(Ending::Retired)
                    }
                    Err(error) => {
                        let error = flocker_api::error::chain(&error);
                        tracing::warn!(error, "the upgrade failed; this process serves on");
                        answer(reply, Err(ErrorBody::new(ErrorCode::Precondition, error)));
                        None
                    }
                }
            }
        }
    }

    /// Starts another process and gives it everything.
    async fn upgrade(&mut self, binary: PathBuf) -> Result<u32, TakeoverError> {
        let within = self.config.upgrade_timeout;
        let silent = |source: io::Error| TakeoverError::Silent {
            binary: binary.clone(),
            source,
        };
        tracing::info!(binary = %binary.display(), "handing over to a new process");
        let heir = Heir::start(binary.clone(), self.program.1.clone(), within).await?;
        // From here on nothing changes until it is over.
        let edge = Arc::clone(&self.edge);
        let turn = edge.turn().await;
        let lender = Arc::clone(&self.edge);
        let bequest = tokio::task::spawn_blocking(move || lender.bequeath()).await;
        let (mut inheritance, mut sockets) = bequest
            .map_err(io::Error::other)
            .and_then(|bequest| bequest)
            .map_err(silent)?;
        inheritance.log = self.front.log.changed();
        for (listener, socket) in self.admin.lend().map_err(silent)? {
            inheritance.listeners.push(listener);
            sockets.push(socket);
        }
        // Where it follows the gates for as long as it serves something.
        let aside = self
            .admin
            .step_aside(&self.edge, &self.front)
            .map_err(silent)?;
        let mut predecessors = self.edge.predecessors().paths();
        predecessors.push(aside.clone());
        let heir = match heir.hand_over(inheritance, sockets, predecessors).await {
            Ok(heir) => heir,
            Err(error) => {
                self.admin.step_back();
                return Err(error);
            }
        };
        let pid = heir.pid();
        self.notify.main_pid(pid);
        let socket = Endpoint::Unix(self.config.admin_socket.clone());
        self.front
            .succeeded_by(Client::new(socket, "the new process"));
        self.edge.predecessors().clear();
        self.admin.close();
        self.edge.retire(self.config.upgrade_drain);
        drop(turn);
        tokio::spawn(heir.watch());
        tracing::info!(pid, "handed over: what is here is served to its end");
        Ok(pid)
    }

    async fn stop(mut self, notice: Duration, within: Duration) -> bool {
        self.notify.stopping("draining");
        self.edge.say_not_ready();
        if !notice.is_zero() {
            tracing::info!(?notice, "not ready any more, but still accepting");
            tokio::select! {
                () = sleep(notice) => {}
                () = self.signals.stop() => {}
            }
        }
        tracing::info!(
            ?within,
            "stopping: listeners close, what is in flight may end"
        );
        let request = DrainRequest {
            deadline_ms: u64::try_from(within.as_millis()).ok(),
            notice_ms: 0,
        };
        self.edge.drain(within);
        let edge = Arc::clone(&self.edge);
        tokio::spawn(async move {
            edge.predecessors().tell_any("/v1/drain", &request).await;
        });
        self.end(within).await
    }

    /// Waits for the workers, which know when to end.
    async fn end(mut self, within: Duration) -> bool {
        let threads = std::mem::take(&mut self.threads);
        let waiting = tokio::task::spawn_blocking(move || {
            for thread in threads {
                // A worker that has panicked has said so.
                drop(thread.join());
            }
        });
        tokio::pin!(waiting);
        let mut deadline = within.saturating_add(DRAIN_MARGIN);
        let mut retired = self.front.successor().is_some();
        let ended = loop {
            tokio::select! {
                ended = timeout(deadline, &mut waiting) => {
                    // Who is held for longer than that is counted in the workers' own deadline.
                    if retired && ended.is_err() {
                        continue;
                    }
                    break ended.is_ok();
                }
                // A retired process stops as others do; a second signal ends it at once.
                () = self.signals.stop() => match retired {
                    true => {
                        retired = false;
                        deadline = self.config.drain.saturating_add(DRAIN_MARGIN);
                        self.edge.drain(self.config.drain);
                    }
                    false => break false,
                },
                Some(order) = self.orders.recv() => {
                    if let Order::Drain { request, reply } = order {
                        let within = request.deadline_ms.map(Duration::from_millis);
                        let within = within.unwrap_or(self.config.drain);
                        retired = false;
                        deadline = within.saturating_add(DRAIN_MARGIN);
                        self.edge.drain(within);
                        answer(reply, ());
                    }
                }
            }
        };
        self.admin.end().await;
        let access = self.edge.access().clone();
        let flushed = tokio::task::spawn_blocking(move || access.flush(FLUSH_MAX)).await;
        if let Err(error) = flushed {
            tracing::debug!(%error, "the access log was not flushed");
        }
        ended
    }
}

/// The next tick, if there are any.
async fn tick(every: &mut Option<tokio::time::Interval>) {
    match every {
        Some(every) => {
            every.tick().await;
        }
        None => std::future::pending().await,
    }
}

fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    if reply.send(value).is_err() {
        tracing::debug!("nobody waited for the answer");
    }
}

/// What was inherited, by who needs it.
fn sort(
    inherited: Option<(Inheritance, Vec<OwnedFd>)>,
    admin_socket: &Path,
) -> (Option<Inheritance>, Sockets, Inherited) {
    let mut sockets = Sockets::default();
    let mut admin = Inherited::default();
    let Some((inheritance, descriptors)) = inherited else {
        return (None, sockets, admin);
    };
    for (listener, descriptor) in inheritance.listeners.iter().zip(descriptors) {
        match listener {
            InheritedListener::Clients { address, kind } => {
                sockets.add(*address, *kind, descriptor);
            }
            InheritedListener::AdminUnix { path } => {
                if path == admin_socket {
                    admin.unix = Some(StdUnixListener::from(descriptor));
                }
            }
            InheritedListener::AdminTcp { address } => {
                admin.tcp = Some((*address, descriptor.into()));
            }
        }
    }
    (Some(inheritance), sockets, admin)
}
