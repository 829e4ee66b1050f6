//! TLS in a worker: putting it under a client's connection or an upstream's, and shaking hands.
//!
//! A handshake is a state of the connection, not of the session: until it is done the session
//! hears nothing of the bytes, only of the end. Its time is bounded by the deadline of the
//! session (downstream) or of the connect (upstream).

use std::{io, sync::Arc};

use rustls::{
    CommonState, HandshakeKind,
    pki_types::{CertificateDer, ServerName},
};

use super::{Worker, slot::Slot};
use crate::{
    driver::{
        relay::{Conn, Sealed, Stream},
        tls,
    },
    logic::{
        http::Scheme,
        session::{Agreed, ConnectFailure, Event, Seal, Session, Side},
    },
};

impl Worker {
    /// Puts TLS under the client's connection.
    pub(super) fn terminate(&mut self, slot: &mut Slot, index: usize) {
        let Some((offer, hello)) = slot.session.offer() else {
            return;
        };
        let (server_name, terms) = (offer.server_name.clone(), offer.terms.clone());
        let sealed = |socket| {
            let config = self.tls.server(&terms)?;
            Ok::<_, tls::TlsError>(Sealed::accept(socket, config, hello)?)
        };
        match slot.downstream.stream.seal(sealed) {
            // The hello is at hand, so there is something to do without an event.
            Ok(()) => slot.downstream.readable = true,
            Err(error) => {
                tracing::error!(server_name, %error, "cannot terminate TLS");
                self.counters.tls_failures.inc();
                self.event(slot, index, Event::Broken(Side::Downstream));
            }
        }
    }

    /// Goes on with the handshake with the client; whether anything came of it.
    pub(super) fn secure_step(&mut self, slot: &mut Slot, index: usize) -> bool {
        if slot.leads_to.is_some() {
            return false;
        }
        let conn = &mut slot.downstream;
        let ready = conn.readable || conn.writable || conn.hangup;
        let shaking = conn.stream.sealed().is_some_and(|sealed| !sealed.is_open());
        if !(shaking && ready) {
            return false;
        }
        match shake(conn) {
            Ok(false) => false,
            Ok(true) => {
                self.counters.tls_handshakes.inc();
                let agreed = conn.stream.sealed().map(|sealed| agreed(sealed));
                let (agreed, resumed) = agreed.unwrap_or_default();
                if resumed {
                    self.counters.tls_resumed.inc();
                }
                self.event(slot, index, Event::Secured(&agreed));
                if let Session::Http(session) = &slot.session
                    && agreed.protocol.as_deref() == Some(b"h2")
                {
                    slot.secured = session.secured().cloned();
                    self.begin_carrying(slot, index, Scheme::Https, &[]);
                }
                true
            }
            Err(error) => {
                self.counters.tls_failures.inc();
                tracing::debug!(client = %slot.client, %error, "a client's TLS handshake failed");
                self.event(slot, index, Event::Broken(Side::Downstream));
                true
            }
        }
    }

    /// An upstream that has been connected: speaks TLS with it, if that is wanted. Answers
    /// whether it is ready.
    pub(super) fn secure_upstream(
        &mut self,
        conn: &mut Conn,
        seal: Option<&Arc<Seal>>,
    ) -> Result<bool, ConnectFailure> {
        let Some(seal) = seal else {
            return Ok(true);
        };
        if conn.stream.sealed().is_none() {
            let name = ServerName::try_from(seal.server_name.clone());
            let name = name.map_err(|_| ConnectFailure::Untrusted)?;
            let sealed = |socket| {
                let config = self.tls.client(seal.ca.as_ref(), seal.protocol)?;
                Ok::<_, tls::TlsError>(Sealed::connect(socket, config, name)?)
            };
            conn.stream.seal(sealed).map_err(|error| {
                tracing::error!(server_name = seal.server_name, %error, "cannot speak TLS");
                ConnectFailure::Untrusted
            })?;
            conn.readable = true;
        }
        shake(conn).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => {
                tracing::warn!(server_name = seal.server_name, %error, "an upstream's TLS is no good");
                ConnectFailure::Untrusted
            }
            _ => ConnectFailure::Refused,
        })
    }
}

/// Goes on with a handshake; whether it is done.
fn shake(conn: &mut Conn) -> io::Result<bool> {
    let Stream::Tls(sealed) = &mut conn.stream else {
        return Ok(true);
    };
    let open = sealed.handshake()?;
    // Once open, what has come behind the handshake waits without an event.
    conn.readable = open;
    conn.writable = sealed.pending() == 0;
    Ok(open)
}

/// What was agreed upon, and whether a session was resumed.
fn agreed(sealed: &Sealed) -> (Agreed, bool) {
    let state: &CommonState = sealed.state();
    let suite = match (state.protocol_version(), state.negotiated_cipher_suite()) {
        (Some(version), Some(suite)) => format!("{version:?} {:?}", suite.suite()),
        _ => String::new(),
    };
    let certificate = state
        .peer_certificates()
        .and_then(<[CertificateDer<'_>]>::first);
    let agreed = Agreed {
        subject: certificate.and_then(tls::subject),
        suite: suite.replace("TLSv1_", "TLSv1."),
        protocol: state.alpn_protocol().map(<[u8]>::to_vec),
    };
    let resumed = state.handshake_kind() == Some(HandshakeKind::Resumed);
    (agreed, resumed)
}
