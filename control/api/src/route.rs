//! Routes: a key and where it leads, and the transactions that change an edge's table.

use std::{fmt, net::SocketAddrV4, num::NonZeroU16, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    health::Health,
    host::{HostPattern, InvalidHostname},
    network::Network,
    path::{InvalidPrefix, PathPrefix},
    redirect::Redirect,
    termination::{Tls, UpstreamTls},
    upstream::{Balance, SendProxy, Upstream, UpstreamAddress},
};

/// Version number of an edge's whole route table; goes up by one with each atomic change.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a route matches: `tcp:5432`, `http:example.com`, `http:example.com/api`,
/// `https:*.example.com`, `link:127.64.3.9:5432`.
///
/// Of the routes of a host the longest matching prefix wins, on segment borders
/// ([`crate::path`]); the routes of the exact host come before those of a wildcard.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RouteKey {
    /// Every connection to this port, opaque.
    Tcp(NonZeroU16),
    /// Every connection to this loopback address and port, opaque: for the edge's own node only.
    /// Control makes these of the links of apps.
    Link(SocketAddrV4),
    /// Plain HTTP requests by their Host and path.
    Http(HostPattern, PathPrefix),
    /// TLS connections by the SNI of their ClientHello: passed through undecrypted, or ended
    /// at the edge ([`Tls`]); only then may it be below a path.
    Https(HostPattern, PathPrefix),
}

/// Why a text is not a route key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRouteKey {
    /// Neither `tcp:`, `http:` nor `https:`.
    #[error("'{0}' is not a route key: write tcp:PORT, http:HOST[/PATH] or https:HOST[/PATH]")]
    Kind(String),
    /// The part after `tcp:` is not 1 to 65535.
    #[error("'{0}' is not a route key: the port must be 1 to 65535")]
    Port(String),
    /// The part after `link:` is no port of a loopback address.
    #[error("'{0}' is not a route key: a link has a loopback address and a port, 127.X.Y.Z:PORT")]
    Link(String),
    /// The part after `http:` or `https:` is no host name.
    #[error("'{key}' is not a route key")]
    Host {
        /// The whole key.
        key: String,
        /// What is wrong with its host.
        #[source]
        source: InvalidHostname,
    },
    /// The part after the host is no path prefix.
    #[error("'{key}' is not a route key")]
    Path {
        /// The whole key.
        key: String,
        /// What is wrong with its path.
        #[source]
        source: InvalidPrefix,
    },
}

impl FromStr for RouteKey {
    type Err = InvalidRouteKey;

    fn from_str(text: &str) -> Result<Self, InvalidRouteKey> {
        match text.split_once(':') {
            Some(("tcp", port)) => {
                // u16::from_str takes a leading '+'; a port does not.
                let digits = port.bytes().all(|b| b.is_ascii_digit());
                let port = port.parse().ok().filter(|_| digits);
                port.map(Self::Tcp)
                    .ok_or_else(|| InvalidRouteKey::Port(text.to_owned()))
            }
            Some(("link", address)) => {
                let address: Option<SocketAddrV4> = address.parse().ok();
                let address = address.filter(|at| at.ip().is_loopback() && at.port() != 0);
                address
                    .map(Self::Link)
                    .ok_or_else(|| InvalidRouteKey::Link(text.to_owned()))
            }
            Some(("http", rest)) => site(text, rest).map(|(host, path)| Self::Http(host, path)),
            Some(("https", rest)) => site(text, rest).map(|(host, path)| Self::Https(host, path)),
            _ => Err(InvalidRouteKey::Kind(text.to_owned())),
        }
    }
}

/// What stands after the scheme of a key.
fn site(key: &str, rest: &str) -> Result<(HostPattern, PathPrefix), InvalidRouteKey> {
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.parse().map_err(|source| InvalidRouteKey::Host {
        key: key.to_owned(),
        source,
    })?;
    let path = match path {
        "" => PathPrefix::root(),
        path => path.parse().map_err(|source| InvalidRouteKey::Path {
            key: key.to_owned(),
            source,
        })?,
    };
    Ok((host, path))
}

impl RouteKey {
    /// The path below which it matches; the root for keys without one.
    #[must_use]
    pub fn prefix(&self) -> &str {
        match self {
            Self::Tcp(_) | Self::Link(_) => "",
            Self::Http(_, prefix) | Self::Https(_, prefix) => prefix.as_str(),
        }
    }

