//! Watching the upstreams of routes: health checks, and the addresses of names. A task for each
//! route that asks for either, on tokio; what it learns becomes atomics that workers read, or a
//! new set of upstreams in the table.
#![expect(
    clippy::disallowed_methods,
    reason = "checks come by the clock, and their answers are given its time"
)]

mod check;

use std::{
    collections::{HashMap, hash_map},
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use flocker_api::{health::Health, route::RouteKey, upstream::UpstreamAddress};
use tokio::{
    runtime::Handle,
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use self::check::Check;
use super::edge::Edge;
use crate::logic::{
    balance::{Answer, Set},
    session::Table,
};

/// Longest wait for the addresses of a name; getaddrinfo(3) itself may take longer.
const RESOLVE_MAX: Duration = Duration::from_secs(10);
/// How soon a name is asked for again that has never had an answer.
const RESOLVE_AGAIN: Duration = Duration::from_millis(500);

/// The tasks, by route.
pub struct Watch {
    runtime: Handle,
    edge: Weak<Edge>,
    routes: Mutex<HashMap<RouteKey, Arc<Notify>>>,
}

fn is_watched(table: &Table, key: &RouteKey) -> bool {
    let entry = table.get(key);
    entry.is_some_and(|entry| entry.route.health.is_some() || !entry.set.answers().is_empty())
}

impl Watch {
    /// Watches the routes of an edge.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn new(edge: Weak<Edge>) -> Self {
        Self {
            runtime: Handle::current(),
            edge,
            routes: Mutex::default(),
        }
    }

    /// A route has come or changed.
    pub fn changed(&self, table: &Table, key: &RouteKey) {
        let mut routes = self.lock();
        match routes.entry(key.clone()) {
            // A task that finds nothing to watch ends by itself.
            hash_map::Entry::Occupied(there) => there.get().notify_one(),
            hash_map::Entry::Vacant(place) => {
                if is_watched(table, key) {
                    let news = Arc::clone(place.insert(Arc::default()));
                    let task = watch(self.edge.clone(), key.clone(), news);
                    self.runtime.spawn(task);
                }
            }
        }
    }

    /// Whether a route's task may end: nothing of it is to be watched now, and the next change
    /// starts another.
    fn is_over(&self, edge: &Edge, key: &RouteKey) -> bool {
        let mut routes = self.lock();
        // Under the lock: whoever publishes a table comes for it afterwards.
        let over = !is_watched(&edge.table(), key);
        if over {
            routes.remove(key);
        }
        over
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RouteKey, Arc<Notify>>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn watch(edge: Weak<Edge>, key: RouteKey, news: Arc<Notify>) {
    let (mut check_at, mut resolve_at) = (Instant::now(), Instant::now());
    let mut checked: Option<Health> = None;
    let mut resolved: Vec<UpstreamAddress> = Vec::new();
    loop {
        {
            let Some(edge) = edge.upgrade() else { return };
            // Taken anew each time: whoever changes the table tells us afterwards.
            if edge.watch().is_over(&edge, &key) {
                return;
            }
            let table = edge.table();
            let Some(entry) = table.get(&key).map(Arc::clone) else {
                continue;
            };
            drop(table);
            let names: Vec<_> = entry.set.answers().iter().map(|a| a.name.clone()).collect();
            if !names.is_empty() && (Instant::now() >= resolve_at || names != resolved) {
                let answers = resolve(entry.set.answers()).await;
                let empty = answers.iter().any(|answer| answer.addresses.is_empty());
                resolve_at = Instant::now()
                    + match empty {
                        true => RESOLVE_AGAIN,
                        false => jittered(edge.config().resolve_interval),
                    };
                resolved = names;
                edge.answer(&key, &answers);
            }
            if let Some(health) = &entry.route.health {
                let set = match edge.table().get(&key) {
                    Some(entry) => Arc::clone(&entry.set),
                    None => continue,
                };
                let all = Instant::now() >= check_at || checked.as_ref() != Some(health);
                match Check::new(&entry.route, health, edge.material()) {
                    Ok(asked) => check(&key, &asked, &set, all).await,
                    Err(error) => tracing::error!(%key, %error, "cannot check its upstreams"),
                }
                if all {
                    check_at = Instant::now() + jittered(Duration::from_millis(health.interval_ms));
                }
            }
            checked.clone_from(&entry.route.health);
        }
        let next = match (&checked, resolved.is_empty()) {
            (Some(_), true) => check_at,
            (Some(_), false) => check_at.min(resolve_at),
            (None, _) => resolve_at,
        };
        tokio::select! {
            () = sleep_until(next) => {}
            () = news.notified() => {}
        }
    }
}

/// Asks all names at once.
async fn resolve(before: &[Answer]) -> Vec<Answer> {
    let asked = before.iter().map(|answer| async {
        let UpstreamAddress::Name { host, port } = &answer.name else {
            return answer.clone();
        };
        let lookup = tokio::net::lookup_host((host.as_str(), port.get()));
        let (addresses, error) = match timeout(RESOLVE_MAX, lookup).await {
            Ok(Ok(found)) => (found.collect(), "it has no address".to_owned()),
            Ok(Err(error)) => (Vec::new(), error.to_string()),
            Err(_) => (Vec::new(), format!("no answer within {RESOLVE_MAX:?}")),
        };
        let mut addresses: Vec<SocketAddr> = addresses;
        // The order is the resolver's idea of the nearest; what counts here is who is there.
        addresses.sort_unstable();
        addresses.dedup();
        match addresses.is_empty() {
            true => Answer {
                error: Some(error),
                ..answer.clone()
            },
            false => Answer {
                name: answer.name.clone(),
                addresses,
                error: None,
            },
        }
    });
    futures_util::future::join_all(asked).await
}

/// Checks all upstreams at once, or those of which nothing is known yet.
async fn check(key: &RouteKey, check: &Check, set: &Set, all: bool) {
    let mut asked = JoinSet::new();
    for member in set.members().filter(|member| all || !member.is_checked()) {
        let (member, check) = (Arc::clone(member), check.clone());
        asked.spawn(async move {
            let answer = check.ask(member.address()).await;
            (member, answer)
        });
    }
    while let Some(asked) = asked.join_next().await {
        let Ok((member, answer)) = asked else {
            continue;
        };
        let reason = answer.as_ref().err().cloned().unwrap_or_default();
        let streaks = check.streaks();
        let upstream = member.address();
        match member.checked(answer, streaks, std::time::Instant::now()) {
            Some(true) => tracing::info!(%key, %upstream, "an upstream is well again"),
            Some(false) => tracing::warn!(%key, %upstream, reason, "an upstream is down"),
            None => {}
        }
    }
}

/// A tenth more or less, so that what began together does not stay together.
fn jittered(interval: Duration) -> Duration {
    let permille = 900 + RandomState::new().hash_one(0) % 201;
    interval.mul_f64(f64::from(u32::try_from(permille).unwrap_or(1000)) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_a_tenth() {
        let second = Duration::from_secs(1);
        let all: Vec<Duration> = (0..200).map(|_| jittered(second)).collect();
        assert!(all.iter().all(|d| (900..=1100).contains(&d.as_millis())));
        assert!(all.iter().any(|d| *d != all[0]));
    }
}
