//! The server name in a TLS ClientHello.
//!
//! A ClientHello may arrive in many TCP segments and be cut over many TLS records; it is put
//! together up to a limit, and there is no verdict before it is complete. Nothing is
//! decrypted, and what the extensions other than `server_name` say does not matter, nor do
//! GREASE values (RFC 8701).
#![warn(clippy::indexing_slicing)]

use std::borrow::Cow;

use super::SniffLimits;
use crate::logic::host::Host;

/// Longest fragment of a record (RFC 8446, section 5.1).
const FRAGMENT_BYTES_MAX: usize = 1 << 14;

/// What the first bytes of a TLS connection say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "returned once a connection; a box would cost an allocation"
)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Reason {
    /// A record is no handshake.
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
    let message = match message(bytes, limits.hello_bytes) {
        Ok(Some(message)) => message,
        Ok(None) => return Sniff::NeedMore,
        Err(reason) => return Sniff::Malformed(reason),
    };
    match server_name(&message) {
        Ok(Some(host)) => Sniff::Sni(host),
        Ok(None) => Sniff::NoSni,
        Err(reason) => Sniff::Malformed(reason),
    }
}

/// Reads a ClientHello that grows, without reading all of it again for each byte that comes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sniffer {
    /// There is no verdict before there are this many bytes.
    look_at: usize,
}

impl Sniffer {
    /// The verdict on `bytes`, which begin with what was there before.
    #[must_use]
    pub fn sniff(&mut self, bytes: &[u8], limits: &SniffLimits) -> Sniff {
        if bytes.len() < self.look_at && bytes.len() < limits.hello_bytes {
            return Sniff::NeedMore;
        }
        let verdict = client_hello(bytes, limits);
        if verdict == Sniff::NeedMore {
            self.look_at = bytes.len() + missing(bytes);
        }
        verdict
    }
}

/// How many more bytes the hello has at least.
fn missing(bytes: &[u8]) -> usize {
    let (mut rest, mut head, mut have) = (bytes, [0; 4], 0);
    while let Ok(Some((fragment, complete))) = record(&mut rest) {
        for (slot, byte) in head.iter_mut().skip(have).zip(fragment) {
            *slot = *byte;
        }
        have += fragment.len();
        if !complete {
            break;
        }
    }
    match body_length(&head) {
        Ok(Some(length)) if have >= head.len() => (length + 4).saturating_sub(have).max(1),
        _ => 1,
    }
}

/// The body of the first handshake message, put together from its records.
fn message(bytes: &[u8], limit: usize) -> Result<Option<Cow<'_, [u8]>>, Reason> {
    // Invariant: at most `limit` bytes are looked at, whatever the caller has read ahead.
    let window = bytes.get(..bytes.len().min(limit)).unwrap_or(bytes);
    let mut records = window;
    let mut handshake: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    while let Some((fragment, complete)) = record(&mut records)? {
        if handshake.is_empty() {
            handshake = Cow::Borrowed(fragment);
        } else {
            handshake.to_mut().extend_from_slice(fragment);
        }
        if let Some(length) = body_length(&handshake)? {
            if length + 9 > limit {
                return Err(Reason::TooLarge);
            }
            if handshake.len() >= length + 4 {
                return Ok(Some(match handshake {
                    Cow::Borrowed(all) => Cow::Borrowed(all.get(4..length + 4).unwrap_or_default()),
                    Cow::Owned(all) => {
                        Cow::Owned(all.get(4..length + 4).unwrap_or_default().to_vec())
                    }
                }));
            }
        }
        if !complete {
            break;
        }
    }
    if bytes.len() >= limit {
        return Err(Reason::TooLarge);
    }
    Ok(None)
}

