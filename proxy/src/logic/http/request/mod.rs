//! A client's head: which host it wants, how long its body is, and what goes to the upstream.
//!
//! Accepted is only what every server reads in the same way. The forwarded head is written
//! anew: Host and framing come from the verdict, not from the client's bytes.
#![warn(clippy::indexing_slicing)]

use std::{mem::MaybeUninit, ops::Range};

use super::{
    Body, HEADERS_MAX, HeadLimits, Method, RejectReason, Scheme, Verdict, Version,
    accept::Accept,
    fields::{Extent, Field, Lengths, Listed, Options, decimal, extent, fields, list, write_field},
    origin::{Origin, write_origin},
    response::Asked,
};
use crate::logic::host::Host;

/// Room for method and version when a request line is judged by its length.
const REQUEST_LINE_SLACK: usize = 64;

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
    /// What the client would like to read.
    pub accept: Accept,
    /// Whether the client takes trailers.
    trailers: bool,
    /// Port that stood with the host.
    port: Option<u16>,
    /// Where the method's name is.
    method_at: Range<usize>,
    /// Where path and query are; in absolute form the part after the authority.
    path_at: Range<usize>,
    /// What an absolute form left out before them.
    path_prefix: &'static str,
    /// Whether a Content-Length of 0 was given, which says more than none (RFC 9110, 8.6).
    empty_body: bool,
    /// [`Options::others`].
    options: usize,
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

    /// Path and query, as in the request line; `bytes` are those it was parsed from.
    #[must_use]
    pub fn path<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        bytes.get(self.path_at.clone()).unwrap_or_default()
    }

    /// The same with what an absolute form left out, as it is forwarded.
    pub fn write_path(&self, bytes: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(self.path_prefix.as_bytes());
        out.extend_from_slice(self.path(bytes));
    }

    /// The head from its request line on.
    #[must_use]
    pub fn lines<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        let lines = bytes.get(self.method_at.start..self.head_bytes);
        lines.unwrap_or_default()
    }
}

/// Reads a request head from the beginning of `bytes`, which came through `scheme`.
#[must_use]
pub fn parse_request(bytes: &[u8], scheme: Scheme, limits: &HeadLimits) -> Verdict<RequestHead> {
    match parse(bytes, scheme, limits) {
        Ok(Some(head)) => Verdict::Head(head),
        Ok(None) => Verdict::NeedMore,
        Err(reason) => Verdict::Reject(reason),
    }
}

fn parse(
    bytes: &[u8],
    scheme: Scheme,
    limits: &HeadLimits,
) -> Result<Option<RequestHead>, RejectReason> {
    // RFC 9112, section 2.2: one empty line before the request line is ignored.
    let from = match bytes {
        [b'\r', b'\n', ..] => 2,
        [b'\r'] | [] => return Ok(None),
        _ => 0,
    };
    let head_bytes = match extent(bytes, from, limits) {
        Extent::Open => None,
        Extent::Ends(end) => Some(end),
        // What is wrong within the limit is said rather than that there is too much of it.
        Extent::Refused(RejectReason::HeadTooLong) => {
            check_request_line(bytes.get(from..).unwrap_or_default(), limits)?;
            return Err(RejectReason::HeadTooLong);
        }
        Extent::Refused(reason) => return Err(reason),
    };
    let text = bytes
        .get(from..head_bytes.unwrap_or(bytes.len()))
        .unwrap_or_default();
    check_request_line(text, limits)?;

    let mut room = [MaybeUninit::uninit(); HEADERS_MAX];
    let room = room
        .get_mut(..limits.headers.min(HEADERS_MAX))
        .unwrap_or_default();
    let mut request = httparse::Request::new(&mut []);
    // Also when the end is missing: what is wrong already need not wait for it.
    let status = request
        .parse_with_uninit_headers(text, room)
        .map_err(|error| reason(error, text))?;
    match (head_bytes, status) {
        (None, _) => Ok(None),
        // Only an empty head is complete to us and not to httparse.
        (Some(_), httparse::Status::Partial) => Err(RejectReason::RequestLine),
        (Some(end), httparse::Status::Complete(_)) => {
            judge(&request, from, end, scheme, limits).map(Some)
        }
    }
}

