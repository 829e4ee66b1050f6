//! Certificates and keys from PEM: checked against one another before anything uses them.

use std::sync::Arc;

use flocker_api::host::HostPattern;
use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::{
    asn1_rs::{Any, Tag},
    objects::{oid_registry, oid2abbrev},
    prelude::{AttributeTypeAndValue, FromDer, GeneralName, X509Certificate},
};

/// Why a certificate is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// There is no certificate.
    #[error("there is no certificate in PEM in it")]
    NoCertificate,
    /// There is no private key.
    #[error("there is no private key in PEM in it")]
    NoKey,
    /// A certificate cannot be read.
    #[error("certificate {number} of the chain cannot be read")]
    Certificate {
        /// Which one, from 1.
        number: usize,
    },
    /// The key is of no use with the certificate.
    #[error("the private key and the certificate do not belong together: {0}")]
    Key(String),
    /// It names no server.
    #[error("the certificate names no server: it needs a DNS name among its alternative names")]
    NoHost,
    /// A list of revoked certificates is no good.
    #[error("a list of revoked certificates cannot be used: {0}")]
    Crl(String),
    /// A response about the certificate's state is no good.
    #[error("it is no OCSP response that says something, in DER")]
    Ocsp,
    /// It has run out.
    #[error("the certificate has expired")]
    Expired,
}

/// A certificate that can be served.
#[derive(Debug, Clone)]
pub(super) struct Served {
    /// The chain with its key.
    pub certified: Arc<CertifiedKey>,
    /// The servers that it names.
    pub hosts: Vec<HostPattern>,
    /// Who has signed it.
    pub issuer: String,
    /// Seconds since 1970 between which it is valid.
    pub valid_s: (i64, i64),
}

/// Reads a chain, leaf first, its key, and the OCSP response to be stapled to it.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn served(
    chain: &[u8],
    key: &[u8],
    ocsp: Option<Vec<u8>>,
    provider: &CryptoProvider,
) -> Result<Served, PemError> {
    let chain = certificates(chain)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| PemError::NoKey)?;
    let leaf = chain.first().ok_or(PemError::NoCertificate)?;
    let (_, parsed) =
        X509Certificate::from_der(leaf).map_err(|_| PemError::Certificate { number: 1 })?;
    let hosts = hosts(&parsed);
    if hosts.is_empty() {
        return Err(PemError::NoHost);
    }
    let issuer = parsed.issuer().to_string();
    let validity = parsed.validity();
    let valid_s = (
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    );
    if ocsp.as_deref().is_some_and(|ocsp| !says_something(ocsp)) {
        return Err(PemError::Ocsp);
    }
    let mut certified = CertifiedKey::from_der(chain, key, provider)
        .map_err(|error| PemError::Key(error.to_string()))?;
    certified.ocsp = ocsp;
    Ok(Served {
        certified: Arc::new(certified),
        hosts,
        issuer,
        valid_s,
    })
}

/// Whether this is an OCSP response (RFC 6960, section 4.2.1) that answers the question; whether
/// the answer is to be believed is the client's to judge.
fn says_something(ocsp: &[u8]) -> bool {
    let Ok((rest, whole)) = Any::from_der(ocsp) else {
        return false;
    };
    // SEQUENCE { responseStatus ENUMERATED successful (0), ... }
    rest.is_empty() && whole.tag() == Tag::Sequence && whole.data.starts_with(&[0x0a, 1, 0])
}

/// All certificates of a text.
///
/// # Errors
/// Says which one is bad, or that there is none.
pub(super) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let mut all = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(text) {
        let number = all.len() + 1;
        all.push(certificate.map_err(|_| PemError::Certificate { number })?);
    }
    match all.is_empty() {
        true => Err(PemError::NoCertificate),
        false => Ok(all),
    }
}

/// The DNS names of a certificate (RFC 6125: the common name does not count).
fn hosts(certificate: &X509Certificate<'_>) -> Vec<HostPattern> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = names.value.general_names.iter();
    names
        .filter_map(|name| match name {
            // What no client can ask for is left out.
            GeneralName::DNSName(name) => name.parse().ok(),
            _ => None,
        })
        .collect()
}

/// The subject of a certificate as text in one unambiguous form (RFC 4514), in ASCII alone:
/// fit for a header field.
#[must_use]
pub fn subject(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    // RFC 4514, section 2.1: the last relative name first.
    let mut names: Vec<_> = parsed.subject().iter_rdn().collect();
    names.reverse();
    let names = names.into_iter().map(|name| {
        let attributes: Vec<_> = name.iter().map(attribute).collect();
        attributes.join("+")
    });
    Some(names.collect::<Vec<_>>().join(","))
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let kind = attribute.attr_type();
    let kind = match oid2abbrev(kind, oid_registry()) {
        Ok(short) => short.to_owned(),
        Err(_) => kind.to_id_string(),
    };
    let mut text = format!("{kind}=");
    match attribute.as_str() {
        Ok(value) => escape(value, &mut text),
        // No text that we could read: its bytes.
        Err(_) => hex(attribute.as_slice(), "", &mut text),
    }
    text
}

/// RFC 4514, section 2.4; what is not ASCII goes as the hexadecimal of its UTF-8.
fn escape(value: &str, text: &mut String) {
    let last = value.chars().count().saturating_sub(1);
    for (at, c) in value.chars().enumerate() {
        let edge = (c == ' ' && (at == 0 || at == last)) || (c == '#' && at == 0);
        if edge || matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=') {
            text.push('\\');
            text.push(c);
        } else if c == ' ' || c.is_ascii_graphic() {
            text.push(c);
        } else {
            hex(c.encode_utf8(&mut [0; 4]).as_bytes(), "\\", text);
        }
    }
}

fn hex(bytes: &[u8], before: &str, text: &mut String) {
    for byte in bytes {
        text.push_str(&format!("{before}{byte:02x}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(value: &str) -> String {
        let mut text = String::new();
        escape(value, &mut text);
        text
    }

    #[test]
    fn a_name_cannot_pretend_to_be_several_nor_break_a_header() {
        assert_eq!(escaped("Ann Example"), "Ann Example");
        assert_eq!(escaped("a,OU=admin"), "a\\,OU\\=admin");
        assert_eq!(escaped("a\r\nX: y"), "a\\0d\\0aX: y");
        assert_eq!(escaped(" #é "), "\\ #\\c3\\a9\\ ");
        assert_eq!(escaped("#a"), "\\#a");
    }
}
