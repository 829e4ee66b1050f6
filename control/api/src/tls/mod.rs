//! Mutual TLS between Flocker's programs: who has which certificate, and who may speak to whom.
//!
//! Every program has a certificate of the cluster's own authority, which says what it is and
//! what it is called: a URI `flocker://ROLE/NAME` among its alternative names (RFC 5280,
//! 4.2.1.6). A server takes only roles that it names; a client checks that it has reached whom
//! it meant. There is no other authority and no connection without both certificates.
//!
//! Files are looked at whenever a connection is made and read again when they have changed, so
//! a certificate is renewed by replacing its files; connections that stand keep the old one. New
//! files that are no good are logged and left: the old ones go on until they expire.

#[cfg(any(test, feature = "authority"))]
pub mod authority;
mod credentials;
mod identity;
mod listener;
mod wide;

pub use credentials::{Credentials, Expected, Files};
pub use identity::{Certificate, Identity, InvalidIdentity, Role};
pub use listener::{Listener, Stream};
pub use wide::Wide;

use std::path::PathBuf;

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path}: {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// Certificate and key do not fit, or are of a kind that is not known.
    #[error("{certificate} and {key} cannot be used together")]
    Pair {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

#[cfg(test)]
mod tests;
