//! What an edge does with TLS: on the client's side of a route ([`Tls`]) and on its upstreams'
//! ([`UpstreamTls`]).

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

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

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