/// Checks what can be known of the request line before it is complete.
fn check_request_line(text: &[u8], limits: &HeadLimits) -> Result<(), RejectReason> {
    let line = text.split(|byte| *byte == b'\r').next().unwrap_or(text);
    if line.len() > limits.target_bytes.saturating_add(REQUEST_LINE_SLACK) {
        return Err(RejectReason::TargetTooLong);
    }
    Ok(())
}

fn reason(error: httparse::Error, text: &[u8]) -> RejectReason {
    match error {
        httparse::Error::HeaderName => RejectReason::FieldName,
        httparse::Error::HeaderValue => RejectReason::FieldValue,
        httparse::Error::TooManyHeaders => RejectReason::TooManyFields,
        httparse::Error::Version => {
            // RFC 9110, section 15.6.6: 505 is for versions, not for what is none.
            let line = text.split(|byte| *byte == b'\r').next().unwrap_or(text);
            let version = line.split(|byte| *byte == b' ').nth(2);
            match version.and_then(|version| version.strip_prefix(b"HTTP/")) {
                Some([major, ..]) if major.is_ascii_digit() => RejectReason::Version,
                _ => RejectReason::RequestLine,
            }
        }
        // That lines end in CR LF is known; a new line is missing only after the version.
        httparse::Error::NewLine | httparse::Error::Status | httparse::Error::Token => {
            RejectReason::RequestLine
        }
    }
}

/// What the fields of a head say that matter to framing and routing.
#[derive(Default)]
struct Gathered<'h> {
    host: Option<&'h [u8]>,
    lengths: Lengths,
    options: Options,
    expect_continue: bool,
    upgrade: bool,
    cleartext_h2: bool,
    accept: Option<Accept>,
    trailers: bool,
}

fn gather<'h>(headers: &[httparse::Header<'h>]) -> Result<Gathered<'h>, RejectReason> {
    let mut gathered = Gathered::default();
    for header in headers {
        let value = header.value;
        match Field::of(header.name.as_bytes()) {
            // RFC 9112, section 3.2: exactly one.
            Field::Host => {
                if gathered.host.replace(value).is_some() {
                    return Err(RejectReason::HostDuplicate);
                }
            }
            Field::ContentLength => gathered.lengths.add_length(value)?,
            Field::TransferEncoding => gathered.lengths.add_coding(value)?,
            Field::Connection => gathered.options.add(value)?,
            Field::Expect => {
                // RFC 9110, section 10.1.1.
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(RejectReason::Expectation);
                }
                gathered.expect_continue = true;
            }
            Field::Upgrade => {
                gathered.upgrade = true;
                gathered.cleartext_h2 |= list(value).any(|name| name.eq_ignore_ascii_case(b"h2c"));
            }
            Field::Accept => gathered.accept = Some(Accept::of(value)),
            Field::Te => {
                gathered.trailers |= list(value).any(|name| name.eq_ignore_ascii_case(b"trailers"));
            }
            Field::RequestId
            | Field::HopByHop
            | Field::Forwarded
            | Field::Lookalike
            | Field::Other => {}
        }
    }
    Ok(gathered)
}

fn judge(
    request: &httparse::Request<'_, '_>,
    from: usize,
    head_bytes: usize,
    scheme: Scheme,
    limits: &HeadLimits,
) -> Result<RequestHead, RejectReason> {
    let name = request.method.ok_or(RejectReason::RequestLine)?;
    let target = request.path.ok_or(RejectReason::RequestLine)?.as_bytes();
    let version = match request.version {
        Some(0) => Version::Http10,
        Some(1) => Version::Http11,
        _ => return Err(RejectReason::Version),
    };
    let gathered = gather(request.headers)?;
    let body = body(&gathered.lengths, version, limits)?;
    if target.len() > limits.target_bytes {
        return Err(RejectReason::TargetTooLong);
    }
    let method = method(name);
    if method == Method::Connect && version == Version::Http10 {
        return Err(RejectReason::Connect);
    }
    // RFC 9110, section 9.3.6: what follows is no content; to a server that thinks otherwise
    // it would be the beginning of the tunnel.
    if method == Method::Connect && gathered.lengths != Lengths::default() {
        return Err(RejectReason::ConnectBody);
    }
    let target = Target::of(name, target, scheme)?;
    let connect = method == Method::Connect;
    let (host, port) = authority(&target, gathered.host, scheme, connect)?;

    let method_at = from..from + name.len();
    let target_at = method_at.end + 1;
    let http11 = version == Version::Http11;
    let options = gathered.options;
    Ok(RequestHead {
        head_bytes,
        method,
        version,
        host,
        body,
        // RFC 9112, section 9.3.
        keep_alive: !options.close && (http11 || options.keep_alive),
        // RFC 9110, section 10.1.1: from HTTP/1.0 it is ignored.
        expect_continue: http11 && gathered.expect_continue,
        // RFC 9110, section 7.8: from HTTP/1.0 it is ignored. A cleartext switch to HTTP/2
        // would hide every further request from the edge, so it is never passed on.
        upgrade: http11 && gathered.upgrade && options.upgrade && !gathered.cleartext_h2,
        accept: gathered.accept.unwrap_or_default(),
        trailers: http11 && gathered.trailers,
        port,
        path_at: target_at + target.path.start..target_at + target.path.end,
        path_prefix: target.path_prefix,
        method_at,
        empty_body: gathered.lengths.length == Some(0),
        options: options.others,
    })
}

