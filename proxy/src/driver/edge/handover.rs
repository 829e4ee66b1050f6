//! Giving an edge to a new process, taking one over, and changes of the configuration file
//! while it runs.
#![expect(
    clippy::disallowed_methods,
    reason = "what is left of a pause is reckoned from now"
)]

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{Arc, mpsc},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use flocker_api::{
    edge::ListenerKind,
    route::{Generation, Operation, Route, RouteKey, Transaction},
};

use super::{Edge, EdgeError, Mail};
use crate::{
    config::Config,
    driver::{
        listener::{self, BindError, Listener},
        takeover::{Inheritance, InheritedGate, InheritedListener},
    },
    logic::gate::{Bell, Gate},
};

/// Longest wait for the workers to lend their sockets.
const LEND_MAX: Duration = Duration::from_secs(2);

/// Longest turn of a worker that counts as alive.
const ALIVE_MAX: Duration = Duration::from_secs(2);

/// Listening sockets by address.
#[derive(Debug, Default)]
pub struct Sockets(BTreeMap<SocketAddr, Vec<Listener>>);

impl Sockets {
    /// What was inherited for clients.
    pub fn add(&mut self, address: SocketAddr, kind: ListenerKind, socket: OwnedFd) {
        self.0.entry(address).or_default().push(Listener {
            socket: socket.into(),
            address,
            kind,
        });
    }

    /// Those of an address, or else new ones; at least one for each worker.
    pub(super) fn take_or_bind(
        &mut self,
        address: SocketAddr,
        kind: ListenerKind,
        workers: usize,
    ) -> Result<Vec<Listener>, BindError> {
        let Some(mut sockets) = self.0.remove(&address) else {
            return listener::bind(address, kind, workers);
        };
        while sockets.len() < workers {
            sockets.push(listener::share(address, kind)?);
        }
        Ok(sockets)
    }
}

/// The operations that lead from the routes of one file to those of the next.
pub(super) fn difference(before: &[Route], after: &[Route]) -> Vec<Operation> {
    let old: HashMap<&RouteKey, &Route> = before.iter().map(|route| (&route.key, route)).collect();
    let new: HashMap<&RouteKey, &Route> = after.iter().map(|route| (&route.key, route)).collect();
    let gone = before
        .iter()
        .filter(|route| !new.contains_key(&route.key))
        .map(|route| Operation::Remove {
            key: route.key.clone(),
        });
    let changed = after
        .iter()
        .filter(|route| old.get(&route.key) != Some(route))
        .map(|route| Operation::Put {
            route: route.clone(),
        });
    gone.chain(changed).collect()
}

impl Edge {
    /// The gates that a new process must know, the newest token, the table and the sockets.
    /// Nobody may change anything until it is over: the caller holds [`Edge::turn`].
    ///
    /// # Errors
    /// A worker does not lend its sockets.
    pub fn bequeath(&self) -> std::io::Result<(Inheritance, Vec<OwnedFd>)> {
        let mut listeners = Vec::new();
        let mut sockets = Vec::new();
        for mailbox in &self.mailboxes {
            let (lend, lent) = mpsc::channel();
            mailbox.send(Mail::Lend(lend));
            for (address, kind, socket) in lent
                .recv_timeout(LEND_MAX)
                .map_err(|_| std::io::Error::other("a worker does not lend its sockets"))?
            {
                listeners.push(InheritedListener::Clients { address, kind });
                sockets.push(socket);
            }
        }
        let change = self.lock();
        let table = self.live.load();
        let now = Instant::now();
        let gates = table.entries().filter_map(|entry| {
            let (token, paused) = entry.gate.bequeath(now)?;
            Some(InheritedGate {
                key: entry.route.key.clone(),
                token,
                paused,
            })
        });
        let inheritance = Inheritance {
            generation: table.generation(),
            gates: gates.collect(),
            routes: table.entries().map(|entry| entry.route.clone()).collect(),
            file_routes: change.file_routes.clone(),
            token: change.token,
            listeners,
            log: None,
            tls: self.material().bequeath(),
        };
        Ok((inheritance, sockets))
    }