    /// The key as a part of the path of a URL of the admin API.
    #[must_use]
    pub fn in_url(&self) -> String {
        self.to_string().replace('%', "%25")
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(port) => f.pad(&format!("tcp:{port}")),
            Self::Link(address) => f.pad(&format!("link:{address}")),
            Self::Http(host, path) => f.pad(&format!("http:{host}{path}")),
            Self::Https(host, path) => f.pad(&format!("https:{host}{path}")),
        }
    }
}

impl TryFrom<String> for RouteKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // serde keeps only the message, so the cause is joined to it here.
        text.parse().map_err(|error: InvalidRouteKey| match &error {
            InvalidRouteKey::Host { source, .. } => format!("{error}: {source}"),
            InvalidRouteKey::Path { source, .. } => format!("{error}: {source}"),
            InvalidRouteKey::Kind(_) | InvalidRouteKey::Port(_) | InvalidRouteKey::Link(_) => {
                error.to_string()
            }
        })
    }
}

impl From<RouteKey> for String {
    fn from(key: RouteKey) -> Self {
        key.to_string()
    }
}

/// What happens to sessions that are established and opaque when their route is quiesced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnMove {
    /// The quiesce closes them, buffered bytes first: clients reconnect and are held.
    #[default]
    Close,
    /// The quiesce counts them as in flight and waits for their end.
    Wait,
}

/// What is spoken with a route's upstreams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamProtocol {
    /// HTTP/1.1, or for opaque routes whatever the client speaks.
    #[default]
    Http1,
    /// HTTP/2: requests share a connection, a stream each. In clear by prior knowledge
    /// (RFC 9113, section 3.3), over TLS by ALPN.
    H2,
}

/// A route: a key and where it leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// What it matches.
    pub key: RouteKey,
    /// Where it leads. Never empty in a served table.
    pub upstreams: Vec<Upstream>,
    /// Fate of established opaque sessions at a quiesce.
    #[serde(default)]
    pub on_move: OnMove,
    /// TLS with the clients of an `https:` route.
    #[serde(default, skip_serializing_if = "Tls::is_passthrough")]
    pub tls: Tls,
    /// TLS with the upstreams; `None` is clear text. Not for what is passed through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_tls: Option<UpstreamTls>,
    /// Which of several upstreams is next.
    #[serde(default, skip_serializing_if = "is_default")]
    pub balance: Balance,
    /// How the upstreams are asked whether they are well; without it only what they do to
    /// clients counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// How long an upstream that comes (back) takes to get its whole share, in ms; 0 gives it
    /// at once.
    #[serde(default, skip_serializing_if = "is_default")]
    pub slow_start_ms: u64,
    /// Requests in clear are not served but sent to the same URL of `https`. Of `http:` routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect_https: Option<Redirect>,
    /// Whether CONNECT is passed to the upstream, which is then a proxy itself. Of `http:` and
    /// terminated `https:` routes without a path.
    #[serde(default, skip_serializing_if = "is_default")]
    pub allow_connect: bool,
    /// Longest request body, in bytes as it is sent (chunked bodies with their framing); then
    /// 413. `None` is any length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_bytes_max: Option<u64>,
    /// The set of error pages with which the edge answers in place of the upstreams, by its name
    /// in the edge's configuration; `None` is `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_pages: Option<String>,
    /// Most sessions and requests that one upstream has at once from this edge; 0 is no limit.
    /// The others wait in a line, for as long as connects are repeated.
    #[serde(default, skip_serializing_if = "is_default")]
    pub connections_max: u32,
    /// Most that wait in that line; the rest is refused.
    #[serde(default = "pending_max", skip_serializing_if = "is_pending_max")]
    pub pending_max: u32,
    /// The PROXY header that each new connection to an upstream begins with. Such connections
    /// speak of one client, and are not used for another; over HTTP/2 that client's requests
    /// share one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_proxy: Option<SendProxy>,
    /// The only networks whose clients are served, if any are named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Network>,
    /// Networks whose clients are not served.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<Network>,
    /// What is spoken with the upstreams. Not for what is passed through.
    #[serde(default, skip_serializing_if = "is_default")]
    pub upstream_protocol: UpstreamProtocol,
}

