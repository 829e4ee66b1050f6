//! Which clients may connect, and how many of one: lists of networks, connections at a time and
//! connections per second, of one client and of all.
//!
//! | module | duty |
//! | --- | --- |
//! | [`lists`] | whether an address is allowed |
//! | [`clients`] | what one client has and how fast it comes |
//!
//! A refused connection is closed before anything is read of it and counted by its reason.

pub mod clients;
pub mod lists;

use std::{
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clients::{Clients, Guest};
use lists::Lists;

/// Why a connection was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// By the lists.
    Denied,
    /// Its client has as many as it may have.
    Sessions,
    /// Its client comes faster than it may.
    Rate,
}

/// The guard of an edge; shared by its workers.
#[derive(Debug)]
pub struct Guard {
    /// Who may connect at all.
    pub lists: Lists,
    /// Who says for whom it connects, by a PROXY header.
    pub proxies: Lists,
    /// The pace at which connections are taken, by whichever worker.
    pub pace: SharedPace,
    clients: Option<Arc<Clients>>,
}

impl Guard {
    /// A guard with these lists and limits.
    #[must_use]
    pub fn new(lists: Lists, proxies: Lists, limits: clients::Limits) -> Self {
        let limited = limits.sessions > 0 || limits.rate > 0;
        Self {
            lists,
            proxies,
            pace: SharedPace::default(),
            clients: limited.then(|| Arc::new(Clients::new(limits))),
        }
    }

    /// Lets a client in; it is counted until the guest is dropped.
    ///
    /// # Errors
    /// It may not.
    pub fn enter(&self, ip: IpAddr, now: Instant) -> Result<Option<Guest>, Refused> {
        if !self.lists.allows(ip) {
            return Err(Refused::Denied);
        }
        match &self.clients {
            Some(clients) => clients.enter(ip, now).map(Some),
            None => Ok(None),
        }
    }
}

/// How fast something may go on: so many a second, with a second's worth at once (a leaky
/// bucket, by the time at which the next would be due).
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    due: Instant,
}

impl Pace {
    /// One that has not begun.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { due: now }
    }

    /// Takes a turn, if there is one.
    ///
    /// # Errors
    /// How long to wait for it.
    pub fn take(&mut self, per_second: u32, now: Instant) -> Result<(), Duration> {
        let one = Duration::from_secs(1) / per_second.max(1);
        let burst = Duration::from_secs(1).saturating_sub(one);
        let due = self.due.max(now);
        let ahead = due.saturating_duration_since(now);
        if ahead > burst {
            return Err(ahead.saturating_sub(burst));
        }
        self.due = due + one;
        Ok(())
    }

    /// Whether it has its whole burst again, so that nothing is lost by forgetting it.
    #[must_use]
    pub fn is_rested(&self, now: Instant) -> bool {
        self.due <= now
    }
}

/// A [`Pace`] that several threads keep together, exactly and without a lock.
#[derive(Debug, Default)]
pub struct SharedPace {
    /// When it was asked first.
    base: OnceLock<Instant>,
    /// When the next is due, in ns after that.
    due: AtomicU64,
}

impl SharedPace {
    /// Takes a turn, if there is one.
    ///
    /// # Errors
    /// How long to wait for it.
    pub fn take(&self, per_second: u32, now: Instant) -> Result<(), Duration> {
        let base = *self.base.get_or_init(|| now);
        let now = whole_ns(now.saturating_duration_since(base));
        let one = turn_ns(per_second);
        let burst = SECOND_NS - one;
        let mut due = self.due.load(Ordering::Relaxed);
        loop {
            let start = due.max(now);
            let ahead = start - now;
            if ahead > burst {
                return Err(Duration::from_nanos(ahead - burst));
            }
            let next = start + one;
            match (self.due).compare_exchange_weak(due, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Ok(()),
                Err(seen) => due = seen,
            }
        }
    }

    /// Gives back a turn that was taken for nothing.
    pub fn give_back(&self, per_second: u32) {
        self.due.fetch_sub(turn_ns(per_second), Ordering::Relaxed);
    }
}

const SECOND_NS: u64 = 1_000_000_000;

fn turn_ns(per_second: u32) -> u64 {
    SECOND_NS / u64::from(per_second.max(1))
}

fn whole_ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::test_clock;

    #[test]
    fn a_pace_lets_a_second_s_worth_go_at_once_and_then_as_many_a_second() {
        let start = test_clock();
        let mut pace = Pace::new(start);
        let taken = (0..50).filter(|_| pace.take(10, start).is_ok()).count();
        assert_eq!(taken, 10);
        assert_eq!(pace.take(10, start), Err(Duration::from_millis(100)));
        let mut taken = 0;
        for ms in 0..1000 {
            let now = start + Duration::from_millis(ms);
            taken += usize::from(pace.take(10, now).is_ok());
        }
        assert_eq!(taken, 9, "one each 100 ms, the first after 100 ms");
        assert!(!pace.is_rested(start + Duration::from_secs(1)));
        assert!(pace.is_rested(start + Duration::from_secs(2)));
    }

    #[test]
    fn several_threads_keep_one_pace_exactly() {
        let start = test_clock();
        let pace = SharedPace::default();
        pace.take(100, start).unwrap();
        let at = |ms: u64| {
            let now = start + Duration::from_millis(ms);
            let taken = |_| (0..200).filter(|_| pace.take(100, now).is_ok()).count();
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|n| scope.spawn(move || taken(n))).collect();
                let counts = threads.into_iter().map(|thread| thread.join().unwrap());
                counts.sum::<usize>()
            })
        };
        assert_eq!(at(0), 99, "a second's worth, one of which is taken");
        assert_eq!(at(5), 0);
        assert_eq!(at(55), 5);
        pace.give_back(100);
        assert_eq!(at(55), 1);
        assert_eq!(pace.take(100, start), Err(Duration::from_millis(60)));
        assert_eq!(at(5_000), 100, "rest is not saved up beyond a second");
    }

    #[test]
    fn a_denied_client_is_not_counted() {
        let deny = ["192.0.2.0/24".parse().unwrap()];
        let limits = clients::Limits {
            sessions: 1,
            rate: 0,
        };
        let guard = Guard::new(Lists::new(&[], &deny), Lists::default(), limits);
        let now = test_clock();
        let bad = "192.0.2.7".parse().unwrap();
        let good = "198.51.100.7".parse().unwrap();
        assert_eq!(guard.enter(bad, now).unwrap_err(), Refused::Denied);
        let guest = guard.enter(good, now).unwrap();
        assert_eq!(guard.enter(good, now).unwrap_err(), Refused::Sessions);
        drop(guest);
        assert!(guard.enter(good, now).is_ok());
    }
}
