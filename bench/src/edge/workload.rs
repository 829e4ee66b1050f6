//! The workloads: what is asked of a subject, what the origin answers, and what a unit is.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
};

use anyhow::{Context as _, Result};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, NamedGroup,
    client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue},
    pki_types::ServerName,
};

use super::{
    client::{Answer, Talk, Tls},
    h2_client,
    origin::Speech,
    peers::HOST,
    subject::Subject,
};
use crate::trial::identity::Identity;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// Size of a message.
const MESSAGE: usize = 512;
/// What is written at a time to a stream.
const CHUNK: usize = 256 * KIB;
/// Payload of a WebSocket message.
const PAYLOAD: usize = 512;
/// Tickets that are kept for resumption.
const TICKETS: usize = 4096;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// An exchange; its cost is told in microseconds.
    Exchange(&'static str),
    /// A GiB, of which each exchange has so many bytes; its cost is told in seconds.
    Gib(usize),
}

impl Unit {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Exchange(name) => name,
            Self::Gib(_) => "GiB",
        }
    }

    /// Units in so many exchanges.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub(super) fn of(self, exchanges: u64) -> f64 {
        match self {
            Self::Exchange(_) => exchanges as f64,
            Self::Gib(bytes) => exchanges as f64 * bytes as f64 / (1u64 << 30) as f64,
        }
    }

    /// In which a cost is told, and how many of it are a second.
    pub(super) fn of_cost(self) -> (&'static str, f64) {
        match self {
            Self::Exchange(_) => ("us", 1e6),
            Self::Gib(_) => ("s", 1.0),
        }
    }
}

/// What the clients do.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    /// Streams into a sink.
    Bulk,
    /// Messages there and back on a kept connection.
    PingPong,
    /// A connection for each message there and back.
    Connect,
    /// A GET of so many bytes on a kept connection, or on one of its own.
    Get {
        bytes: usize,
        once: bool,
    },
    /// The same by HTTP/2, so many streams at a time.
    GetH2 {
        bytes: usize,
        streams: usize,
    },
    /// A GET on a connection of its own whose handshake is full, or resumed.
    Handshake(HandshakeKind),
    /// A ClientHello, then as `Connect`, or as `Bulk`.
    HelloConnect,
    HelloBulk,
    /// Messages there and back after an upgrade.
    WebSocket,
}

/// Sessions that are held, silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sessions {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) kinds: &'static [&'static str],
    /// The workload of which each session has one exchange, or waits for it.
    pub(super) of: &'static str,
    /// They wait at a paused route for their first answer.
    pub(super) parked: bool,
}

/// All kinds of them.
pub(super) const SESSIONS: &[Sessions] = &[
    Sessions {
        name: "idle-tcp",
        about: "TCP sessions that are silent after 512 bytes there and back",
        kinds: &["tcp"],
        of: "pingpong-64",
        parked: false,
    },
    Sessions {
        name: "idle-http",
        about: "HTTP/1.1 connections that are kept after a GET of 1 KiB",
        kinds: &["http1"],
        of: "http1-keepalive",
        parked: false,
    },
    Sessions {
        name: "idle-tls",
        about: "TLS connections that are kept after a GET of 1 KiB",
        kinds: &["tls"],
        of: "tls-keepalive",
        parked: false,
    },
    Sessions {
        name: "idle-websocket",
        about: "WebSocket connections that are silent after a message there and back",
        kinds: &["websocket", "http1"],
        of: "websocket",
        parked: false,
    },
    Sessions {
        name: "parked-tcp",
        about: "TCP sessions that wait at a paused route",
        kinds: &["tcp"],
        of: "pingpong-64",
        parked: true,
    },
    Sessions {
        name: "parked-http",
        about: "requests that wait at a paused route",
        kinds: &["http1"],
        of: "http1-keepalive",
        parked: true,
    },
];

/// A workload whose exchanges are all alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Workload {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) unit: Unit,
    /// Which configurations serve it, the most special first.
    pub(super) kinds: &'static [&'static str],
    /// Connections at a time.
    pub(super) connections: usize,
    shape: Shape,
}

