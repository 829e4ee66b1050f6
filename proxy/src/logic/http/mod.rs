//! HTTP/1.1 heads and framing, strict: what could be read in two ways is refused.
//!
//! Bytes in, verdicts and bytes out. What is passed on is written anew from the verdict, so
//! that the upstream cannot read another host or another length than the edge did. Section
//! numbers in this module are of RFC 9110 (semantics) and RFC 9112 (HTTP/1.1).
//!
//! | module | duty |
//! | --- | --- |
//! | [`request`] | a client's head: host, framing, what goes to the upstream |
//! | [`response`] | an upstream's head: framing, what goes to the client |
//! | [`chunked`] | validates a chunked body that passes through |
//! | [`origin`] | X-Forwarded-*, Forwarded, ids of requests |
//! | [`path`] | how a path is read to find its route |
//! | [`reply`], [`pages`], [`accept`] | the edge's own answers |
//! | [`growth`] | when a head that grows is worth parsing again |

pub mod accept;
pub mod chunked;
mod fields;
pub mod growth;
pub mod origin;
pub mod pages;
pub mod path;
pub mod reply;
pub mod request;
pub mod response;

pub(crate) use fields::{decimal, fields, lines, list, write_field};
pub use request::{RequestHead, parse_request, write_upstream_head};
pub use response::{ResponseHead, parse_response, write_downstream_head};

/// Most header fields that [`HeadLimits::headers`] may allow.
pub const HEADERS_MAX: usize = 128;

/// Bounds of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Most bytes of a head, with its last empty line.
    pub head_bytes: usize,
    /// Most bytes of a request target.
    pub target_bytes: usize,
    /// Most header fields; at most [`HEADERS_MAX`].
    pub headers: usize,
    /// Most bytes that a request may announce as its body's length.
    pub body_bytes: u64,
}

impl Default for HeadLimits {
    /// 16 KiB, 8 KiB, 100 fields, bodies of any length.
    fn default() -> Self {
        Self {
            head_bytes: 16 << 10,
            target_bytes: 8 << 10,
            headers: 100,
            body_bytes: u64::MAX,
        }
    }
}

/// What bytes at the beginning of a message say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<T> {
    /// The head is not complete; nothing is wrong with it yet.
    NeedMore,
    /// The head.
    Head(T),
    /// The message is refused and the connection with it. From a client: answer
    /// [`RejectReason::status`] and close. From an upstream: 502, and do not reuse.
    Reject(RejectReason),
}

/// Version of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// What a request came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// In clear.
    Http,
    /// TLS, terminated by the edge.
    Https,
}

impl Scheme {
    /// Its name in URLs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that need not be named.
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// What kind of method a request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// HEAD: its answer has no body.
    Head,
    /// OPTIONS, TRACE: safe (RFC 9110, section 9.2.1).
    OtherSafe,
    /// CONNECT: a tunnel after a 2xx (RFC 9110, section 9.3.6).
    Connect,
    /// PUT, DELETE: idempotent (RFC 9110, section 9.2.2).
    Idempotent,
    /// Everything else.
    Other,
}

impl Method {
    /// Whether a request may be sent again when its connection broke before an answer
    /// (RFC 9110, section 9.2.2).
    #[must_use]
    pub fn is_idempotent(self) -> bool {
        !matches!(self, Self::Other | Self::Connect)
    }

    /// Whether it asks for nothing to be changed (RFC 9110, section 9.2.1).
    #[must_use]
    pub fn is_safe(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::OtherSafe)
    }
}

/// How long a request's body is (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    None,
    /// So many bytes; never 0.
    Length(u64),
    /// Chunked; [`chunked::Validator`] finds its end.
    Chunked,
}

/// How long a response's body is (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// So many bytes; never 0.
    Length(u64),
    /// Chunked; [`chunked::Validator`] finds its end.
    Chunked,
    /// Until the upstream closes.
    UntilClose,
}

