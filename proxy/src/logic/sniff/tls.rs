//! The server name in a TLS ClientHello.
#![warn(clippy::indexing_slicing)]

use super::SniffLimits;
use crate::logic::host::Host;

/// What the first bytes of a TLS connection say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniff {
    /// The ClientHello is not complete.
    NeedMore,
    /// It names this server.
    Sni(Host),
    /// It is complete and names no server.
    NoSni,
    /// It is no ClientHello, or one that nothing sane sends.
    Malformed(Reason),
}

/// Why a ClientHello is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The first record is no handshake.
    #[error("not a TLS handshake")]
    NotHandshake,
    /// A record of impossible length or version.
    #[error("a TLS record with an impossible header")]
    Record,
    /// The handshake begins with another message.
    #[error("the first handshake message is no ClientHello")]
    NotClientHello,
    /// Longer than the limit.
    #[error("the ClientHello is longer than its limit")]
    TooLarge,
    /// A length inside points past its end.
    #[error("the ClientHello is truncated or has lengths that contradict each other")]
    Lengths,
    /// `server_name` twice, or not exactly one host name in it.
    #[error("not exactly one host name in the server_name extension")]
    ServerName,
    /// The name is no host name.
    #[error("the server name is not a host name")]
    Hostname,
}

/// Reads a ClientHello from the first bytes of a connection.
#[must_use]
pub fn client_hello(bytes: &[u8], limits: &SniffLimits) -> Sniff {
    let _ = (bytes, limits);
    Sniff::NeedMore
}
