//! Upstream connections that are shared: a route whose upstreams speak HTTP/2 has its requests
//! sent over few connections, a stream each. Such a connection has a slot of its own, like a
//! client's; its peer is on the downstream side of that slot.
//!
//! A connection that begins with a PROXY header speaks of one client: it is shared by that
//! client's requests alone, and is another [`Peer`] for each.
//!
//! Whoever comes while a connection is being made waits for it, within its own connect timeout.

use std::{io, net::SocketAddr, time::Duration};

use mio::Interest;

use super::{KIND_DOWNSTREAM, Worker, act, slot::Slot, token, welcome};
use crate::{
    driver::{
        h2::{self, Island, bell::Target, client},
        pool::{Peer, Upstream},
        relay::{Conn, Stream},
    },
    logic::{
        h2::trunk::{Standing, Trunk, TrunkLimits},
        http::Scheme,
        session::{ConnectFailure, Event, Reuse, Session, Side},
    },
};

/// The number of an upstream that epoll does not know.
const SHARED: usize = usize::MAX;

/// A shared connection and who waits for it.
#[derive(Debug)]
pub(super) struct Shared {
    index: usize,
    serial: u64,
    standing: Option<Standing>,
    /// Slot and serial number of sessions.
    waiting: Vec<(usize, u64)>,
}

impl Worker {
    /// Gives a session a stream to an upstream, now or when its connection stands. Whoever needs
    /// a new connection gets a stream all the same, but is not told that it has served before:
    /// a request that was lost once is not sent again for ever.
    pub(super) fn connect_shared(
        &mut self,
        slot: &mut Slot,
        index: usize,
        to: &Peer,
        reuse: Reuse,
        within: Duration,
    ) {
        slot.hangup_told[Side::Upstream as usize] = false;
        for at in 0..self.trunks.get(to).map_or(0, Vec::len) {
            let shared = &self.trunks[to][at];
            match shared.standing {
                Some(Standing::Open) => {
                    let Some(Some(trunk)) = self.sessions.get(shared.index) else {
                        continue;
                    };
                    let Some(Island::Client(island)) = trunk.island.as_deref() else {
                        continue;
                    };
                    let limit = self.limits.trunk.streams.min(island.allowed());
                    let waker = self.bells.waker(Target::Session(index, slot.serial));
                    if island.streams() < limit
                        && let Some(stream) = island.open(waker)
                    {
                        self.counters.reuses.inc();
                        return give(slot, to, stream, reuse != Reuse::Never);
                    }
                }
                None => {
                    slot.waits_for = Some(shared.serial);
                    slot.again_at = Some(self.now + within);
                    if let Some(list) = self.trunks.get_mut(to) {
                        list[at].waiting.push((index, slot.serial));
                    }
                    return;
                }
                Some(Standing::Leaving | Standing::Failed(_)) => {}
            }
        }
        match self.dial_shared(to, within) {
            Ok((trunk, serial)) => {
                slot.waits_for = Some(serial);
                slot.again_at = Some(self.now + within);
                self.trunks.entry(to.clone()).or_default().push(Shared {
                    index: trunk,
                    serial,
                    standing: None,
                    waiting: vec![(index, slot.serial)],
                });
            }
            Err(error) => slot.news = Some(Event::ConnectFailed(act::failure(&error))),
        }
    }