/// RFC 9112, section 6.3, for requests.
fn body(lengths: &Lengths, version: Version, limits: &HeadLimits) -> Result<Body, RejectReason> {
    match (lengths.length, lengths.chunked) {
        // Section 6.1: a message with both ought to be handled as an error.
        (Some(_), true) => Err(RejectReason::LengthAndCoding),
        // Section 6.1: HTTP/1.0 has no transfer codings; its framing is then faulty.
        (None, true) if version == Version::Http10 => Err(RejectReason::CodingVersion),
        (None, true) => Ok(Body::Chunked),
        (Some(length), false) if length > limits.body_bytes => Err(RejectReason::BodyTooLong),
        (None | Some(0), false) => Ok(Body::None),
        (Some(length), false) => Ok(Body::Length(length)),
    }
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "OPTIONS" | "TRACE" => Method::OtherSafe,
        "CONNECT" => Method::Connect,
        "PUT" | "DELETE" => Method::Idempotent,
        _ => Method::Other,
    }
}

/// A request target taken apart (RFC 9112, section 3.2).
struct Target<'t> {
    /// Of an absolute form.
    authority: Option<&'t [u8]>,
    /// Path and query within the target.
    path: Range<usize>,
    /// What the absolute form left out before them.
    path_prefix: &'static str,
}

impl<'t> Target<'t> {
    fn of(method: &str, target: &'t [u8], scheme: Scheme) -> Result<Self, RejectReason> {
        // RFC 3986, section 3.5: a fragment is never sent; servers differ in what they make
        // of one. The same of bytes that are not ASCII.
        if memchr::memchr(b'#', target).is_some() {
            return Err(RejectReason::Fragment);
        }
        if !target.is_ascii() {
            return Err(RejectReason::Target);
        }
        let asterisk = target == b"*" && method == "OPTIONS";
        if (target.first() == Some(&b'/') && method != "CONNECT") || asterisk {
            return Ok(Self {
                authority: None,
                path: 0..target.len(),
                path_prefix: "",
            });
        }
        if method == "CONNECT" {
            // RFC 9112, section 3.2.3: host and port, nothing else.
            return Ok(Self {
                authority: Some(target),
                path: 0..target.len(),
                path_prefix: "",
            });
        }
        let end = scheme.as_str().len();
        let (named, rest) = target.split_at_checked(end).ok_or(RejectReason::Target)?;
        if !named.eq_ignore_ascii_case(scheme.as_str().as_bytes()) {
            return Err(RejectReason::Target);
        }
        let rest = rest.strip_prefix(b"://").ok_or(RejectReason::Target)?;
        let authority_at = end + 3;
        let end = rest
            .iter()
            .position(|byte| matches!(byte, b'/' | b'?'))
            .unwrap_or(rest.len());
        let path_prefix = match rest.get(end) {
            Some(b'/') => "",
            // RFC 9112, section 3.2.4.
            None if method == "OPTIONS" => "*",
            Some(_) | None => "/",
        };
        Ok(Self {
            authority: rest.get(..end),
            path: authority_at + end..target.len(),
            path_prefix,
        })
    }
}

