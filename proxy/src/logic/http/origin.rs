//! What the edge tells an upstream of where a request came from: X-Forwarded-*, Forwarded
//! (RFC 7239), and the id of the request.
//!
//! Clients may say anything of themselves: what they say is replaced. What a trusted proxy in
//! front of the edge says is kept, and the edge adds itself at the end of the lists, so that the
//! upstream finds the whole way, the nearest hop last.
#![warn(clippy::indexing_slicing)]

use std::{
    fmt,
    io::Write,
    net::IpAddr,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use flocker_api::network::Network;

use super::{
    Scheme,
    fields::{fields, list, write_field},
};

/// Longest request id that is taken over from a trusted proxy.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// An id made here, 128 bits in hexadecimal digits.
pub type RequestId = [u8; 32];

/// Which fields tell of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// X-Forwarded-For, -Proto and -Host.
    XForwarded,
    /// Forwarded.
    Forwarded,
    /// All of them.
    Both,
}

/// What an operator has said about all this.
#[derive(Debug)]
pub struct Origins {
    /// Networks whose word is taken.
    pub trusted: Vec<Network>,
    /// Which fields are written.
    pub style: Style,
    /// Whether each request has an id.
    pub request_ids: bool,
    /// Where ids come from.
    pub ids: Ids,
}

impl Origins {
    /// Whether what this client says of the way of a request is believed.
    #[must_use]
    pub fn trusts(&self, client: IpAddr) -> bool {
        Network::any_contains(&self.trusted, client)
    }
}

/// Makes ids that do not repeat: a counter, scrambled by a seed that nobody knows.
pub struct Ids {
    seed: [u64; 2],
    next: AtomicU64,
}

impl Ids {
    /// Ids from a random seed.
    #[must_use]
    pub fn new(seed: [u64; 2]) -> Self {
        Self {
            seed,
            next: AtomicU64::new(0),
        }
    }

    /// The next one.
    #[must_use]
    pub fn next(&self) -> RequestId {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let [first, second] = self.seed;
        let high = scramble(first ^ number);
        let low = scramble(second.wrapping_add(number) ^ high.rotate_left(32));
        let mut id = [0; 32];
        for (at, digit) in id.iter_mut().enumerate() {
            let word = if at < 16 { high } else { low };
            let nibble = word >> (60 - 4 * (at % 16)) & 15;
            *digit = *b"0123456789abcdef".get(nibble as usize).unwrap_or(&b'0');
        }
        id
    }
}

impl fmt::Debug for Ids {
    /// Without the seed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ids").finish_non_exhaustive()
    }
}

/// The finaliser of splitmix64: one to one, and every bit depends on every bit.
fn scramble(word: u64) -> u64 {
    let mut word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// Where one request came from.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'o> {
    /// The client, or the trusted proxy.
    pub client: IpAddr,
    /// What the request came through.
    pub scheme: Scheme,
    /// Which fields are written.
    pub style: Style,
    /// Whether what the head says already is kept.
    pub trusted: bool,
    /// The id that was made for it, if any.
    pub request_id: Option<&'o RequestId>,
    /// The subject of the client's certificate; empty when it was asked and showed none.
    pub subject: Option<&'o str>,
}

