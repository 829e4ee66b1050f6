//! Host names and the one normal form in which all of Flocker compares them.
//!
//! SNI, Host header, route keys and certificates go through [`Hostname::from_str`], so that a
//! name that matches in one place matches in all: lower case, no port, no trailing dot.
//! A leading `*.` label is a wildcard, allowed in route keys only ([`HostPattern`]).

use std::{fmt, net::Ipv6Addr, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest host name in its text form (RFC 1035, section 2.3.4: 255 octets on the wire).
pub const HOSTNAME_BYTES_MAX: usize = 253;
/// Longest label of a host name (RFC 1035, section 2.3.4).
pub const LABEL_BYTES_MAX: usize = 63;

/// Why a text is not a host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a valid host name: {reason}")]
pub struct InvalidHostname {
    /// The text as it came.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// A host name or IP literal in normal form: lower case, no port, no trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hostname(String);

impl Hostname {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Writes the normal form of `text` into `buffer` and returns it, without allocating.
///
/// This is the only normaliser; [`Hostname`] uses it too. `text` may carry a port
/// (`example.com:8443`) or be a bracketed IPv6 literal (`[::1]:80`), as a Host header may
/// (RFC 9110, section 7.2).
///
/// # Errors
/// Says what is wrong with the text.
pub fn normalise<'b>(text: &str, buffer: &'b mut [u8; 256]) -> Result<&'b str, &'static str> {
    let bare = without_port(text)?;
    let bare = bare.strip_suffix('.').unwrap_or(bare);
    if bare.is_empty() {
        return Err("it is empty");
    }
    if bare.len() > HOSTNAME_BYTES_MAX {
        return Err("it is longer than 253 bytes");
    }
    if !bare.starts_with('[') {
        check_labels(bare)?;
    }
    let normal = &mut buffer[..bare.len()];
    normal.copy_from_slice(bare.as_bytes());
    normal.make_ascii_lowercase();
    std::str::from_utf8(normal).map_err(|_| "it is not ASCII")
}

fn without_port(text: &str) -> Result<&str, &'static str> {
    let (name, port) = if let Some(rest) = text.strip_prefix('[') {
        let (literal, after) = rest.split_once(']').ok_or("the '[' is never closed")?;
        literal
            .parse::<Ipv6Addr>()
            .map_err(|_| "what stands in brackets is no IPv6 address")?;
        (
            &text[..literal.len() + 2],
            after
                .strip_prefix(':')
                .or_else(|| after.is_empty().then_some("0")),
        )
    } else {
        match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, Some("0")),
        }
    };
    let port = port.ok_or("only a port may follow the ']'")?;
    let digits = port.bytes().all(|b| b.is_ascii_digit()) && port.len() <= 5;
    // An empty port is legal in a URI authority (RFC 3986, section 3.2.3).
    if digits && (port.is_empty() || port.parse::<u16>().is_ok()) {
        Ok(name)
    } else {
        Err("its port is not a number up to 65535")
    }
}

fn check_labels(name: &str) -> Result<(), &'static str> {
    for label in name.split('.') {
        if label.is_empty() {
            return Err("it has an empty label");
        }
        if label.len() > LABEL_BYTES_MAX {
            return Err("a label is longer than 63 bytes");
        }
        // '_' is not in RFC 952 but in wide use.
        if !label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        {
            return Err("only letters, digits, '-', '_' and '.' are allowed");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err("a label begins or ends with '-'");
        }
    }
    Ok(())
}

impl FromStr for Hostname {
    type Err = InvalidHostname;

    fn from_str(text: &str) -> Result<Self, InvalidHostname> {
        let mut buffer = [0; 256];
        match normalise(text, &mut buffer) {
            Ok(normal) => Ok(Self(normal.to_owned())),
            Err(reason) => Err(InvalidHostname {
                text: text.to_owned(),
                reason,
            }),
        }
    }
}

impl TryFrom<String> for Hostname {
    type Error = InvalidHostname;

    fn try_from(text: String) -> Result<Self, InvalidHostname> {
        text.parse()
    }
}

impl From<Hostname> for String {
    fn from(name: Hostname) -> Self {
        name.0
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a route key matches: one host, or every host one label below a domain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// `example.com`
    Exact(Hostname),
    /// `*.example.com` matches `a.example.com`, not `example.com`, not `a.b.example.com`
    /// (as certificates do, RFC 6125, section 6.4.3).
    Wildcard(Hostname),
}

impl FromStr for HostPattern {
    type Err = InvalidHostname;

    fn from_str(text: &str) -> Result<Self, InvalidHostname> {
        if text.contains(':') {
            return Err(InvalidHostname {
                text: text.to_owned(),
                reason: "a route key takes no port",
            });
        }
        match text.strip_prefix("*.") {
            Some(domain) => Ok(Self::Wildcard(domain.parse()?)),
            None => Ok(Self::Exact(text.parse()?)),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::Wildcard(domain) => write!(f, "*.{domain}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_normal_form() {
        for text in [
            "Example.COM",
            "example.com.",
            "example.com:80",
            "EXAMPLE.com.:8443",
            "example.com:",
        ] {
            assert_eq!(
                text.parse::<Hostname>().unwrap().as_str(),
                "example.com",
                "{text}"
            );
        }
        assert_eq!("[::1]:80".parse::<Hostname>().unwrap().as_str(), "[::1]");
        assert_eq!(
            "10.0.0.1:80".parse::<Hostname>().unwrap().as_str(),
            "10.0.0.1"
        );
    }

    #[test]
    fn malformed_names_are_refused() {
        for text in [
            "",
            ".",
            "..",
            "a..b",
            "-a.b",
            "a-.b",
            "a b",
            "a/b",
            "a@b",
            "a:b",
            "a:99999",
            "a:+80",
            "[::1",
            "[::1]x",
            "[zz]",
            "a:1:2",
            "\u{e4}.com",
            "*.a",
        ] {
            assert!(text.parse::<Hostname>().is_err(), "{text:?}");
        }
        assert!("a".repeat(64).parse::<Hostname>().is_err());
        assert!(vec!["abc"; 64].join(".").parse::<Hostname>().is_err());
    }

    #[test]
    fn patterns() {
        assert_eq!(
            "*.Example.com".parse::<HostPattern>().unwrap().to_string(),
            "*.example.com"
        );
        assert!("*.*.com".parse::<HostPattern>().is_err());
        assert!("a.*.com".parse::<HostPattern>().is_err());
        assert!("*".parse::<HostPattern>().is_err());
        assert!("example.com:80".parse::<HostPattern>().is_err());
    }
}
