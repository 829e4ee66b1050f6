//! Authorities of an edge: whose signatures it believes, of clients and of upstreams, and what
//! they have revoked.
//!
//! | method and path | request | answer |
//! | --- | --- | --- |
//! | `GET /v1/authorities` | | [`AuthorityList`] |
//! | `PUT /v1/authorities/{name}` | [`PutAuthority`] | [`AuthorityStatus`] |
//! | `DELETE /v1/authorities/{name}` | | [`AuthorityStatus`] of the one that is gone |

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::name::AuthorityName;

/// Sets an authority, as a whole; it judges the next handshake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutAuthority {
    /// Its certificates, in PEM (RFC 7468).
    pub certificates: String,
    /// Its lists of revoked certificates (RFC 5280, section 5), in PEM. With any, the whole
    /// chain of whoever shows a certificate has to be covered by lists that have not run out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crls: Option<String>,
}

/// The authorities of an edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityList {
    /// They, by name.
    pub authorities: Vec<AuthorityStatus>,
}

/// An authority that an edge has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityStatus {
    /// By which routes name it.
    pub name: AuthorityName,
    /// The subjects of its certificates.
    pub subjects: Vec<String>,
    /// When the first of its certificates ends to be valid, in s since 1970.
    pub not_after_s: i64,
    /// How many lists of revoked certificates there are.
    #[serde(default)]
    pub crls: usize,
    /// How many certificates they revoke.
    #[serde(default)]
    pub revoked: usize,
    /// When the first of them runs out, in s since 1970; then nobody's certificate is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crl_until_s: Option<i64>,
    /// The file that it is read from; `None` when it came by the admin API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// What is wrong: with what is in the file now, in which case the last good one still
    /// counts, or with lists that have run out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}
