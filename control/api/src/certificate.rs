//! Certificates of an edge and the keys of its session tickets.
//!
//! | method and path | request | answer |
//! | --- | --- | --- |
//! | `GET /v1/certificates` | | [`CertificateList`] |
//! | `PUT /v1/certificates/{name}` | [`PutCertificate`] | [`CertificateStatus`] |
//! | `DELETE /v1/certificates/{name}` | | [`CertificateStatus`] of the one that is gone |
//! | `PUT /v1/tickets` | [`PutTicketKey`] | [`TicketKeys`] |

use std::{fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::name::CertificateName;

/// Sets a certificate; connections that stand keep the one that they have.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutCertificate {
    /// The chain, leaf first, in PEM (RFC 7468).
    pub certificate: String,
    /// The leaf's private key, in PEM: PKCS #8, PKCS #1 or SEC 1.
    pub key: String,
}

/// Without the key.
impl fmt::Debug for PutCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PutCertificate")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// The certificates of an edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateList {
    /// They, by name.
    pub certificates: Vec<CertificateStatus>,
}

/// A certificate that an edge has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// Its name in the store.
    pub name: CertificateName,
    /// The servers that it names, wildcards with their star.
    pub hosts: Vec<String>,
    /// Who has signed it.
    pub issuer: String,
    /// When it begins to be valid, in s since 1970.
    pub not_before_s: i64,
    /// When it ends to be valid, in s since 1970.
    pub not_after_s: i64,
    /// Whether an OCSP response is stapled to it.
    #[serde(default)]
    pub stapled: bool,
    /// The file that it is read from; `None` when it came by the admin API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Why what is in the file now is not served, and the last good one still is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A key that session tickets are sealed with: 32 bytes, 64 hexadecimal digits as text.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TicketKey(pub [u8; 32]);

/// Why a text is no ticket key. The text is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a ticket key is 64 hexadecimal digits")]
pub struct InvalidTicketKey;

impl FromStr for TicketKey {
    type Err = InvalidTicketKey;

    fn from_str(text: &str) -> Result<Self, InvalidTicketKey> {
        let mut key = [0; 32];
        if text.len() != 2 * key.len() {
            return Err(InvalidTicketKey);
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(InvalidTicketKey);
        for (byte, pair) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let value = digit(pair[0])? << 4 | digit(pair[1])?;
            *byte = u8::try_from(value).map_err(|_| InvalidTicketKey)?;
        }
        Ok(Self(key))
    }
}

impl TryFrom<String> for TicketKey {
    type Error = InvalidTicketKey;

    fn try_from(text: String) -> Result<Self, InvalidTicketKey> {
        text.parse()
    }
}

impl From<TicketKey> for String {
    fn from(key: TicketKey) -> Self {
        key.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Not the key.
impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKey(..)")
    }
}

/// Makes a key the current one. The one before it still opens tickets; the one before that
/// does not. The current key again changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutTicketKey {
    /// The key.
    pub key: TicketKey,
}

/// Which keys an edge has: what the tickets show of them, not the keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketKeys {
    /// The one that seals.
    pub current: String,
    /// The one before it, which still opens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_key_is_64_hexadecimal_digits_and_is_not_shown() {
        let text = "00ff".repeat(16);
        let key: TicketKey = text.parse().unwrap();
        assert_eq!(String::from(key.clone()), text);
        assert_eq!(format!("{key:?}"), "TicketKey(..)");
        for bad in ["", "00", &"0".repeat(63), &"0g".repeat(32), &"é".repeat(32)] {
            assert_eq!(bad.parse::<TicketKey>(), Err(InvalidTicketKey));
        }
    }

    #[test]
    fn a_private_key_is_not_shown() {
        let put = PutCertificate {
            certificate: "C".to_owned(),
            key: "secret".to_owned(),
        };
        assert!(!format!("{put:?}").contains("secret"));
    }
}
