//! Upstreams of a route: an address or a name with a port, how much it takes, whether it drains.
//!
//! In JSON and TOML an upstream is a text, `"10.0.0.1:8080"`, or a table when there is more to
//! say: `{ address = "10.0.0.1:8080", weight = 3, drain = true }`. On a command line the same is
//! `10.0.0.1:8080,weight=3,drain`.

use std::{fmt, net::SocketAddr, num::NonZeroU16, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::host::{Hostname, InvalidHostname};

/// Largest weight of an upstream.
pub const WEIGHT_MAX: u16 = 1000;

/// Why a text is not an upstream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUpstream {
    /// Not `ADDRESS:PORT`.
    #[error("'{0}' is not an upstream: write ADDRESS:PORT, [IPV6]:PORT or NAME:PORT")]
    Address(String),
    /// The part before the port is no host name.
    #[error("'{text}' is not an upstream: {source}")]
    Host {
        /// The whole text.
        text: String,
        /// What is wrong with the name.
        source: InvalidHostname,
    },
    /// A weight out of range.
    #[error("'{0}' is not a weight: it must be 1 to {WEIGHT_MAX}")]
    Weight(String),
    /// An unknown way of balancing.
    #[error("'{0}' is not known: it is round_robin, least_connections, source or in_order")]
    Balance(String),
    /// An unknown version of the PROXY protocol.
    #[error("'{0}' is not a version of the PROXY protocol: it is v1 or v2")]
    SendProxy(String),
    /// An unknown word after the address.
    #[error("'{0}' is not known of an upstream: after the address come weight=N or drain")]
    Option(String),
}

/// Which of a route's upstreams is next. Those that are down, ejected or drained are passed over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// One after the other, by their weights.
    #[default]
    RoundRobin,
    /// The one with the least to do in relation to its weight.
    LeastConnections,
    /// The same for the same client address, by weights; when upstreams come or go, only the
    /// clients of these move.
    Source,
    /// The first that can be connected.
    InOrder,
}

impl FromStr for Balance {
    type Err = InvalidUpstream;

    fn from_str(text: &str) -> Result<Self, InvalidUpstream> {
        match text {
            "round_robin" => Ok(Self::RoundRobin),
            "least_connections" => Ok(Self::LeastConnections),
            "source" => Ok(Self::Source),
            "in_order" => Ok(Self::InOrder),
            _ => Err(InvalidUpstream::Balance(text.to_owned())),
        }
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::RoundRobin => "round_robin",
            Self::LeastConnections => "least_connections",
            Self::Source => "source",
            Self::InOrder => "in_order",
        })
    }
}

/// The PROXY header with which a route tells its upstreams of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SendProxy {
    /// A line of text.
    V1,
    /// Binary; with the server name of TLS, where it is known.
    V2,
}

impl FromStr for SendProxy {
    type Err = InvalidUpstream;

    fn from_str(text: &str) -> Result<Self, InvalidUpstream> {
        match text {
            "v1" => Ok(Self::V1),
            "v2" => Ok(Self::V2),
            _ => Err(InvalidUpstream::SendProxy(text.to_owned())),
        }
    }
}

impl fmt::Display for SendProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}

/// Where an upstream is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum UpstreamAddress {
    /// One socket address.
    Socket(SocketAddr),
    /// Whatever addresses a DNS name has, now and later.
    Name {
        /// The name.
        host: Hostname,
        /// The port at each of its addresses.
        port: NonZeroU16,
    },
}

impl FromStr for UpstreamAddress {
    type Err = InvalidUpstream;

    fn from_str(text: &str) -> Result<Self, InvalidUpstream> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Socket(address));
        }
        let wrong = || InvalidUpstream::Address(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        // u16::from_str takes a leading '+'; a port does not.
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits).ok_or_else(wrong)?;
        // What is left can only be a name: no second port, no literal, no mistyped IPv4 address.
        let last = host.trim_end_matches('.').rsplit('.').next();
        let numeric = last.is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
        if numeric || host.contains([':', '[']) {
            return Err(wrong());
        }
        let host = host.parse().map_err(|source| InvalidUpstream::Host {
            text: text.to_owned(),
            source,
        })?;
        Ok(Self::Name { host, port })
    }
}

impl TryFrom<String> for UpstreamAddress {
    type Error = InvalidUpstream;

    fn try_from(text: String) -> Result<Self, InvalidUpstream> {
        text.parse()
    }
}

impl From<UpstreamAddress> for String {
    fn from(address: UpstreamAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => write!(f, "{address}"),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// One upstream of a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Upstream {
    /// Where it is.
    pub address: UpstreamAddress,
    /// Its share of the route's traffic, in relation to the other upstreams': 1 to
    /// [`WEIGHT_MAX`].
    pub weight: u16,
    /// It gets no new sessions and requests; what it has goes on.
    pub drain: bool,
}

impl Upstream {
    /// An upstream of weight 1.
    #[must_use]
    pub fn new(address: UpstreamAddress) -> Self {
        Self {
            address,
            weight: 1,
            drain: false,
        }
    }