/// All of them.
pub(super) const WORKLOADS: &[Workload] = &[
    Workload {
        name: "bulk-1",
        about: "one TCP stream, as fast as it goes",
        unit: Unit::Gib(CHUNK),
        kinds: &["tcp-bulk", "tcp"],
        connections: 1,
        shape: Shape::Bulk,
    },
    Workload {
        name: "bulk-16",
        about: "16 TCP streams, as fast as they go",
        unit: Unit::Gib(CHUNK),
        kinds: &["tcp-bulk", "tcp"],
        connections: 16,
        shape: Shape::Bulk,
    },
    Workload {
        name: "pingpong-64",
        about: "512 bytes there and back on 64 TCP connections",
        unit: Unit::Exchange("round trip"),
        kinds: &["tcp"],
        connections: 64,
        shape: Shape::PingPong,
    },
    Workload {
        name: "connect",
        about: "a TCP connection, 512 bytes there and back, and its end",
        unit: Unit::Exchange("connection"),
        kinds: &["tcp"],
        connections: 64,
        shape: Shape::Connect,
    },
    Workload {
        name: "http1-keepalive",
        about: "GET of 1 KiB by HTTP/1.1 on 64 kept connections",
        unit: Unit::Exchange("request"),
        kinds: &["http1"],
        connections: 64,
        shape: Shape::Get {
            bytes: KIB,
            once: false,
        },
    },
    Workload {
        name: "http1-close",
        about: "GET of 1 KiB by HTTP/1.1, a connection for each",
        unit: Unit::Exchange("request"),
        kinds: &["http1"],
        connections: 64,
        shape: Shape::Get {
            bytes: KIB,
            once: true,
        },
    },
    Workload {
        name: "http1-large",
        about: "GET of 1 MiB by HTTP/1.1 on 16 kept connections",
        unit: Unit::Gib(MIB),
        kinds: &["http1-large", "http1"],
        connections: 16,
        shape: Shape::Get {
            bytes: MIB,
            once: false,
        },
    },
    Workload {
        name: "http2",
        about: "GET of 1 KiB by HTTP/2 in clear, 8 connections of 8 streams; HTTP/1.1 to the origin",
        unit: Unit::Exchange("request"),
        kinds: &["http2", "http1"],
        connections: 8,
        shape: Shape::GetH2 {
            bytes: KIB,
            streams: 8,
        },
    },
    Workload {
        name: "sni-connect",
        about: "a connection routed by its ClientHello, 512 bytes back, and its end",
        unit: Unit::Exchange("connection"),
        kinds: &["sni"],
        connections: 64,
        shape: Shape::HelloConnect,
    },
    Workload {
        name: "sni-bulk",
        about: "16 streams routed by their ClientHello, as fast as they go",
        unit: Unit::Gib(CHUNK),
        kinds: &["sni-bulk", "sni"],
        connections: 16,
        shape: Shape::HelloBulk,
    },
    Workload {
        name: "tls-handshake",
        about: "a full TLS 1.3 handshake (P-256), GET of 1 KiB, and its end",
        unit: Unit::Exchange("connection"),
        kinds: &["tls"],
        connections: 32,
        shape: Shape::Handshake(HandshakeKind::Full),
    },
    Workload {
        name: "tls-resumed",
        about: "a resumed TLS 1.3 handshake, GET of 1 KiB, and its end",
        unit: Unit::Exchange("connection"),
        kinds: &["tls"],
        connections: 32,
        shape: Shape::Handshake(HandshakeKind::Resumed),
    },
    Workload {
        name: "tls-keepalive",
        about: "GET of 1 KiB on 64 kept TLS connections",
        unit: Unit::Exchange("request"),
        kinds: &["tls"],
        connections: 64,
        shape: Shape::Get {
            bytes: KIB,
            once: false,
        },
    },
    Workload {
        name: "tls-bulk",
        about: "GET of 1 MiB on 16 kept TLS connections",
        unit: Unit::Gib(MIB),
        kinds: &["tls-bulk", "tls"],
        connections: 16,
        shape: Shape::Get {
            bytes: MIB,
            once: false,
        },
    },
    Workload {
        name: "websocket",
        about: "messages of 512 bytes there and back on 64 WebSocket connections",
        unit: Unit::Exchange("message"),
        kinds: &["websocket", "http1"],
        connections: 64,
        shape: Shape::WebSocket,
    },
];

