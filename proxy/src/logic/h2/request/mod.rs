//! Requests: the fields of a stream to an HTTP/1.1 head, and back.
//!
//! What goes to HTTP/1.1 is read once more by [`crate::logic::http::parse_request`], which
//! judges host, target and sizes as it does for everyone; here is refused what HTTP/2 forbids
//! and what HTTP/1.1 would read otherwise.
#![warn(clippy::indexing_slicing)]

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header,
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};

use super::{Malformed, check_value, content_length, is_of_connection, websocket};
use crate::logic::{
    host::Host,
    http::{self as http1, Body, RequestHead},
};

/// How the body of a translated request is written in HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    /// There is none.
    None,
    /// As it is: its length is in the head, and the h2 crate sees to it that it is right.
    Plain,
    /// In chunks.
    Chunked,
    /// Everything that comes is for the tunnel.
    Tunnel,
}

/// Appends the HTTP/1.1 head of a request. `ended` says that no body follows; `protocol` is
/// that of an extended CONNECT (RFC 8441) and `nonce` the WebSocket key to use for it.
///
/// The head asks for the connection to be closed: a stream serves one request.
///
/// # Errors
/// The request is malformed; it reaches no upstream.
pub fn write_http1(
    parts: &Parts,
    protocol: Option<&str>,
    ended: bool,
    nonce: &str,
    out: &mut Vec<u8>,
) -> Result<Carried, Malformed> {
    let fields = &parts.headers;
    let authority = authority(&parts.uri, fields)?;
    let tunnel = protocol.is_some() || parts.method == Method::CONNECT;
    // Section 3.4: the method of the preface is nobody else's.
    if parts.method.as_str() == "PRI" {
        return Err(Malformed::Method);
    }
    let method = match protocol {
        None => parts.method.as_str(),
        // RFC 8441, section 5: what was a GET in HTTP/1.1.
        Some("websocket") => "GET",
        Some(_) => return Err(Malformed::Protocol),
    };
    out.reserve(256);
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    match tunnel && protocol.is_none() {
        true => out.extend_from_slice(authority),
        false => out.extend_from_slice(path(&parts.uri, &parts.method)?),
    }
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    out.extend_from_slice(authority);
    out.extend_from_slice(b"\r\n");

    let mut length = content_length(fields)?;
    // Only a chunked body can have trailers in HTTP/1.1 (RFC 9112, section 7.1.2). How long it
    // is, the h2 crate checks all the same.
    let trailers = !ended && fields.contains_key(header::TRAILER);
    if trailers {
        length = None;
    }
    for (name, value) in fields {
        check_value(value.as_bytes())?;
        if is_of_connection(name) {
            return Err(Malformed::ConnectionField);
        }
        if *name == header::TE && !value.as_bytes().eq_ignore_ascii_case(b"trailers") {
            return Err(Malformed::Te);
        }
        let ours = [
            header::HOST,
            header::COOKIE,
            header::TE,
            header::SEC_WEBSOCKET_KEY,
        ];
        let skipped = (ours.contains(name)
            && (*name != header::SEC_WEBSOCKET_KEY || protocol.is_some()))
            || ((tunnel || trailers) && *name == header::CONTENT_LENGTH);
        if !skipped {
            http1::write_field(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    write_cookies(fields, out);

    if protocol.is_some() {
        out.extend_from_slice(b"Connection: upgrade, close\r\nUpgrade: websocket\r\n");
        http1::write_field(out, b"Sec-WebSocket-Key", nonce.as_bytes());
    } else {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    let carried = match (tunnel, ended, length) {
        (true, ..) => Carried::Tunnel,
        (false, true, _) => Carried::None,
        (false, false, Some(_)) => Carried::Plain,
        (false, false, None) => Carried::Chunked,
    };
    // RFC 9110, section 8.6: a body is expected with these, so its absence is said.
    let expected = [Method::POST, Method::PUT, Method::PATCH].contains(&parts.method);
    match carried {
        Carried::None if length.is_none() && expected => {
            out.extend_from_slice(b"Content-Length: 0\r\n");
        }
        Carried::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Carried::None | Carried::Plain | Carried::Tunnel => {}
    }
    out.extend_from_slice(b"\r\n");
    Ok(carried)
}

/// The one authority of a request: `:authority`, or Host without it; if both are there they
/// must name the same (8.3.1).
fn authority<'p>(uri: &'p Uri, fields: &'p HeaderMap) -> Result<&'p [u8], Malformed> {
    let mut hosts = fields.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Malformed::HostDuplicate);
    }
    let authority = uri.authority().map(Authority::as_str);
    if authority.is_some_and(|authority| authority.contains('@')) {
        return Err(Malformed::UserInfo);
    }
    match (authority, host) {
        (None, None) => Err(Malformed::HostMissing),
        (Some(authority), None) => Ok(authority.as_bytes()),
        (None, Some(host)) => {
            check_value(host.as_bytes())?;
            Ok(host.as_bytes())
        }
        (Some(authority), Some(host)) => {
            let port = uri.scheme().map_or(80, |scheme| match scheme {
                scheme if *scheme == Scheme::HTTPS => 443,
                _ => 80,
            });
            let host = host.to_str().ok().and_then(|host| site(host, port));
            match host.is_some() && host == site(authority, port) {
                true => Ok(authority.as_bytes()),
                false => Err(Malformed::HostMismatch),
            }
        }
    }
}

/// Host and port in their normal form.
fn site(text: &str, default_port: u64) -> Option<(Host, u64)> {
    let host = Host::normalise(text).ok()?;
    let after = text.rsplit(']').next()?;
    let port = match after.split_once(':') {
        Some((_, "")) | None => default_port,
        Some((_, digits)) => http1::decimal(digits.as_bytes())?,
    };
    Some((host, port))
}

/// Path and query. A fragment is not there any more: the http crate has cut it off, here and
/// in what is forwarded.
fn path<'p>(uri: &'p Uri, method: &Method) -> Result<&'p [u8], Malformed> {
    let path = uri.path_and_query().map(PathAndQuery::as_str);
    match path.map(str::as_bytes) {
        Some(path) if path.first() == Some(&b'/') => Ok(path),
        // RFC 9110, section 7.1.
        Some(b"*") if *method == Method::OPTIONS => Ok(b"*"),
        _ => Err(Malformed::Path),
    }
}

