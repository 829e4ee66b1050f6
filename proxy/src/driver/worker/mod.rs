//! One worker: a thread with its own loop, listeners, sessions, upstream connections and
//! timers. It turns readiness, timers and mail into events for sessions and carries out what
//! they answer; workers share nothing but the table and the gates.
//!
//! A turn of the loop: mark what epoll says is ready, run each of those sessions within its
//! budget of bytes, then the mail, then the timers. A session that has used up its budget is
//! run again after the others. Nothing is freed while readiness is being marked, so an event
//! can never meet a slot's next tenant.
#![expect(
    clippy::disallowed_methods,
    reason = "the loop reads the clock once per turn and hands it to sessions"
)]

mod act;
mod gates;
mod secure;
mod shared;
mod slot;
mod trunks;
mod welcome;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use flocker_api::edge::ListenerKind;
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;

use self::slot::Slot;
use super::{
    access,
    h2::bell::{Bells, Target},
    listener::Listener,
    live::Reader,
    pool::{Peer, Pool, Upstream},
    relay::{Conn, Pipes},
    timers::{Alarm, Timers},
    tls,
};
use crate::{
    config::{Config, WorkerLimits},
    logic::{
        access::Record,
        gate::{Call, Gate},
        guard::Guard,
        session::{Action, Event},
    },
    metrics::Counters,
};

/// Connections accepted from one listener in one turn.
const ACCEPTS_PER_TURN: usize = 64;
/// Events taken from the kernel in one turn.
const EVENTS_PER_TURN: usize = 1024;
/// How long accepting rests when there are no descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(50);
/// How often idle upstream connections are looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// The worker's read buffer.
const BUFFER_BYTES: usize = 256 << 10;

const KIND_DOWNSTREAM: usize = 0;
const KIND_UPSTREAM: usize = 1;
const KIND_LISTENER: usize = 2;
const KIND_WAKER: usize = 3;

fn token(kind: usize, index: usize) -> Token {
    Token(index << 2 | kind)
}

/// What a worker is told.
#[derive(Debug)]
pub enum Mail {
    /// Accept from this socket, too.
    Listen(Listener),
    /// Close the socket of this address, and say so.
    Unlisten(SocketAddr, mpsc::Sender<()>),
    /// Gates have answered these.
    Calls(Vec<Call>),
    /// End what is opaque and established at this gate.
    Quiesce(Arc<Gate>),
    /// Keep to the times of this gate.
    Watch(Arc<Gate>),
    /// Close idle connections to these upstreams.
    Forget(Vec<SocketAddr>),
    /// Accept nothing more, and stop when nothing is left or at this time.
    Drain(Instant),
    /// Another process accepts: the same, but who is idle may send another request.
    Retire(Instant),
    /// Duplicates of its listening sockets, for another process.
    Lend(mpsc::Sender<Vec<Lent>>),
    /// Other limits from now on.
    Limits(Box<WorkerLimits>),
    /// Whether it still turns.
    Ping(mpsc::Sender<()>),
}

/// A duplicate of a listening socket.
pub type Lent = (SocketAddr, ListenerKind, OwnedFd);

/// Sends mail to a worker.
#[derive(Debug, Clone)]
pub struct Mailbox {
    sender: mpsc::Sender<Mail>,
    waker: Arc<Waker>,
}

impl Mailbox {
    /// Sends; a worker that has stopped gets nothing, and then this is false.
    pub fn send(&self, mail: Mail) -> bool {
        let sent = self.sender.send(mail).is_ok();
        if sent {
            // Fails only if the eventfd is gone, and then the worker is.
            drop(self.waker.wake());
        }
        sent
    }
}

enum Owner {
    Session(usize),
    Idle(Peer),
}

struct Accepting {
    socket: mio::net::TcpListener,
    address: SocketAddr,
    kind: ListenerKind,
    /// There may be something in its queue.
    ready: bool,
}