fn pending_max() -> u32 {
    1000
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_pending_max(most: &u32) -> bool {
    *most == pending_max()
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Route {
    /// A route with the defaults of everything but these.
    pub fn new<U: Into<Upstream>>(key: RouteKey, upstreams: impl IntoIterator<Item = U>) -> Self {
        Self {
            key,
            upstreams: upstreams.into_iter().map(Into::into).collect(),
            on_move: OnMove::default(),
            tls: Tls::default(),
            upstream_tls: None,
            balance: Balance::default(),
            health: None,
            slow_start_ms: 0,
            redirect_https: None,
            allow_connect: false,
            body_bytes_max: None,
            error_pages: None,
            connections_max: 0,
            pending_max: pending_max(),
            send_proxy: None,
            allow: Vec::new(),
            deny: Vec::new(),
            upstream_protocol: UpstreamProtocol::default(),
        }
    }

    /// The same route with upstreams that speak this.
    #[must_use]
    pub fn with_upstream_protocol(self, upstream_protocol: UpstreamProtocol) -> Self {
        Self {
            upstream_protocol,
            ..self
        }
    }

    /// The same route with this fate of its opaque sessions.
    #[must_use]
    pub fn with_on_move(self, on_move: OnMove) -> Self {
        Self { on_move, ..self }
    }
}

/// One operation of a [`Transaction`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Operation {
    /// A new route; its key must not be in the table.
    Add {
        /// The route.
        route: Route,
    },
    /// Changes a route that is in the table; its gate and what is parked there stay.
    Set {
        /// The route as it shall be.
        route: Route,
    },
    /// [`Operation::Add`] or [`Operation::Set`], whichever applies.
    Put {
        /// The route as it shall be.
        route: Route,
    },
    /// Removes a route that is in the table; what is parked there is refused.
    Remove {
        /// Its key.
        key: RouteKey,
    },
    /// Takes one upstream of a route out of the balance, or puts it back: it gets nothing new,
    /// what it has goes on.
    Drain {
        /// The route's key.
        key: RouteKey,
        /// The upstream, as the route names it.
        upstream: UpstreamAddress,
        /// Whether it drains from now on.
        drain: bool,
    },
}

impl Operation {
    /// The route that there is afterwards, unless it is removed.
    #[must_use]
    pub fn route(&self) -> Option<&Route> {
        match self {
            Self::Add { route } | Self::Set { route } | Self::Put { route } => Some(route),
            Self::Remove { .. } | Self::Drain { .. } => None,
        }
    }

    /// The key that the operation is about.
    #[must_use]
    pub fn key(&self) -> &RouteKey {
        match self {
            Self::Add { route } | Self::Set { route } | Self::Put { route } => &route.key,
            Self::Remove { key } | Self::Drain { key, .. } => key,
        }
    }
}

/// A change of an edge's table: all of it or nothing, in one generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transaction {
    /// The generation that the operations were made against; a stale one is refused with
    /// the current. `None` applies to whatever is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<Generation>,
    /// The operations, carried out in order.
    pub operations: Vec<Operation>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip() {
        for text in [
            "tcp:5432",
            "link:127.64.3.9:5432",
            "http:example.com",
            "https:*.example.com",
            "http:example.com/api/v1",
            "https:*.example.com/%C3%A4",
        ] {
            let key: RouteKey = text.parse().unwrap();
            assert_eq!(key.to_string(), text);
            assert_eq!(
                serde_json::from_str::<RouteKey>(&serde_json::to_string(&key).unwrap()).unwrap(),
                key
            );
        }
    }

    #[test]
    fn bad_keys_say_what_would_be_right() {
        let message = |text: &str| text.parse::<RouteKey>().unwrap_err().to_string();
        assert!(message("udp:53").contains("write tcp:PORT"));
        assert!(message("example.com").contains("write tcp:PORT"));
        assert!(message("http:a/b//c").contains("not a route key"));
        assert!(message("tcp:0").contains("1 to 65535"));
        assert!(message("tcp:+80").contains("1 to 65535"));
        assert!(message("tcp:65536").contains("1 to 65535"));
        assert!(message("link:10.0.0.1:5432").contains("loopback"));
        assert!(message("link:127.0.0.1").contains("loopback"));
        assert!(
            serde_json::from_str::<RouteKey>("\"http:a..b\"")
                .unwrap_err()
                .to_string()
                .contains("empty label")
        );
    }

    #[test]
    fn a_path_is_kept_in_its_normal_form() {
        let key = |text: &str| text.parse::<RouteKey>().unwrap();
        assert_eq!(key("http:A.b/"), key("http:a.b"));
        assert_eq!(key("http:a.b/%61pi/").to_string(), "http:a.b/api");
        assert_eq!(key("http:a.b/%c3%a4").in_url(), "http:a.b/%25C3%25A4");
        assert_eq!(key("http:a.b/api").prefix(), "/api");
        assert_eq!(key("tcp:1").prefix(), "");
    }

    #[test]
    fn unknown_fields_are_refused() {
        let text = r#"{"op":"add","route":{"key":"tcp:1","upstreams":[],"weight":3}}"#;
        assert!(
            serde_json::from_str::<Operation>(text)
                .unwrap_err()
                .to_string()
                .contains("weight")
        );
    }
}
