//! Headers that we write: of the client whose connection or request is passed on.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use flocker_api::upstream::SendProxy;

use super::{Ends, SIGNATURE, tlv};

/// What else is known of the client's connection; version 2 passes it on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a> {
    /// The server name of its TLS.
    pub authority: Option<&'a str>,
    /// The protocol that its TLS agreed on.
    pub alpn: Option<&'a [u8]>,
}

/// Appends a header.
pub fn write(version: SendProxy, ends: &Ends, facts: &Facts<'_>, out: &mut Vec<u8>) {
    let (source, destination) = alike(ends);
    match version {
        SendProxy::V1 => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let line = format!(
                "PROXY {family} {} {} {} {}\r\n",
                source.ip(),
                destination.ip(),
                source.port(),
                destination.port()
            );
            out.extend_from_slice(line.as_bytes());
        }
        SendProxy::V2 => {
            let mut body = Vec::with_capacity(64);
            let family = if source.is_ipv4() { 0x11 } else { 0x21 };
            for end in [source, destination] {
                match end.ip() {
                    IpAddr::V4(ip) => body.extend_from_slice(&ip.octets()),
                    IpAddr::V6(ip) => body.extend_from_slice(&ip.octets()),
                }
            }
            for end in [source, destination] {
                body.extend_from_slice(&end.port().to_be_bytes());
            }
            let authority = facts.authority.map(str::as_bytes);
            for (kind, value) in [(tlv::ALPN, facts.alpn), (tlv::AUTHORITY, authority)] {
                // A host name has 255 bytes at most, and so has the name of a protocol.
                if let Some(value) = value.filter(|value| !value.is_empty())
                    && let Ok(length) = u8::try_from(value.len())
                {
                    body.extend_from_slice(&[kind, 0, length]);
                    body.extend_from_slice(value);
                }
            }
            frame(0x21, family, &body, out);
        }
    }
}

/// Appends a header that speaks of nobody: the edge itself asks, to see whether all is well.
pub fn write_local(version: SendProxy, out: &mut Vec<u8>) {
    match version {
        SendProxy::V1 => out.extend_from_slice(b"PROXY UNKNOWN\r\n"),
        SendProxy::V2 => frame(0x20, 0x00, &[], out),
    }
}

fn frame(command: u8, family: u8, body: &[u8], out: &mut Vec<u8>) {
    // Invariant: addresses and two values of 255 bytes each are far below 64 KiB.
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(SIGNATURE);
    out.extend_from_slice(&[command, family]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(body);
}

/// Both ends in one family; an IPv4 address that came as one of IPv6 is its own again.
fn alike(ends: &Ends) -> (SocketAddr, SocketAddr) {
    let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    let (source, destination) = (canonical(ends.source), canonical(ends.destination));
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    let mapped = |end: SocketAddr| {
        let ip: Ipv6Addr = match end.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        SocketAddr::new(ip.into(), end.port())
    };
    (mapped(source), mapped(destination))
}
