//! An upstream's head: how long its body is, and what goes to the client.
//!
//! An answer whose framing is in doubt is refused: the client gets a 502 and the upstream's
//! connection is not used again.
#![warn(clippy::indexing_slicing)]

use std::mem::MaybeUninit;

use super::{
    Framing, HEADERS_MAX, HeadLimits, Method, RejectReason, Verdict, Version,
    fields::{Extent, Field, Lengths, Listed, Options, extent, fields, lines, write_field},
    request::write_length,
};

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
    /// 101, or 2xx to CONNECT: everything after the head, both ways, is a tunnel.
    pub switching: bool,
    /// What the head says of a body, also where none follows (HEAD, 304).
    advertised: Lengths,
    /// [`Options::others`].
    options: usize,
}

/// Reads a response head from the beginning of `bytes`.
#[must_use]
pub fn parse_response(bytes: &[u8], asked: &Asked, limits: &HeadLimits) -> Verdict<ResponseHead> {
    match parse(bytes, asked, limits) {
        Ok(Some(head)) => Verdict::Head(head),
        Ok(None) => Verdict::NeedMore,
        Err(reason) => Verdict::Reject(reason),
    }
}

fn parse(
    bytes: &[u8],
    asked: &Asked,
    limits: &HeadLimits,
) -> Result<Option<ResponseHead>, RejectReason> {
    if bytes.first().is_some_and(|byte| *byte != b'H') {
        return Err(RejectReason::StatusLine);
    }
    let head_bytes = match extent(bytes, 0, limits) {
        Extent::Open => None,
        Extent::Ends(end) => Some(end),
        Extent::Refused(reason) => return Err(reason),
    };
    let text = bytes
        .get(..head_bytes.unwrap_or(bytes.len()))
        .unwrap_or_default();
    let mut room = [MaybeUninit::uninit(); HEADERS_MAX];
    let room = room
        .get_mut(..limits.headers.min(HEADERS_MAX))
        .unwrap_or_default();
    let mut response = httparse::Response::new(&mut []);
    let status = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut response, text, room)
        .map_err(reason)?;
    match (head_bytes, status) {
        (None, _) => Ok(None),
        (Some(_), httparse::Status::Partial) => Err(RejectReason::StatusLine),
        (Some(end), httparse::Status::Complete(_)) => judge(&response, end, asked).map(Some),
    }
}

fn reason(error: httparse::Error) -> RejectReason {
    match error {
        httparse::Error::HeaderName => RejectReason::FieldName,
        httparse::Error::HeaderValue => RejectReason::FieldValue,
        httparse::Error::TooManyHeaders => RejectReason::TooManyFields,
        httparse::Error::Version => RejectReason::Version,
        httparse::Error::NewLine | httparse::Error::Status | httparse::Error::Token => {
            RejectReason::StatusLine
        }
    }
}

fn judge(
    response: &httparse::Response<'_, '_>,
    head_bytes: usize,
    asked: &Asked,
) -> Result<ResponseHead, RejectReason> {
    let http11 = response.version == Some(1);
    let status = response
        .code
        .filter(|code| *code >= 100)
        .ok_or(RejectReason::StatusLine)?;
    let mut lengths = Lengths::default();
    let mut options = Options::default();
    for header in response.headers.iter() {
        match Field::of(header.name.as_bytes()) {
            Field::ContentLength => lengths.add_length(header.value)?,
            Field::TransferEncoding => lengths.add_coding(header.value)?,
            Field::Connection => options.add(header.value)?,
            _ => {}
        }
    }
    if lengths.chunked && lengths.length.is_some() {
        return Err(RejectReason::LengthAndCoding);
    }
    // RFC 9112, section 6.1: neither in HTTP/1.0 nor in answer to it.
    if lengths.chunked && !(http11 && asked.version == Version::Http11) {
        return Err(RejectReason::CodingVersion);
    }
    // RFC 9110, section 15.2.2: not unless the client asked for it.
    if status == 101 && !asked.upgrade {
        return Err(RejectReason::UnaskedUpgrade);
    }
    // RFC 9110, section 9.3.6: whatever length such an answer gives is to be ignored.
    let connected = asked.method == Method::Connect && (200..300).contains(&status);
    if connected {
        lengths = Lengths::default();
    }
    let framing = match connected {
        true => Framing::None,
        false => framing(status, asked.method, &lengths),
    };
    // RFC 9110, section 8.6 and RFC 9112, section 6.1: 1xx and 204 announce no body. If one
    // does, who knows what follows.
    let doubtful = is_bodiless(status) && (lengths.chunked || lengths.length.unwrap_or(0) > 0);
    let persistent = !options.close && (http11 || options.keep_alive);
    Ok(ResponseHead {
        head_bytes,
        status,
        framing,
        keep_alive: persistent
            && !doubtful
            && framing != Framing::UntilClose
            && status != 101
            && !connected,
        is_interim: status < 200 && status != 101,
        switching: status == 101 || connected,
        advertised: lengths,
        options: options.others,
    })
}

/// 1xx and 204: no body, and no word of one.
fn is_bodiless(status: u16) -> bool {
    status < 200 || status == 204
}

/// RFC 9112, section 6.3, for responses; the numbers are its items.
fn framing(status: u16, method: Method, lengths: &Lengths) -> Framing {
    // 1.
    if method == Method::Head || is_bodiless(status) || status == 304 {
        return Framing::None;
    }
    match (lengths.length, lengths.chunked) {
        // 4.
        (_, true) => Framing::Chunked,
        // 6.
        (Some(0), false) => Framing::None,
        (Some(length), false) => Framing::Length(length),
        // 8.
        (None, false) => Framing::UntilClose,
    }
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
    let bytes = bytes.get(..head.head_bytes).unwrap_or(bytes);
    out.reserve(bytes.len() + 32);
    // RFC 9112, section 2.3: the version is ours, the rest of the line the upstream's.
    let line = lines(bytes).next().unwrap_or_default();
    out.extend_from_slice(b"HTTP/1.1");
    out.extend_from_slice(line.get(8..).unwrap_or_default());
    out.extend_from_slice(b"\r\n");

    let listed = Listed::of(bytes, head.options);
    for (name, value) in fields(bytes) {
        let passed = match Field::of(name) {
            // RFC 9110, section 15.5.22: 426 names the protocol to upgrade to.
            Field::Upgrade => head.switching || head.status == 426,
            Field::Host
            | Field::Expect
            | Field::Accept
            | Field::RequestId
            | Field::Forwarded
            | Field::Other => !listed.takes(name),
            Field::Te
            | Field::ContentLength
            | Field::TransferEncoding
            | Field::Connection
            | Field::HopByHop
            | Field::Lookalike => false,
        };
        if passed {
            write_field(out, name, value);
        }
    }

    if !is_bodiless(head.status) {
        if head.advertised.chunked {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        } else if let Some(length) = head.advertised.length {
            write_length(out, length);
        }
    }
    let closes = !keep_alive || head.framing == Framing::UntilClose;
    if head.switching && head.status != 101 {
        // The connection is the tunnel's from here on.
    } else if head.switching {
        out.extend_from_slice(b"Connection: upgrade\r\n");
    } else if head.is_interim {
        // The connection's fate is said in the response that follows.
    } else if closes {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if asked.version == Version::Http10 {
        // RFC 9112, section 9.3: HTTP/1.0 closes unless told.
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
