//! A client's head: which host it wants, how long its body is, and what goes to the upstream.

use std::net::IpAddr;

use super::{Body, HeadLimits, Method, Verdict, Version, response::Asked};
use crate::logic::host::Host;

/// A request head that may be served. It does not hold the bytes it was parsed from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// Its length; the body begins after it.
    pub head_bytes: usize,
    /// Its method.
    pub method: Method,
    /// Its version.
    pub version: Version,
    /// The host to route by; the same is forwarded.
    pub host: Host,
    /// Its body.
    pub body: Body,
    /// Whether the client's connection may serve another request after this one.
    pub keep_alive: bool,
    /// Whether the client waits for 100 before it sends the body.
    pub expect_continue: bool,
    /// Whether the client asks to switch protocols. It is a tunnel only after a 101.
    pub upgrade: bool,
}

impl RequestHead {
    /// What [`super::parse_response`] must know of the request.
    #[must_use]
    pub fn asked(&self) -> Asked {
        Asked {
            method: self.method,
            version: self.version,
            upgrade: self.upgrade,
        }
    }
}

/// What the edge says of the client to the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarded {
    /// X-Forwarded-For.
    pub client: IpAddr,
    /// X-Forwarded-Proto: `http` or `https`.
    pub proto: &'static str,
}

/// Reads a request head from the beginning of `bytes`.
#[must_use]
pub fn parse_request(bytes: &[u8], limits: &HeadLimits) -> Verdict<RequestHead> {
    let _ = (bytes, limits);
    Verdict::NeedMore
}

/// Appends the head to send to the upstream. `bytes` are those that `head` was parsed from,
/// at least `head.head_bytes` of them.
pub fn write_upstream_head(
    head: &RequestHead,
    bytes: &[u8],
    forwarded: &Forwarded,
    out: &mut Vec<u8>,
) {
    let _ = (head, bytes, forwarded, out);
}