    fn dial_shared(&mut self, to: &Peer, within: Duration) -> io::Result<(usize, u64)> {
        let mut stream = mio::net::TcpStream::connect(to.address)?;
        stream.set_nodelay(true)?;
        let index = self.sessions.vacant_key();
        self.poll.registry().register(
            &mut stream,
            token(KIND_DOWNSTREAM, index),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        self.counters.connects.inc();
        self.serial += 1;
        let limits = TrunkLimits {
            idle: match self.drain_until {
                Some(_) => Duration::ZERO,
                None => self.limits.trunk.idle,
            },
            ..self.limits.trunk
        };
        let session = Session::Trunk(Box::new(Trunk::new(limits, self.now, within)));
        let conn = Conn::new(stream, false);
        let mut slot = Slot::new(session, conn, to.address, self.serial);
        slot.leads_to = Some(to.clone());
        self.sessions.insert(Some(Box::new(slot)));
        // So that its deadline is known to the timers.
        self.mark(index, |_| {});
        Ok((index, self.serial))
    }

    /// A shared connection's connect that has come to its end; whether anything happened.
    pub(super) fn trunk_step(&mut self, slot: &mut Slot, index: usize) -> bool {
        let Some(to) = slot.leads_to.as_ref().filter(|_| slot.island.is_none()) else {
            return false;
        };
        let conn = &mut slot.downstream;
        if !(conn.writable || conn.readable || conn.failed || conn.hangup) {
            return false;
        }
        let scheme = match to.seal {
            Some(_) => Scheme::Https,
            None => Scheme::Http,
        };
        let mut opened = conn.stream.connected();
        // Once: with TLS this comes again and again until hands are shaken.
        if conn.stream.sealed().is_none()
            && let Some(opening) = &to.opening
        {
            opened = opened.and_then(|()| welcome::open_with(conn, opening));
        }
        let outcome = match opened {
            Ok(()) => self.secure_upstream(conn, to.seal.as_ref()),
            Err(error) => Err(act::failure(&error)),
        };
        let refused = conn.stream.sealed().is_some_and(|sealed| {
            // RFC 9113, section 3.2: over TLS it has to be agreed upon.
            sealed.is_open() && sealed.state().alpn_protocol() != Some(b"h2")
        });
        match outcome {
            Ok(false) => return false,
            Ok(true) if refused => {
                let failure = ConnectFailure::Refused;
                self.event(slot, index, Event::ConnectFailed(failure));
            }
            Ok(true) => {
                let waker = self.bells.waker(Target::Session(index, slot.serial));
                let limits = &self.limits.session;
                let streams = self.limits.trunk.streams;
                let head_bytes = limits.head_bytes;
                let island = client::Island::new(&limits.h2, streams, head_bytes, scheme, waker);
                slot.island = Some(Box::new(Island::Client(island)));
                self.event(slot, index, Event::Connected { reused: false });
            }
            Err(failure) => self.event(slot, index, Event::ConnectFailed(failure)),
        }
        true
    }

    /// How a shared connection stands is told to those that wait for it.
    pub(super) fn stand(&mut self, slot: &mut Slot, standing: Standing) {
        let Some(to) = &slot.leads_to else { return };
        let list = self.trunks.get_mut(to).into_iter().flatten();
        let mut found = list.filter(|shared| shared.serial == slot.serial);
        let Some(shared) = found.next() else { return };
        shared.standing = Some(standing);
        let waiting = std::mem::take(&mut shared.waiting);
        for (index, serial) in waiting {
            self.with_slot(index, |worker, waiter| {
                let waits = waiter.serial == serial && waiter.waits_for == Some(slot.serial);
                if !waits || waiter.closing.is_some() {
                    return;
                }
                waiter.waits_for = None;
                let within = waiter.again_at.take();
                match standing {
                    Standing::Open => worker.open_first(slot, waiter, index, within),
                    Standing::Failed(failure) => {
                        waiter.news = Some(Event::ConnectFailed(failure));
                    }
                    Standing::Leaving => {
                        let failure = ConnectFailure::Refused;
                        waiter.news = Some(Event::ConnectFailed(failure));
                    }
                }
            });
            self.mark(index, |_| {});
        }
    }

    /// A stream of a connection that has just come about; if its peer allows no more, one of
    /// another.
    fn open_first(
        &mut self,
        trunk: &Slot,
        waiter: &mut Slot,
        index: usize,
        until: Option<std::time::Instant>,
    ) {
        let Some(to) = &trunk.leads_to else { return };
        if let Some(Island::Client(island)) = trunk.island.as_deref() {
            let limit = self.limits.trunk.streams.min(island.allowed());
            let waker = self.bells.waker(Target::Session(index, waiter.serial));
            if island.streams() < limit
                && let Some(stream) = island.open(waker)
            {
                return give(waiter, to, stream, false);
            }
        }
        let within = until.map_or(Duration::ZERO, |until| {
            until.saturating_duration_since(self.now)
        });
        self.connect_shared(waiter, index, to, Reuse::Never, within);
    }

    /// A shared connection is gone.
    pub(super) fn forget_trunk(&mut self, slot: &mut Slot) {
        self.stand(slot, Standing::Failed(ConnectFailure::Refused));
        let Some(to) = &slot.leads_to else { return };
        if let Some(list) = self.trunks.get_mut(to) {
            list.retain(|shared| shared.serial != slot.serial);
            if list.is_empty() {
                self.trunks.remove(to);
            }
        }
    }

    /// Has the shared connections to an address take no further requests.
    pub(super) fn leave_trunks(&mut self, to: SocketAddr) {
        let there = self.trunks.iter().filter(|(peer, _)| peer.address == to);
        let indices: Vec<usize> = there
            .flat_map(|(_, list)| list.iter().map(|shared| shared.index))
            .collect();
        for index in indices {
            self.tell(index, Event::Drain);
        }
    }
}

/// Gives a stream to a session as its upstream.
fn give(slot: &mut Slot, to: &Peer, stream: client::Stream, reused: bool) {
    let stream = Stream::H2(h2::Stream::Client(Box::new(stream)));
    let mut conn = Conn::over(stream, true);
    // Its waker is only known to the h2 crate once it has been read.
    conn.take_stock();
    slot.upstream = Some(Upstream {
        id: SHARED,
        peer: to.clone(),
        conn,
        connecting: false,
        idle_since: None,
        opening: Vec::new(),
        private: true,
    });
    slot.news = Some(Event::Connected { reused });
}