impl Workload {
    /// By its name.
    pub(super) fn of(name: &str) -> Option<&'static Self> {
        WORKLOADS.iter().find(|workload| workload.name == name)
    }

    /// Whether TLS ends at the subject.
    pub(super) fn is_tls(&self) -> bool {
        self.kinds.contains(&"tls")
    }

    /// Whether handshakes are to be resumed.
    pub(super) fn is_resumed(&self) -> bool {
        self.shape == Shape::Handshake(HandshakeKind::Resumed)
    }

    /// Whether streams have no latency to speak of.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self.shape, Shape::Bulk | Shape::HelloBulk)
    }

    /// So many exchanges, or a few hundred MiB if that is less.
    pub(super) fn at_most(&self, exchanges: u64) -> u64 {
        match self.unit {
            Unit::Exchange(_) => exchanges,
            Unit::Gib(bytes) => exchanges.min((256 * MIB / bytes) as u64),
        }
    }

    /// What the origin speaks.
    pub(super) fn speech(&self) -> Result<Speech> {
        Ok(match self.shape {
            Shape::Bulk | Shape::HelloBulk => Speech::Sink,
            Shape::PingPong | Shape::Connect => Speech::Exchange(MESSAGE, vec![b'x'; MESSAGE]),
            Shape::HelloConnect => Speech::Exchange(hello()?.len(), vec![b'x'; MESSAGE]),
            Shape::Get { bytes, .. } | Shape::GetH2 { bytes, .. } => Speech::Http(bytes),
            Shape::Handshake(_) => Speech::Http(KIB),
            Shape::WebSocket => Speech::Upgrade(masked().len(), unmasked()),
        })
    }

    /// What a client says to a subject. Nobody ends TLS or speaks HTTP/2 where there is no
    /// proxy: there it is HTTP/1.1 in clear.
    pub(super) fn talk(&self, subject: Subject, identity: &Identity) -> Result<Talk> {
        let direct = subject == Subject::Direct;
        let tls = |kind| -> Result<Option<Tls>> {
            match self.is_tls() && !direct {
                true => client_tls(identity, kind).map(Some),
                false => Ok(None),
            }
        };
        let mut talk = Talk::default();
        match self.shape {
            Shape::Bulk | Shape::HelloBulk => talk.request = vec![b'x'; CHUNK],
            Shape::PingPong | Shape::Connect => {
                talk.request = vec![b'x'; MESSAGE];
                talk.answer = Answer::Bytes(MESSAGE);
                talk.once = self.shape == Shape::Connect;
            }
            Shape::HelloConnect => {
                talk.request = hello()?;
                talk.answer = Answer::Bytes(MESSAGE);
                talk.once = true;
            }
            Shape::GetH2 { streams, .. } if !direct => {
                talk.request = h2_client::get(HOST, "/bench/http2");
                talk.h2_streams = Some(streams);
            }
            Shape::Get { .. } | Shape::GetH2 { .. } | Shape::Handshake(_) => {
                talk.once = matches!(
                    self.shape,
                    Shape::Get { once: true, .. } | Shape::Handshake(_)
                );
                talk.request = get(talk.once);
                talk.answer = Answer::Http(200);
                talk.tls = tls(match self.shape {
                    Shape::Handshake(kind) => Some(kind),
                    _ => None,
                })?;
            }
            Shape::WebSocket => {
                talk.prologue = upgrade();
                talk.prologue_answer = Answer::Http(101);
                talk.request = masked();
                talk.answer = Answer::Bytes(unmasked().len());
            }
        }
        if self.shape == Shape::HelloBulk {
            talk.prologue = hello()?;
        }
        Ok(talk)
    }
}