/// Cookies may come in many lines; HTTP/1.1 has one (8.2.3).
fn write_cookies(fields: &HeaderMap, out: &mut Vec<u8>) {
    let mut cookies = fields.get_all(header::COOKIE).iter().peekable();
    if cookies.peek().is_none() {
        return;
    }
    out.extend_from_slice(b"Cookie: ");
    while let Some(cookie) = cookies.next() {
        out.extend_from_slice(cookie.as_bytes());
        if cookies.peek().is_some() {
            out.extend_from_slice(b"; ");
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// A request for the upstream, from the head that a session has written for it.
#[derive(Debug)]
pub struct Outgoing {
    /// The fields; for an extended CONNECT with its protocol among the extensions.
    pub request: Request<()>,
    /// How its body is framed in HTTP/1.1.
    pub body: Body,
    /// The tunnel that it asks for.
    pub tunnel: Option<Tunnel>,
}

/// What a request may turn its stream into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tunnel {
    /// A WebSocket, by an extended CONNECT (RFC 8441).
    WebSocket {
        /// The key that the client sent; the answer needs it.
        key: String,
    },
    /// What CONNECT leads to (8.5).
    Connect,
}

/// Translates a head that the edge itself has written; `bytes` are those `head` was parsed
/// from.
///
/// # Errors
/// The head has something that HTTP/2 cannot express.
pub fn to_h2(head: &RequestHead, bytes: &[u8], scheme: Scheme) -> Result<Outgoing, Malformed> {
    let head_bytes = bytes.get(..head.head_bytes).unwrap_or(bytes);
    let line = http1::lines(head_bytes).next().unwrap_or_default();
    let name = line.split(|byte| *byte == b' ').next().unwrap_or_default();
    let mut method = Method::from_bytes(name).map_err(|_error| Malformed::Method)?;
    let mut fields = HeaderMap::with_capacity(16);
    let mut host = None;
    let mut key = None;
    for (name, value) in http1::fields(head_bytes) {
        let name = HeaderName::from_bytes(name).map_err(|_error| Malformed::Http1)?;
        let value = HeaderValue::from_bytes(value).map_err(|_error| Malformed::FieldValue)?;
        if name == header::HOST {
            host = Some(Authority::try_from(value.as_bytes()).map_err(|_error| Malformed::Http1)?);
        } else if name == header::SEC_WEBSOCKET_KEY && head.upgrade {
            key = value.to_str().ok().map(str::to_owned);
        } else if !is_of_connection(&name) && name != header::TE {
            fields.append(name, value);
        }
    }
    let mut uri = http::uri::Parts::default();
    uri.authority = Some(host.ok_or(Malformed::HostMissing)?);
    let tunnel = match (method == Method::CONNECT, head.upgrade, key) {
        (true, ..) => Some(Tunnel::Connect),
        (false, true, Some(key)) if websocket::is_asked(head_bytes) => {
            Some(Tunnel::WebSocket { key })
        }
        (false, true, _) => return Err(Malformed::Protocol),
        (false, false, _) => None,
    };
    // 8.5: a plain CONNECT has neither scheme nor path.
    if tunnel != Some(Tunnel::Connect) {
        let path = match head.path(bytes) {
            [] => b"/",
            path => path,
        };
        let path = PathAndQuery::try_from(path).map_err(|_error| Malformed::Path)?;
        (uri.scheme, uri.path_and_query) = (Some(scheme), Some(path));
    }
    match tunnel {
        Some(_) => method = Method::CONNECT,
        // 8.2.2: trailers are passed on, so we can say so; gRPC servers insist on it.
        None => drop(fields.insert(header::TE, HeaderValue::from_static("trailers"))),
    }
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from_parts(uri).map_err(|_error| Malformed::Path)?;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = fields;
    Ok(Outgoing {
        request,
        body: head.body,
        tunnel,
    })
}

#[cfg(test)]
mod tests;