    /// Its socket address, unless it has a name.
    #[must_use]
    pub fn socket(&self) -> Option<SocketAddr> {
        match self.address {
            UpstreamAddress::Socket(address) => Some(address),
            UpstreamAddress::Name { .. } => None,
        }
    }
}

impl From<SocketAddr> for Upstream {
    fn from(address: SocketAddr) -> Self {
        Self::new(UpstreamAddress::Socket(address))
    }
}

fn check_weight(weight: &str) -> Result<u16, InvalidUpstream> {
    let digits = weight.bytes().all(|byte| byte.is_ascii_digit());
    weight
        .parse()
        .ok()
        .filter(|number| digits && (1..=WEIGHT_MAX).contains(number))
        .ok_or_else(|| InvalidUpstream::Weight(weight.to_owned()))
}

impl FromStr for Upstream {
    type Err = InvalidUpstream;

    fn from_str(text: &str) -> Result<Self, InvalidUpstream> {
        let mut parts = text.split(',');
        let mut upstream = Self::new(parts.next().unwrap_or_default().parse()?);
        for part in parts {
            match part.split_once('=') {
                Some(("weight", weight)) => upstream.weight = check_weight(weight)?,
                None if part == "drain" => upstream.drain = true,
                _ => return Err(InvalidUpstream::Option(part.to_owned())),
            }
        }
        Ok(upstream)
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)?;
        if self.weight != 1 {
            write!(f, ",weight={}", self.weight)?;
        }
        if self.drain {
            f.write_str(",drain")?;
        }
        Ok(())
    }
}

/// The long form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    address: String,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    weight: u16,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    drain: bool,
}

fn one() -> u16 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_one(weight: &u16) -> bool {
    *weight == 1
}

impl Serialize for Upstream {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.weight == 1 && !self.drain {
            return serializer.collect_str(&self.address);
        }
        let table = Table {
            address: self.address.to_string(),
            weight: self.weight,
            drain: self.drain,
        };
        table.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Upstream {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor)
    }
}

/// By hand, because an untagged enum would hide what is wrong with either form.
struct Visitor;

impl<'de> serde::de::Visitor<'de> for Visitor {
    type Value = Upstream;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"ADDRESS:PORT\" or { address, weight, drain }")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Upstream, E> {
        text.parse().map(Upstream::new).map_err(E::custom)
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Upstream, A::Error> {
        use serde::de::Error;
        let table = Table::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
        if !(1..=WEIGHT_MAX).contains(&table.weight) {
            return Err(A::Error::custom(InvalidUpstream::Weight(
                table.weight.to_string(),
            )));
        }
        Ok(Upstream {
            address: table.address.parse().map_err(A::Error::custom)?,
            weight: table.weight,
            drain: table.drain,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_and_the_long_form_round_trip() {
        for (json, line) in [
            (r#""10.0.0.1:80""#, "10.0.0.1:80"),
            (r#""[::1]:80""#, "[::1]:80"),
            (r#""db.example.com:5432""#, "db.example.com:5432"),
            (
                r#"{"address":"10.0.0.1:80","weight":3}"#,
                "10.0.0.1:80,weight=3",
            ),
            (
                r#"{"address":"app.test:80","weight":2,"drain":true}"#,
                "app.test:80,weight=2,drain",
            ),
        ] {
            let upstream: Upstream = serde_json::from_str(json).unwrap();
            assert_eq!(serde_json::to_string(&upstream).unwrap(), json);
            assert_eq!(upstream.to_string(), line);
            assert_eq!(line.parse::<Upstream>().unwrap(), upstream);
        }
    }

    #[test]
    fn what_is_no_upstream_says_what_would_be_right() {
        for (text, expected) in [
            ("10.0.0.1", "ADDRESS:PORT"),
            ("10.0.0.256:80", "ADDRESS:PORT"),
            ("::1:80", "ADDRESS:PORT"),
            ("app.test:0", "ADDRESS:PORT"),
            ("app.test:+80", "ADDRESS:PORT"),
            ("a..b:80", "empty label"),
            ("10.0.0.1:80,weight=0", "1 to 1000"),
            ("10.0.0.1:80,weight=+5", "1 to 1000"),
            ("10.0.0.1:80,weight=1001", "1 to 1000"),
            ("10.0.0.1:80,colour=3", "weight=N or drain"),
        ] {
            let error = text.parse::<Upstream>().unwrap_err();
            let message = crate::error::chain(&error);
            assert!(message.contains(expected), "{text}: {message}");
        }
        for (json, expected) in [
            (r#"{"address":"10.0.0.1:80","weight":0}"#, "1 to 1000"),
            (r#"{"address":"10.0.0.1:80","colour":0}"#, "colour"),
            (r#"{"weight":1}"#, "address"),
            ("7", "ADDRESS:PORT"),
        ] {
            let error = serde_json::from_str::<Upstream>(json).unwrap_err();
            assert!(error.to_string().contains(expected), "{json}: {error}");
        }
    }
}
