//! PROXY protocol headers, versions 1 and 2: what a proxy says of the connection that it passes
//! on, in the first bytes (the specification is `doc/proxy-protocol.txt` of HAProxy).
//!
//! Strict: whatever the specification does not allow is malformed. A header is known whole
//! before anything of it counts, and no length in it reaches beyond it.
#![warn(clippy::indexing_slicing)]

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "tests index what they have made")]
mod tests;
mod write;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub use self::write::{Facts, write, write_local};

/// Longest header of version 1 (section 2.1: 107 bytes with the CRLF).
pub const V1_BYTES_MAX: usize = 107;
/// Longest header of version 2 that is taken; the addresses are 216 bytes at most, the rest is
/// room for the type-length-values of which certificates are the longest.
pub const HEADER_BYTES_MAX: usize = 4096;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V1_START: &[u8; 6] = b"PROXY ";
/// Signature, command, family and length of version 2.
const V2_HEAD: usize = 16;

/// Type-length-values of version 2 (section 2.2).
mod tlv {
    pub(super) const ALPN: u8 = 0x01;
    pub(super) const AUTHORITY: u8 = 0x02;
    pub(super) const CRC32C: u8 = 0x03;
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// Not enough of it.
    NeedMore,
    /// A header.
    Is {
        /// Its length.
        bytes: usize,
        /// The connection that it speaks of; `None` if it speaks of none that we could mean
        /// (a health check of the proxy itself, a unix socket, something unknown): then the
        /// connection's own addresses count.
        ends: Option<Ends>,
    },
    /// No header.
    Malformed(&'static str),
}

/// The two ends of a connection that was passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub source: SocketAddr,
    /// What it connected to.
    pub destination: SocketAddr,
}

/// Reads a header at the beginning of what a connection has sent.
#[must_use]
pub fn parse(bytes: &[u8]) -> Header {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(a, b)| a == b);
    if begins(SIGNATURE) && !bytes.is_empty() {
        match bytes.len() < V2_HEAD {
            true => v2_prefix(bytes),
            false => v2(bytes),
        }
    } else if begins(V1_START) {
        v1(bytes)
    } else {
        Header::Malformed("it begins with neither signature")
    }
}

fn v1(bytes: &[u8]) -> Header {
    let window = bytes.get(..V1_BYTES_MAX).unwrap_or(bytes);
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return match bytes.len() < V1_BYTES_MAX {
            true => Header::NeedMore,
            false => Header::Malformed("its line is longer than 107 bytes"),
        };
    };
    let line = window.get(V1_START.len()..end).unwrap_or_default();
    match std::str::from_utf8(line).ok().map(v1_line) {
        Some(Ok(ends)) => Header::Is {
            bytes: end + 2,
            ends,
        },
        Some(Err(reason)) => Header::Malformed(reason),
        None => Header::Malformed("its line is not ASCII"),
    }
}

fn v1_line(line: &str) -> Result<Option<Ends>, &'static str> {
    // Whatever follows UNKNOWN is to be ignored (section 2.1).
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Ok(None);
    }
    let mut words = line.split(' ');
    let mut word = || words.next().ok_or("its line has too few words");
    let protocol = word()?;
    let (source, destination) = (word()?, word()?);
    let (source_port, destination_port) = (port(word()?)?, port(word()?)?);
    if words.next().is_some() {
        return Err("its line has too many words");
    }
    let ip = |text: &str| -> Result<IpAddr, &'static str> {
        match protocol {
            "TCP4" => text
                .parse::<Ipv4Addr>()
                .map(IpAddr::V4)
                .map_err(|_| "an address is not of IPv4"),
            "TCP6" => text
                .parse::<Ipv6Addr>()
                .map(IpAddr::V6)
                .map_err(|_| "an address is not of IPv6"),
            _ => Err("its protocol is not TCP4, TCP6 or UNKNOWN"),
        }
    };
    Ok(Some(Ends {
        source: SocketAddr::new(ip(source)?, source_port),
        destination: SocketAddr::new(ip(destination)?, destination_port),
    }))
}

/// Digits without a leading zero.
fn port(text: &str) -> Result<u16, &'static str> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let leading_zero = text.len() > 1 && text.starts_with('0');
    let port = text.parse().ok().filter(|_| digits && !leading_zero);
    port.ok_or("a port is not 0 to 65535")
}

