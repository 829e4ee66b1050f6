//! One session of a worker: its sockets, what is on its way, and the loop that reads and tells
//! the session. What the session then orders is carried out in [`super::act`].

use std::{net::SocketAddr, sync::Arc, time::Instant};

use super::{
    Worker, act,
    welcome::{self, Entrance},
};
use crate::{
    driver::{
        h2::Island,
        pool::{Peer, Upstream},
        relay::{Conn, Flow, Stop, Tools, pump},
        timers::Alarm,
    },
    logic::{
        guard::clients::Guest,
        session::{ConnectFailure, Ending, Event, Secured, Session, Side, Want},
    },
};

/// Bytes that one session may move before the others have their turn.
const BUDGET_BYTES: usize = 1 << 20;
/// See the module.
pub(super) struct Slot {
    pub(super) session: Session,
    pub(super) serial: u64,
    pub(super) client: SocketAddr,
    /// What the client has connected to, if a proxy has said so.
    pub(super) local: Option<SocketAddr>,
    /// Where it came in; streams have none of their own.
    pub(super) entrance: Option<Entrance>,
    /// What counts it for its client.
    pub(super) guest: Option<Guest>,
    pub(super) downstream: Conn,
    /// What makes an HTTP/2 connection of the downstream.
    pub(super) island: Option<Box<Island>>,
    /// What is known of the TLS that the streams of `island` come through.
    pub(super) secured: Option<Arc<Secured>>,
    /// Serial number of the shared connection that is waited for.
    pub(super) waits_for: Option<u64>,
    /// Where this leads, if it is a shared connection to an upstream.
    pub(super) leads_to: Option<Peer>,
    pub(super) upstream: Option<Upstream>,
    /// By the side that they lead to.
    pub(super) flows: [Flow; 2],
    /// Something that came of an action and is to be told.
    pub(super) news: Option<Event<'static>>,
    /// When a connect under way has failed; when closing, when to look again.
    pub(super) again_at: Option<Instant>,
    pub(super) closing: Option<Closing>,
    /// Which sides' hangups have been told.
    pub(super) hangup_told: [bool; 2],
    /// The time of its entry in the timers.
    armed: Option<Instant>,
    /// Bytes moved to each side.
    pub(super) moved: [u64; 2],
    pub(super) queued: bool,
    parked: bool,
    pub(super) done: bool,
}

pub(super) struct Closing {
    pub(super) ending: Ending,
    pub(super) by: Instant,
    pub(super) thrown_away: usize,
}

impl Slot {
    pub(super) fn new(session: Session, downstream: Conn, client: SocketAddr, serial: u64) -> Self {
        Self {
            session,
            serial,
            client,
            local: None,
            entrance: None,
            guest: None,
            downstream,
            island: None,
            secured: None,
            waits_for: None,
            leads_to: None,
            upstream: None,
            flows: [Flow::default(), Flow::default()],
            news: None,
            again_at: None,
            closing: None,
            hangup_told: [false; 2],
            armed: None,
            moved: [0; 2],
            queued: false,
            parked: false,
            done: false,
        }
    }

    pub(super) fn conn(&mut self, side: Side) -> Option<&mut Conn> {
        match side {
            Side::Downstream => Some(&mut self.downstream),
            Side::Upstream => match &mut self.upstream {
                Some(upstream) if !upstream.connecting => Some(&mut upstream.conn),
                _ => None,
            },
        }
    }

    /// Whether the kernel has all that was written to a side.
    fn is_flushed(&mut self, side: Side) -> bool {
        let pending = self.conn(side).map_or(0, |conn| conn.pending());
        pending == 0 && self.flows[side as usize].is_empty()
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
        self.end_carrying(slot);
        match slot.session {
            Session::Trunk(_) => self.forget_trunk(slot),
            _ if slot.downstream.stream.shared().is_some() => self.counters.h2_streams.dec(),
            _ => self.counters.sessions.dec(),
        }
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
                let mut progress = worker.trunk_step(slot, index);
                progress |= worker.step(slot, index, &mut budget);
                if slot.closing.is_none() {
                    progress |= worker.carry(slot, index);
                }
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
        let mut progress = self.connect_step(slot, index) | self.secure_step(slot, index);
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
        let ready = conn.writable || conn.readable || conn.failed || conn.hangup;
        if !upstream.connecting || !ready {
            return false;
        }
        let opened = conn.stream.connected();
        let opened = opened.and_then(|()| {
            let opening = std::mem::take(&mut upstream.opening);
            welcome::open_with(conn, &opening)
        });
        let outcome = match opened {
            Ok(()) => self.secure_upstream(conn, upstream.peer.seal.as_ref()),
            Err(error) => Err(act::failure(&error)),
        };
        match outcome {
            Ok(false) => return false,
            Ok(true) => {
                upstream.connecting = false;
                slot.again_at = None;
                self.event(slot, index, Event::Connected { reused: false });
            }
            Err(failure) => {
                self.drop_upstream(slot);
                self.event(slot, index, Event::ConnectFailed(failure));
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
        if flow.is_empty() && conn.pending() == 0 && !conn.finish {
            return false;
        }
        let before = flow.len() + conn.pending();
        let slow = flow.is_slow() || conn.pending() > 0;
        let outcome = flow.flush(conn, &mut self.pipes);
        let after = flow.len() + conn.pending();
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
                slot.moved[side as usize] += bytes;
                self.event(slot, index, Event::Piped { from, bytes });
                true
            }
            Err(_) => {
                self.unwritable(slot, index, side);
                true
            }
        }
    }

    pub(super) fn count_bytes(&self, to: Side, bytes: u64) {
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
                self.broken(slot, index, side);
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
            Want::BytesAfterFlush(_) if !slot.is_flushed(side) => false,
            Want::Bytes(most) | Want::BytesAfterFlush(most) => {
                self.read(slot, index, side, most, budget)
            }
            Want::Peek(most) => self.peek(slot, index, most),
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
        if !slot.is_flushed(side.other()) {
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
                self.broken(slot, index, side);
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
            slot.moved[side.other() as usize] += pumped.bytes;
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
                self.broken(slot, index, side);
                true
            }
            Stop::Unwritable => {
                self.unwritable(slot, index, side.other());
                true
            }
        }
    }

    fn broken(&mut self, slot: &mut Slot, index: usize, side: Side) {
        let conn = slot.conn(side);
        let stream = conn.and_then(|conn| conn.stream.shared());
        let event = match stream.is_some_and(|stream| stream.is_unprocessed()) {
            true => Event::Unprocessed,
            false => Event::Broken(side),
        };
        self.event(slot, index, event);
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
}
