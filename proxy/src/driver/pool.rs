//! Idle upstream connections of one worker, youngest first out.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::relay::Conn;
use crate::logic::session::Seal;

/// What makes one connection as good as another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Where it leads.
    pub address: SocketAddr,
    /// How TLS is spoken there; `None` in clear.
    pub seal: Option<Arc<Seal>>,
    /// What a shared connection begins with, before all else: it speaks of one client, whose
    /// requests alone share it.
    pub opening: Option<Arc<[u8]>>,
}

/// An upstream connection, in use or idle.
#[derive(Debug)]
pub struct Upstream {
    /// Its number; the worker's token for it.
    pub id: usize,
    /// Where it leads.
    pub peer: Peer,
    /// The socket.
    pub conn: Conn,
    /// The connect is under way.
    pub connecting: bool,
    /// Since when it is idle.
    pub idle_since: Option<Instant>,
    /// What it begins with once it is connected, before all else.
    pub opening: Vec<u8>,
    /// It has told of one client, and is for no other.
    pub private: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Pool {
    idle: HashMap<Peer, Vec<Upstream>>,
    count: usize,
    per_address_max: usize,
    idle_max: Duration,
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(per_address_max: usize, idle_max: Duration) -> Self {
        Self {
            idle: HashMap::new(),
            count: 0,
            per_address_max,
            idle_max,
        }
    }

    /// The youngest idle connection to a peer.
    pub fn take(&mut self, peer: &Peer, now: Instant) -> Option<Upstream> {
        let list = self.idle.get_mut(peer)?;
        let upstream = list.pop()?;
        self.count -= 1;
        // The youngest is too old: so are the others, and the sweep will find them.
        let fresh = upstream
            .idle_since
            .is_some_and(|since| now.saturating_duration_since(since) < self.idle_max);
        if fresh {
            return Some(upstream);
        }
        self.count += 1;
        list.push(upstream);
        None
    }

    /// Keeps a connection; gives back the one for which there is no room.
    #[must_use]
    pub fn put(&mut self, mut upstream: Upstream, now: Instant) -> Option<Upstream> {
        let list = self.idle.entry(upstream.peer.clone()).or_default();
        if list.len() >= self.per_address_max {
            return Some(upstream);
        }
        upstream.idle_since = Some(now);
        list.push(upstream);
        self.count += 1;
        None
    }

    /// Whether a certain connection has said nothing after all: what has come on it is of
    /// concern to nobody but its stream.
    pub fn is_silent(&mut self, peer: &Peer, id: usize) -> bool {
        let list = self.idle.get_mut(peer).into_iter().flatten();
        let mut found = list.filter(|upstream| upstream.id == id);
        found.any(|upstream| upstream.conn.stream.is_silent())
    }

    /// Takes out a certain connection.
    pub fn remove(&mut self, peer: &Peer, id: usize) -> Option<Upstream> {
        let list = self.idle.get_mut(peer)?;
        let index = list.iter().position(|upstream| upstream.id == id)?;
        self.count -= 1;
        Some(list.remove(index))
    }

    /// Takes out all connections to an address.
    pub fn forget(&mut self, address: SocketAddr) -> Vec<Upstream> {
        let leads_there = |peer: &Peer, _: &mut Vec<Upstream>| peer.address == address;
        let lists = self.idle.extract_if(leads_there);
        let list: Vec<Upstream> = lists.flat_map(|(_, list)| list).collect();
        self.count -= list.len();
        list
    }

    /// Takes out what has been idle for too long.
    pub fn sweep(&mut self, now: Instant) -> Vec<Upstream> {
        let mut old = Vec::new();
        let idle_max = self.idle_max;
        self.idle.retain(|_, list| {
            // Oldest first, since the youngest is pushed and popped at the end.
            let fresh = list.partition_point(|upstream| {
                upstream
                    .idle_since
                    .is_none_or(|since| now.saturating_duration_since(since) >= idle_max)
            });
            old.extend(list.drain(..fresh));
            !list.is_empty()
        });
        self.count -= old.len();
        old
    }

    /// Takes out everything.
    pub fn clear(&mut self) -> Vec<Upstream> {
        self.count = 0;
        self.idle.drain().flat_map(|(_, list)| list).collect()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}
