//! Telling a session something and carrying out what it orders: connects, the fate of upstream
//! connections, and the end.

use std::{io, sync::Arc, time::Duration};

use flocker_api::route::UpstreamProtocol;
use mio::Interest;

use super::{
    KIND_UPSTREAM, Owner, Worker,
    slot::{Closing, Slot},
    token, welcome,
};
use crate::{
    driver::{
        pool::{Peer, Upstream},
        relay::{Conn, Flow, Pipes},
    },
    logic::{
        gate::Seat,
        http::Scheme,
        session::{Access, Action, ConnectFailure, Cx, Ending, Event, Reuse, Session, Side},
    },
};

/// Bytes of a client that are read and thrown away while it learns that we have closed.
const LINGER_BYTES: usize = 256 << 10;
/// How often a session that is to be reset looks whether its last bytes have arrived.
const RESET_POLL: Duration = Duration::from_millis(5);

impl Worker {
    /// Tells the session and does what it says.
    pub(super) fn event(&mut self, slot: &mut Slot, index: usize, event: Event<'_>) {
        if let Event::Bytes(Side::Downstream, bytes) = event {
            self.feed(slot, bytes);
        }
        self.consult(slot, index, |session, cx| session.handle(event, cx));
    }

    /// Has the session say something and does what it says.
    pub(super) fn consult(
        &mut self,
        slot: &mut Slot,
        index: usize,
        say: impl FnOnce(&mut Session, &mut Cx<'_>),
    ) {
        for side in [Side::Downstream, Side::Upstream] {
            let out = &mut slot.flows[side as usize].out;
            if out.capacity() == 0 {
                *out = self.pipes.buffer();
            }
        }
        let mut actions = std::mem::take(&mut self.actions);
        let before = [slot.flows[0].out.len(), slot.flows[1].out.len()];
        let pending = [slot.flows[0].len(), slot.flows[1].len()];
        let [down, up] = &mut slot.flows;
        let mut cx = Cx {
            now: self.now,
            tables: &mut self.tables,
            seat: Seat {
                worker: self.number,
                slot: index,
            },
            client: slot.client,
            limits: &self.limits.session,
            counters: &self.counters,
            out: [&mut down.out, &mut up.out],
            actions: &mut actions,
            pending,
            access: Access {
                wanted: self.access.is_wanted(),
                records: &mut self.records,
                moved: [0, 1].map(|side: usize| slot.moved[side] - before[side] as u64),
            },
        };
        say(&mut slot.session, &mut cx);
        for side in [Side::Downstream, Side::Upstream] {
            let out = &mut slot.flows[side as usize].out;
            let written = out.len().saturating_sub(before[side as usize]);
            slot.moved[side as usize] += written as u64;
            if out.is_empty() {
                self.pipes.spare(std::mem::take(out));
            } else if written > 0 {
                self.count_bytes(side, written as u64);
            }
        }
        self.apply(slot, index, &mut actions);
        self.actions = actions;
    }

    /// Carries out actions.
    pub(super) fn apply(&mut self, slot: &mut Slot, index: usize, actions: &mut Vec<Action>) {
        for action in actions.drain(..) {
            match action {
                Action::Connect {
                    to,
                    seal,
                    protocol,
                    reuse,
                    within,
                    proxy,
                } => {
                    self.drop_upstream(slot);
                    let mut peer = Peer {
                        address: to,
                        seal,
                        opening: None,
                    };
                    if protocol == UpstreamProtocol::H2 {
                        let header = proxy.map(|version| welcome::header(slot, version));
                        peer.opening = header.map(Arc::from);
                        self.connect_shared(slot, index, &peer, reuse, within);
                        continue;
                    }
                    self.connect(slot, index, peer, reuse, within);
                    if let Some(version) = proxy {
                        let header = welcome::header(slot, version);
                        if let Some(upstream) = &mut slot.upstream {
                            upstream.private = true;
                            upstream.opening = header;
                        }
                    }
                }
                Action::Terminate => self.terminate(slot, index),
                Action::Introduce { skip, ends } => self.introduce(slot, index, skip, ends),
                Action::Keep => self.keep(slot),
                Action::DropUpstream => self.drop_upstream(slot),
                Action::Finish(side) => {
                    if let Some(conn) = slot.conn(side) {
                        conn.finish = true;
                    }
                }
                Action::Carry => {
                    let ahead = slot.session.take_ahead();
                    self.begin_carrying(slot, index, Scheme::Http, &ahead);
                }
                Action::Leave(leave) => self.leave(slot, leave),
                Action::Stand(standing) => self.stand(slot, standing),
                Action::Ping => self.ping(slot),
                Action::Close(ending) => {
                    self.end_carrying(slot);
                    slot.again_at = None;
                    slot.closing = Some(Closing {
                        ending,
                        by: self.now + self.limits.linger,
                        thrown_away: 0,
                    });
                }
            }
        }
    }

    fn connect(&mut self, slot: &mut Slot, index: usize, to: Peer, reuse: Reuse, within: Duration) {
        while reuse != Reuse::Never
            && let Some(mut upstream) = self.pool.take(&to, self.now)
        {
            let alive = reuse == Reuse::Any || upstream.conn.stream.is_silent();
            if alive {
                self.upstreams[upstream.id] = Owner::Session(index);
                self.counters.reuses.inc();
                slot.upstream = Some(upstream);
                slot.hangup_told[Side::Upstream as usize] = false;
                slot.news = Some(Event::Connected { reused: true });
                return;
            }
            self.close_upstream(upstream);
        }
        match self.dial(index, to) {
            Ok(upstream) => {
                self.counters.connects.inc();
                slot.upstream = Some(upstream);
                slot.hangup_told[Side::Upstream as usize] = false;
                slot.again_at = Some(self.now + within);
            }
            Err(error) => slot.news = Some(Event::ConnectFailed(failure(&error))),
        }
    }

    fn dial(&mut self, index: usize, to: Peer) -> io::Result<Upstream> {
        let mut stream = mio::net::TcpStream::connect(to.address)?;
        stream.set_nodelay(true)?;
        self.limits.tcp.set(&stream)?;
        let entry = self.upstreams.vacant_entry();
        let id = entry.key();
        self.poll.registry().register(
            &mut stream,
            token(KIND_UPSTREAM, id),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        entry.insert(Owner::Session(index));
        Ok(Upstream {
            id,
            peer: to,
            conn: Conn::new(stream, false),
            connecting: true,
            idle_since: None,
            opening: Vec::new(),
            private: false,
        })
    }

    fn keep(&mut self, slot: &mut Slot) {
        let mut clean = slot.flows[Side::Upstream as usize].is_empty();
        let Some(mut upstream) = slot.upstream.take() else {
            return;
        };
        let conn = &mut upstream.conn;
        let mut alive = !(conn.eof || conn.hangup || conn.failed || conn.shut || conn.finish);
        alive &= !conn.surplus;
        clean &= conn.pending() == 0;
        // Bytes that nobody asked for would be taken for the next response.
        if conn.readable && alive {
            alive = conn.stream.is_silent();
            conn.readable = false;
        }
        if !(clean && alive) || upstream.private || self.drain_until.is_some() {
            slot.upstream = Some(upstream);
            return self.drop_upstream(slot);
        }
        self.upstreams[upstream.id] = Owner::Idle(upstream.peer.clone());
        if let Some(surplus) = self.pool.put(upstream, self.now) {
            self.close_upstream(surplus);
        }
        self.sweep_later();
    }

    pub(super) fn drop_upstream(&mut self, slot: &mut Slot) {
        slot.again_at = None;
        slot.news = None;
        slot.waits_for = None;
        if let Some(upstream) = slot.upstream.take() {
            slot.flows[Side::Upstream as usize].clear(&mut self.pipes);
            self.close_upstream(upstream);
        }
    }

    /// Delivers what is on its way, then closes.
    pub(super) fn close_step(&mut self, slot: &mut Slot) {
        let Slot {
            session,
            downstream,
            upstream,
            flows,
            closing: Some(closing),
            again_at,
            done,
            ..
        } = slot
        else {
            return;
        };
        let (gone, left) = deliver(downstream, upstream.as_mut(), flows, &mut self.pipes);
        if left > 0 {
            return;
        }
        if closing.ending == Ending::Linger {
            if let Some(upstream) = upstream.take() {
                self.close_upstream(upstream);
            }
            session.delivered();
        }
        // A peer that still has its goodbye to say would be answered by a reset, which may eat
        // what it has not read yet.
        let ending = match closing.ending {
            Ending::Clean if downstream.stream.sealed().is_some() && !downstream.eof => {
                Ending::Linger
            }
            ending => ending,
        };
        match ending {
            Ending::Clean => {
                downstream.stream.part();
                *done = true;
            }
            Ending::Reset(side) => {
                let conn = match (side, upstream) {
                    (Side::Upstream, Some(upstream)) => &mut upstream.conn,
                    _ => downstream,
                };
                if conn.unacknowledged() > 0 && self.now < closing.by {
                    // A reset would throw it away: look again in a moment.
                    *again_at = Some((self.now + RESET_POLL).min(closing.by));
                    return;
                }
                // Without it the peer sees an end where there was a break.
                conn.stream.reset();
                *done = true;
            }
            Ending::Linger if gone => *done = true,
            // Its connection goes on, and tells the client by itself.
            Ending::Linger if downstream.stream.shared().is_some() => {
                downstream.stream.part();
                *done = true;
            }
            Ending::Linger => {
                if !downstream.shut {
                    downstream.finish = true;
                    // Nothing is left to be written, so this only shuts.
                    drop(flows[0].flush(downstream, &mut self.pipes));
                }
                while downstream.readable && !downstream.eof {
                    match downstream.read(&mut self.buffer) {
                        Ok(Some(count)) => closing.thrown_away += count,
                        Ok(None) => break,
                        Err(_) => *done = true,
                    }
                    if *done || closing.thrown_away > LINGER_BYTES {
                        *done = true;
                        return;
                    }
                }
                *done |= downstream.eof && downstream.shut;
            }
        }
    }
}

/// Writes what is on its way to both sides; whether the client is gone, and how much is left.
fn deliver(
    downstream: &mut Conn,
    upstream: Option<&mut Upstream>,
    [down, up]: &mut [Flow; 2],
    pipes: &mut Pipes,
) -> (bool, usize) {
    let gone = down.flush(downstream, pipes).is_err();
    let mut left = 0;
    match gone {
        true => down.clear(pipes),
        false => left += down.len() + downstream.pending(),
    }
    let connected = upstream.filter(|upstream| !upstream.connecting);
    match connected.map(|upstream| (up.flush(&mut upstream.conn, pipes), &upstream.conn)) {
        Some((Ok(_), conn)) => left += up.len() + conn.pending(),
        Some((Err(_), _)) | None => up.clear(pipes),
    }
    (gone, left)
}

pub(super) fn failure(error: &io::Error) -> ConnectFailure {
    match error.raw_os_error() {
        Some(code) => match rustix::io::Errno::from_raw_os_error(code) {
            rustix::io::Errno::TIMEDOUT => ConnectFailure::TimedOut,
            rustix::io::Errno::MFILE
            | rustix::io::Errno::NFILE
            | rustix::io::Errno::NOBUFS
            | rustix::io::Errno::NOMEM
            | rustix::io::Errno::ADDRNOTAVAIL => ConnectFailure::NoResources,
            _ => ConnectFailure::Refused,
        },
        None => ConnectFailure::Refused,
    }
}