/// See the module.
pub struct Worker {
    number: usize,
    poll: Poll,
    mail: mpsc::Receiver<Mail>,
    tables: Reader,
    limits: WorkerLimits,
    counters: Arc<Counters>,
    listeners: Slab<Accepting>,
    sessions: Slab<Option<Box<Slot>>>,
    upstreams: Slab<Owner>,
    pool: Pool,
    /// Shared upstream connections, by where they lead.
    trunks: HashMap<Peer, Vec<trunks::Shared>>,
    pipes: Pipes,
    timers: Timers,
    /// Those whose times this worker keeps.
    gates: gates::Watched,
    buffer: Box<[u8]>,
    actions: Vec<Action>,
    /// What HTTP/2 connections and streams have woken.
    bells: Bells,
    targets: Vec<Target>,
    /// Sessions to run in this turn.
    ready: Vec<usize>,
    /// Sessions that have used up their budget.
    again: Vec<usize>,
    serial: u64,
    sweeping: bool,
    resting: bool,
    guard: Arc<Guard>,
    /// Of accepting.
    drain_until: Option<Instant>,
    now: Instant,
    tls: tls::Configs,
    access: access::Handle,
    /// Requests and sessions that were over in this turn.
    records: Vec<Record>,
}

impl Worker {
    /// A worker and its mailbox.
    ///
    /// # Errors
    /// The kernel gives no epoll or eventfd.
    pub fn new(
        number: usize,
        config: &Config,
        tables: Reader,
        counters: Arc<Counters>,
        access: access::Handle,
        material: Arc<tls::Material>,
        guard: Arc<Guard>,
    ) -> io::Result<(Self, Mailbox)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), token(KIND_WAKER, 0))?);
        let (sender, mail) = mpsc::channel();
        let limits = config.worker_limits();
        let worker = Self {
            number,
            poll,
            mail,
            tables,
            trunks: HashMap::new(),
            pool: Pool::new(limits.upstream_idle_count, limits.upstream_idle),
            pipes: Pipes::new(limits.pipes),
            limits,
            counters,
            listeners: Slab::new(),
            sessions: Slab::new(),
            upstreams: Slab::new(),
            timers: Timers::default(),
            gates: gates::Watched::default(),
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            actions: Vec::new(),
            bells: Bells::default(),
            targets: Vec::new(),
            ready: Vec::new(),
            again: Vec::new(),
            serial: 0,
            sweeping: false,
            resting: false,
            guard,
            drain_until: None,
            now: Instant::now(),
            tls: tls::Configs::new(material),
            access,
            records: Vec::new(),
        };
        Ok((worker, Mailbox { sender, waker }))
    }

    /// Runs until drained.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        while !self.is_drained() {
            if let Err(error) = self.turn(&mut events) {
                // Nothing of it depends on a client; better a pause than a spin.
                tracing::error!(worker = self.number, %error, "epoll failed");
                break;
            }
        }
        self.hand_gates_over();
    }

    fn turn(&mut self, events: &mut Events) -> io::Result<()> {
        let busy = !self.again.is_empty() || self.may_accept();
        let wait = match busy {
            true => Some(Duration::ZERO),
            false => self.timers.wait(self.now),
        };
        match self.poll.poll(events, wait) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        self.now = Instant::now();
        for index in std::mem::take(&mut self.again) {
            self.mark(index, |_| {});
        }
        let mut mail = false;
        for event in events.iter() {
            let index = event.token().0 >> 2;
            match event.token().0 & 3 {
                KIND_DOWNSTREAM => self.mark(index, |slot| note(&mut slot.downstream, event)),
                KIND_UPSTREAM => self.mark_upstream(index, event),
                KIND_LISTENER => {
                    if let Some(listener) = self.listeners.get_mut(index) {
                        listener.ready = true;
                    }
                }
                _ => mail = true,
            }
        }
        self.run_ready();
        if mail {
            self.read_mail();
        }
        self.accept();
        self.fire();
        self.run_ready();
        if !self.records.is_empty() {
            let dropped = self.access.send(&mut self.records);
            self.counters.access_dropped.add(dropped);
        }
        Ok(())
    }

    fn run_ready(&mut self) {
        // In the order in which they were marked: what was parked first also writes first.
        while self.hear_bells() || !self.ready.is_empty() {
            let mut batch = std::mem::take(&mut self.ready);
            for index in batch.drain(..) {
                self.run_session(index);
            }
            // Its room is used again.
            if self.ready.is_empty() {
                self.ready = batch;
            }
        }
    }

    fn mark(&mut self, index: usize, change: impl FnOnce(&mut Slot)) {
        if let Some(Some(slot)) = self.sessions.get_mut(index) {
            change(slot);
            if !slot.queued {
                slot.queued = true;
                self.ready.push(index);
            }
        }
    }

    fn mark_upstream(&mut self, id: usize, event: &mio::event::Event) {
        match self.upstreams.get(id) {
            Some(Owner::Session(index)) => {
                let index = *index;
                self.mark(index, |slot| {
                    if let Some(upstream) = &mut slot.upstream {
                        note(&mut upstream.conn, event);
                    }
                });
            }
            // An idle connection has nothing to say but goodbye.
            Some(Owner::Idle(peer)) => {
                let peer = peer.clone();
                let readable = event.is_readable() || event.is_read_closed() || event.is_error();
                if readable
                    && !self.pool.is_silent(&peer, id)
                    && let Some(upstream) = self.pool.remove(&peer, id)
                {
                    self.close_upstream(upstream);
                }
            }
            None => {}
        }
    }

    fn read_mail(&mut self) {
        while let Ok(mail) = self.mail.try_recv() {
            match mail {
                Mail::Listen(listener) => self.listen(listener),
                Mail::Unlisten(address, done) => {
                    self.close_listeners(|listener| listener.address == address);
                    if done.send(()).is_err() {
                        tracing::debug!(%address, "nobody waited for a listener to close");
                    }
                }
                Mail::Calls(calls) => {
                    for call in calls {
                        self.tell(call.seat.slot, Event::Called(call));
                    }
                }
                Mail::Quiesce(gate) => self.quiesce(&gate),
                Mail::Watch(gate) => self.watch(gate),
                Mail::Forget(addresses) => {
                    for address in addresses {
                        self.leave_trunks(address);
                        for upstream in self.pool.forget(address) {
                            self.close_upstream(upstream);
                        }
                    }
                }
                Mail::Drain(until) => {
                    self.drain_until = Some(until);
                    // Who is in the queue has been promised a connection.
                    self.accept();
                    self.close_listeners(|_| true);
                    for upstream in self.pool.clear() {
                        self.close_upstream(upstream);
                    }
                    self.timers.set(until, Alarm::Sweep);
                    self.tell_all(Event::Drain);
                }
                Mail::Retire(until) => {
                    self.drain_until = Some(until);
                    // Who is in the queue gets a connection from the other process.
                    self.close_listeners(|_| true);
                    self.timers.set(until, Alarm::Sweep);
                    self.tell_all(Event::Retire);
                }
                Mail::Lend(lend) => {
                    let lent: Vec<Lent> = self.lend();
                    if lend.send(lent).is_err() {
                        tracing::debug!("nobody waited for the sockets");
                    }
                }
                Mail::Limits(limits) => self.limits = *limits,
                Mail::Ping(pong) => {
                    if pong.send(()).is_err() {
                        tracing::debug!("nobody waited for a sign of life");
                    }
                }
            }
        }
    }

    /// Another process may hold the same sockets: closing ours does not take them out of our
    /// epoll, so it is said (epoll(7), "Will closing a file descriptor cause it to be removed").
    fn close_listeners(&mut self, closes: impl Fn(&Accepting) -> bool) {
        let poll = &self.poll;
        self.listeners.retain(|_, listener| {
            if !closes(listener) {
                return true;
            }
            if let Err(error) = poll.registry().deregister(&mut listener.socket) {
                tracing::debug!(address = %listener.address, %error, "a listener is gone already");
            }
            false
        });
    }

    fn lend(&self) -> Vec<Lent> {
        let duplicates = self.listeners.iter().filter_map(|(_, listener)| {
            match listener.socket.as_fd().try_clone_to_owned() {
                Ok(socket) => Some((listener.address, listener.kind, socket)),
                Err(error) => {
                    tracing::error!(address = %listener.address, %error, "cannot lend a listener");
                    None
                }
            }
        });
        duplicates.collect()
    }

    fn tell_all(&mut self, event: Event<'_>) {
        let indices: Vec<usize> = self.sessions.iter().map(|(index, _)| index).collect();
        for index in indices {
            self.tell(index, event);
        }
    }

    /// Only those whom it concerns: the others are not even woken.
    fn quiesce(&mut self, gate: &Arc<Gate>) {
        let concerned = self.sessions.iter().filter_map(|(index, slot)| {
            let slot = slot.as_ref()?;
            slot.session.is_admitted_at(gate).then_some(index)
        });
        for index in concerned.collect::<Vec<usize>>() {
            self.tell(index, Event::Quiesce(gate));
        }
    }

    fn listen(&mut self, listener: Listener) {
        if let Err(error) = self.limits.tcp.set(&listener.socket) {
            tracing::warn!(address = %listener.address, %error, "cannot set options of a listener");
        }
        let mut socket = mio::net::TcpListener::from_std(listener.socket);
        let entry = self.listeners.vacant_entry();
        let token = token(KIND_LISTENER, entry.key());
        match self
            .poll
            .registry()
            .register(&mut socket, token, Interest::READABLE)
        {
            Ok(()) => {
                entry.insert(Accepting {
                    socket,
                    address: listener.address,
                    kind: listener.kind,
                    ready: true,
                });
            }
            Err(error) => {
                tracing::error!(address = %listener.address, %error, "cannot watch a listener");
            }
        }
    }

    fn has_room(&self) -> bool {
        self.sessions.len() < self.limits.sessions && !self.resting
    }

    fn may_accept(&self) -> bool {
        self.has_room() && self.listeners.iter().any(|(_, listener)| listener.ready)
    }

    fn fire(&mut self) {
        while let Some(alarm) = self.timers.pop(self.now) {
            match alarm {
                Alarm::Session(index, serial) => self.alarm(index, serial),
                Alarm::Sweep => {
                    self.sweeping = false;
                    for upstream in self.pool.sweep(self.now) {
                        self.close_upstream(upstream);
                    }
                    self.sweep_later();
                }
                Alarm::Accept => self.resting = false,
                Alarm::Gate(name) => self.tick(name),
            }
        }
    }

    fn sweep_later(&mut self) {
        if !self.sweeping && !self.pool.is_empty() {
            self.sweeping = true;
            self.timers.set(self.now + SWEEP_EVERY, Alarm::Sweep);
        }
    }

    fn close_upstream(&mut self, mut upstream: Upstream) {
        upstream.conn.stream.part();
        // Closing the descriptor takes it out of epoll.
        self.upstreams.try_remove(upstream.id);
        drop(upstream);
    }

    fn is_drained(&self) -> bool {
        self.drain_until
            .is_some_and(|until| self.sessions.is_empty() || self.now >= until)
    }
}

/// Notes what epoll says of a socket.
fn note(conn: &mut Conn, event: &mio::event::Event) {
    conn.readable |= event.is_readable();
    conn.writable |= event.is_writable();
    conn.failed |= event.is_error();
    conn.readable |= event.is_error();
    if event.is_read_closed() {
        conn.hangup = true;
        conn.readable = true;
    }
}

/// How mail is spread: calls go to the worker that they are for.
pub fn deliver(mailboxes: &[Mailbox], calls: Vec<Call>) {
    let mut by_worker: HashMap<usize, Vec<Call>> = HashMap::new();
    for call in calls {
        by_worker.entry(call.seat.worker).or_default().push(call);
    }
    for (worker, calls) in by_worker {
        if let Some(mailbox) = mailboxes.get(worker) {
            mailbox.send(Mail::Calls(calls));
        }
    }
}