    /// Takes table, gates and tokens over; only before the workers run.
    ///
    /// # Errors
    /// A route cannot be served by this version.
    pub(super) fn inherit(
        self: &Arc<Self>,
        inheritance: &Inheritance,
        sockets: &mut Sockets,
    ) -> Result<(), EdgeError> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_s = since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0));
        self.material().inherit(inheritance.tls.clone(), now_s);
        let operations = inheritance.routes.iter().map(|route| Operation::Put {
            route: route.clone(),
        });
        let all = Transaction {
            against: None,
            operations: operations.collect(),
        };
        self.transact_with(&all, sockets)?;
        let now = Instant::now();
        let table = self.live.load();
        for inherited in &inheritance.gates {
            if let Some(entry) = table.get(&inherited.key) {
                entry
                    .gate
                    .inherit(inherited.token, inherited.paused.as_ref(), now);
            }
        }
        let mut change = self.lock();
        change.token = inheritance.token;
        let table = self.live.load();
        self.live
            .publish((*table).clone().at_generation(inheritance.generation));
        change.file_routes.clone_from(&inheritance.file_routes);
        Ok(())
    }

    /// Lets inherited pauses lapse at their deadlines; needs the runtime.
    pub fn keep_inherited_deadlines(self: &Arc<Self>) {
        let table = self.live.load();
        let paused: Vec<(RouteKey, Arc<Gate>)> = table
            .entries()
            .filter(|entry| entry.gate.deadline().is_some())
            .map(|entry| (entry.route.key.clone(), Arc::clone(&entry.gate)))
            .collect();
        if !paused.is_empty() {
            tokio::spawn(Arc::clone(self).keep_deadline(paused));
        }
    }

    /// Brings the routes of a configuration file to those of another; routes that came by the
    /// admin API stay.
    ///
    /// # Errors
    /// A route cannot be served; nothing is changed.
    pub fn follow_file(&self, routes: &[Route]) -> Result<(Generation, Vec<Operation>), EdgeError> {
        let operations = {
            let change = self.lock();
            let table = self.live.load();
            let mut operations = difference(&change.file_routes, routes);
            // Somebody may have removed by hand what the file removes now.
            operations.retain(|operation| {
                !matches!(operation, Operation::Remove { key } if table.get(key).is_none())
            });
            operations
        };
        if operations.is_empty() {
            self.lock().file_routes = routes.to_vec();
            return Ok((self.live.load().generation(), operations));
        }
        let generation = self.transact(&Transaction {
            against: None,
            operations: operations.clone(),
        })?;
        self.lock().file_routes = routes.to_vec();
        Ok((generation, operations))
    }

    /// Limits and the access log as in this configuration, from now on; what they are for
    /// requests that are under way does not change.
    pub fn set_limits(&self, config: &Config) {
        let limits = config.limits_of_workers(self.config.workers);
        for mailbox in &self.mailboxes {
            mailbox.send(Mail::Limits(Box::new(limits.clone())));
        }
        self.access.set(config.access.clone());
    }

    /// Whether all workers turn.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let (pong, pongs) = mpsc::channel();
        for mailbox in &self.mailboxes {
            mailbox.send(Mail::Ping(pong.clone()));
        }
        drop(pong);
        let until = Instant::now() + ALIVE_MAX;
        self.mailboxes.iter().all(|_| {
            let left = until.saturating_duration_since(Instant::now());
            pongs.recv_timeout(left).is_ok()
        })
    }

    /// Accepts nothing more because another process does; what it has is served to its end.
    pub fn retire(&self, within: Duration) {
        let mut change = self.lock();
        change.draining = true;
        change.retired = true;
        change.listeners.clear();
        let now = Instant::now();
        let table = self.live.load();
        let held = table
            .entries()
            .filter_map(|entry| entry.gate.deadline())
            .max();
        // Who is parked shall not be cut before the hold is over.
        let until = held.unwrap_or(now).max(now) + within;
        for mailbox in &self.mailboxes {
            mailbox.send(Mail::Retire(until));
        }
    }

    /// A gate of a new route.
    pub(super) fn new_gate(&self) -> Arc<Gate> {
        Arc::new(Gate::new(Arc::clone(&self.bell) as Arc<dyn Bell>))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(key: &str, to: &str) -> Route {
        Route::new(key.parse().unwrap(), [to.parse::<SocketAddr>().unwrap()])
    }

    #[test]
    fn a_difference_removes_adds_and_changes_and_leaves_the_rest() {
        let before = [
            route("tcp:1", "10.0.0.1:1"),
            route("tcp:2", "10.0.0.1:2"),
            route("tcp:3", "10.0.0.1:3"),
        ];
        let after = [
            route("tcp:2", "10.0.0.1:2"),
            route("tcp:3", "10.0.0.9:3"),
            route("tcp:4", "10.0.0.1:4"),
        ];
        let keys: Vec<String> = difference(&before, &after)
            .iter()
            .map(|operation| {
                let sign = match operation {
                    Operation::Remove { .. } => '-',
                    _ => '+',
                };
                format!("{sign}{}", operation.key())
            })
            .collect();
        assert_eq!(keys, ["-tcp:1", "+tcp:3", "+tcp:4"]);
        assert!(difference(&after, &after).is_empty());
    }
}
