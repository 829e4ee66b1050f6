//! One session of a worker: its sockets, what is on its way, and the loop that reads, tells the
//! session and does what it says.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use mio::Interest;

use super::{KIND_UPSTREAM, Owner, Worker, token};
use crate::{
    driver::{
        pool::Upstream,
        relay::{Conn, Flow, Stop, Tools, pump},
        timers::Alarm,
    },
    logic::{
        gate::Seat,
        session::{Action, ConnectFailure, Cx, Ending, Event, Reuse, Session, Side, Want},
    },
};

/// Bytes that one session may move before the others have their turn.
const BUDGET_BYTES: usize = 1 << 20;
/// Bytes of a client that are read and thrown away while it learns that we have closed.
const LINGER_BYTES: usize = 256 << 10;
/// How often a session that is to be reset looks whether its last bytes have arrived.
const RESET_POLL: Duration = Duration::from_millis(5);

/// See the module.
pub(super) struct Slot {
    session: Session,
    serial: u64,
    client: SocketAddr,
    pub(super) downstream: Conn,
    pub(super) upstream: Option<Upstream>,
    /// By the side that they lead to.
    flows: [Flow; 2],
    /// Something that came of an action and is to be told.
    news: Option<Event<'static>>,
    /// When a connect under way has failed; when closing, when to look again.
    again_at: Option<Instant>,
    closing: Option<Closing>,
    /// Which sides' hangups have been told.
    hangup_told: [bool; 2],
    /// The time of its entry in the timers.
    armed: Option<Instant>,
    pub(super) queued: bool,
    parked: bool,
    done: bool,
}

struct Closing {
    ending: Ending,
    by: Instant,
    thrown_away: usize,
}

impl Slot {
    pub(super) fn new(session: Session, downstream: Conn, client: SocketAddr, serial: u64) -> Self {
        Self {
            session,
            serial,
            client,
            downstream,
            upstream: None,
            flows: [Flow::default(), Flow::default()],
            news: None,
            again_at: None,
            closing: None,
            hangup_told: [false; 2],
            armed: None,
            queued: false,
            parked: false,
            done: false,
        }
    }

