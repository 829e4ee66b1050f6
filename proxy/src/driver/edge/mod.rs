//! The running edge: its workers, its table and its gates, and the verbs that change them.
//!
//! Verbs are carried out one at a time, under one lock that no worker ever takes. Those that
//! wait (a quiesce, a paced release, a pause's deadline) wait outside it.
#![expect(
    clippy::disallowed_methods,
    reason = "verbs read the clock and hand it to gates"
)]

mod error;
mod gates;
mod handover;
pub mod predecessors;

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use flocker_api::{
    edge::{EdgeStatus, ListenerKind, ListenerStatus, RouteStatus, RouteTable},
    gate::Token,
    route::{Generation, Operation, Route, RouteKey, Transaction},
};
use tokio::sync::Notify;

use self::predecessors::Predecessors;
pub use self::{
    error::{EdgeError, StartError},
    handover::Sockets,
};
use super::{
    access,
    listener::Listener,
    live::Live,
    takeover::Inheritance,
    tls,
    watch::Watch,
    worker::{Mail, Mailbox, Worker, deliver},
};
use crate::{
    config::Config,
    logic::{
        balance::{Answer, Set},
        gate::{Bell, Call, Gate},
        session::Table,
    },
    metrics::{Counters, Histogram, Shown},
};

/// Longest wait for the workers to close a listener.
const UNLISTEN_MAX: Duration = Duration::from_secs(1);

/// See the module.
pub struct Edge {
    config: Config,
    live: Live,
    mailboxes: Vec<Mailbox>,
    counters: Vec<Arc<Counters>>,
    bell: Arc<Ringer>,
    quiesce_time: Histogram,
    access: access::Handle,
    material: Arc<tls::Material>,
    started: Instant,
    change: Mutex<Change>,
    watch: Watch,
    shown: Shown,
    predecessors: Predecessors,
    /// Verbs that change something come one after the other; see [`Edge::turn`].
    turn: tokio::sync::Mutex<()>,
}

/// What only verbs need.
struct Change {
    listeners: Vec<ListenerStatus>,
    /// The newest token of any gate, also of those that are gone.
    token: Token,
    draining: bool,
    /// Another process accepts in our place.
    retired: bool,
    /// The routes of the configuration file, as it was read last.
    file_routes: Vec<Route>,
}

/// An edge that has lost a worker would go on taking its share of connections and serve none
/// of them; whoever supervises the process can do better.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!("a worker has panicked: the edge ends");
            std::process::abort();
        }
    }
}

struct Ringer {
    quiesces: Notify,
    mailboxes: Vec<Mailbox>,
}

impl Ringer {
    fn new(mailboxes: &[Mailbox]) -> Arc<Self> {
        Arc::new(Self {
            quiesces: Notify::new(),
            mailboxes: mailboxes.to_vec(),
        })
    }
}

impl Bell for Ringer {
    fn ring(&self) {
        self.quiesces.notify_waiters();
    }

    fn call(&self, calls: Vec<Call>) {
        deliver(&self.mailboxes, calls);
    }

    fn watch(&self, gate: &Arc<Gate>) {
        // Gates spread over the workers; one that has ended takes none.
        let first = Arc::as_ptr(gate).addr() / align_of::<Gate>();
        let count = self.mailboxes.len();
        for mailbox in (0..count).map(|step| &self.mailboxes[(first / 8 + step) % count]) {
            if mailbox.send(Mail::Watch(Arc::clone(gate))) {
                return;
            }
        }
    }
}