/// Why a message is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum RejectReason {
    /// The request line is malformed.
    #[error("malformed request line")]
    RequestLine,
    /// The status line is malformed.
    #[error("malformed status line")]
    StatusLine,
    /// A version other than 1.0 and 1.1.
    #[error("HTTP version is neither 1.0 nor 1.1")]
    Version,
    /// LF without CR, or CR without LF.
    #[error("a line does not end in CR LF")]
    LineEnd,
    /// A field name that is empty or no token, or with space around it; also obs-fold.
    #[error("malformed header field name")]
    FieldName,
    /// A control byte in a field value.
    #[error("malformed header field value")]
    FieldValue,
    /// More header fields than the limit.
    #[error("too many header fields")]
    TooManyFields,
    /// A head longer than the limit.
    #[error("the head is too long")]
    HeadTooLong,
    /// A request target longer than the limit.
    #[error("the request target is too long")]
    TargetTooLong,
    /// A request target in no known form.
    #[error("malformed request target")]
    Target,
    /// A path that others could read otherwise, where the path decides.
    #[error("the path can be read in more than one way")]
    Path,
    /// `#` in the request target.
    #[error("a fragment in the request target")]
    Fragment,
    /// No Host.
    #[error("no Host")]
    HostMissing,
    /// More than one Host.
    #[error("more than one Host")]
    HostDuplicate,
    /// Host is no host name.
    #[error("Host is not a host name")]
    HostInvalid,
    /// The target's authority is not the one in Host.
    #[error("Host and request target name different hosts")]
    HostMismatch,
    /// Both Content-Length and Transfer-Encoding.
    #[error("both Content-Length and Transfer-Encoding")]
    LengthAndCoding,
    /// Content-Length more than once, or a list of lengths.
    #[error("more than one Content-Length")]
    LengthDuplicate,
    /// Content-Length is no decimal number of 64 bits.
    #[error("Content-Length is not a number")]
    LengthInvalid,
    /// An announced body longer than the limit.
    #[error("the body is too long")]
    BodyTooLong,
    /// Transfer-Encoding that is not exactly `chunked`.
    #[error("a transfer coding other than chunked")]
    Coding,
    /// Transfer-Encoding more than once.
    #[error("more than one Transfer-Encoding")]
    CodingDuplicate,
    /// Transfer-Encoding in or for HTTP/1.0.
    #[error("Transfer-Encoding with HTTP/1.0")]
    CodingVersion,
    /// More connection options than a sane client names.
    #[error("too many options in Connection")]
    TooManyOptions,
    /// An expectation other than 100-continue.
    #[error("an expectation other than 100-continue")]
    Expectation,
    /// CONNECT where the route does not allow it, or in HTTP/1.0.
    #[error("CONNECT is not offered here")]
    Connect,
    /// CONNECT with a body.
    #[error("CONNECT with a body")]
    ConnectBody,
    /// A host that is not served on this connection.
    #[error("the host is not served on this connection")]
    Misdirected,
    /// 101 to a request that did not ask for an upgrade.
    #[error("101 to a request without Upgrade")]
    UnaskedUpgrade,
}

impl RejectReason {
    /// The status with which a client is answered.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::BodyTooLong => 413,
            Self::TargetTooLong => 414,
            Self::Expectation => 417,
            Self::Misdirected => 421,
            Self::TooManyFields | Self::HeadTooLong => 431,
            // RFC 9112, section 6.1: a coding that is not understood.
            Self::Coding | Self::Connect => 501,
            // Of upstreams only.
            Self::StatusLine | Self::UnaskedUpgrade => 502,
            Self::Version => 505,
            _ => 400,
        }
    }
}

/// The bytes of a line of the tables in `testdata/requests`.
#[cfg(test)]
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        if char != '\\' {
            bytes.push(u8::try_from(char).unwrap());
            continue;
        }
        bytes.push(match chars.next().unwrap() {
            'r' => b'\r',
            'n' => b'\n',
            't' => b'\t',
            '0' => 0,
            '\\' => b'\\',
            'x' => {
                let digits: String = chars.by_ref().take(2).collect();
                u8::from_str_radix(&digits, 16).unwrap()
            }
            other => panic!("unknown escape '{other}'"),
        });
    }
    bytes
}