/// A GET as a small client writes it.
pub(super) fn get(once: bool) -> Vec<u8> {
    let ending = if once { "Connection: close\r\n" } else { "" };
    format!(
        "GET /bench/http1 HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: flocker-bench\r\n\
         Accept: */*\r\n{ending}\r\n"
    )
    .into_bytes()
}

fn upgrade() -> Vec<u8> {
    format!(
        "GET /bench/websocket HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}

/// A binary message of a client (RFC 6455, 5.2): FIN, opcode 2, length in 16 bits, masked, here
/// with zeros.
fn masked() -> Vec<u8> {
    let mut frame = vec![0x82, 0xfe];
    frame.extend(u16::try_from(PAYLOAD).unwrap_or(0).to_be_bytes());
    frame.extend([0; 4]);
    frame.resize(frame.len() + PAYLOAD, b'x');
    frame
}

/// The same of a server: not masked.
fn unmasked() -> Vec<u8> {
    let mut frame = vec![0x82, 0x7e];
    frame.extend(u16::try_from(PAYLOAD).unwrap_or(0).to_be_bytes());
    frame.resize(frame.len() + PAYLOAD, b'x');
    frame
}

/// The bytes of a ClientHello for the host.
fn hello() -> Result<Vec<u8>> {
    let config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), name()?)?;
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes)?;
    Ok(bytes)
}

fn name() -> Result<ServerName<'static>> {
    ServerName::try_from(HOST).context("a host is a server name")
}

/// What clients of a subject that ends TLS use.
pub(super) fn client_tls(identity: &Identity, kind: Option<HandshakeKind>) -> Result<Tls> {
    let mut config = ClientConfig::clone(&identity.trust());
    config.resumption = match kind {
        Some(HandshakeKind::Resumed) => Resumption::store(Arc::new(Tickets::default())),
        _ => Resumption::disabled(),
    };
    // Until there are tickets handshakes are full ones: those of resumption are not held to it.
    let kind = kind.filter(|kind| *kind == HandshakeKind::Full);
    Ok(Tls {
        config: Arc::new(config),
        name: name()?,
        kind,
        resumed: AtomicU64::new(0),
        full: AtomicU64::new(0),
    })
}

/// Sessions to be resumed: rustls' own store keeps eight of a server, too few for clients that
/// all come at once.
#[derive(Debug, Default)]
struct Tickets {
    group: Mutex<Option<NamedGroup>>,
    sessions: Mutex<VecDeque<Tls13ClientSessionValue>>,
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _name: ServerName<'static>, group: NamedGroup) {
        *self.group.lock().unwrap_or_else(PoisonError::into_inner) = Some(group);
    }

    fn kx_hint(&self, _name: &ServerName<'_>) -> Option<NamedGroup> {
        *self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_tls12_session(&self, _name: ServerName<'static>, _value: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _name: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _name: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.push_back(value);
        if sessions.len() > TICKETS {
            sessions.pop_front();
        }
    }

    fn take_tls13_ticket(&self, _name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.pop_back()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_exchanges_or_bytes() {
        assert!((Unit::Exchange("request").of(7) - 7.0).abs() < 1e-9);
        assert!((Unit::Gib(1 << 20).of(512) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn every_workload_has_something_to_say_to_everybody() {
        let identity = Identity::of(HOST).unwrap();
        for workload in WORKLOADS {
            for subject in Subject::ALL {
                let talk = workload.talk(subject, &identity).unwrap();
                assert!(!talk.request.is_empty(), "{} {subject}", workload.name);
                assert_eq!(
                    talk.tls.is_some(),
                    workload.is_tls() && subject != Subject::Direct
                );
            }
            workload.speech().unwrap();
            assert_eq!(Workload::of(workload.name), Some(workload));
        }
    }

    #[test]
    fn messages_of_a_websocket_are_frames() {
        let (client, server) = (masked(), unmasked());
        assert_eq!(
            (client[1] & 0x80, server[1] & 0x80),
            (0x80, 0),
            "who is masked"
        );
        assert_eq!(client.len(), server.len() + 4);
    }
}