/// The one authority of a request, from Host and an absolute form, which must agree
/// (RFC 9112, section 3.2.2 would ignore Host; an upstream might not).
fn authority(
    target: &Target<'_>,
    host: Option<&[u8]>,
    scheme: Scheme,
    connect: bool,
) -> Result<(Host, Option<u16>), RejectReason> {
    // RFC 9112, section 3.2. HTTP/1.0 may do without, but we could not route it.
    let host = host.ok_or(RejectReason::HostMissing)?;
    let host = host_and_port(host).ok_or(RejectReason::HostInvalid)?;
    let Some(authority) = target.authority else {
        return Ok(host);
    };
    let authority = host_and_port(authority).ok_or(RejectReason::Target)?;
    if connect {
        // RFC 9112, section 3.2.3: the port is never left out of an authority form.
        let agree = authority.0 == host.0 && host.1.is_none_or(|port| Some(port) == authority.1);
        return match (authority.1, agree) {
            (None, _) => Err(RejectReason::Target),
            (_, false) => Err(RejectReason::HostMismatch),
            (Some(_), true) => Ok(authority),
        };
    }
    let port = |port: Option<u16>| port.unwrap_or_else(|| scheme.default_port());
    if authority.0 != host.0 || port(authority.1) != port(host.1) {
        return Err(RejectReason::HostMismatch);
    }
    Ok(host)
}

fn host_and_port(text: &[u8]) -> Option<(Host, Option<u16>)> {
    let text = std::str::from_utf8(text).ok()?;
    let host = Host::normalise(text).ok()?;
    let after = text.rsplit(']').next()?;
    let port = match after.split_once(':') {
        Some((_, "")) | None => None,
        Some((_, digits)) => Some(u16::try_from(decimal(digits.as_bytes())?).ok()?),
    };
    Some((host, port))
}

/// Appends the head to send to the upstream. `bytes` are those that `head` was parsed from,
/// at least `head.head_bytes` of them.
pub fn write_upstream_head(
    head: &RequestHead,
    bytes: &[u8],
    origin: &Origin<'_>,
    out: &mut Vec<u8>,
) {
    let lines = head.lines(bytes);
    out.reserve(lines.len() + 320);
    out.extend_from_slice(bytes.get(head.method_at.clone()).unwrap_or_default());
    out.push(b' ');
    match head.method {
        Method::Connect => write_authority(head, out),
        _ => head.write_path(bytes, out),
    }
    out.extend_from_slice(match head.version {
        // So that the upstream answers without chunks, which the client does not know.
        Version::Http10 => b" HTTP/1.0\r\nHost: ",
        Version::Http11 => b" HTTP/1.1\r\nHost: ",
    });
    let authority_at = out.len();
    write_authority(head, out);
    let authority = authority_at..out.len();
    out.extend_from_slice(b"\r\n");

    let listed = Listed::of(lines, head.options);
    for (name, value) in fields(lines) {
        let passed = match Field::of(name) {
            Field::Other | Field::Accept => !listed.takes(name),
            Field::Upgrade => head.upgrade,
            Field::Expect => head.expect_continue,
            Field::RequestId => origin.request_id.is_none(),
            _ => false,
        };
        if passed {
            write_field(out, name, value);
        }
    }

    match head.body {
        Body::Length(length) => write_length(out, length),
        Body::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Body::None if head.empty_body => write_length(out, 0),
        Body::None => {}
    }
    // RFC 9110, section 10.1.4: trailers are passed on, so the edge takes them, too.
    out.extend_from_slice(match (head.upgrade, head.trailers) {
        (true, true) => b"TE: trailers\r\nConnection: upgrade, TE\r\n",
        (true, false) => b"Connection: upgrade\r\n",
        (false, true) => b"TE: trailers\r\nConnection: TE\r\n",
        (false, false) => b"",
    });
    write_origin(origin, lines, authority, out);
    out.extend_from_slice(b"\r\n");
}

/// Host and port as the verdict has them.
fn write_authority(head: &RequestHead, out: &mut Vec<u8>) {
    out.extend_from_slice(head.host.as_str().as_bytes());
    if let Some(port) = head.port {
        out.push(b':');
        write_number(out, port.into());
    }
}

/// Appends a Content-Length.
pub(super) fn write_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"Content-Length: ");
    write_number(out, length);
    out.extend_from_slice(b"\r\n");
}

/// Appends a decimal number.
pub(super) fn write_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod tests;