impl Edge {
    /// Binds everything, starts the workers and serves the routes of the configuration.
    ///
    /// # Errors
    /// Names the address that cannot be bound or the route that cannot be served.
    pub fn start(
        config: Config,
        inherited: Option<(&Inheritance, Sockets)>,
    ) -> Result<(Arc<Self>, Vec<JoinHandle<()>>), StartError> {
        let live = Live::new(Table::new());
        let access = access::Handle::start(config.access.clone()).map_err(|source| {
            StartError::AccessLog {
                path: config.access.file.clone().unwrap_or_default(),
                source,
            }
        })?;
        let guard = Arc::new(config.guard());
        let mut mailboxes = Vec::new();
        let mut counters = Vec::new();
        let mut workers = Vec::new();
        let material = Arc::new(tls::Material::load(&config.tls)?);
        for number in 0..config.workers {
            let mine = Arc::new(Counters::default());
            let (worker, mailbox) = Worker::new(
                number,
                &config,
                live.reader(),
                Arc::clone(&mine),
                access.clone(),
                Arc::clone(&material),
                Arc::clone(&guard),
            )
            .map_err(StartError::Worker)?;
            workers.push(worker);
            mailboxes.push(mailbox);
            counters.push(mine);
        }
        let bell = Ringer::new(&mailboxes);
        let edge = Arc::new_cyclic(|me| Self {
            watch: Watch::new(Weak::clone(me)),
            live,
            mailboxes,
            counters,
            bell,
            quiesce_time: Histogram::default(),
            access,
            material,
            started: Instant::now(),
            change: Mutex::new(Change {
                listeners: Vec::new(),
                token: Token(0),
                draining: false,
                retired: false,
                file_routes: Vec::new(),
            }),
            shown: Shown::default(),
            predecessors: Predecessors::default(),
            turn: tokio::sync::Mutex::new(()),
            config,
        });
        let (inheritance, mut sockets) = inherited.unzip();
        let mut sockets = sockets.take().unwrap_or_default();
        edge.open_fixed_listeners(&mut sockets)?;
        if let Some(inheritance) = inheritance {
            edge.inherit(inheritance, &mut sockets)?;
        }
        edge.follow_file(&edge.config.routes)?;
        let mut threads = Vec::new();
        for (number, worker) in workers.into_iter().enumerate() {
            let thread = thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || {
                    let _guard = AbortOnPanic;
                    worker.run();
                })
                .map_err(StartError::Worker)?;
            threads.push(thread);
        }
        Ok((edge, threads))
    }

    fn open_fixed_listeners(&self, inherited: &mut Sockets) -> Result<(), StartError> {
        let http = self.config.http.iter().map(|a| (*a, ListenerKind::Http));
        let https = self.config.https.iter().map(|a| (*a, ListenerKind::Https));
        for (address, kind) in http.chain(https) {
            let sockets = inherited.take_or_bind(address, kind, self.config.workers)?;
            self.serve(&mut self.lock(), sockets);
        }
        Ok(())
    }

    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Counters of all workers.
    #[must_use]
    pub fn counters(&self) -> &[Arc<Counters>] {
        &self.counters
    }

    /// Its certificates and ticket keys.
    #[must_use]
    pub fn material(&self) -> &Arc<tls::Material> {
        &self.material
    }

    /// The access log.
    #[must_use]
    pub fn access(&self) -> &access::Handle {
        &self.access
    }

    /// The routes that have metrics of their own.
    #[must_use]
    pub fn shown(&self) -> &Shown {
        &self.shown
    }

    /// How long quiesces took that succeeded.
    #[must_use]
    pub fn quiesce_time(&self) -> &Histogram {
        &self.quiesce_time
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> Arc<Table> {
        self.live.load()
    }

    /// Whether it still accepts connections.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.lock().draining
    }

    /// Answers "not ready" from now on, but goes on accepting.
    pub fn say_not_ready(&self) {
        self.lock().draining = true;
    }

    /// Whoever changes something holds this while it does, so that predecessors hear of
    /// changes in the same order and a takeover meets none half done.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// The processes before this one that still serve something.
    #[must_use]
    pub fn predecessors(&self) -> &Predecessors {
        &self.predecessors
    }

    /// The edge as a whole.
    #[must_use]
    pub fn status(&self) -> EdgeStatus {
        let table = self.live.load();
        let sum = |pick: fn(&Counters) -> u64| self.counters.iter().map(|c| pick(c)).sum();
        let (listeners, draining) = {
            let change = self.lock();
            (change.listeners.clone(), change.draining)
        };
        EdgeStatus {
            name: self.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.started.elapsed().as_secs(),
            generation: table.generation(),
            routes: table.len() as u64,
            sessions: sum(|c| c.sessions.value()),
            parked: sum(|c| c.parked.value()),
            workers: self.config.workers,
            listeners,
            pid: std::process::id(),
            draining,
            predecessors: Vec::new(),
        }
    }

    /// The whole table, by key.
    #[must_use]
    pub fn routes(&self) -> RouteTable {
        let table = self.live.load();
        let now = Instant::now();
        let mut routes: Vec<_> = table
            .entries()
            .map(|entry| RouteStatus {
                route: entry.route.clone(),
                gate: entry.gate.status(now),
                requests: entry.gate.stats.requests.value(),
                failed: entry.gate.stats.failed.value(),
                upstreams: Vec::new(),
                unresolved: Vec::new(),
            })
            .collect();
        routes.sort_by(|a, b| a.route.key.cmp(&b.route.key));
        RouteTable {
            generation: table.generation(),
            routes,
        }
    }

    /// One route.
    ///
    /// # Errors
    /// There is none of this key.
    pub fn route(&self, key: &RouteKey) -> Result<RouteStatus, EdgeError> {
        let table = self.live.load();
        let entry = table
            .get(key)
            .ok_or_else(|| EdgeError::NoRoute(key.clone()))?;
        let now = Instant::now();
        Ok(RouteStatus {
            route: entry.route.clone(),
            gate: entry.gate.status(now),
            requests: entry.gate.stats.requests.value(),
            failed: entry.gate.stats.failed.value(),
            upstreams: entry.set.status(now),
            unresolved: entry.set.unresolved(),
        })
    }

    /// Changes the table: all or nothing. Ports of new `tcp` routes are bound before anything
    /// else is done, so that one that is taken changes nothing.
    ///
    /// # Errors
    /// Names the generation, the route or the address that stands against it.
    pub fn transact(&self, transaction: &Transaction) -> Result<Generation, EdgeError> {
        self.transact_with(transaction, &mut Sockets::default())
    }

    /// The same where some ports are bound already.
    fn transact_with(
        &self,
        transaction: &Transaction,
        inherited: &mut Sockets,
    ) -> Result<Generation, EdgeError> {
        self.check_error_pages(transaction)?;
        let mut change = self.lock();
        for operation in &transaction.operations {
            if let Some(route) = operation.route() {
                self.material.check(route)?;
            }
        }
        let old = self.live.load();
        let new = old.apply(transaction, |_| self.new_gate())?;
        let keys: HashSet<&RouteKey> = transaction.operations.iter().map(Operation::key).collect();

        let mut opened = Vec::new();
        for key in &keys {
            // Another process listens for us, if we are retired.
            if !change.retired && old.get(key).is_none() && new.get(key).is_some() {
                opened.append(&mut self.bind_for(key, inherited)?);
            }
        }
        let generation = new.generation();
        let after = new.clone();
        self.live.publish(new);
        self.serve(&mut change, opened);
        for key in keys {
            self.settle(&mut change, &old, &after, key);
            self.watch.changed(&after, key);
        }
        Ok(generation)
    }

    fn check_error_pages(&self, transaction: &Transaction) -> Result<(), EdgeError> {
        let routes = transaction.operations.iter().filter_map(Operation::route);
        for route in routes {
            if let Some(set) = &route.error_pages
                && !self.config.has_error_pages(set)
            {
                return Err(EdgeError::NoErrorPages {
                    key: route.key.clone(),
                    set: set.clone(),
                });
            }
        }
        Ok(())
    }

    /// What a change of the table means for one route's gate, listeners and idle connections.
    fn settle(&self, change: &mut Change, old: &Table, new: &Table, key: &RouteKey) {
        let Some(before) = old.get(key) else {
            return;
        };
        match new.get(key) {
            Some(after) if Arc::ptr_eq(&before.gate, &after.gate) => {
                if before.route.upstreams != after.route.upstreams {
                    after.gate.retarget();
                    self.forget(&before.set, Some(&after.set));
                }
            }
            after => {
                self.deliver(before.gate.remove());
                self.forget(&before.set, None);
                if after.is_none() {
                    self.close_for(change, key);
                }
            }
        }
    }

    /// The names of a route's upstreams have been asked for again. Sessions go on where they
    /// are; what an address that is gone had idle is closed.
    pub fn answer(&self, key: &RouteKey, answers: &[Answer]) {
        let _one_at_a_time = self.lock();
        let old = self.live.load();
        let Some(before) = old.get(key) else { return };
        if before.set.answers() == answers {
            return;
        }
        for (was, is) in before.set.answers().iter().zip(answers) {
            match &is.error {
                Some(error) if was.error.is_none() => {
                    tracing::warn!(%key, name = %is.name, error, "a name has no answer");
                }
                _ if was.addresses != is.addresses => {
                    tracing::info!(%key, name = %is.name, addresses = ?is.addresses, "a name leads here");
                }
                _ => {}
            }
        }
        if let Some(new) = old.with_answers(key, answers) {
            let after = new.get(key).map(|entry| Arc::clone(&entry.set));
            self.live.publish(new);
            self.forget(&before.set, after.as_deref());
        }
    }

    /// Who watches its upstreams.
    #[must_use]
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Binds what a route needs that has listeners of its own.
    fn bind_for(
        &self,
        key: &RouteKey,
        inherited: &mut Sockets,
    ) -> Result<Vec<Listener>, EdgeError> {
        match key {
            RouteKey::Tcp(port) => self.bind_port(port.get(), inherited),
            RouteKey::Link(address) => {
                let workers = self.config.workers;
                Ok(inherited.take_or_bind((*address).into(), ListenerKind::Link, workers)?)
            }
            RouteKey::Http(..) | RouteKey::Https(..) => Ok(Vec::new()),
        }
    }

    fn bind_port(&self, port: u16, inherited: &mut Sockets) -> Result<Vec<Listener>, EdgeError> {
        if self.config.tcp.is_empty() {
            return Err(EdgeError::NoTcpAddress(port));
        }
        let mut opened = Vec::new();
        for ip in &self.config.tcp {
            let address = SocketAddr::new(*ip, port);
            let workers = self.config.workers;
            opened.append(&mut inherited.take_or_bind(address, ListenerKind::Tcp, workers)?);
        }
        Ok(opened)
    }

    /// Spreads bound sockets over the workers.
    fn serve(&self, change: &mut Change, sockets: Vec<Listener>) {
        for (index, socket) in sockets.into_iter().enumerate() {
            let worker = index % self.config.workers;
            let known = change
                .listeners
                .iter()
                .any(|listener| listener.address == socket.address);
            if !known {
                change.listeners.push(ListenerStatus {
                    address: socket.address,
                    kind: socket.kind,
                });
            }
            self.mailboxes[worker].send(Mail::Listen(socket));
        }
    }

    fn close_for(&self, change: &mut Change, key: &RouteKey) {
        let (done, closed) = mpsc::channel();
        change.listeners.retain(|listener| {
            let closes = match (key, listener.kind) {
                (RouteKey::Tcp(port), ListenerKind::Tcp) => listener.address.port() == port.get(),
                (RouteKey::Link(address), ListenerKind::Link) => {
                    listener.address == SocketAddr::V4(*address)
                }
                _ => false,
            };
            if closes {
                for mailbox in &self.mailboxes {
                    mailbox.send(Mail::Unlisten(listener.address, done.clone()));
                }
            }
            !closes
        });
        drop(done);
        // The port is free when this returns, so that it can be bound again. Every worker drops
        // its sender; one that is stuck shall not hold up the verbs.
        let deadline = Instant::now() + UNLISTEN_MAX;
        while closed
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .is_ok()
        {}
    }

    /// Has idle connections to upstreams closed that a route does not lead to any more.
    fn forget(&self, before: &Set, after: Option<&Set>) {
        let kept: HashSet<SocketAddr> =
            after.map(|set| set.serving().collect()).unwrap_or_default();
        let gone: Vec<_> = before.serving().filter(|to| !kept.contains(to)).collect();
        if gone.is_empty() {
            return;
        }
        for mailbox in &self.mailboxes {
            mailbox.send(Mail::Forget(gone.clone()));
        }
    }

    fn deliver(&self, calls: Vec<Call>) {
        deliver(&self.mailboxes, calls);
    }

    /// Accepts nothing more; the workers stop when nothing is in flight, or after this long.
    pub fn drain(&self, within: Duration) {
        let mut change = self.lock();
        change.draining = true;
        change.listeners.clear();
        for mailbox in &self.mailboxes {
            mailbox.send(Mail::Drain(Instant::now() + within));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Change> {
        // What it guards is whole after every statement.
        self.change.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