/// The first bytes of version 2, as far as they are there.
fn v2_prefix(bytes: &[u8]) -> Header {
    match (bytes.get(12), bytes.get(13)) {
        (Some(command), _) if !matches!(command, 0x20 | 0x21) => {
            Header::Malformed("its version or command is unknown")
        }
        (_, Some(family)) if !is_family(*family) => {
            Header::Malformed("its family or transport is unknown")
        }
        _ => Header::NeedMore,
    }
}

fn is_family(byte: u8) -> bool {
    byte >> 4 <= 3 && byte & 0xf <= 2
}

fn v2(bytes: &[u8]) -> Header {
    let (head, _) = bytes.split_at(V2_HEAD);
    if let Header::Malformed(reason) = v2_prefix(head) {
        return Header::Malformed(reason);
    }
    let &[.., command, family, high, low] = head else {
        return Header::NeedMore;
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let whole = V2_HEAD + length;
    if whole > HEADER_BYTES_MAX {
        return Header::Malformed("it is longer than 4096 bytes");
    }
    let Some(header) = bytes.get(..whole) else {
        return Header::NeedMore;
    };
    // LOCAL: the proxy itself, whatever else it says (section 2.2).
    if command == 0x20 {
        return Header::Is {
            bytes: whole,
            ends: None,
        };
    }
    let body = header.get(V2_HEAD..).unwrap_or_default();
    let addresses = match family >> 4 {
        0 => 0,
        1 => 12,
        2 => 36,
        _ => 216,
    };
    let Some((addresses, values)) = body.split_at_checked(addresses) else {
        return Header::Malformed("it is too short for its addresses");
    };
    // With an unspecified family the rest says nothing.
    if family >> 4 != 0
        && let Err(reason) = check_values(values, header)
    {
        return Header::Malformed(reason);
    }
    let ends = match family {
        0x11 => ends_v4(addresses),
        0x21 => ends_v6(addresses),
        _ => None,
    };
    Header::Is { bytes: whole, ends }
}

fn ends_v4(addresses: &[u8]) -> Option<Ends> {
    let (source, rest) = addresses.split_first_chunk::<4>()?;
    let (destination, ports) = rest.split_first_chunk::<4>()?;
    let &[a, b, c, d] = ports else { return None };
    Some(Ends {
        source: (Ipv4Addr::from(*source), u16::from_be_bytes([a, b])).into(),
        destination: (Ipv4Addr::from(*destination), u16::from_be_bytes([c, d])).into(),
    })
}

fn ends_v6(addresses: &[u8]) -> Option<Ends> {
    let (source, rest) = addresses.split_first_chunk::<16>()?;
    let (destination, ports) = rest.split_first_chunk::<16>()?;
    let &[a, b, c, d] = ports else { return None };
    Some(Ends {
        source: (Ipv6Addr::from(*source), u16::from_be_bytes([a, b])).into(),
        destination: (Ipv6Addr::from(*destination), u16::from_be_bytes([c, d])).into(),
    })
}

/// The values must fill what is left exactly; a checksum among them must be right.
fn check_values(mut values: &[u8], header: &[u8]) -> Result<(), &'static str> {
    while !values.is_empty() {
        let Some((&[kind, high, low], rest)) = values.split_first_chunk::<3>() else {
            return Err("a value is cut short");
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let Some((value, rest)) = rest.split_at_checked(length) else {
            return Err("a value is longer than what is left");
        };
        if kind == tlv::CRC32C {
            let sum: [u8; 4] = value
                .try_into()
                .map_err(|_| "its checksum is not 4 bytes")?;
            // The checksum is of the header with zeroes in its own place.
            let at = header.len() - rest.len() - 4;
            let zeroed = header.iter().enumerate().map(|(index, byte)| {
                match (at..at + 4).contains(&index) {
                    true => 0,
                    false => *byte,
                }
            });
            if crc32c(zeroed) != u32::from_be_bytes(sum) {
                return Err("its checksum is wrong");
            }
        }
        values = rest;
    }
    Ok(())
}

/// CRC-32C (RFC 3720, appendix B.4), bit by bit: a header is short.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            let bit = crc & 1;
            crc = (crc >> 1) ^ (0x82f6_3b78 & bit.wrapping_neg());
        }
    }
    !crc
}
