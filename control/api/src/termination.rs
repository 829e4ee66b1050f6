//! What an edge does with TLS: on the client's side of a route ([`Tls`]) and on its upstreams'
//! ([`UpstreamTls`]).

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{host::Hostname, name::AuthorityName};

/// What becomes of TLS on an `https:` route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tls {
    /// It is passed through undecrypted; the upstream has the certificate.
    #[default]
    Passthrough,
    /// It ends at the edge, which speaks HTTP with client and upstream.
    Terminate(Terminate),
}

impl Tls {
    /// Whether it is passed through.
    #[must_use]
    pub fn is_passthrough(&self) -> bool {
        *self == Self::Passthrough
    }
}

/// The terms on which an edge speaks TLS with the clients of a route. Its certificate is the
/// one in the edge's store that names the server that the client asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Terminate {
    /// Whether clients show a certificate. When they are asked for one, the upstream is told
    /// its subject in `X-Client-Cert-Subject`, which no client can set.
    #[serde(skip_serializing_if = "is_default")]
    pub client_certificate: ClientCertificate,
    /// Which of the edge's authorities has to have signed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<AuthorityName>,
    /// The oldest version that is spoken.
    #[serde(skip_serializing_if = "is_default")]
    pub min_version: TlsVersion,
}

/// Whether clients show a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertificate {
    /// They are not asked.
    #[default]
    None,
    /// They are asked; one that is shown has to be valid.
    Request,
    /// They have to show a valid one.
    Require,
}

/// A version of TLS.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3 (RFC 8446).
    #[serde(rename = "1.3")]
    V1_3,
}

/// TLS towards the upstreams of a route; their certificate is always verified.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamTls {
    /// The name that the certificate has to have and that is sent as SNI; by default the host
    /// of the route's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<Hostname>,
    /// Which of the edge's authorities has to have signed it; by default those that the system
    /// trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<AuthorityName>,
}

/// Why a text says nothing of TLS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTls {
    /// The first word is not one of the two that it may be.
    #[error("'{text}' is not known of TLS: write {expected}")]
    Word {
        /// The text.
        text: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A setting that there is not, or one with a value that it cannot have.
    #[error("'{setting}' is not a setting of TLS: after '{word}' come {expected}")]
    Setting {
        /// The setting as it came.
        setting: String,
        /// What it comes after.
        word: &'static str,
        /// What there is.
        expected: &'static str,
    },
}

/// As on a command line: `passthrough`, or `terminate,min_version=1.3,client_certificate=require,
/// client_ca=NAME`.
impl FromStr for Tls {
    type Err = InvalidTls;

    fn from_str(text: &str) -> Result<Self, InvalidTls> {
        let mut parts = text.split(',');
        match parts.next() {
            Some("passthrough") if !text.contains(',') => return Ok(Self::Passthrough),
            Some("terminate") => {}
            _ => {
                return Err(InvalidTls::Word {
                    text: text.to_owned(),
                    expected: "passthrough, or terminate with its settings",
                });
            }
        }
        let mut terms = Terminate::default();
        for part in parts {
            let bad = || InvalidTls::Setting {
                setting: part.to_owned(),
                word: "terminate",
                expected: "min_version=1.2|1.3, client_certificate=none|request|require and \
                           client_ca=NAME",
            };
            match part.split_once('=').ok_or_else(bad)? {
                ("min_version", "1.2") => terms.min_version = TlsVersion::V1_2,
                ("min_version", "1.3") => terms.min_version = TlsVersion::V1_3,
                ("client_certificate", "none") => {
                    terms.client_certificate = ClientCertificate::None;
                }
                ("client_certificate", "request") => {
                    terms.client_certificate = ClientCertificate::Request;
                }
                ("client_certificate", "require") => {
                    terms.client_certificate = ClientCertificate::Require;
                }
                ("client_ca", name) => terms.client_ca = Some(name.parse().map_err(|_| bad())?),
                _ => return Err(bad()),
            }
        }
        Ok(Self::Terminate(terms))
    }
}

/// As on a command line: `verify,server_name=NAME,ca=NAME`.
impl FromStr for UpstreamTls {
    type Err = InvalidTls;

    fn from_str(text: &str) -> Result<Self, InvalidTls> {
        let mut parts = text.split(',');
        if parts.next() != Some("verify") {
            return Err(InvalidTls::Word {
                text: text.to_owned(),
                expected: "none, or verify with its settings",
            });
        }
        let mut tls = Self::default();
        for part in parts {
            let bad = || InvalidTls::Setting {
                setting: part.to_owned(),
                word: "verify",
                expected: "server_name=NAME and ca=NAME",
            };
            match part.split_once('=').ok_or_else(bad)? {
                ("server_name", name) => {
                    tls.server_name = Some(name.parse().map_err(|_| bad())?);
                }
                ("ca", name) => tls.ca = Some(name.parse().map_err(|_| bad())?),
                _ => return Err(bad()),
            }
        }
        Ok(tls)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_a_command_line_are_those_of_a_file() {
        let tls: Tls = "terminate,client_certificate=require,client_ca=office,min_version=1.3"
            .parse()
            .unwrap();
        let same = r#"{"terminate":{"client_certificate":"require","client_ca":"office","min_version":"1.3"}}"#;
        assert_eq!(serde_json::to_string(&tls).unwrap(), same);
        assert_eq!("passthrough".parse(), Ok(Tls::Passthrough));
        let upstream: UpstreamTls = "verify,server_name=a.b,ca=office".parse().unwrap();
        let same = r#"{"server_name":"a.b","ca":"office"}"#;
        assert_eq!(serde_json::to_string(&upstream).unwrap(), same);
        for bad in [
            "",
            "off",
            "passthrough,x=1",
            "terminate,min_version=1.1",
            "terminate,x",
        ] {
            assert!(bad.parse::<Tls>().is_err(), "{bad}");
        }
        for bad in [
            "",
            "none",
            "verify,ca",
            "verify,insecure=1",
            "verify,ca=A B",
        ] {
            assert!(bad.parse::<UpstreamTls>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_forms_of_a_file_are_read_and_written() {
        for text in [
            r#""passthrough""#,
            r#"{"terminate":{}}"#,
            r#"{"terminate":{"client_certificate":"require","client_ca":"office","min_version":"1.3"}}"#,
        ] {
            let tls: Tls = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&tls).unwrap(), text);
        }
        assert!(serde_json::from_str::<Tls>(r#"{"terminate":{"min_version":"1.1"}}"#).is_err());
        assert!(serde_json::from_str::<Tls>(r#"{"terminate":{"verify":false}}"#).is_err());
        assert!(serde_json::from_str::<UpstreamTls>(r#"{"insecure":true}"#).is_err());
    }
}