    fn conn(&mut self, side: Side) -> Option<&mut Conn> {
        match side {
            Side::Downstream => Some(&mut self.downstream),
            Side::Upstream => match &mut self.upstream {
                Some(upstream) if !upstream.connecting => Some(&mut upstream.conn),
                _ => None,
            },
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let own = match &self.closing {
            Some(closing) => Some(closing.by),
            None => self.session.deadline(),
        };
        match (own, self.again_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

impl Worker {
    /// Takes a slot out for the time of `run`, so that it and the worker can both be changed.
    pub(super) fn with_slot(&mut self, index: usize, run: impl FnOnce(&mut Self, &mut Slot)) {
        let Some(mut slot) = self.sessions.get_mut(index).and_then(Option::take) else {
            return;
        };
        run(self, &mut slot);
        if slot.done {
            self.dispose(&mut slot);
            // The session goes last: with it goes its admission.
            drop(slot);
            self.sessions.remove(index);
            return;
        }
        self.arm(&mut slot, index);
        let parked = slot.session.is_parked();
        if parked != slot.parked {
            slot.parked = parked;
            match parked {
                true => self.counters.parked.inc(),
                false => self.counters.parked.dec(),
            }
        }
        self.sessions[index] = Some(slot);
    }

    fn dispose(&mut self, slot: &mut Slot) {
        for flow in &mut slot.flows {
            flow.clear(&mut self.pipes);
        }
        if let Some(upstream) = slot.upstream.take() {
            self.close_upstream(upstream);
        }
        if slot.parked {
            self.counters.parked.dec();
        }
        self.counters.sessions.dec();
    }

    /// Keeps one entry in the timers, at or before the deadline.
    fn arm(&mut self, slot: &mut Slot, index: usize) {
        let Some(deadline) = slot.deadline() else {
            return;
        };
        if slot.armed.is_none_or(|armed| deadline < armed) {
            slot.armed = Some(deadline);
            self.timers
                .set(deadline, Alarm::Session(index, slot.serial));
        }
    }

    pub(super) fn alarm(&mut self, index: usize, serial: u64) {
        let now = self.now;
        self.with_slot(index, |worker, slot| {
            if slot.serial != serial || slot.armed.is_none_or(|armed| armed > now) {
                return;
            }
            slot.armed = None;
            if let Some(closing) = &slot.closing {
                slot.again_at = None;
                slot.done |= now >= closing.by;
                return;
            }
            if slot.again_at.is_some_and(|by| now >= by) {
                worker.drop_upstream(slot);
                worker.event(slot, index, Event::ConnectFailed(ConnectFailure::TimedOut));
            } else if slot.session.deadline().is_some_and(|by| now >= by) {
                worker.event(slot, index, Event::Timer);
            }
        });
        self.mark(index, |_| {});
    }

    /// Tells one session something, and has it run afterwards.
    pub(super) fn tell(&mut self, index: usize, event: Event<'_>) {
        self.with_slot(index, |worker, slot| {
            if slot.closing.is_none() {
                worker.event(slot, index, event);
            }
        });
        self.mark(index, |_| {});
    }

    /// Runs a session until it blocks or its budget is used up.
    pub(super) fn run_session(&mut self, index: usize) {
        let mut again = false;
        self.with_slot(index, |worker, slot| {
            slot.queued = false;
            let mut budget = BUDGET_BYTES;
            loop {
                if slot.closing.is_some() {
                    worker.close_step(slot);
                    return;
                }
                let progress = worker.step(slot, index, &mut budget);
                if !progress {
                    return;
                }
                if budget == 0 {
                    again = true;
                    return;
                }
            }
        });
        if again && self.sessions.contains(index) {
            self.again.push(index);
        }
    }

    /// One round through news, writes and both sides' reads; whether anything happened.
    fn step(&mut self, slot: &mut Slot, index: usize, budget: &mut usize) -> bool {
        let mut progress = self.connect_step(slot, index);
        if let Some(news) = slot.news.take() {
            self.event(slot, index, news);
            progress = true;
        }
        for side in [Side::Upstream, Side::Downstream] {
            progress |= self.flush(slot, index, side);
        }
        for side in [Side::Upstream, Side::Downstream] {
            if slot.closing.is_some() {
                return true;
            }
            progress |= self.hear(slot, index, side, budget);
        }
        progress
    }

    /// A connect that has come to its end.
    fn connect_step(&mut self, slot: &mut Slot, index: usize) -> bool {
        let Some(upstream) = &mut slot.upstream else {
            return false;
        };
        let conn = &mut upstream.conn;
        if !upstream.connecting || !(conn.writable || conn.failed || conn.hangup) {
            return false;
        }
        upstream.connecting = false;
        slot.again_at = None;
        match conn.stream.take_error() {
            Ok(None) => self.event(slot, index, Event::Connected { reused: false }),
            Ok(Some(error)) | Err(error) => {
                self.drop_upstream(slot);
                self.event(slot, index, Event::ConnectFailed(failure(&error)));
            }
        }
        true
    }

    fn flush(&mut self, slot: &mut Slot, index: usize, side: Side) -> bool {
        let Slot {
            downstream,
            upstream,
            flows,
            ..
        } = slot;
        let conn = match (side, upstream) {
            (Side::Downstream, _) => downstream,
            (Side::Upstream, Some(upstream)) if !upstream.connecting => &mut upstream.conn,
            (Side::Upstream, _) => return false,
        };
        let flow = &mut flows[side as usize];
        if flow.is_empty() && !conn.finish {
            return false;
        }
        let (before, slow) = (flow.len(), flow.is_slow());
        let outcome = flow.flush(conn, &mut self.pipes);
        let after = flow.len();
        match outcome {
            Ok(0) if before == after => false,
            // What leaves a backlog is progress, too, or a slow reader would be cut off.
            Ok(0) => {
                if slow {
                    let from = side.other();
                    self.event(slot, index, Event::Piped { from, bytes: 0 });
                }
                true
            }
            Ok(bytes) => {
                let from = side.other();
                self.count_bytes(side, bytes);
                self.event(slot, index, Event::Piped { from, bytes });
                true
            }
            Err(_) => {
                self.unwritable(slot, index, side);
                true
            }
        }
    }

    fn count_bytes(&self, to: Side, bytes: u64) {
        match to {
            Side::Downstream => self.counters.bytes_down.add(bytes),
            Side::Upstream => self.counters.bytes_up.add(bytes),
        }
    }

    /// Reads from a side what the session wants of it.
    fn hear(&mut self, slot: &mut Slot, index: usize, side: Side, budget: &mut usize) -> bool {
        let want = slot.session.wants(side);
        let Some(conn) = slot.conn(side) else {
            return false;
        };
        let (hangup, failed) = (conn.hangup, conn.failed);
        if want == Want::Nothing {
            if failed && !conn.eof {
                conn.failed = false;
                self.event(slot, index, Event::Broken(side));
                return true;
            }
            if hangup && !slot.hangup_told[side as usize] {
                slot.hangup_told[side as usize] = true;
                self.event(slot, index, Event::Hangup(side));
                return true;
            }
            return false;
        }
        match want {
            Want::Nothing => false,
            Want::BytesAfterFlush(_) if !slot.flows[side as usize].is_empty() => false,
            Want::Bytes(most) | Want::BytesAfterFlush(most) => {
                self.read(slot, index, side, most, budget)
            }
            Want::Pipe(length) => self.pipe(slot, index, side, length, budget),
        }
    }

    fn read(
        &mut self,
        slot: &mut Slot,
        index: usize,
        side: Side,
        most: usize,
        budget: &mut usize,
    ) -> bool {
        if !slot.flows[side.other() as usize].is_empty() {
            return false;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let most = most.min(buffer.len());
        let outcome = match slot.conn(side) {
            Some(conn) if conn.readable && !conn.eof => conn.read(&mut buffer[..most]),
            _ => Ok(None),
        };
        let progress = match outcome {
            Ok(None) => false,
            Ok(Some(0)) => {
                self.event(slot, index, Event::Eof(side));
                true
            }
            Ok(Some(count)) => {
                *budget = budget.saturating_sub(count);
                self.event(slot, index, Event::Bytes(side, &buffer[..count]));
                true
            }
            Err(_) => {
                self.event(slot, index, Event::Broken(side));
                true
            }
        };
        self.buffer = buffer;
        progress
    }

    fn pipe(
        &mut self,
        slot: &mut Slot,
        index: usize,
        side: Side,
        length: Option<u64>,
        budget: &mut usize,
    ) -> bool {
        let Slot {
            downstream,
            upstream: Some(upstream),
            flows,
            ..
        } = slot
        else {
            return false;
        };
        if upstream.connecting {
            return false;
        }
        let (from, to) = match side {
            Side::Downstream => (downstream, &mut upstream.conn),
            Side::Upstream => (&mut upstream.conn, downstream),
        };
        let mut tools = Tools {
            buffer: &mut self.buffer,
            pipes: &mut self.pipes,
            // What a client sends ahead is its next request.
            may_overread: side == Side::Upstream,
        };
        let flow = &mut flows[side.other() as usize];
        let pumped = pump(from, to, flow, length, *budget, &mut tools);
        *budget = budget.saturating_sub(usize::try_from(pumped.bytes).unwrap_or(usize::MAX));
        let mut progress = false;
        if pumped.bytes > 0 {
            self.count_bytes(side.other(), pumped.bytes);
            let news = Event::Piped {
                from: side,
                bytes: pumped.bytes,
            };
            self.event(slot, index, news);
            progress = true;
        }
        // The session may have changed its mind over the bytes.
        if slot.closing.is_some() {
            return true;
        }
        match pumped.stop {
            Stop::Blocked | Stop::Complete => progress,
            Stop::Budget => {
                *budget = 0;
                true
            }
            Stop::Eof => {
                self.event(slot, index, Event::Eof(side));
                true
            }
            Stop::Unreadable => {
                self.event(slot, index, Event::Broken(side));
                true
            }
            Stop::Unwritable => {
                self.unwritable(slot, index, side.other());
                true
            }
        }
    }

    fn unwritable(&mut self, slot: &mut Slot, index: usize, side: Side) {
        slot.flows[side as usize].clear(&mut self.pipes);
        if let Some(conn) = slot.conn(side) {
            conn.shut = true;
            conn.writable = false;
            // Reading tells what it still has to say, or that it is gone.
            conn.readable = true;
        }
        self.event(slot, index, Event::Unwritable(side));
    }

    /// Tells the session and does what it says.
    pub(super) fn event(&mut self, slot: &mut Slot, index: usize, event: Event<'_>) {
        for side in [Side::Downstream, Side::Upstream] {
            let out = &mut slot.flows[side as usize].out;
            if out.capacity() == 0 {
                *out = self.pipes.buffer();
            }
        }
        let mut actions = std::mem::take(&mut self.actions);
        let before = [slot.flows[0].out.len(), slot.flows[1].out.len()];
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
        };
        slot.session.handle(event, &mut cx);
        for side in [Side::Downstream, Side::Upstream] {
            let out = &mut slot.flows[side as usize].out;
            let written = out.len().saturating_sub(before[side as usize]);
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
                Action::Connect { to, reuse, within } => {
                    self.drop_upstream(slot);
                    self.connect(slot, index, to, reuse, within);
                }
                Action::Keep => self.keep(slot),
                Action::DropUpstream => self.drop_upstream(slot),
                Action::Finish(side) => {
                    if let Some(conn) = slot.conn(side) {
                        conn.finish = true;
                    }
                }
                Action::Close(ending) => {
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

    fn connect(
        &mut self,
        slot: &mut Slot,
        index: usize,
        to: SocketAddr,
        reuse: Reuse,
        within: Duration,
    ) {
        while reuse != Reuse::Never
            && let Some(upstream) = self.pool.take(to, self.now)
        {
            let alive = reuse == Reuse::Any || is_silent(&upstream.conn);
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

    fn dial(&mut self, index: usize, to: SocketAddr) -> io::Result<Upstream> {
        let mut stream = mio::net::TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
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
            address: to,
            conn: Conn::new(stream, false),
            connecting: true,
            idle_since: None,
        })
    }

    fn keep(&mut self, slot: &mut Slot) {
        let clean = slot.flows[Side::Upstream as usize].is_empty();
        let Some(mut upstream) = slot.upstream.take() else {
            return;
        };
        let conn = &mut upstream.conn;
        let mut alive = !(conn.eof || conn.hangup || conn.failed || conn.shut || conn.finish);
        alive &= !conn.surplus;
        // Bytes that nobody asked for would be taken for the next response.
        if conn.readable && alive {
            alive = is_silent(conn);
            conn.readable = false;
        }
        if !(clean && alive) || self.drain_until.is_some() {
            slot.upstream = Some(upstream);
            return self.drop_upstream(slot);
        }
        self.upstreams[upstream.id] = Owner::Idle(upstream.address);
        if let Some(surplus) = self.pool.put(upstream, self.now) {
            self.close_upstream(surplus);
        }
        self.sweep_later();
    }

    fn drop_upstream(&mut self, slot: &mut Slot) {
        slot.again_at = None;
        slot.news = None;
        if let Some(upstream) = slot.upstream.take() {
            slot.flows[Side::Upstream as usize].clear(&mut self.pipes);
            self.close_upstream(upstream);
        }
    }

    /// Delivers what is on its way, then closes.
    fn close_step(&mut self, slot: &mut Slot) {
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
        let [down, up] = flows;
        let gone = down.flush(downstream, &mut self.pipes).is_err();
        if gone {
            down.clear(&mut self.pipes);
        }
        if let Some(upstream) = upstream {
            let failed = up.flush(&mut upstream.conn, &mut self.pipes).is_err();
            if failed || upstream.connecting {
                up.clear(&mut self.pipes);
            }
        } else {
            up.clear(&mut self.pipes);
        }
        if !(down.is_empty() && up.is_empty()) {
            return;
        }
        if closing.ending == Ending::Linger {
            if let Some(upstream) = upstream.take() {
                self.upstreams.try_remove(upstream.id);
            }
            session.delivered();
        }
        match closing.ending {
            Ending::Clean => *done = true,
            Ending::Reset(side) => {
                let conn = match (side, upstream) {
                    (Side::Upstream, Some(upstream)) => &upstream.conn,
                    _ => &*downstream,
                };
                if conn.unacknowledged() > 0 && self.now < closing.by {
                    // A reset would throw it away: look again in a moment.
                    *again_at = Some((self.now + RESET_POLL).min(closing.by));
                    return;
                }
                // Without it the peer sees an end where there was a break. Fails only on a
                // socket that is gone already.
                let socket = socket2::SockRef::from(&conn.stream);
                drop(socket.set_linger(Some(Duration::ZERO)));
                *done = true;
            }
            Ending::Linger if gone => *done = true,
            Ending::Linger => {
                if !downstream.shut {
                    downstream.finish = true;
                    // Nothing is left to be written, so this only shuts.
                    drop(down.flush(downstream, &mut self.pipes));
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
                *done |= downstream.eof;
            }
        }
    }
}

/// Whether nothing has come on an idle connection; an end would be something.
fn is_silent(conn: &Conn) -> bool {
    let mut byte = [0; 1];
    matches!(
        conn.stream.peek(&mut byte),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock
    )
}

fn failure(error: &io::Error) -> ConnectFailure {
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
