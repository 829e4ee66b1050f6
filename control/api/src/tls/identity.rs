//! What a certificate says: whose it is, and from when to when it holds.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// What a program or person is in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The storage agent of a node.
    Node,
    /// The control service.
    Control,
    /// An edge.
    Edge,
    /// A person or a tool of theirs: flockerctl, a scraper of metrics.
    Operator,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Node, Self::Control, Self::Edge, Self::Operator];

    /// As it is written in certificates.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Control => "control",
            Self::Edge => "edge",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Whose a certificate is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// What it is.
    pub role: Role,
    /// What it is called.
    pub name: String,
}

impl Identity {
    /// A program or person of this role and name.
    #[must_use]
    pub fn new(role: Role, name: impl Into<String>) -> Self {
        Self {
            role,
            name: name.into(),
        }
    }

    /// As certificates have it: `flocker://ROLE/NAME`.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("flocker://{}/{}", self.role, self.name)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.name)
    }
}

/// The text names nobody of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' names nobody: it would be flocker://node/NAME, or control, edge, operator")]
pub struct InvalidIdentity(String);

impl FromStr for Identity {
    type Err = InvalidIdentity;

    fn from_str(uri: &str) -> Result<Self, InvalidIdentity> {
        let parse = || {
            let (role, name) = uri.strip_prefix("flocker://")?.split_once('/')?;
            let role = Role::ALL.into_iter().find(|r| r.as_str() == role)?;
            let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            let good = !name.is_empty() && name.chars().all(good);
            good.then(|| Self::new(role, name))
        };
        parse().ok_or_else(|| InvalidIdentity(uri.to_owned()))
    }
}

/// What is of interest in a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Whose it is.
    pub identity: Identity,
    /// From when it holds, Unix time in seconds.
    pub not_before: i64,
    /// Until when it holds, Unix time in seconds.
    pub not_after: i64,
}

impl Certificate {
    /// Reads a certificate.
    ///
    /// # Errors
    /// In words, when it is none or names nobody of a cluster.
    pub fn read(der: &[u8]) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(der)
            .map_err(|error| format!("it is no certificate: {error}"))?;
        let names = parsed
            .subject_alternative_name()
            .map_err(|error| format!("its names cannot be read: {error}"))?
            .map(|extension| extension.value.general_names.as_slice())
            .unwrap_or_default();
        let mut uris = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        // Two identities in one certificate would let it choose.
        let (Some(uri), None) = (uris.next(), uris.next()) else {
            return Err(
                "it does not name one identity of a cluster; make it with 'flockerctl ca'"
                    .to_owned(),
            );
        };
        let identity = uri
            .parse()
            .map_err(|error: InvalidIdentity| error.to_string())?;
        let validity = parsed.validity();
        Ok(Self {
            identity,
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }
}

/// Until when a certificate holds that need not name anybody, such as an authority's.
pub(super) fn not_after(der: &[u8]) -> Result<i64, String> {
    let (_, parsed) =
        X509Certificate::from_der(der).map_err(|error| format!("it is no certificate: {error}"))?;
    Ok(parsed.validity().not_after.timestamp())
}