/// Takes a record off the front: what is there of its fragment, and whether that is all.
fn record<'b>(rest: &mut &'b [u8]) -> Result<Option<(&'b [u8], bool)>, Reason> {
    let bytes = *rest;
    // 22: handshake (RFC 8446, section 5.1).
    if bytes.first().is_some_and(|kind| *kind != 22) {
        return Err(Reason::NotHandshake);
    }
    // The minor version says nothing (RFC 8446, section 5.1: it must be ignored).
    if bytes.get(1).is_some_and(|major| *major != 3) {
        return Err(Reason::Record);
    }
    let Some(([_, _, _, high, low], after)) = bytes.split_first_chunk() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    // RFC 8446, section 5.1: no fragments of zero length for handshakes.
    if length == 0 || length > FRAGMENT_BYTES_MAX {
        return Err(Reason::Record);
    }
    match after.split_at_checked(length) {
        Some((fragment, after)) => {
            *rest = after;
            Ok(Some((fragment, true)))
        }
        None => {
            *rest = &[];
            Ok(Some((after, false)))
        }
    }
}

/// The length that a handshake header announces, once it is there.
fn body_length(handshake: &[u8]) -> Result<Option<usize>, Reason> {
    // 1: client_hello (RFC 8446, section 4).
    if handshake.first().is_some_and(|kind| *kind != 1) {
        return Err(Reason::NotClientHello);
    }
    Ok(match handshake {
        [_, a, b, c, ..] => Some(usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c)),
        _ => None,
    })
}

/// Reads length-prefixed fields; a field that is not wholly there is [`Reason::Lengths`].
struct Reader<'m>(&'m [u8]);

impl<'m> Reader<'m> {
    fn take(&mut self, length: usize) -> Result<&'m [u8], Reason> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Reason::Lengths)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<usize, Reason> {
        let byte = self.take(1)?.first().ok_or(Reason::Lengths)?;
        Ok(usize::from(*byte))
    }

    fn u16(&mut self) -> Result<usize, Reason> {
        Ok(self.u8()? << 8 | self.u8()?)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The server name in the body of a ClientHello (RFC 8446, section 4.1.2).
fn server_name(body: &[u8]) -> Result<Option<Host>, Reason> {
    let mut hello = Reader(body);
    // legacy_version and random.
    hello.take(2 + 32)?;
    let session = hello.u8()?;
    let session = hello.take(session)?;
    let suites = hello.u16()?;
    let suites = hello.take(suites)?;
    let compressions = hello.u8()?;
    let compressions = hello.take(compressions)?;
    if session.len() > 32
        || suites.is_empty()
        || !suites.len().is_multiple_of(2)
        || compressions.is_empty()
    {
        return Err(Reason::Lengths);
    }
    // Before TLS 1.3 extensions may be left out as a whole.
    if hello.is_empty() {
        return Ok(None);
    }
    let length = hello.u16()?;
    if hello.0.len() != length {
        return Err(Reason::Lengths);
    }
    let mut found = None;
    while !hello.is_empty() {
        let kind = hello.u16()?;
        let length = hello.u16()?;
        let data = hello.take(length)?;
        // 0: server_name. RFC 8446, section 4.2: never twice.
        if kind == 0 && found.replace(host_name(data)?).is_some() {
            return Err(Reason::ServerName);
        }
    }
    Ok(found)
}

/// The one name in a `server_name` extension (RFC 6066, section 3).
fn host_name(data: &[u8]) -> Result<Host, Reason> {
    let mut list = Reader(data);
    if list.u16()? != list.0.len() {
        return Err(Reason::Lengths);
    }
    // 0: host_name; no other type was ever defined, and none may come twice.
    if list.is_empty() || list.u8()? != 0 {
        return Err(Reason::ServerName);
    }
    let length = list.u16()?;
    let name = list.take(length)?;
    if !list.is_empty() {
        return Err(Reason::ServerName);
    }
    // The normaliser would take a port off, as of a Host header; here a port is a lie, and
    // so is an IPv6 literal.
    if name.iter().any(|byte| matches!(byte, b':' | b'[' | b']')) {
        return Err(Reason::Hostname);
    }
    let name = std::str::from_utf8(name).map_err(|_| Reason::Hostname)?;
    Host::normalise(name).map_err(|_| Reason::Hostname)
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod tests;
