//! Connections that carry streams: each stream of a client's HTTP/2 connection is a session in
//! a slot of its own, whose downstream is the stream. The connection's slot reads and writes
//! for all of them, and has an [`Island`] in between.

use super::{Worker, slot::Slot};
use crate::{
    driver::{
        h2::{
            self, Island,
            bell::Target,
            server::{self, Incoming, Polled},
        },
        relay::{Conn, Stream},
    },
    logic::{
        h2::carrier::{Carrier, Leave},
        http::Scheme,
        session::{Event, Session, Side, http},
    },
};

impl Worker {
    /// Makes a connection one that carries streams. `ahead` is what has been read of it.
    pub(super) fn begin_carrying(
        &mut self,
        slot: &mut Slot,
        index: usize,
        scheme: Scheme,
        ahead: &[u8],
    ) {
        let waker = self.bells.waker(Target::Session(index, slot.serial));
        let limits = &self.limits.session;
        let island = server::Island::new(&limits.h2, limits.head_bytes, scheme, waker);
        slot.island = Some(Box::new(Island::Server(island)));
        self.counters.h2_connections.inc();
        self.consult(slot, index, |session, cx| {
            *session = Session::Carrier(Box::new(Carrier::new(&cx.limits.h2, cx)));
        });
        self.feed(slot, ahead);
        let event = Event::Bytes(Side::Downstream, ahead);
        self.consult(slot, index, |session, cx| session.handle(event, cx));
    }

    /// Gives an island what its connection has received.
    pub(super) fn feed(&self, slot: &Slot, bytes: &[u8]) {
        if let Some(island) = &slot.island {
            island.pipe().feed(bytes);
        }
    }

    /// Lets an island go on: opens the streams that have come, and takes what it has to say.
    /// Whether anything happened.
    pub(super) fn carry(&mut self, slot: &mut Slot, index: usize) -> bool {
        let Some(mut island) = slot.island.take() else {
            return false;
        };
        let mut progress = false;
        let ended = match &mut *island {
            Island::Server(island) => loop {
                match island.poll() {
                    Polled::Request(incoming) => {
                        progress = true;
                        self.open_stream(slot, island.scheme(), *incoming);
                    }
                    Polled::Pending => break false,
                    Polled::Ended => break true,
                }
            },
            Island::Client(island) => island.poll(),
        };
        // Otherwise it waits in the pipe, which is bounded: a client that does not read is
        // not served.
        let out = &mut slot.flows[Side::Downstream as usize].out;
        let said = out.is_empty() && island.pipe().drain(out);
        let (streams, unread) = (island.streams(), island.pipe().unread());
        if streams == 0 {
            island.pipe().rest();
        }
        slot.island = Some(island);
        if said {
            progress = true;
            let said = std::mem::take(&mut slot.flows[Side::Downstream as usize].out);
            self.count_bytes(Side::Downstream, said.len() as u64);
            slot.moved[Side::Downstream as usize] += said.len() as u64;
            self.consult(slot, index, |session, cx| {
                if let Session::Carrier(carrier) = session {
                    carrier.said(&said, cx);
                }
            });
            // An action may have written more.
            let out = &mut slot.flows[Side::Downstream as usize].out;
            let after = std::mem::replace(out, said);
            out.extend_from_slice(&after);
        }
        self.consult(slot, index, |session, cx| match session {
            Session::Carrier(carrier) => {
                carrier.streams(streams, unread, cx);
                if ended {
                    carrier.ended(cx);
                }
            }
            Session::Trunk(trunk) => {
                trunk.streams(streams, unread, cx);
                if ended {
                    trunk.ended(cx);
                }
            }
            Session::Opaque(_) | Session::Http(_) | Session::Preface(_) => {}
        });
        progress || slot.closing.is_some()
    }

    /// Ends a connection's streams as it was ordered; what is said last is put on its way.
    pub(super) fn leave(&mut self, slot: &mut Slot, leave: Leave) {
        let Some(Island::Server(island)) = slot.island.as_deref_mut() else {
            return;
        };
        match leave {
            Leave::Gracefully => island.leave(),
            Leave::Flood(flood) => {
                tracing::info!(client = %slot.client, "connection ended: {flood}");
                island.break_off();
                while let Polled::Request(incoming) = island.poll() {
                    incoming.refuse();
                }
            }
        }
    }

    /// Asks a shared connection's peer whether it is there.
    pub(super) fn ping(&mut self, slot: &mut Slot) {
        if let Some(Island::Client(island)) = slot.island.as_deref_mut() {
            island.ping();
        }
    }

    /// A connection is about to be closed: its streams are lost.
    pub(super) fn end_carrying(&mut self, slot: &mut Slot) {
        if let Some(island) = slot.island.take() {
            let out = &mut slot.flows[Side::Downstream as usize].out;
            let before = out.len();
            island.pipe().drain(out);
            slot.moved[Side::Downstream as usize] += (out.len() - before) as u64;
            if let Island::Server(_) = *island {
                self.counters.h2_connections.dec();
            }
        }
    }

    fn open_stream(&mut self, carrier: &Slot, scheme: Scheme, incoming: Incoming) {
        if self.sessions.len() >= self.limits.sessions {
            self.counters.refused.inc();
            return incoming.refuse();
        }
        self.serial += 1;
        let index = self.sessions.vacant_key();
        let waker = self.bells.waker(Target::Session(index, self.serial));
        let stream = match incoming.open(waker) {
            Ok(stream) => stream,
            Err(reason) => {
                tracing::debug!(client = %carrier.client, "request refused: {reason}");
                self.counters.malformed.inc();
                return;
            }
        };
        let stream = h2::Stream::Server(Box::new(stream));
        let mut conn = Conn::over(Stream::H2(stream), true);
        conn.take_stock();
        self.counters.h2_streams.inc();
        let until = self.now + self.limits.session.head_timeout;
        let session = Session::Http(Box::new(
            http::Session::begin(scheme, until)
                .of_http2()
                .with_secured(carrier.secured.clone()),
        ));
        let mut slot = Slot::new(session, conn, carrier.client, self.serial);
        slot.local = carrier.local.or_else(|| carrier.downstream.local());
        let at = self.sessions.insert(Some(Box::new(slot)));
        debug_assert_eq!(at, index, "the slab keeps its word");
        self.mark(index, |_| {});
    }

    /// Marks what h2 connections have woken; whether there was anything.
    pub(super) fn hear_bells(&mut self) -> bool {
        let mut targets = std::mem::take(&mut self.targets);
        self.bells.take(&mut targets);
        let any = !targets.is_empty();
        for target in targets.drain(..) {
            match target {
                Target::Session(index, serial) => self.mark(index, |slot| {
                    if slot.serial == serial {
                        slot.downstream.take_stock();
                        if let Some(upstream) = &mut slot.upstream {
                            upstream.conn.take_stock();
                        }
                    }
                }),
            }
        }
        self.targets = targets;
        any
    }
}
