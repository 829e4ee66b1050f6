//! Responses: the fields of a stream to an HTTP/1.1 head, and back.
#![warn(clippy::indexing_slicing)]

use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version, header, response::Parts,
};

use super::{Malformed, check_value, content_length, is_of_connection, request::Carried};
use crate::logic::http::{self as http1, ResponseHead};

/// What a response answers, on the upstream's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The request was a HEAD.
    pub is_head: bool,
    /// What a 2xx opens, if the request asked for a tunnel.
    pub tunnel: Option<Opened>,
}

/// A tunnel that a 2xx opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// A WebSocket.
    WebSocket {
        /// The value that its client expects.
        accept: String,
    },
    /// What CONNECT leads to.
    Connect,
}

/// Translates a head that the edge itself has written; `bytes` are those `head` was parsed
/// from.
///
/// # Errors
/// The head has something that HTTP/2 cannot express.
pub fn to_h2(head: &ResponseHead, bytes: &[u8]) -> Result<Response<()>, Malformed> {
    let head_bytes = bytes.get(..head.head_bytes).unwrap_or(bytes);
    let mut fields = HeaderMap::with_capacity(16);
    for (name, value) in http1::fields(head_bytes) {
        let name = HeaderName::from_bytes(name).map_err(|_error| Malformed::Http1)?;
        let value = HeaderValue::from_bytes(value).map_err(|_error| Malformed::FieldValue)?;
        // RFC 8441, section 5: the key and its answer are of HTTP/1.1 alone.
        let of_upgrade = head.switching && name == header::SEC_WEBSOCKET_ACCEPT;
        if !is_of_connection(&name) && !of_upgrade {
            fields.append(name, value);
        }
    }
    let status = match head.switching {
        // RFC 8441, section 5.
        true if head.status == 101 => StatusCode::OK,
        _ => StatusCode::from_u16(head.status).map_err(|_error| Malformed::Http1)?,
    };
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = Version::HTTP_2;
    *response.headers_mut() = fields;
    Ok(response)
}

/// Appends the HTTP/1.1 head of an upstream's response. `ended` says that no body follows.
///
/// # Errors
/// The response is malformed: the client gets a 502.
pub fn write_http1(
    parts: &Parts,
    question: &Question,
    ended: bool,
    out: &mut Vec<u8>,
) -> Result<Carried, Malformed> {
    let status = parts.status;
    // 8.6: there is no 101 in HTTP/2.
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Malformed::Http1);
    }
    // RFC 8441, section 5, and RFC 9110, section 9.3.6: any 2xx opens the tunnel.
    let opened = question.tunnel.as_ref().filter(|_| status.is_success());
    let tunnel = opened.is_some();
    let interim = status.is_informational();
    let length = content_length(&parts.headers)?;
    // Only a chunked body can have trailers in HTTP/1.1 (RFC 9112, section 7.1.2).
    let trailers = !ended && parts.headers.contains_key(header::TRAILER);
    let (status, reason) = match opened {
        Some(Opened::WebSocket { .. }) => (StatusCode::SWITCHING_PROTOCOLS, "Switching Protocols"),
        Some(Opened::Connect) | None => (status, status.canonical_reason().unwrap_or_default()),
    };
    out.reserve(256);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in &parts.headers {
        check_value(value.as_bytes())?;
        if is_of_connection(name) {
            return Err(Malformed::ConnectionField);
        }
        if !((tunnel || trailers) && *name == header::CONTENT_LENGTH) {
            http1::write_field(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    let bodiless = interim
        || question.is_head
        || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status);
    let carried = if let Some(opened) = opened {
        if let Opened::WebSocket { accept } = opened {
            out.extend_from_slice(b"Connection: upgrade\r\nUpgrade: websocket\r\n");
            http1::write_field(out, b"Sec-WebSocket-Accept", accept.as_bytes());
        }
        Carried::Tunnel
    } else if bodiless {
        Carried::None
    } else {
        match (ended, length) {
            (true, Some(0)) => Carried::None,
            // 8.1.1: announced and not sent.
            (true, Some(_)) => return Err(Malformed::Length),
            (true, None) => {
                out.extend_from_slice(b"Content-Length: 0\r\n");
                Carried::None
            }
            (false, Some(_)) if !trailers => Carried::Plain,
            (false, _) => {
                out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
                Carried::Chunked
            }
        }
    };
    out.extend_from_slice(b"\r\n");
    Ok(carried)
}

#[cfg(test)]
mod tests;