/// The request id that a trusted head brings with it, if it is one that can be passed on and
/// logged as it is.
#[must_use]
pub fn request_id(head: &[u8]) -> Option<&[u8]> {
    let mut ids = fields(head).filter(|(name, _)| name.eq_ignore_ascii_case(b"x-request-id"));
    let (_, id) = ids.next()?;
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=:@".contains(byte);
    let good = (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.iter().all(plain);
    (good && ids.next().is_none()).then_some(id)
}

/// Appends the fields. `head` is the head as it came, `authority` where in `out` the host and
/// port are that it is for.
pub(super) fn write_origin(
    origin: &Origin<'_>,
    head: &[u8],
    authority: Range<usize>,
    out: &mut Vec<u8>,
) {
    let told = match origin.trusted {
        true => Told::of(head),
        false => Told::default(),
    };
    if origin.style != Style::Forwarded {
        out.extend_from_slice(b"X-Forwarded-For: ");
        write_list(head, told.lists, b"x-forwarded-for", out);
        // Writing to a Vec cannot fail.
        write!(out, "{}", origin.client.to_canonical()).unwrap_or_default();
        out.extend_from_slice(b"\r\n");
        let proto = told.proto.unwrap_or(origin.scheme.as_str().as_bytes());
        write_field(out, b"X-Forwarded-Proto", proto);
        match told.host {
            Some(host) => write_field(out, b"X-Forwarded-Host", host),
            None => {
                out.extend_from_slice(b"X-Forwarded-Host: ");
                out.extend_from_within(authority.clone());
                out.extend_from_slice(b"\r\n");
            }
        }
        if let Some(port) = told.port {
            write_field(out, b"X-Forwarded-Port", port);
        }
    }
    if origin.style != Style::XForwarded {
        out.extend_from_slice(b"Forwarded: ");
        write_list(head, told.lists, b"forwarded", out);
        write_forwarded(origin, authority, out);
    }
    if let Some(id) = origin.request_id {
        write_field(out, b"X-Request-Id", id);
    }
    if let Some(subject) = origin.subject {
        write_field(out, b"X-Client-Cert-Subject", subject.as_bytes());
    }
}

/// One element of Forwarded (RFC 7239, section 4): addresses of IPv6 and ports are quoted.
fn write_forwarded(origin: &Origin<'_>, authority: Range<usize>, out: &mut Vec<u8>) {
    match origin.client.to_canonical() {
        IpAddr::V4(client) => write!(out, "for={client}"),
        IpAddr::V6(client) => write!(out, "for=\"[{client}]\""),
    }
    .unwrap_or_default();
    out.extend_from_slice(b";host=\"");
    // In normal form a host has neither quotes nor backslashes.
    out.extend_from_within(authority);
    out.extend_from_slice(b"\";proto=");
    out.extend_from_slice(origin.scheme.as_str().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// What a trusted head says already.
#[derive(Default)]
struct Told<'h> {
    /// Whether the lists are kept.
    lists: bool,
    proto: Option<&'h [u8]>,
    host: Option<&'h [u8]>,
    port: Option<&'h [u8]>,
}

impl<'h> Told<'h> {
    fn of(head: &'h [u8]) -> Self {
        let mut told = Self {
            lists: true,
            ..Self::default()
        };
        for (name, value) in fields(head) {
            // The first of each is of the hop that saw the client.
            if name.eq_ignore_ascii_case(b"x-forwarded-proto") {
                let known = value == b"http" || value == b"https";
                told.proto = told.proto.or_else(|| known.then_some(value));
            } else if name.eq_ignore_ascii_case(b"x-forwarded-host") && !value.is_empty() {
                told.host = told.host.or(Some(value));
            } else if name.eq_ignore_ascii_case(b"x-forwarded-port") && !value.is_empty() {
                told.port = told.port.or(Some(value));
            }
        }
        told
    }
}

/// Appends the elements of all fields of a name, each with a comma after it.
fn write_list(head: &[u8], wanted: bool, name: &[u8], out: &mut Vec<u8>) {
    if !wanted {
        return;
    }
    let values = fields(head).filter(|(other, _)| other.eq_ignore_ascii_case(name));
    for element in values.flat_map(|(_, value)| list(value)) {
        out.extend_from_slice(element);
        out.extend_from_slice(b", ");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(origin: &Origin<'_>, head: &str) -> String {
        let mut out = b"a.test:81".to_vec();
        write_origin(origin, head.as_bytes(), 0..9, &mut out);
        String::from_utf8(out.split_off(9)).unwrap()
    }

    fn origin(client: &str) -> Origin<'static> {
        Origin {
            client: client.parse().unwrap(),
            scheme: Scheme::Https,
            style: Style::Both,
            trusted: false,
            request_id: None,
            subject: None,
        }
    }

    const HEAD: &str = "GET / HTTP/1.1\r\nX-Forwarded-For: 1.1.1.1\r\n\
        X-Forwarded-Proto: http\r\nX-Forwarded-Host: first.test\r\nX-Forwarded-Port: 80\r\n\
        x-forwarded-for: 2.2.2.2 , 3.3.3.3\r\nX-Forwarded-Proto: https\r\n\
        Forwarded: for=1.1.1.1\r\n\r\n";

    #[test]
    fn what_clients_say_of_themselves_is_replaced() {
        assert_eq!(
            written(&origin("192.0.2.1"), HEAD),
            "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n\
             X-Forwarded-Host: a.test:81\r\n\
             Forwarded: for=192.0.2.1;host=\"a.test:81\";proto=https\r\n"
        );
        assert!(written(&origin("2001:db8::1"), HEAD).contains("for=\"[2001:db8::1]\";"));
        // An IPv4 client of a dual socket is the same client.
        assert!(written(&origin("::ffff:192.0.2.1"), HEAD).contains("For: 192.0.2.1\r\n"));
    }

    #[test]
    fn what_a_trusted_proxy_says_is_kept_and_added_to() {
        let trusted = Origin {
            trusted: true,
            ..origin("192.0.2.1")
        };
        assert_eq!(
            written(&trusted, HEAD),
            "X-Forwarded-For: 1.1.1.1, 2.2.2.2, 3.3.3.3, 192.0.2.1\r\n\
             X-Forwarded-Proto: http\r\nX-Forwarded-Host: first.test\r\nX-Forwarded-Port: 80\r\n\
             Forwarded: for=1.1.1.1, for=192.0.2.1;host=\"a.test:81\";proto=https\r\n"
        );
        let odd = "GET / HTTP/1.1\r\nX-Forwarded-Proto: ftp\r\n\r\n";
        assert!(written(&trusted, odd).contains("X-Forwarded-Proto: https\r\n"));
    }

    #[test]
    fn one_style_is_enough_where_only_one_is_wanted() {
        let id = *b"0123456789abcdef0123456789abcdef";
        let styled = |style| {
            let origin = Origin {
                style,
                request_id: Some(&id),
                ..origin("192.0.2.1")
            };
            written(&origin, HEAD)
        };
        assert!(!styled(Style::XForwarded).contains("\r\nForwarded:"));
        let forwarded = styled(Style::Forwarded);
        assert!(!forwarded.contains("X-Forwarded"), "{forwarded}");
        assert!(forwarded.ends_with("X-Request-Id: 0123456789abcdef0123456789abcdef\r\n"));
    }

    #[test]
    fn only_a_plain_and_single_request_id_is_taken_over() {
        let id = |lines: &str| {
            let head = format!("GET / HTTP/1.1\r\n{lines}\r\n");
            request_id(head.as_bytes()).map(<[u8]>::to_vec)
        };
        assert_eq!(id("X-Request-ID: a-1.b\r\n"), Some(b"a-1.b".to_vec()));
        assert_eq!(id(""), None);
        assert_eq!(id("X-Request-Id:\r\n"), None);
        assert_eq!(id("X-Request-Id: a b\r\n"), None);
        assert_eq!(id("X-Request-Id: a\"b\r\n"), None);
        assert_eq!(id("X-Request-Id: a\r\nX-Request-Id: a\r\n"), None);
        assert_eq!(id(&format!("X-Request-Id: {}\r\n", "a".repeat(129))), None);
    }

    #[test]
    fn ids_do_not_repeat_and_cannot_be_told_from_one_another() {
        let ids = Ids::new([1, 2]);
        let all: std::collections::HashSet<RequestId> = (0..10_000).map(|_| ids.next()).collect();
        assert_eq!(all.len(), 10_000);
        assert!(all.iter().flatten().all(u8::is_ascii_hexdigit));
        assert_ne!(Ids::new([1, 3]).next(), Ids::new([1, 2]).next());
    }
}
