//! An upstream's head: how long its body is, and what goes to the client.

use super::{Framing, HeadLimits, Method, Verdict, Version};

/// What a response answers; decides how it is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The request's method.
    pub method: Method,
    /// The request's version.
    pub version: Version,
    /// Whether it asked to switch protocols.
    pub upgrade: bool,
}

/// A response head that may be passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    /// Its length; the body begins after it.
    pub head_bytes: usize,
    /// Its status code.
    pub status: u16,
    /// Its body.
    pub framing: Framing,
    /// Whether the upstream's connection may be used again after the body.
    pub keep_alive: bool,
    /// 1xx other than 101: the real response is still to come. Not to be sent to clients of
    /// HTTP/1.0 (RFC 9110, section 15.2).
    pub is_interim: bool,
    /// 101: everything after the head, both ways, is a tunnel.
    pub switching: bool,
}

/// Reads a response head from the beginning of `bytes`.
#[must_use]
pub fn parse_response(bytes: &[u8], asked: &Asked, limits: &HeadLimits) -> Verdict<ResponseHead> {
    let _ = (bytes, asked, limits);
    Verdict::NeedMore
}

/// Appends the head to send to the client. `bytes` are those that `head` was parsed from.
/// `keep_alive` says whether the client's connection stays: false when the request or the
/// edge wants it closed; [`Framing::UntilClose`] closes it in any case.
pub fn write_downstream_head(
    head: &ResponseHead,
    bytes: &[u8],
    asked: &Asked,
    keep_alive: bool,
    out: &mut Vec<u8>,
) {
    let _ = (head, bytes, asked, keep_alive, out);
}
