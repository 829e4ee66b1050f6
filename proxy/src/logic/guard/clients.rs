//! What each client has: connections at a time and connections per second, over all workers.
//!
//! A client is an IPv4 address, or the /64 of an IPv6 address: that is what one customer of a
//! provider has, and its single addresses cost nothing. A client is forgotten when it has
//! nothing and its pace is rested, so that memory follows who is there.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{Pace, Refused};

/// Parts of the map, each under a lock of its own.
const SHARDS: usize = 16;
/// A part is looked through for who can be forgotten when it has grown by as many.
const SWEEP_AFTER: usize = 1024;

/// Limits of one client; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most connections at a time.
    pub sessions: u32,
    /// Most new connections per second; as many may come at once.
    pub rate: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Clients {
    limits: Limits,
    state: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    clients: HashMap<u128, Client>,
    /// At this size it is swept.
    sweep_at: usize,
}

#[derive(Debug)]
struct Client {
    sessions: u32,
    pace: Pace,
}

/// A connection of a client, counted until it is dropped.
#[derive(Debug)]
pub struct Guest {
    clients: Arc<Clients>,
    client: u128,
}

/// What counts as one client.
fn client(ip: IpAddr) -> u128 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        // Bit 64 tells it from an IPv4 address; ::/64 is nobody's.
        IpAddr::V6(ip) => (u128::from(ip) >> 64 << 64) | 1 << 63,
    }
}

impl Clients {
    /// Nobody is there yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: RandomState::new(),
            shards: Default::default(),
        }
    }

    /// Lets one more connection of a client in.
    ///
    /// # Errors
    /// It has too many, or comes too fast.
    pub fn enter(self: &Arc<Self>, ip: IpAddr, now: Instant) -> Result<Guest, Refused> {
        let client = client(ip);
        let mut shard = self.shard(client);
        if shard.clients.len() >= shard.sweep_at.max(SWEEP_AFTER) {
            let resting = |client: &Client| client.sessions == 0 && client.pace.is_rested(now);
            shard.clients.retain(|_, client| !resting(client));
            shard.sweep_at = shard.clients.len() + SWEEP_AFTER;
        }
        let fresh = || Client {
            sessions: 0,
            pace: Pace::new(now),
        };
        let there = shard.clients.entry(client).or_insert_with(fresh);
        if self.limits.sessions > 0 && there.sessions >= self.limits.sessions {
            return Err(Refused::Sessions);
        }
        if self.limits.rate > 0 && there.pace.take(self.limits.rate, now).is_err() {
            return Err(Refused::Rate);
        }
        there.sessions += 1;
        Ok(Guest {
            clients: Arc::clone(self),
            client,
        })
    }

    fn shard(&self, client: u128) -> MutexGuard<'_, Shard> {
        let hash = self.state.hash_one(client);
        let index = usize::try_from(hash % SHARDS as u64).unwrap_or(0);
        self.shards[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        let lens = self
            .shards
            .iter()
            .map(|shard| shard.lock().unwrap().clients.len());
        lens.sum()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut shard = self.clients.shard(self.client);
        if let Some(client) = shard.clients.get_mut(&self.client) {
            client.sessions = client.sessions.saturating_sub(1);
            // Without a rate there is nothing to be remembered of it.
            if client.sessions == 0 && self.clients.limits.rate == 0 {
                shard.clients.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::logic::test_clock;

    fn clients(sessions: u32, rate: u32) -> Arc<Clients> {
        Arc::new(Clients::new(Limits { sessions, rate }))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_client_has_so_many_at_a_time_and_others_are_not_affected() {
        let (clients, now) = (clients(2, 0), test_clock());
        let first = clients.enter(ip("192.0.2.1"), now).unwrap();
        let _second = clients.enter(ip("::ffff:192.0.2.1"), now).unwrap();
        let refused = clients.enter(ip("192.0.2.1"), now).unwrap_err();
        assert_eq!(refused, Refused::Sessions);
        assert!(clients.enter(ip("192.0.2.2"), now).is_ok());
        drop(first);
        assert!(clients.enter(ip("192.0.2.1"), now).is_ok());
    }

    #[test]
    fn an_ipv6_client_is_its_64() {
        let (clients, now) = (clients(1, 0), test_clock());
        let _guest = clients.enter(ip("2001:db8::1"), now).unwrap();
        assert!(clients.enter(ip("2001:db8::ffff:1"), now).is_err());
        assert!(clients.enter(ip("2001:db8:0:1::1"), now).is_ok());
        assert_ne!(client(ip("::1")), client(ip("0.0.0.0")));
    }

    #[test]
    fn a_client_comes_so_many_times_a_second() {
        let (clients, start) = (clients(0, 5), test_clock());
        let at = |ms| start + Duration::from_millis(ms);
        for _ in 0..5 {
            drop(clients.enter(ip("192.0.2.1"), start).unwrap());
        }
        let refused = clients.enter(ip("192.0.2.1"), at(100)).unwrap_err();
        assert_eq!(refused, Refused::Rate);
        assert!(clients.enter(ip("192.0.2.1"), at(200)).is_ok());
        assert!(clients.enter(ip("192.0.2.1"), at(200)).is_err());
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let (by_count, now) = (clients(1, 0), test_clock());
        for number in 0..100_000u32 {
            let client = std::net::Ipv4Addr::from(number).into();
            drop(by_count.enter(client, now).unwrap());
        }
        assert_eq!(by_count.len(), 0);
        let by_rate = clients(0, 1000);
        let mut now = now;
        for number in 0..100_000u32 {
            now += Duration::from_millis(1);
            let client = std::net::Ipv4Addr::from(number).into();
            drop(by_rate.enter(client, now).unwrap());
        }
        assert!(
            by_rate.len() <= SHARDS * (SWEEP_AFTER + 1),
            "{}",
            by_rate.len()
        );
    }
}
