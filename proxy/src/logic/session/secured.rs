//! TLS that ends at the edge, as far as sessions know of it: on which terms it shall be spoken,
//! what was agreed upon, and for which hosts a connection is good.
//!
//! The terms are those of the route `https:HOST`, found by the server name of the ClientHello.
//! A request on such a connection has to lead to a route of the same host pattern and the same
//! terms; everything else is misdirected (RFC 9110, section 15.5.20): what one host asks of its
//! clients cannot be got around by naming it on a connection to another.

use std::sync::Arc;

use flocker_api::{
    host::HostPattern,
    name::AuthorityName,
    route::{Route, RouteKey, UpstreamProtocol},
    termination::{Terminate, Tls},
};

use super::Table;
use crate::logic::sniff::tls::Reason;

/// What a client was asked for, and on which terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The server name in normal form.
    pub server_name: String,
    /// The hosts of its route.
    hosts: HostPattern,
    /// The route's terms.
    pub terms: Terminate,
}

impl Offer {
    /// What is offered to who asks for a server; `None` if its TLS does not end here.
    pub(super) fn find(table: &Table, server_name: &str) -> Option<Self> {
        let entry = table.lookup_https(server_name, "")?;
        match (&entry.route.key, &entry.route.tls) {
            (RouteKey::Https(hosts, _), Tls::Terminate(terms)) => Some(Self {
                server_name: server_name.to_owned(),
                hosts: hosts.clone(),
                terms: terms.clone(),
            }),
            _ => None,
        }
    }
}

/// What a handshake has come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Agreed {
    /// The subject of the client's verified certificate.
    pub subject: Option<String>,
    /// Version and cipher suite, for the log.
    pub suite: String,
    /// The protocol agreed upon by ALPN.
    pub protocol: Option<Vec<u8>>,
}

/// A connection whose TLS ends here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secured {
    /// What was offered.
    pub offer: Offer,
    /// What was agreed upon.
    pub agreed: Agreed,
}

impl Secured {
    /// The name that was asked for, unless only its domain is known.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        match &self.offer.hosts {
            HostPattern::Exact(name) => Some(name.as_str()),
            HostPattern::Wildcard(_) => None,
        }
    }

    /// Whether a request for `host` and `path` does not belong on this connection.
    #[must_use]
    pub fn is_misdirected(&self, table: &Table, host: &str, path: &str) -> bool {
        match table.lookup_https(host, path) {
            Some(entry) => {
                // The very server that the client asked for is never another one's host.
                let same_hosts = match &entry.route.key {
                    _ if host == self.offer.server_name => true,
                    RouteKey::Https(hosts, _) => *hosts == self.offer.hosts,
                    _ => false,
                };
                let same_terms =
                    matches!(&entry.route.tls, Tls::Terminate(terms) if *terms == self.offer.terms);
                !(same_hosts && same_terms)
            }
            // What has no route at all is not found, if this is where it would be.
            None => match &self.offer.hosts {
                HostPattern::Exact(name) => name.as_str() != host,
                HostPattern::Wildcard(domain) => host
                    .split_once('.')
                    .is_none_or(|(_, rest)| rest != domain.as_str()),
            },
        }
    }

    /// What an upstream is told of the client's certificate: its subject, or an empty text
    /// where there was none; `None` where clients are not asked.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        use flocker_api::termination::ClientCertificate;
        match self.offer.terms.client_certificate {
            ClientCertificate::None => None,
            _ => Some(self.agreed.subject.as_deref().unwrap_or_default()),
        }
    }
}

/// TLS with an upstream: by which name its certificate has to be, and who has to have signed it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seal {
    /// The name; also the SNI.
    pub server_name: String,
    /// The authority; `None` for those of the system.
    pub ca: Option<AuthorityName>,
    /// What is asked for by ALPN.
    pub protocol: UpstreamProtocol,
}

impl Seal {
    /// How a route's upstreams are spoken with; `None` in clear, or if there is no name to
    /// know them by.
    #[must_use]
    pub fn of(route: &Route) -> Option<Arc<Self>> {
        let tls = route.upstream_tls.as_ref()?;
        let own = match &route.key {
            RouteKey::Http(HostPattern::Exact(name), _)
            | RouteKey::Https(HostPattern::Exact(name), _) => Some(name),
            _ => None,
        };
        let host = tls.server_name.as_ref().or(own)?;
        Some(Arc::new(Self {
            server_name: host.as_str().to_owned(),
            ca: tls.ca.clone(),
            protocol: route.upstream_protocol,
        }))
    }
}

/// A fatal alert in clear (RFC 8446, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alert {
    /// A ClientHello that cannot be read.
    DecodeError = 50,
    /// A ClientHello without a server name, or with one that is not served.
    UnrecognizedName = 112,
}

/// What someone is told who speaks HTTP in clear.
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\
    Connection: close\r\nContent-Length: 32\r\n\r\nthis port speaks TLS: use https\n";

/// What to answer to first bytes that lead nowhere: an alert to who speaks TLS, a response to
/// who speaks HTTP, nothing to others.
pub(super) fn refusal(first: &[u8], alert: Alert, out: &mut Vec<u8>) {
    match first {
        // A handshake record; the alert's record has the version that suits all (RFC 8446,
        // section 5.1), 2 bytes, and is fatal.
        [22, 3, ..] => out.extend_from_slice(&[21, 3, 1, 0, 2, 2, alert as u8]),
        _ if speaks_http(first) => out.extend_from_slice(PLAIN_HTTP),
        _ => {}
    }
}

/// Whether the bytes begin like a request line: a method and a space.
fn speaks_http(first: &[u8]) -> bool {
    let method = first.iter().position(|byte| *byte == b' ').unwrap_or(0);
    (3..=8).contains(&method) && first.iter().take(method).all(u8::is_ascii_uppercase)
}

impl Alert {
    /// The alert for a ClientHello that is malformed.
    pub(super) fn of(reason: Reason) -> Self {
        match reason {
            Reason::Hostname | Reason::ServerName => Self::UnrecognizedName,
            _ => Self::DecodeError,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_stranger_is_told_in_its_own_words() {
        let told = |first: &[u8]| {
            let mut out = Vec::new();
            refusal(first, Alert::UnrecognizedName, &mut out);
            out
        };
        assert_eq!(told(&[22, 3, 1, 0, 9]), [21, 3, 1, 0, 2, 2, 112]);
        assert!(told(b"GET / HTTP/1.1\r\n").starts_with(b"HTTP/1.1 400 "));
        // SSLv2, garbage, half a word, nothing.
        for first in [
            &[0x80, 0x2e, 1, 3, 1][..],
            b"\0\0\0",
            b"GET",
            b"get / ",
            b"",
        ] {
            assert!(told(first).is_empty(), "{first:?}");
        }
    }
}
