//! Letting connections in: who may come, at what pace, and for whom a proxy connects.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
};

use flocker_api::{edge::ListenerKind, upstream::SendProxy};
use mio::Interest;

use super::{ACCEPT_REST, ACCEPTS_PER_TURN, KIND_DOWNSTREAM, Worker, slot::Slot, token};
use crate::{
    driver::{relay::Conn, timers::Alarm},
    logic::{
        guard::Refused,
        proxy_header::{self, Ends, Facts},
        session::{Action, Ending, Event, Session, Side, preface},
    },
};

/// Where a connection came in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entrance {
    kind: ListenerKind,
    address: SocketAddr,
}

impl Worker {
    pub(super) fn accept(&mut self) {
        let mut accepted = Vec::new();
        let mut room = self.limits.sessions.saturating_sub(self.sessions.len());
        if self.resting {
            return;
        }
        let mut rest = None;
        'all: for (_, listener) in &mut self.listeners {
            if !listener.ready {
                continue;
            }
            for _ in 0..ACCEPTS_PER_TURN.min(room) {
                let rate = self.limits.session_rate;
                if rate > 0
                    && let Err(wait) = self.guard.pace.take(rate, self.now)
                {
                    rest = Some(wait);
                    break 'all;
                }
                let came = listener.socket.accept();
                if came.is_err() && rate > 0 {
                    self.guard.pace.give_back(rate);
                }
                match came {
                    Ok((stream, client)) => {
                        room -= 1;
                        accepted.push((stream, client, listener.kind, listener.address));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        listener.ready = false;
                        break;
                    }
                    // The client was gone before we came.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        tracing::warn!(address = %listener.address, %error, "cannot accept");
                        self.counters.accept_failures.inc();
                        rest = Some(ACCEPT_REST);
                        break 'all;
                    }
                }
            }
        }
        if let Some(wait) = rest {
            self.resting = true;
            self.timers.set(self.now + wait, Alarm::Accept);
        }
        for (stream, client, kind, address) in accepted {
            self.welcome(stream, client, Entrance { kind, address });
        }
    }

    fn welcome(&mut self, mut stream: mio::net::TcpStream, client: SocketAddr, entrance: Entrance) {
        self.counters.accepted.inc();
        // Whoever comes by a proxy is judged when it is known who it is.
        let by_proxy = self.guard.proxies.names(client.ip());
        let guest = match by_proxy {
            true => None,
            false => match self.guard.enter(client.ip(), self.now) {
                Ok(guest) => guest,
                Err(refused) => return self.count_refused(refused),
            },
        };
        let index = self.sessions.vacant_key();
        let registered = self.poll.registry().register(
            &mut stream,
            token(KIND_DOWNSTREAM, index),
            Interest::READABLE | Interest::WRITABLE,
        );
        if let Err(error) = registered {
            tracing::warn!(%client, %error, "cannot watch a connection");
            return;
        }
        self.counters.sessions.inc();
        self.serial += 1;
        let until = self.now + self.limits.session.proxy_header_timeout;
        let session = Session::Preface(preface::Session::new(until));
        let mut slot = Slot::new(session, Conn::new(stream, true), client, self.serial);
        slot.guest = guest;
        slot.entrance = Some(entrance);
        self.sessions.insert(Some(Box::new(slot)));
        if !by_proxy {
            self.with_slot(index, |worker, slot| worker.begin(slot, index, entrance));
        }
        self.mark(index, |_| {});
    }

    fn begin(&mut self, slot: &mut Slot, index: usize, entrance: Entrance) {
        self.consult(slot, index, |session, cx| {
            *session = Session::arrive(entrance.kind, entrance.address, cx);
        });
    }

    fn count_refused(&self, refused: Refused) {
        match refused {
            Refused::Denied => self.counters.denied.inc(),
            Refused::Sessions => self.counters.client_sessions_exceeded.inc(),
            Refused::Rate => self.counters.client_rate_exceeded.inc(),
        }
    }

    /// A look at what a proxy has sent; whether anything happened.
    pub(super) fn peek(&mut self, slot: &mut Slot, index: usize, most: usize) -> bool {
        let conn = &mut slot.downstream;
        let Some(socket) = conn.stream.socket().filter(|_| conn.readable && !conn.eof) else {
            return false;
        };
        let mut buffer = std::mem::take(&mut self.buffer);
        let most = most.min(buffer.len());
        let outcome = socket.peek(&mut buffer[..most]);
        // What comes later is a new edge.
        conn.readable = false;
        match outcome {
            Ok(0) => {
                conn.eof = true;
                self.event(slot, index, Event::Eof(Side::Downstream));
            }
            Ok(count) => {
                self.event(slot, index, Event::Peeked(&buffer[..count]));
                // It has said all it will, and that is no header.
                let waits = matches!(slot.session, Session::Preface(_)) && slot.closing.is_none();
                if waits && slot.downstream.hangup {
                    self.event(slot, index, Event::Eof(Side::Downstream));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.buffer = buffer;
                return false;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => conn.readable = true,
            Err(_) => self.event(slot, index, Event::Broken(Side::Downstream)),
        }
        self.buffer = buffer;
        true
    }

    /// A proxy has said for whom it connects: its header is taken out, and the session begins.
    pub(super) fn introduce(
        &mut self,
        slot: &mut Slot,
        index: usize,
        skip: usize,
        ends: Option<Ends>,
    ) {
        let taken = skip_bytes(slot, skip);
        if let Some(ends) = ends {
            slot.client = ends.source;
            slot.local = Some(ends.destination);
        }
        let entered = self.guard.enter(slot.client.ip(), self.now);
        match (taken, entered, slot.entrance) {
            (Ok(()), Ok(guest), Some(entrance)) => {
                slot.guest = guest;
                slot.downstream.readable = true;
                self.begin(slot, index, entrance);
            }
            (_, entered, _) => {
                if let Err(refused) = entered {
                    self.count_refused(refused);
                }
                self.apply(slot, index, &mut vec![Action::Close(Ending::Clean)]);
            }
        }
    }
}

/// The header is there, since it has been looked at.
fn skip_bytes(slot: &Slot, mut count: usize) -> io::Result<()> {
    let mut socket = slot
        .downstream
        .stream
        .socket()
        .ok_or(io::ErrorKind::NotConnected)?;
    let mut buffer = [0; 512];
    while count > 0 {
        let most = count.min(buffer.len());
        match socket.read(&mut buffer[..most])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => count -= read,
        }
    }
    Ok(())
}

/// The PROXY header of a session's client.
pub(super) fn header(slot: &Slot, version: SendProxy) -> Vec<u8> {
    let ends = Ends {
        source: slot.client,
        destination: slot
            .local
            .or_else(|| slot.downstream.local())
            .unwrap_or(slot.client),
    };
    let facts = Facts {
        authority: slot.session.server_name(),
        alpn: slot.session.alpn(),
    };
    let mut header = Vec::new();
    proxy_header::write(version, &ends, &facts, &mut header);
    header
}

/// Gives a new connection what it begins with. A fresh socket has room for so little.
pub(super) fn open_with(conn: &Conn, opening: &[u8]) -> io::Result<()> {
    if opening.is_empty() {
        return Ok(());
    }
    let mut socket = conn.stream.socket().ok_or(io::ErrorKind::NotConnected)?;
    match socket.write(opening)? {
        count if count == opening.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}
